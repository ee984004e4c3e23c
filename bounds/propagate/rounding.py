"""An a-priori bound of the rounding error of a float64 backward pass.

Write A_v for the *computed* coefficients on value v. Whatever produced them, the exact identity
``A_v . v = A_v . (M x + c)`` holds, and a computed transpose differs from ``A_v M`` by at most
``gamma_n |A_v| |M|`` elementwise (Higham, Accuracy and Stability, section 3.5), which moves the bound by at most
``gamma_n |A_v| . (|M| m_x)`` where ``m_x >= |x|`` on the box. So one product of ``|A_v|`` with a fixed vector per value
bounds every error of the walk; no second walk is needed. Sums may be taken in any order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.plan import Plan


def gamma(count: float, dtype: torch.dtype) -> float:
    """The constant ``n u / (1 - n u)`` of n roundings."""
    unit = torch.finfo(dtype).eps / 2
    return count * unit / (1 - count * unit)


class Magnitudes:
    """Upper bounds of |value| on a box that contains all domains, for every value of the graph.

    ``reach[v]`` bounds ``|M| m + |c|`` of a linear node (all partial sums, and the radii of its constants in units of
    its length), ``value[v]`` bounds |v|; both ``[*shape]``.
    """

    def __init__(self, plan: Plan, intervals: dict[int, tuple[Tensor, Tensor]]):
        """``intervals`` holds a sound box ``[domains, *shape]`` of every value."""
        self.value: dict[int, Tensor] = {}
        self.reach: dict[int, Tensor] = {}
        for index, node in enumerate(plan.graph.nodes):
            lower, upper = intervals[index]
            box = torch.maximum(lower.abs(), upper.abs()).amax(0)
            self.value[index] = self.reach[index] = box
            if plan.linear[index] and node.inputs:
                operands = [self.value[i].unsqueeze(0) for i in node.inputs]
                operator, prepared = plan.operators[index], plan.prepared[index]
                self.reach[index] = torch.maximum(operator.magnitude(prepared, *operands)[0], box)  # type: ignore[attr-defined]


class RoundingError:
    """Accumulates the error bound of one backward pass; see the module's text."""

    def __init__(self, plan: Plan, magnitudes: Magnitudes):
        self.plan, self.magnitudes = plan, magnitudes
        self.total: Tensor | None = None
        self.unit = torch.finfo(plan.dtype).eps / 2

    def _add(self, a: Tensor, weight: Tensor) -> None:
        """``total += |a| . weight`` for weight ``[*shape]`` or ``[domains, 1|rows, *shape]``."""
        from provenn.bounds.propagate.backward import dot

        if weight.dim() == a.dim() - 2:
            weight = weight[None, None]
        self._accumulate(dot(a.abs(), weight))

    def linear(self, index: int, a: Tensor) -> None:
        operator, prepared = self.plan.operators[index], self.plan.prepared[index]
        count = operator.length(prepared) + self.plan.size(index) + 8  # type: ignore[attr-defined]
        self._add(a, self.magnitudes.reach[index] * gamma(count, self.plan.dtype))

    def relaxed(self, index: int, positive: Tensor, negative: Tensor, lines: Lines, terms: list[Tensor]) -> None:
        """Error of ``terms``, the offsets a relaxed node just contributed.

        The products with the slopes round once each; ``linear`` and ``concretised`` count that at the operand. A sum of
        terms of one sign errs by ``gamma_n`` times itself; otherwise the sum of magnitudes is made.
        """
        factor = gamma(self.plan.size(index) + 8, self.plan.dtype)
        if lines.lower_offset is None and lines.positive_upper_offset:
            for term in terms:
                self._accumulate(term.abs() * (2 * factor))
        else:
            for a, offset in ((positive, lines.lower_offset), (negative, lines.upper_offset)):
                if offset is not None:
                    self._add(a, offset.abs() * factor)
        if lines.window is not None:  # a scatter sums as many terms as windows overlap
            self._add(positive - negative, lines.reach(self.plan, index, self.magnitudes.value) * factor)

    def _accumulate(self, term: Tensor) -> None:
        self.total = term if self.total is None else self.total + term

    def accumulated(self, value: int, a: Tensor) -> None:
        self._add(a, self.magnitudes.reach[value] * (4 * self.unit))

    def concretised(self, value: int, a: Tensor, box: tuple[Tensor, Tensor]) -> None:
        reach = torch.maximum(box[0].abs(), box[1].abs()).unsqueeze(1)
        self._add(a, reach * gamma(self.plan.size(value) + 8, self.plan.dtype))

    def lowered(self, bound: Tensor) -> Tensor:
        """The bound less the error; the last terms cover the sums of offsets and of the error itself."""
        if self.total is None:
            return bound
        error = self.total * (1 + 1e-6) + bound.abs() * (8 * self.unit) + 1e-290
        result = bound - error
        return torch.where(torch.isfinite(result), result, torch.full_like(result, -torch.inf))
