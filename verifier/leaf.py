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
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Univariate
from provenn.bounds.ops.relaxation import open_end
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines, relax
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError, gamma
from provenn.verifier.fixed import Fixed
from provenn.verifier.pool import Fields
from provenn.verifier.program import Domain, Program, Solution


@dataclass
class Decision:
    """``refuted``; or open, with the lowest proven margin of what is left and the points that may violate."""

    refuted: bool
    margin: float
    points: list[Tensor] = field(default_factory=list)
    programs: int = 0
    late: bool = False


def proven_margin(plan: Plan, output: int, domain: Domain, found: Solution, magnitudes: Magnitudes) -> float:
    """The float64 bound of the clause's combined rows with the program's duals, less every rounding error.

    A positive number refutes the domain: ``sum_r w_r (row_r y - threshold_r) > 0`` on it, or, with no
    weight at all, its constraints exclude each other.
    """
    weights = found.weights.clamp(min=0.0)
    if found.empty:
        weights = torch.zeros_like(weights)
    elif not bool((weights > 0).any()):
        return -float("inf")
    row = weights @ domain.rows
    threshold = float(weights @ domain.threshold)
    unit = gamma(len(weights) + 4, torch.float64)
    # One row with weight 1 is exact; the sum of several rounds.
    slack = float((weights @ domain.rows.abs()) @ magnitudes.value[output].flatten()) * unit
    slack += float(weights @ domain.threshold.abs()) * unit
    lines: dict[int, Lines] = {}
    for index in plan.relaxed_below(output):
        lines[index] = relax(plan, index, domain.boxes, found.slopes.get(index))
    multipliers = {}
    for value, signed in found.multipliers.items():
        lower, upper = domain.closed[value]
        ends = torch.where(signed > 0, lower.unsqueeze(1), torch.where(signed < 0, upper.unsqueeze(1), 0.0))
        terms = (signed * ends).flatten(2)
        multipliers[value] = (signed, terms.sum(-1))
        slack += float(terms.abs().sum()) * gamma(terms.shape[-1] + 8, torch.float64)
    bound = backward(
        plan,
        output,
        row.view(1, 1, *plan.shape(output)),
        lines,
        domain.inputs,
        multipliers=multipliers,
        error=RoundingError(plan, magnitudes),
    )
    margin = float(bound) - threshold
    # The subtraction rounds once, the slack a few times.
    return margin - abs(margin) * 1e-15 - slack * 1.000001 if margin == margin else -float("inf")


