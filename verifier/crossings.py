"""Moves of points across the kinks of a network, into linear regions beside theirs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import Graph, evaluator
from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.plan import Plan

# Elements whose kinks are crossed in a round, and how far beyond them a point lands, as a share of the way to them.
ELEMENTS = 48
# Kinks up to which one is crossed while all others are kept.
MOST_FLIPPED = 256
BEYOND = (1e-6, 1e-3, 0.1)
# Numbers of all values that are evaluated at once.
AT_ONCE = 1 << 23


class Crossings:
    """The kinks of a graph with one input: operands of functions that bend, less where they bend."""

    def __init__(self, graph: Graph, generator: torch.Generator):
        self.generator, self.graph = generator, graph
        plan = Plan(graph)
        bends: dict[int, list[float]] = {}
        for node, operator, prepared in zip(graph.nodes, plan.operators, plan.prepared, strict=True):
            if isinstance(operator, Univariate) and operator.breakpoints is not None and operator.piecewise_linear:
                for point in operator.breakpoints(prepared):
                    if torch.as_tensor(point).numel() == 1:
                        bends.setdefault(node.inputs[0], []).append(float(torch.as_tensor(point)))
        self.bends = {value: sorted(set(points)) for value, points in bends.items()}
        self._values = evaluator(replace(graph, outputs=tuple(self.bends))) if self.bends else None
        self.kinks = [
            (place, element, point)
            for place, (value, points) in enumerate(self.bends.items())
            for element in range(graph.nodes[value].size)
            for point in points
        ]
        starts = np.cumsum([0, *(graph.nodes[value].size for value in self.bends)])
        self._columns = torch.tensor([int(starts[place]) + element for place, element, _ in self.kinks])
        self._at = torch.tensor([point for _, _, point in self.kinks], dtype=torch.float64)

    def heights(self, points: Tensor) -> Tensor:
        """How far operands are above their kinks ``[n, kinks]`` at points ``[n, inputs]``."""
        if self._values is None:
            return points[:, :0]
        shape = self.graph.nodes[self.graph.inputs[0]].shape
        found = []
        for part in points.split(max(1, AT_ONCE // sum(node.size for node in self.graph.nodes))):
            values = torch.cat([value.reshape(len(part), -1) for value in self._values([part.reshape(-1, *shape)])], 1)
            found.append(values[:, self._columns] - self._at)
        return torch.cat(found)

    def of(self, points: Tensor) -> Tensor:
        """Points ``[n, inputs]`` on the other side of some kinks of points: along the slope of the operand, as far as
        it reaches the kink there and a little more."""
        if self._values is None:
            return points[:0]
        chosen = torch.randperm(len(self.kinks), generator=self.generator)[:ELEMENTS].tolist()
        heights, slopes = self._linear(points, chosen)
        size = slopes.square().sum(2)
        move = torch.where(size > 0, (1 + self._shares(len(chosen))) * heights / size, 0.0)[:, :, None] * slopes
        return (points[:, None] - torch.nan_to_num(move, nan=0.0, posinf=0.0, neginf=0.0)).flatten(0, 1)

    @property
    def flips(self) -> bool:
        """Whether there are so few kinks that a move can cross one of them and keep its distance to all others."""
        return 0 < len(self.kinks) <= min(MOST_FLIPPED, self.graph.nodes[self.graph.inputs[0]].size)

    def flipped(self, points: Tensor) -> Tensor:
        """Points ``[n, inputs]`` beyond one kink each of points, where ``flips``: by the shortest moves that keep all
        other heights, or where those depend on each other change them by the least shares."""
        heights, slopes = self._linear(points, list(range(len(self.kinks))))
        size = heights.abs().clamp(min=1e-300)
        scaled = slopes / size[:, :, None]
        gram = scaled @ scaled.mT
        count = len(self.kinks)
        ridge = 1e-10 * gram.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-300)[:, None, None]
        factor, failed = torch.linalg.cholesky_ex(gram + ridge * torch.eye(count, dtype=gram.dtype))
        chosen = torch.randperm(count, generator=self.generator)[:ELEMENTS]
        aim = torch.eye(count, dtype=gram.dtype)[:, chosen].expand(len(points), -1, -1)
        move = (scaled.mT @ torch.cholesky_solve(aim, factor)).mT
        reached = (move * slopes[:, chosen]).sum(2)
        share = -(1 + self._shares(len(chosen))) * heights[:, chosen] / reached
        share = torch.where((failed == 0)[:, None] & (reached != 0), share, 0.0)
        move = torch.nan_to_num(share[:, :, None] * move, nan=0.0, posinf=0.0, neginf=0.0)
        return (points[:, None] + move).flatten(0, 1)

    def _shares(self, count: int) -> Tensor:
        """How far beyond kinks to go ``[count]``."""
        drawn = torch.randint(len(BEYOND), (count,), generator=self.generator)
        return torch.tensor(BEYOND, dtype=torch.float64)[drawn]

    def _linear(self, points: Tensor, chosen: list[int]) -> tuple[Tensor, Tensor]:
        """Heights above chosen kinks ``[n, chosen]`` and their slopes ``[n, chosen, inputs]``."""
        heights, slopes = [], []
        with torch.enable_grad():
            x = points.detach().requires_grad_()
            assert self._values is not None
            values = self._values([x.reshape(-1, *self.graph.nodes[self.graph.inputs[0]].shape)])
            for number in chosen:
                place, element, kink = self.kinks[number]
                away = values[place].reshape(len(points), -1)[:, element] - kink
                slope = None
                if away.requires_grad:
                    (slope,) = torch.autograd.grad(away.sum(), x, retain_graph=True, allow_unused=True)
                heights.append(away.detach())
                slopes.append(torch.zeros_like(points) if slope is None else slope)
        return torch.stack(heights, 1), torch.stack(slopes, 1)
