"""Spectral norms over boxes in the directions of singular vectors.

In the singular vectors of the middle of a domain's Jacobians the first entry is nearly the norm and all others are
small, so the norm of the largest magnitudes misses what the others vary by in second order only; in the entries as they
are it misses that in first order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from provenn.bounds.jacobian import NormGraph, spectral
from provenn.bounds.propagate.interval import Box

# Entries of a Jacobian up to which all are bounded in turned directions.
MOST_ENTRIES = 128
# How far from orthogonal computed singular vectors may be; what is charged for that and for rounding, relatively.
APART, CHARGE = 1e-12, 1e-10


class Turned:
    """The singular vectors of the middles of boxes of the entries, ``u [domains, rows, k]`` and ``v [domains, columns,
    l]``; all of them, or the first where entries are many."""

    def __init__(self, made: NormGraph, box: Box):
        self.made = made
        rows, columns = made.shape
        self.low, self.high = (end.flatten(1)[:, made.entries].reshape(-1, rows, columns) for end in box)
        self.whole = rows * columns <= MOST_ENTRIES
        middle = torch.nan_to_num(0.5 * self.low + 0.5 * self.high, nan=0.0, posinf=0.0, neginf=0.0)
        u, _, vh = torch.linalg.svd(middle, full_matrices=self.whole)
        self.u, self.v = (u, vh.mT) if self.whole else (u[:, :, :1], vh[:, :1].mT)

    def rows(self) -> Tensor:
        """Rows ``[domains, 2 k l, outputs]``: minus every turned entry, the first singular pair first, then plus."""
        pairs = torch.einsum("dri,dcj->dijrc", self.u, self.v).flatten(3).flatten(1, 2)
        found = pairs.new_zeros(len(pairs), 2 * pairs.shape[1], self.made.outputs)
        found[:, :, self.made.entries] = torch.cat([-pairs, pairs], 1)
        return found

    def upper(self, bounds: Tensor) -> Tensor:
        """An upper bound ``[domains]`` of the norm where the rows are at least ``bounds [domains, 2 k l]``.

        With ``|U^T U - I| <= e``, likewise V, ``|J| <= |U^T J V| / (1 - e)``; rows differ from products of vectors by
        a rounding of each coefficient.
        """
        if not self.whole:
            return bounds.new_full((len(bounds),), torch.inf)
        count = bounds.shape[1] // 2
        shape = (-1, self.u.shape[2], self.v.shape[2])
        size = torch.maximum(self.low.abs(), self.high.abs()).sum((1, 2))[:, None, None] * 1e-14
        low = bounds[:, count:].reshape(shape) - size
        high = -bounds[:, :count].reshape(shape) + size
        fine = torch.ones(len(bounds), dtype=torch.bool, device=bounds.device)
        for vectors in (self.u, self.v):
            one = torch.eye(vectors.shape[2], dtype=vectors.dtype, device=vectors.device)
            fine &= (vectors.mT @ vectors - one).abs().sum(2).amax(1) <= APART
        return torch.where(fine, spectral(low, high) * (1 + CHARGE), torch.inf)
