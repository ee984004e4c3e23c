"""Local Lipschitz constants: the largest norm of the Jacobian over a box, between two proven bounds.

The lower bound is the norm at a point, found by sampling and local search; the upper bound is that of a tree of
splits, whose worst domains are split first until both are close enough. Any time it stops, both hold.
"""

from __future__ import annotations

import math
import operator
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import Graph, read_onnx
from provenn.bounds.graph.lattice import lattice
from provenn.bounds.jacobian import NormGraph, multiplier_bound, norm_bounds, norm_graph, unbounded
from provenn.bounds.jacobian._norms import LARGEST, MATRIX, input_boxes, norm_name
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.errors import InputError, UnsupportedOperatorError
from provenn.verifier.device import chosen_device
from provenn.verifier.gradients import Gradients, finite, with_inside
from provenn.verifier.maximise import Maximum, Quantity
from provenn.verifier.problem import Problem
from provenn.verifier.root import root_facts
from provenn.verifier.threads import settle_threads
from provenn.verifier.turned import Turned

# Rows or columns of which each has a graph of its own.
APART = 64
# Rounds of a local search, and the share of the time that the first may take.
ROUNDS, CLIMB_SHARE = 60, 0.1
# How often the local search starts anew over an infinite box.
RESTARTS = 40
# Rounds of annealing, and how many searches, of networks with kinks, one of which climbs while the others anneal.
COOLING, CLIMBS = 150, 8
# The turn of a part in which multipliers bound its root, the share of the time for that, and the steps for its boxes.
MULTIPLIERS_TURN, MULTIPLIERS_SHARE, FACT_STEPS = 3, 0.2, 10
# Seconds of a part's turn.
TURN = 1.0
# Boxes after which a bound that is infinite still is refused.
HOPELESS = 64
# Upper bounds that are as good as 0: roots of what is only just no subnormal number.
NOTHING = 1e-150
# Rows up to which a Jacobian over an infinite box has backward bounds.
FEW = 1024
# Random moves around the minimisers of a round.
TRIED = 256


@dataclass(frozen=True, eq=False)
class LipschitzResult:
    """``lower <= constant <= upper``; ``lower`` is the norm at ``point`` ``[inputs]`` or beside it.

    ``seconds`` is the time taken, ``domains`` how many boxes were bounded, ``reason`` why it ended there.
    """

    lower: float
    upper: float
    point: np.ndarray
    norm: str
    seconds: float
    domains: int
    reason: str = ""


def local_lipschitz(
    network: str | os.PathLike[str] | Graph,
    lower: np.ndarray | float,
    upper: np.ndarray | float,
    norm: str | float = "2",
    output: int | None = None,
    *,
    tolerance: float = 1e-3,
    timeout: float = 60.0,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[..., None] | None = None,
) -> LipschitzResult:
    """Bound the largest induced ``norm`` (1, 2 or inf) of dY/dX over a box, of one row if ``output`` is given.

    ``network`` is a path or a graph of one input and one output; ``lower`` and ``upper`` ``[inputs]`` (or one number
    for all) may be infinite: then there is no tree. ``output`` is a flat position from 0. The constant is the largest
    norm at points of the box at which the network is differentiable, the least L with ``|f(x) - f(y)| <= L |x - y|``
    there: a kink on the boundary counts with the side in the box, but with both where the input has one value.
    Ends when ``upper <= (1 + tolerance) lower`` or after ``timeout`` seconds; both hold either way.
    ``seed`` is that of the sampled points, which stay on the CPU; boxes are bounded on ``device`` (``auto``, ``cpu`` or
    ``cuda``); ``progress(stage, domains=n, bound=upper, lower=lower, point=point)`` is
    told where it is. Raises InputError for a wrong call, UnsupportedOperatorError, which names the operator, where the
    network jumps or no bound of a slope is found in a finite box; where the time is too short for one ``upper`` is
    infinite.
    """
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise InputError(f"local_lipschitz got tolerance={tolerance!r}, expected a number of at least 0")
    checked_timeout("local_lipschitz", timeout)
    chosen = chosen_device(device)
    graph = differentiable(network)
    ends = box_of(graph, lower, upper)
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            return _Task(graph, *ends, str(norm), output, tolerance, timeout, seed, progress, chosen).run()
    finally:
        torch.set_num_threads(before)


