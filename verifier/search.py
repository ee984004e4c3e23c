"""Branch and bound: one loop for every kind of split.

A round takes a batch of domains, splits each, bounds the children, drops the refuted ones and returns the rest to the
pool. Nothing in a round loops over domains.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from provenn.verifier.pool import Fields, Pool
from provenn.verifier.workers import Shared, Workers, cut


class Bounder(Protocol):
    """What a search needs: roots, bounds of a batch, children of a batch."""

    name: str

    def roots(self) -> Fields: ...

    def bound(self, fields: Fields) -> tuple[Fields, Tensor]: ...

    def split(self, fields: Fields) -> Fields: ...

    def splittable(self, fields: Fields) -> Tensor: ...


Check = Callable[[Tensor, Tensor], bool]
Leaf = Callable[[Fields], tuple[Tensor, Tensor, Tensor]]
Progress = Callable[[int, int, float], None]
# Seconds that bounding one part of a round may take, as far as earlier parts foretell.
PART_SECONDS = 1.0


class Search:
    """A search that can be interrupted and resumed.

    ``check(points [n, inputs], clause [n])`` tries minimisers as witnesses; ``leaf(fields)`` decides domains that
    cannot be
    split: (refuted ``[n]``, candidates ``[k, inputs]``, the domain of each); ``interlude()`` runs between rounds and
    may find a witness. ``start`` are domains that are bounded already; without it the search begins at the bounder's
    roots. ``rate`` foretells the seconds that bounding a domain takes; ``workers`` share that. A round takes the worse
    half of the open domains, but ``least`` where there are as many and ``batch`` at most.
    """

    def __init__(
        self,
        bounder: Bounder,
        *,
        batch: int,
        check: Check,
        progress: Progress,
        interlude: Callable[[], bool] | None = None,
        leaf: Leaf | None = None,
        start: Fields | None = None,
        rate: float = 1e-3,
        workers: Workers | None = None,
        least: int = 16,
    ):
        self.bounder, self.batch, self.check, self.progress = bounder, batch, check, progress
        self.least = least
        self._bounded = Shared(bounder.bound, Workers(1) if workers is None else workers, rate)
        self.interlude, self.leaf = interlude, leaf
        self.pool = Pool()
        self.pending: list[Fields] = [bounder.roots()] if start is None else []
        if start is not None:
            self.pool.push(start)
        self.clauses = _count(start if start is not None else self.pending[0])
        self.domains = self.rounds = self.stuck = 0
        self.lowest_stuck = float("inf")
        self.seconds = 0.0

    def run(self, until: float) -> str:
        """Search until ``until`` (time.monotonic()): ``refuted``, ``witness``, ``stuck`` (open leaves) or
        ``timeout``."""
        begun = time.monotonic()
        try:
            while True:
                while self.pending:
                    if time.monotonic() > until:
                        return "timeout"
                    if self._bound(self.pending.pop()):
                        return "witness"
                self.progress(self.domains, len(self.pool), self.bound())
                if not len(self.pool):
                    return "stuck" if self.stuck else "refuted"
                if self.interlude is not None and self.interlude():
                    return "witness"
                self.rounds += 1
                count = len(self.pool)
                size = min(self.batch, max(count // 2, min(count, self.least)))
                part = max(1, min(self.batch, int(PART_SECONDS / self._bounded.rate)))
                self.pending = cut(self.bounder.split(self.pool.take(size)), part)
        finally:
            self.seconds += time.monotonic() - begun

    def _bound(self, part: Fields) -> bool:
        """Bound one part and return its open domains to the pool; whether a witness was found."""
        open_, points = self._bounded(part)
        self.domains += _count(part)
        if points.shape[0] and self.check(points, open_["clause"]):
            return True
        ready = self.bounder.splittable(open_)
        if not bool(ready.all()):
            leaves = {k: v[~ready] for k, v in open_.items()}
            done = torch.zeros_like(ready[~ready])
            if self.leaf is not None:
                done, candidates, owner = self.leaf(leaves)
                if candidates.shape[0] and self.check(candidates, leaves["clause"][owner]):
                    return True
            left = int((~done).sum())
            if left:
                self.stuck += left
                self.lowest_stuck = min(self.lowest_stuck, float(leaves["bound"][~done].min()))
            open_ = {k: v[ready] for k, v in open_.items()}
        self.pool.push(open_)
        return False

    def open(self) -> int:
        """Domains not decided yet."""
        return len(self.pool) + sum(_count(p) for p in self.pending) + self.stuck

    def open_clauses(self) -> Tensor:
        """Clauses with an open domain in the pool or pending, in order."""
        return torch.cat([self.pool.values("clause"), *(p["clause"] for p in self.pending)]).unique()

    def bound(self) -> float:
        """The lowest bound of an open domain."""
        pending = [float(p["bound"].min()) for p in self.pending if _count(p)]
        return min([self.pool.lowest(), self.lowest_stuck, *pending])

    def remaining(self) -> float:
        """The share of the tree that is open: every split halves a domain's share (1 at the roots, 0 at the end)."""
        total = self.pool.sum(lambda f: torch.exp2(-f["depth"].double()))
        total += sum(float(torch.exp2(-p["depth"].double()).sum()) for p in self.pending)
        return (total + self.stuck * 1e-12) / max(1, self.clauses)


def _count(fields: Fields) -> int:
    return fields["bound"].shape[0]
