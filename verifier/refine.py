"""Root boxes tightened by branch and bound on every unstable element.

Each end of an element's box is a small minimisation of its own: a few neuron splits below it, the worst leaves first.
All clauses and all domains of the tree inherit what is found, so a split here is paid once and used everywhere.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from provenn.bounds.propagate.intermediate import interval_suffices, merge, settles_by_sign, unstable
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.ladder import row_cost
from provenn.verifier.fixed import Fixed
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.root import Facts, outward32

# Domains bounded together, if memory allows.
BATCH = 1024
# Multiplications that take several times as long as a fork.
WORTH_A_FORK = 2**29
# Multiplications of a step of slope optimisation over those of a backward pass.
STEP = 3
# Elements of a value that are tried first, a quarter of them at most, unless they are too few to tell; and by what
# share of an element's width their ends must move on average for the others to follow.
TRIED, LEAST_TRIED, WORTH_REFINING = 24, 6, 0.02
# Values in a row on which the trial gained too little, after which no more are tried.
ENOUGH = 3


def refined_facts(problem: Problem, facts: Facts, *, leaves: int, steps: int, deadline: float) -> Facts:
    """Facts of the same input box, no looser: every unstable element's ends over ``leaves`` leaves of a tree.

    A value at a time, so that later values profit from earlier ones. After ``deadline`` what remains keeps its box.
    """
    exact = problem.plan(torch.float64)
    new = replace(facts, boxes=dict(facts.boxes))

    vain = 0

    def tighten(value: int, box: Box, _: dict[int, Box]) -> Box:
        nonlocal vain
        if not interval_suffices(exact, value) and time.monotonic() < deadline and vain < ENOUGH:
            trees = _Trees(problem, new, value, leaves, steps, deadline)
            box = trees.tighten(box)
            vain = 0 if trees.worthwhile else vain + 1
        new.boxes[value] = outward32(box)
        return new.boxes[value]

    interval_boxes(exact, facts.inputs, known=facts.boxes, tighten=tighten, until=problem.output)
    new.unstable_rows = sum(int(unstable(exact, v, b).sum()) for v, b in new.boxes.items())
    return new


class _Trees:
    """The trees below one value's elements."""

    def __init__(self, problem: Problem, facts: Facts, value: int, leaves: int, steps: int, deadline: float):
        self.problem, self.facts, self.value = problem, facts, value
        self.leaves, self.steps, self.deadline = leaves, steps, deadline
        self.plan = problem.plan(torch.float64)
        self.worthwhile = True
        """Whether ``tighten`` found that it gains anything."""
        fitting = self.plan.rows_at_once(value, 1, traced=True) // 4
        self.at_once = max(1, min(BATCH, fitting // problem.workers.count) // leaves)
        # The end of an element whose sign is settled matters no more.
        self.settled = 0.0 if settles_by_sign(self.plan, value) else torch.inf

    def tighten(self, box: Box) -> Box:
        """The end nearer to 0 first, which may settle the element; then the other end of what it did not settle."""
        for nearer in (True, False):
            elements = unstable(self.plan, self.value, box).flatten().nonzero().squeeze(1)
            lower, upper = box[0].flatten()[elements], box[1].flatten()[elements]
            signs = torch.where((lower + upper > 0) == nearer, 1.0, -1.0).to(lower.dtype)
            if nearer and not self._worthwhile(elements, signs, lower, upper):
                self.worthwhile = False
                return box
            size = self._size(elements.numel())
            parts = list(zip(elements.split(size), signs.split(size), strict=True))
            for (part, sign), bound in zip(parts, self.problem.workers.map(self._bounds, parts), strict=True):
                nothing = torch.full_like(bound, torch.nan)
                box = merge(box, part, torch.where(sign > 0, bound, nothing), torch.where(sign < 0, -bound, nothing))
        return box

    def _worthwhile(self, elements: Tensor, signs: Tensor, lower: Tensor, upper: Tensor) -> bool:
        """Whether trees move the ends of some elements, spread over all of them, by enough."""
        count = min(TRIED, elements.numel() // 4)
        if count < LEAST_TRIED:
            return True
        some = torch.linspace(0, elements.numel() - 1, count, device=elements.device).long()
        bound = self._bounds((elements[some], signs[some]))
        before = torch.where(signs > 0, lower, -upper)[some]
        gain = torch.fmax(bound, before) - before
        share = torch.nan_to_num(gain / (upper - lower)[some], nan=0.0, posinf=1.0)  # of an infinite box
        return bool(share.mean() > WORTH_REFINING)

    def _size(self, elements: int) -> int:
        """Elements of a part: a share for every worker, if that is worth a fork."""
        work = elements * self.leaves * (STEP * self.steps + 1) * row_cost(self.plan, self.value)
        share = -(-elements // self.problem.workers.count) if work > WORTH_A_FORK else elements
        return max(1, min(self.at_once, share))

    def _bounds(self, part: tuple[Tensor, Tensor]) -> Tensor:
        """Lower bounds ``[k]`` of elements times signs, in float64: the least over the leaves of each one's tree."""
        elements, signs = part
        if elements.numel() == 0 or time.monotonic() > self.deadline:
            return signs.new_full(elements.shape, -torch.inf)
        count, device = elements.numel(), elements.device
        rows = signs.new_zeros(count, 1, self.plan.size(self.value))
        rows[torch.arange(count, device=device), 0, elements] = signs
        lower, upper = self.facts.inputs[self.problem.input]
        clauses = Clauses(
            lower.flatten(1),
            upper.flatten(1),
            torch.zeros(count, dtype=torch.int64, device=device),
            rows,
            torch.full((count, 1), self.settled, dtype=torch.float64, device=device),
        )
        bounder = Fixed(
            self.problem, clauses, self.facts, steps=self.steps, target=self.value, deadline=self.deadline
        )
        result = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        if bounder.columns.total == 0:
            return result.fill_(-torch.inf)
        fields, pool = bounder.roots(), None
        leaves = torch.ones(count, device=device)
        while fields["bound"].numel():
            fields = self._bounded(bounder, fields)
            pool = fields if pool is None else {k: torch.cat([v, fields[k]]) for k, v in pool.items()}
            chosen, ended = self._next(pool, leaves)
            self._finish(bounder, {k: v[ended] for k, v in pool.items()}, result)
            fields = bounder.split({k: v[chosen] for k, v in pool.items()})
            leaves.index_add_(0, fields["clause"], torch.full_like(fields["depth"], 0.5))
            pool = {k: v[~(chosen | ended)] for k, v in pool.items()}
        return result

    def _bounded(self, bounder: Fixed, fields: Fields) -> Fields:
        """Bound a batch and choose the next split of every domain."""
        objective, found = bounder.improved(fields)
        every = torch.arange(found.bound.shape[0], device=self.plan.device)
        fields = dict(fields, bound=torch.nan_to_num(found.bound[:, 0].double(), nan=-torch.inf))
        bounder.choose(fields, found, objective, every, torch.zeros_like(every))
        return fields

    def _next(self, pool: Fields, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """Which domains are split next, the worse half of every open clause; and which will be split no more."""
        clause, bound = pool["clause"], pool["bound"]
        live = (bound <= self.settled) & (pool["column"] >= 0)
        if time.monotonic() > self.deadline:
            live = torch.zeros_like(live)
        zero = torch.zeros_like(leaves, dtype=bound.dtype)
        size = zero.index_add(0, clause, live.to(bound.dtype))
        mean = zero.index_add(0, clause, torch.where(live, bound, 0)) / size
        chosen = live & (leaves < self.leaves)[clause] & (bound <= mean[clause])
        unfinished = torch.zeros_like(leaves, dtype=torch.bool).index_fill(0, clause[chosen], True)
        return chosen, ~(live & unfinished[clause])

    def _finish(self, bounder: Fixed, fields: Fields, result: Tensor) -> None:
        if fields["bound"].numel():
            bound = bounder.proven(fields)[:, 0]
            result.scatter_reduce_(0, fields["clause"], torch.nan_to_num(bound, nan=-torch.inf), "amin")
