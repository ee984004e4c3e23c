"""Bounds of local Lipschitz constants (norm inf of one row) by earlier methods and by ours, in equal time.

Usage: python benchmarks/lipschitz_ablation.py [NET.onnx...] --seconds 30
A 784-20-20-10 relu network with seeded random weights, and every NET, over boxes around a seeded random point. Prints
a markdown table: bound, over the best lower bound known; seconds, domains, and what ``local_lipschitz`` had proven
when as many seconds had passed, imports not counted. The methods, all on our engine and sound:

- product: the norms of the layers, multiplied.
- interval: intervals of the values and of the derivatives.
- RecurJac (arXiv 1810.11783): backward bounds with starting slopes; a product with an unsettled derivative is bounded
  by the constant ends of its interval.
- chords: the same, and such products between their chords, as in arXiv 2210.07394 without optimisation.
- published, root and tree: arXiv 2210.07394: slopes of the network's functions are optimised, those of derivatives and
  of products are not, and splits have no multipliers. Choice of splits and everything else as ours.
- ours, root and tree: all slopes, planes and multipliers of splits.
- ours, whole: ``local_lipschitz`` with tolerance 0, which also bounds the root by multipliers of unknown slopes.

Trees and the last have ``--seconds`` each.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import Graph, read_onnx
from provenn.bounds.graph._builder import Builder
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph.lattice import lattice
from provenn.bounds.jacobian import norm_graph
from provenn.bounds.jacobian._norms import input_boxes
from provenn.bounds.ops import relaxation
from provenn.bounds.ops._operator import LinearOperator, Multivariate, Plane, Univariate
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.objective import Objective
from provenn.bounds.propagate.plan import Plan
from provenn.verifier import local_lipschitz
from provenn.verifier.gradients import Gradients
from provenn.verifier.maximise import Maximum, Quantity
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Problem
from provenn.verifier.renewed import Renewed

RADII = (0.001, 0.01, 0.1)
# Functions whose slope is at most 1 anywhere: what the product of norms needs.
GENTLE = frozenset({"relu", "tanh"})


@dataclass(frozen=True)
class Cell:
    """A method's bound, how long it took and how many domains it has bounded."""

    bound: float
    seconds: float
    domains: int


def made(sizes: tuple[int, ...], seed: int = 0) -> Graph:
    """A relu network with weights as they are before training (He), biases of a tenth."""
    random, builder = np.random.default_rng(seed), Builder()
    builder.name, builder.origin = "x", "input 'x'"
    x = first = builder.emit("input", (), (1, sizes[0]), "float64")
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        weight = random.normal(size=(n, m)) * np.sqrt(2 / n)
        builder.name = builder.origin = f"layer {k}"
        x = builder.linear(x, Constant(weight), Constant(0.1 * random.normal(size=m)))
        x = builder.unary("relu", x) if k < len(sizes) - 2 else x
    return Graph(tuple(builder.nodes), (first.index,), (x.index,))


# -- methods without a tree ---------------------------------------------------------------------------------


def product(graph: Graph, output: int) -> float:
    """The induced norms of the layers, multiplied; of the last one's row."""
    plan, size = Plan(graph), 1.0
    for index, node in enumerate(graph.nodes[:-1]):
        if isinstance(plan.operators[index], LinearOperator) and node.inputs:
            size = float(_half_width(plan, index, size).max())
        elif node.inputs and node.operator not in GENTLE:
            raise SystemExit(f"the product of norms knows no slope of {node.operator}")
    return float(_half_width(plan, len(graph.nodes) - 1, size)[output])


def _half_width(plan: Plan, index: int, size: float) -> Tensor:
    shape = plan.shape(plan.graph.nodes[index].inputs[0])
    end = torch.full((1, *shape), size, dtype=torch.float64)
    low, high = plan.interval(index, {plan.graph.nodes[index].inputs[0]: (-end, end)})
    return (0.5 * (high - low)).flatten()


