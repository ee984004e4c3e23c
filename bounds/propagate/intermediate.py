"""Boxes of all values that relaxations read: interval first, a backward pass for what stays unstable."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.lines import Lines, relax
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError

# Elements of one coefficient tensor that keep a chunk's passes inside the processor's cache.
CACHE_ELEMENTS = 1 << 18


def unstable(plan: Plan, value: int, box: Box) -> Tensor:
    """Which elements ``[domains, *shape]`` of a value some relaxation reads with a gap."""
    lower, upper = box
    wide = upper > lower
    result = torch.zeros_like(wide)
    for index in plan.consumers[value]:
        operator = plan.operators[index]
        if plan.linear[index]:
            continue
        if isinstance(operator, Univariate) and operator.piecewise_linear:
            for point in operator.breakpoints(plan.prepared[index]):
                result |= (lower < point) & (upper > point)
        else:
            result |= wide
    return result


def one_hot(plan: Plan, value: int, elements: Tensor) -> Tensor:
    """Rows ``[1, 2k, *shape]``: plus and minus the unit vectors of k flat elements."""
    count = elements.numel()
    rows = torch.zeros(2 * count, plan.size(value), dtype=plan.dtype, device=plan.device)
    order = torch.arange(count, device=plan.device)
    rows[order, elements] = 1
    rows[count + order, elements] = -1
    return rows.view(1, 2 * count, *plan.shape(value))


def bound_elements(
    plan: Plan,
    value: int,
    elements: Tensor,
    lines: Mapping[int, Lines],
    inputs: Mapping[int, Box],
    magnitudes: Magnitudes | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Backward bounds (lower, upper), each ``[domains, k]``, of k flat elements of a value."""
    lowers, uppers = [], []
    for part in elements.split(max(1, chunk)):
        error = RoundingError(plan, magnitudes) if magnitudes is not None else None
        bound = backward(plan, value, one_hot(plan, value, part), lines, inputs, error=error)
        lowers.append(bound[:, : part.numel()])
        uppers.append(-bound[:, part.numel() :])
    return torch.cat(lowers, 1), torch.cat(uppers, 1)


def rows_per_chunk(plan: Plan, value: int, domains: int, elements: int = CACHE_ELEMENTS) -> int:
    """How many elements of a value to bound together so that a coefficient tensor stays small."""
    widest = max((plan.size(i) for i in plan.order(value)), default=1)
    return max(16, elements // max(1, 2 * domains * widest))


def intermediate_boxes(
    plan: Plan,
    inputs: Mapping[int, Box],
    *,
    known: Mapping[int, Box] | None = None,
    magnitudes: Magnitudes | None = None,
    slopes: Mapping[int, tuple[Tensor | None, Tensor | None]] | None = None,
    until: int | None = None,
) -> dict[int, Box]:
    """Boxes ``[domains, *shape]`` of every value up to ``until`` for a batch of input boxes.

    With ``magnitudes`` (float64 plans) every number is outward rounded. ``known`` are facts (a parent's boxes, splits) to
    intersect with. Cost: a backward pass of 2k rows for each value with k elements unstable in any domain.
    """
    lines: dict[int, Lines] = {}
    given = slopes or {}

    def tighten(value: int, box: Box, boxes: dict[int, Box]) -> Box:
        open_elements = unstable(plan, value, box)
        elements = open_elements.flatten(1).any(0).nonzero().squeeze(1)
        if elements.numel() == 0:
            return box
        if interval_is_exact(plan, value):
            return box
        for index in plan.relaxed_below(value):
            if index not in lines:
                lines[index] = relax(plan, index, boxes, given.get(index))
        chunk = rows_per_chunk(plan, value, box[0].shape[0])
        lower, upper = bound_elements(plan, value, elements, lines, inputs, magnitudes, chunk)
        return merge(box, elements, lower, upper)

    return interval_boxes(plan, inputs, known=known, tighten=tighten, until=until)


# Affine operators whose outputs sum several elements: a chain of two is where intervals lose something.
_SUMMING = frozenset({"linear", "matmul_left", "conv", "conv_transpose", "sum", "add", "sub"})


def interval_is_exact(plan: Plan, value: int) -> bool:
    """Whether the interval of a value is its range already: one summing affine operator above the inputs."""
    order = plan.order(value)
    return all(plan.linear[i] for i in order) and sum(plan.graph.nodes[i].operator in _SUMMING for i in order) <= 1


def merge(box: Box, elements: Tensor, lower: Tensor, upper: Tensor) -> Box:
    """The box with some flat elements replaced by their intersection with new bounds; NaN changes nothing."""
    low, high = box[0].flatten(1).clone(), box[1].flatten(1).clone()
    low[:, elements] = torch.fmax(low[:, elements], lower)
    high[:, elements] = torch.fmin(high[:, elements], upper)
    return low.view(box[0].shape), high.view(box[1].shape)
