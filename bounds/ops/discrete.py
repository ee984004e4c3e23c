"""Operators with integer or boolean results: comparisons, casts, rounding, arg max, one-hot.

They are evaluated and bounded by intervals. Booleans are the numbers 0 and 1; the box of one is
[0, 0] or [1, 1] where the operands' boxes decide it. Integers are exact in float64 below 2^53.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.ops._operator import Box, Operator, Prepared

# ---------------------------------------------------------------------------------------- comparisons


def _equal(prepared: Prepared, x: Tensor, y: Tensor) -> Tensor:
    return (x == y).to(prepared.dtype)


def _equal_interval(prepared: Prepared, x: Box, y: Box) -> Box:
    same = (x[0] == x[1]) & (y[0] == y[1]) & (x[0] == y[0])
    meet = (x[0] <= y[1]) & (y[0] <= x[1])
    return same.to(prepared.dtype), meet.to(prepared.dtype)


def _less(prepared: Prepared, x: Tensor, y: Tensor) -> Tensor:
    return (x < y).to(prepared.dtype)


def _less_interval(prepared: Prepared, x: Box, y: Box) -> Box:
    return (x[1] < y[0]).to(prepared.dtype), (x[0] < y[1]).to(prepared.dtype)


def _less_or_equal(prepared: Prepared, x: Tensor, y: Tensor) -> Tensor:
    return (x <= y).to(prepared.dtype)


def _less_or_equal_interval(prepared: Prepared, x: Box, y: Box) -> Box:
    return (x[1] <= y[0]).to(prepared.dtype), (x[0] <= y[1]).to(prepared.dtype)


# ---------------------------------------------------------------------------------------- casts, rounding


def _cast(prepared: Prepared, x: Tensor) -> Tensor:
    if prepared.node.attributes["to"] == "bool":
        return (x != 0).to(x.dtype)
    first, last = integer_range(prepared.node.attributes["to"])
    whole = torch.trunc(x)
    # Integers lose their higher bits; of other numbers beyond the range nothing is said, and this is as good as any.
    return torch.where(
        (whole >= first) & (whole <= last), whole, first + torch.remainder(whole - first, last - first + 1)
    )


def _cast_interval(prepared: Prepared, box: Box) -> Box:
    """The whole range of the type where the box leaves it."""
    lower, upper = box
    if prepared.node.attributes["to"] == "bool":
        return ((lower > 0) | (upper < 0)).to(lower.dtype), ((lower != 0) | (upper != 0)).to(lower.dtype)
    first, last = integer_range(prepared.node.attributes["to"])
    lower, upper = torch.trunc(lower), torch.trunc(upper)
    held = (lower >= first) & (upper <= last)
    return torch.where(held, lower, first), torch.where(held, upper, last)


def integer_range(name: str) -> tuple[float, float]:
    """Least and largest number of an integer type, as floats (2^63 for the largest of int64)."""
    info = np.iinfo(name)
    return float(info.min), float(info.max)


def _monotone(function: Callable[[Tensor], Tensor]) -> tuple[Callable[..., Tensor], Callable[..., Box]]:
    def evaluate(prepared: Prepared, x: Tensor) -> Tensor:
        return function(x)

    def interval(prepared: Prepared, box: Box) -> Box:
        return function(box[0]), function(box[1])

    return evaluate, interval


_round, _round_interval = _monotone(torch.round)


# ---------------------------------------------------------------------------------------- arg max, one-hot


def _argmax(prepared: Prepared, x: Tensor) -> Tensor:
    """The first largest element, or the last one with attribute ``last``."""
    attributes = prepared.node.attributes
    axis = attributes["axis"] + 1
    largest = x == x.amax(axis, keepdim=True)
    if attributes.get("last"):
        position = x.shape[axis] - 1 - largest.flip(axis).to(torch.int8).argmax(axis, keepdim=True)
    else:
        position = largest.to(torch.int8).argmax(axis, keepdim=True)
    return position.to(x.dtype).reshape(x.shape[0], *prepared.shape)


def _argmax_interval(prepared: Prepared, box: Box) -> Box:
    """Only elements whose upper bound reaches the largest lower bound can be the maximum."""
    lower, upper = box
    axis = prepared.node.attributes["axis"] + 1
    possible = upper >= lower.amax(axis, keepdim=True)
    count = lower.shape[axis]
    shape = [1] * lower.dim()
    shape[axis] = count
    position = torch.arange(count, dtype=lower.dtype, device=lower.device).reshape(shape)
    first = torch.where(possible, position, float(count - 1)).amin(axis)
    last = torch.where(possible, position, 0.0).amax(axis)
    target = (lower.shape[0], *prepared.shape)
    return first.reshape(target), last.reshape(target)


def _classes(prepared: Prepared, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with the one-hot axis inserted and the class numbers along that axis."""
    axis = prepared.node.attributes["axis"] + 1
    shape = [1] * (x.dim() + 1)
    shape[axis] = prepared.node.attributes["depth"]
    number = torch.arange(shape[axis], dtype=x.dtype, device=x.device).reshape(shape)
    return x.unsqueeze(axis), number


def _one_hot(prepared: Prepared, x: Tensor) -> Tensor:
    """Class k is on where x is k, or k - depth (negative indices count from the end)."""
    x, number = _classes(prepared, x)
    attributes = prepared.node.attributes
    hit = (x == number) | (x == number - attributes["depth"])
    return attributes["off"] + hit.to(prepared.dtype) * (attributes["on"] - attributes["off"])


def _one_hot_interval(prepared: Prepared, box: Box) -> Box:
    lower, number = _classes(prepared, box[0])
    upper, _ = _classes(prepared, box[1])
    depth, on, off = (prepared.node.attributes[name] for name in ("depth", "on", "off"))
    possible = ((lower <= number) & (number <= upper)) | (
        (lower <= number - depth) & (number - depth <= upper)
    )
    certain = (lower == upper) & possible
    value_on, value_off = lower.new_tensor(on), lower.new_tensor(off)
    first = torch.where(certain, value_on, torch.where(possible, min(on, off), value_off))
    last = torch.where(certain, value_on, torch.where(possible, max(on, off), value_off))
    return first, last


def integral(*constants: np.ndarray | None) -> bool:
    """Whether constants that are present hold integers only."""
    return all(c is None or bool((np.asarray(c) == np.trunc(c)).all()) for c in constants)


OPERATORS = (
    Operator("equal", _equal, _equal_interval),
    Operator("less", _less, _less_interval),
    Operator("less_or_equal", _less_or_equal, _less_or_equal_interval),
    Operator("cast", _cast, _cast_interval),
    Operator("round", _round, _round_interval),
    Operator("argmax", _argmax, _argmax_interval),
    Operator("one_hot", _one_hot, _one_hot_interval),
)
