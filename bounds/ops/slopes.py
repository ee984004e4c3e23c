"""Derivatives of smooth operators as operators: bells, and what gelu, silu and mish have.

Each reads the operand of the operator that it is the derivative of, so that a split of that operand serves both. Where
the stationary point has no closed form it is bracketed (``_bracketed``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from provenn.bounds.ops._bracketed import bracketed, softplus
from provenn.bounds.ops._operator import Prepared, Univariate
from provenn.bounds.ops._shapes import curved
from provenn.bounds.ops.relaxation import record
from provenn.bounds.ops.smooth import PERIODIC_LIMIT, POLE_MARGIN

Candidates = list[tuple]

_ROOT_HALF = math.sqrt(0.5)
_GELU_SCALE = 2 * math.sqrt(2 / math.pi)
_GELU_CUBE = 0.044715
# Beyond the reach a record is within so much of its limit there.
_TAIL = 1e-15


def _relative(x: Tensor, size: Tensor, growth: Tensor | float = 0.0) -> Tensor:
    """``(8 + 4 growth)`` roundings of a size, and what vanishing exponentials lose."""
    info = torch.finfo(x.dtype)
    relative = (8 + 4 * growth) * info.eps
    if isinstance(relative, Tensor):
        relative = relative.clamp(max=1.0)
    return (size.abs() * relative).nan_to_num(nan=0.0, posinf=0.0) + info.tiny * 1e6


def _far(x: Tensor, limit: float = 800.0) -> Tensor:
    """Arguments cut where every exponential has vanished, so that no infinity meets a zero."""
    return x.clamp(-limit, limit)


def _flat_tails(slope: Tensor, lower: Tensor, upper: Tensor, reach: float, right: float) -> Candidates:
    """Both ends of the parts of a box beyond the reach, where values are within ``_TAIL`` of their limits."""
    found: Candidates = []
    for point in (lower, upper.clamp(max=-reach)):
        found.append((torch.where(lower < -reach, point, torch.nan), -_TAIL, _TAIL))
    for point in (upper, lower.clamp(min=reach)):
        found.append((torch.where(upper > reach, point, torch.nan), right - _TAIL, right + _TAIL))
    return found


def _slope(
    name: str,
    evaluate: Callable,
    derivative: Callable,
    bends: tuple[float, ...],
    reach: float,
    error: Callable,
    *,
    right: float = 0.0,
    first_rises: bool = False,
    tails: Callable = _flat_tails,
    limits: tuple[float, float] | None = None,
) -> Univariate:
    """A function that tends to 0 on the left, to ``right`` on the right; its derivative is monotone between bends."""
    bracket = bracketed(derivative, bends, reach, first_rises)

    def candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
        found: Candidates = [(point, None, cover) for point, cover in bracket(p, slope, lower, upper)]
        return found + tails(slope, lower, upper, reach, right)

    return record(
        name, evaluate, candidates, derivative, error=error, breakpoints=lambda p: (0.0,), limits=limits
    )


# -- sigmoid, tanh, erf, atan, softsign: bells --------------------------------------------------------------


def _sigmoid_slope(p: Prepared, x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _sigmoid_bend(p: Prepared | None, x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * torch.sigmoid(-x) * torch.tanh(-0.5 * x)


def _tanh_slope(p: Prepared, x: Tensor) -> Tensor:
    return 4 * (torch.sigmoid(2 * x) * torch.sigmoid(-2 * x))


def _tanh_bend(p: Prepared | None, x: Tensor) -> Tensor:
    return -8 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x) * torch.tanh(x)


def _plain_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    return _relative(x, value)


def _erf_slope(p: Prepared, x: Tensor) -> Tensor:
    return torch.exp(-x * x) * (2 / math.sqrt(math.pi))


def _erf_bend(p: Prepared | None, x: Tensor) -> Tensor:
    x = _far(x)
    return -2 * x * torch.exp(-x * x) * (2 / math.sqrt(math.pi))


def _erf_slope_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    return _relative(x, value, x.clamp(-40, 40) ** 2)


def _atan_slope(p: Prepared, x: Tensor) -> Tensor:
    return 1 / (1 + x * x)


def _atan_bend(p: Prepared | None, x: Tensor) -> Tensor:
    return -2 * x / (1 + x * x) ** 2


def _cubic_tails(slope: Tensor, lower: Tensor, upper: Tensor, reach: float, right: float) -> Candidates:
    """``2 x / (1 + x^2)^2 = 2 / x^3 - 4 / x^5 + ..``: the root to the second term is within ``2 / x^3``, which moves
    the difference by ``f'' / 2 < 3 / x^4`` times its square at most."""
    info = torch.finfo(lower.dtype)
    x = (2 / slope.abs().clamp(min=info.tiny)) ** (1 / 3)
    x = (x - 2 / (3 * x)).clamp(min=reach)
    return [(-torch.sign(slope) * x, None, 12 * x**-10.0 + info.eps * x**-2.0)]


def _softsign_slope(p: Prepared, x: Tensor) -> Tensor:
    return (1 + x.abs()) ** -2.0


def _softsign_bend(p: Prepared, x: Tensor) -> Tensor:
    return -2 * torch.sign(x) * (1 + x.abs()) ** -3.0


def _softsign_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    """The kink at 0 and ``2 (1 + |x|)^-3 = |k|`` on the side where the function falls or rises."""
    info = torch.finfo(lower.dtype)
    size = (2 / slope.abs().clamp(min=info.tiny)) ** (1 / 3) - 1
    return [(0.0, None, None), (-torch.sign(slope) * size.clamp(min=0.0), None, None)]


# -- tan ----------------------------------------------------------------------------------------------------


def _tan_slope(p: Prepared, x: Tensor) -> Tensor:
    return 1 + torch.tan(x) ** 2


def _tan_bend(p: Prepared, x: Tensor) -> Tensor:
    t = torch.tan(x)
    return 2 * t * (1 + t * t)


def _tan_slope_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    return _relative(x, value)


def _tan_slope_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    """``2 t (1 + t^2) = k`` has one root ``t = tan x``; unknown where a pole may be inside."""
    at = [end / math.pi + 0.5 for end in (lower, upper)]
    branch = torch.floor(at[0])
    whole = (branch == torch.floor(at[1])) & (torch.maximum(lower.abs(), upper.abs()) < PERIODIC_LIMIT)
    for t in at:
        whole = whole & ((t - torch.round(t)).abs() > POLE_MARGIN)
    root = (2 / math.sqrt(3)) * torch.sinh(torch.asinh((0.75 * math.sqrt(3)) * slope) / 3)
    pole = torch.where(whole, torch.nan, lower)
    return [(branch * math.pi + torch.atan(root), None, None), (pole, -torch.inf, torch.inf)]


# -- gelu, silu, mish ---------------------------------------------------------------------------------------


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))


def _gelu_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    x = _far(x, 40.0)
    return 0.5 * torch.special.erfc(x * -_ROOT_HALF), x * _density(x)


def _gelu_slope(p: Prepared, x: Tensor) -> Tensor:
    first, second = _gelu_parts(x)
    return first + second


def _gelu_bend(p: Prepared | None, x: Tensor) -> Tensor:
    x = _far(x, 40.0)
    return _density(x) * (2 - x * x)


def _gelu_slope_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    first, second = _gelu_parts(x)
    return _relative(x, first, x.clamp(-40, 0) ** 2) + _relative(x, second, x.clamp(-40, 40) ** 2)


def _gelu_tanh_parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sigmoid, what the inner derivative adds, and the inner value."""
    x = _far(x, 40.0)
    u = _GELU_SCALE * (x + _GELU_CUBE * x * x * x)
    s = torch.sigmoid(u)
    inner = _GELU_SCALE * (1 + 3 * _GELU_CUBE * x * x)
    return s, x * s * torch.sigmoid(-u) * inner, u


