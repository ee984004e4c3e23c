"""Imports reductions, softmax, arg max, one-hot and the normalisations that are built from reductions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Operand, Value, positions
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fold import reduced_axes

# ---------------------------------------------------------------------------------------- reductions

# Reductions of integers that a runtime computes in another type and cuts off.
_FRACTIONS = frozenset({"ReduceMean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"})


def _windows(x: Value, axes: Sequence[int], keepdims: bool) -> np.ndarray:
    """Flat positions [*reduced shape, n] of the elements that each result reads."""
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    table = positions(x.shape).transpose(*kept, *axes)
    shape = [1 if axis in axes else n for axis, n in enumerate(x.shape) if keepdims or axis not in axes]
    return table.reshape(*shape, -1)


def import_reduction(op: Application) -> list[Operand]:
    x, b = op.variable(), op.builder
    axes, keep = reduced_axes(op, len(x.shape)), bool(op.attribute("keepdims", 1))
    name = op.operator
    if name in _FRACTIONS and np.dtype(x.scalar_type).kind in "iub":
        op.unsupported("of integers", "re-export with floats")
    if not axes:
        return [x]
    if name == "ReduceMean":
        return [b.mean(x, axes, keep)]
    if name == "ReduceMax":
        return [b.window_max(x, _windows(x, axes, keep))]
    if name == "ReduceMin":
        return [b.negate(b.window_max(b.negate(x), _windows(x, axes, keep)))]
    if name == "ReduceProd":
        table = _windows(x, axes, keep)
        factors = [b.index(x, table[..., k]) for k in range(table.shape[-1])]
        return [reduce(lambda p, q: b.binary("mul", p, q), factors)]
    before = {"ReduceL1": "abs", "ReduceLogSumExp": "exp"}.get(name)
    if before:
        x = b.unary(before, x)
    elif name in ("ReduceL2", "ReduceSumSquare"):
        x = b.unary("pow", x, exponent=2.0)
    total = b.sum(x, axes, keep)
    after = {"ReduceL2": "sqrt", "ReduceLogSum": "log", "ReduceLogSumExp": "log"}.get(name)
    return [b.unary(after, total) if after else total]


def import_cumsum(op: Application) -> list[Operand]:
    """A cumulative sum is a product with a triangular matrix of ones."""
    x = op.variable()
    axis = op.axis(op.integers(1, "axis")[0], len(x.shape))
    matrix = np.tril(np.ones((x.shape[axis],) * 2, np.float32), -1 if op.attribute("exclusive", 0) else 0)
    if op.attribute("reverse", 0):
        matrix = matrix[::-1, ::-1]
    return [op.builder.along_axis(x, Constant(matrix), axis)]


def import_argmax(op: Application) -> list[Operand]:
    x, b = op.variable(), op.builder
    axis, keep = op.axis(int(op.attribute("axis", 0)), len(x.shape)), bool(op.attribute("keepdims", 1))
    if op.operator == "ArgMin":
        x = b.negate(x)
    shape = [1 if a == axis else n for a, n in enumerate(x.shape) if keep or a != axis]
    last = bool(op.attribute("select_last_index", 0))
    return [b.emit("argmax", (x,), shape, "int64", axis=axis, keepdims=keep, last=last)]


def import_one_hot(op: Application) -> list[Operand]:
    x, b = op.variable(), op.builder
    depth = int(op.scalar(op.constant(1, "depth"), "depth"))
    values = op.constant(2, "values")
    if values.array.size != 2:
        op.fail(f"has {values.array.size} values, expected 2 (off, on)")
    if values.radius is not None:
        op.unsupported("its values are computed inexactly", "store them as numbers")
    off, on = (float(v) for v in values.value.reshape(-1))
    axis = op.axis(int(op.attribute("axis", -1)), len(x.shape) + 1)
    shape = (*x.shape[:axis], depth, *x.shape[axis:])
    return [b.emit("one_hot", (x,), shape, values.scalar_type, depth=depth, axis=axis, on=on, off=off)]


# ---------------------------------------------------------------------------------------- softmax


def import_softmax(op: Application) -> list[Operand]:
    """Before opset 13 the axes from ``axis`` on are flattened into one."""
    x, b = op.variable(), op.builder
    operator = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}[op.operator]
    axis = op.axis(int(op.attribute("axis", -1 if op.version >= 13 else 1)), len(x.shape))
    if op.version >= 13 or axis == len(x.shape) - 1:
        return [b.unary(operator, x, axis=axis)]
    flat = b.reshape(
        x, (int(np.prod(x.shape[:axis], dtype=np.int64)), int(np.prod(x.shape[axis:], dtype=np.int64)))
    )
    return [b.reshape(b.unary(operator, flat, axis=1), x.shape)]


# ---------------------------------------------------------------------------------------- normalisation


def _standardised(
    op: Application, x: Value, axes: Sequence[int], epsilon: np.ndarray
) -> tuple[Value, Value, Value]:
    """Return ``(x - mean) / sqrt(variance + epsilon)``, the mean and the reciprocal deviation over ``axes``."""
    b = op.builder
    mean = b.mean(x, axes, True)
    centred = b.binary("sub", x, mean)
    variance = b.mean(b.unary("pow", centred, exponent=2.0), axes, True)
    deviation = b.unary("sqrt", b.affine(variance, shift=Constant(epsilon)))
    return b.binary("div", centred, deviation), mean, b.unary("reciprocal", deviation)


def _affine(op: Application, x: Value, scale: Operand | None, shift: Operand | None) -> Value:
    b = op.builder
    if isinstance(scale, Value):
        x, scale = b.binary("mul", x, scale), None
    if isinstance(shift, Value):
        return b.binary("add", b.affine(x, scale), shift)
    return b.affine(x, scale, shift)


def import_layer_normalization(op: Application) -> list[Operand]:
    x = op.variable()
    axis = op.axis(int(op.attribute("axis", -1)), len(x.shape))
    axes = list(range(axis, len(x.shape)))
    normal, mean, reciprocal = _standardised(op, x, axes, op.number("epsilon", 1e-5))
    return [_affine(op, normal, op.operand(1), op.inputs[2] if op.has(2) else None), mean, reciprocal]


def import_instance_normalization(op: Application) -> list[Operand]:
    x, scale, shift = op.variable(), op.constant(1, "scale"), op.constant(2, "B")
    normal, _, _ = _standardised(op, x, list(range(2, len(x.shape))), op.number("epsilon", 1e-5))
    channel = (-1, *(1,) * (len(x.shape) - 2))
    return [
        op.builder.affine(normal, *(part.mapped(lambda a: a.reshape(channel)) for part in (scale, shift)))
    ]


def import_group_normalization(op: Application) -> list[Operand]:
    x, scale, shift = op.variable(), op.constant(1, "scale"), op.constant(2, "bias")
    groups, b = int(op.required("num_groups")), op.builder
    grouped = b.reshape(x, (x.shape[0], groups, -(-x.size // (x.shape[0] * groups))))
    normal, _, _ = _standardised(op, grouped, [2], op.number("epsilon", 1e-5))
    channel = (-1, *(1,) * (len(x.shape) - 2))

    def per_channel(part: Constant) -> Constant:
        repeats = x.shape[1] // part.shape[0]  # opset 18 gives one number per group
        return part.mapped(lambda a: np.repeat(a, repeats).reshape(channel))

    return [b.affine(b.reshape(normal, x.shape), per_channel(scale), per_channel(shift))]


def import_lp_normalization(op: Application) -> list[Operand]:
    x, b = op.variable(), op.builder
    axis = op.axis(int(op.attribute("axis", -1)), len(x.shape))
    if int(op.attribute("p", 2)) == 2:
        norm = b.unary("sqrt", b.sum(b.unary("pow", x, exponent=2.0), [axis], True))
    else:
        norm = b.sum(b.unary("abs", x), [axis], True)
    return [b.binary("div", x, norm)]


def import_lrn(op: Application) -> list[Operand]:
    """``x / (bias + alpha / size * sum of squares over neighbouring channels) ^ beta``."""
    x, b = op.variable(), op.builder
    size, channels = int(op.required("size")), x.shape[1]
    row, column = np.indices((channels, channels))
    near = (column >= row - (size - 1) // 2) & (column <= row + size // 2)
    squares = b.along_axis(b.unary("pow", x, exponent=2.0), Constant(near.astype(np.float32)), 1)
    alpha = Constant(np.asarray(np.float32(op.attribute("alpha", 1e-4))))
    scale = constants.divide(alpha, constants.scalar(float(size)))
    base = b.affine(squares, scale, Constant(np.asarray(np.float32(op.attribute("bias", 1.0)))))
    exponent = -float(np.float32(op.attribute("beta", 0.75)))
    return [b.binary("mul", x, b.unary("pow", base, exponent=exponent))]


HANDLERS = {
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
         "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), import_reduction,
    ),
    "CumSum": import_cumsum,
    "ArgMax": import_argmax,
    "ArgMin": import_argmax,
    "OneHot": import_one_hot,
    "Softmax": import_softmax,
    "LogSoftmax": import_softmax,
    "LayerNormalization": import_layer_normalization,
    "InstanceNormalization": import_instance_normalization,
    "GroupNormalization": import_group_normalization,
    "LpNormalization": import_lp_normalization,
    "LRN": import_lrn,
}  # fmt: skip
