"""Every elementwise record against the real function: one line per operator in CASES, no tolerance on the bounds.

The reference is evaluated in extended precision (11 more bits than the bounds; mpmath where numpy has no
such function), so a bound that is wrong by a float64 rounding error fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

import mpmath
import numpy as np
import pytest
import torch

from provenn.bounds.graph._graph import Node
from provenn.bounds.graph._piecewise import Domain, identity, outer, product, table, weighted_sum
from provenn.bounds.graph.univariate import tabulated
from provenn.bounds.ops import OPS, Univariate, prepare, relaxation

LONG = np.longdouble
FLOAT = torch.float64
REFERENCE_ERROR = LONG(2.0) ** -61
"""Relative error of the references: a few ulps of the extended format."""

if np.finfo(LONG).nmant < 63:
    pytest.skip("needs a long double of 64 bits", allow_module_level=True)


def multiprecision(function: Callable) -> Callable:
    """A reference through mpmath with 80 bits, elementwise."""

    def apply(x: np.ndarray) -> np.ndarray:
        with mpmath.workprec(80):
            values = [function(mpmath.mpf(float(v))) for v in x.ravel()]
            head = np.array([float(v) for v in values])
            tail = np.array([float(v - h) for v, h in zip(values, head.tolist(), strict=True)])
        return (head.astype(LONG) + tail.astype(LONG)).reshape(x.shape)

    return apply


def two_slopes(slope: float) -> Callable:
    return lambda x: np.where(x < 0, LONG(slope) * x, x)


def elu(alpha: float, gamma: float = 1.0, inner: float = 1.0) -> Callable:
    def apply(x: np.ndarray) -> np.ndarray:
        return LONG(gamma) * np.where(x > 0, x, LONG(alpha) * np.expm1(np.minimum(x, 0) / LONG(inner)))

    return apply


@dataclass(frozen=True, eq=False)
class Case:
    """``reference`` is the real function on long doubles; ``focus`` are break points, inflections and the like."""

    name: str
    reference: Callable
    focus: tuple[float, ...] = (0.0,)
    attributes: dict = field(default_factory=dict)
    domain: tuple[float, float] = (-1e6, 1e6)
    costly: bool = False
    label: str = ""

    def __str__(self) -> str:
        return self.label or self.name


def bent() -> dict:
    """Tables of ``x |x| - 2 x``; jumps are tested with their rewrite (tests/graph/test_univariate.py)."""
    x = identity(Domain(Fraction(-9), Fraction(9)))
    breaks = lambda low, high: [Fraction(0)][: low <= 0 <= high]  # noqa: E731
    size = outer(x, breaks, lambda v: (Fraction(0), Fraction(-1 if v < 0 else 1), Fraction(0)))
    made = weighted_sum([(product(x, size), Fraction(1)), (x, Fraction(-2))])
    return tabulated([table(made)], np.zeros((1,), np.int64))


SILU = 2.3993572805154677
MISH = (-2.2563763963607931, 1.4905711794854285)
PI = float(np.pi)

CASES = (
    Case("relu", lambda x: np.maximum(x, 0)),
    Case("leaky_relu", two_slopes(0.01), attributes={"slope": np.array(0.01)}),
    Case("leaky_relu", two_slopes(2.5), attributes={"slope": np.array(2.5)}, label="leaky_relu steep"),
    Case("prelu", two_slopes(-0.25), attributes={"slope": np.array([-0.25])}),
    Case("abs", np.abs),
    Case("clip", lambda x: np.clip(x, -1, 6), (-1.0, 6.0), {"lower": np.array(-1.0), "upper": np.array(6.0)}),
    Case(
        "clip",
        lambda x: np.minimum(x, 2),
        (2.0,),
        {"lower": None, "upper": np.array(2.0)},
        label="clip above",
    ),
    Case(
        "hard_sigmoid",
        lambda x: np.clip(LONG(0.2) * x + LONG(0.5), 0, 1),
        (-2.5, 2.5),
        {"alpha": np.array(0.2), "beta": np.array(0.5)},
    ),
    Case("hard_swish", lambda x: x * np.clip(x + 3, 0, 6) / 6, (-3.0, -1.5, 0.0, 3.0)),
    Case("sign", np.sign),
    Case("floor", np.floor, (-1.0, 0.0, 3.0)),
    Case("ceil", np.ceil, (-1.0, 0.0, 3.0)),
    Case("round", np.round, (-1.5, -0.5, 0.5, 2.5)),
    Case("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    Case("tanh", np.tanh),
    Case("atan", np.arctan),
    Case("erf", multiprecision(mpmath.erf), costly=True),
    Case("softsign", lambda x: x / (1 + np.abs(x))),
    Case("exp", np.exp, domain=(-1e6, 300.0)),
    Case("log", np.log, (1.0,), domain=(1e-12, 1e6)),
    Case("sqrt", np.sqrt, (0.0, 1.0), domain=(0.0, 1e6)),
    Case("reciprocal", lambda x: 1 / x, (1.0,), domain=(1e-6, 1e6)),
    Case("reciprocal", lambda x: 1 / x, (-1.0,), domain=(-1e6, -1e-6), label="reciprocal below 0"),
    Case("pow", lambda x: x * x, attributes={"exponent": 2.0}, label="pow 2"),
    Case("pow", lambda x: x * x * x, attributes={"exponent": 3.0}, label="pow 3"),
    Case("pow", lambda x: x**4, (1.96, 4.84, 0.0), {"exponent": 4.0}, label="pow 4"),
    Case("pow", lambda x: x ** LONG(2.5), (0.0, 1.0), {"exponent": 2.5}, (0.0, 1e6), label="pow 2.5"),
    Case("pow", lambda x: x ** LONG(0.25), (0.0, 1.0), {"exponent": 0.25}, (0.0, 1e6), label="pow 0.25"),
    Case("pow", lambda x: x ** LONG(-2), (1.0,), {"exponent": -2.0}, (1e-4, 1e6), label="pow -2"),
    Case("pow", lambda x: x ** LONG(-3), (-1.0,), {"exponent": -3.0}, (-1e6, -1e-4), label="pow -3"),
    Case("sin", np.sin, (-0.0522, 4.5083, PI / 2, PI, -PI / 2)),
    Case("cos", np.cos, (5.132, 9.0777, 0.0, PI, PI / 2)),
    Case("tan", np.tan, (-1.1995, -0.2116, 0.1998, 1.1955), domain=(-1.57, 1.57)),
    Case("softplus", lambda x: np.logaddexp(x, LONG(0)), (0.0, 20.0)),
    Case("elu", elu(1.0), attributes={"alpha": np.array(1.0)}),
    Case("elu", elu(1.7), attributes={"alpha": np.array(1.7)}, label="elu 1.7"),
    Case("selu", elu(1.5, 1.25), attributes={"alpha": np.array(1.5), "gamma": np.array(1.25)}),
    Case("celu", elu(0.5, 1.0, 0.5), attributes={"alpha": np.array(0.5)}),
    Case("gelu", multiprecision(lambda x: x * mpmath.ncdf(x)), (-(2**0.5), 0.0, 0.01, 2**0.5), costly=True),
    Case(
        "gelu_tanh",
        lambda x: x / (1 + np.exp(-2 * np.sqrt(2 / np.arccos(LONG(-1))) * (x + LONG("0.044715") * x**3))),
        (-1.4185040087908284, 0.0, 1.4185040087908284),
        costly=True,
    ),
    Case("silu", lambda x: x / (1 + np.exp(-x)), (-SILU, 0.0, SILU), costly=True),
    Case("pieces", lambda x: x * np.abs(x) - 2 * x, (-1.0, 0.0, 1.0), bent(), (-8.0, 8.0)),
    Case("mish", lambda x: x * np.tanh(np.logaddexp(x, LONG(0))), (*MISH, 0.0), costly=True),
)


@pytest.fixture(autouse=True)
def quiet_overflow():
    """References overflow where the function does."""
    with np.errstate(over="ignore", under="ignore"):
        yield


every_case = pytest.mark.parametrize("case", CASES, ids=str)


def prepared(case: Case, dtype: torch.dtype = FLOAT):
    node = Node(case.name, (0,), (1,), case.attributes)
    return prepare(node, ((1,),), dtype, torch.device("cpu"))


def operator(case: Case) -> Univariate:
    record = OPS[case.name]
    assert isinstance(record, Univariate)
    return record


def boxes(case: Case, count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of every size, around and at the focus points, degenerate, one ulp wide. Shape [boxes]."""
    random = np.random.default_rng(7)
    count = count // 3 if case.costly else count
    focus = np.array(case.focus)
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
    focus = np.array(case.focus)
    steps = 2.0 ** np.arange(-10, 5, 4 if case.costly else 1)
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
    op, p = operator(case), prepared(case)
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
def test_interval_contains_the_image(case):
    lower, upper, _, values = measured(case)
    low, high = operator(case).interval(prepared(case), *tensors(lower, upper))
    assert low.shape == high.shape == lower.shape
    doubt = REFERENCE_ERROR * np.abs(values)
    assert (exact(low)[:, None] <= values + doubt).all()
    assert (values - doubt <= exact(high)[:, None]).all()
    # and no looser than the samples, up to what lies between them
    spread = (high - low).numpy() - (values.max(1) - values.min(1)).astype(float)
    room = 0.15 * (high - low).numpy() + 1e-11 * (1 + np.abs(values).max(1).astype(float))
    assert (spread <= room)[upper - lower < 10].all()


