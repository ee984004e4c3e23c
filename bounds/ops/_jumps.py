"""Operators with jumps: sign, floor, ceil, round. Their values are exact, their candidates are the jumps."""

from __future__ import annotations

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Box, Prepared, Univariate
from provenn.bounds.ops.relaxation import Lines

Candidates = list[tuple]


def _exact_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    return torch.zeros_like(value)


def _sign(p: Prepared, x: Tensor) -> Tensor:
    return torch.sign(x)


def _sign_interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    return torch.sign(lower), torch.sign(upper)


def _sign_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    """At 0 the limits of the sides that lie in the box, and the value 0 itself."""
    return [(0.0, -(lower < 0).to(lower.dtype), (upper > 0).to(lower.dtype))]


def _constant_between(value, lower: Tensor, upper: Tensor) -> tuple[Tensor, float, Tensor]:
    low, high = value(lower), value(upper)
    return low == high, 0.0, low


def _sign_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, float, Tensor]:
    return _constant_between(torch.sign, lower, upper)


def _sign_start(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    """The upper hull runs from (l, -1) to the top at 0 and stays there; the lower hull is its mirror image."""
    rise, fall = _sign_hulls(lower, upper)
    middle = 0.5 * lower + 0.5 * upper
    return torch.where(middle > 0, fall, 0.0), torch.where(middle < 0, rise, 0.0)


def _sign_hulls(lower: Tensor, upper: Tensor) -> Box:
    """Slopes of the upper hull left of 0 and of the lower hull right of 0; 0 where sign is constant."""
    touches = (lower <= 0) & (upper >= 0) & (lower < upper)
    rise = (1 + (upper > 0).to(lower.dtype)) / -torch.where(lower < 0, lower, -1.0)
    fall = (1 + (lower < 0).to(lower.dtype)) / torch.where(upper > 0, upper, 1.0)
    rise = torch.where(touches & (lower < 0) & torch.isfinite(rise), rise, 0.0)
    fall = torch.where(touches & (upper > 0) & torch.isfinite(fall), fall, 0.0)
    return rise, fall


def _sign_slopes(p: Prepared, lower: Tensor, upper: Tensor) -> Lines:
    """A hull whose flat part is a point (0 is an end of the box) has one slope only."""
    rise, fall = _sign_hulls(lower, upper)
    return torch.where(lower < 0, 0.0, fall), fall, torch.where(upper > 0, 0.0, rise), rise


def _floor(p: Prepared, x: Tensor) -> Tensor:
    return torch.floor(x)


def _floor_interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    return torch.floor(lower), torch.floor(upper)


def _floor_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    """``f(x) - k x`` is linear in n over the jumps n of the box: the first and the last jump suffice."""
    first, last = torch.floor(lower) + 1, torch.floor(upper)
    # a jump at the lower end has no left side in the box: its value is that end's
    last = torch.where(last > lower, last, first)
    return [(first, first - 1, first), (last, last - 1, last)]


def _floor_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, float, Tensor]:
    return _constant_between(torch.floor, lower, upper)


def _ceil(p: Prepared, x: Tensor) -> Tensor:
    return torch.ceil(x)


def _ceil_interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    return torch.ceil(lower), torch.ceil(upper)


def _ceil_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    """Mirror image of floor: a jump n has the value n and the right limit n + 1."""
    return [(-point, -high, -low) for point, low, high in _floor_candidates(p, slope, -upper, -lower)]


def _ceil_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, float, Tensor]:
    return _constant_between(torch.ceil, lower, upper)


def _round(p: Prepared, x: Tensor) -> Tensor:
    """Half to even, as ONNX and torch do."""
    return torch.round(x)


def _round_interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
    return torch.round(lower), torch.round(upper)


def _round_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    """Jumps at n + 1/2 between n and n + 1: the first and the last inside the box, and the inner side of an end."""
    found = []
    for jump in (torch.floor(lower - 0.5) + 1.5, torch.ceil(upper - 0.5) - 0.5):
        inside = (jump > lower) & (jump < upper)
        found.append((torch.where(inside, jump, torch.nan), jump - 0.5, jump + 0.5))
    for end, step in ((lower, 1.0), (upper, 0.0)):
        value, below, double = torch.round(end), torch.floor(end), 2 * end
        jumps = (torch.floor(double) == double) & (below != end) & (lower < upper)
        limit = torch.where(jumps, below + step, value)
        found.append((end, torch.minimum(value, limit), torch.maximum(value, limit)))
    return found


def _round_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, float, Tensor]:
    return _constant_between(torch.round, lower, upper)


SIGN = Univariate(
    name="sign",
    evaluate=_sign,
    interval=_sign_interval,
    candidates=_sign_candidates,
    breakpoints=lambda p: (0.0,),
    piecewise_linear=True,
    error=_exact_error,
    linear=_sign_linear,
    start=_sign_start,
    slopes=_sign_slopes,
)
FLOOR = Univariate(
    name="floor",
    evaluate=_floor,
    interval=_floor_interval,
    candidates=_floor_candidates,
    breakpoints=lambda p: (),
    piecewise_linear=True,
    error=_exact_error,
    linear=_floor_linear,
)

CEIL = Univariate(
    name="ceil",
    evaluate=_ceil,
    interval=_ceil_interval,
    candidates=_ceil_candidates,
    breakpoints=lambda p: (),
    piecewise_linear=True,
    error=_exact_error,
    linear=_ceil_linear,
)
ROUND = Univariate(
    name="round",
    evaluate=_round,
    interval=_round_interval,
    candidates=_round_candidates,
    breakpoints=lambda p: (),
    piecewise_linear=True,
    error=_exact_error,
    linear=_round_linear,
)

JUMPS = (SIGN, FLOOR, CEIL, ROUND)
