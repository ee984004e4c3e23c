"""Step sizes of slopes in the tree: relative to the range in which no other line is better."""

from __future__ import annotations

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.backward import Trace
from provenn.bounds.propagate.optimise import Objective

# Slopes of smooth operators move by this share of their range where a relu's move by all of it, and by no more than
# that where ranges are wide. docs/decisions.md has the figures.
SHARE = 0.5


class Ranged(Objective):
    """An objective whose slopes move in units of their ranges: a sigmoid's lie within [0, 1/4], a relu's in [0, 1]."""

    def rates(self, trace: Trace, multiplier_rate: float) -> Tensor | None:
        rates = super().rates(trace, multiplier_rate)
        if rates is None:
            return None
        for segment in self.layout.segments:
            if segment.kind not in ("lower", "upper"):
                continue
            operator = self.plan.operators[segment.index]
            if isinstance(operator, Univariate) and not operator.piecewise_linear:
                width = self.layout.part(self.high, segment) - self.layout.part(self.low, segment)
                width = torch.nan_to_num(width, nan=1.0, posinf=1.0).clamp(0.0, 1.0)
                self.layout.part(rates, segment).copy_((SHARE * width).expand(self.domains, 1, -1))
        return rates
