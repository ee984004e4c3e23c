"""A process that has imported torch once and forks a child for every instance, which costs milliseconds, not seconds.

The server (``python -m provenn.verifier.nursery FD``) has one thread and never verifies anything itself, so whatever an
instance does, it does to its own child. A child that was told so leaves behind a copy of itself, forked once the
network was read: a server that has the network, too. Every server ends with its client's end of the channel.

A request is one packet: JSON (``Request``) and open files (the pipe for messages, a socket that is told the child's
number and how it ended, and, to keep the network, the channel of the server to be).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from provenn.verifier import report, watchdog
from provenn.verifier.options import Options

LARGEST = 1 << 17
"""Bytes of a packet, at most."""
READY = b"ready"


@dataclass(frozen=True)
class Request:
    """One instance. ``networks`` is a file, or files by name; ``options`` are those of ``Options``, ``question`` is
    what ``report.work`` takes."""

    networks: str | dict[str, str]
    property_path: str
    options: dict[str, Any]
    question: dict[str, Any] | None = None

    def packed(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def available() -> bool:
    """Whether the system has what this needs: Linux does."""
    return sys.platform == "linux" and hasattr(os, "fork") and hasattr(socket, "recv_fds")


def load() -> None:
    """Import what verifying needs, and leave it to the children as it is: what nobody writes to is not copied."""
    gc.disable()
    import onnxruntime  # noqa: F401
    from scipy.optimize import linprog  # noqa: F401

    from provenn.verifier import decide  # noqa: F401

    gc.freeze()
    gc.enable()


class Server:
    """Forks for one client until that one is gone."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.children: dict[int, socket.socket] = {}
        self.bell, self.rope = os.pipe()

    def serve(self) -> NoReturn:
        """Answer requests; ends the process with its client."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for end in (self.bell, self.rope):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.rope, warn_on_full_buffer=False)
        with contextlib.suppress(OSError):
            self.channel.send(READY)
            while True:
                ready, _, _ = select.select([self.channel.fileno(), self.bell], [], [])
                if self.bell in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self.bell, 1 << 16)
                self._collect()
                if self.channel.fileno() in ready and not self._answer():
                    break
        os._exit(0)  # the kernel ends the children with this process

    def _collect(self) -> None:
        """Say of every child that has ended how it did."""
        while self.children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                return
            if child in self.children:
                with self.children.pop(child) as told, contextlib.suppress(OSError):
                    told.send(str(os.waitstatus_to_exitcode(status)).encode())

    def _answer(self) -> bool:
        """Fork for one request; False if there will be no more."""
        data, files, _, _ = socket.recv_fds(self.channel, LARGEST, 3)
        if not data:
            return False
        writer, told = files[0], socket.socket(fileno=files[1])
        try:
            child = os.fork()
        except OSError:  # no more processes may be had: the client sees the end of its sockets
            child = -1
        if child == 0:
            self._live(data, writer, told, files[2:])
        for file in (writer, *files[2:]):
            os.close(file)
        if child < 0:
            told.close()
            return True
        self.children[child] = told
        with contextlib.suppress(OSError):
            told.send(str(child).encode())
        return True

    def _live(self, data: bytes, writer: int, told: socket.socket, kept: list[int]) -> NoReturn:
        """The child's whole life."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            for one in (self.channel, told, *self.children.values()):
                one.close()
            for end in (self.bell, self.rope):
                os.close(end)
            request = Request(**json.loads(data))
            if kept:
                from provenn.verifier import held

                held.keep_with(lambda: _leave_server(kept[0]))
            options = Options(**request.options)

            def work(send: watchdog.Send) -> watchdog.Message:
                return report.work(request.networks, request.property_path, options, send, request.question)

            watchdog.run_child(work, writer, options.verbose)
        finally:
            os._exit(1)


def _leave_server(channel: int) -> None:
    """Fork a server on that channel that is no child of this process, and go on."""
    child = os.fork()
    if child == 0:
        try:
            if os.fork() == 0:
                os.setsid()
                for file in map(int, os.listdir("/proc/self/fd")):
                    if file > 2 and file != channel:
                        with contextlib.suppress(OSError):  # the listing's own
                            os.close(file)
                gc.collect()
                gc.freeze()
                Server(socket.socket(fileno=channel)).serve()
        finally:
            os._exit(0)
    os.close(channel)
    os.waitpid(child, 0)


def main(prepare: Callable[[], None] = load) -> NoReturn:
    """Serve on the channel whose number is the first argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    prepare()
    Server(channel).serve()


if __name__ == "__main__":
    main()
