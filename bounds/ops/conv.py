"""Convolution and transposed convolution in 1, 2 and 3 dimensions; each is the other's transpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops._operator import Box, LinearOperator, Prepared
from provenn.bounds.ops._outward import largest, widen
from provenn.bounds.ops._unfold import (
    convolve,
    is_last,
    phased_kernel,
    spread,
    spread_phased,
    spread_points,
)
from provenn.bounds.ops.linear import centred, has_radius, inflated

Shapes = tuple[tuple[int, ...], ...]
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# Multiplications below which the library's float64 kernel is as fast as copied windows.
_WORTH = 1 << 20
# Entries of a window's whole matrix up to which one product with it beats anything cleverer.
_UNROLLED = 1 << 17
_SPREAD = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _padding(begin: int, end: int, wide: int, full: int, stride: int) -> tuple[int, int, int, int]:
    """Return (common padding, rest at the begin, rest at the end, output padding) for one axis.

    Symmetric padding by ``begin`` is enough where it adds no window: its kernels need no copy. The
    positions that the last stride leaves unread are then the output padding of the transpose.
    Otherwise the axis is padded explicitly by the rest; a negative rest crops.
    """
    unread = wide + 2 * begin - full
    if begin >= 0 and 0 <= unread < stride:
        return begin, 0, 0, unread
    common = max(0, min(begin, end))
    return common, begin - common, end - common, 0


def _derive(node: Node, wide: Sequence[int], narrow: Sequence[int]) -> dict[str, Any]:
    """Plan the map from the ``wide`` to the ``narrow`` spatial extents (strided convolution) and its transpose.

    With begin padding b the window of output o reads wide positions ``o s - b + k d``. All windows
    together span ``full = (narrow - 1) s + d (kernel - 1) + 1``, so ``full - b - wide`` is the end
    padding that a convolution needs (it differs from ONNX's where the last stride leaves a rest).
    """
    weight, attributes = node.attributes["weight"], node.attributes
    kernel = np.shape(weight)[2:]
    count = len(kernel)
    strides, dilations = tuple(attributes["strides"]), tuple(attributes["dilations"])
    begin = tuple(int(p) for p in attributes["pads"][:count])
    full = [
        (n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(narrow, strides, dilations, kernel, strict=True)
    ]
    end = tuple(f - b - w for f, b, w in zip(full, begin, wide, strict=True))
    axes = [_padding(*axis) for axis in zip(begin, end, wide, full, strides, strict=True)]
    rest = tuple(amount for axis in reversed(axes) for amount in axis[1:3])  # F.pad starts at the last axis
    return {
        "rank": count, "strides": strides, "dilations": dilations, "groups": int(attributes["groups"]),
        "common": tuple(axis[0] for axis in axes), "output_padding": tuple(axis[3] for axis in axes),
        "rest": rest if any(rest) else None,
        "crop": tuple(-r for r in rest) if any(rest) else None,
        "narrow": tuple(narrow), "wide": tuple(wide), "begin": begin,
        "pads": tuple(amount for pair in zip(begin, end, strict=True) for amount in pair),
    }  # fmt: skip


def _by_products(prepared: Prepared, x: Tensor) -> bool:
    """Whether matrix products beat the library's kernel: float64 on a CPU, and enough work."""
    derived = prepared.derived
    return (
        x.dtype == torch.float64
        and x.device.type == "cpu"
        and derived["rank"] == 2
        and derived["groups"] == 1
        and x.numel() * derived["length"] > _WORTH
    )


def _gather_windows(prepared: Prepared, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve ``[n, batch, channels, *wide]`` to ``[n, batch, filters, *narrow]``."""
    derived = prepared.derived
    flat = x.reshape(-1, *x.shape[2:])
    if _by_products(prepared, flat):
        y = convolve(
            flat, weight, derived["strides"], derived["pads"], derived["dilations"], derived["narrow"]
        )
        return _add_bias(prepared, y.view(*x.shape[:2], *y.shape[1:]), bias)
    if derived["rest"]:
        flat = F.pad(flat, derived["rest"])
    y = _CONVOLVE[derived["rank"]](
        flat, weight, bias, derived["strides"], derived["common"], derived["dilations"], derived["groups"]
    )
    return y.reshape(*x.shape[:2], *y.shape[1:])


def _scatter_windows(prepared: Prepared, a: Tensor, weight: Tensor) -> Tensor:
    """Transpose of _gather_windows: ``[n, batch, filters, *narrow]`` to ``[n, batch, channels, *wide]``."""
    derived = prepared.derived
    flat = a.reshape(-1, *a.shape[2:])
    if derived["rank"] == 2 and derived["groups"] == 1:
        y = _spread(prepared, flat, weight, derived["begin"], derived["wide"])
    else:
        y = _SPREAD[derived["rank"]](
            flat, weight, None, derived["strides"], derived["common"],
            derived["output_padding"], derived["groups"], derived["dilations"],
        )  # fmt: skip
        if derived["crop"]:
            y = F.pad(y, derived["crop"])
    return y.reshape(*a.shape[:2], *y.shape[1:])


def _spread(prepared: Prepared, a: Tensor, weight: Tensor, begin: Sequence[int], wide: Sequence[int]) -> Tensor:
    """Two-dimensional scatter, lowered to whatever is fastest for the type, the layout and the kernel."""
    derived = prepared.derived
    strides, dilations = derived["strides"], derived["dilations"]
    strided, plain = max(strides) > 1, max(dilations) == 1
    size, last = tuple(weight.shape[2:]), is_last(a)
    if strided and plain and size == (1, 1) and last:
        return spread_points(a, weight.flatten(1), strides, begin, wide)
    few = weight.shape[1] <= 4
    if not (few and min(strides) > 1) and _by_products(prepared, a):
        return spread(a, weight, strides, begin, dilations, wide)
    divides = all(k % s == 0 for k, s in zip(size, strides, strict=True))
    if strided and plain and a.dtype == torch.float32 and (few or divides) and (last or few):
        name = next(name for name, tensor in prepared.tensors.items() if tensor is weight)
        key = f"phased_{name}"
        if key not in prepared.tensors:
            prepared.tensors[key] = phased_kernel(weight, strides)
        return spread_phased(a, prepared.tensors[key], strides, begin, wide)
    return _spread_natively(prepared, a, weight, begin, wide)


def _spread_natively(
    prepared: Prepared, a: Tensor, weight: Tensor, begin: Sequence[int], wide: Sequence[int]
) -> Tensor:
    derived = prepared.derived
    whole = (tuple(a.shape[2:]), tuple(begin), tuple(wide))
    if whole == (derived["narrow"], derived["begin"], derived["wide"]):
        common, output_padding, crop = derived["common"], derived["output_padding"], derived["crop"]
    else:  # windows: nothing is cut off
        common, output_padding, crop = (0, 0), (0, 0), None
    y = F.conv_transpose2d(
        a, weight, None, derived["strides"], common, output_padding, derived["groups"], derived["dilations"]
    )
    return F.pad(y, crop) if crop else y


def transposed_windows(prepared: Prepared, a: Tensor) -> Tensor:
    """A two-dimensional convolution's transpose of windows ``[n, filters, h, w]`` that lie anywhere.

    The result ``[n, channels, h', w']`` has ``h' = (h - 1) stride + dilation (kernel - 1) + 1``.
    """
    derived, weight = prepared.derived, prepared.tensors["weight"]
    full = tuple(
        (n - 1) * s + d * (k - 1) + 1
        for n, s, d, k in zip(
            a.shape[2:], derived["strides"], derived["dilations"], weight.shape[2:], strict=True
        )
    )
    terms = a[0].numel() * weight.shape[1] * full[0] * full[1]
    if derived["groups"] == 1 and terms <= _UNROLLED:
        key = f"unrolled_{a.shape[2]}_{a.shape[3]}"
        if key not in prepared.tensors:
            unit = torch.eye(a[0].numel(), dtype=a.dtype, device=a.device).view(-1, *a.shape[1:])
            whole = _spread_natively(prepared, unit, weight, (0, 0), full).view(*a.shape[1:], -1, *full)
            # Both sides with the channels last, as windows are stored.
            prepared.tensors[key] = whole.permute(1, 2, 0, 4, 5, 3).reshape(a[0].numel(), -1)
        y = torch.mm(a.permute(0, 2, 3, 1).reshape(a.shape[0], -1), prepared.tensors[key])
        return y.view(a.shape[0], *full, -1).permute(0, 3, 1, 2)
    if derived["groups"] == 1:
        return _spread(prepared, a, weight, (0, 0), full)
    return _spread_natively(prepared, a, weight, (0, 0), full)


def _add_bias(prepared: Prepared, y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias.reshape(-1, *(1,) * prepared.derived["rank"])


def _absolute(prepared: Prepared) -> Tensor:
    if "weight_absolute" not in prepared.tensors:
        prepared.tensors["weight_absolute"] = (
            prepared.tensors["weight"].abs()
            if has_radius(prepared, "weight")
            else inflated(prepared, "weight", 1)  # type: ignore[assignment]
        )
    return prepared.tensors["weight_absolute"]


def _offset(prepared: Prepared) -> Tensor | None:
    bias = prepared.tensors.get("bias")
    return None if bias is None else bias.reshape(-1, *(1,) * prepared.derived["rank"]).expand(prepared.shape)


def _length(prepared: Prepared) -> int:
    return prepared.derived["length"]


# ---------------------------------------------------------------------------------------- conv


def _derive_conv(node: Node, shapes: Shapes) -> dict[str, Any]:
    derived = _derive(node, shapes[0][2:], node.shape[2:])
    filters, channels = np.shape(node.attributes["weight"])[:2]
    window = int(np.prod(np.shape(node.attributes["weight"])[2:], dtype=np.int64))
    # Forward sums channels x window terms, the transpose filters-per-group x window.
    return derived | {"length": max(channels, filters // derived["groups"]) * window + 2}


def _evaluate_conv(prepared: Prepared, x: Tensor) -> Tensor:
    return _gather_windows(prepared, x, prepared.tensors["weight"], prepared.tensors.get("bias"))


def _magnitude_conv(prepared: Prepared, m: Tensor) -> Tensor:
    length = prepared.derived["length"]
    y = _gather_windows(prepared, m, inflated(prepared, "weight", length))
    return _add_bias(prepared, y, inflated(prepared, "bias", length) if "bias" in prepared.tensors else None)


def _interval_conv(prepared: Prepared, box: Box) -> Box:
    centre, radius = centred(*box)
    y = _evaluate_conv(prepared, centre)
    spread = _gather_windows(prepared, radius, _absolute(prepared))
    return widen(y - spread, y + spread, _magnitude_conv(prepared, largest(*box)), prepared.derived["length"])


def _transpose_conv(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    return (_scatter_windows(prepared, a, prepared.tensors["weight"]),)


# ---------------------------------------------------------------------------------------- conv_transpose


def _derive_conv_transpose(node: Node, shapes: Shapes) -> dict[str, Any]:
    derived = _derive(node, node.shape[2:], shapes[0][2:])
    channels, filters = np.shape(node.attributes["weight"])[:2]
    window = int(np.prod(np.shape(node.attributes["weight"])[2:], dtype=np.int64))
    return derived | {"length": max(filters, channels // derived["groups"]) * window + 2}


def _evaluate_conv_transpose(prepared: Prepared, x: Tensor) -> Tensor:
    y = _scatter_windows(prepared, x, prepared.tensors["weight"])
    return _add_bias(prepared, y, prepared.tensors.get("bias"))


def _magnitude_conv_transpose(prepared: Prepared, m: Tensor) -> Tensor:
    length = prepared.derived["length"]
    y = _scatter_windows(prepared, m, inflated(prepared, "weight", length))
    return _add_bias(prepared, y, inflated(prepared, "bias", length) if "bias" in prepared.tensors else None)


def _interval_conv_transpose(prepared: Prepared, box: Box) -> Box:
    centre, radius = centred(*box)
    y = _evaluate_conv_transpose(prepared, centre)
    spread = _scatter_windows(prepared, radius, _absolute(prepared))
    magnitude = _magnitude_conv_transpose(prepared, largest(*box))
    return widen(y - spread, y + spread, magnitude, prepared.derived["length"])


def _transpose_conv_transpose(prepared: Prepared, a: Tensor) -> tuple[Tensor, ...]:
    return (_gather_windows(prepared, a, prepared.tensors["weight"]),)


_CONSTANTS = ("weight", "bias", "weight_radius", "bias_radius")

OPERATORS = (
    LinearOperator(
        "conv",
        _evaluate_conv,
        _interval_conv,
        _CONSTANTS,
        derive=_derive_conv,
        transpose=_transpose_conv,
        offset=_offset,
        magnitude=_magnitude_conv,
        length=_length,
    ),
    LinearOperator(
        "conv_transpose",
        _evaluate_conv_transpose,
        _interval_conv_transpose,
        _CONSTANTS,
        derive=_derive_conv_transpose,
        transpose=_transpose_conv_transpose,
        offset=_offset,
        magnitude=_magnitude_conv_transpose,
        length=_length,
    ),
)
