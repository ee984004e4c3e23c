"""The graph of tensor values that everything in provenn rewrites or bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Node:
    """One operator application; it produces exactly one value, whose index is the node's position.

    ``inputs`` are indices of earlier nodes and name *variable* operands only: constant operands
    (weights, scales, indices) live in ``attributes`` as numpy arrays, real-valued ones in float64.
    ``shape`` is the sample shape, leading ONNX dimension included. ``name`` is the ONNX tensor name
    and ``origin`` says where the node came from, for error messages: ``"Conv (node conv_3)"``.
    ``scalar_type`` is the numpy name of the element type the ONNX file gives this value.
    """

    operator: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    origin: str = ""
    scalar_type: str = "float32"

    @property
    def size(self) -> int:
        """Number of scalars of the value."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order. A value is addressed by the index of the node that makes it."""

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def consumers(self) -> list[list[int]]:
        """For every value the nodes that read it, in order, once per operand position."""
        result: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for operand in node.inputs:
                result[operand].append(index)
        return result
