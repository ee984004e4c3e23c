"""Planes of operators whose outputs read whole lines of an operand: matrix products of two variables, softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node
from provenn.bounds.ops import OPS, Multivariate, prepare
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan

FLOAT = torch.float64
CASES = {
    "matmul": ((2, 3, 5), ((2, 3, 4), (2, 4, 5)), {}),
    "matmul alone": ((3, 2), ((3, 4), (4, 2)), {}),
    "softmax": ((2, 3, 4), ((2, 3, 4),), {"axis": 2}),
    "softmax first": ((4, 3), ((4, 3),), {"axis": 0}),
    "softmax of one": ((2, 1), ((2, 1),), {"axis": 1}),
    "log_softmax": ((2, 4, 3), ((2, 4, 3),), {"axis": 1}),
}


def made(case: str):
    shape, shapes, attributes = CASES[case]
    node = Node(case.split()[0], tuple(range(len(shapes))), shape, attributes)
    prepared = prepare(node, shapes, FLOAT, torch.device("cpu"))
    operator = OPS[node.operator]
    assert isinstance(operator, Multivariate) and not operator.opaque(prepared)
    return operator, prepared, shapes


def boxes_of(shapes, size: float, width: float, generator: torch.Generator):
    result = []
    for shape in shapes:
        centre = torch.randn(4, *shape, generator=generator, dtype=FLOAT) * size
        radius = torch.rand(4, *shape, generator=generator, dtype=FLOAT) * width
        radius[torch.rand(4, *shape, generator=generator) < 0.2] = 0.0
        result.append((centre - radius, centre + radius))
    return result


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1e-3, 1.0, 12.0])
@pytest.mark.parametrize("width", [1e-6, 0.3, 4.0])
@torch.no_grad()
def test_planes_hold_at_any_weights(case: str, size: float, width: float) -> None:
    operator, prepared, shapes = made(case)
    generator = torch.Generator().manual_seed(5)
    boxes = boxes_of(shapes, size, width, generator)
    start = operator.start(prepared, *boxes)
    patterns = operator.patterns(prepared)
    anything = tuple(torch.rand(t.shape, generator=generator, dtype=FLOAT).round(decimals=1) for t in start)
    for weights in (None, start, anything):
        low, high = operator.relax(prepared, weights, *boxes)
        for draw in range(40):
            shares = [torch.rand(b[0].shape, generator=generator, dtype=FLOAT) for b in boxes]
            shares = [t.round() for t in shares] if draw % 2 else shares
            x = [torch.minimum(b[0] + (b[1] - b[0]) * t, b[1]) for b, t in zip(boxes, shares, strict=True)]
            y = operator.evaluate(prepared, *x)
            below, above = low.offset.clone(), high.offset.clone()
            for pattern, value, first, last in zip(patterns, x, low.slopes, high.slopes, strict=True):
                below += pattern.through(first.unsqueeze(1), value.unsqueeze(1)).squeeze(1)
                above += pattern.through(last.unsqueeze(1), value.unsqueeze(1)).squeeze(1)
            slack = 1e-14 * (1 + y.abs() + size * (size + width))
            assert (below <= y + slack).all() and (above >= y - slack).all()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_coefficients_and_values_agree(case: str) -> None:
    """``back`` is the transpose of ``through``, with slopes for all rows or for each of them."""
    operator, prepared, shapes = made(case)
    generator = torch.Generator().manual_seed(6)
    boxes = boxes_of(shapes, 1.0, 1.0, generator)
    plane = operator.relax(prepared, None, *boxes)[1]
    a = torch.randn(4, 3, *prepared.shape, generator=generator, dtype=FLOAT)
    for pattern, slopes, shape in zip(operator.patterns(prepared), plane.slopes, shapes, strict=True):
        z = torch.randn(4, 3, *shape, generator=generator, dtype=FLOAT)
        for given in (slopes.unsqueeze(1), slopes.unsqueeze(1).expand(-1, 3, *slopes.shape[1:])):
            back, there = pattern.single(a, given), pattern.through(given, z)
            assert back.shape == z.shape and there.shape == a.shape
            torch.testing.assert_close((back * z).flatten(2).sum(-1), (a * there).flatten(2).sum(-1))
            both = pattern.back(a.clamp(min=0), given, a.clamp(max=0), given)
            torch.testing.assert_close(both, back)


def softmax_graph(spelled: bool) -> Graph:
    """Rows of a softmax of a linear map, as one operator or as exponentials, a sum and a reciprocal."""
    n = 4
    weight = np.random.default_rng(1).normal(size=(3, n))
    nodes = [Node("input", (), (1, 3)), Node("linear", (0,), (1, n), {"weight": weight})]
    if not spelled:
        return Graph((*nodes, Node("softmax", (1,), (1, n), {"axis": 1})), (0,), (2,))
    apart = np.stack([np.eye(n)[:, j] - np.eye(n)[:, i] for i in range(n) for j in range(n)], 1)
    nodes += [
        Node("linear", (1,), (1, n * n), {"weight": apart}),
        Node("exp", (2,), (1, n * n)),
        Node("reshape", (3,), (n, n)),
        Node("sum", (4,), (n,), {"axes": (1,), "keepdims": False}),
        Node("reciprocal", (5,), (n,)),
        Node("reshape", (6,), (1, n)),
    ]
    return Graph(tuple(nodes), (0,), (7,))


@torch.no_grad()
def test_one_operator_is_as_tight_as_its_parts() -> None:
    generator = torch.Generator().manual_seed(2)
    centre = torch.randn(30, 1, 3, generator=generator, dtype=FLOAT)
    inputs = {0: (centre - 0.4, centre + 0.4)}
    rows = torch.eye(4, dtype=FLOAT).view(1, 4, 1, 4)
    rows = torch.cat([rows, -rows, rows - rows.flip(1)], 1)
    found = []
    for spelled in (False, True):
        plan = Plan(softmax_graph(spelled))
        target = plan.graph.outputs[0]
        boxes = interval_boxes(plan, inputs)
        found.append(backward(plan, target, rows, relax_all(plan, target, boxes), inputs))
    gained = found[0] - found[1]
    assert gained.mean() > 0.003 and (gained > -0.05).all()


@torch.no_grad()
def test_what_cannot_be_bounded_is_constant() -> None:
    """Infinite boxes leave the image, not NaN."""
    for case in ("softmax", "log_softmax", "matmul"):
        operator, prepared, shapes = made(case)
        boxes = [
            (torch.zeros(1, *s, dtype=FLOAT), torch.full((1, *s), torch.inf, dtype=FLOAT)) for s in shapes
        ]
        for plane in operator.relax(prepared, None, *boxes):
            assert not any(s.isnan().any() or s.isinf().any() for s in plane.slopes)
            assert not plane.offset.isnan().any()
