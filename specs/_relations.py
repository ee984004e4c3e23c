"""What relations of inputs say about a query as a whole: boxes, room for a checker's rounding, equalities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import numpy as np

from provenn.specs._atoms import LOWER, UPPER, Atoms, join
from provenn.specs._composition import Equality
from provenn.specs._formula import ragged
from provenn.specs._literals import outward_upper
from provenn.specs._polynomial_comparisons import PolynomialComparisons, Row
from provenn.specs._polynomials import Monomial
from provenn.specs._programs import MULTIPLY, NUMBER, OUTPUT, Program, Step, run
from provenn.specs._query import Query, excluded
from provenn.specs._source import Source

_ROUNDS, _WORK = (64, 20_000), 100_000_000  # rounds at least and at most, terms in all of them
_GAIN = 1e-3  # of a width; less is not worth another round
_UNIT = 2.0**-52


def settle(query: Query, extra: PolynomialComparisons, source: Source) -> Query:
    """The query with boxes of inputs tightened by the relations of inputs that every clause has, with room in rows of
    inputs for what a checker's rounding accepts, and with its equalities. PropertyError for an input without bounds."""
    asserted = len(query.atoms)
    query = replace(query, asserted=asserted, rounded=frozenset(a for pair in extra.equalities for a in pair))
    lower, upper = (np.array(end) for end in query.input_box)
    empty = lower > upper
    if query.excludes:
        low, high = query._hull(query._inner_key)
        empty |= excluded(np.stack([-lower, upper]), np.stack([-low, high]))
    if empty.any():
        return replace(query, contradiction=_contradiction(query, int(np.argmax(empty))))
    relations = _Relations.of(query, extra)
    if len(relations.row):
        box = np.stack([lower, upper])
        relations.tighten(box)
        crossed = np.flatnonzero(box[0] > box[1])
        if crossed.size:
            name = query._input_name(int(crossed[0]))
            text = f"the relations of inputs leave no value for {name}"
            return replace(query, contradiction=text)
        query = _bounded(query, (lower, upper), (box[0], box[1]))
        lower, upper = box
    query.check(source)
    magnitude = np.maximum(np.abs(lower), np.abs(upper))
    query = _with_room(query, extra, magnitude, source)
    assert query.composition is not None
    equalities = _equalities(query, extra, magnitude)
    return replace(query, composition=replace(query.composition, equalities=equalities))


def _contradiction(query: Query, variable: int) -> str:
    if np.isin(variable, query.atoms.variable[query.base_inputs]):
        minus_lower, upper = query._base_box(query._nearest_key)
        if -minus_lower[variable] >= upper[variable]:
            return query.contradictory(variable)[1].split(";")[0]
    return f"no clause leaves a value for {query._input_name(variable)}"


