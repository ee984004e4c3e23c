"""Starting lines and slope ranges of elementwise nodes in domains that share most of their boxes.

The domains of a tree of neuron splits differ from each other in the few elements that were split. What depends on an
element's box alone is computed once for one domain, and for others where their boxes are not its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from provenn.bounds.ops import relaxation
from provenn.bounds.ops._operator import Univariate
from provenn.bounds.ops.relaxation import Lines
from provenn.bounds.propagate.plan import Plan

# Where more elements than this share differ, gathering them takes longer than it saves.
MOST_DIFFER = 0.25

Function = Callable[..., tuple[Tensor, ...]]


class Starts:
    """What depends on boxes alone of a plan's elementwise nodes. The first domain seen is the one remembered."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self._known: dict[tuple[int, str], _Known] = {}

    def lines(self, index: int, lower: Tensor, upper: Tensor) -> Lines:
        """``relaxation.lines`` at the starting slopes, boxes ``[domains, *shape]``."""
        return self._of(index, "lines", relaxation.lines, lower, upper)  # type: ignore[return-value]

    def ranges(self, index: int, lower: Tensor, upper: Tensor) -> Lines:
        """``relaxation.slope_range``."""
        return self._of(index, "ranges", relaxation.slope_range, lower, upper)  # type: ignore[return-value]

    def children(self, index: int, lower: Tensor, point: Tensor, upper: Tensor) -> Lines:
        """``lines`` of the boxes below and above a point, one after the other ``[2 domains, *shape]``."""

        def both(operator, prepared, lower, point, upper):
            below = relaxation.lines(operator, prepared, lower, point)
            return *below, *relaxation.lines(operator, prepared, point, upper)

        found = self._of(index, "children", both, lower, point, upper)
        return tuple(torch.cat([b, a]) for b, a in zip(found[:4], found[4:], strict=True))  # type: ignore[return-value]

    def _of(self, index: int, kind: str, function: Function, *ends: Tensor) -> tuple[Tensor, ...]:
        operator, prepared = self.plan.operators[index], self.plan.prepared[index]
        assert isinstance(operator, Univariate)
        here = lambda *parts: function(operator, prepared, *parts)  # noqa: E731
        # A break point's lines cost less than telling which elements differ.
        if operator.piecewise_linear or any(t.numel() != 1 for t in prepared.tensors.values()):
            return here(*ends)
        known = self._known.get((index, kind))
        if known is None:
            known = self._known[index, kind] = _Known(here, *(end[:1] for end in ends))
        return known(here, *ends)


class _Known:
    """An elementwise function's values where its arguments are ``ends [1, *shape]``."""

    def __init__(self, function: Function, *ends: Tensor):
        self.ends = ends
        self.found = tuple(t.expand(ends[0].shape) for t in function(*ends))

    def __call__(self, function: Function, *ends: Tensor) -> tuple[Tensor, ...]:
        differ = reduce(torch.logical_or, (a != b for a, b in zip(ends, self.ends, strict=True)))
        count = int(differ.sum())
        if count > MOST_DIFFER * differ.numel():
            return function(*ends)
        result = tuple(t.expand(differ.shape) for t in self.found)
        if count:
            few = function(*(end.expand(differ.shape)[differ] for end in ends))
            result = tuple(old.masked_scatter(differ, new) for old, new in zip(result, few, strict=True))
        return result
