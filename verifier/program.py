"""The linear program of one domain: the network where it is linear, the hulls of its relaxations elsewhere.

Every value is carried forward as its values at n + 1 points (the origin and the unit vectors of n scaled variables): the
free inputs and one variable for each relaxed element. A linear operator is applied to all points as a batch, so the program
needs no matrix of any operator. What HiGHS answers is a proposal: its duals are multipliers and slopes that ``leaf`` proves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.ops import relaxation
from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines, relax_all
from provenn.bounds.propagate.plan import Plan

# Elements of the largest tensor of points: 8 bytes each, a few of them alive at a time.
POINT_ELEMENTS = 1 << 24
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Domain:
    """One domain of one clause, float64, sound.

    ``inputs`` and ``boxes`` are ``[1, *shape]`` boxes of graph inputs and of the values relaxations read; where a
    split at a jump leaves an end out, ``closed`` has the box with it. ``split`` lists for each value the flat elements whose
    ends the program must know: the relaxations do not imply them. ``rows`` ``[r, outputs]``, ``threshold`` ``[r]``.
    """

    inputs: Mapping[int, Box]
    boxes: Mapping[int, Box]
    closed: Mapping[int, Box]
    split: Mapping[int, Tensor]
    rows: Tensor
    threshold: Tensor


@dataclass
class Solution:
    """An optimum of the program or, where it is ``empty``, a combination of constraints that excludes each other.

    ``margin`` is the least ``max_r (row_r y - threshold_r)`` (or the excess of the contradiction); ``point`` a
    flat input. ``weights`` ``[r]``, ``multipliers`` (signed, ``[1, 1, *shape]`` per value) and ``slopes`` (lower and upper per
    elementwise node) are the dual. ``gaps`` are what each relaxed element misses its function by.
    """

    empty: bool
    margin: float
    point: Tensor
    weights: Tensor
    multipliers: dict[int, Tensor]
    slopes: dict[int, tuple[Tensor, Tensor]]
    gaps: list[tuple[int, Tensor, Tensor, Tensor]] = field(default_factory=list)


@dataclass
class _Relaxed:
    """The variables of one relaxed node: flat elements, numbers, and the two ends of their scaled range."""

    index: int
    elements: Tensor
    first: int
    low: Tensor
    high: Tensor
    operand: Tensor | None = None
    lower: list[tuple[Tensor, slice]] = field(default_factory=list)
    upper: list[tuple[Tensor, slice]] = field(default_factory=list)


class Program:
    """Builds and solves the program of a domain; None stands for one that is too large or unbounded."""

    def __init__(self, plan: Plan, output: int, domain: Domain):
        self.plan, self.output, self.domain = plan, output, domain
        self.lines = relax_all(plan, output, domain.boxes)
        self.relaxed: dict[int, _Relaxed] = {}
        self.rows: list[np.ndarray] = []
        self.count = 0
        self.bounds: list[tuple[int, Tensor, slice, slice]] = []

    def solve(self) -> Solution | None:
        if not self._variables():
            return None
        self._walk()
        matrix = self._matrix()
        found = _minimise(matrix, self.size, len(self.domain.threshold), self.count)
        empty = found is None
        if found is None:
            found = _excess(matrix[: self.count], self.size)
        return None if found is None else self._solution(empty, *found)

    # -- variables -----------------------------------------------------------------------------------

    def _variables(self) -> bool:
        plan, domain = self.plan, self.domain
        self.free: dict[int, Tensor] = {}
        number = 0
        for index, (lower, upper) in domain.inputs.items():
            wide = (upper - lower) > 1e-9 * torch.maximum(lower.abs(), upper.abs()).clamp(min=1e-9)
            self.free[index] = wide.flatten().nonzero().squeeze(1)
            number += self.free[index].numel()
        for index in reversed(plan.relaxed_below(self.output)):
            lines = self.lines[index]
            elements = (~_exact(lines, plan.shape(index), plan.device)).flatten().nonzero().squeeze(1)
            if not elements.numel():
                continue
            lower, upper = plan.interval(index, domain.boxes)
            low, high = lower.flatten()[elements], upper.flatten()[elements]
            if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
                return False
            self.relaxed[index] = _Relaxed(index, elements, number, low, high)
            number += elements.numel()
        self.size = number
        widest = max(plan.size(i) for i in plan.order(self.output))
        return (number + 1) * widest <= POINT_ELEMENTS

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
            if index in domain.split and domain.split[index].numel():
                self._bound(index, values[index])
            for operand in {i for i in node.inputs if last[i] == index}:
                values.pop(operand, None)
        self.outputs = values[self.output].reshape(self.size + 1, -1)

    def _relax(self, index: int, values: Mapping[int, Tensor]) -> Tensor:
        """A relaxed node at all points: its line where it is linear, variables elsewhere; their lines become rows."""
        lines = self.lines[index]
        operands = [values[i] for i in self.plan.graph.nodes[index].inputs] if lines.lower_slopes else []
        result = _line(operands, lines.lower_slopes, lines.lower_offset, lines)
        result = result.expand(self.size + 1, *self.plan.shape(index)).clone().flatten(1)
        own = self.relaxed.get(index)
        if own is None:
            return result.view(self.size + 1, *self.plan.shape(index))
        steps = torch.arange(own.elements.numel(), device=result.device)
        result[:, own.elements] = own.low
        result[own.first + 1 + steps, own.elements] = own.high
        y = result[:, own.elements]
        if isinstance(self.plan.operators[index], Univariate):
            self._hull(own, operands[0].flatten(1)[:, own.elements], y)
        elif operands:
            for slopes, offset, lower in (
                (lines.lower_slopes, lines.lower_offset, True),
                (lines.upper_slopes, lines.upper_offset, False),
            ):
                line = _line(operands, slopes, offset, lines).expand(self.size + 1, *self.plan.shape(index))
                difference = line.flatten(1)[:, own.elements] - y
                self._push(difference if lower else -difference)
        return result.view(self.size + 1, *self.plan.shape(index))

    def _hull(self, own: _Relaxed, z: Tensor, y: Tensor) -> None:
        """Rows of an elementwise node: lines at the ends of the slope ranges and at the starting slopes."""
        operator, prepared = self.plan.operators[own.index], self._at(own)
        operand = self.plan.graph.nodes[own.index].inputs[0]
        lower, upper = (b.flatten()[own.elements] for b in self.domain.boxes[operand])
        ranges = relaxation.slope_range(operator, prepared, lower, upper)
        start = relaxation.lines(operator, prepared, lower, upper)
        own.operand = z
        for slope in _distinct(ranges[0], ranges[1], start[0]):
            kl, bl, _, _ = relaxation.lines(operator, prepared, lower, upper, slope, start[2])
            own.lower.append((kl, self._push(kl * z + bl - y)))
        for slope in _distinct(ranges[2], ranges[3], start[2]):
            _, _, ku, bu = relaxation.lines(operator, prepared, lower, upper, start[0], slope)
            own.upper.append((ku, self._push(y - ku * z - bu)))

    def _at(self, own: _Relaxed):
        """The node's constants at some elements: those with a value per element are taken there."""
        prepared = self.plan.prepared[own.index]
        shape = self.plan.shape(own.index)
        tensors = {
            name: tensor.expand(shape).flatten()[own.elements] if tensor.dim() else tensor
            for name, tensor in prepared.tensors.items()
        }
        return replace(prepared, tensors=tensors)

    def _bound(self, value: int, points: Tensor) -> None:
        """Rows that keep the split elements of a value inside their boxes."""
        elements = self.domain.split[value]
        lower, upper = (b.flatten()[elements] for b in self.domain.closed[value])
        z = points.flatten(1)[:, elements]
        below = self._push(torch.where(torch.isfinite(lower), lower - z, -1.0))
        above = self._push(torch.where(torch.isfinite(upper), z - upper, -1.0))
        self.bounds.append((value, elements, below, above))

    def _push(self, points: Tensor) -> slice:
        """Constraints ``points <= 0`` given by their values at the points ``[n + 1, k]``."""
        rows = points.T.contiguous().cpu().numpy()
        self.rows.append(rows)
        start = self.count
        self.count += len(rows)
        return slice(start, self.count)

    def _matrix(self) -> np.ndarray:
        """All rows ``[m, n + 1]`` (value at the origin, then the coefficients); the clause's rows come last."""
        violation = self.outputs @ self.domain.rows.T - self.domain.threshold
        stacked = np.concatenate([*self.rows, violation.T.cpu().numpy()])
        stacked[:, 1:] -= stacked[:, :1]
        return stacked

    # -- the answer ----------------------------------------------------------------------------------

    def _solution(self, empty: bool, margin: float, s: np.ndarray, duals: np.ndarray) -> Solution:
        device = self.plan.device
        dual = torch.from_numpy(np.maximum(duals, 0.0)).to(device)
        at = torch.from_numpy(np.clip(s, 0.0, 1.0)).to(device)
        multipliers: dict[int, Tensor] = {}
        for value, elements, below, above in self.bounds:
            flat = torch.zeros(self.plan.size(value), dtype=torch.float64, device=device)
            flat[elements] = dual[below] - dual[above]
            multipliers[value] = flat.view(1, 1, *self.plan.shape(value))
        slopes: dict[int, tuple[Tensor, Tensor]] = {}
        gaps = []
        for index, own in self.relaxed.items():
            if own.operand is None:
                continue
            lines = self.lines[index]
            pair = []
            for found, base in ((own.lower, lines.lower_slopes[0]), (own.upper, lines.upper_slopes[0])):
                flat = base.expand(1, 1, *self.plan.shape(index)).flatten().clone()
                weight = sum(dual[part] for _, part in found)
                mixed = sum(dual[part] * slope for slope, part in found) / weight
                flat[own.elements] = torch.where(torch.as_tensor(weight) > 0, mixed, flat[own.elements])
                pair.append(flat.view(1, 1, *self.plan.shape(index)))
            slopes[index] = (pair[0], pair[1])
            steps = own.operand[1:] - own.operand[:1]
            z = own.operand[0] + at @ steps
            variables = at[own.first : own.first + own.elements.numel()]
            y = own.low + variables * (own.high - own.low)
            truth = self.plan.operators[index].evaluate(self._at(own), z)
            gaps.append((index, own.elements, (y - truth).abs(), z))
        weights = dual[self.count :] if not empty else dual.new_zeros(len(self.domain.threshold))
        return Solution(empty, margin, self._point(at), weights, multipliers, slopes, gaps)

    def _point(self, at: Tensor) -> Tensor:
        """The flat input (all graph inputs joined) of scaled variables."""
        parts, number = [], 0
        for index, (lower, upper) in self.domain.inputs.items():
            free, x = self.free[index], lower.flatten().clone()
            s = at[number : number + free.numel()]
            x[free] = x[free] + s * (upper.flatten()[free] - x[free])
            number += free.numel()
            parts.append(x)
        return torch.cat(parts)


