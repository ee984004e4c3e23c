"""Branch and bound: one loop for every kind of split.

A round takes a batch of domains, splits each, bounds the children, drops the refuted ones and returns the rest to the
pool. Nothing in a round loops over domains.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from provenn.verifier.pool import Fields, Pool


class Bounder(Protocol):
    """What a search needs: roots, bounds of a batch, children of a batch."""

    name: str

    def roots(self) -> Fields: ...

    def bound(self, fields: Fields) -> tuple[Fields, Tensor, Tensor]: ...

    def split(self, fields: Fields) -> Fields: ...

    def splittable(self, fields: Fields) -> Tensor: ...


@dataclass
class Outcome:
    """How a search ended: ``refuted`` (everything), ``witness``, ``timeout`` or ``stuck`` (open leaves left)."""

    ending: str
    domains: int
    rounds: int
    open: int
    bound: float
    stuck: int = 0


Check = Callable[[Tensor, Tensor], bool]
Leaf = Callable[[Fields], tuple[Tensor, Tensor, Tensor]]
Progress = Callable[[int, int, float], None]


def search(
    bounder: Bounder,
    *,
    batch: int,
    deadline: float,
    check: Check,
    progress: Progress,
    interlude: Callable[[], bool] | None = None,
    leaf: Leaf | None = None,
    start: Fields | None = None,
) -> Outcome:
    """Run until nothing is open, a witness is found, or ``deadline`` (time.monotonic()).

    ``check(points [n, inputs], clause [n])`` tries minimisers as witnesses. ``leaf(fields)`` decides domains that cannot be split:
    (refuted ``[n]``, candidates ``[k, inputs]``, the domain of each). ``interlude()``
    runs between rounds and may find a witness. ``start`` are domains
    that are bounded already; without it the search begins at the bounder's roots. The batch grows from a few domains to ``batch`` as the pool fills.
    """
    pool = Pool()
    pending = bounder.roots() if start is None else {}
    if start is not None:
        pool.push(start)
    domains = rounds = stuck = 0
    lowest_stuck = float("inf")
    while True:
        for part in _parts(pending, max(1, batch)):
            if time.monotonic() > deadline:
                return Outcome("timeout", domains, rounds, len(pool) + _count(pending), pool.lowest(), stuck)
            open_, points, refuted = bounder.bound(part)
            domains += _count(part)
            if points.shape[0] and check(points, open_["clause"]):
                return Outcome("witness", domains, rounds, len(pool), pool.lowest(), stuck)
            ready = bounder.splittable(open_)
            if not bool(ready.all()):
                leaves = {k: v[~ready] for k, v in open_.items()}
                done = torch.zeros(_count(leaves), dtype=torch.bool, device=ready.device)
                if leaf is not None:
                    done, candidates, owner = leaf(leaves)
                    if candidates.shape[0] and check(candidates, leaves["clause"][owner]):
                        return Outcome("witness", domains, rounds, len(pool), pool.lowest(), stuck)
                left = int((~done).sum())
                stuck += left
                if left:
                    lowest_stuck = min(lowest_stuck, float(leaves["bound"][~done].min()))
                open_ = {k: v[ready] for k, v in open_.items()}
            pool.push(open_)
        progress(domains, len(pool), min(pool.lowest(), lowest_stuck))
        if not len(pool):
            return Outcome("stuck" if stuck else "refuted", domains, rounds, 0, lowest_stuck, stuck)
        if interlude is not None and interlude():
            return Outcome("witness", domains, rounds, len(pool), pool.lowest(), stuck)
        rounds += 1
        size = min(batch, max(4, len(pool) // 2 if len(pool) > 16 else len(pool)))
        pending = bounder.split(pool.take(size))


def _count(fields: Fields) -> int:
    return fields["bound"].shape[0]


def _parts(fields: Fields, size: int) -> list[Fields]:
    if not fields:
        return []
    count = _count(fields)
    if count <= size:
        return [fields]
    return [{k: v[i : i + size] for k, v in fields.items()} for i in range(0, count, size)]
