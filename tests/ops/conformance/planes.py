"""Operators of two variables and of windows: planes and intervals against the real function on the whole box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np
import torch
from numpy import ndarray as Array

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import OPS, Multivariate, Plane, Prepared, prepare

from .cases import FLOAT
from .draw import boxes
from .reference import DOUBT, LONG, exactly
from .tally import Tally

BATCH = 5000
SINGLE = 2.0**-24
SINGLE_ROUNDINGS = 64.0
EVERYWHERE = (-1e6, 1e6)
POSITIONS = ("operand 0", "operand 1", "both operands")


@dataclass(frozen=True, eq=False)
class Pair:
    """An operator of two variables; ``kinked`` where they are equal, or without a value where the second is 0."""

    name: str
    reference: Callable[[Array, Array], Array]
    exact: Callable[[mpmath.mpf, mpmath.mpf], mpmath.mpf]
    nonzero: bool = False
    kinked: bool = False


PAIRS = (
    Pair("mul", np.multiply, lambda x, y: x * y),
    Pair("div", np.divide, lambda x, y: x / y, nonzero=True),
    Pair("max", np.maximum, max, kinked=True),
    Pair("min", np.minimum, min, kinked=True),
)


def check(pair: Pair, position: int, count: int, seed: int = 0, dtype: torch.dtype = FLOAT) -> Tally:
    """Draw ``count`` boxes and weights; the operand at ``position`` (or both, 2) is drawn adversarially.

    Planes must hold at corners, on the diagonal, where ``x/y`` is stationary on an edge, at neighbours and at
    random points; intervals contain the values there.
    """
    random = np.random.default_rng([seed, position, *pair.name.encode()])
    tally = Tally(f"{pair.name} {POSITIONS[position]}")
    op, p = _prepared(pair.name, (1,), ((1,), (1,)), dtype)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        while tally.cases < count:
            size = min(BATCH, count)
            x, y = (
                _operand(random, size, position in (i, 2), pair.nonzero and i == 1, dtype) for i in (0, 1)
            )
            if pair.kinked or position == 2:
                y = _related(random, x, y)
            _batch(pair, op, p, x, y, _weights(random, size, dtype), random, tally)
            tally.cases += size
    return tally


def _operand(random: np.random.Generator, count: int, wild: bool, nonzero: bool, dtype: torch.dtype):
    if wild:
        lower, upper = boxes(random, count, np.array([0.0, 1.0, -1.0]), EVERYWHERE)
    else:
        lower, upper = np.sort(random.uniform(-3, 3, (2, count)), 0)
    if nonzero:
        low, width = np.minimum(np.abs(lower), np.abs(upper)), upper - lower
        low = np.maximum(low, random.choice([1e-9, 1e-3, 1.0], count))
        negative = random.uniform(0, 1, count) < 0.5
        lower, upper = np.where(negative, -low - width, low), np.where(negative, -low, low + width)
    if dtype != FLOAT:
        lower, upper = (end.astype(np.float32).astype(float) for end in (lower, upper))
    return lower, upper


def _related(random: np.random.Generator, x: tuple[Array, Array], y: tuple[Array, Array]):
    """Some boxes y that share ends with x, or are x, or its negative: ties."""
    kind = random.integers(0, 12, x[0].size)
    pairs = [(x[0], x[1]), (-x[1], -x[0]), (x[1], np.maximum(x[1], y[1])), (np.minimum(x[0], y[0]), x[0])]
    for i, (lower, upper) in enumerate(pairs):
        y = np.where(kind == i, lower, y[0]), np.where(kind == i, upper, y[1])
    return y


def _weights(random: np.random.Generator, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Weights in [0, 1] of the lower and the upper plane: inside, at the ends and next to them."""
    kinds = np.stack(
        [
            random.uniform(0, 1, (2, count)),
            random.integers(0, 2, (2, count)).astype(float),
            10.0 ** random.uniform(-20, 0, (2, count)),
            np.maximum(0.0, 1 - 10.0 ** random.uniform(-17, 0, (2, count))),
        ]
    )
    chosen = np.take_along_axis(kinds, random.integers(0, 4, (1, 2, count)), 0)[0]
    return tuple(torch.from_numpy(w).to(dtype).reshape(-1, 1) for w in chosen)


