"""The networks of a query: which file is which, whether it is what the query declares, and all of them as one graph."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provenn.bounds.graph import Expected, Graph, Interface, check_isomorphic
from provenn.bounds.graph.compose import Substitution, compose
from provenn.errors import InputError, UnsupportedPropertyError
from provenn.specs import Composition, Network, Query, Tensor, read_bytes, resolve
from provenn.verifier import held
from provenn.verifier.arguments import Networks, named
from provenn.verifier.equalities import near, solve
from provenn.verifier.reduced import Reduced
from provenn.verifier.sessions import Model


@dataclass(frozen=True, eq=False)
class Composed:
    """A query's networks as one graph ``[1, free] -> [1, columns]``, and what the search sees of the query.

    ``models`` are what a replay runs, in the query's order. ``substitution`` is None where every input is free, and
    ``view`` the query itself then. ``element_type`` is that of all networks' inputs.
    """

    graph: Graph
    view: Query | Reduced
    models: list[Model]
    substitution: Substitution | None
    element_type: str


def composed(query: Query, networks: Networks) -> Composed:
    """Read the networks of a VNN-LIB 2 query. Raises InputError or ModelError where they do not fit it."""
    composition = query.composition
    assert composition is not None
    paths = assigned(composition, networks)
    graphs: dict[tuple[Path, Interface], Graph] = {}
    chosen, models = [], []
    for network, path in zip(composition.networks, paths, strict=True):
        interface = interface_of(network)
        key = path, _nameless(interface)
        if key not in graphs:
            graphs[key] = held.read_network(path, interface)
        chosen.append(graphs[key])
        hidden = tuple(tensor.onnx_name or "" for tensor in network.hidden)
        models.append(Model(path, hidden, tuple(tensor.shape for tensor in network.inputs)))
    _check_relations(composition, paths)
    element_type = _element_type(chosen)
    substitution = solve(composition.equalities, composition.input_count, near(query))
    if not len(substitution.free):
        raise UnsupportedPropertyError(
            f"{query.path}: its equalities determine every input; evaluate the networks there, or leave one input free"
        )
    graph = compose(chosen, substitution, composition.passed, composition.monomials, str(paths[0]))
    if not len(substitution.solved) and len(substitution.free) == composition.input_count:
        return Composed(graph, query, models, None, element_type)
    view = Reduced(query, substitution, composition.column_count)
    return Composed(graph, view, models, substitution, element_type)


def _element_type(graphs: Sequence[Graph]) -> str:
    """The one type of all inputs, whatever the query calls it. Raises InputError where there are several."""
    found = {graph.nodes[index].scalar_type: graph.source for graph in graphs for index in graph.inputs}
    if len(found) > 1:
        shown = ", ".join(f"{name} in {source}" for name, source in found.items())
        raise InputError(f"the networks' inputs are of different types ({shown}); export them in one type")
    return next(iter(found))


def assigned(composition: Composition, networks: Networks) -> list[Path]:
    """The file of every network, in the query's order; copies (``equal-to``) need none of their own."""
    networks = named(networks)
    declared = {network.name: network for network in composition.networks}
    if not isinstance(networks, Mapping):
        own = [name for name, network in declared.items() if not _is_copy(network)]
        if len(own) > 1:
            raise InputError(
                f"the property declares {len(own)} networks of their own ({', '.join(own)}), got one file; "
                f"give each its file: {' '.join(f'--network {name}=FILE.onnx' for name in own)}"
            )
        networks = {own[0]: networks}
    extra = [name for name in networks if name not in declared]
    if extra:
        raise InputError(
            f"the property declares no network {extra[0]!r}, it declares {', '.join(declared)}; mend the name"
        )
    found: dict[str, Path] = {}
    for name, network in declared.items():
        target = network.relation[1] if _is_copy(network) and network.relation else None
        if name in networks:
            found[name] = resolve(Path(networks[name]))
            if target is not None and not _same(found[name], found[target]):
                raise InputError(
                    f"network {name!r} is equal-to {target!r}, but {found[name]} is not {found[target]}; "
                    f"remove --network {name}=.., or declare it isomorphic-to"
                )
        elif target is not None:
            found[name] = found[target]
        else:
            raise InputError(f"network {name!r} has no file; add --network {name}=FILE.onnx")
    return list(found.values())


def interface_of(network: Network) -> Interface:
    """What a declared network expects of its file."""

    def expected(tensors: tuple[Tensor, ...]) -> tuple[Expected, ...]:
        return tuple(Expected(t.name, t.type, tuple(t.shape), t.onnx_name) for t in tensors)

    return Interface(expected(network.inputs), expected(network.hidden), expected(network.outputs))


def _nameless(interface: Interface) -> Interface:
    """The same for copies, whose tensors have other names."""

    def plain(tensors: tuple[Expected, ...]) -> tuple[Expected, ...]:
        return tuple(Expected("", t.type, t.shape, t.tensor) for t in tensors)

    return Interface(plain(interface.inputs), plain(interface.hidden), plain(interface.outputs))


def _is_copy(network: Network) -> bool:
    return network.relation is not None and network.relation[0] == "equal-to"


def _same(first: Path, second: Path) -> bool:
    if first.exists() and second.exists() and os.path.samefile(first, second):
        return True
    data = read_bytes(first)
    if b"location" in data and first.parent.resolve() != second.parent.resolve():
        return False  # weights may lie beside the file
    return data == read_bytes(second)


def _check_relations(composition: Composition, paths: list[Path]) -> None:
    """Refuse files of networks that are declared isomorphic and are not."""
    files = {network.name: path for network, path in zip(composition.networks, paths, strict=True)}
    for network in composition.networks:
        if network.relation is not None and network.relation[0] == "isomorphic-to":
            check_isomorphic(files[network.relation[1]], files[network.name])
