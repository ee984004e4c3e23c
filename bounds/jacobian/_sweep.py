"""Jacobians as graphs: the chain rule walked from the outputs (reverse mode) or from the inputs (forward mode).

The new nodes share the forward values, so whatever bounds, splits or evaluates a graph does so with its derivatives.
At a kink a derivative holds every value of Clarke's set that a box around it meets; see ``bounds.ops.steps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from provenn.bounds.graph._builder import Operand
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fuse import fuse, prune
from provenn.bounds.graph._graph import Graph, Node
from provenn.bounds.graph._share import share
from provenn.bounds.jacobian._chain import Chain, is_zero
from provenn.bounds.jacobian._elementwise import FACTORS, JUMPS, scaled_by
from provenn.bounds.jacobian._linear import LINEAR, applied, transposed
from provenn.bounds.jacobian._several import RULES
from provenn.errors import InputError

Positions = Sequence[int] | np.ndarray | None


def jacobian(graph: Graph, outputs: Positions = None, inputs: Positions = None) -> Graph:
    """The graph of dY/dX ``[outputs, inputs]``, with the same graph inputs.

    ``outputs`` and ``inputs`` are flat positions, counted through all outputs or inputs of the graph one after the
    other; None is all of them. Rows are made in reverse mode, or columns in forward mode where those are fewer. Raises
    UnsupportedOperatorError where an operator on the way jumps, and InputError for positions that do not exist. Cost:
    as many nodes as the graph has, a small factor more; their size is that of the graph's values times the smaller
    number.
    """
    if not isinstance(graph, Graph):
        raise InputError(f"jacobian got {graph!r}, expected a Graph: provenn.bounds.graph.read_onnx makes one")
    rows = _chosen(graph, graph.outputs, outputs, "outputs")
    columns = _chosen(graph, graph.inputs, inputs, "inputs")
    if len(columns) < len(rows):
        return jacobian_vector(graph, _units(graph, graph.inputs, columns), rows)
    return vector_jacobian(graph, _units(graph, graph.outputs, rows), columns)


def vector_jacobian(graph: Graph, vectors: np.ndarray, inputs: Positions = None) -> Graph:
    """The graph of ``vectors @ dY/dX`` ``[rows, inputs]`` for constant ``vectors [rows, outputs]``, in reverse mode.

    One row costs one walk; no row of the Jacobian itself is made.
    """
    sizes = [graph.nodes[i].size for i in graph.outputs]
    vectors = _vectors(vectors, sum(sizes), "outputs")
    columns = _chosen(graph, graph.inputs, inputs, "inputs")
    rows = len(vectors)
    chain = Chain(graph, rows)
    received: dict[int, list[Operand]] = {}
    for part, index in zip(np.split(vectors, np.cumsum(sizes)[:-1], 1), graph.outputs, strict=True):
        seed = Constant(np.ascontiguousarray(part).reshape(rows, *graph.nodes[index].shape))
        received.setdefault(index, []).append(seed)
    varies = _varies(graph)
    found: dict[int, Operand] = {}
    for index in range(len(graph.nodes) - 1, -1, -1):
        parts = [part for part in received.pop(index, []) if not is_zero(part)]
        if not parts or not varies[index]:
            continue
        node = graph.nodes[index]
        chain.behind(node)
        g = chain.add(parts)
        if index in graph.inputs:
            found[index] = g
            continue
        for operand, given in zip(node.inputs, _reverse(chain, node, index, g), strict=True):
            if given is not None and varies[operand]:
                received.setdefault(operand, []).append(given)
    pieces: list[Operand] = []
    for index in graph.inputs:
        size = graph.nodes[index].size
        pieces.append(chain.reshape(found[index], (rows, size)) if index in found else _nothing(rows, size))
    whole = chain.joined(pieces, 1)
    return _finished(chain, _columns(chain, whole, columns))


def jacobian_vector(graph: Graph, vectors: np.ndarray, outputs: Positions = None) -> Graph:
    """The graph of ``dY/dX @ vectors^T`` ``[outputs, columns]`` for constant ``vectors [columns, inputs]``, in forward
    mode: one column costs one walk."""
    sizes = [graph.nodes[i].size for i in graph.inputs]
    vectors = _vectors(vectors, sum(sizes), "inputs")
    rows = _chosen(graph, graph.outputs, outputs, "outputs")
    count = len(vectors)
    chain = Chain(graph, count)
    tangents: dict[int, Operand] = {}
    for part, index in zip(np.split(vectors, np.cumsum(sizes)[:-1], 1), graph.inputs, strict=True):
        tangents[index] = Constant(np.ascontiguousarray(part).reshape(count, *graph.nodes[index].shape))
    needed = _needed(graph)
    for index, node in enumerate(graph.nodes):
        given = [tangents.get(i) for i in node.inputs]
        given = [None if is_zero(t) else t for t in given]
        if index in graph.inputs or index not in needed or all(t is None for t in given):
            continue
        chain.behind(node)
        made = _forward(chain, node, index, given)
        if made is not None:
            tangents[index] = made
    pieces: list[Operand] = []
    for index in graph.outputs:
        size = graph.nodes[index].size
        t = tangents.get(index)
        pieces.append(_nothing(count, size) if t is None else chain.reshape(t, (count, size)))
    whole = chain.joined(pieces, 1)
    return _finished(chain, chain.transpose(_columns(chain, whole, rows), [1, 0]))


# -- one node -----------------------------------------------------------------------------------------------


def _reverse(chain: Chain, node: Node, index: int, g: Operand) -> Sequence[Operand | None]:
    name = node.operator
    if name in LINEAR:
        return transposed(chain, node, g)
    if name in FACTORS:
        factor = FACTORS[name](chain, node, chain.value(node.inputs[0]), chain.value(index))
        return [None if factor is None else scaled_by(chain, g, factor)]
    if name in RULES:
        return RULES[name].reverse(chain, node, index, g)
    raise _refused(chain, node)


def _forward(chain: Chain, node: Node, index: int, tangents: Sequence[Operand | None]) -> Operand | None:
    name = node.operator
    if name in LINEAR:
        return applied(chain, node, tangents)
    if name in FACTORS:
        factor = FACTORS[name](chain, node, chain.value(node.inputs[0]), chain.value(index))
        (t,) = tangents
        return None if factor is None or t is None else scaled_by(chain, t, factor)
    if name in RULES:
        return RULES[name].forward(chain, node, index, tangents)
    raise _refused(chain, node)


def _refused(chain: Chain, node: Node) -> Exception:
    if node.operator in JUMPS:
        return chain.refuse(
            node, f"{node.operator} jumps, so no slope bounds it", "take outputs that do not read it"
        )
    if node.operator in ("where", "gather", "scatter_nd"):
        return chain.refuse(
            node,
            "which elements it takes depends on the input, so it may jump",
            "take outputs that do not read it",
        )
    if node.operator == "pieces":
        return chain.refuse(
            node,
            "a tabulated function is known up to a radius, its slope is not",
            "differentiate the graph before it",
        )
    return chain.refuse(
        node, f"the derivative of {node.operator} is not known", "take outputs that do not read it"
    )


# -- what there is to differentiate -------------------------------------------------------------------------


def _varies(graph: Graph) -> list[bool]:
    """Which values depend on the input."""
    found: list[bool] = []
    for index, node in enumerate(graph.nodes):
        found.append(index in graph.inputs or any(found[i] for i in node.inputs))
    return found


def _needed(graph: Graph) -> set[int]:
    needed = set(graph.outputs)
    for index in range(len(graph.nodes) - 1, -1, -1):
        if index in needed:
            needed.update(graph.nodes[index].inputs)
    return needed


def _chosen(graph: Graph, values: Sequence[int], positions: Positions, what: str) -> np.ndarray:
    size = sum(graph.nodes[i].size for i in values)
    if positions is None:
        return np.arange(size)
    found = np.atleast_1d(np.asarray(positions, np.int64))
    if found.ndim != 1 or found.size == 0 or found.min() < 0 or found.max() >= size:
        given = np.ravel(positions).tolist()[:8]
        raise InputError(f"jacobian got {what}={given}, expected positions from 0 to {size - 1}")
    return found


def _units(graph: Graph, values: Sequence[int], chosen: np.ndarray) -> np.ndarray:
    units = np.zeros((len(chosen), sum(graph.nodes[i].size for i in values)))
    units[np.arange(len(chosen)), chosen] = 1.0
    return units


def _vectors(vectors: np.ndarray, size: int, what: str) -> np.ndarray:
    found = np.atleast_2d(np.asarray(vectors, np.float64))
    if found.ndim != 2 or found.shape[1] != size or len(found) == 0 or not np.isfinite(found).all():
        shape = list(found.shape)
        raise InputError(f"vectors got shape {shape}, expected finite numbers [rows, {size}] over the {what}")
    return found


def _nothing(rows: int, size: int) -> Constant:
    return Constant(np.zeros((rows, size)))


def _columns(chain: Chain, whole: Operand, columns: np.ndarray) -> Operand:
    rows, size = whole.shape
    if np.array_equal(columns, np.arange(size)):
        return whole
    return chain.moved(whole, np.arange(rows)[:, None] * size + columns)


def _finished(chain: Chain, output: Operand) -> Graph:
    """Without what the derivatives do not need; equal expressions are one node."""
    return tidied(chain.finished(output))


def tidied(graph: Graph) -> Graph:
    nodes, inputs, outputs = prune(*fuse(*prune(*share(graph.nodes, graph.inputs, graph.outputs))))
    return replace(graph, nodes=tuple(nodes), inputs=tuple(inputs), outputs=tuple(outputs))
