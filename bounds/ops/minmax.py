"""Maximum and minimum: of two operands, and over a window of one operand (max pooling, ReduceMax)."""

from __future__ import annotations

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Box, Multivariate, Plane, Prepared
from provenn.bounds.ops._patterns import Window
from provenn.bounds.ops._planes import corners, lower_plane, split_weights, upper_plane

# -- max and min of two operands -------------------------------------------------------------------------


def _max(p: Prepared, x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


def _max_interval(p: Prepared, x: Box, y: Box) -> Box:
    return torch.maximum(x[0], y[0]), torch.maximum(x[1], y[1])


def _min(p: Prepared, x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x, y)


def _min_interval(p: Prepared, x: Box, y: Box) -> Box:
    return torch.minimum(x[0], y[0]), torch.minimum(x[1], y[1])


def _max_relax(p: Prepared, weights, x: Box, y: Box) -> tuple[Plane, Plane]:
    """Lower: ``r x + (1 - r) y``, exact where the boxes meet. Upper: between the envelope's two facets.

    The maximum is submodular, so its concave envelope has two facets that share the diagonal
    (ux, ly)-(lx, uy): r = 0 is the facet at the lower corner, r = 1 the one at the upper corner. All
    weights leave the same volume. Where one operand dominates both planes are that operand, exactly.
    """
    xl, xu, yl, yu = torch.broadcast_tensors(*x, *y)
    x, y = (xl, xu), (yl, yu)
    below, above = (None, None) if weights is None else split_weights(weights)
    below = (xl + xu >= yl + yu).to(xl.dtype) if below is None else below
    above = torch.full_like(xl, 0.5) if above is None else above
    low, high = _max_interval(p, x, y)
    meets = [(t.clamp(xl, xu), t.clamp(yl, yu)) for t in (torch.maximum(xl, yl), torch.minimum(xu, yu))]
    first, last = torch.maximum(xl, yl), torch.maximum(xu, yu)
    right, up = torch.maximum(xu, yl), torch.maximum(xl, yu)
    a = _ratio(right - first, xu - xl) * (1 - above) + _ratio(last - up, xu - xl) * above
    b = _ratio(up - first, yu - yl) * (1 - above) + _ratio(last - right, yu - yl) * above
    upper = upper_plane(torch.maximum, corners(x, y), a, b, high, 0.0)
    lower = lower_plane(torch.maximum, corners(x, y) + meets, below, 1 - below, low, 0.0)
    # One operand alone is never above the maximum; a mixture's slopes may add up to a little over 1.
    alone = (below == 0) | (below == 1)
    lower = Plane(
        tuple(
            torch.where(alone, r, slope) for r, slope in zip((below, 1 - below), lower.slopes, strict=True)
        ),
        torch.where(alone, torch.zeros_like(low), lower.offset),
    )
    return _dominated(x, y, lower), _dominated(x, y, upper)


def _ratio(rise: Tensor, width: Tensor) -> Tensor:
    """A slope in [0, 1], 0 for a degenerate side."""
    return torch.where(width > 0, rise / torch.where(width > 0, width, 1.0), 0.0).clamp(0.0, 1.0)


def _dominated(x: Box, y: Box, plane: Plane) -> Plane:
    """Where one operand is never below the other the maximum is that operand: no slack."""
    of_x, of_y = x[0] >= y[1], y[0] >= x[1]
    a = torch.where(of_x, 1.0, torch.where(of_y, 0.0, plane.slopes[0]))
    b = torch.where(of_x, 0.0, torch.where(of_y, 1.0, plane.slopes[1]))
    return Plane((a, b), torch.where(of_x | of_y, 0.0, plane.offset))


def _min_relax(p: Prepared, weights, x: Box, y: Box) -> tuple[Plane, Plane]:
    """``min(x, y) = -max(-x, -y)``: the same slopes, the offsets with the other sign, the sides exchanged."""
    if weights is not None:
        below, above = split_weights(weights)
        weights = (above, below)
    lower, upper = _max_relax(p, weights, (-x[1], -x[0]), (-y[1], -y[0]))
    return Plane(upper.slopes, -upper.offset), Plane(lower.slopes, -lower.offset)


# -- maximum over a window -------------------------------------------------------------------------------


def _gather(p: Prepared, x: Tensor) -> Tensor:
    """``[domains, *sample]`` to ``[domains, *shape, n]``; absent positions are -inf."""
    indices = p.tensors["indices"]
    taken = x.reshape(x.shape[0], -1)[:, indices.clamp(min=0)]
    return taken.masked_fill(indices < 0, -torch.inf)


def _window_max(p: Prepared, x: Tensor) -> Tensor:
    return _gather(p, x).amax(-1)


def _window_interval(p: Prepared, x: Box) -> Box:
    return _window_max(p, x[0]), _window_max(p, x[1])


def _window_relax(p: Prepared, weights, x: Box) -> tuple[Plane, Plane]:
    """Bounds of ``max_i x_i`` with slopes ``[domains, *shape, n]``.

    Lower: one element, the one with the highest middle (weights mix in the one with the highest lower
    end). Upper: a level t with slopes ``a_i = max(u_i - t, 0) / (u_i - l_i)``, the least that keep
    ``max_i u_i - a_i (u_i - l_i)`` at t. The gap at the centre, ``t + sum max(u_i - t, 0) / 2``, is least
    between the third and the second largest upper end (not below the largest lower end); weights move t there.
    """
    lower, upper = _gather(p, x[0]), _gather(p, x[1])
    below, above = (None, None) if weights is None else split_weights(weights)
    low, high = lower.amax(-1), upper.amax(-1)
    planes = _element_plane(lower, upper, below), _level_plane(lower, upper, above, low, high)
    # An element that is never below any other is the maximum.
    best = lower.argmax(-1, keepdim=True)
    others = upper.scatter(-1, best, -torch.inf).amax(-1)
    alone = (low >= others) & torch.isfinite(low)
    exact = torch.zeros_like(lower).scatter(-1, best, 1.0)
    slopes = tuple(torch.where(alone.unsqueeze(-1), exact, plane.slopes[0]) for plane in planes)
    offsets = tuple(torch.where(alone, 0.0, plane.offset) for plane in planes)
    return Plane((slopes[0],), offsets[0]), Plane((slopes[1],), offsets[1])


def _element_plane(lower: Tensor, upper: Tensor, weight: Tensor | None) -> Plane:
    """A convex combination of elements: never above the maximum, so its offset is 0."""
    zero = torch.zeros_like(lower)
    slopes = zero.scatter(-1, (lower + upper).nan_to_num(nan=-torch.inf).argmax(-1, keepdim=True), 1.0)
    if weight is not None:
        safest = zero.scatter(-1, lower.argmax(-1, keepdim=True), 1.0)
        # r and 1 - r may add up to a little over 1 after rounding only where both pick one element
        same = (slopes == safest).all(-1, keepdim=True)
        weight = weight.unsqueeze(-1)
        slopes = torch.where(same, slopes, slopes * weight + safest * (1 - weight))
    rounding = (slopes * torch.maximum(lower.abs(), upper.abs()).nan_to_num(posinf=0.0)).sum(-1)
    mixed = (slopes * (1 - slopes)).sum(-1) > 0
    return Plane((slopes,), -rounding * mixed * torch.finfo(lower.dtype).eps)


def _level_plane(lower: Tensor, upper: Tensor, weight: Tensor | None, low: Tensor, high: Tensor) -> Plane:
    info = torch.finfo(lower.dtype)
    count = min(3, upper.shape[-1])
    top = upper.topk(count, -1).values
    third = top[..., 2] if count > 2 else low
    second = top[..., 1] if count > 1 else low
    start = torch.maximum(low, third)
    stop = torch.maximum(start, second)
    level = start + (stop - start) * (0.5 if weight is None else weight)
    width = upper - lower
    proper = torch.isfinite(width) & (width > 0)
    rise = (upper - level.unsqueeze(-1)).clamp(min=0.0)
    a = torch.where(proper, rise / torch.where(proper, width, 1.0), 0.0).clamp(max=1.0)
    at_low = torch.where(a == 0, 0.0, a * lower)
    at_high = torch.where(a == 0, 0.0, a * upper)
    # max over the box of x_i - a.x: x_i at its upper end, all others at their lower ends
    swing = upper - at_high + at_low
    size = at_low.abs().sum(-1) + torch.where(a == 0, 0.0, at_high.abs()).amax(-1)
    size = size + torch.where(torch.isfinite(upper), upper.abs(), 0.0).amax(-1)
    offset = swing.amax(-1) - at_low.sum(-1) + size * ((upper.shape[-1] + 6) * info.eps) + info.tiny
    fine = torch.isfinite(offset)
    return Plane((torch.where(fine.unsqueeze(-1), a, 0.0),), torch.where(fine, offset, high))


MAX = Multivariate(name="max", evaluate=_max, interval=_max_interval, relax=_max_relax, piecewise_linear=True)
MIN = Multivariate(name="min", evaluate=_min, interval=_min_interval, relax=_min_relax, piecewise_linear=True)
WINDOW_MAX = Multivariate(
    name="window_max",
    evaluate=_window_max,
    interval=_window_interval,
    constants=("indices",),
    relax=_window_relax,
    piecewise_linear=True,
    patterns=lambda p: (Window(p.tensors["indices"], p.input_shapes[0]),),
)

OPERATORS = (MAX, MIN, WINDOW_MAX)
