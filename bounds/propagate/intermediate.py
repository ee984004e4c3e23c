"""Boxes of all values that relaxations read: interval first, a backward pass for what stays unstable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.coefficients import Elements, by_place, channels_last, elements_of
from provenn.bounds.propagate.extent import is_image
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.lines import Lines, relax
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.reduction import Reduction
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError
from provenn.bounds.propagate.sieve import Sieve

# Elements of one coefficient tensor that keep a chunk's passes inside the processor's cache.
CACHE_ELEMENTS = 1 << 18
# Operators with one break point, at 0: once the sign of an element is settled its box matters no more.
_BY_SIGN = frozenset({"relu", "leaky_relu", "prelu", "abs"})
# Coefficients of a pass from which it pays to ask for one side of the boxes first and to leave out dead elements.
_WORTH = 1 << 16


def unstable(plan: Plan, value: int, box: Box) -> Tensor:
    """Which elements ``[domains, *shape]`` of a value some relaxation reads with a gap."""
    lower, upper = box
    wide = upper > lower
    result: Tensor | None = None
    for index in plan.consumers[value]:
        operator = plan.operators[index]
        if plan.linear[index]:
            continue
        if not (isinstance(operator, Univariate) and operator.piecewise_linear):
            return wide
        for point in operator.breakpoints(plan.prepared[index]):
            inside = (lower < point) & (upper > point)
            result = inside if result is None else result | inside
    return torch.zeros_like(wide) if result is None else result


def one_hot(plan: Plan, value: int, elements: Tensor) -> Tensor:
    """Rows ``[1, 2k, *shape]``: plus and minus the unit vectors of k flat elements."""
    count = elements.numel()
    rows = torch.zeros(2 * count, plan.size(value), dtype=plan.dtype, device=plan.device)
    order = torch.arange(count, device=plan.device)
    rows[order, elements] = 1
    rows[count + order, elements] = -1
    return rows.view(1, 2 * count, *plan.shape(value))


@dataclass
class _Batch:
    """What the backward passes of one batch of domains share."""

    plan: Plan
    inputs: Mapping[int, Box]
    magnitudes: Magnitudes | None
    boxes: dict[int, Box]
    slopes: Mapping[int, tuple[Tensor | None, Tensor | None]]
    domains: int
    lines: dict[int, Lines] = field(default_factory=dict)
    cuts: dict[int, Box] = field(default_factory=dict)
    reduction: Reduction | None = None

    def prepare(self, target: int) -> None:
        """Relax every node below the target once its operands' boxes are known."""
        for index in reversed(self.plan.relaxed_below(target)):
            if index not in self.lines:
                self._relax(index)

    def _relax(self, index: int) -> None:
        plan = self.plan
        operands = plan.graph.nodes[index].inputs
        boxes: Mapping[int, Box] = self.boxes
        if self.reduction is not None and index in plan.reducible and index not in self.slopes:
            box = self.boxes[operands[0]]
            alive = _alive(plan, index, box)
            if alive is not None:
                self.reduction.add(index, alive)
                boxes = {operands[0]: (self.reduction.cut(index, box[0]), self.reduction.cut(index, box[1]))}
        lines = relax(plan, index, boxes, self.slopes.get(index))
        image = is_image(plan.shape(index)) and lines.window is None
        self.lines[index] = lines.channels_last() if image else lines
        if isinstance(plan.operators[index], Univariate):
            low, high = plan.interval(index, boxes)
            self.cuts[index] = (channels_last(low), channels_last(high)) if image else (low, high)

    def bounds(self, value: int, elements: Tensor, sign: float, sift: bool) -> Tensor:
        """Lower bounds ``[domains, k]`` of ``sign`` times k flat elements of a value."""
        plan = self.plan
        extents = plan.extents(value)
        results = []
        for part in elements.split(self.rows_at_once(value)):
            weights = torch.full((1, part.numel()), sign, dtype=plan.dtype, device=plan.device)
            rows: Elements = elements_of(plan.shape(value), part, weights, extents[value])
            error = RoundingError(plan, self.magnitudes) if self.magnitudes is not None else None
            sieve = Sieve(self.cuts, self.domains, part.numel(), weights) if sift else None
            bound = backward(
                plan, value, rows, self.lines, self.inputs,
                error=error, extents=extents, reduction=self.reduction, sieve=sieve,
            )  # fmt: skip
            results.append(bound.expand(self.domains, -1))
        return results[0] if len(results) == 1 else torch.cat(results, 1)

    def rows_at_once(self, value: int) -> int:
        return rows_per_chunk(self.plan, value, self.domains)

    def tighten(self, value: int, box: Box) -> Box:
        """The box of a value with backward bounds of its unstable elements."""
        plan = self.plan
        elements = unstable(plan, value, box).flatten(1).any(0).nonzero().squeeze(1)
        if elements.numel() == 0 or interval_is_exact(plan, value):
            return box
        if is_image(plan.shape(value)):
            elements = by_place(plan.shape(value), elements)
        self.prepare(value)
        widest = max(plan.size(i) for i in plan.order(value))
        if not _by_sign(plan, value) or elements.numel() * self.domains * widest < _WORTH:
            lower = self.bounds(value, elements, 1.0, False)
            upper = -self.bounds(value, elements, -1.0, False)
            return merge(box, elements, lower, upper)
        return self._by_sign(value, elements, box)

    def _by_sign(self, value: int, elements: Tensor, box: Box) -> Box:
        """The side that the interval makes likely to settle an element's sign first; the other side for the rest."""
        low, high = box[0].flatten(1), box[1].flatten(1)
        positive = (low[:, elements] + high[:, elements]).sum(0) > 0
        low, high = low.clone(), high.clone()
        rest = []
        for part, sign in ((elements[positive], 1.0), (elements[~positive], -1.0)):
            if part.numel():
                bound = self.bounds(value, part, sign, True)
                _tighten(low, high, part, bound, sign)
                rest.append((part[~(bound >= 0).all(0)], -sign))
        for part, sign in rest:
            if part.numel():
                _tighten(low, high, part, self.bounds(value, part, sign, False), sign)
        return low.view(box[0].shape), high.view(box[1].shape)


