"""A query over fewer inputs: equalities that every clause has are solved, and what is left says the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from provenn.bounds.graph.compose import Substitution
from provenn.specs import ClauseBatch, Query
from provenn.specs._atoms import LOWER, UPPER

# Relative errors of a solved input's range, and of a row that an equality makes void.
_OUTWARD, _VOID = 1e-12, 1e-6


@dataclass(frozen=True, eq=False)
class Reduced:
    """What the search sees of a query: boxes of the free inputs, and rows.

    The rows are those of the query without the equalities that are solved; a row more for every end of a solved
    input's own box that its range may pass. ``columns``: of the query; those of solved inputs follow.
    """

    query: Query
    substitution: Substitution
    columns: int

    @property
    def clause_count(self) -> int:
        return self.query.clause_count

    @property
    def element_type(self) -> str:
        return self.query.element_type

    @property
    def input_count(self) -> int:
        """How many inputs are free."""
        return len(self.substitution.free)

    @property
    def output_count(self) -> int:
        """Columns of the query, and one for every solved input."""
        return self.columns + len(self.substitution.solved)

    @cached_property
    def read(self) -> np.ndarray:
        """Columns that some row may read, sorted."""
        atoms = self.query.atoms
        left = np.setdiff1d(np.arange(len(atoms)), np.setdiff1d(self.query.base_rows, self._rest.base_rows))
        return np.union1d(atoms.column[entries(atoms.term_start, left)], np.arange(self.columns, self.output_count))

    @cached_property
    def input_box(self) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), float64 ``[free]``: around the boxes of all clauses."""
        return self.substitution.together(*self.query.input_box)

    @cached_property
    def fixed(self) -> np.ndarray:
        """bool ``[free]``: which have the same literal as both bounds in every clause, or are equal to such a one."""
        found = self.substitution.merged(np.logical_or, self.query.fixed)
        found[self.substitution.place[self.substitution.shifted]] = False
        return found

    def batches(self, maximum: int) -> Iterator[ClauseBatch]:
        """As the query's own; clauses in which equal inputs exclude each other are left out, too."""
        for batch in self._rest.batches(maximum):
            yield self._batch(batch)

    @cached_property
    def _rest(self) -> Query:
        """The query without rows that hold, or nearly, wherever the substitution leads.

        To leave out a row can only make the violation larger, and a witness is judged by the query itself.
        """
        query, sub = self.query, self.substitution
        composition, atoms, base = query.composition, query.atoms, query.base_rows
        assert composition is not None
        length = np.diff(atoms.term_start)[base]
        owner = np.repeat(np.arange(len(base)), length)
        terms = entries(atoms.term_start, base)
        place = atoms.column[terms] - composition.output_count
        about_inputs = (place >= 0) & (place < len(composition.passed))
        other = np.asarray(np.bincount(owner, ~about_inputs, len(base)) > 0)
        variable = composition.passed[place[about_inputs]]
        shape = (len(base), len(sub.source))
        rows = csr_array((atoms.coefficient[terms][about_inputs], (owner[about_inputs], variable)), shape)
        size = abs(rows).max(1).toarray().reshape(-1)
        constant = rows[:, sub.solved] @ sub.bias
        left, (lower, upper) = rows @ self._of_free, self.input_box
        slack = _VOID * (np.abs(constant) + size)
        most = left.maximum(0) @ upper + left.minimum(0) @ lower + constant
        least = left.maximum(0) @ lower + left.minimum(0) @ upper + constant
        one_side = (atoms.side[base] != LOWER | UPPER) | (least >= atoms.value[base] - slack)
        void = np.asarray(~other & one_side & (most <= atoms.value[base] + slack))
        return replace(query, base_rows=base[~void]) if void.any() else query

    @property
    def _of_free(self) -> csr_array:
        """The factors ``[inputs, free]`` of free inputs in all inputs."""
        sub = self.substitution
        equal = np.setdiff1d(np.flatnonzero(sub.place >= 0), sub.solved)
        term, solved = np.nonzero(sub.weight)
        row, column = np.concatenate([equal, sub.solved[solved]]), [sub.place[equal], sub.place[sub.terms[term]]]
        value = np.concatenate([np.ones(len(equal)), sub.weight[term, solved]])
        return csr_array((value, (row, np.concatenate(column))), (len(sub.source), self.input_count))

    def _batch(self, batch: ClauseBatch) -> ClauseBatch:
        lower, upper = self.substitution.together(batch.lower, batch.upper)
        witness = self.substitution.together(batch.witness_lower, batch.witness_upper)
        kept: np.ndarray = np.all(lower <= upper, axis=1)
        solved = self._solved_rows(batch, lower, upper)
        number = np.cumsum(kept) - 1
        alive = kept[batch.clause_box]
        clause = np.cumsum(alive) - 1
        owner = np.concatenate([batch.row_clause, *(rows[0] for rows in solved)])
        length = np.concatenate([np.diff(batch.row_start), *(np.ones(len(rows[0]), np.int64) for rows in solved)])
        start = np.concatenate([[0], np.cumsum(length)])
        column = np.concatenate([batch.column, *(rows[1] for rows in solved)])
        coefficient = np.concatenate([batch.coefficient, *(rows[2] for rows in solved)])
        threshold = np.concatenate([batch.threshold, *(rows[3] for rows in solved)])
        order = np.argsort(owner, kind="stable")
        order = order[alive[owner[order]]]
        entry = entries(start, order)
        return replace(
            batch, offset=batch.offset[alive], lower=lower[kept], upper=upper[kept],
            witness_lower=witness[0][kept], witness_upper=witness[1][kept],
            clause_box=number[batch.clause_box[alive]], row_clause=clause[owner[order]],
            row_start=np.concatenate([[0], np.cumsum(length[order])]), column=column[entry],
            coefficient=coefficient[entry], threshold=threshold[order],
        )  # fmt: skip

    def _solved_rows(
        self, batch: ClauseBatch, lower: np.ndarray, upper: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Rows (clause, column, coefficient, threshold) that keep solved inputs inside their boxes."""
        sub = self.substitution
        if not len(sub.solved):
            return []
        place = sub.place[sub.terms]
        centre, half = 0.5 * (lower + upper)[:, place], 0.5 * (upper - lower)[:, place]
        weight = np.abs(sub.weight) + sub.weight_radius
        middle, reach = centre @ sub.weight + sub.bias, half @ weight + sub.radius
        size = np.abs(centre) @ weight + np.abs(sub.bias) + reach
        reach = reach + _OUTWARD * size + np.abs(centre) @ sub.weight_radius
        found = []
        for sign, ends in ((1.0, batch.upper[:, sub.solved]), (-1.0, -batch.lower[:, sub.solved])):
            passes = (sign * middle + reach > ends)[batch.clause_box]
            clause, which = np.nonzero(passes)
            threshold = ends[batch.clause_box[clause], which]
            found.append((clause, self.columns + which, np.full(len(clause), sign), threshold))
        return found


def entries(start: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The numbers ``start[i] .. start[i + 1] - 1`` for every i in ``chosen``, one after the other."""
    length = np.diff(start)[chosen]
    ends = np.cumsum(length)
    total = int(ends[-1]) if len(ends) else 0
    found: np.ndarray = np.arange(total) + np.repeat(start[:-1][chosen] - ends + length, length)
    return found
