"""Falsification: batched searches for a violating input, every candidate replayed before it is believed."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenn.verifier.descent import Points, descend, draw, mutate
from provenn.verifier.options import Options
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.replay import Replay
from provenn.verifier.result import Witness
from provenn.verifier.target import Target

THOROUGH_STEPS, THOROUGH_RESTARTS = 1000, 250
"""Hidden counterexamples need many steps from many points (SoundnessBench)."""
_SCREEN_WORK = 5e8
"""Multiplications that the points screened before the first step may take."""
_SCREEN_POINTS = 1 << 17
"""The same in points, for small networks."""
_WAVE_WORK = 1e9
"""Multiplications of one step of the first wave; later waves double, twice."""
_SHORT = 60
"""Steps of the first descent of every point; only then are longer ones tried, from the best ends."""
_DIVERSE = 0.7
"""Fraction of the descents that are diversified: on image classifiers far more of those succeed."""
_BATCHES_KEPT = 32
"""Batches whose best clauses are held before they are thinned out."""
_GRID = 1 << 14
"""Integer points of a box that are enumerated where the network jumps."""
_GRID_PART = 128
"""Points of a grid between two looks at the margins."""


def attack(
    problem: Problem,
    clauses: Clauses,
    replay: Replay,
    *,
    options: Options,
    deadline: float,
    generator: torch.Generator,
    starts: Tensor | None = None,
    start_clause: Tensor | None = None,
    number: np.ndarray | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    thorough: bool = False,
    dtype: torch.dtype | None = None,
) -> Witness | None:
    """Search inputs that violate one of ``clauses`` until ``deadline`` (``time.monotonic()``).

    ``starts`` ``[n, inputs]``: points to begin from besides random ones (minimisers of bounds), ``start_clause``
    ``[n]`` their positions in ``clauses``; None tries each for the clause that it violates most. ``number``
    ``[clauses]``: each clause's number in the query (None: 0, 1, ...). ``steps`` and ``restarts`` are per clause and
    in all; by default those of ``options``, with ``thorough`` at least 1,000 and 250. ``dtype``: the search's
    element type (default the network's). Same generator state, same search, as far as the deadline reaches.

    A screening of random points, then waves of descents from the best and from random ones, each larger than the
    one before; then the best are polished with small steps. Networks with jumps are also searched by mutation.
    """
    target = Target.build(
        problem, clauses, replay, deadline=deadline, generator=generator, number=number, dtype=dtype,
        memory=options.memory,
    )  # fmt: skip
    steps = steps if steps is not None else max(options.attack_steps, THOROUGH_STEPS if thorough else 0)
    if restarts is None:
        restarts = max(options.attack_restarts, THOROUGH_RESTARTS if thorough else 0)
    if len(target) == 0 or target.expired:
        return None
    found: list[Points] = []
    if starts is not None and len(starts):
        points, witness = _from_starts(target, starts, start_clause)
        if witness is not None:
            return witness
        found.append(points.best(max(1, restarts)))
    points, witness = screen(target, max(1, restarts // len(target)))
    if witness is not None or restarts == 0:
        return witness
    # many clauses: the most promising ones
    found.append(points.best(max(restarts, min(len(target), 8 * restarts))))
    return _descents(target, Points.join(found), steps)


def attack_query(
    problem: Problem, replay: Replay, *, options: Options, deadline: float, generator: torch.Generator
) -> Witness | None:
    """``attack`` on all clauses of the query, streamed: screen every batch, then descend from the best points.

    Memory: one batch of clauses at a time, plus those that the best points belong to.
    """
    query = problem.query
    common: dict[str, Any] = {"deadline": deadline, "generator": generator, "memory": options.memory}
    most = max(1, min(8192, int(2e7) // max(1, problem.outputs)))
    kept: list[tuple[Clauses, np.ndarray, Points]] = []
    for batch in query.batches(most):
        if len(batch.clause_box) == 0:
            continue
        clauses = problem.clauses(batch)
        number = batch.first + np.asarray(batch.offset)
        if batch.count == query.clause_count:
            return attack(
                problem,
                clauses,
                replay,
                number=number,
                options=options,
                deadline=deadline,
                generator=generator,
            )
        points, witness = screen(Target.build(problem, clauses, replay, number=number, **common), 1)
        if witness is not None or time.monotonic() >= deadline:
            return witness
        kept.append(_best(clauses, number, points, options.attack_restarts))
        if len(kept) == _BATCHES_KEPT:
            kept = [_best(*_merge(kept), options.attack_restarts)]
    if not kept:
        return None
    clauses, number, points = _merge(kept)
    best = points.best(2 * options.attack_restarts)
    return _descents(
        Target.build(problem, clauses, replay, number=number, **common), best, options.attack_steps
    )


def _best(
    clauses: Clauses, number: np.ndarray, points: Points, count: int
) -> tuple[Clauses, np.ndarray, Points]:
    """The best points, the clauses that they belong to with copies of their boxes, all renumbered."""
    points = points.best(count)
    chosen, position = points.clause.unique(return_inverse=True)
    box = clauses.box[chosen]
    small = Clauses(
        clauses.lower[box], clauses.upper[box], torch.arange(len(chosen), device=box.device),
        clauses.rows[chosen], clauses.threshold[chosen],
    )  # fmt: skip
    return small, number[chosen.cpu().numpy()], Points(points.x, position, points.margin)


def _merge(parts: list[tuple[Clauses, np.ndarray, Points]]) -> tuple[Clauses, np.ndarray, Points]:
    """Clauses and points of several batches as one; clauses with fewer rows repeat their last one."""
    most = max(clauses.rows.shape[1] for clauses, _, _ in parts)
    rows, thresholds, boxes, points = [], [], [], []
    first_box = first_clause = 0
    for clauses, _, own in parts:
        index = torch.arange(most, device=clauses.rows.device).clamp(max=clauses.rows.shape[1] - 1)
        rows.append(clauses.rows[:, index])
        thresholds.append(clauses.threshold[:, index])
        boxes.append(clauses.box + first_box)
        points.append(Points(own.x, own.clause + first_clause, own.margin))
        first_box, first_clause = first_box + len(clauses.lower), first_clause + len(clauses)
    lower, upper = (torch.cat([getattr(part[0], side) for part in parts]) for side in ("lower", "upper"))
    merged = Clauses(lower, upper, torch.cat(boxes), torch.cat(rows), torch.cat(thresholds))
    return merged, np.concatenate([number for _, number, _ in parts]), Points.join(points)


def screen(target: Target, keep: int) -> tuple[Points, Witness | None]:
    """Evaluate random points, corners, centres and, where the network jumps, integers of every box.

    Clauses of one box share its points. Returns ``keep`` points of every clause, half of them its best.
    """
    boxes = target.lower.shape[0]
    free = int((target.upper > target.lower).sum(1).amax())
    # in many dimensions all random points look alike
    count = min(4096, 1 + (1 << 16) // max(16, free), _SCREEN_POINTS // boxes)
    count = min(count, int(_SCREEN_WORK / (_work(target) + 100 * target.inputs) / boxes))
    count = max(2, keep, min(count, int(2e8 / (4 * target.inputs * boxes))))
    owner = torch.arange(boxes, device=target.lower.device).repeat_interleave(count)
    first_clause = torch.full((boxes,), -1, dtype=torch.int64, device=owner.device)
    first_clause[target.box] = torch.arange(len(target), device=owner.device)
    x = draw(target, first_clause[owner].clamp(min=0), len(owner)).view(boxes, count, -1)
    x[:, 0] = 0.5 * (target.lower + target.upper)
    y = target.outputs_in_chunks(x.flatten(0, 1)).view(boxes, count, -1)
    chosen, witness = _screen_clauses(target, x, y, min(keep, count))
    if witness is None and target.surrogate.jumps:
        witness = _grids(target, chosen)
    return chosen, witness


def _screen_clauses(target: Target, x: Tensor, y: Tensor, keep: int) -> tuple[Points, Witness | None]:
    """Margins of every clause at its box's points ``x`` ``[boxes, count, inputs]``; the best and some others."""
    parts: list[Points] = []
    count = x.shape[1]
    size = max(1, int(2e7 / (count * max(target.rows.shape[1], target.columns.shape[0]))))
    for first in range(0, len(target), size):
        clause = torch.arange(first, min(first + size, len(target)), device=x.device)
        box = target.box[clause]
        values = torch.einsum("krc,ksc->ksr", target.rows[clause], y[box]) - target.threshold[clause][:, None]
        margin = values.amax(2)
        margin = torch.where(margin.isnan(), torch.inf, margin)
        order = margin.argsort(1)
        # the better half by margin, the rest at random (points are in random order) for the sake of diversity
        half = (keep + 1) // 2
        other = half + torch.arange(keep - half, device=x.device) * max(
            1, (count - half) // max(1, keep - half)
        )
        order = order[:, torch.cat([torch.arange(half, device=x.device), other])]
        points = Points(
            x[box[:, None], order].flatten(0, 1),
            clause.repeat_interleave(keep),
            margin.gather(1, order).flatten(),
        )
        parts.append(points)
        best = points.margin.argmin()
        if float(points.margin[best]) <= target.goal:
            near = y[target.box[points.clause[best]]][:1]
            scale = float(target.scale(near, points.clause[best][None]))
            witness = target.try_violating(points.x, points.margin, points.clause, scale)
            if witness is not None:
                return Points.join(parts), witness
    return Points.join(parts), None


def _grids(target: Target, points: Points) -> Witness | None:
    """Try all integer points of the boxes that have few, the most promising box first."""
    order = target.box[points.clause[points.margin.argsort()]]
    tried: set[int] = set()
    for box in order[:256].tolist():
        if box in tried or target.expired or len(tried) >= 16:
            continue
        tried.add(box)
        grid = _integers(target.lower[box], target.upper[box])
        if grid is None:
            continue
        owners = (target.box == box).nonzero().squeeze(1)[:64]
        # in random order: violating integers often are neighbours, and the first one found ends the search
        for part in grid[target.random(len(grid)).argsort()].split(_GRID_PART):
            if target.expired:
                break
            y = target.outputs_in_chunks(part)
            for clause in owners.split(1):
                clause = clause.expand(len(part))
                witness = target.try_best(part, target.margins(y, clause), clause, 0.0, 4)
                if witness is not None:
                    return witness
    return None


def _integers(lower: Tensor, upper: Tensor) -> Tensor | None:
    """All points of a box with integers in its free coordinates, None where they are none or too many."""
    free = (upper > lower).nonzero().squeeze(1)
    low, high = lower[free].ceil(), upper[free].floor()
    sizes = (high - low + 1).tolist()
    if not sizes or min(sizes) < 1 or not 1 < math.prod(sizes) <= _GRID:
        return None
    axes = [
        a + torch.arange(int(n), dtype=lower.dtype, device=lower.device)
        for a, n in zip(low, sizes, strict=True)
    ]
    grid = torch.cartesian_prod(*axes).view(-1, len(sizes))
    x = lower.repeat(len(grid), 1)
    x[:, free] = grid
    return x


def _from_starts(
    target: Target, starts: Tensor, start_clause: Tensor | None
) -> tuple[Points, Witness | None]:
    """Given points with a clause each, moved into its box, evaluated, and the violating ones replayed."""
    x = starts.to(device=target.lower.device, dtype=target.lower.dtype)
    if start_clause is None:
        y = target.outputs_in_chunks(x)
        clause = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        best = torch.full_like(x[:, 0], torch.inf)
        size = max(1, int(2e7 / (len(x) * target.rows.shape[1])))
        for first in range(0, len(target), size):
            rows, threshold = target.rows[first : first + size], target.threshold[first : first + size]
            margin, which = (torch.einsum("krc,nc->nkr", rows, y) - threshold).amax(2).min(1)
            clause = torch.where(margin < best, first + which, clause)
            best = torch.minimum(best, margin)
    else:
        clause = start_clause.to(x.device)
    x = target.clamp(x, clause)
    y = target.outputs_in_chunks(x)
    points = Points(x, clause, target.margins(y, clause))
    near = points.margin.argmin()[None]
    return points, target.try_violating(x, points.margin, clause, float(target.scale(y[near], clause[near])))


def _descents(target: Target, points: Points, steps: int) -> Witness | None:
    """Short descents from all points, a polish of the best; then, of ``steps``, long ones, the best first."""
    short = min(steps, _SHORT)
    ends, witness = _waves(target, points, short)
    if witness is None and len(ends):
        witness = _polish(target, ends, short)
    if witness is None and steps > short and not target.expired:
        ends, witness = _waves(target, ends, steps)
        if witness is None:
            witness = _polish(target, ends, short)
    return witness


def _waves(target: Target, points: Points, steps: int) -> tuple[Points, Witness | None]:
    """Descents in waves, every clause's best points first; a wave is up to twice the one before it, within memory."""
    points = _interleaved(points)
    wave = max(4, int(_WAVE_WORK / _work(target)))
    widest = 4 * wave  # the deadline is looked at between steps
    first, ends = 0, [points.best(0)]
    while first < len(points) and not target.expired:
        last = min(first + min(wave, target.chunk), len(points))
        part = points.take(torch.arange(first, last, device=points.x.device))
        rates, diverse = _rates(target, last - first), _some(target, last - first, first)
        end, witness = descend(target, part, rates, diverse, steps)
        if witness is None and target.surrogate.jumps:
            end, witness = mutate(target, end.best(8), 8, max(1, steps // 4))
        if witness is not None:
            return end, witness
        ends.append(end)
        first, wave = last, min(2 * wave, widest)
    return Points.join(ends), None


def _interleaved(points: Points) -> Points:
    """The points in an order in which every clause has its turn: by rank within the clause, then by margin."""
    points = points.best(len(points))
    grouped = points.clause.argsort(stable=True)
    clause = points.clause[grouped]
    new = torch.ones_like(clause, dtype=torch.bool)
    new[1:] = clause[1:] != clause[:-1]
    position = torch.arange(len(points), device=clause.device)
    first = torch.where(new, position, 0).cummax(0).values
    rank = torch.empty_like(position)
    rank[grouped] = position - first
    return points.take(rank.argsort(stable=True))


def _rates(target: Target, count: int) -> Tensor:
    """First steps of descents: log-uniform, as no one length suits every network."""
    return 0.5 * 0.1 ** target.random(count)


def _some(target: Target, count: int, first: int) -> Tensor:
    """Which points are diversified: most, never the first one of all."""
    chosen = target.random(count) < _DIVERSE
    if first == 0:
        chosen[0] = False
    return chosen


def _polish(target: Target, points: Points, steps: int) -> Witness | None:
    """Large and small steps from the best points, then a replay of the nearest on either side of 0."""
    rate = 0.3 * 0.1 ** torch.arange(3, dtype=points.x.dtype, device=points.x.device)
    best = points.best(min(8, max(1, target.chunk // 3)))
    if not target.expired:
        many = Points.join([best] * 3)
        quiet = torch.zeros(len(many), dtype=torch.bool, device=many.x.device)
        ends, witness = descend(target, many, rate.repeat_interleave(len(best)), quiet, steps)
        if witness is not None:
            return witness
        best = ends.best(4)
    with torch.no_grad():
        scale = float(target.scale(target.outputs(best.x[:1]), best.clause[:1]))
    return target.try_best(best.x, best.margin, best.clause, 1e-5 * scale, 4)


def _work(target: Target) -> float:
    """Multiplications of one evaluation, roughly: elements of weights times how often each is used.

    An element of a value counts for 16: reading and writing it, forward and backward.
    """
    plan, total = target.surrogate.plan, 0.0
    for node in plan.graph.nodes:
        total += 16 * node.size
        weight = node.attributes.get("weight")
        if weight is not None:
            per_output = weight.size / max(
                1, weight.shape[-1] if node.operator == "linear" else weight.shape[0]
            )
            total += node.size * per_output
    return total
