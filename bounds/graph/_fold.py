"""Folds operators all of whose operands are constant: exactly for integers and booleans, with a radius for floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Builder, Operand
from provenn.bounds.graph._constants import Constant


def _divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Integer division truncates towards zero."""
    if x.dtype.kind not in "iu":
        return x / y
    quotient = x // y  # rounds down
    return quotient + ((quotient * y != x) & ((x < 0) != (y < 0))).astype(x.dtype)


_BINARY: dict[str, Callable[..., np.ndarray]] = {
    "Equal": np.equal, "Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor,
}  # fmt: skip
_INTEGER: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "Neg": np.negative, "Abs": np.abs,
    "Sign": np.sign, "Max": lambda *a: np.maximum.reduce(np.broadcast_arrays(*a)),
    "Min": lambda *a: np.minimum.reduce(np.broadcast_arrays(*a)), "Pow": np.power,
}  # fmt: skip
_ROUNDING: dict[str, Callable[..., np.ndarray]] = {"Floor": np.floor, "Ceil": np.ceil, "Round": np.round}
_REDUCE: dict[str, Callable[..., np.ndarray]] = {
    "ReduceSum": np.sum,
    "ReduceProd": np.prod,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
}


def _mod(op: Application, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.fmod(x, y) if op.attribute("fmod", 0) else np.mod(x, y)


def _where(op: Application, condition: Constant, x: Constant, y: Constant) -> Constant:
    mask = condition.array.astype(bool)
    shape = np.broadcast_shapes(mask.shape, x.shape, y.shape)

    def part(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
        if a is None and b is None:
            return None
        chosen = np.where(mask, 0.0 if a is None else a, 0.0 if b is None else b)
        return np.broadcast_to(chosen, shape).copy()

    real = None if x.real is None and y.real is None else np.where(mask, x.value, y.value)
    return Constant(np.where(mask, x.array, y.array), real, part(x.radius, y.radius))


def reduced_axes(op: Application, rank: int) -> list[int]:
    """The axes of a Reduce operator; all of them where none are given."""
    axes = op.list_or_operand("axes", 1)
    if not axes:
        return [] if op.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return op.axes(axes, rank)


def fold(op: Application) -> list[Operand] | None:
    """Evaluate in numpy what has exact or element-type semantics; None where the importer must do it."""
    inputs = [operand for operand in op.operands() if isinstance(operand, Constant)]
    arrays = [operand.array for operand in inputs]
    name = op.operator
    integral = bool(arrays) and arrays[0].dtype.kind in "iub"
    if name in _BINARY:
        return [Constant(_BINARY[name](*arrays))]
    if name == "Not":
        return [Constant(np.logical_not(arrays[0]))]
    if name in _ROUNDING:
        # A runtime rounds its own float32 value, not the real one: shape arithmetic must agree with it.
        return [Constant(arrays[0] if integral else _ROUNDING[name](arrays[0]))]
    if name == "Mod":
        if any(operand.radius is not None for operand in inputs):
            op.unsupported("a remainder of numbers that are known up to a rounding", "store it as a number")
        return [Constant(_mod(op, *arrays))]
    if name == "Where":
        return [_where(op, inputs[0], inputs[1], inputs[2])]
    if name in _INTEGER and integral:
        if name == "Div" and not arrays[1].all():
            op.fail("divides an integer by zero")
        return [Constant(np.asarray(_INTEGER[name](*arrays)).astype(arrays[0].dtype))]
    if name in _REDUCE and integral:
        axes = tuple(reduced_axes(op, arrays[0].ndim))
        value = _REDUCE[name](arrays[0], axis=axes, keepdims=bool(op.attribute("keepdims", 1)))
        return [Constant(np.asarray(value).astype(arrays[0].dtype))]
    if name == "CumSum":
        return [_cumsum(op, inputs[0])]
    if name == "NonZero":
        return [Constant(np.stack(np.nonzero(arrays[0])).astype(np.int64))]
    return None


def _cumsum(op: Application, x: Constant) -> Constant:
    if x.array.dtype.kind == "f":
        op.unsupported("a cumulative sum of floats", "re-export without CumSum")
    axis = op.axis(op.integers(1, "axis")[0], x.array.ndim)
    array = np.flip(x.array, axis) if op.attribute("reverse", 0) else x.array
    total = np.cumsum(array, axis, dtype=array.dtype)
    if op.attribute("exclusive", 0):
        total = total - array
    return Constant(np.flip(total, axis) if op.attribute("reverse", 0) else total)


def fold_nodes(builder: Builder, first: int, results: Sequence[Operand]) -> list[Operand]:
    """Turn values whose nodes, from ``first`` on, depend on constants only into constants with a radius.

    The nodes are evaluated by their own float64 interval operators, so the radius is proven.
    """
    from provenn.bounds.ops import OPS, prepare

    boxes: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    values: dict[int, torch.Tensor] = {}
    for index in range(first, len(builder.nodes)):
        node = builder.nodes[index]
        shapes = tuple(builder.nodes[operand].shape for operand in node.inputs)
        prepared = prepare(node, shapes, torch.float64, torch.device("cpu"))
        record = OPS[node.operator]
        values[index] = record.evaluate(prepared, *(values[operand] for operand in node.inputs))
        boxes[index] = interval(record, prepared, [boxes[operand] for operand in node.inputs])
    return [_constant(result, boxes, values) for result in results]


def interval(record, prepared, boxes):  # type: ignore[no-untyped-def]
    from provenn.bounds.ops import Univariate

    if isinstance(record, Univariate):
        return record.interval(prepared, *boxes[0])
    return record.interval(prepared, *boxes)


def _constant(
    result: Operand, boxes: dict[int, tuple[torch.Tensor, torch.Tensor]], values: dict[int, torch.Tensor]
) -> Constant:
    if isinstance(result, Constant):
        return result
    lower, upper = (side[0].numpy() for side in boxes[result.index])
    real = values[result.index][0].numpy()
    radius = np.maximum(upper - real, real - lower) * (1.0 + 2.0**-40)
    with np.errstate(invalid="ignore"):  # the importer looks whether integers fit
        array = real.astype(result.scalar_type)
    return Constant(array, real.copy(), radius if radius.any() else None)
