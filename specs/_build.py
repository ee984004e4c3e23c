"""Properties made in Python: linear conditions on a network's outputs, written with ordinary operators.

Numbers are taken for what they are (a float is a binary fraction) and computed with exactly until the last rounding.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np

from provenn.errors import InputError
from provenn.specs import _formula as formulas
from provenn.specs._atoms import LOWER, UPPER, Atoms
from provenn.specs._formula import Formula
from provenn.specs._query import Query
from provenn.specs._source import Source

Arrays: TypeAlias = "Any"
"""One array-like (numpy, torch, nested lists), or a tuple of them: one for every input of the network."""

_SOURCE = Source(Path("<python>"), b"")


@dataclass(frozen=True, eq=False)
class _Linear:
    """``sum factor * output[column] + constant``, exact."""

    terms: dict[int, Fraction]
    constant: Fraction

    def plus(self, other: _Linear, sign: int = 1) -> _Linear:
        terms = dict(self.terms)
        for column, factor in other.terms.items():
            terms[column] = terms.get(column, Fraction(0)) + sign * factor
        return _Linear(terms, self.constant + sign * other.constant)

    def times(self, factor: Fraction) -> _Linear:
        return _Linear({column: factor * old for column, old in self.terms.items()}, factor * self.constant)


def _number(value: Any) -> Fraction:
    """The exact value of a number of any kind."""
    if isinstance(value, numbers.Rational):
        return Fraction(value)
    try:
        return Fraction(float(value))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"a condition got {value!r}, expected finite numbers") from None


class Expression:
    """An array of linear functions of a network's outputs: index it, add, subtract, scale, sum, compare.

    A comparison is a ``Condition`` that holds if it holds for all elements, which broadcast as arrays do.

    >>> y = output(1, 3)
    >>> y[0, 0] - 2 * y[0, 1] <= 0.5
    Condition(y0 - 2 y1 <= 0.5)
    """

    __array_ufunc__ = None  # numpy leaves its operators to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, elements: np.ndarray):
        self._elements = elements

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._elements.shape)

    def __len__(self) -> int:
        return len(self._elements)

    def __iter__(self) -> Iterator[Expression]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Expression:
        try:
            return Expression(np.asarray(self._elements[index], dtype=object))
        except IndexError as error:
            raise IndexError(f"outputs of shape {list(self.shape)}: {error}") from None

    def __add__(self, other: Any) -> Expression:
        return self._with(other, lambda x, y: x.plus(y))

    def __sub__(self, other: Any) -> Expression:
        return self._with(other, lambda x, y: x.plus(y, -1))

    def __rsub__(self, other: Any) -> Expression:
        return (-self) + other

    __radd__ = __add__

    def __neg__(self) -> Expression:
        return self * -1

    def __mul__(self, factor: Any) -> Expression:
        if isinstance(factor, Expression):
            raise InputError("a condition multiplies two outputs, expected linear conditions: multiply by numbers")
        factors = _objects(factor, _number)
        return Expression(_apply(lambda x, y: x.times(y), self._elements, factors))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Expression:
        return self * _apply(lambda x: 1 / x, _objects(divisor, _number))

    def __rmatmul__(self, matrix: Any) -> Expression:
        """``matrix @ y`` with numbers ``[.., k, n]`` or ``[n]`` and a vector of n outputs."""
        if self._elements.ndim != 1:
            raise InputError(f"matrix @ y got outputs of shape {list(self.shape)}, expected a vector: index it first")
        return (self * matrix).sum(-1)

    def sum(self, axis: int | None = None) -> Expression:
        """The sum over an axis, or over all elements."""
        parts = self._elements.reshape(-1, 1) if axis is None else np.moveaxis(self._elements, axis, 0)
        total = _objects(np.zeros(parts.shape[1:]), _constant)
        for part in parts:
            total = _apply(lambda x, y: x.plus(y), total, np.asarray(part, dtype=object))
        return Expression(total.reshape(()) if axis is None else total)

    def __le__(self, other: Any) -> Condition:
        return self._compared(other, False, 1)

    def __lt__(self, other: Any) -> Condition:
        return self._compared(other, True, 1)

    def __ge__(self, other: Any) -> Condition:
        return self._compared(other, False, -1)

    def __gt__(self, other: Any) -> Condition:
        return self._compared(other, True, -1)

    def __eq__(self, other: Any) -> Condition:  # type: ignore[override]
        return self._compared(other, False, 1) & self._compared(other, False, -1)

    def __ne__(self, other: Any) -> Condition:  # type: ignore[override]
        return ~(self == other)

    def _compared(self, other: Any, strict: bool, sign: int) -> Condition:
        difference = self - other if sign > 0 else -(self - other)
        return Condition("and", tuple(Condition("row", (), one, strict) for one in difference._elements.reshape(-1)))

    def _with(self, other: Any, function: Callable[[_Linear, _Linear], _Linear]) -> Expression:
        right = other._elements if isinstance(other, Expression) else _objects(other, _constant)
        return Expression(_apply(function, self._elements, right))

    def __repr__(self) -> str:
        return f"Expression(shape={list(self.shape)})"


def _constant(value: Any) -> _Linear:
    return _Linear({}, _number(value))


def _objects(values: Any, function: Callable[[Any], Any]) -> np.ndarray:
    """An array of objects made of numbers of any kind and shape."""
    array = np.asarray(values)
    made = np.empty(array.shape, dtype=object)
    flat = made.reshape(-1)
    flat[:] = [function(value.item() if isinstance(value, np.generic) else value) for value in array.reshape(-1)]
    return flat.reshape(array.shape)


def _apply(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), dtype=object)
    except ValueError as error:
        raise InputError(f"a condition's arrays do not fit: {error}") from None


@dataclass(frozen=True, eq=False)
class Condition:
    """What may hold of outputs: comparisons joined by ``&`` (and), ``|`` (or) and ``~`` (not)."""

    kind: str
    parts: tuple[Condition, ...] = ()
    row: _Linear | None = None
    """``row <= 0``, or ``row < 0`` where it is strict."""
    strict: bool = False

    def __and__(self, other: Condition) -> Condition:
        return Condition("and", self._members("and") + _condition(other)._members("and"))

    def __or__(self, other: Condition) -> Condition:
        return Condition("or", self._members("or") + _condition(other)._members("or"))

    def _members(self, kind: str) -> tuple[Condition, ...]:
        return self.parts if self.kind == kind else (self,)

    def __invert__(self) -> Condition:
        """The opposite: of ``y <= c`` it is ``y > c``."""
        if self.kind == "row":
            assert self.row is not None
            return Condition("row", (), self.row.times(Fraction(-1)), not self.strict)
        return Condition("or" if self.kind == "and" else "and", tuple(~part for part in self.parts))

    def __bool__(self) -> NoReturn:
        raise InputError(
            "a condition is neither true nor false before it is decided: join conditions by & and |, not by and, or, "
            "not, or a chain a <= y <= b"
        )

    def __repr__(self) -> str:
        return f"Condition({self._text()})"

    def _text(self) -> str:
        if self.kind == "row":
            assert self.row is not None
            found = ((column, factor) for column, factor in sorted(self.row.terms.items()) if factor)
            terms = " + ".join(f"{_short(factor)}y{column}" for column, factor in found)
            return f"{(terms or '0').replace('+ -', '- ')} {'<' if self.strict else '<='} {float(-self.row.constant):g}"
        if len(self.parts) == 1:
            return self.parts[0]._text()
        shown = [part._text() for part in self.parts[:4]] + ["..."] * (len(self.parts) > 4)
        return "(" + f" {'&' if self.kind == 'and' else '|'} ".join(shown) + ")"


def _short(factor: Fraction) -> str:
    return "" if factor == 1 else "-" if factor == -1 else f"{float(factor):g} "


def _condition(value: Any) -> Condition:
    if not isinstance(value, Condition):
        raise InputError(f"a condition got {value!r}, expected comparisons of outputs joined by & and |")
    return value


def output(*shape: int) -> Expression:
    """The output of a network, as an array of unknowns of that shape (leading dimension included).

    Of a network with several outputs: one vector of all of them, ``output(n)``, in order, each row-major.
    """
    if not shape or not all(isinstance(n, numbers.Integral) and n > 0 for n in shape):
        raise InputError(f"output got shape {list(shape)}, expected positive whole numbers")
    size = int(np.prod(shape, dtype=np.int64))
    made = np.empty(size, dtype=object)
    made[:] = [_Linear({column: Fraction(1)}, Fraction(0)) for column in range(size)]
    return Expression(made.reshape(shape))


def all_of(conditions: Sequence[Condition]) -> Condition:
    """Holds if all do."""
    return Condition("and", tuple(_condition(one) for one in conditions))


def any_of(conditions: Sequence[Condition]) -> Condition:
    """Holds if one does."""
    return Condition("or", tuple(_condition(one) for one in conditions))


def always(condition: Condition, lower: Arrays, upper: Arrays, outputs: int | None = None) -> Query:
    """The property that ``condition`` holds for every input between ``lower`` and ``upper``.

    ``unsat`` proves it, ``sat`` comes with an input for which it does not hold. The ends have the shape of the
    network's input, one of them may be a number; tuples of arrays where there are several inputs. ``outputs`` is how
    many numbers the network gives, where the condition does not mention the last. Raises InputError.

    >>> y = output(1, 2)
    >>> always(y[0, 0] - y[0, 1] <= 0.5, lower=[[0.0, 0.0]], upper=1.0).clause_count
    1
    """
    return never(~_condition(condition), lower, upper, outputs)


def never(condition: Condition, lower: Arrays, upper: Arrays, outputs: int | None = None) -> Query:
    """The property that ``condition`` holds for no input between ``lower`` and ``upper``, as VNN-LIB states it.

    ``unsat`` proves it, ``sat`` comes with an input for which it holds. The arguments are those of ``always``.
    """
    low, high, shapes = _ends(lower, upper)
    builder = _Rows(2 * len(low))
    violation = builder.formula(_condition(condition))
    count = 1 + max(builder.columns, default=-1)
    if outputs is not None and outputs < count:
        raise InputError(f"got outputs={outputs}, expected at least {count}: the condition mentions output {count - 1}")
    atoms = builder.atoms(low, high)
    inputs = np.arange(2 * len(low))
    query = Query.build(_SOURCE, (len(low), outputs or count), "float32", atoms, inputs, [violation])
    return replace(query, input_shapes=shapes, all_outputs=outputs is not None)


def robust(
    centre: Arrays,
    label: int,
    radius: float,
    classes: int,
    within: tuple[float, float] | None = None,
    margin: float = 0.0,
) -> Query:
    """The property that no input within ``radius`` of ``centre`` in any element is classified otherwise.

    Output ``label`` of ``classes`` exceeds all others by more than ``margin``. ``within=(lowest, highest)`` is what
    elements of inputs can be. Raises InputError.

    >>> robust([[0.5, 0.2]], label=1, radius=0.1, classes=3, within=(0, 1)).clause_count
    2
    """
    if not 0 <= label < classes:
        raise InputError(f"robust got label={label!r} and classes={classes!r}, expected 0 <= label < classes")
    if not 0 <= radius < float("inf"):
        raise InputError(f"robust got radius={radius!r}, expected a finite number of at least 0")
    several = isinstance(centre, tuple)
    middles = [_array(part, "centre") for part in (centre if several else (centre,))]
    lowest, highest = within if within is not None else (-np.inf, np.inf)
    lower = tuple(np.maximum(middle - radius, lowest) for middle in middles)
    upper = tuple(np.minimum(middle + radius, highest) for middle in middles)
    y = output(classes)
    others = [other for other in range(classes) if other != label]
    wins = any_of([y[label] - y[other] <= margin for other in others])
    return never(wins, lower if several else lower[0], upper if several else upper[0], classes)


# -- how ------------------------------------------------------------------------------------------------------


def _array(value: Any, what: str) -> np.ndarray:
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} got {type(value).__name__}, expected numbers ({error})") from None
    if not np.isfinite(array).all():
        raise InputError(f"{what} holds a number that is infinite or NaN, expected finite numbers")
    return array


def _ends(lower: Arrays, upper: Arrays) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, ...], ...]]:
    """Flat ends of all inputs, and the inputs' shapes."""
    count = max(len(ends) if isinstance(ends, tuple) else 1 for ends in (lower, upper))
    sides = [list(ends) if isinstance(ends, tuple) else [ends] * count for ends in (lower, upper)]
    if len(sides[0]) != len(sides[1]):
        raise InputError(f"got {len(sides[0])} lower and {len(sides[1])} upper ends, expected one of each per input")
    lows, highs, shapes = [], [], []
    for low, high in zip(*sides, strict=True):
        low, high = _array(low, "lower"), _array(high, "upper")
        try:
            low, high = np.broadcast_arrays(low, high)
        except ValueError:
            raise InputError(
                f"got lower of shape {list(low.shape)} and upper of shape {list(high.shape)}, expected one shape"
            ) from None
        if (low > high).any():
            place = tuple(int(k) for k in np.argwhere(low > high)[0])
            raise InputError(f"got lower={low[place]!r} above upper={high[place]!r} at {list(place)}")
        lows.append(low.reshape(-1))
        highs.append(high.reshape(-1))
        shapes.append(tuple(int(n) for n in low.shape))
    return np.concatenate(lows), np.concatenate(highs), tuple(shapes)


