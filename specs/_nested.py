"""The general part of the reader: nested and/or, arithmetic, and everything that deserves an error."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from provenn.specs._atoms import Atoms, join
from provenn.specs._formula import Formula, Product, Table, alternatives, conjunction, product
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens
from provenn.specs._source import Source
from provenn.specs._stream import AND, ASSERT, ATOM, CONJUNCTION, OR, TABLE, Stream

# Commands to a solver that state nothing, and whether they ask or end: what follows is no part of the question.
_COMMANDS = {
    "set-logic": False, "set-option": False, "set-info": False, "check-sat": True, "get-model": True, "get-value": True,
    "exit": True,
}  # fmt: skip
_NAMES = {ASSERT: "assert", AND: "and", OR: "or"}


class Comparisons(Protocol):
    """Reads the comparisons that the flat reader does not know: arithmetic, and what is malformed."""

    declaration: str  # how a variable is declared, for messages

    def read(self, kinds: list[int], places: list[int], position: int) -> tuple[int, list[list[int]]]:
        """Read the comparison opening at `position`: (position behind it, its atoms as a disjunction of clauses)."""
        ...

    def finish(self) -> Atoms:
        """The atoms read, in the layout of `Atoms`."""
        ...


class _Members:
    """What a conjunction or disjunction has collected: single atoms, clauses of several, other formulas."""

    def __init__(self) -> None:
        self.atoms: list[int] = []
        self.tables: list[Table] = []
        self.others: list[Formula] = []
        self.size = 0

    def conjoined(self) -> Formula:
        if not self.others:
            return conjunction(self.atoms)
        return product(([conjunction(self.atoms)] if self.atoms else []) + self.others)

    def disjoined(self) -> Formula:
        parts: list[Formula] = list(self.others)
        if self.atoms or self.tables:
            single = Table(np.arange(len(self.atoms) + 1), np.asarray(self.atoms, np.int32))
            parts.insert(0, _merge(([single] if self.atoms else []) + self.tables))
        return alternatives(parts)


def _merge(tables: list[Table]) -> Table:
    if len(tables) == 1:
        return tables[0]
    sizes = np.concatenate([np.diff(table.start) for table in tables])
    return Table(
        np.concatenate([[0], np.cumsum(sizes)]),
        np.concatenate([table.atoms for table in tables]).astype(np.int32),
    )


def read_rest(
    stream: Stream, tokens: Tokens, atoms: Atoms, extra: Comparisons, source: Source
) -> tuple[Atoms, list[int], list[Formula]]:
    """Read the statements that the flat reader left; `extra` numbers its atoms behind `atoms`.

    Returns all atoms (those with arithmetic appended), the atoms asserted outright, and the formulas asserted
    beside them.
    """
    kinds, references, places = stream.kind.tolist(), stream.reference.tolist(), stream.token.tolist()
    root = _Members()
    stack: list[tuple[_Members, int, int, int]] = []  # members, operator, token, size at the opening
    position, end = 0, len(kinds)
    while position < end:
        kind, place = kinds[position], places[position]
        if not stack and kind != OPEN:
            raise source.error(
                tokens.start[place], f"expected a statement ({extra.declaration.split()[0]} ..) or (assert ..)"
            )
        members = stack[-1][0] if stack else root
        if kind == OPEN:
            head = kinds[position + 1]
            if not stack and head == WORD and tokens.word(place + 1) in _COMMANDS:
                _check_last(tokens, place, source)
                position = _behind(kinds, position)
                continue
            if not stack and head != ASSERT:
                raise source.error(tokens.start[place], _unknown_statement(tokens, place, extra.declaration))
            if head == ASSERT and stack:
                raise source.error(tokens.start[place], "assert inside an assertion; close the one before")
            if head in _NAMES:
                conjoins = head != OR
                parent = AND if not stack or stack[-1][1] != OR else OR
                merged = members if conjoins == (parent != OR) else _Members()
                stack.append((merged, head, place, merged.size))
                position += 2
                continue
            position, clauses = extra.read(kinds, places, position)
            _add_comparison(members, stack[-1][1] == OR, clauses)
        elif kind == CLOSE:
            _close(stack, root, tokens, source)
            position += 1
            continue
        elif kind == ATOM:
            members.atoms.append(references[position])
            position += 1
        elif kind == CONJUNCTION:
            _add(members, stack[-1][1] == OR, _clause(stream.conjunctions[0], references[position]))
            position += 1
        elif kind == TABLE:
            _add(members, stack[-1][1] == OR, stream.tables[references[position]])
            position += 1
        else:
            raise source.error(tokens.start[place], "expected a comparison, (and ..) or (or ..)")
        members.size += 1
    return join(atoms, extra.finish()), root.atoms, root.others


def _behind(kinds: list[int], position: int) -> int:
    """The position behind the statement that opens at ``position``."""
    depth = 0
    while True:
        depth += (kinds[position] == OPEN) - (kinds[position] == CLOSE)
        position += 1
        if depth == 0:
            return position


def _check_last(tokens: Tokens, place: int, source: Source) -> None:
    """Refuse assertions behind a command that asks or ends: to a solver they are not part of that question."""
    name = tokens.word(place + 1)
    if _COMMANDS[name]:
        behind = np.flatnonzero(tokens.kind[place + 2 :] == WORD) + place + 2
        late = behind[tokens.equal(behind, b"assert")]
        if late.size:
            raise source.error(tokens.start[late[0]], f"an assertion behind ({name}); put it before that")


def _clause(table: Table, number: int) -> Table:
    return conjunction(table.atoms[table.start[number] : table.start[number + 1]])


def _close(stack: list, root: _Members, tokens: Tokens, source: Source) -> None:
    members, operator, place, size = stack.pop()
    added = members.size - size
    if added == 0:
        raise source.error(
            tokens.start[place], f"({_NAMES[operator]}) is empty; give it an operand or remove it"
        )
    if operator == ASSERT and added != 1:
        raise source.error(
            tokens.start[place], f"assert takes one operand, got {added}; join them by (and ..)"
        )
    parent = stack[-1][0] if stack else root
    if parent is members:
        members.size = size + 1  # one operand of the statement around it
        return
    formula = members.disjoined() if operator == OR else members.conjoined()
    _add(parent, bool(stack) and stack[-1][1] == OR, formula)
    parent.size += 1


def _add(members: _Members, disjoins: bool, formula: Formula) -> None:
    """Add a formula to a disjunction (`disjoins`) or a conjunction, flattening where it can be."""
    if isinstance(formula, Table) and disjoins:
        members.tables.append(formula)
    elif isinstance(formula, Table) and formula.count == 1:
        members.atoms.extend(formula.atoms.tolist())
    elif isinstance(formula, Product) and not disjoins:
        for child in formula.children:  # which are no products
            _add(members, False, child)
    else:
        members.others.append(formula)


def _add_comparison(members: _Members, disjoins: bool, clauses: list[list[int]]) -> None:
    if len(clauses) == len(clauses[0]) == 1:
        members.atoms.append(clauses[0][0])
        return
    start = np.cumsum([0] + [len(clause) for clause in clauses])
    _add(members, disjoins, Table(start, np.array([atom for clause in clauses for atom in clause], np.int32)))


def _unknown_statement(tokens: Tokens, place: int, declaration: str) -> str:
    name = tokens.word(place + 1) if tokens.kind[place + 1] == WORD else "("
    if name == declaration.split()[0]:
        return f"malformed declaration; expected ({declaration})"
    return f"unknown statement {name!r}; expected {declaration.split()[0]} or assert"
