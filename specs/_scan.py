"""Tokens of a property as flat arrays: one numpy pass instead of a Python object per token.

A 100 MB property has 40 million tokens; everything here costs a few array operations over its bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

OPEN, CLOSE, WORD = 1, 2, 3
_PADDING = 48  # zero bytes after the text, so that fixed-width windows never run off its end
_SEGMENT = 1 << 24  # bytes looked at together: bounds the memory of the temporaries

_CLASS = np.full(256, WORD, np.uint8)
_CLASS[[0, 9, 10, 11, 12, 13, 32]] = 0
_CLASS[ord("(")], _CLASS[ord(")")] = OPEN, CLOSE


@dataclass(frozen=True, eq=False)
class Tokens:
    """Parentheses and words in order.

    text: uint8 [bytes + padding]; start, stop: offsets [tokens] into it; kind: uint8 [tokens].
    """

    text: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    kind: np.ndarray

    def word(self, token: int) -> str:
        """The text of one token."""
        return self.text[self.start[token] : self.stop[token]].tobytes().decode("utf-8", "replace")

    def length(self, tokens: np.ndarray) -> np.ndarray:
        return self.stop[tokens] - self.start[tokens]

    def equal(self, tokens: np.ndarray, text: bytes) -> np.ndarray:
        """bool [tokens]: which of `tokens` spell `text` (at most `_PADDING` bytes)."""
        found = self.length(tokens) == len(text)
        candidates = np.flatnonzero(found)
        window = self.windows(tokens[candidates], len(text))
        found[candidates] = (window == np.frombuffer(text, np.uint8)).all(axis=1)
        return found

    def windows(self, tokens: np.ndarray, width: int) -> np.ndarray:
        """uint8 [tokens, width]: the bytes from each token's start on, past its end included."""
        if not tokens.size:
            return np.zeros((0, width), np.uint8)
        return sliding_window_view(self.text, width)[self.start[tokens]]

    def characters(self, tokens: np.ndarray) -> np.ndarray:
        """uint8 [tokens, longest]: each token's bytes, zero past its end; tokens of <= `_PADDING` bytes."""
        length = self.length(tokens)
        width = int(length.max(initial=1))
        window = self.windows(tokens, width)
        window[np.arange(width) >= length[:, None]] = 0
        return window


_QUOTED = re.compile(rb';[^\r\n]*|"[^"]*("|\Z)|\|([^|]*)(\||\Z)')
_SYMBOL = re.compile(rb"[^\s();\"]+")


def plain(data: bytes) -> bytes:
    """`data` with comments (`;` to the end of the line) and a byte order mark replaced by blanks, strings by one word,
    and `|symbols|` by what they quote where that is a word. Nothing moves; Unclosed says where a quote is open."""
    if data.startswith(b"\xef\xbb\xbf"):
        data = b"   " + data[3:]
    if b'"' in data or b"|" in data:
        return _QUOTED.sub(_unquoted, data)
    if b";" not in data:
        return data
    return re.sub(rb";[^\r\n]*", lambda found: b" " * len(found.group()), data)


class Unclosed(Exception):
    """A string or a quoted symbol has no end; ``offset`` is where it begins."""

    def __init__(self, offset: int):
        super().__init__("this quote is not closed; close it or remove it")
        self.offset = offset


def _unquoted(found: re.Match[bytes]) -> bytes:
    text = found.group()
    if text.startswith(b";"):
        return b" " * len(text)
    if len(text) < 2 or text[-1:] != text[:1]:
        raise Unclosed(found.start())
    if text.startswith(b"|") and _SYMBOL.fullmatch(text, 1, len(text) - 1):
        return b" " + text[1:-1] + b" "
    return b"'" * len(text)


def scan(data: bytes) -> Tokens:
    """Split text without comments into tokens."""
    size = len(data)
    offset_type = np.int32 if size < 2**31 - _PADDING else np.int64
    text = np.frombuffer(data + bytes(_PADDING), np.uint8)
    starts, kinds, ends = [], [], []
    previous = np.uint8(0)
    for begin in range(0, size, _SEGMENT):
        end = min(size, begin + _SEGMENT)
        # one more byte, so that a word ending exactly at the segment's end is seen to end (padding is blank)
        kind = _CLASS[text[begin : end + 1]]
        word = kind == WORD
        before = np.empty(end - begin, bool)
        before[0] = previous == WORD
        before[1:] = word[: end - begin - 1]
        here = kind[:-1]
        first = np.flatnonzero(((here != 0) & ~word[:-1]) | (word[:-1] & ~before))
        starts.append((first + begin).astype(offset_type))
        kinds.append(here[first])
        ends.append((np.flatnonzero(word[:-1] & ~word[1:]) + (begin + 1)).astype(offset_type))
        previous = here[-1]
    start = np.concatenate(starts) if starts else np.zeros(0, offset_type)
    kind = np.concatenate(kinds) if kinds else np.zeros(0, np.uint8)
    stop = start + offset_type(1)
    if ends:
        stop[kind == WORD] = np.concatenate(ends)
    return Tokens(text, start, stop, kind)
