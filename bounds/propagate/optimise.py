"""Optimised slopes (alpha) and split multipliers (beta) with gradients in closed form.

A bound is concave piecewise in its slopes and multipliers. At the minimiser x* of the concretised row one forward pass
through the *selected* lines gives values z; then (DESIGN 4)
``d bound / d kl = max(a,0) (z - xl)``, ``d bound / d ku = min(a,0) (z - xu)``, ``d bound / d beta = -s (z - p)``
where xl, xu attain the offsets. So a step is one backward and one forward pass and keeps no autograd graph
(alpha-CROWN, arXiv 2011.13824; beta-CROWN, arXiv 2103.06624, compute the same by autograd).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from provenn.bounds.ops import relaxation
from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.backward import Trace, backward
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import THROUGH_ORIGIN, Lines, relax
from provenn.bounds.propagate.plan import Plan


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

    kind: str  # "lower", "upper" (slopes of a node) or "beta" (multipliers of a value)
    index: int
    start: int
    size: int


@dataclass(frozen=True)
class Layout:
    """The flat parameter axis of one target: slopes of every elementwise node, then multipliers of every value."""

    segments: tuple[Segment, ...]
    total: int

    def view(self, flat: Tensor, segment: Segment, shape: tuple[int, ...]) -> Tensor:
        """The segment's part of ``[domains, rows, total]`` as ``[domains, rows, *shape]``."""
        part = flat[:, :, segment.start : segment.start + segment.size]
        return part.view(*flat.shape[:2], *shape)


def layout(plan: Plan, target: int, multiplied: tuple[int, ...] = ()) -> Layout:
    """Slopes for each elementwise relaxed node below the target, multipliers for the ``multiplied`` values."""
    segments, start = [], 0
    for index in reversed(plan.relaxed_below(target)):
        operator = plan.operators[index]
        if not isinstance(operator, Univariate):
            continue
        for kind in ("lower",) if chord_above(operator) else ("lower", "upper"):
            segments.append(Segment(kind, index, start, plan.size(index)))
            start += plan.size(index)
    for value in multiplied:
        segments.append(Segment("beta", value, start, plan.size(value)))
        start += plan.size(value)
    return Layout(tuple(segments), start)


def chord_above(operator: Univariate) -> bool:
    """Convex piecewise linear with one break point: the chord dominates every other upper line."""
    return operator.name in THROUGH_ORIGIN


@dataclass
class Optimised:
    """Best bounds ``[domains, rows]`` and the parameters ``[domains, rows, total]`` of the last step that improved.

    ``values`` are the means of recent values at the minimisers, ``minimiser`` the last one at the inputs.
    """

    bound: Tensor
    parameters: Tensor
    minimiser: dict[int, Tensor]
    trace: Trace
    values: dict[int, Tensor]
    lines: dict[int, Lines]


