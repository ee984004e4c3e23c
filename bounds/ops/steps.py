"""Clarke derivatives of functions with kinks: they jump where the function bends.

At a jump a record takes the limit of each side that its box extends to, so on ``[l, 0]`` and on ``[0, u]`` a step is
constant. That is right for a.e. derivatives: at almost every input either the operand is not 0 or its own gradient
vanishes, and then it does not matter what that is multiplied by. A box of the break point alone holds all between both
limits. ``evaluate`` takes the left limit, as automatic differentiation does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Box, Prepared, Univariate
from provenn.bounds.ops.relaxation import Lines, image

Candidates = list[tuple]


def _exact_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    return torch.zeros_like(value)


def _sides(point: Tensor | float, lower: Tensor, upper: Tensor, left: Tensor, right: Tensor) -> Box:
    """Least and largest limit at a jump of the sides that the box extends to, of both where it is the jump alone."""
    alone = (lower == point) & (upper == point)
    has_left, has_right = (lower < point) | alone, (upper > point) | alone
    left, right = torch.broadcast_tensors(left, right)
    low = torch.minimum(torch.where(has_left, left, torch.inf), torch.where(has_right, right, torch.inf))
    high = torch.maximum(torch.where(has_left, left, -torch.inf), torch.where(has_right, right, -torch.inf))
    return torch.where(low <= high, low, left), torch.where(low <= high, high, left)


# -- one jump at 0: relu, leaky_relu, prelu, abs ------------------------------------------------------------


def _step(p: Prepared, x: Tensor) -> Tensor:
    return torch.where(x > 0, p.tensors["right"], p.tensors["left"])


def _step_interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    left, right = p.tensors["left"], p.tensors["right"]
    above, below = (lower >= 0) & (upper > 0), (upper <= 0) & (lower < 0)
    low, high = torch.minimum(left, right), torch.maximum(left, right)
    return (
        torch.where(above, right, torch.where(below, left, low)),
        torch.where(above, right, torch.where(below, left, high)),
    )


def _step_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    return [(0.0, *_sides(0.0, lower, upper, p.tensors["left"], p.tensors["right"]))]


def _step_hulls(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Box, Box]:
    """Slopes of the two straight parts of the lower and of the upper hull, left and right of 0; 0 where it is flat."""
    rise = p.tensors["right"] - p.tensors["left"]
    unstable = (lower < 0) & (upper > 0)
    before = rise / -torch.where(lower < 0, lower, -1.0)
    after = rise / torch.where(upper > 0, upper, 1.0)
    before = torch.where(unstable & torch.isfinite(before), before, 0.0)
    after = torch.where(unstable & torch.isfinite(after), after, 0.0)
    up = rise > 0
    below = torch.where(up, 0.0, before), torch.where(up, after, 0.0)
    above = torch.where(up, before, 0.0), torch.where(up, 0.0, after)
    return below, above


def _step_start(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    """Constant lines: planes of products with a step are then between 0 and the other factor. Tilted ones of least area
    leave the range of the step, and a product's planes with it (docs/decisions.md has the figures)."""
    zero = torch.zeros_like(lower)
    return zero, zero


def _step_slopes(p: Prepared, lower: Tensor, upper: Tensor) -> Lines:
    below, above = _step_hulls(p, lower, upper)
    return (
        torch.minimum(*below),
        torch.maximum(*below),
        torch.minimum(*above),
        torch.maximum(*above),
    )


def _step_lines(
    p: Prepared, lower: Tensor, upper: Tensor, lower_slope: Tensor | None, upper_slope: Tensor | None
) -> Lines:
    """Offsets are attained at the ends of the box or at the limits at 0; on one side of 0 the function is constant."""
    low, high = _step_interval(p, lower, upper)
    if lower_slope is None or upper_slope is None:
        start = _step_start(p, lower, upper)
        lower_slope = start[0] if lower_slope is None else lower_slope
        upper_slope = start[1] if upper_slope is None else upper_slope
    left, right = p.tensors["left"], p.tensors["right"]
    crosses = (lower < 0) & (upper > 0) & (left != right)
    lines = []
    for slope, limit, better in ((lower_slope, low, torch.minimum), (upper_slope, high, torch.maximum)):
        k = torch.where(crosses, slope, 0.0)
        ends = []
        for end, value in ((lower, left), (upper, right)):
            product = (k * end).masked_fill(k == 0, 0.0)
            info = torch.finfo(product.dtype)
            slack = (value.abs() + product.abs()) * (4 * info.eps) + info.tiny
            slack = slack.masked_fill(k == 0, 0.0)
            ends.append(value - product + (slack if better is torch.maximum else -slack))
        offset = better(limit + torch.zeros_like(k), better(*ends))
        fine = torch.isfinite(offset) & torch.isfinite(k) & crosses
        lines += [torch.where(fine, k, 0.0), torch.where(fine, offset, limit)]
    return lines[0], lines[1], lines[2], lines[3]


