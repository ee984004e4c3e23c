"""Imports products with constant matrices, convolutions, normalisation by constants and average pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Operand, Value, positions
from provenn.bounds.graph._constants import Constant


def _swap(constant: Constant) -> Constant:
    return constant.mapped(lambda a: np.swapaxes(a, -1, -2))


# ---------------------------------------------------------------------------------------- matrices


def import_matmul(op: Application) -> list[Operand]:
    return [matmul(op, op.operand(0), op.operand(1))]


def matmul(op: Application, x: Operand, y: Operand) -> Value:
    """numpy's matrix product of two operands, at least one of them variable."""
    if not x.shape or not y.shape:
        op.fail("multiplies a scalar, expected vectors or matrices; mend its operands or use Mul")
    if x.shape[-1] != (y.shape[-2] if len(y.shape) > 1 else y.shape[0]):
        _misfit(op, x, y)
    rows = () if len(x.shape) == 1 else (x.shape[-2],)
    columns = () if len(y.shape) == 1 else (y.shape[-1],)
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    if isinstance(x, Value) and isinstance(y, Constant) and len(y.shape) <= 2:
        matrix = y if len(y.shape) == 2 else y.mapped(lambda a: a.reshape(-1, 1))
        return op.builder.reshape(op.builder.linear(x, matrix), (*batch, *rows, *columns))
    x = x if len(x.shape) > 1 else _reshaped(op, x, (1, *x.shape))
    y = y if len(y.shape) > 1 else _reshaped(op, y, (*y.shape, 1))
    return op.builder.reshape(_matrix_product(op, x, y), (*batch, *rows, *columns))


def _misfit(op: Application, x: Operand, y: Operand) -> NoReturn:
    transposed = " (after transA and transB)" if op.operator == "Gemm" else ""
    op.fail(
        f"multiplies shapes {list(x.shape)} and {list(y.shape)}{transposed}, expected as many columns as rows; "
        "mend the shape of the weight" + (", transA or transB" if transposed else "")
    )


def _reshaped(op: Application, x: Operand, shape: Sequence[int]) -> Operand:
    if isinstance(x, Value):
        return op.builder.reshape(x, shape)
    return x.mapped(lambda a: a.reshape(tuple(shape)))


def _matrix_product(op: Application, x: Operand, y: Operand) -> Value:
    b = op.builder
    if isinstance(x, Constant) and isinstance(y, Constant):
        x = b.constant(x)
    if isinstance(x, Value) and isinstance(y, Value):
        batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        x, y = (b.broadcast(z, (*batch, *z.shape[-2:])) for z in (x, y))
        return b.emit("matmul", (x, y), (*batch, x.shape[-2], y.shape[-1]))
    if isinstance(x, Value):
        assert isinstance(y, Constant)
        if int(np.prod(y.shape[:-2], dtype=np.int64)) == 1:
            product = b.linear(x, _flat_batch(y))
            batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
            return b.reshape(product, (*batch, x.shape[-2], y.shape[-1]))
        return _swap_value(op, b.matmul_left(_swap(y), _swap_value(op, x)))
    assert isinstance(y, Value)
    if y.shape[-1] == 1 and int(np.prod(x.shape[:-2], dtype=np.int64)) == 1:
        # A column: the transposed product is the operator that everything downstream fuses best.
        row = b.reshape(y, (*y.shape[:-2], y.shape[-2]))
        product = b.linear(row, _swap(_flat_batch(x)))
        return b.reshape(product, (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], 1))
    return b.matmul_left(x, y)


def _flat_batch(matrix: Constant) -> Constant:
    return matrix.mapped(lambda a: a.reshape(a.shape[-2:]))


def _swap_value(op: Application, x: Value) -> Value:
    rank = len(x.shape)
    return op.builder.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


