"""Balls at the inputs: a box that knows the ball inside it, and the least a row can be there.

Over ``|x - c| <= r`` in a norm p the least of ``a . x`` is ``a . c - r |a|`` in the dual norm q, 1/p + 1/q = 1
(Hoelder).
Whatever reads only the box stays sound, since the box contains the ball.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from provenn.bounds.propagate.coefficients import flattened

Norm = Literal[1, 2]


class BallBox(tuple[Tensor, Tensor]):
    """Ends ``[domains, *shape]`` of a box of which only what lies in a ball is wanted.

    ``centre`` is ``[domains, *shape]``, ``radius`` ``[domains]``. The box need not contain the ball: the region is what
    both have in common, and the larger of the two bounds is taken.
    """

    centre: Tensor
    radius: Tensor
    norm: Norm

    def __new__(cls, lower: Tensor, upper: Tensor, centre: Tensor, radius: Tensor, norm: Norm) -> BallBox:
        made = super().__new__(cls, (lower, upper))
        made.centre, made.radius, made.norm = centre, radius, norm
        return made

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> BallBox:
        """The same region elsewhere, or in another type: up to rounding, for bounds that prove nothing."""
        return self._each(lambda part: part.to(device=part.device if device is None else device, dtype=dtype))

    def part(self, start: int, size: int) -> BallBox:
        """A run of domains."""
        return self._each(lambda part: part[start : start + size])

    def _each(self, function: Callable[[Tensor], Tensor]) -> BallBox:
        lower, upper, centre, radius = (function(part) for part in (self[0], self[1], self.centre, self.radius))
        return BallBox(lower, upper, centre, radius, self.norm)

    def reach(self) -> Tensor:
        """``|c| + r`` ``[domains, *shape]``: what bounds every partial sum of a row's least value."""
        return self.centre.abs() + self._radius(self.centre.dim())

    def _radius(self, rank: int) -> Tensor:
        return self.radius.view(-1, *(1,) * (rank - 1))

    def _size(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Dual norms ``[domains, rows, 1, ..]`` of rows ``[domains, rows, *shape]``, and the largest coefficients.

        Coefficients are divided by the largest: the squares of those that vanish then are too small to matter.
        """
        axes = tuple(range(2, a.dim()))
        size = a.abs()
        largest = size.amax(axes, keepdim=True) if axes else size
        if self.norm == 1 or not axes:
            return largest, largest
        share = size / largest.clamp(min=torch.finfo(a.dtype).tiny)
        return share.square_().sum(axes, keepdim=True).sqrt() * largest, largest

    def least(self, a: Tensor) -> Tensor:
        """Lower bounds ``[domains, rows]`` of rows ``a [1|domains, rows, *shape]`` over the ball."""
        norm, _ = self._size(a)
        rows, centre = flattened(a, 2), flattened(self.centre, 1)
        middle = (rows @ centre.unsqueeze(2)).squeeze(2)
        return middle - self.radius.unsqueeze(1) * norm.reshape(norm.shape[:2])

    def least_of_elements(self, weights: Tensor, centre: Tensor) -> Tensor:
        """The same for rows of one coefficient each, ``weights`` and what they multiply, ``[1|domains, rows]``."""
        return weights * centre - weights.abs() * self.radius.unsqueeze(1)

    def minimiser(self, a: Tensor | None) -> Tensor:
        """Where rows ``[domains, rows, *shape]`` are least in the ball, up to rounding; the box clips it."""
        centre, rank = self.centre.unsqueeze(1), self.centre.dim() + 1
        if a is None:
            return centre
        norm, largest = self._size(a)
        tiny = torch.finfo(a.dtype).tiny
        if self.norm == 2:
            step = a / norm.clamp(min=tiny)
        else:
            at = (a.abs() == largest).to(a.dtype)
            step = torch.sign(a) * at / at.sum(tuple(range(2, a.dim())), keepdim=True).clamp(min=1)
        z = centre - self.radius.view(-1, *(1,) * (rank - 1)) * step
        return torch.minimum(torch.maximum(z, self[0].unsqueeze(1)), self[1].unsqueeze(1))
