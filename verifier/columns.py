"""The splittable scalars of a graph over one root box, and how tensors over them become tensors over values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Multivariate, Univariate
from provenn.bounds.propagate.intermediate import unstable
from provenn.bounds.propagate.plan import Plan
from provenn.verifier.root import Facts

# A width worth halving, relative to the ends of a box.
LEAST_WIDTH = 1e-6


@dataclass(frozen=True)
class Columns:
    """The splittable scalars: for each value its flat elements and where they sit among all columns."""

    values: tuple[int, ...]
    elements: tuple[Tensor, ...]
    start: tuple[int, ...]
    total: int
    jumps: frozenset[int] = frozenset()
    """Values that a sign reads, and nothing else with a relaxation (``bounds.graph.lattice``)."""

    def __iter__(self) -> Iterator[tuple[int, Tensor, slice]]:
        """Every value with its flat elements and their columns."""
        for value, elements, start in zip(self.values, self.elements, self.start, strict=True):
            yield value, elements, slice(start, start + elements.numel())

    def gather(self, dense: dict[int, Tensor], axis: int = 1) -> Tensor:
        """Columns ``[domains, columns]`` of dense tensors ``[domains, *shape]``; ``axis`` is where shapes begin."""
        parts = [dense[v].flatten(axis).index_select(axis, e) for v, e, _ in self]
        return torch.cat(parts, axis) if parts else torch.zeros(1, 0)

    def spread(self, plan: Plan, base: dict[int, Tensor], flat: Tensor, dtype: torch.dtype) -> dict[int, Tensor]:
        """Dense tensors ``[domains, *shape]`` of the values with columns: ``base`` with the columns replaced."""
        result = {}
        for value, elements, place in self:
            dense = base[value].flatten(1).expand(flat.shape[0], -1).clone()
            dense[:, elements] = flat[:, place].to(dtype)
            result[value] = dense.view(flat.shape[0], *plan.shape(value))
        return result


def splittable(plan: Plan, index: int) -> bool:
    """Whether a split of an operand tightens a node: elementwise operators, products and what is made of them."""
    operator = plan.operators[index]
    if isinstance(operator, Univariate):
        return True
    return isinstance(operator, Multivariate) and not operator.piecewise_linear and index not in plan.opaque


def columns_of(plan: Plan, facts: Facts, output: int) -> Columns:
    """Every element of a value that an operator of which splits tighten the lines reads with a gap."""
    values, elements, start, total = [], [], [], 0
    below = set(plan.relaxed_below(output))
    for value, box in facts.boxes.items():
        if not any(i in below and splittable(plan, i) for i in plan.consumers[value]):
            continue
        found = unstable(plan, value, box).flatten().nonzero().squeeze(1)
        if found.numel():
            values.append(value)
            elements.append(found)
            start.append(total)
            total += found.numel()
    jumps = frozenset(v for v in values if any(plan.operators[i].name == "sign" for i in plan.consumers[v]))
    return Columns(tuple(values), tuple(elements), tuple(start), total, jumps)


def reads_with_gap(plan: Plan, columns: Columns, value: int, low: Tensor, high: Tensor) -> Tensor:
    """Where an operator still reads a value with a gap: a break point inside, or a width worth halving."""
    if value in columns.jumps:
        return (low <= 0) & (high >= 0) & (low < high)
    result = torch.zeros_like(low, dtype=torch.bool)
    for index in plan.consumers[value]:
        operator = plan.operators[index]
        if isinstance(operator, Univariate) and operator.piecewise_linear:
            for point in operator.breakpoints(plan.prepared[index]):
                result |= (low < point) & (high > point)
        elif splittable(plan, index):
            result |= (high - low) > LEAST_WIDTH * torch.maximum(low.abs(), high.abs()).clamp(min=LEAST_WIDTH)
    return result