class Leaves:
    """Decides domains of one network one after the other."""

    def __init__(self, plan: Plan, output: int, magnitudes: Magnitudes):
        self.plan, self.output, self.magnitudes = plan, output, magnitudes
        self.programs = self.unproven = 0

    def __call__(self, domains: list[Domain], deadline: float) -> tuple[Tensor, Tensor, Tensor]:
        """Decide domains: (refuted ``[n]``, candidates ``[k, inputs]``, which domain each belongs to ``[k]``)."""
        refuted, points, owner = [], [], []
        for number, domain in enumerate(domains):
            found = self.decide(domain, deadline)
            refuted.append(found.refuted)
            points += found.points[-4:]
            owner += [number] * len(found.points[-4:])
        device = self.plan.device
        size = sum(self.plan.size(i) for i in self.plan.graph.inputs)
        stacked = torch.stack(points) if points else torch.zeros(0, size, dtype=torch.float64, device=device)
        return (
            torch.tensor(refuted, dtype=torch.bool, device=device),
            stacked,
            torch.tensor(owner, device=device, dtype=torch.int64),
        )

    def decide(self, domain: Domain, deadline: float, budget: int = 1 << 30) -> Decision:
        """Refute a domain or find candidates; gives up at ``deadline`` (time.monotonic()) or after ``budget`` programs."""
        ticket = itertools.count()
        open_ = [(-float("inf"), next(ticket), domain)]
        used, stuck, points = 0, float("inf"), []
        while open_:
            if used >= budget or time.monotonic() > deadline:
                return Decision(False, min(stuck, open_[0][0]), points, used, True)
            _, _, node = heapq.heappop(open_)
            found = Program(self.plan, self.output, node).solve()
            used += 1
            self.programs += 1
            if found is None:
                return Decision(False, -float("inf"), points, used)
            margin = proven_margin(self.plan, self.output, node, found, self.magnitudes)
            if margin > 0:
                continue
            place = self._worst(node, found)
            if place is None:
                self.unproven += 1
                stuck = min(stuck, margin)
                points.append(found.point)
                return Decision(False, stuck, points, used)
            points.append(found.point)
            if self._violates(node, found.point):
                return Decision(False, margin, points[-1:], used)
            for child in self._children(node, *place):
                heapq.heappush(open_, (found.margin, next(ticket), child))
        return Decision(not stuck < float("inf"), stuck, points, used)

    def _violates(self, node: Domain, point: Tensor) -> bool:
        """Whether the network itself violates the clause at a point of the domain."""
        from provenn.bounds.graph import evaluate

        shaped, start = [], 0
        for index in node.inputs:
            size = self.plan.size(index)
            shaped.append(point[start : start + size].view(1, *self.plan.shape(index)))
            start += size
        y = evaluate(self.plan.graph, shaped, dtype=torch.float64, device=self.plan.device)[0].flatten()
        return bool((node.rows @ y <= node.threshold).all())

    def _worst(self, node: Domain, found: Solution) -> tuple[int, int, float] | None:
        """(value, element, place) to split: the largest gap between variable and function at the optimum."""
        best: tuple[float, int, int, float] | None = None
        for index, elements, gap, z in found.gaps:
            operand = self.plan.graph.nodes[index].inputs[0]
            lower, upper = (b.flatten()[elements] for b in node.boxes[operand])
            inside = self._inside(index, lower, upper, elements)
            score = torch.where(inside, gap, -1.0)
            # An element that bounds cannot improve is still worth a split while nothing else is left.
            at = int(score.argmax())
            if float(score[at]) >= 0 and (best is None or float(score[at]) > best[0]):
                best = (float(score[at]), operand, int(elements[at]), float(z[at]))
        return None if best is None else best[1:]

    def _inside(self, index: int, lower: Tensor, upper: Tensor, elements: Tensor) -> Tensor:
        """Elements that a split makes better: a break point inside, or (smooth, stepped) any width."""
        result = torch.zeros_like(lower, dtype=torch.bool)
        for point in self._points(index, elements):
            result |= (lower < point) & (upper > point)
        operator = self.plan.operators[index]
        if not operator.piecewise_linear or operator.name in STEPPED:
            result |= upper - lower > 1e-9 * torch.maximum(lower.abs(), upper.abs()).clamp(min=1e-9)
        elif operator.name in JUMPING:
            result |= ((lower == 0) | (upper == 0)) & (upper > lower)
        return result

    def _points(self, index: int, elements: Tensor) -> list[Tensor]:
        shape = self.plan.shape(index)
        found = self.plan.operators[index].breakpoints(self.plan.prepared[index])
        kind = {"dtype": torch.float64, "device": self.plan.device}
        return [torch.as_tensor(p, **kind).expand(shape).flatten()[elements] for p in found]

    def _children(self, node: Domain, value: int, element: int, place: float) -> list[Domain]:
        lower, upper = (float(b.flatten()[element]) for b in node.boxes[value])
        pieces: list[tuple[Box, Box]] | None = None
        point, jump = place, None
        for index in self.plan.consumers[value]:
            operator = self.plan.operators[index]
            if not isinstance(operator, Univariate):
                continue
            where = torch.tensor([element], device=self.plan.device)
            inside = [float(p) for p in self._points(index, where) if lower < float(p) < upper]
            if operator.name in JUMPING and lower <= 0 <= upper:
                point, jump = 0.0, operator.name
            elif operator.name in STEPPED:
                steps = STEPPED[operator.name](place, lower, upper)
                if steps is not None:
                    point, jump = steps, operator.name
            elif inside and jump is None:
                point = min(inside, key=lambda p: abs(p - place))
        if jump is None and not lower < point < upper:
            point = lower + 0.5 * (upper - lower)
        pieces = split_at(lower, upper, point, jump)
        return [self._child(node, value, element, box, closed) for box, closed in pieces]

    def _child(self, node: Domain, value: int, element: int, box: Ends, closed: Ends) -> Domain:
        boxes, hulls, split = dict(node.boxes), dict(node.closed), dict(node.split)
        boxes[value] = _with(boxes[value], element, box)
        hulls[value] = _with(hulls[value], element, closed)
        known = split.get(value, torch.zeros(0, dtype=torch.int64, device=self.plan.device))
        split[value] = torch.cat([known, known.new_tensor([element])]).unique()
        return replace(node, boxes=boxes, closed=hulls, split=split)


