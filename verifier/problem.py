"""A network and a property made ready: plans per element type, rows of clauses as tensors, fixed inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import Graph
from provenn.bounds.graph.specialise import Specialised, specialise
from provenn.bounds.graph.univariate import univariate
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes
from provenn.specs import ClauseBatch, Query
from provenn.verifier.points import OPTIMISED, Points
from provenn.verifier.reduced import Reduced
from provenn.verifier.workers import Workers


@dataclass(frozen=True)
class Clauses:
    """Clauses as tensors: a violation of clause c is ``rows[c] . y <= threshold[c]`` in every row, inside its box.

    ``lower``/``upper`` ``[boxes, inputs]``, ``box`` ``[clauses]``, ``rows`` ``[clauses, r, outputs]``, ``threshold``
    ``[clauses, r]``; clauses with fewer rows repeat their last one.
    """

    lower: Tensor
    upper: Tensor
    box: Tensor
    rows: Tensor
    threshold: Tensor

    def __len__(self) -> int:
        return self.box.shape[0]

    def select(self, index: Tensor) -> Clauses:
        return Clauses(self.lower, self.upper, self.box[index], self.rows[index], self.threshold[index])

    def only(self, index: Tensor, box: int) -> Clauses:
        """Some clauses that all live in one box, as clauses with that single box."""
        zero = torch.zeros_like(index)
        return Clauses(
            self.lower[box : box + 1],
            self.upper[box : box + 1],
            zero,
            self.rows[index],
            self.threshold[index],
        )


def dense_clauses(batch: ClauseBatch, outputs: int, device: torch.device) -> Clauses:
    """Turn a batch of sparse clauses into tensors (float64)."""
    count = len(batch.clause_box)
    per_clause = np.bincount(batch.row_clause, minlength=count) if count else np.zeros(0, dtype=np.int64)
    most = max(1, int(per_clause.max(initial=0)))
    first = np.concatenate([[0], np.cumsum(per_clause)[:-1]]).astype(np.int64)
    table = first[:, None] + np.minimum(np.arange(most)[None, :], np.maximum(per_clause, 1)[:, None] - 1)
    matrix = np.zeros((len(batch.threshold), outputs))
    owner = np.repeat(np.arange(len(batch.threshold)), np.diff(batch.row_start))
    np.add.at(matrix, (owner, batch.column), batch.coefficient)
    threshold = np.asarray(batch.threshold)
    if len(threshold) == 0:  # no output condition: every input violates; 0 . y <= 0
        matrix, threshold = np.zeros((1, outputs)), np.zeros(1)
        table = np.zeros((count, 1), dtype=np.int64)
    to = lambda a: torch.from_numpy(np.ascontiguousarray(a)).to(device)  # noqa: E731
    return Clauses(
        to(batch.lower),
        to(batch.upper),
        to(np.asarray(batch.clause_box)),
        to(matrix[table]),
        to(threshold[table]),
    )


def specialised(graph: Graph, query: Query | Reduced) -> Specialised:
    """The graph without the inputs that every clause fixes and the outputs that none reads."""
    read = query.read if isinstance(query, Reduced) else np.unique(query.atoms.column)
    return specialise(graph, *query.input_box, query.fixed, read)


def recognised(problem: Problem) -> Problem:
    """The problem with fragments of one variable tabulated over the hull; itself where there are none."""

    def ranges() -> list[tuple[np.ndarray, np.ndarray]]:
        boxes = interval_boxes(problem.plan(torch.float64), problem.input_boxes(*problem.hull))
        return [tuple(end.cpu().numpy() for end in boxes[i]) for i in range(len(problem.graph.nodes))]  # type: ignore[misc]

    graph = univariate(problem.graph, ranges)
    if graph is problem.graph:
        return problem
    return Problem(
        graph, problem.query, problem.device, problem.free, problem.read, problem.workers, problem.split_points
    )


class Problem:
    """One network, one property, one device.

    Inputs and outputs are those of ``graph``: of the query's, only ``free`` and ``read`` (flat positions, None for all)
    where the graph was specialised to it. There are as many ``workers`` as torch has threads now; a GPU takes batches
    whole.
    """

    def __init__(
        self,
        graph: Graph,
        query: Query | Reduced,
        device: torch.device,
        free: np.ndarray | None = None,
        read: np.ndarray | None = None,
        workers: Workers | None = None,
        split_points: str = OPTIMISED,
    ):
        self.graph, self.query, self.device = graph, query, device
        self.workers = workers or Workers(torch.get_num_threads() if device.type == "cpu" else 1)
        self.free, self.read, self.split_points = free, read, split_points
        self.input, self.output = graph.inputs[0], graph.outputs[0]
        self.input_shape = graph.nodes[self.input].shape
        self.output_shape = graph.nodes[self.output].shape
        self.outputs = graph.nodes[self.output].size
        self._plans: dict[torch.dtype, Plan] = {}

    def within(self, lower: Tensor, upper: Tensor) -> Problem:
        """The same problem on a box ``[1, inputs]`` of its inputs, with the same plans; free and read do not apply."""
        found = Problem(self.graph, self.query, self.device, workers=self.workers, split_points=self.split_points)
        found._plans = self._plans
        found.hull = lower, upper  # type: ignore[misc]
        return found

    def plan(self, dtype: torch.dtype) -> Plan:
        if dtype not in self._plans:
            self._plans[dtype] = Plan(self.graph, dtype, self.device)
        return self._plans[dtype]

    @cached_property
    def points(self) -> Points:
        """Where intermediate values are split."""
        return Points(self.plan(torch.float32), self.split_points)

    def input_boxes(self, lower: Tensor, upper: Tensor, dtype: torch.dtype = torch.float64) -> dict[int, Box]:
        """Flat input boxes ``[domains, inputs]`` as the bounders take them."""
        shape = (lower.shape[0], *self.input_shape)
        return {self.input: (lower.to(dtype).view(shape), upper.to(dtype).view(shape))}

    def clauses(self, batch: ClauseBatch) -> Clauses:
        """A batch of the query's clauses over the graph's inputs and outputs."""
        found = dense_clauses(batch, self.outputs if self.read is None else self.query.output_count, self.device)
        if self.free is not None:
            free = torch.from_numpy(self.free).to(self.device)
            found = replace(found, lower=found.lower[:, free], upper=found.upper[:, free])
        if self.read is not None:
            found = replace(found, rows=found.rows[..., torch.from_numpy(self.read).to(self.device)])
        return found

    @cached_property
    def hull(self) -> tuple[Tensor, Tensor]:
        """One flat box ``[1, inputs]`` around all clauses' boxes."""
        chosen = slice(None) if self.free is None else self.free
        to = lambda a: torch.from_numpy(np.array(a[chosen], dtype=np.float64)).to(self.device)[None]  # noqa: E731
        lower, upper = self.query.input_box
        return to(lower), to(upper)

    @cached_property
    def free_inputs(self) -> Tensor:
        """Flat indices of inputs that vary: wider than the rounding of a literal, or all if none is."""
        lower, upper = self.hull[0][0], self.hull[1][0]
        scale = torch.maximum(lower.abs(), upper.abs()).clamp(min=1e-30)
        wide = (upper - lower) > 2e-7 * scale
        return (wide if bool(wide.any()) else torch.ones_like(wide)).nonzero().squeeze(1)

    @cached_property
    def magnitudes(self) -> Magnitudes:
        """Bounds of all values over the hull, from intervals: valid for every domain."""
        plan = self.plan(torch.float64)
        return Magnitudes(plan, interval_boxes(plan, self.input_boxes(*self.hull)))
