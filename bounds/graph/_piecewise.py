"""Functions of one variable that are polynomials of degree at most 2 between knots, in exact arithmetic.

A function that is composed of others has a *state*: for each jump that was crossed, which side it is on. Constants with
a radius make the state uncertain within ``doubt`` of a jump; everything else that is not exact is in ``radius``. So at
every x of the domain the real function is within ``radius`` of the polynomial of a piece whose interval, widened by
``doubt`` at both ends, holds x; ``lipschitz`` bounds how fast it moves while its state stays. One bit of state per
knot: functions are combined only where their jumps at one place change sides together (``Side``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

Polynomial = tuple[Fraction, Fraction, Fraction]
"""Coefficients of 1, x and x^2."""

MOST_PIECES = 1024
_ZERO, _ONE = Fraction(0), Fraction(1)
_UP = 1 + 1e-12


Side = Hashable
"""``right`` or ``left``: the limit that the function has at a knot that is known exactly; else its one origin."""


class NotPiecewiseError(Exception):
    """The composition is no piecewise polynomial of low degree, has too many pieces, or its jumps are in doubt."""


@dataclass(frozen=True)
class Domain:
    """Where functions are described: ``[lower, upper]``; a jump in more doubt than ``most_doubt`` is refused."""

    lower: Fraction
    upper: Fraction

    @property
    def most_doubt(self) -> Fraction:
        return (self.upper - self.lower) / 2**36


@dataclass(frozen=True)
class Piecewise:
    """Polynomials ``pieces`` ``[n + 1]`` between the ends of the domain and the inner ``knots`` ``[n]``, ascending."""

    domain: Domain
    knots: tuple[Fraction, ...]
    pieces: tuple[Polynomial, ...]
    radius: Fraction = _ZERO
    lipschitz: Fraction = _ONE
    doubt: Fraction = _ZERO
    jumps: tuple[tuple[Fraction, Side], ...] = ()
    """Knots where the function jumps, each with what decides the side it is on there."""

    @property
    def size(self) -> Fraction:
        """A bound of the function's magnitude, in every state within doubt."""
        largest = max(max(abs(low), abs(high)) for low, high in map(self.image, range(len(self.pieces))))
        return largest + self.radius + self.lipschitz * self.domain.most_doubt

    def ends(self, piece: int) -> tuple[Fraction, Fraction]:
        left = self.knots[piece - 1] if piece else self.domain.lower
        return left, self.knots[piece] if piece < len(self.knots) else self.domain.upper

    def image(self, piece: int) -> tuple[Fraction, Fraction]:
        """Least and largest number on a piece."""
        p, ends = self.pieces[piece], self.ends(piece)
        values = [value(p, x) for x in ends]
        if p[2]:
            vertex = -p[1] / (2 * p[2])
            if ends[0] < vertex < ends[1]:
                values.append(value(p, vertex))
        return min(values), max(values)


def value(p: Polynomial, x: Fraction) -> Fraction:
    return p[0] + x * (p[1] + x * p[2])


def identity(domain: Domain) -> Piecewise:
    return Piecewise(domain, (), ((_ZERO, _ONE, _ZERO),))


def constant(domain: Domain, number: Fraction) -> Piecewise:
    return Piecewise(domain, (), ((number, _ZERO, _ZERO),), lipschitz=_ZERO)


def affine(
    f: Piecewise, scale: Fraction, shift: Fraction, scale_radius: Fraction = _ZERO, shift_radius: Fraction = _ZERO
) -> Piecewise:
    """``scale f + shift`` where both constants are known up to a radius."""
    radius = (abs(scale) + scale_radius) * f.radius + shift_radius
    if scale_radius:
        radius += scale_radius * f.size
    pieces = tuple((scale * p[0] + shift, scale * p[1], scale * p[2]) for p in f.pieces)
    return replace(f, pieces=pieces, radius=radius, lipschitz=(abs(scale) + scale_radius) * f.lipschitz)


