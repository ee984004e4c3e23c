"""How far a value's backward passes go when time is short: all the way, to an earlier box, or not at all.

The rungs are the interval, forward propagation, backward passes that stop at the boxes of earlier values, and full ones
(DESIGN 4). All of them give valid boxes, so any choice is sound, and it may rest on rough figures: the multiplications
of a row's pass, how many of them this machine makes in a second, and what the values that are still to come would like.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from provenn.bounds.propagate.coefficients import flattened
from provenn.bounds.propagate.intermediate import Batch, interval_suffices, wanted
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.plan import Plan

# Multiplications per second before any were measured.
RATE = 4e9
# Multiplications that one element of a coefficient tensor costs apart from products: lines, sums, magnitudes.
ELEMENT = 12
# A value may take this share of the time that is left, or this many times its proportional share: what follows needs
# less than foretold, all the more the tighter the earlier boxes are.
SHARE, GENEROUS = 0.5, 2.0
# Seconds at the given rate that count as done before the first measurement: a small value's passes are mostly
# overhead and foretell nothing of large ones.
BELIEF = 1.0
# The least share of the elements for which a pass is made if not all of them can be afforded.
LEAST_SHARE = 0.05


def row_cost(plan: Plan, target: int, stop: int = -1) -> float:
    """Multiplications of one element's pass from the target to the values up to ``stop``, within its windows."""
    extents, total = plan.extents(target), 0.0
    for index in plan.order(target):
        if index <= stop:
            break
        extent = extents.get(index)
        size = plan.size(index) if extent is None else plan.shape(index)[1] * extent.area
        total += min(size, plan.size(index)) * (plan.length(index) + ELEMENT)
    return total


@dataclass
class Ladder:
    """Spends the time until ``deadline`` on the values of one root box, in topological order.

    ``intervals`` are plain interval boxes of all values: they foretell how many elements each value will have to bound.
    """

    plan: Plan
    intervals: Mapping[int, Box]
    deadline: float
    rate: float = RATE
    notes: list[str] = field(default_factory=list)
    _wanted: dict[int, float] = field(default_factory=dict, init=False)
    _work: float = field(default=0.0, init=False)
    _took: float = field(default=BELIEF, init=False)

    def __post_init__(self) -> None:
        self._work = BELIEF * self.rate
        for value in self.plan.bounded:
            if value in self.intervals and not interval_suffices(self.plan, value):
                count = int(flattened(wanted(self.plan, value, self.intervals[value]), 1).any(0).sum())
                self._wanted[value] = 2 * count * row_cost(self.plan, value)

    @property
    def seconds(self) -> float:
        """What full passes over all that intervals leave unstable would take."""
        return sum(self._wanted.values()) / self.rate

    def tighten(self, batch: Batch, value: int, box: Box) -> Box:
        """The box with what forward propagation and backward passes of the affordable depth find."""
        if value not in self._wanted or time.monotonic() > self.deadline:
            return box
        box = batch.forwarded(value, box)
        plan, now = self.plan, time.monotonic()
        future = sum(cost for v, cost in self._wanted.items() if v > value)
        elements = flattened(wanted(plan, value, box), 1).any(0)
        count = int(elements.sum())
        if count == 0 or now > self.deadline:
            return box
        full = 2 * count * row_cost(plan, value)
        left = self.deadline - now
        seconds = left * (min(1.0, max(SHARE, GENEROUS * full / (full + future))) if future else 1.0)
        stop, share = self._affordable(value, count, seconds * self.rate)
        if share < LEAST_SHARE:
            self.notes.append(f"value {value}: {count} elements by intervals")
            return box
        if stop >= 0 or share < 1:
            self.notes.append(f"value {value}: {share:.0%} of {count} elements back to value {max(stop, 0)}")
        batch.stop = {v: b for v, b in batch.boxes.items() if v <= stop} if stop >= 0 else None
        batch.deadline = min(self.deadline, now + 2 * seconds)
        batch.most = max(1, int(share * count)) if share < 1 else None
        result = batch.passes(value, box)
        batch.stop, batch.deadline, batch.most = None, self.deadline, None
        self._work += min(1.0, share) * 2 * count * row_cost(plan, value, stop)
        self._took += time.monotonic() - now
        self.rate = self._work / self._took
        return result

    def _affordable(self, value: int, count: int, budget: float) -> tuple[int, float]:
        """The earliest stop (-1: the inputs) whose passes fit, and the share of the elements that then do."""
        plan = self.plan
        stops = [-1, *(v for v in plan.bounded_below(value) if v < value)]
        # A pass over a single relaxation finds nothing that the interval has not found.
        deep = [s for s in stops if sum(s < i < value for i in plan.relaxed_below(value)) >= 2] or [-1]
        for stop in deep:
            if 2 * count * row_cost(plan, value, stop) <= budget:
                return stop, 1.0
        return deep[-1], budget / max(1.0, 2 * count * row_cost(plan, value, deep[-1]))
