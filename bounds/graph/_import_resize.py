"""Imports Upsample and Resize: nearest is an index map, linear and cubic are one matrix per axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Operand, positions
from provenn.bounds.graph._constants import Constant


def _targets(op: Application, shape: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """Return the output extents and the scales of all axes."""
    if "scales" in op.attributes:
        given, sizes = list(op.attribute("scales")), None
    elif op.operator == "Upsample" or op.version < 11:
        given, sizes = [float(s) for s in op.constant(1, "scales").array.reshape(-1)], None
    else:
        given = [float(s) for s in op.constant(2, "scales").array.reshape(-1)] if op.has(2) else []
        sizes = op.integers(3, "sizes") if op.has(3) else None
    axes = op.axes(op.attribute("axes") or list(range(len(shape))), len(shape))
    extents, scales = list(shape), [1.0] * len(shape)
    if sizes and op.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        op.unsupported("it keeps the aspect ratio", "re-export with explicit sizes")
    if len(sizes or given) != len(axes):
        op.fail(f"its scales or sizes {sizes or given} do not fit {len(axes)} axes")
    for position, axis in enumerate(axes):
        if sizes:
            extents[axis] = sizes[position]
            scales[axis] = sizes[position] / shape[axis]
        else:
            scales[axis] = float(np.float32(given[position]))
            extents[axis] = int(np.floor(np.float32(shape[axis]) * np.float32(given[position])))
    return extents, scales


def _coordinates(op: Application, extent: int, target: int, scale: float, dtype: type) -> np.ndarray:
    """Position in the input of every output element along one axis.

    Nearest neighbours are decided in float32, as a runtime does.
    """
    default = "half_pixel" if op.operator == "Resize" and op.version >= 11 else "asymmetric"
    mode = op.attribute("coordinate_transformation_mode", default)
    at: np.ndarray = np.arange(target).astype(dtype)
    factor = dtype(scale)
    half = dtype(0.5)
    if mode == "asymmetric":
        return at / factor
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and target > 1):
        return (at + half) / factor - half
    if mode == "pytorch_half_pixel":
        return np.zeros(1, dtype)
    if mode == "align_corners":
        return at * dtype(extent - 1) / dtype(target - 1) if target > 1 else np.zeros(1, dtype)
    if mode == "half_pixel_symmetric":
        adjustment = dtype(target) / (factor * dtype(extent))
        centre = dtype(extent) / dtype(2)
        return centre * (dtype(1) - adjustment) + (at + half) / factor - half
    op.unsupported(f"coordinate_transformation_mode {mode!r}", "re-export with half_pixel or asymmetric")


def _nearest(op: Application, coordinates: np.ndarray, scale: float, extent: int) -> np.ndarray:
    default = "round_prefer_floor" if op.operator == "Resize" and op.version >= 11 else "simple"
    mode = op.attribute("nearest_mode", default)
    if mode == "simple":
        mode = "ceil" if scale < 1 else "floor"
    rounding: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "floor": np.floor, "ceil": np.ceil,
        "round_prefer_floor": lambda c: np.where(c == np.floor(c) + 0.5, np.floor(c), np.floor(c + 0.5)),
        "round_prefer_ceil": lambda c: np.floor(c + 0.5),
    }  # fmt: skip
    if mode not in rounding:
        op.fail(f"unknown nearest_mode {mode!r}")
    return np.clip(rounding[mode](coordinates), 0, extent - 1).astype(np.int64)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Weight of a sample at a distance (Keys' kernel with parameter a)."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _matrix(op: Application, coordinates: np.ndarray, extent: int, mode: str) -> np.ndarray:
    """Interpolation weights [target, extent]."""
    base = np.floor(coordinates).astype(np.int64)
    matrix = np.zeros((coordinates.size, extent))
    offsets = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
    a = float(np.float32(op.attribute("cubic_coeff_a", -0.75)))
    outside = bool(op.attribute("exclude_outside", 0))
    if mode == "linear":
        # A coordinate outside is clamped before interpolation.
        coordinates = np.clip(coordinates, 0, extent - 1)
        base = np.floor(coordinates).astype(np.int64)
    for offset in offsets:
        at = base + offset
        distance = coordinates - at
        weight = 1.0 - np.abs(distance) if mode == "linear" else _cubic(distance, a)
        if outside:
            weight = np.where((at >= 0) & (at < extent), weight, 0.0)
        np.add.at(matrix, (np.arange(coordinates.size), np.clip(at, 0, extent - 1)), weight)
    if outside:
        matrix /= matrix.sum(1, keepdims=True)
    return matrix


def import_resize(op: Application) -> list[Operand]:
    x, b = op.variable(), op.builder
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(
        op.attribute("mode", "nearest"), op.attribute("mode", "nearest")
    )
    if mode != "nearest" and np.dtype(x.scalar_type).kind in "iu":
        op.unsupported("interpolation of integers", "re-export with floats")
    extents, scales = _targets(op, x.shape)
    if op.attribute("antialias", 0) and min(scales) < 1 and mode != "nearest":
        op.unsupported("antialias", "re-export without antialiasing")
    if mode == "nearest":
        sources = [
            _nearest(op, _coordinates(op, n, t, s, np.float32), s, n) if t != n or s != 1.0 else np.arange(n)
            for n, t, s in zip(x.shape, extents, scales, strict=True)
        ]
        return [b.index(x, positions(x.shape)[np.ix_(*sources)])]
    if mode not in ("linear", "cubic"):
        op.fail(f"unknown mode {mode!r}")
    for axis, (extent, target, scale) in enumerate(zip(x.shape, extents, scales, strict=True)):
        if extent == target and scale == 1.0:
            continue
        matrix = _matrix(op, _coordinates(op, extent, target, scale, np.float64), extent, mode)
        radius = np.where(matrix != 0, 2.0**-40 * extent, 0.0) if scale != 2.0 else None
        x = b.along_axis(x, Constant(matrix, None, radius), axis)
    return [x]


HANDLERS = {"Upsample": import_resize, "Resize": import_resize}
