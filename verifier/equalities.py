"""Equalities between inputs solved for some of them, so that searches see only inputs that are free.

An equality holds up to a slack: a checker that computes it in floats accepts points at which the real equation does
not quite hold. A solved input is then known up to a radius, and all that is bounded holds for everything within it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from provenn.bounds.graph.compose import Substitution
from provenn.specs import Equality

# Equalities with arithmetic that are solved, at most: elimination is dense in the worst case.
MOST_SOLVED = 1000


@dataclass
class _Solved:
    """An input as ``sum terms[v] * X[v] + constant``, up to ``slack``."""

    terms: dict[int, Fraction]
    constant: Fraction
    slack: Fraction


@dataclass
class _Elimination:
    count: int
    source: np.ndarray = field(init=False)
    solved: dict[int, _Solved] = field(default_factory=dict)

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


def solve(equalities: Sequence[Equality], count: int) -> Substitution:
    """Which of ``count`` inputs are free, and how the others follow from them.

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
    try:
        return _substitution(work)
    except OverflowError:  # numbers that float64 does not have: these equalities stay rows
        work.solved.clear()
        return _substitution(work)


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
    for j, pivot in enumerate(solved):
        one = work.solved[int(pivot)]
        for variable, factor in one.terms.items():
            place = column[variable], j
            weight[place] = float(factor)
            weight_radius[place] = _above(abs(Fraction(weight[place]) - factor))
        bias[j] = float(one.constant)
        radius[j] = _above(abs(Fraction(bias[j]) - one.constant) + one.slack)
        source[work.source == pivot] = -1
    return _with_followers(source, work.source, terms, solved, weight, weight_radius, bias, radius)


def _with_followers(
    source: np.ndarray, root: np.ndarray, terms: np.ndarray, solved: np.ndarray, *matrices: np.ndarray
) -> Substitution:
    """Inputs that are equal to a solved one are solved alike."""
    order = np.flatnonzero(source < 0)
    which = np.searchsorted(solved, root[order])
    weight, weight_radius, bias, radius = matrices
    return Substitution(
        source, terms, order, weight[:, which], weight_radius[:, which], bias[which], radius[which]
    )


def _above(value: Fraction) -> float:
    """The least float64 that is not smaller."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else float(np.nextafter(nearest, np.inf))
