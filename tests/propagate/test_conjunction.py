"""Combinations of the rows of a conjunction: sound with any weights, moved by the right derivative."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from provenn.bounds.graph import Graph, Node
from provenn.bounds.propagate.conjunction import CORNER, Conjunction, best_weights
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.objective import Objective
from provenn.bounds.propagate.optimise import Schedule, optimise
from provenn.bounds.propagate.plan import Plan

from .small import MAKERS, Case, case

STEP = 1e-6


def together(made: Case, rows: int, seed: int = 0) -> Conjunction:
    """Random rows over the target with thresholds."""
    generator = torch.Generator().manual_seed(seed)
    shape = made.rows.shape[2:]
    return Conjunction(
        torch.randn(2, rows, *shape, generator=generator, dtype=made.plan.dtype),
        torch.randn(2, rows, generator=generator, dtype=made.plan.dtype),
    )


def objective_of(made: Case, conjunction: Conjunction, combinations: int) -> Objective:
    return Objective(
        made.plan, made.target, made.rows, made.boxes, made.inputs, conjunction=conjunction, combinations=combinations
    )


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_derivatives_of_weights(name: str, tmp_path) -> None:
    """Finite differences in a logit are its weight times what a step follows."""
    made = case(name, tmp_path)
    objective = objective_of(made, together(made, 3), 2)
    generator = torch.Generator().manual_seed(1)
    flat = objective.start()
    (segment,) = (s for s in objective.layout.segments if s.kind == "logit")
    noise = torch.randn(2, 2, segment.size, generator=generator, dtype=flat.dtype)
    objective.layout.part(flat, segment).add_(noise)
    gradient, trace = torch.zeros_like(flat), objective.trace()
    margin, lines = objective.bound(flat, trace)
    objective.gradient(trace, lines, gradient, flat=flat)
    weights = objective.weights(flat)
    assert weights is not None and torch.allclose(weights.sum(-1), torch.ones_like(margin))
    agreed = 0
    for i in range(segment.size):
        ends = []
        for side in (STEP, -STEP):
            moved = flat.clone()
            moved[:, :, segment.start + i] += side
            ends.append(objective.bound(moved)[0])
        above, below = (ends[0] - margin) / STEP, (margin - ends[1]) / STEP
        smooth = (above - below).abs() <= 1e-4 * (1e-2 + above.abs())
        found = weights[:, :, i] * gradient[:, :, segment.start + i]
        difference = ((above + below) / 2 - found).abs()
        assert (difference[smooth] <= 1e-4 * (1e-2 + above[smooth].abs())).all()
        agreed += int(smooth.sum())
    assert agreed >= 9
    assert float(objective.layout.part(gradient, segment).abs().amax()) > 1e-3


def test_a_row_and_its_opposite_exclude_each_other(tmp_path) -> None:
    """``c . y <= -1/2`` and ``c . y >= 1/2``: each may hold, the steps find that both never do."""
    made = case("residual", tmp_path)
    row = made.rows[:, :1].expand(2, -1, *made.rows.shape[2:])
    least = torch.full((2, 2), -0.5, dtype=made.plan.dtype)
    objective = objective_of(made, Conjunction(torch.cat([row, -row], 1), least), 3)
    alone, _ = objective.bound(objective.start())
    assert (alone[:, 1:] < 0).all()
    found = optimise(objective, Schedule(steps=40), start=objective.start()[:, 1:2])
    assert (found.bound > 0).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_margin_counts_what_the_sums_round(seed: int) -> None:
    """Rows that cancel: the exact combination at a point is no less than the margin of its bound there."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(3, 4)) * 10.0 ** random.integers(0, 9, size=(3, 1))
    rows[2] = -(rows[0] + rows[1]) * (1 + 1e-9 * random.normal(size=4))
    y = random.uniform(-1, 1, 4)
    made = Conjunction(torch.from_numpy(rows)[None], torch.from_numpy(rows @ y)[None])
    for _ in range(50):
        weights = torch.from_numpy(random.dirichlet(np.ones(3)))[None, None]
        combined = made.combined(weights)[0, 0]
        bound = sum(Fraction(float(c)) * Fraction(float(v)) for c, v in zip(combined, y, strict=True))
        below = torch.tensor([[np.nextafter(float(bound), -np.inf)]], dtype=torch.float64)
        exact = sum(
            Fraction(float(w)) * (Fraction(float(c)) * Fraction(float(v)) - Fraction(float(t)) / 4)
            for w, row, t in zip(weights[0, 0], rows, made.threshold[0], strict=True)
            for c, v in zip(row, y, strict=True)
        )
        margin = float(made.margin(below, weights, torch.from_numpy(np.abs(y)))[0, 0])
        assert Fraction(margin) <= exact


