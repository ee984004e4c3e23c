"""At kinks: bounds over a tiny box contain the slopes on both sides, as finite differences give them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from provenn.bounds import jacobian
from provenn.bounds.graph import Graph, evaluator
from provenn.bounds.graph._builder import Builder, Value
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph.lattice import lattice
from provenn.bounds.jacobian._norms import input_boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan

from .made import graph_of, inputs_of

TINY = 1e-9


def one(operator: str, **attributes) -> Callable:
    made = {k: v if k == "exponent" else np.asarray(v, float) for k, v in attributes.items()}
    return lambda b, x: b.unary(operator, x, **made)


KINKS: dict[str, tuple[Callable, tuple[float, ...]]] = {
    "relu": (one("relu"), (0.0,)),
    "leaky_relu": (one("leaky_relu", slope=0.1), (0.0,)),
    "prelu": (one("prelu", slope=-0.7), (0.0,)),
    "abs": (one("abs"), (0.0,)),
    "clip": (one("clip", lower=-1.0, upper=2.5), (-1.0, 2.5)),
    "clip above": (one("clip", upper=2.5), (2.5,)),
    "hard_sigmoid": (one("hard_sigmoid", alpha=0.2, beta=0.5), (-2.5, 2.5)),
    "hard_sigmoid falling": (one("hard_sigmoid", alpha=-0.3, beta=0.6), (2.0, -4 / 3)),
    "hard_swish": (one("hard_swish"), (-3.0, 3.0)),
    "elu": (one("elu", alpha=1.6), (0.0,)),
    "selu": (one("selu", alpha=1.67, gamma=1.05), (0.0,)),
    "celu": (one("celu", alpha=0.5), (0.0,)),
    "softsign": (one("softsign"), (0.0,)),
    "smooth": (one("gelu"), (0.0, 1.0)),
    "relu of relu": (lambda b, x: b.unary("relu", b.unary("relu", x)), (0.0,)),
    "sum of relus": (
        lambda b, x: b.binary("add", b.unary("relu", x), b.unary("relu", b.affine(x, Constant(np.array(-2.0))))),
        (0.0,),
    ),
}  # fmt: skip


def entries(graph: Graph, centre: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Proven boxes of the entries of the Jacobian over a cube."""
    made = jacobian(graph)
    boxes = interval_boxes(Plan(made), input_boxes(made, centre - radius, centre + radius))
    return tuple(end[0].numpy() for end in boxes[made.outputs[0]])


def one_sided(graph: Graph, centre: np.ndarray, direction: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The slope ``[outputs]`` at a point in a direction, to about six digits."""
    x = torch.from_numpy(np.stack([centre + TINY * direction, centre + (TINY + step) * direction]))
    y = evaluator(graph)(inputs_of(graph, x))[0].flatten(1)
    return ((y[1] - y[0]) / step).numpy()


@pytest.mark.parametrize("name", KINKS)
def test_both_sides_of_a_kink_are_bounded(name: str) -> None:
    build, points = KINKS[name]
    graph = graph_of((1, 1), build)
    for point in points:
        low, high = entries(graph, np.array([point]), TINY)
        slopes = [s * one_sided(graph, np.array([point]), np.array([s]))[0] for s in (-1.0, 1.0)]
        assert low[0, 0] <= min(slopes) + 1e-4 and high[0, 0] >= max(slopes) - 1e-4
        # A box on one side holds that side only.
        if name != "sum of relus":
            for side, slope in zip((-1.0, 1.0), slopes, strict=True):
                low, high = entries(graph, np.array([point + side * 1e-3]), 5e-4)
                assert abs(low[0, 0] - slope) < 5e-3 and abs(high[0, 0] - slope) < 5e-3


def element(b: Builder, x: Value, place: int) -> Value:
    return b.index(x, np.array([[place]]))


SEVERAL: dict[str, tuple[Callable, np.ndarray]] = {
    "max": (lambda b, x: b.binary("max", element(b, x, 0), element(b, x, 1)), np.array([0.5, 0.5])),
    "min": (lambda b, x: b.binary("min", element(b, x, 0), element(b, x, 1)), np.array([0.5, 0.5])),
    "window": (lambda b, x: b.window_max(x, np.array([[0, 1, 2, -1]])), np.array([1.0, 1.0, 1.0])),
    "windows that overlap": (
        lambda b, x: b.window_max(x, np.array([[0, 1, -1], [1, 2, 3], [4, 3, 0]])), np.array([0.0, 0.0, 0.0, 0.0, 0.0]),
    ),
    "product of absolute values": (
        lambda b, x: b.binary("mul", b.unary("abs", element(b, x, 0)), element(b, x, 1)),
        np.array([0.0, 2.0]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("name", SEVERAL)
def test_every_side_of_ties_is_bounded(name: str, rewritten: bool) -> None:
    """In random directions from a tie; with maxima as they are and as trees of relus."""
    build, centre = SEVERAL[name]
    graph = graph_of((1, len(centre)), build)
    low, high = entries(lattice(graph) if rewritten else graph, centre, 1e-3)
    random = np.random.default_rng(4)
    x = torch.from_numpy(centre + random.uniform(-1e-3, 1e-3, (400, len(centre)))).requires_grad_()
    y = evaluator(graph)(inputs_of(graph, x))[0].flatten(1)
    for row in range(y.shape[1]):
        (slope,) = torch.autograd.grad(y[:, row].sum(), x, retain_graph=True)
        assert (slope.numpy() >= low[row] - 1e-12).all() and (slope.numpy() <= high[row] + 1e-12).all()
        assert (high[row] - low[row]).max() <= 5
    assert "max" not in {node.operator for node in jacobian(lattice(graph)).nodes}


def test_a_choice_that_is_made_is_exact() -> None:
    """Where one operand is larger throughout, its slope is 1 and the other's 0."""
    graph = graph_of((1, 3), lambda b, x: b.window_max(x, np.array([[0, 1, 2]])))
    low, high = entries(graph, np.array([0.0, 1.0, -1.0]), 0.25)
    np.testing.assert_allclose(low, [[0.0, 1.0, 0.0]], atol=1e-14)
    np.testing.assert_allclose(high, [[0.0, 1.0, 0.0]], atol=1e-14)
