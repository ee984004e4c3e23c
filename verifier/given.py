"""From files to one graph and one query, whichever dialect of VNN-LIB the property is written in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from provenn.bounds.graph import Graph, read_onnx, symbolic_note
from provenn.bounds.graph.compose import Substitution
from provenn.errors import InputError
from provenn.specs import Query, is_version_2, parse_query, read_bytes, resolve
from provenn.verifier.arguments import Networks, named
from provenn.verifier.networks import composed
from provenn.verifier.reduced import Reduced
from provenn.verifier.replay import Replay
from provenn.verifier.sessions import Model


@dataclass(frozen=True, eq=False)
class Given:
    """What is to be decided: a graph of one flat input and one flat output, and a query about them.

    ``query`` is the property, ``view`` what the search sees of it (fewer inputs where equalities tie some together).
    """

    graph: Graph
    query: Query
    view: Query | Reduced
    models: str | list[Model]
    substitution: Substitution | None = None

    def replay(self, free: np.ndarray | None) -> Replay:
        """What judges witnesses; ``free``: the inputs (of the graph) that points of the search hold."""
        return Replay(self.models, self.query, free=free, substitution=self.substitution)

    def impossible(self) -> str:
        """Why no input satisfies what is asserted about inputs alone, empty where some may."""
        if self.query.contradiction is not None:
            return f"no input satisfies the assertions: {self.query.contradiction}"
        lower, upper = self.view.input_box
        crossed = np.flatnonzero(lower > upper)
        return f"no input satisfies the assertions: none is left for input {crossed[0]}" if crossed.size else ""


def read(networks: Networks, property_path: str | os.PathLike[str]) -> Given:
    """Read a property and the networks that it is about. Raises ModelError, PropertyError or InputError."""
    found = resolve(Path(property_path))
    data = read_bytes(found)
    if is_version_2(data):
        query = parse_query(data, found)
        made = composed(query, networks)
        if made.element_type != query.element_type:  # a query of real numbers, about networks of another type
            query = parse_query(data, found, element_type=made.element_type)
            made = composed(query, networks)
        return Given(made.graph, query, made.view, made.models, made.substitution)
    path = _only(networks, found)
    graph = read_onnx(path)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(
            f"{path}: the network has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; "
            "VNN-LIB 1.0 speaks of exactly one of each: write the property in VNN-LIB 2, which declares all of them"
        )
    node_in, node_out = graph.nodes[graph.inputs[0]], graph.nodes[graph.outputs[0]]
    element = node_in.scalar_type
    if element not in ("float32", "float64"):
        raise InputError(
            f"{path}: the input is of type {element}, a property speaks of real numbers; "
            "re-export with an input of floats and a Cast behind it"
        )
    note = symbolic_note(graph.metadata["symbolic"])
    query = parse_query(data, found, node_in.size, node_out.size, element, note)
    return Given(graph, query, query, path)


def _only(networks: Networks, property_path: Path) -> str:
    """The one file that a property in VNN-LIB 1.0 is about."""
    networks = named(networks)
    if not isinstance(networks, Mapping):
        return os.fspath(networks)
    if len(networks) != 1:
        raise InputError(
            f"{property_path}: VNN-LIB 1.0 speaks of one network, got {len(networks)}; write it in VNN-LIB 2"
        )
    return os.fspath(next(iter(networks.values())))
