"""Rows whose question is answered before the last step: a bound that is positive already needs no more of it.

At the last relaxed node before the inputs the node's known box gives a valid bound. Where that is >= 0 in every
domain the sign of
the element is settled, and for an operator that is linear on either side of 0 nothing more is wanted. (Further from
the inputs the
boxes are too loose: of a residual network's 1,024 rows none was settled one block down, half at the last node.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from provenn.bounds.propagate.coefficients import Windows
from provenn.bounds.propagate.rounding import RoundingError

# Rows are only dropped when at least this share of them goes: the rest has to be copied.
SHARE = 0.2
# Coefficients of a pass below which testing costs more than it saves.
WORTH = 1 << 16


class Sieve:
    """Best bounds so far of ``count`` rows; ``rows`` are those still on their way."""

    def __init__(self, boxes: Mapping[int, tuple[Tensor, Tensor]], domains: int, count: int, like: Tensor):
        """``boxes`` are the boxes ``[1|domains, *shape]`` of the outputs of relaxed nodes where rows are tested."""
        self.boxes = boxes
        self.best = torch.full((domains, count), -torch.inf, dtype=like.dtype, device=like.device)
        self.rows = torch.arange(count, device=like.device)

    def test(
        self, index: int, a: Tensor | Windows, offset: Tensor | None, error: RoundingError | None
    ) -> Tensor | None:
        """The rows to keep (positions among those on their way), or None to keep all."""
        from provenn.bounds.propagate.backward import concretise, least

        box = self.boxes.get(index)
        if box is None or (a.a if isinstance(a, Windows) else a).numel() < WORTH:
            return None
        bound = concretise(a, box) if error is not None else least(a, box)
        if offset is not None:
            bound = bound + offset
        if error is not None:
            bound = error.partial(index, a, bound)
        open_ = ~(bound >= 0).all(0)
        keep = open_.nonzero().squeeze(1)
        if keep.numel() > (1 - SHARE) * open_.numel():
            return None
        settled = (~open_).nonzero().squeeze(1)
        self.best[:, self.rows[settled]] = bound[:, settled].expand(self.best.shape[0], -1)
        self.rows = self.rows[keep]
        return keep

    def merged(self, bound: Tensor) -> Tensor:
        """The bounds of all rows, given those of the rows that went all the way."""
        self.best[:, self.rows] = bound
        return self.best
