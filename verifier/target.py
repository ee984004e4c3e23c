"""What an attack aims at: clauses in the search's element type, their margins, and the replay of candidates."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.propagate.interrupt import check as check_cancelled
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.replay import Replay
from provenn.verifier.result import Witness
from provenn.verifier.surrogate import Surrogate

_BYTES = 1e9
"""Memory that a batch of points may take."""
_REFUSALS = 24
"""Candidates that onnxruntime may refute per target before the search aims clearly below the threshold."""


@dataclass(eq=False)
class Target:
    """Clauses to violate: points are pairs of a flat input ``x`` ``[n, inputs]`` and a clause ``[n]``.

    ``lower``/``upper`` ``[boxes, inputs]``, ``box`` ``[clauses]``, ``rows`` ``[clauses, r, columns]`` reads only
    the outputs ``columns``, ``threshold`` ``[clauses, r]``; ``number`` ``[clauses]`` is a clause's number in the
    query. A margin ``[n]`` is the largest of a clause's row values less thresholds: at most 0 is a violation.
    ``goal`` is the margin below which a candidate is replayed; every refuted candidate lowers it.
    """

    surrogate: Surrogate
    replay: Replay
    deadline: float
    generator: torch.Generator
    lower: Tensor
    upper: Tensor
    box: Tensor
    rows: Tensor
    threshold: Tensor
    columns: Tensor
    number: np.ndarray
    memory: float
    goal: float = 0.0
    refuted: int = field(default=0, init=False)

    @staticmethod
    def build(
        problem: Problem,
        clauses: Clauses,
        replay: Replay,
        *,
        deadline: float,
        generator: torch.Generator,
        number: np.ndarray | None = None,
        dtype: torch.dtype | None = None,
        memory: float | None = None,
    ) -> Target:
        """The clauses in ``dtype``: by default float64 for a float64 network, else float32."""
        dtype = dtype or search_type(problem)
        used = clauses.rows.ne(0).flatten(0, 1).any(0)
        columns = used.nonzero().squeeze(1)
        return Target(
            surrogate=Surrogate(problem.plan(dtype)),
            replay=replay,
            deadline=deadline,
            generator=generator,
            lower=clauses.lower.to(dtype),
            upper=clauses.upper.to(dtype),
            box=clauses.box,
            rows=clauses.rows[..., columns].to(dtype),
            threshold=clauses.threshold.to(dtype),
            columns=columns,
            number=np.arange(len(clauses)) if number is None else np.asarray(number),
            memory=min(_BYTES, _BYTES if memory is None else memory * 1e9 / 8),
        )

    def __len__(self) -> int:
        return self.box.shape[0]

    @property
    def inputs(self) -> int:
        return self.lower.shape[1]

    @property
    def expired(self) -> bool:
        check_cancelled()
        return time.monotonic() >= self.deadline

    @property
    def chunk(self) -> int:
        """How many points fit into memory at once."""
        own = 8 * self.lower.element_size() * self.inputs
        rows = 2 * self.rows.element_size() * self.rows.shape[1] * self.rows.shape[2]
        return max(1, int(self.memory / (self.surrogate.bytes_per_point + own + rows)))

    def random(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1)."""
        made = torch.rand(
            shape, generator=self.generator, dtype=self.lower.dtype, device=self.generator.device
        )
        return made.to(self.lower.device)

    def signs(self, *shape: int) -> Tensor:
        """-1 or 1, with equal probability."""
        return torch.where(self.random(*shape) < 0.5, -1.0, 1.0).to(self.lower.dtype)

    def outputs(self, x: Tensor) -> Tensor:
        """The outputs that rows read, ``[n, columns]``."""
        y = self.surrogate(x)
        return y if self.columns.shape[0] == y.shape[1] else y[:, self.columns]

    def outputs_in_chunks(self, x: Tensor) -> Tensor:
        """``outputs`` without derivatives, within memory; what the deadline cut off is NaN."""
        result = x.new_full((x.shape[0], self.columns.shape[0]), torch.nan)
        chunk = self.chunk
        with torch.no_grad():
            for first in range(0, x.shape[0], chunk):
                if first and self.expired:
                    break
                result[first : first + chunk] = self.outputs(x[first : first + chunk])
        return result

    def row_margins(self, y: Tensor, clause: Tensor) -> Tensor:
        """``rows . y - threshold`` for points, ``[n, r]``."""
        return torch.einsum("nrc,nc->nr", self.rows[clause], y) - self.threshold[clause]

    def margins(self, y: Tensor, clause: Tensor) -> Tensor:
        """The largest row margin of every point ``[n]``, inf where it is not a number."""
        return finite(self.row_margins(y, clause).amax(1))

    def scale(self, y: Tensor, clause: Tensor) -> Tensor:
        """The magnitude of the terms that a margin is made of, ``[n]``: its rounding error is relative to it."""
        terms = torch.einsum("nrc,nc->nr", self.rows[clause].abs(), y.abs())
        return (terms + self.threshold[clause].abs()).amax(1)

    def clamp(self, x: Tensor, clause: Tensor) -> Tensor:
        """Move points into their clauses' boxes."""
        box = self.box[clause]
        return torch.minimum(torch.maximum(x, self.lower[box]), self.upper[box])

    def try_best(self, x: Tensor, margin: Tensor, clause: Tensor, below: float, limit: int) -> Witness | None:
        """Replay the ``limit`` points of the smallest margin among those at or below ``below``."""
        chosen = (margin <= below).nonzero().squeeze(1)
        if chosen.numel() == 0:
            return None
        chosen = chosen[margin[chosen].argsort()][:limit]
        points = x[chosen].detach().double().cpu().numpy()
        return self.replay.check_many(points, None, self.number[clause[chosen].cpu().numpy()], limit)

    def try_violating(self, x: Tensor, margin: Tensor, clause: Tensor, scale: float) -> Witness | None:
        """Replay the best points whose margin reaches the goal; a refuted candidate lowers the goal.

        ``scale``: the magnitude of the margin's terms. A candidate at 0 may fail by rounding alone, so the next one
        must be better by more than that; after many refusals it must be far better.
        """
        best = float(margin.min())
        if not best <= self.goal:
            return None
        witness = self.try_best(x, margin, clause, self.goal, 2)
        if witness is None:
            self.refuted += 1
            least = 1e-7 if self.refuted < _REFUSALS else 1e-3
            self.goal = best - max(abs(best), least * scale)
        return witness


def search_type(problem: Problem) -> torch.dtype:
    """float64 for float64 networks, else float32."""
    return torch.float64 if problem.query.element_type == "float64" else torch.float32


def finite(margin: Tensor) -> Tensor:
    """Margins with NaN read as inf, so that such a point is never the best."""
    return torch.where(margin.isnan(), torch.inf, margin)
