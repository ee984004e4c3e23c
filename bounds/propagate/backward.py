"""Backward (CROWN) propagation: the largest provable lower bound of rows over a box.

Rows c on a value v, ``c . v``, are carried back to the inputs. At a relaxed node with lower line
``kl x + bl`` and upper line ``ku x + bu`` a coefficient a becomes ``max(a,0) kl + min(a,0) ku`` and the
offset grows by ``max(a,0) bl + min(a,0) bu`` (Zhang et al., 2018; Xu et al., arXiv 2002.12920).
An upper bound is the negated lower bound of the negated row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import RoundingError

InputBoxes = Mapping[int, tuple[Tensor, Tensor]]


@dataclass
class Trace:
    """What one backward pass leaves for the gradient: coefficients at relaxed nodes and at inputs.

    ``positive[i]``/``negative[i]`` are ``max(a,0)``/``min(a,0)`` on relaxed node i's output,
    ``[domains, rows, *shape]``; ``inputs[i]`` the coefficients on graph input i.
    """

    positive: dict[int, Tensor] = field(default_factory=dict)
    negative: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    offset: Tensor | None = None


def dot(a: Tensor, v: Tensor) -> Tensor:
    """Sum over the sample axes of a [domains, rows, *shape] times v [1|domains, 1|rows, *shape]."""
    domains, rows = a.shape[:2]
    if v.shape[0] == 1 and v.shape[1] == 1:
        return (a.reshape(domains * rows, -1) @ v.reshape(-1)).view(domains, rows)
    if v.shape[1] == 1:
        if a.shape[0] == 1:
            return (v.reshape(v.shape[0], -1) @ a.reshape(rows, -1).T).view(-1, rows)
        return torch.bmm(a.reshape(domains, rows, -1), v.reshape(domains, -1, 1)).squeeze(-1)
    return (a * v).flatten(2).sum(-1)


class _Sweep:
    """The state of one backward walk."""

    def __init__(self, plan: Plan, lines: Mapping[int, Lines], trace: Trace | None, error: RoundingError | None):
        self.plan, self.lines, self.trace, self.error = plan, lines, trace, error
        self.coefficients: dict[int, Tensor] = {}
        self.offset: Tensor | None = None

    def push(self, value: int, a: Tensor) -> None:
        present = self.coefficients.get(value)
        if present is None:
            self.coefficients[value] = a
            return
        total = present + a
        if self.error is not None:
            self.error.accumulated(value, total)
        self.coefficients[value] = total

    def add_offset(self, term: Tensor) -> None:
        self.offset = term if self.offset is None else self.offset + term

    def linear(self, index: int, a: Tensor) -> None:
        plan, operator, prepared = self.plan, self.plan.operators[index], self.plan.prepared[index]
        if self.error is not None:
            self.error.linear(index, a)
        constant = plan.offsets[index]
        if constant is not None:
            self.add_offset(dot(a, constant))
        domains, rows = a.shape[:2]
        parts = operator.transpose(prepared, a.reshape(domains * rows, *a.shape[2:]))  # type: ignore[attr-defined]
        for operand, part in zip(plan.graph.nodes[index].inputs, parts):
            self.push(operand, part.view(domains, rows, *part.shape[1:]))

    def relaxed(self, index: int, a: Tensor) -> None:
        lines = self.lines[index]
        positive, negative = a.clamp(min=0), a.clamp(max=0)
        if self.trace is not None:
            self.trace.positive[index], self.trace.negative[index] = positive, negative
        pairs = ((positive, lines.lower_offset), (negative, lines.upper_offset))
        terms = [dot(part, offset) for part, offset in pairs if offset is not None]
        for term in terms:
            self.add_offset(term)
        if self.error is not None:
            self.error.relaxed(index, positive, negative, lines, terms)
        for position, operand in enumerate(self.plan.graph.nodes[index].inputs if lines.lower_slopes else ()):
            lower, upper = lines.lower_slopes[position], lines.upper_slopes[position]
            if lines.window is None:
                self.push(operand, (positive * lower).addcmul_(negative, upper))
            else:
                spread = (positive.unsqueeze(-1) * lower).addcmul_(negative.unsqueeze(-1), upper)
                self.push(operand, lines.window.scatter(spread))


def backward(
    plan: Plan,
    target: int,
    rows: Tensor,
    lines: Mapping[int, Lines],
    inputs: InputBoxes,
    *,
    multipliers: Mapping[int, tuple[Tensor, Tensor]] | None = None,
    trace: Trace | None = None,
    error: RoundingError | None = None,
    stop: Mapping[int, tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Lower bounds ``[domains, rows]`` of ``rows . target`` over the input boxes.

    ``rows`` is ``[1|domains, rows, *shape]``; ``lines`` has an entry for every relaxed node below the target,
    ``inputs`` a box ``[1|domains, *shape]`` for every graph input. ``multipliers[v] = (signed, constant)`` adds
    the split constraints of value v: ``a_v -= signed`` (``[domains, 1|rows, *shape]``), ``offset += constant``
    (``[domains, 1|rows]``), valid for any signs and points as ``signed = s beta``, ``constant = sum s beta p``,
    beta >= 0 (Wang et al., arXiv 2103.06624). ``trace`` receives what a gradient needs. With ``error`` (float64) the bound is
    lowered by an a-priori bound of all rounding errors, so that it holds for real arithmetic.
    ``stop`` gives boxes of values where the walk ends early (a truncated pass: looser, cheaper).
    """
    sweep = _Sweep(plan, lines, trace, error)
    sweep.coefficients[target] = rows
    bound: Tensor | None = None
    for index in plan.order(target):
        a = sweep.coefficients.pop(index, None)
        if a is None:
            continue
        if multipliers is not None and index in multipliers:
            signed, constant = multipliers[index]
            a = a - signed
            sweep.add_offset(constant)
            if error is not None:
                error.accumulated(index, a)
        box = inputs.get(index) if stop is None else stop.get(index, inputs.get(index))
        if box is not None:
            if trace is not None:
                trace.inputs[index] = a
            if error is not None:
                error.concretised(index, a, box)
            term = _concretise(a, box)
            bound = term if bound is None else bound + term
        elif plan.linear[index]:
            sweep.linear(index, a)
        else:
            sweep.relaxed(index, a)
    offset = sweep.offset
    if trace is not None:
        trace.offset = offset
    if bound is None:
        bound = offset if offset is not None else rows.new_zeros(rows.shape[:2])
    elif offset is not None:
        bound = bound + offset
    return bound if error is None else error.lowered(bound)


def _concretise(a: Tensor, box: tuple[Tensor, Tensor]) -> Tensor:
    """Minimum of ``a . x`` over the box, from the ends themselves (no midpoint: no cancellation)."""
    lower, upper = box
    return dot(a.clamp(min=0), lower.unsqueeze(1)) + dot(a.clamp(max=0), upper.unsqueeze(1))
