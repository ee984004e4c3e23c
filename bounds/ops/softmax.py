"""Softmax and its logarithm: a convex, falling function of ``S_i = sum_j exp(x_j - x_i)``.

``softmax_i = 1 / S_i`` and ``log_softmax_i = -log S_i``. A line of that function is composed with lines of the
exponentials; because it falls, a lower line takes the chords of all exponentials and an upper line their tangents. So
a plane in x has no more terms than x, and is what the same graph of exponentials, sums and quotients would give,
without coefficients on any of them (DESIGN 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from provenn.bounds.ops import relaxation
from provenn.bounds.ops._operator import Box, Multivariate, Plane, Prepared, Univariate
from provenn.bounds.ops._outward import UNIT, without_nan
from provenn.bounds.ops._patterns import Contraction
from provenn.bounds.ops._planes import relaxed
from provenn.bounds.ops.relaxation import outward
from provenn.bounds.ops.smooth import EXP, LOG, RECIPROCAL

_SMALL = 1e-290
"""Stands for exponentials that underflow; larger than any of them and far below every result."""
# Exponentials in all planes of a node, beyond which intervals have to do.
MOST_TERMS = 1 << 22


def _softmax(prepared: Prepared, x: Tensor) -> Tensor:
    return torch.softmax(x, prepared.node.attributes["axis"] + 1)


def _log_softmax(prepared: Prepared, x: Tensor) -> Tensor:
    return torch.log_softmax(x, prepared.node.attributes["axis"] + 1)


def _others(terms: Tensor, axis: int) -> Tensor:
    """For every element the sum of all the others along ``axis``, without cancellation."""
    total = terms.cumsum(axis)
    before = total.narrow(axis, 0, total.shape[axis] - 1)
    reverse = terms.flip(axis).cumsum(axis).flip(axis)
    after = reverse.narrow(axis, 1, total.shape[axis] - 1)
    zero = torch.zeros_like(terms.narrow(axis, 0, 1))
    return torch.cat([zero, before], axis) + torch.cat([after, zero], axis)


def _softmax_parts(prepared: Prepared, box: Box) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    """Exponentials of both ends shifted by the largest upper end, and the sums of the others' worst cases.

    ``e^x_i / sum_j e^x_j`` grows with x_i and falls with every other x_j, so its extremes over a box are at corners.
    """
    axis = prepared.node.attributes["axis"] + 1
    lower, upper = box
    known = torch.where(upper.isfinite(), upper, torch.where(lower.isfinite(), lower, -torch.inf))
    shift = known.amax(axis, keepdim=True)
    shift = torch.where(shift.isfinite(), shift, 0.0)
    low, high = torch.exp(lower - shift), torch.exp(upper - shift)
    count = lower.shape[axis]
    # An argument x - shift rounds by 2^-53 |x - shift| <= 750 * 2^-53 where its exponential matters.
    error = (2 * count + 4000) * UNIT if lower.dtype == torch.float64 else 0.0
    return low, high, _others(low, axis), _others(high, axis), shift, error


def _softmax_interval(prepared: Prepared, box: Box) -> Box:
    low, high, other_low, other_high, _, error = _softmax_parts(prepared, box)
    tiny = _SMALL if low.dtype == torch.float64 else 1e-37
    # An exponential in the range of underflow has no relative accuracy: nothing but softmax >= 0 is claimed of it.
    first = torch.where(low < tiny, 0.0, low / (low + other_high + tiny) * (1.0 - error))
    high = high.clamp(min=tiny)
    last = high / (high + other_low) * (1.0 + error)
    first, last = without_nan(first, last)
    return first.clamp(0.0, 1.0), last.clamp(0.0, 1.0)


def _log_softmax_interval(prepared: Prepared, box: Box) -> Box:
    low, high, other_low, other_high, shift, error = _softmax_parts(prepared, box)
    tiny = _SMALL if low.dtype == torch.float64 else 1e-37
    # log(e^l / (e^l + S)) = (l - shift) - log(e^l + S): the logarithm's argument is bounded away from 0 by tiny.
    first = (box[0] - shift) - torch.log(low + other_high + tiny)
    # Sums in the range of underflow have no relative accuracy: there only log_softmax <= 0 is claimed.
    total = high + other_low
    last = torch.where(total < tiny, 0.0, (box[1] - shift) - torch.log(total.clamp(min=tiny)))
    slack = error * (1.0 + (box[0] - shift).abs() + (box[1] - shift).abs())
    first, last = without_nan(first - slack, last + slack)
    return first, last.clamp(max=0.0)


# -- planes ----------------------------------------------------------------------------------------------


def _axis(p: Prepared) -> int:
    """The axis of the sum, counted from the end."""
    return p.node.attributes["axis"] - len(p.shape)


def _differences(p: Prepared, x: Box) -> tuple[Tensor, Tensor, Tensor]:
    """The box of ``x_j - x_i`` for every j and i ``[domains, *rest, j, i]``, and where j is not i ``[n, n]``."""
    low, high = (end.movedim(_axis(p), -1) for end in x)
    n = low.shape[-1]
    apart = ~torch.eye(n, dtype=torch.bool, device=low.device)
    first = low.unsqueeze(-1) - high.unsqueeze(-2)
    last = high.unsqueeze(-1) - low.unsqueeze(-2)
    first, last = outward(first, last, 1.0)
    return torch.where(apart, first, 0.0), torch.where(apart, last, 0.0), apart


def _sums(first: Tensor, last: Tensor) -> Box:
    """The box of S ``[domains, *rest, i]``: the term of i itself is 1."""
    n = first.shape[-2]
    low, high = outward(torch.exp(first).sum(-2), torch.exp(last).sum(-2), 2 * n + 8)
    return low.clamp(min=1.0), high.clamp(min=1.0)


# How far above the lower end of a difference the line below its exponential starts to touch at most: where it touches
# more than 1 above, it is negative at that end, where the exponential is not.
_REACH = 0.5


@dataclass(frozen=True)
class _Tangents:
    """The planes of one node over its box as functions of weights, rows in an axis of their own.

    ``differences`` is the box of ``x_j - x_i`` ``[domains, 1, *rest, j, i]``, ``sums`` that of S ``[domains, 1, *rest,
    i]``; ``chord`` the upper lines of the exponentials, ``outer`` the upper line of the function of S.
    """

    p: Prepared
    function: _Falling
    differences: Box
    sums: Box
    chord: Box
    outer: Box
    reach: Box
    image: Box

    def planes(self, weights: tuple[Tensor, Tensor]) -> tuple[Plane, Plane]:
        """Weights ``[domains, rows, *rest, i]`` say where in the box of S the lower line touches, ``[domains, rows,
        *rest, j, i]`` where in the box of a difference the line below its exponential does."""
        eps = torch.finfo(self.p.dtype).eps
        touch = self._inside(self.sums, weights[0])
        value, k = self.function.value(touch), self.function.derivative(touch)
        # A slope that underflows is no derivative: such a line is none.
        k = torch.where(k.abs() > torch.finfo(k.dtype).tiny / eps, k, torch.nan)
        b = value - k * touch
        b = b - (16 * eps) * (value.abs() + (k * touch).abs())
        at = self._inside(self.differences, weights[1])
        slope = torch.exp(at)
        offset = slope * (1 - at) - (16 * eps) * slope * (1 + at.abs())
        own = torch.eye(slope.shape[-1], dtype=torch.bool, device=slope.device)
        support = slope.masked_fill(own, 0.0), offset.masked_fill(own, 0.0)
        return (
            _composed(self.p, k, b, *self.chord, self.reach, self.image[0], -1.0),
            _composed(self.p, *self.outer, *support, self.reach, self.image[1], 1.0),
        )

    def gradient(
        self, weights: tuple[Tensor, Tensor], coefficients: tuple[Tensor, Tensor], *values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The derivative in the weights of ``coefficients`` (those on the lower and on the upper planes) times the
        planes at ``values``, all ``[domains, rows, ...]``."""
        axis = _axis(self.p)
        positive, negative, x = (t.movedim(axis, -1) for t in (*coefficients, *values))
        apart = x.unsqueeze(-1) - x.unsqueeze(-2)
        low, high = self.sums
        touch = self._inside(self.sums, weights[0])
        total = 1 + (self.chord[0] * apart + self.chord[1]).sum(-2)
        below = positive * self.function.second(touch) * (total - touch) * (high - low)
        first, last = self.differences
        at = self._inside(self.differences, weights[1])
        above = (negative * self.outer[0]).unsqueeze(-2) * torch.exp(at) * (apart - at) * (last - first)
        return below, above

    @staticmethod
    def _inside(box: Box, weight: Tensor) -> Tensor:
        return box[0] + (box[1] - box[0]) * weight