def _exact(lines: Lines, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Elements ``[*shape]`` whose two lines are one."""
    zero = torch.zeros(1, 1, *shape, dtype=torch.float64, device=device)
    low = zero if lines.lower_offset is None else lines.lower_offset
    high = zero if lines.upper_offset is None else lines.upper_offset
    same = low == high
    for lower, upper in zip(lines.lower_slopes, lines.upper_slopes, strict=True):
        equal = lower == upper
        same = same & (equal if lines.window is None else equal.all(-1))
    return same.expand(1, 1, *shape)[0, 0]


def _line(operands: list[Tensor], slopes, offset: Tensor | None, lines: Lines) -> Tensor:
    """A line at all points ``[n + 1, *shape]``."""
    total = None if offset is None else offset[0]
    for z, slope in zip(operands, slopes, strict=False):
        k = slope[0]
        term = k * z if lines.window is None else (k * lines.window.gather(z.unsqueeze(1))[:, 0]).sum(-1)
        total = term if total is None else total + term
    assert total is not None
    return total


def _distinct(*slopes: Tensor) -> list[Tensor]:
    result: list[Tensor] = []
    for slope in slopes:
        if torch.isfinite(slope).all() and not any(torch.equal(slope, known) for known in result):
            result.append(slope)
    return result


def _linprog(c: np.ndarray, a: np.ndarray, b: np.ndarray, bounds: np.ndarray):
    """HiGHS on rows ``a x <= b`` that are scaled to 1; the duals are those of the rows as given."""
    from scipy.optimize import linprog  # more than a second to load

    scale = np.abs(a).max(1, initial=0.0)
    scale[scale == 0] = 1.0
    options = {"primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE}
    found = linprog(
        c, A_ub=a / scale[:, None], b_ub=b / scale, bounds=bounds, method="highs", options=options
    )
    if found.status != 0:
        return found.status, None
    return 0, (found.fun, found.x, -found.ineqlin.marginals / scale)


def _minimise(matrix: np.ndarray, size: int, conditions: int, constraints: int):
    """Minimise t over the box with ``rows <= 0`` and ``conditions <= t``; None where the rows have no common point."""
    objective = np.zeros(size + 1)
    objective[size] = 1.0
    a = np.concatenate([matrix[:, 1:], np.zeros((len(matrix), 1))], 1)
    a[constraints:, size] = -1.0
    bounds = np.array([[0.0, 1.0]] * size + [[-np.inf, np.inf]])
    # A row that no point of the box violates only slows the solver down.
    most = matrix[:, 0] + np.maximum(matrix[:, 1:], 0).sum(1)
    kept = most > 0
    kept[constraints:] = True
    _, found = _linprog(objective, a[kept], -matrix[kept, 0], bounds)
    if found is None:
        return None
    duals = np.zeros(len(matrix))
    duals[kept] = found[2]
    return found[0], found[1][:size], duals


def _excess(matrix: np.ndarray, size: int):
    """Minimise the largest scaled violation of the rows: positive where they contradict each other."""
    if not len(matrix):
        return None
    scale = np.abs(matrix[:, 1:]).max(1, initial=0.0)
    scale[scale == 0] = 1.0
    a = np.concatenate([matrix[:, 1:], -scale[:, None]], 1)
    objective = np.zeros(size + 1)
    objective[size] = 1.0
    bounds = np.array([[0.0, 1.0]] * size + [[0.0, np.inf]])
    _, found = _linprog(objective, a, -matrix[:, 0], bounds)
    return None if found is None else (found[0], found[1][:size], found[2])
