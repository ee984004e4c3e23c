"""Operators that move elements and never compute: input, constant, reshape, transpose, index, concat."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops._operator import Box, LinearOperator, Prepared
from provenn.bounds.ops._outward import UNIT

Shapes = tuple[tuple[int, ...], ...]


def _no_offset(prepared: Prepared) -> None:
    return None


def _no_rounding(prepared: Prepared) -> int:
    return 0


# ---------------------------------------------------------------------------------------- input, constant


def _evaluate_input(prepared: Prepared) -> Tensor:
    raise RuntimeError(f"the value of graph input {prepared.node.name!r} is given, not computed")


def _interval_input(prepared: Prepared) -> Box:
    raise RuntimeError(f"the box of graph input {prepared.node.name!r} is given, not computed")


def _no_inputs(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    return ()


def _evaluate_constant(prepared: Prepared) -> Tensor:
    return prepared.tensors["value"].unsqueeze(0)


def _interval_constant(prepared: Prepared) -> Box:
    value = prepared.tensors["value"].unsqueeze(0)
    radius = prepared.tensors.get("radius")
    if radius is None:
        return value, value
    infinity = torch.full_like(value, float("inf"))
    lower, upper = torch.nextafter(value - radius, -infinity), torch.nextafter(value + radius, infinity)
    return torch.where(radius > 0, lower, value), torch.where(radius > 0, upper, value)


def _offset_constant(prepared: Prepared) -> Tensor:
    return prepared.tensors["value"]


def _magnitude_constant(prepared: Prepared) -> Tensor:
    size = prepared.tensors["value"].abs()
    if "radius" in prepared.tensors:
        size = size + prepared.tensors["radius"] / UNIT
    return size.unsqueeze(0)


def _length_constant(prepared: Prepared) -> int:
    return 1 if "radius" in prepared.tensors else 0


# ---------------------------------------------------------------------------------------- reshape, transpose


def _reshape(prepared: Prepared, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], *prepared.shape)


def _interval_reshape(prepared: Prepared, box: Box) -> Box:
    return _reshape(prepared, box[0]), _reshape(prepared, box[1])


def _transpose_reshape(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    return (a.reshape(a.shape[0], *prepared.input_shapes[0]),)


def _derive_transpose(node: Node, shapes: Shapes) -> dict[str, Any]:
    perm = [int(axis) for axis in node.attributes["perm"]]
    inverse = [perm.index(axis) for axis in range(len(perm))]
    return {"forward": (0, *(axis + 1 for axis in perm)), "backward": (0, *(axis + 1 for axis in inverse))}


def _evaluate_transpose(prepared: Prepared, x: Tensor) -> Tensor:
    return x.permute(prepared.derived["forward"])


def _interval_transpose(prepared: Prepared, box: Box) -> Box:
    return _evaluate_transpose(prepared, box[0]), _evaluate_transpose(prepared, box[1])


def _transpose_transpose(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    return (a.permute(prepared.derived["backward"]),)


# ---------------------------------------------------------------------------------------- index


def strided_layout(indices: np.ndarray) -> tuple[int, tuple[int, ...]] | None:
    """Return (start, strides) with ``indices[i] = start + strides . i``, or None if there are none.

    Slices with positive steps, splits and broadcasts have such a layout; torch can then view instead of gather.
    """
    if indices.size == 0 or indices.flat[0] < 0:
        return None
    start = int(indices.flat[0])
    expected = np.full((1,) * indices.ndim, start, dtype=np.int64)
    strides = []
    for axis, extent in enumerate(indices.shape):
        first = (0,) * axis
        rest = (0,) * (indices.ndim - axis - 1)
        second = (*first, 1, *rest)
        stride = int(indices[second]) - start if extent > 1 else 0
        if stride < 0:
            return None
        strides.append(stride)
        steps = np.arange(extent, dtype=np.int64) * stride
        expected = expected + steps.reshape((extent,) + (1,) * (indices.ndim - axis - 1))
    return (start, tuple(strides)) if np.array_equal(expected, indices) else None


def _split_axes(indices: np.ndarray) -> tuple[int, ...]:
    """Shape in which axes that repeat elements (a a b b) or periods (a b a b) are split in two.

    Nearest-neighbour upsampling and tiling have a strided layout in the split shape.
    """
    shape: list[int] = []
    for axis, extent in enumerate(indices.shape):
        line = indices[(0,) * axis + (slice(None),) + (0,) * (indices.ndim - axis - 1)]
        change = np.flatnonzero(line != line[0])
        block = int(change[0]) if change.size else extent
        again = np.flatnonzero(line[1:] == line[0]) + 1
        period = int(again[0]) if again.size else extent
        if 1 < block < extent and extent % block == 0:
            shape += [extent // block, block]
        elif 1 < period < extent and extent % period == 0:
            shape += [extent // period, period]
        else:
            shape.append(extent)
    return tuple(shape)


def _derive_index(node: Node, shapes: Shapes) -> dict[str, Any]:
    indices = np.asarray(node.attributes["indices"], dtype=np.int64).reshape(node.shape)
    size = int(np.prod(shapes[0], dtype=np.int64))
    derived: dict[str, Any] = {"size": size}
    layout = strided_layout(indices)
    if layout is None and indices.size and indices.min() >= 0:
        indices = indices.reshape(_split_axes(indices))
        layout = strided_layout(indices)
    if layout is not None:
        start, strides = layout
        reduced = tuple(
            axis for axis, stride in enumerate(strides) if stride == 0 and indices.shape[axis] > 1
        )
        kept = indices[tuple(slice(0, 1) if axis in reduced else slice(None) for axis in range(indices.ndim))]
        if np.unique(kept).size == kept.size:
            found = {"start": start, "strides": strides, "reduced": reduced, "kept": kept.shape}
            return derived | found | {"view": indices.shape}
    flat = indices.reshape(-1)
    outputs = np.flatnonzero(flat >= 0)
    targets = flat[outputs]
    derived["gather"] = flat if outputs.size == flat.size else np.where(flat < 0, size, flat)
    derived["absent"] = outputs.size != flat.size
    if np.unique(targets).size == targets.size:
        inverse = np.full(size, flat.size, dtype=np.int64)
        inverse[targets] = outputs
        derived["inverse"] = inverse
        derived["unread"] = targets.size != size
    else:
        derived["scatter"] = np.where(flat < 0, size, flat)
    return derived


def _tensor(prepared: Prepared, name: str) -> Tensor:
    """Move a derived index array to the device on first use."""
    found = prepared.tensors.get(name)
    if found is None:
        found = torch.from_numpy(np.ascontiguousarray(prepared.derived[name])).to(prepared.device)
        prepared.tensors[name] = found
    return found


def _with_zero(flat: Tensor) -> Tensor:
    return torch.cat([flat, flat.new_zeros(flat.shape[0], 1)], dim=1)


def _evaluate_index(prepared: Prepared, x: Tensor) -> Tensor:
    derived = prepared.derived
    flat = x.reshape(x.shape[0], derived["size"])
    if "strides" in derived:
        # Through index arithmetic on a contiguous tensor a strided view is a gather without a copy.
        flat = flat.contiguous()
        shape, strides = (x.shape[0], *derived["view"]), (derived["size"], *derived["strides"])
        view = flat.as_strided(shape, strides, flat.storage_offset() + derived["start"])
        return view.reshape(x.shape[0], *prepared.shape)
    if derived["absent"]:
        flat = _with_zero(flat)
    return flat.index_select(1, _tensor(prepared, "gather")).reshape(x.shape[0], *prepared.shape)


def _interval_index(prepared: Prepared, box: Box) -> Box:
    return _evaluate_index(prepared, box[0]), _evaluate_index(prepared, box[1])


def _transpose_index(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    derived = prepared.derived
    count, size = a.shape[0], derived["size"]
    shape = (count, *prepared.input_shapes[0])
    if "strides" in derived:
        a = a.reshape(count, *derived["view"])
        if derived["reduced"]:
            a = a.sum(tuple(axis + 1 for axis in derived["reduced"]), keepdim=True)
        result = a.new_zeros(count, size)
        result.as_strided((count, *derived["kept"]), (size, *derived["strides"]), derived["start"]).copy_(a)
        return (result.reshape(shape),)
    flat = a.reshape(count, -1)
    if "inverse" in derived:
        if derived["unread"]:
            flat = _with_zero(flat)
        return (flat.index_select(1, _tensor(prepared, "inverse")).reshape(shape),)
    result = a.new_zeros(count, size + 1)
    result.index_add_(1, _tensor(prepared, "scatter"), flat)
    return (result[:, :size].reshape(shape),)


def _length_index(prepared: Prepared) -> int:
    """Forward is exact; a transposed coefficient sums as many terms as an element is read."""
    if "repeats" not in prepared.derived:
        flat = np.asarray(prepared.node.attributes["indices"]).reshape(-1)
        flat = flat[flat >= 0]
        prepared.derived["repeats"] = int(np.bincount(flat).max()) - 1 if flat.size else 0
    return prepared.derived["repeats"]


# ---------------------------------------------------------------------------------------- concat


def _derive_concat(node: Node, shapes: Shapes) -> dict[str, Any]:
    axis = int(node.attributes["axis"])
    return {"axis": axis + 1, "sizes": [shape[axis] for shape in shapes]}


def _evaluate_concat(prepared: Prepared, *parts: Tensor) -> Tensor:
    count = max(part.shape[0] for part in parts)
    parts = tuple(part if part.shape[0] == count else part.expand(count, *part.shape[1:]) for part in parts)
    return torch.cat(parts, dim=prepared.derived["axis"])


def _interval_concat(prepared: Prepared, *boxes: Box) -> Box:
    return _evaluate_concat(prepared, *(b[0] for b in boxes)), _evaluate_concat(
        prepared, *(b[1] for b in boxes)
    )


def _transpose_concat(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    return a.split(prepared.derived["sizes"], dim=prepared.derived["axis"])


OPERATORS = (
    LinearOperator(
        "input",
        _evaluate_input,
        _interval_input,
        transpose=_no_inputs,
        offset=_no_offset,
        magnitude=_evaluate_input,
        length=_no_rounding,
    ),
    LinearOperator(
        "constant",
        _evaluate_constant,
        _interval_constant,
        ("value", "radius"),
        transpose=_no_inputs,
        offset=_offset_constant,
        magnitude=_magnitude_constant,
        length=_length_constant,
    ),
    LinearOperator(
        "reshape",
        _reshape,
        _interval_reshape,
        transpose=_transpose_reshape,
        offset=_no_offset,
        magnitude=_reshape,
        length=_no_rounding,
    ),
    LinearOperator(
        "transpose",
        _evaluate_transpose,
        _interval_transpose,
        derive=_derive_transpose,
        transpose=_transpose_transpose,
        offset=_no_offset,
        magnitude=_evaluate_transpose,
        length=_no_rounding,
    ),
    LinearOperator(
        "index",
        _evaluate_index,
        _interval_index,
        derive=_derive_index,
        transpose=_transpose_index,
        offset=_no_offset,
        magnitude=_evaluate_index,
        length=_length_index,
    ),
    LinearOperator(
        "concat",
        _evaluate_concat,
        _interval_concat,
        derive=_derive_concat,
        transpose=_transpose_concat,
        offset=_no_offset,
        magnitude=_evaluate_concat,
        length=_no_rounding,
    ),
)
