"""Norms of Jacobians at points: sampled, improved by local search, and proven from below.

A norm counts where a box around a point proves it: entries of the Jacobian from intervals over that point alone, in
which a kink holds the slopes of both sides. So a point on a kink gives what every gradient beside it has.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import Graph, evaluator
from provenn.bounds.jacobian import jacobian, spectral
from provenn.bounds.jacobian._norms import input_boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.verifier.crossings import AT_ONCE, Crossings
from provenn.verifier.rays import Rays

# Points of the first sample, those that are kept, and children of each in a round of the local search.
SAMPLE, KEPT, CHILDREN = 4096, 48, 16
# Points that move along rays, and the temperatures they begin and end with, as shares of the largest norm.
CHAINS, HOT, COLD = 64, 0.03, 0.003
# Segments of a ray for which there has to be room.
SEGMENTS_SEEN = 512
# Of as many moves one is along a ray, the others are to vertices.
FANS = 3
# Sizes of moves, as shares of the box.
SCALES = (0.5, 0.2, 0.1, 0.03, 0.01, 0.003)


def matrix_norm(matrices: Tensor, norm: str) -> Tensor:
    """Induced norms ``[n]`` of matrices ``[n, rows, columns]``."""
    if norm == "2" and matrices[0].numel() > 1:
        return torch.linalg.matrix_norm(matrices, 2)
    return matrices.abs().sum(2 if norm == "inf" else 1).amax(1)


def least_norm(lower: Tensor, upper: Tensor, norm: str) -> Tensor:
    """A lower bound ``[n]`` of the norms of all matrices between two ``[n, rows, columns]`` (float64)."""
    size = torch.maximum(torch.maximum(lower, -upper), torch.zeros_like(lower))
    if norm != "2" or size[0].numel() == 1:
        sums = size.sum(2 if norm == "inf" else 1).amax(1)
        return torch.nan_to_num(sums * (1 - 1e-15 * (size[0].numel() + 8)), nan=0.0, posinf=0.0)
    known = torch.isfinite(lower).flatten(1).all(1) & torch.isfinite(upper).flatten(1).all(1)
    lower, upper = (torch.where(known[:, None, None], end, 0.0) for end in (lower, upper))
    middle = 0.5 * lower + 0.5 * upper
    radius = torch.maximum(upper - middle, middle - lower) * (1 + 1e-15) + 1e-300
    vector = torch.linalg.svd(middle, full_matrices=False).Vh[:, :1].mT
    length = torch.linalg.vector_norm((middle @ vector).flatten(1), dim=1)
    length = length / torch.linalg.vector_norm(vector.flatten(1), dim=1)
    rounding = 4e-16 * (middle[0].numel() + 16) * torch.linalg.vector_norm(middle.flatten(1), dim=1)
    least = (length - rounding - spectral(-radius, radius)).clamp(min=0.0) * (1 - 1e-15)
    return torch.nan_to_num(least, nan=0.0, posinf=0.0)


class Gradients:
    """The best point so far: ``lower`` is proven to be at most the constant over the box, ``point`` is where."""

    def __init__(self, graph: Graph, lower: Tensor, upper: Tensor, norm: str, output: int | None, seed: int = 0):
        """``lower`` and ``upper`` ``[inputs]`` may be infinite."""
        self.norm, self.low, self.high = norm, lower, upper
        self.made = jacobian(graph, None if output is None else [output])
        self.shape = self.made.nodes[self.made.outputs[0]].shape
        self._evaluate, self._plan = evaluator(self.made), Plan(self.made)
        self.generator = torch.Generator().manual_seed(seed)
        self._crossings = Crossings(graph, self.generator)
        self._rays = Rays(self._crossings, lower, upper, self.generator)
        self.lower = 0.0
        self.point = self._centre()
        self.evaluated = 0

    def _centre(self) -> Tensor:
        middle = 0.5 * self.low + 0.5 * self.high
        return torch.where(torch.isfinite(middle), middle, torch.zeros_like(middle).clamp(self.low, self.high))

    def matrices(self, points: Tensor) -> Tensor:
        """Jacobians ``[n, rows, columns]`` at points ``[n, inputs]``, at a kink with the slope of one side."""
        nodes = self.made.nodes
        parts = points.split([nodes[i].size for i in self.made.inputs], 1)
        shaped = [p.reshape(-1, *nodes[i].shape) for p, i in zip(parts, self.made.inputs, strict=True)]
        return self._evaluate(shaped)[0]

    def norms(self, points: Tensor) -> Tensor:
        """Norms ``[n]`` at points, not proven; 0 where they are not numbers."""
        size = max(1, AT_ONCE // sum(node.size for node in self.made.nodes))
        found = [self._norms(part) for part in points.split(size)]
        self.evaluated += len(points)
        return torch.cat(found)

    def _norms(self, points: Tensor) -> Tensor:
        matrices = self.matrices(points)
        fine = torch.isfinite(matrices).flatten(1).all(1)
        return torch.where(fine, matrix_norm(torch.where(fine[:, None, None], matrices, 0.0), self.norm), 0.0)

    def prove(self, points: Tensor) -> Tensor:
        """Proven lower bounds ``[n]`` of the constant, from points ``[n, inputs]`` of the box.

        The boxes around them have an inside, so that no choice of sides counts that no point there makes.
        """
        boxes = interval_boxes(self._plan, input_boxes(self.made, *widened(points, points)))
        return least_norm(*boxes[self.made.outputs[0]], self.norm)

    def take(self, points: Tensor, norms: Tensor | None = None) -> bool:
        """Try points (moved into the box) as the best one; whether one is."""
        if len(points) == 0:
            return False
        points = torch.nan_to_num(points).clamp(self.low, self.high)
        norms = self.norms(points) if norms is None else norms
        best = norms.topk(min(4, len(norms)))
        if float(best.values[0]) <= self.lower:
            return False
        proven = self.prove(points[best.indices])
        at = int(proven.argmax())
        if float(proven[at]) <= self.lower:
            return False
        self.lower, self.point = float(proven[at]), points[best.indices[at]].clone()
        return True

    # -- search ---------------------------------------------------------------------------------------------

    def sample(self, count: int) -> Tensor:
        """Points of the box; where it is infinite, in directions of all lengths from 0.03 to 3e5."""
        size = len(self.low)
        share = torch.rand(count, size, dtype=torch.float64, generator=self.generator)
        ends = torch.rand(count, size, generator=self.generator) < torch.rand(count, 1, generator=self.generator) - 0.4
        inside = torch.lerp(
            self.low.clamp(min=-1e300), self.high.clamp(max=1e300), torch.where(ends, share.round(), share)
        )
        scale = 10.0 ** (7 * torch.rand(count, 1, dtype=torch.float64, generator=self.generator) - 1.5)
        anywhere = scale * torch.randn(count, size, dtype=torch.float64, generator=self.generator)
        finite = torch.isfinite(self.low) & torch.isfinite(self.high)
        return torch.where(finite, inside, anywhere).clamp(self.low, self.high)

    def moved(self, points: Tensor) -> Tensor:
        """Points near points: all inputs moved a little or a few moved a lot."""
        count = len(points)
        width = torch.where(torch.isfinite(self.high - self.low), self.high - self.low, 1 + points.abs())
        scale = torch.tensor(SCALES, dtype=torch.float64)
        scale = scale[torch.randint(len(SCALES), (count, 1), generator=self.generator)]
        move = torch.randn(points.shape, dtype=torch.float64, generator=self.generator) * scale * width
        share = torch.rand(count, 1, generator=self.generator)
        few = torch.rand(points.shape, generator=self.generator) < share
        return (points + torch.where(few, move, 0.0)).clamp(self.low, self.high)

    def crossed(self, points: Tensor) -> Tensor:
        """Points beyond kinks near points."""
        beyond = self._crossings.of(points)
        if self._crossings.flips:
            beyond = torch.cat([beyond, self._crossings.flipped(points)])
        return beyond.clamp(self.low, self.high)

    def climb(self, rounds: int, until: float, *, fresh: bool = False) -> None:
        """Local search from a sample, and from the best point unless ``fresh``: gradient steps where the norm is
        smooth, random moves, and moves across kinks."""
        points = self.sample(max(KEPT, min(SAMPLE, AT_ONCE // (8 * sum(n.size for n in self.made.nodes)))))
        if not fresh:
            points = torch.cat([points, self.point[None]])
        norms = self.norms(points)
        self.take(points, norms)
        for number in range(rounds):
            if time.monotonic() > until:
                return
            best = norms.topk(min(KEPT, len(norms))).indices
            points, norms = points[best], norms[best]
            tried = torch.cat([self.moved(points.repeat(CHILDREN, 1)), self.crossed(points)])
            if number % 3 == 0:
                tried = torch.cat([tried, self._ascended(points, 8, until)])
            found = self.norms(tried)
            self.take(tried, found)
            points, norms = torch.cat([points, tried]), torch.cat([norms, found])
            points, norms = _distinct(points, norms)

    @property
    def anneals(self) -> bool:
        """Whether there are kinks that rays can meet, and few enough that all points have room to move at once."""
        return bool(self._crossings.kinks) and self._chains() == CHAINS

    def _chains(self) -> int:
        return max(2, min(CHAINS, AT_ONCE // (SEGMENTS_SEEN * (len(self._crossings.kinks) + len(self.low)))))

    def anneal(self, rounds: int, until: float) -> None:
        """Points move to regions along rays or around vertices, drawn by their norms, ever colder: hit and run."""
        begun = time.monotonic()
        count = self._chains()
        meet = 0 < len(self._crossings.kinks) * len(self.low) * count <= AT_ONCE
        points = self.sample(count)
        for number in range(rounds):
            now = time.monotonic()
            if now > until:
                return
            passed = max(number / rounds, (now - begun) / max(1e-9, until - begun))
            heat = HOT * (COLD / HOT) ** passed
            tried, owners = self._rays.fans(points) if meet and number % FANS else self._rays.passed(points)
            tried = torch.cat([tried, points]).clamp(self.low, self.high)
            owners = torch.cat([owners, torch.arange(count)])
            norms = self.norms(tried)
            self.take(tried, norms)
            share = torch.rand(len(norms), dtype=torch.float64, generator=self.generator)
            score = norms / (heat * max(1e-300, self.lower)) - (-share.log()).log()
            best = torch.full((count,), -torch.inf, dtype=torch.float64).scatter_reduce(0, owners, score, "amax")
            chosen = torch.nonzero(score == best[owners])[:, 0]
            points = points.index_copy(0, owners[chosen], tried[chosen])

    def _ascended(self, points: Tensor, steps: int, until: float) -> Tensor:
        """Points after signed gradient steps of the norm; the points themselves where it has no slope."""
        width = torch.where(torch.isfinite(self.high - self.low), self.high - self.low, 1 + points.abs())
        size = 0.1
        for _ in range(steps):
            if time.monotonic() > until:
                break
            with torch.enable_grad():
                x = points.detach().requires_grad_()
                total = torch.nan_to_num(matrix_norm(torch.nan_to_num(self.matrices(x)), self.norm)).sum()
                if not total.requires_grad:
                    break
                (slope,) = torch.autograd.grad(total, x, allow_unused=True)
            if slope is None or not bool(slope.any()):
                break
            points = (points + size * width * torch.nan_to_num(slope).sign()).clamp(self.low, self.high)
            size *= 0.6
        return points.detach()


def _distinct(points: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    """One point of each norm, so that one linear region does not fill the population."""
    rounded = np.round(norms.numpy() / (1e-9 * max(1e-300, float(norms.max()))))
    first = torch.from_numpy(np.unique(rounded, return_index=True)[1])
    return points[first], norms[first]


def widened(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """A box with the closed one in its inside: there kinks on the boundary have both sides."""
    infinity = torch.full_like(lower, torch.inf)
    return torch.nextafter(lower, -infinity), torch.nextafter(upper, infinity)


def with_inside(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """A box with inputs of one value made wider, so that almost all of its points have a neighbourhood in it.

    Elsewhere a kink on the boundary has the side that lies in the box alone.
    """
    alone = lower == upper
    return tuple(torch.where(alone, wide, end) for wide, end in zip(widened(lower, upper), (lower, upper), strict=True))  # type: ignore[return-value]


def finite(lower: Tensor, upper: Tensor) -> bool:
    return bool(torch.isfinite(lower).all() and torch.isfinite(upper).all()) and math.isfinite(float(upper.sum()))
