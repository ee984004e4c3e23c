"""Every elementwise record: how tight its bounds are, their gradients, shapes and limits.

That they hold is tested on more boxes in ``test_conformance.py``; the functions are those of ``conformance/cases.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from provenn.bounds.ops import relaxation
from provenn.bounds.ops.slopes import SEARCHED

from .conformance.cases import CASES, FLOAT, Case
from .conformance.reference import DOUBT, ENOUGH, LONG
from .conformance.slopes import JUMPING

if not ENOUGH:
    pytest.skip("needs a long double of 64 bits", allow_module_level=True)


@pytest.fixture(autouse=True)
def quiet_overflow():
    """References overflow where the function does."""
    with np.errstate(over="ignore", under="ignore"):
        yield


MORE = (
    "leaky_relu steep",
    "clip above",
    "reciprocal below 0",
    "elu 1.7",
    "pow 2",
    "pow 3",
    "pow 4",
    "pow 0.25",
)
MORE = (*MORE, "pow 2.5", "pow -2 above 0", "pow -3 below 0")
REGULAR = [
    case
    for i, case in enumerate(CASES)
    if (case.label in MORE or all(c.name != case.name for c in CASES[:i])) and case.name not in JUMPING
]
"""Clarke derivatives with jumps are looked at in ``test_steps.py``."""
every_case = pytest.mark.parametrize("case", REGULAR, ids=str)


def boxes(case: Case, count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of every size, around and at the focus points, degenerate, one ulp wide. Shape [boxes]."""
    random = np.random.default_rng(7)
    focus = case.special
    sizes = 10.0 ** random.uniform(-6, 1.5, (3, count))
    sizes[:, : count // 8] = 10.0 ** random.uniform(1, 6, (3, count // 8))
    centre = random.choice([-1.0, 1.0], count) * sizes[0]
    pieces = [(centre - sizes[1] / 2, centre + sizes[1] / 2)]
    at = random.choice(focus, count)
    pieces += [
        (at - sizes[1], at + sizes[2]),
        (at[:30], (at + sizes[1])[:30]),
        ((at - sizes[2])[:30], at[:30]),
    ]
    near = np.concatenate([focus, focus * 1.0000001 + 1e-7, centre[:10]])
    pieces += [(near, near), (near, np.nextafter(near, np.inf)), (near, near + 1e-13 * (1 + np.abs(near)))]
    pairs = [(a, b) for a in focus for b in focus if a < b]
    pieces.append((np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])))
    lower, upper = (np.clip(np.concatenate(part), *case.domain) for part in zip(*pieces, strict=True))
    return lower, upper


