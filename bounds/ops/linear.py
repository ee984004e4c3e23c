"""Operators that compute affine maps by products and sums: linear, matmul_left, affine, add, sub, sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops._operator import Box, LinearOperator, Prepared
from provenn.bounds.ops._outward import UNIT, largest, widen, without_nan
from provenn.bounds.ops._sparse import gather_product, sparse_form, tensors_of

Shapes = tuple[tuple[int, ...], ...]


def inflated(prepared: Prepared, name: str, length: int) -> Tensor:
    """Return |constant| + radius / (length 2^-53), cached: what ``magnitude`` multiplies by."""
    value = prepared.tensors[name]
    key = f"{name}_magnitude"
    found = prepared.tensors.get(key)
    if found is None:
        found = value.abs()
        radius = prepared.tensors.get(f"{name}_radius")
        if radius is not None:
            found = found + radius / (length * UNIT)
        prepared.tensors[key] = found
    return found


def centred(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return centre and radius; for infinite ends they are not numbers and ``widen`` makes the bound infinite."""
    return lower * 0.5 + upper * 0.5, upper * 0.5 - lower * 0.5


def has_radius(prepared: Prepared, *names: str) -> bool:
    return any(f"{name}_radius" in prepared.tensors for name in names)


# ---------------------------------------------------------------------------------------- linear


def _derive_linear(node: Node, shapes: Shapes) -> dict[str, Any]:
    length = max(np.shape(node.attributes["weight"])) + 2  # the transpose sums over the other axis
    sparse = sparse_form(node)
    if sparse is None:
        return {"length": length}
    length = max(sparse.columns.weights.shape[1], sparse.rows.weights.shape[1]) + 2
    return {"length": length, "sparse": sparse, "unused": ("weight", "weight_radius")}


def _length_stored(prepared: Prepared) -> int:
    return prepared.derived["length"]


def _terms(prepared: Prepared, kind: str, side: str = "columns") -> tuple[Tensor, Tensor]:
    """Positions and weights of a sparse matrix, made on first use."""
    if "columns_weights" not in prepared.tensors:
        made = tensors_of(
            prepared.derived["sparse"], prepared.derived["length"], prepared.dtype, prepared.device
        )
        prepared.tensors.update(made)
    return prepared.tensors[f"{side}_positions"], prepared.tensors[f"{side}_{kind}"]


def _evaluate_linear(prepared: Prepared, x: Tensor) -> Tensor:
    if "sparse" in prepared.derived:
        y = gather_product(x, *_terms(prepared, "weights"))
    else:
        y = torch.matmul(x, prepared.tensors["weight"])
    bias = prepared.tensors.get("bias")
    return y if bias is None else y + bias


def _magnitude_linear(prepared: Prepared, m: Tensor) -> Tensor:
    length = prepared.derived["length"]
    if "sparse" in prepared.derived:
        y = gather_product(m, *_terms(prepared, "inflated"))
    else:
        y = torch.matmul(m, inflated(prepared, "weight", length))
    return y + inflated(prepared, "bias", length) if "bias" in prepared.tensors else y


def _interval_linear(prepared: Prepared, box: Box) -> Box:
    centre, radius = centred(*box)
    y = _evaluate_linear(prepared, centre)
    if "sparse" in prepared.derived:
        spread = gather_product(radius, *_terms(prepared, "absolute"))
    else:
        spread = torch.matmul(radius, _absolute(prepared))
    return widen(
        y - spread, y + spread, _magnitude_linear(prepared, largest(*box)), prepared.derived["length"]
    )


def _absolute(prepared: Prepared) -> Tensor:
    """|weight| without the radius, shared with the magnitude where there is none."""
    if not has_radius(prepared, "weight"):
        return inflated(prepared, "weight", 1)
    if "weight_absolute" not in prepared.tensors:
        prepared.tensors["weight_absolute"] = prepared.tensors["weight"].abs()
    return prepared.tensors["weight_absolute"]


