"""Boxes of all values that relaxations read: interval first, a backward pass for what stays unstable."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.ball import BallBox
from provenn.bounds.propagate.bands import Band, band, banded, merged
from provenn.bounds.propagate.coefficients import (
    Elements,
    by_place,
    channels_last,
    elements_of,
    flattened,
    is_channels_last,
)
from provenn.bounds.propagate.extent import is_image
from provenn.bounds.propagate.forward import Forward, met
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.lines import FIRST_SHARE, Lines, relax
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.reduction import Reduction
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError
from provenn.bounds.propagate.sieve import Sieve

CACHE_ELEMENTS = 1 << 18
# Rows of a value to be bounded together, if it has so many, when domains are counted.
ROWS = 32
# Linear operators that only move elements: boxes move with them.
MOVES = frozenset({"reshape", "transpose", "index", "concat"})
# Operators that are constant between their break points: the image of a settled element is a number.
_FLAT = frozenset({"sign", "step", "pulse"})
# Operators with one break point, at 0: once the sign of an element is settled its box matters no more.
_BY_SIGN = frozenset({"relu", "leaky_relu", "prelu", "abs"})
# Multiplications of one row's pass from which it pays to ask for one side of the boxes first.
_COSTLY = 1 << 17
# Multiplications of a pass of one side of all elements in all domains from which it pays to look for dead ones first.
_LARGE = 1 << 27
# Elements of all domains from which it pays to treat apart those whose lines differ.
_WORTH_NARROWING = 1 << 9
# Entries of a batch's matrices from which it pays to leave out dead elements.
_WORTH = 1 << 16
# Bytes of one coefficient tensor that keep a chunk's passes inside the processor's cache.
CACHE = 1 << 23


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


def wanted(plan: Plan, value: int, box: Box) -> Tensor:
    """Which elements ``[domains, *shape]`` of a value need a tight box: those read with a gap, and all where an
    elementwise operator passes its image on to another relaxation, moved or not, whose box is made from this one."""
    for index in plan.consumers[value]:
        operator = plan.operators[index]
        passes = isinstance(operator, Univariate) and not plan.linear[index] and operator.name not in _FLAT
        if passes and _relaxed_behind(plan, index):
            return box[1] > box[0]
    return unstable(plan, value, box)


def _relaxed_behind(plan: Plan, index: int) -> bool:
    """Whether a relaxation reads a value, or what that is moved to."""
    return any(
        not plan.linear[i] or (plan.operators[i].name in MOVES and _relaxed_behind(plan, i))
        for i in plan.consumers[index]
    )


def one_hot(plan: Plan, value: int, elements: Tensor) -> Tensor:
    """Rows ``[1, 2k, *shape]``: plus and minus the unit vectors of k flat elements."""
    count = elements.numel()
    rows = torch.zeros(2 * count, plan.size(value), dtype=plan.dtype, device=plan.device)
    order = torch.arange(count, device=plan.device)
    rows[order, elements] = 1
    rows[count + order, elements] = -1
    return rows.view(1, 2 * count, *plan.shape(value))


@dataclass
class Batch:
    """What the backward passes of one batch of domains share.

    After ``deadline`` (time.monotonic()) rows stay unbounded. Passes end at the boxes of ``stop`` where there are any,
    and ``most`` limits the elements of a value to the widest (see ladder.py).
    """

    plan: Plan
    inputs: Mapping[int, Box]
    magnitudes: Magnitudes | None
    boxes: Boxes
    slopes: Mapping[int, tuple[Tensor | None, Tensor | None]]
    domains: int
    lines: dict[int, Lines] = field(default_factory=dict)
    cuts: dict[int, Box] = field(default_factory=dict)
    reduction: Reduction | None = None
    deadline: float = math.inf
    stop: Mapping[int, Box] | None = None
    most: int | None = None
    bands: bool = False
    forward: Forward = field(init=False)

    def __post_init__(self) -> None:
        self.forward = Forward(self.plan, self.inputs, self.deadline)
        self._middle: dict[int, Tensor] = {}

    def middle(self, value: int) -> Tensor:
        """A value ``[1|domains, n]`` at the middle of the inputs (of a box where the walk ends earlier).

        An element whose sign can be settled has the sign that it has here.
        """
        plan = self.plan
        for index in reversed(plan.order(value)):
            if index in self._middle:
                continue
            if index in self.inputs or index in plan.opaque:
                lower, upper = self.inputs[index] if index in self.inputs else self.boxes[index]
                self._middle[index] = 0.5 * lower + 0.5 * upper
            else:
                operands = [self._middle[i] for i in plan.graph.nodes[index].inputs]
                self._middle[index] = plan.operators[index].evaluate(plan.prepared[index], *operands)
        return flattened(self._middle[value], 1)

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
        if self.bands and banded(plan, index):
            self.boxes.bands[index] = band(plan, index, self.boxes, self._from_operands)
        lines = relax(plan, index, boxes, self.slopes.get(index))
        if is_image(plan.shape(index)) and lines.patterns is None:
            lines = lines.channels_last()
        if self.domains * plan.size(index) > _WORTH_NARROWING and isinstance(
            plan.operators[index], Univariate
        ):
            lines = lines.narrowed()
        self.lines[index] = lines
        if len(plan.relaxed_below(index)) == 1 and plan.cost(index) > _COSTLY // 4:
            low, high = plan.interval(index, boxes)
            image = is_channels_last(lines.lower_slopes[0])
            self.cuts[index] = (channels_last(low), channels_last(high)) if image else (low, high)
        if boxes is self.boxes:
            self.boxes.lines[index] = lines

    def _from_operands(self, index: int, rows: Tensor, own: dict[int, Lines]) -> Tensor:
        """Lower bounds ``[domains, rows]`` from a relaxed node with ``own`` lines."""
        error = RoundingError(self.plan, self.magnitudes) if self.magnitudes is not None else None
        bound = backward(
            self.plan, index, rows, self.lines | own, self.inputs,
            error=error, stop=self.stop, reduction=self.reduction,
        )  # fmt: skip
        return bound.expand(self.domains, -1)

    def bounds(self, value: int, elements: Tensor, signs: Tensor, sift: bool = False) -> Tensor:
        """Lower bounds ``[domains, k]`` of k flat elements of a value, each times its sign ``[k]``."""
        plan = self.plan
        extents = plan.extents(value)
        if extents[value] is not None:
            order = by_place(plan.shape(value), elements)
            elements, signs = elements[order], signs[order]
        size = rows_per_chunk(plan, value, self.domains)
        results = []
        for part, weights in zip(elements.split(size), signs.split(size), strict=True):
            if time.monotonic() > self.deadline:
                results.append(weights.new_full((self.domains, part.numel()), -torch.inf))
                continue
            rows: Elements = elements_of(plan.shape(value), part, weights.unsqueeze(0), extents[value])
            error = RoundingError(plan, self.magnitudes) if self.magnitudes is not None else None
            sieve = Sieve(self.cuts, self.domains, part.numel(), weights) if sift and self.cuts else None
            bound = backward(
                plan, value, rows, self.lines, self.inputs,
                error=error, stop=self.stop, extents=extents, reduction=self.reduction, sieve=sieve,
            )  # fmt: skip
            results.append(bound.expand(self.domains, -1))
        result = results[0] if len(results) == 1 else torch.cat(results, 1)
        return result if extents[value] is None else torch.empty_like(result).index_copy_(1, order, result)

    def tighten(self, value: int, box: Box) -> Box:
        """The box of a value with forward and backward bounds of its unstable elements."""
        return self.passes(value, self.forwarded(value, box))

    def forwarded(self, value: int, box: Box) -> Box:
        """The box met with what forward propagation finds, where that is worth its time."""
        count = int(flattened(wanted(self.plan, value, box), 1).any(0).sum())
        if count == 0 or interval_suffices(self.plan, value, self.inputs) or not self.forward.pays(value, count):
            return box
        return met(box, self.forward.box(value, self.boxes))

    def passes(self, value: int, box: Box) -> Box:
        """The box of a value with backward bounds of its unstable elements."""
        plan = self.plan
        elements = flattened(wanted(plan, value, box), 1).any(0).nonzero().squeeze(1)
        if elements.numel() == 0 or interval_suffices(plan, value, self.inputs) or time.monotonic() > self.deadline:
            return box
        # A value of constants alone has one box for all domains.
        box = (box[0].expand(self.domains, *box[0].shape[1:]), box[1].expand(self.domains, *box[1].shape[1:]))
        if self.most is not None and self.most < elements.numel():
            elements = _widest(box, elements, self.most)
        self.prepare(value)
        if settles_by_sign(plan, value) and plan.cost(value) > _COSTLY and elements.numel() * self.domains > ROWS:
            return self._by_sign(value, elements, box)
        if read_by_relus(plan, value) and plan.cost(value) * elements.numel() * self.domains > _LARGE:
            return self._dead_first(value, elements, box)
        one = torch.ones(elements.numel(), dtype=plan.dtype, device=plan.device)
        bound = self.bounds(value, torch.cat([elements, elements]), torch.cat([one, -one]))
        return merge(box, elements, bound[:, : one.numel()], -bound[:, one.numel() :])

    def _dead_first(self, value: int, elements: Tensor, box: Box) -> Box:
        """Upper ends of elements that are likely to be dead, then all ends of what is not dead.

        The image of a dead element is 0 whatever its lower end is, so nothing is lost.
        """
        low, high = flattened(box[0], 1).clone(), flattened(box[1], 1).clone()
        likely = (self.middle(value)[:, elements] <= 0).all(0)
        tried, rest = elements[likely], elements[~likely]
        if tried.numel():
            minus = torch.full((tried.numel(),), -1.0, dtype=low.dtype, device=low.device)
            bound = self.bounds(value, tried, minus)
            _tighten(low, high, tried, bound, minus)
            tried = tried[~(bound >= 0).all(0)]
        below = torch.cat([tried, rest])
        if below.numel():
            one = torch.ones(below.numel(), dtype=low.dtype, device=low.device)
            minus = -one[: rest.numel()]
            bound = self.bounds(value, torch.cat([below, rest]), torch.cat([one, minus]))
            _tighten(low, high, below, bound[:, : one.numel()], one)
            _tighten(low, high, rest, bound[:, one.numel() :], minus)
        return low.view(box[0].shape), high.view(box[1].shape)

    def _by_sign(self, value: int, elements: Tensor, box: Box) -> Box:
        """The side that is likely to settle an element's sign first; the other side for the rest.

        The middle of the interval guesses that side well enough where passes are short.
        """
        low, high = flattened(box[0], 1).clone(), flattened(box[1], 1).clone()
        large = self.plan.cost(value) * elements.numel() * self.domains > _LARGE
        guess = self.middle(value)[:, elements] if large else low[:, elements] + high[:, elements]
        signs = torch.where(guess.sum(0) > 0, 1.0, -1.0).to(low.dtype)
        bound = self.bounds(value, elements, signs, sift=True)
        _tighten(low, high, elements, bound, signs)
        rest = (~(bound >= 0).all(0)).nonzero().squeeze(1)
        if rest.numel():
            elements, signs = elements[rest], -signs[rest]
            _tighten(low, high, elements, self.bounds(value, elements, signs), signs)
        return low.view(box[0].shape), high.view(box[1].shape)


def _widest(box: Box, elements: Tensor, most: int) -> Tensor:
    """Of flat elements the ``most`` widest in any domain, in order."""
    width = flattened(box[1] - box[0], 1).amax(0)[elements]
    return elements[width.topk(most).indices.sort().values]


def _tighten(low: Tensor, high: Tensor, elements: Tensor, bound: Tensor, signs: Tensor) -> None:
    """Intersect flat boxes in place with lower bounds of distinct elements times their signs; NaN changes nothing."""
    positive, ends = signs > 0, signs * bound
    for side, kept, better in ((low, positive, torch.fmax), (high, ~positive, torch.fmin)):
        known = side.index_select(1, elements)
        side.index_copy_(1, elements, torch.where(kept, better(known, ends), known))


def settles_by_sign(plan: Plan, value: int) -> bool:
    """Whether nothing but the sign of a settled element is wanted: neither its value nor its image is read
    otherwise."""
    for index in plan.consumers[value]:
        if plan.linear[index]:
            continue
        if plan.operators[index].name not in _BY_SIGN or any(
            not plan.linear[i] for i in plan.consumers[index]
        ):
            return False
    return True


def read_by_relus(plan: Plan, value: int) -> bool:
    """Whether a value is read by relus alone, so that an element below 0 matters no more."""
    readers = plan.consumers[value]
    return bool(readers) and all(plan.operators[index].name == "relu" for index in readers)


def _alive(plan: Plan, index: int, box: Box) -> Tensor | None:
    """Flat elements of a reducible node whose image is not 0 in every domain, those that are unstable in any first.

    None where that is neither fewer elements nor an order worth having.
    """
    if plan.operators[index].name != "relu":
        return None
    alive, gap = flattened(box[1] > 0, 1), flattened(box[0] < 0, 1)
    gap = (gap & alive).any(0)
    alive = alive.any(0)
    # A multiple of 8, which matrix products run fastest with: some dead elements stay.
    count = min(-(-int(alive.sum()) // 8) * 8, alive.numel())
    if count > 0.9 * alive.numel():
        if int(gap.sum()) > FIRST_SHARE * alive.numel():
            return None
        count = alive.numel()
    return torch.argsort(alive.to(torch.int8) + gap.to(torch.int8), descending=True, stable=True)[:count]


def rows_per_chunk(plan: Plan, value: int, domains: int) -> int:
    """How many elements of a value to bound together so that a coefficient tensor stays small."""
    fast = max(16, CACHE // (plan.dtype.itemsize * domains * plan.widest(value)[1]))
    return min(fast if plan.device.type == "cpu" else 1 << 20, plan.rows_at_once(value, domains))


class Boxes(dict[int, Box]):
    """Boxes of values, with the lines that relaxed nodes have over them where those were needed on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[int, Lines] = {}
        self.bands: dict[int, Band] = {}


