"""Sampled gradients never exceed the upper bound, and the lower bound never does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from provenn.bounds.graph._constants import Constant
from provenn.errors import UnsupportedOperatorError
from provenn.verifier import LipschitzResult, local_lipschitz
from provenn.verifier.gradients import matrix_norm

from ..jacobian.made import differentiated, drawn, graph_of, random_networks
from .small import drawn_layers


def judged(graph, lower: np.ndarray, upper: np.ndarray, norm: str, timeout: float = 1.0) -> LipschitzResult:
    """Bounds that no gradient of automatic differentiation exceeds."""
    found = local_lipschitz(graph, lower, upper, norm, timeout=timeout)
    matrices = differentiated(graph, drawn(lower, upper, 4000))
    matrices = matrices[torch.isfinite(matrices).flatten(1).all(1)]
    assert found.lower <= found.upper
    if len(matrices):
        assert float(matrix_norm(matrices, norm).max()) <= found.upper * (1 + 1e-9) + 1e-12
    return found


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize(
    ("activation", "attributes"),
    [
        ("tanh", {}), ("sigmoid", {}), ("sin", {}), ("gelu", {}), ("softplus", {}), ("silu", {}), ("abs", {}),
        ("leaky_relu", {"slope": 0.1}), ("clip", {"lower": -0.5, "upper": 0.5}), ("elu", {"alpha": 1.5}),
    ],
)  # fmt: skip
def test_layers(activation: str, attributes: dict, norm: str) -> None:
    graph = drawn_layers(len(activation), 2, 4, 3, 2).graph(activation, **attributes)
    judged(graph, np.array([-1.0, -0.5]), np.array([0.75, 1.0]), norm)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("operator", ["mul", "max", "min", "softmax", "mixed"])
def test_products_maxima_and_softmax(operator: str, norm: str) -> None:
    random = np.random.default_rng(3)
    first, second = (Constant(random.normal(size=(2, 3))) for _ in range(2))

    def build(b, x):
        y, z = b.unary("tanh", b.linear(x, first, None)), b.unary("relu", b.linear(x, second, None))
        if operator == "softmax":
            return b.unary("softmax", b.linear(x, first, None), axis=1)
        if operator == "mixed":
            larger, apart = b.emit("max", (y, z), (1, 3)), b.emit("sub", (y, z), (1, 3))
            return b.emit("mul", (b.unary("sigmoid", larger), apart), (1, 3))
        return b.emit(operator, (y, z), (1, 3))

    judged(graph_of((1, 2), build), np.array([-1.0, -1.5]), np.array([2.0, 1.0]), norm)


@pytest.mark.parametrize("group", range(3))
def test_random_graphs(group: int, tmp_path: Path) -> None:
    done = 0
    for seed, made, graph in random_networks(tmp_path, range(9000 + 100 * group, 9006 + 100 * group)):
        try:
            judged(graph, made.lower.astype(float), made.upper.astype(float), ("1", "2", "inf")[seed % 3], 0.5)
        except UnsupportedOperatorError:
            continue
        done += 1
    assert done >= 2
