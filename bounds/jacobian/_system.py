"""A network's Jacobians over a box as a linear system with one unknown number for each element of a function.

A function's derivative between ``c - r`` and ``c + r`` is ``c + r e`` with an unknown ``|e| <= 1``. With ``u = e z``
the tangents of a network of affine maps and functions of one variable are ``(y, z) = M (x, u)`` with ``|u_j| <= |z_j|``
for a constant matrix M. That holds over the whole space as well, where nothing else is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._graph import Graph, Node
from provenn.bounds.jacobian._elementwise import FACTORS
from provenn.bounds.jacobian._sweep import jacobian_vector
from provenn.bounds.ops._operator import LinearOperator, Univariate
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.plan import Plan

# Unknown numbers, and numbers of all tangents, up to which a system is made.
MOST_UNKNOWN, MOST_NUMBERS = 1024, 1 << 26


@dataclass(frozen=True, eq=False)
class System:
    """``matrix [outputs + unknown, inputs + unknown]`` (float64), whose entries are off by at most ``radius``.

    ``groups [unknown]`` numbers the function that an unknown belongs to, in topological order: what is unknown of a
    function reaches later ones only.
    """

    matrix: Tensor
    radius: Tensor
    groups: Tensor
    outputs: int
    inputs: int

    @property
    def unknown(self) -> int:
        return len(self.groups)

    def transposed(self) -> System:
        """The system of the transposed Jacobians; its groups count down, from the last function to the first."""
        return System(
            self.matrix.mT.contiguous(), self.radius.mT.contiguous(), -self.groups, self.inputs, self.outputs
        )

    def row(self, row: int) -> System:
        """The system of one row of the Jacobians."""
        kept = torch.cat([torch.tensor([row]), torch.arange(self.outputs, len(self.matrix))])
        return _reduced(System(self.matrix[kept], self.radius[kept], self.groups, 1, self.inputs))


def system_of(graph: Graph, boxes: Mapping[int, Box], output: int | None = None) -> System | None:
    """The system of dY/dX where all values are in ``boxes`` of one domain; of one row if ``output`` is given.

    None where the graph has other operators, slopes that may be infinite or more unknown numbers than are worth it.
    """
    plan = Plan(graph)
    read = _reads(graph)
    order = [i for i, wanted in enumerate(read) if wanted]
    slopes: dict[int, tuple[Tensor, Tensor]] = {}
    for index in order:
        node, operator = graph.nodes[index], plan.operators[index]
        if isinstance(operator, Univariate) and node.operator in FACTORS:
            found = _slopes(node, boxes[node.inputs[0]])
            if found is None:
                return None
            slopes[index] = found
        elif index not in graph.inputs and not isinstance(operator, LinearOperator):
            return None
    free = {i: (radius.flatten() > 0).nonzero().squeeze(1) for i, (_, radius) in slopes.items()}
    inputs, unknown = graph.nodes[graph.inputs[0]].size, sum(len(found) for found in free.values())
    columns = inputs + unknown
    if unknown > MOST_UNKNOWN or columns * sum(graph.nodes[i].size for i in order) > MOST_NUMBERS:
        return None
    tangents: dict[int, Box] = {}
    rows: list[Box] = []
    first = inputs
    for index in order:
        node = graph.nodes[index]
        if index in graph.inputs:
            unit = torch.cat([torch.eye(inputs), torch.zeros(unknown, inputs)]).double()
            tangents[index] = _both(unit.view(columns, *node.shape))
        elif index in slopes:
            tangent = tangents[node.inputs[0]]
            low, high = _times(slopes[index][0], tangent)
            low, high = low.reshape(columns, -1), high.reshape(columns, -1)
            elements = free[index]
            own = torch.arange(first, first + len(elements))
            low[own, elements] = high[own, elements] = slopes[index][1].flatten()[elements]
            first += len(elements)
            rows.append(tuple(end.reshape(columns, -1)[:, elements] for end in tangent))  # type: ignore[arg-type]
            tangents[index] = low.view(columns, *node.shape), high.view(columns, *node.shape)
        else:
            tangents[index] = _linear(plan, index, tangents, columns)
    ends = tangents[graph.outputs[0]]
    of_output = ends[0].reshape(columns, -1), ends[1].reshape(columns, -1)
    if output is not None:
        of_output = of_output[0][:, [output]], of_output[1][:, [output]]
    low, high = (torch.cat([part[side] for part in [of_output, *rows]], 1).mT for side in (0, 1))
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        return None
    middle = 0.5 * low + 0.5 * high
    radius = _up(torch.maximum(high - middle, middle - low)).clamp(min=0.0) * (high > low)
    groups = [torch.full((len(found),), number) for number, found in enumerate(free.values())]
    every = torch.cat(groups) if groups else torch.zeros(0, dtype=torch.int64)
    return _reduced(System(middle.contiguous(), radius.contiguous(), every, of_output[0].shape[1], inputs))


def _reads(graph: Graph) -> list[bool]:
    """Which values the output reads."""
    found = [False] * len(graph.nodes)
    found[graph.outputs[0]] = True
    for index in range(graph.outputs[0], -1, -1):
        if found[index]:
            for operand in graph.nodes[index].inputs:
                found[operand] = True
    return found


def _slopes(node: Node, box: Box) -> tuple[Tensor, Tensor] | None:
    """Middles and half widths ``[*shape]`` of a function's derivatives over a box, None where infinite."""
    x = Node("input", (), node.shape, {}, "x", "x", node.scalar_type)
    alone = Graph((x, replace(node, inputs=(0,))), (0,), (1,))
    made = jacobian_vector(alone, np.ones((1, node.size)))
    boxes = interval_boxes(Plan(made), dict.fromkeys(made.inputs, box))
    low, high = (end.reshape(node.shape) for end in boxes[made.outputs[0]])
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        return None
    middle = 0.5 * low + 0.5 * high
    radius = torch.where(high > low, _up(torch.maximum(high - middle, middle - low)), 0.0)
    return middle, radius


