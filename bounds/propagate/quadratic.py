"""Sums of products bounded together, as quadratic forms of the input.

The planes of a product ``u v`` know the box of (u, v) alone, and those of a sum of products miss what each of them
misses. About any ``u0, v0`` a product is ``u0 v + v0 u - u0 v0 + (u - u0) (v - v0)``. The first three terms are
linear and go through a backward pass as they are. With ``u - u0 = alpha . d + e``, where d is the input less the
middle of its box and ``|e| <= epsilon``, and the same for v, a row with coefficients c has beyond them

    sum c (u - u0) (v - v0) >= d^T Q d - sum |c| (|alpha| r epsilon' + |alpha'| r epsilon + epsilon epsilon')

with r the half widths and ``Q = sum c alpha alpha'^T``. In units ``z = d / r`` the form is split, ``Q = L L^T + E``.
The first part is convex, so every tangent lies below it, and the one at its minimum together with the row's linear
form loses nothing. The second is at least ``-sum |E|``; with L from the positive eigenvalues of Q that is little where
the form is nearly convex. A computed L needs no proof: ``L L^T`` is convex whatever it is, and E is what it leaves.
(Convex underestimators by eigenvalues: alpha-BB, Androulakis, Maranas and Floudas, 1995.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.bands import banded
from provenn.bounds.propagate.coefficients import flattened
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines, relax
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError, gamma
from provenn.bounds.propagate.trace import Trace

# Inputs beyond which matrices of their pairs cost more than passes.
MOST_INPUTS = 16
# Rounds of coordinate descent towards the minimum of a convex form; its tangent anywhere is sound.
ROUNDS = 6


def lines_of(lines: Lines, index: Tensor) -> Lines:
    """The lines of some domains."""
    pick = lambda t: t if t is None or t.shape[0] == 1 else t[index]  # noqa: E731
    return replace(
        lines,
        lower_slopes=tuple(pick(s) for s in lines.lower_slopes),
        lower_offset=pick(lines.lower_offset),
        upper_slopes=tuple(pick(s) for s in lines.upper_slopes),
        upper_offset=pick(lines.upper_offset),
        gap=None,
    )


class Factor(NamedTuple):
    """An operand of products: it differs from ``start`` by ``reach . z`` and at most ``epsilon``, z between -1 and 1.

    ``start`` and ``epsilon`` ``[1|domains, k]``, ``reach`` ``[1|domains, k, columns]``.
    """

    start: Tensor
    reach: Tensor
    epsilon: Tensor

    def span(self) -> Tensor:
        """Half the width of the linear part ``[1|domains, k]``."""
        return self.reach.abs().sum(-1)


class Minimum(NamedTuple):
    """Lower bounds ``value`` ``[domains, rows]``, linear forms ``a`` ``[domains, rows, inputs]`` below the rows whose
    minima they are, and ``missed`` ``[domains, rows, columns]``: how much of what they miss is due to each column."""

    value: Tensor
    a: Tensor
    missed: Tensor


def products(plan: Plan, target: int) -> tuple[int, ...]:
    """The nodes below ``target`` that multiply two variable operands elementwise and are small enough to expand."""
    return tuple(index for index in plan.relaxed_below(target) if banded(plan, index))


@dataclass(frozen=True)
class Expansion:
    """Products of two values expanded about the middle of input boxes: ``lines`` with their linear parts, and their
    ``factors`` by node.

    ``radius`` ``[1|domains, inputs]`` are half widths; ``columns`` are the inputs whose pairs make the forms.
    """

    plan: Plan
    source: int
    columns: Tensor
    inputs: Mapping[int, Box]
    magnitudes: Magnitudes
    radius: Tensor
    lines: Mapping[int, Lines]
    factors: Mapping[int, tuple[Factor, Factor]]

    def select(self, index: Tensor) -> Expansion:
        """The same of some domains."""
        pick = lambda t: t if t.shape[0] == 1 else t[index]  # noqa: E731
        return replace(
            self,
            inputs={i: (pick(box[0]), pick(box[1])) for i, box in self.inputs.items()},
            radius=pick(self.radius),
            lines={i: lines_of(lines, index) for i, lines in self.lines.items()},
            factors={i: (Factor(*map(pick, u)), Factor(*map(pick, v))) for i, (u, v) in self.factors.items()},
        )

    def bound(self, target: int, rows: Tensor) -> Minimum:
        """Bounds of ``rows . target`` (``[1|domains, rows, *shape]``), which hold in real arithmetic."""
        least, a, trace = _plane(self.plan, target, rows, self.lines, self.inputs, self.source, self.magnitudes)
        start, slack = _at_middle(least, a, self.radius)
        form, lost, missed = self._form(trace, least)
        radius = self.radius.unsqueeze(1)
        b = a * radius
        tangent, fallen, rounded, rest = _tangent(form, b[..., self.columns])
        b[..., self.columns] += tangent
        falls = b.abs().sum(-1)
        value = start - falls - fallen
        slack = slack + lost + rounded
        slack = slack + (start.abs() + 3 * falls + fallen.abs()) * gamma(b.shape[-1] + 16, b.dtype)
        value = value - slack * (1 + 1e-6) - self.magnitudes.underflow
        a = torch.where(radius > 0, b / radius, a)
        sound = torch.isfinite(value) & torch.isfinite(a).all(-1)
        return Minimum(
            torch.where(sound, value, -torch.inf), torch.where(sound.unsqueeze(-1), a, 0.0), missed + rest
        )

    def _form(self, trace: Trace, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows' forms ``[domains, rows, columns, columns]`` in units of the radii, what they may lack, and to
        which columns that is due."""
        count = self.columns.numel()
        form = least.new_zeros(*least.shape, count, count)
        lost, missed = torch.zeros_like(least), least.new_zeros(*least.shape, count)
        eps = torch.finfo(least.dtype).eps
        terms = 2 * count + 16
        for index, (u, v) in self.factors.items():
            if index not in trace.positive:  # the rows do not read it
                continue
            below = trace.below(index)
            c = flattened(trace.positive[index] if below is None else trace.positive[index] + below, 2)
            terms += c.shape[-1]
            form = form + (c.unsqueeze(-1) * u.reach.unsqueeze(1)).mT @ v.reach.unsqueeze(1)
            p, q, c = u.span(), v.span(), c.abs()
            rest = p * v.epsilon + q * u.epsilon + u.epsilon * v.epsilon
            # The form's entries are sums of products; the linear part's offset is one product.
            rest = rest + p * q * gamma(terms, c.dtype) + (u.start * v.start).abs() * eps
            lost = lost + (c @ rest.unsqueeze(-1)).squeeze(-1)
            shares = u.reach.abs() * v.epsilon.unsqueeze(-1) + v.reach.abs() * u.epsilon.unsqueeze(-1)
            missed = missed + c @ shares
        return 0.5 * form + 0.5 * form.mT, lost * (1 + 1e-6), missed