@every_case
def test_evaluation_is_within_its_stated_error(case):
    _, _, points, values = measured(case)
    op, p = operator(case), prepared(case)
    (x,) = tensors(points)
    value = op.evaluate(p, x)
    stated = value.abs() * (4 * 2.0**-52) + 1e-300 if op.error is None else op.error(p, x, value)
    assert (np.abs(exact(value) - values) <= exact(stated) + REFERENCE_ERROR * np.abs(values)).all()


@every_case
def test_every_slope_gives_a_bound(case):
    lower, upper, points, values = measured(case)
    low, high = tensors(lower, upper)
    op, p = operator(case), prepared(case)
    chosen = slopes(case, low, high)
    above, at_above = relaxation.upper_support(op, p, chosen, low, high)
    below, at_below = relaxation.lower_support(op, p, chosen, low, high)
    assert torch.equal(above, relaxation.upper_offset(op, p, chosen, low, high))
    assert torch.equal(below, relaxation.lower_offset(op, p, chosen, low, high))
    assert ((low <= at_above) & (at_above <= high) & (low <= at_below) & (at_below <= high)).all()
    # Few samples see the extremum of a wide box; slopes beyond 1e150 may lose the stationary point of a root.
    exempt = (upper - lower > 10) | (upper < 1e-300)
    for k, b, c in zip(exact(chosen), exact(above), exact(below), strict=True):
        rest = values - k[:, None] * points.astype(LONG)
        doubt = REFERENCE_ERROR * (np.abs(values) + np.abs(k[:, None] * points))
        assert (rest - doubt <= b[:, None]).all()
        assert (c[:, None] <= rest + doubt).all()
        size = (np.abs(values) + np.abs(k[:, None] * points)).max(1)
        b, c = np.where(exempt, rest.max(1), b), np.where(exempt, rest.min(1), c)
        room = 0.2 * (rest.max(1) - rest.min(1)) + 1e-11 * size + 1e-11
        assert (b - rest.max(1) <= room).all(), "offset is looser than the samples"
        assert (rest.min(1) - c <= room).all(), "offset is looser than the samples"


