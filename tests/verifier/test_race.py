"""Which search of a race gets how much time, with searches whose time does not pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from provenn.verifier.race import race


class Timed:
    """A search whose open share is a function of the seconds that it was given."""

    def __init__(self, name: str, left: Callable[[float], float]):
        self.bounder, self.left = SimpleNamespace(name=name), left
        self.seconds, self.slices = 0.0, []
        self.domains = self.rounds = self.stuck = 0

    def remaining(self) -> float:
        return max(0.0, self.left(self.seconds))

    def run(self, until: float) -> str:
        self.slices.append(until - time.monotonic())
        self.seconds += self.slices[-1]
        return "timeout" if self.remaining() else "refuted"

    def open(self) -> int:
        return 1

    def bound(self) -> float:
        return -1.0


def run(*searches: Timed) -> str:
    made = SimpleNamespace(
        deadline=time.monotonic() + 1000, late=lambda: sum(s.seconds for s in searches) > 1000, lowest=str,
        say=lambda text: None, count=lambda name, amount: None, best=lambda bound: bound, open=[], bound=0.0,
    )  # fmt: skip
    return race(made, list(searches), 0.5, lambda programs: False)  # type: ignore[arg-type]


def test_a_start_that_promises_much_is_not_believed_for_long() -> None:
    """A search that halves its tree at once and then stands still gets no longer slice than it had time before."""
    steady = Timed("steady", lambda t: 1 - t / 60)
    early = Timed("early", lambda t: max(0.4, 1 - t / 3))
    assert run(steady, early) == "refuted"
    for before, length in enumerate(early.slices[1:], 1):
        assert length < max(0.5, sum(early.slices[:before])) + 0.1
    assert early.seconds < 12


@pytest.mark.parametrize("first", [True, False])
def test_the_search_that_ends_first_gets_most(first: bool) -> None:
    fast, slow = Timed("fast", lambda t: 1 - t / 20), Timed("slow", lambda t: 1 - t / 200)
    assert run(*((fast, slow) if first else (slow, fast))) == "refuted"
    assert slow.seconds < 0.2 * fast.seconds


def test_nobody_is_left_behind_for_good() -> None:
    """A search that finds its way only after a while gets a tenth of the time meanwhile."""
    steady, late = Timed("steady", lambda t: 1 - t / 2000), Timed("late", lambda t: 1.0 if t < 10 else 0.0)
    assert run(steady, late) == "refuted"
    assert steady.seconds < 200