def interval(graph: Graph, output: int, lower: Tensor, upper: Tensor) -> float:
    found = norm_graph(graph, "inf", output)
    return float(interval_boxes(Plan(found.graph), input_boxes(found.graph, lower, upper))[found.graph.outputs[0]][1])


# -- the published method's settings ------------------------------------------------------------------------


def constant_planes(operator: Multivariate) -> Multivariate:
    """Products bounded by the ends of their interval, exact where a factor is a number."""

    def relax(prepared, weights, x, y):  # type: ignore[no-untyped-def]
        low, high = operator.relax(prepared, weights, x, y)
        number = (y[0] == y[1]) | (x[0] == x[1])
        ends = operator.interval(prepared, x, y)
        planes = []
        for plane, end in zip((low, high), ends, strict=True):
            slopes = tuple(torch.where(number, slope, 0.0) for slope in plane.slopes)
            planes.append(Plane(slopes, torch.where(number, plane.offset, end)))
        return tuple(planes)

    return replace(operator, relax=relax, weighted=None)


def unmoved(operator: Univariate) -> Univariate:
    """A function whose lines keep their starting slopes."""

    def slopes(prepared, lower, upper):  # type: ignore[no-untyped-def]
        below, above = relaxation.starting_slopes(operator, prepared, lower, upper)
        return below, below, above, above

    return replace(operator, slopes=slopes)


def changed(problem: Problem, functions: frozenset[str], products: Callable[[Multivariate], Multivariate]) -> None:
    """Keep the starting slopes of all but some functions, and change products."""
    for dtype in (torch.float64, torch.float32):
        plan = problem.plan(dtype)
        for index, operator in enumerate(plan.operators):
            if isinstance(operator, Univariate) and operator.name not in functions:
                plan.operators[index] = unmoved(operator)
            elif isinstance(operator, Multivariate):
                plan.operators[index] = products(operator)


class WithoutMultipliers(Renewed):
    """Splits change boxes and nothing else."""

    def objective(self, fields: Fields, dtype: torch.dtype) -> Objective:
        return super().objective(fields | {"sign": torch.zeros_like(fields["sign"])}, dtype)


@dataclass(eq=False)
class Row:
    """The row of one output over one box."""

    graph: Graph
    output: int
    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        self.norm = norm_graph(self.graph, "inf", self.output)
        self.functions = frozenset(node.operator for node in self.graph.nodes)

    def problem(self) -> Problem:
        whole = Problem(self.norm.graph, None, torch.device("cpu"))  # type: ignore[arg-type]
        return whole.within(self.lower[None], self.upper[None])

    def maximum(self, problem: Problem, deadline: float = float("inf")) -> Maximum:
        rows = -torch.ones(1, 1, 1, dtype=torch.float64)

        def measure(bounds, box, clause):  # type: ignore[no-untyped-def]
            return torch.fmin(-bounds[:, 0], box[1].flatten(1)[:, 0]).clamp(min=0)

        quantity = Quantity(rows, measure, lambda limit: -limit)
        return Maximum(problem, quantity, deadline=deadline, tried=lambda points: None)

    def plain(self, products: Callable[[Multivariate], Multivariate]) -> Cell:
        """Backward bounds with starting slopes."""
        begun = time.monotonic()
        problem = self.problem()
        changed(problem, frozenset(), products)
        made = self.maximum(problem)
        return Cell(self._root(made, 0), time.monotonic() - begun, 1)

    def tree(self, seconds: float, published: bool) -> tuple[Cell, Cell]:
        """The optimised root and the tree of splits below it."""
        begun = time.monotonic()
        problem = self.problem()
        if published:
            changed(problem, self.functions, lambda product: replace(product, weighted=None))
        found = self.maximum(problem, begun + seconds)
        way = found._renewed
        if published:

            def way() -> Renewed:
                bounder = Maximum._renewed(found)
                bounder.__class__ = WithoutMultipliers
                return bounder

        found._makers = [way]
        root = None
        while time.monotonic() < begun + seconds:
            more = found.advance(1e-3 if root is None else 1.0)
            if root is None:
                root = Cell(found.upper, time.monotonic() - begun, 1)
            if not more:
                break
        assert root is not None
        return root, Cell(found.upper, time.monotonic() - begun, found.domains)

    def _root(self, found: Maximum, steps: int) -> float:
        bounder = Renewed(
            found.problem, found._clauses(), found.facts, found.quantity.measure, found.quantity.row, steps=steps
        )
        open_, _ = bounder.bound(bounder.roots())
        return min(found.upper, -float(open_["bound"].min()))


