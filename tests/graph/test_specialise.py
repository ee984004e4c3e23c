"""Graphs specialised to a region agree with what they came from; what is folded holds in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node, evaluate
from provenn.bounds.graph.specialise import specialise, work
from provenn.bounds.ops import OPS, Univariate
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan

RANDOM = np.random.default_rng(17)
CONV = {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "groups": 1}


def linear(source: int, n: int, m: int) -> Node:
    return Node("linear", (source,), (1, m), {"weight": RANDOM.normal(size=(n, m)), "bias": RANDOM.normal(size=m)})


def graph_of(nodes: list[Node]) -> Graph:
    return Graph(tuple(nodes), (0,), (len(nodes) - 1,))


def agree(graph: Graph, fixed: np.ndarray, read: np.ndarray | None = None, folds: bool | None = True) -> Graph:
    """Both graphs agree at points of the region, whatever is fixed; interval boxes contain the values."""
    shape, size = graph.nodes[0].shape, graph.nodes[0].size
    lower = RANDOM.uniform(-1, 0, size)
    upper = np.where(fixed, lower, lower + RANDOM.uniform(0.1, 1, size))
    found = specialise(graph, lower, upper, fixed, read)
    assert folds is None or (found.free is not None) == folds
    x = RANDOM.uniform(lower, upper, (50, size))
    expected = evaluate(graph, [torch.from_numpy(x).view(50, *shape)])[0].flatten(1)
    if found.read is not None:
        assert read is not None and np.array_equal(found.read, np.unique(read))
        expected = expected[:, torch.from_numpy(found.read)]
    made = found.graph
    free = slice(None) if found.free is None else found.free
    own = made.nodes[made.inputs[0]].shape
    y = evaluate(made, [torch.from_numpy(x[:, free]).reshape(50, *own)])[0].flatten(1)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    ends = (torch.from_numpy(end[free]).reshape(1, *own) for end in (lower, upper))
    boxes = interval_boxes(Plan(made), {made.inputs[0]: tuple(ends)})  # type: ignore[dict-item]
    low, high = (end.flatten(1) for end in boxes[made.outputs[0]])
    assert (expected >= low - 1e-12).all() and (expected <= high + 1e-12).all()
    return made


def some(size: int, count: int) -> np.ndarray:
    fixed = np.zeros(size, bool)
    fixed[RANDOM.permutation(size)[:count]] = True
    return fixed


# -- fixed inputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 7, 8])
def test_rows_of_fixed_inputs_drop_out(count: int) -> None:
    """A graph keeps one input even where all are fixed."""
    nodes = [Node("input", (), (1, 8)), linear(0, 8, 5), Node("relu", (1,), (1, 5)), linear(2, 5, 3)]
    made = agree(graph_of(nodes), some(8, count))
    left = max(1, 8 - count)
    assert made.nodes[0].shape == (1, left) and made.nodes[1].attributes["weight"].shape == (left, 5)
    assert [node.operator for node in made.nodes] == ["input", "linear", "relu", "linear"]


def test_nothing_to_do_changes_nothing() -> None:
    graph = graph_of([Node("input", (), (1, 8)), linear(0, 8, 5)])
    ends = np.zeros(8), np.ones(8)
    assert specialise(graph, *ends, np.zeros(8, bool), np.arange(5)).graph is graph


def test_every_input_is_folded_within_its_bounds() -> None:
    """In rational arithmetic: whatever value a fixed input has between its bounds, the interval contains the sum."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        weight = random.normal(size=(6, 4)) * 10.0 ** random.integers(-4, 5, (6, 4))
        bias = random.normal(size=4)
        graph = graph_of([Node("input", (), (1, 6)), Node("linear", (0,), (1, 4), {"weight": weight, "bias": bias})])
        lower = random.normal(size=6) * 10.0 ** random.integers(-3, 4, 6)
        upper = lower + np.abs(lower) * random.choice([0.0, 1e-8], 6)
        fixed = np.array([False, *[True] * 5])
        upper[0] = lower[0]
        made = specialise(graph, lower, upper, fixed).graph
        ends = tuple(torch.from_numpy(end[:1]).view(1, 1, 1) for end in (lower, upper))
        boxes = interval_boxes(Plan(made), {0: ends})  # type: ignore[dict-item]
        low, high = (end.flatten().tolist() for end in boxes[made.outputs[0]])
        for column in range(4):
            for side, end in ((-1, low[column]), (1, high[column])):
                x = np.where(side * weight[:, column] > 0, upper, lower)
                pairs = zip(x.tolist(), weight[:, column].tolist(), strict=True)
                exact = Fraction(bias[column]) + sum(Fraction(v) * Fraction(w) for v, w in pairs)
                assert side * Fraction(end) >= side * exact


