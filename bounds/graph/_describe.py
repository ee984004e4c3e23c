"""A text about a graph: what goes in and out, what it is made of, how well each part can be bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from provenn.bounds.graph._graph import Graph, Node


def _shape(node: Node) -> str:
    return f"[{', '.join(map(str, node.shape))}] {node.scalar_type}"


def parameters(graph: Graph) -> int:
    """Real-valued constants of the graph, after folding."""
    arrays = (
        value for node in graph.nodes for value in node.attributes.values() if isinstance(value, np.ndarray)
    )
    return sum(array.size for array in arrays if array.dtype.kind == "f")


def treatment(operator: str) -> str:
    """How the bounder treats an operator: ``linear`` (exact), ``relaxed`` (by lines) or ``interval only``."""
    from provenn.bounds.ops import OPS, LinearOperator, Multivariate, Univariate

    record = OPS[operator]
    if isinstance(record, LinearOperator):
        return "linear"
    return "relaxed" if isinstance(record, Univariate | Multivariate) else "interval only"


def symbolic_note(dimensions: Sequence[tuple[str, str]]) -> str:
    """What became of symbolic dimensions ``(dimension, input)`` other than the batch's, empty if there are none."""
    if not dimensions:
        return ""
    names = ", ".join(f"dimension {dimension} of input {name!r}" for dimension, name in dimensions)
    verbs = "is symbolic and was" if len(dimensions) == 1 else "are symbolic and were"
    return f"{names} {verbs} taken as 1: re-export the network with fixed sizes"


def describe(graph: Graph) -> str:
    """Describe a graph in a few lines for a user."""
    lines = [f"network     {graph.source}"] if graph.source else []
    made = graph.metadata
    if made:
        producer = f", {made['producer']}" if made.get("producer") else ""
        lines.append(f"file        operator set {made['opset']}{producer}, {made['onnx_nodes']} ONNX nodes")
        lines.append(f"parameters  {made['parameters']:,} in the file, {parameters(graph):,} in the graph")
    for kind, indices in (("input", graph.inputs), ("output", graph.outputs)):
        for index in indices:
            node = graph.nodes[index]
            lines.append(f"{kind:<12}{node.name} {_shape(node)}, {node.size} values")
    if made.get("symbolic"):
        lines.append(f"note        {symbolic_note(made['symbolic'])}")
    counts = Counter(node.operator for node in graph.nodes if node.operator != "input")
    lines.append(f"graph       {sum(counts.values())} nodes")
    elements: Counter[str] = Counter()
    for node in graph.nodes:
        elements[node.operator] += node.size
    for kind, note in (
        ("linear", "exact in every bound"),
        ("relaxed", "bounded by lines, branched on"),
        ("interval only", "bounded by intervals: linear bounds stop here"),
    ):
        members = sorted(operator for operator in counts if treatment(operator) == kind)
        if members:
            lines.append(f"  {kind} ({note})")
            lines += [
                f"    {name:<16}{counts[name]:>5} nodes {elements[name]:>10,} values" for name in members
            ]
    return "\n".join(lines)