def checked_timeout(what: str, timeout: float) -> None:
    """Raises InputError for what is no number of seconds."""
    if not timeout > 0:
        raise InputError(f"{what} got timeout={timeout!r}, expected a positive number of seconds")


def position(what: str, place: int, size: int) -> int:
    """A flat position. Raises InputError where there is none."""
    try:
        found = operator.index(place)
    except TypeError:
        found = -1
    if not 0 <= found < size:
        raise InputError(f"{what} got {place!r}, expected a position from 0 to {size - 1}")
    return found


def differentiable(network: str | os.PathLike[str] | Graph) -> Graph:
    """The graph of a network, maxima as relus, so that they and their derivatives share what they read."""
    graph = network if isinstance(network, Graph) else read_onnx(network)
    name = "the graph" if isinstance(network, Graph) else os.fspath(network)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(
            f"{name} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, expected one of each"
        )
    element = graph.nodes[graph.inputs[0]].scalar_type
    if not element.startswith("float"):
        raise InputError(f"{name} has an input of type {element}, which has no slopes; export it with floats")
    return lattice(graph)


def box_of(graph: Graph, lower: np.ndarray | float, upper: np.ndarray | float) -> tuple[Tensor, Tensor]:
    """Flat float64 ends ``[inputs]``. Raises InputError where they are no box of the graph's input."""
    size = graph.nodes[graph.inputs[0]].size
    ends = []
    for name, end in (("lower", lower), ("upper", upper)):
        flat = np.asarray(end, np.float64).reshape(-1)
        if flat.size not in (1, size):
            raise InputError(f"{name} got {flat.size} numbers, the network has {size} inputs")
        ends.append(np.broadcast_to(flat, (size,)).copy())
    wrong = np.flatnonzero(~((ends[0] <= ends[1]) & (ends[0] < np.inf) & (ends[1] > -np.inf)))
    if len(wrong):
        i = int(wrong[0])
        first, last = float(ends[0][i]), float(ends[1][i])
        raise InputError(f"input {i} got lower={first!r} and upper={last!r}, expected numbers with lower <= upper")
    return torch.from_numpy(ends[0]), torch.from_numpy(ends[1])