def weighted_sum(terms: Sequence[tuple[Piecewise, Fraction]]) -> Piecewise:
    """The sum of functions times exact factors."""
    knots, parts = _together([f for f, _ in terms])
    factors = [w for _, w in terms]
    pieces = [
        tuple(sum((w * p[k] for w, p in zip(factors, row, strict=True)), _ZERO) for k in range(3)) for row in parts
    ]
    return _tidy(
        Piecewise(
            terms[0][0].domain, knots, tuple(pieces),  # type: ignore[arg-type]
            sum((abs(w) * f.radius for f, w in terms), _ZERO),
            sum((abs(w) * f.lipschitz for f, w in terms), _ZERO),
            max(f.doubt for f, _ in terms),
            _jumps([f for f, _ in terms]),
        )
    )  # fmt: skip


def product(f: Piecewise, g: Piecewise) -> Piecewise:
    """``f g``, where no piece of it has a degree above 2."""
    knots, parts = _together([f, g])
    size_f, size_g = f.size, g.size
    return _tidy(
        Piecewise(
            f.domain, knots, tuple(_times(p, q) for p, q in parts),
            size_f * g.radius + size_g * f.radius + f.radius * g.radius,
            size_f * g.lipschitz + size_g * f.lipschitz,
            max(f.doubt, g.doubt),
            _jumps([f, g]),
        )
    )  # fmt: skip


def _times(p: Polynomial, q: Polynomial) -> Polynomial:
    if (p[2] and (q[1] or q[2])) or (q[2] and p[1]):
        raise NotPiecewiseError("a product of degree above 2")
    return p[0] * q[0], p[0] * q[1] + p[1] * q[0], p[0] * q[2] + p[1] * q[1] + p[2] * q[0]


Breaks = Callable[[Fraction, Fraction], Sequence[Fraction]]
"""The break points of an outer function within two numbers."""
Outer = Callable[[Fraction], Polynomial]
"""The line that an outer function follows around a number that is none of its break points."""


def outer(f: Piecewise, breaks: Breaks, line: Outer, origin: Hashable = None) -> Piecewise:
    """``g(f)`` for g linear between break points; ``breaks(low, high)`` are those in ``[low, high]``.

    g is continuous, or jumps between constants if it has an ``origin``, which no other real function may share. Then
    every place where f meets a break point must be a crossing, known up to little doubt.
    """
    jumps = origin is not None
    shaky = bool(f.doubt) or (jumps and bool(f.radius))
    near = f.radius + (2 * f.lipschitz * f.domain.most_doubt if shaky else _ZERO)
    knots: list[Fraction] = []
    pieces: list[Polynomial] = []
    doubt, steepest = f.doubt, _ZERO
    sides = list(f.jumps)
    for index, p in enumerate(f.pieces):
        left, right = f.ends(index)
        low, high = f.image(index)
        met = list(breaks(low - near, high + near))
        if p[2] and met:
            raise NotPiecewiseError("a break point inside a curved piece")
        inner = [b for b in met if low < b < high]
        if jumps:
            if any(min(abs(b - low), abs(b - high)) <= near for b in met):
                raise NotPiecewiseError("a jump that may be met without being crossed")
            if inner:
                doubt = max(doubt, f.radius / abs(p[1]))
        places = sorted((b - p[0]) / p[1] for b in inner)
        for start, end in zip([left, *places], [*places, right], strict=True):
            a, b, _ = line(value(p, (start + end) / 2))
            pieces.append((a + b * p[0], b * p[1], b * p[2]))
            steepest = max(steepest, abs(b))
        if jumps:
            exact = not (f.radius or f.doubt)
            for at, after in pairwise([*places, right]):
                from_right = line(value(p, at)) == line(value(p, (at + after) / 2))
                sides.append((at, ("right" if from_right else "left") if exact else origin))
        if near and not jumps:  # within the radius of a break point either side may be met
            steepest = max([steepest, *(abs(line(b + side)[1]) for b in met for side in _sides(b, breaks))])
        knots += [*places, right]
        if len(pieces) > MOST_PIECES:
            raise NotPiecewiseError("too many pieces")
    if doubt > f.domain.most_doubt:
        raise NotPiecewiseError("a jump at a place in doubt")
    return _tidy(
        Piecewise(
            f.domain, tuple(knots[:-1]), tuple(pieces), steepest * f.radius, steepest * f.lipschitz, doubt, tuple(sides)
        )
    )  # fmt: skip