@pytest.mark.parametrize("seed", range(8))
def test_the_game_of_linear_forms(seed: int) -> None:
    """Never above the linear program's optimum, above every single form, and most of the way there."""
    random = np.random.default_rng(seed)
    count, rows, inputs = 20, 3, 4
    a = random.normal(size=(count, rows, inputs))
    lower = random.uniform(-1, 0, (count, inputs))
    upper = lower + random.uniform(0.1, 1, (count, inputs))
    constant = random.normal(size=(count, rows)) * 0.2
    margin = constant + np.minimum(a * lower[:, None], a * upper[:, None]).sum(-1)
    weights, value = best_weights(*(torch.from_numpy(t) for t in (margin, a, lower, upper)))
    assert (weights >= 0).all() and torch.allclose(weights.sum(-1), torch.ones(count, 1, dtype=torch.float64))
    optimum = []
    for i in range(count):  # the least t with every form at most t somewhere
        limits = np.concatenate([a[i], -np.ones((rows, 1))], 1)
        ends = [*zip(lower[i], upper[i], strict=True), (None, None)]
        optimum.append(linprog([0] * inputs + [1], limits, -constant[i], bounds=ends).fun)
    best, single = np.array(optimum), margin.max(1)
    assert (value.numpy() <= best + 1e-9).all()
    assert (value.numpy() - single).sum() > 0.8 * (best - single).sum() > 0


def test_the_starts_are_the_middle_and_the_corners() -> None:
    made = Conjunction(torch.zeros(1, 2, 5), torch.zeros(1, 2))
    assert made.start(4).tolist() == [[0, 0], [CORNER, 0], [0, CORNER], [0, 0]]


def test_minimisers_where_relaxed_values_are_read_by_choices_only() -> None:
    """The walk to the target visits the input, which no relaxed node below it reads: both walks must be the same."""
    weight = np.random.default_rng(3).standard_normal((4, 2))
    nodes = [
        Node("input", (), (1, 2)), Node("sin", (0,), (1, 2)), Node("less", (0, 1), (1, 2)),
        Node("where", (2, 1, 0), (1, 2)), Node("concat", (3, 0), (1, 4), {"axis": 1}),
        Node("linear", (4,), (1, 2), {"weight": weight}),
    ]  # fmt: skip
    plan = Plan(Graph(tuple(nodes), (0,), (5,)), torch.float64)
    inputs = {0: (torch.full((1, 1, 2), -1.0).double(), torch.full((1, 1, 2), 1.0).double())}
    rows = torch.eye(2, dtype=torch.float64).view(1, 2, 1, 2)
    boxes = interval_boxes(plan, inputs)
    objective = Objective(
        plan, 5, rows, boxes, inputs, combinations=3,
        conjunction=Conjunction(rows, torch.zeros(1, 2, dtype=torch.float64)),
    )  # fmt: skip
    found = optimise(objective, Schedule(4, 0.1))
    low, high = inputs[0]
    assert ((found.minimiser[0] >= low) & (found.minimiser[0] <= high)).all()
