"""ReLUs of one operand or of opposite ones computed once: ``relu(-d) = relu(d) - d``.

A maximum and a minimum of the same two values compare them twice, as ``relu(a - b)`` and ``relu(b - a)``. What is
split, and what a multiplier belongs to, is one comparison. Only operations without rounding are looked through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from provenn.bounds.graph._graph import Graph, Node

# Elements of all values up to which they are compared.
MOST = 1 << 22


class _Terms:
    """Every element as a sum of at most two others: ``number [size, 2]`` of those, -1 for none, and ``sign``."""

    def __init__(self, number: np.ndarray, sign: np.ndarray):
        self.number, self.sign = number, sign

    @staticmethod
    def own(first: int, size: int) -> _Terms:
        number = np.full((size, 2), -1, np.int64)
        number[:, 0] = np.arange(first, first + size)
        return _Terms(number, np.where(number >= 0, 1, 0))

    def taken(self, places: np.ndarray) -> _Terms:
        """Elements at flat places, nothing where those are negative."""
        places = places.reshape(-1)
        kept = (places >= 0)[:, None]
        return _Terms(np.where(kept, self.number[places], -1), np.where(kept, self.sign[places], 0))

    def times(self, sign: np.ndarray) -> _Terms:
        return _Terms(self.number, self.sign * sign.reshape(-1, 1))

    def plus(self, other: _Terms, sign: int) -> _Terms | None:
        """The sum, or difference, of single and different elements; None if there are others."""
        if (self.number[:, 1] >= 0).any() or (other.number[:, 1] >= 0).any():
            return None
        number = np.stack([self.number[:, 0], other.number[:, 0]], 1)
        if (number < 0).any() or (number[:, 0] == number[:, 1]).any():
            return None
        order = np.argsort(number, 1)
        signs = np.stack([self.sign[:, 0], sign * other.sign[:, 0]], 1)
        return _Terms(np.take_along_axis(number, order, 1), np.take_along_axis(signs, order, 1))

    def keys(self) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """A key of every element but for its sign, and that ``[size]``."""
        sign = self.sign[:, 0]
        both = np.concatenate([self.number, self.sign * sign[:, None]], 1)
        return list(map(tuple, both.tolist())), sign


def opposite(graph: Graph) -> Graph:
    """The graph with each relu whose operand is, element by element, that of an earlier one or all of its opposite
    taken from that one. Returned unchanged where there is none."""
    relus = [i for i, node in enumerate(graph.nodes) if node.operator == "relu"]
    if len(relus) < 2 or sum(node.size for node in graph.nodes) > MOST:
        return graph
    terms = _all_terms(graph)
    known: dict[tuple[int, ...], tuple[int, int, int]] = {}
    taken: dict[int, tuple[int, np.ndarray, int]] = {}
    for index in relus:
        keys, signs = terms[graph.nodes[index].inputs[0]].keys()
        found = [known.get(key) for key in keys]
        earlier = found[0]
        if earlier is not None and all(other is not None and other[0] == earlier[0] for other in found):
            relative = {sign * other[2] for sign, other in zip(signs.tolist(), found, strict=True) if other}
            if len(relative) == 1 and relative <= {1, -1}:
                places = np.array([other[1] for other in found if other], np.int64)
                taken[index] = earlier[0], places, relative.pop()
                continue
        for place, (key, sign) in enumerate(zip(keys, signs.tolist(), strict=True)):
            known.setdefault(key, (index, place, sign))
    return _rewritten(graph, taken) if taken else graph


def _all_terms(graph: Graph) -> list[_Terms]:
    found: list[_Terms] = []
    differences: dict[tuple[int, ...], int] = {}
    first = 0
    for index, node in enumerate(graph.nodes):
        made = _moved(node, [found[i] for i in node.inputs], [graph.nodes[i].shape for i in node.inputs])
        if made is None and node.operator == "sub":  # of longer sums
            same, other = differences.get(node.inputs), differences.get(node.inputs[::-1])
            if same is not None:
                made = found[same]
            elif other is not None:
                made = found[other].times(np.full(node.size, -1))
            differences.setdefault(node.inputs, index)
        found.append(made or _Terms.own(first, node.size))
        first += node.size
    return found


def _moved(node: Node, operands: list[_Terms], shapes: Sequence[tuple[int, ...]]) -> _Terms | None:
    """The terms of a node that moves, negates, adds or subtracts; None where it does anything else."""
    places = [np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape) for shape in shapes]
    if node.operator == "reshape":
        return operands[0]
    if node.operator == "index":
        return operands[0].taken(node.attributes["indices"])
    if node.operator == "transpose":
        return operands[0].taken(places[0].transpose(node.attributes["perm"]))
    if node.operator == "affine" and set(node.attributes) == {"scale"} and node.size == places[0].size:
        scale = np.broadcast_to(node.attributes["scale"], node.shape)
        return operands[0].times(scale.astype(np.int64)) if (np.abs(scale) == 1).all() else None
    if node.operator in ("add", "sub") and shapes[0] == shapes[1] == node.shape:
        return operands[0].plus(operands[1], 1 if node.operator == "add" else -1)
    return None


def _rewritten(graph: Graph, taken: dict[int, tuple[int, np.ndarray, int]]) -> Graph:
    nodes: list[Node] = []
    position: list[int] = []
    for index, node in enumerate(graph.nodes):
        moved = replace(node, inputs=tuple(position[i] for i in node.inputs))
        if index in taken:
            earlier, places, sign = taken[index]
            at = position[earlier]
            if nodes[at].shape != node.shape or (places != np.arange(node.size)).any():
                indices = {"indices": places.reshape(node.shape)}
                nodes.append(replace(node, operator="index", inputs=(at,), attributes=indices))
                at = len(nodes) - 1
            if sign < 0:
                nodes.append(replace(node, operator="add", inputs=(at, moved.inputs[0])))
                at = len(nodes) - 1
            position.append(at)
        else:
            nodes.append(moved)
            position.append(len(nodes) - 1)
    return replace(
        graph,
        nodes=tuple(nodes),
        inputs=tuple(position[i] for i in graph.inputs),
        outputs=tuple(position[i] for i in graph.outputs),
    )
