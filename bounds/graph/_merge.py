"""Merges ReLU neurons whose inputs are parallel: one hyperplane is one neuron, to bound once and to split once.

Networks that compute maxima, ``max(a, b) = relu(a - b) + relu(b) - relu(-b)``, are full of them. With
``z' = -c z`` for c > 0, ``relu(z') = c relu(z) - c z``: the neuron becomes a multiple of another one plus a
linear term, which later layers read past the ReLU. Where the ReLU terms cancel nothing is left to relax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fuse import Lists, Matrices, attribute, count_readers, fuse, prune, with_constants
from provenn.bounds.graph._graph import Node
from provenn.bounds.graph._recognise import recognise
from provenn.bounds.graph._share import share


@dataclass(frozen=True)
class _Groups:
    """Neuron j has the input ``factor[j] * (input of neuron representative[group[j]])``.

    ``group`` is -1 for neurons whose input is constant. Factors are plus or minus powers of two, so
    that equality is exact.
    """

    representative: np.ndarray
    group: np.ndarray
    factor: np.ndarray


def _parallel(weight: np.ndarray, bias: np.ndarray) -> _Groups:
    """Group the columns of [weight; bias] that are equal up to a power of two and a sign."""
    columns = np.vstack([weight, bias[None]]).T.astype(np.float64)
    size = np.abs(columns[:, :-1]).max(1, initial=0.0)
    _, exponent = np.frexp(size)
    leading = np.argmax(columns[:, :-1] != 0, axis=1)
    scale = np.ldexp(np.sign(columns[np.arange(len(columns)), leading]), exponent)
    seen: dict[bytes, int] = {}
    representative: list[int] = []
    group = np.full(len(columns), -1)
    factor = np.ones(len(columns))
    for j, column in enumerate(columns):
        if size[j] == 0.0:
            continue
        # Adding 0.0 turns -0.0 into 0.0, so that equal columns have equal bytes.
        with np.errstate(all="ignore"):
            scaled = column / scale[j] + 0.0
            exact = np.isfinite(scaled).all() and (scaled * scale[j] == column).all()
            key = scaled.tobytes()
            ratio = scale[j] / scale[representative[seen[key]]] if key in seen else 1.0
        if not exact or not np.isfinite(ratio) or ratio == 0:
            key, ratio = b"%d" % j, 1.0  # where something over- or underflows a column is its own
        if key not in seen:
            seen[key] = len(representative)
            representative.append(j)
        group[j], factor[j] = seen[key], ratio
    return _Groups(np.asarray(representative, np.int64), group, factor)


def _selection(groups: _Groups, chosen: np.ndarray) -> Any:
    """The matrix [groups, neurons] with the absolute factors of the chosen neurons."""
    from scipy.sparse import csr_array  # scipy is only loaded for networks that need it

    neurons = np.flatnonzero(chosen)
    entries = (np.abs(groups.factor[neurons]), (groups.group[neurons], neurons))
    return csr_array(entries, shape=(len(groups.representative), len(groups.group)))


def _dense(form: Any) -> Any:
    return form if form is None or isinstance(form, np.ndarray) else form.toarray()


@dataclass(frozen=True)
class _Merged:
    """``relu(x @ weight + bias) @ relu_part + x @ linear_part + shift``; parts may be absent."""

    kept: np.ndarray
    relu_part: Constant
    linear_part: Constant | None
    shift: Constant | None


def _merge(matrices: Matrices, first: Node, second: Node) -> _Merged | None:
    weight, after = first.attributes["weight"], second.attributes["weight"]
    if any(name.endswith("_radius") for node in (first, second) for name in node.attributes):
        return None  # equal up to a radius is not equal
    before = attribute(first, "bias")
    bias = np.zeros(weight.shape[1]) if before is None else before.value.astype(np.float64)
    groups = _parallel(weight, bias)
    if len(groups.representative) == weight.shape[1]:
        return None
    variable = groups.group >= 0
    if not variable.any() or not after.any():
        return None
    opposite = variable & (groups.factor < 0)
    if weight.shape[0] * after.shape[1] > 4 * (weight.size + after.size) and opposite.any():
        return None
    outgoing = matrices.form(after)
    relu_part, relu_radius = matrices.product(_selection(groups, variable), outgoing)
    relu_part, relu_radius = _dense(relu_part), _dense(relu_radius)
    kept = np.flatnonzero(
        relu_part.any(1) if relu_radius is None else (relu_part != 0).any(1) | (relu_radius != 0).any(1)
    )
    part = Constant(relu_part[kept], None, None if relu_radius is None else relu_radius[kept])
    shift, linear_part = attribute(second, "bias"), None
    if not variable.all():
        fixed = np.where(variable, 0.0, np.maximum(bias, 0.0))[None]
        shift = _plus(shift, _row(*matrices.product(fixed, outgoing)))
    if opposite.any():
        passed, radius = matrices.product(_selection(groups, opposite), outgoing)
        if radius is not None:
            return None
        inner, spread = matrices.product(matrices.form(weight[:, groups.representative]), passed)
        linear_part = constants.negate(Constant(_dense(inner), None, _dense(spread)))
        moved = _row(*matrices.product(bias[groups.representative][None], passed))
        shift = _plus(shift, constants.negate(moved))
    return _Merged(groups.representative[kept], part, linear_part, shift)


def _row(value: Any, radius: Any) -> Constant:
    return Constant(_dense(value)[0], None, None if radius is None else _dense(radius)[0])


def _plus(x: Constant | None, y: Constant) -> Constant:
    return y if x is None else constants.add(x, y)


def _stack(top: Constant, bottom: Constant) -> Constant:
    """Join two weights along their rows."""
    value = np.concatenate([top.value.astype(np.float64), bottom.value.astype(np.float64)])
    if top.radius is None and bottom.radius is None:
        return Constant(value)
    radii = [np.zeros(part.shape) if part.radius is None else part.radius for part in (top, bottom)]
    return Constant(value, None, np.concatenate(radii))


def _narrow(matrices: Matrices, weight: Constant) -> Constant:
    return Constant(matrices.keep(weight.value), None, weight.radius) if weight.radius is None else weight


def _emit(
    matrices: Matrices, nodes: list[Node], first: Node, relu: Node, second: Node, merged: _Merged
) -> Node:
    """Append the nodes that replace ``first`` and ``relu``; return the one that replaces ``second``."""
    weight, bias = attribute(first, "weight"), attribute(first, "bias")
    assert weight is not None
    parts: list[int] = []
    rows = merged.relu_part
    if len(merged.kept):
        shape = (*first.shape[:-1], len(merged.kept))
        bias = None if bias is None else bias.mapped(lambda a: a[merged.kept])
        own = with_constants(first, weight=weight.mapped(lambda a: a[:, merged.kept]), bias=bias)
        nodes.append(replace(first, shape=shape, attributes=own))
        nodes.append(replace(relu, shape=shape, inputs=(len(nodes) - 1,)))
        parts.append(len(nodes) - 1)
    if merged.linear_part is not None:
        source = nodes[first.inputs[0]]
        operands = source.inputs if source.operator == "concat" else first.inputs
        start = 0
        for operand in operands:
            end = start + nodes[operand].shape[-1]
            piece = merged.linear_part.mapped(itemgetter(slice(start, end)))
            if piece.array.any() or piece.radius is not None:
                rows = _stack(rows, piece)
                parts.append(operand)
            start = end
    attributes = with_constants(second, weight=_narrow(matrices, rows), bias=merged.shift)
    if len(parts) > 1:
        axis = len(first.shape) - 1
        shape = (*first.shape[:-1], rows.shape[0])
        nodes.append(
            Node("concat", tuple(parts), shape, {"axis": axis}, relu.name, relu.origin, relu.scalar_type)
        )
        parts = [len(nodes) - 1]
    return replace(second, inputs=tuple(parts), attributes=attributes)


def merge_parallel(nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]) -> Lists:
    """Merge parallel neurons in every ``linear, relu, linear`` run whose inner values nothing else reads."""
    matrices, readers = Matrices(), count_readers(nodes, outputs)
    result: list[Node] = []
    position: list[int] = []
    for index, node in enumerate(nodes):
        moved = replace(node, inputs=tuple(position[operand] for operand in node.inputs))
        pair = _run(nodes, readers, index)
        if pair is not None:
            relu = result[moved.inputs[0]]
            first = result[relu.inputs[0]]
            merged = _merge(matrices, first, moved)
            if merged is not None and (len(merged.kept) or merged.linear_part is not None):
                moved = _emit(matrices, result, first, relu, moved, merged)
        result.append(moved)
        position.append(len(result) - 1)
    return result, [position[i] for i in inputs], [position[o] for o in outputs]


def _run(nodes: Sequence[Node], readers: Sequence[int], index: int) -> tuple[int, int] | None:
    """The (linear, relu) pair in front of a linear node, where only that node reads it."""
    if nodes[index].operator != "linear":
        return None
    relu = nodes[index].inputs[0]
    if nodes[relu].operator != "relu" or readers[relu] != 1:
        return None
    first = nodes[relu].inputs[0]
    return (first, relu) if nodes[first].operator == "linear" and readers[first] == 1 else None


def simplify(nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]) -> Lists:
    """Merge equal expressions, recognise functions, then fuse and merge until nothing changes.

    Merged neurons bring linear operators together, and joined linear operators show parallel neurons.
    """
    found = prune(*fuse(*prune(*recognise(*share(nodes, inputs, outputs)))))
    while True:
        before = _relu_count(found[0])
        found = prune(*fuse(*merge_parallel(*found)))
        if _relu_count(found[0]) == before:
            return found


def _relu_count(nodes: Sequence[Node]) -> int:
    return sum(node.size for node in nodes if node.operator == "relu")
