"""Evaluates a graph on a batch of inputs; autograd differentiates it with respect to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.graph._graph import Graph
from provenn.errors import InputError


@dataclass(frozen=True)
class Evaluator:
    """A graph whose constants are ready for one element type and device; call it as often as needed."""

    graph: Graph
    prepared: tuple
    dtype: torch.dtype
    device: torch.device

    def __call__(self, inputs: Sequence[Tensor], keep: str = "outputs") -> list[Tensor]:
        """Map ``[domains, *shape]`` inputs to the outputs, or with ``keep='all'`` to the values of all nodes."""
        from provenn.bounds.ops import OPS

        graph = self.graph
        values: dict[int, Tensor] = {}
        for position, (index, x) in enumerate(zip(graph.inputs, inputs, strict=True)):
            x = torch.as_tensor(x).to(device=self.device, dtype=self.dtype)
            if tuple(x.shape[1:]) != graph.nodes[index].shape:
                raise InputError(
                    f"input {position} got shape {list(x.shape)}, expected [domains, *{list(graph.nodes[index].shape)}]"
                )
            values[index] = x
        domains = max((x.shape[0] for x in values.values()), default=1)
        last = self._last_use() if keep == "outputs" else {}
        for index, node in enumerate(graph.nodes):
            if index not in values:
                operands = (values[operand] for operand in node.inputs)
                values[index] = OPS[node.operator].evaluate(self.prepared[index], *operands)
            for operand in last.get(index, ()):
                del values[operand]
        chosen = graph.outputs if keep == "outputs" else range(len(graph.nodes))
        # A value that depends on constants only has one row; it is the same for every domain.
        return [values[i] if values[i].shape[0] == domains else values[i].expand(domains, *graph.nodes[i].shape)
                for i in chosen]  # fmt: skip

    def _last_use(self) -> dict[int, list[int]]:
        """For every node the operands that nothing reads after it."""
        final: dict[int, int] = {}
        for index, node in enumerate(self.graph.nodes):
            for operand in node.inputs:
                final[operand] = index
        released: dict[int, list[int]] = {}
        for operand, index in final.items():
            if operand not in self.graph.outputs:
                released.setdefault(index, []).append(operand)
        return released


def evaluator(
    graph: Graph, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> Evaluator:
    """Prepare a graph for repeated evaluation in ``dtype`` (float32 or float64)."""
    from provenn.bounds.ops import prepare

    device = torch.device(device)
    prepared = tuple(
        prepare(node, tuple(graph.nodes[operand].shape for operand in node.inputs), dtype, device)
        for node in graph.nodes
    )
    return Evaluator(graph, prepared, dtype, device)


def evaluate(
    graph: Graph,
    inputs: Sequence[Tensor],
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    keep: str = "outputs",
) -> list[Tensor]:
    """Evaluate ``graph`` once on ``[domains, *shape]`` inputs; see ``evaluator`` for repeated use."""
    return evaluator(graph, dtype, device)(inputs, keep)
