"""Every operator of the graph: how it is evaluated, bounded by intervals and relaxed. The table is OPS."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import (
    conv,
    discrete,
    linear,
    minmax,
    opaque,
    pieces,
    piecewise,
    products,
    slopes,
    smooth,
    softmax,
    steps,
    structure,
)
from provenn.bounds.ops._operator import LinearOperator as LinearOperator
from provenn.bounds.ops._operator import Multivariate as Multivariate
from provenn.bounds.ops._operator import Operator as Operator
from provenn.bounds.ops._operator import Plane as Plane
from provenn.bounds.ops._operator import Prepared as Prepared
from provenn.bounds.ops._operator import Univariate as Univariate

_FAMILIES = (
    structure, linear, conv, discrete, opaque, pieces, piecewise, smooth, steps, slopes, softmax, minmax, products,
)  # fmt: skip

OPS: dict[str, Operator] = {record.name: record for family in _FAMILIES for record in family.OPERATORS}

_NUMPY = {torch.float64: np.float64, torch.float32: np.float32}


def _tensor(value: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Copy one constant: floats to ``dtype``, integers and booleans to int64. The layout is kept."""
    array = np.asarray(value)
    target = _NUMPY[dtype] if array.dtype.kind == "f" else np.int64
    with np.errstate(over="ignore"):  # float32 only searches: infinity is as good as any number there
        return torch.from_numpy(np.array(array, dtype=target, order="K")).to(device)


def prepare(
    node: Node, input_shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, device: torch.device
) -> Prepared:
    """Convert a node's constants to tensors of one element type (float32 or float64) on one device."""
    operator = OPS[node.operator]
    device = torch.device(device)
    derived = operator.derive(node, input_shapes) if operator.derive is not None else {}
    tensors = {
        name: _tensor(node.attributes[name], dtype, device)
        for name in operator.constants
        if node.attributes.get(name) is not None and name not in derived.get("unused", ())
    }
    return Prepared(node, input_shapes, tensors, dtype, device, derived)
