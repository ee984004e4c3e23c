"""Nothing is refuted on a margin of zero: what only rounding refutes must not count.

Thresholds lie at the exact minimum of a linear function, or a hair above: every clause is violated in real arithmetic.
"""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node
from provenn.verifier.exact import Programs
from provenn.verifier.fixed import Fixed
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.rebound import Rebound
from provenn.verifier.root import outputs_bound, root_facts

INPUTS, HIDDEN, CLAUSES = 5, 40, 60


class _Query:
    """What a Problem reads of a query."""

    def __init__(self, lower: np.ndarray, upper: np.ndarray):
        self.input_box = (lower, upper)


def exact_minima(
    weight: np.ndarray, bias: np.ndarray, rows: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    """The least double that is at or above the exact minimum of ``rows . relu(x @ weight + bias)``, all active."""
    result = []
    for row in rows:
        a = [sum(Fraction(r) * Fraction(w) for r, w in zip(row, line, strict=True)) for line in weight]
        total = sum(Fraction(r) * Fraction(b) for r, b in zip(row, bias, strict=True))
        total += sum(c * Fraction(lo if c > 0 else hi) for c, lo, hi in zip(a, lower, upper, strict=True))
        nearest = float(total)
        result.append(nearest if Fraction(nearest) >= total else np.nextafter(nearest, np.inf))
    return np.array(result)


@pytest.fixture(scope="module")
def zero_margins() -> tuple[Problem, Clauses]:
    """A network whose neurons are active on the whole box, so that every bound is exact but for rounding."""
    random = np.random.default_rng(5)
    lower = random.uniform(-1, 0, INPUTS)
    upper = lower + random.uniform(0.5, 1, INPUTS)
    weight = random.standard_normal((INPUTS, HIDDEN))
    bias = 20 + random.standard_normal(HIDDEN)
    rows = random.standard_normal((CLAUSES, HIDDEN))
    nodes = (
        Node("input", (), (1, INPUTS), scalar_type="float64"),
        Node("linear", (0,), (1, HIDDEN), {"weight": weight, "bias": bias}),
        Node("relu", (1,), (1, HIDDEN)),
    )
    threshold = exact_minima(weight, bias, rows, lower, upper)
    problem = Problem(Graph(nodes, (0,), (2,)), _Query(lower, upper), torch.device("cpu"))  # type: ignore[arg-type]
    clauses = Clauses(
        torch.from_numpy(lower)[None],
        torch.from_numpy(upper)[None],
        torch.zeros(CLAUSES, dtype=torch.int64),
        torch.from_numpy(rows)[:, None],
        torch.from_numpy(threshold)[:, None],
    )
    return problem, clauses


@torch.no_grad()
def test_no_bounder_refutes_a_margin_of_zero(zero_margins) -> None:
    problem, clauses = zero_margins
    facts = root_facts(problem, clauses.lower, clauses.upper, steps=0, deadline=time.monotonic() + 60)
    refuted, best, _ = outputs_bound(problem, facts, clauses, steps=2)[:3]
    assert not refuted.any() and (best > -1e-9).all()
    for bounder in (Rebound(problem, clauses), Fixed(problem, clauses, facts, steps=2, candidates=2)):
        open_, _ = bounder.bound(bounder.roots())
        assert open_["bound"].shape[0] == CLAUSES, bounder.name


@torch.no_grad()
def test_the_search_type_alone_would_have_refuted_some(zero_margins) -> None:
    """The test above has teeth: float32 bounds are above the threshold for many of these clauses."""
    problem, clauses = zero_margins
    facts = root_facts(problem, clauses.lower, clauses.upper, steps=0, deadline=time.monotonic() + 60)
    bounder = Fixed(problem, clauses, facts, steps=0, candidates=2)
    bounder.bound(bounder.roots())
    assert bounder.confirm_failures > 0


@torch.no_grad()
def test_programs_refute_no_margin_of_zero(zero_margins) -> None:
    problem, clauses = zero_margins
    facts = root_facts(problem, clauses.lower, clauses.upper, steps=0, deadline=time.monotonic() + 60)
    search = Programs(problem, clauses, facts, check=lambda points, clause: False, progress=lambda *_: None)
    assert search.run(time.monotonic() + 60) == "stuck"
    assert search.stuck == CLAUSES and search.bound() <= 1e-9
