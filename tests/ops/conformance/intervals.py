"""Operators on whole tensors: what they may give inside the box is inside the interval and between the planes.

References are written with numpy on points of the box: ends of single elements, ties, whole numbers, random points.
``position`` says which operand's box is drawn adversarially; the others are points or moderate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mpmath
import numpy as np
import torch
from numpy import ndarray as Array

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import OPS, Multivariate, Plane, Prepared, prepare

from .cases import FLOAT
from .draw import Random, boxes
from .planes import POSITIONS, planes_of_a_row
from .reference import LONG
from .tally import Tally

Box = tuple[Array, Array]
BATCH = 500


@dataclass(frozen=True, eq=False)
class Opaque:
    """``draw(random, domains)`` makes a box for every operand, ``[domains, *shape]``, of whose points ``reference`` is.

    It returns values, or a pair of values and of the size that their error is relative to (exact otherwise); NaN where
    nothing is said. ``whole`` operands take whole numbers only.
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    draw: Callable[[Random, int], list[Box]]
    reference: Callable
    attributes: dict
    whole: tuple[int, ...] = ()
    label: str = ""

    def __str__(self) -> str:
        return self.label or self.name


def check(case: Opaque, count: int, seed: int = 0) -> Tally:
    """At least ``count`` intervals: one for every element of the result and every domain, at 20 points of the boxes."""
    random = np.random.default_rng([seed, *str(case).encode()])
    tally = Tally(str(case))
    node = Node(case.name, tuple(range(len(case.inputs))), case.shape, case.attributes)
    op, p = OPS[case.name], prepare(node, case.inputs, FLOAT, torch.device("cpu"))
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        while tally.cases < count:
            drawn = case.draw(random, min(BATCH, count))
            tensors = [tuple(torch.from_numpy(np.ascontiguousarray(end)) for end in box) for box in drawn]
            low, high = (t.numpy() for t in op.interval(p, *tensors))
            tally.report(np.isnan(low) | np.isnan(high), lambda i: f"no number in domain {i[0]}")
            planes = list(_planes(op, p, random, tensors)) if isinstance(op, Multivariate) else []
            for points in _points(random, drawn, case.whole):
                value = case.reference(*(x.astype(LONG) for x in points))
                value, size = value if isinstance(value, tuple) else (value, np.zeros(value.shape, LONG))
                for side, end in ((1, low), (-1, high)):
                    _compare("interval", side, end, value, size, points, tally)
                for side, plane in planes:
                    terms, largest = _through(op.patterns(p), plane, points)
                    offset = plane.offset.numpy()
                    _compare(
                        "plane", side, offset, value - terms, size + largest + np.abs(offset), points, tally
                    )
            tally.cases += low.size
    return tally


def _compare(
    what: str, side: int, end: Array, value: Array, size: Array, points: list[Array], tally: Tally
) -> None:
    """``side (value - end) >= 0`` where something is said of the value."""
    unsaid = np.isnan(value)
    infinite = np.isinf(end)
    finite = np.where(infinite, 0, end)
    slack = np.where(infinite, np.where(np.sign(end) == -side, np.inf, -np.inf), side * (value - finite))
    slack = np.where(unsaid, LONG("inf"), slack)

    def describe(i: tuple) -> str:
        return f"{what} {end[i]!r} at {[x[i[0]].tolist() for x in points]}"

    # what extended precision leaves open counts as right: these bounds have slacks of many roundings
    tally.compare(slack, np.where(unsaid | infinite, LONG("inf"), size), lambda i: mpmath.mpf(0), describe)


def _planes(op: Multivariate, p: Prepared, random: Random, boxes_: list) -> Iterator[tuple[int, Plane]]:
    """The starting planes and those of random weights, with their side; the latter also as an objective makes them."""
    assert op.start is not None
    start = op.start(p, *boxes_)
    weights = []
    for like in start:
        kinds = [random.uniform(0, 1, like.shape), np.zeros(like.shape), np.ones(like.shape), like.numpy()]
        weights.append(torch.from_numpy(np.choose(random.integers(0, 4, like.shape), kinds)))
    for chosen in (None, tuple(weights)):
        yield from zip((1, -1), op.relax(p, chosen, *boxes_), strict=True)
    yield from zip((1, -1), planes_of_a_row(op, p, tuple(weights), boxes_), strict=True)


