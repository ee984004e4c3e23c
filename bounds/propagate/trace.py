"""What a backward pass leaves for the gradient of its bound."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Trace:
    """Coefficients at relaxed nodes and at inputs, of one backward pass.

    ``positive[i]``/``negative[i]`` are ``max(a,0)``/``min(a,0)`` on relaxed node i's output,
    ``[domains, rows, *shape]``; ``inputs[i]`` the coefficients on graph input i. With ``narrow`` a node whose lines
    have a gap keeps only the elements of the gap, ``[domains, rows, k]``.

    A node with one operand that is read element by element has, instead of the negative part, its coefficients
    ``whole[i]`` and the line ``chosen[i]`` (slope, offset or None for 0) that the sign of each selects.
    """

    narrow: bool = False
    negatives: bool = True
    """Whether ``below`` and ``magnitude`` will be asked for."""

    positive: dict[int, Tensor] = field(default_factory=dict)
    negative: dict[int, Tensor] = field(default_factory=dict)
    whole: dict[int, Tensor] = field(default_factory=dict)
    chosen: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    offset: Tensor | None = None

    def below(self, index: int) -> Tensor | None:
        """``min(a,0)`` on relaxed node ``index``; None where no row reaches it."""
        whole = self.whole.get(index)
        return self.negative.get(index) if whole is None else whole.clamp(max=0)

    def magnitude(self, index: int) -> Tensor:
        """``|a|`` on relaxed node ``index``, which rows reach."""
        whole = self.whole.get(index)
        return self.positive[index] - self.negative[index] if whole is None else whole.abs()
