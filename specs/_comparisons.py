"""Comparisons with arithmetic in VNN-LIB 1.0, exact."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from provenn.specs._arithmetic import read_expression
from provenn.specs._atoms import EQ, GE, GT, LE, LOWER, LT, OPERATIONS, UPPER, Atoms, Variables
from provenn.specs._literals import nearest_of
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens
from provenn.specs._source import Source


class LinearComparisons:
    """Comparisons of VNN-LIB 1.0: of one input and numbers, or linear in outputs."""

    declaration = "declare-const X_0 Real"

    def __init__(self, first: int, tokens: Tokens, variables: Variables, source: Source):
        """first: the number of the first atom."""
        self.first, self.tokens, self.variables, self.source = first, tokens, variables, source
        self.rows: list[tuple] = []

    def read(self, kinds: list[int], places: list[int], position: int) -> tuple[int, list[list[int]]]:
        """Read the comparison opening at `position`; see `Comparisons`."""
        place = places[position]
        name = self.tokens.word(place + 1) if kinds[position + 1] == WORD else None
        if name not in OPERATIONS:
            shown = "'('" if name is None else repr(name)
            raise self._error(place, f"unknown operator {shown}; supported: and, or, <=, <, >=, >, =, ==")
        operands: list[dict[int | None, Fraction]] = []
        position += 2
        while kinds[position] != CLOSE:
            if kinds[position] not in (OPEN, WORD):
                raise self._error(places[position], "a formula stands where a number or variable is expected")
            position, operand = read_expression(
                kinds, places, position, self.tokens, self.variables, self.source
            )
            operands.append(operand)
        if len(operands) != 2:
            raise self._error(place, f"{name} takes two operands, got {len(operands)}")
        self.rows.append(self._normal(OPERATIONS[name], operands[0], operands[1], place))
        return position + 1, [[self.first + len(self.rows) - 1]]

    def _error(self, place: int, message: str) -> Exception:
        return self.source.error(self.tokens.start[place], message)

    def _normal(self, operation: int, left: dict, right: dict, place: int) -> tuple:
        """(is input, side, strict, variable, right side, columns, coefficients, offset) of left op right."""
        terms = dict(left)
        for key, value in right.items():
            terms[key] = terms.get(key, Fraction(0)) - value
        constant = -terms.pop(None, Fraction(0))
        if not terms:
            raise self._error(place, "compares two numbers; expected a variable on one side")
        inputs = [key for key in terms if key < 0]  # inputs are ~index, outputs index
        strict = operation in (LT, GT)
        offset = int(self.tokens.start[place])
        if inputs:
            if len(terms) > 1 or not terms[inputs[0]]:
                raise self._error(
                    place,
                    "relates an input to another variable; supported: an input and a number, "
                    "or outputs and numbers",
                )
            factor = terms[inputs[0]]
            upper = (operation in (LE, LT)) == (factor > 0)
            side = LOWER | UPPER if operation == EQ else UPPER if upper else LOWER
            return True, side, strict, ~inputs[0], constant / factor, [], [], offset
        if operation in (GE, GT):
            terms, constant = {key: -value for key, value in terms.items()}, -constant
        # a positive factor makes all coefficients integers: they are then exact in float64
        factor = Fraction(
            math.lcm(*(value.denominator for value in terms.values())),
            math.gcd(*(value.numerator for value in terms.values())) or 1,
        )
        columns = sorted(terms)
        coefficients = [terms[column] * factor for column in columns]
        if any(abs(value) >= 2**1000 or Fraction(float(value)) != value for value in coefficients):
            raise self._error(place, "coefficients have too many digits; write them with at most 15")
        side = LOWER | UPPER if operation == EQ else UPPER
        return False, side, strict, -1, constant * factor, columns, [float(v) for v in coefficients], offset

    def finish(self) -> Atoms:
        """The atoms read, in the layout of `Atoms`."""
        value, exact = np.zeros(len(self.rows)), np.zeros(len(self.rows), bool)
        for number, row in enumerate(self.rows):
            try:
                value[number], exact[number] = nearest_of(row[4])
            except OverflowError:
                raise self.source.error(row[7], "a number exceeds the range of float64") from None
        column = [c for row in self.rows for c in row[5]]
        return Atoms(
            is_input=np.array([row[0] for row in self.rows], bool),
            side=np.array([row[1] for row in self.rows], np.uint8),
            strict=np.array([row[2] for row in self.rows], bool),
            variable=np.array([row[3] for row in self.rows], np.int32),
            value=value,
            exact=exact,
            term_start=np.concatenate([[0], np.cumsum([len(row[5]) for row in self.rows])]).astype(np.int64),
            column=np.array(column, np.int32),
            coefficient=np.array([c for row in self.rows for c in row[6]], np.float64),
            offset=np.array([row[7] for row in self.rows], np.int64),
            fractions={n: row[4] for n, row in enumerate(self.rows) if not row[0]},
        )
