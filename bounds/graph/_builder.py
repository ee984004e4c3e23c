"""Builds the graph: one method per linear operator, each of which simplifies what it can on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._graph import Node
from provenn.errors import ModelError


@dataclass(frozen=True)
class Value:
    """A variable tensor during import: the index of its node, its sample shape and its element type."""

    index: int
    shape: tuple[int, ...]
    scalar_type: str

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


Operand: TypeAlias = Value | Constant


def positions(shape: Sequence[int]) -> np.ndarray:
    """Flat indices of a tensor's elements, arranged as the tensor."""
    return np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.int64).reshape(tuple(shape))


def _filled(array: np.ndarray, here: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Elements of the flattened array where ``here`` holds, else 0."""
    return np.where(here, array.reshape(-1)[local], 0).astype(array.dtype)


def is_finite(array: np.ndarray) -> bool:
    """Whether a float array has no NaN and no infinity; a finite sum proves it at the cost of one pass."""
    if array.dtype.kind != "f":
        return True
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


@dataclass
class Builder:
    """The nodes so far. ``origin`` and ``name`` label the nodes that the current ONNX node makes."""

    nodes: list[Node] = field(default_factory=list)
    origin: str = ""
    name: str = ""
    coordinate_nodes: set[int] = field(default_factory=set)
    """Nodes whose elements past the end of a range stand for elements that do not exist."""

    def emit(
        self, operator: str, inputs: Sequence[Value], shape: Sequence[int], scalar_type: str | None = None,
        **attributes: Any,
    ) -> Value:  # fmt: skip
        """Append a node; attributes that are None are left out. Constants must be finite."""
        scalar_type = scalar_type or inputs[0].scalar_type
        kept = {name: value for name, value in attributes.items() if value is not None}
        for name, value in kept.items():
            if isinstance(value, np.ndarray) and not is_finite(value):
                raise ModelError(
                    f"{self.origin}: its {name} contains NaN or infinity, mend the network's weights"
                )
        shape = tuple(int(extent) for extent in shape)
        node = Node(
            operator, tuple(v.index for v in inputs), shape, kept, self.name, self.origin, scalar_type
        )
        self.nodes.append(node)
        return Value(len(self.nodes) - 1, shape, scalar_type)

    def node(self, value: Value) -> Node:
        return self.nodes[value.index]

    def _operand(self, value: Value) -> Value:
        """The only input of a value's node."""
        source = self.node(value).inputs[0]
        return Value(source, self.nodes[source].shape, value.scalar_type)

    # ------------------------------------------------------------------------------------ leaves

    def constant(self, constant: Constant) -> Value:
        """Make a constant a value, for operators that take variable operands only."""
        return self.emit(
            "constant", (), constant.shape, constant.scalar_type, value=constant.value, radius=constant.radius
        )

    def value(self, operand: Operand) -> Value:
        return operand if isinstance(operand, Value) else self.constant(operand)

    # ------------------------------------------------------------------------------------ moving elements

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        shape = tuple(int(extent) for extent in shape)
        if shape == x.shape:
            return x
        if self.node(x).operator == "reshape":
            return self.reshape(self._operand(x), shape)
        return self.emit("reshape", (x,), shape, x.scalar_type)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        perm = [int(axis) for axis in perm]
        shape = [x.shape[axis] for axis in perm]
        moved = [axis for axis in perm if x.shape[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(x, shape)
        node = self.node(x)
        if node.operator == "transpose":
            return self.transpose(self._operand(x), [node.attributes["perm"][axis] for axis in perm])
        return self.emit("transpose", (x,), shape, x.scalar_type, perm=perm)

    def index(self, x: Value, indices: np.ndarray) -> Value:
        """Gather elements of the flattened x; -1 gives 0. Chains of moves become one."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size == x.size and np.array_equal(indices.reshape(-1), np.arange(x.size)):
            return self.reshape(x, indices.shape)
        node = self.node(x)
        if node.operator == "reshape":
            return self.index(self._operand(x), indices)
        if node.operator in ("index", "transpose"):
            source = self._operand(x)
            if node.operator == "index":
                before = node.attributes["indices"].reshape(-1)
            else:
                before = positions(source.shape).transpose(node.attributes["perm"]).reshape(-1)
            return self.index(source, np.where(indices < 0, -1, before[np.maximum(indices, 0)]))
        return self.emit("index", (x,), indices.shape, x.scalar_type, indices=indices)

    def broadcast(self, x: Value, shape: Sequence[int]) -> Value:
        """Repeat x along axes of extent 1, by numpy's rule."""
        shape = tuple(int(extent) for extent in shape)
        if int(np.prod(shape, dtype=np.int64)) == x.size:
            return self.reshape(x, shape)
        return self.index(x, np.broadcast_to(positions(x.shape), shape))

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.emit("concat", parts, shape, axis=axis)

    def assemble(self, parts: Sequence[Operand], indices: np.ndarray) -> Value:
        """Gather from the concatenation of the flattened parts, some of which may be constant; -1 gives 0."""
        starts = np.cumsum(np.array([0] + [int(np.prod(part.shape, dtype=np.int64)) for part in parts]))
        variable: list[Value] = []
        moved = np.full(indices.shape, -1, dtype=np.int64)
        total: Constant | None = None
        width = 0
        for part, start, end in zip(parts, starts[:-1], starts[1:], strict=True):
            here = (indices >= start) & (indices < end)
            if not here.any():
                continue
            if isinstance(part, Value):
                moved[here] = indices[here] - start + width
                variable.append(self.reshape(part, (part.size,)))
                width += part.size
                continue
            filled = part.mapped(partial(_filled, here=here, local=np.where(here, indices - start, 0)))
            total = filled if total is None else constants.add(total, filled)
        moved_value = self.index(self.concat(variable, 0), moved)
        return moved_value if total is None else self.affine(moved_value, shift=total)

    # ------------------------------------------------------------------------------------ computing

    def affine(self, x: Value, scale: Constant | None = None, shift: Constant | None = None) -> Value:
        """``x * scale + shift``; broadcasts x where the constants have more elements."""
        shape = np.broadcast_shapes(x.shape, *(c.shape for c in (scale, shift) if c is not None))
        x = self.broadcast(x, shape)
        if scale is not None and scale.radius is None and (scale.value == 1.0).all():
            scale = None
        if shift is not None and shift.radius is None and not shift.value.any():
            shift = None
        if scale is None and shift is None:
            return x
        return self.emit(
            "affine", (x,), shape, x.scalar_type,
            scale=None if scale is None else scale.value, scale_radius=None if scale is None else scale.radius,
            shift=None if shift is None else shift.value, shift_radius=None if shift is None else shift.radius,
        )  # fmt: skip

    def coordinates(self, first: Value, offsets: Constant) -> Value:
        """``first + offsets`` as coordinates that a scatter drops where they leave the tensor."""
        shape = offsets.shape
        start = self.broadcast(first, shape)
        value = self.emit("affine", (start,), shape, first.scalar_type, shift=offsets.value)
        self.coordinate_nodes.add(value.index)
        return value

    def scaled(self, x: Value, factor: float) -> Value:
        return self.affine(x, scale=constants.scalar(factor))

    def negate(self, x: Value) -> Value:
        return self.scaled(x, -1.0)

    def unary(self, operator: str, x: Value, scalar_type: str | None = None, **attributes: Any) -> Value:
        return self.emit(operator, (x,), x.shape, scalar_type, **attributes)

    def binary(self, operator: str, x: Value, y: Value, scalar_type: str | None = None) -> Value:
        """An elementwise operator of two variable operands, broadcast explicitly."""
        shape = np.broadcast_shapes(x.shape, y.shape)
        return self.emit(operator, (self.broadcast(x, shape), self.broadcast(y, shape)), shape, scalar_type)

    def sum(self, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
        axes = sorted(axes)
        if keepdims:
            shape = [1 if axis in axes else extent for axis, extent in enumerate(x.shape)]
        else:
            shape = [extent for axis, extent in enumerate(x.shape) if axis not in axes]
        if all(x.shape[axis] == 1 for axis in axes):
            return self.reshape(x, shape)
        return self.emit("sum", (x,), shape, x.scalar_type, axes=tuple(axes), keepdims=bool(keepdims))

    def mean(self, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
        count = float(np.prod([x.shape[axis] for axis in axes], dtype=np.int64))
        total = self.sum(x, axes, keepdims)
        return self.affine(total, scale=constants.divide(constants.scalar(1.0), constants.scalar(count)))

    def linear(self, x: Value, weight: Constant, bias: Constant | None = None) -> Value:
        """``x @ weight + bias`` with a weight [n, m] over the last axis of x."""
        return self.emit(
            "linear", (x,), (*x.shape[:-1], weight.shape[1]), x.scalar_type,
            weight=weight.value, weight_radius=weight.radius,
            bias=None if bias is None else bias.value, bias_radius=None if bias is None else bias.radius,
        )  # fmt: skip

    def matmul_left(self, weight: Constant, x: Value) -> Value:
        """``weight @ x`` with a weight [.., p, q] over the last axis but one of x."""
        batch = np.broadcast_shapes(weight.shape[:-2], x.shape[:-2])
        shape = (*batch, weight.shape[-2], x.shape[-1])
        return self.emit(
            "matmul_left", (x,), shape, x.scalar_type, weight=weight.value, weight_radius=weight.radius
        )

    def window_max(self, x: Value, indices: np.ndarray) -> Value:
        """Largest of x over windows: ``indices`` is [*shape, n] into the flattened x, -1 = absent."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.shape[-1] == 1:
            return self.index(x, indices[..., 0])
        return self.emit("window_max", (x,), indices.shape[:-1], x.scalar_type, indices=indices)

    def along_axis(self, x: Value, matrix: Constant, axis: int) -> Value:
        """Multiply every line of x along ``axis`` by a matrix [m, n]."""
        shape = (*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :])
        if axis == len(x.shape) - 1:
            return self.linear(x, matrix.mapped(np.transpose))
        before = int(np.prod(x.shape[:axis], dtype=np.int64))
        after = int(np.prod(x.shape[axis + 1 :], dtype=np.int64))
        product = self.matmul_left(matrix, self.reshape(x, (before, x.shape[axis], after)))
        return self.reshape(product, shape)

    # ------------------------------------------------------------------------------------ reasoning

    def difference(self, x: Operand, y: Operand) -> np.ndarray | None:
        """``x - y`` where it is constant: both are constant, or one value plus constants."""
        if isinstance(x, Constant) and isinstance(y, Constant):
            return x.array - y.array
        if isinstance(x, Constant) or isinstance(y, Constant):
            return None
        (source_x, shift_x), (source_y, shift_y) = self._shifted(x), self._shifted(y)
        return shift_x - shift_y if source_x == source_y else None

    def _shifted(self, x: Value) -> tuple[int, np.ndarray]:
        """Write a single number as another value plus a constant."""
        shift = np.zeros(())
        node = self.node(x)
        while x.size == 1 and node.operator in ("reshape", "affine") and "scale" not in node.attributes:
            if node.operator == "affine":
                shift = shift + node.attributes["shift"].reshape(())
            x = self._operand(x)
            node = self.node(x)
        return x.index, shift