def expanded(
    plan: Plan, source: int, columns: Tensor, nodes: tuple[int, ...], boxes: Mapping[int, Box],
    lines: Mapping[int, Lines], inputs: Mapping[int, Box], magnitudes: Magnitudes,
) -> Expansion:  # fmt: skip
    """The products ``nodes`` expanded over ``inputs``, the boxes of ``source``; ``lines`` relax all other nodes.

    Cost: a backward pass of 2k rows for each operand of k elements.
    """
    lower, upper = (flattened(end, 1) for end in inputs[source])
    middle = 0.5 * lower + 0.5 * upper
    # At least the exact distance of either end, which is 0 for a fixed input.
    radius = torch.maximum(upper - middle, middle - lower) * (1 + 2 * torch.finfo(lower.dtype).eps)
    operands = {i for index in nodes for i in plan.graph.nodes[index].inputs}
    between = _parallel(plan, sorted({i for v in operands for i in plan.relaxed_below(v)}), boxes, lines)
    found = {
        v: _factor(plan, v, _plane(plan, v, _both_signs(plan, v), between, inputs, source, magnitudes), radius, columns)
        for v in operands
    }
    factors, tangents = {}, {}
    for index in nodes:
        first, second = plan.graph.nodes[index].inputs
        factors[index] = found[first], found[second]
        slopes = tuple(found[i].start.view(-1, 1, *plan.shape(index)) for i in (second, first))
        offset = -(slopes[0] * slopes[1])
        tangents[index] = Lines(slopes, offset, slopes, offset)
    return Expansion(plan, source, columns, inputs, magnitudes, radius, {**lines, **tangents}, factors)


def _both_signs(plan: Plan, value: int) -> Tensor:
    """Rows ``[1, 2k, *shape]`` for every element of a value and its negative."""
    eye = torch.eye(plan.size(value), dtype=plan.dtype, device=plan.device)
    return torch.cat([eye, -eye]).view(1, -1, *plan.shape(value))


def _parallel(
    plan: Plan, nodes: list[int], boxes: Mapping[int, Box], lines: Mapping[int, Lines]
) -> Mapping[int, Lines]:
    """Lines of elementwise nodes with the chord's slope on either side, between which a value is known best."""
    result = dict(lines)
    for index in nodes:
        operator = plan.operators[index]
        if not isinstance(operator, Univariate):
            continue
        low, high = boxes[plan.graph.nodes[index].inputs[0]]
        ends = [operator.evaluate(plan.prepared[index], end) for end in (low, high)]
        chord = ((ends[1] - ends[0]) / (high - low)).unsqueeze(1)
        slope = torch.where(torch.isfinite(chord), chord, lines[index].upper_slopes[0])
        result[index] = relax(plan, index, boxes, (slope, slope))
    return result


