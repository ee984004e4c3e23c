"""Operators of several inputs: planes hold on the whole box, for every weight, without tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import OPS, Multivariate, Plane, prepare, relaxation
from provenn.bounds.ops.products import Band, mul_in_band

LONG = np.longdouble
FLOAT = torch.float64
COUNT = 1500
EXACT = {"mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum}
WINDOW = np.array([[0, 1, 2, 3], [2, 3, 4, -1], [5, -1, -1, -1], [1, 4, 5, 0]])

pairs = pytest.mark.parametrize("name", sorted(EXACT))


def prepared(
    name: str, shape: tuple[int, ...], inputs: tuple[tuple[int, ...], ...], dtype=FLOAT, **attributes
):
    node = Node(name, tuple(range(len(inputs))), shape, attributes)
    return prepare(node, inputs, dtype, torch.device("cpu"))


def box(generator: torch.Generator, size: int, *, nonzero: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes ``[COUNT, size]``: degenerate, narrow, wide, large and small, and some that touch or share 0."""
    rand = lambda: torch.rand(COUNT, size, generator=generator, dtype=FLOAT)  # noqa: E731
    scale = 10.0 ** (rand() * 6 - 3)
    width = scale * torch.tensor([0.0, 1e-12, 0.3, 3.0], dtype=FLOAT)[(rand() * 4).long()]
    lower = (rand() * 2 - 1) * scale
    lower = torch.where(rand() < 0.1, 0.0, lower)
    if nonzero:
        lower = lower.abs() + 1e-3 * scale
        flip = rand() < 0.5
        return torch.where(flip, -lower - width, lower), torch.where(flip, -lower, lower + width)
    return lower, torch.where(rand() < 0.05, lower.clamp(min=0.0), lower + width)


def inside(limits: tuple[torch.Tensor, torch.Tensor], share: torch.Tensor) -> np.ndarray:
    lower, upper = limits
    return (lower + (upper - lower) * share).clamp(lower, upper).numpy().astype(LONG)


