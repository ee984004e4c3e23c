"""Operators of one variable: intervals, offsets at any slope and whole lines against the real function."""

from __future__ import annotations

import mpmath
import numpy as np
import torch
from numpy import ndarray as Array

from provenn.bounds.ops import relaxation

from .cases import FLOAT, Case
from .draw import boxes, shared_points, slopes, stationary_points
from .reference import DOUBT, LONG, exactly
from .tally import Tally

SLOPES = 6
BATCH = 2000
SINGLE = 2.0**-24
SINGLE_ROUNDINGS = 64.0
"""Lines in float32 only guide the search: they may be off by so many roundings of the terms involved."""


def check(case: Case, count: int, seed: int = 0, dtype: torch.dtype = FLOAT) -> Tally:
    """Draw at least ``count`` pairs of a box and a slope and compare all bounds with the function.

    The interval's ends, the starting lines, the lines at given slopes and the offsets of the support functions must
    hold at every point: ends, break points, their neighbours, stationary points, what the engine says attains the
    offset, and random ones. In float64 there is no tolerance.
    """
    random = np.random.default_rng([seed, *case.name.encode(), *str(case).encode()])
    tally = Tally(str(case))
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        while tally.cases < count:
            drawn = boxes(random, min(BATCH, -(-count // SLOPES)), case.special, case.domain)
            _batch(case, *drawn, random, dtype, tally)
    return tally


def check_box(case: Case, low: float, high: float, count: int, seed: int = 0) -> Tally:
    """``check`` on one box, with ``count`` slopes."""
    tally = Tally(f"{case} on [{low}, {high}]")
    size = -(-count // SLOPES)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        _batch(case, np.full(size, low), np.full(size, high), np.random.default_rng(seed), FLOAT, tally)
    return tally


def _batch(
    case: Case, lower: Array, upper: Array, random: np.random.Generator, dtype: torch.dtype, tally: Tally
) -> None:
    op, p, count = case.operator, case.prepared(dtype), lower.size
    if dtype != FLOAT:
        lower, upper = (_rounded(end, case) for end in (lower, upper))
    low, high = _tensor(lower, dtype), _tensor(upper, dtype)
    start = [_array(t) for t in torch.broadcast_tensors(*relaxation.lines(op, p, low, high), low)[:4]]
    slope = slopes(random, op, p, lower, upper, case.derivative, (start[0], start[2]), SLOPES)
    if dtype != FLOAT:
        slope = np.clip(slope, -1e37, 1e37).astype(np.float32).astype(float)
    below, above = slope, slope[::-1]  # a line below and one above with slopes that differ
    given = _tensor(below, dtype), _tensor(above, dtype)
    bl, at_low = relaxation.lower_support(op, p, given[0], low, high)
    bu, at_high = relaxation.upper_support(op, p, given[1], low, high)
    if dtype == FLOAT:
        outside = [(at < low) | (at > high) | at.isnan() for at in (at_low, at_high)]
        tally.report(
            (outside[0] | outside[1]).numpy(), lambda i: f"support outside [{lower[i[1]]}, {upper[i[1]]}]"
        )
    roots = stationary_points(case, slope, lower, upper)
    flat = stationary_points(case, np.zeros((1, count)), lower, upper)[:, 0]
    shared = np.concatenate([shared_points(case, random, lower, upper), *flat[:, :, None]], -1)
    held = _Values(case, _inside(np.moveaxis(shared, -1, 0)[:, None], lower, upper))
    extra = [
        _Values(case, _inside(np.concatenate([_neighbours(_array(at)), own]), lower, upper))
        for at, own in ((at_low, roots), (at_high, roots[:, ::-1]))
    ]
    see = _Comparison(case, lower, upper, dtype, tally)
    constant = np.zeros((1, count))
    ends = [_array(t)[None] for t in op.interval(p, low, high)]
    for side, end, (k, b) in zip((1, -1), ends, (start[:2], start[2:]), strict=True):
        see.line("interval", side, constant, end, held)
        see.line("starting line", side, k[None], b[None], held)
    sides = ((1, below, _array(bl), extra[0]), (-1, above, _array(bu), extra[1]))
    for side, k, b, own in sides:
        see.line("offset", side, k, b, held)
        see.line("offset", side, k, b, own)
    # Without a closed form lines are made of offsets: one slope of each box shows it.
    rows = SLOPES if op.lines is not None or op.linear is not None else 1
    given = given[0][:rows], given[1][:rows]
    lines = [
        _array(t) for t in torch.broadcast_tensors(*relaxation.lines(op, p, low, high, *given), given[0])[:4]
    ]
    for (side, k, b, own), line in zip(sides, (lines[:2], lines[2:]), strict=True):
        new = (line[0] != k[:rows]) | (line[1] != b[:rows])
        for points in (held, own):
            see.line("line", side, *line, points, new)
    tally.cases += slope.size


class _Values:
    """Points ``[k, slopes or 1, boxes]`` with the function there; undefined points are left out (NaN)."""

    def __init__(self, case: Case, points: Array):
        self.points = points
        value = case.reference(points)
        self.value = np.where(np.isfinite(value), value, LONG("nan"))
        self.size = np.abs(self.value) if case.size is None else case.size(points)

    def only(self, chosen: Array) -> _Values:
        """Those of the chosen slopes and boxes ``[slopes, boxes]``, as ``[k, chosen]``."""
        made = object.__new__(_Values)
        for name in ("points", "value", "size"):
            whole = getattr(self, name)[:, : len(chosen)]
            setattr(made, name, np.broadcast_to(whole, (len(whole), *chosen.shape))[:, chosen])
        return made


class _Comparison:
    def __init__(self, case: Case, lower: Array, upper: Array, dtype: torch.dtype, tally: Tally):
        self.case, self.lower, self.upper, self.dtype, self.tally = case, lower, upper, dtype, tally

    def line(
        self, what: str, side: int, slope: Array, offset: Array, at: _Values, only: Array | None = None
    ) -> None:
        """``side (f(x) - slope x - offset) >= 0`` at all points, where side is 1 for a lower line, -1 for an upper one.

        ``only`` ``[slopes, boxes]`` chooses lines.
        """
        tally, case = self.tally, self.case
        number = np.broadcast_to(np.arange(self.lower.size), slope.shape)
        if only is not None:
            if not only.any():
                return
            slope, offset, number, at = slope[only], offset[only], number[only], at.only(only)
        if not np.isfinite(slope).all() or np.isnan(offset).any():
            tally.report(
                ~np.isfinite(slope) | np.isnan(offset),
                lambda i: f"{what}: no number at {self.box(number[i])}",
            )
        k, b = slope.astype(LONG), offset.astype(LONG)
        product = k * at.points
        shape = np.broadcast_shapes(product.shape, at.value.shape)
        infinite = np.isinf(b)
        finite = np.where(infinite, 0, b)
        slack = side * ((at.value - product) - finite)
        size = at.size + np.abs(product) + np.abs(finite)
        proven = infinite & (np.sign(b) == -side)  # an infinite bound on the right side claims nothing
        free = np.broadcast_to(proven | np.isnan(at.value), shape)
        slack = np.where(free, LONG("inf"), np.where(infinite, -LONG("inf"), slack))
        size = np.where(free, LONG("inf"), size)
        if self.dtype != FLOAT:
            slack = slack + (SINGLE_ROUNDINGS * SINGLE + DOUBT) * size + LONG(1e-37)

        def pick(array: Array, index: tuple):
            return np.broadcast_to(array, shape)[index]

        def exact(index: tuple) -> mpmath.mpf:
            x = exactly(pick(at.points, index))
            value = case.exact(x) - exactly(pick(k, index)) * x
            return side * (value - exactly(pick(b, index)))

        def describe(index: tuple) -> str:
            x, slope_, offset_ = (pick(t, index) for t in (at.points, slope, offset))
            return (
                f"{what} {float(slope_)!r} x + {float(offset_)!r} on {self.box(pick(number, index))} at {x!r}"
            )

        tally.compare(slack, size, exact, describe)

    def box(self, i: int) -> str:
        return f"[{float(self.lower[i])!r}, {float(self.upper[i])!r}]"


def _inside(points: Array, lower: Array, upper: Array) -> Array:
    points = np.where(np.isnan(points), lower, points)
    return np.clip(points.astype(LONG), lower.astype(LONG), upper.astype(LONG))


def _neighbours(point: Array) -> Array:
    return np.stack([point, np.nextafter(point, np.inf), np.nextafter(point, -np.inf)])


def _rounded(end: Array, case: Case) -> Array:
    """Ends of a box as float32 numbers inside the domain."""
    single = np.clip(end, -1e30, 1e30).astype(np.float32)
    single = np.where(single < case.domain[0], np.nextafter(single, np.float32(np.inf)), single)
    return np.where(single > case.domain[1], np.nextafter(single, np.float32(-np.inf)), single).astype(float)


def _tensor(array: Array, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy()
