"""Boxes in which a network makes integers of its inputs: each combination of integers is verified as a box of its own.

In a cell (``bounds/graph/cells.py``) what the integers decide is constant. Often nothing else varies but the rounding
of literals: then one evaluation finds the violating cells, and intervals or zonotopes refute the others. What they
leave goes through the usual stages, a cell at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from provenn.bounds.graph import evaluate
from provenn.bounds.graph.cells import Cells, cells
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import gamma
from provenn.bounds.propagate.zonotope import Zonotopes, live
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.run import Run

# Cells that are evaluated or bounded by intervals together.
TOGETHER = 16
# Violating cells that are replayed at most, and by how much a margin in float32 may miss 0.
REPLAYS, NEAR = 16, 1e-4
# Elements at most from which generators start, and unstable elements that intervals may leave before.
GENERATORS, UNSTABLE = 4096, 8
# Zonotopes that must refute a cell for further ones to be tried.
TRIALS = 4

Rest = Callable[[Run, Clauses, Tensor], str]


def by_cells(run: Run, clauses: Clauses, numbers: Tensor, rest: Rest) -> str | None:
    """Decide the clauses of one box by its cells; None where it has none.

    ``rest`` decides clauses whose cell is still open; how it ended comes back, as from ``decide``'s other stages.
    """
    lower, upper = (end[0].cpu().numpy() for end in (clauses.lower, clauses.upper))
    found = cells(run.problem.graph, lower, upper)
    if found is None:
        return None
    run.say(f"integers of inputs: {found.combinations} combinations, {len(found)} cells, each a box of its own")
    run.count("cells", len(found))
    inner = replace(
        run,
        problem=Problem(
            found.graph, run.problem.query, run.problem.device, workers=run.problem.workers,
            split_points=run.problem.split_points,
        ),
        replay=run.replay.leading(found.inputs),
    )
    try:
        return _decide(inner, found, clauses, numbers, rest)
    finally:
        run.witness, run.bound = inner.witness, inner.bound
        run.replay.calls = inner.replay.calls


def _decide(run: Run, found: Cells, clauses: Clauses, numbers: Tensor, rest: Rest) -> str:
    problem, device = run.problem, run.problem.device
    lower, upper = (torch.from_numpy(end).to(device) for end in (found.lower, found.upper))
    if _evaluated(run, clauses, numbers, lower, upper):
        return "witness"
    left = _Bounds(run, clauses).open(lower, upper)
    if left is None:
        run.open.append(f"{len(lower)} cells were not all bounded")
        return "timeout"
    open_cells = left.any(1).nonzero().squeeze(1).tolist()
    run.say(f"{len(lower) - len(open_cells)} of {len(lower)} cells refuted by intervals and zonotopes")
    ended = "refuted"
    for cell in open_cells:
        box = lower[cell : cell + 1], upper[cell : cell + 1]
        mine = left[cell].nonzero().squeeze(1)
        part = replace(run, problem=problem.within(*box))
        one = rest(part, replace(clauses.only(mine, 0), lower=box[0], upper=box[1]), numbers[mine])
        run.witness, run.bound = part.witness, min(run.bound, part.bound)
        if run.witness is not None or one == "timeout":
            return one
        ended = one if one != "refuted" else ended
        if run.late():
            run.open.append("cells were left unread")
            return "timeout"
    return ended


def _evaluated(run: Run, clauses: Clauses, numbers: Tensor, lower: Tensor, upper: Tensor) -> bool:
    """Evaluate the middle of every cell and replay those that violate a clause most; whether one is a witness."""
    run.tell("attack")
    rows, threshold, parts = clauses.rows.float(), clauses.threshold, []
    middle = 0.5 * lower + 0.5 * upper
    for points in middle.split(4 * TOGETHER):
        shaped = points.float().view(len(points), *run.problem.input_shape)
        y = evaluate(run.problem.graph, [shaped], dtype=torch.float32, device=run.problem.device)[0].flatten(1)
        parts.append((torch.einsum("cro,do->dcr", rows, y) - threshold).amax(2))
        if run.late():
            return False
    best, clause = torch.nan_to_num(torch.cat(parts), nan=torch.inf).min(1)
    for cell in best.argsort()[:REPLAYS].tolist():
        if best[cell] > NEAR:
            break
        found = run.replay.check(middle[cell].cpu().numpy(), int(numbers[clause[cell]]))
        if found is not None:
            run.witness = found
            return True
    return False


@dataclass(eq=False)
class _Bounds:
    """Bounds cells by intervals, then those that are open by zonotopes, as long as these are of use."""

    run: Run
    clauses: Clauses
    failures: int = 0
    successes: int = 0

    def __post_init__(self) -> None:
        self.plan = self.run.problem.plan(torch.float64)
        self.starts = _starts(self.plan)
        self.fast = Zonotopes(self.plan, torch.float32)
        self.exact = Zonotopes(self.plan, torch.float64)

    def open(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        """Which clauses ``[cells, clauses]`` are open in which cell; None where time ran out."""
        groups = list(zip(lower.split(TOGETHER), upper.split(TOGETHER), strict=True))
        self.run.tell("cells")
        parts = [self._open(groups[0])]  # which tells whether zonotopes are of use
        parts += self.run.problem.workers.map(self._open, groups[1:])
        self.run.count("domains", sum(len(part) for part in parts if part is not None))
        return None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]

    def _open(self, group: tuple[Tensor, Tensor]) -> Tensor | None:
        problem = self.run.problem
        boxes = interval_boxes(self.plan, problem.input_boxes(*group), until=problem.output)
        left = self._left(boxes[problem.output]).expand(len(group[0]), -1).clone()
        for cell in left.any(1).nonzero().squeeze(1).tolist():
            if self.run.late():
                return None
            left[cell] &= self._by_zonotopes({v: _domain(box, cell) for v, box in boxes.items()})[0]
        return left

    def _left(self, box: Box) -> Tensor:
        """Which clauses ``[domains, clauses]`` a box of the output leaves open."""
        lower, upper = (end.flatten(1)[:, None, None] for end in box)
        rows = self.clauses.rows
        low = torch.where(rows > 0, rows * lower, torch.where(rows < 0, rows * upper, 0.0))
        error = low.abs().sum(-1) * (2 * gamma(rows.shape[-1] + 2, torch.float64)) + 1e-290
        bound = low.sum(-1) - error
        return ~(bound > self.clauses.threshold).any(-1)

    def _by_zonotopes(self, known: dict[int, Box]) -> Tensor:
        """What a cell's zonotopes leave open: cheap ones from a late start, then exact ones from the start before."""
        left = torch.ones(1, len(self.clauses), dtype=torch.bool, device=known[self.plan.graph.outputs[0]][0].device)
        if left.device.type != "cpu" or self.failures >= TRIALS > self.successes:
            return left
        for zonotopes, start in zip((self.fast, self.exact), self._affordable(known), strict=False):
            found = zonotopes.boxes({v: box for v, box in known.items() if v < start}, start)
            left &= self._left(_output(self.plan, known, found, start))
            if not left.any():
                self.successes += 1
                return left
        self.failures += 1
        return left

    def _affordable(self, known: dict[int, Box]) -> Iterator[int]:
        """The latest start before which intervals leave few elements unstable, and those before it."""
        count = 0
        fit = []
        for start in self.starts:
            count = _unstable(self.plan, known, start)
            if count > UNSTABLE:
                break
            fit.append(start)
        yield from reversed(fit)


