"""Whether two ONNX files are the same network with other weights."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path

import onnx

from provenn.bounds.graph._file import attribute_value, read_model
from provenn.errors import ModelError

_WEIGHTS = ("Constant",)


def check_isomorphic(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> None:
    """Refuse (ModelError) two networks that differ in more than names and the values of stored tensors.

    A tensor is what computes it: an input by its place, a stored tensor by its shape, any other by operator, attributes
    and operands. Both files' tensors are numbered by that, and the outputs must have the same numbers.
    """
    numbers: dict[Hashable, int] = {}
    found = []
    for path in (first, second):
        try:
            found.append(_outputs(read_model(path), Path(path).parent, numbers))
        except KeyError as error:
            raise ModelError(f"{path}: a node reads {error}, which nothing computes; export it again") from error
    if found[0] != found[1]:
        raise ModelError(
            f"{second}: is not isomorphic to {first}: their operators, attributes or shapes of weights differ; "
            "name a model of the same graph, or remove isomorphic-to"
        )


def _outputs(model: onnx.ModelProto, folder: Path, numbers: dict[Hashable, int]) -> list[int]:
    """The numbers of a network's outputs; equal tensors of all networks so far have equal numbers."""
    graph = model.graph
    known: dict[str, int] = {"": -1}

    def number(key: Hashable) -> int:
        return numbers.setdefault(key, len(numbers))

    for proto in graph.initializer:
        known[proto.name] = number(("stored", tuple(proto.dims)))
    for sparse in graph.sparse_initializer:
        known[sparse.values.name] = number(("stored", tuple(sparse.dims)))
    for place, info in enumerate(info for info in graph.input if info.name not in known):
        known[info.name] = number(("input", place))
    producer = {name: node for node in graph.node for name in node.output if name}
    for info in graph.output:
        stack = [info.name]
        while stack:
            name = stack[-1]
            missing = [] if name in known else [other for other in producer[name].input if other not in known]
            if missing and len(stack) <= len(graph.node) + 1:
                stack += missing
                continue
            stack.pop()
            if name not in known:
                node = producer[name]
                operands = tuple(known[other] for other in node.input)
                place = list(node.output).index(name)
                known[name] = number((node.domain, node.op_type, place, operands, _attributes(node, folder)))
    return [known[info.name] for info in graph.output]


def _attributes(node: onnx.NodeProto, folder: Path) -> Hashable:
    """The attributes that are structure: of tensors the shape alone, of constants nothing but that."""
    found = []
    for attribute in sorted(node.attribute, key=lambda attribute: attribute.name):
        value = attribute_value(attribute, folder, f"attribute of node {node.name!r}")
        if hasattr(value, "shape"):
            value = ("stored", *value.shape)
        elif node.op_type in _WEIGHTS:
            value = "stored"
        found.append((attribute.name, tuple(value) if isinstance(value, list) else value))
    return tuple(found)