GRID = np.arange(24).reshape(2, 3, 4)
MOVES: dict[str, list[tuple[str, tuple[int, ...], tuple[int, ...], dict]]] = {
    "reshape": [("reshape", (0,), (4, 6), {})],
    "transpose": [("transpose", (0,), (4, 2, 3), {"perm": [2, 0, 1]})],
    "slice": [("index", (0,), (2, 2, 2), {"indices": GRID[:, 1:, ::2]})],
    "pad": [("index", (0,), (4, 5, 6), {"indices": np.pad(GRID, 1, constant_values=-1)})],
    "repeat": [("index", (0,), (2, 6, 4), {"indices": GRID.repeat(2, 1)})],
    "concat": [("affine", (0,), (2, 3, 4), {"scale": np.array(2.0)}), ("concat", (0, 1), (2, 6, 4), {"axis": 1})],
    "affine": [("affine", (0,), (2, 3, 4), {"scale": RANDOM.normal(size=(3, 1)), "shift": RANDOM.normal(size=4)})],
    "prelu": [("prelu", (0,), (2, 3, 4), {"slope": RANDOM.normal(size=(3, 1))})],
    "sigmoid": [("sigmoid", (0,), (2, 3, 4), {})],
    "add": [("affine", (0,), (2, 3, 4), {"shift": np.array(0.5)}), ("add", (1, 0), (2, 3, 4), {})],
    "softmax": [("softmax", (0,), (2, 3, 4), {"axis": 2})],
    "sum": [("sum", (0,), (2, 4), {"axes": (1,), "keepdims": False})],
    "rows": [("linear", (0,), (2, 3, 2), {"weight": RANDOM.normal(size=(4, 2))})],
}  # fmt: skip


FOLDING = frozenset({"reshape", "transpose", "slice", "affine", "prelu", "sigmoid"})


@pytest.mark.parametrize("count", [5, 20, 23])
@pytest.mark.parametrize("name", MOVES)
def test_operators_between(name: str, count: int) -> None:
    """Partly known values pass operators on their way to a matrix, or are put together again before them."""
    nodes = [Node("input", (), (2, 3, 4))]
    nodes += [Node(operator, inputs, shape, attributes) for operator, inputs, shape, attributes in MOVES[name]]
    size = nodes[-1].size
    nodes += [Node("reshape", (len(nodes) - 1,), (1, size)), linear(len(nodes), size, 40)]
    agree(graph_of(nodes), some(24, count), folds=True if name in FOLDING else None)


@pytest.mark.parametrize("operator", ["add", "sub", "mul"])
@pytest.mark.parametrize("side", [0, 1])
def test_constants_make_affine_maps(operator: str, side: int) -> None:
    """Half of the inputs is known: an operation of the halves becomes part of the next matrix."""
    halves = [Node("index", (0,), (1, 5), {"indices": np.arange(5)[None] + 5 * i}) for i in (0, 1)]
    order = (1, 2) if side == 0 else (2, 1)
    nodes = [Node("input", (), (1, 10)), *halves, Node(operator, order, (1, 5)), linear(3, 5, 3)]
    made = agree(graph_of(nodes), np.arange(10) < 5)
    assert operator not in {node.operator for node in made.nodes}


def test_images_known_in_part_are_left_alone() -> None:
    """Nothing gets smaller where a convolution comes first."""
    weight = {"weight": RANDOM.normal(size=(3, 2, 3, 3)), "bias": RANDOM.normal(size=3), **CONV}
    nodes = [Node("input", (), (1, 2, 5, 5)), Node("conv", (0,), (1, 3, 5, 5), weight)]
    graph = graph_of([*nodes, Node("relu", (1,), (1, 3, 5, 5)), Node("reshape", (2,), (1, 75)), linear(3, 75, 4)])
    assert agree(graph, some(50, 30), folds=False) is graph


def test_jumps_of_uncertain_constants_stay() -> None:
    """The sign of a fixed input that may be 0 is not a constant."""
    nodes = [Node("input", (), (1, 4)), Node("sign", (0,), (1, 4)), linear(1, 4, 3)]
    lower = np.array([-1e-9, -1.0, 0.5, 0.5])
    upper = np.array([1e-9, 1.0, 0.5, 0.5])
    made = specialise(graph_of(nodes), lower, upper, np.array([True, False, True, True])).graph
    free = made.nodes[made.inputs[0]].size
    ends = tuple(torch.from_numpy(end[[1] if free == 1 else slice(None)]).view(1, 1, free) for end in (lower, upper))
    boxes = interval_boxes(Plan(made), {0: ends})  # type: ignore[dict-item]
    low, high = (end.flatten(1) for end in boxes[made.outputs[0]])
    for first in (-1.0, 0.0, 1.0):
        value = np.array([first, 1.0, 1.0, 1.0]) @ nodes[2].attributes["weight"] + nodes[2].attributes["bias"]
        value = torch.from_numpy(value)
        assert (value >= low - 1e-12).all() and (value <= high + 1e-12).all()


