"""Comparisons with arithmetic in VNN-LIB 2: bounds of inputs, and rows over columns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from provenn.specs._atoms import LOWER, UPPER, Atoms
from provenn.specs._literals import nearest_of
from provenn.specs._polynomials import Form, Format, Monomial, Polynomial, Reader, TooLarge
from provenn.specs._programs import Program
from provenn.specs._scan import CLOSE, OPEN, WORD

_OPPOSITE = {"<=": ">=", "<": ">", ">=": "<=", ">": "<", "==": "=="}
_SIGNS = ("<=", "<", ">=", ">", "==", "=", "!=")
_LARGEST = Fraction(2) ** 1000


@dataclass(frozen=True)
class Row:
    """`sum terms <= right`, or `==` where `equal`; a checker's arithmetic may accept up to `errors` more.

    Rows of inputs only have errors: coefficients of the magnitudes of monomials, () is the constant.
    """

    terms: Polynomial
    right: Fraction
    equal: bool
    strict: bool
    errors: Polynomial
    program: Program
    offset: int


@dataclass(frozen=True)
class Bound:
    """An input's bound; `exact` as in `Atoms`, a bound with errors has been widened by them."""

    variable: int
    value: Fraction
    side: int
    strict: bool
    program: Program
    offset: int


@dataclass
class PolynomialComparisons:
    """Comparisons of VNN-LIB 2 that the flat reader leaves: arithmetic, `!=`, numbers only; see `Comparisons`.

    In the atoms, input k is the column ~k; a product of variables is the column `outputs` + its place in `monomials`.
    """

    reader: Reader
    first: int  # number of the first atom
    outputs: int  # columns that networks compute
    declaration: str = "declare-network name (declare-input ..) (declare-output ..)"
    atoms: list[Row | Bound] = field(default_factory=list)
    monomials: dict[Monomial, int] = field(default_factory=dict)
    equalities: list[tuple[int, int]] = field(default_factory=list)  # atoms of both sides where a checker rounds

    def read(self, kinds: list[int], places: list[int], position: int) -> tuple[int, list[list[int]]]:
        """Read the comparison opening at `position`; see `Comparisons`."""
        place = places[position]
        name = self.reader.tokens.word(place + 1) if kinds[position + 1] == WORD else None
        if name not in _SIGNS:
            shown = "'('" if name is None else repr(name)
            raise self._error(
                place, f"unknown operator {shown}; supported: and, or, <=, <, >=, >, ==, !="
            )
        operands, programs = [], []
        position += 2
        while kinds[position] != CLOSE:
            if kinds[position] not in (OPEN, WORD):
                raise self._error(places[position], "a formula stands where a number or variable is expected")
            position, form, steps = self.reader.read(kinds, places, position)
            operands.append(form)
            programs.append(steps)
        if len(operands) != 2:
            raise self._error(place, f"{name} takes two operands, got {len(operands)}")
        if self.reader.strict and all(set(form.size) <= {()} for form in operands):
            raise self._error(place, "compares numbers only, which has no type in the standard; remove it")
        offset = int(self.reader.tokens.start[place])

        def add(sign: str, may_split: bool = True) -> list[int]:
            program = Program(sign, programs[0], programs[1])
            try:
                found = normal(sign, operands[0], operands[1], program, offset, self.reader.format)
            except TooLarge as error:
                raise self.reader.source.unsupported(offset, str(error)) from None
            if found is None:  # an equality that a checker rounds
                pair = add("<=") + add(">=")
                self.equalities.append((pair[0], pair[1]))
                return pair
            self.atoms.append(found)
            return [self.first + len(self.atoms) - 1]

        if name == "!=":
            return position + 1, [add("<"), add(">")]
        return position + 1, [add("==" if name == "=" else name)]

    def _error(self, place: int, message: str) -> Exception:
        return self.reader.source.error(self.reader.tokens.start[place], message)

    def finish(self) -> Atoms:
        """The atoms read, in the layout of `Atoms`."""
        bound = [isinstance(atom, Bound) for atom in self.atoms]
        value, exact = np.zeros(len(bound)), np.zeros(len(bound), bool)
        start = [0]
        columns: list[int] = []
        coefficients: list[float] = []
        for number, atom in enumerate(self.atoms):
            try:
                right = atom.value if isinstance(atom, Bound) else atom.right
                value[number], exact[number] = nearest_of(right)
            except OverflowError:
                raise self.reader.source.error(atom.offset, "a number exceeds the range of float64") from None
            if isinstance(atom, Row):
                terms = sorted((self._column(key), float(factor)) for key, factor in atom.terms.items())
                columns += [column for column, _ in terms] or [0]
                coefficients += [factor for _, factor in terms] or [0.0]
            start.append(len(columns))
        rows = self.atoms
        sides = [a.side if isinstance(a, Bound) else (LOWER | UPPER if a.equal else UPPER) for a in rows]
        return Atoms(
            is_input=np.array(bound, bool),
            side=np.array(sides, np.uint8),
            strict=np.array([atom.strict for atom in rows], bool),
            variable=np.array([a.variable if isinstance(a, Bound) else -1 for a in rows], np.int32),
            value=value + 0.0,
            exact=exact,
            term_start=np.array(start, np.int64),
            column=np.array(columns, np.int32),
            coefficient=np.array(coefficients, np.float64),
            offset=np.array([atom.offset for atom in rows], np.int64),
            fractions={},
            programs={number: atom.program for number, atom in enumerate(rows)},
        )

    def _column(self, key: Monomial) -> int:
        if len(key) == 1:
            return key[0]
        return self.outputs + self.monomials.setdefault(key, len(self.monomials))


