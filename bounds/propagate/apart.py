"""Rows of single elements or windows through linear nodes, without becoming dense."""

from __future__ import annotations

import torch
from torch import Tensor

from provenn.bounds.ops.conv import transposed_windows
from provenn.bounds.propagate.coefficients import Elements, Rows, Windows
from provenn.bounds.propagate.plan import Plan


def apart(plan: Plan, index: int, a: Elements | Windows) -> tuple[Rows, ...] | None:
    """Rows of elements or windows through a linear node, or None where only dense ones can pass."""
    node, prepared = plan.graph.nodes[index], plan.prepared[index]
    name, derived = node.operator, prepared.derived
    if name == "add":
        return (a,) * len(node.inputs)
    if name == "sub":
        return a, _scaled(a, -1.0)
    if name == "affine":
        scale = prepared.tensors.get("scale")
        if scale is None:
            return (a,)
        return (_times(a, scale.expand(node.shape)[None, None]),)
    if isinstance(a, Elements) and name == "reshape":
        return (Elements(a.index, a.weights, plan.shape(node.inputs[0])),)
    if (
        isinstance(a, Elements)
        and name == "linear"
        and "sparse" not in derived
        and plan.size(index) == node.shape[-1]
    ):
        columns = prepared.tensors["weight"].index_select(1, a.index).T
        return ((columns * a.weights.unsqueeze(2)).view(*a.weights.shape, *plan.shape(node.inputs[0])),)
    if name == "conv" and derived["rank"] == 2 and (isinstance(a, Windows) or a.places is not None):
        return (_convolved(plan, index, a),)
    return None


def _scaled(a: Elements | Windows, factor: float) -> Elements | Windows:
    if isinstance(a, Elements):
        return Elements(a.index, a.weights * factor, a.shape, a.places)
    return Windows(a.a * factor, a.places, a.extent, a.shape, a.clean)


def _times(a: Elements | Windows, factor: Tensor) -> Elements | Windows:
    """Coefficients times a factor ``[1, 1, *shape]`` per element."""
    if isinstance(a, Elements):
        return Elements(a.index, a.weights * a.pick(factor), a.shape, a.places)
    if factor.stride()[-1] == 0 and factor.stride()[-2] == 0:
        return Windows(a.a * factor[:, 0, :, :, :1, :1], a.places, a.extent, a.shape, a.clean)
    return Windows(a.a * a.gather([factor])[0], a.places, a.extent, a.shape)


def _convolved(plan: Plan, index: int, rows: Elements | Windows) -> Windows:
    """The transposed convolution of every window, without padding: all rows alike."""
    prepared, derived = plan.prepared[index], plan.prepared[index].derived
    weight = prepared.tensors["weight"]
    shape = plan.shape(plan.graph.nodes[index].inputs[0])
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    if isinstance(rows, Elements) and derived["groups"] == 1:
        assert rows.places is not None
        channel = torch.div(rows.index, rows.shape[2] * rows.shape[3], rounding_mode="floor")
        if "by_channel" not in prepared.tensors:
            prepared.tensors["by_channel"] = weight.permute(0, 2, 3, 1).contiguous()
        a = prepared.tensors["by_channel"].index_select(0, channel) * rows.weights[:, :, None, None, None]
        a = a.permute(0, 1, 4, 2, 3)
        extent, places = rows.places.extent, rows.places
    else:
        windows = rows.windows() if isinstance(rows, Elements) else rows
        extent, places = windows.extent, windows.places
        flat = windows.a.flatten(0, 1)
        spread = transposed_windows(prepared, flat)
        a = spread.view(*windows.a.shape[:2], *spread.shape[1:])
    below = extent.through(kernel, derived["strides"], derived["begin"], derived["dilations"])
    return Windows(a, places, below, shape, False)
