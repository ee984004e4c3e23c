"""Boxes and networks at their limits: no width, no end, no slope, infinite slopes, no time, wrong calls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from provenn.bounds.graph._constants import Constant
from provenn.errors import InputError, UnsupportedOperatorError
from provenn.verifier import local_lipschitz
from provenn.verifier.gradients import Gradients, least_norm
from provenn.verifier.regions import inside
from provenn.verifier.renewed import not_less

from ..jacobian.made import graph_of
from .small import drawn_layers

NORMS = ["1", "2", "inf"]


def unary(operator: str, **attributes: float):
    return graph_of((1, 1), lambda b, x: b.unary(operator, x, **attributes))


@pytest.mark.parametrize("norm", NORMS)
def test_a_box_of_one_point_has_the_norm_there(norm: str) -> None:
    graph = drawn_layers(3, 3, 4, 2).graph("tanh")
    x = np.array([0.3, -0.2, 0.9])
    found = local_lipschitz(graph, x, x, norm, timeout=5)
    assert found.upper <= found.lower * (1 + 1e-6)
    assert np.array_equal(found.point, x)


@pytest.mark.parametrize("norm", NORMS)
def test_a_point_on_a_kink_has_both_sides(norm: str) -> None:
    found = local_lipschitz(unary("relu"), 0.0, 0.0, norm, timeout=1)
    assert 0 <= found.lower <= 1 <= found.upper <= 1 + 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_an_input_without_width_has_a_column_all_the_same(norm: str) -> None:
    """x0 x1 with x1 fixed to 2: the column of x1 is x0."""

    def build(b, x):
        return b.emit("mul", (b.index(x, np.array([[0]])), b.index(x, np.array([[1]]))), (1, 1))

    found = local_lipschitz(graph_of((1, 2), build), np.array([-3.0, 2.0]), np.array([1.0, 2.0]), norm, timeout=10)
    expected = {"1": 3.0, "2": math.hypot(3, 2), "inf": 5.0}[norm]
    assert expected * (1 - 2e-3) <= found.lower <= expected * (1 + 1e-12)
    assert expected * (1 - 1e-12) <= found.upper <= expected * (1 + 2e-3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("operator", ["relu", "tanh", "sigmoid", "sin", "abs"])
@pytest.mark.parametrize("ends", [(-math.inf, math.inf), (-math.inf, 1.0), (0.5, math.inf)])
def test_boxes_without_ends(operator: str, ends: tuple[float, float], norm: str) -> None:
    found = local_lipschitz(unary(operator), *ends, norm, timeout=5)
    steepest = max(0.0, ends[0])
    sigmoid = 1 / (1 + math.exp(-steepest))
    constant = {"sigmoid": sigmoid * (1 - sigmoid), "tanh": 1 - math.tanh(steepest) ** 2}.get(operator, 1.0)
    assert found.lower <= constant * (1 + 1e-9)
    assert constant <= found.upper * (1 + 1e-12) < 3


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["constant", "dead", "unread"])
def test_networks_without_slope(kind: str, norm: str) -> None:
    def build(b, x):
        if kind == "dead":
            return b.unary("relu", b.affine(x, shift=Constant(np.full((1, 1), -9.0))))
        read = b.affine(x, scale=Constant(np.zeros(())))
        return read if kind == "constant" else b.affine(read, shift=Constant(np.full((1, 1), 7.0)))

    found = local_lipschitz(graph_of((1, 1), build), -1.0, 1.0, norm, timeout=60)
    assert found.lower == 0 and 0 <= found.upper <= 1e-150
    assert found.seconds < 50  # it ends by itself


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("timeout", [1e-12, 0.05])
def test_without_time_there_are_bounds(norm: str, timeout: float) -> None:
    found = local_lipschitz(unary("sin"), 0.0, 10.0, norm, timeout=timeout)
    assert 0 <= found.lower <= 1 <= found.upper


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("operator", "ends"),
    [("exp", (800.0, 2000.0)), ("reciprocal", (-1.0, 1.0)), ("tan", (1.0, 2.0)), ("sqrt", (0.0, 1.0))],
)
def test_infinite_slopes_have_no_finite_bound(operator: str, ends: tuple[float, float], norm: str) -> None:
    assert local_lipschitz(unary(operator), *ends, norm, timeout=1e-6).upper == math.inf


@pytest.mark.parametrize("norm", ["inf"])
def test_an_infinite_slope_is_refused_by_name(norm: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"made .node made. is not bounded there"):
        local_lipschitz(unary("sqrt"), 0.0, 1.0, norm, timeout=300)


def test_what_is_no_number_bounds_nothing() -> None:
    ends = torch.tensor([math.nan, math.inf, 1.0], dtype=torch.float64)
    assert not_less(ends).tolist() == [math.inf, math.inf, 1.0]


@pytest.mark.parametrize("norm", NORMS)
def test_norms_that_overflow_prove_nothing(norm: str) -> None:
    huge = torch.full((1, 3, 3), 1e300, dtype=torch.float64)
    for low, high in ((-huge, huge), (huge * math.inf, huge * math.inf), (huge * math.nan, huge)):
        assert float(least_norm(low, high, norm)) == 0.0
    assert float(least_norm(huge, huge, norm)) <= 3.0000001e300


def test_points_that_are_no_numbers_are_moved() -> None:
    end = torch.ones(1, dtype=torch.float64)
    found = Gradients(unary("tanh"), -end, end, "2", None)
    assert found.take(torch.tensor([[math.nan], [0.5]], dtype=torch.float64))
    assert torch.isfinite(found.point).all() and 0 < found.lower <= 1


def test_a_norm_is_proven_of_a_point_with_an_inside() -> None:
    """|x| - |x| has no slope. Right at the kink every choice of sides would do, beside it none but the same."""

    def build(b, x):
        left, right = b.unary("abs", x), b.unary("abs", b.affine(x, scale=Constant(np.full((), -1.0))))
        return b.emit("sub", (left, right), (1, 1))

    end = torch.ones(1, dtype=torch.float64)
    found = Gradients(graph_of((1, 1), build), -end, end, "2", None)
    points = torch.tensor([[0.0], [5e-324], [-5e-324], [0.3]], dtype=torch.float64)
    assert float(found.prove(points).max()) <= 1e-12


def test_splits_that_leave_nothing() -> None:
    low, high = np.array([0.0, 0.0]), np.array([1.0, 1.0])
    g = np.array([[1.0, 1.0], [-1.0, -1.0]])
    assert inside(g, np.array([0.5, -0.75]), low, high) == (True, None)
    empty, point = inside(g, np.array([0.75, -0.5]), low, high)
    assert not empty and point is not None and 0.5 < point.sum() < 0.75
    assert inside(g, np.array([0.5, -0.5]), low, high)[0] is False  # a line is left: it may not be dropped
    # An input without width still makes rows true.
    assert inside(np.array([[1.0, 0.0]]), np.array([-0.5]), np.array([-1.0, 0.0]), np.array([-1.0, 1.0]))[0] is False
    assert inside(np.zeros((1, 2)), np.array([-0.5]), low, high) == (True, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "3"}, "norm got"), ({"output": 5}, "output got 5"), ({"output": -1}, "output got -1"),
        ({"output": 0.5}, "output got 0.5"), ({"tolerance": -1.0}, "tolerance"), ({"tolerance": math.nan}, "tolerance"),
        ({"timeout": 0.0}, "timeout"), ({"timeout": math.nan}, "timeout"), ({"lower": 2.0}, "lower=2.0"),
        ({"lower": math.nan}, "lower=nan"), ({"lower": math.inf, "upper": math.inf}, "lower=inf"),
        ({"upper": np.zeros(5)}, "upper got 5 numbers"),
    ],
)  # fmt: skip
def test_wrong_calls(changes: dict, words: str) -> None:
    given = {"lower": -1.0, "upper": 1.0, "norm": "2", "output": None} | changes
    with pytest.raises(InputError, match=words):
        local_lipschitz(unary("relu"), **given)


@pytest.mark.parametrize("norm", [1, 1.0, 2, np.inf, "inf", math.inf])
def test_norms_may_be_numbers(norm: float) -> None:
    assert local_lipschitz(unary("tanh"), -1.0, 1.0, norm, timeout=5).norm in NORMS


@pytest.mark.parametrize("operator", ["sign", "floor", "ceil", "round"])
def test_jumps_are_refused_by_name(operator: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"made .node made."):
        local_lipschitz(unary(operator), -1.0, 1.0)