def import_gemm(op: Application) -> list[Operand]:
    """alpha A B + beta C with optional transposes."""
    x, y = op.operand(0), op.operand(1)
    if len(x.shape) != 2 or len(y.shape) != 2:
        op.fail(
            f"multiplies shapes {list(x.shape)} and {list(y.shape)}, expected matrices; flatten them first"
        )
    b = op.builder
    alpha, beta = float(op.attribute("alpha", 1.0)), float(op.attribute("beta", 1.0))
    if op.attribute("transA", 0):
        x = _swap_value(op, x) if isinstance(x, Value) else _swap(x)
    if op.attribute("transB", 0):
        y = _swap_value(op, y) if isinstance(y, Value) else _swap(y)
    if x.shape[1] != y.shape[0]:
        _misfit(op, x, y)
    shape = (x.shape[0], y.shape[1])
    bias = op.operand(2) if op.has(2) and beta != 0.0 else None
    if bias is not None and np.broadcast_shapes(bias.shape, shape) != shape:
        op.fail(f"adds shape {list(bias.shape)} to {list(shape)}; mend the shape of its third operand")
    if isinstance(bias, Constant) and beta != 1.0:
        bias = constants.multiply(bias, constants.scalar(beta))
    if isinstance(y, Constant) and isinstance(x, Value):
        if alpha != 1.0:
            y = constants.multiply(y, constants.scalar(alpha))
        row = isinstance(bias, Constant) and (len(bias.shape) < 2 or bias.shape[0] == 1 or shape[0] == 1)
        fused = bias.mapped(lambda a: _row(a, shape)) if row and isinstance(bias, Constant) else None
        product = b.linear(x, y, fused)
        bias = None if fused is not None else bias
    else:
        product = _matrix_product(op, x, y)
        product = product if alpha == 1.0 else b.scaled(product, alpha)
    if isinstance(bias, Constant):
        product = b.affine(product, shift=bias)
    elif bias is not None:
        bias = bias if beta == 1.0 else b.scaled(bias, beta)
        product = b.binary("add", product, bias)
    return [product]


