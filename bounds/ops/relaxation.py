"""Linear bounds of a function of one variable: a slope is chosen, its offset is computed (DESIGN 5).

For ``f`` on ``[l, u]`` and any slope ``k`` the best upper line is ``k x + b`` with
``b = max over [l, u] of f(x) - k x``; the best lower line takes the minimum. The extremum lies at an end,
at a break point or where ``f'(x) = k``, and the record lists those points. So every slope is sound, and
``db/dk = -x*`` where ``x*`` attains the extremum.

Shapes: boxes ``[domains, *sample]`` or ``[domains, 1, *sample]`` and slopes broadcast against them.
Offsets are rounded outward in the working type; in float64 they bound the real function.

An open end (the strict side of a split at a jump) is the adjacent number, ``open_end``: the slack of
every offset covers the missing ulp because the function is continuous there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, reduce

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Box, Prepared, Univariate

Lines = tuple[Tensor, Tensor, Tensor, Tensor]
Found = tuple[Tensor, Tensor, Tensor, Tensor]
VALUE_ULPS = 4.0  # elementary functions of torch are within 1 to 3 ulps of the real value
SEARCH_STEPS = 12


def outward(lower: Tensor, upper: Tensor, ulps: float = VALUE_ULPS) -> Box:
    """Widen computed ends by ``ulps`` ulps of their size; NaN becomes an infinite end."""
    info = torch.finfo(lower.dtype)
    low = lower - (lower.abs() * (ulps * info.eps) + info.tiny)
    high = upper + (upper.abs() * (ulps * info.eps) + info.tiny)
    return _round_down(low), _round_up(high)


def open_end(point: Tensor, toward: Tensor) -> Tensor:
    """The adjacent number: stands for the open end ``point`` of a box that extends to ``toward``.

    Next to 0 it is the smallest normal number, which no accelerator flushes to zero.
    """
    tiny = torch.finfo(point.dtype).tiny
    step = torch.nextafter(point, toward)
    return torch.where(point == 0, torch.sign(toward - point) * tiny, step)


def upper_offset(op: Univariate, p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """``max over [lower, upper] of f(x) - slope x``, rounded up; +inf where nothing finite is known."""
    found = _values(op, p, slope, lower, upper)
    return _round_up(
        reduce(torch.maximum, (high - _product(slope, x) + slack for x, _, high, slack in found))
    )


def lower_offset(op: Univariate, p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """``min over [lower, upper] of f(x) - slope x``, rounded down; -inf where nothing finite is known."""
    found = _values(op, p, slope, lower, upper)
    return _round_down(
        reduce(torch.minimum, (low - _product(slope, x) - slack for x, low, _, slack in found))
    )


def upper_support(op: Univariate, p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Box:
    """``(upper_offset, point)``: the point attains the maximum, so ``d offset / d slope = -point``."""
    found = _values(op, p, slope, lower, upper)
    tried = ((high - _product(slope, x) + slack, x) for x, _, high, slack in found)
    offset, point = reduce(partial(_better, torch.gt), tried)
    return _round_up(offset), point


def lower_support(op: Univariate, p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Box:
    """``(lower_offset, point)``: the point attains the minimum, so ``d offset / d slope = -point``."""
    found = _values(op, p, slope, lower, upper)
    tried = ((low - _product(slope, x) - slack, x) for x, low, _, slack in found)
    offset, point = reduce(partial(_better, torch.lt), tried)
    return _round_down(offset), point


def image(op: Univariate, p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    """Interval image of any record: its offsets at slope 0."""
    zero = torch.zeros((), dtype=lower.dtype, device=lower.device)
    return lower_offset(op, p, zero, lower, upper), upper_offset(op, p, zero, lower, upper)


def record(
    name: str,
    evaluate: Callable,
    candidates: Callable,
    derivative: Callable,
    *,
    limits: Callable | tuple[float, float] | None = None,
    **fields,
) -> Univariate:
    """A record whose interval is its own support function at slope 0, cut to the range of f (``limits``)."""
    fields.setdefault("breakpoints", lambda p: ())

    def interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
        low, high = image(bounded, p, lower, upper)
        found = limits(p) if callable(limits) else limits
        return (low, high) if found is None else (low.clamp(*found), high.clamp(*found))

    bounded = Univariate(
        name=name,
        evaluate=evaluate,
        interval=interval,
        candidates=candidates,
        derivative=derivative,
        **fields,
    )
    return bounded


@torch.no_grad()
def starting_slopes(op: Univariate, p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    """Slopes of the least-area lower and upper line: they support the envelopes at the midpoint."""
    if op.start is not None and (known := op.start(p, lower, upper)) is not None:
        return known
    return (
        _envelope_slope(op, p, lower, upper, lower_support, torch.gt),
        _envelope_slope(op, p, lower, upper, upper_support, torch.lt),
    )


@torch.no_grad()
def slope_range(op: Univariate, p: Prepared, lower: Tensor, upper: Tensor) -> Lines:
    """``(lower_min, lower_max, upper_min, upper_max)``: slopes outside give lines that others dominate.

    The non-dominated lines support an envelope; its slopes run between its one-sided derivatives at the
    two ends. They are found by Newton steps from the chord and serve as projection limits only.
    """
    if op.slopes is not None and (known := op.slopes(p, lower, upper)) is not None:
        return known
    found = [
        _end_slope(op, p, lower, upper, lower, lower_support, torch.minimum),
        _end_slope(op, p, lower, upper, upper, lower_support, torch.maximum),
        _end_slope(op, p, lower, upper, upper, upper_support, torch.minimum),
        _end_slope(op, p, lower, upper, lower, upper_support, torch.maximum),
    ]
    # On a box of few numbers a difference quotient is noise: the constant line and the chord bound the range.
    zero = torch.zeros_like(lower)
    chord = _chord(lower, op.evaluate(p, lower) + zero, upper, op.evaluate(p, upper) + zero, zero)
    narrow = (
        upper - lower <= torch.maximum(lower.abs(), upper.abs()) * 1e-7 + torch.finfo(lower.dtype).tiny ** 0.5
    )
    first, last, top_last, top_first = (
        torch.where(narrow, limit, slope)
        for slope, limit in zip(found, (chord.clamp(max=0.0), chord.clamp(min=0.0)) * 2, strict=True)
    )
    return first, torch.maximum(first, last), top_last, torch.maximum(top_last, top_first)


def lines(
    op: Univariate,
    p: Prepared,
    lower: Tensor,
    upper: Tensor,
    lower_slope: Tensor | None = None,
    upper_slope: Tensor | None = None,
) -> Lines:
    """``(kl, bl, ku, bu)`` with ``kl x + bl <= f(x) <= ku x + bu`` on ``[lower, upper]``.

    Slopes that are not given are the starting slopes. Where the function is exactly linear on the box,
    both lines are that line without slack, whatever slopes are given; where nothing finite is known at
    the slope, the line is constant (and possibly infinite). Never NaN.
    """
    if op.lines is not None:
        return op.lines(p, lower, upper, lower_slope, upper_slope)
    return generic_lines(op, p, lower, upper, lower_slope, upper_slope)


def generic_lines(
    op: Univariate,
    p: Prepared,
    lower: Tensor,
    upper: Tensor,
    lower_slope: Tensor | None = None,
    upper_slope: Tensor | None = None,
) -> Lines:
    """``lines`` without the record's closed form."""
    if lower_slope is None or upper_slope is None:
        start = starting_slopes(op, p, lower, upper)
        lower_slope = start[0] if lower_slope is None else lower_slope
        upper_slope = start[1] if upper_slope is None else upper_slope
    bl = lower_offset(op, p, lower_slope, lower, upper)
    bu = upper_offset(op, p, upper_slope, lower, upper)
    low, high = op.interval(p, lower, upper) if _needs_constant(bl, bu) else (bl, bu)
    kl, bl = _or_constant(lower_slope, bl, low)
    ku, bu = _or_constant(upper_slope, bu, high)
    if op.linear is None:
        return kl, bl, ku, bu
    return exactly_linear(op.linear(p, lower, upper), kl, bl, ku, bu)


