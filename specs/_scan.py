"""Tokens of a property as flat arrays: one numpy pass instead of a Python object per token.

A 100 MB property has 40 million tokens; everything here costs a few array operations over its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

OPEN, CLOSE, WORD = 1, 2, 3
_PADDING = 48  # zero bytes after the text, so that fixed-width windows never run off its end
_SEGMENT = 1 << 24  # bytes looked at together: bounds the memory of the temporaries

_CLASS = np.full(256, WORD, np.uint8)
_CLASS[[0, 9, 10, 11, 12, 13, 32]] = 0
_BLANK = _CLASS == 0
_DIGIT, _KEYWORD = np.zeros((2, 256), bool)
_DIGIT[[ord(c) for c in "-0123456789"]] = True
_KEYWORD[[ord(c) for c in "adeiv"]] = True  # first letters
_SIGN = np.zeros(256, bool)
_SIGN[[ord(c) for c in "<>=!+*-"]] = True
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


_QUOTED_2 = re.compile(rb';[^\r\n]*|"[^"\\]*(?:\\.[^"\\]*)*("|\Z)', re.DOTALL)
_SPREAD = re.compile(rb"\s+\[[^\[\]()]*\]|\[[^\[\]()\s]*\s[^\[\]()]*\]")
_FEW, _WIDEST = 1000, 4096
_PART = 1 << 18
_HEAD = re.compile(rb"declare-(?:network|input|hidden|output)|equal-to|isomorphic-to|vnnlib-version|assert")
_PARTS = re.compile(
    rb"<[0-9.]+>|-?[0-9]+(?:\.[0-9]+)?(?=[A-Za-z]\w*\[)|[<>=!]=|[<>=+*]|-(?=[A-Za-z])|'+"
    rb"|[^\[\]'<>=!+*]+(?:\[[^\[\]]*\])?|.",
    re.DOTALL,
)


def plain_elements(data: bytes) -> bytes:
    """As `plain`, for VNN-LIB 2: strings may hold `\\"`, `|` quotes nothing, and an index `X [0, 1]` is closed up to
    `X[0,1]`, blanks behind it."""
    if data.startswith(b"\xef\xbb\xbf"):
        data = b"   " + data[3:]
    if b";" in data or b'"' in data:
        data = _QUOTED_2.sub(_unquoted, data)
    text = np.frombuffer(data, np.uint8)
    spread = _positions(text, _spread)
    if len(spread) > _FEW:
        return _SPREAD.sub(_closed_up, data)
    found = bytearray(data)
    for place in spread.tolist():
        first = data.rfind(b"[", 0, place + 2)
        last = data.find(b"]", first) if first >= 0 else -1
        while first > 0 and _CLASS[text[first - 1]] == 0:
            first -= 1
        if last - first > _WIDEST:
            return _SPREAD.sub(_closed_up, data)
        if last >= 0:
            found[first : last + 1] = _SPREAD.sub(_closed_up, data[first : last + 1])
    return bytes(found)


def _positions(text: np.ndarray, find: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Where two neighbouring bytes are something to find, looked for in parts that stay in the cache."""
    parts = [np.zeros(0, np.int64)]
    for begin in range(0, max(0, len(text) - 1), _PART):
        part = text[begin : begin + _PART + 1]
        parts.append(find(part[:-1], part[1:]) + begin)
    return np.concatenate(parts)


def _spread(here: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Where a blank stands before a bracket or comma of an index, or behind one that does not end it."""
    close = ord("]")
    before = np.flatnonzero((behind == ord("[")) | (behind == ord(",")) | (behind == close))
    after = before + 1
    after = after[(after < len(here)) & (behind[before] != close)]
    return np.concatenate([before[_BLANK[here[before]]], after[_BLANK[behind[after]]]])


def _touching(here: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Where something touches the end of an index."""
    ends = np.flatnonzero(here == ord("]"))
    return ends[_CLASS[behind[ends]] == WORD]


def _closed_up(found: re.Match[bytes]) -> bytes:
    return b"".join(found.group().split()).ljust(len(found.group()))


def _keyword(tokens: Tokens, token: int) -> int:
    """The length of the keyword that a word begins with and goes on behind, 0 where it does not."""
    found = _HEAD.match(tokens.text[tokens.start[token] : tokens.stop[token]].tobytes())
    return found.end() if found and found.end() < tokens.stop[token] - tokens.start[token] else 0


def split_words(tokens: Tokens) -> Tokens:
    """The tokens with words that touch taken apart, as `<=X[0]`, `X[0]1.0` or `(declare-inputX`.

    `2.0-1.0` is two numbers by the grammar; a word that looks like a difference stays one, which is no number.
    """
    text = tokens.text
    behind = _positions(text, _touching)
    parts = [np.searchsorted(tokens.start, behind, side="right") - 1]
    for begin in range(0, len(tokens.kind), _PART):
        start, stop = tokens.start[begin : begin + _PART], tokens.stop[begin : begin + _PART]
        here = np.flatnonzero(_SIGN[text[start]] & (stop - start > 1))
        first, second = text[start[here]], text[start[here] + 1]
        number = ((second >= ord("0")) & (second <= ord("9"))) | (second == ord("."))
        signed = ((first == ord("+")) | (first == ord("-"))) & number
        version = text[stop[here] - 1] == ord(">")  # <2.0>
        longer = stop[here] - start[here] > np.where(second == ord("="), 2, 1)
        parts.append(here[~signed & ~version & longer] + begin)
        long = np.flatnonzero(stop - start > 6)
        parts.append(long[_DIGIT[text[start[long]]] & (text[stop[long] - 1] == ord("]"))] + begin)
        heads = begin + long[tokens.kind[begin + long - 1] == OPEN]
        heads = heads[_KEYWORD[text[tokens.start[heads]]]]
        parts.append(np.array([head for head in heads if _keyword(tokens, head)], np.int64))
    which = np.unique(np.concatenate(parts))
    if not which.size:
        return tokens
    owners: list[int] = []
    starts: list[int] = []
    stops: list[int] = []
    for token in which:
        begin, end = int(tokens.start[token]), int(tokens.stop[token])
        keyword = _keyword(tokens, token) if token and tokens.kind[token - 1] == OPEN else 0
        if keyword:
            owners.append(int(token))
            starts.append(begin)
            stops.append(begin + keyword)
            begin += keyword
        for found in _PARTS.finditer(text[begin:end].tobytes()):
            owners.append(int(token))
            starts.append(begin + found.start())
            stops.append(begin + found.end())
    keep = np.ones(len(tokens.kind), bool)
    keep[which] = False
    order = np.argsort(np.concatenate([np.flatnonzero(keep), owners]), kind="stable")
    offset = tokens.start.dtype
    return Tokens(
        text,
        np.concatenate([tokens.start[keep], np.array(starts, offset)])[order],
        np.concatenate([tokens.stop[keep], np.array(stops, offset)])[order],
        np.concatenate([tokens.kind[keep], np.full(len(starts), WORD, np.uint8)])[order],
    )


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
