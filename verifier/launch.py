"""Answers about instances from processes of their own: children of a server that has imported torch (see ``nursery``).

Nothing heavy is imported here: the process that keeps the clock, waits and writes stays light.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from provenn.errors import InputError
from provenn.verifier import nursery, report, watchdog
from provenn.verifier.arguments import present, readable
from provenn.verifier.history import History
from provenn.verifier.options import Options

COMMAND = (sys.executable, "-m", "provenn.verifier.nursery")
KEPT = 16
"""Servers that have a network, at most; each takes some 20 MB and its network."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One instance to be answered: files, and the options of ``verify``. ``keep``: others are about its network.

    With a ``question`` (see ``report.work``) the property is not a file but what reports call it.
    """

    networks: str | dict[str, str]
    property_path: str
    options: dict[str, Any] = field(default_factory=dict)
    question: dict[str, Any] | None = None
    keep: bool = False


class Launcher(Protocol):
    """Runs instances in processes of their own; several threads may ask at once."""

    def run(self, job: Job, history: History) -> tuple[watchdog.Outcome, float]:
        """How it ended and after how many seconds; the process is gone then."""

    def stop(self) -> None:
        """End what runs; whoever waits for it gets Stopped."""

    def close(self) -> None: ...


class Stopped(Exception):
    """The launcher was stopped."""


def answer(launcher: Launcher, job: Job) -> tuple[report.Answer, float]:
    """All that is told about an instance, and its seconds. A file at fault is an answer, too."""
    options, history, seconds = Options(**job.options), History(), 0.0
    try:
        if isinstance(job.networks, Mapping):
            networks: Any = {name: readable(present(path), "network") for name, path in job.networks.items()}
        else:
            networks = readable(job.networks, "network")
        if job.question is None:
            readable(job.property_path, "property")
        outcome, seconds = launcher.run(replace(job, networks=networks), history)
    except InputError as error:
        networks = job.networks
        outcome = watchdog.Outcome("answer", {"error": report.one_line(error)})
    told = report.conclude(outcome, networks, job.property_path, options, seconds=seconds, history=history)
    return told, seconds


def launcher(threads: int) -> Launcher:
    """The launcher that this system has; ``threads`` are those of an instance."""
    return Nursery(threads) if nursery.available() else Separate()


class Separate:
    """Every instance in a process that imports torch by itself: seconds for each, on systems without ``nursery``."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def run(self, job: Job, history: History) -> tuple[watchdog.Outcome, float]:
        started = time.monotonic()
        options = Options(**{**job.options, "started": started})

        def watch(message: watchdog.Message) -> None:
            _check(self._stopped)
            history.add(time.monotonic() - started, message)

        outcome = watchdog.supervise(
            lambda send: report.work(job.networks, job.property_path, options, send, job.question),
            started + options.timeout,
            memory=options.memory,
            watch=watch,
        )
        return outcome, time.monotonic() - started

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self.stop()


class Nursery:
    """The client of servers that fork: one that has imported torch, and those that have a network besides."""

    def __init__(self, threads: int, command: Sequence[str] = COMMAND, kept: int = KEPT) -> None:
        self._threads, self._command, self._most = threads, command, kept
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._root: _Server | None = None
        self._kept: OrderedDict[str, _Server] = OrderedDict()

    def run(self, job: Job, history: History) -> tuple[watchdog.Outcome, float]:
        """A server that was ended from outside takes its children along: those begin again, once."""
        for last in (False, True):
            server, channel = self._server_of(job)
            started = time.monotonic()
            options = Options(**{**job.options, "started": started})

            def watch(message: watchdog.Message, started: float = started) -> None:
                _check(self._stopped)
                history.add(time.monotonic() - started, message)

            asked = {**job.options, "started": started}
            request = nursery.Request(job.networks, job.property_path, asked, job.question)
            try:
                outcome = server.run(request, channel, started + options.timeout, options.memory, watch)
            except _Lost as error:
                self._forget(server)
                outcome = watchdog.Outcome("crash", detail=f"could not be run: {error}")
                if not last:
                    continue
            finally:
                with self._lock:
                    server.busy -= 1
            break
        return outcome, time.monotonic() - started

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self.stop()
        with self._lock:
            for server in (*self._kept.values(), self._root):
                if server is not None:
                    server.close()
            self._kept.clear()
            self._root = None

    def _server_of(self, job: Job) -> tuple[_Server, socket.socket | None]:
        """The server to ask, and the channel of the one that it is to leave behind, if so."""
        key = repr(job.networks)
        with self._lock:
            _check(self._stopped)
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                state = kept.ready()
                if state:
                    kept.busy += 1
                    return kept, None
                if state is False:
                    self._kept.pop(key).close()
                    kept = None
            if self._root is None:
                self._root = _start(self._command, self._threads, self._stopped)
            self._root.busy += 1
            if not job.keep or kept is not None:  # it is being read for another instance
                return self._root, None
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._kept[key] = _Server(ours)
            self._evict()
            return self._root, theirs

    def _evict(self) -> None:
        """Close the servers that were not asked for longest, but none with something running."""
        idle = [key for key, server in self._kept.items() if not server.busy and server.ready() is not None]
        for key in idle[: max(0, len(self._kept) - self._most)]:
            self._kept.pop(key).close()

    def _forget(self, server: _Server) -> None:
        with self._lock:
            server.close()
            if server is self._root:
                self._root = None
            for key in [key for key, one in self._kept.items() if one is server]:
                del self._kept[key]