def supported_lines(
    op: Univariate, p: Prepared, lower: Tensor, upper: Tensor, lower_slope: Tensor, upper_slope: Tensor
) -> tuple[Lines, Box]:
    """``generic_lines`` at given slopes, and the points that attain the lower and the upper offset."""
    bl, below = lower_support(op, p, lower_slope, lower, upper)
    bu, above = upper_support(op, p, upper_slope, lower, upper)
    low, high = op.interval(p, lower, upper) if _needs_constant(bl, bu) else (bl, bu)
    found = (*_or_constant(lower_slope, bl, low), *_or_constant(upper_slope, bu, high))
    return (found if op.linear is None else exactly_linear(op.linear(p, lower, upper), *found)), (below, above)


def exactly_linear(known: tuple, kl: Tensor, bl: Tensor, ku: Tensor, bu: Tensor) -> Lines:
    """Replace both lines by the function's own line on the boxes where it is linear."""
    where, slope, offset = known
    slope = torch.as_tensor(slope, dtype=kl.dtype, device=kl.device)
    offset = torch.as_tensor(offset, dtype=kl.dtype, device=kl.device)
    return (
        torch.where(where, slope, kl),
        torch.where(where, offset, bl),
        torch.where(where, slope, ku),
        torch.where(where, offset, bu),
    )