def _linear(plan: Plan, index: int, tangents: dict[int, Box], columns: int) -> Box:
    """Tangents through an affine map: what it makes of them less what it makes of 0."""
    node = plan.graph.nodes[index]
    if not node.inputs:
        return _both(torch.zeros(columns, *node.shape, dtype=torch.float64))
    low, high = plan.interval(index, tangents)
    zero = {i: _both(torch.zeros(1, *plan.shape(i), dtype=torch.float64)) for i in node.inputs}
    least, most = plan.interval(index, zero)
    low, high = (end.expand(columns, *node.shape) for end in (low, high))
    lower = torch.where(most == 0, low, -_up(most - low))
    return lower.clone(), torch.where(least == 0, high, _up(high - least)).clone()


def _times(factor: Tensor, box: Box) -> Box:
    """A box times known numbers, rounded outward, but exact where a product is 0, 1 or one half."""
    ends = [factor * end for end in box]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    exact = (factor == 0) | (factor.abs() == 1) | (factor.abs() == 0.5)
    return torch.where(exact | (low == 0), low, -_up(-low)), torch.where(exact | (high == 0), high, _up(high))


def _both(x: Tensor) -> Box:
    return x, x.clone()


def _up(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, torch.inf))


def _reduced(system: System) -> System:
    """Without the unknown numbers that reach no output."""
    matrix, outputs, inputs = system.matrix.abs() + system.radius, system.outputs, system.inputs
    reach = matrix[:outputs, inputs:].sum(0) > 0
    for _ in torch.unique(system.groups):
        reach = reach | (matrix[outputs:, inputs:][reach].sum(0) > 0)
    kept = reach.nonzero().squeeze(1)
    rows = torch.cat([torch.arange(outputs), outputs + kept])
    columns = torch.cat([torch.arange(inputs), inputs + kept])
    return System(
        system.matrix[rows][:, columns], system.radius[rows][:, columns], system.groups[kept], outputs, inputs
    )
