"""Merges values that are computed twice: same operator, same operands, same constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from provenn.bounds.graph._fuse import Lists
from provenn.bounds.graph._graph import Node


def _bytes(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, list | tuple):
        return tuple(_bytes(part) for part in value)
    return type(value).__name__, value


def share(nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]) -> Lists:
    """One node for every distinct expression, so that its relaxation and its splits are shared too.

    Nodes that lose their readers are left for ``prune``. Element types count: they decide casts.
    """
    seen: dict[Any, int] = {}
    position: list[int] = []
    result: list[Node] = []
    for node in nodes:
        moved = replace(node, inputs=tuple(position[operand] for operand in node.inputs))
        key = (
            node.operator, moved.inputs, node.shape, node.scalar_type,
            tuple(sorted((name, _bytes(value)) for name, value in node.attributes.items())),
        )  # fmt: skip
        if node.operator == "input" or key not in seen:
            seen[key] = len(result)
            result.append(moved)
            position.append(len(result) - 1)
        else:
            position.append(seen[key])
    return result, [position[i] for i in inputs], [position[o] for o in outputs]
