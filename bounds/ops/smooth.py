"""Smooth operators: the point where ``f'(x) = k`` in closed form.

Extra candidate points never harm a continuous function (each is a value it takes), so formulas are
evaluated on clamped arguments instead of being masked. Their rounding moves a stationary point by d,
which changes ``f(x) - k x`` by ``f'' d^2 / 2`` only: far below the slack of the offset.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.ops._bracketed import BRACKETED, softplus
from provenn.bounds.ops._operator import Box, Prepared, Univariate
from provenn.bounds.ops._shapes import curved, s_shaped
from provenn.bounds.ops.relaxation import outward, record

Candidates = list[tuple]
PERIODIC_LIMIT = 1e6  # beyond it rounding of n * 2 pi is no longer far below the slack
POLE_MARGIN = 1e-6


def _increasing(evaluate: Callable, low: float, high: float) -> Callable:
    def interval(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
        a, b = outward(evaluate(p, lower), evaluate(p, upper))
        return a.clamp(low, high), b.clamp(low, high)

    return interval


def _zero(p: Prepared) -> tuple:
    return (0.0,)


def _positive(slope: Tensor, most: float = math.inf) -> Tensor:
    """At least the smallest positive number: the roots of slopes below the normal range count on large boxes."""
    info = torch.finfo(slope.dtype)
    return slope.clamp(min=info.tiny * info.eps, max=most)


# -- sigmoid, tanh, atan, erf, softsign: odd up to a shift, one inflection -----------------------------


def _sigmoid_root(k: Tensor) -> Tensor:
    """``s (1 - s) = k`` at ``x = +-2 log((1 + sqrt(1 - 4 k)) / (2 sqrt(k)))``."""
    k = _positive(k, 0.25)
    return 2 * torch.log((1 + torch.sqrt(1 - 4 * k)) * (0.5 / torch.sqrt(k)))


def _sigmoid_derivative(p: Prepared, x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _tanh_root(k: Tensor) -> Tensor:
    """``1 - tanh^2 = k`` at ``x = +-log((1 + sqrt(1 - k)) / sqrt(k))``."""
    k = _positive(k, 1.0)
    return torch.log((1 + torch.sqrt(1 - k)) / torch.sqrt(k))


def _tanh_derivative(p: Prepared, x: Tensor) -> Tensor:
    return torch.cosh(x) ** -2


def _atan_root(k: Tensor) -> Tensor:
    k = _positive(k, 1.0)
    return torch.sqrt((1 - k) / k)


def _erf_root(k: Tensor) -> Tensor:
    k = _positive(k, 2 / math.sqrt(math.pi))
    return torch.sqrt((-torch.log(k * (math.sqrt(math.pi) / 2))).clamp(min=0.0))


def _softsign(p: Prepared, x: Tensor) -> Tensor:
    return torch.where(x.isinf(), torch.sign(x), x / (1 + x.abs()))


def _softsign_root(k: Tensor) -> Tensor:
    """``1 / (1 + |x|)^2 = k``; ``|x| = 1/sqrt(k) - 1`` without the cancellation near k = 1."""
    k = _positive(k, 1.0)
    root = torch.sqrt(k)
    return (1 - k) / (root * (1 + root))


# -- exp, log, sqrt, softplus, elu family: convex or concave pieces --------------------------------------


def _exp_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    return [(torch.log(_positive(slope)), None, None)]


def _log_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    return [(1 / _positive(slope), None, None)]


def _sqrt_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    return [(_above_underflow(0.25 / _positive(slope) ** 2, lower), None, None)]


def _above_underflow(point: Tensor, lower: Tensor) -> Tensor:
    """A stationary point lost to underflow next to an infinite slope at 0: nothing is known (NaN)."""
    tiny = torch.finfo(lower.dtype).tiny
    return torch.where((point < tiny) & (lower < tiny), torch.nan, point)


def _softplus_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    k = _positive(slope, 1.0)
    return [(torch.log(k) - torch.log1p(-k), None, None)]


def _elu(p: Prepared, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, p.tensors["alpha"] * torch.expm1(x.clamp(max=0.0)))


def _elu_derivative(p: Prepared, x: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, p.tensors["alpha"] * torch.exp(x.clamp(max=0.0)))


def _elu_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    inner = torch.log(_positive(torch.nan_to_num(slope / p.tensors["alpha"])))
    return [(0.0, None, None), (inner.clamp(max=0.0), None, None)]


def _selu(p: Prepared, x: Tensor) -> Tensor:
    return p.tensors["gamma"] * _elu(p, x)


def _selu_derivative(p: Prepared, x: Tensor) -> Tensor:
    return p.tensors["gamma"] * _elu_derivative(p, x)


def _selu_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    """As for elu; ``k / (gamma alpha)`` next to 1 may lose a root next to 0, where values have no slack of their own.

    The root is off by d of a few eps, and ``f''`` is at most ``gamma alpha``.
    """
    zero, (inner, _, _) = _elu_candidates(p, torch.nan_to_num(slope / p.tensors["gamma"]), lower, upper)
    lost = (p.tensors["gamma"] * p.tensors["alpha"]).abs() * (4 * torch.finfo(lower.dtype).eps) ** 2
    return [zero, (inner, None, lost)]


def _celu(p: Prepared, x: Tensor) -> Tensor:
    alpha = p.tensors["alpha"]
    return torch.where(x > 0, x, alpha * torch.expm1(torch.where(x > 0, 0.0, x) / alpha))


def _celu_derivative(p: Prepared, x: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, torch.exp(torch.where(x > 0, 0.0, x) / p.tensors["alpha"]))


def _celu_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    inner = p.tensors["alpha"] * torch.log(_positive(slope, 1.0))
    return [(0.0, None, None), (inner, None, None)]


def _linear_above_zero(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor | float, float]:
    return lower >= 0, p.tensors.get("gamma", 1.0), 0.0


# -- reciprocal and powers -----------------------------------------------------------------------------


def _reciprocal_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    x = 1 / torch.sqrt(_positive(-slope))
    return [(x, None, None), (-x, None, None), (0.0, -torch.inf, torch.inf)]


def _exponent(p: Prepared) -> float:
    """The constant exponent; the import splits exponents that differ between elements."""
    values = np.unique(np.asarray(p.node.attributes["exponent"], dtype=np.float64))
    if values.size != 1:
        raise NotImplementedError(f"pow got exponent={values.tolist()}, expected one number for all elements")
    return float(values[0])


def _pow(p: Prepared, x: Tensor) -> Tensor:
    return torch.pow(x, _exponent(p))


def _pow_derivative(p: Prepared, x: Tensor) -> Tensor:
    n = _exponent(p)
    return n * torch.pow(x, n - 1)


def _pow_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    """``n x^(n-1) = k``: both roots ``+-|k/n|^(1/(n-1))``, the pole and the end of the domain at 0.

    At a negative x a power that is not an integer is NaN, which the engine reads as unknown.
    """
    n = _exponent(p)
    if n in (0.0, 1.0):
        return []
    if abs(n - 1) < 1e-6:
        return [(lower, -torch.inf, torch.inf)]  # the root is ill-conditioned
    ratio = (slope / n).abs()
    x = torch.pow(ratio, 1 / (n - 1))
    # A quotient below the normal numbers has lost digits; its power may lie in the midst of the box.
    apart = torch.pow(slope.abs(), 1 / (n - 1)) * abs(n) ** (-1 / (n - 1))
    x = torch.where(ratio < torch.finfo(slope.dtype).tiny, apart, x)
    if 0 < n < 1:
        return [(_above_underflow(x, lower), None, None)]
    if not n.is_integer():
        return [(x, None, None), *([(0.0, -torch.inf, torch.inf)] if n < 0 else [])]
    return [(x, None, None), (-x, None, None), (0.0, -torch.inf, torch.inf) if n < 0 else (0.0, None, None)]


def _pow_limits(p: Prepared) -> tuple[float, float]:
    n = _exponent(p)
    return (-math.inf, math.inf) if n.is_integer() and n % 2 == 1 else (0.0, math.inf)


def _pow_convex(p: Prepared, lower: Tensor, upper: Tensor) -> Tensor | None:
    """None where it is neither on a box around 0: odd powers."""
    n = _exponent(p)
    if n.is_integer() and n % 2 == 1:
        return lower > 0 if n < 0 else None
    return torch.full((), not 0 < n < 1, device=lower.device)


# -- sin, cos, tan -------------------------------------------------------------------------------------


def _first_and_last(start: Tensor, period: float, lower: Tensor, upper: Tensor) -> Candidates:
    """The first and the last of the points ``start + n period`` in the box.

    ``f(x) - k x`` is linear in n along them, so those between are no extrema. A point lost to rounding
    lies within rounding of an end, where the difference is flat.
    """
    first = torch.ceil((lower - start) / period)
    last = torch.floor((upper - start) / period)
    return [(start + period * n, None, None) for n in (first, last)]


def _far(lower: Tensor, upper: Tensor) -> Candidates:
    """Beyond ``PERIODIC_LIMIT`` only ``-1 <= f <= 1`` is used: the linear rest is extremal at the ends."""
    limit = PERIODIC_LIMIT if lower.dtype == torch.float64 else 1e3
    far = torch.maximum(lower.abs(), upper.abs()) > limit
    if not bool(far.any()):
        return []
    return [(torch.where(far, end, torch.nan), -1.0, 1.0) for end in (lower, upper)]


def _sin_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    angle = torch.acos(slope.clamp(-1.0, 1.0))
    families = [_first_and_last(start, 2 * math.pi, lower, upper) for start in (angle, -angle)]
    return [*families[0], *families[1], *_far(lower, upper)]


def _cos_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    angle = torch.asin(slope.clamp(-1.0, 1.0))
    families = [_first_and_last(start, 2 * math.pi, lower, upper) for start in (-angle, math.pi + angle)]
    return [*families[0], *families[1], *_far(lower, upper)]


def _wave_start(lower: Tensor, upper: Tensor, phase: float) -> Box | None:
    """Tangent at the middle and chord where ``sin(x + phase)`` bends one way on every box; None where it does not."""
    first, last = torch.floor((lower + phase) / math.pi), torch.floor((upper + phase) / math.pi)
    if not bool((last - first == 0).all()):  # neither where an end is infinite
        return None
    bowl = torch.remainder(first, 2) == 1
    tangent = torch.cos(0.5 * lower + 0.5 * upper + phase)
    rise = torch.sin(upper + phase) - torch.sin(lower + phase)
    chord = torch.where(upper > lower, rise / (upper - lower), tangent)
    return torch.where(bowl, tangent, chord), torch.where(bowl, chord, tangent)


def _tan_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    """Both roots of ``1 + tan^2 x = k`` on the branch of the box; unknown where a pole may be inside."""
    at = [end / math.pi + 0.5 for end in (lower, upper)]
    branch = torch.floor(at[0])
    whole = (branch == torch.floor(at[1])) & (torch.maximum(lower.abs(), upper.abs()) < PERIODIC_LIMIT)
    for t in at:
        whole = whole & ((t - torch.round(t)).abs() > POLE_MARGIN)
    x = torch.atan(torch.sqrt((slope - 1).clamp(min=0.0)))
    pole = torch.where(whole, torch.nan, lower)
    return [
        (branch * math.pi + x, None, None),
        (branch * math.pi - x, None, None),
        (pole, -torch.inf, torch.inf),
    ]


# -- hard_swish ----------------------------------------------------------------------------------------


def _hard_swish(p: Prepared, x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0.0, 6.0) / 6


def _hard_swish_derivative(p: Prepared, x: Tensor) -> Tensor:
    return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, (2 * x + 3) / 6))


def _hard_swish_candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    return [(-3.0, None, None), (3.0, None, None), ((3 * slope - 1.5).clamp(-3.0, 3.0), None, None)]


def _hard_swish_linear(p: Prepared, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, float]:
    return (lower >= 3) | (upper <= -3), (lower >= 3).to(lower.dtype), 0.0


def _odd(
    name: str, evaluate: Callable, root: Callable, derivative: Callable, low: float, high: float
) -> Univariate:
    """An increasing S-shaped function, odd about its inflection at 0; ``root(k) >= 0`` solves ``f' = k``."""
    start, slopes = s_shaped(evaluate, derivative, root)

    def candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
        x = root(slope)
        return [(x, None, None), (-x, None, None)]

    return Univariate(
        name=name,
        evaluate=evaluate,
        interval=_increasing(evaluate, low, high),
        candidates=candidates,
        derivative=derivative,
        breakpoints=_zero,
        start=start,
        slopes=slopes,
    )