class _Task:
    """One constant to be bounded."""

    def __init__(
        self, graph: Graph, lower: Tensor, upper: Tensor, norm: str, output: int | None, tolerance: float,
        timeout: float, seed: int, progress: Callable[..., None] | None, device: torch.device,
    ):  # fmt: skip
        self.begun = time.monotonic()
        self.deadline = self.begun + timeout
        self.tolerance, self.progress = tolerance, progress or (lambda stage, **numbers: None)
        self.graph, self.device = graph, device
        self.box = with_inside(lower, upper)
        self.rows = graph.nodes[graph.outputs[0]].size
        self.columns = graph.nodes[graph.inputs[0]].size
        self.output = None if output is None else position("output", output, self.rows)
        self.norm = norm_name(norm)
        self.timeout = timeout
        self.progress("differentiating", domains=0, bound=None)
        self.gradients = Gradients(graph, lower, upper, self.norm, self.output, seed)
        self.known = math.inf
        self.parts: list[_Part] = []
        self.complete = False
        """Whether the parts make up the whole norm."""

    @property
    def limit(self) -> float:
        """What an upper bound has to reach."""
        return max(self.gradients.lower * (1 + self.tolerance), NOTHING)

    def run(self) -> LipschitzResult:
        self.gradients.take(self.gradients.point[None])
        made = norm_graph(self.graph, self.norm, self.output)
        boxes = interval_boxes(Plan(made.graph), input_boxes(made.graph, *self.box))
        self.known = float(made.upper(made.within(boxes[made.graph.outputs[0]])))
        self.tell()
        self.gradients.climb(ROUNDS, self.begun + CLIMB_SHARE * self.timeout)
        self.tell()
        if not finite(*self.box):
            return self._everywhere(made)
        for one in self._graphs():
            if time.monotonic() > self.deadline or self.upper <= self.limit:
                break
            self.parts.append(_Part(self, *one))
        else:
            self.complete = True
            settle_threads(self.parts[0].problem)
        while self.complete:
            worst = max(self.parts, key=lambda part: part.upper)
            self.tell()
            if self.upper <= self.limit or time.monotonic() > self.deadline:
                break
            if math.isinf(self.upper) and worst.maximum.domains >= HOPELESS:
                self._refuse(worst.made)
            if not worst.advance() and worst.upper > self.limit:
                break  # the others may get better, the largest of all does not
        return self._result("nothing is left to split")

    @property
    def upper(self) -> float:
        """A proven upper bound."""
        parts = max(part.upper for part in self.parts) if self.complete else math.inf
        return min(self.known, parts)

    @property
    def domains(self) -> int:
        return 1 + sum(part.maximum.domains for part in self.parts)

    def tell(self) -> None:
        lower, point = self.gradients.lower, self.gradients.point
        upper = None if math.isinf(self.upper) else self.upper
        self.progress(f"at least {lower:.6g}", domains=self.domains, bound=upper, lower=lower, point=point)

    def _result(self, otherwise: str) -> LipschitzResult:
        """The bounds so far, with the reason why it is these."""
        upper = self.upper
        reason = "the gap is within the tolerance" if upper <= self.limit else otherwise
        if upper > self.limit and time.monotonic() > self.deadline:
            reason = "the time limit was reached"
        found = self.gradients
        if not found.lower <= upper:
            raise RuntimeError(f"the bounds {found.lower!r} and {upper!r} of one constant exclude each other")
        return LipschitzResult(
            found.lower, max(0.0, upper), found.point.numpy().copy(), self.norm, time.monotonic() - self.begun,
            self.domains, reason,
        )  # fmt: skip

    def _graphs(self) -> list[tuple[NormGraph, int | None, int | None]]:
        """Graphs and the row and the column that they are of: one for each row or column sum, where those are few, so
        that what the others need is left out."""
        if self.norm == "inf" and self.output is None and 1 < self.rows <= APART:
            return [(norm_graph(self.graph, "inf", j), j, None) for j in range(self.rows)]
        if self.norm == "1" and 1 < self.columns <= APART:
            each = range(self.columns)
            return [(norm_graph(self.graph, "1", self.output, [i]), self.output, i) for i in each]
        return [(norm_graph(self.graph, self.norm, self.output), self.output, None)]

    @cached_property
    def facts(self) -> dict[int, Box]:
        """Boxes of what the network's own functions read, as tight as a root's."""
        problem = self.problem(self.graph)
        boxes = root_facts(problem, *problem.hull, steps=FACT_STEPS, deadline=self.deadline).boxes
        return {value: (low.cpu(), high.cpu()) for value, (low, high) in boxes.items()}

    def problem(self, graph: Graph) -> Problem:
        """A graph of the same input over the box."""
        whole = Problem(graph, None, self.device)  # type: ignore[arg-type]
        return whole.within(*(end[None].to(self.device) for end in self.box))

    def _everywhere(self, made: NormGraph) -> LipschitzResult:
        """Over an infinite box intervals and multipliers alone are finite; the rest of the time is for points."""
        if made.outputs <= FEW:
            self.known = min(self.known, float(norm_bounds(made, *self.box, steps=0, deadline=self.deadline)))
        boxes = interval_boxes(Plan(self.graph), input_boxes(self.graph, *self.box))
        bound = multiplier_bound(self.graph, boxes, self.norm, self.output, until=self.deadline)
        self.known = min(self.known, bound)
        if not math.isfinite(self.known):
            self._refuse(made)
        for number in range(1, RESTARTS + 1):
            if self.known <= self.limit or time.monotonic() > self.deadline:
                break
            self.tell()
            if self.gradients.anneals and number % CLIMBS:
                self.gradients.anneal(COOLING, self.deadline)
            else:
                self.gradients.climb(ROUNDS, self.deadline, fresh=True)
        return self._result("an infinite box is not split")

    def _refuse(self, made: NormGraph) -> None:
        """Raises UnsupportedOperatorError with the name of an operator whose slope is infinite over the whole box."""
        boxes = interval_boxes(Plan(made.graph), input_boxes(made.graph, *self.box))
        for name in unbounded(made.graph, boxes):
            raise UnsupportedOperatorError(f"no Jacobian: {name} is not bounded there; take a smaller region")


