"""Products and quotients of two variable operands, and the product of two variable matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.ops._blend import Blend, blend
from provenn.bounds.ops._operator import Box, Multivariate, Plane, Prepared
from provenn.bounds.ops._patterns import Contraction
from provenn.bounds.ops._planes import corners, lower_plane, product, relaxed, split_weights, upper_plane
from provenn.bounds.ops.relaxation import outward

EXACT_MATMUL_SIZE = 1 << 22  # elements of the four-corner expansion; larger products use centre and radius
# Products that a matrix product may be made of for planes of each of them: 8 slopes and more for each.
MOST_PRODUCTS = 1 << 22


# -- mul -------------------------------------------------------------------------------------------------


def _mul(p: Prepared, x: Tensor, y: Tensor) -> Tensor:
    return x * y


def _mul_interval(p: Prepared, x: Box, y: Box) -> Box:
    first, *rest = (product(s, t) for s, t in corners(x, y))
    low = high = first
    for value in rest:
        low, high = torch.minimum(low, value), torch.maximum(high, value)
    return outward(low, high, 1.0)


def _lower_slopes(x: Box, y: Box, r: Tensor) -> Box:
    """McCormick's lower planes: r = 1 touches the edges at the lower ends, r = 0 those at the upper ends."""
    return y[1] + (y[0] - y[1]) * r, x[1] + (x[0] - x[1]) * r


def _upper_slopes(x: Box, y: Box, r: Tensor) -> Box:
    """McCormick's upper planes: r = 1 pairs y's upper with x's lower end, r = 0 the reverse."""
    return y[0] + (y[1] - y[0]) * r, x[1] + (x[0] - x[1]) * r


@torch.no_grad()
def _starting_weight(slopes, x: Box, y: Box, sign: float) -> Tensor:
    """The weight whose plane, concretised over the box alone, is best.

    All weights leave the same volume. The concretised bound is concave and piecewise linear in r, with break
    points where a slope vanishes, so the best of these and the ends is the optimum.
    """
    a0, b0 = slopes(x, y, torch.zeros_like(x[0]))
    a1, b1 = slopes(x, y, torch.ones_like(x[0]))
    tries = [torch.ones_like(a0), torch.zeros_like(a0), a0 / (a0 - a1), b0 / (b0 - b1)]
    gains = []
    for place, r in enumerate(tries):
        tries[place] = r = torch.nan_to_num(r, nan=0.5).clamp(0.0, 1.0)
        a, b = slopes(x, y, r)
        offsets = [sign * (s * t - a * s - b * t) for s, t in corners(x, y)]
        offset = torch.minimum(torch.minimum(offsets[0], offsets[1]), torch.minimum(offsets[2], offsets[3]))
        a, b = sign * a, sign * b
        gains.append(offset + torch.minimum(a * x[0], a * x[1]) + torch.minimum(b * y[0], b * y[1]))
    # Of equally good ones half way between the first and their mean, which is as good: no rounding decides.
    best = torch.maximum(torch.maximum(gains[0], gains[1]), torch.maximum(gains[2], gains[3]))
    size = torch.maximum(x[0].abs(), x[1].abs()) * torch.maximum(y[0].abs(), y[1].abs())
    least = best - (256 * torch.finfo(size.dtype).eps) * size
    total, count, first = torch.zeros_like(best), torch.zeros_like(best), torch.full_like(best, torch.nan)
    for r, gain in zip(tries, gains, strict=True):
        taken = gain >= least
        first = torch.where(taken & first.isnan(), r, first)
        total, count = total + taken * r, count + taken
    return torch.nan_to_num(0.5 * (first + total / count), nan=0.5)


def mul_start(p: Prepared, x: Box, y: Box) -> tuple[Tensor, Tensor]:
    """Starting weights of the lower and the upper plane."""
    return _starting_weight(_lower_slopes, x, y, 1.0), _starting_weight(_upper_slopes, x, y, -1.0)