def intermediate_boxes(
    plan: Plan,
    inputs: Mapping[int, Box],
    *,
    known: Mapping[int, Box] | None = None,
    magnitudes: Magnitudes | None = None,
    slopes: Mapping[int, tuple[Tensor | None, Tensor | None]] | None = None,
    until: int | None = None,
    bands: bool = False,
) -> Boxes:
    """Boxes ``[domains, *shape]`` of every value up to ``until`` for a batch of input boxes.

    With ``magnitudes`` (float64 plans) every number is outward rounded. ``known`` are facts (a parent's boxes,
    splits) to
    intersect with. Cost: a backward pass of at most 2k rows for each value with k elements unstable in any domain.
    An element
    whose sign is settled keeps its interval on the other side. ``bands`` asks for the bands of products too,
    and for the lines of every node below ``until``.
    """
    domains = max(box[0].shape[0] for box in inputs.values())
    size = domains_at_once(plan)
    if domains > size:
        parts = [
            intermediate_boxes(
                plan, _domains(inputs, start, size), known=_domains(known, start, size), magnitudes=magnitudes,
                slopes=_domains(slopes, start, size), until=until, bands=bands,
            )
            for start in range(0, domains, size)
        ]  # fmt: skip
        return joined(parts, domains)
    target = plan.graph.outputs[0] if until is None else until
    bands = bands and any(banded(plan, i) for i in plan.relaxed_below(target))
    batch = Batch(plan, inputs, magnitudes, Boxes(), slopes or {}, domains, bands=bands)
    if plan.reducible and domains * max(plan.size(i) for i in plan.reducible) ** 2 > _WORTH:
        batch.reduction = Reduction(plan)

    def tighten(value: int, box: Box, boxes: dict[int, Box]) -> Box:
        return batch.tighten(value, box)

    interval_boxes(plan, inputs, known=known, tighten=tighten, until=until, into=batch.boxes)
    if bands:
        batch.prepare(target)
    return batch.boxes