def _step_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, float, Tensor]:
    low, high = _step_interval(p, lower, upper)
    return low == high, 0.0, low


STEP = Univariate(
    name="step",
    evaluate=_step,
    interval=_step_interval,
    constants=("left", "right"),
    candidates=_step_candidates,
    breakpoints=lambda p: (0.0,),
    piecewise_linear=True,
    error=_exact_error,
    linear=_step_linear,
    lines=_step_lines,
    start=_step_start,
    slopes=_step_slopes,
)
"""``left`` below 0, ``right`` above."""


# -- two jumps: clip and hard_swish -------------------------------------------------------------------------


def _pulse_limits(p: Prepared) -> list[Tensor]:
    return [p.tensors[name] for name in ("lower", "upper") if name in p.tensors]


def _pulse(p: Prepared, x: Tensor) -> Tensor:
    inside = torch.ones_like(x, dtype=torch.bool)
    if "lower" in p.tensors:
        inside = inside & (x > p.tensors["lower"])
    if "upper" in p.tensors:
        inside = inside & (x <= p.tensors["upper"])
    return inside.to(x.dtype)


def _pulse_sides(p: Prepared) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Every jump with its limits from the left and from the right; where no number is inside there is no jump."""
    found = []
    room: Tensor | bool = True
    if "lower" in p.tensors and "upper" in p.tensors:
        room = p.tensors["lower"] < p.tensors["upper"]
    for name, rises in (("lower", True), ("upper", False)):
        if name in p.tensors:
            point = p.tensors[name]
            one = torch.ones_like(point) * room
            zero = torch.zeros_like(point)
            found.append((point, zero, one) if rises else (point, one, zero))
    return found


def _pulse_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    return [(point, *_sides(point, lower, upper, left, right)) for point, left, right in _pulse_sides(p)]


def _pulse_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, float, Tensor]:
    """Constant on a box that no jump lies in, its ends apart; a jump alone is no such box."""
    flat = torch.ones_like(lower + upper, dtype=torch.bool)
    value = torch.ones_like(lower + upper)
    empty = None
    if "lower" in p.tensors and "upper" in p.tensors:
        empty = p.tensors["lower"] >= p.tensors["upper"]
    for name in ("lower", "upper"):
        if name in p.tensors:
            point = p.tensors[name]
            flat = flat & ~((lower < point) & (upper > point)) & ~((lower == point) & (upper == point))
            outside = (upper <= point) if name == "lower" else (lower >= point)
            value = torch.where(outside, 0.0, value)
    if empty is not None:
        flat, value = flat | empty, torch.where(empty, 0.0, value)
    return flat, 0.0, value


def _interval(record: Univariate):
    """The image over a box, from the line of the piece where the box lies in one."""

    def interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
        assert record.linear is not None
        low, high = image(record, p, lower, upper)
        where, slope, offset = record.linear(p, lower, upper)
        slope = torch.as_tensor(slope, dtype=lower.dtype, device=lower.device)
        ends = [(slope * end).masked_fill(slope == 0, 0.0) + offset for end in (lower, upper)]
        first, last = torch.minimum(*ends), torch.maximum(*ends)
        pad = (slope != 0) * (torch.maximum(first.abs(), last.abs()) + 8) * (2 * torch.finfo(lower.dtype).eps)
        return torch.where(where, first - pad, low), torch.where(where, last + pad, high)

    return interval


def _record(name: str, evaluate, candidates, linear, breakpoints, **fields) -> Univariate:
    made = Univariate(
        name=name,
        evaluate=evaluate,
        interval=lambda p, lower, upper: image(made, p, lower, upper),
        candidates=candidates,
        linear=linear,
        breakpoints=breakpoints,
        **fields,
    )
    return replace(made, interval=_interval(made))


PULSE = _record(
    "pulse",
    _pulse,
    _pulse_candidates,
    _pulse_linear,
    lambda p: tuple(_pulse_limits(p)),
    constants=("lower", "upper"),
    piecewise_linear=True,
    error=_exact_error,
)
"""1 between ``lower`` and ``upper``, either of which may be absent, else 0: the derivative of clip."""


def _hard_swish_slope(p: Prepared, x: Tensor) -> Tensor:
    return torch.where(x <= -3, 0.0, torch.where(x <= 3, 2 * x + 3, 6.0))


def _hard_swish_slope_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    eps = torch.finfo(x.dtype).eps
    return torch.where(x.abs() <= 3, (2 * x.abs() + 3) * eps, 0.0)


def _hard_swish_slope_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    number = lambda x: torch.full((), x, dtype=lower.dtype, device=lower.device)  # noqa: E731
    return [
        (-3.0, *_sides(-3.0, lower, upper, number(0.0), number(-3.0))),
        (3.0, *_sides(3.0, lower, upper, number(9.0), number(6.0))),
    ]


def _hard_swish_slope_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    below, above = (upper <= -3) & (lower < -3), (lower >= 3) & (upper > 3)
    middle = (lower >= -3) & (upper <= 3) & ~((lower == upper) & (lower.abs() == 3))
    return (
        below | above | middle,
        torch.where(middle, 2.0, torch.zeros_like(lower)),
        torch.where(middle, 3.0, torch.where(above, 6.0, torch.zeros_like(lower))),
    )


HARD_SWISH_SLOPE = _record(
    "hard_swish_slope",
    _hard_swish_slope,
    _hard_swish_slope_candidates,
    _hard_swish_slope_linear,
    lambda p: (-3.0, 3.0),
    piecewise_linear=True,
    error=_hard_swish_slope_error,
)
"""Six times the derivative of hard_swish: ``2 x + 3`` between -3 and 3."""


# -- elu and its relatives ----------------------------------------------------------------------------------


def _elu_slope(p: Prepared, x: Tensor) -> Tensor:
    inner = x.clamp(max=0.0) / p.tensors["scale"]
    return torch.where(x > 0, 1.0, p.tensors["height"] * torch.exp(inner))


def _elu_slope_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    """A quotient that is rounded has an exponential that is off by the quotient's size."""
    info = torch.finfo(x.dtype)
    inner = (x.clamp(max=0.0) / p.tensors["scale"]).abs()
    relative = ((6 + 2 * inner) * info.eps).clamp(max=1.0)
    error = (value.abs() * relative).nan_to_num(nan=0.0, posinf=0.0) + info.tiny
    return torch.where(x > 0, 0.0, error)