class _Lost(Exception):
    """A server, or the process that it should have forked, is not there."""


@dataclass(eq=False)
class _Server:
    """The client's end of a server. Closing it ends the server and what that runs."""

    channel: socket.socket
    process: subprocess.Popen[bytes] | None = None
    started: bool = False
    busy: int = 0
    """Instances that are with it."""

    def ready(self) -> bool | None:
        """Whether it serves; None while it does not yet."""
        if not self.started:
            try:
                self.started = self.channel.recv(64, socket.MSG_DONTWAIT) == nursery.READY
            except BlockingIOError:
                return None
            except OSError:
                return False
        return self.started

    def run(
        self, request: nursery.Request, kept: socket.socket | None, deadline: float, memory: float | None,
        watch: watchdog.Watch,
    ) -> watchdog.Outcome:  # fmt: skip
        """Have a request answered. Raises _Lost, and what ``watch`` raises."""
        reader, writer = os.pipe()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        files = [writer, theirs.fileno(), *([kept.fileno()] if kept is not None else [])]
        child = None
        try:
            try:
                socket.send_fds(self.channel, [request.packed()], files)
            except OSError as error:
                raise _Lost(error.strerror or str(error)) from error
            finally:
                os.close(writer)
                for one in (theirs, kept):
                    if one is not None:
                        one.close()
            child = _Child(ours, watch)
            outcome = watchdog.wait(child, reader, deadline, memory, watch)
            if child.lost:
                raise _Lost("the process that starts others was ended")
            return outcome
        finally:
            os.close(reader)
            if child is not None:
                child.end()
            ours.close()

    def close(self) -> None:
        self.channel.close()
        if self.process is not None:
            try:
                self.process.wait(watchdog.GRACE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class _Child:
    """A process that a server forked; the server tells its number, and how it ended."""

    def __init__(self, told: socket.socket, watch: watchdog.Watch) -> None:
        self._told = told
        self.code: int | None = None
        self.lost = False
        while not _within(told, watchdog.TICK):
            watch({})
        number = told.recv(64)
        if not number:
            raise _Lost("no process could be started")
        self.process = int(number)
        self._handle: int | None = None
        with contextlib.suppress(OSError):
            self._handle = os.pidfd_open(self.process)

    def has_ended(self) -> bool:
        if self.code is None and not self.lost and _within(self._told, 0):
            said = self._told.recv(64)
            self.lost = not said
            self.code = int(said) if said else None
        return self.lost or self.code is not None

    def ending(self) -> str:
        limit = time.monotonic() + 5.0
        while not self.has_ended() and time.monotonic() < limit:
            _within(self._told, watchdog.TICK)
        return watchdog.ending(self.code) if self.code is not None else "ended without an answer"

    def end(self) -> None:
        """Kill it, and wait a little until its memory is free again."""
        if not self.has_ended():
            with contextlib.suppress(OSError):
                if self._handle is not None:
                    signal.pidfd_send_signal(self._handle, signal.SIGKILL)
                else:
                    os.kill(self.process, signal.SIGKILL)
            _within(self._told, watchdog.GRACE)
        if self._handle is not None:
            os.close(self._handle)


def _start(command: Sequence[str], threads: int, stopped: threading.Event) -> _Server:
    """Start a server and wait until it has imported everything."""
    environment = {
        **os.environ,
        "PYTHONSAFEPATH": "1",  # no module of the current folder shadows a library
        "OMP_NUM_THREADS": str(threads),  # read when torch is imported, as in ``report.work``
        "MKL_NUM_THREADS": str(threads),
    }
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("PYTHONHASHSEED", "0")  # the same run twice is the same run
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with tempfile.TemporaryFile() as complaints:
        with theirs:
            process = subprocess.Popen(
                [*command, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints,
                start_new_session=True,  # Ctrl-C is this process's to handle
            )  # fmt: skip
        server = _Server(ours, process)
        try:
            while server.ready() is None:
                _check(stopped)
                _within(ours, watchdog.TICK)
            if not server.started:
                process.wait()
                complaints.seek(0)
                last = complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise RuntimeError(f"the process that starts others ended with status {process.returncode}: {last}")
        except BaseException:
            server.close()
            raise
    return server


def _within(one: socket.socket, seconds: float) -> bool:
    """Whether there is something to read within so many seconds."""
    return bool(select.select([one], [], [], seconds)[0])


def _check(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise Stopped