def long(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(LONG)


def shares(generator: torch.Generator, count: int):
    """Positions in the box for both operands: corners, edges, centre, random ones and the diagonal."""
    for i in range(9):
        yield torch.tensor(i % 3 / 2, dtype=FLOAT), torch.tensor(i // 3 / 2, dtype=FLOAT)
    for _ in range(count):
        yield tuple(torch.rand(2, COUNT, 2, generator=generator, dtype=FLOAT))


@pytest.mark.parametrize("weights", ["start", "random", "pair", "ends"])
@pairs
def test_planes_hold_on_the_box(name, weights):
    generator = torch.Generator().manual_seed(1)
    op, p = OPS[name], prepared(name, (2,), ((2,), (2,)))
    assert isinstance(op, Multivariate)
    x, y = box(generator, 2), box(generator, 2, nonzero=name == "div")
    r = torch.rand(2, COUNT, 2, generator=generator, dtype=FLOAT)
    given = {"start": None, "random": r[0], "pair": (r[0], r[1] * 1e-9), "ends": r[0].round()}[weights]
    below, above = op.relax(p, given, x, y)
    low, high = op.interval(p, x, y)
    held(name, generator, x, y, below, above)
    for s, t in shares(generator, 25):
        value = EXACT[name](inside(x, s), inside(y, t))
        assert (long(low) <= value).all() and (value <= long(high)).all()


def held(name, generator, x, y, below, above) -> None:
    """Planes hold at corners, on edges, on the diagonal and at random points."""
    for s, t in shares(generator, 25):
        a, b = inside(x, s), inside(y, t)
        meet = np.clip(a, long(y[0]), long(y[1]))
        for first, second in ((a, b), (a, meet)):
            value = EXACT[name](first, second)
            under = long(below.slopes[0]) * first + long(below.slopes[1]) * second + long(below.offset)
            over = long(above.slopes[0]) * first + long(above.slopes[1]) * second + long(above.offset)
            assert (under <= value).all()
            assert (value <= over).all()


@pytest.mark.parametrize("name", ["mul", "div"])
def test_planes_of_rows_hold_on_the_box(name):
    """What an objective takes: weights of every row."""
    generator = torch.Generator().manual_seed(8)
    op, p = OPS[name], prepared(name, (2,), ((2,), (2,)))
    x, y = box(generator, 2), box(generator, 2, nonzero=name == "div")
    r = torch.rand(2, COUNT, 3, 2, generator=generator, dtype=FLOAT)
    r[:, :, 2] = r[:, :, 2].round()
    planes = op.weighted(p, x, y).planes((r[0], r[1]))
    for row in range(3):
        one_row = [Plane(tuple(s.expand_as(r[0])[:, row] for s in f.slopes), f.offset[:, row]) for f in planes]
        held(name, generator, x, y, *one_row)


@pytest.mark.parametrize(("name", "image"), [("mul", None), ("div", None), ("div", (-1.5, 1.2))])
def test_planes_move_with_their_weights_as_the_gradient_says(name, image):
    generator = torch.Generator().manual_seed(9)
    rand = lambda *shape: torch.rand(*shape, generator=generator, dtype=FLOAT)  # noqa: E731
    op, p = OPS[name], prepared(name, (2,), ((2,), (2,)), **({} if image is None else {"image": image}))
    x, y = ((low := 4 * rand(COUNT, 2) - 2, low + 0.1 + 2 * rand(COUNT, 2)) for _ in (0, 1))
    if name == "div":  # positive or negative
        first, last = y[0] + 2.2, y[1] + 2.2
        turned = torch.arange(COUNT).unsqueeze(1) % 2 == 0
        y = torch.where(turned, -last, first), torch.where(turned, -first, last)
    made, step = op.weighted(p, x, y), 1e-6
    weights = (0.1 + 0.8 * rand(COUNT, 3, 2), 0.1 + 0.8 * rand(COUNT, 3, 2))
    coefficients = (rand(COUNT, 3, 2), -rand(COUNT, 3, 2))
    z = [low.unsqueeze(1) + (high - low).unsqueeze(1) * rand(COUNT, 3, 2) for low, high in (x, y)]
    found = made.gradient(weights, coefficients, *z)

    def value(side: int, moved: float) -> torch.Tensor:
        plane = made.planes(tuple(w + moved for w in weights))[side]
        return coefficients[side] * (plane.slopes[0] * z[0] + plane.slopes[1] * z[1] + plane.offset)

    for side in (0, 1):
        middle = value(side, 0.0)
        above, below = (value(side, step) - middle) / step, (middle - value(side, -step)) / step
        smooth = (above - below).abs() <= 1e-4 * (1e-2 + above.abs())
        assert smooth.double().mean() > 0.95
        apart = (0.5 * (above + below) - found[side])[smooth].abs()
        assert (apart <= 1e-4 * (1e-2 + above[smooth].abs())).all()
        assert float(found[side].abs().mean()) > 0.01


def gap(planes, x, y) -> torch.Tensor:
    """Gap between the planes at the centre of the box."""
    below, above = planes
    centre = [(t[0] + t[1]) / 2 for t in (x, y)]
    slopes = [u - v for u, v in zip(above.slopes, below.slopes, strict=True)]
    return slopes[0] * centre[0] + slopes[1] * centre[1] + above.offset - below.offset


def one(*numbers: float) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor([[n]], dtype=FLOAT) for n in numbers)  # type: ignore[return-value]


def test_product_planes_are_mccormick():
    """On [0, 2] x [1, 5] the gap at the centre is the width product over 2, whatever the weight."""
    op, p = OPS["mul"], prepared("mul", (1,), ((1,), (1,)))
    x, y = one(0.0, 2.0), one(1.0, 5.0)
    for weight in (None, *(torch.full((1, 1), r, dtype=FLOAT) for r in (0.0, 0.25, 1.0))):
        assert gap(op.relax(p, weight, x, y), x, y).item() == pytest.approx(4.0, rel=1e-12)
    below, _ = op.relax(p, torch.ones(1, 1, dtype=FLOAT), x, y)
    assert [s.item() for s in below.slopes] == [1.0, 0.0]
    assert below.offset.item() == pytest.approx(0.0, abs=1e-13)


def test_starting_product_plane_gives_the_interval_bound():
    """The starting weight is the one whose plane over the box alone is best: it reaches the corner."""
    generator = torch.Generator().manual_seed(4)
    op, p = OPS["mul"], prepared("mul", (2,), ((2,), (2,)))
    x, y = box(generator, 2), box(generator, 2)
    below, _ = op.relax(p, None, x, y)
    low, high = op.interval(p, x, y)
    least = below.offset
    for slope, (lower, upper) in zip(below.slopes, (x, y), strict=True):
        least = least + torch.minimum(slope * lower, slope * upper)
    assert (least >= low - 1e-9 * (1 + high - low)).all()


@pytest.mark.parametrize("name", ["max", "min"])
def test_a_dominating_operand_is_passed_on_exactly(name):
    op, p = OPS[name], prepared(name, (1,), ((1,), (1,)))
    planes = op.relax(p, None, one(0.1, 0.7), one(-3.0, 0.1))
    wanted = [1.0, 0.0] if name == "max" else [0.0, 1.0]
    for plane in planes:
        assert [s.item() for s in plane.slopes] == wanted
        assert plane.offset.item() == 0.0


def test_maximum_upper_plane_touches_the_corners():
    """On [0, 1] x [0, 1]: all planes between x + y and 1 pass through (1, 0) and (0, 1)."""
    op, p = OPS["max"], prepared("max", (1,), ((1,), (1,)))
    for weight in (0.0, 0.5, 1.0):
        _, above = op.relax(p, torch.full((1, 1), weight, dtype=FLOAT), one(0.0, 1.0), one(0.0, 1.0))
        assert [s.item() for s in above.slopes] == pytest.approx([1 - weight, 1 - weight])
        assert above.offset.item() == pytest.approx(weight, abs=1e-12)


def test_quotient_of_a_box_with_zero_is_unknown_and_finite_in_slope():
    op, p = OPS["div"], prepared("div", (1,), ((1,), (1,)))
    for y in (one(-1.0, 1.0), one(0.0, 1.0), one(-1.0, 0.0)):
        low, high = op.interval(p, one(1.0, 2.0), y)
        assert (low.item(), high.item()) == (-np.inf, np.inf)
        below, above = op.relax(p, None, one(1.0, 2.0), y)
        assert [s.item() for s in (*below.slopes, *above.slopes)] == [0.0] * 4
        assert (below.offset.item(), above.offset.item()) == (-np.inf, np.inf)


@pairs
def test_infinite_boxes_never_give_nan(name):
    op, p = OPS[name], prepared(name, (1,), ((1,), (1,)))
    ends = [-np.inf, -1e308, -1.0, 0.0, 1.0, 1e308, np.inf]
    boxes = [(a, b) for a in ends for b in ends if a <= b and (a < b or np.isfinite(a))]
    x = tuple(torch.tensor([[a[i]] for a in boxes for _ in boxes], dtype=FLOAT) for i in (0, 1))
    y = tuple(torch.tensor([[b[i]] for _ in boxes for b in boxes], dtype=FLOAT) for i in (0, 1))
    planes = op.relax(p, None, x, y)
    for plane in planes:
        assert all(torch.isfinite(slope).all() for slope in plane.slopes)
        assert not plane.offset.isnan().any()
    for bound in op.interval(p, x, y):
        assert not bound.isnan().any()
    # wherever 0 lies in both boxes, 0 x 0 = max(0, 0) = 0 has to be inside
    holds = (x[0] <= 0) & (x[1] >= 0) & (y[0] <= 0) & (y[1] >= 0)
    assert ((planes[0].offset <= 0) & (planes[1].offset >= 0))[holds].all()


@pytest.mark.parametrize("weights", ["start", "random"])
def test_window_planes_hold_on_the_box(weights):
    generator = torch.Generator().manual_seed(2)
    op, p = OPS["window_max"], prepared("window_max", (4,), ((6,),), indices=WINDOW)
    x = box(generator, 6)
    given = None if weights == "start" else torch.rand(COUNT, 4, generator=generator, dtype=FLOAT)
    below, above = op.relax(p, given, x)
    low, high = op.interval(p, x)
    assert below.slopes[0].shape == above.slopes[0].shape == (COUNT, 4, 4)
    assert below.offset.shape == above.offset.shape == low.shape == (COUNT, 4)
    assert (below.slopes[0][:, WINDOW < 0] == 0).all() and (above.slopes[0][:, WINDOW < 0] == 0).all()
    absent = np.where(WINDOW < 0, -np.inf, 0).astype(LONG)
    for i in range(100):
        bits = torch.tensor([(i >> k) & 1 for k in range(6)], dtype=FLOAT)
        share = bits if i < 64 else torch.rand(COUNT, 6, generator=generator, dtype=FLOAT)
        taken = inside(x, share)[:, np.maximum(WINDOW, 0)]
        value = (taken + absent).max(-1)
        assert ((long(below.slopes[0]) * taken).sum(-1) + long(below.offset) <= value).all()
        assert (value <= (long(above.slopes[0]) * taken).sum(-1) + long(above.offset)).all()
        assert (long(low) <= value).all() and (value <= long(high)).all()


def test_window_with_a_dominating_element_is_exact():
    op, p = OPS["window_max"], prepared("window_max", (1,), ((3,),), indices=np.array([[0, 1, 2]]))
    lower, upper = torch.tensor([[0.0, 2.0, -1.0]], dtype=FLOAT), torch.tensor([[1.0, 3.0, 2.0]], dtype=FLOAT)
    for plane in op.relax(p, None, (lower, upper)):
        assert plane.slopes[0].tolist() == [[[0.0, 1.0, 0.0]]]
        assert plane.offset.item() == 0.0


def test_window_upper_plane_of_four_equal_elements():
    """Four elements in [0, 1]: the least gap at the centre is at level 1, the constant plane, as the third end is 1."""
    op, p = OPS["window_max"], prepared("window_max", (1,), ((4,),), indices=np.array([[0, 1, 2, 3]]))
    _, above = op.relax(p, None, (torch.zeros(1, 4, dtype=FLOAT), torch.ones(1, 4, dtype=FLOAT)))
    assert above.slopes[0].tolist() == [[[0.0] * 4]]
    assert above.offset.item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((1, 2, 3, 4), (2, 4, 3)),
        ((4,), (4,)),
    ],
)
@pytest.mark.parametrize("limit", [1 << 22, 1])
def test_matmul_follows_numpy_and_bounds_its_samples(left, right, limit, monkeypatch):
    monkeypatch.setattr("provenn.bounds.ops.products.EXACT_MATMUL_SIZE", limit)
    shape = np.matmul(np.zeros(left), np.zeros(right)).shape
    op, p = OPS["matmul"], prepared("matmul", shape, (left, right))
    generator = torch.Generator().manual_seed(3)
    rand = lambda *size: torch.rand(7, *size, generator=generator, dtype=FLOAT)  # noqa: E731
    x, y = (((c := rand(*s) * 4 - 2) - rand(*s), c + rand(*s)) for s in (left, right))
    low, high = op.interval(p, x, y)
    assert low.shape == high.shape == (7, *shape)
    for round_ in range(40):
        s, t = rand(*left), rand(*right)
        s, t = (s.round(), t.round()) if round_ % 2 else (s, t)
        a, b = x[0] + (x[1] - x[0]) * s, y[0] + (y[1] - y[0]) * t
        value = op.evaluate(p, a, b)
        assert torch.allclose(
            value,
            torch.stack(
                [
                    torch.from_numpy(np.matmul(u, v)) if shape else torch.tensor(np.matmul(u, v))
                    for u, v in zip(a.numpy(), b.numpy(), strict=True)
                ]
            ),
        )
        assert (low <= value).all() and (value <= high).all()


