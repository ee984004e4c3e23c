"""Small graphs made by hand and at random, and their derivatives by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import Evaluator, Graph, evaluator, read_onnx
from provenn.bounds.graph._builder import Builder, Value
from provenn.errors import ModelError

from ..soundness import fragments, recipes
from ..soundness.graphs import JUMPING, random_graph

RECIPES = recipes.RECIPES | fragments.RECIPES
SMOOTH = {name: recipe for name, recipe in RECIPES.items() if name not in JUMPING}


def graph_of(shape: tuple[int, ...], build: Callable[[Builder, Value], Value]) -> Graph:
    """The graph of one input, and of whatever is built on it."""
    builder = Builder()
    builder.name, builder.origin = "x", "input 'x'"
    x = builder.emit("input", (), shape, "float64")
    builder.name, builder.origin = "made", "made (node made)"
    y = build(builder, x)
    return Graph(tuple(builder.nodes), (x.index,), (y.index,))


def random_networks(folder: Path, seeds: range):
    """Graphs of operators without jumps, with the box of their inputs; those that cannot be differentiated as well."""
    for seed in seeds:
        made = random_graph(seed, SMOOTH)
        try:
            yield seed, made, read_onnx(made.write(folder / f"{seed}.onnx"))
        except ModelError:
            continue


def inputs_of(graph: Graph, flat: Tensor) -> list[Tensor]:
    """Flat inputs ``[n, inputs]`` as the graph takes them."""
    sizes = [graph.nodes[i].size for i in graph.inputs]
    parts = flat.split(sizes, 1)
    return [part.reshape(-1, *graph.nodes[i].shape) for part, i in zip(parts, graph.inputs, strict=True)]


def differentiated(graph: Graph, flat: Tensor, evaluate: Evaluator | None = None) -> Tensor:
    """The Jacobian ``[n, outputs, inputs]`` at flat inputs ``[n, inputs]`` by automatic differentiation in float64."""
    evaluate = evaluate or evaluator(graph)
    flat = flat.detach().clone().requires_grad_()
    y = torch.cat([out.flatten(1) for out in evaluate(inputs_of(graph, flat))], 1)
    rows = []
    for k in range(y.shape[1]):
        (row,) = torch.autograd.grad(y[:, k].sum(), flat, retain_graph=True, allow_unused=True)
        rows.append(torch.zeros_like(flat) if row is None else row)
    return torch.stack(rows, 1)


def at(graph: Graph, flat: Tensor) -> Tensor:
    """The only output of a graph at flat inputs."""
    with torch.no_grad():
        return evaluator(graph)(inputs_of(graph, flat))[0]


def drawn(lower: np.ndarray, upper: np.ndarray, count: int, seed: int = 0) -> Tensor:
    """Points of a box ``[count, inputs]``, some of them corners."""
    random = np.random.default_rng(seed)
    share = random.random((count, len(lower)))
    share[: count // 4] = np.round(share[: count // 4])
    return torch.from_numpy(lower + share * (upper - lower))