def _through(patterns: tuple, plane: Plane, points: list[Array]) -> tuple[Array, Array]:
    """The linear part of planes at points, and the sum of its magnitudes: contractions of ``[*rest, inner, outer]``."""
    total, size = LONG(0), LONG(0)
    for pattern, slopes, x in zip(patterns, plane.slopes, points, strict=True):
        terms = np.moveaxis(x, pattern.axis, -1)[..., :, None].astype(LONG) * slopes.numpy()
        total = total + np.moveaxis(terms.sum(-2), -1, pattern.output_axis)
        size = size + np.moveaxis(np.abs(terms).sum(-2), -1, pattern.output_axis) * terms.shape[-2]
    return total, size


def _points(random: Random, drawn: list[Box], whole: tuple[int, ...]):
    """Points of all operands: each element at an end, one element at the other end, ties and random ones."""
    for kind in range(20):
        points = []
        for operand, (low, high) in enumerate(drawn):
            if kind < 12:
                side = (
                    random.integers(0, 2, low.shape)
                    if kind % 3
                    else np.full(low.shape, random.integers(0, 2))
                )
                if kind % 3 == 0 and low[0].size:  # one element against all others
                    flat = side.reshape(len(side), -1)
                    flat[np.arange(len(flat)), random.integers(0, flat.shape[1], len(flat))] ^= 1
                at = np.where(side == 1, high, low)
            elif kind < 15:  # as many equal elements as the boxes allow
                level = random.choice([0.0, 1.0, 0.5]) if kind == 12 else low.reshape(len(low), -1).max(1)
                at = np.broadcast_to(np.reshape(level, (-1, *(1,) * (low.ndim - 1))), low.shape)
            else:
                at = low + (high - low) * random.uniform(0, 1, low.shape)
            if operand in whole:
                at = np.rint(at)
            points.append(np.clip(at, low, high))
        yield points


# -- draws -------------------------------------------------------------------------------------------------


def wild(random: Random, domains: int, shape: tuple[int, ...], most: float = 1e6, special=(0.0, 1.0)) -> Box:
    lower, upper = boxes(random, domains * int(np.prod(shape)), np.array(special), (-most, most))
    plain = np.sort(random.uniform(-2, 2, (2, domains, *shape)), 0)
    some = random.integers(0, 3, (domains, *(1,) * len(shape)))  # all of a kind, or one kind per domain
    lower, upper = lower.reshape(domains, *shape), upper.reshape(domains, *shape)
    return np.where(some == 0, plain[0], lower), np.where(some == 0, plain[1], upper)


def tied(random: Random, domains: int, shape: tuple[int, ...]) -> Box:
    """Ends among few numbers, so that boxes touch and points tie."""
    lower = random.integers(-2, 3, (domains, *shape)) * 0.5
    return lower, lower + random.choice([0.0, 0.0, 0.5, 2.0], (domains, *shape))


def either(random: Random, domains: int, shape: tuple[int, ...]) -> Box:
    pairs = wild(random, domains, shape), tied(random, domains, shape)
    some = random.integers(0, 2, (domains, *(1,) * len(shape))) == 0
    return tuple(np.where(some, a, b) for a, b in zip(*pairs, strict=True))  # type: ignore[return-value]


def numbers(
    random: Random, domains: int, shape: tuple[int, ...], first: int, last: int, wide: int = 3
) -> Box:
    """Boxes between whole numbers of [first, last], some of them points."""
    lower = random.integers(first, last + 1, (domains, *shape))
    width = random.integers(0, wide + 1, (domains, *shape)) * random.integers(0, 2, (domains, *shape))
    return lower.astype(float), np.minimum(lower + width, last).astype(float)