def normal(
    sign: str, left: Form, right: Form, program: Program, offset: int, format: Format
) -> Row | Bound | None:
    """`left sign right` as a bound of an input or a row; None for an equality that a checker rounds."""
    only_inputs = all(factor < 0 for form in (left, right) for key in form.size for factor in key)
    errors: Polynomial = {}
    if only_inputs:
        for form in (left, right):
            gamma = format.gamma(form.rounds)
            for key, size in form.size.items() if form.rounds else ():
                errors[key] = errors.get(key, Fraction(0)) + gamma * size
    if errors and sign == "==":
        return None
    terms = {key: left.sign * value for key, value in left.value.items()}
    for key, value in right.value.items():
        terms[key] = terms.get(key, Fraction(0)) - right.sign * value
    constant = -terms.pop((), Fraction(0))
    terms = {key: value for key, value in terms.items() if value}
    if sign in (">=", ">"):
        terms, constant = {key: -value for key, value in terms.items()}, -constant
    strict = sign in ("<", ">")
    if only_inputs and len(terms) == 1 and len(next(iter(terms))) == 1:
        bound = _bound(terms, constant, errors, sign == "==", strict, program, offset)
        if bound is not None:
            return bound
    if not terms and not errors and strict and constant <= 0:
        constant = Fraction(-1)  # 0 < 0 never holds, which 0 <= 0 would not say
    # a positive factor makes all coefficients integers: they are then exact in float64, if they have few digits
    factor = Fraction(
        math.lcm(*(value.denominator for value in terms.values())),
        math.gcd(*(value.numerator for value in terms.values())) or 1,
    )
    scaled = {key: value * factor for key, value in terms.items()}
    errors = {key: value * factor for key, value in errors.items()}
    if max((abs(value) for value in scaled.values()), default=0) >= _LARGEST:
        raise TooLarge("coefficients differ by too many orders of magnitude; rescale them")
    for key, value in scaled.items():
        nearest = Fraction(float(value))
        if nearest != value:
            if not only_inputs:
                raise TooLarge("coefficients have too many digits; write them with at most 15")
            if sign == "==":
                return None
            errors[key] = errors.get(key, Fraction(0)) + abs(nearest - value)
    return Row(scaled, constant * factor, sign == "==", strict, errors, program, offset)


def _bound(
    terms: Polynomial,
    constant: Fraction,
    errors: Polynomial,
    equal: bool,
    strict: bool,
    program: Program,
    offset: int,
) -> Bound | None:
    """`a x <= c + e |x| + e0` as a bound of x: `c' / (a - e)` where c' = c + e0 >= 0, else `c' / (a + e)` (a > 0)."""
    ((key, a),) = terms.items()
    if not set(errors) <= {key, ()}:
        return None  # what has cancelled leaves its errors
    slope, right = errors.get(key, Fraction(0)), constant + errors.get((), Fraction(0))
    if slope >= abs(a):
        return None
    value = right / (abs(a) - slope if right >= 0 else abs(a) + slope)
    side = LOWER | UPPER if equal else UPPER if a > 0 else LOWER
    return Bound(~key[0], value if a > 0 else -value, side, strict and not errors, program, offset)