class _Falling(NamedTuple):
    """A convex, falling function of S with its derivatives; ``sign`` times the record ``outer``."""

    outer: Univariate
    sign: float
    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    second: Callable[[Tensor], Tensor]

    def upper_line(self, p: Prepared, low: Tensor, high: Tensor) -> Box:
        """Its chord over the box of S."""
        kl, bl, ku, bu = relaxation.lines(self.outer, p, low, high)
        return (ku, bu) if self.sign > 0 else (-kl, -bl)


def _tangents(function: _Falling, interval: Callable) -> Callable:
    """``weighted`` of one of the two operators."""

    def weighted(p: Prepared, x: Box) -> _Tangents:
        first, last, apart = _differences(p, x)
        sums = _sums(first, last)
        _, _, ku, bu = relaxation.lines(EXP, p, first, last)
        zero = torch.zeros_like(ku)
        size = torch.maximum(x[0].abs(), x[1].abs()).movedim(_axis(p), -1)
        row = lambda *tensors: tuple(t.unsqueeze(1) for t in tensors)  # noqa: E731
        return _Tangents(
            p, function, row(first, last), row(*sums), row(torch.where(apart, ku, zero), torch.where(apart, bu, zero)),
            row(*function.upper_line(p, *sums)), row(torch.maximum(first.abs(), last.abs()), size),
            row(*interval(p, x)),
        )  # fmt: skip

    return weighted