def several(*draws: Callable[[Random, int], Box]) -> Callable[[Random, int], list[Box]]:
    return lambda random, domains: [draw(random, domains) for draw in draws]


def of(draw: Callable, *arguments) -> Callable[[Random, int], Box]:
    return lambda random, domains: draw(random, domains, *arguments)


# -- references --------------------------------------------------------------------------------------------


def softmax(axis: int, log: bool) -> Callable:
    """Softmax along an axis of the sample; an argument's rounding is multiplied by its size."""

    def apply(x: Array) -> tuple[Array, Array]:
        shifted = x - x.max(axis + 1, keepdims=True)
        total = np.exp(shifted).sum(axis + 1, keepdims=True)
        if log:
            value = shifted - np.log(total)
            return value, np.abs(shifted) + np.abs(np.log(total)) + np.abs(x).max(axis + 1, keepdims=True)
        value = np.exp(shifted) / total
        return value, value * (
            x.shape[axis + 1] + np.minimum(np.abs(x).max(axis + 1, keepdims=True) * 2, 1e6)
        )

    return apply


def cast(name: str) -> Callable:
    def apply(x: Array) -> Array:
        if name == "bool":
            return (x != 0).astype(LONG)
        info = np.iinfo(name)
        first, span = LONG(int(info.min)), LONG(int(info.max)) - LONG(int(info.min)) + 1
        cut = np.trunc(x)
        inside = (cut >= first) & (cut < first + span)
        wrapped = first + np.mod(cut - first, span)
        return np.where(inside, cut, np.where(cut == x, wrapped, LONG("nan")))

    return apply


def argmax(axis: int, last: bool) -> Callable:
    def apply(x: Array) -> Array:
        if last:
            return (x.shape[axis + 1] - 1 - np.argmax(np.flip(x, axis + 1), axis + 1)).astype(LONG)
        return np.argmax(x, axis + 1).astype(LONG)

    return apply


def one_hot(depth: int, on: float, off: float) -> Callable:
    def apply(x: Array) -> Array:
        number = np.arange(depth)
        hit = (x[..., None] == number) | (x[..., None] + depth == number)
        return np.where(hit, LONG(on), LONG(off))

    return apply


def gather(extent: int, wrap: bool) -> Callable:
    """Rows of ``[domains, extent, k]`` at positions ``[domains, n]``."""

    def apply(x: Array, index: Array) -> Array:
        index = np.where((index < 0) & wrap, index + extent, index)
        valid = (index >= 0) & (index < extent)
        at = np.where(valid, index, 0).astype(int)
        taken = np.take_along_axis(x, at[:, :, None], 1)
        return np.where(valid[:, :, None], taken, LONG("nan"))

    return apply


def scatter(extent: int, dropping: bool) -> Callable:
    """Rows of ``[domains, extent, k]`` replaced at positions ``[domains, n, 1]``; two at one place: undefined."""

    def apply(data: Array, index: Array, updates: Array) -> Array:
        at = index[:, :, 0]
        at = at if dropping else np.where(at < 0, at + extent, at)
        result = data.copy()
        unsaid = ((at < 0) | ((at >= extent) & (not dropping))).any(1)
        for i in range(at.shape[1]):
            for place in range(extent):
                result[:, place] = np.where((at[:, i] == place)[:, None], updates[:, i], result[:, place])
            for j in range(i):
                unsaid = unsaid | ((at[:, i] == at[:, j]) & (at[:, i] < extent))
        return np.where(unsaid[:, None, None], LONG("nan"), result)

    return apply


def matmul(x: Array, y: Array) -> tuple[Array, Array]:
    return (x[..., :, :, None] * y[..., None, :, :]).sum(-2), (
        np.abs(x)[..., None] * np.abs(y)[..., None, :, :]
    ).sum(-2) * x.shape[-1]


def compared(name: str, compare: Callable, first: Callable, second: Callable, label: str) -> Opaque:
    reference = lambda x, y: compare(x, y).astype(LONG)  # noqa: E731
    return Opaque(
        name, (4,), ((4,), (4,)), several(of(first, (4,)), of(second, (4,))), reference, {}, label=label
    )


