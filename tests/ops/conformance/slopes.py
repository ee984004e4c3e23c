"""Derivatives that are operators of their own, with their real functions: lines of the table CASES.

At a jump a reference is no number, so nothing is compared there: a box that begins or ends at one holds one side only.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
from numpy import ndarray as Array
from scipy import special

from . import reference as real
from .case import Case
from .reference import LEAST, LONG

NAN = LONG("nan")
JUMPING = frozenset({"step", "pulse", "hard_swish_slope"})
"""Operators with jumps whose value there depends on the box."""


def _number(value: float) -> Array:
    return np.array(value)


def step(left: float, right: float, label: str) -> Case:
    return Case(
        "step",
        lambda x: np.where(x < 0, LONG(left), np.where(x > 0, LONG(right), NAN)),
        lambda x: mpmath.mpf(left if x < 0 else right),
        attributes={"left": _number(left), "right": _number(right)},
        label=label,
    )


def pulse(low: float | None, high: float | None, label: str) -> Case:
    limits = {name: _number(v) for name, v in (("lower", low), ("upper", high)) if v is not None}
    first, last = (np.inf * s if v is None else v for v, s in ((low, -1), (high, 1)))

    def reference(x: Array) -> Array:
        inside = ((x > first) & (x < last)).astype(LONG)
        return np.where((x == first) | (x == last), NAN, inside)

    return Case(
        "pulse",
        reference,
        lambda x: mpmath.mpf(int(first < x < last)),
        focus=(*(v for v in (low, high) if v is not None), 0.0),
        attributes=limits,
        label=label,
    )


def elu(height: float, scale: float, label: str = "") -> Case:
    jump = LONG(1.0) if height == 1.0 else NAN

    def reference(x: Array) -> Array:
        inner = LONG(height) * np.maximum(np.exp(np.minimum(x, 0) / LONG(scale)), LEAST)
        return np.where(x < 0, inner, np.where(x > 0, LONG(1.0), jump))

    return Case(
        "elu_slope",
        reference,
        lambda x: mpmath.mpf(height) * mpmath.exp(x / mpmath.mpf(scale)) if x < 0 else mpmath.mpf(1),
        lambda x: np.where(x < 0, height / scale * np.exp(np.minimum(x, 0) / scale), 0.0),
        bends=(0.0,),
        focus=(-1.0, -20.0 * scale),
        attributes={"height": _number(height), "scale": _number(scale)},
        size=lambda x: (
            abs(height) * np.exp(np.minimum(x, 0) / scale) * (1 + np.minimum(np.abs(x), 1e4)) + (x >= 0)
        ),
        label=label,
    )


def _sigmoid_slope(x: Array, unit: float = 1.0) -> Array:
    e = np.exp(-LONG(unit) * np.abs(x))
    return np.maximum(e / ((1 + e) * (1 + e)), LEAST)


def _exact_sigmoid(x: mpmath.mpf) -> mpmath.mpf:
    return 1 / (1 + mpmath.exp(-x))


def _gaussian(x: Array) -> Array:
    """``e^(-x^2)`` with the square split, as ``reference.half_gaussian``."""
    x = np.minimum(np.abs(x), LONG(1e4))
    high = x * LONG(2**32 + 1)
    high = high - (high - x)
    low = x - high
    return np.maximum(np.exp(-high * high) * np.exp(-low * (2 * high + low)), LEAST)


def _normal(x: Array) -> tuple[Array, Array]:
    """The normal distribution and x times its density."""
    gauss = np.maximum(real.half_gaussian(x), LEAST)
    tail = gauss * real.erfcx(np.abs(x) * real.ROOT_HALF) / 2
    density = gauss * real.ROOT_HALF / real.ROOT_PI
    return np.where(x < 0, tail, 1 - tail), x * density


def _gelu_tanh(x: Array) -> tuple[Array, Array, Array]:
    u = real.GELU_SCALE * (x + real.GELU_CUBE * x * x * x)
    s = real.sigmoid(u)
    inner = real.GELU_SCALE * (1 + 3 * real.GELU_CUBE * x * x)
    return s, x * s * real.sigmoid(-u) * inner, u


def _exact_gelu_tanh(x: mpmath.mpf) -> mpmath.mpf:
    c, k = 2 * mpmath.sqrt(2 / mpmath.pi), mpmath.mpf("0.044715")
    u = c * (x + k * x**3)
    s = _exact_sigmoid(u)
    return s + x * s * _exact_sigmoid(-u) * c * (1 + 3 * k * x * x)


def _silu(x: Array) -> tuple[Array, Array]:
    return real.sigmoid(x), x * real.sigmoid(x) * real.sigmoid(-x)


def _mish(x: Array) -> tuple[Array, Array]:
    inner = 4 * _sigmoid_slope(real.softplus(x), 2.0)
    return real.tanh_of_softplus(x), x * inner * real.sigmoid(x)


def _exact_mish(x: mpmath.mpf) -> mpmath.mpf:
    inner = mpmath.log1p(mpmath.exp(-abs(x))) + max(x, mpmath.mpf(0))
    return mpmath.tanh(inner) + x * mpmath.sech(inner) ** 2 * _exact_sigmoid(x)


def _bend(slope: Callable, step_: float = 1e-5) -> Callable:
    """A difference quotient: it only finds adversarial points."""
    return lambda x: (slope(x + step_) - slope(x - step_)) / (2 * step_)


def _plain_gelu(x: Array) -> Array:
    return special.ndtr(x) + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


def _plain_gelu_tanh(x: Array) -> Array:
    x = np.clip(x, -40, 40)
    u = 2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return special.expit(u) * (
        1 + x * special.expit(-u) * 2 * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x * x)
    )


def _plain_silu(x: Array) -> Array:
    x = np.clip(x, -700, 700)
    return special.expit(x) * (1 + x * special.expit(-x))


def _plain_mish(x: Array) -> Array:
    x = np.clip(x, -700, 700)
    t = np.tanh(np.logaddexp(x, 0))
    return t + x * (1 - t * t) * special.expit(x)


def _sums(parts: Callable, growth: Callable = lambda x: 0.0) -> dict:
    """A sum whose terms cancel: errors are relative to their sizes."""
    return {
        "reference": lambda x: parts(x)[0] + parts(x)[1],
        "size": lambda x: (np.abs(parts(x)[0]) + np.abs(parts(x)[1])) * (1 + growth(x)) + LEAST,
    }


SIGMOID, TANH = 1.3169578969248167, 0.65847894846240835
GELU_TANH, SILU = 2.0134807246242579, 3.4358409935351107
MISH = (-3.2673378465204046, -0.087934431314914211, 2.1148425630208771)

SLOPES: tuple[Case, ...] = (
    step(0.0, 1.0, "step"),
    step(-1.0, 1.0, "step of abs"),
    step(0.01, 1.0, "step of leaky_relu"),
    step(2.5, 1.0, "step down"),
    step(1.0, 1.0, "step of nothing"),
    pulse(-1.25, 6.0, "pulse"),
    pulse(None, 2.5, "pulse above"),
    pulse(0.125, None, "pulse below"),
    pulse(0.75, 0.75, "pulse at a point"),
    Case(
        "hard_swish_slope",
        lambda x: np.where(
            np.abs(x) == 3, NAN, np.where(x < -3, LONG(0), np.where(x > 3, LONG(6), 2 * x + 3))
        ),
        lambda x: mpmath.mpf(0) if x < -3 else mpmath.mpf(6) if x > 3 else 2 * x + 3,
        focus=(-3.0, 3.0, -1.5, 0.0),
        size=lambda x: np.where(np.abs(x) < 3, 2 * np.abs(x) + 3, LONG(6)),
    ),
    elu(1.0, 1.0),
    elu(1.75, 1.0, "elu_slope 1.75"),
    elu(-0.5, 1.0, "elu_slope -0.5"),
    elu(1.0, 0.5, "elu_slope of celu"),
    elu(1.0, 3.0, "elu_slope of celu 3"),
    Case(
        "sigmoid_slope",
        _sigmoid_slope,
        lambda x: _exact_sigmoid(x) * _exact_sigmoid(-x),
        lambda x: special.expit(x) * special.expit(-x) * np.tanh(-0.5 * x),
        bends=(-SIGMOID, SIGMOID),
        focus=(0.0, -40.0, 40.0),
    ),
    Case(
        "tanh_slope",
        lambda x: 4 * _sigmoid_slope(x, 2.0),
        lambda x: mpmath.sech(x) ** 2,
        lambda x: -8 * special.expit(2 * x) * special.expit(-2 * x) * np.tanh(x),
        bends=(-TANH, TANH),
        focus=(0.0, -20.0, 20.0),
    ),
    Case(
        "erf_slope",
        lambda x: _gaussian(x) * 2 / real.ROOT_PI,
        lambda x: mpmath.exp(-x * x) * 2 / mpmath.sqrt(mpmath.pi),
        lambda x: -4 / np.sqrt(np.pi) * x * np.exp(-x * x),
        bends=(-(0.5**0.5), 0.5**0.5),
        focus=(0.0, -6.5, 6.5),
    ),
    Case(
        "atan_slope",
        lambda x: 1 / (1 + x * x),
        lambda x: 1 / (1 + x * x),
        lambda x: -2 * x / (1 + x * x) ** 2,
        bends=(-(3**-0.5), 3**-0.5),
        focus=(0.0, -50.0, 50.0),
    ),
    Case(
        "softsign_slope",
        lambda x: 1 / ((1 + np.abs(x)) * (1 + np.abs(x))),
        lambda x: (1 + abs(x)) ** -2,
        lambda x: -2 * np.sign(x) * (1 + np.abs(x)) ** -3.0,
        bends=(0.0,),
        focus=(1.0, -1.0),
    ),
    Case(
        "tan_slope",
        lambda x: 1 + np.tan(x) ** 2,
        lambda x: mpmath.sec(x) ** 2,
        lambda x: 2 * np.tan(x) * (1 + np.tan(x) ** 2),
        bends=(0.0,),
        focus=(-1.2, 1.2),
        domain=(-1.5707, 1.5707),
    ),
    Case(
        "gelu_slope",
        exact=lambda x: mpmath.erfc(-x / mpmath.sqrt(2)) / 2 + x * mpmath.npdf(x),
        derivative=lambda x: np.exp(-0.5 * x * x) * (2 - x * x) / np.sqrt(2 * np.pi),
        bends=(-2.0, 0.0, 2.0),
        focus=(-(2**0.5), 2**0.5, -12.0, 12.0, -38.0),
        **_sums(_normal),
    ),
    Case(
        "gelu_tanh_slope",
        exact=_exact_gelu_tanh,
        derivative=_bend(_plain_gelu_tanh),
        bends=(-GELU_TANH, 0.0, GELU_TANH),
        focus=(-12.0, 12.0),
        **_sums(_gelu_tanh, lambda x: np.minimum(np.abs(x) ** 3, 1e4)),
    ),
    Case(
        "silu_slope",
        exact=lambda x: _exact_sigmoid(x) * (1 + x * _exact_sigmoid(-x)),
        derivative=_bend(_plain_silu),
        bends=(-SILU, 0.0, SILU),
        focus=(-50.0, 50.0),
        **_sums(_silu),
    ),
    Case(
        "mish_slope",
        exact=_exact_mish,
        derivative=_bend(_plain_mish),
        bends=MISH,
        focus=(0.0, -50.0, 50.0),
        **_sums(_mish, lambda x: np.minimum(np.abs(x), 1e4)),
    ),
)
