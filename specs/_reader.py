"""VNN-LIB 1.0 as the competition uses it, read into a Query.

Flat parts (declarations, `(assert atom)`, `(or (and atom ..) ..)`) are contracted with array operations; what
remains, usually a handful of tokens, goes through a small parser with an explicit stack (`_nested.py`).
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np

from provenn.specs._atoms import operations, read_atoms, read_variables
from provenn.specs._files import read_bytes, resolve
from provenn.specs._formula import Table
from provenn.specs._nested import read_rest
from provenn.specs._query import Query
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens, Unclosed, plain, scan
from provenn.specs._source import Source
from provenn.specs._stream import AND, ASSERT, ATOM, CONJUNCTION, OR, TABLE, Stream

_NAMING = ("let", "define-fun", "define-const")
_VERSION_2 = re.compile(rb"\(\s*(vnnlib-version|declare-network)\b")


def read_query(
    path: str | Path,
    input_count: int | None = None,
    output_count: int | None = None,
    element_type: str = "float32",
    note: str = "",
) -> Query:
    """Read the property at `path` (plain or gzip, decided by content).

    input_count, output_count: sizes of the network's flattened input and output, checked if given.
    element_type: of the network's input; literals are rounded to it, see `Query`.
    note: what the user should know about the network's sizes where they do not fit.
    Raises PropertyError with file:line:column and the line; InputError for a file that cannot be read.
    """
    found = resolve(path)
    return parse_query(read_bytes(found), found, input_count, output_count, element_type, note)


def parse_query(
    data: bytes,
    path: str | Path = "<text>",
    input_count: int | None = None,
    output_count: int | None = None,
    element_type: str = "float32",
    note: str = "",
) -> Query:
    """Read a property from its (uncompressed) text; see `read_query`."""
    source = Source(Path(path), data)
    try:
        text = plain(data)
    except Unclosed as error:
        raise source.error(error.offset, str(error)) from None
    version = _VERSION_2.search(text, 0, 4096)
    if version:
        raise source.error(
            version.start(), "VNN-LIB 2.x is not supported yet; write the property in VNN-LIB 1.0"
        )
    tokens = scan(text)
    del text
    if not tokens.kind.size:
        raise source.error(0, "the property is empty; expected declarations and assertions")
    _check_parentheses(tokens, source)
    _check_names(tokens, source)
    declared, triples, operation, counts = _declarations(tokens, source)
    for kind, expected, count in (("inputs", input_count, counts[0]), ("outputs", output_count, counts[1])):
        if expected is not None and expected != count:
            raise source.error(
                tokens.start[declared[0]],
                f"the property declares {count} {kind}, the network has {expected}; "
                f"{note or 'is this property for another network?'}",
            )
    atoms = read_atoms(tokens, triples, operation, counts, source)
    stream = _contract(tokens, triples, declared)
    base, stream = _plain_assertions(stream)
    atoms, rest, children = read_rest(stream, tokens, atoms, counts, source)
    base = np.concatenate([base, np.asarray(rest, np.int64)])
    return Query.build(source, counts, element_type, atoms, base, children)


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


def _declarations(
    tokens: Tokens, source: Source
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Find `( word word word )` and check the declarations among them.

    Returns the tokens of the declarations' parentheses, of the comparisons' parentheses, the comparisons'
    operation codes, and the numbers of declared inputs and outputs.
    """
    kind = tokens.kind
    inside = (kind[:-4] == OPEN) & (kind[1:-3] == WORD) & (kind[2:-2] == WORD) & (kind[3:-1] == WORD)
    triples = np.flatnonzero(inside & (kind[4:] == CLOSE)) if kind.size >= 5 else np.zeros(0, np.int64)
    del inside
    operation = operations(tokens, triples + 1)
    others = triples[operation < 0]
    declared = others[tokens.equal(others + 1, b"declare-const")]
    types = tokens.characters(declared + 3) | 0x20 if _all_short(tokens, declared + 3) else None
    if types is None or types.shape[1] != 4 or not (types == np.frombuffer(b"real", np.uint8)).all():
        for token in declared + 3:
            if tokens.word(token).lower() != "real":
                raise source.error(tokens.start[token], "unsupported type; VNN-LIB 1.0 variables are Real")
    is_input, index = read_variables(tokens, declared + 2, source)
    inputs, outputs = declared[is_input] + 2, declared[~is_input] + 2
    counts = (
        _check_contiguous(tokens, inputs, index[is_input], "X", source),
        _check_contiguous(tokens, outputs, index[~is_input], "Y", source),
    )
    keep = operation >= 0
    return declared, triples[keep], operation[keep], counts


def _all_short(tokens: Tokens, which: np.ndarray) -> bool:
    return bool((tokens.length(which) <= 4).all())


def _check_contiguous(
    tokens: Tokens, which: np.ndarray, index: np.ndarray, letter: str, source: Source
) -> int:
    kind = "input" if letter == "X" else "output"
    if not index.size:
        raise source.error(0, f"no {kind} is declared; expected (declare-const {letter}_0 Real)")
    order = np.argsort(index, kind="stable")
    wrong = np.flatnonzero(index[order] != np.arange(len(index)))
    if wrong.size:
        at, expected = order[wrong[0]], int(wrong[0])
        if index[at] < expected:
            raise source.error(tokens.start[which[at]], f"{letter}_{index[at]} is declared twice; remove one of them")
        raise source.error(
            tokens.start[which[at]],
            f"{letter}_{index[at]} is declared, {letter}_{expected} is not; declare it",
        )
    return len(index)


def _contract(tokens: Tokens, triples: np.ndarray, declared: np.ndarray) -> Stream:
    """The token stream with atoms, conjunctions of atoms and disjunctions of those as single tokens."""
    kind = tokens.kind.copy()
    keep = np.ones(len(kind), bool)
    for behind in range(1, 5):
        keep[triples + behind] = False
    kind[triples] = ATOM
    reference = np.zeros(len(kind), np.int32)
    reference[triples] = np.arange(len(triples))
    for behind in range(5):  # declarations have been read
        keep[declared + behind] = False
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


def _plain_assertions(stream: Stream) -> tuple[np.ndarray, Stream]:
    """Take `( assert ATOM )` at the top level out of the stream: (their atoms, the rest)."""
    kind = stream.kind
    if kind.size < 4:
        return np.zeros(0, np.int64), stream
    found = (kind[:-3] == OPEN) & (kind[1:-2] == ASSERT) & (kind[2:-1] == ATOM) & (kind[3:] == CLOSE)
    opening = np.flatnonzero(found)
    depth = np.cumsum((kind == OPEN).astype(np.int8) - (kind == CLOSE), dtype=np.int32)
    opening = opening[depth[opening] == 1]
    base = stream.reference[opening + 2].astype(np.int64)
    keep = np.ones(len(kind), bool)
    for behind in range(4):
        keep[opening + behind] = False
    return base, Stream(
        kind[keep], stream.reference[keep], stream.token[keep], stream.conjunctions, stream.tables
    )