@dataclass
class _Relations:
    """`sum a x <= right + constant + sum error |x|` over terms [terms] that belong to rows [rows]."""

    row: np.ndarray  # int64 [terms], sorted
    variable: np.ndarray  # int64 [terms]
    factor: np.ndarray  # float64 [terms]: a
    error: np.ndarray  # float64 [terms]
    right: np.ndarray  # float64 [rows], with the constant error; at or above the exact one

    @staticmethod
    def of(query: Query, extra: PolynomialComparisons) -> _Relations:
        """The linear relations of inputs that every clause has."""
        atoms, composition = query.atoms, query.composition
        assert composition is not None
        first, last = composition.output_count, composition.output_count + len(composition.passed)
        base = query.base_rows
        start, stop = atoms.term_start[base], atoms.term_start[base + 1]
        outside = np.concatenate([[0], np.cumsum((atoms.column < first) | (atoms.column >= last))])
        base = base[outside[start] == outside[stop]]
        rows, terms = [], []
        simple = base[~np.isin(base, np.array([extra.first + n for n in range(len(extra.atoms))], np.int64))]
        length = atoms.term_start[simple + 1] - atoms.term_start[simple]
        owner = np.repeat(np.arange(len(simple)), length)
        entry = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length) + atoms.term_start[simple][owner]
        variable = composition.passed[atoms.column[entry] - first]
        factor = atoms.coefficient[entry]
        both = atoms.side[simple] == LOWER | UPPER
        back = both[owner]
        number = len(simple) + np.cumsum(both) - 1  # of an equality's other side
        rows.append(np.concatenate([owner, number[owner[back]]]))
        right = np.concatenate([_above(atoms, simple, 1.0), _above(atoms, simple[both], -1.0)])
        variables, factors = np.concatenate([variable, variable[back]]), np.concatenate([factor, -factor[back]])
        for atom in base[np.isin(base, simple, invert=True)]:
            row = extra.atoms[atom - extra.first]
            assert isinstance(row, Row)
            if all(len(key) <= 1 for key in row.errors):
                for sign in (1, -1) if row.equal else (1,):
                    terms.append((row, sign))
        return _Relations(rows[0], variables, factors, np.zeros(len(factors)), right)._with(terms)

    def _with(self, terms: list[tuple[Row, int]]) -> _Relations:
        """And rows with arithmetic; -1 is the other side of an equality."""
        row, variable, factor, error, right = [self.row], [self.variable], [self.factor], [self.error], [self.right]
        for number, (each, sign) in enumerate(terms, len(self.right)):
            keys = sorted((set(each.terms) | set(each.errors)) - {()})
            row.append(np.full(len(keys), number))
            variable.append(np.array([~key[0] for key in keys], np.int64))
            factor.append(np.array([sign * float(each.terms.get(key, 0)) for key in keys]))
            error.append(np.array([_up(float(each.errors.get(key, 0))) for key in keys]))
            constant = sign * each.right + each.errors.get((), Fraction(0))
            right.append(np.array([_up(float(constant))]))
        return _Relations(*(np.concatenate(parts) for parts in (row, variable, factor, error, right)))

    def tighten(self, box: np.ndarray) -> None:
        """Shrink a box [2, inputs] (lower, upper) in place to what rows leave of it, nearly to a fixed point."""
        order = np.argsort(self.row, kind="stable")
        row, variable = self.row[order], self.variable[order]
        factor, error = self.factor[order], self.error[order]
        rows = len(self.right)
        terms = np.bincount(row, minlength=rows)
        start = np.concatenate([[0], np.cumsum(terms)[:-1]])
        sibling = np.where(np.arange(len(row)) == start[row], start[row] + 1, start[row])
        pair = (terms == 2)[row]
        least_rounds, most_rounds = _ROUNDS
        for _ in range(min(most_rounds, least_rounds + _WORK // max(1, len(row)))):
            lower, upper = box[0, variable], box[1, variable]
            with np.errstate(invalid="ignore", over="ignore"):
                least = np.where(factor > 0, factor * lower, factor * upper)
                least = np.where(factor == 0, 0.0, least)
                slack = np.where(error > 0, error * np.maximum(np.abs(lower), np.abs(upper)), 0.0)
            least = least - slack
            infinite = ~np.isfinite(least)
            finite = np.where(infinite, 0.0, least)
            total = np.bincount(row, finite, minlength=rows)
            open_ends = np.bincount(row, infinite, minlength=rows)
            size = np.bincount(row, np.abs(finite), minlength=rows) + np.abs(self.right)
            others = np.where(pair, finite[np.where(pair, sibling, 0)], total[row] - finite)
            exact = pair & (np.abs(factor) == 1) & (np.abs(factor[np.where(pair, sibling, 0)]) == 1) & (error == 0)
            exact &= self.right[row] == 0
            doubt = np.where(exact, 0.0, (terms[row] + 8) * _UNIT * size[row])
            bound = self.right[row] - others + doubt
            wide = np.where(bound >= 0, np.abs(factor) - error, np.abs(factor) + error)
            known = (open_ends[row] - infinite == 0) & (np.abs(factor) > error)
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                bound = bound / wide
                bound = np.where(exact, bound, bound + 4 * _UNIT * np.abs(bound))
            known &= np.isfinite(bound)
            before = box.copy()
            high, low = known & (factor > 0), known & (factor < 0)
            np.minimum.at(box[1], variable[high], bound[high])
            np.maximum.at(box[0], variable[low], -bound[low])
            if (box[0] > box[1]).any() or not _gained(before, box):
                return


def _gained(before: np.ndarray, after: np.ndarray) -> bool:
    changed = before != after
    if not changed.any():
        return False
    with np.errstate(invalid="ignore"):
        width = before[1] - before[0]
        gain = np.abs(before - after) > _GAIN * width
    return bool((changed & (gain | ~np.isfinite(width))).any())


def _up(value: float) -> float:
    return float(np.nextafter(value, np.inf)) if value else 0.0


def _above(atoms: Atoms, which: np.ndarray, sign: float) -> np.ndarray:
    return outward_upper(sign * atoms.value[which], atoms.exact[which], np.dtype(np.float64))


def _bounded(
    query: Query, old: tuple[np.ndarray, np.ndarray], new: tuple[np.ndarray, np.ndarray]
) -> Query:
    """The query with the improved sides of a box as further bounds of every clause."""
    variables, values, sides = [], [], []
    for before, after, side in ((old[0], new[0], LOWER), (old[1], new[1], UPPER)):
        better = np.flatnonzero(before != after)
        variables.append(better)
        values.append(after[better])
        sides.append(np.full(len(better), side, np.uint8))
    count = sum(len(part) for part in variables)
    if not count:
        return query
    derived = Atoms(
        is_input=np.ones(count, bool),
        side=np.concatenate(sides),
        strict=np.zeros(count, bool),
        variable=np.concatenate(variables).astype(np.int32),
        value=np.concatenate(values) + 0.0,
        exact=np.ones(count, bool),
        term_start=np.zeros(count + 1, np.int64),
        column=np.zeros(0, np.int32),
        coefficient=np.zeros(0),
        offset=np.zeros(count, np.int64),
        fractions={},
    )
    numbers = np.arange(len(query.atoms), len(query.atoms) + count)
    base = np.concatenate([query.base_inputs, numbers])
    return replace(query, atoms=join(query.atoms, derived), base_inputs=base)


def _with_room(query: Query, extra: PolynomialComparisons, magnitude: np.ndarray, source: Source) -> Query:
    """The query with the right sides of rows of inputs raised by what rounding could add."""
    value, exact = query.atoms.value.copy(), query.atoms.exact.copy()
    largest = float(np.finfo(query.element_type).max)
    for number, row in enumerate(extra.atoms, extra.first):
        if isinstance(row, Row) and not row.errors:
            continue
        if _only_inputs(row.program) and _peak(row.program, magnitude) > largest / 2:
            kind = query.element_type
            raise source.unsupported(row.offset, f"its terms may exceed the range of {kind}; rescale them")
        if isinstance(row, Row):
            value[number] = np.nextafter(float(row.right + Fraction(_room(row.errors, magnitude))), np.inf)
            exact[number] = True
    return replace(query, atoms=replace(query.atoms, value=value, exact=exact))


def _room(errors: dict[Monomial, Fraction], magnitude: np.ndarray) -> float:
    """At or above the errors' sum over a box of these magnitudes."""
    total = 0.0
    for key, factor in errors.items():
        total += float(np.prod([float(factor), *(magnitude[~each] for each in key)]))
    return total * (1 + 1e-9)


def _only_inputs(program: Program) -> bool:
    return all(kind != OUTPUT for side in (program.left, program.right) for kind, _ in side)


def _peak(program: Program, magnitude: np.ndarray) -> float:
    """The largest magnitude that a computation of inputs meets on its way."""
    met = [0.0]

    def value(step: Step) -> float:
        kind, of = step
        met.append(abs(float(of)) if kind == NUMBER else float(magnitude[of]))
        return met[-1]

    def apply(kind: int, first: float, second: float) -> float:
        met.append(abs(first) * abs(second) if kind == MULTIPLY else abs(first) + abs(second))
        return met[-1]

    for side in (program.left, program.right):
        run(side, value, apply)
    return max(met)


def _equalities(query: Query, extra: PolynomialComparisons, magnitude: np.ndarray) -> tuple[Equality, ...]:
    """Linear equalities of inputs that every clause has."""
    atoms, composition = query.atoms, query.composition
    assert composition is not None
    outputs, passed = composition.output_count, composition.passed
    base = query.base_rows
    unfit = (atoms.column < outputs) | (atoms.column >= outputs + len(passed)) | (atoms.coefficient == 0)
    unfit = np.concatenate([[0], np.cumsum(unfit)])
    base = base[unfit[atoms.term_start[base]] == unfit[atoms.term_start[base + 1]]]
    found = []
    equal = base[atoms.side[base] == LOWER | UPPER]
    owner, entry = ragged(atoms.term_start, equal)
    stops = np.cumsum(np.bincount(owner, minlength=len(equal))).tolist()
    columns = passed[atoms.column[entry] - outputs].tolist()
    factors = [_fraction(factor) for factor in atoms.coefficient[entry].tolist()]
    values = atoms.value[equal].tolist()
    start = 0
    for number, (atom, stop) in enumerate(zip(equal.tolist(), stops, strict=True)):
        row = extra.atoms[atom - extra.first] if atom >= extra.first else None
        right = row.right if isinstance(row, Row) else _fraction(values[number])
        found.append(_equality(columns[start:stop], factors[start:stop], right, _fraction(0.0)))
        start = stop
    asserted = set(query.base_rows.tolist()) if extra.equalities else set()
    for first, second in extra.equalities:
        row = extra.atoms[first - extra.first]
        if not isinstance(row, Row) or not {first, second} <= asserted or not row.terms:
            continue
        if all(len(key) == 1 for key in row.terms):
            slack = Fraction(float(np.nextafter(_room(row.errors, magnitude), np.inf)))
            found.append(_equality([~key[0] for key in row.terms], list(row.terms.values()), row.right, slack))
    return tuple(found)


@lru_cache(1024)
def _fraction(value: float) -> Fraction:
    return Fraction(value)


def _equality(variables: list[int], factors: list[Fraction], right: Fraction, slack: Fraction) -> Equality:
    order = sorted(range(len(variables)), key=variables.__getitem__)
    return Equality(tuple(variables[k] for k in order), tuple(factors[k] for k in order), right, slack)