Ends = tuple[float, float]
# sign jumps at 0 and is 0 there.
JUMPING = frozenset({"sign"})


def _near(values: Callable[[float], float]) -> Callable[[float, float, float], float | None]:
    def jump(place: float, lower: float, upper: float) -> float | None:
        point = values(place)
        for candidate in (point, point - 1, point + 1):
            if lower < candidate < upper:
                return candidate
        return None

    return jump


# Operators with a jump at every integer (round: at every half): the jump inside the box that is nearest to a place.
STEPPED: Mapping[str, Callable[[float, float, float], float | None]] = {
    "floor": _near(lambda x: float(round(x))),
    "ceil": _near(lambda x: float(round(x))),
    "round": _near(lambda x: float(round(x - 0.5)) + 0.5),
}


def split_at(lower: float, upper: float, point: float, jump: str | None) -> list[tuple[Ends, Ends]]:
    """The pieces of ``[lower, upper]``: (box as the relaxation reads it, closed hull that constraints may use)."""
    if jump is None:
        return [((lower, point), (lower, point)), ((point, upper), (point, upper))]
    at = torch.tensor(point, dtype=torch.float64)
    below = float(open_end(at, torch.full_like(at, -torch.inf)))
    above = float(open_end(at, torch.full_like(at, torch.inf)))
    left, right = (lower, point), (point, upper)
    pieces = []
    if lower < point:
        pieces.append(((lower, below), left))
    pieces.append(((point, point), (point, point)))
    if upper > point:
        pieces.append(((above, upper), right))
    return pieces


def fixed_domains(bounder: Fixed, fields: Fields) -> list[Domain]:
    """The domains of the neuron-splitting search as programs take them."""
    base = bounder.facts.boxes
    lower = bounder._spread({v: b[0] for v, b in base.items()}, fields["lower"], torch.float64)
    upper = bounder._spread({v: b[1] for v, b in base.items()}, fields["upper"], torch.float64)
    rows, threshold = bounder.clauses.rows[fields["clause"]], bounder.clauses.threshold[fields["clause"]]
    jumps = {v for v in lower if reads_jump(bounder.exact, v)}
    result = []
    for i in range(fields["bound"].shape[0]):
        boxes, closed, split = dict(base), dict(base), {}
        for value in lower:
            box = lower[value][i : i + 1], upper[value][i : i + 1]
            changed = ((box[0] != base[value][0]) | (box[1] != base[value][1])).flatten().nonzero().squeeze(1)
            if changed.numel():
                boxes[value], split[value] = box, changed
                closed[value] = closed_ends(box) if value in jumps else box
        result.append(Domain(bounder.facts.inputs, boxes, closed, split, rows[i], threshold[i]))
    return result


def reads_jump(plan: Plan, value: int) -> bool:
    """Whether an operator with jumps reads the value."""
    return any(
        plan.operators[i].name in JUMPING or plan.operators[i].name in STEPPED for i in plan.consumers[value]
    )


def closed_ends(box: Box) -> Box:
    """A box of float32 ends with the neighbours of its ends inside: an open end stands for the number beyond it."""
    infinity = torch.full((), torch.inf, device=box[0].device)
    tiny = torch.finfo(torch.float32).tiny
    lower = torch.where(box[0].abs() == tiny, 0.0, torch.nextafter(box[0].float(), -infinity).double())
    upper = torch.where(box[1].abs() == tiny, 0.0, torch.nextafter(box[1].float(), infinity).double())
    return torch.minimum(lower, box[0]), torch.maximum(upper, box[1])


def _with(box: Box, element: int, ends: Ends) -> Box:
    lower, upper = box[0].clone(), box[1].clone()
    lower.view(-1)[element], upper.view(-1)[element] = ends
    return lower, upper