def samples(case: Case, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Points of every box ``[boxes, points]``: even, random, the ends, their neighbours, around the focus points."""
    random = np.random.default_rng(8)
    fractions = np.concatenate(
        [np.linspace(0, 1, 13), random.uniform(0, 1, 8), 10.0 ** -np.arange(2, 16, 3.0)]
    )
    inner = lower[:, None] + (upper - lower)[:, None] * fractions
    focus = case.special
    steps = 2.0 ** np.arange(-10, 5)
    around = np.concatenate([[0.0], steps, -steps])
    special = (focus[:, None] + around).ravel()
    special = np.concatenate([special, np.nextafter(focus, np.inf), np.nextafter(focus, -np.inf)])
    whole = np.stack([np.floor(lower) + 1, np.floor(upper), np.ceil(upper) - 1], -1)
    whole = np.concatenate([whole, whole - 0.5, whole + 0.5], -1)[:, : 9 * has_jumps(case)]
    whole = np.concatenate([whole, np.nextafter(whole, -np.inf), np.nextafter(whole, np.inf)], -1)
    special = np.broadcast_to(special, (lower.size, special.size))
    ends = np.stack([lower, upper, np.nextafter(lower, np.inf), np.nextafter(upper, -np.inf)], -1)
    points = np.concatenate([inner, special, ends, whole], -1)
    return np.clip(points, lower[:, None], upper[:, None])


@cache
def measured(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, their samples and the reference there; computed once, not to be written into."""
    lower, upper = boxes(case)
    points = samples(case, lower, upper)
    return lower, upper, points, case.reference(points.astype(LONG))


def slopes(case: Case, lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """Slopes ``[k, boxes]``: in, at the ends of and outside the useful range; 0, huge and tiny ones."""
    generator = torch.Generator().manual_seed(9)
    op, p = case.operator, case.prepared()
    ranges = torch.stack(relaxation.slope_range(op, p, lower, upper))
    scale = ranges.abs().amax(0) + 1e-3
    mix = torch.rand(4, lower.numel(), generator=generator, dtype=FLOAT)
    inside = torch.stack(
        [ranges[0] + mix[0] * (ranges[1] - ranges[0]), ranges[2] + mix[1] * (ranges[3] - ranges[2])]
    )
    outside = (mix[2:] * 4 - 2) * scale
    fixed = torch.stack(
        [torch.full_like(lower, k) for k in (0.0, 1.0, -1e5, 1e5, 1e-9, 0.2499999999, 0.999999999)]
    )
    return torch.cat([ranges, inside, outside, fixed])


def exact(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(LONG)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


@every_case
def test_the_interval_is_no_looser_than_the_samples(case):
    lower, upper, _, values = measured(case)
    low, high = case.operator.interval(case.prepared(), *tensors(lower, upper))
    assert low.shape == high.shape == lower.shape
    # up to what lies between them
    spread = (high - low).numpy() - (values.max(1) - values.min(1)).astype(float)
    room = 0.15 * (high - low).numpy() + 1e-11 * (1 + np.abs(values).max(1).astype(float))
    assert (spread <= room)[upper - lower < 10].all()


@every_case
def test_evaluation_is_within_its_stated_error(case):
    _, _, points, values = measured(case)
    op, p = case.operator, case.prepared()
    (x,) = tensors(points)
    value = op.evaluate(p, x)
    stated = value.abs() * (4 * 2.0**-52) + 1e-300 if op.error is None else op.error(p, x, value)
    assert (np.abs(exact(value) - values) <= exact(stated) + DOUBT * np.abs(values)).all()


@every_case
def test_offsets_are_no_looser_than_the_samples(case):
    lower, upper, points, values = measured(case)
    low, high = tensors(lower, upper)
    op, p = case.operator, case.prepared()
    chosen = slopes(case, low, high)
    above, at_above = relaxation.upper_support(op, p, chosen, low, high)
    below, at_below = relaxation.lower_support(op, p, chosen, low, high)
    assert torch.equal(above, relaxation.upper_offset(op, p, chosen, low, high))
    assert torch.equal(below, relaxation.lower_offset(op, p, chosen, low, high))
    assert ((low <= at_above) & (at_above <= high) & (low <= at_below) & (at_below <= high)).all()
    # Few samples see the extremum of a wide box; slopes beyond 1e150 may lose the stationary point of a root.
    seen = (upper - lower <= 10) & (upper >= 1e-300)
    points, values = points[seen].astype(LONG), values[seen]
    for k, b, c in zip(exact(chosen)[:, seen], exact(above)[:, seen], exact(below)[:, seen], strict=True):
        rest = values - k[:, None] * points
        size = (np.abs(values) + np.abs(k[:, None] * points)).max(1)
        room = 0.2 * (rest.max(1) - rest.min(1)) + 1e-11 * size + 1e-11
        assert (b - rest.max(1) <= room).all()
        assert (rest.min(1) - c <= room).all()


@every_case
def test_starting_slopes_leave_the_least_area(case):
    """The gap at the midpoint is at most 1 % above that of the envelopes of dense samples."""
    lower, upper = boxes(case, 60)
    keep = upper - lower > 1e-3
    lower, upper = lower[keep][:80], upper[keep][:80]
    points = np.sort(np.concatenate([samples(case, lower, upper), np.linspace(lower, upper, 61, axis=1)], 1))
    values = case.reference(points.astype(LONG)).astype(float)
    middle = (lower + upper) / 2
    kl, bl, ku, bu = (
        t.numpy() for t in relaxation.lines(case.operator, case.prepared(), *tensors(lower, upper))
    )
    gap = (ku - kl) * middle + bu - bl
    least = envelope(points, values, middle, np.max) - envelope(points, values, middle, np.min)
    noise = 1e-10 * (1 + np.abs(values).max(1)) + (0.02 * gap if has_jumps(case) else 0)
    assert (gap <= 1.01 * least + curvature(points, values) + noise).all()


def has_jumps(case: Case) -> bool:
    return case.name in ("sign", "floor", "ceil", "round")


def curvature(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What a smooth function may rise between neighbouring samples above both: an eighth of a second difference."""
    rise = np.diff(values, axis=1)
    return np.abs(np.diff(rise, axis=1)).max(1)


def envelope(points: np.ndarray, values: np.ndarray, middle: np.ndarray, pick: Callable) -> np.ndarray:
    """Value at the midpoint of the upper or lower hull of the samples."""
    found = []
    for x, y, m in zip(points, values, middle, strict=True):
        left, right = x <= m, x >= m
        (a, fa), (b, fb) = (x[left][:, None], y[left][:, None]), (x[right], y[right])
        width = np.where(b > a, b - a, 1.0)
        share = np.where(b > a, (m - a) / width, 0.0)
        found.append(pick(fa + (fb - fa) * share))
    return np.array(found)


@every_case
def test_attaining_point_is_the_derivative_of_the_offset(case):
    """Difference quotients of the convex ``b(k)`` from the left and the right enclose ``-x*``."""
    lower, upper = boxes(case, 90)
    low, high = tensors(lower, upper)
    op, p = case.operator, case.prepared()
    for k in slopes(case, low, high)[:8]:
        h = 1e-4 * (k.abs() + 1e-2)
        for support, sign in ((relaxation.upper_support, 1.0), (relaxation.lower_support, -1.0)):
            offset, point = support(op, p, k, low, high)
            left = sign * (offset - support(op, p, k - h, low, high)[0])
            right = sign * (support(op, p, k + h, low, high)[0] - offset)
            image = torch.stack(op.interval(p, low, high)).abs().amax(0)
            size = torch.maximum(low.abs(), high.abs()) * (k.abs() + h) + image
            noise = 1e-14 * size + 1e-11 * (1 + (high - low))
            known = torch.isfinite(left) & torch.isfinite(right)
            assert (left <= -sign * point * h + noise)[known].all()
            assert (-sign * point * h <= right + noise)[known].all()


@every_case
def test_a_child_is_never_looser_than_its_parent(case):
    lower, upper = boxes(case)
    share = np.random.default_rng(3).uniform(0, 1, lower.size)
    low, high, cut = tensors(lower, upper, np.clip(lower + share * (upper - lower), lower, upper))
    op, p = case.operator, case.prepared()
    for k in slopes(case, low, high):
        above = relaxation.upper_offset(op, p, k, low, high)
        below = relaxation.lower_offset(op, p, k, low, high)
        size = k.abs() * torch.maximum(low.abs(), high.abs()) + torch.stack(
            op.interval(p, low, high)
        ).abs().amax(0)
        noise = 1e-14 * size + (1e-10 * (1 + high - low) if case.name in ROUNDED else 1e-300)
        for ends in ((low, cut), (cut, high)):
            assert (relaxation.upper_offset(op, p, k, *ends) <= above + noise).all()
            assert (relaxation.lower_offset(op, p, k, *ends) >= below - noise).all()


# Their slack does not shrink with the box.
ROUNDED = ("gelu", "gelu_tanh", "silu", "mish", "pieces", *(operator.name for operator in SEARCHED))


@pytest.mark.parametrize("case", [case for case in CASES if case.operator.lines is not None], ids=str)
def test_closed_form_lines_agree_with_the_engine(case):
    op, p = case.operator, case.prepared()
    low, high = tensors(*boxes(case))
    first_low, last_low, first_high, last_high = relaxation.slope_range(op, p, low, high)
    mix = torch.rand(low.numel(), generator=torch.Generator().manual_seed(1), dtype=FLOAT)
    given = first_low + mix * (last_low - first_low), first_high + mix * (last_high - first_high)
    for pair in (given, (None, None)):
        fast = relaxation.lines(op, p, low, high, *pair)
        slow = relaxation.generic_lines(op, p, low, high, *pair)
        middle = 0.5 * (low + high)
        size = 1 + low.abs() + high.abs()
        for side in (0, 2):
            difference = (fast[side] - slow[side]) * middle + fast[side + 1] - slow[side + 1]
            assert (difference.abs() <= 1e-13 * size).all()


@every_case
def test_shapes_follow_the_boxes_and_the_slopes(case):
    op, p = case.operator, case.prepared()
    lower, upper = boxes(case, 60)
    low, high = (t[:24].reshape(2, 1, 3, 4) for t in tensors(lower, upper))
    for line in relaxation.lines(op, p, low, high):
        assert line.shape == low.shape
    slope = torch.rand(2, 5, 3, 4, dtype=FLOAT)
    for line in relaxation.lines(op, p, low, high, slope, slope):
        assert torch.broadcast_shapes(line.shape, low.shape) in (low.shape, slope.shape)
    for bound in relaxation.slope_range(op, p, low, high):
        assert bound.shape == low.shape


@pytest.mark.parametrize("case", CASES, ids=str)
def test_infinite_and_overflowing_boxes_never_give_nan(case):
    op, p = case.operator, case.prepared()
    huge = [-np.inf, -1e308, -1.0, 0.0, 1e-310, 2.0, 1e308, np.inf]
    pairs = [(a, b) for a in huge for b in huge if a <= b and np.isfinite([a, b]).any()] + [(-np.inf, np.inf)]
    low, high = tensors(np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]))
    for slope in (None, torch.zeros_like(low), torch.full_like(low, 0.5), torch.full_like(low, -1e200)):
        kl, bl, ku, bu = relaxation.lines(op, p, low, high, slope, slope)
        assert not torch.stack(torch.broadcast_tensors(kl, bl, ku, bu)).isnan().any()
        assert torch.isfinite(kl).all() and torch.isfinite(ku).all()
        inside = np.clip(np.array([-700.0, -3.0, -1.0, 0.5, 1.0, 2.0, 690.0]), *case.domain)
        held = (low.numpy()[:, None] <= inside) & (inside <= high.numpy()[:, None])
        # the function is not defined on all of a box that leaves its domain: then nothing may be claimed
        values = np.broadcast_to(case.reference(inside.astype(LONG)), held.shape)
        with np.errstate(invalid="ignore", over="ignore"):
            under = exact(kl)[:, None] * inside.astype(LONG) + exact(bl)[:, None]
            over = exact(ku)[:, None] * inside.astype(LONG) + exact(bu)[:, None]
        doubt = DOUBT * np.abs(values)
        held &= ~np.isnan(values)
        assert (under <= values + doubt)[held].all()
        assert (values - doubt <= over)[held].all()
    for bound in (*op.interval(p, low, high), *relaxation.slope_range(op, p, low, high)):
        assert not bound.isnan().any()


@every_case
def test_offsets_are_differentiable(case):
    """Gradients in the slope and in the ends of the box, by finite differences away from kinks."""
    centre = 0.7 if case.domain[1] > 0 else -0.7
    low = torch.tensor([centre - 0.31 * abs(centre), centre], dtype=FLOAT, requires_grad=True)
    high = torch.tensor(
        [centre + 0.17 * abs(centre), centre + 0.4 * abs(centre)], dtype=FLOAT, requires_grad=True
    )
    slope = torch.tensor([0.153, -0.217], dtype=FLOAT, requires_grad=True)
    op, p = case.operator, case.prepared()
    for offset in (relaxation.upper_offset, relaxation.lower_offset):
        torch.autograd.gradcheck(lambda k, a, b, f=offset: f(op, p, k, a, b), (slope, low, high), atol=1e-5)
