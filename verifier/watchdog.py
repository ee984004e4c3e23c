"""Runs work in a process of its own and answers in time, whatever the work does.

The process that the user started stays light: it forks before torch is imported, waits, and is the only one
that prints. So a library call that blocks with the interpreter lock held, a crash in native code or a
process killed for memory cost the answer, never the promise to answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Message = dict[str, Any]
Send = Callable[[Message], None]
Work = Callable[[Send], Message]
Watch = Callable[[Message], None]

GRACE = 0.25
"""Seconds after the deadline that the work gets to hand over an answer of its own."""
TICK = 0.1
"""Seconds between two looks at the clock, the child and its memory."""
LAUNCH_LIMIT = 5.0
"""Older processes were not started for this command (``exec`` keeps the start time), so their age means nothing."""


@dataclass(frozen=True)
class Outcome:
    """How the work ended. ``message`` is what it returned (only for ``answer``), ``detail`` says why it did not
    return, ``progress`` is the last message it sent on the way."""

    ending: Literal["answer", "deadline", "memory", "crash"]
    message: Message = field(default_factory=dict)
    detail: str = ""
    progress: Message = field(default_factory=dict)


class Watched(Protocol):
    """A process whose work is waited for."""

    @property
    def process(self) -> int: ...
    def has_ended(self) -> bool: ...
    def ending(self) -> str:
        """What ended the process, in words; waits for it."""


class Terminated(BaseException):
    """The process was asked to end (SIGINT, SIGTERM, SIGHUP); ``number`` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def process_start() -> float:
    """``time.monotonic()`` at which this process was started, to about 10 ms; now where that is not known.

    Linux keeps the start in clock ticks since boot (proc(5), ``/proc/pid/stat`` field 22).
    """
    now = time.monotonic()
    try:
        with open("/proc/self/stat", "rb") as stat:
            ticks = int(stat.read().rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return now
    return now - age if 0.0 <= age <= LAUNCH_LIMIT else now


def supervise(
    work: Work,
    deadline: float,
    *,
    memory: float | None = None,
    watch: Watch | None = None,
    verbose: bool = False,
) -> Outcome:
    """Run ``work(send)`` in a child process and say how it ended, at most ``GRACE`` seconds after ``deadline``.

    ``deadline`` is a ``time.monotonic()`` value. ``memory`` (GB) ends a child whose resident memory is above it.
    What the child sends on its way goes to ``watch``, which is also called (with the last message) at every
    tick. Standard output of the child is closed, and its standard error too unless ``verbose``; its standard
    input is the caller's (a property may come from there). The child is
    gone when this returns or raises (Terminated).

    Without ``os.fork`` the work runs in a thread of this process: then a call that keeps the interpreter
    lock also keeps the answer, and a limit on memory is not enforced.
    """
    if not hasattr(os, "fork"):
        return _supervise_thread(work, deadline, watch)
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        run_child(work, writer, verbose)
    os.close(writer)
    try:
        with raising_on_termination():
            return wait(_Child(child), reader, deadline, memory, watch)
    finally:
        os.close(reader)
        _end(child)


def run_child(work: Work, writer: int, verbose: bool) -> None:
    """The child's whole life; never returns into the parent's code."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends this process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent()
        _silence(verbose)
        lock = threading.Lock()

        def send(message: Message) -> None:
            data = json.dumps(message).encode() + b"\n"
            with lock, contextlib.suppress(BrokenPipeError):
                while data:
                    data = data[os.write(writer, data) :]

        send({"answer": work(send)})
        code = 0
    except BaseException as error:  # noqa: BLE001 (whatever it is, it must not run the parent's code)
        if verbose:
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)  # no destructors, no exit handlers: they take long and belong to the parent


def die_with_parent() -> None:
    """Linux: have the kernel end this process with its parent, even if that one is killed (prctl(2))."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # 1 = PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _silence(verbose: bool) -> None:
    """Keep whatever libraries print away from the answer."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1,) if verbose else (1, 2):
        os.dup2(null, descriptor)
    os.close(null)


@contextlib.contextmanager
def raising_on_termination() -> Iterator[None]:
    """Turn requests to end into Terminated, so that the child is ended before this process is."""

    def handle(number: int, _frame: object) -> None:
        raise Terminated(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def wait(
    child: Watched, reader: int, deadline: float, memory: float | None = None, watch: Watch | None = None
) -> Outcome:
    """Read a process's messages until the answer, its end, or the deadline; see ``supervise``."""
    pending: list[bytes] = []
    last = Message()
    while True:
        now = time.monotonic()
        if now >= deadline + GRACE:
            return Outcome("deadline", progress=last)
        ready, _, _ = select.select([reader], [], [], min(TICK, deadline + GRACE - now))
        if ready:
            data = os.read(reader, 1 << 20)
            if not data:
                return Outcome("crash", detail=child.ending(), progress=last)
            first, *others = data.split(b"\n")
            pending.append(first)
            for start in others:
                message, pending = json.loads(b"".join(pending)), [start]
                if "answer" in message:
                    return Outcome("answer", message["answer"], progress=last)
                last = message
        elif child.has_ended() and not select.select([reader], [], [], 0)[0]:
            # Its own children may hold the pipe open, so the end of the pipe is not to be waited for.
            return Outcome("crash", detail=child.ending(), progress=last)
        if memory is not None and (used := _resident(child.process)) > memory:
            return Outcome("memory", detail=f"{used:.2f} GB used, {memory:g} GB allowed", progress=last)
        if watch is not None:
            watch(last)


@dataclass(frozen=True)
class _Child:
    """A process of our own; it stays to be collected."""

    process: int

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def ending(self) -> str:
        status = os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOWAIT)
        assert status is not None
        return ending(status.si_status if status.si_code == os.CLD_EXITED else -status.si_status)


