"""Adversarial draws: boxes of all magnitudes, slopes of all ranges, and the points at which a line may fail."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy import ndarray as Array

from provenn.bounds.ops import Prepared, Univariate, relaxation

from .reference import LONG

Random = np.random.Generator
BISECTIONS = 70


def magnitudes(random: Random, size, least: float = -6.0, most: float = 6.0) -> Array:
    """Log-uniform positive numbers."""
    return 10.0 ** random.uniform(least, most, size)


def boxes(random: Random, count: int, special: Array, domain: tuple[float, float]) -> tuple[Array, Array]:
    """Boxes ``[count]`` in the domain: every size at every place, at and around special points, degenerate, one ulp."""
    sign = random.choice([-1.0, 1.0], count)
    centre = sign * magnitudes(random, count)
    near = sign * magnitudes(random, count, -2.0, 1.0)
    place = random.choice(special, count) if special.size else centre
    other = random.choice(special, count) if special.size else near
    left, right = magnitudes(random, (2, count))
    little = magnitudes(random, (2, count), -16.0, 1.0)
    huge = magnitudes(random, count, 6.0, max(6.0, np.log10(np.abs(domain).max())))
    ulps = np.abs(centre) * 2.0**-52 * random.integers(1, 40, count)
    inside = (
        random.uniform(np.maximum(domain[0], -20.0), np.minimum(domain[1], 20.0), (2, count))
        if (domain[0] < 20.0 and domain[1] > -20.0)
        else random.uniform(*domain, (2, count))
    )
    kinds = [
        (centre - left, centre + right),
        (near - left, near + right),
        (inside[0], inside[1]),
        (inside[0], inside[0] + little[0]),
        (place - left, place + right),
        (place - little[0], place + little[1]),
        (place, place + right),
        (place - left, place),
        (place, place + little[0]),
        (place - little[1], place),
        (place, other),
        (place, place),
        (place, np.nextafter(place, np.inf)),
        (np.nextafter(place, -np.inf), place),
        (np.nextafter(place, -np.inf), np.nextafter(place, np.inf)),
        (centre, centre),
        (near, near),
        (centre, np.nextafter(centre, np.inf)),
        (near, np.nextafter(near, np.inf)),
        (centre, centre + ulps),
        (centre * 1e-150, centre * 1e-150 * (1 + left)),
        (np.where(sign > 0, 0.0, -left), np.where(sign > 0, left, 0.0)),
        (np.full(count, domain[0]), np.full(count, domain[0]) + right),
        (np.full(count, domain[1]) - left, np.full(count, domain[1])),
        (inside[0] * 2.0**-20, inside[1]),
        (sign * huge, sign * huge * (1 + little[0])),
        (near, sign * huge),
    ]
    kind = random.integers(0, len(kinds), count)
    ends = np.stack([np.stack(np.broadcast_arrays(*pair)) for pair in kinds])[kind, :, np.arange(count)]
    ends = np.clip(ends, *domain)
    return ends.min(1), ends.max(1)


def slopes(
    random: Random,
    op: Univariate,
    p: Prepared,
    lower: Array,
    upper: Array,
    derivative: Callable | None,
    start: tuple[Array, Array],
    count: int,
) -> Array:
    """Slopes ``[count, boxes]``: starting ones, ends and inside of the useful range, far outside, derivatives, 0."""
    low, high = torch.from_numpy(lower).to(p.dtype), torch.from_numpy(upper).to(p.dtype)
    ranges = torch.stack(torch.broadcast_tensors(*relaxation.slope_range(op, p, low, high))).double().numpy()
    scale = np.abs(ranges).max(0) + 1e-30
    mix = random.uniform(0, 1, (3, lower.size))
    tangents = []
    if derivative is not None:
        at = np.stack([lower, upper, lower + mix[2] * (upper - lower)])
        with np.errstate(all="ignore"):
            tangent = derivative(at)
        tangents = [*tangent, np.nextafter(tangent[0], np.inf), np.nextafter(tangent[1], -np.inf)]
    signs = random.choice([-1.0, 1.0], (5, lower.size))
    kinds = np.stack(
        [
            *ranges,
            *start,
            *start,
            ranges[0] + mix[0] * (ranges[1] - ranges[0]),
            ranges[2] + mix[1] * (ranges[3] - ranges[2]),
            *(random.uniform(-2, 2, (2, lower.size)) * scale),
            scale * signs[0] * magnitudes(random, lower.size, 0.0, 8.0),
            signs[1] * magnitudes(random, lower.size, -9.0, 9.0),
            signs[2] * magnitudes(random, lower.size, -2.0, 1.0),
            signs[3] * magnitudes(random, lower.size, -300.0, 300.0),
            signs[4] * np.ones(lower.size),
            np.zeros(lower.size),
            *tangents,
        ]
    )
    kinds = np.where(np.isfinite(kinds), kinds, 0.0)
    return np.take_along_axis(kinds, random.integers(0, len(kinds), (count, lower.size)), 0)


def shared_points(case, random: Random, lower: Array, upper: Array) -> Array:
    """Points ``[boxes, k]`` of every box for all slopes: ends, special points, their neighbours, and between."""
    fraction = random.uniform(0, 1, (lower.size, 6))
    fraction[:, 4] = magnitudes(random, lower.size, -16.0, 0.0)
    fraction[:, 5] = 1 - magnitudes(random, lower.size, -16.0, 0.0)
    inner = lower[:, None] + (upper - lower)[:, None] * fraction
    parts = [
        np.stack([lower, upper], -1),
        _some(np.broadcast_to(case.special, (lower.size, case.special.size)), random, lower, upper),
    ]
    if case.jumps is not None:
        parts.append(_some(case.jumps(lower, upper), random, lower, upper))
    exact = np.concatenate(parts, -1)
    around = [np.nextafter(exact, -np.inf), np.nextafter(exact, np.inf)]
    # real numbers between two of float64, next to a jump or an end
    closest = [np.nextafter(exact.astype(LONG), LONG(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([part.astype(LONG) for part in (exact, *around, *closest, inner)], -1)


def _some(points: Array, random: Random, lower: Array, upper: Array, most: int = 3) -> Array:
    """Up to so many of the points ``[boxes, k]``, those inside the box first."""
    outside = (points < lower[:, None]) | (points > upper[:, None])
    order = np.argsort(random.uniform(0, 1, points.shape) + outside, -1)[:, :most]
    return np.take_along_axis(points, order, -1)


def stationary_points(case, slope: Array, lower: Array, upper: Array) -> Array:
    """Where ``f'(x) = slope`` in the box, ``[k, slopes, boxes]``: by bisection where the derivative is monotone."""
    if case.roots is not None:
        return np.stack(case.roots(slope, lower, upper))
    if case.derivative is None:
        return np.empty((0, *slope.shape))
    found = []
    cuts = [-np.inf, *sorted(case.bends), np.inf]
    with np.errstate(all="ignore"):
        for before, after in pairwise(cuts):
            a, b = (np.broadcast_to(np.clip(end, before, after), slope.shape) for end in (lower, upper))
            rising = case.derivative(b) >= case.derivative(a)
            for _ in range(BISECTIONS):
                far = (a * b > 0) & ((np.abs(a) > 4 * np.abs(b)) | (np.abs(b) > 4 * np.abs(a)))
                middle = np.where(far, np.sign(a) * np.sqrt(np.abs(a)) * np.sqrt(np.abs(b)), 0.5 * (a + b))
                beyond = (case.derivative(middle) > slope) == rising
                a, b = np.where(beyond, a, middle), np.where(beyond, middle, b)
            found += [a, b]
    return np.stack(found)
