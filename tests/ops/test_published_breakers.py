"""Boxes on which the bounds of published engines are wrong (tables of tangents, masks): named, at any slope."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError

from .conformance.cases import CASES, FLOAT
from .conformance.reference import ENOUGH, LONG
from .conformance.univariate import check_box

if not ENOUGH:
    pytest.skip("needs a long double of 64 bits", allow_module_level=True)

OPERATORS = [
    ("pow 4", 1.96, 4.84),
    ("sin", -0.0522, 4.5083),
    ("cos", 5.132, 9.0777),
    ("tan", -1.1995, -0.2116),
    ("tan", 0.1998, 1.1955),
    *[("gelu", low, high) for low in (1e-9, 1e-4, 1e-3, 0.005, 0.0099) for high in (0.01, 0.02, 1.0, 3.0)],
    *[("gelu", -high, -low) for low in (1e-9, 1e-3, 0.0099) for high in (0.02, 1.0, 3.0)],
]


@pytest.mark.parametrize(("label", "low", "high"), OPERATORS)
def test_an_operator(label: str, low: float, high: float):
    case = next(case for case in CASES if str(case) == label)
    found = check_box(case, low, high, 1200)
    assert found.cases >= 1200 and found.violations == 0, "\n".join(found.examples)


# The line is bounded by the graph of f(x) - k x for many k at once.
SLOPES = np.concatenate([np.linspace(-3, 3, 25), [-1e3, -1e-6, 0.9999, 1e3]])
GRAPHS = {
    "1 - tanh^2": (
        [Node("tanh", (1,), SLOPES.shape), Node("pow", (2,), SLOPES.shape, {"exponent": 2.0}),
         Node("affine", (3,), SLOPES.shape, {"scale": np.array(-1.0), "shift": np.array(1.0)})],
        lambda x: 1 - np.tanh(x) ** 2,
    ),
    "sin(x) + x": (
        [Node("sin", (1,), SLOPES.shape), Node("add", (1, 2), SLOPES.shape)],
        lambda x: np.sin(x) + x,
    ),
}  # fmt: skip
BOXES = [(7.5964, 10.3004), (-0.0522, 4.5083), (-2.0, 2.0), (-1.0, 3.0), (0.1, 0.9), (-4.0, -0.3), (0.5, 0.5)]


@pytest.mark.parametrize(("low", "high"), BOXES)
@pytest.mark.parametrize("name", GRAPHS)
@torch.no_grad()
def test_a_graph(name: str, low: float, high: float):
    inner, function = GRAPHS[name]
    count = len(SLOPES)
    nodes = [
        Node("input", (), (1,)),
        Node("linear", (0,), (count,), {"weight": np.ones((1, count))}),
        *inner,
        Node("affine", (1,), (count,), {"scale": -SLOPES}),
    ]
    nodes.append(Node("add", (len(nodes) - 2, len(nodes) - 1), (count,)))
    plan = Plan(Graph(tuple(nodes), (0,), (len(nodes) - 1,)))
    inputs = {0: (torch.full((1, 1), low, dtype=FLOAT), torch.full((1, 1), high, dtype=FLOAT))}
    boxes, target = interval_boxes(plan, inputs), len(nodes) - 1
    rows = torch.eye(count, dtype=FLOAT).unsqueeze(0)
    error = RoundingError(plan, Magnitudes(plan, boxes))
    found = backward(plan, target, torch.cat([rows, -rows], 1), relax_all(plan, target, boxes), inputs, error=error)
    below, above = (t.numpy().astype(LONG) for t in (found[0, :count], -found[0, count:]))
    x = np.concatenate([np.linspace(low, high, 20001), np.linspace(low, high, 7)]).astype(LONG).clip(low, high)
    rest = function(x)[:, None] - SLOPES.astype(LONG) * x[:, None]
    assert (below <= rest).all() and (rest <= above).all()
    assert np.isfinite(below).all() and np.isfinite(above).all()
