"""A property's text as tokens whose parentheses match."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from provenn.specs._scan import CLOSE, OPEN, Tokens, Unclosed, scan
from provenn.specs._source import Source

_NAMING = ("let", "define-fun", "define-const")


def tokenise(source: Source, plain: Callable[[bytes], bytes]) -> Tokens:
    """Tokens of a property, of which a dialect's `plain` has removed comments and strings."""
    try:
        text = plain(source.data)
    except Unclosed as error:
        raise source.error(error.offset, str(error)) from None
    tokens = scan(text)
    del text
    if not tokens.kind.size:
        raise source.error(0, "the property is empty; expected declarations and assertions")
    _check_parentheses(tokens, source)
    _check_names(tokens, source)
    return tokens


def _check_parentheses(tokens: Tokens, source: Source) -> None:
    depth = np.cumsum((tokens.kind == OPEN).astype(np.int8) - (tokens.kind == CLOSE), dtype=np.int32)
    below = np.flatnonzero(depth < 0)
    if below.size:
        raise source.error(tokens.start[below[0]], "unexpected ')'; remove it or open its statement")
    if depth[-1] != 0:
        zero = np.flatnonzero(depth == 0)
        opened = int(zero[-1]) + 1 if zero.size else 0
        raise source.error(
            tokens.start[opened],
            f"this statement is not closed ({depth[-1]} ')' missing at the end of the file)",
        )


def _check_names(tokens: Tokens, source: Source) -> None:
    """Refuse what gives a name to an expression."""
    heads = np.flatnonzero(tokens.kind[:-1] == OPEN) + 1
    for word in _NAMING:
        found = heads[tokens.equal(heads, word.encode())]
        if found.size:
            raise source.error(
                tokens.start[found[0]], f"{word} is not supported; write out what its names stand for"
            )
