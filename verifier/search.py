"""Branch and bound: one loop for every kind of split.

A round takes a batch of domains, splits each, bounds the children, drops the refuted ones and returns the rest to the
pool. Nothing in a round loops over domains.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from provenn.bounds.propagate.interrupt import check as check_cancelled
from provenn.verifier.pool import Fields, Pool
from provenn.verifier.workers import Shared, Workers, cut


class Bounder(Protocol):
    """What a search needs: roots, bounds of a batch, children of a batch."""

    name: str

    def roots(self) -> Fields: ...

    def bound(self, fields: Fields) -> tuple[Fields, Tensor]: ...

    def split(self, fields: Fields) -> Fields: ...

    def splittable(self, fields: Fields) -> Tensor: ...


class LeafTree(Protocol):
    """What decides one domain that cannot be split: the interface of ``leaf.Tree``."""

    ending: str | None
    margin: float
    points: list[Tensor]

    @property
    def remaining(self) -> float: ...

    def run(self, until: float) -> str | None: ...


Check = Callable[[Tensor, Tensor], bool]
Leaf = Callable[[Fields], Iterator[LeafTree]]
Progress = Callable[[int, int, float], None]
# Seconds that bounding one part of a round may take, as far as earlier parts foretell.
PART_SECONDS = 1.0
# Points of a leaf's tree that are tried after each of its turns.
CANDIDATES = 4


class Search:
    """A search that can be interrupted and resumed.

    ``check(points [n, inputs], clause [n])`` tries minimisers as witnesses; ``leaf(fields)`` gives a tree for every
    domain that cannot be split, in order, which may be interrupted, too; ``interlude()`` runs between rounds and may
    find a witness. ``start`` are domains that are bounded already; without it the search begins at the bounder's
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
        self.leaves: deque[_Leaves] = deque()
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
                while self.leaves or self.pending:
                    check_cancelled()
                    if time.monotonic() > until:
                        return "timeout"
                    if self._settle(until) if self.leaves else self._bound(self.pending.pop()):
                        return "witness"
                self.progress(self.domains, len(self.pool), self.bound())
                if not len(self.pool):
                    return "stuck" if self.stuck else "refuted"
                if self.interlude is not None and self.interlude():
                    return "witness"
                self.rounds += 1
                count = len(self.pool)
                size = min(self.batch, max(count // 2, min(count, self.least)))
                self.pending = cut(self.bounder.split(self.pool.take(size)), self._part())
        finally:
            self.seconds += time.monotonic() - begun

    def _part(self) -> int:
        """Domains to bound together: as many as their rate allows, or twice the most so far if those did not take
        long, because what few take says little about many."""
        count, seconds = self._bounded.largest
        grown = 2 * count if seconds <= 2 * PART_SECONDS else 0
        return max(1, min(self.batch, max(grown, int(PART_SECONDS / self._bounded.rate))))

    def _bound(self, part: Fields) -> bool:
        """Bound one part and return its open domains to the pool; whether a witness was found."""
        open_, points = self._bounded(part)
        self.domains += _count(part)
        if points.shape[0] and self.check(points, open_["clause"]):
            return True
        ready = self.bounder.splittable(open_)
        if not bool(ready.all()):
            leaves = {k: v[~ready] for k, v in open_.items()}
            if self.leaf is not None:
                self.leaves.append(_Leaves(leaves, self.leaf(leaves)))
            else:
                self._give_up(_count(leaves), float(leaves["bound"].min()))
            open_ = {k: v[ready] for k, v in open_.items()}
        self.pool.push(open_)
        return False

    def _settle(self, until: float) -> bool:
        """Work on the next leaf until ``until`` (at least one step); whether a witness was found."""
        part = self.leaves[0]
        tree = part.tree
        tried = len(tree.points)
        ending = tree.run(until)
        points = tree.points[tried:][-CANDIDATES:]
        if ending != "refuted" and points:
            clause = part.fields["clause"][part.number]
            if self.check(torch.stack(points), clause.expand(len(points))):
                return True
        if ending is not None:
            if ending != "refuted":
                self._give_up(1, float(part.fields["bound"][part.number]))
            if not part.advance():
                self.leaves.popleft()
        return False

    def _give_up(self, count: int, lowest: float) -> None:
        self.stuck += count
        self.lowest_stuck = min(self.lowest_stuck, lowest)

    def open(self) -> int:
        """Domains not decided yet."""
        return len(self.pool) + sum(map(_count, self._waiting())) + self.stuck

    def open_clauses(self) -> Tensor:
        """Clauses with an open domain that is not stuck, in order."""
        return torch.cat([self.pool.values("clause"), *(p["clause"] for p in self._waiting())]).unique()

    def bound(self) -> float:
        """The lowest bound of an open domain."""
        waiting = [float(p["bound"].min()) for p in self._waiting() if _count(p)]
        return min([self.pool.lowest(), self.lowest_stuck, *waiting])

    def remaining(self) -> float:
        """The share of the tree that is open: every split halves a domain's share (1 at the roots, 0 at the end)."""
        total = self.pool.sum(_share) + sum(float(_share(p).sum()) for p in self._waiting())
        for part in self.leaves:  # what the tree of a leaf has done already
            total -= float(_share(part.open())[0]) * (1 - part.tree.remaining)
        return (total + self.stuck * 1e-12) / max(1, self.clauses)

    def _waiting(self) -> list[Fields]:
        """Domains outside the pool that are not decided: parts of a round, and leaves."""
        return self.pending + [part.open() for part in self.leaves]


class _Leaves:
    """Leaves of one part of a round, decided one after the other: ``tree`` is that of domain ``number``."""

    def __init__(self, fields: Fields, trees: Iterator[LeafTree]):
        self.fields, self.number = fields, 0
        self._trees = trees
        self.tree = next(trees)

    def open(self) -> Fields:
        return {k: v[self.number :] for k, v in self.fields.items()}

    def advance(self) -> bool:
        """Go to the next leaf; False after the last."""
        self.number += 1
        if self.number == _count(self.fields):
            return False
        self.tree = next(self._trees)
        return True


def _share(fields: Fields) -> Tensor:
    return torch.exp2(-fields["depth"].double())


def _count(fields: Fields) -> int:
    return fields["bound"].shape[0]
