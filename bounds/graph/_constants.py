"""Constants during import: what the file stores, and arithmetic on it that knows its own rounding error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_UP = 1.0 + 2.0**-40
"""Pays for the roundings made in computing a radius itself."""
_EXACT = 2**53
"""Largest size up to which float64 holds every integer."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant tensor.

    ``array`` has the element type and the value that a runtime would compute; shape arithmetic and casts
    to integers use it. ``real`` (float64, only after arithmetic on floats, or for integers that float64 cannot hold) is
    the value as a real number, up to ``radius`` (absolute, same shape); None means that ``array`` is exact.
    """

    array: np.ndarray
    real: np.ndarray | None = None
    radius: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.real is not None or self.array.dtype.kind not in "iu" or self.array.dtype.itemsize < 8:
            return
        if self.array.size and max(int(self.array.max()), -int(self.array.min())) > _EXACT:
            real = self.array.astype(np.float64)
            object.__setattr__(self, "real", real)
            object.__setattr__(self, "radius", np.abs(real) * 2.0**-53)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def scalar_type(self) -> str:
        return self.array.dtype.name

    @property
    def value(self) -> np.ndarray:
        """The real value as float64, or as float32 where the file stores that and it is exact."""
        if self.real is not None:
            return self.real
        return self.array if self.array.dtype.kind == "f" else self.array.astype(np.float64)

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Constant:
        """Apply a function that only moves elements."""
        return Constant(
            function(self.array),
            None if self.real is None else function(self.real),
            None if self.radius is None else function(self.radius),
        )


def _result(array: np.ndarray, real: np.ndarray, radius: np.ndarray) -> Constant:
    radius = np.asarray(radius, dtype=np.float64)
    return Constant(array, np.asarray(real, dtype=np.float64), radius if radius.any() else None)


def _parts(constant: Constant) -> tuple[np.ndarray, np.ndarray | float]:
    return constant.value.astype(np.float64), 0.0 if constant.radius is None else constant.radius


def sum_error(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Exact error of ``total = a + b`` (Knuth's TwoSum)."""
    part = total - a
    return (a - (total - part)) + (b - part)


def _product_error(a: np.ndarray, b: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Exact error of ``product = a * b`` (Dekker's TwoProduct) away from overflow and underflow."""

    def split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scaled = x * 134217729.0
        high = scaled - (scaled - x)
        return high, x - high

    a_high, a_low = split(a)
    b_high, b_low = split(b)
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def add(x: Constant, y: Constant) -> Constant:
    """Sum with the radius of its error; zero (None) where float64 holds the sum exactly."""
    (a, ra), (b, rb) = _parts(x), _parts(y)
    with np.errstate(all="ignore"):
        total = a + b
        radius = (np.abs(sum_error(a, b, total)) + ra + rb) * _UP
        return _result(x.array + y.array, total, radius)


def negate(x: Constant) -> Constant:
    """Minus the real number, in a type that holds it: an unsigned one has no negative numbers."""
    array = x.array
    if array.dtype.kind in "iub":
        large = array.size and int(array.max()) > np.iinfo(np.int64).max
        array = x.value if large or (array == np.iinfo(np.int64).min).any() else array.astype(np.int64)
    return Constant(-array, None if x.real is None else -x.real, x.radius)


def subtract(x: Constant, y: Constant) -> Constant:
    return add(x, negate(y))


def multiply(x: Constant, y: Constant) -> Constant:
    """Product with the radius of its error; products of two float32 values are exact."""
    (a, ra), (b, rb) = _parts(x), _parts(y)
    with np.errstate(all="ignore"):
        product = a * b
        own = np.abs(_product_error(a, b, product))
        # Where the error term itself may underflow or the splitting overflows, the plain bound holds.
        size = np.abs(product)
        own = np.where(
            (size > 1e-250) & (np.maximum(np.abs(a), np.abs(b)) < 1e250), own, size * 2.0**-53 + 1e-320
        )
        own = np.where((a == 0) | (b == 0), 0.0, own)
        radius = (own + np.abs(a) * rb + np.abs(b) * ra + np.asarray(ra) * rb) * _UP
        # The terms of an operand's radius may underflow; nothing times 0 is more than 0.
        inexact = ((np.asarray(ra) > 0) & ((b != 0) | (np.asarray(rb) > 0))) | ((np.asarray(rb) > 0) & (a != 0))
        radius = np.where(inexact, radius + 1e-320, radius)
        return _result(x.array * y.array, product, radius)


def divide(x: Constant, y: Constant) -> Constant:
    """Quotient with the radius of its error: exact residual over divisor, plus what the operands' radii do."""
    (a, ra), (b, rb) = _parts(x), _parts(y)
    with np.errstate(all="ignore"):
        quotient = a / b
        product = quotient * b
        residual = np.abs((a - product) - _product_error(quotient, b, product))
        smallest = np.abs(b) - rb
        radius = (residual + ra + np.abs(quotient) * rb) / smallest * _UP
        size = np.abs(quotient)
        safe = (size > 1e-200) & (size < 1e200) & (np.abs(b) > 1e-100) & (np.abs(b) < 1e100) & (smallest > 0)
        plain = size * 2.0**-52 + (ra + size * rb) / smallest + 1e-300
        radius = np.where(smallest > 0, np.where(safe | (a == 0), radius, plain), np.inf)
        return _result(x.array / y.array, quotient, radius)


def square_root(x: Constant) -> Constant:
    """Root with the radius of its error: half the relative radius of x plus one rounding."""
    a, ra = _parts(x)
    with np.errstate(all="ignore"):
        root = np.sqrt(a)
        exact = (root * root == a) & (_product_error(root, root, root * root) == 0) & ((a == 0) | (a > 1e-250))
        lowest = np.sqrt(np.maximum(a - ra, 0.0))
        spread = np.where(np.asarray(ra) > 0, ra / np.maximum(lowest, np.finfo(np.float64).tiny), 0.0)
        radius = (np.where(exact, 0.0, root * 2.0**-53) + spread) * _UP
        return _result(np.sqrt(x.array), root, radius)


def scalar(value: float) -> Constant:
    """An exact float64 number."""
    return Constant(np.asarray(value, dtype=np.float64))