def _gelu_tanh_slope(p: Prepared, x: Tensor) -> Tensor:
    first, second, _ = _gelu_tanh_parts(x)
    return first + second


def _gelu_tanh_bend(p: Prepared | None, x: Tensor) -> Tensor:
    x = _far(x, 40.0)
    u = _GELU_SCALE * (x + _GELU_CUBE * x * x * x)
    first = _GELU_SCALE * (1 + 3 * _GELU_CUBE * x * x)
    second = _GELU_SCALE * (6 * _GELU_CUBE) * x
    bell = torch.sigmoid(u) * torch.sigmoid(-u)
    return bell * (2 * first + x * second + x * first * first * torch.tanh(-0.5 * u))


def _gelu_tanh_slope_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    first, second, u = _gelu_tanh_parts(x)
    return _relative(x, first, u.clamp(max=0.0).abs()) + _relative(x, second, u.abs())


def _silu_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    x = _far(x)
    s = torch.sigmoid(x)
    return s, x * s * torch.sigmoid(-x)


def _silu_slope(p: Prepared, x: Tensor) -> Tensor:
    first, second = _silu_parts(x)
    return first + second


def _silu_bend(p: Prepared | None, x: Tensor) -> Tensor:
    x = _far(x)
    return torch.sigmoid(x) * torch.sigmoid(-x) * (2 + x * torch.tanh(-0.5 * x))