def _sides(b: Fraction, breaks: Breaks) -> tuple[Fraction, Fraction]:
    """Steps from a break point that meet no other one."""
    others = [abs(x - b) for x in breaks(b - 1, b + 1) if x != b]
    step = min([_ONE, *others]) / 2
    return -step, step


def _together(functions: Sequence[Piecewise]) -> tuple[tuple[Fraction, ...], list[list[Polynomial]]]:
    """All knots of some functions, and every function's polynomial on each interval between them."""
    knots = sorted({t for f in functions for t in f.knots})
    if len(knots) >= MOST_PIECES:
        raise NotPiecewiseError("too many pieces")
    lefts = [None, *knots]
    return tuple(knots), [
        [f.pieces[0 if left is None else bisect_right(f.knots, left)] for f in functions] for left in lefts
    ]


def _jumps(functions: Sequence[Piecewise]) -> tuple[tuple[Fraction, Side], ...]:
    """All jumps of some functions, if those at one place change sides together."""
    reach = 2 * max(f.doubt for f in functions)
    jumps = sorted({jump for f in functions for jump in f.jumps}, key=lambda jump: jump[0])
    if any(t - s <= reach for (s, _), (t, _) in pairwise(jumps)):
        raise NotPiecewiseError("jumps at one place on sides of their own")
    return tuple(jumps)


def _tidy(f: Piecewise) -> Piecewise:
    """Without the knots between equal polynomials."""
    kept = [i for i, (p, q) in enumerate(zip(f.pieces, f.pieces[1:], strict=False)) if p != q]
    if len(kept) == len(f.knots):
        return f
    knots = tuple(f.knots[i] for i in kept)
    jumps = tuple(jump for jump in f.jumps if jump[0] in set(knots))
    return replace(f, knots=knots, pieces=(*(f.pieces[i] for i in kept), f.pieces[-1]), jumps=jumps)


@dataclass(frozen=True)
class Table:
    """A function in float64, each piece as ``value + slope d + curve d^2`` with ``d = x - knot`` at its left knot.

    ``knots`` ``[n + 1]`` with both ends of the domain, the others ``[n]``. ``before`` ``[n]`` is the limit at a piece's
    left knot from the piece before. ``radius`` bounds what all this misses the real function by, in every state within
    ``doubt`` of a knot.
    """

    knots: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    curve: np.ndarray
    before: np.ndarray
    radius: float
    doubt: float


def table(f: Piecewise) -> Table:
    """Round a function to float64; what that misses joins the radius."""
    exact = [f.domain.lower, *f.knots, f.domain.upper]
    knots = np.array([float(t) for t in exact])
    if not np.all(np.diff(knots) > 0):
        raise NotPiecewiseError("knots that float64 cannot tell apart")
    rounded = [Fraction(t) for t in knots.tolist()]
    doubt = f.doubt + max(abs(s - t) for s, t in zip(exact, rounded, strict=True))
    missed = _ZERO
    rows = []
    for index, p in enumerate(f.pieces):
        t, width = rounded[index], rounded[index + 1] - rounded[index] + 2 * doubt
        local = (value(p, t), p[1] + 2 * p[2] * t, p[2])
        single = [float(c) for c in local]
        errors = [abs(c - Fraction(s)) for c, s in zip(local, single, strict=True)]
        missed = max(missed, errors[0] + width * (errors[1] + width * errors[2]))
        rows.append((*single, float(value(f.pieces[max(index - 1, 0)], t))))
    values, slopes, curves, before = np.array(rows).T
    radius = float(f.radius + missed + 2 * f.lipschitz * doubt) * _UP
    return Table(knots, values, slopes, curves, before, radius, float(doubt) * _UP)
