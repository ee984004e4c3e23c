"""The linear program of a domain: the network where it is linear, the hulls of its relaxations elsewhere.

Every value is carried forward once as its values at n + 1 points: the origin and the units of n scaled variables,
the free inputs and one variable for each relaxed element. A linear operator is applied to all points as a batch, so
the program needs no matrix of any operator. A split afterwards changes the rows of one element and nothing else.
What HiGHS answers is a proposal: its duals are slopes, multipliers and weights that ``leaf`` proves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.ops import relaxation
from provenn.bounds.ops._operator import Prepared, Univariate, at_elements
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines, relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.verifier._highs import minimise

# Elements of the largest tensor of points: 8 bytes each, a few of them alive at a time.
POINT_ELEMENTS = 1 << 24

Ends = tuple[float, float]
Place = tuple[int, int]
"""A value and one of its flat elements."""


@dataclass(frozen=True)
class Domain:
    """One domain of one clause, float64, sound.

    ``inputs`` and ``boxes`` are ``[1, *shape]`` boxes of graph inputs and of the values relaxations read. ``split``
    gives for the elements that the relaxations do not bound the closed ends (a split at a jump leaves an end out of the
    box). ``rows`` ``[r, outputs]``, ``threshold`` ``[r]``.
    """

    inputs: Mapping[int, Box]
    boxes: Mapping[int, Box]
    split: Mapping[Place, Ends]
    rows: Tensor
    threshold: Tensor


@dataclass(frozen=True)
class Cut:
    """What a split made of an element: the ends as the relaxation reads them and as constraints may use them."""

    box: Ends
    closed: Ends


Cuts = Mapping[Place, Cut]


@dataclass(frozen=True)
class Solution:
    """An optimum of the program or, where it is ``empty``, a combination of constraints that exclude each other.

    ``margin`` is the least ``max_r (row_r y - threshold_r)`` (or the excess of the contradiction); ``point`` a
    flat input. ``weights`` ``[r]``, ``multipliers`` (signed, per place) and ``slopes`` (per elementwise node: elements,
    lower, upper) are the dual. ``gaps`` is (node, elements, gap, weight, operand): what each relaxed element misses
    its function by, and the dual weight of its lines.
    """

    empty: bool
    margin: float
    point: Tensor
    weights: np.ndarray
    multipliers: dict[Place, float]
    slopes: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]
    gaps: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    basis: Any = None


@dataclass
class _Relaxed:
    """A relaxed elementwise node: flat elements, their variables and the values at the points of what it reads.

    ``z`` ``[k, n + 1]``; the variable of element j is y = low + s (high - low). ``lower`` and ``upper`` are lines
    ``(slopes, offsets)``, each ``[lines, k]``.
    """

    index: int
    operand: int
    elements: np.ndarray
    first: int
    low: np.ndarray
    high: np.ndarray
    z: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    lower: tuple[np.ndarray, np.ndarray] = (np.zeros((0, 0)), np.zeros((0, 0)))
    upper: tuple[np.ndarray, np.ndarray] = (np.zeros((0, 0)), np.zeros((0, 0)))
    place: dict[int, int] = field(default_factory=dict)


class TooLarge(Exception):
    """The program of a domain would be too large, or a value of it has no bound."""


class Program:
    """The program of a domain; ``solve`` answers it with further cuts. Raises TooLarge."""

    def __init__(self, plan: Plan, output: int, domain: Domain):
        self.plan, self.output, self.domain = plan, output, domain
        self.lines = relax_all(plan, output, domain.boxes)
        self.relaxed: dict[int, _Relaxed] = {}
        self.fixed_rows: list[np.ndarray] = []
        self.bounds: dict[Place, np.ndarray] = {}
        self.low: list[float] = []
        self.high: list[float] = []
        self._cache: dict[tuple[int, int, Ends], tuple[np.ndarray, ...]] = {}
        self._variables()
        self._walk()

    # -- variables -----------------------------------------------------------------------------------

    def _variables(self) -> None:
        """Number the free inputs and the relaxed elements; only inputs and opaque values have ends of their own."""
        plan, domain = self.plan, self.domain
        self.free: dict[int, Tensor] = {}
        self.variables: dict[int, tuple[np.ndarray, int, np.ndarray, np.ndarray]] = {}
        for index, (lower, upper) in domain.inputs.items():
            wide = (upper - lower) > 1e-9 * torch.maximum(lower.abs(), upper.abs()).clamp(min=1e-9)
            self.free[index] = wide.flatten().nonzero().squeeze(1)
            self.low += [0.0] * self.free[index].numel()
            self.high += [1.0] * self.free[index].numel()
        for index in reversed(plan.relaxed_below(self.output)):
            lines = self.lines[index]
            elements = (~_exact(lines, plan.shape(index))).flatten().nonzero().squeeze(1)
            if not elements.numel():
                continue
            lower, upper = plan.interval(index, domain.boxes)
            low, high = (t.flatten()[elements].cpu().numpy() for t in (lower, upper))
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise TooLarge
            places = elements.cpu().numpy()
            self.variables[index] = (places, len(self.low), low, high)
            if isinstance(plan.operators[index], Univariate):
                operand = plan.graph.nodes[index].inputs[0]
                own = _Relaxed(index, operand, places, len(self.low), low, high)
                own.place = {int(e): j for j, e in enumerate(places)}
                self.relaxed[index] = own
            # The dual of an end of a relaxed element would be no slope; its lines bound it.
            ends = (-np.inf, np.inf) if lines.lower_slopes else (0.0, 1.0)
            self.low += [ends[0]] * len(places)
            self.high += [ends[1]] * len(places)
        self.size = len(self.low)
        widest = max(plan.size(i) for i in plan.order(self.output))
        if (self.size + 1) * widest > POINT_ELEMENTS:
            raise TooLarge

    # -- the forward walk ------------------------------------------------------------------------------

    def _walk(self) -> None:
        plan, domain = self.plan, self.domain
        values: dict[int, Tensor] = {}
        order = sorted(plan.order(self.output))
        last = {operand: index for index in order for operand in plan.graph.nodes[index].inputs}
        number = 0
        for index in order:
            node = plan.graph.nodes[index]
            if index in domain.inputs:
                lower, upper = domain.inputs[index]
                free = self.free[index]
                points = lower.flatten().repeat(self.size + 1, 1)
                steps = torch.arange(free.numel(), device=points.device)
                points[number + 1 + steps, free] = upper.flatten()[free]
                number += free.numel()
                values[index] = points.view(self.size + 1, *node.shape)
            elif plan.linear[index]:
                operands = [values[i] for i in node.inputs]
                made = plan.operators[index].evaluate(plan.prepared[index], *operands)
                values[index] = made if operands else made.expand(self.size + 1, *node.shape)
            else:
                values[index] = self._relax(index, values)
            self._keep(index, values[index])
            for operand in {i for i in node.inputs if last[i] == index}:
                values.pop(operand, None)
        y = values[self.output].reshape(self.size + 1, -1)
        self.violation = _affine(y @ domain.rows.T - domain.threshold)

    def _relax(self, index: int, values: Mapping[int, Tensor]) -> Tensor:
        """A relaxed node at all points: its line where it is linear, a variable elsewhere."""
        lines, shape = self.lines[index], self.plan.shape(index)
        operands = [values[i] for i in self.plan.graph.nodes[index].inputs] if lines.lower_slopes else []
        result = _line(operands, lines.lower_slopes, lines.lower_offset, lines)
        result = result.expand(self.size + 1, *shape).clone().flatten(1)
        if index not in self.variables:
            return result.view(self.size + 1, *shape)
        places, first, low, high = self.variables[index]
        elements = torch.from_numpy(places).to(result.device)
        steps = torch.arange(len(places), device=result.device)
        result[:, elements] = torch.from_numpy(low).to(result.device)
        result[first + 1 + steps, elements] = torch.from_numpy(high).to(result.device)
        own = self.relaxed.get(index)
        if own is not None:
            own.z = _affine(operands[0].flatten(1)[:, elements])
            box = (b.flatten()[elements] for b in self.domain.boxes[own.operand])
            own.lower, own.upper = self._hull(own, np.arange(len(places)), *box)
        elif operands:
            y = result[:, elements]
            below = _line(operands, lines.lower_slopes, lines.lower_offset, lines).expand(
                self.size + 1, *shape
            )
            above = _line(operands, lines.upper_slopes, lines.upper_offset, lines).expand(
                self.size + 1, *shape
            )
            self.fixed_rows.append(_affine(below.flatten(1)[:, elements] - y))
            self.fixed_rows.append(_affine(y - above.flatten(1)[:, elements]))
        return result.view(self.size + 1, *shape)

    def _keep(self, value: int, points: Tensor) -> None:
        """Remember the elements that are split already."""
        elements = [e for v, e in self.domain.split if v == value]
        if elements:
            kept = _affine(points.flatten(1)[:, torch.tensor(elements, device=points.device)])
            self.bounds |= {(value, e): kept[j] for j, e in enumerate(elements)}

    # -- hulls ---------------------------------------------------------------------------------------

    def _hull(self, own: _Relaxed, chosen: np.ndarray, lower: Tensor, upper: Tensor):
        """Lines (slopes, offsets) of some elements over given boxes: the ends of the slope ranges and the start."""
        operator, prepared = self.plan.operators[own.index], self.at(own.index, own.elements[chosen])
        assert isinstance(operator, Univariate)
        ranges = relaxation.slope_range(operator, prepared, lower, upper)
        start = relaxation.lines(operator, prepared, lower, upper)
        sides = []
        for position, known in ((0, own.lower), (2, own.upper)):
            wanted = [ranges[position], ranges[position + 1]]
            if not operator.piecewise_linear:
                wanted.append(start[position])
            if not len(known[0]) and len(wanted) == 2 and torch.equal(*wanted):
                wanted = wanted[:1]
            wanted = wanted[: len(known[0]) or 3]
            slopes, offsets = [], []
            for slope in wanted:
                slope = torch.where(torch.isfinite(slope), slope, start[position])
                pair = (slope, start[2]) if position == 0 else (start[0], slope)
                line = relaxation.lines(operator, prepared, lower, upper, *pair)
                slopes.append(line[position])
                offsets.append(line[position + 1])
            sides.append((torch.stack(slopes).cpu().numpy(), torch.stack(offsets).cpu().numpy()))
        return sides[0], sides[1]

    def at(self, index: int, elements: np.ndarray) -> Prepared:
        """The node's constants at some elements: those with a value per element are taken there."""
        chosen = torch.from_numpy(elements).to(self.plan.device)
        return at_elements(self.plan.operators[index], self.plan.prepared[index], chosen)

    def _cut_hulls(self, own: _Relaxed, cuts: Cuts):
        """The node's lines with those of cut elements replaced."""
        changed = [
            (own.place[e], e, cut.box) for (v, e), cut in cuts.items() if v == own.operand and e in own.place
        ]
        if not changed:
            return own.lower, own.upper
        lower, upper = tuple(a.copy() for a in own.lower), tuple(a.copy() for a in own.upper)
        for j, element, box in changed:
            key = (own.index, element, box)
            if key not in self._cache:
                ends = (torch.tensor([end], dtype=torch.float64, device=self.plan.device) for end in box)
                sides = self._hull(own, np.array([j]), *ends)
                self._cache[key] = tuple(a[:, 0] for side in sides for a in side)
            for target, column in zip((*lower, *upper), self._cache[key], strict=True):
                target[:, j] = column
        return lower, upper

    # -- solving ---------------------------------------------------------------------------------------

    def solve(self, cuts: Cuts, basis: Any = None) -> Solution | None:
        """Minimise the violation with the elements of ``cuts`` inside theirs; None where HiGHS has no answer."""
        parts, hulls = list(self.fixed_rows), {}
        for index, own in self.relaxed.items():
            lower, upper = hulls[index] = self._cut_hulls(own, cuts)
            variable = own.first + 1 + np.arange(len(own.elements))
            for (slopes, offsets), sign in ((lower, 1.0), (upper, -1.0)):
                for k, b in zip(slopes, offsets, strict=True):
                    rows = k[:, None] * own.z
                    rows[:, 0] += b - own.low
                    rows[np.arange(len(rows)), variable] -= own.high - own.low
                    parts.append(sign * rows)
        places, ends, kept = self._bound_rows(cuts)
        matrix = np.concatenate([*parts, kept, -kept, self.violation])
        matrix = np.concatenate([matrix, np.zeros((len(matrix), 1))], 1)
        conditions, first = len(self.violation), len(matrix) - len(self.violation)
        matrix[first:, -1] = -1.0
        limit = -matrix[:, 0]
        start = first - 2 * len(places)
        if places:
            limit[start : start + len(places)] += ends[:, 1]
            limit[start + len(places) : first] -= ends[:, 0]
        cost = np.zeros(self.size + 1)
        cost[-1] = 1.0
        low, high = np.append(self.low, -np.inf), np.append(self.high, np.inf)
        finite = np.isfinite(matrix[:, 1:]).all(1) & ~np.isnan(limit)
        matrix[~finite] = 0.0
        limit[~finite] = np.inf
        found = minimise(cost, matrix[:, 1:], limit, low, high, basis)
        if found is None:
            return None
        dual = found.dual
        multipliers = {}
        if places:
            signed = dual[start + len(places) : first] - dual[start : start + len(places)]
            multipliers = {place: float(m) for place, m in zip(places, signed, strict=True)}
        slopes, weighted = self._slopes(hulls, dual, sum(map(len, self.fixed_rows)), multipliers)
        weights = np.zeros(conditions) if found.empty else dual[first:]
        s = found.x[: self.size]
        gaps = self._gaps(s, weighted)
        return Solution(
            found.empty, found.value, self._point(s), weights, multipliers, slopes, gaps, found.basis
        )

    def _bound_rows(self, cuts: Cuts) -> tuple[list[Place], np.ndarray, np.ndarray]:
        """The places whose ends are constraints, those ends ``[k, 2]``, and their values at the points."""
        ends: dict[Place, Ends] = dict(self.domain.split)
        rows = dict(self.bounds)
        for place, cut in cuts.items():
            ends[place] = cut.closed
            if place not in rows:
                rows[place] = self._row(place)
        places = [p for p in ends if p in rows]
        if not places:
            return [], np.zeros((0, 2)), np.zeros((0, self.size + 1))
        return places, np.array([ends[p] for p in places]), np.stack([rows[p] for p in places])

    def _row(self, place: Place) -> np.ndarray:
        value, element = place
        for own in self.relaxed.values():
            if own.operand == value and element in own.place:
                return own.z[own.place[element]]
        raise KeyError(place)

    def _slopes(self, hulls, dual: np.ndarray, start: int, multipliers: dict[Place, float]):
        """Slopes per node: the lines of an element weighted by their duals.

        Weight that a lower and an upper line share says nothing about the node: ``kl z + bl <= y <= ku z + bu`` bounds
        z by where the lines meet, outside the box or at its end. It becomes a multiplier of that end.
        """
        result, weighted = {}, {}
        for index, own in self.relaxed.items():
            count, pair, weights = len(own.elements), [], []
            for slopes, _ in hulls[index]:
                weight = dual[start : start + len(slopes) * count].reshape(len(slopes), count)
                start += len(slopes) * count
                total = weight.sum(0)
                mixed = (weight * slopes).sum(0) / np.where(total > 0, total, 1.0)
                pair.append(np.where(total > 0, mixed, slopes[0]))
                weights.append(total)
            shared = np.minimum(*weights) * (pair[1] - pair[0])
            for j in np.flatnonzero(shared):
                place = (own.operand, int(own.elements[j]))
                multipliers[place] = multipliers.get(place, 0.0) + float(shared[j])
            result[index] = (own.elements, pair[0], pair[1])
            weighted[index] = weights[0] + weights[1]
        return result, weighted

    def _gaps(self, s: np.ndarray, weighted: Mapping[int, np.ndarray]):
        result = []
        for index, own in self.relaxed.items():
            z = own.z[:, 0] + own.z[:, 1:] @ s
            y = own.low + s[own.first : own.first + len(own.elements)] * (own.high - own.low)
            truth = self.plan.operators[index].evaluate(
                self.at(index, own.elements), torch.from_numpy(z).to(self.plan.device)
            )
            result.append((index, own.elements, np.abs(y - truth.cpu().numpy()), weighted[index], z))
        return result

    def _point(self, s: np.ndarray) -> Tensor:
        """The flat input (all graph inputs joined) of scaled variables."""
        parts, number = [], 0
        for index, (lower, upper) in self.domain.inputs.items():
            free, x = self.free[index], lower.flatten().clone()
            step = torch.from_numpy(s[number : number + free.numel()]).to(x).clamp(0.0, 1.0)
            x[free] = x[free] + step * (upper.flatten()[free] - x[free])
            number += free.numel()
            parts.append(x)
        return torch.cat(parts)


