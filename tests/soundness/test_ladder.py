"""Boxes made in a hurry are valid boxes, and more time never makes a root looser than its intervals."""

from __future__ import annotations

import math
import time

import pytest
import torch

from provenn.bounds.propagate.intermediate import Batch, Boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.ladder import Ladder, row_cost
from provenn.bounds.propagate.rounding import Magnitudes
from provenn.verifier.rebound import Rebound
from provenn.verifier.root import outputs_bound, root_facts

from .test_bounds import Case, below, case, families


def hurried(made: Case, rate: float, seconds: float) -> tuple[Ladder, dict]:
    """Root boxes by a ladder that believes in a machine of ``rate`` multiplications per second."""
    plan = made.problem.plan(torch.float64)
    inputs = made.problem.input_boxes(made.clauses.lower[:1], made.clauses.upper[:1])
    intervals = interval_boxes(plan, inputs)
    ladder = Ladder(plan, intervals, time.monotonic() + seconds, rate=rate)
    batch = Batch(plan, inputs, Magnitudes(plan, intervals), Boxes(), {}, 1)
    boxes = interval_boxes(
        plan, inputs, tighten=lambda value, box, _: ladder.tighten(batch, value, box), into=batch.boxes
    )
    return ladder, boxes


@families
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 1.0])
@torch.no_grad()
def test_any_rung_contains_samples(family: str, share: float, tmp_path) -> None:
    made = case(family, 11, tmp_path)
    plan = made.problem.plan(torch.float64)
    intervals = interval_boxes(plan, made.problem.input_boxes(made.clauses.lower[:1], made.clauses.upper[:1]))
    work = Ladder(plan, intervals, math.inf, rate=1.0).seconds
    _, boxes = hurried(made, share * work / 60, 60)
    for value, (lower, upper) in boxes.items():
        assert below(lower, made.values[value]) and below(-upper, -made.values[value]), value
        low, high = intervals[value]
        assert below(low, lower) and below(-high, -upper), value


@torch.no_grad()
def test_time_decides_the_rung(tmp_path) -> None:
    """A slow machine stops early and says so; a fast one goes all the way and says nothing."""
    made = case("residual", 12, tmp_path)
    slow, loose = hurried(made, 1e-3, 60)
    fast, tight = hurried(made, 1e15, 60)
    read = made.problem.plan(torch.float64).bounded
    width = lambda boxes: sum(float((boxes[v][1] - boxes[v][0]).sum()) for v in read)  # noqa: E731
    assert slow.notes and not fast.notes
    assert width(tight) < width(loose)


@torch.no_grad()
def test_earlier_stops_cost_less(tmp_path) -> None:
    made = case("conv", 13, tmp_path)
    plan, output = made.problem.plan(torch.float64), made.problem.output
    costs = [row_cost(plan, output, stop) for stop in (-1, *plan.bounded)]
    assert costs == sorted(costs, reverse=True) and costs[0] > costs[-1]


@families
@torch.no_grad()
def test_without_time_the_outputs_have_bounds(family: str, tmp_path) -> None:
    """Past the deadline rows get the output box's bound: below every sample, finite, and no refutation is lost."""
    made = case(family, 14, tmp_path)
    now = time.monotonic()
    facts = root_facts(made.problem, made.clauses.lower[:1], made.clauses.upper[:1], steps=3, deadline=now)
    copies = made.clauses.select(torch.arange(2).repeat(40))
    refuted, best, points = outputs_bound(made.problem, facts, copies, steps=3, deadline=now)
    assert not refuted.any() and torch.isfinite(best).all() and points.shape[0] == len(copies)
    for i, clause in enumerate(torch.arange(2).repeat(40).tolist()):
        assert below(best[i], made.margins(clause).amax(1).min())


@families
@torch.no_grad()
def test_clauses_of_one_box_are_bounded_as_alone(family: str, tmp_path) -> None:
    made = case(family, 15, tmp_path)
    together = Rebound(made.problem, made.clauses)
    roots = together.roots()
    kept, again = together.bound(roots)[0], together.bound(roots)[0]
    assert torch.equal(kept["bound"], again["bound"]) and len(kept["bound"]) == len(made.clauses)
    for i in range(len(made.clauses)):
        alone = Rebound(made.problem, made.clauses)
        one = alone.bound({k: v[i : i + 1] for k, v in roots.items()})[0]
        assert torch.allclose(one["bound"], kept["bound"][i : i + 1], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_small_values_do_not_discredit_the_machine(tmp_path) -> None:
    """Passes of a few multiplications are all overhead: they must not make later values look unaffordable."""
    made = case("residual", 12, tmp_path)
    ladder, _ = hurried(made, 4e9, 60)
    assert ladder.rate > 1e9 and not ladder.notes
