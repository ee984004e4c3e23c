"""Chain-rule nodes behind the nodes of a graph, with an axis of rows in front of every sample.

A cotangent (reverse mode) or tangent (forward mode) of a value ``[*shape]`` is an operand ``[rows, *shape]``: a node,
or a constant as long as nothing that depends on the input came in. Constants are folded in float64 with the radius of
their rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._builder import Builder, Operand, Value, positions
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fuse import Matrices, attribute
from provenn.bounds.graph._graph import Graph, Node
from provenn.bounds.graph.specialise import Known, evaluated
from provenn.errors import UnsupportedOperatorError

ONE = constants.scalar(1.0)


def number(value: float) -> Constant:
    return constants.scalar(value)


@dataclass
class Chain:
    """The nodes of a graph, to which more are appended. Their indices stay, so the forward values are shared."""

    graph: Graph
    rows: int
    builder: Builder = field(init=False)
    matrices: Matrices = field(default_factory=Matrices)

    def __post_init__(self) -> None:
        self.builder = Builder(list(self.graph.nodes))

    def behind(self, node: Node) -> None:
        """Name the nodes that follow after the node whose derivative they belong to."""
        self.builder.name = f"derivative of {node.name}"
        self.builder.origin = f"derivative of {node.origin or node.operator}"

    def value(self, index: int) -> Value:
        node = self.graph.nodes[index]
        return Value(index, node.shape, node.scalar_type)

    def refuse(self, node: Node, why: str, advice: str) -> UnsupportedOperatorError:
        name = node.origin or f"{node.operator} ({node.name})"
        return UnsupportedOperatorError(f"no Jacobian: {name}: {why}; {advice}")

    # ------------------------------------------------------------------------------------ arithmetic

    def add(self, parts: Sequence[Operand]) -> Operand:
        """The sum of operands of one shape; constants are added up first."""
        fixed = [part for part in parts if isinstance(part, Constant)]
        variable = [part for part in parts if isinstance(part, Value)]
        total = reduce(constants.add, fixed) if fixed else None
        if not variable:
            assert total is not None
            return total
        value = variable[0] if len(variable) == 1 else self.builder.emit("add", variable, variable[0].shape)
        return value if total is None else self.builder.affine(value, shift=total)

    def subtract(self, x: Operand, y: Operand) -> Operand:
        if isinstance(x, Value) and isinstance(y, Value):
            return self.builder.binary("sub", x, y)
        return self.add([x, self.scaled(y, number(-1.0))])

    def scaled(self, x: Operand, factor: Constant) -> Operand:
        """x times constants that broadcast with it; the result has x's shape."""
        if isinstance(x, Constant):
            return _shaped(constants.multiply(x, factor), x.shape)
        return self.builder.affine(x, scale=factor)

    def times(self, x: Operand, factor: Operand) -> Operand:
        """``x [rows, *shape]`` times a factor that broadcasts with it."""
        if isinstance(factor, Constant):
            return self.scaled(x, factor)
        if isinstance(x, Constant):
            return self.builder.affine(self.builder.broadcast(factor, x.shape), scale=x)
        return self.builder.binary("mul", x, factor)

    # ------------------------------------------------------------------------------------ moving elements

    def moved(self, x: Operand, places: np.ndarray) -> Operand:
        """Elements of the flattened x; -1 gives 0."""
        if isinstance(x, Value):
            return self.builder.index(x, places)
        taken = np.maximum(places, 0)
        return x.mapped(lambda a: np.where(places < 0, 0, a.reshape(-1)[taken]).astype(a.dtype))

    def reshape(self, x: Operand, shape: Sequence[int]) -> Operand:
        shape = tuple(int(extent) for extent in shape)
        return (
            self.builder.reshape(x, shape) if isinstance(x, Value) else x.mapped(lambda a: a.reshape(shape))
        )

    def transpose(self, x: Operand, perm: Sequence[int]) -> Operand:
        if isinstance(x, Value):
            return self.builder.transpose(x, perm)
        return x.mapped(lambda a: np.ascontiguousarray(a.transpose(perm)))

    def broadcast(self, x: Operand, shape: Sequence[int]) -> Operand:
        shape = tuple(shape)
        if isinstance(x, Value):
            return self.builder.broadcast(x, shape)
        return x.mapped(lambda a: np.ascontiguousarray(np.broadcast_to(a, shape)))

    def joined(self, parts: Sequence[Operand], axis: int) -> Operand:
        """Operands next to each other along an axis."""
        if len(parts) == 1:
            return parts[0]
        if all(isinstance(part, Value) for part in parts):
            return self.builder.concat([part for part in parts if isinstance(part, Value)], axis)
        starts = np.cumsum([0, *(int(np.prod(part.shape)) for part in parts)])
        places = [start + positions(part.shape) for start, part in zip(starts[:-1], parts, strict=True)]
        together = np.concatenate(places, axis)
        if all(isinstance(part, Constant) for part in parts):
            values = [part for part in parts if isinstance(part, Constant)]
            flat = [np.ravel(c.value) for c in values]
            radii = [np.zeros(c.shape) if c.radius is None else c.radius for c in values]
            radius = np.concatenate([np.ravel(r) for r in radii])[together]
            made = np.concatenate(flat).astype(np.float64)[together]
            return Constant(made, None, radius if radius.any() else None)
        return self.builder.assemble(list(parts), together)

    # ------------------------------------------------------------------------------------ linear maps

    def sum(self, x: Operand, axes: Sequence[int], keepdims: bool = False) -> Operand:
        if isinstance(x, Value):
            return self.builder.sum(x, axes, keepdims)
        kept = [1 if axis in axes else extent for axis, extent in enumerate(x.shape)]
        shape = kept if keepdims else [extent for axis, extent in enumerate(x.shape) if axis not in axes]
        if all(x.shape[axis] == 1 for axis in axes):
            return self.reshape(x, shape)
        return self.folded("sum", x, shape, axes=tuple(sorted(axes)), keepdims=keepdims)

    def linear(self, x: Operand, weight: Constant) -> Operand:
        """``x @ weight`` over the last axis, weight ``[n, m]``."""
        shape = (*x.shape[:-1], weight.shape[1])
        if isinstance(x, Value):
            return self.builder.linear(x, weight, None)
        if x.radius is None and weight.radius is None:
            flat = x.value.reshape(-1, x.shape[-1]).astype(np.float64)
            made, radius = self.matrices.product(flat, self.matrices.form(weight.value))
            made, radius = _dense(made), None if radius is None else _dense(radius)
            return Constant(made.reshape(shape), None, None if radius is None else radius.reshape(shape))
        return self.folded("linear", x, shape, weight=weight.value, weight_radius=weight.radius)

    def matmul_left(self, weight: Constant, x: Operand) -> Operand:
        """``weight @ x`` over the last axis but one."""
        if isinstance(x, Value):
            return self.builder.matmul_left(weight, x)
        batch = np.broadcast_shapes(weight.shape[:-2], x.shape[:-2])
        shape = (*batch, weight.shape[-2], x.shape[-1])
        return self.folded("matmul_left", x, shape, weight=weight.value, weight_radius=weight.radius)

    def windows(self, like: Node, operator: str, x: Operand, shape: Sequence[int]) -> Operand:
        """A convolution or its transpose, as ``like`` without its bias, of ``[rows, batch, channels, *extents]``."""
        rows, batch = x.shape[:2]
        weight = attribute(like, "weight")
        assert weight is not None
        names = ("strides", "pads", "dilations", "groups")
        attributes: dict[str, Any] = {name: like.attributes[name] for name in names}
        attributes |= {"weight": weight.value, "weight_radius": weight.radius}
        flat = self.reshape(x, (rows * batch, *x.shape[2:]))
        target = (rows * batch, *shape[1:])
        if isinstance(flat, Value):
            made: Operand = self.builder.emit(operator, (flat,), target, **attributes)
        else:
            made = self.folded(operator, flat, target, **attributes)
        return self.reshape(made, (rows, *shape))

    def folded(self, operator: str, x: Constant, shape: Sequence[int], **attributes: Any) -> Constant:
        """A linear operator of a constant, by its own interval in float64."""
        kept = {name: value for name, value in attributes.items() if value is not None}
        node = Node(operator, (0,), tuple(int(extent) for extent in shape), kept, origin=self.builder.origin)
        radius = np.zeros(x.shape) if x.radius is None else x.radius
        known = evaluated(node, [Known(x.value.astype(np.float64), radius)])
        if known is None:
            raise UnsupportedOperatorError(
                f"no Jacobian: {self.builder.origin}: its constants are too inexact"
            )
        return known.constant

    # ------------------------------------------------------------------------------------ nodes of one operand

    def unary(self, operator: str, x: Value, **attributes: Any) -> Value:
        """An elementwise operator whose attributes are numbers or constants that broadcast with x."""
        made: dict[str, Any] = {
            name: v if name in ("exponent", "axis") else np.asarray(v, np.float64)
            for name, v in attributes.items()
        }
        return self.builder.emit(operator, (x,), x.shape, **made)

    def finished(self, output: Operand) -> Graph:
        """The graph whose output is an operand."""
        value = self.builder.value(output)
        return replace(self.graph, nodes=tuple(self.builder.nodes), outputs=(value.index,))


def _dense(matrix: Any) -> np.ndarray:
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


def _shaped(constant: Constant, shape: tuple[int, ...]) -> Constant:
    return (
        constant if constant.shape == shape else constant.mapped(lambda a: np.broadcast_to(a, shape).copy())
    )


def is_zero(operand: Operand | None) -> bool:
    """Whether an operand is known to be 0 everywhere."""
    if operand is None:
        return True
    return isinstance(operand, Constant) and operand.radius is None and not operand.value.any()