# -- outputs ---------------------------------------------------------------------------------------------


def test_columns_that_nobody_reads_are_cut_off() -> None:
    nodes = [Node("input", (), (1, 4)), linear(0, 4, 6), Node("relu", (1,), (1, 6)), linear(2, 6, 9), linear(2, 6, 3)]
    nodes += [Node("concat", (3, 4), (1, 12), {"axis": 1}), Node("reshape", (5,), (3, 4))]
    made = agree(graph_of(nodes), np.zeros(4, bool), np.array([7, 2]), folds=False)
    assert [node.shape for node in made.nodes if node.operator == "linear"] == [(1, 6), (1, 2)]
    assert "concat" not in {node.operator for node in made.nodes}


@pytest.mark.parametrize("last", ["transpose", "index", "affine", "prelu", "add", "softmax", "conv"])
def test_outputs_of_any_operator(last: str) -> None:
    shape = (1, 2, 3, 4)
    attributes = {
        "transpose": {"perm": [0, 2, 1, 3]}, "index": {"indices": np.arange(24).reshape(shape)[:, :, ::-1]},
        "affine": {"scale": RANDOM.normal(size=(3, 1))}, "prelu": {"slope": RANDOM.normal(size=(3, 1))},
        "softmax": {"axis": 1}, "conv": {"weight": RANDOM.normal(size=(2, 2, 3, 3)), **CONV},
    }.get(last, {})  # fmt: skip
    nodes = [Node("input", (), (1, 5)), linear(0, 5, 24), Node("reshape", (1,), shape)]
    result = (1, 3, 2, 4) if last == "transpose" else shape
    nodes.append(Node(last, (2, 2) if last == "add" else (2,), result, attributes))
    agree(graph_of(nodes), some(5, 2), np.array([3, 11, 20]))


# -- whole networks --------------------------------------------------------------------------------------


PARTIAL = frozenset({"log", "sqrt", "reciprocal", "tan", "pow"})


@pytest.mark.parametrize("seed", range(30))
def test_random_networks(seed: int) -> None:
    """Residual networks with slices and elementwise operators, any inputs fixed, any outputs read."""
    random = np.random.default_rng(seed)
    names = sorted(n for n, r in OPS.items() if isinstance(r, Univariate) and not r.constants and n not in PARTIAL)
    nodes, values = [Node("input", (), (1, 6))], [0]
    for _ in range(8):
        source = int(random.choice(values))
        width = nodes[source].size
        kind = random.integers(0, 5)
        others = [v for v in values if nodes[v].shape == nodes[source].shape]
        if kind == 0:
            nodes.append(linear(source, width, 6))
        elif kind == 1:
            nodes.append(Node(str(random.choice(names)), (source,), nodes[source].shape))
        elif kind == 2:
            places = random.integers(0, width, (1, 6))
            nodes.append(Node("index", (source,), (1, 6), {"indices": places}))
        elif kind == 3:
            operator = str(random.choice(["add", "sub", "mul", "max"]))
            nodes.append(Node(operator, (source, int(random.choice(others))), nodes[source].shape))
        else:
            other = int(random.choice(values))
            nodes.append(Node("concat", (source, other), (1, width + nodes[other].size), {"axis": 1}))
        values.append(len(nodes) - 1)
    nodes.append(linear(values[-1], nodes[values[-1]].size, 5))
    graph = graph_of(nodes)
    fixed = random.random(6) < 0.6
    lower = random.uniform(-1, 0, 6)
    made = specialise(graph, lower, np.where(fixed, lower, lower + 1), fixed, np.array([1, 3]))
    assert work(made.graph) <= work(graph)
    agree(graph, fixed, np.array([1, 3]), folds=made.free is not None)


def test_unread_outputs_of_a_constant_are_cut_off() -> None:
    """A node without operands below the cut: a sum with a constant that is elementwise."""
    value = RANDOM.normal(size=(1, 4))
    nodes = [Node("input", (), (1, 3)), linear(0, 3, 4), Node("constant", (), (1, 4), {"value": value})]
    agree(graph_of([*nodes, Node("add", (1, 2), (1, 4))]), np.zeros(3, bool), np.array([1, 3]), folds=False)


def test_one_number_with_more_axes_than_the_vector() -> None:
    scale = {"scale": np.full((1, 1, 1), 3.0), "shift": np.full((1, 1, 1), 0.5)}
    nodes = [Node("input", (), (1, 1, 2, 3)), Node("affine", (0,), (1, 1, 2, 3), scale)]
    nodes += [Node("sin", (1,), (1, 1, 2, 3)), Node("reshape", (2,), (1, 6)), linear(3, 6, 2)]
    made = agree(graph_of(nodes), np.arange(6) < 4)
    moved = next(node for node in made.nodes if node.operator == "affine")
    assert moved.shape == (1, 2) and np.broadcast_to(moved.attributes["shift"], moved.shape).size == 2
