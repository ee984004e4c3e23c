"""Linear arithmetic in comparisons: `(+ a b ..)`, `(- a)`, `(- a b ..)`, `(* a b ..)`, exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from provenn.specs._atoms import Variables
from provenn.specs._literals import exact_fraction
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens
from provenn.specs._source import Source

# A linear form: coefficient per variable (output k is k, input k is ~k), the constant under None.
Linear = dict[int | None, Fraction]


def read_expression(
    kinds: list[int],
    places: list[int],
    position: int,
    tokens: Tokens,
    variables: Variables,
    source: Source,
) -> tuple[int, Linear]:
    """Read the expression that starts at `position`: (position behind it, its linear form)."""
    stack: list[tuple[str, int, list[Linear]]] = []
    while True:
        kind, place = kinds[position], places[position]
        if kind == OPEN:
            name = tokens.word(place + 1) if kinds[position + 1] == WORD else None
            if name not in ("+", "-", "*"):
                shown = "'('" if name is None else repr(name)
                raise source.error(
                    tokens.start[place], f"unknown arithmetic operator {shown}; supported: + - *"
                )
            stack.append((name, place, []))
            position += 2
            continue
        if kind == WORD:
            value = _leaf(place, tokens, variables, source)
        elif kind == CLOSE and stack:
            name, opened, operands = stack.pop()
            if not operands:
                raise source.error(tokens.start[opened], f"({name}) is empty; give it operands")
            result = _apply(name, operands)
            if result is None:
                raise source.error(
                    tokens.start[opened], "a product of variables is not linear; not supported"
                )
            value = result
        else:
            raise source.error(tokens.start[place], "expected a number, a variable or an expression")
        position += 1
        if not stack:
            return position, value
        stack[-1][2].append(value)


def _leaf(place: int, tokens: Tokens, variables: Variables, source: Source) -> Linear:
    word = tokens.word(place)
    if word[:2] in ("X_", "Y_"):
        is_input, index = variables.read(tokens, np.array([place]), source)
        number = int(index[0])
        return {~number if is_input[0] else number: Fraction(1)}
    try:
        return {None: exact_fraction(word)}
    except ValueError as error:
        raise source.error(tokens.start[place], str(error)) from None


def _apply(name: str, operands: list[Linear]) -> Linear | None:
    """The value of an operator, None if it is not linear."""
    if name == "*":
        factor, form = Fraction(1), None
        for operand in operands:
            if set(operand) <= {None}:
                factor *= operand.get(None, Fraction(0))
            elif form is None:
                form = operand
            else:
                return None
        return {key: value * factor for key, value in (form or {None: Fraction(1)}).items()}
    signs = [1] + [1 if name == "+" else -1] * (len(operands) - 1)
    if name == "-" and len(operands) == 1:
        signs = [-1]
    total = dict(operands[0]) if signs[0] == 1 else {key: -value for key, value in operands[0].items()}
    for sign, operand in zip(signs[1:], operands[1:], strict=True):
        for key, value in operand.items():
            total[key] = total.get(key, Fraction(0)) + sign * value
    return total
