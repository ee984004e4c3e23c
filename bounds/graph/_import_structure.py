"""Imports operators that only move elements.

Each is one numpy function of the data operand. Applied to an array it folds a constant; applied to
the flat positions of a variable it yields the ``index`` node that does the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Operand, Value, positions
from provenn.bounds.graph._constants import Constant

Move = Callable[[Application, np.ndarray], list[np.ndarray]]


# ---------------------------------------------------------------------------------------- shapes


def _reshape(op: Application, x: np.ndarray) -> list[np.ndarray]:
    shape = op.attribute("shape") if "shape" in op.attributes else op.integers(1, "shape")
    zero = bool(op.attribute("allowzero", 0))
    target = []
    for axis, extent in enumerate(shape):
        if extent == 0 and not zero:
            if axis >= x.ndim:
                op.fail(f"shape {list(shape)} copies dimension {axis} of an input with {x.ndim} dimensions")
            extent = x.shape[axis]
        target.append(int(extent))
    return [x.reshape(target)]


def _flatten(op: Application, x: np.ndarray) -> list[np.ndarray]:
    axis = int(op.attribute("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    return [x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)]


def _squeeze(op: Application, x: np.ndarray) -> list[np.ndarray]:
    axes = op.list_or_operand("axes", 1)
    return [np.squeeze(x, None if axes is None else tuple(op.axes(axes, x.ndim)))]


def _unsqueeze(op: Application, x: np.ndarray) -> list[np.ndarray]:
    axes = op.list_or_operand("axes", 1)
    if axes is None:
        op.fail("its axes are missing")
    return [np.expand_dims(x, tuple(op.axes(axes, x.ndim + len(axes))))]


def _identity(op: Application, x: np.ndarray) -> list[np.ndarray]:
    return [x]


def _dropout(op: Application, x: np.ndarray) -> list[np.ndarray]:
    if op.has(2) and op.constant(2, "training mode").array.any():
        op.unsupported("it is in training mode", "export the network in evaluation mode")
    return [x, np.ones_like(x, dtype=bool)]


def _transpose(op: Application, x: np.ndarray) -> list[np.ndarray]:
    return [np.transpose(x, op.attribute("perm"))]


# ---------------------------------------------------------------------------------------- parts


def _slice(op: Application, x: np.ndarray) -> list[np.ndarray]:
    starts, ends = op.list_or_operand("starts", 1), op.list_or_operand("ends", 2)
    if starts is None or ends is None:
        op.fail("its starts or ends are missing")
    axes = op.list_or_operand("axes", 3) or list(range(len(starts)))
    steps = op.list_or_operand("steps", 4) or [1] * len(starts)
    selection = [slice(None)] * x.ndim
    for axis, start, end, step in zip(op.axes(axes, x.ndim), starts, ends, steps, strict=True):
        if step == 0:
            op.fail("its step is 0")
        # ONNX clamps ends to [-1, extent] for negative steps after adding the extent once; numpy reads -1 as last.
        extent = x.shape[axis]
        end = end + extent if end < 0 else end
        start = start + extent if start < 0 else start
        if step > 0:
            selection[axis] = slice(max(start, 0), max(min(end, extent), 0), step)
        else:
            selection[axis] = slice(min(max(start, 0), extent - 1), None if end < 0 else end, step)
    return [x[tuple(selection)]]


def _split(op: Application, x: np.ndarray) -> list[np.ndarray]:
    axis = op.axis(int(op.attribute("axis", 0)), x.ndim)
    sizes = op.list_or_operand("split", 1)
    if sizes is None:
        count = int(op.attribute("num_outputs", len(op.outputs)))
        size = -(-x.shape[axis] // count)
        sizes = [size] * (count - 1) + [x.shape[axis] - size * (count - 1)]
    if sum(sizes) != x.shape[axis]:
        op.fail(f"splits {x.shape[axis]} elements into {sizes}")
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _wrapped(indices: np.ndarray, extent: int, op: Application) -> np.ndarray:
    if indices.size and not (-extent <= indices.min() and indices.max() < extent):
        op.fail(f"its indices leave the range of {extent} elements")
    return np.where(indices < 0, indices + extent, indices).astype(np.int64)


def _gather(op: Application, x: np.ndarray) -> list[np.ndarray]:
    axis = op.axis(int(op.attribute("axis", 0)), x.ndim)
    return [np.take(x, _wrapped(op.constant(1, "indices").array, x.shape[axis], op), axis)]


def _gather_elements(op: Application, x: np.ndarray) -> list[np.ndarray]:
    axis = op.axis(int(op.attribute("axis", 0)), x.ndim)
    indices = _wrapped(op.constant(1, "indices").array, x.shape[axis], op)
    trimmed = x[tuple(slice(None) if a == axis else slice(0, n) for a, n in enumerate(indices.shape))]
    return [np.take_along_axis(trimmed, indices, axis)]


def _gather_nd(op: Application, x: np.ndarray) -> list[np.ndarray]:
    indices = op.constant(1, "indices").array
    batch = int(op.attribute("batch_dims", 0))
    depth = indices.shape[-1]
    leading = np.indices(indices.shape[:-1])[:batch]
    selection = [_wrapped(indices[..., k], x.shape[batch + k], op) for k in range(depth)]
    where = (*leading, *selection)
    return [x[where]]


def _expand(op: Application, x: np.ndarray) -> list[np.ndarray]:
    shape = np.broadcast_shapes(x.shape, tuple(op.integers(1, "shape")))
    return [np.broadcast_to(x, shape)]


def _tile(op: Application, x: np.ndarray) -> list[np.ndarray]:
    return [np.tile(x, op.integers(1, "repeats"))]


def _depth_to_space(op: Application, x: np.ndarray) -> list[np.ndarray]:
    block = int(op.required("blocksize"))
    n, c, h, w = x.shape
    if op.attribute("mode", "DCR") == "DCR":
        moved = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        moved = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return [moved.reshape(n, c // block**2, h * block, w * block)]


def _space_to_depth(op: Application, x: np.ndarray) -> list[np.ndarray]:
    block = int(op.required("blocksize"))
    n, c, h, w = x.shape
    moved = x.reshape(n, c, h // block, block, w // block, block).transpose(0, 3, 5, 1, 2, 4)
    return [moved.reshape(n, c * block**2, h // block, w // block)]


def _trilu(op: Application, x: np.ndarray) -> list[np.ndarray]:
    diagonal = op.integers(1, "diagonal")[0] if op.has(1) else 0
    rows, columns = np.indices(x.shape[-2:])
    kept = columns - rows >= diagonal if op.attribute("upper", 1) else columns - rows <= diagonal
    return [np.where(kept, x, _absent(x))]


def _reverse(op: Application, x: np.ndarray) -> list[np.ndarray]:
    lengths = op.integers(1, "sequence lengths")
    batch, time = int(op.attribute("batch_axis", 1)), int(op.attribute("time_axis", 0))
    moved = np.moveaxis(x, (batch, time), (0, 1)).copy()
    for row, length in enumerate(lengths):
        moved[row, :length] = moved[row, :length][::-1]
    return [np.moveaxis(moved, (0, 1), (batch, time))]


# ---------------------------------------------------------------------------------------- padding


class _Positions(np.ndarray):
    """Marks flat positions, for which a missing element is -1 and not 0."""


def _absent(x: np.ndarray) -> int:
    return -1 if isinstance(x, _Positions) else 0


def pad_widths(op: Application, rank: int) -> list[tuple[int, int]]:
    """(begin, end) for every axis."""
    pads = op.list_or_operand("pads", 1) or op.list_or_operand("paddings", 1)
    if pads is None:
        op.fail("its pads are missing")
    axes = op.axes(op.integers(3, "axes"), rank) if op.has(3) else list(range(rank))
    if len(pads) != 2 * len(axes):
        op.fail(f"has {len(pads)} pads, expected {2 * len(axes)}")
    widths = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        widths[axis] = (pads[position], pads[position + len(axes)])
    return widths


def _pad_index(op: Application, x: np.ndarray) -> np.ndarray:
    """Pad positions: constant mode puts -1, the other modes repeat positions. Negative pads crop."""
    mode = op.attribute("mode", "constant")
    widths = pad_widths(op, x.ndim)
    crop = tuple(slice(max(-b, 0), n - max(-e, 0)) for (b, e), n in zip(widths, x.shape, strict=True))
    grow = [(max(b, 0), max(e, 0)) for b, e in widths]
    x = np.asarray(x)[crop]
    if mode == "constant":
        return np.pad(x, grow, constant_values=-1)
    if mode not in ("reflect", "edge", "wrap"):
        op.fail(f"unknown mode {mode!r}")
    return np.pad(x, grow, mode=mode)


def import_pad(op: Application) -> list[Operand]:
    """Constant and repeating padding as one index map; a nonzero fill is a constant shift."""
    x = op.operand(0)
    indices = _pad_index(op, positions(x.shape))
    fill = op.optional(2, "fill value") if op.version >= 11 else None
    number = op.scalar(fill, "fill value") if fill is not None else float(op.attribute("value", 0.0))
    absent = indices < 0
    if isinstance(x, Constant):
        filler = np.asarray(number).astype(x.array.dtype)

        def filled(part: np.ndarray, value: float | np.ndarray) -> np.ndarray:
            return np.where(absent, value, part.reshape(-1)[indices]).astype(part.dtype)

        real = None if x.real is None else filled(x.real, number)
        radius = None if x.radius is None else filled(x.radius, 0.0)
        return [Constant(filled(x.array, filler), real, radius)]
    moved = op.builder.index(x, indices)
    if number == 0.0 or not absent.any():
        return [moved]
    return [op.builder.affine(moved, shift=Constant(np.where(absent, number, 0.0)))]


# ---------------------------------------------------------------------------------------- several operands


def import_concat(op: Application) -> list[Operand]:
    parts = op.operands()
    rank = len(parts[0].shape)
    axis = op.axis(int(op.required("axis") if op.version >= 4 else op.attribute("axis", 1)), rank)
    for part in parts:
        if len(part.shape) != rank or any(
            p != q for a, (p, q) in enumerate(zip(part.shape, parts[0].shape, strict=True)) if a != axis
        ):
            op.fail(f"joins shapes {[list(p.shape) for p in parts]} along axis {axis}")
    parts = [part for part in parts if part.shape[axis]]
    if all(isinstance(part, Constant) for part in parts):
        return [concatenate([part for part in parts if isinstance(part, Constant)], axis)]
    return [op.builder.concat([op.builder.value(part) for part in parts], axis)]


def concatenate(parts: list[Constant], axis: int) -> Constant:
    array = np.concatenate([part.array for part in parts], axis)
    if all(part.real is None for part in parts):
        return Constant(array)
    real = np.concatenate([part.value for part in parts], axis).astype(np.float64)
    if all(part.radius is None for part in parts):
        return Constant(array, real)
    radii = [np.zeros(part.shape) if part.radius is None else part.radius for part in parts]
    return Constant(array, real, np.concatenate(radii, axis))


def scatter_map(op: Application, shape: tuple[int, ...], indices: np.ndarray) -> np.ndarray:
    """Where each element of ScatterND's result comes from: [data, updates] flattened and joined."""
    result = positions(shape)
    depth = indices.shape[-1]
    tail = shape[depth:]
    source = np.arange(int(np.prod((*indices.shape[:-1], *tail), dtype=np.int64))) + result.size
    selection = tuple(_wrapped(indices[..., k], shape[k], op) for k in range(depth))
    result[selection] = source.reshape((*indices.shape[:-1], *tail))
    return result


