"""Decimal literals: their nearest float64, whether that is exact, and outward rounding.

A literal `d` is kept as the pair (nearest float64 `f`, is `f == d`). That is enough to round outwards to the
element type of the network, because rounding is monotone: with `r` the element type's value nearest to `f`,
`r > f` implies `r > d`, and `r <= f` leaves `d` at most half an ulp above `f`.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation, Overflow
from fractions import Fraction

import numpy as np

from provenn.specs._scan import Tokens

_CHUNK = 1 << 17
_ALLOWED = np.zeros(256, bool)
_ALLOWED[[ord(c) for c in "0123456789+-.eE\0"]] = True
_TENS, _FIVES = 10.0 ** np.arange(16), 5.0 ** np.arange(16)
_WIDTH = 40  # longer literals are rare and go one by one


class LiteralError(Exception):
    """`token` is not a decimal number, or not a finite float64."""

    def __init__(self, token: int, message: str):
        super().__init__(message)
        self.token = token


def read_literals(tokens: Tokens, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(nearest float64 [n], exact bool [n]) of the literals at tokens `which` [n].

    Raises LiteralError at the first token that is no finite decimal number.
    """
    nearest, exact = np.empty(len(which)), np.zeros(len(which), bool)
    known: dict[bytes, bool] = {}
    for begin in range(0, len(which), _CHUNK):
        part = which[begin : begin + _CHUNK]
        short = tokens.length(part) <= _WIDTH
        if short.any():
            here = begin + np.flatnonzero(short)
            nearest[here], exact[here] = _read_short(tokens, which[here], known)
        for position in np.flatnonzero(~short):
            text = tokens.word(part[position]).encode()
            _check(np.frombuffer(text, np.uint8)[None], part[position : position + 1])
            nearest[begin + position] = _convert(np.array([text]), part[position : position + 1])[0]
            exact[begin + position] = _is_exact(text, nearest[begin + position])
    infinite = np.flatnonzero(~np.isfinite(nearest))
    if infinite.size:
        token = int(which[infinite[0]])
        word = tokens.word(token)
        shown = word if len(word) <= 40 else word[:37] + ".."
        raise LiteralError(token, f"{shown} exceeds the range of float64; write a finite number")
    return nearest + 0.0, exact  # + 0.0: no negative zeros


def _read_short(tokens: Tokens, which: np.ndarray, known: dict[bytes, bool]) -> tuple[np.ndarray, np.ndarray]:
    characters = tokens.characters(which)
    _check(characters, which)
    width = characters.shape[1]
    text = np.ascontiguousarray(characters).view(f"S{width}")[:, 0]
    value = _convert(text, which)
    # d = m / 10^k with m not divisible by 10 is a binary fraction only if m ends in 5, or if k <= 0
    lower = characters | 0x20
    scientific = (lower == ord("e")).any(axis=1)
    dotted = (characters == ord(".")).any(axis=1)
    significant = (characters != ord("0")) & (characters != 0)
    last = width - 1 - np.argmax(significant[:, ::-1], axis=1)
    final = np.where(significant.any(axis=1), characters[np.arange(len(last)), last], ord("."))
    whole = ~scientific & (~dotted | (final == ord(".")))
    small = np.abs(value) < 2.0**53
    exact = whole & small
    # with few digits that is a question about integers, whether 5^k divides m: f 10^k is less than 1/2 away from m
    point = np.where(dotted, np.argmax(characters == ord("."), axis=1), last)
    places = np.minimum(last - point, 15)
    magnitude = np.where(small, np.abs(value), 0.0) * _TENS[places]
    simple = ~scientific & dotted & small & (last - point <= 15) & (magnitude < 2.0**50)
    exact |= simple & (np.rint(np.where(simple, magnitude, 1.0)) % _FIVES[places] == 0)
    open_question = np.flatnonzero(~exact & ~simple & (scientific | whole | (final == ord("5"))))
    for position in open_question:
        key = text[position]
        answer = known.get(key)
        if answer is None:
            answer = known[key] = _is_exact(key, value[position])
        exact[position] = answer
    return value, exact


def _check(characters: np.ndarray, which: np.ndarray) -> None:
    wrong = np.flatnonzero(~_ALLOWED[characters].all(axis=1))
    if wrong.size:
        raise LiteralError(int(which[wrong[0]]), "expected a variable or a decimal number")


def _convert(text: np.ndarray, which: np.ndarray) -> np.ndarray:
    try:
        return text.astype(np.float64)
    except ValueError:
        for token, one in zip(which, text, strict=True):
            try:
                float(one)
            except ValueError:
                raise LiteralError(int(token), "malformed number") from None
        raise


def _is_exact(text: bytes, value: float) -> bool:
    try:
        return bool(Decimal(text.decode()) == Decimal(float(value)))
    except (InvalidOperation, Overflow):  # exponents of more than 18 digits
        return False


def exact_fraction(text: str) -> Fraction:
    """The literal as a fraction; raises ValueError unless it is a decimal number with |exponent| < 1000."""
    if not all(c in "0123456789+-.eE" for c in text):
        raise ValueError("expected a variable or a decimal number")
    try:
        value = Decimal(text)
    except (InvalidOperation, Overflow):
        raise ValueError("malformed number") from None
    if value and not -1000 < value.adjusted() < 1000:
        raise ValueError("number out of range")
    return Fraction(value)


def nearest_of(value: Fraction) -> tuple[float, bool]:
    """(nearest float64, whether it is exact) of a fraction; raises OverflowError beyond float64."""
    nearest = float(value)
    return nearest, Fraction(nearest) == value


def to_element(value: np.ndarray, element: np.dtype) -> np.ndarray:
    """Nearest value of the element type, through float64 as the competition's checker rounds."""
    with np.errstate(over="ignore", under="ignore"):
        return value.astype(element)


def outward_upper(nearest: np.ndarray, exact: np.ndarray, element: np.dtype) -> np.ndarray:
    """float64 values at or above both the exact literals and the literals rounded to `element`.

    Equal to the literal where it is representable. A literal beyond the element type's range is not widened
    to infinity: every finite element compares with it as with the exact literal.
    """
    rounded = to_element(nearest, element).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        above = np.where(exact, nearest, np.nextafter(nearest, np.inf))
    return np.where((rounded > nearest) & np.isfinite(rounded), rounded, above)


def outward_lower(nearest: np.ndarray, exact: np.ndarray, element: np.dtype) -> np.ndarray:
    """float64 values at or below both the exact literals and the literals rounded to `element`."""
    return -outward_upper(-nearest, exact, element)