def test_band_planes_hold_where_sum_and_difference_lie():
    """Bands of any width and place: the planes hold for every point of the box whose sum and difference are in them."""
    generator = torch.Generator().manual_seed(7)
    rand = lambda: torch.rand(COUNT, 2, generator=generator, dtype=FLOAT)  # noqa: E731
    op, p = OPS["mul"], prepared("mul", (2,), ((2,), (2,)))
    x, y = box(generator, 2), box(generator, 2)
    scale = torch.nan_to_num((x[1] - x[0]) / (y[1] - y[0]), nan=1.0, posinf=1.0).clamp(min=1e-20) * (
        0.5 + rand()
    )
    ends = [x[0] - scale * y[1], x[1] - scale * y[0]], [x[0] + scale * y[0], x[1] + scale * y[1]]
    sides = []
    for low, high in ends:
        width, start = (high - low) * rand() * 0.8, rand()
        first = low + (high - low - width) * start
        sides.append((first, first + width))
    below, above = mul_in_band(op.relax(p, None, x, y), x, y, Band(scale, *sides))
    plain = op.relax(p, None, x, y)
    assert ((below.slopes[0] != plain[0].slopes[0]) | (below.offset != plain[0].offset)).double().mean() > 0.2
    met = 0
    for s, t in shares(generator, 400):
        a, b = inside(x, s), inside(y, t)
        both = [a - long(scale) * b, a + long(scale) * b]
        within = np.ones(a.shape, dtype=bool)
        for value, (low, high) in zip(both, sides, strict=True):
            within &= (long(low) <= value) & (value <= long(high))
        met += within.sum()
        under = long(below.slopes[0]) * a + long(below.slopes[1]) * b + long(below.offset)
        over = long(above.slopes[0]) * a + long(above.slopes[1]) * b + long(above.offset)
        assert ((under <= a * b) & (a * b <= over))[within].all()
    assert met > 10 * COUNT


