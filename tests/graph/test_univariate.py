"""Fragments of one variable: found where they are, tabulated exactly, and sound at every knot and jump."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node, evaluate
from provenn.bounds.graph.univariate import univariate
from provenn.bounds.ops import OPS, prepare, relaxation
from provenn.bounds.ops._operator import Univariate

CPU = torch.device("cpu")
ELEMENTS = 3


@dataclass
class Writer:
    """Nodes of a graph on ``[1, ELEMENTS]`` values, with random constants."""

    random: np.random.Generator
    nodes: list[Node] = field(default_factory=lambda: [Node("input", (), (1, ELEMENTS))])

    def add(self, operator: str, *inputs: int, shape: tuple[int, ...] | None = None, **attributes) -> int:
        self.nodes.append(Node(operator, inputs, shape or self.nodes[inputs[0]].shape, attributes))
        return len(self.nodes) - 1

    def affine(self, x: int, scale: float, shift: float, radius: float = 0.0) -> int:
        known = {"scale": np.array(scale), "shift": np.array(shift)}
        if radius:
            known |= {"scale_radius": np.array(radius), "shift_radius": np.array(radius)}
        return self.add("affine", x, **known)

    def spline(self, x: int, count: int = 6, own: bool = False) -> int:
        """A sum of relus of one number with their knots in [-2, 2]; ``own`` knots for every element."""
        indices = np.repeat(np.arange(ELEMENTS), count).reshape(1, ELEMENTS, count)
        spread = self.add("index", x, shape=(1, ELEMENTS, count), indices=indices)
        shift = self.random.uniform(-2, 2, (ELEMENTS, count) if own else count)
        bent = self.add("relu", self.add("affine", spread, shift=shift.astype(np.float32)))
        weight = self.random.normal(size=(count, 1)).astype(np.float32)
        total = self.add("linear", bent, shape=(1, ELEMENTS, 1), weight=weight, bias=np.array([0.25]))
        return self.add("reshape", total, shape=(1, ELEMENTS))

    def wave(self, x: int, radius: float) -> int:
        """The period of x, folded twice, times a spline of its magnitude: a sine as exporters spell it."""
        turns = self.add("floor", self.affine(x, 0.4375, 0.0, radius))
        rest = self.add("sub", x, self.affine(turns, 1 / 0.4375, 0.0, radius))
        folded = self.affine(self.add("abs", self.affine(rest, 1.0, -1.25)), 1.0, -0.5)
        other = self.add("clip", folded, lower=np.array(-0.6), upper=np.array(0.5))
        return self.add("mul", other, self.spline(self.add("leaky_relu", folded, slope=np.array(0.125))))

    def graph(self, *outputs: int) -> Graph:
        return Graph(tuple(self.nodes), (0,), outputs)


def ranges(graph: Graph, lower: float = -3.0, upper: float = 3.0):
    return lambda: [(np.full(n.shape, lower), np.full(n.shape, upper)) for n in graph.nodes]


def kinds(graph: Graph) -> list[str]:
    return [node.operator for node in graph.nodes]


def exact(graph: Graph, x: Fraction, side: int) -> Fraction:
    """The first element of the output in exact arithmetic, every constant moved to one end of its radius."""
    values: list[np.ndarray] = []
    for node in graph.nodes:
        operands = [values[i] for i in node.inputs]
        values.append(_exact(node, operands, x, side))
    return values[graph.outputs[0]].ravel()[0]


def fractions(array) -> np.ndarray:
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, np.float64))


def _exact(node: Node, operands: list[np.ndarray], x: Fraction, side: int) -> np.ndarray:
    a = node.attributes
    match node.operator:
        case "input":
            return np.full(node.shape, x, object)
        case "affine":
            scale, shift = (
                fractions(a.get(name, default)) + side * fractions(a.get(name + "_radius", 0.0))
                for name, default in (("scale", 1.0), ("shift", 0.0))
            )
            return operands[0] * scale + shift
        case "index":
            return operands[0].ravel()[a["indices"]]
        case "reshape":
            return operands[0].reshape(node.shape)
        case "linear":
            return operands[0] @ fractions(a["weight"]) + fractions(a["bias"])
        case "add" | "sub" | "mul":
            y = operands[1]
            return {"add": operands[0] + y, "sub": operands[0] - y, "mul": operands[0] * y}[node.operator]
    one = {
        "relu": lambda v: max(v, Fraction(0)),
        "abs": abs,
        "leaky_relu": lambda v: v if v >= 0 else v * Fraction(float(a["slope"])),
        "clip": lambda v: min(max(v, Fraction(float(a["lower"]))), Fraction(float(a["upper"]))),
        "floor": lambda v: Fraction(floor(v)),
        "ceil": lambda v: Fraction(ceil(v)),
        "pow": lambda v: v * v,
    }[node.operator]
    return np.vectorize(one, otypes=[object])(operands[0])


def record(graph: Graph):
    """The last node of the graph, as an operator with its constants."""
    node = graph.nodes[graph.outputs[0]]
    assert node.operator == "pieces"
    operator = OPS["pieces"]
    assert isinstance(operator, Univariate)
    return operator, prepare(node, (node.shape,), torch.float64, CPU)


def neighbours(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.nextafter(points, -np.inf), np.nextafter(points, np.inf)])


def build(kind: str, seed: int) -> Graph:
    writer = Writer(np.random.default_rng([5, seed]))
    match kind:
        case "spline":
            return writer.graph(writer.affine(writer.spline(0), 0.3, -1.0))
        case "spline of its own":
            return writer.graph(writer.spline(0, own=True))
        case "square":
            return writer.graph(writer.add("pow", writer.spline(0), exponent=2.0))
        case "ceil":
            step = writer.affine(writer.add("ceil", writer.affine(0, 1.5, 0.2)), 0.5, 0.0)
            return writer.graph(writer.add("mul", writer.spline(writer.affine(0, 1.0, 0.1)), step))
        case "wave":
            return writer.graph(writer.wave(0, 0.0))
        case "wave in doubt":
            return writer.graph(writer.wave(0, 1e-15))
    raise AssertionError(kind)


KINDS = ("spline", "spline of its own", "square", "ceil", "wave", "wave in doubt")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_lines_hold_in_exact_arithmetic(kind: str, seed: int) -> None:
    """Boxes at, beside and around knots; every slope; points at both sides of every knot; constants at their ends."""
    old = build(kind, seed)
    new = univariate(old, ranges(old))
    assert kinds(new) == ["input", "pieces"]
    operator, p = record(new)
    random = np.random.default_rng(seed)
    knots = p.tensors["knots"][0, 1:-1].numpy()
    knots = random.permutation(knots[np.abs(knots) < 3])[:12]
    grid = np.sort(np.concatenate([neighbours(knots), random.uniform(-3, 3, 20), [-3.0, 3.0]]))
    truth = np.array([[exact(old, Fraction(x), side) for x in grid.tolist()] for side in (-1, 0, 1)])
    low, high = np.sort(random.choice(grid, (2, 24)), 0)
    low = np.concatenate([low, knots, np.nextafter(knots, -np.inf), np.nextafter(knots, np.inf), knots])
    high = np.concatenate([high, knots, knots, np.nextafter(knots, np.inf), knots + 0.3])
    lower, upper = (
        torch.from_numpy(np.minimum(t, 3.0)).view(-1, 1, 1).expand(-1, 1, ELEMENTS) for t in (low, high)
    )
    start = relaxation.lines(operator, p, lower, upper)
    limits = relaxation.slope_range(operator, p, lower, upper)
    mixed = torch.lerp(limits[0], limits[1], 0.3)
    slopes = [start[0], start[2], mixed, limits[3], *(torch.full_like(lower, k) for k in (0.0, -1e4))]
    for slope in slopes:
        below = relaxation.lower_offset(operator, p, slope, lower, upper)[:, 0, 0].tolist()
        above = relaxation.upper_offset(operator, p, slope, lower, upper)[:, 0, 0].tolist()
        for i, k in enumerate(slope[:, 0, 0].tolist()):
            inside = (grid >= float(lower[i, 0, 0])) & (grid <= float(upper[i, 0, 0]))
            for row in truth:
                rest = row[inside] - Fraction(k) * fractions(grid[inside])
                assert (rest >= Fraction(below[i])).all()
                assert (rest <= Fraction(above[i])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_same_outputs(kind: str) -> None:
    old = build(kind, 7)
    new = univariate(old, ranges(old))
    x = torch.from_numpy(np.random.default_rng(2).uniform(-3, 3, (400, 1, ELEMENTS)))
    torch.testing.assert_close(evaluate(new, [x])[0], evaluate(old, [x])[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_as_tight_as_the_samples(kind: str) -> None:
    """The image and the starting lines miss the function by little more than dense samples do."""
    old = build(kind, 4)
    operator, p = record(univariate(old, ranges(old)))
    random = np.random.default_rng(3)
    lower, width = random.uniform(-2.9, 2, 40), random.uniform(0.01, 0.9, 40)
    points = torch.from_numpy(lower + width * np.linspace(0, 1, 4001)[:, None])
    points = points.view(4001, 40, 1, 1).expand(-1, -1, 1, ELEMENTS)
    values = operator.evaluate(p, points)
    ends = points[0], points[-1]
    low, high = operator.interval(p, *ends)
    room = 2e-2 * (1 + values.amax(0) - values.amin(0))
    assert (values.amin(0) - low <= room).all()
    assert (high - values.amax(0) <= room).all()
    for side, (slope, offset) in enumerate(
        zip(*[iter(relaxation.lines(operator, p, *ends))] * 2, strict=True)
    ):
        gap = (values - slope * points - offset) * (1 - 2 * side)
        assert (gap.amin(0) >= -1e-12).all()
        assert (gap.amin(0) <= room).all()


def test_what_others_read_stays() -> None:
    writer = Writer(np.random.default_rng(1))
    inner = writer.spline(0)
    last = writer.spline(inner)
    new = univariate(writer.graph(last, inner), ranges(writer.graph(last, inner)))
    assert kinds(new) == ["input", "pieces", "pieces"]
    assert new.outputs == (2, 1)
    whole = univariate(writer.graph(last), ranges(writer.graph(last)))
    assert kinds(whole) == ["input", "pieces"]


def test_what_leads_elsewhere_stays() -> None:
    """A value that a matrix reads too is not inside of the fragment that reads it."""
    writer = Writer(np.random.default_rng(1))
    inner = writer.spline(0)
    dense = writer.add("linear", inner, weight=np.ones((ELEMENTS, ELEMENTS)), bias=np.zeros(ELEMENTS))
    graph = writer.graph(writer.add("add", writer.spline(inner), dense))
    new = univariate(graph, ranges(graph))
    assert sorted(kinds(new)) == ["add", "input", "linear", "pieces", "pieces"]
    x = torch.randn(20, 1, ELEMENTS, dtype=torch.float64)
    torch.testing.assert_close(evaluate(new, [x])[0], evaluate(graph, [x])[0], rtol=0, atol=1e-12)


def test_two_variables_stay_apart() -> None:
    """A product of two splines of different elements is no function of one variable; each spline is."""
    writer = Writer(np.random.default_rng(1))
    turned = writer.add("index", 0, indices=np.array([[1, 2, 0]]))
    graph = writer.graph(writer.add("mul", writer.spline(0), writer.spline(turned)))
    new = univariate(graph, ranges(graph))
    assert sorted(kinds(new)) == ["index", "input", "mul", "pieces", "pieces"]
    x = torch.randn(20, 1, ELEMENTS, dtype=torch.float64)
    torch.testing.assert_close(evaluate(new, [x])[0], evaluate(graph, [x])[0], rtol=0, atol=1e-12)


def test_ordinary_networks_are_left_alone() -> None:
    writer = Writer(np.random.default_rng(1))
    dense = np.random.default_rng(2).normal(size=(ELEMENTS, ELEMENTS))
    x = 0
    for _ in range(3):
        x = writer.add("relu", writer.add("linear", x, weight=dense, bias=np.zeros(ELEMENTS)))
    graph = writer.graph(writer.add("add", x, writer.add("abs", x)))

    def never():
        raise AssertionError("no box is needed")

    assert univariate(graph, never) is graph


def refused(kind: str) -> Graph:
    writer = Writer(np.random.default_rng(1))
    spline = writer.spline(0)
    match kind:
        case "degree":
            return writer.graph(writer.add("mul", writer.add("pow", spline, exponent=2.0), spline))
        case "break point inside a curve":
            return writer.graph(
                writer.add("relu", writer.affine(writer.add("pow", spline, exponent=2.0), 1.0, -0.1))
            )
        case "jump met but not crossed":
            bowl = writer.add("floor", writer.add("abs", 0))
            return writer.graph(writer.add("add", spline, writer.add("sub", bowl, bowl)))
        case "jump in doubt":
            jump = writer.add("floor", writer.affine(0, 1.0, 0.5, 1e-3))
            return writer.graph(writer.add("mul", jump, spline))
        case "jumps with limits of their own":
            return writer.graph(
                writer.add("mul", spline, writer.add("sub", writer.add("ceil", 0), writer.add("floor", 0)))
            )
        case "jumps that rise and fall":
            fall = writer.add("floor", writer.affine(0, -1.0, 0.0))
            return writer.graph(writer.add("mul", spline, writer.add("add", writer.add("floor", 0), fall)))
        case "jumps in doubts of their own":
            one, two = (writer.add("floor", writer.affine(0, 1.0, 0.5, 1e-13)) for _ in range(2))
            return writer.graph(writer.add("mul", spline, writer.add("sub", one, two)))
        case "jumps of copies in doubt":
            twice = writer.add(
                "index",
                0,
                shape=(1, ELEMENTS, 2),
                indices=np.repeat(np.arange(ELEMENTS), 2).reshape(1, -1, 2),
            )
            steps = writer.add("floor", writer.affine(twice, 1.0, 0.5, 1e-13))
            turn = np.array([[1.0], [-1.0]])
            both = writer.add("linear", steps, shape=(1, ELEMENTS, 1), weight=turn, bias=np.zeros(1))
            return writer.graph(writer.add("mul", spline, writer.add("reshape", both, shape=(1, ELEMENTS))))
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    (
        "degree", "break point inside a curve", "jump met but not crossed", "jump in doubt",
        "jumps with limits of their own", "jumps that rise and fall", "jumps in doubts of their own",
        "jumps of copies in doubt",
    ),
)  # fmt: skip
def test_what_has_no_table_stays(kind: str) -> None:
    graph = refused(kind)
    assert "pieces" not in kinds(univariate(graph, ranges(graph)))


@pytest.mark.parametrize("second", ("floor", "floor of twice", "the same"))
def test_jumps_that_change_sides_together(second: str) -> None:
    """Two functions that jump at one place from the left to the right at once have a table, exact at every jump."""
    writer = Writer(np.random.default_rng(1))
    first = writer.add("floor", 0)
    match second:
        case "floor":
            other = writer.add("floor", writer.affine(0, 1.0, 1.0))
        case "floor of twice":
            other = writer.add("floor", writer.affine(0, 2.0, 0.0))
        case _:
            other = first
    rest = writer.add("mul", writer.add("sub", first, writer.affine(other, 0.25, 0.0)), writer.spline(0))
    graph = writer.graph(rest)
    new = univariate(graph, ranges(graph))
    assert kinds(new) == ["input", "pieces"]
    at = torch.tensor([k / 2 for k in range(-4, 5)], dtype=torch.float64)
    x = torch.stack([at, at - 2**-40, at + 2**-40]).view(-1, 1, 1)
    x = x.expand(-1, 1, ELEMENTS).contiguous()
    torch.testing.assert_close(evaluate(new, [x])[0], evaluate(graph, [x])[0], rtol=0, atol=1e-12)
    operator, p = record(new)
    lower, upper = operator.interval(p, x, x)
    value = evaluate(graph, [x])[0]
    assert ((lower <= value) & (value <= upper) & (upper - lower < 10)).all()


def test_operands_without_bounds_stay() -> None:
    graph = build("spline", 0)
    assert univariate(graph, ranges(graph, -np.inf)) is graph


def test_nothing_is_known_outside_of_the_table() -> None:
    operator, p = record(univariate(build("wave", 0), ranges(build("wave", 0))))
    lower = torch.full((1, 1, ELEMENTS), 2.5, dtype=torch.float64)
    assert operator.interval(p, lower, lower + 1)[1].isinf().all()
    assert operator.interval(p, lower - 6, lower)[0].isinf().all()
    assert operator.interval(p, lower, lower + 0.1)[1].isfinite().all()