class _Rows:
    """Collects the rows of a condition as atoms, numbered from ``first``: behind two bounds for every input."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.rows: list[tuple[_Linear, bool]] = []
        self.columns: set[int] = set()

    def formula(self, condition: Condition) -> Formula:
        """The condition as a formula of its rows' numbers."""
        if condition.kind == "row":
            return formulas.conjunction([self._row(condition)])
        if not condition.parts:
            raise InputError("a condition of no comparisons: name at least one")
        if all(part.kind == "row" for part in condition.parts):
            found = np.array([self._row(part) for part in condition.parts], np.int32)
            if condition.kind == "and":
                return formulas.conjunction(found)
            return formulas.Table(np.arange(len(found) + 1), found)
        parts = [self.formula(part) for part in condition.parts]
        return (formulas.product if condition.kind == "and" else formulas.alternatives)(parts)

    def _row(self, condition: Condition) -> int:
        row = condition.row
        assert row is not None
        row = _Linear({column: factor for column, factor in row.terms.items() if factor}, row.constant)
        if not row.terms:
            raise InputError(f"{condition!r} compares numbers only, no output: leave it out")
        self.columns.update(row.terms)
        self.rows.append((row, condition.strict))
        return self.first + len(self.rows) - 1

    def atoms(self, lower: np.ndarray, upper: np.ndarray) -> Atoms:
        """Bounds of all inputs, lower then upper, then the rows."""
        inputs, rows = 2 * len(lower), len(self.rows)
        sizes = [0] * inputs + [len(row.terms) for row, _ in self.rows]
        columns = [column for row, _ in self.rows for column in sorted(row.terms)]
        factors = [row.terms[column] for row, _ in self.rows for column in sorted(row.terms)]
        exact = [-row.constant for row, _ in self.rows]
        nearest = np.array([_nearest(value) for value in exact])
        same = np.array([Fraction(value) == e for value, e in zip(nearest.tolist(), exact, strict=True)], bool)
        both = np.arange(len(lower))
        return Atoms(
            is_input=np.arange(inputs + rows) < inputs,
            side=np.concatenate([np.full(len(lower), LOWER), np.full(len(upper) + rows, UPPER)]).astype(np.uint8),
            strict=np.concatenate([np.zeros(inputs, bool), np.array([strict for _, strict in self.rows], bool)]),
            variable=np.concatenate([both, both, np.full(rows, -1)]).astype(np.int32),
            value=np.concatenate([lower, upper, nearest]) + 0.0,
            exact=np.concatenate([np.ones(inputs, bool), same]),
            term_start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            column=np.array(columns, np.int32),
            coefficient=np.array([_exactly(factor) for factor in factors]),
            offset=np.zeros(inputs + rows, np.int64),
            fractions={inputs + k: value for k, value in enumerate(exact) if not same[k]},
        )


def _nearest(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InputError("a condition holds a number beyond the range of float64") from None


def _exactly(factor: Fraction) -> float:
    found = _nearest(factor)
    if Fraction(found) != factor:
        raise InputError(
            f"a condition multiplies an output by about {found!r}, a product that float64 does not hold exactly: "
            "write it as one number"
        )
    return found