@every_case
def test_lines_hold_at_the_starting_slopes(case):
    lower, upper, points, values = measured(case)
    kl, bl, ku, bu = (
        exact(t)[:, None] for t in relaxation.lines(operator(case), prepared(case), *tensors(lower, upper))
    )
    doubt = REFERENCE_ERROR * (np.abs(values) + (np.abs(kl) + np.abs(ku)) * np.abs(points))
    assert (kl * points + bl <= values + doubt).all()
    assert (values - doubt <= ku * points + bu).all()


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
        t.numpy() for t in relaxation.lines(operator(case), prepared(case), *tensors(lower, upper))
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
    op, p = operator(case), prepared(case)
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
    op, p = operator(case), prepared(case)
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
ROUNDED = ("gelu", "gelu_tanh", "silu", "mish", "pieces")


@pytest.mark.parametrize("case", [case for case in CASES if operator(case).lines is not None], ids=str)
def test_closed_form_lines_agree_with_the_engine(case):
    op, p = operator(case), prepared(case)
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
    op, p = operator(case), prepared(case)
    lower, upper = boxes(case, 60)
    low, high = (t[:24].reshape(2, 1, 3, 4) for t in tensors(lower, upper))
    for line in relaxation.lines(op, p, low, high):
        assert line.shape == low.shape
    slope = torch.rand(2, 5, 3, 4, dtype=FLOAT)
    for line in relaxation.lines(op, p, low, high, slope, slope):
        assert torch.broadcast_shapes(line.shape, low.shape) in (low.shape, slope.shape)
    for bound in relaxation.slope_range(op, p, low, high):
        assert bound.shape == low.shape


