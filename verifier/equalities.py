"""Equalities between inputs solved for some of them, so that searches see only inputs that are free.

Where two inputs are never far apart, the search sees one of them and their difference.

An equality holds up to a slack: a checker that computes it in floats accepts points at which the real equation does
not quite hold. A solved input is then known up to a radius, and all that is bounded holds for everything within it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from provenn.bounds.graph.compose import Substitution
from provenn.specs import Equality, Query
from provenn.specs._literals import outward_upper

# Equalities with arithmetic that are solved, at most: elimination is dense in the worst case.
MOST_SOLVED = 1000
# The share of an input's range below which its difference to another input takes its place.
NEAR = 0.5


@dataclass
class _Solved:
    """An input as ``sum terms[v] * X[v] + constant``, up to ``slack``."""

    terms: dict[int, Fraction]
    constant: Fraction
    slack: Fraction


@dataclass(frozen=True)
class Difference:
    """``lower <= X[second] - X[first] <= upper`` in every clause."""

    first: int
    second: int
    lower: float
    upper: float


@dataclass
class _Elimination:
    count: int
    source: np.ndarray = field(init=False)
    solved: dict[int, _Solved] = field(default_factory=dict)
    shifted: dict[int, Difference] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.source = np.arange(self.count)

    def root(self, variable: int) -> int:
        """The input that stands for all that are equal to this one."""
        while self.source[variable] != variable:
            self.source[variable] = self.source[self.source[variable]]
            variable = int(self.source[variable])
        return variable

    def identify(self, equality: Equality) -> None:
        """Two inputs are the same; the one with the smaller position stays."""
        first, second = sorted(self.root(variable) for variable in equality.variables)
        self.source[second] = first

    def solve(self, equality: Equality) -> None:
        """Solve for the input with the largest factor; an equality without inputs left says nothing new."""
        found = _Solved({}, -equality.constant, equality.slack)
        for variable, factor in zip(equality.variables, equality.coefficients, strict=True):
            self._add(found, self.root(variable), factor)
        if not found.terms:
            return
        pivot = max(found.terms, key=lambda variable: (abs(found.terms[variable]), variable))
        factor = found.terms.pop(pivot)
        terms = {variable: -other / factor for variable, other in found.terms.items()}
        self.solved[pivot] = _Solved(terms, -found.constant / factor, found.slack / abs(factor))
        for other in self.solved.values():
            if pivot in other.terms:
                self._add(other, pivot, other.terms.pop(pivot))

    def shift(self, difference: Difference) -> None:
        """Let an input's place hold its difference to another, unless either already stands for something else."""
        first, second = difference.first, difference.second
        if any(self.root(v) != v or v in self.solved for v in (first, second)):
            return
        one = Fraction(1)
        self.solved[second] = _Solved({first: one, second: one}, Fraction(0), Fraction(0))
        self.shifted[second] = difference

    def _add(self, to: _Solved, variable: int, factor: Fraction) -> None:
        """Add ``factor * X[variable]``, in free inputs."""
        known = self.solved.get(variable, _Solved({variable: Fraction(1)}, Fraction(0), Fraction(0)))
        for other, more in known.terms.items():
            total = to.terms.get(other, Fraction(0)) + factor * more
            to.terms[other] = total
            if not total:
                del to.terms[other]
        to.constant += factor * known.constant
        to.slack += abs(factor) * known.slack


def solve(equalities: Sequence[Equality], count: int, differences: Sequence[Difference] = ()) -> Substitution:
    """Which of ``count`` inputs are free, and how the others follow from them; some places hold ``differences``.

    What the substitution allows contains all points at which the equalities hold: it may drop some of them, and
    rounds radii up.
    """
    work = _Elimination(count)
    plain = [equality for equality in equalities if _identifies(equality)]
    for equality in plain:
        work.identify(equality)
    while not np.array_equal(work.source, work.source[work.source]):
        work.source = work.source[work.source]
    others = [equality for equality in equalities if not _identifies(equality)]
    for equality in others[:MOST_SOLVED]:
        work.solve(equality)
    read = {variable for one in work.solved.values() for variable in one.terms}
    for difference in differences:
        if difference.second not in read:
            work.shift(difference)
            read.add(difference.first)
    try:
        return _substitution(work)
    except OverflowError:  # numbers that float64 does not have: these equalities stay rows
        work.solved.clear()
        work.shifted.clear()
        return _substitution(work)


