"""Root bounds: the facts that hold in a whole input box, proven once and inherited by every domain below it.

Slopes are sought in float32, where they cost half; every fact is then recomputed in float64 with those slopes
and an error term, and rounded outward to numbers that float32 can hold, so that both types see the same boxes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from provenn.bounds.propagate.alpha import Slopes, cast, rows_together
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.intermediate import Batch, Boxes, unstable
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.interval import outward32 as outward32
from provenn.bounds.propagate.ladder import Ladder
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.undefined import Undefined, undefined

# Rows up to which all are optimised at once; of more, first those are dropped that need no optimisation.
FEW_ROWS = 32


@dataclass
class Facts:
    """Sound boxes ``[1, *shape]`` (float64 values that float32 holds) of every value relaxations read.

    ``output`` is a box of the output, from the boxes of its operands; ``seconds`` is what all of them took, without
    optimised slopes; ``notes`` say where time was short, ``undefined`` where there is no value to bound.
    """

    inputs: dict[int, Box]
    boxes: dict[int, Box]
    magnitudes: Magnitudes
    output: Box | None = None
    unstable_rows: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    undefined: Undefined | None = None

    def cast(self, dtype: torch.dtype) -> dict[int, Box]:
        return cast(self.boxes, dtype)

    def slopes(self, problem: Problem, steps: int, deadline: float) -> Slopes:
        """Slopes sought in float32, bounds proven in float64, over these boxes."""
        exact, search = problem.plan(torch.float64), problem.plan(torch.float32)
        slopes = Slopes(exact, search, self.inputs, magnitudes=self.magnitudes, steps=steps, deadline=deadline)
        for value, box in self.boxes.items():
            slopes.add(value, box)
        return slopes


def root_facts(
    problem: Problem, lower: Tensor, upper: Tensor, *, steps: int, deadline: float, known: Facts | None = None
) -> Facts:
    """Boxes of all bounded values over one flat input box ``[1, inputs]``.

    A value at a time: interval, then backward bounds of the elements that leaves unstable, then ``steps`` of slope
    optimisation for those that are still unstable, each row with slopes of its own. After ``deadline``
    what remains keeps what it has, at least its interval. ``known`` are facts of the same box that are intersected with
    what is found, so that a second pass is never looser than the first, and need not repeat it.
    """
    exact = problem.plan(torch.float64)
    inputs = problem.input_boxes(lower, upper)
    begun = time.monotonic()
    intervals = known.boxes if known else interval_boxes(exact, inputs, until=problem.output)
    magnitudes = known.magnitudes if known else Magnitudes(exact, intervals)
    facts = Facts(inputs, {}, magnitudes)
    ladder = Ladder(exact, intervals, deadline)
    batch = Batch(exact, inputs, magnitudes, Boxes(), {}, 1, deadline=deadline)
    slopes = facts.slopes(problem, steps, deadline)
    if known is not None:
        slopes.expect(known.boxes)

    def tighten(value: int, box: Box, boxes: dict[int, Box]) -> Box:
        if known is None:
            facts.unstable_rows += int(unstable(exact, value, box).sum())
            box = ladder.tighten(batch, value, box)
        box = outward32(slopes.tighten(value, box))
        facts.boxes[value] = box
        slopes.add(value, box)
        return box

    interval_boxes(
        exact, inputs, known=known.boxes if known else None, tighten=tighten, until=problem.output, into=batch.boxes
    )
    if known is not None:
        facts.unstable_rows = known.unstable_rows
    facts.seconds = known.seconds if known is not None else time.monotonic() - begun
    facts.output = batch.boxes[problem.output]
    facts.undefined = undefined(exact, inputs, batch.boxes)
    facts.notes += ladder.notes
    return facts


def root_seconds(problem: Problem, lower: Tensor, upper: Tensor) -> float:
    """What plain root bounds would take without a deadline, foretold from intervals and operation counts."""
    exact = problem.plan(torch.float64)
    intervals = interval_boxes(exact, problem.input_boxes(lower, upper), until=problem.output)
    return Ladder(exact, intervals, math.inf).seconds


def outputs_bound(
    problem: Problem, facts: Facts, clauses: Clauses, *, steps: int, deadline: float = math.inf
) -> tuple[Tensor, Tensor, Tensor]:
    """Which clauses the root refutes: (refuted [clauses], best margin [clauses], minimisers [clauses, inputs]).

    The output's box comes first: over a bounded function its image may be all there is to know, which lines are not.
    No step of optimisation begins after ``deadline``; what no pass has reached by then is bounded by the output's box.
    """
    per = clauses.rows.shape[1]
    many = steps > 0 and len(clauses) * per > FEW_ROWS
    found = _by_parts(problem, facts, clauses, 0 if many else steps, deadline)
    if not many:
        return found
    left = (~found[0]).nonzero().squeeze(1)
    if left.numel() and time.monotonic() < deadline:
        better = _by_parts(problem, facts, clauses.select(left), steps, deadline)
        gained = better[1] > found[1][left]
        for whole, part in zip(found, better, strict=True):
            whole[left[gained]] = part[gained]
    return found


def _by_parts(
    problem: Problem, facts: Facts, clauses: Clauses, steps: int, deadline: float
) -> tuple[Tensor, Tensor, Tensor]:
    size = max(1, rows_together(problem.plan(torch.float64), problem.output) // clauses.rows.shape[1])
    slopes = facts.slopes(problem, steps, deadline)
    parts = []
    for i in range(0, len(clauses), size):
        rows, threshold = clauses.rows[i : i + size], clauses.threshold[i : i + size]
        found = _by_box(problem, facts, rows, threshold)
        left = (~found[0]).nonzero().squeeze(1)
        if left.numel() and (i == 0 or time.monotonic() < deadline):
            better = _outputs_bound(problem, slopes, rows[left], threshold[left])
            gained = better[1] > found[1][left]
            for whole, part in zip(found[:2], better, strict=False):
                whole[left[gained]] = part[gained]
            found[2][left] = better[2]
        parts.append(found)
    refuted, best, points = (torch.cat(part) for part in zip(*parts, strict=True))
    return refuted, best, points


def _by_box(problem: Problem, facts: Facts, rows: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The bounds of rows that the output's box gives, with the middle of the input box for a minimiser."""
    exact = problem.plan(torch.float64)
    count, per = rows.shape[:2]
    shaped = rows.reshape(1, count * per, *problem.output_shape)
    assert facts.output is not None
    error = RoundingError(exact, facts.magnitudes)
    stop = {problem.output: facts.output}
    bound = backward(exact, problem.output, shaped, {}, facts.inputs, error=error, stop=stop)
    margin = (bound - threshold.reshape(1, -1)).view(count, per)
    lower, upper = facts.inputs[problem.input]
    middle = (0.5 * lower + 0.5 * upper).reshape(1, -1).repeat(count, 1)
    return (bound > threshold.reshape(1, -1)).view(count, per).any(1), margin.amax(1), middle


def _outputs_bound(
    problem: Problem, slopes: Slopes, rows: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    count, per = rows.shape[:2]
    rows, threshold = rows.reshape(1, count * per, *problem.output_shape), threshold.reshape(1, -1)
    bound, found = slopes.rows(problem.output, rows, threshold=threshold, points=True)
    margin = (bound - threshold).view(count, per)
    best, row = margin.max(1)
    size = int(torch.Size(problem.input_shape).numel())
    x = found.minimiser.get(problem.input)
    if x is None:
        points = torch.zeros(count, size, dtype=torch.float64, device=margin.device)
    else:
        shaped = x.expand(1, count * per, *x.shape[2:]).reshape(count, per, size)
        points = shaped[torch.arange(count, device=margin.device), row].double()
    return (bound > threshold).view(count, per).any(1), best, points