@every_case
def test_infinite_and_overflowing_boxes_never_give_nan(case):
    op, p = operator(case), prepared(case)
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
        doubt = REFERENCE_ERROR * np.abs(values)
        assert (under <= values + doubt)[held].all()
        assert (values - doubt <= over)[held].all()
    for bound in (*op.interval(p, low, high), *relaxation.slope_range(op, p, low, high)):
        assert not bound.isnan().any()


@every_case
def test_float32_is_sound_up_to_its_own_rounding(case):
    """Lines in float32 only guide the search; they must not be off by more than rounding."""
    lower, upper = boxes(case, 90)
    inner = (np.maximum(0.98 * case.domain[0], -50), np.minimum(0.98 * case.domain[1], 50))
    low, high = (np.clip(t, *inner).astype(np.float32) for t in (lower, upper))
    points = (
        samples(case, low.astype(float), high.astype(float))
        .astype(np.float32)
        .clip(low[:, None], high[:, None])
    )
    lines = relaxation.lines(operator(case), prepared(case, torch.float32), *tensors(low, high))
    assert all(line.dtype == torch.float32 for line in lines)
    kl, bl, ku, bu = (exact(t)[:, None] for t in lines)
    x = points.astype(LONG)
    values = case.reference(x)
    noise = 3e-6 * (1 + np.abs(values) + np.abs(kl * x) + np.abs(ku * x))
    assert (kl * x + bl <= values + noise).all()
    assert (values <= ku * x + bu + noise).all()


@every_case
def test_offsets_are_differentiable(case):
    """Gradients in the slope and in the ends of the box, by finite differences away from kinks."""
    centre = 0.7 if case.domain[1] > 0 else -0.7
    low = torch.tensor([centre - 0.31 * abs(centre), centre], dtype=FLOAT, requires_grad=True)
    high = torch.tensor(
        [centre + 0.17 * abs(centre), centre + 0.4 * abs(centre)], dtype=FLOAT, requires_grad=True
    )
    slope = torch.tensor([0.153, -0.217], dtype=FLOAT, requires_grad=True)
    op, p = operator(case), prepared(case)
    for offset in (relaxation.upper_offset, relaxation.lower_offset):
        torch.autograd.gradcheck(lambda k, a, b, f=offset: f(op, p, k, a, b), (slope, low, high), atol=1e-5)


def test_every_elementwise_record_has_a_case():
    assert {case.name for case in CASES} == {
        name for name, record in OPS.items() if isinstance(record, Univariate)
    }
