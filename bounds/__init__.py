"""What a graph can output: graphs, operators, bounds, and derivatives of graphs."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provenn.bounds._bound import Bounds as Bounds
    from provenn.bounds._bound import Line as Line
    from provenn.bounds._bound import alpha as alpha
    from provenn.bounds._bound import crown as crown
    from provenn.bounds._bound import interval as interval
    from provenn.bounds._bound import plan as plan
    from provenn.bounds.graph import Graph as Graph
    from provenn.bounds.graph import read_module as read_module
    from provenn.bounds.graph import read_onnx as read_onnx
    from provenn.bounds.jacobian import jacobian as jacobian
    from provenn.bounds.jacobian import jacobian_norm as jacobian_norm
    from provenn.bounds.jacobian import norm_graph as norm_graph
    from provenn.bounds.jacobian import vector_jacobian as vector_jacobian
    from provenn.bounds.propagate.interrupt import cancellable as cancellable
    from provenn.bounds.regions import Ball as Ball
    from provenn.bounds.regions import Box as Box

_HOMES = {
    "Ball": "regions",
    "Bounds": "_bound",
    "Box": "regions",
    "Graph": "graph",
    "Line": "_bound",
    "alpha": "_bound",
    "cancellable": "propagate.interrupt",
    "crown": "_bound",
    "interval": "_bound",
    "jacobian": "jacobian",
    "jacobian_norm": "jacobian",
    "norm_graph": "jacobian",
    "plan": "_bound",
    "read_module": "graph",
    "read_onnx": "graph",
    "vector_jacobian": "jacobian",
}


def _found(name: str) -> object:
    from importlib import import_module

    return getattr(import_module(f"provenn.bounds.{_HOMES[name]}"), name)


def __getattr__(name: str) -> object:
    """Import on first use: who only names the package does not pay for torch."""
    if name in _HOMES:
        return _found(name)
    raise AttributeError(f"module 'provenn.bounds' has no attribute {name!r}")


class _Package(ModuleType):
    """``jacobian`` is the function, also once the folder of that name was imported."""

    jacobian = property(lambda self: _found("jacobian"), lambda self, folder: None)


sys.modules[__name__].__class__ = _Package