def _bent(
    name: str, evaluate: Callable, candidates: Callable, derivative: Callable, convex: Callable, **fields
):
    """A function that is convex or concave on every box of its domain."""
    start, slopes = curved(evaluate, derivative, convex)
    return record(name, evaluate, candidates, derivative, start=start, slopes=slopes, **fields)


def _always(convex: bool) -> Callable:
    return lambda p, lower, upper: torch.full((), convex, device=lower.device)


SIGMOID = _odd("sigmoid", lambda p, x: torch.sigmoid(x), _sigmoid_root, _sigmoid_derivative, 0.0, 1.0)
TANH = _odd("tanh", lambda p, x: torch.tanh(x), _tanh_root, _tanh_derivative, -1.0, 1.0)
ERF = _odd(
    "erf",
    lambda p, x: torch.erf(x),
    _erf_root,
    lambda p, x: torch.exp(-x * x) * (2 / math.sqrt(math.pi)),
    -1.0,
    1.0,
)
ATAN = _odd("atan", lambda p, x: torch.atan(x), _atan_root, lambda p, x: 1 / (1 + x * x), -math.inf, math.inf)
SOFTSIGN = _odd("softsign", _softsign, _softsign_root, lambda p, x: (1 + x.abs()) ** -2, -1.0, 1.0)
EXP = _bent(
    "exp",
    lambda p, x: torch.exp(x),
    _exp_candidates,
    lambda p, x: torch.exp(x),
    _always(True),
    limits=(0.0, math.inf),
)
LOG = _bent("log", lambda p, x: torch.log(x), _log_candidates, lambda p, x: 1 / x, _always(False))
SQRT = _bent(
    "sqrt",
    lambda p, x: torch.sqrt(x),
    _sqrt_candidates,
    lambda p, x: 0.5 / torch.sqrt(x),
    _always(False),
    limits=(0.0, math.inf),
)
RECIPROCAL = _bent(
    "reciprocal",
    lambda p, x: 1 / x,
    _reciprocal_candidates,
    lambda p, x: -1 / (x * x),
    lambda p, lower, upper: lower > 0,
    breakpoints=_zero,
)
POW = _bent(
    "pow",
    _pow,
    _pow_candidates,
    _pow_derivative,
    _pow_convex,
    limits=_pow_limits,
    breakpoints=_zero,
)
SIN = record(
    "sin",
    lambda p, x: torch.sin(x),
    _sin_candidates,
    lambda p, x: torch.cos(x),
    limits=(-1.0, 1.0),
    start=lambda p, lower, upper: _wave_start(lower, upper, 0.0),
)
COS = record(
    "cos",
    lambda p, x: torch.cos(x),
    _cos_candidates,
    lambda p, x: -torch.sin(x),
    limits=(-1.0, 1.0),
    start=lambda p, lower, upper: _wave_start(lower, upper, 0.5 * math.pi),
)
TAN = record("tan", lambda p, x: torch.tan(x), _tan_candidates, lambda p, x: torch.cos(x) ** -2)
SOFTPLUS = _bent(
    "softplus",
    softplus,
    _softplus_candidates,
    lambda p, x: torch.sigmoid(x),
    _always(True),
    limits=(0.0, math.inf),
)
ELU = record(
    "elu",
    _elu,
    _elu_candidates,
    _elu_derivative,
    constants=("alpha",),
    linear=_linear_above_zero,
    breakpoints=_zero,
)
SELU = record(
    "selu",
    _selu,
    _selu_candidates,
    _selu_derivative,
    constants=("alpha", "gamma"),
    linear=_linear_above_zero,
    breakpoints=_zero,
)
CELU = record(
    "celu",
    _celu,
    _celu_candidates,
    _celu_derivative,
    constants=("alpha",),
    linear=_linear_above_zero,
    breakpoints=_zero,
)
HARD_SWISH = record(
    "hard_swish",
    _hard_swish,
    _hard_swish_candidates,
    _hard_swish_derivative,
    linear=_hard_swish_linear,
    breakpoints=lambda p: (-3.0, 3.0),
)

OPERATORS = (
    SIGMOID,
    TANH,
    ERF,
    ATAN,
    SOFTSIGN,
    EXP,
    LOG,
    SQRT,
    RECIPROCAL,
    POW,
    SIN,
    COS,
    TAN,
    SOFTPLUS,
    ELU,
    SELU,
    CELU,
    *BRACKETED,
    HARD_SWISH,
)
