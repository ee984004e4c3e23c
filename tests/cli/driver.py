"""The command line with a verifier that behaves as its first argument says; the tests run this as a process."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import provenn.verifier
from provenn.cli import main
from provenn.errors import ModelError


def answer(verdict: str, **more: Any) -> Callable[..., Any]:
    """A verifier that answers at once."""

    def verify(_network: str, _property: str, _options: Any, progress: Any) -> Any:
        from provenn.verifier.result import Result

        progress("neuron splits", domains=12, open=3, bound=-0.25)
        return Result(verdict, "because the test says so", strategy=["said so"], **more)  # type: ignore[arg-type]

    return verify


def sat(*_arguments: Any) -> Any:
    import numpy as np

    from provenn.verifier.result import Result, Witness

    witness = Witness(np.array([0.1, -1.0], dtype=np.float32), np.array([2.5], dtype=np.float32))
    return Result("sat", "found", witness, statistics={"bound": np.float32(1), "worst": float("-inf")})


def sleepy(*arguments: Any) -> Any:
    time.sleep(1.0)
    return answer("unknown")(*arguments)


def noisy(*arguments: Any) -> Any:
    print("a library prints")
    os.write(1, b"native code prints\n")
    os.write(2, b"native code warns\n")
    return answer("unsat")(*arguments)


def blocked(_network: str, _property: str, _options: Any, progress: Any) -> Any:
    """A call into a library that keeps the interpreter lock."""
    progress("blocking", domains=3, bound=-1.5)
    ctypes.PyDLL(None).sleep(60)


def deaf(*_arguments: Any) -> Any:
    """A search that ignores its time limit and every request to end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(0.01)


def hungry(*_arguments: Any) -> Any:
    """Takes 20 MB at a time."""
    held = []
    while True:
        held.append(bytearray(os.urandom(1000)) * 20_000)
        time.sleep(0.02)


def refused(*_arguments: Any) -> Any:
    raise ModelError("unsupported operator Foo (node bar):\n  x = Foo( y)\n      ^")


def broken(*_arguments: Any) -> Any:
    raise TypeError("wrong\ntype")


def dead(number: int) -> Callable[..., Any]:
    """Native code that ends the process."""
    return lambda *_arguments: os.kill(os.getpid(), number)


def starved(*_arguments: Any) -> Any:
    raise MemoryError("cannot allocate")


def leaving(*_arguments: Any) -> Any:
    os._exit(7)


BEHAVIOURS: dict[str, Callable[..., Any]] = {
    "unsat": answer("unsat", bound=0.5),
    "unknown": answer("unknown"),
    "timeout": answer("timeout"),
    "sat": sat,
    "noisy": noisy,
    "sleepy": sleepy,
    "blocked": blocked,
    "deaf": deaf,
    "hungry": hungry,
    "refused": refused,
    "broken": broken,
    "segfault": dead(signal.SIGSEGV),
    "killed": dead(signal.SIGKILL),
    "starved": starved,
    "leaving": leaving,
}

def by_network(network: str, *arguments: Any) -> Any:
    """The name of the network's file says what to do, up to a dot."""
    return BEHAVIOURS[os.path.basename(network).partition(".")[0]](network, *arguments)


if __name__ == "__main__":
    name, arguments = sys.argv[1], sys.argv[2:]
    if name == "nursery":  # the server of a bench, which imports nothing heavy here
        from provenn.verifier import nursery

        provenn.verifier.verify = by_network  # type: ignore[attr-defined]
        del sys.argv[1]
        nursery.main(lambda: None)
    if name == "bench":
        from provenn.verifier import launch

        command = (sys.executable, __file__, "nursery")
        launch.launcher = functools.partial(launch.Nursery, command=command)  # type: ignore[assignment]
        main([name, *arguments])
    provenn.verifier.verify = BEHAVIOURS[name]  # type: ignore[attr-defined]
    main(arguments)
