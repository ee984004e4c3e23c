"""Signs of values: right for all samples, and known where rounding hides them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from provenn.bounds import jacobian
from provenn.bounds.graph._constants import Constant
from provenn.bounds.jacobian._norms import input_boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.errors import UnsupportedOperatorError
from provenn.verifier.signs import signs

from ..jacobian.made import at, drawn, graph_of, random_networks
from .small import Layers, drawn_layers


def signs_of(graph, lower: np.ndarray, upper: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    plan = Plan(graph)
    negative, positive = signs(plan, interval_boxes(plan, input_boxes(graph, lower, upper)), graph.outputs[0])
    return negative[0], positive[0]


def judged(graph, lower: np.ndarray, upper: np.ndarray) -> None:
    """No sample has a sign that is said to be impossible."""
    negative, positive = signs_of(graph, lower, upper)
    found = torch.nan_to_num(at(graph, drawn(lower, upper, 2000)), nan=0.0)
    assert not bool(((found < -1e-12) & ~negative).any())
    assert not bool(((found > 1e-12) & ~positive).any())


@pytest.mark.parametrize("flipped", [1.0, -1.0])
def test_slopes_of_relus_between_positive_weights(flipped: float) -> None:
    layers = drawn_layers(1, 3, 6, 5, 2)
    weights = [np.abs(w) for w in layers.weights]
    weights[0], weights[1] = flipped * weights[0], flipped * weights[1]
    graph = jacobian(Layers(weights, layers.biases).graph())
    negative, positive = signs_of(graph, -np.ones(3), np.ones(3))
    assert not bool(negative.any()) and bool(positive.all())


def test_one_negative_weight_is_seen() -> None:
    layers = drawn_layers(1, 3, 6, 5, 2)
    weights = [np.abs(w) for w in layers.weights]
    weights[2][:, 1] = 0.0
    weights[2][3, 1] = -1e-9
    biases = [np.zeros_like(b) for b in layers.biases]
    negative, _ = signs_of(jacobian(Layers(weights, biases).graph()), -np.ones(3), np.ones(3))
    assert negative.tolist() == [[False] * 3, [True] * 3]


@pytest.mark.parametrize("shift", [-1e-300, 0.0, 1e-300])
def test_shifts_count(shift: float) -> None:
    two, moved = Constant(np.full((), 2.0)), Constant(np.full((), shift))
    graph = graph_of((1, 2), lambda b, x: b.affine(b.unary("relu", x), two, moved))
    negative, positive = signs_of(graph, -np.ones(2), np.ones(2))
    assert bool(negative.any()) == (shift < 0) and bool(positive.all())


@pytest.mark.parametrize("activation", ["relu", "tanh", "sin", "abs"])
def test_layers(activation: str) -> None:
    for seed in range(5):
        judged(jacobian(drawn_layers(seed, 3, 3, 2).graph(activation)), -np.ones(3), 0.5 * np.ones(3))


def test_random_graphs(tmp_path: Path) -> None:
    for _, made, graph in random_networks(tmp_path, range(300, 330)):
        lower, upper = made.lower.astype(float), made.upper.astype(float)
        judged(graph, lower, upper)
        try:
            judged(jacobian(graph), lower, upper)
        except UnsupportedOperatorError:
            continue
