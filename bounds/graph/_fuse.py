"""Rewrites on the finished node list: constant affine maps into weights, dead nodes away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._graph import Node

Lists = tuple[list[Node], list[int], list[int]]


def _attribute(node: Node, name: str) -> Constant | None:
    value = node.attributes.get(name)
    return None if value is None else Constant(value, None, node.attributes.get(f"{name}_radius"))


def _with(node: Node, **parts: Constant | None) -> dict[str, Any]:
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
    scale, shift = _attribute(affine, "scale"), _attribute(affine, "shift")
    if node.operator == "affine":
        old_scale, old_shift = _attribute(node, "scale"), _attribute(node, "shift")
        if scale is not None:
            old_scale = scale if old_scale is None else constants.multiply(old_scale, scale)
            old_shift = None if old_shift is None else constants.multiply(old_shift, scale)
        if shift is not None:
            old_shift = shift if old_shift is None else constants.add(old_shift, shift)
        return replace(node, attributes=_with(node, scale=old_scale, shift=old_shift))
    axis = _channel_axis(node)
    if axis is None:
        return None
    parts = [None if part is None else _per_channel(part, node.shape, axis) for part in (scale, shift)]
    if any(full is not None and part is None for full, part in zip((scale, shift), parts, strict=True)):
        return None
    weight, bias = _attribute(node, "weight"), _attribute(node, "bias")
    assert weight is not None
    if parts[0] is not None:
        weight = _scaled_weight(node, weight, parts[0])
        bias = None if bias is None else constants.multiply(bias, parts[0])
    if parts[1] is not None:
        bias = parts[1] if bias is None else constants.add(bias, parts[1])
    return replace(node, attributes=_with(node, weight=weight, bias=bias))


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


def fuse(nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]) -> Lists:
    """Fold every affine map into the linear operator before it where that has no other reader.

    Sums and products of float32 constants are usually exact in float64; where they are not, the
    error is recorded as the radius of the new constant.
    """
    result = list(nodes)
    alias = list(range(len(result)))
    readers = [0] * len(result)
    for node in result:
        for operand in node.inputs:
            readers[operand] += 1
    for output in outputs:
        readers[output] += 1
    for index, node in enumerate(result):
        node = replace(node, inputs=tuple(alias[operand] for operand in node.inputs))
        result[index] = node
        if node.operator != "affine" or readers[nodes[index].inputs[0]] != 1:
            continue
        source = node.inputs[0]
        fused = _absorb(result[source], node)
        if fused is not None:
            result[source] = replace(fused, name=node.name, scalar_type=node.scalar_type)
            alias[index] = source
    return result, list(inputs), [alias[output] for output in outputs]


def prune(nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]) -> Lists:
    """Remove nodes that no output needs; graph inputs stay."""
    needed = set(inputs) | set(outputs)
    for index in range(len(nodes) - 1, -1, -1):
        if index in needed:
            needed.update(nodes[index].inputs)
    position = {old: new for new, old in enumerate(sorted(needed))}
    kept = [replace(nodes[old], inputs=tuple(position[i] for i in nodes[old].inputs)) for old in sorted(needed)]
    return kept, [position[i] for i in inputs], [position[o] for o in outputs]
