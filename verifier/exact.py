"""Searches by linear programs: the leaves of other searches, and whole properties of small networks.

Complete on piecewise-linear networks: what ends here is refuted, violated, or has a margin below floating point.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.plan import Plan
from provenn.verifier._highs import available
from provenn.verifier.fixed import Fixed
from provenn.verifier.leaf import JUMPS, Tree
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.program import Domain, Ends, Place
from provenn.verifier.rebound import Rebound
from provenn.verifier.root import Facts

Check = Callable[[Tensor, Tensor], bool]
# Candidates of one tree that are replayed.
CANDIDATES = 4


class Programs:
    """A search over the clauses of one box, one tree each: the interface of ``search.Search``."""

    name = "linear programs"

    def __init__(
        self, problem: Problem, clauses: Clauses, facts: Facts, *, check: Check, progress: Callable, wait: float = 0.0
    ):
        """``wait`` is how many seconds another search should have had before this one begins."""
        self.bounder, self.wait = self, wait
        self.check, self.progress = check, progress
        plan = problem.plan(torch.float64)
        self.trees = [
            Tree(
                plan, problem.output, facts.magnitudes, Domain(facts.inputs, facts.boxes, {}, rows, threshold)
            )
            for rows, threshold in zip(clauses.rows, clauses.threshold, strict=True)
        ]
        self.seconds, self.rounds = 0.0, 0
        self._next = 0
        available()  # its import is not this search's time

    @property
    def domains(self) -> int:
        return sum(tree.programs for tree in self.trees)

    @property
    def stuck(self) -> int:
        return sum(tree.ending in ("stuck", "violated") for tree in self.trees)

    def run(self, until: float) -> str:
        """Work until ``until`` (time.monotonic()): ``refuted``, ``witness``, ``stuck`` or ``timeout``."""
        begun = time.monotonic()
        try:
            while (number := self._pick()) is not None:
                tree = self.trees[number]
                if time.monotonic() > until:
                    return "timeout"
                tried = len(tree.points)
                tree.run(min(until, time.monotonic() + 0.1))
                self.rounds += 1
                points = tree.points[tried:][-CANDIDATES:]
                if points and self.check(torch.stack(points), torch.full((len(points),), number)):
                    return "witness"
                self.progress(self.domains, self.open(), self.bound())
            return "stuck" if self.stuck else "refuted"
        finally:
            self.seconds += time.monotonic() - begun

    def _pick(self) -> int | None:
        """The next open tree, in turn."""
        for step in range(len(self.trees)):
            number = (self._next + step) % len(self.trees)
            if self.trees[number].ending is None:
                self._next = number + 1
                return number
        return None

    def open(self) -> int:
        return sum(tree.ending != "refuted" for tree in self.trees)

    def bound(self) -> float:
        return min((tree.margin for tree in self.trees if tree.ending != "refuted"), default=float("inf"))

    def violated(self) -> tuple[Tensor, Tensor]:
        """Clauses that a point violates in float64 but not when replayed ``[k]``, and such points ``[k, inputs]``."""
        index = [i for i, tree in enumerate(self.trees) if tree.ending == "violated"]
        points = [self.trees[i].points[-1] for i in index]
        return torch.tensor(index, dtype=torch.int64), torch.stack(points) if points else torch.zeros(0, 0)

    def why(self) -> str:
        """What keeps the clauses open that no further split can settle."""
        parts = []
        for ending, text in (
            ("violated", "violated in float64 by {:.2g}, which no replay repeats"),
            ("stuck", "with a margin of {:.2g}, below what floating point settles"),
            ("unbounded", "have no finite bound by a linear program"),
        ):
            margins = [tree.margin for tree in self.trees if _how(tree) == ending]
            if margins:
                parts.append(f"{len(margins)} of {len(self.trees)} clauses " + text.format(min(margins)))
        return "; ".join(parts)

    def remaining(self) -> float:
        return sum(tree.remaining for tree in self.trees) / max(1, len(self.trees))


def _how(tree: Tree) -> str | None:
    """How a tree ended; ``unbounded`` where it is stuck at a program without an optimum."""
    return "unbounded" if tree.ending == "stuck" and math.isinf(tree.margin) else tree.ending


def neuron_leaves(bounder: Fixed) -> Callable[[Fields], Iterator[Tree]]:
    """Trees for domains of the neuron-splitting search that it cannot split, made as they are asked for."""
    problem, magnitudes = bounder.problem, bounder.facts.magnitudes
    return lambda fields: (
        Tree(bounder.exact, problem.output, magnitudes, domain) for domain in fixed_domains(bounder, fields)
    )


def input_leaves(bounder: Rebound) -> Callable[[Fields], Iterator[Tree]]:
    """Trees for domains of the input-splitting search that it cannot split, made as they are asked for."""
    problem = bounder.problem
    return lambda fields: (
        Tree(bounder.plan, problem.output, problem.magnitudes, domain)
        for domain in rebound_domains(bounder, fields)
    )


def fixed_domains(bounder: Fixed, fields: Fields) -> Iterator[Domain]:
    """The domains of the neuron-splitting search as programs take them."""
    base = bounder.facts.boxes
    lower = bounder._spread({v: b[0] for v, b in base.items()}, fields["lower"], torch.float64)
    upper = bounder._spread({v: b[1] for v, b in base.items()}, fields["upper"], torch.float64)
    rows, threshold = bounder.clauses.rows[fields["clause"]], bounder.clauses.threshold[fields["clause"]]
    for i in range(fields["bound"].shape[0]):
        boxes: dict[int, Box] = dict(base)
        split: dict[Place, Ends] = {}
        for value in lower:
            box = lower[value][i : i + 1], upper[value][i : i + 1]
            changed = ((box[0] != base[value][0]) | (box[1] != base[value][1])).flatten().nonzero().squeeze(1)
            if changed.numel():
                boxes[value] = box
                low, high = closed_ends(box) if reads_jump(bounder.exact, value) else box
                for element in changed.tolist():
                    split[value, element] = float(low.view(-1)[element]), float(high.view(-1)[element])
        yield Domain(bounder.facts.inputs, boxes, split, rows[i], threshold[i])


def rebound_domains(bounder: Rebound, fields: Fields) -> Iterator[Domain]:
    """The domains of the input-splitting search as programs take them: all boxes are made anew."""
    problem = bounder.problem
    lower, upper = bounder.whole(fields)
    for i in range(fields["bound"].shape[0]):
        inputs = problem.input_boxes(lower[i : i + 1], upper[i : i + 1])
        boxes = intermediate_boxes(bounder.plan, inputs, magnitudes=problem.magnitudes, until=problem.output)
        clause = fields["clause"][i]
        yield Domain(inputs, boxes, {}, bounder.clauses.rows[clause], bounder.clauses.threshold[clause])


def reads_jump(plan: Plan, value: int) -> bool:
    """Whether an operator with jumps reads the value."""
    return any(plan.operators[i].name in JUMPS for i in plan.consumers[value])


def closed_ends(box: Box) -> Box:
    """A box of float32 ends widened to the neighbouring numbers: an open end stands for the number beyond it."""
    infinity = torch.full((), torch.inf, device=box[0].device)
    tiny = torch.finfo(torch.float32).tiny
    lower = torch.where(box[0] == tiny, 0.0, torch.nextafter(box[0].float(), -infinity).double())
    upper = torch.where(box[1] == -tiny, 0.0, torch.nextafter(box[1].float(), infinity).double())
    return torch.minimum(lower, box[0]), torch.maximum(upper, box[1])
