"""Clauses as arrays: decode a run of clause numbers into boxes and rows."""

from __future__ import annotations

import numpy as np

from provenn.specs import _formula as formulas
from provenn.specs._atoms import LOWER, UPPER
from provenn.specs._literals import outward_upper
from provenn.specs._query import ClauseBatch, Query, excluded


def assemble(query: Query, first: int, count: int, box_entries: int) -> ClauseBatch:
    """The clauses `first` .. `first + count - 1`, or fewer so that boxes times inputs <= `box_entries`."""
    # decoding is repeated for clauses cut off below: do not look far ahead of what can be kept
    limit = max(1, box_entries // query.input_count)
    owner, atom = _decode(query, first, count)
    box_owner, box_atom = owner[query.atoms.is_input[atom]], atom[query.atoms.is_input[atom]]
    clause_box, run_owner, run_atom = _runs(query, count, box_owner, box_atom)
    if clause_box[-1] >= limit:
        count = int(np.searchsorted(clause_box, limit))
        clause_box = clause_box[:count]
        run_owner, run_atom = run_owner[run_owner < limit], run_atom[run_owner < limit]
        owner, atom = owner[owner < count], atom[owner < count]
    boxes = int(clause_box[-1]) + 1
    outward, witness, kept = _fill(query, boxes, run_owner, run_atom)
    clause_box = kept[clause_box]
    alive = np.flatnonzero(clause_box >= 0)
    number = np.full(count, -1, np.int64)
    number[alive] = np.arange(len(alive))
    row = ~query.atoms.is_input[atom] & (number[owner] >= 0)
    rows = _rows(query, len(alive), number[owner[row]], atom[row])
    return ClauseBatch(
        first=first,
        count=count,
        offset=alive,
        lower=-outward[:, 0],
        upper=outward[:, 1],
        witness_lower=-witness[:, 0],
        witness_upper=witness[:, 1],
        clause_box=clause_box[alive],
        **rows,
    )


def _decode(query: Query, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    if query.formula is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return formulas.decode(query.formula, formulas.indices(first, count, query.clause_count))


def _runs(
    query: Query, count: int, owner: np.ndarray, atom: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group consecutive clauses whose lists of input bounds say the same.

    Returns each clause's run [count], and the bounds of one clause of each run: their run and atom.
    """
    atoms = query.atoms
    # strict before others at equal values: any fixed order of all that matters makes equal lists comparable
    order = np.lexsort(
        (atom, atoms.strict[atom], atoms.value[atom], atoms.side[atom], atoms.variable[atom], owner)
    )
    owner, atom = owner[order], atom[order]
    size = np.bincount(owner, minlength=count)
    same_size = np.zeros(count, bool)
    same_size[1:] = size[1:] == size[:-1]
    # entry by entry, compare each clause with the one before it
    comparable = np.flatnonzero(same_size[owner])
    before = atom[comparable - size[owner[comparable]]]
    here = atom[comparable]
    differs = (
        (atoms.variable[here] != atoms.variable[before])
        | (atoms.side[here] != atoms.side[before])
        | (atoms.value[here] != atoms.value[before])
        | (atoms.exact[here] != atoms.exact[before])
        | (atoms.strict[here] != atoms.strict[before])
    )
    new = ~same_size
    new[owner[comparable[differs]]] = True
    new[0] = True
    run = np.cumsum(new) - 1
    leader = new[owner]
    return run, run[owner[leader]], atom[leader]


def _fill(
    query: Query, boxes: int, owner: np.ndarray, atom: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(outward, witness) values [kept boxes, 2, inputs] (minus lower, upper), and each box's new number.

    The number is -1 for an empty box: one that is empty both exactly and with rounded literals (`nearest` and
    `rounded` are monotone in the literal, so a contradiction of rounded literals is one of the exact ones), or a
    literal that a strict bound excludes.
    """
    results = []
    empty = np.zeros(boxes, bool)
    for kind in (query._rounded_key, query._outward_key, query._witness_key):
        values = np.repeat(np.stack(query._base_box(kind))[None], boxes, axis=0)
        query._tighten(values, owner, atom, kind)
        if kind == query._rounded_key:
            np.any(-values[:, 0] > values[:, 1], axis=1, out=empty)
        else:
            results.append(values)
    if query.excludes:
        inner = np.repeat(np.stack(query._base_box(query._inner_key))[None], boxes, axis=0)
        query._tighten(inner, owner, atom, query._inner_key)
        empty |= excluded(results[0], inner).any(axis=1)
    outward, witness = results[0], results[1].astype(query.element_type)
    changed = np.ones(boxes, bool)
    changed[1:] = (outward[1:] != outward[:-1]).any(axis=(1, 2)) | (witness[1:] != witness[:-1]).any(
        axis=(1, 2)
    )
    leaders = np.flatnonzero(changed & ~empty)
    number = np.cumsum(changed & ~empty) - 1
    number = np.where(empty, -1, number)
    # a box equal to the one before is empty exactly if that one is: rounded and outward agree on equality,
    # and where a bound is strict the witness boxes differ
    return outward[leaders], witness[leaders], number


def _rows(query: Query, clauses: int, owner: np.ndarray, atom: np.ndarray) -> dict[str, np.ndarray]:
    """The row arrays of a ClauseBatch; owner, atom: output rows beside those that every clause has."""
    atoms, base = query.atoms, query.base_rows
    owner = np.concatenate([owner, np.repeat(np.arange(clauses), len(base))])
    atom = np.concatenate([atom, np.tile(base, clauses)]).astype(np.int64)
    both = atoms.side[atom] == LOWER | UPPER  # an equality is two rows
    owner = np.concatenate([owner, owner[both]])
    sign = np.concatenate([np.ones(len(atom)), -np.ones(int(both.sum()))])
    atom = np.concatenate([atom, atom[both]])
    # a clause without rows is violated everywhere in its box: 0 <= 0
    bare = np.setdiff1d(np.arange(clauses), owner)
    owner = np.concatenate([owner, bare])
    atom = np.concatenate([atom, np.full(len(bare), -1)])
    sign = np.concatenate([sign, np.zeros(len(bare))])
    order = np.argsort(owner, kind="stable")
    owner, atom, sign = owner[order], atom[order], sign[order]
    real = np.flatnonzero(atom >= 0)
    threshold = np.zeros(len(atom))
    threshold[real] = outward_upper(
        sign[real] * atoms.value[atom[real]], atoms.exact[atom[real]], np.dtype(query.element_type)
    )
    length = np.zeros(len(atom), np.int64)
    length[real] = np.diff(atoms.term_start)[atom[real]]
    which, entry = formulas.ragged(atoms.term_start, atom[real])
    return {
        "row_clause": owner.astype(np.int64),
        "row_start": np.concatenate([[0], np.cumsum(length)]),
        "column": atoms.column[entry].astype(np.int64),
        "coefficient": atoms.coefficient[entry] * sign[real][which],
        "threshold": threshold,
    }