def scatter_elements_map(op: Application, shape: tuple[int, ...], indices: np.ndarray) -> np.ndarray:
    result = positions(shape)
    axis = op.axis(int(op.attribute("axis", 0)), len(shape))
    source = np.arange(indices.size).reshape(indices.shape) + result.size
    where: list[np.ndarray] = list(np.indices(indices.shape))
    where[axis] = _wrapped(indices, shape[axis], op)
    result[tuple(where)] = source
    return result


def import_scatter(op: Application) -> list[Operand]:
    """ScatterND and ScatterElements; an index that depends on the input stays an opaque operator."""
    if op.attribute("reduction", "none") != "none":
        op.unsupported(f"reduction {op.attribute('reduction')!r}", "re-export without a reduction")
    data, indices, updates = op.operand(0), op.operand(1), op.operand(2)
    b = op.builder
    if isinstance(indices, Value):
        if op.operator != "ScatterND":
            op.unsupported("its indices depend on the network's input", "re-export with constant indices")
        return [
            b.emit("scatter_nd", (b.value(data), indices, b.value(updates)), data.shape, data.scalar_type)
        ]
    table = scatter_map if op.operator == "ScatterND" else scatter_elements_map
    source = table(op, data.shape, indices.array)
    if isinstance(data, Constant) and isinstance(updates, Constant):
        joined = concatenate([data.mapped(np.ravel), updates.mapped(np.ravel)], 0)
        return [joined.mapped(lambda a: a[source])]
    return [b.assemble([data, updates], source)]


