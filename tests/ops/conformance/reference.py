"""Real functions in extended precision: 64 bits on arrays (``LONG``), any number of bits on one number (mpmath).

Every array function is within ``DOUBT`` of the real one, relative to the size that its case states; tests compare it
with mpmath. A bound that is wrong by a rounding of float64 (53 bits) is wrong by a thousand times that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mpmath
import numpy as np
from numpy import ndarray as Array

LONG = np.longdouble
ENOUGH = np.finfo(LONG).nmant >= 63
"""Whether this machine has a long double of 64 bits; without it nothing here can be a reference."""
DOUBT = LONG(2.0) ** -61
LEAST = np.finfo(LONG).smallest_subnormal
"""Stands for a positive number that underflows: positive, and below every one."""


def longest(value: mpmath.mpf) -> np.longdouble:
    """A multiprecision number rounded to a long double."""
    if not mpmath.isfinite(value):
        return LONG(float(value))
    mantissa, exponent = mpmath.frexp(value)
    head = float(mantissa)
    return np.ldexp(LONG(head) + LONG(float(mantissa - head)), max(-99999, min(99999, int(exponent))))


def constant(expression: Callable[[], mpmath.mpf]) -> np.longdouble:
    with mpmath.workprec(200):
        return longest(expression())


ROOT_HALF = constant(lambda: mpmath.sqrt(mpmath.mpf(1) / 2))
ROOT_PI = constant(lambda: mpmath.sqrt(mpmath.pi))
GELU_SCALE = constant(lambda: 2 * mpmath.sqrt(2 / mpmath.pi))
GELU_CUBE = constant(lambda: mpmath.mpf("0.044715"))
PI = constant(lambda: mpmath.pi)


def sigmoid(x: Array) -> Array:
    return np.maximum(1 / (1 + np.exp(-x)), LEAST)


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.maximum(np.log1p(np.exp(-np.abs(x))), LEAST)


def tanh_of_softplus(x: Array) -> Array:
    """``((1 + e^x)^2 - 1) / ((1 + e^x)^2 + 1)`` without cancellation or overflow."""
    left, right = np.exp(np.minimum(x, 0)), np.exp(-np.maximum(x, 0))
    below = left * (left + 2) / (left * (left + 2) + 2)
    above = (1 + 2 * right) / (1 + 2 * right + 2 * right * right)
    return np.maximum(np.where(x < 0, below, above), LEAST)


def mish(x: Array) -> Array:
    return x * tanh_of_softplus(x)


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu_tanh(x: Array) -> Array:
    return x * sigmoid(GELU_SCALE * (x + GELU_CUBE * x * x * x))


def gelu(x: Array) -> Array:
    """``x erfc(-x / sqrt 2) / 2``; the left tail is ``x e^(-x^2/2) erfcx(|x| / sqrt 2) / 2``."""
    size = np.abs(x)
    tail = half_gaussian(x) * erfcx(size * ROOT_HALF) / 2
    return x * np.where(x < 0, np.maximum(tail, LEAST), 1 - tail)


def half_gaussian(x: Array) -> Array:
    """``e^(-x^2/2)``: the square is split, since its rounding error is multiplied by its size."""
    x = np.minimum(np.abs(x), LONG(1e4))
    high = x * LONG(2**32 + 1)
    high = high - (high - x)
    low = x - high
    return np.exp(-high * high / 2) * np.exp(-low * (high + low / 2))


def erf(x: Array) -> Array:
    """A power series near 0 and ``1 - erfc`` elsewhere."""
    size = np.abs(x)
    small = np.minimum(size, LONG(0.5))
    square = 2 * small * small
    term = total = np.ones_like(small)
    for n in range(1, 18):
        term = term * square / (2 * n + 1)
        total = total + term
    near = 2 / ROOT_PI * small * np.exp(-small * small) * total
    far = 1 - half_gaussian(size / ROOT_HALF) * erfcx(size)
    return np.copysign(np.where(size < 0.5, near, far), x)


STEP, LAST, DEGREE = 0.125, 4.0, 22


@cache
def _erfcx_table() -> Array:
    """Taylor coefficients ``[centres, degree]``: ``w' = 2 x w - 2 / sqrt pi`` gives each from the two before it."""
    rows = []
    with mpmath.workprec(400):
        for i in range(int(LAST / STEP) + 1):
            x = mpmath.mpf(i * STEP)
            c = [mpmath.exp(x * x) * mpmath.erfc(x)]
            c.append(2 * x * c[0] - 2 / mpmath.sqrt(mpmath.pi))
            for n in range(1, DEGREE):
                c.append((2 * x * c[n] + 2 * c[n - 1]) / (n + 1))
            rows.append([longest(v) for v in c])
    return np.array(rows, dtype=LONG)


def erfcx(x: Array) -> Array:
    """``e^(x^2) erfc(x)`` for x >= 0: a table of Taylor series up to 4, a continued fraction beyond."""
    x = np.asarray(x, dtype=LONG)
    inner = np.minimum(x, LONG(LAST))
    centre = np.rint(inner / STEP).astype(int)
    distance = inner - centre * LONG(STEP)
    table = _erfcx_table()
    near = table[centre, DEGREE]
    for n in range(DEGREE - 1, -1, -1):
        near = near * distance + table[centre, n]
    outer = np.maximum(x, LONG(LAST))
    far = outer
    for n in range(40, 0, -1):
        far = outer + LONG(n) / 2 / far
    return np.where(x <= LAST, near, 1 / (far * ROOT_PI))


def exactly(x: float | np.longdouble) -> mpmath.mpf:
    """A finite long double as a multiprecision number, without rounding."""
    mantissa, exponent = np.frexp(LONG(x))
    head = float(mantissa)
    return mpmath.ldexp(mpmath.mpf(head) + mpmath.mpf(float(mantissa - LONG(head))), int(exponent))


def on_numbers(function: Callable, x: Array) -> Array:
    """A multiprecision function on an array, rounded to long doubles; slow."""
    with mpmath.workprec(200):
        return np.array([longest(function(exactly(v))) for v in np.ravel(x)], dtype=LONG).reshape(np.shape(x))
