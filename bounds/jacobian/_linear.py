"""Transposes and maps of rows for operators that are affine: what a linear map makes of cotangents and of tangents.

``transposed`` gives ``g M_i`` for every operand i from cotangents ``g [rows, *shape]``, ``applied`` the sum of ``M_i
t_i`` from tangents ``t_i [rows, *operand]``. Both are linear nodes with the operator's own weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from provenn.bounds.graph._builder import Operand
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fuse import attribute
from provenn.bounds.graph._graph import Node
from provenn.bounds.graph.specialise import moves
from provenn.bounds.jacobian._chain import Chain, number

# Entries of a table of what reads each element, over elements read, up to which it is gathered and summed; beyond, a
# matrix of zeros and ones does it if that has no more entries than this.
_PADDING, _MATRIX = 4, 1 << 22

LINEAR = frozenset({
    "reshape", "transpose", "index", "concat", "linear", "matmul_left", "affine", "add", "sub", "sum", "conv",
    "conv_transpose",
})  # fmt: skip


def transposed(chain: Chain, node: Node, g: Operand) -> list[Operand]:
    """Cotangents of the operands ``[rows, *operand]``."""
    shapes = [chain.graph.nodes[i].shape for i in node.inputs]
    rows, weight = g.shape[0], attribute(node, "weight")
    whole = (rows, *shapes[0])
    name = node.operator
    if name == "reshape":
        return [chain.reshape(g, whole)]
    if name == "transpose":
        inverse = np.argsort([int(axis) for axis in node.attributes["perm"]])
        return [chain.transpose(g, [0, *(int(axis) + 1 for axis in inverse)])]
    if name in ("index", "concat"):
        origin = moves(node, shapes)
        assert origin is not None
        return scattered(chain, g, origin, shapes)
    if name == "linear":
        assert weight is not None
        return [chain.linear(g, weight.mapped(np.transpose))]
    if name == "matmul_left":
        assert weight is not None
        return [_transposed_matmul(chain, weight, g, whole)]
    if name == "affine":
        scale = attribute(node, "scale")
        scaled = g if scale is None else chain.scaled(g, scale)
        return [_reduced(chain, scaled, whole)]
    if name == "add":
        return [g] * len(node.inputs)
    if name == "sub":
        return [g, chain.scaled(g, number(-1.0))]
    if name == "sum":
        kept = [1 if axis in node.attributes["axes"] else n for axis, n in enumerate(shapes[0])]
        return [chain.broadcast(chain.reshape(g, (rows, *kept)), whole)]
    other = {"conv": "conv_transpose", "conv_transpose": "conv"}[name]
    return [chain.windows(node, other, g, shapes[0])]


def scattered(
    chain: Chain, g: Operand, origin: np.ndarray, shapes: Sequence[tuple[int, ...]]
) -> list[Operand]:
    """The transpose of a movement of elements: ``origin [*shape]`` are positions in the joined operands, -1 none."""
    rows, count = g.shape[0], int(origin.size)
    found: list[Operand] = []
    start = 0
    for shape in shapes:
        size = int(np.prod(shape, dtype=np.int64))
        table = _readers(origin.reshape(-1) - start, size)
        start += size
        many = table.shape[1]
        if many > 1 and table.size > _PADDING * count and size * count <= _MATRIX:
            matrix = np.zeros((count, size), np.float32)
            read, place = np.nonzero(table >= 0)
            matrix[table[read, place], read] = 1.0
            flat = chain.reshape(g, (rows, count))
            found.append(chain.reshape(chain.linear(flat, Constant(matrix)), (rows, *shape)))
            continue
        offset = (np.arange(rows) * count)[:, None, None]
        places = np.where(table < 0, -1, table + offset)
        if many == 1:
            found.append(chain.moved(g, places.reshape(rows, *shape)))
        else:
            found.append(chain.reshape(chain.sum(chain.moved(g, places), [2]), (rows, *shape)))
    return found


def _readers(origin: np.ndarray, size: int) -> np.ndarray:
    """For each of ``size`` elements the flat positions ``[size, k]`` that read it, padded with -1."""
    at = np.flatnonzero((origin >= 0) & (origin < size))
    read = origin[at]
    order = np.argsort(read, kind="stable")
    at, read = at[order], read[order]
    counts = np.bincount(read, minlength=size)
    table = np.full((size, max(int(counts.max(initial=0)), 1)), -1, np.int64)
    slot = np.arange(read.size) - np.repeat(np.cumsum(counts) - counts, counts)
    table[read, slot] = at
    return table


def _transposed_matmul(chain: Chain, weight: Constant, g: Operand, whole: tuple[int, ...]) -> Operand:
    """Axes of a batch that only the weight has, or in which the operand has extent 1, are summed."""
    product = chain.matmul_left(weight.mapped(lambda a: np.ascontiguousarray(np.swapaxes(a, -1, -2))), g)
    return _reduced(chain, product, whole)


def _reduced(chain: Chain, g: Operand, whole: tuple[int, ...]) -> Operand:
    """Sum over the axes along which an operand ``[rows, *shape]`` was broadcast."""
    added = len(g.shape) - len(whole)
    axes = [axis + 1 for axis in range(added)]
    axes += [axis + added for axis in range(1, len(whole)) if whole[axis] == 1 and g.shape[axis + added] > 1]
    return chain.reshape(chain.sum(g, axes), whole) if axes else chain.reshape(g, whole)


def applied(chain: Chain, node: Node, tangents: Sequence[Operand | None]) -> Operand:
    """The tangent of a node; a tangent of None is 0, and one at least is not."""
    shapes = [chain.graph.nodes[i].shape for i in node.inputs]
    first = next(t for t in tangents if t is not None)
    rows, whole, weight = first.shape[0], (first.shape[0], *node.shape), attribute(node, "weight")
    name = node.operator
    if name in ("add", "sub"):
        signed = [
            t if name == "add" or place == 0 else chain.scaled(t, number(-1.0))
            for place, t in enumerate(tangents)
            if t is not None
        ]
        return chain.add(signed)
    if name == "concat":
        zeros = [Constant(np.zeros((rows, *shape))) for shape in shapes]
        parts = [zero if t is None else t for t, zero in zip(tangents, zeros, strict=True)]
        return chain.joined(parts, int(node.attributes["axis"]) + 1)
    if name == "reshape":
        return chain.reshape(first, whole)
    if name == "transpose":
        return chain.transpose(first, [0, *(int(axis) + 1 for axis in node.attributes["perm"])])
    if name == "index":
        origin = np.asarray(node.attributes["indices"], np.int64).reshape(node.shape)
        size = int(np.prod(shapes[0], dtype=np.int64))
        offset = (np.arange(rows) * size).reshape(rows, *(1 for _ in node.shape))
        return chain.moved(first, np.where(origin < 0, -1, origin + offset))
    if name == "linear":
        assert weight is not None
        return chain.linear(first, weight)
    if name == "matmul_left":
        assert weight is not None
        added = len(node.shape) - len(shapes[0])
        aligned = chain.reshape(first, (rows, *(1 for _ in range(added)), *shapes[0]))
        return chain.matmul_left(weight, aligned)
    if name == "affine":
        spread = chain.broadcast(first, whole) if shapes[0] == node.shape else _aligned(chain, first, whole)
        scale = attribute(node, "scale")
        return spread if scale is None else chain.scaled(spread, scale)
    if name == "sum":
        return chain.reshape(chain.sum(first, [int(axis) + 1 for axis in node.attributes["axes"]]), whole)
    return chain.windows(node, name, first, node.shape)


def _aligned(chain: Chain, t: Operand, whole: tuple[int, ...]) -> Operand:
    """A tangent of an operand with fewer or shorter axes, repeated."""
    added = len(whole) - len(t.shape)
    return chain.broadcast(chain.reshape(t, (t.shape[0], *(1 for _ in range(added)), *t.shape[1:])), whole)