class Objective:
    """Bounds of rows on one target over fixed boxes, as a function of flat parameters."""

    def __init__(
        self,
        plan: Plan,
        target: int,
        rows: Tensor,
        boxes: Mapping[int, Box],
        inputs: Mapping[int, Box],
        splits: Splits | None = None,
    ):
        self.plan, self.target, self.rows, self.boxes, self.inputs = plan, target, rows, boxes, inputs
        self.splits = splits
        self.layout = layout(plan, target, tuple(splits.sign) if splits else ())
        self.domains = max([rows.shape[0]] + [b[0].shape[0] for b in inputs.values()])
        self.base = {index: relax(plan, index, boxes) for index in plan.relaxed_below(target)}
        self.low, self.high = self._ranges()

    def _ranges(self) -> tuple[Tensor, Tensor]:
        """Admissible parameters, each ``[1|domains, 1, total]``."""
        lows, highs = [], []
        for segment in self.layout.segments:
            if segment.kind == "beta":
                sign = self.splits.sign[segment.index]  # type: ignore[union-attr]
                low = torch.zeros_like(sign)
                high = torch.where(sign != 0, torch.inf, 0.0).to(sign.dtype)
            else:
                operator, prepared = self.plan.operators[segment.index], self.plan.prepared[segment.index]
                lower, upper = self.boxes[self.plan.graph.nodes[segment.index].inputs[0]]
                ranges = relaxation.slope_range(operator, prepared, lower, upper)  # type: ignore[arg-type]
                low, high = ranges[:2] if segment.kind == "lower" else ranges[2:]
            lows.append(low.flatten(1))
            highs.append(high.flatten(1))
        if not lows:
            empty = self.rows.new_zeros(1, 1, 0)
            return empty, empty
        domains = max(t.shape[0] for t in lows)
        join = lambda parts: torch.cat([t.expand(domains, -1) for t in parts], 1).unsqueeze(1)  # noqa: E731
        return join(lows), join(highs)

    def start(self) -> Tensor:
        """Starting parameters: the starting slopes, multipliers 0. Shape ``[domains, rows, total]``."""
        count = self.rows.shape[1]
        flat = self.rows.new_zeros(self.domains, count, self.layout.total)
        for segment in self.layout.segments:
            if segment.kind != "beta":
                lines = self.base[segment.index]
                slope = (lines.lower_slopes if segment.kind == "lower" else lines.upper_slopes)[0]
                self.layout.view(flat, segment, self.plan.shape(segment.index)).copy_(slope)
        return flat

    def lines(self, flat: Tensor) -> dict[int, Lines]:
        """Lines with the slopes of the parameters; offsets follow from the slopes."""
        result = dict(self.base)
        slopes: dict[int, dict[str, Tensor]] = {}
        for segment in self.layout.segments:
            if segment.kind != "beta":
                view = self.layout.view(flat, segment, self.plan.shape(segment.index))
                slopes.setdefault(segment.index, {})[segment.kind] = view
        for index, given in slopes.items():
            base = self.base[index]
            if "upper" not in given:
                if self.plan.operators[index].name in THROUGH_ORIGIN:
                    result[index] = replace(base, lower_slopes=(given["lower"],))
                    continue
            result[index] = relax(self.plan, index, self.boxes, (given.get("lower"), given.get("upper")))
        return result

    def multipliers(self, flat: Tensor) -> dict[int, tuple[Tensor, Tensor]] | None:
        """What ``backward`` takes: signed multipliers and the constant they add."""
        if self.splits is None:
            return None
        result = {}
        for segment in self.layout.segments:
            if segment.kind == "beta":
                beta = self.layout.view(flat, segment, self.plan.shape(segment.index))
                signed = beta * self.splits.sign[segment.index].unsqueeze(1)
                result[segment.index] = (signed, (signed * self.splits.point[segment.index].unsqueeze(1)).flatten(2).sum(-1))
        return result

    def bound(self, flat: Tensor, trace: Trace | None = None, error=None) -> tuple[Tensor, dict[int, Lines]]:
        lines = self.lines(flat)
        multipliers = self.multipliers(flat)
        value = backward(
            self.plan, self.target, self.rows, lines, self.inputs, multipliers=multipliers, trace=trace, error=error
        )
        return value, lines

    def gradient(self, trace: Trace, lines: Mapping[int, Lines], out: Tensor) -> dict[int, Tensor]:
        """Write the gradient of every bound to ``out`` [domains, rows, total]; return values at the minimiser."""
        values = selected_values(self.plan, self.target, trace, lines, self.inputs)
        for segment in self.layout.segments:
            view = self.layout.view(out, segment, self.plan.shape(segment.index))
            if segment.kind == "beta":
                sign, point = self.splits.sign[segment.index], self.splits.point[segment.index]  # type: ignore[union-attr]
                torch.mul(point.unsqueeze(1) - values[segment.index], sign.unsqueeze(1), out=view)
                continue
            operand = self.plan.graph.nodes[segment.index].inputs[0]
            z = values[operand]
            if segment.kind == "lower" and self.plan.operators[segment.index].name in THROUGH_ORIGIN:
                torch.mul(trace.positive[segment.index], z, out=view)
                continue
            lower, upper = self.boxes[operand]
            support = relaxation.lower_support if segment.kind == "lower" else relaxation.upper_support
            chosen = lines[segment.index].lower_slopes[0] if segment.kind == "lower" else lines[segment.index].upper_slopes[0]
            _, point = support(
                self.plan.operators[segment.index],  # type: ignore[arg-type]
                self.plan.prepared[segment.index],
                chosen,
                lower.unsqueeze(1),
                upper.unsqueeze(1),
            )
            weight = trace.positive if segment.kind == "lower" else trace.negative
            torch.mul(weight[segment.index], z - point, out=view)
        return values


def selected_values(
    plan: Plan,
    target: int,
    trace: Trace,
    lines: Mapping[int, Lines],
    inputs: Mapping[int, Box],
    whole: bool = False,
) -> dict[int, Tensor]:
    """Values z ``[domains, rows, *shape]`` at each row's minimiser, through the lines the row selected.

    ``whole`` evaluates up to the target; otherwise linear nodes that no relaxed node reads are left out.
    """
    values: dict[int, Tensor] = {}
    order = plan.order(target)
    needed = set(order) if whole else _read_by_relaxed(plan, target)
    for index in reversed(order):
        if index not in needed:
            continue
        node = plan.graph.nodes[index]
        if index in inputs:
            a = trace.inputs.get(index)
            lower, upper = (b.unsqueeze(1) for b in inputs[index])
            values[index] = upper + torch.sign(a.clamp(min=0)) * (lower - upper) if a is not None else lower
        elif plan.linear[index]:
            operands = [values[i] for i in node.inputs]
            if not operands:
                values[index] = plan.operators[index].evaluate(plan.prepared[index]).unsqueeze(1)
                continue
            domains, rows = max(t.shape[0] for t in operands), max(t.shape[1] for t in operands)
            flat = [t.expand(domains, rows, *t.shape[2:]).reshape(domains * rows, *t.shape[2:]) for t in operands]
            result = plan.operators[index].evaluate(plan.prepared[index], *flat)
            values[index] = result.view(domains, rows, *node.shape)
        else:
            values[index] = _selected(node.inputs, trace.positive.get(index), lines[index], values)
    return values