def _domain(box: Box, domain: int) -> Box:
    return tuple(end if end.shape[0] == 1 else end[domain : domain + 1] for end in box)  # type: ignore[return-value]


def _starts(plan: Plan) -> list[int]:
    """Nodes before which few elements are alive: fewer than at the node before, not more than at the next."""
    nodes = plan.graph.nodes
    sizes = [sum(nodes[v].size for v in live(plan, t) if nodes[v].operator != "constant") for t in range(len(nodes))]
    sizes[0] = GENERATORS + 1
    return [
        t for t in range(1, len(nodes))
        if sizes[t] <= GENERATORS and sizes[t] < sizes[t - 1] and _bottom(sizes, t)
    ]  # fmt: skip


def _bottom(sizes: list[int], t: int) -> bool:
    """Whether the next size that differs is larger, or there is none."""
    return next((size > sizes[t] for size in sizes[t + 1 :] if size != sizes[t]), True)


def _unstable(plan: Plan, known: dict[int, Box], start: int) -> int:
    """Elements whose sign a relu before ``start`` cannot tell."""
    total = 0
    for node in plan.graph.nodes[:start]:
        if node.operator == "relu":
            lower, upper = known[node.inputs[0]]
            total += int(((lower < 0) & (upper > 0)).sum())
    return total


def _output(plan: Plan, known: dict[int, Box], found: dict[int, Box], start: int) -> Box:
    """The output's box from values before ``start`` and those ``found``; only what it needs is computed."""
    output, nodes = plan.graph.outputs[0], plan.graph.nodes
    boxes = {v: box for v, box in known.items() if v < start or not nodes[v].inputs} | found
    needed, below = [], [output]
    while below:
        at = below.pop()
        if at not in boxes and at not in needed:
            needed.append(at)
            below.extend(nodes[at].inputs)
    for index in sorted(needed):
        boxes[index] = plan.interval(index, boxes)
    return boxes[output]
