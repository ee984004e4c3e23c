"""Networks side by side: one graph with one flat input and one flat output that holds all that a query speaks of.

The flat inputs X are the input tensors of all networks, one after the other, each row-major. The flat output has the
outputs of all graphs, chosen elements of X, and products of all of these. Where equalities tie inputs together,
the graph's own input has fewer elements than X: a ``Substitution`` says how the others follow from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from provenn.bounds.graph._builder import Builder, Value
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fuse import fuse, prune
from provenn.bounds.graph._graph import Graph, Node
from provenn.bounds.graph._share import share

_MARK = "graph"
ELEMENT_TYPE = "float64"
"""Of values that no network computes: they are real numbers."""


@dataclass(frozen=True, eq=False)
class Substitution:
    """All inputs X ``[n]`` in terms of those that are free.

    ``source`` int ``[n]``: the free input (a position in X, its own for a free one) that an input is equal to, -1 for
    those in ``solved``. X[solved[j]] is ``X[terms] @ weight[:, j] + bias[j]``, up to ``radius[j]`` in X where all that
    is read is free. ``weight`` ``[terms, solved]`` and ``bias`` are float64, ``weight_radius`` what they lack.

    The place of an input in ``shifted`` (solved, but with a place of its own) holds its difference to another input,
    which lies in ``shift_lower`` to ``shift_upper``, instead of its value.
    """

    source: np.ndarray
    terms: np.ndarray
    solved: np.ndarray
    weight: np.ndarray
    weight_radius: np.ndarray
    bias: np.ndarray
    radius: np.ndarray
    shifted: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    shift_lower: np.ndarray = field(default_factory=lambda: np.zeros(0))
    shift_upper: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @staticmethod
    def none(count: int) -> Substitution:
        """Every input is free."""
        nothing, empty = np.zeros(0, np.int64), np.zeros((0, 0))
        return Substitution(np.arange(count), nothing, nothing, empty, empty, np.zeros(0), np.zeros(0))

    @cached_property
    def free(self) -> np.ndarray:
        """Positions in X of the free inputs, sorted."""
        return np.flatnonzero(self.source == np.arange(len(self.source)))

    @cached_property
    def place(self) -> np.ndarray:
        """int ``[n]``: where among the free inputs an input's source is, -1 for solved ones."""
        lookup = np.full(len(self.source), -1)
        lookup[self.free] = np.arange(len(self.free))
        return np.where(self.source >= 0, lookup[self.source], -1)

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs that are free or equal to one, sorted by it, and where each free one's begin."""
        order = np.argsort(self.place, kind="stable")[int((self.place < 0).sum()) :]
        return order, np.searchsorted(self.place[order], np.arange(len(self.free)))

    def merged(self, operation: np.ufunc, values: np.ndarray) -> np.ndarray:
        """``values`` ``[.., n]`` of inputs that are equal to each other joined by an operation, ``[.., free]``."""
        order, first = self._order
        result: np.ndarray = operation.reduceat(values[..., order], first, axis=-1)
        return result

    def together(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes ``[.., n]`` as boxes of the free inputs: equal inputs share what all their boxes have."""
        low, high = self.merged(np.maximum, lower), self.merged(np.minimum, upper)
        low[..., self.place[self.shifted]] = self.shift_lower
        high[..., self.place[self.shifted]] = self.shift_upper
        return low, high

    def lift(self, x: np.ndarray) -> np.ndarray:
        """All inputs ``[n]`` from free ones ``[free]``; float64, solved ones rounded to nearest."""
        x = np.asarray(x, np.float64)
        whole = x[np.maximum(self.place, 0)]
        if len(self.solved):
            whole[self.solved] = x[self.place[self.terms]] @ self.weight + self.bias
        return whole


def compose(
    graphs: Sequence[Graph],
    substitution: Substitution,
    chosen: np.ndarray | Sequence[int] = (),
    products: Sequence[tuple[int, ...]] = (),
    source: str = "",
) -> Graph:
    """One graph from X[substitution.free] ``[1, free]`` to everything at once, ``[1, columns]``.

    The columns are the outputs of all graphs, the inputs ``chosen`` (positions in X), the ``products`` and last the
    inputs that are solved for. A product's factors are earlier columns, a power repeats its factor. Raises ValueError
    where the graphs have not as many inputs as X.
    """
    count = sum(graph.nodes[index].size for graph in graphs for index in graph.inputs)
    if count != len(substitution.source):
        raise ValueError(f"compose got graphs of {count} inputs and a substitution of {len(substitution.source)}")
    builder = Builder(name="X", origin="the inputs of the query")
    own = builder.emit("input", (), (1, len(substitution.free)), ELEMENT_TYPE)
    parts: list[Value] = [own]
    indices = substitution.place.copy()
    if len(substitution.solved):
        builder.name = builder.origin = "inputs that equalities determine"
        parts.append(_solved(builder, own, substitution))
        indices[substitution.solved] = own.size + np.arange(len(substitution.solved))
    taken = 0
    columns: list[Value] = []
    kinds = list(dict.fromkeys(map(id, graphs)))
    for graph in graphs:
        tensors = []
        for index in graph.inputs:
            node = graph.nodes[index]
            builder.name, builder.origin = node.name, node.origin
            places = indices[taken : taken + node.size].reshape(node.shape)
            tensors.append(_typed(builder, builder.assemble(parts, places), node.scalar_type))
            taken += node.size
        columns += _placed(builder, graph, tensors, kinds.index(id(graph)))
    builder.name = builder.origin = "what the query reads"
    flat = [_typed(builder, builder.reshape(part, (1, part.size)), ELEMENT_TYPE) for part in columns]
    if len(chosen):
        flat.append(builder.assemble(parts, indices[np.asarray(chosen)][None]))
    joined = builder.concat(flat, 1)
    if products:
        joined = builder.concat([joined, _products(builder, joined, products)], 1)
    if len(substitution.solved):
        joined = builder.concat([joined, parts[1]], 1)
    shared, *ends = share(builder.nodes, [own.index], [joined.index])
    nodes, inputs, outputs = prune(*fuse(*prune([_unmarked(node) for node in shared], *ends)))
    metadata = {**graphs[0].metadata, "symbolic": ()}
    return Graph(tuple(nodes), tuple(inputs), tuple(outputs), source or graphs[0].source, metadata)


def _typed(builder: Builder, value: Value, scalar_type: str) -> Value:
    """The value with the element type that its readers know it by; the number is the same."""
    if value.scalar_type == scalar_type:
        return value
    return builder.emit("reshape", (value,), value.shape, scalar_type)


def _solved(builder: Builder, own: Value, substitution: Substitution) -> Value:
    """The inputs that follow from equalities with arithmetic ``[1, solved]``.

    They are one node, so that two of them that read the same are not taken for the same value: each may be anywhere
    within its radius.
    """
    read = builder.index(own, substitution.place[substitution.terms][None])
    radius = substitution.radius if substitution.radius.any() else None
    weight_radius = substitution.weight_radius if substitution.weight_radius.any() else None
    weight = Constant(substitution.weight, None, weight_radius)
    return builder.linear(read, weight, Constant(substitution.bias, None, radius))


def _placed(builder: Builder, graph: Graph, inputs: Sequence[Value], kind: int) -> list[Value]:
    """The nodes of a graph behind given inputs; its outputs. Constants are shared with the graph.

    Constants that are known up to a radius may differ between graphs of another ``kind`` though they look alike: a mark
    keeps such nodes from being taken for the same value.
    """
    position: dict[int, int] = {index: value.index for index, value in zip(graph.inputs, inputs, strict=True)}
    for index, node in enumerate(graph.nodes):
        if index not in position:
            moved = tuple(position[operand] for operand in node.inputs)
            marked = {_MARK: kind} if any(name.endswith("radius") for name in node.attributes) else {}
            builder.nodes.append(replace(node, inputs=moved, attributes={**node.attributes, **marked}))
            position[index] = len(builder.nodes) - 1
    return [_value(builder.nodes, position[index]) for index in graph.outputs]


def _unmarked(node: Node) -> Node:
    if _MARK not in node.attributes:
        return node
    return replace(node, attributes={name: value for name, value in node.attributes.items() if name != _MARK})


def _value(nodes: Sequence[Node], index: int) -> Value:
    return Value(index, nodes[index].shape, nodes[index].scalar_type)


def _products(builder: Builder, values: Value, products: Sequence[tuple[int, ...]]) -> Value:
    """Products of elements of ``values`` ``[1, k]``, as ``[1, products]``: powers first, then pairs, level by level."""
    factors = [[(column, product.count(column)) for column in sorted(set(product))] for product in products]
    pool, where = _powers(builder, values, {factor for row in factors for factor in row})
    partial = builder.index(pool, np.array([[where[row[0]] for row in factors]]))
    for level in range(1, max(map(len, factors))):
        longer = [j for j, row in enumerate(factors) if len(row) > level]
        left = builder.index(partial, np.array([longer]))
        right = builder.index(pool, np.array([[where[factors[j][level]] for j in longer]]))
        both = builder.concat([partial, builder.binary("mul", left, right)], 1)
        order = np.arange(len(factors))
        order[longer] = len(factors) + np.arange(len(longer))
        partial = builder.index(both, order[None])
    return partial


def _powers(
    builder: Builder, values: Value, wanted: set[tuple[int, int]]
) -> tuple[Value, dict[tuple[int, int], int]]:
    """A vector with all (column, exponent) and where each is in it."""
    parts: list[Value] = []
    where: dict[tuple[int, int], int] = {}
    for exponent in sorted({exponent for _, exponent in wanted}):
        columns = sorted(column for column, other in wanted if other == exponent)
        part = builder.index(values, np.array([columns]))
        if exponent > 1:
            part = builder.unary("pow", part, exponent=float(exponent))
        where |= {(column, exponent): len(where) + j for j, column in enumerate(columns)}
        parts.append(part)
    return builder.concat(parts, 1), where
