"""Bounds with optimised slopes (alpha-CROWN, arXiv 2011.13824): the boxes of intermediate values, then rows.

Every unstable element of every value is bounded with slopes of its own, a value at a time, so that later values read
the improved boxes of earlier ones. (Optimising all of them for the last rows alone, jointly, needs autograd through
the boxes and many steps.) Slopes may be sought in float32 and the bounds they give be made, less their rounding error,
in float64: any slopes are sound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from provenn.bounds.propagate.ball import BallBox
from provenn.bounds.propagate.coefficients import by_place, elements_of, flattened
from provenn.bounds.propagate.intermediate import Batch, Boxes, interval_suffices, merge, wanted
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.objective import Objective
from provenn.bounds.propagate.optimise import Optimised, few_steps, optimise
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError
from provenn.bounds.propagate.trace import Trace

# Multiplications of the rows that are optimised together, on one way: a second or so.
STEP = 2e9
# Steps that rows get where time is short.
LEAST_STEPS = 2
# Rows stop improving when a step gains less than this share of what all steps have gained.
SETTLED = 0.005


def cast(boxes: Mapping[int, Box], dtype: torch.dtype) -> dict[int, Box]:
    """Boxes in another element type."""
    return {
        value: box.to(dtype) if isinstance(box, BallBox) else (box[0].to(dtype), box[1].to(dtype))
        for value, box in boxes.items()
    }


class Slopes:
    """Slopes sought on one plan for each unstable element of a value, and the bounds they give on another.

    ``boxes`` are the boxes ``[domains, *shape]`` found so far, of every value that relaxations read: ``add`` them in
    topological order. With ``magnitudes`` bounds are less their rounding error. After ``deadline`` (time.monotonic())
    no step begins.
    """

    def __init__(
        self,
        exact: Plan,
        search: Plan,
        inputs: Mapping[int, Box],
        *,
        magnitudes: Magnitudes | None,
        steps: int,
        deadline: float = math.inf,
    ):
        self.exact, self.search, self.magnitudes = exact, search, magnitudes
        self.steps, self.deadline = steps, deadline
        self.inputs: dict[int, Box] = dict(inputs)
        self.boxes: dict[int, Box] = {}
        self._ahead: dict[int, float] = {}
        self._done = self._took = 0.0
        self._inputs = cast(inputs, search.dtype)
        self._boxes: dict[int, Box] = {}

    def add(self, value: int, box: Box) -> None:
        self.boxes[value] = box
        self._boxes[value] = (box[0].to(self.search.dtype), box[1].to(self.search.dtype))

    def expect(self, boxes: Mapping[int, Box]) -> None:
        """Which values are still to come, by boxes that they are no wider than: all should get their share of the
        time, so where that is short every row gets fewer steps instead of late values none."""
        for value, box in boxes.items():
            if not interval_suffices(self.exact, value, self.inputs):
                count = int(flattened(wanted(self.exact, value, box), 1).any(0).sum())
                self._ahead[value] = 2 * count * self._work(value)

    def _work(self, value: int) -> float:
        """What a step of one row takes, in multiplications, roughly."""
        return self.search.cost(value) + 16 * self.search.weights(value) + 1.0

    def _affordable(self) -> int:
        """Steps of the next rows."""
        left = sum(self._ahead.values())
        if not (self._took and left) or math.isinf(self.deadline):
            return self.steps
        fits = (self.deadline - time.monotonic()) * (self._done / self._took) / left - 1
        return int(min(self.steps, max(LEAST_STEPS, fits)))

    def tighten(self, value: int, box: Box) -> Box:
        """The box of a value with bounds of its unstable elements; after the deadline what is left stays."""
        if self.steps == 0 or interval_suffices(self.exact, value, self.inputs) or time.monotonic() > self.deadline:
            return box
        elements = flattened(wanted(self.exact, value, box), 1).any(0).nonzero().squeeze(1)
        if elements.numel() == 0:
            self._ahead.pop(value, None)
            return box
        size = max(1, rows_together(self.exact, value, box[0].shape[0]) // 2)
        for part in elements.split(size):
            if time.monotonic() > self.deadline:
                break
            one = torch.ones(part.numel(), dtype=self.exact.dtype, device=part.device)
            steps, begun = self._affordable(), time.monotonic()
            bound = self._elements(value, torch.cat([part, part]), torch.cat([one, -one]), steps)
            rows = 2 * part.numel() * self._work(value)
            self._done, self._took = self._done + (steps + 1) * rows, self._took + time.monotonic() - begun
            self._ahead[value] = max(0.0, self._ahead.get(value, 0.0) - rows)
            box = merge(box, part, bound[:, : part.numel()], -bound[:, part.numel() :])
        self._ahead.pop(value, None)
        return box

    def _elements(self, value: int, elements: Tensor, signs: Tensor, steps: int) -> Tensor:
        """Lower bounds ``[domains, k]`` of elements times signs at slopes optimised in so many steps."""
        extent = self.exact.extents(value)[value]
        order = None if extent is None else by_place(self.exact.shape(value), elements)
        if order is not None:
            elements, signs = elements[order], signs[order]

        def objective(plan: Plan, boxes: dict[int, Box], inputs: dict[int, Box]) -> Objective:
            rows = elements_of(plan.shape(value), elements, signs.to(plan.dtype).unsqueeze(0), extent)
            return Objective(plan, value, rows, boxes, inputs, narrow=True, planes=True)

        coarse = objective(self.search, self._boxes, self._inputs)
        found = optimise(coarse, few_steps(steps), points=False, deadline=self.deadline)
        bound = found.bound
        if self.exact is not self.search or self.magnitudes is not None:
            bound = proven_bound(
                objective(self.exact, self.boxes, self.inputs), found.parameters, self.magnitudes
            )
        return bound if order is None else torch.empty_like(bound).index_copy_(1, order, bound)

    def sought(
        self, target: int, rows: Tensor, *, threshold: Tensor | float = torch.inf, points: bool = False
    ) -> Optimised:
        """What the search finds for rows of the target."""
        limit = threshold.to(self.search.dtype) if isinstance(threshold, Tensor) else threshold
        coarse = Objective(
            self.search, target, rows.to(self.search.dtype), self._boxes, self._inputs, narrow=True, planes=True
        )
        schedule = few_steps(self.steps, SETTLED)
        return optimise(coarse, schedule, threshold=limit, points=points, deadline=self.deadline)

    def rows(
        self, target: int, rows: Tensor, *, threshold: Tensor | float = torch.inf, points: bool = False
    ) -> tuple[Tensor, Optimised]:
        """Lower bounds ``[domains, rows]`` of rows ``[1|domains, rows, *shape]`` of the target, and what the search
        found."""
        found = self.sought(target, rows, threshold=threshold, points=points)
        if self.exact is self.search and self.magnitudes is None:
            return found.bound, found
        proof = Objective(self.exact, target, rows, self.boxes, self.inputs, narrow=True, planes=True)
        return proven_bound(proof, found.parameters, self.magnitudes), found


def rows_together(plan: Plan, value: int, domains: int = 1) -> int:
    """Rows to optimise together: what fits into memory, and few enough that a step ends within a second or two."""
    fits = plan.rows_at_once(value, domains, traced=True)
    return max(1, min(fits, int(STEP / max(1, plan.cost(value) * domains))))


def proven_bound(objective: Objective, parameters: Tensor, magnitudes: Magnitudes | None) -> Tensor:
    """The bound, less its error, at parameters found in another type; any parameters are sound."""
    error = RoundingError(objective.plan, magnitudes) if magnitudes is not None else None
    return bound_at(objective, parameters, error)


def bound_at(
    objective: Objective, parameters: Tensor, error: RoundingError | None, trace: Trace | None = None
) -> Tensor:
    """The same with an error term of the caller's; ``trace`` receives the coefficients on the inputs."""
    fits = parameters.shape[-1] == objective.layout.total
    start = parameters.to(objective.plan.dtype) if fits else objective.start()
    flat = torch.minimum(torch.maximum(start, objective.low), objective.high)
    bound, _ = objective.bound(flat, trace, error=error)
    return bound.expand(objective.domains, -1)


def alpha(
    plan: Plan,
    inputs: Mapping[int, Box],
    target: int,
    rows: Tensor,
    *,
    steps: int = 20,
    search: Plan | None = None,
    magnitudes: Magnitudes | None = None,
) -> Tensor:
    """Lower bounds ``[domains, rows]`` of rows ``[1|domains, rows, *shape]`` of a value, slopes optimised throughout.

    Slopes are sought on ``search`` (a float32 plan of the same graph, or the plan itself). Bounds are proven if the
    plan is float64 and ``magnitudes`` are given. Cost: for each value with k unstable elements about ``steps``
    backward and forward passes of 2k rows.
    """
    slopes = Slopes(plan, search or plan, inputs, magnitudes=magnitudes, steps=steps)
    domains = max(box[0].shape[0] for box in inputs.values())
    batch = Batch(plan, inputs, magnitudes, Boxes(), {}, domains)

    def tighten(value: int, box: Box, boxes: dict[int, Box]) -> Box:
        box = slopes.tighten(value, batch.tighten(value, box))
        slopes.add(value, box)
        return box

    interval_boxes(plan, inputs, tighten=tighten, until=target, into=batch.boxes)
    return slopes.rows(target, rows)[0]