def _affine(points: Tensor) -> np.ndarray:
    """Values at the points ``[n + 1, k]`` as affine functions ``[k, n + 1]``: value at the origin, coefficients."""
    rows = points.T.contiguous().cpu().numpy().copy()
    rows[:, 1:] -= rows[:, :1]
    return rows


def _exact(lines: Lines, shape: tuple[int, ...]) -> Tensor:
    """Elements ``[*shape]`` whose two lines are one."""
    low, high = lines.lower_offset, lines.upper_offset
    if low is None and high is None:
        same = None
    else:
        other = low if low is not None else high
        zero = torch.zeros_like(other)  # type: ignore[arg-type]
        same = (zero if low is None else low) == (zero if high is None else high)
    for place, (lower, upper) in enumerate(zip(lines.lower_slopes, lines.upper_slopes, strict=True)):
        equal = lower == upper
        equal = equal if lines.patterns is None else lines.patterns[place].everywhere(equal)
        same = equal if same is None else same & equal
    assert same is not None
    return same.expand(1, 1, *shape)[0, 0]


def _line(operands: list[Tensor], slopes, offset: Tensor | None, lines: Lines) -> Tensor:
    """A line at all points ``[n + 1, *shape]``."""
    total = None if offset is None else offset[0]
    for place, (z, slope) in enumerate(zip(operands, slopes, strict=False)):
        term = lines.through(place, slope, z.unsqueeze(1))[:, 0]
        total = term if total is None else total + term
    assert total is not None
    return total
