"""A property: for which inputs and outputs is it violated?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from provenn.specs import _formula as formulas
from provenn.specs._atoms import LOWER, UPPER, Atoms
from provenn.specs._composition import Composition
from provenn.specs._formula import Formula
from provenn.specs._literals import outward_upper, to_element
from provenn.specs._source import Source

_BOX_ENTRIES = 1 << 21  # boxes times inputs per batch: 32 MB per array of boxes
ELEMENT_TYPES = ("float16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class ClauseBatch:
    """Consecutive clauses of a query, those with an empty box left out.

    A clause is violated at x in its box, y = network(x), if ALL its rows satisfy `row @ y <= threshold`.
    """

    first: int  # number of the first clause looked at
    count: int  # clauses looked at: len(clause_box) + the dropped ones
    offset: np.ndarray  # int64 [clauses]: number of each clause in the query, less `first`
    # float64 [boxes, inputs]: hull of the exact decimal box and of the box with literals rounded to the
    # element type, outward
    lower: np.ndarray
    upper: np.ndarray
    # element type [boxes, inputs]: the box that a witness must lie in; may be empty where bounds are strict
    witness_lower: np.ndarray
    witness_upper: np.ndarray
    clause_box: np.ndarray  # int64 [clauses]
    row_clause: np.ndarray  # int64 [rows], sorted; every clause has a row
    row_start: np.ndarray  # int64 [rows + 1]
    column: np.ndarray  # int64 [terms]: flat output index; no index occurs twice in a row unless with zeros
    coefficient: np.ndarray  # float64 [terms], exact
    threshold: np.ndarray  # float64 [rows], at or above the exact and the rounded right side

    @property
    def dropped(self) -> int:
        """How many clauses were left out because their box is empty."""
        return self.count - len(self.clause_box)


@dataclass(frozen=True, eq=False)
class Query:
    """A property as VNN-LIB states it: is there an input that satisfies all assertions?

    The region to prove is, per clause, the hull of the exact decimal box and of the box with its literals
    rounded to nearest in `element_type` (most decimals are not float32 numbers, and the competition's checker
    compares in float32). Clauses are the disjuncts of the assertions' normal form. They are numbered 0 ..
    clause_count - 1 and never multiplied out; `clause_count` may be astronomically large.
    """

    source: Source
    input_count: int
    output_count: int
    element_type: str
    atoms: Atoms
    base_inputs: np.ndarray  # atoms of bounds that every clause has
    base_rows: np.ndarray  # atoms of rows that every clause has
    formula: Formula | None  # the rest
    composition: Composition | None = None  # of VNN-LIB 2: networks and tensors; None for 1.0
    asserted: int | None = None  # atoms from this one on only follow from the others
    rounded: frozenset[int] = frozenset()  # both sides of equalities that a checker rounds
    contradiction: str | None = None  # of VNN-LIB 2: why no input satisfies the assertions about inputs
    input_shapes: tuple[tuple[int, ...], ...] | None = None  # of all inputs, where a property was made in Python
    all_outputs: bool = True  # whether the network has no others; one made in Python may mention the first ones only

    @staticmethod
    def build(
        source: Source,
        counts: tuple[int, int],
        element_type: str,
        atoms: Atoms,
        base: np.ndarray,
        children: list[Formula],
        composition: Composition | None = None,
    ) -> Query:
        """A query from its atoms: `base` and `children` are asserted together. That of 1.0 is checked: `check`."""
        if element_type not in ELEMENT_TYPES:
            raise ValueError(f"element_type={element_type!r}; expected one of {', '.join(ELEMENT_TYPES)}")
        # factors with input bounds are the most significant: neighbouring clauses then share their box
        children = sorted(children, key=lambda child: not _mentions_input(child, atoms))
        is_input = atoms.is_input[base]
        query = Query(
            Source(source.path, b""),
            *counts,
            element_type,
            atoms,
            base[is_input],
            base[~is_input],
            formulas.product(children) if children else None,
            composition,
        )
        if composition is None:
            query.check(source)
        return query

    @property
    def path(self) -> Path:
        """The file that the property was read from."""
        return self.source.path

    @property
    def clause_count(self) -> int:
        """How many clauses the property has; a Python integer of any size."""
        return self.formula.count if self.formula is not None else 1

    @cached_property
    def fixed(self) -> np.ndarray:
        """bool [inputs]: which inputs have the same literal as lower and upper bound, the same in every clause."""
        lower, upper = self._hull(self._nearest_key)
        return lower == upper

    @cached_property
    def input_box(self) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), float64 [inputs]: a box around the boxes of all clauses."""
        return self._hull(self._outward_key)

    @cached_property
    def witness_box(self) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), element type [inputs]: a box around the witness boxes of all clauses."""
        lower, upper = self._hull(self._witness_key)
        return lower.astype(self._element), upper.astype(self._element)

    def witness_bounds(self, clause: int) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), element type [inputs]: where a witness of this clause must lie (may be empty).

        Literals are rounded to nearest in the element type; a strict bound excludes its literal.
        """
        if not 0 <= clause < self.clause_count:
            raise IndexError(f"clause={clause}, expected 0 to {self.clause_count - 1}")
        values = np.stack(self._base_box(self._witness_key))
        if self.formula is not None:
            _, atom = formulas.decode(self.formula, formulas.indices(clause, 1, self.clause_count))
            atom = atom[self.atoms.is_input[atom]]
            self._tighten(values[None], np.zeros(len(atom), np.int64), atom, self._witness_key)
        return (-values[0]).astype(self._element), values[1].astype(self._element)

    def violated(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether input `x` and the network's output `y` satisfy all assertions, with tolerance zero.

        x, y: flat, x in the element type. As the competition's checker: input bounds are compared in the
        element type with literals rounded to nearest, output rows in float64. Strict comparisons are strict.
        Values that are not finite never violate a property.

        VNN-LIB 2: `y` holds hidden tensors and outputs, `composition.output_count` in the element type. Everything is
        compared and computed in that type, in the order in which it is written. Of real numbers, what is no bound
        of an input and no equality with arithmetic must hold exactly too.
        """
        x, y = np.asarray(x).reshape(-1), np.asarray(y).reshape(-1)
        outputs = self.output_count if self.composition is None else self.composition.output_count
        if len(x) != self.input_count or len(y) != outputs:
            raise ValueError(f"got {len(x)} inputs and {len(y)} outputs, expected {self.input_count} and {outputs}")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return False
        with np.errstate(over="ignore"):
            in_type = x.astype(self._element)
        if not (in_type == x).all():
            return False  # not a value that the network can be given
        if self.composition is None:
            truth = self._truth(in_type, y.astype(np.float64))
        else:
            truth = truth_in_type(self, in_type, y.astype(self._element))
        if not (truth[self.base_inputs].all() and truth[self.base_rows].all()):
            return False
        return self.formula is None or formulas.holds(self.formula, truth)

    def batches(self, maximum: int) -> Iterator[ClauseBatch]:
        """All clauses in order, at most `maximum` looked at per batch (fewer where boxes are large).

        Memory: rows and boxes of one batch. Clauses whose box is empty are left out; a batch may be empty.
        """
        from provenn.specs._batch import assemble

        if maximum < 1:
            raise ValueError(f"maximum={maximum}, expected at least 1")
        first = 0
        while first < self.clause_count:
            batch = assemble(self, first, min(maximum, self.clause_count - first), _BOX_ENTRIES)
            yield batch
            first += batch.count

    # Bounds as keys and values: key 2 i is minus the lower bound of input i, key 2 i + 1 its upper bound, so
    # that the smaller value is the tighter one for both.

    @property
    def _element(self) -> np.dtype:
        return np.dtype(self.element_type)

    def _sides(self, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(position in `atoms`, key, nearest value with the key's sign, atom) of the input bounds in `atoms`."""
        side = self.atoms.side[atoms]
        bound = self.atoms.is_input[atoms]
        low = np.flatnonzero(bound & ((side & LOWER) != 0))
        high = np.flatnonzero(bound & ((side & UPPER) != 0))
        position = np.concatenate([low, high])
        atom = atoms[position]
        key = 2 * self.atoms.variable[atom].astype(np.int64)
        key[len(low) :] += 1
        value = self.atoms.value[atom]
        value[: len(low)] *= -1.0
        return position, key, value, atom

    def _nearest_key(self, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position, key, value, _ = self._sides(atoms)
        return position, key, value

    def _outward_key(self, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position, key, value, atom = self._sides(atoms)
        return position, key, outward_upper(value, self.atoms.exact[atom], self._element)

    def _inner_key(self, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As the outward key, one number less for bounds that exclude their exact literal; see `excluded`."""
        position, key, value, atom = self._sides(atoms)
        value = outward_upper(value, self.atoms.exact[atom], self._element)
        inside = self.atoms.strict[atom] & self.atoms.exact[atom]
        with np.errstate(over="ignore", under="ignore"):
            return position, key, np.where(inside, np.nextafter(value, -np.inf), value)

    @cached_property
    def excludes(self) -> bool:
        """Whether some bound of an input is strict."""
        return bool((self.atoms.strict & self.atoms.is_input).any())

    def _rounded_key(self, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position, key, value, _ = self._sides(atoms)
        return position, key, to_element(value, self._element).astype(np.float64)

    def _witness_key(self, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position, key, value, atom = self._sides(atoms)
        rounded = to_element(value, self._element)
        limit = np.finfo(self._element).max
        rounded = np.clip(rounded, -limit, limit)
        with np.errstate(over="ignore", under="ignore"):
            below = np.nextafter(rounded, self._element.type(-np.inf))
        return position, key, np.where(self.atoms.strict[atom], below, rounded).astype(np.float64)

    def _tighten(self, values: np.ndarray, owner: np.ndarray, atoms: np.ndarray, kind) -> None:
        """Apply input bounds in place to values [boxes, 2, inputs] (minus lower, upper); owner: atom's box."""
        position, key, value = kind(atoms)
        np.minimum.at(values, (owner[position], key % 2, key // 2), value)

    def _base_box(self, kind) -> tuple[np.ndarray, np.ndarray]:
        """(minus lower, upper) of the bounds that every clause has; infinite where there is none. Read only."""
        known = self._base_boxes.get(kind.__name__)
        if known is None:
            values = np.full((1, 2, self.input_count), np.inf)
            self._tighten(values, np.zeros(len(self.base_inputs), np.int64), self.base_inputs, kind)
            known = self._base_boxes[kind.__name__] = (values[0, 0], values[0, 1])
        return known

    @cached_property
    def _base_boxes(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    def _hull(self, kind) -> tuple[np.ndarray, np.ndarray]:
        values = np.stack(self._base_box(kind))
        if self.formula is not None:
            key, value = formulas.hull(self.formula, self.atoms.is_input, kind)
            np.minimum.at(values, (key % 2, key // 2), value)
        return -values[0], values[1]

    def _truth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """bool [atoms] at inputs x (element type) and outputs y (float64)."""
        atoms = self.atoms
        value = np.empty(len(atoms))
        bound = atoms.is_input
        value[bound] = x[atoms.variable[bound]]
        row = np.flatnonzero(~bound)
        if row.size:
            terms = atoms.coefficient * y[atoms.column]
            value[row] = np.add.reduceat(terms, atoms.term_start[row])
        right = atoms.value.copy()
        right[bound] = to_element(right[bound], self._element)
        truth = _compared(atoms, value, right)
        for atom, exact_right in atoms.fractions.items():
            terms = slice(atoms.term_start[atom], atoms.term_start[atom + 1])
            pairs = zip(atoms.coefficient[terms], y[atoms.column[terms]], strict=True)
            left = sum((Fraction(c) * Fraction(v) for c, v in pairs), Fraction(0))
            equal = atoms.side[atom] == LOWER | UPPER
            truth[atom] = (
                left == exact_right
                if equal
                else left < exact_right
                if atoms.strict[atom]
                else left <= exact_right
            )
        return truth

    def check(self, source: Source) -> None:
        """PropertyError for an unbounded input and, in VNN-LIB 1.0, for a contradictory global box or no output row."""
        if self.composition is None:
            minus_lower, upper = self._base_box(self._nearest_key)
            wrong = np.flatnonzero(-minus_lower > upper)
            if wrong.size:
                raise source.error(*self.contradictory(int(wrong[0])))
        lower, upper = self.input_box
        for values, side, sign in ((lower, "lower", ">="), (upper, "upper", "<=")):
            missing = np.flatnonzero(~np.isfinite(values))
            if missing.size:
                raise self.unbounded(int(missing[0]), side, sign, source)
        if self.composition is None and self.atoms.is_input.all():
            raise source.error(len(source.data), "no assertion mentions an output; is the property complete?")

    def unbounded(self, variable: int, side: str, sign: str, source: Source) -> Exception:
        """The error that an input has no bound on a side."""
        name = self._input_name(variable)
        where = "in some clause" if self.formula is not None else "anywhere"
        offset = source.data.find(f"{name} ".encode())
        if offset < 0 and self.composition is not None:
            offset = next(t.offset for _, t, first in self.composition.inputs if first <= variable < first + t.size)
        return source.unsupported(
            max(0, offset), f"input {name} has no {side} bound {where}; add (assert ({sign} {name} ..))"
        )

    def contradictory(self, variable: int) -> tuple[int, str]:
        """(offset, message) of contradictory bounds of an input that every clause has."""
        atoms = self.base_inputs[self.atoms.variable[self.base_inputs] == variable]
        value, side = self.atoms.value[atoms], self.atoms.side[atoms]
        low = atoms[(side & LOWER) != 0][np.argmax(value[(side & LOWER) != 0])]
        high = atoms[(side & UPPER) != 0][np.argmin(value[(side & UPPER) != 0])]
        later = max(low, high, key=lambda atom: self.atoms.offset[atom])
        return (
            int(self.atoms.offset[later]),
            f"contradictory bounds: {self._input_name(variable)} has lower bound {float(self.atoms.value[low])!r} and "
            f"upper bound {float(self.atoms.value[high])!r}; no input exists, mend one of them",
        )

    def _input_name(self, variable: int) -> str:
        return f"X_{variable}" if self.composition is None else self.composition.input_name(variable)


def excluded(outward: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """bool [..., inputs]: whether a box is a single literal that one of its bounds excludes.

    outward, inner: [..., 2, inputs] (minus lower, upper). Both readings of the literal agree on that: it is exact.
    """
    point = -outward[..., 0, :] == outward[..., 1, :]
    return point & (-inner[..., 0, :] > inner[..., 1, :])


def truth_in_type(query: Query, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool [atoms] at inputs and outputs in the element type, as a checker of VNN-LIB 2 computes it."""
    atoms, composition = query.atoms, query.composition
    assert composition is not None
    element = x.dtype
    real = composition.networks[0].inputs[0].type == "real"
    columns = np.zeros(composition.column_count)
    columns[: len(y)] = y
    columns[len(y) : len(y) + len(composition.passed)] = x[composition.passed]
    value = np.empty(len(atoms))
    bound = atoms.is_input
    value[bound] = x[atoms.variable[bound]]
    row = np.flatnonzero(~bound)
    if row.size:  # without arithmetic: an element, or the difference of two, whose sign is right
        value[row] = np.add.reduceat(atoms.coefficient * columns[atoms.column], atoms.term_start[row])
    truth = _compared(atoms, value, to_element(atoms.value, element))
    if real:
        truth &= bound | _compared(atoms, value, atoms.value)
    for atom, program in atoms.programs.items():
        truth[atom] = program.holds(x, y)
        if real and truth[atom] and atom not in query.rounded:
            truth[atom] = program.holds_exactly(x, y)
    truth[query.asserted :] = True
    return truth


def _compared(atoms: Atoms, value: np.ndarray, right: np.ndarray) -> np.ndarray:
    less = np.where(atoms.strict, value < right, value <= right)
    greater = np.where(atoms.strict, value > right, value >= right)
    truth = np.where(atoms.is_input & (atoms.side == LOWER), greater, less)
    return np.where(atoms.side == LOWER | UPPER, value == right, truth)


def _mentions_input(formula: Formula, atoms: Atoms) -> bool:
    return any(
        bool(atoms.is_input[node.atoms].any())
        for node in formulas.postorder(formula)
        if isinstance(node, formulas.Table)
    )
