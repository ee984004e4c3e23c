"""Planes of products at weights of every row: a blend of two sound planes, linear in the weight.

McCormick's planes of ``x y`` with slopes between those of two corners are ``first + w step``, so what they give at
fixed x and y is linear in w, and its derivative is ``step`` at (x, y). A matrix product is a sum of such products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Plane


@dataclass(frozen=True)
class Blend:
    """Lower and upper planes as ``first + w step`` for weights w ``[domains, rows, *size]`` in [0, 1].

    Slopes and the offsets of ``step`` are ``[domains, 1, *size]``, one for every product; ``offset`` and ``slack``
    ``[domains, 1, *shape]`` are sums over the axis ``inner`` of ``size`` (None: each product is an output of its own).
    The slack covers the rounding of the blend. ``axes`` are those that x, y and the output lack.
    """

    first: tuple[Plane, Plane]
    step: tuple[Plane, Plane]
    slack: tuple[Tensor, Tensor]
    axes: tuple[int, int, int] | None

    def planes(self, weights: tuple[Tensor, Tensor]) -> tuple[Plane, Plane]:
        """The planes, slopes as the operator's patterns take them."""
        low, high = (self._plane(side, w) for side, w in enumerate(weights))
        return low, high

    def _plane(self, side: int, w: Tensor) -> Plane:
        first, step = self.first[side], self.step[side]
        a, b = (torch.addcmul(s, w, t) for s, t in zip(first.slopes, step.slopes, strict=True))
        moved = w * step.offset
        moved = moved if self.axes is None else moved.sum(self.axes[2])
        offset = first.offset + moved
        offset = offset + self.slack[side] if side else offset - self.slack[side]
        return Plane((a, b if self.axes is None else b.transpose(-1, -3)), offset)

    def gradient(
        self, weights: tuple[Tensor, Tensor], coefficients: tuple[Tensor, Tensor], *values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The derivative in the weights of ``coefficients`` (those on the lower and on the upper planes) times the
        planes at values x and y, all ``[domains, rows, ...]``."""
        x, y = values
        sides = coefficients
        if self.axes is not None:
            last = self.axes[2]
            sides = coefficients[0].unsqueeze(last), coefficients[1].unsqueeze(last)
            x, y = x.unsqueeze(self.axes[0]), y.unsqueeze(self.axes[1])
        low, high = (
            c * torch.addcmul(torch.addcmul(step.offset, step.slopes[0], x), step.slopes[1], y)
            for c, step in zip(sides, self.step, strict=True)
        )
        return low, high


def blend(
    ends: tuple[tuple[Plane, Plane], tuple[Plane, Plane]],
    images: tuple[Tensor, Tensor],
    reach: tuple[Tensor, Tensor],
    axes: tuple[int, int, int] | None = None,
) -> Blend:
    """The blend between the planes of every product at weight 0 and those at weight 1, ``ends``.

    ``images`` are the ends of the outputs' interval, for those whose planes are not finite; ``reach`` bounds |x| and
    |y| of every product.
    """
    inner = None if axes is None else axes[2]
    info = torch.finfo(reach[0].dtype)
    firsts, steps, slacks = [], [], []
    for zero, one, image in zip(*ends, images, strict=True):
        step = [t - s for s, t in zip((*zero.slopes, zero.offset), (*one.slopes, one.offset), strict=True)]
        fine = torch.isfinite(step[0]) & torch.isfinite(step[1]) & torch.isfinite(step[2])
        size = sum(
            (
                torch.maximum(s.abs(), t.abs()).clamp(min=info.tiny) * r  # below, slopes round by more than their share
                for s, t, r in zip(zero.slopes, one.slopes, reach, strict=True)
            ),
            torch.maximum(zero.offset.abs(), one.offset.abs()),
        )
        offset, terms = zero.offset, 1
        if inner is not None:
            terms = offset.shape[inner]
            offset, size = offset.sum(inner), size.sum(inner)
        known = torch.isfinite(offset) & torch.isfinite(size)
        every = known if inner is None else known.unsqueeze(inner)
        step = [torch.where(fine & every, t, 0.0).unsqueeze(1) for t in step]
        slopes = tuple(torch.where(every, s, 0.0).unsqueeze(1) for s in zero.slopes)
        firsts.append(Plane(slopes, torch.where(known, offset, image).unsqueeze(1)))
        steps.append(Plane((step[0], step[1]), step[2]))
        slack = size * ((2 * terms + 12) * info.eps) + 8 * terms * info.tiny
        slacks.append(torch.where(known, slack, 0.0).unsqueeze(1))
    return Blend((firsts[0], firsts[1]), (steps[0], steps[1]), (slacks[0], slacks[1]), axes)
