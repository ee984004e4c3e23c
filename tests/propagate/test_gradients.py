"""Gradients of slopes and multipliers in closed form against finite differences of the bound, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from provenn.bounds.propagate.objective import Objective, Splits

from .small import MAKERS, Case, case

STEP = 1e-6
MOST = 60
"""Parameters of each kind and layer that are tried."""


def interior(objective: Objective, generator: torch.Generator) -> Tensor:
    """Random parameters inside their ranges; multipliers, which have no upper end, below 0.1."""
    low, high = objective.low, objective.high.nan_to_num(posinf=0.1)
    shape = (objective.domains, objective.count, objective.layout.total)
    share = 0.2 + 0.6 * torch.rand(shape, generator=generator, dtype=low.dtype)
    return low + share * (high - low)


def splits(made: Case) -> Splits:
    """Every third element of the values that elementwise operators read is split at its middle."""
    sign, point = {}, {}
    for value in made.plan.bounded:
        if value in made.inputs or not all(
            made.plan.operators[i].name in ("relu", "leaky_relu", "sigmoid", "tanh")
            for i in made.plan.consumers[value]
        ):
            continue
        lower, upper = made.boxes[value]
        places = torch.arange(lower[0].numel()).view(lower[0].shape)
        which = torch.where(places % 6 == 0, 1.0, torch.where(places % 6 == 3, -1.0, 0.0)).to(lower.dtype)
        sign[value] = which.expand(2, *which.shape)
        point[value] = ((lower + upper) / 2 * which.abs()).expand(2, *which.shape)
    return Splits(sign, point)


@pytest.mark.parametrize("kind", ["slopes", "slopes where lines differ", "multipliers"])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_finite_differences(name: str, kind: str, tmp_path) -> None:
    made = case(name, tmp_path)
    multiplied, narrow = splits(made) if kind == "multipliers" else None, kind == "slopes where lines differ"
    objective = Objective(
        made.plan, made.target, made.rows, made.boxes, made.inputs, multiplied, narrow, planes=True
    )
    generator = torch.Generator().manual_seed(5)
    flat = interior(objective, generator)
    gradient = torch.zeros_like(flat)
    trace = objective.trace()
    bound, lines = objective.bound(flat, trace)
    objective.gradient(trace, lines, gradient, flat=flat)
    free = (objective.high > objective.low).expand(objective.domains, 1, -1).all(0).squeeze(0)
    tried = agreed = 0
    for segment in objective.layout.segments:
        places = torch.arange(segment.start, segment.start + segment.size)[free[segment.start :][: segment.size]]
        for place in places[torch.randperm(places.numel(), generator=generator)[:MOST]].tolist():
            ends = []
            for side in (STEP, -STEP):
                moved = flat.clone()
                moved[:, :, place] += side
                ends.append(objective.bound(moved)[0])
            above, below = (ends[0] - bound) / STEP, (bound - ends[1]) / STEP
            smooth = (above - below).abs() <= 1e-4 * (1e-2 + above.abs())  # no kink within the step
            difference = ((above + below) / 2 - gradient[:, :, place]).abs()
            tried += smooth.numel()
            agreed += int(smooth.sum())
            assert (difference[smooth] <= 1e-4 * (1e-2 + above[smooth].abs())).all(), (segment, place)
    assert tried > 40 and agreed > 0.9 * tried
    assert float(gradient.abs().amax()) > 1e-3


def test_multipliers_of_every_value_move_the_bound(tmp_path) -> None:
    """The comparison above says something of multipliers: their gradients are not all 0."""
    made = case("residual", tmp_path)
    objective = Objective(made.plan, made.target, made.rows, made.boxes, made.inputs, splits(made))
    flat = interior(objective, torch.Generator().manual_seed(5))
    gradient, trace = torch.zeros_like(flat), objective.trace()
    _, lines = objective.bound(flat, trace)
    objective.gradient(trace, lines, gradient)
    kinds = [s for s in objective.layout.segments if s.kind == "beta"]
    assert len(kinds) >= 3
    for segment in kinds:
        assert float(objective.layout.part(gradient, segment).abs().amax()) > 1e-3
