"""Conjunctions and disjunctions of atoms, kept lazy: clauses are counted and indexed, never multiplied out.

A formula is a tree of tables (a disjunction of conjunctions of atoms, the usual `or` of `and`s, as two
arrays) and of products and sums of such trees. Its clauses (disjuncts of its disjunctive normal form) are
numbered: a sum's clauses follow one another, a product's are numbered in mixed radix with the first factor
most significant. No function here recurses: properties may nest as deeply as they like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_INT64_SAFE = 1 << 62


@dataclass(frozen=True, eq=False)
class Table:
    """Clauses given outright: clause i has the atoms `atoms[start[i]:start[i + 1]]` (at least one)."""

    start: np.ndarray  # int64 [clauses + 1]
    atoms: np.ndarray  # int32 [entries]

    @property
    def count(self) -> int:
        return len(self.start) - 1


@dataclass(frozen=True, eq=False)
class Product:
    """Conjunction of formulas."""

    children: tuple[Formula, ...]
    count: int


@dataclass(frozen=True, eq=False)
class Sum:
    """Disjunction of formulas; `first[i]` is the number of child i's first clause."""

    children: tuple[Formula, ...]
    count: int
    first: np.ndarray = field(repr=False)  # [children], object where the numbers exceed int64


Formula = Table | Product | Sum


def conjunction(atoms: list[int] | np.ndarray) -> Table:
    """One clause."""
    atoms = np.asarray(atoms, np.int32)
    return Table(np.array([0, len(atoms)]), atoms)


def product(children: list[Formula]) -> Formula:
    """The conjunction of one or more formulas."""
    if len(children) == 1:
        return children[0]
    count = 1
    for child in children:
        count *= child.count
    return Product(tuple(children), count)


def alternatives(children: list[Formula]) -> Formula:
    """The disjunction of one or more formulas."""
    if len(children) == 1:
        return children[0]
    first, total = [], 0
    for child in children:
        first.append(total)
        total += child.count
    kind = np.int64 if total < _INT64_SAFE else object
    return Sum(tuple(children), total, np.array(first, dtype=kind))


def indices(first: int, count: int, total: int) -> np.ndarray:
    """Clause numbers first .. first + count - 1, as int64 or, where `total` exceeds it, as Python integers."""
    if total < _INT64_SAFE:
        return np.arange(first, first + count, dtype=np.int64)
    numbers = np.empty(count, dtype=object)
    numbers[:] = range(first, first + count)
    return numbers


def ragged(start: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entries of rows `which` of a CSR layout: (position in `which`, position in the layout), both [entries]."""
    length = start[which + 1] - start[which]
    owner = np.repeat(np.arange(len(which)), length)
    ends = np.cumsum(length)
    within = np.arange(len(owner)) - np.repeat(ends - length, length)
    return owner, start[which][owner] + within


def decode(formula: Formula, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of the clauses numbered `index`: (position in `index`, atom), sorted by position."""
    owners, atoms = [], []
    stack: list[tuple[Formula, np.ndarray, np.ndarray]] = [(formula, index, np.arange(len(index)))]
    while stack:
        node, local, position = stack.pop()
        if isinstance(node, Table):
            owner, entry = ragged(node.start, local)
            owners.append(position[owner])
            atoms.append(node.atoms[entry])
        elif isinstance(node, Product):
            radix = node.count
            for child in node.children:
                radix //= child.count
                stack.append((child, _narrow((local // radix) % child.count, child.count), position))
        else:
            which = np.searchsorted(node.first, local, side="right") - 1
            for number in np.unique(which):
                here = np.flatnonzero(which == number)
                child = node.children[number]
                stack.append((child, _narrow(local[here] - node.first[number], child.count), position[here]))
    if len(owners) == 1:
        return owners[0], atoms[0]
    owner, atom = np.concatenate(owners), np.concatenate(atoms)
    order = np.argsort(owner, kind="stable")
    return owner[order], atom[order]


def _narrow(index: np.ndarray, count: int) -> np.ndarray:
    return index.astype(np.int64) if index.dtype == object and count < _INT64_SAFE else index


def postorder(formula: Formula) -> Iterator[Formula]:
    """Every node, children before parents."""
    order, stack = [], [formula]
    while stack:
        node = stack.pop()
        order.append(node)
        if not isinstance(node, Table):
            stack.extend(node.children)
    return reversed(order)


def fold(
    formula: Formula,
    table: Callable[[Table], Any],
    conjoin: Callable[[list], Any],
    disjoin: Callable[[list], Any],
) -> Any:
    """Value of the root, computed bottom up."""
    values: dict[int, Any] = {}
    for node in postorder(formula):
        if isinstance(node, Table):
            values[id(node)] = table(node)
        else:
            operands = [values[id(child)] for child in node.children]
            values[id(node)] = conjoin(operands) if isinstance(node, Product) else disjoin(operands)
    return values[id(formula)]


def holds(formula: Formula, truth: np.ndarray) -> bool:
    """Whether the formula holds where atom a has the truth value `truth[a]`; linear in its size."""

    def table(node: Table) -> bool:
        return bool(np.logical_and.reduceat(truth[node.atoms], node.start[:-1]).any())

    return fold(formula, table, all, any)


Bounds = tuple[np.ndarray, np.ndarray]  # sorted keys, one value per key


def hull(
    formula: Formula,
    relevant: np.ndarray,
    bounds: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> Bounds:
    """Upper bounds that hold in every clause, per key; a product's factors are taken independently.

    `bounds(atoms)` gives (position in `atoms`, key, value): in a clause the smallest value of a key holds.
    `relevant[a]`: whether atom a bounds anything at all.
    """

    nothing = np.zeros(0, np.int64), np.zeros(0)  # most parts of a formula bound no input

    def table(node: Table) -> Bounds:
        if not relevant[node.atoms].any():
            return nothing
        position, key, value = bounds(node.atoms)
        clause = np.searchsorted(node.start, position, side="right") - 1
        order = np.lexsort((clause, key))
        key, clause, value = key[order], clause[order], value[order]
        change = np.flatnonzero((np.diff(key, prepend=-1) != 0) | (np.diff(clause, prepend=-1) != 0))
        value = np.minimum.reduceat(value, change)
        return _common(key[change], value, node.count)

    def conjoin(parts: list[Bounds]) -> Bounds:
        parts = [part for part in parts if part[0].size]
        if len(parts) <= 1:
            return parts[0] if parts else nothing
        return _per_key(
            np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), np.minimum
        )

    def disjoin(parts: list[Bounds]) -> Bounds:
        if not all(part[0].size for part in parts):
            return nothing
        return _common(
            np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), len(parts)
        )

    return fold(formula, table, conjoin, disjoin)


def _common(keys: np.ndarray, values: np.ndarray, needed: int) -> Bounds:
    """The largest value per key, of the keys that occur `needed` times."""
    _, count = np.unique(keys, return_counts=True)
    keys, values = _per_key(keys, values, np.maximum)
    return keys[count == needed], values[count == needed]


def _per_key(keys: np.ndarray, values: np.ndarray, reduction: np.ufunc) -> Bounds:
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    change = np.flatnonzero(np.diff(keys, prepend=-1) != 0)
    return (keys[change], reduction.reduceat(values, change)) if change.size else (keys, values)
