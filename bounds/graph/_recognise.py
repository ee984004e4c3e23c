"""Recognises functions that exporters spell out, so that one tight relaxation bounds them.

Every rewrite holds for the stored constants: where the file's 0.70710677 is not the square root of one half, the
operator is applied to a slightly scaled argument, or the result gets a radius that covers the difference. What is not
recognised stays as it is. ``_fragments`` lists what is known of one variable, ``_normalise`` of whole axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fuse import Lists, attribute
from provenn.bounds.graph._graph import Node

ONE = constants.scalar(1.0)


@dataclass(frozen=True)
class Match:
    """``outer * operator(inner * source)``, up to ``radius`` where the operator's own constants differ from the file's.

    The operator ``identity`` stands for ``inner * source`` alone.
    """

    operator: str
    source: int
    inner: Constant = ONE
    outer: Constant = ONE
    attributes: dict[str, Any] = field(default_factory=dict)
    radius: float = 0.0
    slope_radius: float = 0.0
    """How far the file's function and ``operator`` are apart in their slopes, at most; kept as the node's attribute."""
    undefined: bool = False
    """Whether what is written is no number somewhere: replaced where everything that follows is none there, too."""


def number(constant: Constant | None, default: Constant | None) -> Constant | None:
    """A constant that is the same number everywhere, as a scalar; ``default`` where it is absent."""
    if constant is None:
        return default
    if constant.value.size == 0 or (constant.value != constant.value.flat[0]).any():
        return None
    value = np.asarray(constant.value.flat[0], np.float64)
    return Constant(value, None, None if constant.radius is None else np.asarray(np.max(constant.radius), np.float64))


def equals(constant: Constant | None, value: float) -> bool:
    """Whether a number is exactly this one."""
    return constant is not None and constant.radius is None and bool((constant.value == value).all())


@dataclass(frozen=True)
class Affine:
    """A value as ``scale * source + shift`` with numbers; no shift is None."""

    source: int
    scale: Constant
    shift: Constant | None


class Reader:
    """Looks at values through affine maps with one factor and one shift."""

    def __init__(self, nodes: list[Node]):
        self.nodes = nodes

    def chain(self, index: int) -> Iterator[Affine]:
        """The value itself, then what it is an affine map of, as far as there are such maps."""
        found = Affine(index, ONE, None)
        yield found
        while True:
            node = self.nodes[found.source]
            if node.operator != "affine" or self.nodes[node.inputs[0]].shape != node.shape:
                return
            scale, shift = number(attribute(node, "scale"), ONE), attribute(node, "shift")
            moved = number(shift, None)
            if scale is None or (shift is not None and moved is None):
                return
            total = found.shift
            if moved is not None:
                part = constants.multiply(found.scale, moved)
                total = part if total is None else constants.add(total, part)
            found = Affine(node.inputs[0], constants.multiply(found.scale, scale), total)
            yield found

    def affine(self, index: int) -> Affine:
        """The value in terms of the last link of its chain."""
        *_, last = self.chain(index)
        return last

    def multiples(self, index: int) -> list[Affine]:
        """The value as a multiple of itself, or of what it is made of without a shift."""
        return [link for link in self.chain(index) if link.shift is None and not (link.scale.value == 0).any()]

    def relative(self, index: int, source: int) -> Constant | None:
        """The factor c with ``value = c * source``, or None."""
        return next((link.scale for link in self.multiples(index) if link.source == source), None)

    def common(self, x: int, y: int) -> tuple[int, Constant, Constant] | None:
        """A value of which both are multiples, and the two factors."""
        for link in self.multiples(x):
            factor = self.relative(y, link.source)
            if factor is not None:
                return link.source, link.scale, factor
        return None

    def operand(self, index: int, operator: str) -> int | None:
        node = self.nodes[index]
        return node.inputs[0] if node.operator == operator else None


Rule = Callable[[Reader, Node], Match | Node | None]
"""What a node is: a function of one value, a better node in its place, or None."""


def _scale(nodes: list[Node], node: Node, source: int, factor: Constant, radius: float) -> int:
    """Append ``factor * source`` up to a radius unless that is the source."""
    if factor.radius is None and factor.value == 1.0 and radius == 0.0:
        return source
    attributes: dict[str, Any] = {}
    if factor.radius is not None or factor.value != 1.0:
        attributes["scale"] = np.asarray(factor.value, np.float64)
    if factor.radius is not None:
        attributes["scale_radius"] = np.asarray(factor.radius, np.float64)
    if radius:
        attributes |= {"shift": np.zeros(()), "shift_radius": np.asarray(radius)}
    nodes.append(replace(node, operator="affine", inputs=(source,), attributes=attributes))
    return len(nodes) - 1


def _append(nodes: list[Node], node: Node, found: Match) -> int:
    """Append the nodes of a match in the place of a node; return where the value is."""
    argument = _scale(nodes, node, found.source, found.inner, 0.0)
    if found.operator != "identity":
        attributes = dict(found.attributes) | ({"slope_radius": found.slope_radius} if found.slope_radius else {})
        made = replace(node, operator=found.operator, inputs=(argument,), attributes=attributes)
        nodes.append(made)
        argument = len(nodes) - 1
    size = abs(float(found.outer.value)) + (0.0 if found.outer.radius is None else float(found.outer.radius))
    return _scale(nodes, node, argument, found.outer, found.radius * size * (1 + 2.0**-40))


# Operators other than linear ones that make no number of what is none.
_UNDEFINED = frozenset(
    {"abs", "mul", "div", "matmul", "exp", "log", "sqrt", "reciprocal", "sigmoid", "tanh", "erf", "atan", "sin", "cos"}
    | {"tan", "softplus", "softmax", "log_softmax"}
)


def _defined_again(nodes: Sequence[Node]) -> list[bool]:
    """For each node whether anything that follows may make a number of its NaN: comparisons, maxima and the like."""
    from provenn.bounds.ops import OPS, LinearOperator

    found = [False] * len(nodes)
    for index in range(len(nodes) - 1, -1, -1):
        operator = nodes[index].operator
        passes = operator in _UNDEFINED or isinstance(OPS[operator], LinearOperator)
        for operand in nodes[index].inputs:
            found[operand] = found[operand] or not passes or found[index]
    return found


def recognise(nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]) -> Lists:
    """Replace spelled-out functions; nodes that lose their readers are left for ``prune``."""
    from provenn.bounds.graph._fragments import RULES

    result: list[Node] = []
    position: list[int] = []
    reader = Reader(result)
    defined = _defined_again(nodes)
    for index, node in enumerate(nodes):
        moved = replace(node, inputs=tuple(position[operand] for operand in node.inputs))
        found = next((m for rule in RULES.get(node.operator, ()) if (m := rule(reader, moved)) is not None), None)
        if found is None or (isinstance(found, Match) and found.undefined and defined[index]):
            result.append(moved)
            position.append(len(result) - 1)
            continue
        if isinstance(found, Node):
            result.append(found)
            position.append(len(result) - 1)
        else:
            position.append(_append(result, moved, found))
    return result, [position[i] for i in inputs], [position[o] for o in outputs]