def _composed(
    p: Prepared, k: Tensor, b: Tensor, slopes: Tensor, offsets: Tensor, reach: Box, image: Tensor, side: float
) -> Plane:
    """``k S + b`` with k <= 0 and ``slopes (x_j - x_i) + offsets`` for each term of S but its own, which is 1.

    ``reach`` bounds ``|x_j - x_i|`` and ``|x|``: products and sums of slopes round, and the offset makes up for it.
    """
    k = k.clamp(max=0.0)
    n = slopes.shape[-1]
    eps = torch.finfo(k.dtype).eps
    product = k.unsqueeze(-2) * slopes
    own = -product.sum(-2)
    total = b + k + (k.unsqueeze(-2) * offsets).sum(-2)
    weights = product.abs()
    error = (weights * (reach[0] + reach[1].unsqueeze(-1))).sum(-2) + weights.sum(-2) * reach[1]
    error = error + b.abs() + k.abs() + (k.unsqueeze(-2) * offsets).abs().sum(-2)
    slack = error * ((2 * n + 16) * eps) + (8 * n) * torch.finfo(k.dtype).tiny * (1 + reach[1].amax(-1, keepdim=True))
    offset = total + side * slack
    fine = torch.isfinite(offset) & torch.isfinite(product).all(-2) & torch.isfinite(own)
    matrix = product + torch.diag_embed(own)
    return Plane(
        (torch.where(fine.unsqueeze(-2), matrix, 0.0),),
        torch.where(fine.movedim(-1, _axis(p)), offset.movedim(-1, _axis(p)), image),
    )


def _start(p: Prepared, x: Box) -> tuple[Tensor, Tensor]:
    """Tangents at the middle of the boxes, those of exponentials not beyond ``_REACH``."""
    first, last, _ = _differences(p, x)
    below = torch.full_like(first[..., 0, :], 0.5)
    return below, torch.nan_to_num(_REACH / (last - first), nan=0.5).clamp(max=0.5)


def _patterns(p: Prepared) -> tuple[Contraction, ...]:
    return (Contraction(_axis(p), _axis(p), p.shape[_axis(p)]),)


def _opaque(p: Prepared) -> bool:
    size = int(torch.Size(p.shape).numel())
    return size * p.shape[_axis(p)] > MOST_TERMS


_INVERSE = _Falling(RECIPROCAL, 1.0, lambda s: 1 / s, lambda s: -1 / (s * s), lambda s: 2 / (s * s * s))
_LOGARITHM = _Falling(LOG, -1.0, lambda s: -torch.log(s), lambda s: -1 / s, lambda s: 1 / (s * s))


def _record(name: str, evaluate: Callable, interval: Callable, function: _Falling) -> Multivariate:
    weighted = _tangents(function, interval)
    return Multivariate(
        name, evaluate, interval, relax=relaxed(weighted, _start), weighted=weighted, start=_start, patterns=_patterns,
        products=lambda p: 2 * p.shape[_axis(p)], opaque=_opaque,
    )  # fmt: skip


SOFTMAX = _record("softmax", _softmax, _softmax_interval, _INVERSE)
LOG_SOFTMAX = _record("log_softmax", _log_softmax, _log_softmax_interval, _LOGARITHM)

OPERATORS = (SOFTMAX, LOG_SOFTMAX)
