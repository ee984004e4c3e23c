"""A plan: everything about a graph that a bound call needs and that does not depend on the domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from provenn.bounds.graph._graph import Graph
from provenn.bounds.ops import OPS, prepare
from provenn.bounds.ops._operator import LinearOperator, Multivariate, Operator, Prepared, Univariate

if TYPE_CHECKING:
    from provenn.bounds.propagate.extent import Extent


@dataclass(eq=False)
class Plan:
    """Compiled once per graph, element type and device; bound calls walk it.

    ``relaxed`` are the nodes that are not linear, ``bounded`` the values they read, whose boxes
    every bound call needs. Both are in topological order.
    """

    graph: Graph
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")
    operators: list[Operator] = field(init=False)
    prepared: list[Prepared] = field(init=False)

    def __post_init__(self) -> None:
        nodes = self.graph.nodes
        self.operators = [OPS[node.operator] for node in nodes]
        self.prepared = [
            prepare(node, tuple(nodes[i].shape for i in node.inputs), self.dtype, self.device) for node in nodes
        ]
        self._orders: dict[int, tuple[int, ...]] = {}
        self._extents: dict[int, dict[int, Extent | None]] = {}

    @cached_property
    def offsets(self) -> list[torch.Tensor | None]:
        """Constant terms of linear nodes as ``[1, 1, *shape]``."""
        result: list[torch.Tensor | None] = []
        for operator, prepared in zip(self.operators, self.prepared):
            constant = operator.offset(prepared) if isinstance(operator, LinearOperator) else None
            result.append(None if constant is None else constant.expand(prepared.shape)[None, None])
        return result

    @cached_property
    def consumers(self) -> list[list[int]]:
        return self.graph.consumers()

    @cached_property
    def linear(self) -> list[bool]:
        """Whether a node is an affine map of its operands (inputs and constants count)."""
        return [isinstance(op, LinearOperator) for op in self.operators]

    @cached_property
    def additions(self) -> int:
        """At least how often an offset is added to others in one backward pass, and a few roundings more."""
        return len(self.graph.nodes) + 8

    @cached_property
    def reducible(self) -> frozenset[int]:
        """Elementwise nodes whose dead elements can be left out of the matrices around them."""
        from provenn.bounds.propagate.reduction import reducible

        return reducible(self)

    def extents(self, target: int) -> dict[int, Extent | None]:
        """The windows that rows of single elements of the target read (see extent.py)."""
        from provenn.bounds.propagate.extent import extents

        if target not in self._extents:
            self._extents[target] = extents(self, target)
        return self._extents[target]

    @cached_property
    def relaxed(self) -> tuple[int, ...]:
        return tuple(i for i, linear in enumerate(self.linear) if not linear)

    @cached_property
    def bounded(self) -> tuple[int, ...]:
        return tuple(sorted({operand for i in self.relaxed for operand in self.graph.nodes[i].inputs}))

    @cached_property
    def opaque(self) -> frozenset[int]:
        """Relaxed nodes that only have an interval image: the backward pass stops there."""
        return frozenset(
            i for i in self.relaxed if not isinstance(self.operators[i], (Univariate, Multivariate))
        )

    def interval(self, index: int, boxes: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The box ``[domains, *shape]`` of a node from the boxes of its operands."""
        operator, prepared = self.operators[index], self.prepared[index]
        operands = [boxes[i] for i in self.graph.nodes[index].inputs]
        if isinstance(operator, Univariate):
            return operator.interval(prepared, *operands[0])
        return operator.interval(prepared, *operands)

    def shape(self, value: int) -> tuple[int, ...]:
        return self.graph.nodes[value].shape

    def size(self, value: int) -> int:
        return self.graph.nodes[value].size

    def order(self, target: int) -> tuple[int, ...]:
        """The target and its ancestors, the target first, every node before its operands.

        Opaque nodes have no ancestors here: their output box is all a bound of the target reads.
        """
        if target not in self._orders:
            needed = {target}
            for index in range(target, -1, -1):
                if index in needed and index not in self.opaque:
                    needed.update(self.graph.nodes[index].inputs)
            self._orders[target] = tuple(sorted(needed, reverse=True))
        return self._orders[target]

    def relaxed_below(self, target: int) -> tuple[int, ...]:
        """The relaxed nodes a backward pass from the target walks through, the latest first."""
        return tuple(i for i in self.order(target) if not self.linear[i])

    def bounded_below(self, target: int) -> tuple[int, ...]:
        """The values whose boxes a backward pass from the target needs, in topological order."""
        wanted: set[int] = set()
        stack, seen = [target], {target}
        while stack:
            for operand in self.graph.nodes[stack.pop()].inputs:
                if operand not in seen:
                    seen.add(operand)
                    stack.append(operand)
        for index in seen:
            if not self.linear[index]:
                wanted.update(self.graph.nodes[index].inputs)
        return tuple(sorted(wanted))
