"""gelu, silu and mish: ``f'(x) = k`` has no closed form, so its root is bracketed and the slack covers the bracket.

f' is monotone between two inflections, which are known to the last digit; being off by rounding does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Prepared, Univariate
from provenn.bounds.ops.relaxation import record

Candidates = list[tuple]
# Points of a table of f' on a piece where it is monotone, and steps along chords of f' in a bracket of two of them: in
# float32 the first step is as exact as numbers are.
NODES, CHORDS = 4097, {torch.float64: 3, torch.float32: 1}


def softplus(p: Prepared, x: Tensor) -> Tensor:
    # not torch's softplus: it returns x from 20 on, 2e-9 below the function
    return torch.logaddexp(x, torch.zeros_like(x))


@cache
def _nodes(
    derivative: Callable, ends: tuple[float, ...], first_rises: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Points ``[pieces, NODES]`` of the pieces where f' is monotone, evenly spaced, and f' there, rising."""
    pieces = []
    for piece, (start, stop) in enumerate(pairwise(ends)):
        x = torch.linspace(start, stop, NODES, dtype=torch.float64)
        pieces.append(x if (piece % 2 == 0) == first_rises else x.flip(0))
    nodes = torch.stack(pieces).to(dtype).to(device)
    return nodes, torch.cummax(derivative(None, nodes), 1).values


def bracketed(
    derivative: Callable, inflections: tuple[float, ...], reach: float, first_rises: bool = False
) -> Callable:
    """Candidates from a table on the pieces of ``[-reach, reach]`` where f' is monotone, by turns falling and rising.

    The table gives a bracket of the root of ``f' = k``, one step along the chord of f' a point in it. On the piece the
    difference ``f - k x`` changes between that point and the root by at most ``|f' - k|`` at the point times the
    bracket's width, and a wrong turn at a rounding error e of f' costs at most e times the piece: both are added to
    the values. All pieces are sought in at once, in an axis in front.
    """
    ends = (-reach, *inflections, reach)

    def candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
        eps = torch.finfo(lower.dtype).eps
        lower, upper, slope = torch.broadcast_tensors(lower, upper, slope)
        limits = torch.tensor(ends, dtype=lower.dtype, device=lower.device)
        limits = limits.view(-1, *(1 for _ in lower.shape))
        start, stop = (torch.minimum(torch.maximum(end, limits[:-1]), limits[1:]) for end in (lower, upper))
        noise = 64 * eps * (1 + torch.maximum(start.abs(), stop.abs())) * (stop - start)
        x, rising = _nodes(derivative, ends, first_rises, lower.dtype, lower.device)
        place = torch.searchsorted(rising, slope.reshape(1, -1).expand(len(x), -1).contiguous()).clamp(
            1, NODES - 1
        )
        one, two = (x.gather(1, at).view(start.shape) for at in (place - 1, place))
        low = torch.minimum(torch.maximum(torch.minimum(one, two), start), stop)
        high = torch.minimum(torch.maximum(torch.maximum(one, two), start), stop)
        first, last = derivative(p, low) - slope, derivative(p, high) - slope
        # Without a change of sign there is no root but for rounding: the end with the smaller difference will do.
        crossing = torch.sign(first) != torch.sign(last)
        for step in range(CHORDS[lower.dtype]):
            if step:
                first, last = derivative(p, low) - slope, derivative(p, high) - slope
            share = torch.nan_to_num(first / (first - last), nan=0.5).clamp(0.0, 1.0)
            point = torch.minimum(torch.maximum(low + (high - low) * share, low), high)
            rest = derivative(p, point) - slope
            # The root is on the side where the sign changes; both ends move towards it.
            left = torch.sign(rest) == torch.sign(last)
            low, high = torch.where(left, low, point), torch.where(left, point, high)
        cover = torch.where(crossing, rest.abs() * (high - low), 0.0) + noise
        return list(zip(point.unbind(0), cover.unbind(0), strict=True))

    return candidates


