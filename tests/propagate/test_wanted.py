"""Boxes that an elementwise operator passes on are tightened, also where the operator itself is linear."""

from __future__ import annotations

import numpy as np
import torch

from provenn.bounds.graph import Graph, Node
from provenn.bounds.propagate.intermediate import intermediate_boxes, wanted
from provenn.bounds.propagate.plan import Plan


def plan_of(last: str) -> Plan:
    """relu(x + y + (x - y) + 5), never below 0, read by ``last``."""
    nodes = (
        Node("input", (), (2,)),
        Node("linear", (0,), (2,), {"weight": np.array([[1.0, 1.0], [1.0, -1.0]])}),
        Node("linear", (1,), (1,), {"weight": np.array([[0.5], [0.5]]), "bias": np.array([5.0])}),
        Node("relu", (2,), (1,)),
        Node(last, (3,), (1,), {"weight": np.array([[1.0]])} if last == "linear" else {}),
        Node("linear", (4,), (1,), {"weight": np.array([[1.0]])}),
    )
    return Plan(Graph(nodes, (0,), (5,)))


def boxes(plan: Plan):
    ends = tuple(torch.full((1, 2), end, dtype=torch.float64) for end in (-1.0, 1.0))
    return intermediate_boxes(plan, {0: ends}, until=5)


def test_the_image_of_a_stable_relu_is_tight_where_a_sigmoid_reads_it() -> None:
    plan = plan_of("sigmoid")
    found = boxes(plan)
    assert float(found[3][1] - found[3][0]) < 2.001  # the interval alone is [3, 7]
    assert wanted(plan, 2, found[2]).all()


def test_the_image_of_a_stable_relu_is_left_where_nobody_reads_it() -> None:
    plan = plan_of("linear")
    found = boxes(plan)
    assert not wanted(plan, 2, found[2]).any()
