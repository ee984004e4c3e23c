"""Clarke derivatives with jumps: which limits a box holds, and how tight their lines are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import OPS, Prepared, Univariate, prepare, relaxation

FLOAT = torch.float64


def record(name: str, **attributes: float) -> tuple[Univariate, Prepared]:
    made = {key: np.array(value) for key, value in attributes.items()}
    found = OPS[name]
    assert isinstance(found, Univariate)
    return found, prepare(Node(name, (0,), (1,), made), ((1,),), FLOAT, torch.device("cpu"))


STEPS = (
    (*record("step", left=0.0, right=1.0), {0.0: (0.0, 1.0)}),
    (*record("step", left=1.0, right=-1.0), {0.0: (1.0, -1.0)}),
    (*record("pulse", lower=-1.0, upper=2.0), {-1.0: (0.0, 1.0), 2.0: (1.0, 0.0)}),
    (*record("pulse", lower=0.5), {0.5: (0.0, 1.0)}),
    (*record("hard_swish_slope"), {-3.0: (0.0, -3.0), 3.0: (9.0, 6.0)}),
    (*record("elu_slope", height=1.5, scale=1.0), {0.0: (1.5, 1.0)}),
)
every_step = pytest.mark.parametrize("case", STEPS, ids=lambda case: case[0].name)


def numbers(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=FLOAT) for value in values]


@every_step
def test_a_box_that_ends_at_a_jump_holds_its_side_only(case) -> None:
    """The children of a split at the jump share the point and have one limit each; the point alone has both."""
    op, p, jumps = case
    for point, (left, right) in jumps.items():
        for ends, limit in (((point - 0.125, point), left), ((point, point + 0.125), right)):
            low, high = op.interval(p, *numbers(*ends))
            kl, bl, ku, bu = relaxation.lines(op, p, *numbers(*ends))
            other = ends[0] + ends[1] - point
            least, most = sorted((limit, float(op.evaluate(p, *numbers(other)))))
            assert least - 1e-12 <= float(low) and float(high) <= most + 1e-12
            for x in ends:
                assert float(ku * x + bu - kl * x - bl) <= 0.1 * (most - least) + 1e-12
        low, high = op.interval(p, *numbers(point, point))
        assert float(low) == pytest.approx(min(left, right)) and float(high) == pytest.approx(max(left, right))


@every_step
def test_a_box_across_a_jump_holds_both_sides(case) -> None:
    op, p, jumps = case
    for point, limits in jumps.items():
        for width in (1e-12, 1e-3, 0.5):
            low, high = op.interval(p, *numbers(point - width, point + width))
            assert float(low) <= min(limits) and float(high) >= max(limits)
            kl, bl, ku, bu = relaxation.lines(op, p, *numbers(point - width, point + width))
            assert float(kl * point + bl) <= min(limits) and float(ku * point + bu) >= max(limits)


@pytest.mark.parametrize("levels", [(0.0, 1.0), (1.0, -1.0), (0.25, 0.25)])
def test_lines_of_a_step_touch_its_hull(levels: tuple[float, float]) -> None:
    """At every admissible slope a line touches the function, at 0 or at an end."""
    op, p = record("step", left=levels[0], right=levels[1])
    random = torch.Generator().manual_seed(2)
    lower, upper = (
        -torch.rand(200, generator=random, dtype=FLOAT),
        torch.rand(200, generator=random, dtype=FLOAT),
    )
    ranges = relaxation.slope_range(op, p, lower, upper)
    share = torch.rand(200, generator=random, dtype=FLOAT)
    below = ranges[0] + share * (ranges[1] - ranges[0])
    above = ranges[2] + share * (ranges[3] - ranges[2])
    kl, bl, ku, bu = relaxation.lines(op, p, lower, upper, below, above)
    assert torch.equal(kl, below) and torch.equal(ku, above)
    values = torch.stack([torch.full_like(lower, v) for v in (levels[0], levels[0], levels[1], levels[1])])
    points = torch.stack([lower, torch.zeros_like(lower), torch.zeros_like(lower), upper])
    under, over = values - kl * points - bl, ku * points + bu - values
    assert (under >= 0).all() and (over >= 0).all()
    assert (under.amin(0) <= 1e-14).all() and (over.amin(0) <= 1e-14).all()


def test_a_step_of_parameters_for_each_element() -> None:
    """PRelu has a slope for every channel."""
    node = Node("step", (0,), (2,), {"left": np.array([0.25, -2.0]), "right": np.array(1.0)})
    p = prepare(node, ((2,),), FLOAT, torch.device("cpu"))
    low, high = OPS["step"].interval(p, *(torch.tensor([[v, v]], dtype=FLOAT) for v in (-1.0, 1.0)))
    assert low.tolist() == [[0.25, -2.0]] and high.tolist() == [[1.0, 1.0]]
