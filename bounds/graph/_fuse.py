"""Rewrites on the finished node list: constant affine maps into weights, products of matrices, dead nodes away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._graph import Node
from provenn.errors import UnsupportedOperatorError

Lists = tuple[list[Node], list[int], list[int]]


def attribute(node: Node, name: str) -> Constant | None:
    """A constant of a node together with its radius."""
    value = node.attributes.get(name)
    return None if value is None else Constant(value, None, node.attributes.get(f"{name}_radius"))


def with_constants(node: Node, **parts: Constant | None) -> dict[str, Any]:
    """The node's attributes with some constants replaced; None removes one."""
    attributes = dict(node.attributes)
    for name, part in parts.items():
        attributes.pop(name, None)
        attributes.pop(f"{name}_radius", None)
        if part is not None:
            attributes[name] = part.value
            if part.radius is not None:
                attributes[f"{name}_radius"] = part.radius
    return attributes


def _channel_axis(node: Node) -> int | None:
    return {"linear": len(node.shape) - 1, "conv": 1, "conv_transpose": 1}.get(node.operator)


def _per_channel(part: Constant | None, shape: tuple[int, ...], axis: int) -> Constant | None:
    """Return the constant as one number per channel, or None where it varies within a channel."""
    assert part is not None
    padded = (1,) * (len(shape) - len(part.shape)) + part.shape
    if any(extent != 1 and position != axis for position, extent in enumerate(padded)):
        return None
    return part.mapped(lambda a: np.broadcast_to(a.reshape(-1), (shape[axis],)))


def _absorb(node: Node, affine: Node) -> Node | None:
    """Fold ``affine`` into the weights of the linear operator it follows; None where it does not fit."""
    if affine.shape != node.shape:
        return None
    scale, shift = attribute(affine, "scale"), attribute(affine, "shift")
    if node.operator == "affine":
        old_scale, old_shift = attribute(node, "scale"), attribute(node, "shift")
        if scale is not None:
            old_scale = scale if old_scale is None else constants.multiply(old_scale, scale)
            old_shift = None if old_shift is None else constants.multiply(old_shift, scale)
        if shift is not None:
            old_shift = shift if old_shift is None else constants.add(old_shift, shift)
        return replace(node, attributes=with_constants(node, scale=old_scale, shift=old_shift))
    axis = _channel_axis(node)
    if axis is None:
        return None
    parts = [None if part is None else _per_channel(part, node.shape, axis) for part in (scale, shift)]
    if any(full is not None and part is None for full, part in zip((scale, shift), parts, strict=True)):
        return None
    weight, bias = attribute(node, "weight"), attribute(node, "bias")
    assert weight is not None
    if parts[0] is not None:
        weight = _scaled_weight(node, weight, parts[0])
        bias = None if bias is None else constants.multiply(bias, parts[0])
    if parts[1] is not None:
        bias = parts[1] if bias is None else constants.add(bias, parts[1])
    return replace(node, attributes=with_constants(node, weight=weight, bias=bias))


def _scale_rows(affine: Node, linear: Node) -> Node | None:
    """Fold a factor (without a shift) into the rows of the linear operator that follows it."""
    scale, weight = attribute(affine, "scale"), attribute(linear, "weight")
    if scale is None or weight is None or "shift" in affine.attributes:
        return None
    per_row = _per_channel(scale, affine.shape, len(affine.shape) - 1)
    if per_row is None:
        return None
    scaled = constants.multiply(weight, per_row.mapped(lambda a: a.reshape(-1, 1)))
    return replace(linear, inputs=affine.inputs, attributes=with_constants(linear, weight=scaled))