def _values(op: Univariate, p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Iterator[Found]:
    """All points that may attain an extremum: (point, low, high, slack), points inside the box.

    Candidate points carry no gradient: at a stationary point the derivative through it is 0, and at a
    clamped one it flows through the end of the box.
    """
    yield _measured(op, p, slope, lower)
    yield _measured(op, p, slope, upper)
    with torch.no_grad():
        found = op.candidates(p, slope.detach(), lower.detach(), upper.detach())
    at_lower = None
    for point, low, high in found:
        point = torch.as_tensor(point, dtype=lower.dtype, device=lower.device)
        # Ties go to the end of the box, which carries the gradient.
        place = torch.where(point <= lower, lower, torch.where(point >= upper, upper, point))
        if low is None:
            # A NaN point says that nothing is known: its value spoils the offset, its place does not matter.
            _, value, _, slack = _measured(op, p, slope, place)
            place = torch.where(place.isnan(), lower, place)
            yield place, value, value, slack if high is None else slack + high
            continue
        # A given pair of values belongs to the point itself: outside the box the end stands in.
        inside = (point >= lower) & (point <= upper)
        at_lower = op.evaluate(p, lower) if at_lower is None else at_lower
        place = torch.where(inside, place, lower)
        low = torch.where(inside, torch.as_tensor(low, dtype=lower.dtype, device=lower.device), at_lower)
        high = torch.where(inside, torch.as_tensor(high, dtype=lower.dtype, device=lower.device), at_lower)
        size = torch.maximum(low.abs(), high.abs())
        yield place, low, high, _slack(op, p, slope, place, size)


def _measured(op: Univariate, p: Prepared, slope: Tensor, point: Tensor) -> Found:
    value = op.evaluate(p, point)
    return point, value, value, _slack(op, p, slope, point, value)


@torch.no_grad()
def _slack(op: Univariate, p: Prepared, slope: Tensor, point: Tensor, value: Tensor) -> Tensor:
    """Error of ``f(x) - slope x`` as computed: of f, of the product and of the difference.

    None in float32, which proves nothing, for smooth operators within a few ulps: this is a third of the cost of a
    line. Between break points it decides ties.
    """
    if point.dtype == torch.float32 and not op.piecewise_linear and op.error is None:
        return value.new_zeros(())
    info = torch.finfo(point.dtype)
    size = value.abs()
    error = size * (VALUE_ULPS * info.eps) + info.tiny if op.error is None else op.error(p, point, value)
    product = _product(slope, point).abs()
    rounding = ((size + product) * (2 * info.eps)).masked_fill(product == 0, 0.0)
    return error + rounding + (point != 0).to(point.dtype) * info.tiny


def _product(slope: Tensor, point: Tensor) -> Tensor:
    """``slope * point`` where slope 0 times an infinite end is 0."""
    return (slope * point).masked_fill(slope == 0, 0.0)


def _better(compare: Callable, best: Box, other: Box) -> Box:
    """Elementwise the better (value, point); a value that is NaN wins, so that it is not overlooked."""
    take = compare(other[0], best[0]) | other[0].isnan()
    return torch.where(take, other[0], best[0]), torch.where(take, other[1], best[1])


def _round_up(value: Tensor) -> Tensor:
    """NaN is +inf, and an upper bound that overflowed downwards is the most negative number."""
    return torch.nan_to_num(value, nan=torch.inf, posinf=torch.inf, neginf=torch.finfo(value.dtype).min)


def _round_down(value: Tensor) -> Tensor:
    return torch.nan_to_num(value, nan=-torch.inf, neginf=-torch.inf, posinf=torch.finfo(value.dtype).max)


def _needs_constant(bl: Tensor, bu: Tensor) -> bool:
    return not bool((torch.isfinite(bl).all() & torch.isfinite(bu).all()).item())


def _or_constant(slope: Tensor, offset: Tensor, constant: Tensor) -> Box:
    fine = torch.isfinite(offset) & torch.isfinite(slope)
    return torch.where(fine, slope, 0.0), torch.where(fine, offset, constant)


def _chord(left: Tensor, low: Tensor, right: Tensor, high: Tensor, otherwise: Tensor) -> Tensor:
    """Slope of the chord, ``otherwise`` where the points coincide or it is not finite."""
    slope = (high - low) / (right - left)
    return torch.where((right > left) & torch.isfinite(slope), slope, otherwise)


def _envelope_slope(
    op: Univariate, p: Prepared, lower: Tensor, upper: Tensor, support: Callable, better: Callable
) -> Tensor:
    """Minimise the convex ``offset(k) + k m`` over k: cutting planes on two contact points around m.

    The contact points left and right of the midpoint span the next slope; the step is exact when the
    envelope is straight there, and Newton's when one contact point is an end. The tangent at m comes first.
    The envelope at m lies between the line tried and both f and the chord of the contact points, so the
    search ends when no element can gain another thousandth of its area.
    """
    middle = 0.5 * lower + 0.5 * upper
    zero = torch.zeros_like(middle)
    left, right = lower, upper
    low, high = op.evaluate(p, lower) + zero, op.evaluate(p, upper) + zero
    value = op.evaluate(p, middle) + zero
    noise = 16 * torch.finfo(lower.dtype).eps * (low.abs() + high.abs() + value.abs())
    slope = _chord(left, low, right, high, zero)
    if op.derivative is not None:
        tangent = op.derivative(p, middle)
        slope = torch.where(torch.isfinite(tangent), tangent, slope)
    best, best_top = slope, None
    for _ in range(SEARCH_STEPS):
        offset, point = support(op, p, slope, lower, upper)
        top = offset + slope * middle
        take = better(top, top if best_top is None else best_top)
        best, best_top = (
            torch.where(take, slope, best),
            torch.where(take, top, top if best_top is None else best_top),
        )
        at = offset + slope * point
        beyond = point >= middle
        right, high = torch.where(beyond, point, right), torch.where(beyond, at, high)
        left, low = torch.where(beyond, left, point), torch.where(beyond, low, at)
        slope = _chord(left, low, right, high, slope)
        reached = (low + slope * (middle - left) - best_top).abs()
        area = (best_top - value).abs()
        # NaN compares as done: there is nothing to search where nothing is known.
        if not (torch.minimum(reached, area) > 1e-3 * area + noise).any():
            break
    return torch.where((upper > lower) & torch.isfinite(best), best, zero)


def _end_slope(
    op: Univariate,
    p: Prepared,
    lower: Tensor,
    upper: Tensor,
    end: Tensor,
    support: Callable,
    extreme: Callable,
) -> Tensor:
    """One-sided derivative of an envelope at ``end``: Newton steps, each a chord from the end."""
    zero = torch.zeros_like(lower)
    value = op.evaluate(p, end) + zero
    slope = _chord(lower, op.evaluate(p, lower) + zero, upper, op.evaluate(p, upper) + zero, zero)
    if op.derivative is not None:
        tangent = op.derivative(p, end)
        slope = torch.where(torch.isfinite(tangent), extreme(slope, tangent), slope)
    for _ in range(6):
        offset, point = support(op, p, slope, lower, upper)
        step = (offset + slope * point - value) / (point - end)
        further = torch.where(torch.isfinite(step), extreme(slope, step), slope)
        settled = (further - slope).abs() <= 1e-3 * slope.abs()
        slope = further
        if settled.all():
            break
    return slope
