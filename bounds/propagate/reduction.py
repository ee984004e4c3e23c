"""Elements that contribute nothing: an operator whose two lines are 0 there in every domain of a batch.

In a chain linear, elementwise, linear such an element can be left out of both matrices for as long as the boxes
hold. The
matrices of a batch become as small as its live elements; nothing else changes.
"""

from __future__ import annotations

from torch import Tensor

from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.coefficients import Elements
from provenn.bounds.propagate.plan import Matrix, Plan


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
        if private and plan.consumers[index] and all(plan.matrices[i] is not None for i in chain):
            found.add(index)
    return frozenset(found)


class Reduction:
    """The live elements of reducible nodes and the matrices between them, for one batch of domains."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.alive: dict[int, Tensor] = {}
        self.linear: set[int] = set()
        self._matrices: dict[int, Matrix] = {}

    def add(self, index: int, alive: Tensor) -> None:
        """Leave out of elementwise node ``index`` all but the flat elements ``alive``."""
        operand = self.plan.graph.nodes[index].inputs[0]
        self.alive[index] = self.alive[operand] = alive
        touched = (operand, *self.plan.consumers[index])
        self.linear.update(touched)
        for other in touched:
            self._matrices.pop(other, None)

    def cut(self, index: int, vector: Tensor) -> Tensor:
        """The live part of a ``[..., n]`` on value ``index``."""
        return vector.index_select(-1, self.alive[index]) if index in self.alive else vector

    def matrix(self, index: int) -> Matrix:
        """The live part of a linear node's matrix."""
        if index not in self._matrices:
            whole = self.plan.matrices[index]
            operand = self.plan.graph.nodes[index].inputs[0]
            assert whole is not None
            weight, bias, shape = whole.transposed.mT, whole.bias, whole.shape
            if index in self.alive:
                weight = weight.index_select(1, self.alive[index])
                bias = None if bias is None else bias.index_select(0, self.alive[index])
            if operand in self.alive:
                weight = weight.index_select(0, self.alive[operand])
                shape = (*shape[:-1], weight.shape[0])
            self._matrices[index] = Matrix(weight.mT, bias, shape)
        return self._matrices[index]

    def columns(self, index: int, a: Elements) -> Tensor:
        """Rows of single elements of a linear node carried to its operand, live elements only."""
        whole = self.plan.matrices[index]
        operand = self.plan.graph.nodes[index].inputs[0]
        assert whole is not None
        columns = self.cut(operand, whole.transposed.index_select(0, a.index)) * a.weights.unsqueeze(2)
        return columns.view(*columns.shape[:2], *whole.shape[:-1], -1)
