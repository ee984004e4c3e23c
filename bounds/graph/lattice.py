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
        """A tree of maxima over the positions of the windows."""
        indices, present = distinct(np.asarray(node.attributes["indices"]))
        source = node.inputs[0]
        level = [
            (self.push(node, "index", source, indices=indices[..., k]), present[..., k])
            for k in range(indices.shape[-1])
        ]
        while len(level) > 1:
            pairs = [self.larger(node, x, y) for x, y in zip(level[::2], level[1::2], strict=False)]
            level = pairs + level[len(level) - len(level) % 2 :]
        return level[0][0]

    def larger(
        self, like: Node, first: tuple[int, np.ndarray], second: tuple[int, np.ndarray]
    ) -> tuple[int, np.ndarray]:
        """The maximum of two values of which the second is not there everywhere: ``a + relu(there (b - a))``."""
        (x, present), (y, there) = first, second
        if there.all():
            return self.maximum(like, x, y), present
        kept = self.push(like, "affine", self.push(like, "sub", y, x), scale=there.astype(np.float64))
        return self.push(like, "add", x, self.push(like, "relu", kept)), present


def distinct(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different positions of windows ``[..., width]`` first, and which are there; the others repeat the first one.

    A position that is compared with itself has a kink for derivatives, which rounding does not see through.
    """
    order = np.argsort(indices, axis=-1, kind="stable")
    ordered = np.take_along_axis(indices, order, -1)
    again = np.zeros(indices.shape, bool)
    np.put_along_axis(again, order[..., 1:], ordered[..., 1:] == ordered[..., :-1], -1)
    absent = again | (indices < 0)
    order = np.argsort(absent, axis=-1, kind="stable")
    indices, absent = np.take_along_axis(indices, order, -1), np.take_along_axis(absent, order, -1)
    width = max(1, int((~absent).sum(-1).max(initial=1)))
    indices, absent = indices[..., :width], absent[..., :width]
    return np.where(absent, indices[..., :1], indices), ~absent
