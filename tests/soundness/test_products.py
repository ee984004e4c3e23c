"""Input splits of networks with products: a clause that some point attains stays open, and the point in its box."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node
from provenn.bounds.propagate import quadratic
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.rebound import Rebound

INPUTS, HIDDEN, CLAUSES = 4, 12, 50


class _Query:
    """What a Problem reads of a query."""

    def __init__(self, lower: np.ndarray, upper: np.ndarray):
        self.input_box = (lower, upper)


def made(
    random: np.random.Generator, lower: np.ndarray, upper: np.ndarray, bias: float, square: bool
) -> tuple[Problem, list[np.ndarray]]:
    """``u * v`` of two layers (``u * u`` where ``square``), u through a relu; and the layers' weights."""
    weights = [random.standard_normal((INPUTS, HIDDEN)) for _ in range(2)]
    biases = [bias + random.standard_normal(HIDDEN) for _ in range(2)]
    nodes = (
        Node("input", (), (1, INPUTS), scalar_type="float64"),
        Node("linear", (0,), (1, HIDDEN), {"weight": weights[0], "bias": biases[0]}),
        Node("linear", (0,), (1, HIDDEN), {"weight": weights[1], "bias": biases[1]}),
        Node("relu", (1,), (1, HIDDEN)),
        Node("mul", (3, 3 if square else 2), (1, HIDDEN)),
    )
    problem = Problem(Graph(nodes, (0,), (4,)), _Query(lower, upper), torch.device("cpu"))  # type: ignore[arg-type]
    return problem, [*weights, *biases]


def exactly(row: np.ndarray, point: np.ndarray, parts: list[np.ndarray], square: bool) -> float:
    """The least double that is at or above the row's exact value at a point."""
    x = [Fraction(v) for v in point]
    u, v = (
        [sum(Fraction(w) * xi for w, xi in zip(column, x, strict=True)) + Fraction(b) for column, b in
         zip(weight.T, bias, strict=True)] for weight, bias in zip(parts[:2], parts[2:], strict=True)
    )  # fmt: skip
    u = [max(e, Fraction(0)) for e in u]
    total = sum(Fraction(r) * p * q for r, p, q in zip(row, u, u if square else v, strict=True))
    nearest = float(total)
    return nearest if Fraction(nearest) >= total else float(np.nextafter(nearest, np.inf))


def clauses_of(lower: np.ndarray, upper: np.ndarray, rows: np.ndarray, threshold: np.ndarray) -> Clauses:
    box = torch.zeros(len(rows), dtype=torch.int64)
    ends = torch.from_numpy(lower)[None], torch.from_numpy(upper)[None]
    return Clauses(*ends, box, torch.from_numpy(rows), torch.from_numpy(threshold))


def at_the_least_corner(random: np.random.Generator) -> tuple[Problem, Clauses]:
    """Convex rows whose minimum is a corner, and thresholds that it attains exactly."""
    lower = random.uniform(-1, 0, INPUTS)
    upper = lower + random.uniform(0.5, 1, INPUTS)
    problem, parts = made(random, lower, upper, 20.0, True)
    rows = random.uniform(0.1, 1, (CLAUSES, HIDDEN))
    slope = rows @ (parts[2][:, None] * parts[0].T)
    corners = np.where(slope > 0, lower, upper)
    threshold = [[exactly(row, x, parts, True)] for row, x in zip(rows, corners, strict=True)]
    return problem, clauses_of(lower, upper, rows[:, None], np.array(threshold))


@torch.no_grad()
def test_no_form_refutes_a_margin_of_zero() -> None:
    problem, clauses = at_the_least_corner(np.random.default_rng(7))
    bounder = Rebound(problem, clauses)
    assert bounder.products
    kept, _ = bounder.bound(bounder.roots())
    assert kept["bound"].shape[0] == CLAUSES
    # Where the corner is the minimum nothing but rounding is missed.
    assert (kept["bound"] > -1e-7).double().mean() > 0.8


@torch.no_grad()
def test_without_the_slack_for_rounding_some_would_be_refuted(monkeypatch) -> None:
    """The test above has teeth."""
    monkeypatch.setattr(quadratic, "gamma", lambda count, dtype: 0.0)
    monkeypatch.setattr(quadratic.RoundingError, "lowered", lambda self, bound: bound)
    problem, clauses = at_the_least_corner(np.random.default_rng(7))
    problem.magnitudes.underflow = 0.0
    bounder = Rebound(problem, clauses)
    kept, _ = bounder.bound(bounder.roots())
    assert kept["bound"].shape[0] < CLAUSES


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2])
def test_points_that_violate_stay_in_their_boxes(count: int, seed: int) -> None:
    """Rows low enough to clip much, each of a clause's attained by one point near where the first is least."""
    random = np.random.default_rng([seed, count])
    lower = random.uniform(-1, 0, INPUTS)
    upper = lower + random.uniform(0.3, 1, INPUTS)
    problem, parts = made(random, lower, upper, 0.5, False)
    rows = random.standard_normal((CLAUSES, count, HIDDEN))
    x = random.uniform(lower, upper, (4000, INPUTS))
    values = np.maximum(x @ parts[0] + parts[2], 0) * (x @ parts[1] + parts[3])
    best = x[(values @ rows[:, 0].T).argmin(0)]
    threshold = [[exactly(r, p, parts, False) for r in row] for row, p in zip(rows, best, strict=True)]
    bounder = Rebound(problem, clauses_of(lower, upper, rows, np.array(threshold)))
    fields, clipped = bounder.roots(), 0
    for _ in range(4):
        kept, _ = bounder.bound(fields)
        point = torch.from_numpy(best)[kept["clause"]]
        inside = ((kept["lower"] <= point) & (point <= kept["upper"])).all(1)
        assert set(kept["clause"][inside].tolist()) == set(range(CLAUSES))
        clipped += int((kept["upper"] - kept["lower"] < torch.from_numpy(upper - lower) - 1e-9).any(1).sum())
        fields = bounder.split(kept)
    assert clipped > 0


@torch.no_grad()
def test_forms_say_more_than_bands(monkeypatch) -> None:
    """At most a tenth of what bands of products miss of convex rows' minima."""
    random = np.random.default_rng(3)
    lower, upper = -np.ones(INPUTS), np.ones(INPUTS)
    problem, parts = made(random, lower, upper, 20.0, True)
    rows = random.uniform(0.1, 1, (8, 1, HIDDEN))
    x = random.uniform(2 * lower, 2 * upper, (100000, INPUTS)).clip(lower, upper)  # faces and corners, too
    least = (np.maximum(x @ parts[0] + parts[2], 0) ** 2 @ rows[:, 0].T).min(0)[:, None]
    missing = []
    for most in (quadratic.MOST_INPUTS, 0):
        monkeypatch.setattr("provenn.verifier.rebound.MOST_INPUTS", most)
        bounder = Rebound(problem, clauses_of(lower, upper, rows, least))
        kept, _ = bounder.bound(bounder.roots())
        assert len(kept["bound"]) == len(rows)  # a sample attains its own minimum
        missing.append(-float(kept["bound"].mean()))
    assert missing[0] < 0.1 * missing[1]
