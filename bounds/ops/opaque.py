"""Operators that are evaluated and bounded by intervals only: selection and indexing by variables."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops._operator import Box, Operator, Prepared

# ---------------------------------------------------------------------------------------- where


def _where(prepared: Prepared, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition != 0, x, y)


def _where_interval(prepared: Prepared, condition: Box, x: Box, y: Box) -> Box:
    only_x = (condition[0] > 0) | (condition[1] < 0)
    only_y = (condition[0] == 0) & (condition[1] == 0)
    lower = torch.where(only_x, x[0], torch.where(only_y, y[0], torch.minimum(x[0], y[0])))
    upper = torch.where(only_x, x[1], torch.where(only_y, y[1], torch.maximum(x[1], y[1])))
    return lower, upper


# ---------------------------------------------------------------------------------------- gather


def _derive_gather(node: Node, shapes: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    axis = node.attributes["axis"]
    data = shapes[0]
    before = int(np.prod(data[:axis], dtype=np.int64))
    after = int(np.prod(data[axis + 1 :], dtype=np.int64))
    return {
        "view": (before, data[axis], after),
        "extent": data[axis],
        "wrap": node.attributes.get("wrap", True),
    }


def _rows(x: Tensor, domains: int) -> Tensor:
    return x if x.shape[0] == domains else x.expand(domains, *x.shape[1:])


def _gather(prepared: Prepared, x: Tensor, index: Tensor) -> Tensor:
    """Elements of x along an axis at variable positions; NaN where a position is out of range."""
    derived = prepared.derived
    domains, extent = max(x.shape[0], index.shape[0]), derived["extent"]
    flat = _rows(x, domains).reshape(domains, *derived["view"])
    at = _rows(index, domains).reshape(domains, 1, -1, 1)
    if derived["wrap"]:
        at = torch.where(at < 0, at + extent, at)
    valid = (at >= 0) & (at <= extent - 1)
    position = torch.where(valid, at, 0.0).to(torch.int64)
    before, _, after = derived["view"]
    picked = flat.gather(2, position.expand(domains, before, position.shape[2], after))
    picked = torch.where(valid, picked, float("nan"))
    return picked.reshape(domains, *prepared.shape)


def _gather_interval(prepared: Prepared, x: Box, index: Box) -> Box:
    """Hull of the elements that the index's box can reach; infinite where it can leave the range."""
    derived = prepared.derived
    domains, extent = max(x[0].shape[0], index[0].shape[0]), derived["extent"]
    before, _, after = derived["view"]
    first, last = (_rows(side, domains).reshape(domains, 1, -1, 1) for side in index)
    lower, upper = (_rows(side, domains).reshape(domains, *derived["view"]) for side in x)
    shape = (domains, before, first.shape[2], after)
    low = torch.full(shape, float("inf"), dtype=lower.dtype, device=lower.device)
    high = torch.full(shape, -float("inf"), dtype=lower.dtype, device=lower.device)
    for position in range(extent):  # a loop over positions keeps memory at the size of the result
        reach = (first <= position) & (position <= last)
        if derived["wrap"]:
            reach = reach | ((first <= position - extent) & (position - extent <= last))
        low = torch.where(reach, torch.minimum(low, lower[:, :, position : position + 1]), low)
        high = torch.where(reach, torch.maximum(high, upper[:, :, position : position + 1]), high)
    outside = (first < (-extent if derived["wrap"] else 0)) | (last > extent - 1) | (low > high)
    low = torch.where(outside, -float("inf"), low)
    high = torch.where(outside, float("inf"), high)
    target = (domains, *prepared.shape)
    return low.reshape(target), high.reshape(target)


# ---------------------------------------------------------------------------------------- scatter


