"""The history of a run keeps what mattered, in a bounded number of points."""

from __future__ import annotations

import itertools

from provenn.verifier import history
from provenn.verifier.history import History


def test_a_short_run_is_kept_whole() -> None:
    seen = History()
    seen.add(0.1, {})
    message = {"stage": "loading"}
    for tick in range(5):
        seen.add(0.1 * tick, message)
    seen.add(1.25, {"stage": "input splits", "domains": 7, "open": 3, "bound": -0.5})
    assert seen.columns() == {
        "seconds": [0.0, 1.25],
        "stage": ["loading", "input splits"],
        "domains": [None, 7],
        "open": [None, 3],
        "bound": [None, -0.5],
    }
    assert History().columns()["seconds"] == []


def test_a_long_run_is_sampled_evenly() -> None:
    """Ten hours of ten messages a second, with a pause: bounded, in order, both ends there, no large gap."""
    seen, seconds = History(), 0.0
    for number in range(360_000):
        seconds += 0.1 if number != 100_000 else 500.0
        seen.add(seconds, {"stage": "search", "domains": number, "open": 1, "bound": -1.0})
        if number in (0, 5, 126, 127, 128, 129, 5000):
            assert seen.columns()["domains"][-1] == number
    table = seen.columns()
    times = table["seconds"]
    assert history.POINTS / 4 < len(times) <= history.POINTS
    assert times[0] == 0.1 and times[-1] == round(seconds, 3) and table["domains"][-1] == 359_999
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert min(gaps) >= 0 and max(gaps) < 4 * seconds / history.POINTS + 500
    assert {len(column) for column in table.values()} == {len(times)}
