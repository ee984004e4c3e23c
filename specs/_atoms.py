"""Comparisons of a property as flat arrays, and the vectorised reader of the usual ones."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from provenn.specs._literals import LiteralError, read_literals
from provenn.specs._programs import Program
from provenn.specs._scan import Tokens
from provenn.specs._source import Source

LOWER, UPPER = 1, 2  # sides of an input bound, as flags; an equality has both
LE, LT, GE, GT, EQ = 0, 1, 2, 3, 4
OPERATIONS = {"<=": LE, "<": LT, ">=": GE, ">": GT, "=": EQ, "==": EQ}
FLIPPED = np.array([GE, GT, LE, LT, EQ])


@dataclass(frozen=True, eq=False)
class Atoms:
    """n comparisons, each a bound on one input or a row on the outputs.

    Input bound: `variable` compares with `value` on `side` (flags LOWER, UPPER).
    Output row: `sum coefficient * y[column] <= value` over the terms `term_start[a]:term_start[a+1]`; both
    ways if `side` is LOWER | UPPER. `value` is the float64 nearest to the exact number, `exact` says whether
    it is that number. `strict`: the comparison excludes equality (ignored for proofs, kept for witnesses).
    `fractions`: exact right sides of rows written with arithmetic. `programs`: what such a comparison computes
    in VNN-LIB 2, where arithmetic is that of the element type.
    """

    is_input: np.ndarray  # bool [n]
    side: np.ndarray  # uint8 [n]
    strict: np.ndarray  # bool [n]
    variable: np.ndarray  # int32 [n], -1 for rows
    value: np.ndarray  # float64 [n]
    exact: np.ndarray  # bool [n]
    term_start: np.ndarray  # int64 [n + 1]
    column: np.ndarray  # int32 [terms]
    coefficient: np.ndarray  # float64 [terms]
    offset: np.ndarray  # [n] byte offset in the source
    fractions: dict[int, Fraction]
    programs: dict[int, Program] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.side)


def join(first: Atoms, second: Atoms) -> Atoms:
    """The atoms of `first`, then those of `second`."""
    if not len(second):
        return first
    parts: dict[str, Any] = {}
    for name in (each.name for each in fields(Atoms)):
        left, right = getattr(first, name), getattr(second, name)
        if name == "term_start":
            parts[name] = np.concatenate([left, right[1:] + left[-1]])
        elif name in ("fractions", "programs"):
            parts[name] = left | {atom + len(first): value for atom, value in right.items()}
        else:
            parts[name] = np.concatenate([left, right])
    return Atoms(**parts)


class Variables(Protocol):
    """The variables of a dialect: which token is which."""

    relates: bool  # whether a comparison may be about inputs and other variables

    def read(self, tokens: Tokens, which: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """(is an input: bool [n], flat index: int64 [n]) of tokens; PropertyError at the first that is none."""
        ...


class Numbered:
    """X_k and Y_k of VNN-LIB 1.0."""

    relates = False

    def __init__(self, counts: tuple[int, int]):
        """counts: declared inputs and outputs."""
        self.counts = counts

    def read(self, tokens: Tokens, which: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
        is_input, index = read_variables(tokens, which, source)
        wrong = np.flatnonzero(index >= np.where(is_input, *self.counts))
        if wrong.size:
            token, about_input = int(which[wrong[0]]), bool(is_input[wrong[0]])
            letter, count = ("X", self.counts[0]) if about_input else ("Y", self.counts[1])
            declared = f"{letter}_0 to {letter}_{count - 1} are" if count else f"no {letter} is"
            raise source.error(
                tokens.start[token],
                f"{tokens.word(token)} is not declared ({declared}); declare it or mend the index",
            )
        return is_input, index


def read_variables(tokens: Tokens, which: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """(is an input: bool [n], index: int64 [n]) of tokens spelling X_k or Y_k."""
    long = np.flatnonzero(tokens.length(which) > 11)
    if long.size:
        raise source.error(tokens.start[which[long[0]]], "expected a variable X_k or Y_k; mend the name")
    characters = tokens.characters(which)
    length = tokens.length(which)
    is_input = characters[:, 0] == ord("X")
    fits = (is_input | (characters[:, 0] == ord("Y"))) & (length > 2)
    if characters.shape[1] > 1:
        fits &= characters[:, 1] == ord("_")
    index = np.zeros(len(which), np.int64)
    for column in range(2, characters.shape[1]):
        digit = characters[:, column].astype(np.int64) - ord("0")
        inside = length > column
        fits &= ~inside | ((digit >= 0) & (digit <= 9))
        index = np.where(inside, index * 10 + digit, index)
    wrong = np.flatnonzero(~fits)
    if wrong.size:
        raise source.error(tokens.start[which[wrong[0]]], "expected a variable X_k or Y_k; mend the name")
    return is_input, index


def operations(tokens: Tokens, which: np.ndarray) -> np.ndarray:
    """int8 [n]: LE, LT, GE, GT or EQ for tokens that are comparison signs, -1 for others."""
    code = np.full(len(which), -1, np.int8)
    length = tokens.length(which)
    first = tokens.text[tokens.start[which]]
    second = tokens.text[tokens.start[which] + 1]
    one, two = length == 1, (length == 2) & (second == ord("="))
    code[two & (first == ord("<"))] = LE
    code[one & (first == ord("<"))] = LT
    code[two & (first == ord(">"))] = GE
    code[one & (first == ord(">"))] = GT
    code[(one | two) & (first == ord("="))] = EQ
    return code


def read_atoms(
    tokens: Tokens, opening: np.ndarray, operation: np.ndarray, variables: Variables, source: Source
) -> Atoms:
    """Atoms `( op a b )` whose operands are a variable or a number.

    opening: tokens of the parentheses; operation: their codes. A comparison of an input with another variable, where
    the dialect has those, is a row in which input k is the column ~k.
    """
    left, right = opening + 2, opening + 3
    is_variable = [starts_as_variable(tokens, side) for side in (left, right)]
    is_input = [np.zeros(len(opening), bool) for _ in range(2)]
    index = [np.zeros(len(opening), np.int64) for _ in range(2)]
    for end, which in enumerate((left, right)):
        here = np.flatnonzero(is_variable[end])
        is_input[end][here], index[end][here] = variables.read(tokens, which[here], source)
    value, exact = np.zeros(len(opening)), np.ones(len(opening), bool)
    number_left, number_right = ~is_variable[0] & is_variable[1], is_variable[0] & ~is_variable[1]
    _check_shapes(tokens, opening, is_variable, is_input, variables, source)
    try:
        for numeric, which in ((number_left, left), (number_right, right)):
            here = np.flatnonzero(numeric)
            value[here], exact[here] = read_literals(tokens, which[here])
    except LiteralError as error:
        raise source.error(tokens.start[error.token], str(error)) from None

    operation = np.where(number_left, FLIPPED[operation], operation)
    both = is_variable[0] & is_variable[1]
    bound_input = np.where(number_left, is_input[1], is_input[0]) & ~both
    index = [np.where(both & kind, ~number, number) for kind, number in zip(is_input, index, strict=True)]
    variable = np.where(number_left, index[1], index[0])
    greater = (operation == GE) | (operation == GT)
    equal = operation == EQ
    sign = np.where(greater, -1.0, 1.0)
    side = np.where(greater & bound_input, LOWER, UPPER).astype(np.uint8)
    side[equal] = LOWER | UPPER
    term_count = np.where(bound_input, 0, np.where(both, 2, 1))
    term_start = np.concatenate([[0], np.cumsum(term_count)])
    column = np.zeros(term_start[-1], np.int32)
    coefficient = np.zeros(term_start[-1])
    row = ~bound_input
    column[term_start[:-1][row]] = variable[row]
    coefficient[term_start[:-1][row]] = sign[row]
    second = term_start[:-1][both] + 1
    column[second] = index[1][both]
    coefficient[second] = -sign[both]
    same = np.flatnonzero(both & (index[0] == index[1]))  # Y_i <= Y_i: its terms cancel
    coefficient[term_start[same]] = coefficient[term_start[same] + 1] = 0.0
    strict = (operation == LT) | (operation == GT)
    right = np.where(row & greater, -value, value)
    if variables.relates:
        right[same] = np.where(strict[same], -1.0, 0.0)  # Y_i < Y_i never holds, which 0 <= 0 would not say
    return Atoms(
        is_input=bound_input,
        side=side,
        strict=strict,
        variable=np.where(bound_input, variable, -1).astype(np.int32),
        value=right + 0.0,
        exact=exact,
        term_start=term_start,
        column=column,
        coefficient=coefficient,
        offset=tokens.start[opening],
        fractions={},
    )


def starts_as_variable(tokens: Tokens, which: np.ndarray) -> np.ndarray:
    """bool [n]: which tokens start with a letter; numbers start with a digit, sign or point."""
    first = tokens.text[tokens.start[which]]
    return (first >= ord("A")) & (first != ord("_"))


def _check_shapes(
    tokens: Tokens,
    opening: np.ndarray,
    is_variable: list,
    is_input: list,
    variables: Variables,
    source: Source,
) -> None:
    neither = ~is_variable[0] & ~is_variable[1]
    related = is_variable[0] & is_variable[1] & (is_input[0] | is_input[1])
    wrong = np.flatnonzero(neither | (related & (not variables.relates)))
    if not wrong.size:
        return
    first = wrong[0]
    if neither[first]:
        message = "compares two numbers; expected a variable on one side"
    else:
        message = (
            "relates an input to another variable; supported: an input and a number, or outputs and numbers"
        )
    raise source.error(tokens.start[opening[first]], message)