# -- tables -------------------------------------------------------------------------------------------------


def cells(
    graph: Graph, output: int, radius: float, seconds: float
) -> tuple[float, dict[str, Cell], dict[str, float]]:
    """A lower bound, the bound of every method around a seeded point, and what ours was after as many seconds."""
    size = graph.nodes[graph.inputs[0]].size
    centre = torch.from_numpy(np.random.default_rng(0).random(size))
    lower, upper = centre - radius, centre + radius
    gradients = Gradients(graph, lower, upper, "inf", output)
    gradients.climb(60, time.monotonic() + 5)
    row = Row(graph, output, lower, upper)
    found: dict[str, Cell] = {}
    begun = time.monotonic()
    found["product"] = Cell(product(graph, output), time.monotonic() - begun, 1)
    begun = time.monotonic()
    found["interval"] = Cell(interval(graph, output, lower, upper), time.monotonic() - begun, 1)
    found["RecurJac"] = row.plain(constant_planes)
    found["chords"] = row.plain(lambda product: replace(product, weighted=None))
    found["published, root"], found["published, tree"] = row.tree(seconds, True)
    found["ours, root"], found["ours, tree"] = row.tree(seconds, False)
    reached: list[tuple[float, float]] = []
    begun = time.monotonic()

    def progress(stage: str, *, bound: float | None = None, **numbers: object) -> None:
        if bound is not None:
            reached.append((time.monotonic() - begun, bound))

    whole = local_lipschitz(
        graph, lower.numpy(), upper.numpy(), "inf", output, tolerance=0.0, timeout=seconds, progress=progress
    )
    found["ours, whole"] = Cell(whole.upper, whole.seconds, whole.domains)
    reached.append((whole.seconds, whole.upper))
    after = {name: min([b for t, b in reached if t <= cell.seconds], default=math.inf) for name, cell in found.items()}
    return max(gradients.lower, whole.lower), found, after


def main() -> None:
    parser = argparse.ArgumentParser(description="Bounds of Lipschitz constants by several methods, as a table.")
    parser.add_argument("networks", nargs="*", type=Path, metavar="NET.onnx", help="relu and tanh networks")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds of a tree (30)")
    parser.add_argument("--output", type=int, default=0, help="the row of the Jacobian (0)")
    parser.add_argument("--radii", type=float, nargs="+", default=RADII, help="half widths of the boxes")
    given = parser.parse_args()
    networks = {"784-20-20-10": made((784, 20, 20, 10))}
    networks |= {path.name.removesuffix(".gz").removesuffix(".onnx"): read_onnx(path) for path in given.networks}
    print("| network | radius | method | bound | over the lower bound | seconds | domains | ours, whole, by then |")
    print("|---|---|---|---|---|---|---|---|")
    with torch.no_grad():
        for name, network in networks.items():
            for radius in given.radii:
                least, found, after = cells(lattice(network), given.output, radius, given.seconds)
                for method, cell in found.items():
                    print(
                        f"| {name} | {radius:g} | {method} | {cell.bound:.6g} | {cell.bound / least:.4f} | "
                        f"{cell.seconds:.2f} | {cell.domains} | {after[method]:.6g} |", flush=True,
                    )  # fmt: skip


if __name__ == "__main__":
    main()