def _batch(pair: Pair, op, p: Prepared, x, y, weights, random: np.random.Generator, tally: Tally) -> None:
    tensors = [tuple(torch.from_numpy(end).to(p.dtype).reshape(-1, 1) for end in box) for box in (x, y)]
    planes = [op.relax(p, None, *tensors), op.relax(p, weights, *tensors)]
    if op.weighted is not None:
        planes.append(planes_of_a_row(op, p, weights, tensors))
    ends = op.interval(p, *tensors)
    box = np.stack([*x, *y])
    fixed = _points(pair, random, x, y)
    name = lambda i: f"x in [{x[0][i]!r}, {x[1][i]!r}], y in [{y[0][i]!r}, {y[1][i]!r}]"  # noqa: E731
    for side, index in ((1, 0), (-1, 1)):
        constant = Plane(tuple(torch.zeros_like(ends[index]) for _ in (0, 1)), ends[index])
        for what, plane in (("interval", constant), *(("plane", both[index]) for both in planes)):
            a, b, c = (t.double().numpy().reshape(-1) for t in (*plane.slopes, plane.offset))
            at = np.concatenate([fixed, _turns(pair, box, b)]) if what == "plane" else fixed
            _compare(pair, what, side, (a, b, c), at, name, p.dtype, tally)


def planes_of_a_row(op: Multivariate, p: Prepared, weights: tuple, tensors: list) -> tuple[Plane, Plane]:
    """The planes that an objective takes, ``[domains, *shape]`` for one row of weights."""
    assert op.weighted is not None
    low, high = op.weighted(p, *tensors).planes(tuple(w.unsqueeze(1) for w in weights))
    return tuple(Plane(tuple(s.squeeze(1) for s in each.slopes), each.offset.squeeze(1)) for each in (low, high))


def _points(pair: Pair, random: np.random.Generator, x, y) -> Array:
    """Points ``[k, 2, boxes]``: corners and their neighbours, the diagonal, edges and random ones."""
    (xl, xu), (yl, yu) = x, y
    found = [(s, t) for s in (xl, xu, np.nextafter(xl, xu), np.nextafter(xu, xl)) for t in (yl, yu)]
    found += [(s, t) for s in (xl, xu) for t in (np.nextafter(yl, yu), np.nextafter(yu, yl))]
    along = random.uniform(0, 1, (8, 2, xl.size))
    inner = [(xl + (xu - xl) * s, yl + (yu - yl) * t) for s, t in along]
    found += inner
    if pair.kinked:
        found += [(t, t) for t in (np.maximum(xl, yl), np.minimum(xu, yu), *(s for s, _ in inner[:3]))]
        found += [
            (inner[0][0], np.nextafter(inner[0][0], np.inf)),
            (np.nextafter(inner[1][1], np.inf), inner[1][1]),
        ]
    return np.stack([np.stack([np.clip(s, xl, xu), np.clip(t, yl, yu)]) for s, t in found])


def _turns(pair: Pair, box: Array, b: Array) -> Array:
    """Where ``x/y - a x - b y`` is stationary in y on the edges of x: ``y^2 = -x / b``."""
    if pair.name != "div":
        return np.empty((0, 2, b.size))
    found = []
    for x in box[:2]:
        root = np.sqrt(np.abs(x)) / np.sqrt(np.abs(b)) * np.sign(box[2])
        root = np.where(np.isfinite(root), root, box[2])
        found += [(x, np.clip(t, box[2], box[3])) for t in (root, np.nextafter(root, np.inf))]
    return np.stack([np.stack(pair_) for pair_ in found])


def _compare(pair: Pair, what: str, side: int, plane, at: Array, name: Callable, dtype, tally: Tally) -> None:
    a, b, c = (v.astype(LONG) for v in plane)
    x, y = at[:, 0].astype(LONG), at[:, 1].astype(LONG)
    bad = ~np.isfinite(a) | ~np.isfinite(b) | np.isnan(c)
    tally.report(bad, lambda i: f"{what}: no number on {name(i[0])}")
    value = pair.reference(x, y)
    infinite = np.isinf(c)
    finite = np.where(infinite, 0, c)
    slack = side * (((value - a * x) - b * y) - finite)
    size = np.abs(value) + np.abs(a * x) + np.abs(b * y) + np.abs(finite)
    free = np.broadcast_to(infinite & (np.sign(c) == -side), slack.shape)
    slack = np.where(free, LONG("inf"), np.where(infinite, -LONG("inf"), slack))
    size = np.where(free, LONG("inf"), size)
    if dtype != FLOAT:
        slack = slack + (SINGLE_ROUNDINGS * SINGLE + DOUBT) * size + LONG(1e-36)

    def exact(index: tuple) -> mpmath.mpf:
        u, v = exactly(x[index]), exactly(y[index])
        k, m, offset = (exactly(t[index[1]]) for t in (a, b, c))
        return side * (pair.exact(u, v) - k * u - m * v - offset)

    tally.compare(
        slack,
        size,
        exact,
        lambda i: f"{what} {[float(v[i[1]]) for v in plane]} of {name(i[1])} at {x[i]!r}, {y[i]!r}",
    )


# -- windows -----------------------------------------------------------------------------------------------

WINDOWS = np.array([[0, 1, 2, 3], [2, 3, 4, -1], [5, -1, -1, -1], [1, 4, 5, 0], [5, 0, -1, -1]])
ELEMENTS = 6