def _selected(operands: tuple[int, ...], positive: Tensor | None, lines: Lines, values: dict[int, Tensor]) -> Tensor:
    low = _line(operands, lines.lower_slopes, lines.lower_offset, lines, values)
    if positive is None:
        return low
    high = _line(operands, lines.upper_slopes, lines.upper_offset, lines, values)
    return high + torch.sign(positive) * (low - high)


def _line(operands, slopes, offset, lines: Lines, values) -> Tensor:  # noqa: ANN001
    total = offset
    for operand, slope in zip(operands, slopes):
        z = values[operand]
        term = slope * z if lines.window is None else (slope * lines.window.gather(z)).sum(-1)
        total = term if total is None else total + term
    return total


def _read_by_relaxed(plan: Plan, target: int) -> set[int]:
    needed: set[int] = set()
    for index in plan.order(target):
        if index in needed or not plan.linear[index]:
            needed.add(index)
            if index not in plan.opaque:
                needed.update(plan.graph.nodes[index].inputs)
    return needed


# Weight of the latest minimiser in the running mean of minimisers: a subgradient method's averaged minimisers approach the
# minimiser of the linear program, single ones jump between its corners.
RECENT = 0.3


@dataclass(frozen=True)
class Schedule:
    """How a bound is improved: steps, step sizes (fractions of a slope, units of a multiplier), decay per step."""

    steps: int = 20
    slope_rate: float = 0.25
    multiplier_rate: float = 0.1
    decay: float = 0.95


def optimise(
    objective: Objective,
    schedule: Schedule,
    *,
    start: Tensor | None = None,
    threshold: Tensor | float = torch.inf,
    any_row: bool = False,
) -> Optimised:
    """Improve the lower bounds of an objective by projected Adam steps on its flat parameters.

    Stops early once every bound exceeds its ``threshold`` ([domains, rows] or a number); with ``any_row`` once one row
    of every domain does. The bound returned for a
    row is the best one seen, the parameters are those that gave it.
    """
    flat = objective.start() if start is None else start.clone()
    rate = flat.new_empty(objective.layout.total)
    for segment in objective.layout.segments:
        rate[segment.start : segment.start + segment.size] = (
            schedule.multiplier_rate if segment.kind == "beta" else schedule.slope_rate
        )
    gradient, first, second = torch.zeros_like(flat), torch.zeros_like(flat), torch.zeros_like(flat)
    best: Tensor | None = None
    best_flat = flat
    mean: dict[int, Tensor] | None = None
    for step in range(schedule.steps + 1):
        trace = Trace()
        bound, lines = objective.bound(flat, trace)
        if best is None:
            best, best_flat = bound.clone(), flat.clone()
        else:
            improved = bound > best
            best_flat[improved] = flat[improved]
            best = torch.fmax(best, bound)
        if step == schedule.steps or flat.shape[-1] == 0:
            break
        decided = best > threshold
        if bool((decided.any(1) if any_row else decided).all()):
            break
        at_minimiser = objective.gradient(trace, lines, gradient)
        if mean is None:
            mean = {i: v.clone() for i, v in at_minimiser.items()}
        else:
            for index, value in mean.items():
                value.lerp_(at_minimiser[index], RECENT)
        _adam_step(flat, gradient, first, second, rate * schedule.decay**step, step + 1)
        torch.maximum(flat, objective.low, out=flat)
        torch.minimum(flat, objective.high, out=flat)
    values = selected_values(objective.plan, objective.target, trace, lines, objective.inputs)
    minimiser = {i: values[i] for i in objective.inputs if i in values}
    if mean is not None:
        values = {i: m.lerp_(values[i], RECENT) for i, m in mean.items()}
    assert best is not None  # the first step always bounds
    return Optimised(best, best_flat, minimiser, trace, values, lines)


def _adam_step(flat: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: Tensor, step: int) -> None:
    """One ascent step of Adam (Kingma & Ba, arXiv 1412.6980), in place."""
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    denominator = second.sqrt().mul_((1 - 0.999**step) ** -0.5).add_(1e-12)
    flat.add_(rate * first.div(denominator).mul_(1 / (1 - 0.9**step)))
