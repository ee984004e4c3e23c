"""Maxima and minima as ReLU trees, so that splitting neurons decides networks that have them.

``max(a, b) = b + relu(a - b)`` and ``min(a, b) = a - relu(a - b)``; a window is a balanced tree of maxima. The new
graph computes the same real function; its relaxations are those of ReLU, with slopes to optimise and elements to split.

An operator with jumps gets an operand of its own where another relaxation reads it: a split at a jump leaves one
end out, which is right for the operator that jumps and for no other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from provenn.bounds.graph._graph import Graph, Node
from provenn.bounds.graph.opposite import opposite

LATTICE = frozenset({"max", "min", "window_max"})
JUMPING = frozenset({"sign", "floor", "ceil", "round"})
# Comparisons (ReLU elements) up to which a rewrite pays: beyond, no search splits its way through them.
COMPARISONS = 8192
WINDOW = 16


def comparisons(graph: Graph) -> int:
    """How many ReLU elements the rewrite adds."""
    total = 0
    for node in graph.nodes:
        if node.operator == "window_max":
            total += node.size * (_width(node) - 1)
        elif node.operator in LATTICE:
            total += node.size
    return total


def _width(node: Node) -> int:
    return int(np.shape(node.attributes["indices"])[-1])


def lattice(graph: Graph, limit: int = COMPARISONS) -> Graph:
    """The graph with max, min and window_max (windows of up to 16) as trees of sub, relu and add.

    Maxima stay where they would take more than ``limit`` comparisons. ReLUs of opposite operands are one. Returned
    unchanged where there is nothing to do.
    """
    count = comparisons(graph)
    shared = _shared_jumps(graph)
    if not shared and not 0 < count <= limit:
        return opposite(graph)
    rewrite = _Rewrite(graph, shared, count <= limit)
    position = [rewrite.node(node) for node in graph.nodes]
    return opposite(
        replace(
            graph,
            nodes=tuple(rewrite.nodes),
            inputs=tuple(position[i] for i in graph.inputs),
            outputs=tuple(position[i] for i in graph.outputs),
        )
    )


def _shared_jumps(graph: Graph) -> frozenset[int]:
    """Nodes with jumps whose operand other operators read too."""
    readers = graph.consumers()
    return frozenset(
        index
        for index, node in enumerate(graph.nodes)
        if node.operator in JUMPING
        and any(graph.nodes[i].operator != node.operator for i in readers[node.inputs[0]])
    )


class _Rewrite:
    def __init__(self, graph: Graph, shared: frozenset[int], maxima: bool):
        self.graph, self.shared, self.maxima = graph, shared, maxima
        self.nodes: list[Node] = []
        self.position: list[int] = []

    def node(self, node: Node) -> int:
        """Append a node of the old graph; return where its value is now."""
        moved = replace(node, inputs=tuple(self.position[i] for i in node.inputs))
        if len(self.position) in self.shared:
            own = self.push(self.nodes[moved.inputs[0]], "reshape", moved.inputs[0])
            place = self.push(node, node.operator, own, **node.attributes)
        elif not self.maxima:
            self.nodes.append(moved)
            place = len(self.nodes) - 1
        elif node.operator == "max":
            place = self.maximum(moved, *moved.inputs)
        elif node.operator == "min":
            x, y = moved.inputs
            place = self.push(moved, "sub", x, self.excess(moved, x, y))
        elif node.operator == "window_max" and _width(node) <= WINDOW:
            place = self.window(moved)
        else:
            self.nodes.append(moved)
            place = len(self.nodes) - 1
        self.position.append(place)
        return place

    def push(
        self, like: Node, operator: str, *inputs: int, shape: tuple[int, ...] | None = None, **attributes
    ) -> int:
        shape = like.shape if shape is None else shape
        made = replace(like, operator=operator, inputs=inputs, shape=shape, attributes=attributes)
        self.nodes.append(made)
        return len(self.nodes) - 1

    def excess(self, like: Node, x: int, y: int) -> int:
        """``relu(x - y)``."""
        return self.push(like, "relu", self.push(like, "sub", x, y))

    def maximum(self, like: Node, x: int, y: int) -> int:
        return self.push(like, "add", y, self.excess(like, x, y))

    def window(self, node: Node) -> int:
        """A tree of maxima over the positions of the windows; absent ones repeat a present one."""
        indices = np.asarray(node.attributes["indices"])
        present = np.take_along_axis(indices, (indices >= 0).argmax(-1)[..., None], -1)
        indices = np.where(indices < 0, present, indices)
        source = node.inputs[0]
        level = [self.push(node, "index", source, indices=indices[..., k]) for k in range(indices.shape[-1])]
        while len(level) > 1:
            pairs = [self.maximum(node, x, y) for x, y in zip(level[::2], level[1::2], strict=False)]
            level = pairs + level[len(level) - len(level) % 2 :]
        return level[0]
