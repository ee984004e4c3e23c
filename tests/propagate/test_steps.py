"""What a step of optimisation does to parameters: Adam's formula, the best ones kept, the chosen lines."""

from __future__ import annotations

import math

import pytest
import torch

from provenn.bounds.propagate.backward import Trace, backward
from provenn.bounds.propagate.objective import Objective
from provenn.bounds.propagate.optimise import SMALLEST_SQUARE, Schedule, _Adam, _keep_better

from .small import MAKERS, case


@pytest.mark.parametrize("scaled", [False, True])
def test_adam(scaled: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    schedule = Schedule(first=0.8, second=0.95)
    flat = torch.rand(3, 2, 7, generator=generator, dtype=torch.float64)
    rate = torch.rand(3, 1, 7, generator=generator, dtype=torch.float64) if scaled else None
    wanted, mean, square = flat.clone(), torch.zeros_like(flat), torch.full_like(flat, SMALLEST_SQUARE)
    adam = _Adam.of(flat, schedule)
    for step in range(1, 6):
        gradient = torch.randn(flat.shape, generator=generator, dtype=torch.float64)
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        size = 0.1 * math.sqrt(1 - 0.95**step) / (1 - 0.8**step)
        wanted = wanted + size * (1.0 if rate is None else rate) * mean / square.sqrt()
        adam.ascend(flat, gradient, rate, 0.1)
        torch.testing.assert_close(flat, wanted, rtol=1e-9, atol=1e-12)


def test_adam_leaves_parameters_without_gradient() -> None:
    flat = torch.rand(2, 1, 5)
    before = flat.clone()
    adam = _Adam.of(flat, Schedule())
    for _ in range(3):
        adam.ascend(flat, torch.zeros_like(flat), None, 0.1)
    assert torch.equal(flat, before)


@pytest.mark.parametrize("bad", [None, math.nan, -math.inf])
def test_better_rows_are_kept(bad: float | None) -> None:
    kept, flat = torch.zeros(2, 2, 3), torch.rand(2, 2, 3)
    best = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    bound = torch.tensor([[1.0, 0.5], [2.0, 4.0]])
    if bad is not None:
        bound[0, 1] = bad
        flat[0, 1] = math.nan
    _keep_better(kept, flat, bound, best)
    assert torch.equal(kept[0, 0], flat[0, 0])
    assert torch.equal(kept[1, 1], flat[1, 1])
    assert not kept[0, 1].any()
    assert not kept[1, 0].any()


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_trace_does_not_change_the_bound(name: str, tmp_path) -> None:
    made = case(name, tmp_path)
    objective = Objective(made.plan, made.target, made.rows, made.boxes, made.inputs)
    lines = objective.lines(objective.start())
    trace = Trace()
    traced = backward(made.plan, made.target, made.rows, lines, made.inputs, trace=trace)
    torch.testing.assert_close(traced, backward(made.plan, made.target, made.rows, lines, made.inputs))
    for index, (slope, offset) in trace.chosen.items():
        a, positive, negative = trace.whole[index], trace.positive[index], trace.below(index)
        assert negative is not None
        assert torch.equal(positive + negative, a)
        assert torch.equal(trace.magnitude(index), positive - negative)
        mine = lines[index]
        torch.testing.assert_close(
            a * slope, positive * mine.lower_slopes[0] + negative * mine.upper_slopes[0]
        )
        low = 0.0 if mine.lower_offset is None else mine.lower_offset
        high = 0.0 if mine.upper_offset is None else mine.upper_offset
        torch.testing.assert_close(a * (0.0 if offset is None else offset), positive * low + negative * high)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_trace_without_negative_parts_gives_the_same_step(name: str, tmp_path) -> None:
    made = case(name, tmp_path)
    objective = Objective(made.plan, made.target, made.rows, made.boxes, made.inputs)
    found = []
    for negatives in (True, False):
        trace = objective.trace()
        trace.negatives = negatives or trace.negatives
        bound, lines = objective.bound(objective.start(), trace)
        gradient = torch.full_like(objective.start(), torch.nan)
        objective.gradient(trace, lines, gradient)
        found.append((bound, gradient))
    torch.testing.assert_close(found[0], found[1])
