"""An a-priori bound of the rounding error of a float64 backward pass.

Write A_v for the *computed* coefficients on value v. Whatever produced them, the exact identity
``A_v . v = A_v . (M x + c)`` holds, and a computed transpose differs from ``A_v M`` by at most
``gamma_n |A_v| |M|`` elementwise (Higham, Accuracy and Stability, section 3.5), which moves the bound by at most
``gamma_n |A_v| . (|M| m_x)`` where ``m_x >= |x|`` on the box. So one product of ``|A_v|`` with a fixed vector per
value
bounds every error of the walk; no second walk is needed. Sums may be taken in any order.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import LinearOperator, prepare
from provenn.bounds.propagate.ball import BallBox
from provenn.bounds.propagate.coefficients import Elements, Rows, Windows
from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.reduction import Reduction

# Above the sum of as many roundings of numbers near 0 as a value has elements, for each of a pass's products.
_LEAST = 1e-290


def gamma(count: float, dtype: torch.dtype) -> float:
    """The constant ``n u / (1 - n u)`` of n roundings."""
    unit = torch.finfo(dtype).eps / 2
    return count * unit / (1 - count * unit)


class Magnitudes:
    """Upper bounds of |value| on a box that contains all domains, for every value of the graph.

    ``reach[v]`` bounds ``|M| m + |c|`` of a linear node, all partial sums; ``value[v]`` bounds |v|; ``radii[v]`` what
    the radii of a node's constants (also of a constant itself) move v by, where there are any; all ``[*shape]``.
    """

    def __init__(self, plan: Plan, intervals: dict[int, tuple[Tensor, Tensor]]):
        """``intervals`` holds a sound box ``[domains, *shape]`` of every value."""
        self.plan = plan
        self.value: dict[int, Tensor] = {}
        self.reach: dict[int, Tensor] = {}
        self.radii: dict[int, Tensor] = {}
        self._weight: dict[int, Tensor] = {}
        self.underflow: Tensor | float = _LEAST
        """What products of coefficients that become too small for float64 may move a bound by."""
        for index, node in enumerate(plan.graph.nodes):
            if index not in intervals:
                break  # the rest was not wanted
            lower, upper = intervals[index]
            box = torch.maximum(lower.abs(), upper.abs()).amax(0)
            self.value[index] = self.reach[index] = box
            # Where a value is not bounded a coefficient of 0 leaves no number, which proves nothing.
            self.underflow = self.underflow + _LEAST * torch.nan_to_num(box, nan=0.0, posinf=0.0).sum()
            if plan.linear[index] and index not in plan.graph.inputs:
                size = self._size(index, node)
                self.reach[index] = torch.maximum(size, box)

    def _size(self, index: int, node: Node) -> Tensor:
        """``|M| m + |c|``; notes the radii, which a record's magnitude has in units of its length."""
        operator, prepared = self.plan.operators[index], self.plan.prepared[index]
        assert isinstance(operator, LinearOperator)
        operands = [self.value[i].unsqueeze(0) for i in node.inputs]
        whole = operator.magnitude(prepared, *operands)[0]
        attributes = {k: v for k, v in node.attributes.items() if not k.endswith("radius")}
        if len(attributes) == len(node.attributes):
            return whole
        shapes = tuple(self.plan.shape(i) for i in node.inputs)
        exact = prepare(replace(node, attributes=attributes), shapes, self.plan.dtype, self.plan.device)
        plain = operator.magnitude(exact, *operands)[0]
        # What the difference of the two rounds is far below the roundings that are charged for all of it.
        units = operator.length(prepared) * (torch.finfo(torch.float64).eps / 2) * (1 + 1e-6)
        radii = ((whole - plain) * units).expand(self.plan.shape(index))
        self.radii[index] = radii
        return plain + radii

    def weight(self, index: int) -> Tensor:
        """What |coefficients| on linear node ``index`` are multiplied by to bound the error of its transpose."""
        if index not in self._weight:
            operator, prepared = self.plan.operators[index], self.plan.prepared[index]
            count = operator.length(prepared) + self.plan.size(index) + self.plan.additions  # type: ignore[attr-defined]
            weight = self.reach[index] * gamma(count, self.plan.dtype)
            self._weight[index] = weight + self.radii[index] if index in self.radii else weight
        return self._weight[index]


