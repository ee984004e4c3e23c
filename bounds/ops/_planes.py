"""Linear bounds of a function of two variables: slopes are chosen, the offset is the extremum at the corners.

``f(x, y) - a x - b y`` takes its extrema over a box at points that the operator knows (corners for a
product, corners and the diagonal for a maximum), so every ``(a, b)`` has an exact offset (DESIGN 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Box, Plane, Prepared, Weighted

Points = Iterable[tuple[Tensor, Tensor]]


def product(x: Tensor, y: Tensor) -> Tensor:
    """``x * y`` with 0 times an infinite end equal to 0: a box holds finite numbers only."""
    return (x * y).masked_fill((x == 0) | (y == 0), 0.0)


def corners(x: Box, y: Box) -> list[tuple[Tensor, Tensor]]:
    return [(x[0], y[0]), (x[0], y[1]), (x[1], y[0]), (x[1], y[1])]


def lower_plane(f: Callable, points: Points, a: Tensor, b: Tensor, low: Tensor, ulps: float = 2.0) -> Plane:
    """The plane with slopes a, b and the largest sound offset; the constant ``low`` where that is not finite."""
    tried = (_measure(f, x, y, a, b, ulps) for x, y in points)
    return _or_constant(a, b, reduce(torch.minimum, (value - slack for value, slack in tried)), low)


def upper_plane(f: Callable, points: Points, a: Tensor, b: Tensor, high: Tensor, ulps: float = 2.0) -> Plane:
    """The plane with slopes a, b and the smallest sound offset; the constant ``high`` where that is not finite."""
    tried = (_measure(f, x, y, a, b, ulps) for x, y in points)
    return _or_constant(a, b, reduce(torch.maximum, (value + slack for value, slack in tried)), high)


def split_weights(weights: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Weights of the lower and the upper plane: a pair, or one tensor for both."""
    return weights if isinstance(weights, tuple) else (weights, weights)


def relaxed(weighted: Callable[..., Weighted], start: Callable[..., tuple[Tensor, Tensor]]) -> Callable:
    """``relax`` of an operator whose planes are made by ``weighted``: one row of weights for every domain."""

    def relax(prepared: Prepared, weights, *boxes: Box) -> tuple[Plane, Plane]:
        below, above = start(prepared, *boxes) if weights is None else split_weights(weights)
        planes = weighted(prepared, *boxes).planes((below.unsqueeze(1), above.unsqueeze(1)))
        low, high = (Plane(tuple(s.squeeze(1) for s in plane.slopes), plane.offset.squeeze(1)) for plane in planes)
        return low, high

    return relax


def _measure(f: Callable, x: Tensor, y: Tensor, a: Tensor, b: Tensor, ulps: float) -> tuple[Tensor, Tensor]:
    """``f - a x - b y`` at a point and the error of computing it, f being within ``ulps`` ulps."""
    info = torch.finfo(x.dtype)
    value, left, right = f(x, y), a * x, b * y
    slack = value.abs() * (ulps + 3) + (left.abs() + right.abs()) * 3
    nonzero = ((x != 0) | (y != 0)).to(x.dtype)
    return value - left - right, (slack * info.eps + 3 * info.tiny * nonzero).detach()


def _or_constant(a: Tensor, b: Tensor, offset: Tensor, constant: Tensor) -> Plane:
    fine = torch.isfinite(a) & torch.isfinite(b) & torch.isfinite(offset)
    slopes = (torch.where(fine, a, 0.0), torch.where(fine, b, 0.0))
    return Plane(slopes, torch.where(fine, offset, constant))