# ---------------------------------------------------------------------------------------- applying moves

MOVES: dict[str, Move] = {
    "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Identity": _identity, "Dropout": _dropout, "Transpose": _transpose, "Slice": _slice, "Split": _split,
    "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_nd, "Expand": _expand,
    "Tile": _tile, "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth, "Trilu": _trilu,
    "ReverseSequence": _reverse,
}  # fmt: skip


def import_move(op: Application) -> list[Operand]:
    """Fold a move of a constant, or turn a move of a variable into reshape, transpose or index."""
    x, move = op.operand(0), MOVES[op.operator]
    if isinstance(x, Constant) and not any(isinstance(operand, Value) for operand in op.operands()):
        arrays = move(op, x.array)
        absent = [None] * len(arrays)
        real = absent if x.real is None else move(op, x.real)
        radius = absent if x.radius is None else move(op, x.radius)
        return [Constant(*parts) for parts in zip(arrays, real, radius, strict=True)]
    if op.operator == "Slice" and any(isinstance(operand, Value) for operand in op.inputs[1:]):
        return [_variable_slice(op, x)]
    if op.operator == "Gather" and isinstance(op.operand(1), Value):
        return [_variable_gather(op, x)]
    x = op.builder.value(x)
    moved = move(op, positions(x.shape).view(_Positions))
    if op.operator == "Transpose":
        return [op.builder.transpose(x, op.attribute("perm") or list(range(len(x.shape)))[::-1])]
    return [
        Constant(np.asarray(part)) if part.dtype == bool else op.builder.index(x, np.asarray(part))
        for part in moved
    ]


