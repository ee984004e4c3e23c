"""The time limit covers the process and is kept whatever the verifier does; every way out leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from provenn.verifier import watchdog

from .conftest import Shell

LATE = 1.0
"""Seconds after the limit by which the process has ended."""


@pytest.mark.parametrize("behaviour", ["blocked", "deaf"])
@pytest.mark.parametrize("limit", [0.5, 2.0])
def test_the_limit_is_kept(shell: Shell, behaviour: str, limit: float) -> None:
    done = shell.verify(behaviour, "--timeout", str(limit), "--json", "report.json")
    assert (done.out, done.err, done.code) == ("timeout\n", "", 0)
    assert done.seconds < limit + LATE
    assert "time limit" in (shell.folder / "report.json").read_text()


def test_the_limit_counts_the_start_of_the_process(shell: Shell) -> None:
    """With a limit shorter than the start of Python the answer is still ``timeout``."""
    done = shell.verify("blocked", "--timeout", "0.01")
    assert done.out == "timeout\n" and done.seconds < 0.01 + LATE


def test_the_memory_limit_is_kept(shell: Shell) -> None:
    done = shell.verify("hungry", "--memory", "0.3", "--timeout", "20", "--json", "report.json")
    assert (done.out, done.code) == ("unknown\n", 0)
    assert done.seconds < 15 and "memory limit" in (shell.folder / "report.json").read_text()


@pytest.mark.parametrize("behaviour", ["deaf", "blocked"])
@pytest.mark.parametrize(
    ("number", "code", "err"),
    [(signal.SIGINT, 130, "provenn: interrupted\n"), (signal.SIGTERM, 143, ""), (signal.SIGKILL, -9, "")],
)
def test_an_end_from_outside_ends_everything(
    shell: Shell, behaviour: str, number: signal.Signals, code: int, err: str
) -> None:
    process = shell.start(behaviour, "--timeout", "50")
    children = wait_for_child(process.pid)
    os.kill(process.pid, number)
    start = time.monotonic()
    out, complaint = process.communicate(timeout=10)
    assert time.monotonic() - start < LATE
    assert (out, complaint, process.returncode) == ("", err, code)
    time.sleep(0.2)
    assert not [child for child in children if running(child)]


def wait_for_child(pid: int) -> list[int]:
    """The children of a process, once there are any and they work."""
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        path = Path(f"/proc/{pid}/task/{pid}/children")
        if not path.exists():
            pytest.skip("this system does not list children")
        if children := path.read_text().split():
            time.sleep(0.3)
            return [int(child) for child in children]
        time.sleep(0.02)
    raise AssertionError("no child was started")


def running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def test_a_large_answer_passes_whole() -> None:
    """Answers are larger than a pipe holds."""
    text = "x" * 5_000_000
    outcome = watchdog.supervise(lambda send: {"text": text}, time.monotonic() + 30)
    assert outcome.ending == "answer" and outcome.message == {"text": text}


def test_messages_on_the_way_reach_the_watcher() -> None:
    seen: list[object] = []

    def work(send: watchdog.Send) -> watchdog.Message:
        for number in range(3):
            send({"number": number})
        time.sleep(0.3)
        return {"done": True}

    outcome = watchdog.supervise(work, time.monotonic() + 30, watch=seen.append)
    assert outcome == watchdog.Outcome("answer", {"done": True}, progress={"number": 2})
    assert seen and seen[-1] == {"number": 2}


def test_a_grandchild_that_holds_the_pipe_hides_no_crash() -> None:
    def work(_send: watchdog.Send) -> watchdog.Message:
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    start = time.monotonic()
    outcome = watchdog.supervise(work, start + 30)
    assert outcome.ending == "crash" and "SIGKILL" in outcome.detail
    assert time.monotonic() - start < 2


def test_without_fork_a_thread_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    now = time.monotonic()
    assert watchdog.supervise(lambda send: {"a": 1}, now + 30).message == {"a": 1}
    assert watchdog.supervise(lambda send: time.sleep(2) or {}, now + 0.1).ending == "deadline"
    failed = watchdog.supervise(lambda send: {"a": 1 / 0}, now + 30)
    assert failed.ending == "crash" and "ZeroDivisionError" in failed.detail


def test_the_start_of_the_process_is_known() -> None:
    assert watchdog.process_start() <= time.monotonic()
