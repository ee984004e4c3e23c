"""Clipping by splits: never past the linear program's optimum, and near it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from provenn.verifier.planes import Planes


def instance(seed: int, inputs: int, columns: int, splits: int):
    """Planes of affine elements ``w x + b`` over a box, with a feasible split of some, and their linear programs."""
    random = np.random.default_rng(seed)
    w, b = random.normal(size=(columns, inputs)), 0.3 * random.normal(size=columns)
    lower = random.uniform(-1, 0, inputs)
    upper = lower + random.uniform(0.1, 2, inputs)
    inside = w @ random.uniform(lower, upper) + b
    a, c = torch.from_numpy(np.concatenate([w, -w])), torch.from_numpy(np.concatenate([b, -b]))
    usable = torch.ones(columns, dtype=torch.bool)
    planes = Planes(a, c - 1e-12, torch.from_numpy(lower), torch.from_numpy(upper), usable)
    middle, reach = w @ (lower + upper) / 2 + b, np.abs(w) @ (upper - lower) / 2
    low, high = (torch.from_numpy(t).float()[None] for t in (middle - reach - 1e-6, middle + reach + 1e-6))
    sign = torch.zeros(1, columns, dtype=torch.int8)
    rows, ends = [], []
    for j in random.permutation(columns)[:splits]:
        side = 1 if inside[j] > middle[j] else -1
        sign[0, j] = side
        end = torch.tensor(middle[j], dtype=torch.float32)  # half of its box, with points inside
        (low if side > 0 else high)[0, j] = end
        rows.append(-side * w[j])
        ends.append(side * (b[j] - float(end)))
    optima = []
    for a_j, c_j in zip(a.numpy(), c.numpy(), strict=True):
        found = linprog(a_j, np.array(rows), np.array(ends), bounds=np.stack([lower, upper], 1))
        optima.append(found.fun + c_j)
    return planes, low, high, sign, np.array(optima)


@pytest.mark.parametrize("seed", range(12))
def test_ends_lie_between_the_box_and_the_linear_program(seed: int) -> None:
    planes, low, high, sign, optima = instance(seed, inputs=6, columns=9, splits=3)
    lower, upper = planes.clipped(low, high, sign)
    split = sign[0] != 0
    assert torch.equal(lower[0, split], low[0, split]) and torch.equal(upper[0, split], high[0, split])
    assert (lower >= low).all() and (upper <= high).all()
    free = (~split).numpy()
    exact_low, exact_high = optima[:9][free], -optima[9:][free]
    found_low, found_high = lower[0, ~split].double().numpy(), upper[0, ~split].double().numpy()
    assert (found_low <= exact_low + 1e-9).all() and (found_high >= exact_high - 1e-9).all()
    start = high[0, ~split].double().numpy() - low[0, ~split].double().numpy()
    gained, possible = (start - (found_high - found_low)).sum(), (start - (exact_high - exact_low)).sum()
    assert gained > 0.7 * possible > 0


def test_splits_that_exclude_each_other_leave_nothing() -> None:
    """x >= 0.5 and -x >= 0.5 as two elements; a third is a copy of x."""
    w = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64)
    planes = Planes(
        torch.cat([w, -w]), torch.zeros(6, dtype=torch.float64) - 1e-12,
        torch.tensor([-1.0]).double(), torch.tensor([1.0]).double(), torch.ones(3, dtype=torch.bool),
    )  # fmt: skip
    low, high = torch.tensor([[0.5, 0.5, -1.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    lower, upper = planes.clipped(low, high, torch.tensor([[1, 1, 0]], dtype=torch.int8))
    assert lower[0, 2] > upper[0, 2]


def test_domains_do_not_touch_each_other() -> None:
    planes, low, high, sign, _ = instance(20, 5, 7, 2)
    nothing = torch.zeros_like(sign)
    both = planes.clipped(torch.cat([low, low]), torch.cat([high, high]), torch.cat([sign, nothing]))
    alone = planes.clipped(low, high, sign)
    for batch, single in zip(both, alone, strict=True):
        assert torch.allclose(batch[:1], single, atol=1e-4)
    for batch, box in zip(both, (low, high), strict=True):  # no splits, no more than the box of the inputs says
        assert torch.allclose(batch[1], box[0], atol=1e-5)
