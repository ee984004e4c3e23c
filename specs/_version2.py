"""VNN-LIB 2.0 and 2.1, read into a Query whose columns are those of `_composition.py`.

The same stages as for 1.0 (`_reader.py`): comparisons of an element with an element or a number are read by array
operations, arithmetic and whatever nests by parsers with an explicit stack.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from provenn.specs._atoms import Atoms, operations, read_atoms, starts_as_variable
from provenn.specs._composition import Composition
from provenn.specs._contract import contract, plain_assertions
from provenn.specs._declarations import read_declarations
from provenn.specs._elements import Elements
from provenn.specs._nested import read_rest
from provenn.specs._polynomial_comparisons import PolynomialComparisons
from provenn.specs._polynomials import Format, Reader
from provenn.specs._query import Query
from provenn.specs._relations import settle
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens, plain_elements, split_words
from provenn.specs._source import Source
from provenn.specs._strict import check_strict
from provenn.specs._tokenise import tokenise


def parse_version_2(source: Source, element_type: str, strict: bool) -> Query:
    """Read a property of VNN-LIB 2; see `read_query`."""
    tokens = split_words(tokenise(source, plain_elements))
    declarations = read_declarations(tokens, source)
    if strict:
        check_strict(tokens, declarations, source)
    composition = Composition(declarations.networks, declarations.version)
    declared_type = declarations.networks[0].inputs[0].type
    if declared_type != "real":
        element_type = declared_type
    elements = Elements(composition)
    triples, operation = _comparisons(tokens, declarations.tokens)
    atoms = read_atoms(tokens, triples, operation, elements, source)
    base, stream = plain_assertions(contract(tokens, triples, declarations.tokens))
    reader = Reader(tokens, elements, source, Format.of(element_type), strict)
    extra = PolynomialComparisons(reader, len(atoms), composition.output_count)
    atoms, rest, children = read_rest(stream, tokens, atoms, extra, source)
    atoms, composition = _columns(atoms, composition, extra)
    _check_mentioned(atoms, composition, source)
    query = Query.build(
        source,
        (composition.input_count, composition.column_count),
        element_type,
        atoms,
        np.concatenate([base, np.asarray(rest, np.int64)]),
        children,
        composition,
    )
    return settle(query, extra, source)


def _comparisons(tokens: Tokens, declared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the parentheses of `( op word word )` with a variable in it, and their operations' codes."""
    kind = tokens.kind
    if kind.size < 5:
        return np.zeros(0, np.int64), np.zeros(0, np.int8)
    inside = (kind[:-4] == OPEN) & (kind[1:-3] == WORD) & (kind[2:-2] == WORD) & (kind[3:-1] == WORD)
    triples = np.flatnonzero(inside & (kind[4:] == CLOSE) & ~declared[:-4])
    operation = operations(tokens, triples + 1)
    variable = starts_as_variable(tokens, triples + 2) | starts_as_variable(tokens, triples + 3)
    keep = (operation >= 0) & variable
    return triples[keep], operation[keep]


def _columns(
    atoms: Atoms, composition: Composition, extra: PolynomialComparisons
) -> tuple[Atoms, Composition]:
    """Number passed inputs and monomials behind the columns that networks compute."""
    factors = [factor for key in extra.monomials for factor in key]
    mentioned = np.concatenate([atoms.column, np.array(factors, np.int64)])
    passed = np.unique(~mentioned[mentioned < 0]).astype(np.int64)
    outputs = composition.output_count

    def final(codes: np.ndarray) -> np.ndarray:
        column = codes.astype(np.int64)
        is_input = column < 0
        column[column >= outputs] += len(passed)
        column[is_input] = outputs + np.searchsorted(passed, ~column[is_input])
        return column

    monomials = tuple(tuple(sorted(final(np.array(key)).tolist())) for key in extra.monomials)
    atoms = replace(atoms, column=final(atoms.column).astype(np.int32))
    return atoms, replace(composition, passed=passed, monomials=monomials)


def _check_mentioned(atoms: Atoms, composition: Composition, source: Source) -> None:
    """Refuse inputs that nothing mentions before anything is as large as the declared shapes."""
    mentions = np.concatenate([atoms.variable[atoms.is_input], composition.passed])
    known = np.zeros(min(composition.input_count, len(mentions) + 1), bool)
    known[mentions[mentions < len(known)]] = True
    if not known.all():
        first = int(np.argmin(known))
        tensor = next(t for _, t, start in composition.inputs if start <= first < start + t.size)
        name = composition.input_name(first)
        raise source.unsupported(
            tensor.offset, f"input {name} has no bounds; add (assert (and (>= {name} ..) (<= {name} ..)))"
        )