@pytest.mark.parametrize("size", [1e-160, 1e-150, 1.0, 1e150, 2e154, 1e155, 1e158, 1e200, 1e290])
def test_planes_of_a_quotient_hold_where_squares_of_numbers_overflow(size: float):
    """``x / y`` with divisors of every size: the stationary point of ``x / y - b y`` is inside although ``y^2`` is no
    number."""
    generator = torch.Generator().manual_seed(5)
    rand = lambda *shape: torch.rand(*shape, generator=generator, dtype=FLOAT)  # noqa: E731
    low, high = torch.full((COUNT, 1), size * 0.1, dtype=FLOAT), torch.full((COUNT, 1), size * 2, dtype=FLOAT)
    flip = rand(COUNT, 1) < 0.5
    y = torch.where(flip, -high, low), torch.where(flip, -low, high)
    x = torch.where(rand(COUNT, 1) < 0.5, torch.tensor(1.0), torch.tensor(-1.5)).to(FLOAT), None
    x = x[0], x[0] + 0.5
    p = prepared("div", (1,), ((1,), (1,)))
    share = rand(2, COUNT, 1)
    shares = torch.linspace(0, 1, 401, dtype=FLOAT).numpy().astype(LONG)
    for lower, upper in (
        OPS["div"].relax(p, tuple(share), x, y), OPS["div"].relax(p, None, x, y),  # type: ignore[union-attr]
    ):  # fmt: skip
        for plane, sign in ((lower, 1), (upper, -1)):
            a, b, c = (t.numpy().astype(LONG)[:, 0, None] for t in (*plane.slopes, plane.offset))
            for end in x:
                s = end.numpy().astype(LONG)
                t = y[0].numpy().astype(LONG) + shares * (y[1].numpy().astype(LONG) - y[0].numpy().astype(LONG))
                rest = sign * (s / t - a * s - b * t - c)
                assert (rest >= -1e-25 * (np.abs(s / t) + np.abs(c))).all()


def test_a_power_keeps_its_stationary_point_at_slopes_below_the_normal_numbers():
    """``x^-2`` near 1e107: the slope that touches it is 1e-321."""
    lower, upper = torch.tensor([5e106], dtype=FLOAT), torch.tensor([4e107], dtype=FLOAT)
    for exponent, scale in ((-2.0, 1.0), (-3.0, 1e-26)):
        node = Node("pow", (0,), (1,), {"exponent": exponent})
        p = prepare(node, ((1,),), FLOAT, torch.device("cpu"))
        for slope in (-1e-323, -5e-323, -1e-322, -1e-321):
            kl, bl, _, _ = relaxation.lines(
                OPS["pow"], p, lower * scale, upper * scale, torch.tensor([slope], dtype=FLOAT), None
            )  # type: ignore[arg-type]
            x = np.linspace(5e106 * scale, 4e107 * scale, 4001).astype(LONG)
            rest = x ** LONG(exponent) - LONG(kl.item()) * x - LONG(bl.item())
            assert (rest >= -1e-18 * x ** LONG(exponent)).all()
