"""Operators without a relaxation: their intervals contain what they compute and are exact where decided."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Node
from provenn.bounds.ops import OPS, prepare

RANDOM = np.random.default_rng(3)
INFINITY = float("inf")


def make(operator: str, shape, shapes, **attributes):
    node = Node(operator, tuple(range(len(shapes))), shape, attributes)
    return OPS[operator], prepare(node, tuple(shapes), torch.float64, torch.device("cpu"))


def real(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RANDOM.standard_normal(shape))


def whole(low: int, high: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(RANDOM.integers(low, high, shape).astype(np.float64))


def contains(record, prepared, boxes, draws) -> tuple[torch.Tensor, torch.Tensor]:
    lower, upper = record.interval(prepared, *boxes)
    assert lower.shape[1:] == prepared.shape and not lower.isnan().any() and not upper.isnan().any()
    for inputs in draws:
        y = record.evaluate(prepared, *inputs)
        assert y.shape[1:] == prepared.shape
        assert (lower <= y).all() and (y <= upper).all()
    return lower, upper


def between(box, count=40):
    low, high = box
    for _ in range(count):
        mix = np.clip(RANDOM.uniform(-0.5, 1.5, low.shape), 0, 1)
        yield torch.minimum(low + torch.from_numpy(mix) * (high - low), high)


def whole_between(box, count=40):
    low, high = box
    for _ in range(count):
        yield torch.from_numpy(
            RANDOM.integers(low.numpy().astype(int), high.numpy().astype(int) + 1).astype(float)
        )


@pytest.mark.parametrize("operator", ["softmax", "log_softmax"])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1.0, 30.0, 400.0, 2000.0])
def test_softmax(operator, spread):
    record, prepared = make(operator, (3, 7), [(3, 7)], axis=1)
    low = real(5, 3, 7) * max(spread, 1)
    box = (low, low + torch.from_numpy(RANDOM.uniform(0, 1, low.shape)) * spread)
    lower, upper = contains(record, prepared, [box], ((x,) for x in between(box)))
    assert (lower <= upper).all()
    if spread > 100:
        return  # exponentials underflow: still sound, no longer tight
    # Ends are attained: element i at its end, the others at theirs.
    for i in range(7):
        for ours, others, end in ((box[0], box[1], lower), (box[1], box[0], upper)):
            corner = others.clone()
            corner[..., i] = ours[..., i]
            attained = record.evaluate(prepared, corner)[..., i]
            torch.testing.assert_close(end[..., i], attained, rtol=1e-10, atol=1e-10)


def test_softmax_is_rounded_outward():
    """Against exact rational exponentials of zero and one half: e^0 = 1 only, so use equal elements."""
    record, prepared = make("softmax", (3,), [(3,)], axis=0)
    x = torch.zeros(1, 3, dtype=torch.float64)
    lower, upper = record.interval(prepared, (x, x))
    for low, high in zip(lower[0].tolist(), upper[0].tolist(), strict=True):
        assert Fraction(low) <= Fraction(1, 3) <= Fraction(high) and high - low < 1e-11


def test_softmax_of_infinite_boxes():
    record, prepared = make("softmax", (3,), [(3,)], axis=0)
    x = torch.full((1, 3), INFINITY, dtype=torch.float64)
    for box in ((-x, x), (torch.zeros_like(x), x), (-x, torch.zeros_like(x))):
        lower, upper = record.interval(prepared, box)
        assert (lower >= 0).all() and (upper <= 1).all() and (lower <= upper).all()
        assert (upper == 1).all() or not torch.isinf(box[1]).any()


@pytest.mark.parametrize("operator", ["equal", "less", "less_or_equal"])
def test_comparisons(operator):
    record, prepared = make(operator, (200,), [(200,), (200,)])
    boxes = []
    for _ in range(2):
        low = whole(-3, 3, 4, 200)
        boxes.append((low, low + whole(0, 3, 4, 200)))
    draws = list(zip(whole_between(boxes[0]), whole_between(boxes[1]), strict=True))
    lower, upper = contains(record, prepared, boxes, draws)
    points = [(low, low) for low, _ in boxes]
    first, last = record.interval(prepared, *points)
    assert (first == last).all() and ((lower != upper).any())


@pytest.mark.parametrize("to", ["int64", "bool"])
def test_cast(to):
    record, prepared = make("cast", (50,), [(50,)], to=to)
    low = real(4, 50) * 2
    low[0, :10] = 0
    box = (low, low + torch.from_numpy(RANDOM.uniform(0, 2, low.shape)) * (RANDOM.random() < 2))
    box[1][0, :5] = 0
    contains(record, prepared, [box], ((x,) for x in between(box)))
    assert record.evaluate(prepared, torch.full((1, 50), -0.7, dtype=torch.float64))[0, 0] == (
        1 if to == "bool" else 0
    )


@pytest.mark.parametrize("last", [True, False])
def test_argmax(last):
    record, prepared = make("argmax", (1, 6), [(5, 6)], axis=0, keepdims=True, last=last)
    low = whole(-2, 3, 4, 5, 6)
    box = (low, low + whole(0, 2, 4, 5, 6))
    lower, upper = contains(record, prepared, [box], ((x,) for x in whole_between(box)))
    spread = torch.zeros(1, 5, 6, dtype=torch.float64)
    spread[:, 3] = 9
    decided = record.interval(prepared, (spread, spread + 1))
    assert (decided[0] == 3).all() and (decided[1] == 3).all()
    assert (lower < upper).any()


@pytest.mark.parametrize("on,off", [(1.0, 0.0), (-2.0, 3.0)])
def test_one_hot(on, off):
    record, prepared = make("one_hot", (2, 5, 3), [(2, 3)], depth=5, axis=1, on=on, off=off)
    low = whole(-5, 4, 6, 2, 3)
    box = (low, torch.minimum(low + whole(0, 3, 6, 2, 3), torch.tensor(4.0)))
    contains(record, prepared, [box], ((x,) for x in whole_between(box)))
    first, last = record.interval(prepared, (low, low))
    assert (first == last).all()


def test_where():
    record, prepared = make("where", (60,), [(60,)] * 3)
    condition = (whole(0, 2, 3, 60), torch.ones(3, 60, dtype=torch.float64))
    boxes = [condition] + [(low := real(3, 60), low + 1) for _ in range(2)]
    draws = zip(whole_between(boxes[0]), between(boxes[1]), between(boxes[2]), strict=True)
    lower, upper = contains(record, prepared, boxes, draws)
    decided = condition[0] == 1
    assert (lower[decided] == boxes[1][0][decided]).all() and (upper[decided] == boxes[1][1][decided]).all()


@pytest.mark.parametrize("wrap", [True, False])
def test_gather(wrap):
    record, prepared = make("gather", (2, 4, 3), [(2, 5, 3), (4,)], axis=1, wrap=wrap)
    low = real(6, 2, 5, 3)
    data = (low, low + 0.5)
    first = whole(-5 if wrap else 0, 3, 6, 4)
    index = (first, first + whole(0, 2, 6, 4))
    contains(record, prepared, [data, index], zip(between(data), whole_between(index), strict=True))
    decided = record.interval(prepared, (low, low), (first, first))
    exact = record.evaluate(prepared, low, first)
    torch.testing.assert_close(decided[0], exact, rtol=0, atol=0)
    torch.testing.assert_close(decided[1], exact, rtol=0, atol=0)


def test_gather_out_of_range_proves_nothing():
    record, prepared = make("gather", (1,), [(3,), (1,)], axis=0, wrap=False)
    data = real(1, 3)
    for low, high in ((2.0, 3.0), (-1.0, 0.0), (7.0, 8.0)):
        index = tuple(torch.full((1, 1), end, dtype=torch.float64) for end in (low, high))
        lower, upper = record.interval(prepared, (data, data), index)
        assert lower.item() == -INFINITY and upper.item() == INFINITY
    assert record.evaluate(prepared, data, torch.full((1, 1), 3.0, dtype=torch.float64)).isnan().all()


@pytest.mark.parametrize("dropping", [True, False])
def test_scatter(dropping):
    record, prepared = make(
        "scatter_nd", (3, 4, 2), [(3, 4, 2), (5, 2), (5, 2)], **({"dropping": True} if dropping else {})
    )
    data = (low := real(6, 3, 4, 2), low + 0.1)
    updates = (low := real(6, 5, 2), low + 0.1)
    first = torch.stack([whole(0, 3, 6, 5), whole(0, 4, 6, 5)], -1)
    limit = torch.tensor([5.0, 6.0] if dropping else [2.0, 3.0], dtype=torch.float64)
    index = (first, torch.minimum(first + whole(0, 2 + 2 * dropping, 6, 5, 2), limit))
    draws = zip(between(data), whole_between(index), between(updates), strict=True)
    lower, _ = contains(record, prepared, [data, index, updates], draws)
    assert lower.isfinite().all()
    decided = record.interval(prepared, (data[0], data[0]), (first, first), (updates[0], updates[0]))
    single = record.evaluate(prepared, data[0], first, updates[0])
    assert (decided[0] <= single).all() and (single <= decided[1]).all()


@pytest.mark.parametrize("extent", [1, 3, 4])
def test_scatter_at_positions_that_count_from_the_end(extent):
    """Every box of positions from -extent to extent - 1, wrapped or not, contains what each of its positions writes."""
    record, prepared = make("scatter_nd", (extent, 2), [(extent, 2), (1, 1), (1, 2)])
    data, updates = real(1, extent, 2), real(1, 1, 2) + 20.0
    for first in range(-extent, extent):
        for last in range(first, extent):
            at = [torch.full((1, 1, 1), float(i), dtype=torch.float64) for i in range(first, last + 1)]
            lower, upper = record.interval(prepared, (data, data), (at[0], at[-1]), (updates, updates))
            results = torch.cat([record.evaluate(prepared, data, i, updates) for i in at])
            assert (lower <= results).all() and (results <= upper).all(), (first, last)
            if extent > 1:
                assert torch.equal(lower[0], results.amin(0)) and torch.equal(upper[0], results.amax(0)), (first, last)
        below = torch.full((1, 1, 1), float(-extent - 1), dtype=torch.float64)
        lower, upper = record.interval(prepared, (data, data), (below, at[-1]), (updates, updates))
        assert (lower == -INFINITY).all() and (upper == INFINITY).all()


def test_scatter_out_of_range_proves_nothing():
    record, prepared = make("scatter_nd", (4,), [(4,), (1, 1), (1,)])
    data, updates = real(1, 4), real(1, 1)
    index = torch.tensor([[[3.0]]], dtype=torch.float64)
    lower, upper = record.interval(prepared, (data, data), (index, index + 1), (updates, updates))
    assert (lower == -INFINITY).all() and (upper == INFINITY).all()
    assert record.evaluate(prepared, data, index + 1, updates).isnan().all()


def test_integer_arithmetic_keeps_points():
    """A position computed from a fixed input must stay a point, or comparisons with it are never decided."""
    for operator, count, more in (
        ("affine", 1, {"shift": np.array([3.0]), "scale": np.array([2.0])}),
        ("add", 2, {}),
        ("sub", 2, {}),
    ):
        node = Node(operator, tuple(range(count)), (4,), more, scalar_type="int64")
        prepared = prepare(node, ((4,),) * count, torch.float64, torch.device("cpu"))
        x = whole(-9, 9, 2, 4)
        lower, upper = OPS[operator].interval(prepared, *[(x, x)] * count)
        assert (lower == upper).all()


def test_constants_with_a_radius():
    record, prepared = make("constant", (2,), [], value=np.array([1.0, 2.0]), radius=np.array([0.0, 1e-9]))
    lower, upper = record.interval(prepared)
    assert (upper - lower)[0, 1] >= 1.9e-9 and lower[0, 0] == upper[0, 0] == 1.0
