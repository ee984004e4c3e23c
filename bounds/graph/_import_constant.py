"""Imports operators whose result is constant whatever their operands: stored tensors, shapes, ranges."""

from __future__ import annotations

import numpy as np

from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Operand, Value
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._import_elementwise import TYPES


def import_constant(op: Application) -> list[Operand]:
    for name, dtype in (("value", None), ("value_float", np.float32), ("value_floats", np.float32),
                        ("value_int", np.int64), ("value_ints", np.int64)):  # fmt: skip
        if name in op.attributes:
            return [Constant(np.asarray(op.attributes[name], dtype=dtype))]
    op.unsupported("a constant that is neither a tensor nor a number", "store it as a dense tensor")


def import_shape(op: Application) -> list[Operand]:
    shape = op.operand(0).shape
    part = shape[slice(op.attribute("start", 0), op.attribute("end"))]
    return [Constant(np.asarray(part, dtype=np.int64))]


def import_size(op: Application) -> list[Operand]:
    return [Constant(np.asarray(int(np.prod(op.operand(0).shape, dtype=np.int64))))]


def import_constant_of_shape(op: Application) -> list[Operand]:
    fill = np.asarray(op.attribute("value", np.zeros(1, np.float32))).reshape(-1)[0]
    return [Constant(np.full(op.integers(0, "shape"), fill, dtype=fill.dtype))]


def import_range(op: Application) -> list[Operand]:
    """A range with constant ends; its length must not depend on the input."""
    if any(isinstance(operand, Value) for operand in op.operands()):
        op.unsupported("its length depends on the network's input", "re-export with constant ends")
    start, limit, step = (
        operand.array.reshape(()) for operand in op.operands() if isinstance(operand, Constant)
    )
    if step == 0:
        op.fail("its step is 0")
    if start.dtype.kind == "f" and not all(x == np.floor(x) and abs(x) < 2**24 for x in (start, limit, step)):
        op.unsupported("a range of floats that are not small integers", "store it as a constant")
    count = max(int(np.ceil((np.float64(limit) - np.float64(start)) / np.float64(step))), 0)
    return [Constant((start + np.arange(count) * step).astype(start.dtype))]


def import_eye_like(op: Application) -> list[Operand]:
    like = op.operand(0)
    rows, columns = like.shape
    number = op.attribute("dtype")
    element = like.scalar_type if number is None else TYPES.get(int(number))
    if element is None:
        op.unsupported(f"element type {number}", "re-export with float, int64 or bool")
    return [Constant(np.eye(rows, columns, int(op.attribute("k", 0)), dtype=element))]


HANDLERS = {
    "Constant": import_constant,
    "Shape": import_shape,
    "Size": import_size,
    "ConstantOfShape": import_constant_of_shape,
    "Range": import_range,
    "EyeLike": import_eye_like,
}
