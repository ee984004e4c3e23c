"""A bound as a function of its parameters: slopes (alpha) and split multipliers (beta), with gradients in closed
form.

A bound is concave piecewise in its slopes and multipliers. At the minimiser x* of the concretised row one forward pass
through the *selected* lines gives values z; then (DESIGN 4)
``d bound / d kl = max(a,0) (z - xl)``, ``d bound / d ku = min(a,0) (z - xu)``, ``d bound / d beta = -s (z - p)``
where xl, xu attain the offsets. So a step is one backward and one forward pass and keeps no autograd graph
(alpha-CROWN, arXiv 2011.13824; beta-CROWN, arXiv 2103.06624, compute the same by autograd).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from provenn.bounds.ops import relaxation
from provenn.bounds.ops._operator import Multivariate, Univariate, Weighted
from provenn.bounds.propagate.backward import Trace, backward
from provenn.bounds.propagate.coefficients import Elements, flattened
from provenn.bounds.propagate.conjunction import LEAST, MOST, Conjunction
from provenn.bounds.propagate.extent import ELEMENT, Extent, is_image
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import THROUGH_ORIGIN, Gap, Lines, relax
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.selected import narrow_part, selected_values
from provenn.bounds.propagate.starts import Starts

# Slopes of smooth operators move by this share of their range where a relu's move by all of it, and by no more than
# that where ranges are wide. docs/decisions.md has the figures.
SMOOTH_SHARE = 0.5

Weights = tuple[Tensor, Tensor]

# Lines of a narrow objective are dense all the same where more than this share of the elements differ.
NARROW_SHARE = 0.8


@dataclass(frozen=True)
class Splits:
    """Split constraints ``sign (z - point) >= 0`` on elements of values, dense per value.

    ``sign[v]`` is ``[domains, *shape]`` in {-1, 0, 1}, ``point[v]`` likewise.
    """

    sign: Mapping[int, Tensor]
    point: Mapping[int, Tensor]


@dataclass(frozen=True)
class Segment:
    """Where one tensor of parameters lives in the flat parameter axis."""

    kind: str
    """"lower", "upper" (slopes of a node), "plane" (weights of a node's planes), "beta" (multipliers of a value) or
    "logit" (of a conjunction)."""
    index: int
    start: int
    size: int


@dataclass(frozen=True)
class Layout:
    """The flat parameter axis of one target: slopes of every elementwise node, then multipliers of every value."""

    segments: tuple[Segment, ...]
    total: int

    def part(self, flat: Tensor, segment: Segment) -> Tensor:
        """The segment's part ``[domains, rows, size]`` of ``[domains, rows, total]``."""
        return flat[:, :, segment.start : segment.start + segment.size]

    def view(self, flat: Tensor, segment: Segment, shape: tuple[int, ...]) -> Tensor:
        """The segment's part of ``[domains, rows, total]`` as ``[domains, rows, *shape]``."""
        return self.part(flat, segment).view(*flat.shape[:2], *shape)


def layout(
    plan: Plan,
    target: int,
    multiplied: tuple[int, ...] = (),
    gaps: Mapping[int, Gap] | None = None,
    weighted: int = 0,
    planes: Mapping[int, Weights] | None = None,
) -> Layout:
    """Slopes for each elementwise relaxed node below the target, multipliers for the ``multiplied`` values.

    A node with a gap has slopes for the elements of the gap only; one in ``planes`` has the weights of its planes.
    Last come the logits of ``weighted`` rows.
    """
    segments, start = [], 0
    for index in reversed(plan.relaxed_below(target)):
        operator = plan.operators[index]
        if planes and index in planes:
            size = sum(side[0].numel() for side in planes[index])
            segments.append(Segment("plane", index, start, size))
            start += size
        if not isinstance(operator, Univariate):
            continue
        gap = gaps.get(index) if gaps else None
        size = plan.size(index) if gap is None else gap.elements.numel()
        for kind in ("lower",) if chord_above(operator) else ("lower", "upper"):
            segments.append(Segment(kind, index, start, size))
            start += size
    for value in multiplied:
        segments.append(Segment("beta", value, start, plan.size(value)))
        start += plan.size(value)
    if weighted:
        segments.append(Segment("logit", target, start, weighted))
        start += weighted
    return Layout(tuple(segments), start)


def chord_above(operator: Univariate) -> bool:
    """Convex piecewise linear with one break point: the chord dominates every other upper line."""
    return operator.name in THROUGH_ORIGIN


class Objective:
    """Bounds of rows on one target over fixed boxes, as a function of flat parameters ``[domains, rows, total]``.

    A ``narrow`` objective has parameters only where lines differ, which is all that can matter, in an order of its own;
    otherwise every element of every elementwise node has its slopes. With ``planes`` operators of several operands
    have weights that choose among their planes, for every row: for few rows. With a ``conjunction`` there are
    ``combinations`` rows, each made of the conjunction's by weights of its own, and a bound is that row's margin.
    """

    def __init__(
        self,
        plan: Plan,
        target: int,
        rows: Tensor | Elements,
        boxes: Mapping[int, Box],
        inputs: Mapping[int, Box],
        splits: Splits | None = None,
        narrow: bool = False,
        conjunction: Conjunction | None = None,
        combinations: int = 1,
        planes: bool = False,
        starts: Starts | None = None,
    ):
        self.plan, self.target, self.rows, self.boxes, self.inputs = plan, target, rows, boxes, inputs
        self.splits, self.narrow, self.conjunction = splits, narrow, conjunction
        first = rows.shape[0] if isinstance(rows, Tensor) else rows.weights.shape[0]
        self.count = rows.shape[1] if isinstance(rows, Tensor) else rows.count
        if conjunction is not None:
            first, self.count = conjunction.rows.shape[0], combinations
        self.domains = max([first] + [b[0].shape[0] for b in inputs.values()])
        self.starts = Starts(plan) if starts is None else starts
        self.planes: dict[int, Weights] = {}
        """Of nodes whose planes have weights the starting ones ``[1|domains, *size]`` of both sides."""
        self.weighted: dict[int, Weighted] = {}
        if planes:
            self._weigh()
        self.base = {i: self._lines(i) for i in plan.relaxed_below(target) if i not in self.weighted}
        self.gaps: dict[int, Gap] = {i: lines.gap for i, lines in self.base.items() if lines.gap is not None}
        weighted = conjunction.count if conjunction is not None else 0
        multiplied = tuple(splits.sign) if splits else ()
        self.layout = layout(plan, target, multiplied, self.gaps, weighted, self.planes)
        self.extents = _above_relaxed(plan, target) if narrow else None
        self.low, self.high = self._ranges()
        self._seen: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self._attained: dict[int, tuple[Tensor, Tensor, Box]] = {}
        """Of smooth operators the slopes of the last lines and where their offsets are attained."""
        self._reading: dict[int, list[int]] = {}
        """Positions of the segments whose gradient needs a value."""
        for position, segment in enumerate(self.layout.segments):
            is_value = segment.kind in ("beta", "logit")
            values = (segment.index,) if is_value else plan.graph.nodes[segment.index].inputs
            for value in dict.fromkeys(values):
                self._reading.setdefault(value, []).append(position)

    def _lines(self, index: int) -> Lines:
        lines = relax(self.plan, index, self.boxes, starts=self.starts)
        operator, prepared = self.plan.operators[index], self.plan.prepared[index]
        if not self.narrow or not isinstance(operator, Univariate):
            return lines
        if any(t.numel() != 1 for t in prepared.tensors.values()):
            return lines  # an operator that is not the same everywhere
        if is_image(self.plan.shape(index)):
            lines = lines.channels_last()
        return lines.narrowed(NARROW_SHARE)

    def _weigh(self) -> None:
        """Find the nodes whose planes have weights."""
        for index in self.plan.relaxed_below(self.target):
            operator, prepared = self.plan.operators[index], self.plan.prepared[index]
            if index in self.plan.opaque or not isinstance(operator, Multivariate):
                continue
            if operator.start is not None and operator.weighted is not None:
                operands = [self.boxes[i] for i in self.plan.graph.nodes[index].inputs]
                self.planes[index] = operator.start(prepared, *operands)
                self.weighted[index] = operator.weighted(prepared, *operands)

    def _ranges(self) -> tuple[Tensor, Tensor]:
        """Admissible parameters, each ``[1|domains, 1, total]``."""
        lows, highs = [], []
        ranges: dict[int, relaxation.Lines] = {}
        for segment in self.layout.segments:
            if segment.kind == "beta":
                sign = self.splits.sign[segment.index]  # type: ignore[union-attr]
                low = torch.zeros_like(sign)
                high = torch.where(sign != 0, torch.inf, 0.0).to(sign.dtype)
            elif segment.kind == "logit":
                assert self.conjunction is not None
                low, high = (self.conjunction.rows.new_full((1, segment.size), end) for end in (LEAST, MOST))
            elif segment.kind == "plane":
                start = self.planes[segment.index][0]
                low, high = (start.new_full((1, segment.size), end) for end in (0.0, 1.0))
            else:
                if segment.index not in ranges:
                    ranges[segment.index] = self._range(segment.index)
                low, high = ranges[segment.index][:2] if segment.kind == "lower" else ranges[segment.index][2:]
            lows.append(flattened(low, 1))
            highs.append(flattened(high, 1))
        if not lows:
            weights = self.rows if isinstance(self.rows, Tensor) else self.rows.weights
            empty = weights.new_zeros(1, 1, 0)
            return empty, empty
        domains = max(t.shape[0] for t in lows)
        join = lambda parts: torch.cat([t.expand(domains, -1) for t in parts], 1).unsqueeze(1)  # noqa: E731
        return join(lows), join(highs)

    def _range(self, index: int) -> relaxation.Lines:
        """Slopes of an elementwise node between which lines are worth trying."""
        lower, upper = self._box(index)
        if index not in self.gaps:
            return self.starts.ranges(index, lower, upper)
        return relaxation.slope_range(self.plan.operators[index], self.plan.prepared[index], lower, upper)  # type: ignore[arg-type]

    def _box(self, index: int) -> Box:
        """The operand's box of an elementwise node ``[domains, *shape]``, or ``[domains, k]`` on its gap."""
        lower, upper = self.boxes[self.plan.graph.nodes[index].inputs[0]]
        if index not in self.gaps:
            return lower, upper
        few = (narrow_part(end.unsqueeze(1), self.base[index])[1].squeeze(1) for end in (lower, upper))
        return tuple(few)  # type: ignore[return-value]

    def start(self) -> Tensor:
        """Starting parameters: the starting slopes, multipliers 0. Shape ``[domains, rows, total]``."""
        flat = self.low.new_zeros(self.domains, self.count, self.layout.total)
        for segment in self.layout.segments:
            if segment.kind == "logit":
                assert self.conjunction is not None
                self._view(flat, segment).copy_(self.conjunction.start(self.count))
            elif segment.kind == "plane":
                sides = [flattened(side, 1) for side in self.planes[segment.index]]
                self._view(flat, segment).copy_(torch.cat(sides, 1).unsqueeze(1))
            elif segment.kind != "beta":
                lines = self.base[segment.index]
                slope = (
                    self._few(lines).lower_slopes
                    if segment.kind == "lower"
                    else self._few(lines).upper_slopes
                )[0]
                self._view(flat, segment).copy_(slope)
        return flat

    @staticmethod
    def _few(lines: Lines) -> Lines:
        return lines if lines.gap is None else lines.gap.lines

    def _views(self, flat: Tensor) -> list[Tensor]:
        """The segments' parts of a flat tensor; those of the last two tensors are kept."""
        found = self._seen.get(id(flat))
        if found is None:
            if len(self._seen) > 1:
                self._seen.pop(next(iter(self._seen)))
            found = self._seen[id(flat)] = (flat, [self._view(flat, s) for s in self.layout.segments])
        return found[1]

    def _view(self, flat: Tensor, segment: Segment) -> Tensor:
        """The segment's part, shaped as its node unless that has a gap."""
        if segment.kind in ("logit", "plane") or (segment.kind != "beta" and segment.index in self.gaps):
            return self.layout.part(flat, segment)
        return self.layout.view(flat, segment, self.plan.shape(segment.index))

    def lines(self, flat: Tensor) -> dict[int, Lines]:
        """Lines with the slopes of the parameters; offsets follow from the slopes."""
        result = dict(self.base)
        slopes: dict[int, dict[str, Tensor]] = {}
        for segment, view in zip(self.layout.segments, self._views(flat), strict=True):
            if segment.kind in ("lower", "upper"):
                slopes.setdefault(segment.index, {})[segment.kind] = view
            elif segment.kind == "plane":
                result[segment.index] = self._planes_with(segment.index, self._weights(segment.index, view))
        for index, given in slopes.items():
            result[index] = self._lines_with(index, given.get("lower"), given.get("upper"))
        return result

    def _lines_with(self, index: int, lower: Tensor | None, upper: Tensor | None) -> Lines:
        base = self.base[index]
        if lower is not None and upper is None and self.plan.operators[index].name in THROUGH_ORIGIN:
            if base.gap is None:
                return _with_lower(base, lower)
            gap = Gap(base.gap.elements, _with_lower(base.gap.lines, lower), base.gap.channels_last, base.gap.first)
            return _with_lower(base, base.lower_slopes[0], gap)
        operator, (low, high) = self.plan.operators[index], (end.unsqueeze(1) for end in self._box(index))
        assert isinstance(operator, Univariate)
        prepared = self.plan.prepared[index]
        if operator.lines is None and lower is not None and upper is not None:
            found, points = relaxation.supported_lines(operator, prepared, low, high, lower, upper)
            self._attained[index] = (found[0], found[2], points)
        else:
            found = relaxation.lines(operator, prepared, low, high, lower, upper)
        few = Lines((found[0],), found[1], (found[2],), found[3])
        return few if base.gap is None else replace(base, gap=replace(base.gap, lines=few))

    def _planes_with(self, index: int, weights: Weights) -> Lines:
        """The planes of a node at weights ``[domains, rows, *size]``."""
        low, high = self.weighted[index].planes(weights)
        patterns = self.plan.operators[index].patterns  # type: ignore[attr-defined]
        made = None if patterns is None else patterns(self.plan.prepared[index])
        return Lines(low.slopes, low.offset, high.slopes, high.offset, made)

    def _weights(self, index: int, part: Tensor) -> Weights:
        """A segment's part ``[domains, rows, total]`` as weights of both sides ``[domains, rows, *size]``."""
        sizes = [side.shape[1:] for side in self.planes[index]]
        parts = part.split([size.numel() for size in sizes], 2)
        low, high = (side.reshape(*part.shape[:2], *size) for side, size in zip(parts, sizes, strict=True))
        return low, high

    def multipliers(self, flat: Tensor) -> dict[int, tuple[Tensor, Tensor]] | None:
        """What ``backward`` takes: signed multipliers and the constant they add."""
        if self.splits is None:
            return None
        result = {}
        for segment, beta in zip(self.layout.segments, self._views(flat), strict=True):
            if segment.kind == "beta":
                signed = beta * self.splits.sign[segment.index].unsqueeze(1)
                result[segment.index] = (
                    signed,
                    flattened(signed * self.splits.point[segment.index].unsqueeze(1), 2).sum(-1),
                )
        return result

    def bound(self, flat: Tensor, trace: Trace | None = None, error=None) -> tuple[Tensor, dict[int, Lines]]:
        """Lower bounds ``[domains, rows]`` at the parameters, and the lines they stand for."""
        lines = self.lines(flat)
        weights = self.weights(flat)
        value = backward(
            self.plan, self.target, self.rows if weights is None else self.conjunction.combined(weights),  # type: ignore[union-attr]
            lines, self.inputs,
            multipliers=self.multipliers(flat), trace=trace, error=error, extents=self.extents,
        )  # fmt: skip
        if weights is not None:
            magnitude = None if error is None else error.magnitudes.value[self.target]
            value = self.conjunction.margin(value, weights, magnitude)  # type: ignore[union-attr]
        return value, lines

    def weights(self, flat: Tensor) -> Tensor | None:
        """Weights ``[domains, combinations, r]`` of a conjunction's rows; None where there is none."""
        return None if self.conjunction is None else self._views(flat)[-1].softmax(-1)

    def trace(self) -> Trace:
        """An empty trace of the kind that ``gradient`` reads."""
        upper = any(segment.kind in ("upper", "plane") for segment in self.layout.segments)
        return Trace(narrow=self.narrow, negatives=upper or self.splits is not None)

    def rates(self, trace: Trace, multiplier_rate: float) -> Tensor | None:
        """Step sizes ``[domains, 1, total]`` in units of a slope's between 0 and 1; None where all are that.

        A multiplier competes with the coefficients on its value, so it moves in units of their mean size. A smooth
        operator's slope moves in units of the range in which no other line is better: a sigmoid's is [0, 1/4].
        """
        smooth = [s for s in self.layout.segments if s.kind in ("lower", "upper") and self._smooth(s.index)]
        if self.splits is None and not smooth:
            return None
        rates = self.low.new_ones(self.domains, 1, self.layout.total)
        for segment in self.layout.segments:
            if segment.kind == "logit":
                self.layout.part(rates, segment).fill_(self.conjunction.rate)  # type: ignore[union-attr]
            elif segment.kind == "beta":
                readers = [i for i in self.plan.consumers[segment.index] if i in trace.positive]
                sizes = [flattened(trace.magnitude(i), 1).mean(1) for i in readers]
                size = torch.stack(torch.broadcast_tensors(*sizes)).sum(0) if sizes else self.low.new_ones(1)
                step = (multiplier_rate * size).clamp(min=1e-12).expand(self.domains)
                rates[:, 0, segment.start : segment.start + segment.size] = step.unsqueeze(1)
        for segment in smooth:
            width = self.layout.part(self.high, segment) - self.layout.part(self.low, segment)
            width = torch.nan_to_num(width, nan=1.0, posinf=1.0).clamp(0.0, 1.0)
            self.layout.part(rates, segment).copy_((SMOOTH_SHARE * width).expand(self.domains, 1, -1))
        return rates

    def _smooth(self, index: int) -> bool:
        operator = self.plan.operators[index]
        return isinstance(operator, Univariate) and not operator.piecewise_linear

    def gradient(
        self,
        trace: Trace,
        lines: Mapping[int, Lines],
        out: Tensor,
        keep: Collection[int] | None = None,
        flat: Tensor | None = None,
    ) -> dict[int, Tensor]:
        """Write the gradient of every bound to ``out`` [domains, rows, total] and use the trace up.

        Returns the values at the minimiser, ``[domains, rows, *shape]``; only those in ``keep`` are sure to be there.
        With a conjunction, or with weights of planes, it needs the parameters ``flat`` of the bound.
        """
        views = self._views(out)
        weights = None if flat is None else self.weights(flat)
        operands: dict[int, Tensor] = {}

        def visit(value: int, z: Tensor) -> None:
            for position in self._reading.get(value, ()):
                segment, view = self.layout.segments[position], views[position]
                if segment.kind == "beta":
                    sign, point = self.splits.sign[value], self.splits.point[value]  # type: ignore[union-attr]
                    torch.mul(point.unsqueeze(1) - z, sign.unsqueeze(1), out=view)
                elif segment.kind == "logit":
                    assert self.conjunction is not None and weights is not None
                    view.copy_(self.conjunction.derivative(weights, z))
                elif segment.kind == "plane":
                    assert flat is not None
                    operands[value] = z
                    if value == max(self.plan.graph.nodes[segment.index].inputs):
                        view.copy_(self._plane_gradient(segment, trace, operands, flat))
                else:
                    self._slope_gradient(segment, trace, lines[segment.index], z, view)

        return selected_values(
            self.plan, self.target, trace, lines, self.inputs, visit=visit, keep=keep,
            whole=self.conjunction is not None,
        )  # fmt: skip

    def _slope_gradient(self, segment: Segment, trace: Trace, lines: Lines, z: Tensor, out: Tensor) -> None:
        index = segment.index
        if index in self.gaps:
            z = narrow_part(z, lines)[1]
        weight = trace.positive.get(index) if segment.kind == "lower" else trace.below(index)
        if weight is None:  # no row reaches the node
            out.zero_()
            return
        operator = self.plan.operators[index]
        if segment.kind == "lower" and operator.name in THROUGH_ORIGIN:
            torch.mul(weight, z, out=out)
            return
        side = 0 if segment.kind == "lower" else 1
        few = self._few(lines)
        chosen = (few.lower_slopes[0], few.upper_slopes[0])[side]
        known = self._attained.get(index)
        if known is not None and known[side] is chosen:
            torch.mul(weight, z - known[2][side], out=out)
            return
        assert isinstance(operator, Univariate)
        support = (relaxation.lower_support, relaxation.upper_support)[side]
        _, point = support(operator, self.plan.prepared[index], chosen, *(end.unsqueeze(1) for end in self._box(index)))
        torch.mul(weight, z - point, out=out)

    def _plane_gradient(self, segment: Segment, trace: Trace, z: Mapping[int, Tensor], flat: Tensor) -> Tensor:
        """How the planes move at fixed values of their operands, which is how the bound does."""
        index, part = segment.index, self.layout.part(flat, segment)
        below = trace.below(index)
        if below is None:  # no row reaches the node
            return torch.zeros_like(part)
        values = (z[i] for i in self.plan.graph.nodes[index].inputs)
        sides = trace.positive[index], below
        found = self.weighted[index].gradient(self._weights(index, part), sides, *values)
        return torch.cat([side.expand(*part.shape[:2], *side.shape[2:]).flatten(2) for side in found], 2)


def _with_lower(base: Lines, slope: Tensor, gap: Gap | None = None) -> Lines:
    """Lines through the origin with another lower slope; ``dataclasses.replace`` takes three times as long."""
    return Lines((slope,), None, base.upper_slopes, base.upper_offset, None, True, gap)


def _above_relaxed(plan: Plan, target: int) -> dict[int, Extent | None]:
    """Where rows of single elements stay such: from the target to the first relaxed nodes, no further."""
    first = max(plan.relaxed_below(target), default=-1)
    found = plan.extents(target)
    return {i: e if i > first and e == ELEMENT else None for i, e in found.items()}
