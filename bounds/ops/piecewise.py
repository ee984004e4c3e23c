"""Operators that are linear between break points: relu and its relatives, clip.

Their exact values need no slack where the box lies in one piece: stable elements add nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from provenn.bounds.ops._jumps import JUMPS
from provenn.bounds.ops._operator import Box, Prepared, Univariate
from provenn.bounds.ops.relaxation import Lines

Candidates = list[tuple]


# -- relu, leaky_relu, prelu, abs: two slopes that meet at 0 ---------------------------------------------


def _at_zero(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    return [(0.0, None, None)]


def _zero(p: Prepared) -> tuple:
    return (0.0,)


def _exact_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    return torch.zeros_like(value)


def _relu(p: Prepared, x: Tensor) -> Tensor:
    return x.clamp(min=0.0)


def _relu_interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    return lower.clamp(min=0.0), upper.clamp(min=0.0)


def _relu_lines(
    p: Prepared, lower: Tensor, upper: Tensor, lower_slope: Tensor | None, upper_slope: Tensor | None
) -> Lines:
    """Closed form: the upper line is the chord, the lower one any slope in [0, 1] through 0.

    ``low`` and ``high`` are the box cut at 0, so that a stable box gives slope exactly 1 or 0 and offset
    exactly 0. The chord's slope is rounded, hence the larger of its two end offsets plus a slack.
    """
    info = torch.finfo(lower.dtype)
    low, high = lower.clamp(max=0.0), upper.clamp(min=0.0)
    width = high - low
    if upper_slope is None:
        ku = high / torch.where(width > 0, width, 1.0)
    else:
        ku = torch.where(low == 0, 1.0, torch.where(high == 0, 0.0, upper_slope))
    unstable = torch.minimum(-low, high) > 0
    product = ku * high
    bu = torch.maximum(-ku * low, high - product)
    bu = bu + unstable * ((high + product.abs() - ku.abs() * low) * (2 * info.eps) + info.tiny)
    bounded = torch.isfinite(width) & torch.isfinite(bu)
    ku, bu = torch.where(bounded, ku, 0.0), torch.where(bounded, bu, high)
    if lower_slope is None:
        kl = (upper > -lower).to(lower.dtype)
    else:
        kl = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, lower_slope.clamp(0.0, 1.0)))
    return kl, torch.zeros_like(kl), ku, bu


def _relu_slopes(p: Prepared, lower: Tensor, upper: Tensor) -> Lines:
    chord = _relu_lines(p, lower, upper, None, None)[2]
    return (lower >= 0).to(lower.dtype), (upper > 0).to(lower.dtype), chord, chord


def _relu_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, float]:
    return (lower >= 0) | (upper <= 0), (lower >= 0).to(lower.dtype), 0.0


def _leaky(p: Prepared, x: Tensor) -> Tensor:
    return torch.where(x < 0, p.tensors["slope"] * x, x)


def _leaky_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    info = torch.finfo(x.dtype)
    return (x < 0) * (value.abs() * info.eps + info.tiny)


def _leaky_interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    return _two_slope_interval(p.tensors["slope"], lower, upper)


def _leaky_lines(
    p: Prepared, lower: Tensor, upper: Tensor, lower_slope: Tensor | None, upper_slope: Tensor | None
) -> Lines:
    return _two_slope_lines(p.tensors["slope"], lower, upper, lower_slope, upper_slope)


def _leaky_slopes(p: Prepared, lower: Tensor, upper: Tensor) -> Lines:
    return _two_slope_range(p.tensors["slope"], lower, upper)


def _leaky_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, float]:
    slope = torch.where(lower >= 0, torch.ones_like(lower), p.tensors["slope"])
    return (lower >= 0) | (upper <= 0), slope, 0.0


def _abs(p: Prepared, x: Tensor) -> Tensor:
    return x.abs()


def _minus_one(lower: Tensor) -> Tensor:
    return torch.full((), -1.0, dtype=lower.dtype, device=lower.device)


def _abs_interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    return torch.maximum(lower, -upper).clamp(min=0.0), torch.maximum(-lower, upper)


def _abs_lines(
    p: Prepared, lower: Tensor, upper: Tensor, lower_slope: Tensor | None, upper_slope: Tensor | None
) -> Lines:
    return _two_slope_lines(_minus_one(lower), lower, upper, lower_slope, upper_slope)


def _abs_slopes(p: Prepared, lower: Tensor, upper: Tensor) -> Lines:
    return _two_slope_range(_minus_one(lower), lower, upper)


def _abs_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, float]:
    return (lower >= 0) | (upper <= 0), torch.where(lower >= 0, 1.0, -torch.ones_like(lower)), 0.0


def _two_slope_interval(negative: Tensor, lower: Tensor, upper: Tensor) -> Box:
    """Image of ``negative * x`` below 0 and ``x`` above, for any sign of the negative slope."""
    info = torch.finfo(lower.dtype)
    left_low, left_high = lower.clamp(max=0.0), upper.clamp(max=0.0)
    # an infinite end times slope 0 is 0
    first, last = (torch.where(negative == 0, 0.0, negative * end) for end in (left_low, left_high))
    first_pad, last_pad = (
        product.abs() * info.eps + (end != 0).to(end.dtype) * info.tiny
        for product, end in ((first, left_low), (last, left_high))
    )
    low = torch.minimum(first - first_pad, last - last_pad)
    low = torch.nan_to_num(low, nan=-torch.inf, neginf=-torch.inf, posinf=info.max)
    high = torch.maximum(first + first_pad, last + last_pad)
    high = torch.nan_to_num(high, nan=torch.inf, posinf=torch.inf, neginf=info.min)
    right = upper > 0
    low = torch.where(right, torch.minimum(low, torch.zeros_like(low)), low)
    low = torch.where(lower >= 0, lower, low)
    high = torch.where(lower >= 0, upper, torch.where(right, torch.maximum(high, upper), high))
    return low, high


def _two_slope_lines(
    negative: Tensor,
    lower: Tensor,
    upper: Tensor,
    lower_slope: Tensor | None,
    upper_slope: Tensor | None,
) -> Lines:
    """One side is the chord with its rounded offset, the other any line through 0 between the two slopes."""
    info = torch.finfo(lower.dtype)
    convex = negative <= 1
    low, high = lower.clamp(max=0.0), upper.clamp(min=0.0)
    width = high - low
    unstable = torch.minimum(-low, high) > 0
    chord_slope = torch.where(convex, _given(upper_slope, lower), _given(lower_slope, lower))
    own = high / torch.where(width > 0, width, 1.0) + negative * (-low / torch.where(width > 0, width, 1.0))
    k = torch.where(chord_slope.isnan(), own, chord_slope)
    k = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, negative, k))
    at_low, at_high = torch.where(negative == 0, 0.0, negative * low), high  # an infinite end times slope 0 is 0
    first, second = at_low - k * low, at_high - k * high
    slack = (at_low.abs() + at_high.abs() + (k * low).abs() + (k * high).abs()) * (2 * info.eps) + info.tiny
    b = torch.where(convex, torch.maximum(first, second) + slack, torch.minimum(first, second) - slack)
    b = torch.where(unstable, b, 0.0)
    unbounded = torch.where(convex, torch.maximum(at_low, at_high), torch.minimum(at_low, at_high))
    pad = unbounded.abs() * (2 * info.eps)
    unbounded = torch.where(convex, unbounded + pad, unbounded - pad)
    lost = unstable & ~(torch.isfinite(width) & torch.isfinite(b))
    k, b = torch.where(lost, 0.0, k), torch.where(lost, unbounded, b)
    tangent = torch.where(convex, _given(lower_slope, lower), _given(upper_slope, lower))
    start = torch.where(upper > -lower, torch.ones_like(lower), negative)
    v = torch.where(tangent.isnan(), start, tangent)
    v = torch.minimum(torch.maximum(v, negative.clamp(max=1.0)), negative.clamp(min=1.0))
    v = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, negative, v))
    c = torch.zeros_like(v)
    return (
        torch.where(convex, v, k),
        torch.where(convex, c, b),
        torch.where(convex, k, v),
        torch.where(convex, b, c),
    )


def _two_slope_range(negative: Tensor, lower: Tensor, upper: Tensor) -> Lines:
    convex = negative <= 1
    lines = _two_slope_lines(negative, lower, upper, None, None)
    chord = torch.where(convex, lines[2], lines[0])
    stable = (lower >= 0) | (upper <= 0)
    first = torch.where(stable, chord, negative.clamp(max=1.0))
    last = torch.where(stable, chord, negative.clamp(min=1.0))
    return (
        torch.where(convex, first, chord),
        torch.where(convex, last, chord),
        torch.where(convex, chord, first),
        torch.where(convex, chord, last),
    )


def _given(slope: Tensor | None, like: Tensor) -> Tensor:
    """NaN stands for a slope that was not given."""
    return torch.full((), torch.nan, dtype=like.dtype, device=like.device) if slope is None else slope


# -- clip, hard_sigmoid, hard_swish ----------------------------------------------------------------------


def _limits(p: Prepared) -> tuple[Tensor | None, Tensor | None]:
    return p.tensors.get("lower"), p.tensors.get("upper")


def _clip(p: Prepared, x: Tensor) -> Tensor:
    low, high = _limits(p)
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _clip_interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    return _clip(p, lower), _clip(p, upper)


def _clip_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    return [(limit, None, None) for limit in _limits(p) if limit is not None]


def _clip_breakpoints(p: Prepared) -> tuple:
    return tuple(limit for limit in _limits(p) if limit is not None)


def _clip_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    bottom, top = _clip(p, lower), _clip(p, upper)
    inside = (bottom == lower) & (top == upper)
    return inside | (bottom == top), inside.to(lower.dtype), torch.where(inside, 0.0, bottom)


def _hard_sigmoid_raw(p: Prepared, x: Tensor) -> Tensor:
    return p.tensors["alpha"] * x + p.tensors["beta"]


def _hard_sigmoid_rounding(p: Prepared, x: Tensor) -> Tensor:
    scale = (p.tensors["alpha"] * x).abs() + p.tensors["beta"].abs()
    return scale * (4 * torch.finfo(x.dtype).eps)


def _hard_sigmoid(p: Prepared, x: Tensor) -> Tensor:
    return _hard_sigmoid_raw(p, x).clamp(0.0, 1.0)


def _hard_sigmoid_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    """Also covers a break point ``(0 - beta)/alpha`` that is off by rounding. Far outside f is exact."""
    raw, rounding = _hard_sigmoid_raw(p, x), _hard_sigmoid_rounding(p, x)
    saturated = (raw < -rounding) | (raw > 1 + rounding)
    return torch.where(saturated, 0.0, rounding)


def _hard_sigmoid_interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    first, last = _hard_sigmoid_raw(p, lower), _hard_sigmoid_raw(p, upper)
    first_pad, last_pad = _hard_sigmoid_rounding(p, lower), _hard_sigmoid_rounding(p, upper)
    low = torch.minimum(first - first_pad, last - last_pad).nan_to_num(nan=-torch.inf)
    high = torch.maximum(first + first_pad, last + last_pad).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return low.clamp(0.0, 1.0), high.clamp(0.0, 1.0)


def _hard_sigmoid_breakpoints(p: Prepared) -> tuple:
    alpha, beta = p.tensors["alpha"], p.tensors["beta"]
    return -beta / alpha, (1 - beta) / alpha


def _hard_sigmoid_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    return [(torch.nan_to_num(point), None, None) for point in _hard_sigmoid_breakpoints(p)]


def _hard_sigmoid_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = _hard_sigmoid_interval(p, lower, upper)
    flat = low == high
    inside = (low > 0) & (high < 1)
    return (
        flat | inside,
        torch.where(flat, 0.0, p.tensors["alpha"]),
        torch.where(flat, low, p.tensors["beta"]),
    )


RELU = Univariate(
    name="relu",
    evaluate=_relu,
    interval=_relu_interval,
    candidates=_at_zero,
    breakpoints=_zero,
    piecewise_linear=True,
    error=_exact_error,
    linear=_relu_linear,
    lines=_relu_lines,
    slopes=_relu_slopes,
)
LEAKY_RELU = Univariate(
    name="leaky_relu",
    evaluate=_leaky,
    interval=_leaky_interval,
    constants=("slope",),
    candidates=_at_zero,
    breakpoints=_zero,
    piecewise_linear=True,
    error=_leaky_error,
    linear=_leaky_linear,
    lines=_leaky_lines,
    slopes=_leaky_slopes,
)
PRELU = Univariate(
    name="prelu",
    evaluate=_leaky,
    interval=_leaky_interval,
    constants=("slope",),
    candidates=_at_zero,
    breakpoints=_zero,
    piecewise_linear=True,
    error=_leaky_error,
    linear=_leaky_linear,
    lines=_leaky_lines,
    slopes=_leaky_slopes,
)
ABS = Univariate(
    name="abs",
    evaluate=_abs,
    interval=_abs_interval,
    candidates=_at_zero,
    breakpoints=_zero,
    piecewise_linear=True,
    error=_exact_error,
    linear=_abs_linear,
    lines=_abs_lines,
    slopes=_abs_slopes,
)
CLIP = Univariate(
    name="clip",
    evaluate=_clip,
    interval=_clip_interval,
    constants=("lower", "upper"),
    candidates=_clip_candidates,
    breakpoints=_clip_breakpoints,
    piecewise_linear=True,
    error=_exact_error,
    linear=_clip_linear,
)
HARD_SIGMOID = Univariate(
    name="hard_sigmoid",
    evaluate=_hard_sigmoid,
    interval=_hard_sigmoid_interval,
    constants=("alpha", "beta"),
    candidates=_hard_sigmoid_candidates,
    breakpoints=_hard_sigmoid_breakpoints,
    piecewise_linear=True,
    error=_hard_sigmoid_error,
    linear=_hard_sigmoid_linear,
)
OPERATORS = (RELU, LEAKY_RELU, PRELU, ABS, CLIP, HARD_SIGMOID, *JUMPS)
