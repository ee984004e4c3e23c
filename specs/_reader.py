"""VNN-LIB 1.0 as the competition uses it, read into a Query; what is VNN-LIB 2 by its content goes to `_version2.py`.

Flat parts (declarations, `(assert atom)`, `(or (and atom ..) ..)`) are contracted with array operations; what
remains, usually a handful of tokens, goes through a small parser with an explicit stack (`_nested.py`).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from provenn.specs._atoms import Numbered, operations, read_atoms, read_variables
from provenn.specs._comparisons import LinearComparisons
from provenn.specs._contract import contract, plain_assertions
from provenn.specs._files import read_bytes, resolve
from provenn.specs._nested import read_rest
from provenn.specs._query import Query
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens, plain
from provenn.specs._source import Source
from provenn.specs._tokenise import tokenise
from provenn.specs._version2 import parse_version_2

_VERSION_2 = re.compile(rb"\(\s*(vnnlib-version|declare-network)\b")
_UNREAD = re.compile(rb';[^\r\n]*|"[^"]*("|\Z)')
_HEAD = 1 << 16  # bytes in which a property says what it is


def read_query(
    path: str | Path,
    input_count: int | None = None,
    output_count: int | None = None,
    element_type: str = "float32",
    note: str = "",
    strict: bool = False,
) -> Query:
    """Read the property at `path` (plain or gzip, decided by content).

    input_count, output_count: sizes of the network's flattened input and output, checked if given.
    element_type: of the network's input; literals are rounded to it, see `Query`. In VNN-LIB 2 only where the property
    declares its tensors as `real`.
    note: what the user should know about the network's sizes where they do not fit.
    strict: only what the standard of VNN-LIB 2 allows; else scientific notation, whole numbers, `=`, `Real`,
    declarations in any order and blanks behind parentheses are read too.
    Raises PropertyError with file:line:column and the line; InputError for a file that cannot be read.
    """
    found = resolve(path)
    return parse_query(read_bytes(found), found, input_count, output_count, element_type, note, strict)


def is_version_2(data: bytes) -> bool:
    """Whether a property's text is VNN-LIB 2, by what it declares."""
    return _VERSION_2.search(_UNREAD.sub(b"", data[:_HEAD])) is not None


def parse_query(
    data: bytes,
    path: str | Path = "<text>",
    input_count: int | None = None,
    output_count: int | None = None,
    element_type: str = "float32",
    note: str = "",
    strict: bool = False,
) -> Query:
    """Read a property from its (uncompressed) text; see `read_query`."""
    source = Source(Path(path), data)
    if is_version_2(data):
        query = parse_version_2(source, element_type, strict)
        assert query.composition is not None
        found = query.composition.input_count, query.composition.output_count
        _check_counts(found, (input_count, output_count), query.composition.networks[0].offset, note, source)
        return query
    if strict:
        raise source.error(0, "not VNN-LIB 2, which begins with (vnnlib-version <2.0>); begin with that")
    tokens = tokenise(source, plain)
    declared, triples, operation, counts = _declarations(tokens, source)
    _check_counts(counts, (input_count, output_count), int(tokens.start[declared[0]]), note, source)
    variables = Numbered(counts)
    atoms = read_atoms(tokens, triples, operation, variables, source)
    taken = np.zeros(len(tokens.kind), bool)
    for behind in range(5):
        taken[declared + behind] = True
    base, stream = plain_assertions(contract(tokens, triples, taken))
    atoms, rest, children = read_rest(
        stream, tokens, atoms, LinearComparisons(len(atoms), tokens, variables, source), source
    )
    base = np.concatenate([base, np.asarray(rest, np.int64)])
    return Query.build(source, counts, element_type, atoms, base, children)


def _check_counts(
    counts: tuple[int, int], network: tuple[int | None, int | None], offset: int, note: str, source: Source
) -> None:
    for kind, count, expected in zip(("inputs", "outputs"), counts, network, strict=True):
        if expected is not None and expected != count:
            raise source.error(
                offset,
                f"the property declares {count} {kind}, the network has {expected}; "
                f"{note or 'is this property for another network?'}",
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
