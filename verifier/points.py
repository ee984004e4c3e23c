"""Where to split a value: break points, factors of products at 0, and pre-optimised points (GenBaB, arXiv 2405.21063).

Nothing rests on the point but the size of the tree: any point inside the box is sound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Univariate, at_elements
from provenn.bounds.propagate.plan import Plan
from provenn.verifier.options import SPLIT_POINTS
from provenn.verifier.point_tables import Reader, Table, best_fractions, table

OPTIMISED, MIDPOINT = SPLIT_POINTS

# Operators whose operands are factors; at 0 a product's planes meet.
PRODUCTS = frozenset({"mul", "div", "matmul"})
# Where no table serves: fractions of the box that are compared first, and boxes up to which that is worth its time.
TRIES, MOST = 7, 4096
# How far from the middle to the point of least area a box is split (docs/decisions.md has the counts).
SHARE = 0.5


class Points:
    """The points at which values of a plan's graph are split.

    Inside a box: a break point of a piecewise-linear reader (the nearest to the middle); else a point halfway from the
    middle to the one that leaves least area between the lines of the smooth readers in the two children, from a table
    of their combination, which is read or built here; else 0 for a factor of a product; else the middle. ``style``
    ``midpoint`` leaves out the tables.
    """

    def __init__(self, plan: Plan, style: str = OPTIMISED):
        self.plan = plan
        self._readers: dict[int, list[Reader]] = {}
        self._tables: dict[int, Table | None] = {}
        if style == MIDPOINT:
            return
        for value in plan.bounded:
            readers = self._univariate(value, piecewise_linear=False)
            if readers:
                self._readers[value] = readers
                found = table(readers)
                self._tables[value] = None if found is None else found.to(plan.device)

    def at(self, value: int, elements: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Points ``[n]`` strictly inside boxes ``[n]`` of flat ``elements`` ``[n]`` of a value.

        Boxes of at most two numbers have no inside; they get an end.
        """
        middle = _middle(lower, upper)
        readers, found = self._readers.get(value), self._tables.get(value)
        point = middle
        if readers is not None:
            if found is None and lower.numel() > MOST:
                fraction = torch.full_like(lower, 0.5)
            elif found is None:
                taken = [(op, at_elements(op, p, elements)) for op, p in readers]
                with torch.no_grad():
                    fraction = best_fractions(taken, lower, upper, TRIES, rounds=1)
            else:
                fraction = found.at(lower, upper).to(lower.dtype)
            moved = middle + SHARE * (fraction - 0.5) * (upper - lower)
            point = torch.where(fraction == 0.5, middle, moved)
        elif any(self.plan.operators[i].name in PRODUCTS for i in self.plan.consumers[value]):
            point = torch.where((lower < 0) & (upper > 0), 0.0, middle)
        point = self._at_breaks(value, elements, lower, upper, point)
        inside = torch.isfinite(point) & (point > lower) & (point < upper)
        return torch.where(inside, point, middle)

    def _at_breaks(self, value: int, elements: Tensor, lower: Tensor, upper: Tensor, point: Tensor) -> Tensor:
        middle = _middle(lower, upper)
        distance = torch.full_like(lower, torch.inf)
        for operator, prepared in self._univariate(value, piecewise_linear=True):
            for place in operator.breakpoints(at_elements(operator, prepared, elements)):
                place = torch.as_tensor(place, dtype=lower.dtype, device=lower.device)
                away = (place - middle).abs()
                take = (lower < place) & (upper > place) & (away < distance)
                point, distance = torch.where(take, place, point), torch.where(take, away, distance)
        return point

    def _univariate(self, value: int, *, piecewise_linear: bool) -> list[Reader]:
        found = []
        for index in self.plan.consumers[value]:
            operator = self.plan.operators[index]
            if isinstance(operator, Univariate) and operator.piecewise_linear == piecewise_linear:
                found.append((operator, self.plan.prepared[index]))
        return found


def _middle(lower: Tensor, upper: Tensor) -> Tensor:
    """The midpoint; of an infinite box 0 or a number beyond its finite end."""
    middle = 0.5 * lower + 0.5 * upper
    largest = torch.finfo(lower.dtype).max
    half = 0.5 * lower.clamp(-largest, largest) + 0.5 * upper.clamp(-largest, largest)
    beyond = torch.where((lower < 0) & (upper > 0), 0.0, half)
    return torch.where(torch.isfinite(lower) & torch.isfinite(upper), middle, beyond)