def domains_at_once(plan: Plan) -> int:
    """Domains whose coefficients of some dozens of rows stay in the processor's cache; on an accelerator as many as
    fit."""
    if plan.device.type != "cpu":
        return max(1, min(plan.rows_at_once(v, ROWS) for v in plan.bounded)) if plan.bounded else 1 << 16
    rows = max((plan.size(v) for v in plan.bounded), default=1)
    widest = max((plan.widest(v)[1] for v in plan.bounded), default=1)
    return max(1, CACHE // (plan.dtype.itemsize * min(ROWS, rows) * widest))


def _domains(per_value, start: int, size: int):
    """A run of domains of pairs of tensors ``[1|domains, ...]`` per value."""
    if per_value is None:
        return None
    cut = lambda t: t if t is None or t.shape[0] == 1 else t[start : start + size]  # noqa: E731
    return {value: (cut(pair[0]), cut(pair[1])) for value, pair in per_value.items()}


def joined(parts: list[Boxes], domains: int) -> Boxes:
    """The boxes of runs of domains put together; values that do not depend on the domain keep one."""
    result = Boxes()
    for value, first in parts[0].items():
        sides = [torch.cat([_filled(part, value, side) for part in parts]) for side in (0, 1)]
        result[value] = (sides[0], sides[1]) if sides[0].shape[0] == domains else first
    for index in parts[0].bands:
        result.bands[index] = merged([part.bands[index] for part in parts])
    return result


def _filled(part: Boxes, value: int, side: int) -> Tensor:
    count = max(box[0].shape[0] for box in part.values())
    end = part[value][side]
    return end.expand(count, *end.shape[1:])


# Affine operators whose outputs sum several elements: a chain of two is where intervals lose something.
_SUMMING = frozenset({"linear", "matmul_left", "conv", "conv_transpose", "sum", "add", "sub"})


def interval_is_exact(plan: Plan, value: int, inputs: Mapping[int, Box] | None = None) -> bool:
    """Whether the interval of a value is its range already: one summing affine operator above the inputs.

    That of a ball is not, if ``inputs`` tell of one.
    """
    order = plan.order(value)
    if inputs is not None and any(isinstance(inputs.get(i), BallBox) for i in order):
        return False
    return (
        all(plan.linear[i] for i in order)
        and sum(plan.graph.nodes[i].operator in _SUMMING for i in order) <= 1
    )


# Operators whose image of a box is all that lines through the same box could say.
_BY_IMAGE = frozenset({"max", "min", "window_max"})


def interval_suffices(plan: Plan, value: int, inputs: Mapping[int, Box] | None = None) -> bool:
    """Whether a backward pass could not improve the interval of a value: it is exact, or an image of boxes."""
    operator = plan.operators[value]
    operands = plan.graph.nodes[value].inputs
    if operator.name in MOVES and all(
        i not in plan.graph.inputs and interval_suffices(plan, i, inputs) for i in operands
    ):
        return True
    return isinstance(operator, Univariate) or operator.name in _BY_IMAGE or interval_is_exact(plan, value, inputs)


def merge(box: Box, elements: Tensor, lower: Tensor, upper: Tensor) -> Box:
    """The box with some flat elements replaced by their intersection with new bounds; NaN changes nothing."""
    low, high = flattened(box[0], 1).clone(), flattened(box[1], 1).clone()
    low[:, elements] = torch.fmax(low[:, elements], lower)
    high[:, elements] = torch.fmin(high[:, elements], upper)
    return low.view(box[0].shape), high.view(box[1].shape)
