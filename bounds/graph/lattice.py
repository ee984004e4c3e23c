"""Maxima and minima as ReLU trees, so that splitting neurons decides networks that have them.

``max(a, b) = b + relu(a - b)`` and ``min(a, b) = a - relu(a - b)``; a window is a balanced tree of maxima. The new
graph computes the same real function; its relaxations are those of ReLU, with slopes to optimise and elements to split.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from provenn.bounds.graph._graph import Graph, Node

LATTICE = frozenset({"max", "min", "window_max"})
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

    Returned unchanged where there are none, or where they would take more than ``limit`` comparisons.
    """
    if not 0 < comparisons(graph) <= limit:
        return graph
    rewrite = _Rewrite(graph)
    position = [rewrite.node(node) for node in graph.nodes]
    return replace(
        graph,
        nodes=tuple(rewrite.nodes),
        inputs=tuple(position[i] for i in graph.inputs),
        outputs=tuple(position[i] for i in graph.outputs),
    )


class _Rewrite:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.nodes: list[Node] = []
        self.position: list[int] = []

    def node(self, node: Node) -> int:
        """Append a node of the old graph; return where its value is now."""
        moved = replace(node, inputs=tuple(self.position[i] for i in node.inputs))
        if node.operator == "max":
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

    def push(self, like: Node, operator: str, *inputs: int, shape: tuple[int, ...] | None = None, **attributes) -> int:
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