def _mul_relax(p: Prepared, weights, x: Box, y: Box) -> tuple[Plane, Plane]:
    x, y = _broadcast(x, y)
    below, above = mul_start(p, x, y) if weights is None else split_weights(weights)
    low, high = _mul_interval(p, x, y)
    points = corners(x, y)
    return (
        lower_plane(torch.mul, points, *_lower_slopes(x, y, below), low, 1.0),
        upper_plane(torch.mul, points, *_upper_slopes(x, y, above), high, 1.0),
    )


def _ends(p: Prepared, x: Box, y: Box) -> tuple[tuple[Plane, Plane], tuple[Plane, Plane]]:
    """The planes of every product at weight 0 and at weight 1."""
    zero = torch.zeros_like(x[0])
    one = zero + 1
    return _mul_relax(p, (zero, zero), x, y), _mul_relax(p, (one, one), x, y)


def _reach(x: Box, y: Box) -> tuple[Tensor, Tensor]:
    return torch.maximum(x[0].abs(), x[1].abs()), torch.maximum(y[0].abs(), y[1].abs())


def _mul_blend(p: Prepared, x: Box, y: Box) -> Blend:
    x, y = _broadcast(x, y)
    return blend(_ends(p, x, y), _mul_interval(p, x, y), _reach(x, y))


@dataclass(frozen=True)
class Band:
    """Boxes of ``x - scale y`` and ``x + scale y`` over the same domains as a product's operands; ``scale`` > 0."""

    scale: Tensor
    difference: Box
    sum: Box


def mul_in_band(planes: tuple[Plane, Plane], x: Box, y: Box, band: Band) -> tuple[Plane, Plane]:
    """The planes of ``x y``, replaced where those that the band gives leave less volume."""
    x, y = _broadcast(x, y)
    less = -y[1], -y[0]
    lower = _band_plane(x, y, band.scale, band.difference, band.sum)
    upper = _band_plane(x, less, band.scale, band.sum, band.difference)  # x y = -(x (-y))
    upper = Plane((-upper.slopes[0], upper.slopes[1]), -upper.offset)
    area = (x[1] - x[0]) * (y[1] - y[0]) * 4
    below, above = (
        ((side[1] - side[0]) ** 2 / band.scale < area) & torch.isfinite(plane.offset)
        for side, plane in ((band.difference, lower), (band.sum, upper))
    )
    return _either(below, lower, planes[0]), _either(above, upper, planes[1])


def _band_plane(x: Box, y: Box, s: Tensor, q: Box, p: Box) -> Plane:
    """A plane below ``x y`` where ``x - s y`` lies in q.

    ``4 s x y = (x + s y)^2 - (x - s y)^2 >= 2 c (x + s y) - c^2 - (ql + qu) (x - s y) + ql qu``: the square of the sum
    lies above its tangent at any c (the middle of ``p``), that of the difference below its chord over q. The offset is
    lowered by the rounding of the slopes times the largest |x|, |y| and by its own.
    """
    info = torch.finfo(s.dtype)
    c, both = 0.5 * (p[0] + p[1]), q[0] + q[1]
    a, b = (2 * c - both) / (4 * s), (2 * c + both) / 4
    offset = (q[0] * q[1] - c * c) / (4 * s)
    reach = 2 * c.abs() + q[0].abs() + q[1].abs()
    most_x, most_y = _reach(x, y)
    size = reach / (4 * s) * most_x + reach / 4 * most_y + ((q[0] * q[1]).abs() + c * c) / (4 * s)
    slack = size * (8 * info.eps) + 16 * info.tiny * (1 + 1 / s) * (1 + most_x + most_y)
    return Plane((a, b), offset - slack)


def _either(where: Tensor, plane: Plane, other: Plane) -> Plane:
    slopes = tuple(torch.where(where, s, t) for s, t in zip(plane.slopes, other.slopes, strict=True))
    return Plane(slopes, torch.where(where, plane.offset, other.offset))


def _broadcast(x: Box, y: Box) -> tuple[Box, Box]:
    """Boxes of two operands with the same number of domains."""
    xl, xu, yl, yu = torch.broadcast_tensors(*x, *y)
    return (xl, xu), (yl, yu)


# -- div -------------------------------------------------------------------------------------------------


def _div(p: Prepared, x: Tensor, y: Tensor) -> Tensor:
    return x / y


