"""Float64 proofs against exact rational arithmetic: the error term covers what rounding does."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError
from provenn.verifier.clip import clip_box
from provenn.verifier.root import outward32

WIDTHS = (6, 9, 7, 3)


def exact_layer(x: list[Fraction], weight: np.ndarray, bias: np.ndarray) -> list[Fraction]:
    columns = range(weight.shape[1])
    return [
        Fraction(bias[j]) + sum(Fraction(w) * v for w, v in zip(weight[:, j], x, strict=True))
        for j in columns
    ]


def wild(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers of very different sizes, so that sums cancel."""
    return random.standard_normal(shape) * 10.0 ** random.integers(-4, 5, shape)


class Point:
    """A ReLU network on a box that is one point: every bound has an exact value to be compared with."""

    def __init__(self, seed: int):
        random = np.random.default_rng(seed)
        self.layers = [(wild(random, n, m), wild(random, m)) for n, m in itertools.pairwise(WIDTHS)]
        self.x = wild(random, WIDTHS[0])
        nodes = [Node("input", (), (1, WIDTHS[0]), scalar_type="float64")]
        for i, (weight, bias) in enumerate(self.layers):
            attributes = {"weight": weight, "bias": bias}
            nodes.append(
                Node("linear", (len(nodes) - 1,), (1, weight.shape[1]), attributes, scalar_type="float64")
            )
            if i < len(self.layers) - 1:
                nodes.append(Node("relu", (len(nodes) - 1,), (1, weight.shape[1]), scalar_type="float64"))
        self.graph = Graph(tuple(nodes), (0,), (len(nodes) - 1,))
        self.plan = Plan(self.graph)
        point = torch.from_numpy(self.x).view(1, 1, -1)
        self.inputs = {0: (point, point)}

    def exact(self) -> list[list[Fraction]]:
        """The exact value of every node."""
        value = [Fraction(v) for v in self.x]
        found = [value]
        for i, (weight, bias) in enumerate(self.layers):
            value = exact_layer(value, weight, bias)
            found.append(value)
            if i < len(self.layers) - 1:
                value = [max(v, Fraction(0)) for v in value]
                found.append(value)
        return found


@pytest.mark.parametrize("seed", range(30))
def test_intervals_contain_the_exact_values(seed: int) -> None:
    point = Point(seed)
    boxes = interval_boxes(point.plan, point.inputs)
    for index, exact in enumerate(point.exact()):
        lower, upper = (side.flatten().tolist() for side in boxes[index])
        for low, value, high in zip(lower, exact, upper, strict=True):
            assert Fraction(low) <= value <= Fraction(high)


@pytest.mark.parametrize("seed", range(30))
def test_backward_bounds_stay_below_the_exact_values(seed: int) -> None:
    """Without its error term about half of these bounds would be too high."""
    point = Point(seed)
    boxes = interval_boxes(point.plan, point.inputs)
    magnitudes = Magnitudes(point.plan, boxes)
    exact, naive_above = point.exact(), 0
    for target in (i for i, node in enumerate(point.graph.nodes) if node.operator == "linear"):
        size = point.plan.size(target)
        rows = torch.cat([torch.eye(size), -torch.eye(size)]).double().view(1, 2 * size, 1, size)
        lines = relax_all(point.plan, target, boxes)
        bound = backward(
            point.plan, target, rows, lines, point.inputs, error=RoundingError(point.plan, magnitudes)
        )
        naive = backward(point.plan, target, rows, lines, point.inputs)
        for row in range(2 * size):
            truth = exact[target][row % size] * (1 if row < size else -1)
            assert Fraction(float(bound[0, row])) <= truth
            naive_above += Fraction(float(naive[0, row])) > truth
    assert naive_above > 0


@pytest.mark.parametrize("seed", range(10))
def test_split_constants_are_covered(seed: int) -> None:
    """Multipliers of a point's own value add nothing exactly: what they add in floating point is error."""
    point = Point(100 + seed)
    random = np.random.default_rng(seed)
    boxes = interval_boxes(point.plan, point.inputs)
    magnitudes = Magnitudes(point.plan, boxes)
    target = len(point.graph.nodes) - 1
    value = 1
    exact = point.exact()
    ends = boxes[value][0]  # z >= its lower end
    signed = torch.from_numpy(np.abs(wild(random, *ends.shape))).unsqueeze(1)
    constant = (signed * ends.unsqueeze(1)).flatten(2).sum(-1)
    rows = torch.eye(3, dtype=torch.float64).view(1, 3, 1, 3)
    bound = backward(
        point.plan,
        target,
        rows,
        relax_all(point.plan, target, boxes),
        point.inputs,
        multipliers={value: (signed, constant)},
        error=RoundingError(point.plan, magnitudes),
    )
    for row in range(3):
        assert Fraction(float(bound[0, row])) <= exact[target][row]


def test_facts_are_rounded_outward() -> None:
    random = np.random.default_rng(0)
    lower = torch.from_numpy(wild(random, 1, 500))
    upper = lower + torch.from_numpy(np.abs(wild(random, 1, 500)))
    low, high = outward32((lower, upper))
    assert (low <= lower).all() and (high >= upper).all()
    assert (low.float().double() == low).all() and (high.float().double() == high).all()
    assert (low >= lower - 2e-7 * lower.abs() - 1e-44).all()


def test_clips_keep_exact_violations() -> None:
    """On one axis ``margin + a d <= 0`` ends at ``d = -margin / a``: the clipped box keeps that point."""
    random = np.random.default_rng(1)
    for _ in range(300):
        a, lower = float(wild(random)), float(wild(random))
        upper = lower + abs(float(wild(random)))
        margin = -abs(float(wild(random)))
        box = (torch.tensor([[v]], dtype=torch.float64) for v in (lower, upper))
        low, high = clip_box(
            *box, torch.tensor([[[a]]], dtype=torch.float64), torch.tensor([[margin]], dtype=torch.float64)
        )
        reach = Fraction(-margin) / abs(Fraction(a))
        last = (
            min(Fraction(upper), Fraction(lower) + reach)
            if a > 0
            else max(Fraction(lower), Fraction(upper) - reach)
        )
        assert Fraction(float(low)) <= last <= Fraction(float(high))
