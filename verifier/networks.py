"""The networks of a query: which file is which, whether it is what the query declares, and all of them as one graph."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from provenn.bounds.graph import Expected, Graph, Interface, check_isomorphic, read_onnx
from provenn.bounds.graph.compose import Substitution, compose
from provenn.errors import InputError
from provenn.specs import Composition, Network, Query, Tensor, read_bytes, resolve
from provenn.verifier.equalities import solve
from provenn.verifier.reduced import Reduced
from provenn.verifier.sessions import Model

Path_: TypeAlias = "str | os.PathLike[str]"
Networks: TypeAlias = "Path_ | Mapping[str, Path_]"
"""One file, or files by the names of the networks that a query declares."""


@dataclass(frozen=True, eq=False)
class Composed:
    """A query's networks as one graph ``[1, free] -> [1, columns]``, and what the search sees of the query.

    ``models`` are what a replay runs, in the query's order. ``substitution`` is None where every input is free, and
    ``view`` the query itself then.
    """

    graph: Graph
    view: Query | Reduced
    models: list[Model]
    substitution: Substitution | None


def named(networks: Networks) -> Networks:
    """Files by name where a text lists them as ``[('f', 'a.onnx'), ('g', 'b.onnx')]``, as in competitions."""
    text = os.fspath(networks).strip() if not isinstance(networks, Mapping) else ""
    if not (text.startswith("[") and text.endswith("]")) or os.path.exists(text):
        return networks
    try:
        pairs = ast.literal_eval(text)
        found = {str(name): str(path) for name, path in pairs}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise InputError(f"networks {text!r} are no list; expected [('name', 'file.onnx'), ..]") from None
    if len(found) != len(pairs):
        raise InputError(f"networks {text!r} name a network twice; name each once")
    return found


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
            graphs[key] = read_onnx(path, interface)
        chosen.append(graphs[key])
        hidden = tuple(tensor.onnx_name or "" for tensor in network.hidden)
        models.append(Model(path, hidden, tuple(tensor.shape for tensor in network.inputs)))
    _check_relations(composition, paths)
    substitution = solve(composition.equalities, composition.input_count)
    graph = compose(chosen, substitution, composition.passed, composition.monomials, str(paths[0]))
    if len(substitution.free) == composition.input_count:
        return Composed(graph, query, models, None)
    return Composed(graph, Reduced(query, substitution, composition.column_count), models, substitution)


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
    return read_bytes(first) == read_bytes(second)


def _check_relations(composition: Composition, paths: list[Path]) -> None:
    """Refuse files of networks that are declared isomorphic and are not."""
    files = {network.name: path for network, path in zip(composition.networks, paths, strict=True)}
    for network in composition.networks:
        if network.relation is not None and network.relation[0] == "isomorphic-to":
            check_isomorphic(files[network.relation[1]], files[network.name])
