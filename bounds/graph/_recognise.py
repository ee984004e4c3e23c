"""Recognises activations that exporters spell out, so that one tight relaxation bounds them.

Every rewrite is exact for the stored constants: where the file's 0.70710677 is not the square root of
one half, the operator is applied to a slightly scaled argument. What is not recognised stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fuse import Lists, attribute
from provenn.bounds.graph._graph import Node

_ROOT_2 = Constant(np.asarray(np.sqrt(2.0)), None, np.asarray(2.0**-52))
_ONE, _TWO = constants.scalar(1.0), constants.scalar(2.0)

Scaled = tuple[int, Constant]


def _number(constant: Constant | None, default: Constant | None) -> Constant | None:
    """A constant that is the same number everywhere, as a scalar; ``default`` where it is absent."""
    if constant is None:
        return default
    values, radii = np.unique(constant.value), np.unique(0.0 if constant.radius is None else constant.radius)
    if values.size != 1 or radii.size != 1:
        return None
    radius = None if constant.radius is None else radii.reshape(())
    return Constant(values.reshape(()), None, radius)


class _Reader:
    """Looks at values through reshapes that change nothing and affine maps with one factor."""

    def __init__(self, nodes: list[Node]):
        self.nodes = nodes

    def affine(self, index: int) -> tuple[int, Constant | None, Constant | None] | None:
        """Write a value as ``scale * source + shift`` with numbers; None where they are not numbers."""
        node = self.nodes[index]
        if node.operator != "affine" or self.nodes[node.inputs[0]].shape != node.shape:
            return index, _ONE, None
        scale, shift = _number(attribute(node, "scale"), _ONE), attribute(node, "shift")
        number = _number(shift, None)
        if scale is None or (shift is not None and number is None):
            return None
        return node.inputs[0], scale, number

    def scaled(self, index: int) -> Scaled | None:
        """Write a value as ``scale * source``."""
        found = self.affine(index)
        if found is None or found[1] is None or found[2] is not None:
            return index, _ONE
        return found[0], found[1]

    def operand(self, index: int, operator: str) -> int | None:
        node = self.nodes[index]
        return node.inputs[0] if node.operator == operator else None


def _relative(reader: _Reader, index: int, source: int) -> Constant | None:
    """The factor c with ``value = c * source``, or None."""
    if index == source:
        return _ONE
    found = reader.scaled(index)
    return found[1] if found is not None and found[0] == source else None


Match = tuple[str, int, Constant, Constant]
"""operator, source, inner factor and outer factor: ``outer * operator(inner * source)``."""


def _product(reader: _Reader, x: int, gate: int) -> Match | None:
    """``x * gate`` where the gate is a sigmoid, an error function, a soft plus or a clip of x."""
    base = reader.scaled(x)
    outside = reader.affine(gate)
    if base is None or outside is None or outside[1] is None:
        return None
    # A shared factor may have been applied to x before: try x itself, then what it is a multiple of.
    for source, factor in dict.fromkeys(((x, _ONE), base)):
        found = _gate(reader, source, *outside)  # type: ignore[arg-type]
        if found is not None:
            operator, inner, outer = found
            return operator, source, inner, constants.multiply(factor, outer)
    return None


def _gate(
    reader: _Reader, source: int, core: int, scale: Constant, shift: Constant | None
) -> tuple[str, Constant, Constant] | None:
    """Recognise ``source * (scale * core + shift)`` as ``outer * operator(inner * source)``."""
    if shift is not None:
        argument = reader.operand(core, "erf")
        inner = None if argument is None else _relative(reader, argument, source)
        if (
            inner is None
            or shift.radius is not None
            or scale.radius is not None
            or scale.value != shift.value
        ):
            return None
        if not inner.value > 0:
            return None
        # gelu(t) = t (1 + erf(t / sqrt 2)) / 2 at t = sqrt 2 inner x is sqrt 2 inner x (1 + erf(inner x)) / 2.
        factor = constants.multiply(_ROOT_2, inner)
        return "gelu", factor, constants.divide(constants.multiply(scale, _TWO), factor)
    argument = reader.operand(core, "sigmoid")
    inner = None if argument is None else _relative(reader, argument, source)
    if inner is not None and inner.value != 0:
        return "silu", inner, constants.divide(scale, inner)
    argument = reader.operand(core, "tanh")
    argument = None if argument is None else reader.operand(argument, "softplus")
    if argument == source:
        return "mish", _ONE, scale
    if _is_clip_of_shifted(reader, core, source):
        return "hard_swish", _ONE, constants.multiply(scale, constants.scalar(6.0))
    return None


def _is_clip_of_shifted(reader: _Reader, core: int, source: int) -> bool:
    """clip(source + 3, 0, 6)."""
    node = reader.nodes[core]
    if node.operator != "clip" or node.attributes.get("lower") != 0.0 or node.attributes.get("upper") != 6.0:
        return False
    found = reader.affine(node.inputs[0])
    if found is None or found[1] is None or found[2] is None:
        return False
    exact = found[1].radius is None and found[2].radius is None
    return exact and found[0] == source and found[1].value == 1.0 and found[2].value == 3.0


def _softplus(reader: _Reader, node: Node) -> Match | None:
    """log(1 + exp(x))."""
    found = reader.affine(node.inputs[0]) if node.operator == "log" else None
    if found is None or found[1] is None or found[2] is None:
        return None
    argument = reader.operand(found[0], "exp")
    one = (
        found[1].value == 1.0
        and found[2].value == 1.0
        and found[1].radius is None
        and found[2].radius is None
    )
    return ("softplus", argument, _ONE, _ONE) if argument is not None and one else None


def _match(reader: _Reader, node: Node) -> Match | None:
    if node.operator == "mul":
        x, y = node.inputs
        return _product(reader, x, y) or _product(reader, y, x)
    return _softplus(reader, node)


def _scale(nodes: list[Node], node: Node, source: int, factor: Constant) -> int:
    """Append ``factor * source`` unless the factor is 1."""
    if factor.radius is None and factor.value == 1.0:
        return source
    attributes: dict[str, Any] = {"scale": np.asarray(factor.value, np.float64)}
    if factor.radius is not None:
        attributes["scale_radius"] = np.asarray(factor.radius, np.float64)
    nodes.append(replace(node, operator="affine", inputs=(source,), attributes=attributes))
    return len(nodes) - 1


def recognise(nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]) -> Lists:
    """Replace spelled-out activations; nodes that lose their readers are left for ``prune``."""
    result: list[Node] = []
    position: list[int] = []
    reader = _Reader(result)
    for node in nodes:
        moved = replace(node, inputs=tuple(position[operand] for operand in node.inputs))
        found = _match(reader, moved)
        if found is None:
            result.append(moved)
            position.append(len(result) - 1)
            continue
        operator, source, inner, outer = found
        argument = _scale(result, moved, source, inner)
        result.append(replace(moved, operator=operator, inputs=(argument,), attributes={}))
        position.append(_scale(result, moved, len(result) - 1, outer))
    return result, [position[i] for i in inputs], [position[o] for o in outputs]
