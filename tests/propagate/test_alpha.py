"""Optimised bounds of rows in one call: below what samples attain, above plain bounds, in any combination of types."""

from __future__ import annotations

import pytest
import torch

from provenn.bounds.graph import evaluate
from provenn.bounds.propagate.alpha import alpha
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError

from .small import MAKERS, case


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_between_plain_bounds_and_samples(name: str, tmp_path) -> None:
    made = case(name, tmp_path, radius=0.2)
    plan, search = made.plan, Plan(made.plan.graph, torch.float32)
    ((lower, upper),) = made.inputs.values()
    generator = torch.Generator().manual_seed(1)
    share = torch.rand(3000, *lower.shape, generator=generator, dtype=torch.float64)
    share[:1000] = share[:1000].round()
    x = lower + share * (upper - lower)
    y = evaluate(plan.graph, [x.flatten(0, 1)])[0].view(*x.shape[:2], -1)
    truth = torch.einsum("sdn,drn->sdr", y, made.rows.flatten(2)).amin(0)
    plain = backward(plan, made.target, made.rows, relax_all(plan, made.target, made.boxes), made.inputs)
    magnitudes = Magnitudes(plan, interval_boxes(plan, made.inputs))
    bounds = {
        "float64": alpha(plan, made.inputs, made.target, made.rows),
        "sought in float32": alpha(plan, made.inputs, made.target, made.rows, search=search),
        "proven": alpha(plan, made.inputs, made.target, made.rows, search=search, magnitudes=magnitudes),
    }
    for kind, bound in bounds.items():
        assert bound.shape == truth.shape
        assert (bound <= truth + 1e-9).all(), kind
        assert (bound >= plain - 1e-3).all() and (bound > plain + 1e-3).any(), kind
    error = (bounds["sought in float32"] - bounds["proven"]).abs().max()
    assert error < 1e-6


def test_no_steps_is_the_plain_bound(tmp_path) -> None:
    made = case("residual", tmp_path)
    magnitudes = Magnitudes(made.plan, interval_boxes(made.plan, made.inputs))
    error = RoundingError(made.plan, magnitudes)
    lines = relax_all(made.plan, made.target, made.boxes)
    plain = backward(made.plan, made.target, made.rows, lines, made.inputs, error=error)
    found = alpha(made.plan, made.inputs, made.target, made.rows, steps=0, magnitudes=magnitudes)
    assert (found - plain).abs().max() <= 1e-8
