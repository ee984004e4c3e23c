"""A plan: everything about a graph that a bound call needs and that does not depend on the domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from provenn.bounds.graph._graph import Graph
from provenn.bounds.ops import OPS, prepare
from provenn.bounds.ops._operator import LinearOperator, Multivariate, Operator, Prepared, Univariate
from provenn.bounds.propagate.memory import available
from provenn.errors import InputError

if TYPE_CHECKING:
    from provenn.bounds.propagate.extent import Extent

# Affine operators with one constant weight, whose image of a box is that of its centre and its radius.
_CENTRED = frozenset({"linear", "conv", "conv_transpose"})


@dataclass(frozen=True)
class Matrix:
    """A linear node on vectors: rows ``a [k, m]`` become ``a @ transposed [m, n]`` on the operand of ``shape``."""

    transposed: torch.Tensor
    bias: torch.Tensor | None
    shape: tuple[int, ...]


@dataclass(eq=False)
class Plan:
    """Compiled once per graph, element type and device; bound calls walk it.

    ``relaxed`` are the nodes that are not linear, ``bounded`` the values they read, whose boxes
    every bound call needs. Both are in topological order.
    """

    graph: Graph
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory: int | None = None
    """Bytes that the tensors of one pass may take together; None is a quarter of what is free at first use."""
    operators: list[Operator] = field(init=False)
    prepared: list[Prepared] = field(init=False)

    def __post_init__(self) -> None:
        nodes = self.graph.nodes
        self.operators = [OPS[node.operator] for node in nodes]
        self.prepared = [
            prepare(node, tuple(nodes[i].shape for i in node.inputs), self.dtype, self.device)
            for node in nodes
        ]
        for node, prepared in zip(nodes, self.prepared, strict=True):
            if node.operator == "leaky_relu" and bool((prepared.tensors["slope"] > 1).any()):
                raise InputError("a leaky_relu has a slope above 1, where it is concave: make the node a prelu")
        self._orders: dict[int, tuple[int, ...]] = {}
        self._relaxed_below: dict[int, tuple[int, ...]] = {}
        self._widest: dict[int, tuple[int, int]] = {}
        self._cost: dict[int, int] = {}
        self._walks: dict[tuple[int, bool], tuple[tuple[int, tuple[int, ...]], ...]] = {}
        self._extents: dict[int, dict[int, Extent | None]] = {}
        self.absolute: dict[int, Prepared] = {}

    @cached_property
    def offsets(self) -> list[torch.Tensor | None]:
        """Constant terms of linear nodes as ``[1, 1, *shape]``."""
        result: list[torch.Tensor | None] = []
        for operator, prepared in zip(self.operators, self.prepared, strict=False):
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

    def widest(self, target: int) -> tuple[int, int]:
        """Elements of the widest value below the target: dense, and as far as rows of single elements spread."""
        if target not in self._widest:
            extents, dense, apart = self.extents(target), 1, 1
            for index in self.order(target)[1:]:
                extent = extents.get(index)
                dense = max(dense, self.size(index))
                apart = max(apart, self.size(index) if extent is None else self.shape(index)[1] * extent.area)
            self._widest[target] = dense, apart
        return self._widest[target]

    def rows_at_once(self, target: int, domains: int, traced: bool = False) -> int:
        """Rows of one pass from the target that fit into memory: some five tensors of the widest value for each row.

        ``traced`` passes keep the values of all nodes.
        """
        if traced:
            elements = 3 * sum(self.size(i) for i in self.order(target)) + 4 * self.weights(target)
        else:
            elements = 5 * self.widest(target)[0]
        return max(1, self.room // (self.dtype.itemsize * domains * elements))

    def weights(self, target: int) -> int:
        """Weights of planes that a row from the target has, roughly."""
        relaxed = (i for i in self.relaxed_below(target) if isinstance(self.operators[i], Multivariate))
        return sum(self.size(i) * max(1, self.length(i)) for i in relaxed if i not in self.opaque)

    @cached_property
    def room(self) -> int:
        if self.memory is not None:
            return self.memory
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] // 4
        return available() // 4

    def cost(self, target: int) -> int:
        """Multiplications of one dense row's pass from the target, roughly."""
        if target not in self._cost:
            total = 0
            for index in self.order(target):
                total += self.size(index) * self.length(index)
            self._cost[target] = total
        return self._cost[target]

    @cached_property
    def relaxed(self) -> tuple[int, ...]:
        return tuple(i for i, linear in enumerate(self.linear) if not linear)

    @cached_property
    def bounded(self) -> tuple[int, ...]:
        return tuple(sorted({operand for i in self.relaxed for operand in self.graph.nodes[i].inputs}))

    @cached_property
    def opaque(self) -> frozenset[int]:
        """Relaxed nodes that only have an interval image: the backward pass stops there."""
        return frozenset(i for i in self.relaxed if self._is_opaque(self.operators[i], self.prepared[i]))

    @staticmethod
    def _is_opaque(operator: Operator, prepared: Prepared) -> bool:
        if isinstance(operator, Multivariate):
            return operator.opaque(prepared)
        return not isinstance(operator, Univariate)

    def length(self, index: int) -> int:
        """Products that one coefficient on a node takes on its way to the operands."""
        operator, prepared = self.operators[index], self.prepared[index]
        if isinstance(operator, LinearOperator):
            return operator.length(prepared)
        return operator.products(prepared) if isinstance(operator, Multivariate) else 0

    def interval(
        self, index: int, boxes: Mapping[int, tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The box ``[domains, *shape]`` of a node from the boxes of its operands."""
        operator, prepared = self.operators[index], self.prepared[index]
        operands = [boxes[i] for i in self.graph.nodes[index].inputs]
        if isinstance(operator, Univariate):
            return operator.interval(prepared, *operands[0])
        if self.dtype == torch.float32 and operator.name in _CENTRED and "weight" in prepared.tensors:
            return self._interval_without_care(index, *operands[0])
        return operator.interval(prepared, *operands)

    def _interval_without_care(
        self, index: int, lower: torch.Tensor, upper: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The image of a matrix or kernel in float32, where nothing is proven: no rounding error is formed."""
        operator, prepared = self.operators[index], self.prepared[index]
        if index not in self.absolute:
            self.absolute[index] = replace(prepared, tensors={"weight": prepared.tensors["weight"].abs()})
        centre, radius = (upper + lower).mul_(0.5), (upper - lower).mul_(0.5)
        centre, radius = operator.evaluate(prepared, centre), operator.evaluate(self.absolute[index], radius)
        return (centre - radius).nan_to_num_(nan=-torch.inf, neginf=-torch.inf), (
            centre + radius
        ).nan_to_num_(nan=torch.inf, posinf=torch.inf)

    def shape(self, value: int) -> tuple[int, ...]:
        return self.graph.nodes[value].shape

    @cached_property
    def matrices(self) -> list[Matrix | None]:
        """The matrix of every linear node that is a dense one on a single vector."""
        return [self._matrix(index) for index in range(len(self.graph.nodes))]

    def _matrix(self, index: int) -> Matrix | None:
        node, prepared = self.graph.nodes[index], self.prepared[index]
        if node.operator != "linear" or "weight" not in prepared.tensors or node.size != node.shape[-1]:
            return None
        shape = self.shape(node.inputs[0])
        if shape[-1] != self.size(node.inputs[0]):
            return None
        return Matrix(prepared.tensors["weight"].mT, prepared.tensors.get("bias"), shape)

    @cached_property
    def sizes(self) -> list[int]:
        return [node.size for node in self.graph.nodes]

    def size(self, value: int) -> int:
        return self.sizes[value]

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
        if target not in self._relaxed_below:
            self._relaxed_below[target] = tuple(i for i in self.order(target) if not self.linear[i])
        return self._relaxed_below[target]

    def forward_walk(self, target: int, whole: bool = False) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Values that relaxed nodes below the target read, and all that those are made of, in topological order.

        With each come the values that nothing after it reads. A ``whole`` walk ends with the target itself.
        """
        if (target, whole) not in self._walks:
            needed: set[int] = {target} if whole else set()
            last: dict[int, int] = {}
            for index in self.order(target):
                if (index in needed or not self.linear[index]) and index not in self.opaque:
                    operands = self.graph.nodes[index].inputs
                    needed.update(operands)
                    if index in needed:
                        last.update((i, index) for i in operands if i not in last)
            done: dict[int, list[int]] = {index: [] for index in sorted(needed)}
            for value, reader in last.items():
                done[reader].append(value)
            self._walks[target, whole] = tuple((index, tuple(values)) for index, values in done.items())
        return self._walks[target, whole]

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
