"""Domains below one root box that differ in their splits of intermediate values.

Boxes of intermediate values are the root's facts, changed only at split elements. The search bounds in float32, with
slopes and multipliers optimised and inherited; a leaf is refuted when the same bound in float64 less its error is
positive.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from provenn.bounds.propagate.alpha import proven_bound
from provenn.bounds.propagate.conjunction import Conjunction
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.optimise import Objective, Optimised, Schedule, Splits, optimise
from provenn.bounds.propagate.starts import Starts
from provenn.verifier.columns import columns_of, reads_with_gap
from provenn.verifier.planes import Planes, planes_of
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.root import Facts
from provenn.verifier.scores import Bounded, at_minimiser, by_intercept, by_shortcut
from provenn.verifier.shortcuts import Shortcuts, shortcuts_of

# The open end of a box at the jump of a sign: the number next to 0 (see relaxation.open_end).
JUMP_STEP = torch.finfo(torch.float32).tiny

# The weights of a clause's rows: sizes of their steps at a root and below it, and how many more steps a root gets.
FIRST_RATE, RATE, FIRST_STEPS = 2.0, 0.5, 4
# Weights of planes up to which a domain hands them on; the children of one with more start anew.
MOST_WEIGHTS = 1 << 15
# Combinations of a clause's rows that a domain hands on.
KEPT = 2


class Fixed:
    """Bounds domains ``(clause, lower, upper, sign, parameters)`` over the columns, float32 ``[domains,
    columns]``."""

    name = "neuron splits"
    at_once = 16
    """Domains that are bounded in little more time than one."""

    def __init__(
        self,
        problem: Problem,
        clauses: Clauses,
        facts: Facts,
        *,
        steps: int,
        candidates: int = 1,
        score: str = "minimiser",
        target: int | None = None,
        deadline: float = math.inf,
    ):
        """``target`` is the value that the clauses' rows are over, the output if None; ``score`` as in Options."""
        self.problem, self.clauses, self.facts = problem, clauses, facts
        self.target = problem.output if target is None else target
        self.exact, self.search = problem.plan(torch.float64), problem.plan(torch.float32)
        self.starts = {torch.float32: Starts(self.search), torch.float64: Starts(self.exact)}
        self.steps, self.candidates, self.deadline = steps, candidates, deadline
        self.score = score
        self.columns = columns_of(self.search, facts, self.target)
        self.boxes = {torch.float32: facts.cast(torch.float32), torch.float64: facts.boxes}
        self.inputs = {
            torch.float64: facts.inputs,
            torch.float32: {i: (b[0].float(), b[1].float()) for i, b in facts.inputs.items()},
        }
        self.rows = clauses.rows.view(*clauses.rows.shape[:2], *self.search.shape(self.target))
        # Several rows of a clause: one combination of them is bounded, with weights that are sought.
        self.weighted = clauses.rows.shape[1] > 1
        self._kept: Tensor | None = None
        self._multipliers = 0
        """Where the multipliers of the columns start among the parameters that domains inherit."""
        jumps = {
            v: torch.full((1, *self.search.shape(v)), v in self.columns.jumps) for v in self.columns.values
        }
        self._jumps = self._gather(jumps).to(problem.device).bool().squeeze(0)
        self.planes = self._planes() if target is None else None
        self.confirm_failures = 0

    def _planes(self) -> Planes | None:
        """What splits say about other elements; None where asking costs too much."""
        columns, facts = self.columns, self.facts
        return planes_of(
            self.exact, self.problem.input, columns.values, columns.elements, ~self._jumps,
            facts.boxes, facts.inputs, facts.magnitudes,
        )  # fmt: skip

    def roots(self) -> Fields:
        count, device = len(self.clauses), self.problem.device
        pick = lambda side: self._gather({v: b[side] for v, b in self.boxes[torch.float32].items()})  # noqa: E731
        lower, upper = pick(0).expand(count, -1), pick(1).expand(count, -1)
        return {
            "clause": torch.arange(count, device=device),
            "lower": lower,
            "upper": upper,
            "sign": torch.zeros(count, self.columns.total, dtype=torch.int8, device=device),
            "bound": torch.full((count,), -torch.inf, dtype=torch.float64, device=device),
            "depth": torch.zeros(count, device=device),
            "column": torch.zeros(count, dtype=torch.int64, device=device),
            "point": torch.zeros(count, device=device),
        }

    def _gather(self, dense: dict[int, Tensor]) -> Tensor:
        return self.columns.gather(dense)

    def _spread(self, base: dict[int, Tensor], flat: Tensor, dtype: torch.dtype) -> dict[int, Tensor]:
        return self.columns.spread(self.search, base, flat, dtype)

    def objective(self, fields: Fields, dtype: torch.dtype) -> Objective:
        """The bound of every domain's rows as a function of slopes and multipliers."""
        plan = self.search if dtype == torch.float32 else self.exact
        base = self.boxes[dtype]
        lower = self._spread({v: b[0] for v, b in base.items()}, fields["lower"], dtype)
        upper = self._spread({v: b[1] for v, b in base.items()}, fields["upper"], dtype)
        boxes: dict[int, Box] = dict(base)
        boxes.update({v: (lower[v], upper[v]) for v in lower})
        zero = {v: torch.zeros_like(base[v][0]) for v in lower}
        sign = self._spread(zero, fields["sign"], dtype)
        point = {v: torch.where(sign[v] > 0, lower[v], upper[v]) * sign[v].abs() for v in lower}
        for value in self.columns.jumps:  # a constraint may use the closed hull only
            point[value] = torch.where(point[value].abs() == JUMP_STEP, 0.0, point[value])
        rows, splits = self.rows[fields["clause"]].to(dtype), Splits(sign, point)
        if not self.weighted:
            return Objective(
                plan, self.target, rows, boxes, self.inputs[dtype], splits, planes=True, starts=self.starts[dtype]
            )  # fmt: skip
        known, threshold = fields.get("parameters"), self.clauses.threshold[fields["clause"]].to(dtype)
        together = Conjunction(rows, threshold, FIRST_RATE if known is None else RATE)
        combinations = together.count + 1 if known is None else known.shape[1]
        return Objective(
            plan, self.target, rows, boxes, self.inputs[dtype], splits, conjunction=together,
            combinations=combinations, planes=True, starts=self.starts[dtype],
        )  # fmt: skip

    def threshold(self, fields: Fields) -> Tensor:
        """What a bound of the objective must exceed, ``[domains, rows]``: 0 where it is a margin already."""
        threshold = self.clauses.threshold[fields["clause"]]
        return torch.zeros_like(threshold[:, :1]) if self.weighted else threshold

    def kept(self, objective: Objective) -> Tensor:
        """Positions of the flat parameters that domains inherit: slopes and multipliers of the columns."""
        if self._kept is None:
            place = dict(zip(self.columns.values, self.columns.elements, strict=False))
            parts: list[Tensor] = []
            weights = sum(s.size for s in objective.layout.segments if s.kind == "plane")
            for segment in objective.layout.segments:
                if segment.kind == "beta" and segment.index == self.columns.values[0]:
                    self._multipliers = sum(part.numel() for part in parts)
                if segment.kind in ("logit", "plane"):
                    if segment.kind == "logit" or weights <= MOST_WEIGHTS:
                        parts.append(segment.start + torch.arange(segment.size, device=self.problem.device))
                    continue
                value = segment.index
                if segment.kind != "beta":
                    value = self.search.graph.nodes[segment.index].inputs[0]
                if value in place:
                    parts.append(segment.start + place[value])
            self._kept = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
        return self._kept

    def _start(self, objective: Objective, fields: Fields) -> Tensor:
        flat = objective.start()
        if "parameters" in fields:
            flat[:, :, self.kept(objective)] = fields["parameters"].to(flat.dtype)
            flat = torch.minimum(torch.maximum(flat, objective.low), objective.high)
        return flat

    def bound(self, fields: Fields) -> tuple[Fields, Tensor]:
        """Bound a batch: (fields of the open domains, their minimisers ``[open, inputs]``)."""
        fields = self.clip(fields)
        objective, found = self.improved(fields)
        threshold = self.threshold(fields)
        margin = (found.bound.double() - threshold).amax(1)
        refuted = margin > 0
        if refuted.any():
            index = refuted.nonzero().squeeze(1)
            confirmed = self.confirm({k: v[index] for k, v in fields.items()}, found.parameters[index])
            refuted[index] = confirmed
            self.confirm_failures += int((~confirmed).sum())
        open_ = (~refuted).nonzero().squeeze(1)
        kept = {k: v[open_] for k, v in fields.items()}
        kept["bound"] = torch.nan_to_num(margin[open_], nan=-torch.inf, neginf=-torch.inf)
        row = (found.bound.double() - threshold).argmax(1)[open_]
        minimiser = self._minimiser(found, open_, row)
        if open_.numel():
            self.choose(kept, found, objective, open_, row)
        return kept, minimiser

    def clip(self, fields: Fields) -> Fields:
        """The domains with boxes clipped by their splits, without those that their splits leave empty."""
        if self.planes is None:
            return fields
        lower, upper = self.planes.clipped(fields["lower"], fields["upper"], fields["sign"])
        fields = dict(fields, lower=lower, upper=upper)
        # At a jump the open end may lie beyond a box of subnormal width, which is not empty.
        held = ((lower <= upper) | self._jumps).all(1)
        return fields if bool(held.all()) else {k: v[held] for k, v in fields.items()}

    def improved(self, fields: Fields) -> tuple[Objective, Optimised]:
        """The objective of a batch of domains and its best bounds in float32."""
        objective = self.objective(fields, torch.float32)
        threshold = self.threshold(fields).float()
        start = self._start(objective, fields)
        more = FIRST_STEPS if self.weighted and "parameters" not in fields else 1
        return objective, optimise(
            objective, Schedule(steps=self.steps * more), start=start, threshold=threshold, any_row=True,
            deadline=self.deadline,
        )  # fmt: skip

    def _minimiser(self, found: Optimised, open_: Tensor, row: Tensor) -> Tensor:
        x = found.minimiser.get(self.problem.input)
        if x is None:
            return torch.zeros(
                0, int(torch.Size(self.problem.input_shape).numel()), device=self.problem.device
            )
        x = x.expand(max(x.shape[0], found.bound.shape[0]), *x.shape[1:])
        return x[open_, row].flatten(1).double()

    def confirm(self, fields: Fields, flat: Tensor) -> Tensor:
        """Which domains are refuted by the same parameters in float64, less the error term."""
        return (self.proven(fields, flat) > self.threshold(fields)).any(1)

    def proven(self, fields: Fields, flat: Tensor | None = None) -> Tensor:
        """Bounds ``[domains, rows]`` in float64 less the error term, at parameters found in float32 (the domains' own
        if None)."""
        objective = self.objective(fields, torch.float64)
        flat = self._start(objective, fields) if flat is None else flat
        return proven_bound(objective, flat, self.facts.magnitudes)

    # -- branching -----------------------------------------------------------------------------------

    def choose(
        self, kept: Fields, found: Optimised, objective: Objective, open_: Tensor, row: Tensor
    ) -> None:
        """Set ``parameters``, ``column`` and ``point`` of open domains; column -1 where nothing is left to split."""
        parameters = found.parameters[open_]
        if self.weighted:  # children go on from the best combinations
            best = torch.nan_to_num(found.bound[open_], nan=-torch.inf).topk(KEPT, 1).indices
            parameters = parameters[torch.arange(row.numel(), device=row.device).unsqueeze(1), best]
        kept["parameters"] = parameters[:, :, self.kept(objective)]
        splittable = self._splittable(kept)
        count = min(self.candidates, splittable.shape[1])
        if count == 0:
            kept["column"] = torch.full_like(kept["column"], -1)
            return
        bounded = Bounded(self.starts[torch.float32], self.columns, objective.boxes, found, open_, row)
        score = self._scores(kept, bounded, splittable)
        proposals = score.topk(count, 1).indices
        column = proposals[:, 0] if count == 1 else self._evaluate(kept, proposals, splittable.gather(1, proposals))
        kept["column"] = torch.where(splittable.any(1), column, -1)
        kept["point"] = self._points(kept, kept["column"].clamp(min=0))

    def _splittable(self, fields: Fields) -> Tensor:
        """Columns that an operator still reads with a gap."""
        lower, upper = fields["lower"], fields["upper"]
        parts = [
            reads_with_gap(self.search, self.columns, value, lower[:, place], upper[:, place])
            for value, _, place in self.columns
        ]
        return torch.cat(parts, 1) if parts else torch.zeros_like(lower, dtype=torch.bool)

    def _points(self, fields: Fields, column: Tensor) -> Tensor:
        """Where to split columns ``[domains]`` or ``[domains, k]``: at a jump, else where ``Points`` says."""
        shape, column = column.shape, column.unsqueeze(1) if column.dim() == 1 else column
        low, high = (fields[end].gather(1, column).flatten() for end in ("lower", "upper"))
        column = column.flatten()
        result = torch.zeros_like(low)
        for value, elements, place in self.columns:
            mine = ((column >= place.start) & (column < place.stop)).nonzero().squeeze(1)
            if mine.numel() and value not in self.columns.jumps:
                chosen = elements[column[mine] - place.start]
                result[mine] = self.problem.points.at(value, chosen, low[mine], high[mine])
        return result.view(shape)

    def _scores(self, fields: Fields, bounded: Bounded, allowed: Tensor) -> Tensor:
        """Scores ``[open, columns]`` of the open domains ``fields``, of which ``allowed`` columns may be split."""
        every = torch.arange(self.columns.total, device=allowed.device).expand_as(allowed)
        wanted = self.score != "minimiser" or any(bounded.smooth(value) for value in self.columns.values)
        points = self._points(fields, every) if wanted else torch.zeros_like(fields["lower"])
        if self.score == "intercept":
            score = by_intercept(bounded, points)
        elif self.score == "shortcut" and self.shortcuts is not None:
            score = by_shortcut(bounded, self.shortcuts, points, allowed)
        else:
            score = at_minimiser(bounded, points)
        return torch.nan_to_num(score, nan=0.0).masked_fill(~allowed, -torch.inf)

    @cached_property
    def shortcuts(self) -> Shortcuts | None:
        """Linear bounds of the columns in the input, for scores only."""
        single = torch.float32
        return shortcuts_of(self.search, self.problem.input, self.columns, self.boxes[single], self.inputs[single])

    def _evaluate(self, kept: Fields, proposals: Tensor, allowed: Tensor) -> Tensor:
        """Bound the children of every proposal at the parent's parameters; keep the best worse child.

        Only ``allowed`` proposals count: halving an element that is linear already may look good for ever.
        """
        domains, count = proposals.shape
        repeated = {k: v.repeat_interleave(count, 0) for k, v in kept.items() if k not in ("column", "point")}
        repeated["column"] = proposals.reshape(-1)
        repeated["point"] = self._points(repeated, repeated["column"])
        children = self.split(repeated)
        objective = self.objective(children, torch.float32)
        bound, _ = objective.bound(self._start(objective, children))
        worst = (bound.double() - self.threshold(children)).amax(1).view(2, domains, count)
        score = worst.amin(0) + 0.05 * worst.amax(0).clamp(max=0)
        # A bound that is not a number is a proposal still, the last one.
        score = torch.nan_to_num(score, nan=torch.finfo(score.dtype).min).masked_fill(~allowed, -torch.inf)
        return proposals.gather(1, score.argmax(1, keepdim=True)).squeeze(1)

    def split(self, fields: Fields) -> Fields:
        """Two children per domain: below and above the point of the chosen column.

        At a jump one side leaves the point out: ``z < p`` and ``z >= p``, or ``z = p`` and ``z > p`` where p is the
        lower end.
        """
        column, point = fields["column"].unsqueeze(1), fields["point"].unsqueeze(1)
        jump = self._jumps[column]
        first = jump & (fields["lower"].gather(1, column) == point)
        highest, lowest = torch.where(jump & ~first, -JUMP_STEP, point), torch.where(first, JUMP_STEP, point)
        # Both ends hold; the constraint is the one whose multiplier is at work already, else the new one.
        before, used = fields["sign"].gather(1, column), self._used(fields, column)
        one = torch.ones_like(before)
        fields = dict(fields, depth=fields["depth"] + 1)
        below = dict(
            fields,
            upper=fields["upper"].scatter(1, column, highest),
            sign=fields["sign"].scatter(1, column, torch.where(used, before, -one)),
        )
        above = dict(
            fields,
            lower=fields["lower"].scatter(1, column, lowest),
            sign=fields["sign"].scatter(1, column, torch.where(used, before, one)),
        )
        return {name: torch.cat([below[name], above[name]]) for name in fields}

    def _used(self, fields: Fields, column: Tensor) -> Tensor:
        """Whether the multiplier of a column ``[domains, 1]`` is positive."""
        if self._kept is None or "parameters" not in fields:
            return torch.zeros_like(column, dtype=torch.bool)
        place = self._multipliers + column
        rows = fields["parameters"].shape[1]
        return (fields["parameters"].gather(2, place.unsqueeze(1).expand(-1, rows, -1)) > 0).any(1)

    def splittable(self, fields: Fields) -> Tensor:
        return fields["column"] >= 0