def check_windows(count: int, seed: int = 0, dtype: torch.dtype = FLOAT) -> Tally:
    """``count`` windows of up to four elements, some of equal or nested boxes, at corners, ties and random points."""
    random = np.random.default_rng([seed, 77])
    tally = Tally("window_max")
    op, p = _prepared("window_max", (len(WINDOWS),), ((ELEMENTS,),), dtype, indices=WINDOWS)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        while tally.cases < count:
            _window_batch(op, p, min(1000, count), random, tally)
    return tally


def _window_batch(
    op: Multivariate, p: Prepared, count: int, random: np.random.Generator, tally: Tally
) -> None:
    shape = (count, ELEMENTS)
    lower, upper = (
        t.reshape(shape) for t in boxes(random, count * ELEMENTS, np.array([0.0, 1.0]), EVERYWHERE)
    )
    plain = np.sort(random.uniform(-2, 2, (2, *shape)), 0)
    some = random.integers(0, 3, (count, 1))
    lower, upper = np.where(some == 0, lower, plain[0]), np.where(some == 0, upper, plain[1])
    # copies of a neighbour's box, and ends that touch
    for i in range(1, ELEMENTS):
        kind = random.integers(0, 8, count)
        lower[:, i] = np.where(kind == 0, lower[:, i - 1], np.where(kind == 1, upper[:, i - 1], lower[:, i]))
        upper[:, i] = np.where(kind == 0, upper[:, i - 1], np.maximum(upper[:, i], lower[:, i]))
    if p.dtype != FLOAT:
        lower, upper = (t.astype(np.float32).astype(float) for t in (lower, upper))
    box = tuple(torch.from_numpy(t).to(p.dtype) for t in (lower, upper))
    windows = (count, len(WINDOWS))
    weights = tuple(w.reshape(windows) for w in _weights(random, count * len(WINDOWS), p.dtype))
    chosen = [None, weights]
    planes = [op.relax(p, w, box) for w in chosen]
    ends = op.interval(p, box)
    constant = [Plane((torch.zeros_like(planes[0][0].slopes[0]),), end) for end in ends]
    absent = np.where(WINDOWS < 0, -np.inf, 0).astype(LONG)
    at = [lower, upper]
    level = lower.max(1, keepdims=True)
    at += [np.clip(level, lower, upper), np.clip(np.sort(upper, 1)[:, -2:-1], lower, upper)]
    at += [np.where(np.arange(ELEMENTS) == i, upper, lower) for i in range(ELEMENTS)]
    at += [np.where(np.arange(ELEMENTS) == i, lower, upper) for i in range(ELEMENTS)]
    at += [np.where(random.integers(0, 2, shape) == 1, upper, lower) for _ in range(6)]
    at += [np.clip(lower + (upper - lower) * random.uniform(0, 1, shape), lower, upper) for _ in range(4)]
    points = np.stack(at).astype(LONG)[:, :, np.maximum(WINDOWS, 0)]
    value = (points + absent).max(-1)
    for side, index in ((1, 0), (-1, 1)):
        for what, plane in (("interval", constant[index]), *(("plane", both[index]) for both in planes)):
            a = plane.slopes[0].double().numpy().astype(LONG)
            c = plane.offset.double().numpy().astype(LONG)
            tally.report(~np.isfinite(a).all(-1) | np.isnan(c), lambda i: f"no number in window {i}")
            terms = a * points
            slack = side * ((value - terms.sum(-1)) - c)
            size = np.abs(value) + np.abs(terms).sum(-1) + np.abs(c)
            if p.dtype != FLOAT:
                slack = slack + (SINGLE_ROUNDINGS * SINGLE + DOUBT) * size + LONG(1e-36)

            def exact(i: tuple, side=side, a=a, c=c) -> mpmath.mpf:
                line = sum(
                    (exactly(k) * exactly(x) for k, x in zip(a[i[1:]], points[i], strict=True)), mpmath.mpf(0)
                )
                return side * (exactly(value[i]) - line - exactly(c[i[1:]]))

            def describe(i: tuple, what=what, a=a, c=c) -> str:
                return f"{what} {a[i[1:]]} {c[i[1:]]} of {lower[i[1]].tolist()}, {upper[i[1]].tolist()} at {points[i]}"

            tally.compare(slack, size, exact, describe)
    tally.cases += count * len(WINDOWS)


def _prepared(
    name: str, shape: tuple[int, ...], inputs: tuple[tuple[int, ...], ...], dtype: torch.dtype, **attributes
) -> tuple[Multivariate, Prepared]:
    record = OPS[name]
    assert isinstance(record, Multivariate)
    node = Node(name, tuple(range(len(inputs))), shape, attributes)
    return record, prepare(node, inputs, dtype, torch.device("cpu"))