def _derive_scatter(node: Node, shapes: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    data, indices = shapes[0], shapes[1]
    depth = indices[-1]
    strides = [int(np.prod(data[k + 1 : depth], dtype=np.int64)) for k in range(depth)]
    tail = int(np.prod(data[depth:], dtype=np.int64))
    count = int(np.prod(indices[:-1], dtype=np.int64))
    dropping = bool(node.attributes.get("dropping"))
    return {"strides": strides, "extents": data[:depth], "tail": tail, "count": count, "dropping": dropping}


def _coordinates(prepared: Prepared, index: Tensor) -> list[Tensor]:
    """Coordinates of every update, each [domains, count], negative ones counted from the end."""
    derived = prepared.derived
    flat = index.reshape(index.shape[0], derived["count"], len(derived["extents"]))
    if derived["dropping"]:
        return list(flat.unbind(-1))
    return [
        torch.where(flat[..., k] < 0, flat[..., k] + n, flat[..., k])
        for k, n in enumerate(derived["extents"])
    ]


def _scatter_nd(prepared: Prepared, data: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """data with updates written at variable positions; NaN where a position is out of range.

    With attribute ``dropping`` an update past the end of an axis is absent instead.
    """
    derived = prepared.derived
    domains = max(data.shape[0], index.shape[0], updates.shape[0])
    data, index, updates = (_rows(x, domains) for x in (data, index, updates))
    coordinates = _coordinates(prepared, index)
    inside = torch.ones_like(coordinates[0], dtype=torch.bool)
    valid = inside
    position = torch.zeros_like(coordinates[0], dtype=torch.int64)
    for coordinate, stride, extent in zip(coordinates, derived["strides"], derived["extents"], strict=True):
        inside = inside & (coordinate <= extent - 1)
        valid = valid & (coordinate >= 0)
        position = position + coordinate.nan_to_num().clamp(0, extent - 1).to(torch.int64) * stride
    valid = (valid if derived["dropping"] else valid & inside).all(1)
    tail = derived["tail"]
    flat = data.reshape(domains, -1, tail)
    position = torch.where(inside, position, flat.shape[1])  # one slot behind the end takes what is dropped
    padded = torch.cat([flat, flat.new_zeros(domains, 1, tail)], 1)
    written = updates.reshape(domains, derived["count"], tail)
    result = padded.scatter(1, position.unsqueeze(-1).expand(-1, -1, tail), written)[:, :-1]
    result = torch.where(valid[:, None, None], result, float("nan"))
    return result.reshape(domains, *prepared.shape)


def _scatter_nd_interval(prepared: Prepared, data: Box, index: Box, updates: Box) -> Box:
    """Exact where the positions are decided; otherwise the hull of what may be written and what was there."""
    derived = prepared.derived
    domains = max(x[0].shape[0] for x in (data, index, updates))
    index, updates, data = ((_rows(x[0], domains), _rows(x[1], domains)) for x in (index, updates, data))
    tail, count = derived["tail"], derived["count"]
    low, high = (side.reshape(domains, -1, tail).clone() for side in data)
    new_low, new_high = (side.reshape(domains, count, tail) for side in updates)
    first, last = (side.reshape(domains, count, len(derived["extents"])) for side in index)
    place = torch.arange(low.shape[1], device=low.device)
    outside = torch.zeros(domains, dtype=torch.bool, device=low.device)
    for update in range(count):
        may = torch.ones(domains, low.shape[1], dtype=torch.bool, device=low.device)
        must = torch.ones(domains, 1, dtype=torch.bool, device=low.device)
        for k, (stride, extent) in enumerate(zip(derived["strides"], derived["extents"], strict=True)):
            a, b = first[:, update, k, None], last[:, update, k, None]
            along = place // stride % extent
            reach = (a <= along) & (along <= b)
            if derived["dropping"]:
                within = (a >= 0) & (a <= b)
            else:  # negative coordinates count from the end
                reach = reach | ((a <= along - extent) & (along - extent <= b))
                within = (a >= -extent) & (a <= b) & (b <= extent - 1)
            may = may & reach
            must = must & (a == b)
            outside = outside | ~within.squeeze(1)
        may, must = may.unsqueeze(-1), must.unsqueeze(-1)
        written_low, written_high = new_low[:, update : update + 1], new_high[:, update : update + 1]
        low = torch.where(may, torch.where(must, written_low, torch.minimum(low, written_low)), low)
        high = torch.where(may, torch.where(must, written_high, torch.maximum(high, written_high)), high)
    low = torch.where(outside[:, None, None], -float("inf"), low)
    high = torch.where(outside[:, None, None], float("inf"), high)
    target = (domains, *prepared.shape)
    return low.reshape(target), high.reshape(target)


OPERATORS = (
    Operator("where", _where, _where_interval),
    Operator("gather", _gather, _gather_interval, derive=_derive_gather),
    Operator("scatter_nd", _scatter_nd, _scatter_nd_interval, derive=_derive_scatter),
)
