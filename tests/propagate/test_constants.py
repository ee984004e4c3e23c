"""Values that no input reaches, constants with a radius, in batches of several domains."""

from __future__ import annotations

import numpy as np
import torch

from provenn.bounds.graph import Graph, Node
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes


def test_an_unstable_constant_in_several_domains() -> None:
    shape = (1, 3)
    radius = {"value": np.zeros(shape), "radius": np.full(shape, 0.25)}
    nodes = (
        Node("input", (), shape), Node("constant", (), shape, radius), Node("tanh", (1,), shape),
        Node("relu", (2,), shape), Node("add", (0, 3), shape), Node("relu", (4,), shape),
        Node("linear", (5,), (1, 1), {"weight": np.ones((3, 1)), "bias": np.zeros(1)}),
    )  # fmt: skip
    plan = Plan(Graph(nodes, (0,), (6,)), torch.float64)
    for domains in (1, 2, 5):
        lower = torch.linspace(-1, -0.5, domains * 3, dtype=torch.float64).view(domains, *shape)
        inputs = {0: (lower, lower + 1)}
        magnitudes = Magnitudes(plan, interval_boxes(plan, inputs))
        boxes = intermediate_boxes(plan, inputs, magnitudes=magnitudes, until=6)
        low, high = boxes[4]
        assert low.shape == (domains, *shape)
        assert (low <= lower).all() and (high >= lower + 1 + np.tanh(0.25)).all() and (high < lower + 1.26).all()