def _silu_slope_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    first, second = _silu_parts(x)
    return _relative(x, first) + _relative(x, second)


def _mish_parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``t = tanh(softplus x)``, ``x (1 - t^2) sigmoid(x)`` and the soft plus; ``1 - t^2`` without cancellation."""
    x = _far(x)
    inner = softplus(None, x)  # type: ignore[arg-type]
    bell = 4 * torch.sigmoid(2 * inner) * torch.sigmoid(-2 * inner)
    return torch.tanh(inner), x * bell * torch.sigmoid(x), inner


def _mish_slope(p: Prepared, x: Tensor) -> Tensor:
    first, second, _ = _mish_parts(x)
    return first + second


def _mish_bend(p: Prepared | None, x: Tensor) -> Tensor:
    x = _far(x)
    first, second, _ = _mish_parts(x)
    s = torch.sigmoid(x)
    inner = softplus(None, x)  # type: ignore[arg-type]
    bell = 4 * torch.sigmoid(2 * inner) * torch.sigmoid(-2 * inner)
    return bell * s * (2 + x * torch.sigmoid(-x)) - 2 * first * second * s


def _mish_slope_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    first, second, inner = _mish_parts(x)
    return _relative(x, first) + _relative(x, second, inner)


SIGMOID_SLOPE = _slope(
    "sigmoid_slope", _sigmoid_slope, _sigmoid_bend, (-1.3169578969248167, 1.3169578969248167), 40.0, _plain_error,
    first_rises=True, limits=(0.0, 0.25),
)  # fmt: skip
TANH_SLOPE = _slope(
    "tanh_slope", _tanh_slope, _tanh_bend, (-0.65847894846240835, 0.65847894846240835), 20.0, _plain_error,
    first_rises=True, limits=(0.0, 1.0),
)  # fmt: skip
ERF_SLOPE = _slope(
    "erf_slope", _erf_slope, _erf_bend, (-_ROOT_HALF, _ROOT_HALF), 6.5, _erf_slope_error,
    first_rises=True, limits=(0.0, 1.128379167095513),
)  # fmt: skip
ATAN_SLOPE = _slope(
    "atan_slope", _atan_slope, _atan_bend, (-1 / math.sqrt(3), 1 / math.sqrt(3)), 50.0, _plain_error,
    first_rises=True, tails=_cubic_tails, limits=(0.0, 1.0),
)  # fmt: skip
SOFTSIGN_SLOPE = record(
    "softsign_slope", _softsign_slope, _softsign_candidates, _softsign_bend, error=_plain_error,
    breakpoints=lambda p: (0.0,), limits=(0.0, 1.0),
)  # fmt: skip
_TAN_START, _TAN_SLOPES = curved(
    _tan_slope, _tan_bend, lambda p, lower, upper: torch.full((), True, device=lower.device)
)
TAN_SLOPE = record(
    "tan_slope", _tan_slope, _tan_slope_candidates, _tan_bend, error=_tan_slope_error,
    start=_TAN_START, slopes=_TAN_SLOPES, limits=(1.0, math.inf),
)  # fmt: skip
GELU_SLOPE = _slope(
    "gelu_slope", _gelu_slope, _gelu_bend, (-2.0, 0.0, 2.0), 12.0, _gelu_slope_error, right=1.0
)
GELU_TANH_SLOPE = _slope(
    "gelu_tanh_slope", _gelu_tanh_slope, _gelu_tanh_bend, (-2.0134807246242579, 0.0, 2.0134807246242579), 12.0,
    _gelu_tanh_slope_error, right=1.0,
)  # fmt: skip
SILU_SLOPE = _slope(
    "silu_slope", _silu_slope, _silu_bend, (-3.4358409935351107, 0.0, 3.4358409935351107), 50.0, _silu_slope_error,
    right=1.0,
)  # fmt: skip
MISH_SLOPE = _slope(
    "mish_slope", _mish_slope, _mish_bend, (-3.2673378465204046, -0.087934431314914211, 2.1148425630208771), 50.0,
    _mish_slope_error, right=1.0,
)  # fmt: skip

SEARCHED = (
    SIGMOID_SLOPE, TANH_SLOPE, ERF_SLOPE, ATAN_SLOPE, GELU_SLOPE, GELU_TANH_SLOPE, SILU_SLOPE, MISH_SLOPE,
)  # fmt: skip
"""Those whose stationary points are bracketed."""

OPERATORS = (*SEARCHED, SOFTSIGN_SLOPE, TAN_SLOPE)