COMPARISONS = {"equal": np.equal, "less": np.less, "less_or_equal": np.less_equal}
EDGES = (0.0, -1.0, 1.0, 127.0, 128.0, -128.0, -129.0, 255.0, 256.0, 2.0**31, -(2.0**31), 2.0**31 - 1)

OPAQUES: tuple[Opaque, ...] = (
    *(
        compared(name, f, a, b, f"{name} {POSITIONS[i]}")
        for name, f in COMPARISONS.items()
        for i, (a, b) in enumerate(((wild, tied), (tied, wild), (either, either)))
    ),
    *(
        Opaque(
            "cast",
            (4,),
            ((4,),),
            several(of(wild, (4,), 1e12, EDGES)),
            cast(to),
            {"to": to},
            label=f"cast to {to}",
        )
        for to in ("int64", "int32", "int8", "uint8", "bool")
    ),
    *(
        Opaque(
            "argmax",
            (3,) if axis else (4,),
            ((3, 4),),
            several(of(either, (3, 4))),
            argmax(axis, last),
            {"axis": axis, "last": last},
            label=f"argmax axis {axis}{' last' if last else ''}",
        )
        for axis in (0, 1)
        for last in (False, True)
    ),
    *(
        Opaque(
            "one_hot",
            (3, 4),
            ((3,),),
            several(of(numbers, (3,), -6, 6)),
            one_hot(4, on, off),
            {"axis": 1, "depth": 4, "on": on, "off": off},
            label=f"one_hot {on} {off}",
        )
        for on, off in ((1.0, 0.0), (-2.0, 3.0))
    ),
    *(
        Opaque(
            "softmax" if not log else "log_softmax",
            (2, 5),
            ((2, 5),),
            several(of(either, (2, 5))),
            softmax(axis, log),
            {"axis": axis},
            label=f"{'log_' if log else ''}softmax axis {axis}",
        )
        for log in (False, True)
        for axis in (1, 0)
    ),
    *(
        Opaque(
            "where",
            (4,),
            ((4,), (4,), (4,)),
            several(of(condition, (4,)), of(x, (4,)), of(y, (4,))),
            lambda c, x, y: np.where(c != 0, x, y),
            {},
            label=f"where operand {i}",
        )
        for i, (condition, x, y) in enumerate(((either, tied, tied), (tied, wild, tied), (tied, tied, wild)))
    ),
    *(
        Opaque(
            "gather",
            (3, 2),
            ((4, 2), (3,)),
            several(of(data, (4, 2)), of(numbers, (3,), *span)),
            gather(4, wrap),
            {"axis": 0, "wrap": wrap},
            whole=(1,),
            label=f"gather {'wrapped ' if wrap else ''}operand {i}",
        )
        for wrap in (True, False)
        for i, (data, span) in enumerate(((wild, (-4 if wrap else 0, 3)), (tied, (-6, 6, 8))))
    ),
    *(
        Opaque(
            "scatter_nd",
            (4, 2),
            ((4, 2), (2, 1), (2, 2)),
            several(of(data, (4, 2)), of(numbers, (2, 1), *span), of(updates, (2, 2))),
            scatter(4, dropping),
            {"dropping": dropping},
            whole=(1,),
            label=f"scatter_nd {'dropping ' if dropping else ''}operand {i}",
        )
        for dropping in (False, True)
        for i, (data, span, updates) in enumerate(
            (
                (wild, (0 if dropping else -4, 3), tied),
                (tied, (0 if dropping else -6, 6, 8), tied),
                (tied, (0 if dropping else -4, 3), wild),
            )
        )
    ),
    *(
        Opaque(
            "matmul",
            (2, 2),
            ((2, 3), (3, 2)),
            several(of(x, (2, 3)), of(y, (3, 2))),
            matmul,
            {},
            label=f"matmul {POSITIONS[i]}",
        )
        for i, (x, y) in enumerate(((wild, tied), (tied, wild), (either, either)))
    ),
)
