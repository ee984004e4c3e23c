"""Parts computed in forked processes: the results of one process, in order, whatever becomes of the others."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from provenn.verifier import workers
from provenn.verifier.watchdog import _resident, supervise
from provenn.verifier.workers import TRY_AGAIN, Shared, Way, Workers, _Child, cut, joined

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
HERE = os.getpid()


def children() -> set[str]:
    """Processes of this one that run or were not collected."""
    return {p for task in Path("/proc/self/task").iterdir() for p in (task / "children").read_text().split()}


def test_parts_are_computed_elsewhere_and_come_back_in_order() -> None:
    def work(part: int) -> tuple[int, torch.Tensor, dict[str, torch.Tensor]]:
        flags = {"flag": torch.tensor([part % 2 == 0]), "scalar": torch.tensor(float(part))}
        return os.getpid(), torch.arange(10, dtype=torch.int8)[part : part + 2], flags

    results = Workers(3).map(work, range(7))
    assert len({r[0] for r in results}) == 3
    for part, (_, view, more) in enumerate(results):
        assert view.tolist() == [part, part + 1] and view.dtype == torch.int8
        assert more["flag"].tolist() == [part % 2 == 0] and more["scalar"].shape == () and more["scalar"] == part
        view += 1  # a result may be written to


def test_a_view_of_much_is_sent_as_little() -> None:
    large = torch.zeros(1 << 24)
    first, second = Workers(2).map(lambda i: large[i : i + 1], (0, 1))
    assert first.shape == second.shape == (1,)
    assert second.untyped_storage().nbytes() < 1000


def test_large_results_pass_through_a_pipe() -> None:
    found = Workers(2).map(lambda i: torch.full((1 << 20,), float(i)), (1, 2, 3))
    assert [float(f.sum()) for f in found] == [1 << 20, 2 << 20, 3 << 20]


def test_what_a_child_raises_is_raised_here_and_no_process_stays() -> None:
    def work(part: int) -> int:
        if part == 1:
            raise ValueError(f"part {part}")
        return part

    before = children()
    with pytest.raises(ValueError, match="part 1"):
        Workers(2).map(work, (0, 1, 2))
    assert children() == before


def test_an_error_here_ends_the_children() -> None:
    def work(part: int) -> int:
        if os.getpid() == HERE:
            raise KeyError("here")
        signal.pause()
        return part

    before, threads = children(), torch.get_num_threads()
    with pytest.raises(KeyError):
        Workers(2).map(work, (0, 1))
    assert children() == before
    assert torch.get_num_threads() == threads


def test_the_parts_of_a_killed_child_are_computed_here() -> None:
    def work(part: int) -> int:
        if os.getpid() != HERE:
            os.kill(os.getpid(), signal.SIGKILL)
        return part * part

    assert Workers(2).map(work, (1, 2, 3, 4)) == [1, 4, 9, 16]


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Seconds by the clock that chooses a way, which this process moves on; its children's parts end with its own."""
    now = [0.0]
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize("fastest", Way)
def test_a_batch_is_computed_in_the_way_that_takes_the_least_time(fastest: Way, clock: list[float]) -> None:
    """Long batches in every way, then in the fastest, with another from time to time; short ones never elsewhere."""

    def bound(fields: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        keep = fields["bound"] > 0
        here = Way.THREADS if torch.get_num_threads() > 1 else Way.ONE_THREAD
        way = here if os.getpid() == HERE and fields["bound"].shape[0] > 3 else Way.PROCESSES
        clock[0] += 0.02 if way is fastest else 0.3
        ways = torch.full((int(keep.sum()),), list(Way).index(way))
        return {"bound": fields["bound"][keep], "way": ways}, fields["bound"][keep, None]

    fields = {"bound": torch.tensor([1.0, -1.0, 2.0, 3.0, -4.0])}
    taken: list[Way] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shared = Shared(bound, Workers(2), 1.0)
        for rate in [1.0] * (2 * TRY_AGAIN) + [1e-9] * 3:
            shared.rate = rate  # long or short, whatever it took
            open_, points = shared(fields)
            assert open_["bound"].tolist() == [1.0, 2.0, 3.0] and points.flatten().tolist() == [1.0, 2.0, 3.0]
            assert torch.get_num_threads() == 2
            (way,) = set(open_["way"].tolist())
            taken.append(list(Way)[way])
    finally:
        torch.set_num_threads(before)
    others = {taken[TRY_AGAIN - 1], taken[2 * TRY_AGAIN - 1]}
    assert set(taken[:3]) == set(Way)
    assert taken[3 : TRY_AGAIN - 1] == [fastest] * (TRY_AGAIN - 4)
    assert others == set(Way) - {fastest}
    if fastest is Way.PROCESSES:
        assert Way.PROCESSES not in taken[-3:]
    else:
        assert taken[-3:] == [fastest] * 3


def test_what_a_small_batch_took_says_nothing_of_a_large_one(clock: list[float]) -> None:
    """Processes lose small batches and win large ones."""

    def bound(fields: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        taken.append(os.getpid())
        clock[0] += 0.05 + fields["bound"].shape[0] * 0.001
        return fields | {"process": torch.full(fields["bound"].shape, os.getpid())}, fields["bound"][:, None]

    taken: list[int] = []
    shared = Shared(bound, Workers(2), 1.0)
    for count in [4] * 6 + [200] * 6:
        shared.rate = 1.0
        found, _ = shared({"bound": torch.ones(count)})
    assert len(set(found["process"].tolist())) == 2


def test_a_short_batch_is_computed_here() -> None:
    def bound(fields: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return fields | {"process": torch.full((5,), os.getpid())}, fields["bound"][:, None]

    open_, _ = Shared(bound, Workers(2), 1e-9)({"bound": torch.ones(5)})
    assert set(open_["process"].tolist()) == {HERE}


def test_cut_and_joined() -> None:
    fields = {"bound": torch.arange(5.0), "axis": torch.arange(10).view(5, 2)}
    parts = cut(fields, 2)
    assert [p["bound"].shape[0] for p in parts] == [2, 2, 1]
    assert all(torch.equal(joined(parts)[name], fields[name]) for name in fields)


def test_memory_of_children_counts_towards_a_limit() -> None:
    def work(send) -> str:
        def allocate(part: int) -> float:
            if part:
                held = torch.ones(1 << 28)  # 1 GB
                time.sleep(30.0)
                return float(held[0])
            time.sleep(30.0)
            return 0.0

        Workers(2).map(allocate, (0, 1))
        return "not reached"

    outcome = supervise(work, time.monotonic() + 20, memory=_resident(os.getpid()) + 0.5)
    assert outcome.ending == "memory", outcome


def test_a_message_that_breaks_off_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle may break off at a full stop, which is what whole ones end with."""
    child = _Child(lambda: torch.full((1 << 20,), ord("."), dtype=torch.int8))
    time.sleep(0.5)  # until the pipe is full
    os.kill(child.process, signal.SIGKILL)
    assert child.results() is None
    child.end()


def test_without_processes_or_pipes_everything_is_computed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, calls, before = os.fork, [], children()

    def second_fails() -> int:
        calls.append(1)
        if len(calls) > 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    descriptors = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fork", second_fails)
    assert Workers(4).map(lambda i: (i, os.getpid() == HERE), range(8)) == [(i, i % 4 != 1) for i in range(8)]
    assert children() == before and len(os.listdir("/proc/self/fd")) == descriptors
