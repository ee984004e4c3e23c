"""Every operator of one variable with its real function: a new record needs a line in CASES.

``reference`` works on long doubles, ``exact`` on one multiprecision number, ``derivative`` on float64 arrays (it only
finds adversarial points). None of them shares code with the records.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
from numpy import ndarray as Array
from scipy import special

from provenn.bounds.graph._piecewise import Domain, identity, outer, product, table, weighted_sum
from provenn.bounds.graph.univariate import tabulated

from . import reference as real
from .case import FLOAT as FLOAT
from .case import Case as Case
from .reference import LONG
from .slopes import SLOPES

HALF_PI = float(np.pi / 2)


def table_of(function: Callable) -> dict:
    """Tables of a piecewise polynomial of ``identity`` on [-9, 9]."""
    return tabulated([table(function(identity(Domain(Fraction(-9), Fraction(9)))))], np.zeros((1,), np.int64))


def zero(low: Fraction, high: Fraction) -> list[Fraction]:
    return [Fraction(0)][: low <= 0 <= high]


def bent(x):
    """``x |x| - 2 x``."""
    size = outer(x, zero, lambda v: (Fraction(0), Fraction(-1 if v < 0 else 1), Fraction(0)))
    return weighted_sum([(product(x, size), Fraction(1)), (x, Fraction(-2))])


def whole(lower: Array, upper: Array) -> Array:
    """The first and the last integers of boxes, and two between."""
    first, last = np.ceil(lower), np.floor(upper)
    middle = np.floor(0.5 * (lower + upper))
    return np.stack([first, first + 1, middle, middle + 1, last - 1, last], -1)


def halves(lower: Array, upper: Array) -> Array:
    return whole(lower - 0.5, upper - 0.5) + 0.5


def periodic(starts: Callable, period: float) -> Callable:
    """The first, a middle and the last of the points ``start(k) + n period`` in the box, for every start."""

    def roots(slope: Array, lower: Array, upper: Array) -> list[Array]:
        found = []
        for start in starts(slope):
            first, last = np.ceil((lower - start) / period), np.floor((upper - start) / period)
            found += [start + period * n for n in (first, np.floor((first + last) / 2), last)]
        return found

    return roots


def quarters(lower: Array, upper: Array) -> Array:
    return whole(lower / HALF_PI, upper / HALF_PI) * HALF_PI


def slope_of(negative: float, positive: float = 1.0) -> dict:
    """Two slopes that meet at 0."""
    return {
        "reference": lambda x: np.where(x < 0, LONG(negative), LONG(positive)) * x,
        "exact": lambda x: x * (mpmath.mpf(negative) if x < 0 else mpmath.mpf(positive)),
    }


def clipped(low: float, high: float) -> dict:
    bounds = {
        "lower": None if low == -np.inf else np.array(low),
        "upper": None if high == np.inf else np.array(high),
    }
    return {
        "reference": lambda x: np.clip(x, LONG(low), LONG(high)),
        "exact": lambda x: min(max(x, mpmath.mpf(low)), mpmath.mpf(high)),
        "focus": tuple(v for v in (low, high) if np.isfinite(v)),
        "attributes": bounds,
    }


def hard_sigmoid(alpha: float, beta: float) -> dict:
    return {
        "reference": lambda x: np.clip(LONG(alpha) * x + LONG(beta), 0, 1),
        "exact": lambda x: min(max(mpmath.mpf(alpha) * x + mpmath.mpf(beta), mpmath.mpf(0)), mpmath.mpf(1)),
        "size": lambda x: np.minimum(np.abs(LONG(alpha) * x), 2 + abs(beta)) + abs(beta),
        "focus": (-beta / alpha, (1 - beta) / alpha, 0.0),
        "attributes": {"alpha": np.array(alpha), "beta": np.array(beta)},
    }


def elu(alpha: float, gamma: float = 1.0, inner: float = 1.0, names: tuple[str, ...] = ("alpha",)) -> dict:
    """``gamma (x or alpha (exp(x / inner) - 1))``: elu, selu and celu."""
    return {
        "reference": lambda x: (
            LONG(gamma) * np.where(x > 0, x, LONG(alpha) * np.expm1(np.minimum(x, 0) / LONG(inner)))
        ),
        "exact": lambda x: gamma * (x if x > 0 else alpha * mpmath.expm1(x / inner)),
        "derivative": lambda x: (
            gamma * np.where(x > 0, 1.0, alpha / inner * np.exp(np.minimum(x, 0) / inner))
        ),
        "bends": (0.0,),
        "focus": (inner * float(np.log(inner / alpha)) if alpha > 0 else 0.0, -1.0),
        "attributes": {name: np.array({"alpha": alpha, "gamma": gamma}[name]) for name in names},
    }


def power(n: float, low: float = -1e6, high: float = 1e6, label: str = "") -> Case:
    return Case(
        "pow",
        lambda x: np.power(x, LONG(n)),
        lambda x: mpmath.power(x, int(n) if n.is_integer() else mpmath.mpf(n)),
        lambda x: n * np.power(x, n - 1),
        bends=(0.0,),
        focus=(1.0, -1.0, 1.96, 4.84),
        attributes={"exponent": n},
        domain=(low, high),
        label=label or f"pow {n:.10g}",
    )


def reciprocal(**more) -> Case:
    return Case("reciprocal", lambda x: 1 / x, lambda x: 1 / x, lambda x: -1 / (x * x), **more)


def odd(name: str, reference: Callable, exact: Callable, derivative: Callable, **more) -> Case:
    return Case(name, reference, exact, derivative, bends=(0.0,), focus=(1.0, -1.0, 20.0, -20.0), **more)


def tangent(branch: int) -> Case:
    middle = branch * np.pi
    return Case(
        "tan",
        np.tan,
        mpmath.tan,
        lambda x: np.cos(x) ** -2.0,
        bends=(middle,),
        focus=tuple(middle + v for v in (-1.1995, -0.2116, 0.1998, 1.1955)),
        domain=(middle - 1.5707, middle + 1.5707),
        label=f"tan branch {branch}" if branch else "",
    )


def exponential_tail(x: Array) -> Array:
    """``d/dx`` of mish."""
    t = np.tanh(np.logaddexp(x, 0))
    return t + x * (1 - t * t) * special.expit(x)


def gelu_tanh_derivative(x: Array) -> Array:
    c = 2 * np.sqrt(2 / np.pi)
    s = special.expit(c * (x + 0.044715 * x**3))
    return s + x * s * special.expit(-c * (x + 0.044715 * x**3)) * c * (1 + 3 * 0.044715 * x * x)


def exact_sigmoid(x: mpmath.mpf) -> mpmath.mpf:
    return 1 / (1 + mpmath.exp(-x))


def exact_gelu_tanh(x: mpmath.mpf) -> mpmath.mpf:
    return x * exact_sigmoid(2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))


def exact_mish(x: mpmath.mpf) -> mpmath.mpf:
    e = mpmath.exp(-abs(x))
    above, below = 1 + 2 * e, e * (e + 2)
    return x * (above / (above + 2 * e * e) if x > 0 else below / (below + 2))


SILU = 2.3993572805154677
MISH = (-2.2563763963607931, 1.4905711794854285)
GELU_TANH = 1.4185040087908284
WAVES = (0.0, HALF_PI, 2 * HALF_PI, -HALF_PI)

CASES: tuple[Case, ...] = (
    Case("relu", **slope_of(0.0)),
    Case("leaky_relu", **slope_of(0.01), attributes={"slope": np.array(0.01)}),
    Case("leaky_relu", **slope_of(2.5), attributes={"slope": np.array(2.5)}, label="leaky_relu steep"),
    Case("leaky_relu", **slope_of(0.0), attributes={"slope": np.array(0.0)}, label="leaky_relu 0"),
    Case("leaky_relu", **slope_of(1.0), attributes={"slope": np.array(1.0)}, label="leaky_relu 1"),
    Case("prelu", **slope_of(-0.25), attributes={"slope": np.array([-0.25])}),
    Case("prelu", **slope_of(0.3), attributes={"slope": np.array([0.3])}, label="prelu 0.3"),
    Case("abs", **slope_of(-1.0)),
    Case("clip", **clipped(-1.0, 6.0)),
    Case("clip", **clipped(-np.inf, 2.0), label="clip above"),
    Case("clip", **clipped(0.1, np.inf), label="clip below"),
    Case("clip", **clipped(0.7, 0.7), label="clip to a point"),
    Case("hard_sigmoid", **hard_sigmoid(0.2, 0.5)),
    Case("hard_sigmoid", **hard_sigmoid(1 / 6, 0.5), label="hard_sigmoid 1/6"),
    Case("hard_sigmoid", **hard_sigmoid(-3.7, 0.3), label="hard_sigmoid falling"),
    Case(
        "hard_swish",
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: x * min(max(x + 3, mpmath.mpf(0)), mpmath.mpf(6)) / 6,
        lambda x: np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, (2 * x + 3) / 6)),
        bends=(-3.0, 3.0),
        focus=(-1.5, 0.0),
    ),
    Case("sign", np.sign, mpmath.sign),
    Case("floor", np.floor, mpmath.floor, focus=(-1.0, 0.0, 3.0), jumps=whole),
    Case("ceil", np.ceil, mpmath.ceil, focus=(-1.0, 0.0, 3.0), jumps=whole),
    Case(
        "round",
        np.rint,
        lambda x: mpmath.mpf(int(mpmath.nint(x))),
        focus=(-1.5, -0.5, 0.5, 2.5),
        jumps=halves,
    ),
    odd("sigmoid", real.sigmoid, exact_sigmoid, lambda x: special.expit(x) * special.expit(-x)),
    odd("tanh", np.tanh, mpmath.tanh, lambda x: (2 * np.exp(-np.abs(x)) / (1 + np.exp(-2 * np.abs(x)))) ** 2),
    odd("atan", np.arctan, mpmath.atan, lambda x: 1 / (1 + x * x)),
    odd("erf", real.erf, mpmath.erf, lambda x: np.exp(-x * x) * (2 / np.sqrt(np.pi))),
    odd(
        "softsign",
        lambda x: x / (1 + np.abs(x)),
        lambda x: x / (1 + abs(x)),
        lambda x: (1 + np.abs(x)) ** -2.0,
    ),
    Case("exp", np.exp, mpmath.exp, np.exp, domain=(-1e4, 300.0), focus=(0.0, 1.0, -745.0)),
    Case(
        "exp",
        np.exp,
        mpmath.exp,
        np.exp,
        domain=(-1e4, 1e4),
        focus=(0.0, 1.0, 709.0, -745.0),
        label="exp that overflows",
    ),
    Case("log", np.log, mpmath.log, lambda x: 1 / x, focus=(1.0,), domain=(1e-300, 1e300)),
    Case("sqrt", np.sqrt, mpmath.sqrt, lambda x: 0.5 / np.sqrt(x), focus=(0.0, 1.0), domain=(0.0, 1e300)),
    reciprocal(focus=(1.0,), domain=(1e-9, 1e200)),
    reciprocal(focus=(-1.0,), domain=(-1e6, -1e-9), label="reciprocal below 0"),
    reciprocal(bends=(0.0,), label="reciprocal around 0"),
    *(power(n) for n in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 16.0)),
    *(power(n) for n in (-1.0, -2.0, -3.0)),
    *(power(n, 1e-5, label=f"pow {n:g} above 0") for n in (-1.0, -2.0, -3.0)),
    *(power(n, high=-1e-5, label=f"pow {n:g} below 0") for n in (-1.0, -2.0, -3.0)),
    *(power(n, 0.0) for n in (0.25, 0.5, 0.999, 1.0000001, 1.001, 1.5, 2.5)),
    *(power(n, 1e-9) for n in (-0.5, -2.5)),
    Case(
        "sin",
        np.sin,
        mpmath.sin,
        np.cos,
        focus=(-0.0522, 4.5083, *WAVES),
        jumps=quarters,
        roots=periodic(lambda k: [s * np.arccos(np.clip(k, -1, 1)) for s in (1, -1)], 4 * HALF_PI),
    ),
    Case(
        "cos",
        np.cos,
        mpmath.cos,
        lambda x: -np.sin(x),
        focus=(5.132, 9.0777, *WAVES),
        jumps=quarters,
        roots=periodic(
            lambda k: [-np.arcsin(np.clip(k, -1, 1)), 2 * HALF_PI + np.arcsin(np.clip(k, -1, 1))], 4 * HALF_PI
        ),
    ),
    *(tangent(n) for n in (0, -3, 1000)),
    Case(
        "softplus",
        real.softplus,
        lambda x: mpmath.log1p(mpmath.exp(-abs(x))) + max(x, mpmath.mpf(0)),
        special.expit,
        focus=(0.0, 20.0),
    ),
    Case("elu", **elu(1.0)),
    Case("elu", **elu(1.7), label="elu 1.7"),
    Case("elu", **elu(0.3), label="elu 0.3"),
    Case("elu", **elu(-0.5), label="elu -0.5"),
    Case("selu", **elu(1.5, 1.25, names=("alpha", "gamma"))),
    Case(
        "selu", **elu(1.6732632423543772, 1.0507009873554805, names=("alpha", "gamma")), label="selu standard"
    ),
    Case("celu", **elu(0.5, inner=0.5)),
    Case("celu", **elu(3.0, inner=3.0), label="celu 3"),
    Case(
        "gelu",
        real.gelu,
        lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
        lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
        bends=(-(2**0.5), 2**0.5),
        focus=(0.0, 0.01, -12.0, 12.0, -38.0),
    ),
    Case(
        "gelu_tanh",
        real.gelu_tanh,
        exact_gelu_tanh,
        gelu_tanh_derivative,
        bends=(-GELU_TANH, GELU_TANH),
        focus=(0.0, 0.01, -12.0, 12.0),
        size=lambda x: np.abs(real.gelu_tanh(x)) * (1 + np.minimum(np.abs(x) ** 3, 1e4)) + real.LEAST,
    ),
    Case(
        "silu",
        real.silu,
        lambda x: x * exact_sigmoid(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
        bends=(-SILU, SILU),
        focus=(0.0, -50.0, 50.0),
    ),
    Case("mish", real.mish, exact_mish, exponential_tail, bends=MISH, focus=(0.0, -50.0, 50.0)),
    Case(
        "pieces",
        lambda x: x * np.abs(x) - 2 * x,
        lambda x: x * abs(x) - 2 * x,
        lambda x: 2 * np.abs(x) - 2,
        bends=(0.0,),
        focus=(-1.0, 1.0, -8.0, 8.0),
        attributes=table_of(bent),
        domain=(-8.0, 8.0),
        size=lambda x: x * x + 2 * np.abs(x),
    ),
    *SLOPES,
)
