"""Comparisons as a checker computes them: in the element type, in the order in which they are written.

The competition's checker holds variables as numpy scalars of the element type and literals as Python numbers, so
literals among themselves are computed in float64 and rounded where they meet a variable. The standard computes them in
the element type too. What holds only by one of the two is no witness here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

INPUT, OUTPUT, NUMBER, NEGATE, ADD, SUBTRACT, MULTIPLY = range(7)
Step = tuple[int, Any]  # a variable's flat index, a Fraction, or an operator's number of operands

_BINARY = {ADD: operator.add, SUBTRACT: operator.sub, MULTIPLY: operator.mul}
_COMPARE = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq}


@dataclass(frozen=True)
class Program:
    """`left comparison right`; both sides in postfix notation, operators are left associative."""

    comparison: str  # of _COMPARE
    left: tuple[Step, ...]
    right: tuple[Step, ...]

    def holds(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether it holds at flat inputs and outputs in the element type; False where a number is not finite."""
        return all(self._compare(x, y, in_type) for in_type in (False, True))

    def holds_exactly(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether it holds for real numbers."""

        def value(step: Step) -> Fraction:
            kind, of = step
            return of if kind == NUMBER else Fraction(float(x[of] if kind == INPUT else y[of]))

        left, right = (run(side, value, _exact) for side in (self.left, self.right))
        return bool(_COMPARE[self.comparison](left, right))

    def _compare(self, x: np.ndarray, y: np.ndarray, in_type: bool) -> bool:
        element = x.dtype.type

        def value(step: Step) -> Any:
            kind, of = step
            if kind == NUMBER:
                return element(float(of)) if in_type else float(of)
            return x[of] if kind == INPUT else y[of]

        def apply(kind: int, first: Any, second: Any) -> Any:
            if type(first) is not type(second):  # a literal meets a variable
                first, second = element(first), element(second)
            return _BINARY[kind](first, second)

        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            left, right = (run(side, value, apply) for side in (self.left, self.right))
            if not (type(left) is float and type(right) is float):
                left, right = element(left), element(right)
        return bool(np.isfinite(left) and np.isfinite(right) and _COMPARE[self.comparison](left, right))


def _exact(kind: int, first: Fraction, second: Fraction) -> Fraction:
    return _BINARY[kind](first, second)


def run(steps: tuple[Step, ...], value: Callable[[Step], Any], apply: Callable[[int, Any, Any], Any]) -> Any:
    """The value of steps, given those of leaves and what an operator makes of two operands."""
    stack: list[Any] = []
    for step in steps:
        kind, count = step
        if kind < NEGATE:
            stack.append(value(step))
        elif kind == NEGATE:
            stack[-1] = -stack[-1]
        else:
            operands = stack[-count:]
            del stack[-count:]
            result = operands[0]
            for operand in operands[1:]:
                result = apply(kind, result, operand)
            stack.append(result)
    return stack[0]
