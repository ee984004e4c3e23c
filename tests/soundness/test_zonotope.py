"""Zonotopes contain what samples attain and what exact arithmetic gives, in both types of their generators."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node, evaluate
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.zonotope import Zonotopes, live

TYPES = (torch.float32, torch.float64)


def conv(random: np.random.Generator, source: int, given: tuple, out: int, size: int, stride: int, groups: int) -> Node:
    channels, pad = given[1], size // 2
    extent = (given[2] + 2 * pad - size) // stride + 1
    weight = random.normal(size=(out, channels // groups, size, size)) / size
    attributes = {
        "weight": weight, "bias": random.normal(size=out), "strides": [stride] * 2, "pads": [pad] * 4,
        "dilations": [1, 1], "groups": groups,
    }  # fmt: skip
    return Node("conv", (source,), (1, out, extent, extent), attributes)


def small(seed: int) -> Graph:
    """Separable and plain convolutions, a branch that is joined again, a sum, and a dense layer."""
    random = np.random.default_rng(seed)
    nodes = [Node("input", (), (1, 2, 6, 6))]

    def push(node: Node) -> int:
        nodes.append(node)
        return len(nodes) - 1

    def relu(source: int) -> int:
        return push(Node("relu", (source,), nodes[source].shape))

    def folded(source: int, *rest: int) -> int:
        return push(conv(random, source, nodes[source].shape, *rest))

    first = relu(folded(0, 4, 3, 1, 1))
    deep = relu(folded(folded(first, 4, 3, 2, 4), 4, 1, 1, 1))
    side = relu(folded(folded(first, 4, 1, 1, 1), 4, 3, 2, 4))
    shape = nodes[deep].shape
    joined = push(Node("concat", (deep, side), (1, 8, *shape[2:]), {"axis": 1}))
    total = push(Node("add", (deep, side), shape))
    flat = push(Node("reshape", (joined,), (1, 8 * shape[2] ** 2)))
    other = push(Node("reshape", (relu(total),), (1, 4 * shape[2] ** 2)))
    both = push(Node("concat", (flat, other), (1, 12 * shape[2] ** 2), {"axis": 1}))
    weight = {"weight": random.normal(size=(12 * shape[2] ** 2, 3)), "bias": random.normal(size=3)}
    push(Node("linear", (both,), (1, 3), weight))
    return Graph(tuple(nodes), (0,), (len(nodes) - 1,))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("radius", [1e-8, 1e-3, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_boxes_contain_samples(seed: int, radius: float, dtype: torch.dtype) -> None:
    """From every start; narrow boxes are far narrower than intervals, and no box is off by its rounding."""
    graph, random = small(seed), np.random.default_rng(seed)
    plan = Plan(graph, torch.float64)
    middle = torch.from_numpy(random.normal(size=(1, 1, 2, 6, 6)))
    width = radius * torch.from_numpy(random.random((1, 1, 2, 6, 6)).round(1))
    known = interval_boxes(plan, {0: (middle - width, middle + width)})
    share = torch.from_numpy(random.uniform(-1, 1, (300, 1, 2, 6, 6)))
    share[:150] = share[:150].sign()
    values = evaluate(graph, [(middle + share * width)], keep="all")
    zonotopes = Zonotopes(plan, dtype)
    for start in range(1, len(graph.nodes)):
        boxes = zonotopes.boxes({v: box for v, box in known.items() if v < start}, start)
        assert start > graph.outputs[0] or graph.outputs[0] in boxes
        for index, (low, high) in boxes.items():
            slack = 1e-13 * (1 + values[index].abs())
            assert (values[index] >= low - slack).all() and (values[index] <= high + slack).all(), (start, index)
    if radius == 1e-8:
        (low, high), (least, most) = zonotopes.boxes({0: known[0]}, 1)[graph.outputs[0]], known[graph.outputs[0]]
        assert (high - low).sum() < 0.6 * (most - least).sum()


@pytest.mark.parametrize("dtype", TYPES)
def test_rounding_is_paid_for(dtype: torch.dtype) -> None:
    """Dense layers of wild scales in rational arithmetic, at corners of a box."""
    for seed in range(30):
        random = np.random.default_rng(seed)
        weights = [random.normal(size=(6, 6)) * 10.0 ** random.integers(-3, 4, (6, 6)) for _ in range(3)]
        biases = [random.normal(size=6) * 10.0 ** random.integers(-3, 4, 6) for _ in range(3)]
        nodes = [Node("input", (), (1, 6))]
        for weight, bias in zip(weights, biases, strict=True):
            nodes.append(Node("linear", (len(nodes) - 1,), (1, 6), {"weight": weight, "bias": bias}))
            nodes.append(Node("relu", (len(nodes) - 1,), (1, 6)))
        nodes = nodes[:-1]
        graph = Graph(tuple(nodes), (0,), (len(nodes) - 1,))
        lower = random.normal(size=6)
        upper = lower + random.choice([0.0, 1e-9, 1e-2], 6)
        ends = tuple(torch.from_numpy(end).view(1, 1, 6) for end in (lower, upper))
        box = Zonotopes(Plan(graph), dtype).boxes({0: ends}, 1)[graph.outputs[0]]  # type: ignore[dict-item]
        for corner in range(4):
            x = [Fraction(v) for v in np.where(random.random(6) < corner / 3, lower, upper)]
            for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                x = [sum(a * Fraction(w) for a, w in zip(x, column, strict=True)) for column in weight.T]
                x = [a + Fraction(b) for a, b in zip(x, bias, strict=True)]
                x = x if layer == 2 else [max(a, Fraction(0)) for a in x]
            for value, low, high in zip(x, *(end.reshape(-1).tolist() for end in box), strict=True):
                assert Fraction(low) <= value <= Fraction(high)


def test_live_values() -> None:
    graph = small(0)
    assert live(Plan(graph), 1) == [0]
    assert live(Plan(graph), 5) == [2, 4]


@pytest.mark.parametrize("dtype", TYPES)
def test_relus_of_parallel_branches_err_independently(dtype: torch.dtype) -> None:
    """``relu(a) - relu(b) - (a - b) / 2`` is ``(|a| - |b|) / 2``, between -1/2 and 1/2: no errors cancel."""
    shape = (1, 1)
    nodes = [Node("input", (), (1, 2))]
    for column in ([[1.0], [0.0]], [[0.0], [1.0]], [[-0.5], [0.5]]):
        nodes.append(Node("linear", (0,), shape, {"weight": np.array(column), "bias": np.zeros(1)}))
    nodes += [Node("relu", (1,), shape), Node("relu", (2,), shape)]
    nodes += [Node("sub", (4, 5), shape), Node("add", (6, 3), shape)]
    plan = Plan(Graph(tuple(nodes), (0,), (7,)), torch.float64)
    one = torch.ones(1, 1, 2, dtype=torch.float64)
    known = interval_boxes(plan, {0: (-one, one)})
    lower, upper = Zonotopes(plan, dtype).boxes({0: known[0]}, 1)[7]
    assert float(lower) <= -0.5 and float(upper) >= 0.5


@pytest.mark.parametrize("dtype", TYPES)
def test_radii_of_constants_count(dtype: torch.dtype) -> None:
    """A bias and a shift that are known up to a radius move the image by as much."""
    shape = (1, 3)
    nodes = (
        Node("input", (), shape),
        Node("linear", (0,), shape, {"weight": np.eye(3), "bias": np.ones(3), "bias_radius": np.full(3, 0.25)}),
        Node("affine", (1,), shape, {"shift": np.ones(3), "shift_radius": np.full(3, 0.5)}),
    )
    plan = Plan(Graph(nodes, (0,), (2,)), torch.float64)
    x = torch.zeros(1, *shape, dtype=torch.float64)
    lower, upper = Zonotopes(plan, dtype).boxes({0: (x - 1e-3, x + 1e-3)}, 1)[2]
    assert (lower <= 2 - 0.75 - 1e-3).all() and (upper >= 2 + 0.75 + 1e-3).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_not_a_number_may_be_anything(dtype: torch.dtype) -> None:
    shape = (1, 1)
    size = 1e300 if dtype == torch.float64 else 1e30
    huge = {"weight": np.full((1, 1), size), "bias": np.zeros(1)}
    nodes = (
        Node("input", (), shape), Node("linear", (0,), shape, huge), Node("linear", (1,), shape, huge),
        Node("relu", (2,), shape), Node("affine", (3,), shape, {"scale": np.array(1 / size)}),
    )  # fmt: skip
    plan = Plan(Graph(nodes, (0,), (4,)), torch.float64)
    one = torch.ones(1, *shape, dtype=torch.float64)
    lower, upper = Zonotopes(plan, dtype).boxes({0: (one, 2 * one)}, 1)[4]
    assert float(lower) <= size and float(upper) >= 2 * size
