"""What the standard of VNN-LIB 2 forbids and the reader otherwise understands."""

from __future__ import annotations

import re

import numpy as np

from provenn.specs._declarations import Declarations
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens
from provenn.specs._source import Source

_GLUED = (  # single tokens of the grammar
    "vnnlib-version", "declare-network", "declare-input", "declare-hidden", "declare-output", "equal-to",
    "isomorphic-to", "assert",
)  # fmt: skip
_HEADS = (*_GLUED, "and", "or", "<=", "<", ">=", ">", "==", "!=", "+", "-", "*")
_ORDER = {"equal-to": 0, "isomorphic-to": 0, "declare-input": 1, "declare-hidden": 2, "declare-output": 3}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NUMBER = re.compile(r"-?[0-9]+\.[0-9]+")
_CHUNK = 1 << 17
_LONGEST = 40  # bytes; longer numbers are rare and go one by one


def check_strict(tokens: Tokens, declarations: Declarations, source: Source) -> None:
    """PropertyError at the first thing that is not in the standard (syntax/grammar.cf, typing of literals)."""
    foreign = np.flatnonzero(tokens.text >= 0x80)
    if foreign.size:
        raise source.error(foreign[0], "a character that is not ASCII outside of comments and strings; remove it")
    heads = np.flatnonzero(tokens.kind[:-1] == OPEN) + 1
    _check_heads(tokens, heads, source)
    _check_order(tokens, source)
    _check_declarations(tokens, declarations, source)
    is_head = np.zeros(len(tokens.kind), bool)
    is_head[heads] = True
    words = np.flatnonzero((tokens.kind == WORD) & ~is_head & ~declarations.tokens)
    first = tokens.text[tokens.start[words]]
    letter = ((first | 0x20) >= ord("a")) & ((first | 0x20) <= ord("z"))
    _check_numbers(tokens, words[~letter], source)


def _check_heads(tokens: Tokens, heads: np.ndarray, source: Source) -> None:
    known = np.zeros(len(heads), bool)
    apart = tokens.start[heads] != tokens.start[heads - 1] + 1
    for name in _HEADS:
        found = tokens.equal(heads, name.encode())
        known |= found
        if name in _GLUED and (found & apart).any():
            token = heads[found & apart][0]
            raise source.error(tokens.start[token - 1], f"the standard has no blank in ({name}; remove it")
    if not known.all():
        token = heads[~known][0]
        shown = tokens.word(token) if tokens.kind[token] == WORD else "("
        raise source.error(tokens.start[token], f"{shown!r} is no operator of the standard; write one of its own")


def _check_order(tokens: Tokens, source: Source) -> None:
    depth = np.cumsum((tokens.kind == OPEN) * np.int8(1) - (tokens.kind == CLOSE), dtype=np.int32)
    top = np.flatnonzero((tokens.kind == OPEN) & (depth == 1))
    stage = np.full(len(top), -1)
    for number, name in enumerate(("vnnlib-version", "declare-network", "assert")):
        stage[tokens.equal(top + 1, name.encode())] = number
    wrong = np.flatnonzero(np.diff(stage) < 0)
    if stage[0] != 0:
        raise source.error(tokens.start[top[0]], "the standard begins with (vnnlib-version <2.0>); begin with that")
    if wrong.size:
        raise source.error(
            tokens.start[top[wrong[0] + 1]], "the standard has networks first, then assertions; change the order"
        )
    if stage[-1] != 2:
        raise source.error(len(source.data), "no assertion; the standard needs one")
    loose = np.flatnonzero((depth == 0) & (tokens.kind == WORD))
    if loose.size:
        raise source.error(tokens.start[loose[0]], "a word outside of a statement; remove it")


def _check_declarations(tokens: Tokens, declarations: Declarations, source: Source) -> None:
    taken = np.flatnonzero(declarations.tokens)
    stage, since_2_1 = 0, declarations.version != "2.0"
    for token in taken[tokens.kind[taken] == WORD].tolist():
        word = tokens.word(token)
        if tokens.kind[token - 1] == OPEN:
            stage = 0 if word == "declare-network" else stage
            if _ORDER.get(word, stage) < stage:
                raise source.error(
                    tokens.start[token],
                    "the standard has relations, inputs, hidden tensors, outputs in this order; change the order",
                )
            stage, head, place = _ORDER.get(word, stage), word, token
            continue
        role = token - place
        if role == 1 and head != "vnnlib-version" and (not _NAME.fullmatch(word) or word in ("and", "or")):
            raise source.error(tokens.start[token], f"{word!r} is no name of the standard; use letters, digits and _")
        if role == 2 and word.split("[")[0] != word.split("[")[0].lower():
            raise source.error(tokens.start[token], "types are written in lower case in the standard")
        if role == 3 and head != "declare-hidden" and (word != "initialized" or not since_2_1):
            raise source.error(tokens.start[token], f"{head} ends with the shape in VNN-LIB {declarations.version}")


def _check_numbers(tokens: Tokens, which: np.ndarray, source: Source) -> None:
    """Literals of floating-point types: `-? digits . digits`."""
    good = np.zeros(len(which), bool)
    length = tokens.length(which)
    for begin in range(0, len(which), _CHUNK):
        here = begin + np.flatnonzero(length[begin : begin + _CHUNK] <= _LONGEST)
        characters = tokens.characters(which[here])
        used = length[here]
        digit = (characters >= ord("0")) & (characters <= ord("9"))
        point = characters == ord(".")
        minus = characters[:, 0] == ord("-")
        at = np.argmax(point, axis=1)
        good[here] = (
            (digit.sum(axis=1) + 1 + minus == used) & (point.sum(axis=1) == 1) & (at > minus) & (at < used - 1)
        )
    for position in np.flatnonzero(~good):
        word = tokens.word(which[position])
        if not _NUMBER.fullmatch(word):
            shown = word if len(word) <= 40 else word[:37] + ".."
            raise source.error(
                tokens.start[which[position]], f"{shown!r} is no number of the standard; write digits, a point, digits"
            )
