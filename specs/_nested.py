"""The general part of the reader: nested and/or, arithmetic, and everything that deserves an error."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from provenn.specs._arithmetic import read_expression
from provenn.specs._atoms import EQ, GE, GT, LE, LOWER, LT, OPERATIONS, UPPER, Atoms, join
from provenn.specs._formula import Formula, Product, Table, alternatives, conjunction, product
from provenn.specs._literals import nearest_of
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens
from provenn.specs._source import Source
from provenn.specs._stream import AND, ASSERT, ATOM, CONJUNCTION, OR, TABLE, Stream

# Commands to a solver that state nothing, and whether they ask or end: what follows is no part of the question.
_COMMANDS = {
    "set-logic": False, "set-option": False, "set-info": False, "check-sat": True, "get-model": True, "get-value": True,
    "exit": True,
}  # fmt: skip
_NAMES = {ASSERT: "assert", AND: "and", OR: "or"}


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
    stream: Stream, tokens: Tokens, atoms: Atoms, counts: tuple[int, int], source: Source
) -> tuple[Atoms, list[int], list[Formula]]:
    """Read the statements that the flat reader left.

    Returns all atoms (those with arithmetic appended), the atoms asserted outright, and the formulas asserted
    beside them.
    """
    kinds, references, places = stream.kind.tolist(), stream.reference.tolist(), stream.token.tolist()
    root = _Members()
    extra = _ExtraAtoms(len(atoms), tokens, counts, source)
    stack: list[tuple[_Members, int, int, int]] = []  # members, operator, token, size at the opening
    position, end = 0, len(kinds)
    while position < end:
        kind, place = kinds[position], places[position]
        if not stack and kind != OPEN:
            raise source.error(tokens.start[place], "expected a statement (declare-const ..) or (assert ..)")
        members = stack[-1][0] if stack else root
        if kind == OPEN:
            head = kinds[position + 1]
            if not stack and head == WORD and tokens.word(place + 1) in _COMMANDS:
                _check_last(tokens, place, source)
                position = _behind(kinds, position)
                continue
            if not stack and head != ASSERT:
                raise source.error(tokens.start[place], _unknown_statement(tokens, place))
            if head == ASSERT and stack:
                raise source.error(tokens.start[place], "assert inside an assertion; close the one before")
            if head in _NAMES:
                conjoins = head != OR
                parent = AND if not stack or stack[-1][1] != OR else OR
                merged = members if conjoins == (parent != OR) else _Members()
                stack.append((merged, head, place, merged.size))
                position += 2
                continue
            position, number = extra.read(kinds, places, position)
            members.atoms.append(number)
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


def _unknown_statement(tokens: Tokens, place: int) -> str:
    name = tokens.word(place + 1) if tokens.kind[place + 1] == WORD else "("
    if name == "declare-const":
        return "malformed declaration; expected (declare-const X_0 Real)"
    return f"unknown statement {name!r}; expected declare-const or assert"


class _ExtraAtoms:
    """Comparisons that the flat reader does not know: arithmetic, and what is malformed."""

    def __init__(self, first: int, tokens: Tokens, counts: tuple[int, int], source: Source):
        self.first, self.tokens, self.counts, self.source = first, tokens, counts, source
        self.rows: list[tuple] = []

    def read(self, kinds: list[int], places: list[int], position: int) -> tuple[int, int]:
        """Read the comparison opening at `position`: (position behind it, its atom's number)."""
        place = places[position]
        name = self.tokens.word(place + 1) if kinds[position + 1] == WORD else None
        if name not in OPERATIONS:
            shown = "'('" if name is None else repr(name)
            raise self._error(place, f"unknown operator {shown}; supported: and, or, <=, <, >=, >, =, ==")
        operands: list[dict[int | None, Fraction]] = []
        position += 2
        while kinds[position] != CLOSE:
            if kinds[position] not in (OPEN, WORD):
                raise self._error(places[position], "a formula stands where a number or variable is expected")
            position, operand = read_expression(
                kinds, places, position, self.tokens, self.counts, self.source
            )
            operands.append(operand)
        if len(operands) != 2:
            raise self._error(place, f"{name} takes two operands, got {len(operands)}")
        self.rows.append(self._normal(OPERATIONS[name], operands[0], operands[1], place))
        return position + 1, self.first + len(self.rows) - 1

    def _error(self, place: int, message: str) -> Exception:
        return self.source.error(self.tokens.start[place], message)

    def _normal(self, operation: int, left: dict, right: dict, place: int) -> tuple:
        """(is input, side, strict, variable, right side, columns, coefficients, offset) of left op right."""
        terms = dict(left)
        for key, value in right.items():
            terms[key] = terms.get(key, Fraction(0)) - value
        constant = -terms.pop(None, Fraction(0))
        if not terms:
            raise self._error(place, "compares two numbers; expected a variable on one side")
        inputs = [key for key in terms if key < 0]  # inputs are ~index, outputs index
        strict = operation in (LT, GT)
        offset = int(self.tokens.start[place])
        if inputs:
            if len(terms) > 1 or not terms[inputs[0]]:
                raise self._error(
                    place,
                    "relates an input to another variable; supported: an input and a number, "
                    "or outputs and numbers",
                )
            factor = terms[inputs[0]]
            upper = (operation in (LE, LT)) == (factor > 0)
            side = LOWER | UPPER if operation == EQ else UPPER if upper else LOWER
            return True, side, strict, ~inputs[0], constant / factor, [], [], offset
        if operation in (GE, GT):
            terms, constant = {key: -value for key, value in terms.items()}, -constant
        # a positive factor makes all coefficients integers: they are then exact in float64
        factor = Fraction(
            math.lcm(*(value.denominator for value in terms.values())),
            math.gcd(*(value.numerator for value in terms.values())) or 1,
        )
        columns = sorted(terms)
        coefficients = [terms[column] * factor for column in columns]
        if any(abs(value) >= 2**1000 or Fraction(float(value)) != value for value in coefficients):
            raise self._error(place, "coefficients have too many digits; write them with at most 15")
        side = LOWER | UPPER if operation == EQ else UPPER
        return False, side, strict, -1, constant * factor, columns, [float(v) for v in coefficients], offset

    def finish(self) -> Atoms:
        """The atoms read, in the layout of `Atoms`."""
        value, exact = np.zeros(len(self.rows)), np.zeros(len(self.rows), bool)
        for number, row in enumerate(self.rows):
            try:
                value[number], exact[number] = nearest_of(row[4])
            except OverflowError:
                raise self.source.error(row[7], "a number exceeds the range of float64") from None
        column = [c for row in self.rows for c in row[5]]
        return Atoms(
            is_input=np.array([row[0] for row in self.rows], bool),
            side=np.array([row[1] for row in self.rows], np.uint8),
            strict=np.array([row[2] for row in self.rows], bool),
            variable=np.array([row[3] for row in self.rows], np.int32),
            value=value,
            exact=exact,
            term_start=np.concatenate([[0], np.cumsum([len(row[5]) for row in self.rows])]).astype(np.int64),
            column=np.array(column, np.int32),
            coefficient=np.array([c for row in self.rows for c in row[6]], np.float64),
            offset=np.array([row[7] for row in self.rows], np.int64),
            fractions={n: row[4] for n, row in enumerate(self.rows) if not row[0]},
        )