def _scaled_weight(node: Node, weight: Constant, scale: Constant) -> Constant:
    if node.operator == "linear":
        return constants.multiply(weight, scale)
    rank = len(weight.shape) - 2
    if node.operator == "conv":
        return constants.multiply(weight, scale.mapped(lambda a: a.reshape(-1, *(1,) * (rank + 1))))
    # conv_transpose weights are [channels, filters / groups, ...]: filters of one group share an index.
    groups, filters = node.attributes["groups"], weight.shape[1]
    grouped = weight.mapped(lambda a: a.reshape(groups, -1, *a.shape[1:]))
    factor = scale.mapped(lambda a: a.reshape(groups, 1, filters, *(1,) * rank))
    return constants.multiply(grouped, factor).mapped(lambda a: a.reshape(weight.shape))


# ---------------------------------------------------------------------------------------- products of matrices


def _quantum(values: np.ndarray) -> float:
    """The largest power of two that divides every element (float32 or float64 values), 1 where all are 0."""
    values = np.abs(np.unique(values[values != 0]).astype(np.float64))
    if not values.size:
        return 1.0
    mantissa, exponent = np.frexp(values)
    digits = (mantissa * 2.0**53).astype(np.int64)
    lowest = np.log2((digits & -digits).astype(np.float64)).astype(np.int64)
    return float(2.0 ** float((exponent - 53 + lowest).min()))


# Products above this have all their digits.
_TINY = 1e-280


def _least(x: np.ndarray) -> float:
    """The least size of a number that is not 0; infinity where there is none."""
    sizes = np.abs(x[x != 0])
    return float(sizes.min()) if sizes.size else np.inf