def _plane(
    plan: Plan, value: int, rows: Tensor, lines: Mapping[int, Lines], inputs: Mapping[int, Box], source: int,
    magnitudes: Magnitudes,
) -> tuple[Tensor, Tensor, Trace]:  # fmt: skip
    """Bounds ``[domains, rows]`` of rows, the coefficients ``[domains, rows, inputs]`` of the linear forms whose minima
    they are, and the trace."""
    trace, error = Trace(), RoundingError(plan, magnitudes)
    bound = backward(plan, value, rows, lines, inputs, trace=trace, error=error)
    a = trace.inputs.get(source)
    if a is None:  # the rows do not depend on the input
        return bound, bound.new_zeros(*bound.shape, plan.size(source)), trace
    return bound, flattened(a, 2).expand(*bound.shape, -1), trace


def _at_middle(least: Tensor, a: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """What linear forms of minimum ``least`` are at the middle of the box, and how much that may have rounded."""
    rise = (a.abs() @ radius.unsqueeze(-1)).squeeze(-1)
    return least + rise, (least.abs() + 2 * rise) * gamma(a.shape[-1] + 8, a.dtype)


def _factor(
    plan: Plan, value: int, plane: tuple[Tensor, Tensor, Trace], radius: Tensor, columns: Tensor
) -> Factor:
    """One linear form in the middle of an operand's lower and upper one; their distance from it is ``epsilon``."""
    least, a, _ = plane
    start, slack = _at_middle(least, a, radius)
    below, above = (start - slack).chunk(2, 1)
    a, other = a.chunk(2, 1)
    alpha = torch.zeros_like(a)
    alpha[..., columns] = 0.5 * (a - other)[..., columns]
    apart = [((side - sign * alpha).abs() @ radius.unsqueeze(-1)).squeeze(-1) for side, sign in ((a, 1), (other, -1))]
    low, high = below - apart[0], apart[1] - above
    middle = 0.5 * low + 0.5 * high
    reach = alpha[..., columns] * radius[:, columns].unsqueeze(1)
    size = low.abs() + high.abs() + 2 * (apart[0] + apart[1]) + reach.abs().sum(-1)
    epsilon = torch.maximum(high - middle, middle - low) + size * gamma(2 * a.shape[-1] + 16, a.dtype)
    return Factor(middle, reach, epsilon)


def _tangent(form: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``t``, ``s``, a rounding error and ``m`` with ``z^T form z >= t . z - s - error`` for all z between -1 and 1,
    near the minimum of ``b . z + z^T form z``; m is what each row of the form's rest contributes to s."""
    finite = torch.isfinite(form).all(-1).all(-1)
    root = _root(torch.where(finite[..., None, None], form, 0.0))
    convex = root @ root.mT
    rest = form - convex
    z = _minimiser(2 * convex, b)
    along = (z.unsqueeze(-2) @ root).squeeze(-2)
    # |L^T z|^2 >= 2 w . L^T z - |w|^2 for any w, here L^T at the minimum.
    tangent = 2 * (root @ along.unsqueeze(-1)).squeeze(-1)
    squares = along.square().sum(-1)
    each = rest.abs().sum(-1)
    lost = each.sum(-1) - rest.diagonal(dim1=-2, dim2=-1).clamp(min=0).sum(-1)
    size = root.abs().sum(-2).square().sum(-1) + form.abs().sum((-1, -2)) + squares
    size = size + 2 * (root.abs() @ along.abs().unsqueeze(-1)).squeeze(-1).sum(-1)
    return tangent, squares + lost, size * gamma(4 * form.shape[-1] + 16, form.dtype), each


def _root(form: Tensor) -> Tensor:
    """``L`` with ``L L^T`` near the part of a symmetric form that its positive eigenvalues make."""
    try:
        values, vectors = torch.linalg.eigh(form)
    except torch.linalg.LinAlgError:  # not converged somewhere in the batch: no convex part
        return torch.zeros_like(form)
    return vectors * values.clamp(min=0).sqrt().unsqueeze(-2)


def _minimiser(curvature: Tensor, slope: Tensor) -> Tensor:
    """Nearly the minimiser ``[domains, rows, n]`` of ``slope . z + z^T curvature z / 2`` between -1 and 1, by
    coordinate descent."""
    step = 1 / curvature.diagonal(dim1=-2, dim2=-1).clamp(min=1e-300)
    z = torch.zeros_like(slope)
    gradient = slope.clone()
    for _ in range(ROUNDS):
        for i in range(slope.shape[-1]):
            moved = torch.nan_to_num(z[..., i] - gradient[..., i] * step[..., i]).clamp(-1, 1)
            gradient += curvature[..., i] * (moved - z[..., i]).unsqueeze(-1)
            z[..., i] = moved
    return z
