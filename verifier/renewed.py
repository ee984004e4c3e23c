"""Domains of a derivative graph: splits of intermediate values, with the boxes of all others made anew.

What a derivative is multiplied by depends on the signs and ranges of forward values, so a split changes the boxes of
most values behind it. ``Fixed`` keeps the root's; here every domain gets its own before its rows are bounded with
slopes and multipliers that it inherits and improves.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.alpha import cast
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.optimise import Objective, Optimised
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import RoundingError
from provenn.verifier.columns import Columns
from provenn.verifier.fixed import Fixed
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.regions import constraints, inside
from provenn.verifier.root import Facts, outward32
from provenn.verifier.scores import Bounded

# Linear operators that move elements and do nothing else.
MOVES = frozenset({"index", "reshape", "transpose"})

# What the best split gains, as a share of the bound, up to which a domain's splits are asked for a point.
EXACT = 1e-4

Measure = Callable[[Tensor, Box, Tensor], Tensor]
Row = Callable[[float], float]
Guide = Callable[[Box], Tensor]


class Renewed(Fixed):
    """Bounds a quantity from above: ``measure(bounds [domains, rows], box of the output, clause [domains])`` of lower
    bounds of its rows.

    Domains of which it is proven to be at most ``limit`` are dropped; ``highest`` is the largest bound of those. The
    field ``bound`` is minus the proven bound. ``row(limit)`` says which bound of the row will do.
    """

    name = "splits of values, new boxes"

    def __init__(
        self, problem: Problem, clauses: Clauses, facts: Facts, measure: Measure, row: Row,
        *, steps: int, guide: Guide | None = None, deadline: float = math.inf,
    ):  # fmt: skip
        """``guide`` gives, from boxes of the output, rows ``[domains, rows, outputs]`` in place of the clauses'. The
        first is improved and chooses splits."""
        super().__init__(problem, clauses, facts, steps=steps, deadline=deadline)
        self.measure, self.row, self.guide = measure, row, guide
        self.limit, self.highest = 0.0, -math.inf
        self.attained: Callable[[Tensor], object] = lambda points: None
        """Told points ``[n, inputs]`` of linear regions, may raise the limit."""
        self.root = dict(facts.boxes)
        self.owner = owners(self.exact, self.columns).to(problem.device)

    def threshold(self, fields: Fields) -> Tensor:
        """A row's bound that drops a domain, ``[domains, 1]``."""
        count = fields["clause"].shape[0]
        enough = self.row(self.limit) if self.guide is None else math.inf
        return torch.full((count, 1), enough, dtype=torch.float64, device=self.problem.device)

    def bound(self, fields: Fields) -> tuple[Fields, Tensor]:
        """Bound a batch: (fields of the open domains, their minimisers ``[open, inputs]``)."""
        fields, box = self._renewed(self.clip(fields))
        if fields["bound"].numel() == 0:
            return fields, torch.zeros(0, math.prod(self.problem.input_shape), device=self.problem.device)
        objective, found, proof = self._bounded(fields, box)
        upper = not_less(self.measure(proof, box, fields["clause"]))
        upper = torch.minimum(upper, -fields["bound"])  # the parent's holds as well
        dropped = upper <= self.limit
        if bool(dropped.any()):
            self.highest = max(self.highest, float(upper[dropped].max()))
        open_ = (~dropped).nonzero().squeeze(1)
        kept = {k: v[open_] for k, v in fields.items()}
        kept["bound"] = -upper[open_]
        row = torch.zeros_like(open_)
        points = self._minimiser(found, open_, row)
        if open_.numel():
            self._gain = upper.new_zeros(open_.numel())
            self.choose(kept, found, objective, open_, row)
            kept, points = self._settled(kept, points, open_)
        return kept, points

    def _bounded(self, fields: Fields, box: Box) -> tuple[Objective, Optimised, Tensor]:
        """The first row of every domain with its slopes and multipliers, and proven bounds of its rows."""
        if self.guide is None:
            objective, found = self.improved(fields)
            return objective, found, self.proven(fields, found.parameters)
        count = fields["clause"].shape[0]
        rows = self.guide(box).unflatten(2, self.search.shape(self.target))
        self.rows = rows[:, :1]
        first = dict(fields, clause=torch.arange(count, device=self.problem.device))
        objective, found = self.improved(first)
        inputs = self._inputs_of(count)
        lines = relax_all(self.exact, self.target, self.boxes[torch.float64])
        error = RoundingError(self.exact, self.facts.magnitudes)
        plain = backward(self.exact, self.target, rows, lines, inputs, error=error).expand(count, -1).clone()
        plain[:, :1] = torch.fmax(plain[:, :1], self.proven(first, found.parameters))
        return objective, found, plain

    def _settled(self, kept: Fields, points: Tensor, open_: Tensor) -> tuple[Fields, Tensor]:
        """The open domains without those where no split gains anything and the splits leave no point, or none beyond
        the limit."""
        exact = (self._gain <= EXACT * kept["bound"].abs()) | (kept["column"] < 0)
        asked = exact.nonzero().squeeze(1)
        if asked.numel() == 0:
            return kept, points
        pick = open_[asked]
        boxes = {v: (b[0][pick], b[1][pick]) for v, b in self.boxes[torch.float64].items()}
        inputs = self._inputs_of(len(pick))
        ends = kept["lower"][asked].double(), kept["upper"][asked].double()
        g, h = constraints(
            self.exact, self.problem.input, self.columns, boxes, inputs, self.facts.magnitudes, ends,
            kept["sign"][asked],
        )  # fmt: skip
        low, high = (end[0].flatten().cpu().numpy() for end in self.facts.inputs[self.problem.input])
        refuted = torch.zeros(len(exact), dtype=torch.bool, device=open_.device)
        rows, ends_of_rows = g.cpu().numpy(), h.cpu().numpy()
        for k, at in enumerate(asked.tolist()):  # a linear program each
            empty, point = inside(rows[k], ends_of_rows[k], low, high)
            refuted[at] = empty
            if point is not None:
                self.attained(torch.from_numpy(point)[None])
        upper = -kept["bound"]
        reached = (upper <= self.limit) & ~refuted
        if bool(reached.any()):
            self.highest = max(self.highest, float(upper[reached].max()))
        left = (~(refuted | reached)).nonzero().squeeze(1)
        # There are no minimisers where no row reads the input.
        return {k: v[left] for k, v in kept.items()}, points[left] if len(points) else points

    def _renewed(self, fields: Fields) -> tuple[Fields, Box]:
        """The domains that are not empty, with their boxes in place of the root's, and the boxes of the output."""
        count = fields["bound"].shape[0]
        inputs = self._inputs_of(count)
        known = dict(self.root)
        low = self._spread({v: b[0] for v, b in known.items()}, fields["lower"], torch.float64)
        high = self._spread({v: b[1] for v, b in known.items()}, fields["upper"], torch.float64)
        known |= {v: (low[v], high[v]) for v in low}
        found = intermediate_boxes(
            self.exact, inputs, known=known, magnitudes=self.facts.magnitudes, until=self.target
        )
        boxes = {v: outward32(found[v]) for v in self.root}
        wide = lambda end: end.expand(count, *end.shape[1:])  # noqa: E731
        boxes = {v: (wide(b[0]), wide(b[1])) for v, b in boxes.items()}
        full = torch.ones(count, dtype=torch.bool, device=self.problem.device)
        for lower, upper in boxes.values():
            full &= ~(lower > upper).reshape(count, -1).any(1)
        lower, upper = map(wide, found[self.target])
        pick = full.nonzero().squeeze(1)
        self.boxes = {torch.float64: {v: (b[0][pick], b[1][pick]) for v, b in boxes.items()}}
        self.boxes[torch.float32] = cast(self.boxes[torch.float64], torch.float32)
        fields = {k: v[pick] for k, v in fields.items()}
        for name, side in (("lower", 0), ("upper", 1)):
            fields[name] = self._gather({v: b[side] for v, b in self.boxes[torch.float32].items()})
        return fields, (lower[pick], upper[pick])

    def _inputs_of(self, count: int) -> dict[int, Box]:
        """The box of the inputs for so many domains."""
        wide = lambda end: end.expand(count, *end.shape[1:])  # noqa: E731
        return {i: (wide(b[0]), wide(b[1])) for i, b in self.facts.inputs.items()}

    def _splittable(self, fields: Fields) -> Tensor:
        """Images of other columns are not split themselves."""
        own = torch.arange(self.columns.total, device=self.owner.device) == self.owner
        return super()._splittable(fields) & own

    def _scores(self, fields: Fields, bounded: Bounded, allowed: Tensor) -> Tensor:
        """What splits of a column's images would gain counts for the column."""
        each = super()._scores(fields, bounded, torch.ones_like(allowed)).clamp(min=0)
        total = torch.zeros_like(each).index_add_(1, self.owner, each)
        found = total.masked_fill(~allowed, -torch.inf)
        self._gain = found.amax(1).double()
        return found