def _tighten(low: Tensor, high: Tensor, elements: Tensor, bound: Tensor, sign: float) -> None:
    """Intersect flat boxes in place with lower bounds of ``sign`` times some elements; NaN changes nothing."""
    if sign > 0:
        low[:, elements] = torch.fmax(low[:, elements], bound)
    else:
        high[:, elements] = torch.fmin(high[:, elements], -bound)


def _by_sign(plan: Plan, value: int) -> bool:
    """Whether nothing but the sign of a settled element is wanted: neither its value nor its image is read otherwise."""
    for index in plan.consumers[value]:
        if plan.linear[index]:
            continue
        if plan.operators[index].name not in _BY_SIGN or any(not plan.linear[i] for i in plan.consumers[index]):
            return False
    return True


def _alive(plan: Plan, index: int, box: Box) -> Tensor | None:
    """Flat elements of a reducible node whose image is not 0 in every domain; None where that are almost all."""
    if plan.operators[index].name != "relu":
        return None
    alive = (box[1] > 0).flatten(1).any(0)
    found = alive.nonzero().squeeze(1)
    return found if found.numel() < 0.9 * alive.numel() else None


def rows_per_chunk(plan: Plan, value: int, domains: int, elements: int = CACHE_ELEMENTS) -> int:
    """How many elements of a value to bound together so that a coefficient tensor stays small."""
    extents = plan.extents(value)
    widest = 1
    for index in plan.order(value):
        extent = extents.get(index)
        if index == value:
            continue
        widest = max(widest, plan.size(index) if extent is None else plan.shape(index)[1] * extent.area)
    return max(16, elements // max(1, domains * widest))


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
    intersect with. Cost: a backward pass of at most 2k rows for each value with k elements unstable in any domain. An element
    whose sign is settled keeps its interval on the other side.
    """
    domains = max(box[0].shape[0] for box in inputs.values())
    batch = _Batch(plan, inputs, magnitudes, {}, slopes or {}, domains)
    if plan.reducible and domains * max(plan.size(i) for i in plan.reducible) ** 2 > _WORTH:
        batch.reduction = Reduction(plan)

    def tighten(value: int, box: Box, boxes: dict[int, Box]) -> Box:
        batch.boxes = boxes
        return batch.tighten(value, box)

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