class Matrices:
    """Factors in float64, compressed where almost everything is zero; remembered per array."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[np.ndarray, Any]] = {}

    def form(self, matrix: np.ndarray) -> Any:
        if matrix.size < 1 << 16:
            return matrix.astype(np.float64)
        if id(matrix) not in self._found:
            form: Any = matrix
            if np.count_nonzero(matrix) * 24 < matrix.size:
                from scipy.sparse import csr_array  # scipy is only loaded for networks that need it

                form = csr_array(matrix).astype(np.float64)
            self._found[id(matrix)] = (matrix, form)
        form = self._found[id(matrix)][1]
        return form.astype(np.float64) if isinstance(form, np.ndarray) else form

    def product(self, first: Any, second: Any) -> tuple[Any, Any]:
        """``first @ second`` and the radius of its error, None where every partial sum is exact."""
        value, size = first @ second, abs(first) @ abs(second)
        left, right = (x if isinstance(x, np.ndarray) else x.data for x in (first, second))
        # All terms are multiples of the product of the quanta: sums below 2^53 of them lose nothing.
        quantum = _quantum(left) * _quantum(right)
        if quantum > _TINY and size.max() < 2.0**52 * quantum:
            return value, None
        terms = int((second != 0).sum(0).max())
        radius = size * ((terms + 2) * 2.0**-53)
        if _least(left) * _least(right) < _TINY:  # products may underflow
            radius = (radius if isinstance(radius, np.ndarray) else radius.toarray()) + (terms + 2) * 1e-320
        return value, radius

    def keep(self, form: Any) -> np.ndarray:
        """The dense array of a product, in float32 where that is exact."""
        compressed = not isinstance(form, np.ndarray)
        values = form.data if compressed else form
        narrow = values.astype(np.float32)
        exact = np.array_equal(values, narrow)
        if not compressed:
            return narrow if exact else form
        array = (form.astype(np.float32) if exact else form).toarray()
        self._found[id(array)] = (array, form)
        return array


def _compose(matrices: Matrices, first: Node, second: Node) -> Node | None:
    """Multiply two consecutive linear operators where the product is no more work than its factors."""
    w, v = first.attributes["weight"], second.attributes["weight"]
    if any(f"{name}_radius" in node.attributes for node in (first, second) for name in ("weight", "bias")):
        return None
    left, right = matrices.form(w), matrices.form(v)
    cheaper = w.shape[0] * v.shape[1] <= w.size + v.size
    sparse = not isinstance(left, np.ndarray) and not isinstance(right, np.ndarray)
    if not (cheaper or sparse):
        return None
    weight, radius = matrices.product(left, right)
    if not cheaper and weight.nnz > 4 * (left.nnz + right.nnz):
        return None
    bias, before = attribute(second, "bias"), attribute(first, "bias")
    if before is not None:
        moved, spread = matrices.product(before.value.astype(np.float64)[None], right)
        shifted = Constant(moved[0], None, None if spread is None else spread[0])
        bias = shifted if bias is None else constants.add(bias, shifted)
    if radius is not None and not isinstance(radius, np.ndarray):
        radius = radius.toarray()
    joined = Constant(matrices.keep(weight), None, radius)
    return replace(second, inputs=first.inputs, attributes=with_constants(second, weight=joined, bias=bias))


# ---------------------------------------------------------------------------------------- partial coordinates

_MOVES = frozenset({"reshape", "transpose", "index", "concat", "affine"})


def settle_partial(nodes: list[Node], partial: set[int], outputs: Sequence[int]) -> list[Node]:
    """Make scatters drop coordinates past the end that stand for absent elements; nothing else may read them."""
    if not partial:
        return nodes
    needed = set(outputs)
    for index in range(len(nodes) - 1, -1, -1):
        if index in needed:
            needed.update(nodes[index].inputs)
    result, reached = list(nodes), set(partial)
    for index, node in enumerate(nodes):
        touched = [position for position, operand in enumerate(node.inputs) if operand in reached]
        if not touched or index not in needed:
            continue
        if node.operator == "scatter_nd" and touched == [1]:
            result[index] = replace(node, attributes={**node.attributes, "dropping": True})
        elif node.operator in _MOVES and index not in outputs:
            reached.add(index)
        else:
            raise UnsupportedOperatorError(
                f"unsupported operator {node.origin}: its operand has as many elements as the network's input says; "
                "re-export with static shapes"
            )
    return result


# ---------------------------------------------------------------------------------------- passes


def _join(matrices: Matrices, source: Node, linear: Node) -> Node | None:
    if source.operator == "affine" and source.shape == linear.shape[:-1] + source.shape[-1:]:
        return _scale_rows(source, linear)
    return _compose(matrices, source, linear) if source.operator == "linear" else None


def count_readers(nodes: Sequence[Node], outputs: Sequence[int]) -> list[int]:
    """How often each value is read by nodes or is an output."""
    readers = [0] * len(nodes)
    for node in nodes:
        for operand in node.inputs:
            readers[operand] += 1
    for output in outputs:
        readers[output] += 1
    return readers


def fuse(nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]) -> Lists:
    """Fold every affine map, and linear maps where it is cheaper, into the linear operator before if it has one reader.

    Sums and products of float32 constants are usually exact in float64; where they are not, the
    error is recorded as the radius of the new constant.
    """
    result, matrices = list(nodes), Matrices()
    alias = list(range(len(result)))
    readers = count_readers(nodes, outputs)
    for index, node in enumerate(result):
        node = replace(node, inputs=tuple(alias[operand] for operand in node.inputs))
        result[index] = node
        if node.operator not in ("affine", "linear") or readers[nodes[index].inputs[0]] != 1:
            continue
        source = node.inputs[0]
        if node.operator == "affine":
            fused = _absorb(result[source], node)
        else:
            fused = _join(matrices, result[source], node)
        if fused is not None:
            result[source] = replace(fused, name=node.name, origin=node.origin, scalar_type=node.scalar_type)
            alias[index] = source
    return result, list(inputs), [alias[output] for output in outputs]


def prune(nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]) -> Lists:
    """Remove nodes that no output needs; graph inputs stay."""
    needed = set(inputs) | set(outputs)
    for index in range(len(nodes) - 1, -1, -1):
        if index in needed:
            needed.update(nodes[index].inputs)
    position = {old: new for new, old in enumerate(sorted(needed))}
    kept = [
        replace(nodes[old], inputs=tuple(position[i] for i in nodes[old].inputs)) for old in sorted(needed)
    ]
    return kept, [position[i] for i in inputs], [position[o] for o in outputs]