def ending(code: int) -> str:
    """What ended a process, in words; ``code`` is its exit status, or a signal's number with a minus."""
    if code >= 0:
        return f"ended without an answer (exit status {code})"
    memory = ", probably for want of memory" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{memory}"


def _resident(child: int) -> float:
    """Resident memory of a process and its own children in GB, shared pages once; 0 where the system does not say."""
    try:
        with open(f"/proc/{child}/statm", "rb") as statm:
            used = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (OSError, IndexError):
        return 0.0
    with contextlib.suppress(OSError), open(f"/proc/{child}/task/{child}/children") as others:
        used += sum(_private(int(number)) for number in others.read().split())
    return used


def _private(process: int) -> float:
    """Memory in GB that a process shares with no other."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_")) / 1e6 * 1.024
    return 0.0


def _end(child: int) -> None:
    """Kill the child and collect it, without waiting long: tearing down gigabytes takes the kernel a while."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    limit = time.monotonic() + GRACE
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < limit:
            time.sleep(0.002)


def _supervise_thread(work: Work, deadline: float, watch: Watch | None) -> Outcome:
    """The same contract as ``supervise`` as far as one process can keep it."""
    done = threading.Event()
    state: dict[str, Any] = {"last": {}}

    def run() -> None:
        try:
            state["answer"] = work(lambda message: state.update(last=message))
        except Exception as error:  # noqa: BLE001 (a thread's error is the answer's)
            state["detail"] = f"ended without an answer ({type(error).__name__}: {error})"
        done.set()

    threading.Thread(target=run, daemon=True).start()
    while not done.wait(max(0.0, min(TICK, deadline + GRACE - time.monotonic()))):
        if time.monotonic() >= deadline + GRACE:
            return Outcome("deadline", progress=state["last"])
        if watch is not None:
            watch(state["last"])
    if "answer" in state:
        return Outcome("answer", state["answer"], progress=state["last"])
    return Outcome("crash", detail=state["detail"], progress=state["last"])
