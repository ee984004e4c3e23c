"""Where a network has no value: an operator whose operands are finite in an input box and whose image is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.graph import evaluate
from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.plan import Plan


@dataclass(frozen=True)
class Undefined:
    """Such a node: what to tell the user, and whether no input of the box gives an output."""

    text: str
    everywhere: bool


def undefined(plan: Plan, inputs: Mapping[int, Box], boxes: Mapping[int, Box]) -> Undefined | None:
    """The first node below the boxes of all values that may be no number or infinite, but one that is so on the whole
    box before others; None if there is none."""
    found = []
    for index in plan.relaxed:
        operands = plan.graph.nodes[index].inputs
        if index in boxes and not _finite(boxes[index]).all() and all(_finite(boxes[i]).all() for i in operands):
            lost = ~_finite(plan.interval(index, boxes)).flatten()
            if bool(lost.any()):  # a box may be infinite because float32 holds no larger number
                found.append(_named(plan, index, lost, inputs, boxes))
    return min(found, key=lambda one: not one.everywhere, default=None)


def _named(
    plan: Plan, index: int, lost: Tensor, inputs: Mapping[int, Box], boxes: Mapping[int, Box]
) -> Undefined:
    node, operator = plan.graph.nodes[index], plan.operators[index]
    element, nowhere = lost.nonzero()[0], False
    if isinstance(operator, Univariate):  # a domain is a half line: outside at both ends is outside in between
        ends = [operator.evaluate(plan.prepared[index], end).isnan().flatten() for end in boxes[node.inputs[0]]]
        absent = (ends[0] & ends[1]).nonzero()
        nowhere = absent.numel() > 0
        element = absent[0] if nowhere else element
    ranges = [
        "[{:.6g}, {:.6g}]".format(*(float(end.flatten()[element]) for end in boxes[i]))
        for i in node.inputs
        if plan.shape(i) == node.shape
    ]
    what = "has no value anywhere in" if nowhere else "may have no finite value in a part of"
    read = f", where it reads {' and '.join(ranges)}" if ranges else ""
    text = (
        f"{node.origin or node.operator} {what} the input region{read}: "
        "restrict the region to inputs for which it is defined, or bound what it reads by a Clip in the network"
    )
    return Undefined(text, nowhere and _silent(plan, inputs))


def _silent(plan: Plan, inputs: Mapping[int, Box]) -> bool:
    """Whether the middle of the box has no output: what is undefined is not cut off by a choice between values."""
    middle = [0.5 * inputs[i][0] + 0.5 * inputs[i][1] for i in plan.graph.inputs]
    outputs = evaluate(plan.graph, middle, dtype=torch.float64, device=plan.device)
    return bool(outputs[0].isnan().all())


def _finite(box: Box) -> Tensor:
    return box[0].isfinite() & box[1].isfinite()
