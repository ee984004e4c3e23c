"""Forward bounds contain what samples attain, for every record, and hold in exact arithmetic."""

from __future__ import annotations

import itertools
import math
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from provenn.bounds.graph import Graph, Node, evaluate
from provenn.bounds.graph._piecewise import Domain, identity, product, table
from provenn.bounds.graph.univariate import tabulated
from provenn.bounds.ops import OPS, LinearOperator, Multivariate, Univariate
from provenn.bounds.propagate import forward as module
from provenn.bounds.propagate.forward import Form, Forward, concretised, forward_boxes, through
from provenn.bounds.propagate.intermediate import intermediate_boxes, unstable
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes

from .networks import FAMILIES
from .test_bounds import case
from .test_rounding import WIDTHS, Point, exact_layer, wild

RANDOM = np.random.default_rng(11)
START = RANDOM.bit_generator.state
Boxes = dict[int, tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test draws the same numbers whatever runs before it."""
    RANDOM.bit_generator.state = START


def linear(source: int, n: int, m: int, scale: float = 1.0, bias: float = 0.0) -> Node:
    weight = RANDOM.normal(size=(n, m)) * scale / math.sqrt(n)
    return Node("linear", (source,), (1, m), {"weight": weight, "bias": RANDOM.normal(size=m) * 0.3 * scale + bias})


def graph_of(nodes: list[Node]) -> Graph:
    return Graph(tuple(nodes), (0,), (len(nodes) - 1,))


def box_of(shape: tuple[int, ...], domains: int = 3, fixed: int = 0) -> Boxes:
    """Random boxes of the input; the first ``fixed`` elements are points."""
    lower = torch.from_numpy(RANDOM.uniform(-1, 0.5, (domains, *shape)))
    width = torch.from_numpy(RANDOM.uniform(0, 1, (domains, *shape)))
    width.view(domains, -1)[:, :fixed] = 0
    return {0: (lower, lower + width)}


def contains_samples(graph: Graph, inputs: Boxes, boxes: Boxes, count: int = 2000) -> None:
    """Corners and inner points of every domain stay in the boxes of all values (evaluation rounds, too)."""
    lower, upper = inputs[0]
    for domain in range(lower.shape[0]):
        share = torch.from_numpy(RANDOM.random((count, *lower.shape[1:])))
        share[: count // 2] = share[: count // 2].round()
        x = lower[domain] + share * (upper - lower)[domain]
        values = evaluate(graph, [x], keep="all")
        for index, (low, high) in boxes.items():
            value, mine = values[index].double(), domain if low.shape[0] > 1 else 0
            slack = 1e-12 * (1 + value.abs())
            assert (value >= low[mine] - slack).all(), graph.nodes[index].operator
            assert (value <= high[mine] + slack).all(), graph.nodes[index].operator


def check(nodes: list[Node], fixed: int = 0, strictly: bool = True) -> None:
    """Boxes contain samples, and forms, not only intervals, reach the output."""
    graph = graph_of(nodes)
    plan, inputs = Plan(graph), box_of(nodes[0].shape, fixed=fixed)
    boxes = forward_boxes(plan, inputs)
    contains_samples(graph, inputs, boxes)
    carried = Forward(plan, inputs)
    form = carried.box(len(nodes) - 1, boxes)
    assert form is not None
    contains_samples(graph, inputs, {len(nodes) - 1: form})
    if strictly:
        assert torch.isfinite(form[0]).all() and torch.isfinite(form[1]).all()


# -- every record ----------------------------------------------------------------------------------------

DOMAIN = Domain(Fraction(-500), Fraction(500))
ATTRIBUTES: dict[str, dict] = {
    "leaky_relu": {"slope": np.array(0.1)}, "prelu": {"slope": RANDOM.uniform(-0.5, 1.5, (1, 5))},
    "clip": {"lower": np.array(-0.4), "upper": np.array(0.5)},
    "hard_sigmoid": {"alpha": np.array(0.2), "beta": np.array(0.5)},
    "pow": {"exponent": 3.0}, "elu": {"alpha": np.array(1.3)}, "celu": {"alpha": np.array(0.5)},
    "selu": {"alpha": np.array(1.5), "gamma": np.array(1.25)},
    "step": {"left": np.array(-0.5), "right": np.array(1.0)},
    "elu_slope": {"height": np.array(1.3), "scale": np.array(1.0)},
    "pieces": tabulated([table(product(identity(DOMAIN), identity(DOMAIN)))], np.zeros(1, np.int64)),
}  # fmt: skip
POSITIVE = frozenset({"log", "sqrt", "reciprocal"})
univariate = sorted(name for name, record in OPS.items() if isinstance(record, Univariate))


@pytest.mark.parametrize("operator", univariate)
def test_elementwise_operators(operator: str) -> None:
    """Twice, with affine maps between: the second reads a form whose two functions differ."""
    near, scale = (4.0, 0.5) if operator in POSITIVE else (0.0, 0.7)
    attributes = ATTRIBUTES.get(operator, {})
    nodes = [Node("input", (), (1, 4)), linear(0, 4, 5, scale, near), Node(operator, (1,), (1, 5), attributes)]
    nodes += [linear(2, 5, 5, 0.3 * scale, near), Node(operator, (3,), (1, 5), attributes), linear(4, 5, 3)]
    check(nodes)


@pytest.mark.parametrize("operator", ["mul", "div", "max", "min"])
def test_operators_of_two(operator: str) -> None:
    assert isinstance(OPS[operator], Multivariate)
    nodes = [Node("input", (), (1, 4)), linear(0, 4, 5), linear(0, 4, 5, 0.5, 5.0), Node("relu", (1,), (1, 5))]
    nodes += [Node(operator, (3, 2), (1, 5)), linear(4, 5, 5), linear(4, 5, 5, 0.1, 4.0)]
    nodes += [Node(operator, (5, 6), (1, 5)), linear(7, 5, 2)]
    check(nodes)


def test_windows() -> None:
    indices = np.array([[[0, 1, 2], [2, 3, -1], [4, 5, 0]]])
    nodes = [Node("input", (), (1, 4)), linear(0, 4, 6), Node("relu", (1,), (1, 6)), linear(2, 6, 6)]
    nodes += [Node("window_max", (3,), (1, 3), {"indices": indices}), linear(4, 3, 2)]
    check(nodes)


@pytest.mark.parametrize("operator", ["softmax", "argmax"])
def test_operators_with_an_interval_only(operator: str) -> None:
    shape = (1, 5) if operator == "softmax" else (1, 1)
    nodes = [Node("input", (), (1, 4)), linear(0, 4, 5), Node(operator, (1,), shape, {"axis": 1, "keepdims": True})]
    nodes.append(linear(2, shape[1], 3))
    check(nodes)


IMAGE = (1, 2, 4, 4)
CONV = {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "groups": 1}
PADDED = np.pad(np.arange(32).reshape(IMAGE), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1)
KERNEL = {"weight": RANDOM.normal(size=(3, 2, 3, 3)), "bias": RANDOM.normal(size=3), **CONV}
SPREAD = {"weight": RANDOM.normal(size=(2, 3, 3, 3)), **CONV, "output_padding": [0, 0]}
LINEAR: dict[str, list[tuple[str, tuple[int, ...], tuple[int, ...], dict]]] = {
    "reshape": [("reshape", (0,), (1, 32), {})],
    "transpose": [("transpose", (0,), (4, 1, 4, 2), {"perm": [2, 0, 3, 1]})],
    "index": [("index", (0,), (1, 2, 6, 6), {"indices": PADDED})],
    "concat": [("concat", (0, 0), (1, 4, 4, 4), {"axis": 1})],
    "affine": [("affine", (0,), IMAGE, {"scale": RANDOM.normal(size=(2, 1, 1)), "shift": RANDOM.normal(size=4)})],
    "affine shift": [("affine", (0,), IMAGE, {"shift": RANDOM.normal(size=4)}), ("add", (0, 1), IMAGE, {})],
    "sub": [("affine", (0,), IMAGE, {"scale": np.array(0.7)}), ("sub", (0, 1), IMAGE, {})],
    "add": [("affine", (0,), IMAGE, {"scale": np.array(-0.7)}), ("add", (0, 1, 0), IMAGE, {})],
    "sum": [("sum", (0,), (1, 4, 4), {"axes": (1,), "keepdims": False})],
    "sum of nothing": [("sum", (0,), IMAGE, {"axes": (), "keepdims": True}), ("add", (0, 1), IMAGE, {})],
    "linear": [("linear", (0,), (1, 2, 4, 3), {"weight": RANDOM.normal(size=(4, 3)), "bias": RANDOM.normal(size=3)})],
    "matmul_left": [("matmul_left", (0,), (1, 2, 3, 4), {"weight": RANDOM.normal(size=(3, 4))})],
    "constant": [("constant", (), IMAGE, {"value": RANDOM.normal(size=IMAGE)}), ("sub", (0, 1), IMAGE, {})],
    "conv": [("conv", (0,), (1, 3, 4, 4), KERNEL)],
    "conv_transpose": [("conv_transpose", (0,), (1, 3, 4, 4), SPREAD)],
}  # fmt: skip


def test_every_linear_operator_has_a_case() -> None:
    covered = {step[0] for steps in LINEAR.values() for step in steps} | {"input"}
    assert covered == {name for name, record in OPS.items() if isinstance(record, LinearOperator)}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators(name: str) -> None:
    """Behind a ReLU, so that the two functions of their operands differ."""
    nodes = [Node("input", (), IMAGE), Node("affine", (0,), IMAGE, {"scale": RANDOM.normal(size=IMAGE)})]
    nodes.append(Node("relu", (1,), IMAGE))
    for operator, inputs, shape, attributes in LINEAR[name]:
        nodes.append(Node(operator, tuple(2 + i for i in inputs), shape, attributes))
    nodes.append(Node("relu", (len(nodes) - 1,), nodes[-1].shape))
    check(nodes, fixed=20)


def test_sparse_matrices() -> None:
    weight = np.zeros((300, 300))
    weight[RANDOM.permutation(300), np.arange(300)] = RANDOM.normal(size=300)
    nodes = [Node("input", (), (1, 4)), linear(0, 4, 300), Node("relu", (1,), (1, 300))]
    nodes += [Node("linear", (2,), (1, 300), {"weight": weight}), Node("abs", (3,), (1, 300)), linear(4, 300, 3)]
    assert "sparse" in Plan(graph_of(nodes)).prepared[3].derived
    check(nodes)


# -- exact arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_boxes_of_points_contain_the_exact_values(seed: int) -> None:
    """All columns are constant ones: what is left is rounding."""
    point = Point(seed)
    boxes = forward_boxes(point.plan, point.inputs)
    for index, exact in enumerate(point.exact()):
        for low, value, high in zip(*(side.flatten().tolist() for side in boxes[index][:1]), exact,
                                    boxes[index][1].flatten().tolist(), strict=True):  # fmt: skip
            assert Fraction(low) <= value <= Fraction(high)


@pytest.mark.parametrize("seed", range(10))
def test_forms_of_cancelling_sums_contain_exact_values(seed: int) -> None:
    """Corners of a box through two affine maps and a ReLU, in rational arithmetic: no tolerance.

    The stable ReLU keeps the form exact up to rounding, so that its box is reached at a corner.
    """
    random = np.random.default_rng(seed)
    layers = [(wild(random, n, m), wild(random, m)) for n, m in itertools.pairwise(WIDTHS[:3])]
    layers[0][1][:] = np.abs(layers[0][0]).sum(0) * 8  # stable
    nodes = [Node("input", (), (1, WIDTHS[0]))]
    for weight, bias in layers:
        nodes.append(Node("linear", (len(nodes) - 1,), (1, weight.shape[1]), {"weight": weight, "bias": bias}))
        nodes.append(Node("relu", (len(nodes) - 1,), nodes[-1].shape))
    graph = graph_of(nodes[:-1])
    lower = random.uniform(-3, 2, WIDTHS[0])
    upper = lower + random.uniform(0, 1, WIDTHS[0])
    inputs = {0: tuple(torch.from_numpy(end).view(1, 1, -1) for end in (lower, upper))}
    plan = Plan(graph)
    box = Forward(plan, inputs).box(3, interval_boxes(plan, inputs))  # type: ignore[arg-type]
    assert box is not None
    product = layers[0][0] @ layers[1][0]
    for column in range(WIDTHS[2]):
        for side, end in ((1, box[1]), (-1, box[0])):
            corner = np.where(side * product[:, column] > 0, upper, lower)
            value = exact_layer([Fraction(x) for x in corner], *layers[0])
            assert min(value) > 0
            exact = exact_layer(value, *layers[1])[column]
            assert side * Fraction(float(end.flatten()[column])) >= side * exact


def fractions(t: Tensor) -> list[Fraction]:
    return [Fraction(x) for x in t.flatten().tolist()]


def random_form(random: np.random.Generator, slopes: int, size: int = 4) -> Form:
    middle, half = (torch.from_numpy(wild(random, 1, n, 1, size)) for n in (4, slopes))
    half[:, -1] = half.abs().sum(1) + half[:, -1].abs()
    return Form(middle, half)


def at(form: Form, corner: tuple[int, ...], side: int) -> list[Fraction]:
    """The lower (-1) or upper (1) function of every element at a corner of the box, exactly."""
    signs = [Fraction(e) for e in (*corner, 1)]
    middle = [fractions(column) for column in form.middle[0]]
    half = [[Fraction(0)] * len(middle[0])] * (4 - form.half.shape[1]) + [fractions(column) for column in form.half[0]]
    return [
        sum((e * (m[i] + side * h[i]) for e, m, h in zip(signs, middle, half, strict=True)), Fraction(0))
        for i in range(len(middle[0]))
    ]


@pytest.mark.parametrize("slopes", [1, 4])
@pytest.mark.parametrize("seed", range(10))
def test_lines_of_forms_hold_exactly(seed: int, slopes: int) -> None:
    """Every corner, every element: the new functions are beyond the lines of the old ones, without tolerance."""
    random = np.random.default_rng(seed)
    form = random_form(random, slopes)
    kl, ku, bl, bu = (torch.from_numpy(wild(random, 1, 1, 1, 4)) for _ in range(4))
    ku = kl if seed % 2 else ku
    made = through(Lines((kl,), bl, (ku,), bu), [form], 1)
    for corner in itertools.product((-1, 1), repeat=3):
        old = {side: at(form, corner, side) for side in (-1, 1)}
        for side, slope, offset in ((-1, kl, bl), (1, ku, bu)):
            new = at(made, corner, side)
            for i, (k, b) in enumerate(zip(fractions(slope), fractions(offset), strict=True)):
                line = k * old[side if k > 0 else -side][i] + b
                assert side * new[i] >= side * line


@pytest.mark.parametrize("slopes", [1, 4])
@pytest.mark.parametrize("seed", range(10))
def test_boxes_of_forms_hold_exactly(seed: int, slopes: int) -> None:
    form = random_form(np.random.default_rng(seed), slopes)
    lower, upper = concretised(form)
    for corner in itertools.product((-1, 1), repeat=3):
        for low, value in zip(fractions(lower), at(form, corner, -1), strict=True):
            assert low <= value
        for high, value in zip(fractions(upper), at(form, corner, 1), strict=True):
            assert high >= value


def test_forms_that_are_not_numbers_bound_nothing() -> None:
    form = random_form(np.random.default_rng(0), 4)
    form.middle[0, 1, 0, 2] = torch.nan
    lower, upper = concretised(form)
    assert lower[0, 0, 2] == -torch.inf and upper[0, 0, 2] == torch.inf and torch.isfinite(lower).sum() == 3


def test_narrow_inputs_count() -> None:
    """An input that gets no column still moves what it is multiplied into."""
    weight = np.array([[1.0], [1e9]])
    plan = Plan(graph_of([Node("input", (), (1, 2)), Node("linear", (0,), (1, 1), {"weight": weight})]))
    inputs = {0: (torch.zeros(1, 1, 2, dtype=torch.float64), torch.tensor([[[1.0, 1e-9]]], dtype=torch.float64))}
    carried = Forward(plan, inputs)
    box = carried.box(1, {})
    assert carried.width == 1 and box is not None
    assert box[0] <= 0 and 2 <= box[1] <= 2 + 1e-9


# -- networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(set(FAMILIES)))
def test_forward_boxes_of_networks_contain_samples(family: str, tmp_path, monkeypatch) -> None:
    """Alone, and as the first step before backward passes."""
    made = case(family, 4, tmp_path)
    plan = made.problem.plan(torch.float64)
    inputs = made.problem.input_boxes(made.clauses.lower[:1], made.clauses.upper[:1])
    magnitudes = Magnitudes(plan, interval_boxes(plan, inputs))
    monkeypatch.setattr(module, "_WORK", 0)
    monkeypatch.setattr(module, "_ROWS", 0)
    for boxes in (forward_boxes(plan, inputs), intermediate_boxes(plan, inputs, magnitudes=magnitudes)):
        for index, (lower, upper) in boxes.items():
            slack = 1e-9 * (1 + made.values[index].abs())
            assert (made.values[index] >= lower - slack).all() and (made.values[index] <= upper + slack).all()


def test_affine_chains_are_exact() -> None:
    """Forms of affine maps reach the range that intervals miss."""
    nodes = [Node("input", (), (1, 3)), linear(0, 3, 6), linear(1, 6, 2), Node("relu", (2,), (1, 2))]
    plan, inputs = Plan(graph_of(nodes)), box_of((1, 3), domains=1)
    lower, upper = forward_boxes(plan, inputs)[2]
    weight = nodes[1].attributes["weight"] @ nodes[2].attributes["weight"]
    width = (inputs[0][1] - inputs[0][0])[0] @ torch.from_numpy(np.abs(weight))
    torch.testing.assert_close((upper - lower)[0], width)


def test_few_inputs_and_wide_layers_are_settled() -> None:
    """Of a wide network on a small box forms leave less than a third of what intervals leave unstable."""
    nodes = [Node("input", (), (1, 3))]
    for n in (3, 60, 60, 60):
        nodes += [linear(len(nodes) - 1, n, 60), Node("relu", (len(nodes),), (1, 60))]
    nodes = nodes[:2] + [node for pair in zip(nodes[1::2], nodes[2::2], strict=True) for node in pair][1:]
    plan = Plan(graph_of(nodes))
    x = torch.from_numpy(RANDOM.uniform(-1, 1, (1, 1, 3)))
    inputs = {0: (x - 0.02, x + 0.02)}
    forms, intervals = forward_boxes(plan, inputs), interval_boxes(plan, inputs)
    counts = [sum(int(unstable(plan, v, b[v]).sum()) for v in plan.bounded) for b in (forms, intervals)]
    assert 3 * counts[0] < counts[1]


def test_nothing_is_known_after_the_deadline() -> None:
    nodes = [Node("input", (), (1, 3)), linear(0, 3, 6), Node("relu", (1,), (1, 6)), linear(2, 6, 2)]
    plan, inputs = Plan(graph_of(nodes)), box_of((1, 3))
    late, intervals = forward_boxes(plan, inputs, deadline=time.monotonic() - 1), interval_boxes(plan, inputs)
    for index, box in intervals.items():
        assert torch.equal(late[index][0], box[0]) and torch.equal(late[index][1], box[1])


def test_infinite_boxes_stay_sound() -> None:
    """A division by what may be 0 has no finite bound: its form must not become one."""
    nodes = [Node("input", (), (1, 4)), linear(0, 4, 5), linear(0, 4, 5), Node("div", (1, 2), (1, 5)), linear(3, 5, 2)]
    graph = graph_of(nodes)
    lower = torch.full((3, 1, 4), -1.0, dtype=torch.float64)
    inputs = {0: (lower, -lower)}
    contains_samples(graph, inputs, {4: forward_boxes(Plan(graph), inputs)[4]})