def _transpose_linear(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    if "sparse" in prepared.derived:
        return (gather_product(a, *_terms(prepared, "weights", "rows")),)
    return (torch.matmul(a, prepared.tensors["weight"].mT),)


def _offset_bias(prepared: Prepared) -> Tensor | None:
    bias = prepared.tensors.get("bias")
    return None if bias is None else bias.expand(prepared.shape)


# ---------------------------------------------------------------------------------------- matmul_left


def _derive_matmul_left(node: Node, shapes: Shapes) -> dict[str, Any]:
    weight_rank, rank = np.ndim(node.attributes["weight"]), len(shapes[0])
    # numpy's rule broadcasts batch axes; the transpose sums those that only the weight has or that x has as 1.
    missing = max(weight_rank - rank, 0)
    grown = tuple(
        axis + 1
        for axis in range(missing, len(node.shape) - 2)
        if shapes[0][axis - missing] == 1 and node.shape[axis] > 1
    )
    added = tuple(axis + 1 for axis in range(missing))
    repeats = int(np.prod([node.shape[axis - 1] for axis in added + grown], dtype=np.int64))
    length = (max(np.shape(node.attributes["weight"])[-2:]) + 2) * max(repeats, 1)
    return {"length": length, "grown": grown, "added": added}


def _aligned(prepared: Prepared, x: Tensor) -> Tensor:
    """Insert size-1 axes after the domain axis where the weight has more batch axes than x."""
    for _ in prepared.derived["added"]:
        x = x.unsqueeze(1)
    return x


def _evaluate_matmul_left(prepared: Prepared, x: Tensor) -> Tensor:
    return torch.matmul(prepared.tensors["weight"], _aligned(prepared, x))


def _magnitude_matmul_left(prepared: Prepared, m: Tensor) -> Tensor:
    return torch.matmul(inflated(prepared, "weight", prepared.derived["length"]), _aligned(prepared, m))


def _interval_matmul_left(prepared: Prepared, box: Box) -> Box:
    centre, radius = centred(*box)
    y = _evaluate_matmul_left(prepared, centre)
    spread = torch.matmul(_absolute(prepared), _aligned(prepared, radius))
    magnitude = _magnitude_matmul_left(prepared, largest(*box))
    return widen(y - spread, y + spread, magnitude, prepared.derived["length"])


def _transpose_matmul_left(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    result = torch.matmul(prepared.tensors["weight"].mT, a)
    if prepared.derived["grown"]:
        result = result.sum(prepared.derived["grown"], keepdim=True)
    if prepared.derived["added"]:
        result = result.sum(prepared.derived["added"])
    return (result,)


def _no_offset(prepared: Prepared) -> None:
    return None


# ---------------------------------------------------------------------------------------- affine


def _evaluate_affine(prepared: Prepared, x: Tensor) -> Tensor:
    scale, shift = prepared.tensors.get("scale"), prepared.tensors.get("shift")
    if scale is not None:
        x = x * scale
    return x if shift is None else x + shift


def _magnitude_affine(prepared: Prepared, m: Tensor) -> Tensor:
    if "scale" in prepared.tensors:
        m = m * inflated(prepared, "scale", 2)
    return m + inflated(prepared, "shift", 2) if "shift" in prepared.tensors else m


def _derive_affine(node: Node, shapes: Shapes) -> dict[str, Any]:
    """Integers and booleans times integers are exact in float64: their boxes must stay points."""
    parts = [node.attributes[name] for name in ("scale", "shift") if name in node.attributes]
    whole = all(np.array_equal(part, np.trunc(part)) for part in parts)
    return {"exact": _is_integer(node) and whole and not any("radius" in name for name in node.attributes)}


def _is_integer(node: Node) -> bool:
    return np.dtype(node.scalar_type).kind in "iub"


def _interval_affine(prepared: Prepared, box: Box) -> Box:
    lower, upper = _evaluate_affine(prepared, box[0]), _evaluate_affine(prepared, box[1])
    if "scale" in prepared.tensors:
        # 0 * inf is not a number here; without_nan turns it into an infinite bound after sorting.
        lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)
    if prepared.derived["exact"]:
        return without_nan(lower, upper)
    return widen(lower, upper, _magnitude_affine(prepared, largest(*box)), 2)


def _transpose_affine(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    scale = prepared.tensors.get("scale")
    return (a if scale is None else a * scale,)


def _offset_affine(prepared: Prepared) -> Tensor | None:
    shift = prepared.tensors.get("shift")
    return None if shift is None else shift.expand(prepared.shape)


def _length_affine(prepared: Prepared) -> int:
    return 2


# ---------------------------------------------------------------------------------------- add, sub, sum


def _evaluate_add(prepared: Prepared, *inputs: Tensor) -> Tensor:
    total = inputs[0] + inputs[1]
    for x in inputs[2:]:
        total = total + x
    return total


def _interval_add(prepared: Prepared, *boxes: Box) -> Box:
    lower = _evaluate_add(prepared, *(box[0] for box in boxes))
    upper = _evaluate_add(prepared, *(box[1] for box in boxes))
    if _is_integer(prepared.node):
        return without_nan(lower, upper)
    magnitude = _evaluate_add(prepared, *(largest(*box) for box in boxes))
    return widen(lower, upper, magnitude, len(boxes))


def _transpose_add(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    return (a,) * len(prepared.node.inputs)


def _length_add(prepared: Prepared) -> int:
    return len(prepared.node.inputs)


def _evaluate_sub(prepared: Prepared, x: Tensor, y: Tensor) -> Tensor:
    return x - y


def _interval_sub(prepared: Prepared, x: Box, y: Box) -> Box:
    if _is_integer(prepared.node):
        return without_nan(x[0] - y[1], x[1] - y[0])
    return widen(x[0] - y[1], x[1] - y[0], largest(*x) + largest(*y), 2)


def _transpose_sub(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    return a, -a


def _magnitude_sub(prepared: Prepared, x: Tensor, y: Tensor) -> Tensor:
    return x + y


def _derive_sum(node: Node, shapes: Shapes) -> dict[str, Any]:
    axes = tuple(sorted(int(axis) for axis in node.attributes["axes"]))
    kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(shapes[0]))
    count = int(np.prod([shapes[0][axis] for axis in axes], dtype=np.int64))
    return {"axes": tuple(axis + 1 for axis in axes), "kept": kept, "length": max(count, 1)}


def _evaluate_sum(prepared: Prepared, x: Tensor) -> Tensor:
    axes = prepared.derived["axes"]
    return x.sum(axes, keepdim=bool(prepared.node.attributes["keepdims"])) if axes else x


def _interval_sum(prepared: Prepared, box: Box) -> Box:
    lower, upper = _evaluate_sum(prepared, box[0]), _evaluate_sum(prepared, box[1])
    return widen(lower, upper, _evaluate_sum(prepared, largest(*box)), prepared.derived["length"])


def _transpose_sum(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    a = a.reshape(a.shape[0], *prepared.derived["kept"])
    return (a.expand(a.shape[0], *prepared.input_shapes[0]),)


OPERATORS = (
    LinearOperator(
        "linear",
        _evaluate_linear,
        _interval_linear,
        ("weight", "bias", "weight_radius", "bias_radius"),
        derive=_derive_linear,
        transpose=_transpose_linear,
        offset=_offset_bias,
        magnitude=_magnitude_linear,
        length=_length_stored,
    ),
    LinearOperator(
        "matmul_left",
        _evaluate_matmul_left,
        _interval_matmul_left,
        ("weight", "weight_radius"),
        derive=_derive_matmul_left,
        transpose=_transpose_matmul_left,
        offset=_no_offset,
        magnitude=_magnitude_matmul_left,
        length=_length_stored,
    ),
    LinearOperator(
        "affine",
        _evaluate_affine,
        _interval_affine,
        ("scale", "shift", "scale_radius", "shift_radius"),
        derive=_derive_affine,
        transpose=_transpose_affine,
        offset=_offset_affine,
        magnitude=_magnitude_affine,
        length=_length_affine,
    ),
    LinearOperator(
        "add",
        _evaluate_add,
        _interval_add,
        transpose=_transpose_add,
        offset=_no_offset,
        magnitude=_evaluate_add,
        length=_length_add,
    ),
    LinearOperator(
        "sub",
        _evaluate_sub,
        _interval_sub,
        transpose=_transpose_sub,
        offset=_no_offset,
        magnitude=_magnitude_sub,
        length=_length_add,
    ),
    LinearOperator(
        "sum",
        _evaluate_sum,
        _interval_sum,
        derive=_derive_sum,
        transpose=_transpose_sum,
        offset=_no_offset,
        magnitude=_evaluate_sum,
        length=_length_stored,
    ),
)
