"""Elements that contribute nothing: an operator whose two lines are 0 there in every domain of a batch.

In a chain linear, elementwise, linear such an element can be left out of both matrices for as long as the boxes hold. The
matrices of a batch become as small as its live elements; nothing else changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.coefficients import Elements
from provenn.bounds.propagate.plan import Plan


def reducible(plan: Plan) -> frozenset[int]:
    """Elementwise nodes between linear nodes on vectors, read by nothing else."""
    found = set()
    for index in plan.relaxed:
        operator, prepared = plan.operators[index], plan.prepared[index]
        if not isinstance(operator, Univariate) or any(t.numel() != 1 for t in prepared.tensors.values()):
            continue
        operand = plan.graph.nodes[index].inputs[0]
        chain = [operand, *plan.consumers[index]]
        private = plan.consumers[operand] == [index] and not {index, operand} & set(plan.graph.outputs)
        if private and plan.consumers[index] and all(_is_matrix(plan, i) for i in chain):
            found.add(index)
    return frozenset(found)


def _is_matrix(plan: Plan, index: int) -> bool:
    node = plan.graph.nodes[index]
    return (
        node.operator == "linear"
        and "sparse" not in plan.prepared[index].derived
        and node.size == node.shape[-1]
        and plan.size(node.inputs[0]) == plan.shape(node.inputs[0])[-1]
    )


class Reduction:
    """The live elements of reducible nodes and the matrices between them, for one batch of domains."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.alive: dict[int, Tensor] = {}
        self.linear: set[int] = set()
        self._through: dict[int, Tensor] = {}

    def add(self, index: int, alive: Tensor) -> None:
        """Leave out of elementwise node ``index`` all but the flat elements ``alive``."""
        operand = self.plan.graph.nodes[index].inputs[0]
        self.alive[index] = self.alive[operand] = alive
        self.linear.update((operand, *self.plan.consumers[index]))

    def cut(self, index: int, vector: Tensor) -> Tensor:
        """The live part of a ``[..., n]`` on value ``index``."""
        return vector.index_select(-1, self.alive[index]) if index in self.alive else vector

    def offset(self, index: int) -> Tensor | None:
        constant = self.plan.offsets[index]
        return None if constant is None else self.cut(index, constant)

    def through(self, index: int, a: Tensor | Elements) -> Tensor:
        """Rows ``[domains, rows, 1.., m]`` on a linear node carried to its operand, live elements only."""
        weight = self.plan.prepared[index].tensors["weight"]
        operand = self.plan.graph.nodes[index].inputs[0]
        if isinstance(a, Elements):
            columns = self.cut(operand, weight.T.index_select(0, a.index)) * a.weights.unsqueeze(2)
            return columns.view(*a.weights.shape, *self.plan.shape(operand)[:-1], -1)
        matrix = self._through.get(index)
        if matrix is None:
            matrix = weight if index not in self.alive else weight.index_select(1, self.alive[index])
            if operand in self.alive:
                matrix = matrix.index_select(0, self.alive[operand])
            self._through[index] = matrix = matrix.T.contiguous()
        flat = a.flatten(2)
        return torch.matmul(flat, matrix).view(*flat.shape[:2], *self.plan.shape(operand)[:-1], -1)