def _variable_slice(op: Application, x: Operand) -> Value:
    """A slice of constant length whose start depends on the input.

    Its result is shorter where it leaves the range; shapes are static here, so those elements need a
    meaning. In a slice of 0, 1, 2, ... they keep counting: as coordinates of ScatterND they then lie
    outside the tensor and are dropped, as ONNX drops them. Any other slice is a gather that is not a
    number, and has an infinite box, where it leaves the range.
    """
    start, end = op.operand(1), op.operand(2)
    axes, steps = op.optional(3, "axes"), op.optional(4, "steps")
    step = int(steps.array.reshape(-1)[0]) if steps is not None else 1
    length = op.builder.difference(end, start)
    if length is None or length.size != 1 or step != 1:
        op.unsupported("its length depends on the network's input", "re-export with constant starts and ends")
    axis = op.axis(int(axes.array.reshape(-1)[0]) if axes is not None else 0, len(x.shape))
    count = max(int(length.reshape(())), 0)
    if count > x.shape[axis]:
        op.fail(f"takes {count} of {x.shape[axis]} elements")
    offsets = Constant(np.arange(count, dtype=np.int64))
    first = op.builder.reshape(op.builder.value(start), (1,))
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    if isinstance(x, Constant) and len(x.shape) == 1 and np.array_equal(x.array, np.arange(x.shape[0])):
        return op.builder.coordinates(first, offsets)
    indices = op.builder.affine(first, shift=offsets)
    data = op.builder.value(x)
    return op.builder.emit("gather", (data, indices), shape, x.scalar_type, axis=axis, wrap=False)


def _variable_gather(op: Application, x: Operand) -> Value:
    """Gather with indices that depend on the input."""
    indices = op.variable(1)
    axis = op.axis(int(op.attribute("axis", 0)), len(x.shape))
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return op.builder.emit("gather", (op.builder.value(x), indices), shape, x.scalar_type, axis=axis)


HANDLERS = {
    **dict.fromkeys(MOVES, import_move),
    "Pad": import_pad,
    "Concat": import_concat,
    "ScatterND": import_scatter,
    "ScatterElements": import_scatter,
    "Scatter": import_scatter,
}