def not_less(upper: Tensor) -> Tensor:
    """Upper bounds, infinite where they are no numbers."""
    return torch.nan_to_num(upper, nan=torch.inf, posinf=torch.inf)


def owners(plan: Plan, columns: Columns) -> Tensor:
    """For each column the column to split in its place ``[columns]``: the operand, where it is a moved image of one."""
    owner = torch.arange(columns.total)
    place = {}
    for value, elements, span in columns:
        place[value] = torch.full((plan.size(value),), -1, dtype=torch.int64)
        place[value][elements] = torch.arange(span.start, span.stop)
    for value, elements, span in columns:
        chain, node = [], value
        while plan.operators[node].name in MOVES:
            chain.append(node)
            node = plan.graph.nodes[node].inputs[0]
        if not isinstance(plan.operators[node], Univariate):
            continue
        operand = plan.graph.nodes[node].inputs[0]
        if operand not in place:
            continue
        numbers = torch.arange(1.0, plan.size(node) + 1, dtype=plan.dtype).view(1, *plan.shape(node))
        for moved in reversed(chain):
            numbers = plan.operators[moved].evaluate(plan.prepared[moved], numbers)
        source = numbers.flatten()[elements].long() - 1
        column = place[operand][source.clamp(min=0)]
        owner[span] = torch.where((source >= 0) & (column >= 0), column, owner[span])
    for _ in range(len(columns.values)):  # images of images
        owner = owner[owner]
    return owner
