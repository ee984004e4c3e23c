"""The pool gives back what it was given, the lowest bounds first."""

from __future__ import annotations

import torch

from provenn.verifier.pool import Pool


def fields(bounds: list[float], first: int = 0) -> dict[str, torch.Tensor]:
    count = len(bounds)
    name = torch.arange(first, first + count)
    return {"bound": torch.tensor(bounds), "name": name, "box": name.float().unsqueeze(1).expand(-1, 3)}


def test_takes_the_lowest() -> None:
    pool = Pool()
    pool.push(fields([5.0, 1.0, 3.0, 2.0, 4.0]))
    assert sorted(pool.take(2)["name"].tolist()) == [1, 3]
    assert len(pool) == 3 and pool.lowest() == 3.0
    assert sorted(pool.take(9)["name"].tolist()) == [0, 2, 4]
    assert len(pool) == 0 and pool.lowest() == float("inf")


def test_loses_and_repeats_nothing() -> None:
    """Random pushes and takes: every domain comes out once, with all its fields."""
    generator = torch.Generator().manual_seed(0)
    pool, pushed, taken = Pool(), 0, []
    for _ in range(200):
        count = int(torch.randint(0, 40, (1,), generator=generator))
        pool.push(fields(torch.randn(count, generator=generator).tolist(), pushed))
        pushed += count
        found = pool.take(int(torch.randint(0, 40, (1,), generator=generator)))
        if found:
            assert (found["box"] == found["name"].float().unsqueeze(1)).all()
            taken += found["name"].tolist()
    taken += pool.take(len(pool))["name"].tolist() if len(pool) else []
    assert sorted(taken) == list(range(pushed))
