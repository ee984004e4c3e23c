"""Arithmetic of VNN-LIB 2 as exact polynomials, each with what rounding could add to it.

Let an expression be computed in a format of unit roundoff u and smallest normal number t. Every monomial of its exact
value is then multiplied by at most `rounds` factors 1 + d, |d| <= u (a sum of n adds n - 1 to those of its operands, a
product its factors' and n - 1), and a product may lose at most u t to underflow. So

    |computed - exact| <= gamma * size,    gamma = rounds u / (1 - rounds u),

where `size` is the same polynomial with all its coefficients made positive before anything cancels, and with t added at
every product (Higham, Accuracy and Stability of Numerical Algorithms, section 3). Products with a power of two of at
least 1 are exact, and so are signs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from provenn.specs._elements import Elements
from provenn.specs._literals import exact_fraction
from provenn.specs._programs import ADD, INPUT, MULTIPLY, NEGATE, NUMBER, OUTPUT, SUBTRACT, Step
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens
from provenn.specs._source import Source

# A product of variables, sorted: input k is ~k, output k is k; () is the constant.
Monomial = tuple[int, ...]
Polynomial = dict[Monomial, Fraction]

_ONE = Fraction(1)
_DEGREE = 32
_WORK = 4_000_000  # additions of coefficients per property
_BITS = 1 << 13  # of a coefficient


class TooLarge(Exception):
    """An expression grows beyond what can be worked with."""


@dataclass
class Form:
    """An expression: its exact value is `sign` times `value`; with coefficients made positive, its size; see above."""

    value: Polynomial
    size: Polynomial
    rounds: int = 0
    sign: int = 1  # so that nested differences take no squares


@dataclass(frozen=True)
class Format:
    """The format in which a checker computes."""

    unit: Fraction  # roundoff
    smallest: Fraction  # normal number
    element: np.dtype

    @staticmethod
    def of(element_type: str) -> Format:
        information = np.finfo(element_type)
        return Format(
            Fraction(1, 2 ** (information.nmant + 1)),
            Fraction(float(information.smallest_normal)),
            np.dtype(element_type),
        )

    def number(self, value: Fraction) -> Form:
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(self.element.type(float(value)))
        exact = np.isfinite(rounded) and Fraction(rounded) == value
        return Form({(): value}, {(): abs(value) + (0 if exact else self.smallest)}, 0 if exact else 1)

    def gamma(self, rounds: int) -> Fraction:
        """The relative error of so many roundings."""
        if rounds * self.unit >= Fraction(1, 2):
            raise TooLarge(f"{rounds} roundings in {self.element} leave no digit; write a shorter expression")
        return rounds * self.unit / (1 - rounds * self.unit)


@dataclass
class Reader:
    """Reads expressions of one property; counts the work that they make, so that no text of a few lines takes hours."""

    tokens: Tokens
    elements: Elements
    source: Source
    format: Format
    strict: bool = False
    work: int = field(default=0, init=False)
    _numbers: dict[str, Form] = field(default_factory=dict, init=False)

    def read(self, kinds: list[int], places: list[int], position: int) -> tuple[int, Form, tuple[Step, ...]]:
        """Read the expression that starts at `position`: (position behind it, its form, its steps in postfix)."""
        stack: list[tuple[str, int, list[Form]]] = []
        steps: list[Step] = []
        while True:
            kind, place = kinds[position], places[position]
            if kind == OPEN:
                name = self.tokens.word(place + 1) if kinds[position + 1] == WORD else None
                if name not in ("+", "-", "*"):
                    shown = "'('" if name is None else repr(name)
                    raise self._error(place, f"unknown arithmetic operator {shown}; supported: + - *")
                stack.append((name, place, []))
                position += 2
                continue
            if kind == WORD:
                form, step = self._leaf(place)
                steps.append(step)
            elif kind == CLOSE and stack:
                name, opened, operands = stack.pop()
                if not operands:
                    raise self._error(opened, f"({name}) is empty; give it operands")
                try:
                    form = self._apply(name, operands)
                except TooLarge as error:
                    raise self.source.unsupported(self.tokens.start[opened], str(error)) from None
                steps.append(_step(name, len(operands)))
            else:
                raise self._error(place, "expected a number, a variable or an expression")
            position += 1
            if not stack:
                return position, form, tuple(steps)
            stack[-1][2].append(form)

    def _error(self, place: int, message: str) -> Exception:
        return self.source.error(self.tokens.start[place], message)

    def _leaf(self, place: int) -> tuple[Form, Step]:
        first = self.tokens.text[self.tokens.start[place]]
        if first >= ord("A") and first != ord("_"):
            is_input, number = self.elements.one(self.tokens, place, self.source)
            key = (~number if is_input else number,)
            return Form({key: _ONE}, {key: _ONE}), (INPUT if is_input else OUTPUT, number)
        word = self.tokens.word(place)
        form = self._numbers.get(word)
        if form is None:
            form = self._numbers[word] = self._number(word, place)
        return Form(dict(form.value), dict(form.size), form.rounds), (NUMBER, form.value[()])

    def _number(self, word: str, place: int) -> Form:
        try:
            value = exact_fraction(word)
            float(value)
        except ValueError as error:
            raise self._error(place, str(error)) from None
        except OverflowError:
            raise self._error(place, "a number exceeds the range of float64; write a smaller one") from None
        return self.format.number(value)

    def _apply(self, name: str, operands: list[Form]) -> Form:
        if name == "*":
            return self._product(operands)
        rounds = max(operand.rounds for operand in operands) + len(operands) - 1
        if name == "-" and len(operands) == 1:
            return Form(operands[0].value, operands[0].size, rounds, -operands[0].sign)
        other = 1 if name == "+" else -1
        signs = [operand.sign * (other if number else 1) for number, operand in enumerate(operands)]
        value, sign = self._sum([operand.value for operand in operands], signs)
        size, _ = self._sum([operand.size for operand in operands], [1] * len(operands))
        return Form(value, size, rounds, sign)

    def _sum(self, terms: list[Polynomial], signs: list[int]) -> tuple[Polynomial, int]:
        """The sum and its sign. The operands are used up: the others are added to the longest."""
        longest = max(range(len(terms)), key=lambda i: len(terms[i]))
        total = terms[longest]
        for number, (polynomial, sign) in enumerate(zip(terms, signs, strict=True)):
            if number != longest:
                self._count(len(polynomial))
                for key, coefficient in polynomial.items():
                    known = total.get(key)
                    signed = coefficient if sign == signs[longest] else -coefficient
                    total[key] = signed if known is None else _checked(known + signed)
        return total, signs[longest]

    def _scaled(self, polynomial: Polynomial, factor: Fraction) -> Polynomial:
        if factor == 1:
            return polynomial
        self._count(len(polynomial))
        return {key: factor if c is _ONE else _checked(c * factor) for key, c in polynomial.items()}

    def _product(self, operands: list[Form]) -> Form:
        total = operands[0]
        for operand in operands[1:]:
            exact = _shift(total) or _shift(operand)
            value = self._times(total.value, operand.value)
            size = self._times(total.size, operand.size)
            if not exact:
                size[()] = size.get((), Fraction(0)) + self.format.smallest
            total = Form(value, size, total.rounds + operand.rounds + (not exact), total.sign * operand.sign)
        return total

    def _times(self, first: Polynomial, second: Polynomial) -> Polynomial:
        for one, other in ((first, second), (second, first)):
            if set(one) <= {()}:
                return self._scaled(other, one.get((), Fraction(0)))
        result: Polynomial = {}
        self._count(64 * len(first) * len(second))
        for left, a in first.items():
            for right, b in second.items():
                key = tuple(sorted(left + right))
                if len(key) > _DEGREE:
                    raise TooLarge(f"a product of more than {_DEGREE} variables is not supported; write a lower power")
                result[key] = _checked(result.get(key, Fraction(0)) + a * b)
        return result

    def _count(self, work: int) -> None:
        self.work += work
        if self.work > _WORK:
            raise TooLarge("the arithmetic multiplies out to too many terms; write shorter expressions")


def _shift(form: Form) -> bool:
    """Whether it is a number by which a format multiplies exactly: 0, or a power of two of at least 1."""
    if form.rounds or not set(form.value) <= {()}:
        return False
    number = abs(form.value.get((), Fraction(0)))
    return number.denominator == 1 and number.numerator & (number.numerator - 1) == 0


def _step(name: str, count: int) -> Step:
    if name == "-" and count == 1:
        return NEGATE, 1
    return {"+": ADD, "-": SUBTRACT, "*": MULTIPLY}[name], count


def _checked(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > _BITS or value.denominator.bit_length() > _BITS:
        raise TooLarge("numbers with too many digits; write shorter ones")
    return value
