"""The largest value of a quantity over a box, from above: two searches over one root, of which either may end it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Univariate
from provenn.verifier.halved import Halved
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.renewed import Guide, Measure, Renewed, Row, not_less
from provenn.verifier.root import outputs_bound, root_facts
from provenn.verifier.search import Search

# Steps of slopes at the root and in the tree, domains of a round, how many of them at least.
ROOT_STEPS, STEPS, BATCH, LEAST = 10, 8, 512, 64
# The share of the time left that the root's boxes may take.
ROOT_SHARE = 0.4
# Free inputs up to which they are split too.
MOST_INPUTS = 32
# Seconds that the first search has alone, and the share of the leading one's time that the other gets.
ALONE, SHARE = 2.0, 0.3


@dataclass(frozen=True)
class Quantity:
    """What is maximised: it is at most ``measure`` of what is proven of ``rows`` ``[clauses, 1, outputs]``."""

    rows: Tensor
    measure: Measure
    row: Row
    guide: Guide | None = None


class Maximum:
    """Bounds a quantity from above until it is at most ``limit``, in turns.

    ``tried(points)`` is told points where it may be large, and may raise the limit; ``moved()`` is called as it goes
    on.
    """

    def __init__(
        self, problem: Problem, quantity: Quantity, *, deadline: float, tried: Callable[[Tensor], object],
        moved: Callable[[], object] = lambda: None,
    ):  # fmt: skip
        self.problem, self.quantity, self.deadline = problem, quantity, deadline
        self.tried, self.moved = tried, moved
        self.facts = root_facts(problem, *problem.hull, steps=0, deadline=deadline)
        assert self.facts.output is not None
        count = len(quantity.rows)
        box = tuple(end.expand(count, *end.shape[1:]) for end in self.facts.output)
        nothing = torch.full((count, 1), -torch.inf, dtype=torch.float64, device=problem.device)
        found = quantity.measure(nothing, box, torch.arange(count, device=problem.device))  # type: ignore[arg-type]
        self.known = float(not_less(found).max())
        if quantity.guide is None and self.known > 0 and time.monotonic() < deadline:
            bounds = outputs_bound(problem, self.facts, self._clauses(), steps=0, deadline=deadline)[1]
            found = quantity.measure(bounds[:, None], box, torch.arange(count, device=problem.device))  # type: ignore[arg-type]
            self.known = min(self.known, float(not_less(found).max()))
        self.searches: list[Search] = []
        self.bounders: list[Renewed | Halved] = []
        self._makers = self._ways()
        self._limit = 0.0
        self.ended = ""

    @property
    def limit(self) -> float:
        """What the bound has to reach; it may rise."""
        return self._limit

    @limit.setter
    def limit(self, limit: float) -> None:
        self._limit = limit
        for bounder in self.bounders:
            bounder.limit = limit

    @property
    def domains(self) -> int:
        return 1 + sum(search.domains for search in self.searches)

    @property
    def upper(self) -> float:
        """A proven upper bound."""
        return min([self.known, *map(self._upper, range(len(self.searches)))])

    def _upper(self, place: int) -> float:
        return max(self.bounders[place].highest, -self.searches[place].bound())

    def advance(self, seconds: float) -> bool:
        """Work for some seconds; False where nothing is left to do, be it that the limit is reached."""
        if self.upper <= self.limit:
            return False
        place = self._next()
        if place is None:
            return False
        ended = self.searches[place].run(min(self.deadline, time.monotonic() + seconds))
        if ended == "refuted":
            self.ended = ended
            return False
        if ended == "stuck":
            self.ended = ended
        return True

    def _ways(self) -> list[Callable[[], Renewed | Halved]]:
        """Both ways to split, the one first that should be better."""
        plan = self.problem.plan(torch.float64)
        functions = [op for op in plan.operators if isinstance(op, Univariate) and op.name != "pow"]
        curved = not all(op.piecewise_linear for op in functions)
        if self.problem.free_inputs.numel() > MOST_INPUTS:
            return [self._renewed]
        return [self._halved, self._renewed] if curved else [self._renewed, self._halved]

    def _next(self) -> int | None:
        """The search of the next turn: the leading one, mostly."""
        running = [k for k, search in enumerate(self.searches) if len(search.pool) or search.pending]
        longest = max((search.seconds for search in self.searches), default=0.0)
        if self._makers and (not self.searches or longest >= ALONE or not running):
            self.bounders.append(self._makers.pop(0)())
            self.bounders[-1].limit = self._limit
            self.searches.append(
                Search(
                    self.bounders[-1], batch=BATCH, least=LEAST, check=self._check,
                    progress=self._moved, interlude=self._done,
                )
            )  # fmt: skip
            return len(self.searches) - 1
        behind = [k for k in running if self.searches[k].seconds < SHARE * longest]
        return min(behind or running, key=self._upper, default=None)

    def _done(self) -> bool:
        return self.upper <= self._limit

    def _moved(self, domains: int, open_: int, bound: float) -> None:
        self.moved()

    def _check(self, points: Tensor, clause: Tensor) -> bool:
        self.tried(points)
        return False

    def _clauses(self) -> Clauses:
        count, device = len(self.quantity.rows), self.problem.device
        zero = torch.zeros(count, 1, dtype=torch.float64, device=device)
        box = torch.zeros(count, dtype=torch.int64, device=device)
        return Clauses(*self.problem.hull, box, self.quantity.rows, zero)

    def _renewed(self) -> Renewed:
        now = time.monotonic()
        until = min(self.deadline, now + ROOT_SHARE * max(0.0, self.deadline - now))  # the rows come after the boxes
        facts = root_facts(self.problem, *self.problem.hull, steps=ROOT_STEPS, deadline=until, known=self.facts)
        quantity = self.quantity
        found = Renewed(
            self.problem, self._clauses(), facts, quantity.measure, quantity.row, steps=STEPS,
            guide=quantity.guide, deadline=self.deadline,
        )  # fmt: skip
        found.attained = self.tried
        return found

    def _halved(self) -> Halved:
        quantity = self.quantity
        return Halved(self.problem, self._clauses(), quantity.measure, quantity.row, guide=quantity.guide)

