"""How large the parts of a round are, with a clock that bounding moves on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from provenn.verifier import workers
from provenn.verifier.pool import Fields
from provenn.verifier.search import PART_SECONDS, Search


class Halves:
    """Domains that are never refuted; bounding ``count`` of them takes ``seconds(count)``."""

    name = "halves"

    def __init__(self, seconds, clock: list[float]):
        self.seconds, self.clock, self.parts = seconds, clock, []

    def roots(self) -> Fields:
        return {"clause": torch.zeros(1, dtype=torch.int64), "bound": torch.full((1,), -1.0), "depth": torch.zeros(1)}

    def bound(self, fields: Fields) -> tuple[Fields, torch.Tensor]:
        count = fields["bound"].shape[0]
        self.parts.append(count)
        self.clock[0] += self.seconds(count)
        return fields, torch.zeros(count, 1)

    def split(self, fields: Fields) -> Fields:
        return {k: torch.cat([v, v]) for k, v in dict(fields, depth=fields["depth"] + 1).items()}

    def splittable(self, fields: Fields) -> torch.Tensor:
        return torch.ones(fields["bound"].shape[0], dtype=torch.bool)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def parts(seconds, clock: list[float], rounds: int) -> list[int]:
    bounder, left = Halves(seconds, clock), iter(range(rounds))
    search = Search(
        bounder, batch=128, check=lambda points, clause: False, progress=lambda *known: None,
        interlude=lambda: next(left, None) is None,
    )  # fmt: skip
    assert search.run(float("inf")) == "witness"  # what an interlude returns ends the search
    return bounder.parts


def test_a_first_domain_that_takes_long_does_not_keep_parts_small(clock: list[float]) -> None:
    """Where many domains take no longer than one, they are bounded together."""
    found = parts(lambda count: 1.5 * PART_SECONDS + 0.001 * count, clock, 12)
    assert max(found) == 128 and found.count(1) == 1


def test_parts_stay_small_where_every_domain_takes_long(clock: list[float]) -> None:
    found = parts(lambda count: 0.7 * PART_SECONDS * count, clock, 8)
    assert max(found) <= 4 and found[-1] == 1
