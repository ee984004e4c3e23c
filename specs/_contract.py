"""Flat parts of a property contracted by array operations: comparisons, conjunctions of them, disjunctions of those."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from provenn.specs._formula import Table, ragged
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens
from provenn.specs._stream import AND, ASSERT, ATOM, CONJUNCTION, OR, TABLE, Stream


def contract(tokens: Tokens, triples: np.ndarray, declared: np.ndarray) -> Stream:
    """The token stream with atoms, conjunctions of atoms and disjunctions of those as single tokens.

    triples: tokens of the atoms' parentheses; declared: bool [tokens], what has been read and is left out.
    """
    kind = tokens.kind.copy()
    keep = ~declared
    for behind in range(1, 5):
        keep[triples + behind] = False
    kind[triples] = ATOM
    reference = np.zeros(len(kind), np.int32)
    reference[triples] = np.arange(len(triples))
    words = np.flatnonzero((kind == WORD) & keep)
    for text, code in ((b"assert", ASSERT), (b"and", AND), (b"or", OR)):
        kind[words[tokens.equal(words, text)]] = code
    token = np.flatnonzero(keep)
    stream = Stream(kind[token], reference[token], token, [], [])
    stream = _fold_groups(stream, AND, CONJUNCTION)
    return _fold_groups(stream, OR, TABLE)


def _fold_groups(stream: Stream, word: int, result: int) -> Stream:
    """Replace `( and ATOM+ )` by one CONJUNCTION, or `( or (ATOM|CONJUNCTION)+ )` by one TABLE."""
    kind = stream.kind
    member = kind == ATOM
    if result == TABLE:
        member |= kind == CONJUNCTION
    outside = np.flatnonzero(~member)
    opening = (
        np.flatnonzero((kind[:-1] == OPEN) & (kind[1:] == word)) if kind.size > 1 else np.zeros(0, np.int64)
    )
    slot = np.searchsorted(outside, opening + 2)
    opening, slot = opening[slot < len(outside)], slot[slot < len(outside)]
    closing = outside[slot]
    good = (kind[closing] == CLOSE) & (closing > opening + 2)
    opening, closing = opening[good], closing[good]
    if not opening.size:
        return stream
    change = np.zeros(len(kind) + 1, np.int8)
    change[opening] += 1
    change[closing + 1] -= 1
    grouped = np.cumsum(change[:-1], dtype=np.int32) > 0
    entries = np.flatnonzero(grouped & member)
    bounds = np.searchsorted(entries, np.append(opening, len(kind)))
    new_kind, new_reference = kind.copy(), stream.reference.copy()
    new_kind[opening], new_reference[opening] = result, np.arange(len(opening))
    grouped[opening] = False
    keep = ~grouped
    conjunctions, tables = stream.conjunctions, stream.tables
    if result == CONJUNCTION:
        conjunctions = [Table(bounds, stream.reference[entries])]
    else:
        tables = _tables(stream, entries, bounds)
    return Stream(new_kind[keep], new_reference[keep], stream.token[keep], conjunctions, tables)


def _tables(stream: Stream, entries: np.ndarray, bounds: np.ndarray) -> list[Table]:
    """One table per disjunction: members `entries[bounds[i]:bounds[i + 1]]` are atoms or conjunctions."""
    reference = stream.reference[entries]
    single = stream.kind[entries] == ATOM
    start = np.zeros(len(entries) + 1, np.int64)
    size = np.ones(len(entries), np.int64)
    groups = stream.conjunctions[0] if stream.conjunctions else None
    if groups is not None:
        compound = np.flatnonzero(~single)
        size[compound] = np.diff(groups.start)[reference[compound]]
    np.cumsum(size, out=start[1:])
    atoms = np.empty(start[-1], np.int32)
    atoms[start[:-1][single]] = reference[single]
    if groups is not None and compound.size:
        # conjunctions stand in the order of their numbers, but some may lie outside any disjunction
        within = np.repeat(~single, size)
        length = size[compound]
        ends = np.cumsum(length)
        offset = np.arange(ends[-1]) - np.repeat(ends - length, length)
        atoms[within] = groups.atoms[np.repeat(groups.start[reference[compound]], length) + offset]
    return [Table(start[a : b + 1] - start[a], atoms[start[a] : start[b]]) for a, b in pairwise(bounds)]


def plain_assertions(stream: Stream) -> tuple[np.ndarray, Stream]:
    """Take top-level `( assert ATOM )` and `( assert CONJUNCTION )` out of the stream: (their atoms, the rest)."""
    kind = stream.kind
    if kind.size < 4:
        return np.zeros(0, np.int64), stream
    flat = (kind[2:-1] == ATOM) | (kind[2:-1] == CONJUNCTION)
    found = (kind[:-3] == OPEN) & (kind[1:-2] == ASSERT) & flat & (kind[3:] == CLOSE)
    opening = np.flatnonzero(found)
    depth = np.cumsum((kind == OPEN).astype(np.int8) - (kind == CLOSE), dtype=np.int32)
    opening = opening[depth[opening] == 1]
    single = kind[opening + 2] == ATOM
    base = stream.reference[opening + 2].astype(np.int64)
    if not single.all():
        table = stream.conjunctions[0]
        _, entry = ragged(table.start, base[~single])
        base = np.concatenate([base[single], table.atoms[entry].astype(np.int64)])
    keep = np.ones(len(kind), bool)
    for behind in range(4):
        keep[opening + behind] = False
    return base, Stream(
        kind[keep], stream.reference[keep], stream.token[keep], stream.conjunctions, stream.tables
    )