class _Part:
    """A norm graph and the search for its maximum."""

    def __init__(self, task: _Task, made: NormGraph, row: int | None, column: int | None):
        """``row`` and ``column`` are what the graph is restricted to."""
        self.task, self.made, self.place = task, made, (row, column)
        self.known = math.inf
        """What multipliers prove of the root."""
        self.turns = 0
        self.turned: Turned | None = None
        self.problem = task.problem(made.graph)
        count = made.outputs if made.kind == LARGEST else 1
        rows = -torch.eye(count, made.outputs, dtype=torch.float64, device=task.device).unsqueeze(1)
        guide = self._guide if made.kind == MATRIX else None
        self.maximum = Maximum(
            self.problem, Quantity(rows, self._measure, self._row, guide), deadline=task.deadline,
            tried=self._tried, moved=task.tell,
        )  # fmt: skip

    @property
    def upper(self) -> float:
        """A proven upper bound."""
        return min(self.known, self.maximum.upper)

    def advance(self) -> bool:
        """Work for one turn; False where nothing is left to do. Multipliers follow a first look at the tree."""
        self.turns += 1
        if self.turns == MULTIPLIERS_TURN:
            task = self.task
            until = min(task.deadline, time.monotonic() + MULTIPLIERS_SHARE * task.timeout)
            self.known = multiplier_bound(task.graph, task.facts, task.norm, *self.place, until=until)
            return True
        self.maximum.limit = self.task.limit
        return self.maximum.advance(TURN)

    def _measure(self, bounds: Tensor, box: Box, clause: Tensor) -> Tensor:
        """The norm in domains whose rows are at least ``bounds`` and whose outputs are in ``box``."""
        made = self.made
        low, high = (end.flatten(1) for end in box)
        if made.kind == LARGEST:
            return torch.fmin(-bounds[:, 0], high.gather(1, clause[:, None])[:, 0]).clamp(min=0)
        if made.kind != MATRIX:
            high = torch.fmin(high, -bounds)
        found = made.upper(torch.cat([-high, low[:, made.entries]], 1))
        return found if self.turned is None else torch.minimum(found, self.turned.upper(bounds))

    def _guide(self, box: Box) -> Tensor:
        """Entries in the directions of singular vectors."""
        self.turned = Turned(self.made, box)
        return self.turned.rows()

    def _row(self, limit: float) -> float:
        limit = limit * (1 - 1e-6)
        return -limit if self.made.kind == LARGEST else -limit * limit

    def _tried(self, points: Tensor) -> None:
        """Minimisers of bounds are where the norm may be large."""
        found = self.task.gradients
        points = points.cpu()
        better = found.take(points)
        if len(points):
            few = points[torch.randperm(len(points), generator=found.generator)[:TRIED]]
            better |= found.take(found.moved(few.repeat(-(-TRIED // len(few)), 1)))
        if better:
            self.maximum.limit = self.task.limit


def as_report(result: LipschitzResult) -> dict[str, Any]:
    """What ``--json`` writes."""
    return {
        "lower": result.lower,
        "upper": result.upper,
        "point": result.point.tolist(),
        "norm": result.norm,
        "seconds": round(result.seconds, 3),
        "domains": result.domains,
        "reason": result.reason,
    }
