"""Root bounds: the facts that hold in a whole input box, proven once and inherited by every domain below it.

Slopes are sought in float32, where they cost half; every fact is then recomputed in float64 with those slopes
and an error term, and rounded outward to numbers that float32 can hold, so that both types see the same boxes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from provenn.bounds.propagate.intermediate import interval_is_exact, merge, one_hot, unstable
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.optimise import Objective, Schedule, optimise
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError
from provenn.verifier.problem import Problem

# Elements of one coefficient tensor in a chunk of root rows.
CHUNK_ELEMENTS = 1 << 22


def outward32(box: Box) -> Box:
    """The smallest box with float32 ends that contains a float64 box (still float64 tensors)."""
    lower, upper = box[0].float(), box[1].float()
    infinity = torch.full((), torch.inf, device=lower.device)
    lower = torch.where(lower.double() > box[0], torch.nextafter(lower, -infinity), lower)
    upper = torch.where(upper.double() < box[1], torch.nextafter(upper, infinity), upper)
    return lower.double(), upper.double()


@dataclass
class Facts:
    """Sound boxes ``[1, *shape]`` (float64 values that float32 holds) of every value relaxations read."""

    inputs: dict[int, Box]
    boxes: dict[int, Box]
    magnitudes: Magnitudes
    unstable_rows: int = 0
    notes: list[str] = field(default_factory=list)

    def cast(self, dtype: torch.dtype) -> dict[int, Box]:
        return {v: (b[0].to(dtype), b[1].to(dtype)) for v, b in self.boxes.items()}


def root_facts(
    problem: Problem, lower: Tensor, upper: Tensor, *, steps: int, deadline: float, known: Facts | None = None
) -> Facts:
    """Boxes of all bounded values over one flat input box ``[1, inputs]``.

    A value at a time: interval, then ``steps`` of slope optimisation for each row that is still unstable, each row
    with slopes of its own. After ``deadline`` (time.monotonic()) what remains keeps its interval. ``known`` are
    facts of
    the same box that are intersected with what is found, so that a second pass is never looser than the first.
    """
    exact, search = problem.plan(torch.float64), problem.plan(torch.float32)
    inputs = problem.input_boxes(lower, upper)
    coarse = {i: (b[0].float(), b[1].float()) for i, b in inputs.items()}
    facts = Facts(inputs, {}, Magnitudes(exact, interval_boxes(exact, inputs)))

    def tighten(value: int, box: Box, boxes: dict[int, Box]) -> Box:
        if value > problem.output:
            return box
        elements = unstable(exact, value, box).flatten().nonzero().squeeze(1)
        if elements.numel() and not interval_is_exact(exact, value) and time.monotonic() < deadline:
            facts.unstable_rows += elements.numel()
            box = _refine(exact, search, value, elements, box, facts, inputs, coarse, steps, deadline)
        box = outward32(box)
        facts.boxes[value] = box
        return box

    interval_boxes(exact, inputs, known=known.boxes if known else None, tighten=tighten, until=problem.output)
    return facts


def _refine(
    exact: Plan,
    search: Plan,
    value: int,
    elements: Tensor,
    box: Box,
    facts: Facts,
    inputs: dict[int, Box],
    coarse: dict[int, Box],
    steps: int,
    deadline: float,
) -> Box:
    """Backward bounds of some elements with slopes optimised for each, proven in float64."""
    boxes32 = facts.cast(torch.float32)
    widest = max(search.size(i) for i in search.order(value))
    for part in elements.split(max(8, CHUNK_ELEMENTS // (2 * widest))):
        if time.monotonic() > deadline:
            break
        rows = one_hot(search, value, part)
        objective = Objective(search, value, rows, boxes32, coarse)
        plain = optimise(objective, Schedule(steps=0))
        flat = plain.parameters
        if steps:
            count = part.numel()
            loose = ((plain.bound[0, :count] < 0) & (plain.bound[0, count:] < 0)).nonzero().squeeze(1)
            if loose.numel():
                both = torch.cat([loose, loose + count])
                narrowed = Objective(search, value, rows[:, both], boxes32, coarse)
                better = optimise(narrowed, Schedule(steps=steps), start=flat[:, both])
                flat[:, both] = better.parameters
        box = _proven(exact, value, part, box, facts, inputs, flat)
    return box


def _proven(
    exact: Plan, value: int, part: Tensor, box: Box, facts: Facts, inputs: dict[int, Box], flat: Tensor
) -> Box:
    objective = Objective(exact, value, one_hot(exact, value, part), facts.boxes, inputs)
    flat = torch.minimum(torch.maximum(flat.double(), objective.low), objective.high)
    bound, _ = objective.bound(flat, error=RoundingError(exact, facts.magnitudes))
    count = part.numel()
    return merge(box, part, bound[:, :count], -bound[:, count:])


def outputs_bound(problem: Problem, facts: Facts, clauses, *, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which clauses the root refutes: (refuted [clauses], best margin [clauses], minimisers [clauses, inputs])."""
    exact, search = problem.plan(torch.float64), problem.plan(torch.float32)
    count, per = clauses.rows.shape[:2]
    rows = clauses.rows.reshape(1, count * per, *problem.output_shape)
    threshold = clauses.threshold.reshape(1, -1)
    coarse = {i: (b[0].float(), b[1].float()) for i, b in facts.inputs.items()}
    objective = Objective(search, problem.output, rows.float(), facts.cast(torch.float32), coarse)
    found = optimise(objective, Schedule(steps=steps), threshold=threshold.float())
    proof = Objective(exact, problem.output, rows, facts.boxes, facts.inputs)
    flat = torch.minimum(torch.maximum(found.parameters.double(), proof.low), proof.high)
    bound, _ = proof.bound(flat, error=RoundingError(exact, facts.magnitudes))
    margin = (bound - threshold).view(count, per)
    best, row = margin.max(1)
    x = found.minimiser[problem.input].view(count, per, -1) if found.minimiser else None
    size = int(torch.Size(problem.input_shape).numel())
    points = (
        x[torch.arange(count), row].double()
        if x is not None
        else torch.zeros(count, size, dtype=torch.float64)
    )
    return ((bound > threshold).view(count, per).any(1), best, points)
