"""Exact leaves: what bounds cannot decide, linear programs do, and their duals are proven like every other bound.

A domain goes through a small tree of its own. Each node is one linear program (``program``); its duals become slopes,
multipliers and conjunction weights, and the node counts as refuted only when the float64 backward bound with them,
less its rounding error, is positive. Its optimum is a witness candidate. A node that is neither is split at the element
whose hull the optimum misuses most; when every element is linear there is nothing to split, so the tree ends.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import evaluator
from provenn.bounds.ops._operator import Univariate
from provenn.bounds.ops.relaxation import open_end
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.interrupt import check as check_cancelled
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines, relax
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError, gamma
from provenn.verifier.program import Cut, Cuts, Domain, Ends, Place, Program, Solution, TooLarge

# Points that violate in float64 before a tree gives up: each is tried on the network itself.
VIOLATIONS = 64


def proven_margin(
    plan: Plan, output: int, domain: Domain, cuts: Cuts, found: Solution, magnitudes: Magnitudes
) -> float:
    """The float64 bound of the clause's combined rows with the program's duals, less every rounding error.

    A positive number refutes the domain: ``sum_r w_r (row_r y - threshold_r) > 0`` on it or, with no
    weight at all, its constraints exclude each other. -inf where the duals prove nothing.
    """
    weights = torch.from_numpy(np.maximum(found.weights, 0.0)).to(plan.device)
    if not found.empty and not bool((weights > 0).any()):
        return -float("inf")
    if found.empty:
        weights = torch.zeros_like(weights)
    row, threshold = weights @ domain.rows, float(weights @ domain.threshold)
    # The sum of several rows rounds.
    slack = float(
        (weights @ domain.rows.abs()) @ magnitudes.value[output].flatten() + weights @ domain.threshold.abs()
    )
    slack *= gamma(len(weights) + 4, torch.float64)
    boxes = cut_boxes(domain.boxes, cuts)
    lines: dict[int, Lines] = {}
    for index in plan.relaxed_below(output):
        slopes = None
        if index in found.slopes:
            # Slopes of elements that are linear in their box are not read.
            elements, *given = found.slopes[index]
            dense = [torch.zeros(plan.size(index), dtype=torch.float64, device=plan.device) for _ in given]
            for slope, values in zip(dense, given, strict=True):
                slope[torch.from_numpy(elements)] = torch.from_numpy(values).to(slope)
            slopes = (dense[0].view(1, 1, *plan.shape(index)), dense[1].view(1, 1, *plan.shape(index)))
        lines[index] = relax(plan, index, boxes, slopes)
    multipliers: dict[int, tuple[Tensor, Tensor]] = {}
    for (value, element), multiplier in found.multipliers.items():
        if multiplier == 0:
            continue
        ends = _closed(domain, cuts, (value, element))
        signed, constant = multipliers.get(value) or (
            torch.zeros(1, 1, *plan.shape(value), dtype=torch.float64, device=plan.device),
            torch.zeros(1, 1, dtype=torch.float64, device=plan.device),
        )
        term = multiplier * (ends[0] if multiplier > 0 else ends[1])
        signed.view(-1)[element] = multiplier
        multipliers[value] = signed, constant + term
    bound = backward(
        plan,
        output,
        row.view(1, 1, *plan.shape(output)),
        lines,
        domain.inputs,
        multipliers=multipliers,
        error=RoundingError(plan, magnitudes),
    )
    total = float(bound)
    # The subtraction rounds once, the slack a few times.
    margin = total - threshold - (abs(total) + abs(threshold)) * 1e-15 - slack * 1.000001
    return margin if margin == margin else -float("inf")


def _closed(domain: Domain, cuts: Cuts, place: Place) -> Ends:
    """The closed ends of an element."""
    if place in cuts:
        return cuts[place].closed
    if place in domain.split:
        return domain.split[place]
    lower, upper = (float(b.reshape(-1)[place[1]]) for b in domain.boxes[place[0]])
    return lower, upper


def cut_boxes(boxes: Mapping[int, Box], cuts: Cuts) -> dict[int, Box]:
    """The boxes with the elements of the cuts replaced."""
    result: dict[int, Box] = dict(boxes)
    for value in {v for v, _ in cuts}:
        result[value] = boxes[value][0].clone(), boxes[value][1].clone()
    for (value, element), cut in cuts.items():
        for side, end in zip(result[value], cut.box, strict=True):
            side.view(-1)[element] = end
    return result


def _inner(cuts: Cuts) -> dict[Place, Cut]:
    """Cuts at a jump with the ends that they leave out moved inside: optima there are not taken by the network."""
    result = {}
    for place, cut in cuts.items():
        (low, high), (first, last) = cut.closed, cut.box
        step = 1e-6 * (high - low)
        ends = (low + step if first != low else low, high - step if last != high else high)
        if ends != cut.closed:
            result[place] = Cut(cut.box, ends)
    return result


class Tree:
    """Decides one domain by programs; ``run`` may be called again after a pause.

    ``ending`` is None while nodes are open, then ``refuted``, ``violated`` (points violate in float64, which a replay
    in another type may not repeat) or ``stuck``: there are nodes with nothing left to split whose margin floating
    point cannot settle, or that HiGHS cannot answer; ``margin`` is the lowest of them. ``points`` are candidates,
    the latest last.
    """

    def __init__(self, plan: Plan, output: int, magnitudes: Magnitudes, domain: Domain):
        self.plan, self.output, self.magnitudes, self.domain = plan, output, magnitudes, domain
        self.ending: str | None = None
        self.violations = self.undecided = 0
        self.points: list[Tensor] = []
        self.margin = -float("inf")
        self.programs = 0
        self._ticket = itertools.count()
        self._open: list[tuple[float, int, dict[Place, Cut], object, float]] = [
            (-float("inf"), next(self._ticket), {}, None, 1.0)
        ]
        self._lowest = float("inf")
        self._program: Program | None = None
        self._evaluate = evaluator(plan.graph, torch.float64, plan.device)

    @property
    def remaining(self) -> float:
        """The share of the tree that is open: the children of a node share its part."""
        return 0.0 if self.ending == "refuted" else sum(node[-1] for node in self._open)

    def run(self, until: float) -> str | None:
        """Work until ``until`` (time.monotonic()) or the end; at least one program is solved."""
        try:
            if self._program is None:
                self._program = Program(self.plan, self.output, self.domain)
        except TooLarge:
            self.ending = "stuck"
        while self.ending is None:
            check_cancelled()
            self._step(self._program)  # type: ignore[arg-type]
            if time.monotonic() > until:
                break
        return self.ending

    def _step(self, program: Program) -> None:
        if not self._open:
            self.ending = "violated" if self.violations else "stuck" if self.undecided else "refuted"
            self.margin = self._lowest
            return
        _, _, cuts, basis, share = heapq.heappop(self._open)
        found = program.solve(cuts, basis)
        self.programs += 1
        if found is None:
            self._leave(-float("inf"))
            return
        if found.empty or found.margin > 0:
            proven = proven_margin(self.plan, self.output, self.domain, cuts, found, self.magnitudes)
            if proven > 0:
                return
        else:
            self._try(found.point)
        place = self._worst(cuts, found)
        if place is None:
            inner = _inner(cuts)
            if (
                inner
                and not found.empty
                and (again := program.solve({**cuts, **inner})) is not None
                and not again.empty
            ):
                self._try(again.point)
            self._leave(found.margin)
        if place is None or self.ending is not None:
            return
        children = self._children(cuts, *place)
        for child in children:
            node = (found.margin, next(self._ticket), child, found.basis, share / len(children))
            heapq.heappush(self._open, node)
        self.margin = self._open[0][0]

    def _leave(self, margin: float) -> None:
        """Give a node up."""
        self.undecided += 1
        self._lowest = min(self._lowest, margin)

    def _try(self, point: Tensor) -> None:
        """Remember a candidate; enough that violate in float64 end the tree."""
        self.points.append(point)
        self.violations += self._violates(point)
        if self.violations == VIOLATIONS:
            self.ending = "violated"

    def _violates(self, point: Tensor) -> bool:
        """Whether the network itself violates the clause at a point."""
        shaped, start = [], 0
        for index in self.plan.graph.inputs:
            size = self.plan.size(index)
            shaped.append(point[start : start + size].view(1, *self.plan.shape(index)))
            start += size
        y = self._evaluate(shaped)[0].flatten()
        return bool((self.domain.rows @ y <= self.domain.threshold).all())

    # -- splitting -------------------------------------------------------------------------------------

    def _worst(self, cuts: Cuts, found: Solution) -> tuple[int, int, float] | None:
        """(value, element, operand) to split: where the hull costs the optimum most, else where it is missed most."""
        best: tuple[float, int, int, float] | None = None
        for weighted in (True, False):
            for index, elements, gap, weight, z in found.gaps:
                operand = self.plan.graph.nodes[index].inputs[0]
                score = gap * weight if weighted else gap
                for j in np.argsort(-score, kind="stable"):
                    if score[j] <= (best[0] if best is not None else 1e-12 if weighted else -1.0):
                        break
                    if self._splits(cuts, operand, int(elements[j]), float(z[j])):
                        best = (float(score[j]), operand, int(elements[j]), float(z[j]))
                        break
            if best is not None:
                return best[1:]
        return None

    def _splits(self, cuts: Cuts, value: int, element: int, at: float) -> list[tuple[Ends, Ends]]:
        """The pieces of an element that relaxations read better than the whole; none if there are no such."""
        if (value, element) in cuts:
            lower, upper = cuts[value, element].box
        else:
            lower, upper = (float(b.view(-1)[element]) for b in self.domain.boxes[value])
        points, jump, smooth = [], None, False
        for index in self.plan.consumers[value]:
            operator = self.plan.operators[index]
            if not isinstance(operator, Univariate):
                continue
            if operator.name in JUMPS:
                jump = JUMPS[operator.name](at, lower, upper) if jump is None else jump
            elif operator.piecewise_linear:
                points += [p for p in self._breakpoints(index, element) if lower < p < upper]
            else:
                smooth = True
        if jump is not None:
            return jump_pieces(lower, upper, jump)
        if points:
            point = min(points, key=lambda p: abs(p - at))
        elif smooth and upper - lower > 1e-9 * max(abs(lower), abs(upper), 1e-9):
            point = min(max(at, 0.8 * lower + 0.2 * upper), 0.2 * lower + 0.8 * upper)
        else:
            return []
        return [((lower, point), (lower, point)), ((point, upper), (point, upper))]

    def _breakpoints(self, index: int, element: int) -> list[float]:
        shape = self.plan.shape(index)
        found = self.plan.operators[index].breakpoints(self.plan.prepared[index])  # type: ignore[attr-defined]
        return [float(torch.as_tensor(p).expand(shape).flatten()[element]) for p in found]

    def _children(
        self, cuts: dict[Place, Cut], value: int, element: int, at: float
    ) -> list[dict[Place, Cut]]:
        old = cuts.get((value, element))
        pieces = self._splits(cuts, value, element, at)
        result = []
        for box, closed in pieces:
            if old is not None:  # the closed hull keeps the ends that an earlier jump left out
                closed = (
                    old.closed[0] if box[0] == old.box[0] else closed[0],
                    old.closed[1] if box[1] == old.box[1] else closed[1],
                )
            result.append({**cuts, (value, element): Cut(box, closed)})
        return result


def _nearest(round_: Callable[[float], float]) -> Callable[[float, float, float], float | None]:
    def jump(at: float, lower: float, upper: float) -> float | None:
        point = round_(min(max(at, lower), upper))
        inside = [p for p in (point, point - 1, point + 1) if lower <= p <= upper]
        return inside[0] if inside and lower < upper else None

    return jump


def _zero(at: float, lower: float, upper: float) -> float | None:
    return 0.0 if lower <= 0 <= upper and lower < upper else None


# For operators with jumps: the jump inside the box that is nearest to a place.
JUMPS: Mapping[str, Callable[[float, float, float], float | None]] = {
    "sign": _zero,
    "floor": _nearest(lambda x: float(round(x))),
    "ceil": _nearest(lambda x: float(round(x))),
    "round": _nearest(lambda x: float(round(x - 0.5)) + 0.5),
}


def jump_pieces(lower: float, upper: float, point: float) -> list[tuple[Ends, Ends]]:
    """Left of, at and right of a jump: (box as the relaxation reads it, closed hull that constraints may use)."""
    at = torch.tensor(point, dtype=torch.float64)
    below = float(open_end(at, torch.full_like(at, -torch.inf)))
    above = float(open_end(at, torch.full_like(at, torch.inf)))
    pieces = [((point, point), (point, point))]
    if lower < point:
        pieces.append(((lower, below), (lower, point)))
    if upper > point:
        pieces.append(((above, upper), (point, upper)))
    return pieces
