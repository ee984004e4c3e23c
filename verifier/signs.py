"""Signs that values keep whatever rounding does: sums of terms of one sign have it.

Bounds in floating point end a little below what is exactly 0, so the slope of a network that stands still somewhere is
never proven to be at least 0 by them. Of what sign terms can be at all is known without rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import Node
from provenn.bounds.ops import prepare
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.plan import Plan

# Operators that add what they read up, with weights that may have signs; they are evaluated on counts of terms.
SUMS = frozenset({
    "linear", "matmul_left", "conv", "conv_transpose", "affine", "sum", "add", "index", "reshape", "transpose",
    "concat",
})  # fmt: skip
# Their constants: what is multiplied by, and what is added.
SCALES = ("weight", "scale")
CONSTANTS = (*SCALES, "bias", "shift")
# Operators of two factors.
PRODUCTS = frozenset({"mul", "matmul"})

Signs = tuple[Tensor, Tensor]
"""Whether elements ``[1, *shape]`` may be negative and may be positive."""


def signs(plan: Plan, boxes: Mapping[int, Box], target: int) -> Signs:
    """Which signs the target may have over boxes ``[1, *shape]`` of all values (float64 plans)."""
    found: dict[int, Signs] = {}
    for index in plan.order(target)[::-1]:
        low, high = boxes[index]
        mine = ~(low >= 0), ~(high <= 0)  # what is no number may be both
        operands = [found[i] for i in plan.graph.nodes[index].inputs if i in found]
        made = None if index in plan.opaque or not operands else _summed(plan, index, operands)
        if made is not None:
            mine = mine[0] & made[0], mine[1] & made[1]
        found[index] = mine
    return found[target]


def _summed(plan: Plan, index: int, operands: list[Signs]) -> Signs | None:
    """Signs by those of the terms; None where nothing is known of the operator."""
    operator, prepared, node = plan.operators[index], plan.prepared[index], plan.graph.nodes[index]
    counts = [(n.to(plan.dtype), p.to(plan.dtype)) for n, p in operands]
    if operator.name == "sub":
        (n, p), (m, q) = operands
        return n | q, p | m
    if operator.name in PRODUCTS:
        (n, p), (m, q) = counts
        by = lambda x, y: operator.evaluate(prepared, x, y)  # noqa: E731
        return by(n, q) + by(p, m) > 0, by(n, m) + by(p, q) > 0
    if operator.name not in SUMS:
        return None
    above, below = ({name: _may_be(node, name, sign) for name in CONSTANTS} for sign in (1, -1))

    def evaluated(constants: Mapping[str, np.ndarray | None], value: list[Tensor], shifted: bool) -> Tensor:
        """How many terms there are, of the constants and of what the values say: whole numbers, without rounding."""
        kept = {name: attribute for name, attribute in node.attributes.items() if "radius" not in name}
        for name, constant in constants.items():
            if constant is not None:
                kept[name] = constant if name in SCALES or shifted else np.zeros_like(constant)
        made = replace(node, attributes=kept)
        return operator.evaluate(prepare(made, prepared.input_shapes, plan.dtype, plan.device), *value)

    minus, plus = [c[0] for c in counts], [c[1] for c in counts]
    negative, positive = evaluated(above, minus, False), evaluated(above, plus, True)
    if any(below[name] is not None for name in SCALES):
        negative, positive = negative + evaluated(below, plus, True), positive + evaluated(below, minus, False)
    else:
        negative = negative + evaluated(below, [torch.zeros_like(c) for c in minus], True)
    return negative > 0, positive > 0


def _may_be(node: Node, name: str, sign: int) -> np.ndarray | None:
    """1 where a constant, known up to its radius, may have a sign, else 0; None where there is none."""
    value = node.attributes.get(name)
    if value is None:
        return None
    radius = node.attributes.get(f"{name}_radius")
    most = sign * np.asarray(value, np.float64) + (0.0 if radius is None else np.asarray(radius, np.float64))
    return (~(most <= 0)).astype(np.float64)
