"""Boxes and networks at their limits: no width, no end, no slope, infinite slopes, no time, wrong calls."""

from __future__ import annotations

import math
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch

from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph.lattice import lattice
from provenn.bounds.jacobian import jacobian_norm, norm_graph
from provenn.errors import InputError, UnsupportedOperatorError
from provenn.verifier import local_lipschitz
from provenn.verifier.gradients import Gradients, least_norm
from provenn.verifier.regions import inside
from provenn.verifier.renewed import not_less

from ..jacobian.made import graph_of
from .small import ORDER, Layers, drawn_layers

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


# -- shapes and sizes -----------------------------------------------------------------------------------------


def test_scalars_on_the_way_and_as_output() -> None:
    weights = Constant(np.array([[1.0, -2.0, 3.0]]))

    def total(b, x):
        return b.sum(b.affine(x, weights), [0, 1], keepdims=False)

    inner = graph_of((1, 3), lambda b, x: b.reshape(b.unary("relu", total(b, x)), (1, 1)))
    outer = graph_of((1, 3), lambda b, x: total(b, b.unary("tanh", x)))
    for graph, upper in ((inner, 1.0), (outer, np.inf)):
        found = local_lipschitz(graph, -upper, upper, "inf", timeout=20)
        assert found.lower == pytest.approx(6, rel=1e-3) and 6 - 1e-9 <= found.upper <= 6.01


@pytest.mark.parametrize("limit", [None, 0])
def test_positions_that_a_window_has_twice_or_lacks_are_not_compared(limit: int | None, monkeypatch) -> None:
    """They would have a kink with themselves, at every point; as trees of relus and as maxima."""
    if limit is not None:
        monkeypatch.setattr("provenn.verifier.lipschitz.lattice", lambda graph: lattice(graph, limit))
    indices = np.array([[[-1, 0, 1], [1, -1, 1], [2, 2, -1], [-1, 2, 0]]])
    weight = Constant(np.arange(6.0).reshape(2, 3) - 2)

    def build(b, x):
        windows = b.emit("window_max", (b.linear(x, weight),), (1, 4), indices=indices)
        return b.linear(windows, Constant(np.array([[1.0], [2.0], [-3.0], [4.0]])))

    graph = graph_of((1, 2), build)
    x = np.array([0.3, -0.7])
    found = local_lipschitz(graph, x, x, "1", timeout=10)
    z = x @ weight.value
    a, b = 0 if z[0] > z[1] else 1, 2 if z[2] > z[0] else 0
    row = weight.value[:, a] + 2 * weight.value[:, 1] - 3 * weight.value[:, 2] + 4 * weight.value[:, b]
    assert found.lower == pytest.approx(np.abs(row).max(), rel=1e-9)
    assert found.upper == pytest.approx(np.abs(row).max(), rel=1e-9)


def test_a_maximum_and_a_minimum_of_the_same_values_are_one_comparison() -> None:
    """Sorted pairs keep every norm 2; two independent comparisons would allow the root of 2 and more."""

    def build(b, x):
        for turn in (0.3, 1.1):
            c, s = np.cos(turn), np.sin(turn)
            x = b.linear(x, Constant(np.array([[c, s], [-s, c]])))
            first, second = b.index(x, np.array([[0]])), b.index(x, np.array([[1]]))
            x = b.concat([b.emit(name, (first, second), (1, 1)) for name in ("min", "max")], 1)
        return x

    found = local_lipschitz(graph_of((1, 2), build), -np.inf, np.inf, "2", timeout=20)
    assert 0.999 <= found.lower <= 1 <= found.upper <= 1.001


def test_the_whole_space_of_a_wide_network_takes_little_memory() -> None:
    random = np.random.default_rng(0)
    weights = [random.normal(size=shape) / 10 for shape in ((784, 8), (8, 10))]
    graph = Layers(weights, [np.zeros(8), np.zeros(10)]).graph()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = local_lipschitz(graph, -np.inf, np.inf, "2", timeout=1)
    assert 0 < found.lower <= found.upper < np.inf
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB; all entries' rows take 1.2 GB
    assert norm_graph(graph, "2").rows().shape == (795, 8635)


def test_slopes_whose_squares_overflow() -> None:
    graph = graph_of((1, 1), lambda b, x: b.affine(x, Constant(np.array([[1e200]]))))
    for norm in NORMS:
        for end in (1.0, np.inf):
            found = local_lipschitz(graph, -end, end, norm, timeout=5)
            assert found.lower == pytest.approx(1e200) and found.upper == pytest.approx(1e200)


def test_whole_numbers_have_no_slopes() -> None:
    graph = graph_of((1, 1), lambda b, x: x)
    integers = replace(graph, nodes=(replace(graph.nodes[0], scalar_type="int64"),))
    with pytest.raises(InputError, match="int64"):
        local_lipschitz(integers, 0, 1)


def test_norms_over_several_boxes_where_nothing_is_relaxed() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 3))
    graph = graph_of((1, 5), lambda b, x: b.linear(x, Constant(weight)))
    for norm in NORMS:
        found = jacobian_norm(graph, np.zeros((4, 5)), np.ones((4, 5)), norm)
        assert found.tolist() == pytest.approx([np.linalg.norm(weight.T, ORDER[norm])] * 4, rel=1e-6)


@pytest.mark.parametrize(("ends", "constant"), [((-1.0, 0.0), 0.0), ((0.0, 1.0), 1.0), ((-1.0, 5e-324), 1.0)])
def test_a_kink_on_the_boundary_has_the_side_in_the_box(ends: tuple[float, float], constant: float) -> None:
    found = local_lipschitz(unary("relu"), *ends, timeout=2)
    assert constant <= found.upper <= constant + 1e-9
    assert found.lower <= constant and (found.lower == pytest.approx(constant) or ends[1] < 1e-300)
