"""How strongly each input can move a row at all: a bound of |d row / d input| by magnitudes.

The linear bound of a row forgets inputs whose effects cancel, although they widen every intermediate box; the
product of
|weights| and slopes along all paths does not. The two together choose which input to split (docs/decisions.md has
the counts).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Prepared
from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.plan import Plan


class Sensitivity:
    """Backward passes of magnitudes over one plan; the constants' absolute values are made once."""

    def __init__(self, plan: Plan, source: int, target: int):
        self.plan, self.source, self.target = plan, source, target
        self.absolute = [_absolute(prepared) for prepared in plan.prepared]

    def __call__(self, rows: Tensor, lines: Mapping[int, Lines]) -> Tensor:
        """``rows`` ``[domains, *shape]`` (magnitudes on the target) to ``[domains, inputs]`` over the given
        relaxations."""
        plan = self.plan
        magnitude: dict[int, Tensor] = {self.target: rows.abs()}
        for index in plan.order(self.target):
            m = magnitude.pop(index, None)
            if m is None:
                continue
            if index == self.source:
                return m.flatten(1)
            if plan.linear[index]:
                parts = [p.abs() for p in plan.operators[index].transpose(self.absolute[index], m)]  # type: ignore[attr-defined]
            else:
                parts = _through(lines[index], m)
            for operand, part in zip(plan.graph.nodes[index].inputs, parts, strict=False):
                magnitude[operand] = magnitude[operand] + part if operand in magnitude else part
        return rows.new_zeros(rows.shape[0], plan.size(self.source))


def _absolute(prepared: Prepared) -> Prepared:
    tensors = {k: v.abs() if v.is_floating_point() else v for k, v in prepared.tensors.items()}
    return replace(prepared, tensors=tensors)


def _through(lines: Lines, m: Tensor) -> list[Tensor]:
    parts = []
    for place, (lower, upper) in enumerate(zip(lines.lower_slopes, lines.upper_slopes, strict=False)):
        steepest = torch.maximum(lower.abs(), upper.abs()).amax(1, keepdim=True)
        if lines.patterns is None:
            parts.append(m * steepest.squeeze(1))
        else:
            parts.append(lines.patterns[place].single(m.unsqueeze(1), steepest).squeeze(1))
    return parts