def _row(bias: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.broadcast_to(bias, np.broadcast_shapes(bias.shape, (1, shape[1]))).reshape(shape[1])


# ---------------------------------------------------------------------------------------- windows


def window(
    op: Application, spatial: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return (strides, pads, dilations, output extents) of a convolution or pooling over ``spatial``.

    ``pads`` is [begin.., end..]. With ceil_mode the end is padded so far that the last window fits.
    """
    rank = len(spatial)
    strides = [int(s) for s in op.attribute("strides") or [1] * rank]
    dilations = [int(d) for d in op.attribute("dilations") or [1] * rank]
    pads = [int(p) for p in op.attribute("pads") or [0] * (2 * rank)]
    if not len(strides) == len(dilations) == len(kernel) == len(pads) // 2 == rank:
        op.fail(f"its kernel, strides, dilations or pads do not fit {rank} spatial dimensions")
    auto = op.attribute("auto_pad", "NOTSET")
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        outputs = [-(-n // s) for n, s in zip(spatial, strides, strict=True)]
        total = [
            max((o - 1) * s + k - n, 0) for o, s, k, n in zip(outputs, strides, spans, spatial, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = small + large if auto == "SAME_UPPER" else large + small
        return strides, pads, dilations, outputs
    if auto == "VALID":
        pads = [0] * (2 * rank)
    outputs = []
    for axis in range(rank):
        room = spatial[axis] + pads[axis] + pads[rank + axis] - spans[axis]
        if room < 0:
            op.fail(f"its window of {spans[axis]} does not fit {spatial[axis]} elements with pads {pads}")
        count = room // strides[axis] + 1
        if op.attribute("ceil_mode", 0):
            grown = -(-room // strides[axis]) + 1
            # As in onnxruntime: the last window must start inside the input or its begin padding.
            if (grown - 1) * strides[axis] < spatial[axis] + pads[axis]:
                count = grown
            pads[rank + axis] = max(
                pads[rank + axis], (count - 1) * strides[axis] + spans[axis] - spatial[axis] - pads[axis]
            )
        outputs.append(count)
    return strides, pads, dilations, outputs


def import_conv(op: Application) -> list[Operand]:
    x, weight, bias = op.variable(0), op.constant(1, "weight"), op.optional(2, "bias")
    spatial = x.shape[2:]
    groups = int(op.attribute("group", 1))
    if len(weight.shape) != len(x.shape) or not 1 <= len(spatial) <= 3:
        op.fail(
            f"convolves shape {list(x.shape)} with a weight of shape {list(weight.shape)}, "
            "expected 1 to 3 spatial dimensions"
        )
    if weight.shape[1] * groups != x.shape[1] or weight.shape[0] % groups:
        op.fail(
            f"convolves shape {list(x.shape)} with a weight of shape {list(weight.shape)} in {groups} groups"
        )
    _check_kernel(op, weight.shape[2:])
    strides, pads, dilations, outputs = window(op, spatial, weight.shape[2:])
    result = op.builder.emit(
        "conv", (x,), (x.shape[0], weight.shape[0], *outputs),
        weight=weight.value, weight_radius=weight.radius, bias=None if bias is None else bias.value,
        bias_radius=None if bias is None else bias.radius, strides=tuple(strides), pads=tuple(pads),
        dilations=tuple(dilations), groups=groups,
    )  # fmt: skip
    return [result]


def _check_kernel(op: Application, kernel: Sequence[int]) -> None:
    declared = op.attribute("kernel_shape")
    if declared is not None and tuple(declared) != tuple(kernel):
        op.fail(f"declares kernel {list(declared)} but its weight has {list(kernel)}")


def import_conv_transpose(op: Application) -> list[Operand]:
    x, weight, bias = op.variable(0), op.constant(1, "weight"), op.optional(2, "bias")
    spatial, kernel, groups = x.shape[2:], weight.shape[2:], int(op.attribute("group", 1))
    rank = len(spatial)
    if len(weight.shape) != len(x.shape) or not 1 <= rank <= 3 or weight.shape[0] != x.shape[1]:
        op.fail(f"convolves shape {list(x.shape)} with a weight of shape {list(weight.shape)}")
    _check_kernel(op, kernel)
    strides = [int(s) for s in op.attribute("strides") or [1] * rank]
    dilations = [int(d) for d in op.attribute("dilations") or [1] * rank]
    extra = [int(p) for p in op.attribute("output_padding") or [0] * rank]
    pads = [int(p) for p in op.attribute("pads") or [0] * (2 * rank)]
    full = [(n - 1) * s + d * (k - 1) + 1 + e
            for n, s, d, k, e in zip(spatial, strides, dilations, kernel, extra, strict=True)]  # fmt: skip
    auto, wanted = op.attribute("auto_pad", "NOTSET"), op.attribute("output_shape")
    if auto.startswith("SAME") and wanted is None:
        wanted = [n * s for n, s in zip(spatial, strides, strict=True)]
    if wanted is not None:
        total = [max(f - w, 0) for f, w in zip(full, wanted[-rank:], strict=True)]
        half = [t // 2 for t in total]
        other = [t - h for t, h in zip(total, half, strict=True)]
        pads = half + other if auto == "SAME_UPPER" else other + half
        outputs = [int(w) for w in wanted[-rank:]]
    else:
        outputs = [f - pads[axis] - pads[rank + axis] for axis, f in enumerate(full)]
    result = op.builder.emit(
        "conv_transpose", (x,), (x.shape[0], weight.shape[1] * groups, *outputs),
        weight=weight.value, weight_radius=weight.radius, bias=None if bias is None else bias.value,
        bias_radius=None if bias is None else bias.radius, strides=tuple(strides), pads=tuple(pads),
        output_padding=tuple(extra), dilations=tuple(dilations), groups=groups,
    )  # fmt: skip
    return [result]


def import_average_pool(op: Application) -> list[Operand]:
    """A grouped convolution with ones, times the reciprocal of how many elements each window counts."""
    x = op.variable(0)
    channels, spatial = x.shape[1], x.shape[2:]
    kernel = [int(k) for k in op.required("kernel_shape")]
    declared = [int(p) for p in op.attribute("pads") or [0] * (2 * len(spatial))]
    strides, pads, dilations, outputs = window(op, spatial, kernel)
    if op.attribute("auto_pad", "NOTSET") != "NOTSET":
        declared = pads
    total = op.builder.emit(
        "conv", (x,), (x.shape[0], channels, *outputs), weight=np.ones((channels, 1, *kernel), np.float32),
        strides=tuple(strides), pads=tuple(pads), dilations=tuple(dilations), groups=channels,
    )  # fmt: skip
    include = bool(op.attribute("count_include_pad", 0))
    counts = np.ones((1,) * (len(spatial) + 2))
    for axis, extent in enumerate(spatial):
        begin = declared[axis] if include else 0
        end = declared[len(spatial) + axis] if include else 0
        starts = np.arange(outputs[axis])[:, None] * strides[axis] - pads[axis]
        read = starts + np.arange(kernel[axis])[None, :] * dilations[axis]
        along = ((read >= -begin) & (read < extent + end)).sum(1).astype(np.float64)
        counts = counts * along.reshape((1, 1, *(-1 if a == axis else 1 for a in range(len(spatial)))))
    if (counts == counts.flat[0]).all():
        counts = counts.reshape(-1)[:1].reshape((1,) * len(x.shape))
    return [op.builder.affine(total, scale=constants.divide(constants.scalar(1.0), Constant(counts)))]


def window_positions(op: Application, shape: Sequence[int], kernel: Sequence[int]) -> np.ndarray:
    """Flat positions that every window of a pooling reads: [*output shape, n], -1 in the padding."""
    spatial = shape[2:]
    strides, pads, dilations, outputs = window(op, spatial, kernel)
    rank = len(spatial)
    flat, valid = np.zeros((1,) * (2 * rank), np.int64), np.ones((1,) * (2 * rank), bool)
    for axis, extent in enumerate(spatial):
        starts = np.arange(outputs[axis])[:, None] * strides[axis] - pads[axis]
        read = starts + np.arange(kernel[axis])[None, :] * dilations[axis]
        layout = [1] * (2 * rank)
        layout[axis], layout[rank + axis] = read.shape
        valid = valid & ((read >= 0) & (read < extent)).reshape(layout)
        flat = flat * extent + np.clip(read, 0, extent - 1).reshape(layout)
    table = np.where(valid, flat, -1).reshape(*outputs, -1)
    base = positions(shape[:2]).reshape(*shape[:2], *(1,) * (rank + 1)) * int(
        np.prod(spatial, dtype=np.int64)
    )
    return np.where(table < 0, -1, base + table)


def import_max_pool(op: Application) -> list[Operand]:
    x = op.variable(0)
    if len(op.outputs) > 1 and op.outputs[1]:
        op.unsupported("its second output (indices)", "re-export without MaxPool indices")
    return [
        op.builder.window_max(x, window_positions(op, x.shape, [int(k) for k in op.required("kernel_shape")]))
    ]


def import_global_average_pool(op: Application) -> list[Operand]:
    x = op.variable(0)
    return [op.builder.mean(x, list(range(2, len(x.shape))), True)]


def import_global_max_pool(op: Application) -> list[Operand]:
    x = op.variable(0)
    windows = positions(x.shape).reshape(*x.shape[:2], *(1,) * (len(x.shape) - 2), -1)
    return [op.builder.window_max(x, windows)]


# ---------------------------------------------------------------------------------------- batch normalisation


def import_batch_normalization(op: Application) -> list[Operand]:
    """``scale (x - mean) / sqrt(variance + epsilon) + shift`` as one affine map with radii."""
    x = op.variable(0)
    if op.attribute("training_mode", 0) or (op.version < 14 and len([o for o in op.outputs if o]) > 1):
        op.unsupported("it is in training mode", "export the network in evaluation mode")
    gamma, beta, mean, variance = (
        op.constant(k, name) for k, name in enumerate(("scale", "B", "mean", "var"), 1)
    )
    epsilon = Constant(op.number("epsilon", 1e-5))
    scale = constants.divide(gamma, constants.square_root(constants.add(variance, epsilon)))
    shift = constants.subtract(beta, constants.multiply(mean, scale))
    channel = (-1, *(1,) * (len(x.shape) - 2))
    if len(x.shape) < 2:
        channel = (-1,)
    return [op.builder.affine(x, *(part.mapped(lambda a: a.reshape(channel)) for part in (scale, shift)))]


HANDLERS = {
    "MatMul": import_matmul,
    "Gemm": import_gemm,
    "Conv": import_conv,
    "ConvTranspose": import_conv_transpose,
    "AveragePool": import_average_pool,
    "MaxPool": import_max_pool,
    "GlobalAveragePool": import_global_average_pool,
    "GlobalMaxPool": import_global_max_pool,
    "BatchNormalization": import_batch_normalization,
}
