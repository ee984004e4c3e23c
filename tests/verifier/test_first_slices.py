"""Input splits go on alone for as long as a slice does half of the work."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from provenn.verifier.decide import _first_slices


class Slices:
    """A search whose slices leave the given shares, and then nothing."""

    def __init__(self, left: list[float]):
        self.left, self.share, self.calls = left, 1.0, 0

    def remaining(self) -> float:
        return self.share

    def run(self, until: float) -> str:
        assert until > time.monotonic()
        self.share = self.left[self.calls]
        self.calls += 1
        return "timeout" if self.share else "refuted"


@pytest.mark.parametrize(
    "left, calls, ended",
    [([1.0, 0.0], 1, "timeout"), ([0.4, 0.1, 0.0], 3, "refuted"), ([0.4, 0.3, 0.0], 2, "timeout")],
)
def test_slices_go_on_while_they_halve_the_rest(left: list[float], calls: int, ended: str) -> None:
    run = SimpleNamespace(late=lambda: False, deadline=time.monotonic() + 60)
    search = Slices(left)
    assert _first_slices(run, search, 1.0) == ended  # type: ignore[arg-type]
    assert search.calls == calls
