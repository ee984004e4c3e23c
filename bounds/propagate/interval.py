"""Interval propagation: a box for every value, each node from the boxes of its operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from provenn.bounds.propagate.plan import Plan

Box = tuple[Tensor, Tensor]


def interval_boxes(
    plan: Plan,
    inputs: Mapping[int, Box],
    *,
    known: Mapping[int, Box] | None = None,
    tighten: Callable[[int, Box, dict[int, Box]], Box] | None = None,
    until: int | None = None,
    into: dict[int, Box] | None = None,
) -> dict[int, Box]:
    """A box ``[domains, *shape]`` for every value up to ``until``, outward rounded in float64.

    ``known`` boxes are facts that are intersected with what the interval gives. ``tighten(value, box, boxes)`` may
    replace the box of a value that relaxations read before anything is derived from it. ``into`` receives the boxes.
    """
    boxes: dict[int, Box] = {} if into is None else into
    bounded = frozenset(plan.bounded)
    for index in range(len(plan.graph.nodes)):
        if until is not None and index > until:
            break
        if index in inputs:
            box = inputs[index]
        else:
            box = plan.interval(index, boxes)
        if known is not None and index in known:
            box = intersect(box, known[index])
        if tighten is not None and index in bounded:
            box = tighten(index, box, boxes)
        boxes[index] = box
    return boxes


def intersect(a: Box, b: Box) -> Box:
    """The common part; where it is empty the lower end exceeds the upper end."""
    return a[0].maximum(b[0]), a[1].minimum(b[1])


def outward32(box: Box) -> Box:
    """The smallest box with float32 ends that contains a float64 box (still float64 tensors)."""
    lower, upper = box[0].float(), box[1].float()
    infinity = torch.full((), torch.inf, device=lower.device)
    lower = torch.where(lower.double() > box[0], torch.nextafter(lower, -infinity), lower)
    upper = torch.where(upper.double() < box[1], torch.nextafter(upper, infinity), upper)
    return lower.double(), upper.double()
