"""Windows of coefficients at operators that they cannot pass: several operands, windows of their own, no lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node, evaluate
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.coefficients import by_place, elements_of
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan

IMAGE = (1, 2, 12, 12)


def convolution(random: np.random.Generator, source: int) -> Node:
    attributes = {"weight": random.normal(size=(2, 2, 3, 3)) * 0.4, "bias": random.normal(size=2) * 0.3}
    attributes |= {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "groups": 1}
    return Node("conv", (source,), IMAGE, attributes)


@pytest.mark.parametrize("operator", ["max", "mul", "softmax", "window_max"])
@torch.no_grad()
def test_rows_of_elements_stay_sound(operator: str) -> None:
    """Rows of single elements give the bounds that dense rows give, and none that a sample passes."""
    random = np.random.default_rng(3)
    nodes = [Node("input", (), IMAGE), convolution(random, 0), convolution(random, 0)]
    places = np.arange(288).reshape(IMAGE)
    attributes = {"axis": 1, "indices": np.stack([places, np.roll(places, 1, -1)], -1)}
    inputs_of = (1, 2) if operator in ("max", "mul") else (1,)
    nodes += [Node(operator, inputs_of, IMAGE, attributes), convolution(random, 3)]
    graph = Graph(tuple(nodes), (0,), (4,))
    plan = Plan(graph)
    lower = torch.from_numpy(random.uniform(-1, 0, (1, *IMAGE)))
    inputs = {0: (lower, lower + 0.7)}
    lines = relax_all(plan, 4, interval_boxes(plan, inputs))
    elements = torch.arange(0, 288, 5)
    elements = elements[by_place(IMAGE, elements)]
    extents = plan.extents(4)
    assert extents[3] is not None
    rows = elements_of(IMAGE, elements, torch.ones(1, len(elements), dtype=torch.float64), extents[4])
    found = backward(plan, 4, rows, lines, inputs, extents=extents)
    dense = torch.zeros(1, len(elements), 288, dtype=torch.float64)
    dense[0, torch.arange(len(elements)), elements] = 1
    torch.testing.assert_close(found, backward(plan, 4, dense.view(1, -1, *IMAGE), lines, inputs))
    x = lower + 0.7 * torch.from_numpy(random.random((200, *IMAGE))).round()
    assert (evaluate(graph, [x])[0].flatten(1)[:, elements] >= found - 1e-9).all()


@pytest.mark.parametrize(
    "shape, kernel, strides, image",
    [((1, 2, 1, 2), (1, 2), (1, 2), (1, 3, 2, 1)), ((1, 2, 4, 4), (1, 1), (2, 2), (1, 3, 3, 3))],
)
@torch.no_grad()
def test_windows_of_the_padding_alone(shape, kernel, strides, image) -> None:
    """The last outputs read nothing but end padding; their windows may be as large as the operand."""
    random = np.random.default_rng(4)
    attributes = {"weight": random.normal(size=(3, 2, *kernel)), "bias": random.normal(size=3)}
    attributes |= {"strides": strides, "pads": [0, 0, 1, 1], "dilations": [1, 1], "groups": 1}
    after = {"weight": random.normal(size=(3, 3, 3, 3)), "pads": [1, 1, 1, 1]}
    after = attributes | after | {"strides": [1, 1]}
    nodes = [Node("input", (), shape), Node("conv", (0,), image, attributes), Node("conv", (1,), image, after)]
    nodes += [Node("affine", (1,), image, {"scale": np.array(-2.0)}), Node("sub", (1, 3), image)]
    plan = Plan(Graph(tuple(nodes), (0,), (2, 4)))
    inputs = {0: (torch.zeros(1, *shape).double(), torch.ones(1, *shape).double())}
    size = int(np.prod(image))
    elements = by_place(image, torch.arange(size))
    dense = torch.eye(size).double()[None, elements].view(1, size, *image)
    for target in (1, 2, 4):
        extents = plan.extents(target)
        rows = elements_of(image, elements, torch.ones(1, size).double(), extents[target])
        found = backward(plan, target, rows, {}, inputs, extents=extents)
        torch.testing.assert_close(found, backward(plan, target, dense, {}, inputs))