def _elu_slope_derivative(p: Prepared, x: Tensor) -> Tensor:
    return torch.where(x > 0, 0.0, _elu_slope(p, x.clamp(max=0.0)) / p.tensors["scale"])


def _elu_slope_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    height, scale = p.tensors["height"], p.tensors["scale"]
    info = torch.finfo(lower.dtype)
    ratio = torch.nan_to_num(slope * scale / height).clamp(min=info.tiny * info.eps)
    jump = _sides(0.0, lower, upper, height, torch.ones_like(height))
    return [(0.0, *jump), ((scale * torch.log(ratio)).clamp(max=0.0), None, None)]


def _elu_slope_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, float, float]:
    alone = (lower == 0) & (upper == 0) & (p.tensors["height"] != 1)
    return (lower >= 0) & ~alone, 0.0, 1.0


ELU_SLOPE = _record(
    "elu_slope",
    _elu_slope,
    _elu_slope_candidates,
    _elu_slope_linear,
    lambda p: (0.0,),
    constants=("height", "scale"),
    derivative=_elu_slope_derivative,
    error=_elu_slope_error,
)
"""``height exp(x / scale)`` below 0, 1 above."""

OPERATORS = (STEP, PULSE, HARD_SWISH_SLOPE, ELU_SLOPE)
