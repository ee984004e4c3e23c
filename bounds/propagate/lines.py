"""The two lines (or planes) of every relaxed node over given boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from provenn.bounds.ops import relaxation
from provenn.bounds.ops._operator import Multivariate, Univariate
from provenn.bounds.ops._patterns import Pattern
from provenn.bounds.ops.products import mul_in_band
from provenn.bounds.propagate.coefficients import channels_last, is_channels_last, stored
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.starts import Starts

# Operators whose lower lines all have offset 0: any slope between the two pieces goes through the break point.
THROUGH_ORIGIN = frozenset({"relu", "leaky_relu"})

# Lines that differ on more than this share of the elements are treated as differing everywhere.
GAP_SHARE = 0.3
# The same where those elements are the first ones, so that they need no gathering.
FIRST_SHARE = 0.7

Boxes = Mapping[int, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Gap:
    """Where lower and upper line differ: flat ``elements`` in the order of storage, and the lines on those alone
    ``[1|domains, 1, k]``. ``first`` says that they are the first k elements."""

    elements: Tensor
    lines: Lines
    channels_last: bool
    first: bool = False


@dataclass(frozen=True)
class Lines:
    """Lower and upper lines of a relaxed node: ``sum_i slope_i x_i + offset``.

    Slopes and offsets are ``[1|domains, 1|rows, *shape]``; an offset of None is zero; no slopes at all means constant
    lines (an opaque node). ``patterns``, one for each operand, say where slopes go if not to the output's own place.
    """

    lower_slopes: tuple[Tensor, ...]
    lower_offset: Tensor | None
    upper_slopes: tuple[Tensor, ...]
    upper_offset: Tensor | None
    patterns: tuple[Pattern, ...] | None = None
    positive_upper_offset: bool = False
    gap: Gap | None = None

    @cached_property
    def spread(self) -> Tensor:
        """Upper less lower slope of the only operand."""
        return self.upper_slopes[0] - self.lower_slopes[0]

    @cached_property
    def spread_offset(self) -> Tensor | None:
        """Upper less lower offset."""
        if self.lower_offset is None or self.upper_offset is None:
            return self.upper_offset if self.lower_offset is None else -self.lower_offset
        return self.upper_offset - self.lower_offset

    def narrowed(self, share: float = GAP_SHARE) -> Lines:
        """These lines of an elementwise node with their gap, where that is small and the common offsets are all 0."""
        slope, upper = self.lower_slopes[0], self.upper_slopes[0]
        if self.upper_offset is None or self.patterns is not None or slope.shape[1] > 1:
            return self
        lower = self.lower_offset
        differ = (slope != upper) | (self.upper_offset != 0)
        if lower is not None:
            differ |= lower != 0
        elements = stored(differ).flatten(1).any(0).nonzero().squeeze(1)
        count = elements.numel()
        first = count > 0 and int(elements[-1]) == count - 1
        if count > (max(share, FIRST_SHARE) if first else share) * slope[0].numel():
            return self
        cut = lambda t: stored(t).index_select(2, elements)  # noqa: E731
        few = Lines(
            (cut(slope),),
            None if lower is None else cut(lower),
            (cut(upper),),
            cut(self.upper_offset),
            positive_upper_offset=self.positive_upper_offset,
        )
        return replace(self, gap=Gap(elements, few, is_channels_last(slope), first))

    def channels_last(self) -> Lines:
        """The same lines of an image, stored with channels next to each other as coefficients are."""
        move = lambda t: None if t is None else channels_last(t)  # noqa: E731
        return replace(
            self,
            lower_slopes=tuple(channels_last(t) for t in self.lower_slopes),
            lower_offset=move(self.lower_offset),
            upper_slopes=tuple(channels_last(t) for t in self.upper_slopes),
            upper_offset=move(self.upper_offset),
        )

    def reach(self, plan: Plan, index: int, value: Mapping[int, Tensor]) -> Tensor:
        """Bound of ``|slope| |x| + |offset|`` over both lines and the box, ``[1|domains, 1|rows, *shape]``."""
        result = value[index][None, None]
        for bound in (self.lower_offset, self.upper_offset):
            if bound is not None:
                result = result + bound.abs()
        operands = plan.graph.nodes[index].inputs
        for place, (lower, upper) in enumerate(zip(self.lower_slopes, self.upper_slopes, strict=True)):
            size = value[operands[place]][None, None]
            result = result + self.through(place, torch.maximum(lower.abs(), upper.abs()), size)
        return result

    def through(self, place: int, slopes: Tensor, z: Tensor) -> Tensor:
        """Slopes times the values z ``[domains, rows, *operand]`` of the operand at ``place``, summed."""
        return slopes * z if self.patterns is None else self.patterns[place].through(slopes, z)


def relax(
    plan: Plan,
    index: int,
    boxes: Boxes,
    slopes: tuple[Tensor | None, Tensor | None] | None = None,
    starts: Starts | None = None,
) -> Lines:
    """Lines of relaxed node ``index`` over the boxes of its operands.

    ``slopes`` are the (lower, upper) slopes to use for an elementwise operator, ``[domains, 1|rows, *shape]``,
    None for the starting slope. Offsets follow from the slopes (DESIGN 5), so any slope is sound.
    """
    operator, prepared = plan.operators[index], plan.prepared[index]
    operands = plan.graph.nodes[index].inputs
    if isinstance(operator, Univariate):
        lower, upper = boxes[operands[0]]
        given = slopes or (None, None)
        if operator.name == "relu" and slopes is None:
            found = _relu(lower.unsqueeze(1), upper.unsqueeze(1))
            if found is not None:
                return found
        if starts is not None and slopes is None:
            kl, bl, ku, bu = (t.unsqueeze(1) for t in starts.lines(index, lower, upper))
        else:
            kl, bl, ku, bu = relaxation.lines(operator, prepared, lower.unsqueeze(1), upper.unsqueeze(1), *given)
        through = operator.name in THROUGH_ORIGIN
        return Lines((kl,), None if through else bl, (ku,), bu, positive_upper_offset=through)
    if isinstance(operator, Multivariate) and index not in plan.opaque:
        low, high = operator.relax(prepared, None, *(boxes[i] for i in operands))
        band = getattr(boxes, "bands", {}).get(index)
        if band is not None:
            low, high = mul_in_band((low, high), boxes[operands[0]], boxes[operands[1]], band)
        return Lines(
            tuple(s.unsqueeze(1) for s in low.slopes),
            low.offset.unsqueeze(1),
            tuple(s.unsqueeze(1) for s in high.slopes),
            high.offset.unsqueeze(1),
            None if operator.patterns is None else operator.patterns(prepared),
        )
    lower, upper = plan.interval(index, boxes)
    return Lines((), lower.unsqueeze(1), (), upper.unsqueeze(1))


def _relu(lower: Tensor, upper: Tensor) -> Lines | None:
    """The starting lines of a relu: chord above, slope 0 or 1 below; None where an end is infinite.

    On the box cut at 0 a stable element has slope exactly 1 or 0 and offset exactly 0. The chord's slope is rounded:
    at the upper
    end it misses by at most 3 roundings of ``high``.
    """
    low, high = lower.clamp(max=0), upper.clamp(min=0)
    width = high - low
    if not math.isfinite(width.sum()):
        return None
    info = torch.finfo(lower.dtype)
    above = high / width.clamp(min=info.tiny)
    offset = (above * low).neg_()
    if lower.dtype == torch.float64:
        unstable = torch.minimum(high, -low) > 0
        offset.addcmul_(unstable.to(lower.dtype), high * (4 * info.eps) + info.tiny)
    below = (high > -low).to(lower.dtype)
    return Lines((below,), None, (above,), offset, positive_upper_offset=True)


def relax_all(
    plan: Plan,
    target: int,
    boxes: Boxes,
    slopes: Mapping[int, tuple[Tensor | None, Tensor | None]] | None = None,
) -> dict[int, Lines]:
    """Lines of every relaxed node below the target."""
    given = slopes or {}
    known: Mapping[int, Lines] = getattr(boxes, "lines", {}) if not given else {}
    return {
        index: known[index] if index in known else relax(plan, index, boxes, given.get(index))
        for index in plan.relaxed_below(target)
    }
