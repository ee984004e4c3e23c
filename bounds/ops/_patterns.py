"""Where the slopes of operators go whose outputs read several elements of an operand: windows and contractions.

``back`` carries coefficients on the output to the operand, ``through`` takes values of the operand to the output.
Coefficients and values are ``[domains, rows, *shape]``; slopes have one axis more than the output, as each class says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Slopes ``[*shape, n]`` of the elements ``indices [*shape, n]`` of the flattened operand, -1 absent."""

    indices: Tensor
    operand_shape: tuple[int, ...]

    @property
    def terms(self) -> int:
        """How many elements of the operand an output reads."""
        return self.indices.shape[-1]

    def back(self, positive: Tensor, lower: Tensor, negative: Tensor, upper: Tensor) -> Tensor:
        """``positive`` times the lower slopes plus ``negative`` times the upper ones, on the operand."""
        return self._scatter((positive.unsqueeze(-1) * lower).addcmul_(negative.unsqueeze(-1), upper))

    def single(self, a: Tensor, slopes: Tensor) -> Tensor:
        """``a`` times the slopes, on the operand."""
        return self._scatter(a.unsqueeze(-1) * slopes)

    def _scatter(self, spread: Tensor) -> Tensor:
        domains, rows = spread.shape[:2]
        size = int(torch.Size(self.operand_shape).numel())
        result = spread.new_zeros(domains * rows, size)
        flat = self.indices.reshape(-1).clamp(min=0)  # slopes of absent positions are zero
        result.index_add_(1, flat, spread.reshape(domains * rows, -1))
        return result.view(domains, rows, *self.operand_shape)

    def through(self, slopes: Tensor, z: Tensor) -> Tensor:
        """The slopes times the operand's elements under every window, summed."""
        domains, rows = z.shape[:2]
        flat = self.indices.reshape(-1).clamp(min=0)
        taken = z.reshape(domains, rows, -1)[:, :, flat].view(domains, rows, *self.indices.shape)
        return (slopes * taken).sum(-1)

    def everywhere(self, where: Tensor) -> Tensor:
        """Outputs of which all slopes are marked."""
        return where.all(-1)


@dataclass(frozen=True)
class Contraction:
    """Slopes ``[*rest, inner, outer]`` from lines of the operand along ``axis`` to lines of the output along
    ``output_axis`` (both count from the end); ``rest`` are the other axes, the same in both.

    A matrix product of two variables is one for each operand, a softmax is one with two times the same axis.
    """

    axis: int
    output_axis: int
    inner: int

    @property
    def terms(self) -> int:
        """How many elements of the operand an output reads."""
        return self.inner

    def back(self, positive: Tensor, lower: Tensor, negative: Tensor, upper: Tensor) -> Tensor:
        """``positive`` times the lower slopes plus ``negative`` times the upper ones, on the operand."""
        return self.single(positive, lower) + self.single(negative, upper)

    def single(self, a: Tensor, slopes: Tensor) -> Tensor:
        """``a`` times the slopes, on the operand."""
        return self._product(a, slopes.mT, self.output_axis, self.axis)

    def through(self, slopes: Tensor, z: Tensor) -> Tensor:
        """The slopes times the operand's elements, summed."""
        return self._product(z, slopes, self.axis, self.output_axis)

    @staticmethod
    def _product(a: Tensor, matrices: Tensor, source: int, target: int) -> Tensor:
        """Lines of ``a`` along one axis times matrices ``[1|domains, 1|rows, *rest, n, m]``, along another axis."""
        a = a.movedim(source, -1)
        domains, rows = max(a.shape[0], matrices.shape[0]), max(a.shape[1], matrices.shape[1])
        rest, n, m = a.shape[2:-1], a.shape[-1], matrices.shape[-1]
        matrices = matrices.reshape(*matrices.shape[:2], -1, n, m)
        a = a.reshape(*a.shape[:2], -1, n)
        if matrices.shape[1] == 1:  # all rows of a domain share the matrices
            result = torch.matmul(a.transpose(1, 2), matrices.squeeze(1)).transpose(1, 2)
        else:
            result = torch.matmul(a.unsqueeze(-2), matrices).squeeze(-2)
        return result.expand(domains, rows, *result.shape[2:]).reshape(domains, rows, *rest, m).movedim(-1, target)

    def everywhere(self, where: Tensor) -> Tensor:
        """Outputs of which all slopes are marked."""
        return where.all(-2).movedim(-1, self.output_axis)


Pattern = Window | Contraction
