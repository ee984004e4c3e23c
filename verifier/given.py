"""From files to one graph and one query, whichever dialect of VNN-LIB the property is written in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from provenn.bounds.graph import Graph, example_of, read_module, symbolic_note
from provenn.bounds.graph.compose import Substitution, compose
from provenn.errors import InputError
from provenn.specs import Query, is_version_2, parse_query, read_bytes, read_query, resolve
from provenn.verifier import held
from provenn.verifier.arguments import Networks, named
from provenn.verifier.networks import composed
from provenn.verifier.reduced import Reduced
from provenn.verifier.replay import Replay
from provenn.verifier.sessions import Model, TorchModel

if TYPE_CHECKING:
    from torch.nn import Module


@dataclass(frozen=True, eq=False)
class Given:
    """What is to be decided: a graph of one flat input and one flat output, and a query about them.

    ``query`` is the property, ``view`` what the search sees of it (fewer inputs where equalities tie some together).
    """

    graph: Graph
    query: Query
    view: Query | Reduced
    models: str | Sequence[Model | TorchModel]
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


def read(networks: Networks | Module | Graph, property: str | os.PathLike[str] | Query) -> Given:
    """Read a property and the networks that it is about. Raises ModelError, PropertyError or InputError."""
    given = _read(networks, property)
    held.keep()
    return given


def _read(networks: Networks | Module | Graph, property: str | os.PathLike[str] | Query) -> Given:
    if isinstance(property, Query) and property.composition is None:
        return _asked(networks, property)
    if not isinstance(networks, (str, os.PathLike, Mapping)):
        if isinstance(property, Query):
            raise InputError("a query in VNN-LIB 2 names networks in files, got a module or a graph: export it to ONNX")
        return _asked(networks, _of_graph(networks, property))
    if isinstance(property, Query):
        made = composed(property, networks)
        if made.element_type != property.element_type:
            raise InputError(
                f"{property.path}: was read for networks of {property.element_type}, these are of {made.element_type}; "
                "name its file, or read it with that element_type"
            )
        return Given(made.graph, property, made.view, made.models, made.substitution)
    found = resolve(Path(property))
    data = read_bytes(found)
    if is_version_2(data):
        query = parse_query(data, found)
        made = composed(query, networks)
        if made.element_type != query.element_type:  # a query of real numbers, about networks of another type
            query = parse_query(data, found, element_type=made.element_type)
            made = composed(query, networks)
        return Given(made.graph, query, made.view, made.models, made.substitution)
    path = _only(networks, found)
    graph = held.read_network(path)
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


def _of_graph(network: Module | Graph, property: str | os.PathLike[str]) -> Query:
    """A property in a file, about a network whose shapes must be known already."""
    graph = _graph_of(network, None)
    inputs, outputs = (sum(graph.nodes[i].size for i in ends) for ends in (graph.inputs, graph.outputs))
    return read_query(os.fspath(property), inputs, outputs, _element_type(graph))


def _asked(networks: Networks | Module | Graph, query: Query) -> Given:
    """A query made in Python, or read from VNN-LIB 1.0, about the inputs and outputs of one network, all in a row."""
    graph = _graph_of(networks, query)
    sizes = [sum(graph.nodes[i].size for i in ends) for ends in (graph.inputs, graph.outputs)]
    shapes = tuple(graph.nodes[i].shape for i in graph.inputs)
    name = graph.source or f"module {graph.metadata.get('name', '')}"
    if query.input_shapes not in (None, shapes) and (len(shapes) > 1 or sizes[0] != query.input_count):
        raise InputError(
            f"{name}: takes inputs of shapes {[list(s) for s in shapes]}, the property is about "
            f"{[list(s) for s in query.input_shapes or ()]}"
        )
    fits = sizes[1] == query.output_count if query.all_outputs else sizes[1] >= query.output_count
    if sizes[0] != query.input_count or not fits:
        raise InputError(
            f"{name}: has {sizes[0]} inputs and {sizes[1]} outputs, the property is about {query.input_count} and "
            f"{query.output_count}: is it a property of another network?"
        )
    query = replace(query, output_count=sizes[1], element_type=_element_type(graph), all_outputs=True)
    module = graph.metadata.get("module")
    models: str | Sequence[Model | TorchModel] = graph.source
    single = len(graph.inputs) == len(graph.outputs) == 1
    if module is not None:
        models = [TorchModel(module, shapes, query.element_type)]
    elif not graph.source:
        raise InputError("a graph without its file or module cannot judge witnesses: pass one of those")
    elif not single:
        models = [Model(Path(graph.source), (), shapes)]
    if not single:
        graph = compose([graph], Substitution.none(sizes[0]), source=graph.source)
    return Given(graph, query, query, models)


def _graph_of(networks: Networks | Module | Graph, query: Query | None) -> Graph:
    if isinstance(networks, Graph):
        return networks
    if isinstance(networks, (str, os.PathLike, Mapping)):
        return held.read_network(_only(networks, Path("the property")))
    if not hasattr(networks, "forward"):
        raise InputError(
            f"verify got {type(networks).__name__}, expected a file, files by name, a torch.nn.Module or a Graph"
        )
    if query is None or query.input_shapes is None:
        raise InputError(
            "the property does not say what shapes the module takes: pass bounds.read_module(module, example) instead"
        )
    return read_module(networks, *(example_of(networks, shape) for shape in query.input_shapes))


def _element_type(graph: Graph) -> str:
    """The one float type of all inputs. Raises InputError."""
    found = {graph.nodes[index].scalar_type for index in graph.inputs}
    if len(found) != 1 or not found <= {"float32", "float64"}:
        raise InputError(
            f"{graph.source or 'the module'}: its inputs are of type {', '.join(sorted(found))}, expected one of "
            "float32 and float64; convert inside the network"
        )
    return found.pop()


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