def _nonzero(y: Box) -> Tensor:
    return (y[0] > 0) | (y[1] < 0)


def _div_interval(p: Prepared, x: Box, y: Box) -> Box:
    first, *rest = (s / t for s, t in corners(x, y))
    low = high = first
    for value in rest:
        low, high = torch.minimum(low, value), torch.maximum(high, value)
    low, high = outward(low, high, 1.0)
    known = _nonzero(y)
    low, high = torch.where(known, low, -torch.inf), torch.where(known, high, torch.inf)
    image = p.node.attributes.get("image")  # of a quotient whose operands cannot be anywhere in their boxes at once
    return (low, high) if image is None else (low.clamp(min=image[0]), high.clamp(max=image[1]))


@dataclass(frozen=True)
class _Quotients:
    """The planes of ``x / y`` over boxes as functions of weights, rows in an axis of their own.

    Slopes are those of the product with ``z = 1/y`` times z's own lines; offsets are exact for ``x / y``: for fixed y
    the difference ``x/y - a x - b y`` is linear in x, and for x at an end it is stationary where ``y^2 = -x/b``. Where
    y is not ``known`` to be other than 0 its box is 1, and planes are the ``image``.
    """

    x: Box
    y: Box
    z: Box
    image: Box
    known: Tensor
    limited: bool
    """Whether the image is narrower than what the operands' boxes say."""

    def planes(self, weights: tuple[Tensor, Tensor]) -> tuple[Plane, Plane]:
        """Weights ``[domains, rows, *shape]`` are those of the product's planes."""
        low, high = (self._plane(side, w) for side, w in enumerate(weights))
        return low, high

    def gradient(
        self, weights: tuple[Tensor, Tensor], coefficients: tuple[Tensor, Tensor], *values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The derivative in the weights of ``coefficients`` (those on the lower and on the upper planes) times the
        planes at values x and y: an offset moves by the slopes' change at the point where it is attained."""
        sides = zip(weights, coefficients, strict=True)
        low, high = (self._derivative(side, w, c, *values) for side, (w, c) in enumerate(sides))
        return low, high

    def _plane(self, side: int, w: Tensor) -> Plane:
        plane, _, keep = self._sloped(side, w)
        end = self.image[side]
        return _either(keep, plane, Plane((torch.zeros_like(end), torch.zeros_like(end)), end))

    def _sloped(self, side: int, w: Tensor) -> tuple[Plane, Tensor, Tensor]:
        """The plane at a weight, its slope in y over that in z, and where it is better than the image."""
        a, c = (_lower_slopes, _upper_slopes)[side](self.x, self.z, w)
        k = _reciprocal_slope(self.y, (c <= 0) if side else (c >= 0))
        b, end, bound = c * k, self.image[side], (lower_plane, upper_plane)[side]
        plane = bound(torch.div, _div_points(self.x, self.y, b), a, b, end, 1.0)
        if not self.limited:
            return plane, k, self.known
        (xl, xu), (yl, yu) = self.x, self.y
        middle = plane.slopes[0] * (xl + xu) / 2 + plane.slopes[1] * (yl + yu) / 2 + plane.offset
        return plane, k, self.known & ((middle <= end) if side else (middle >= end))

    def _derivative(self, side: int, w: Tensor, coefficient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        plane, k, keep = self._sloped(side, w)
        a, b = plane.slopes
        points = [torch.broadcast_tensors(s / t - a * s - b * t, s, t) for s, t in _div_points(self.x, self.y, b)]
        best, *others = points
        for found in others:
            better = found[0] > best[0] if side else found[0] < best[0]
            best = tuple(torch.where(better, new, old) for new, old in zip(found, best, strict=True))
        turn = self.z[1] - self.z[0] if side else self.z[0] - self.z[1]
        moved = turn * (x - best[1]) + (self.x[0] - self.x[1]) * k * (y - best[2])
        return torch.nan_to_num(torch.where(keep, coefficient * moved, 0.0), nan=0.0, posinf=0.0, neginf=0.0)


def _div_weighted(p: Prepared, x: Box, y: Box) -> _Quotients:
    x, y = _broadcast(x, y)
    known = _nonzero(y)
    row = lambda box: (box[0].unsqueeze(1), box[1].unsqueeze(1))  # noqa: E731
    safe = torch.where(known, y[0], 1.0), torch.where(known, y[1], 1.0)
    z = 1.0 / safe[1], 1.0 / safe[0]
    limited = "image" in p.node.attributes
    return _Quotients(row(x), row(safe), row(z), row(_div_interval(p, x, y)), known.unsqueeze(1), limited)


def _div_start(p: Prepared, x: Box, y: Box) -> tuple[Tensor, Tensor]:
    x, y = _broadcast(x, y)
    safe = tuple(torch.where(_nonzero(y), end, 1.0) for end in y)
    return mul_start(p, x, (1.0 / safe[1], 1.0 / safe[0]))


def _reciprocal_slope(y: Box, below: Tensor) -> Tensor:
    """Slope of the lower (``below``) or upper line of ``1/y``: tangent at the middle or chord by convexity."""
    chord = -1.0 / y[0] / y[1]
    middle = 0.5 * y[0] + 0.5 * y[1]
    return torch.where(below == (y[0] > 0), -1.0 / middle / middle, chord)


def _div_points(x: Box, y: Box, b: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Where ``x/y - a x - b y`` may be extreme: the corners, and on the edges of x where ``y^2 = -x / b``.

    Roots come before the quotient, which may overflow or lose its digits where its root does not. Where signs are equal
    the function is monotone in y and any point will do.
    """
    points = corners(x, y)
    with torch.no_grad():
        for end in x:
            root = torch.nan_to_num(end.abs().sqrt() / b.abs().sqrt(), nan=0.0, posinf=torch.inf) * torch.sign(y[0])
            points.append((end, torch.minimum(torch.maximum(root, y[0]), y[1])))
    return points


# -- matmul ----------------------------------------------------------------------------------------------


def _matmul(p: Prepared, x: Tensor, y: Tensor) -> Tensor:
    """numpy's matmul of the samples, the domain axis in front of both."""
    x, y = _aligned(p, x, y)
    return torch.matmul(x, y).reshape(max(x.shape[0], y.shape[0]), *p.shape)


def _aligned(p: Prepared, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Give both operands a row and a column axis and the same rank."""
    if x.dim() == 2:
        x = x.unsqueeze(1)
    if y.dim() == 2:
        y = y.unsqueeze(2)
    rank = max(x.dim(), y.dim())
    x = x.reshape(x.shape[0], *(1,) * (rank - x.dim()), *x.shape[1:])
    return x, y.reshape(y.shape[0], *(1,) * (rank - y.dim()), *y.shape[1:])


def _matmul_interval(p: Prepared, x: Box, y: Box) -> Box:
    """Sum over the inner axis of the four-corner products, or centre and radius where that is too large."""
    (xl, yl), (xu, yu) = _aligned(p, x[0], y[0]), _aligned(p, x[1], y[1])
    inner = xl.shape[-1]
    domains = max(xl.shape[0], yl.shape[0])
    size = domains * inner * int(torch.Size(p.shape).numel())
    magnitude = torch.matmul(torch.maximum(xl.abs(), xu.abs()), torch.maximum(yl.abs(), yu.abs()))
    if size <= EXACT_MATMUL_SIZE:
        low, high = _corner_sums((xl, xu), (yl, yu))
    else:
        low, high = _centre_radius((xl, xu), (yl, yu))
    pad = magnitude * ((2 * inner + 8) * torch.finfo(low.dtype).eps) + torch.finfo(low.dtype).tiny * (
        inner + 1
    )
    low = torch.nan_to_num(low - pad, nan=-torch.inf)
    high = torch.nan_to_num(high + pad, nan=torch.inf, posinf=torch.inf)
    low = torch.where(magnitude.isfinite(), low, -torch.inf)
    high = torch.where(magnitude.isfinite(), high, torch.inf)
    return low.reshape(domains, *p.shape), high.reshape(domains, *p.shape)


def _corner_sums(x: Box, y: Box) -> Box:
    left, right = [t.unsqueeze(-1) for t in x], [t.unsqueeze(-3) for t in y]
    first, *rest = (s * t for s in left for t in right)
    low = high = first
    for value in rest:
        low, high = torch.minimum(low, value), torch.maximum(high, value)
    return low.sum(-2), high.sum(-2)


def _centre_radius(x: Box, y: Box) -> Box:
    (xc, xr), (yc, yr) = [((b[0] + b[1]) / 2, (b[1] - b[0]) / 2) for b in (x, y)]
    centre = torch.matmul(xc, yc)
    radius = torch.matmul(xc.abs() + xr, yr) + torch.matmul(xr, yc.abs())
    return centre - radius, centre + radius


def _matmul_blend(p: Prepared, x: Box, y: Box) -> Blend:
    wide = _factors(p, x, y)
    return blend(_ends(p, *wide), _matmul_interval(p, x, y), _reach(*wide), (-1, -3, -2))


def _factors(p: Prepared, x: Box, y: Box) -> tuple[Box, Box]:
    """Boxes of both factors of every product ``x[.., i, k] y[.., k, j]``, laid out ``[domains, .., i, k, j]``."""
    (xl, yl), (xu, yu) = _aligned(p, x[0], y[0]), _aligned(p, x[1], y[1])
    wide = tuple(end.unsqueeze(-1) for end in (xl, xu)), tuple(end.unsqueeze(-3) for end in (yl, yu))
    return _broadcast(*wide)  # type: ignore[arg-type]


def _matmul_relax(p: Prepared, weights, x: Box, y: Box) -> tuple[Plane, Plane]:
    """The planes of every product, summed over the inner axis."""
    planes = _mul_relax(p, weights, *_factors(p, x, y))
    low, high = _matmul_interval(p, x, y)
    return _summed(p, planes[0], low, -1.0), _summed(p, planes[1], high, 1.0)


def _summed(p: Prepared, plane: Plane, image: Tensor, side: float) -> Plane:
    """Slopes as the contractions take them; the sum of offsets is rounded outward, to the ``image`` if not finite."""
    a, b = plane.slopes
    size = plane.offset.abs().sum(-2)
    slack = size * ((2 * plane.offset.shape[-2] + 4) * torch.finfo(size.dtype).eps)
    offset = (plane.offset.sum(-2) + side * slack).reshape(-1, *p.shape)
    fine = torch.isfinite(offset).reshape(offset.shape[0], *a.shape[1:-2], a.shape[-1])
    # Slopes of x are [.., i, k, j], those of y [.., j, k, i].
    first, second = torch.where(fine.unsqueeze(-2), a, 0.0), torch.where(fine.unsqueeze(-2), b, 0.0)
    return Plane((first, second.transpose(-1, -3)), torch.where(torch.isfinite(offset), offset, image))


def _matmul_patterns(p: Prepared) -> tuple[Contraction, ...]:
    inner = p.input_shapes[0][-1]
    return Contraction(-1, -1, inner), Contraction(-2, -2, inner)


def _matmul_opaque(p: Prepared) -> bool:
    """Vectors and batches to broadcast are written otherwise by the import."""
    x, y = p.input_shapes
    return len(x) < 2 or x[:-2] != y[:-2] or int(np.prod(p.shape)) * x[-1] > MOST_PRODUCTS


MUL = Multivariate(
    name="mul",
    evaluate=_mul,
    interval=_mul_interval,
    relax=_mul_relax,
    start=lambda p, x, y: mul_start(p, *_broadcast(x, y)),
    weighted=_mul_blend,
)
DIV = Multivariate(
    name="div",
    evaluate=_div,
    interval=_div_interval,
    relax=relaxed(_div_weighted, _div_start),
    start=_div_start,
    weighted=_div_weighted,
)
MATMUL = Multivariate(
    name="matmul",
    evaluate=_matmul,
    interval=_matmul_interval,
    relax=_matmul_relax,
    start=lambda p, x, y: mul_start(p, *_factors(p, x, y)),
    weighted=_matmul_blend,
    patterns=_matmul_patterns,
    products=lambda p: 4 * p.input_shapes[0][-1],
    opaque=_matmul_opaque,
)

OPERATORS = (MUL, DIV, MATMUL)