def near(query: Query) -> list[Difference]:
    """Pairs of inputs whose difference every clause keeps in less than a share of the second one's own range."""
    composition, atoms, base = query.composition, query.atoms, query.base_rows
    assert composition is not None
    rows = base[np.diff(atoms.term_start)[base] == 2]
    start = atoms.term_start[rows]
    places = np.stack([atoms.column[start], atoms.column[start + 1]], 1) - composition.output_count
    factors = np.stack([atoms.coefficient[start], atoms.coefficient[start + 1]], 1)
    plain = (factors[:, 0] == -factors[:, 1]) & (np.abs(factors[:, 0]) == 1)
    plain &= ((places >= 0) & (places < len(composition.passed))).all(1)
    rows, pairs, sign = rows[plain], composition.passed[places[plain]], factors[plain, 0]
    above = outward_upper(atoms.value[rows], atoms.exact[rows], np.dtype(query.element_type))
    first, second = pairs.min(1), pairs.max(1)
    sign = np.where(pairs[:, 1] == second, -sign, sign)  # the factor of the second input
    lower, upper = query.input_box
    ends: dict[tuple[int, int], list[float]] = {}
    for one, other, factor, most in zip(first.tolist(), second.tolist(), sign.tolist(), above.tolist(), strict=True):
        widest = np.nextafter([lower[other] - upper[one], upper[other] - lower[one]], [-np.inf, np.inf]).tolist()
        found = ends.setdefault((one, other), widest)
        found[1 if factor > 0 else 0] = min(found[1], most) if factor > 0 else max(found[0], -most)
    return [
        Difference(one, other, low, high)
        for (one, other), (low, high) in ends.items()
        if low <= high and high - low < NEAR * (upper[other] - lower[other])
    ]


def _identifies(equality: Equality) -> bool:
    """Whether it says that two inputs are the same number."""
    return (
        len(equality.variables) == 2
        and equality.coefficients[0] == -equality.coefficients[1]
        and not equality.constant
        and not equality.slack
    )


def _substitution(work: _Elimination) -> Substitution:
    solved = np.array(sorted(work.solved), np.int64)
    terms = np.array(sorted({v for one in work.solved.values() for v in one.terms}), np.int64)
    column = {int(variable): place for place, variable in enumerate(terms)}
    weight, weight_radius = np.zeros((len(terms), len(solved))), np.zeros((len(terms), len(solved)))
    bias, radius = np.zeros(len(solved)), np.zeros(len(solved))
    source = work.source.copy()
    shifted = np.array(sorted(work.shifted), np.int64)
    for j, pivot in enumerate(solved):
        one = work.solved[int(pivot)]
        for variable, factor in one.terms.items():
            place = column[variable], j
            weight[place] = float(factor)
            weight_radius[place] = _above(abs(Fraction(weight[place]) - factor))
        bias[j] = float(one.constant)
        radius[j] = _above(abs(Fraction(bias[j]) - one.constant) + one.slack)
        source[work.source == pivot] = -1
    order = np.flatnonzero(source < 0)  # inputs that are equal to a solved one are solved alike
    which = np.searchsorted(solved, work.source[order])
    source[shifted] = shifted
    ends = [np.array([getattr(work.shifted[int(v)], end) for v in shifted]) for end in ("lower", "upper")]
    return Substitution(
        source, terms, order, weight[:, which], weight_radius[:, which], bias[which], radius[which], shifted, *ends
    )


def _above(value: Fraction) -> float:
    """The least float64 that is not smaller."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else float(np.nextafter(nearest, np.inf))