class RoundingError:
    """Accumulates the error bound of one backward pass; see the module's text."""

    def __init__(self, plan: Plan, magnitudes: Magnitudes):
        self.plan, self.magnitudes = plan, magnitudes
        self.total: Tensor | None = None
        self.reduction: Reduction | None = None
        self.unit = torch.finfo(plan.dtype).eps / 2

    def _add(self, a: Rows, weight: Tensor) -> None:
        """``total += |a| . weight``."""
        self._accumulate(self._product(a, weight))

    def _product(self, a: Rows, weight: Tensor) -> Tensor:
        """``|a| . weight`` for weight ``[*shape]`` or ``[domains, 1|rows, *shape]``."""
        from provenn.bounds.propagate.backward import dot

        rank = a.dim() if isinstance(a, Tensor) else 2 + len(a.shape)
        if weight.dim() == rank - 2:
            weight = weight[None, None]
        if isinstance(a, Elements):
            return a.weights.abs() * a.pick(weight)
        if isinstance(a, Windows):  # the largest weight of each channel saves gathering
            sums = a.cleaned().a.abs().sum((3, 4))
            return torch.matmul(sums, weight.amax((-1, -2))[:, 0, 0].unsqueeze(-1)).squeeze(-1)
        return dot(a.abs(), weight)

    def _cut(self, index: int, weight: Tensor) -> Tensor:
        return weight if self.reduction is None else self.reduction.cut(index, weight)

    def linear(self, index: int, a: Rows) -> None:
        weight = self.magnitudes.weight(index)
        self._add(a, weight if isinstance(a, Elements) else self._cut(index, weight))

    def relaxed(
        self, index: int, positive: Tensor, negative: Tensor, lines: Lines, terms: list[Tensor]
    ) -> None:
        """Error of ``terms``, the offsets a relaxed node just contributed.

        The products with the slopes round once each; ``linear`` and ``concretised`` count that at the operand. A sum of
        terms of one sign errs by ``gamma_n`` times itself; otherwise the sum of magnitudes is made.
        """
        factor = self._factor(index)
        if lines.lower_offset is None and lines.positive_upper_offset:
            for term in terms:
                self._accumulate(term.abs() * (2 * factor))
        else:
            for a, offset in ((positive, lines.lower_offset), (negative, lines.upper_offset)):
                if offset is not None:
                    self._add(a, offset.abs() * factor)
        if lines.patterns is not None:  # an operand's coefficient sums as many terms as outputs read it
            self._add(positive - negative, lines.reach(self.plan, index, self.magnitudes.value) * factor)

    def relaxed_apart(self, index: int, a: Elements | Windows, lines: Lines) -> None:
        """The same for elements and windows: ``a kl + min(a,0) (ku - kl)`` errs by at most 4 roundings of ``|a|
        (|kl| + |ku|)``."""
        self._add(a, lines.reach(self.plan, index, self.magnitudes.value) * (8 * self._factor(index)))

    def _factor(self, index: int) -> float:
        return gamma(self.plan.size(index) + self.plan.additions, self.plan.dtype)

    def _accumulate(self, term: Tensor) -> None:
        self.total = term if self.total is None else self.total + term

    def accumulated(self, value: int, a: Rows) -> None:
        self._add(a, self._cut(value, self.magnitudes.reach[value] * (4 * self.unit)))

    def multiplied(self, value: int, signed: Tensor) -> None:
        """Error of the sum of multipliers times split points, which lie in the value's box."""
        self._add(signed, self.magnitudes.value[value] * (2 * self._factor(value)))

    def concretised(self, value: int, a: Rows, box: tuple[Tensor, Tensor]) -> None:
        reach = torch.maximum(box[0].abs(), box[1].abs())
        if isinstance(box, BallBox):  # every dual norm is at most the sum of magnitudes
            reach = torch.maximum(reach, box.reach())
        self._add(a, reach.unsqueeze(1) * self._factor(value))

    def keep(self, rows: Tensor) -> None:
        """Forget all but some rows."""
        if self.total is not None:
            self.total = self.total[:, rows]

    def partial(self, index: int, a: Tensor | Windows, bound: Tensor) -> Tensor:
        """A bound that stops at the box of node ``index``, less the error so far and that of the last products."""
        last = self._product(a, self._cut(index, self.magnitudes.value[index] * (4 * self._factor(index))))
        return self._less(bound, last if self.total is None else self.total + last)

    def lowered(self, bound: Tensor) -> Tensor:
        """The bound less the error; the last terms cover the sums of offsets and of the error itself."""
        return bound if self.total is None else self._less(bound, self.total)

    def _less(self, bound: Tensor, total: Tensor) -> Tensor:
        error = total * (1 + 1e-6) + bound.abs() * (8 * self.unit) + self.magnitudes.underflow
        result = bound - error
        return torch.where(torch.isfinite(result), result, torch.full_like(result, -torch.inf))