def _with_tails(bracket: Callable, reach: float) -> Callable:
    def candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
        found: Candidates = [(point, None, cover) for point, cover in bracket(p, slope, lower, upper)]
        for point in (lower, upper.clamp(max=-reach)):
            found.append((torch.where(lower < -reach, point, torch.nan), -1e-15, 0.0))
        return [*found, (reach, None, None)]

    return candidates


def _bracketed_record(
    name: str, evaluate: Callable, derivative: Callable, inflection: tuple[float, float], reach: float, error
) -> Univariate:
    bracket = bracketed(derivative, inflection, reach)
    return record(
        name,
        evaluate,
        _with_tails(bracket, reach),
        derivative,
        error=error,
        breakpoints=lambda p: (0.0,),
    )


def _gelu(p: Prepared, x: Tensor) -> Tensor:
    # erfc keeps the left tail's relative accuracy; 1 + erf cancels there
    return x * (0.5 * torch.special.erfc(x * -math.sqrt(0.5)))


def _gelu_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    """erfc's argument is rounded: a relative error of up to ``x^2`` ulps in the left tail."""
    return _tailed(x, value, x.clamp(max=0.0) ** 2)


def _tailed(x: Tensor, value: Tensor, growth: Tensor) -> Tensor:
    info = torch.finfo(x.dtype)
    relative = ((8 + 4 * growth) * info.eps).clamp(max=1.0)
    return (value.abs() * relative).nan_to_num(nan=torch.inf) + info.tiny * (1 + x.abs())


def _gelu_derivative(p: Prepared, x: Tensor) -> Tensor:
    density = torch.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return 0.5 * torch.special.erfc(x * -math.sqrt(0.5)) + x * density


def _gelu_tanh_argument(x: Tensor) -> Tensor:
    return (2 * math.sqrt(2 / math.pi)) * (x + 0.044715 * x * x * x)


def _gelu_tanh(p: Prepared, x: Tensor) -> Tensor:
    return x * torch.sigmoid(_gelu_tanh_argument(x))


def _gelu_tanh_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    return _tailed(x, value, _gelu_tanh_argument(x.clamp(max=0.0)).abs())


def _gelu_tanh_derivative(p: Prepared, x: Tensor) -> Tensor:
    s = torch.sigmoid(_gelu_tanh_argument(x))
    inner = (2 * math.sqrt(2 / math.pi)) * (1 + 3 * 0.044715 * x * x)
    return s + x * s * (1 - s) * inner


def _silu(p: Prepared, x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _silu_derivative(p: Prepared, x: Tensor) -> Tensor:
    return torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))


def _mish(p: Prepared, x: Tensor) -> Tensor:
    return x * torch.tanh(softplus(p, x))


def _mish_derivative(p: Prepared, x: Tensor) -> Tensor:
    t = torch.tanh(softplus(p, x))
    return t + x * (1 - t * t) * torch.sigmoid(x)


def _plain_error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    return _tailed(x, value, torch.zeros_like(x))


GELU = _bracketed_record("gelu", _gelu, _gelu_derivative, (-math.sqrt(2), math.sqrt(2)), 12.0, _gelu_error)
GELU_TANH = _bracketed_record(
    "gelu_tanh",
    _gelu_tanh,
    _gelu_tanh_derivative,
    (-1.4185040087908284, 1.4185040087908284),
    12.0,
    _gelu_tanh_error,
)
SILU = _bracketed_record(
    "silu", _silu, _silu_derivative, (-2.3993572805154677, 2.3993572805154677), 50.0, _plain_error
)
MISH = _bracketed_record(
    "mish", _mish, _mish_derivative, (-2.2563763963607931, 1.4905711794854285), 50.0, _plain_error
)

BRACKETED = (GELU, GELU_TANH, SILU, MISH)
