"""Parts of a batch computed side by side, each in a process of its own.

A bound is hundreds of small tensor operations. Cores that share each of them gain little, as they wait for each other
hundreds of times; threads that take parts of the batch contend for Python's lock just as often. A forked process has
everything that its parent knows, sends back its results and ends.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from provenn.verifier.pool import Fields
from provenn.verifier.watchdog import die_with_parent

Part = TypeVar("Part")
Result = TypeVar("Result")
Bound = Callable[[Fields], tuple[Fields, Tensor]]
# Seconds of work that may be worth a fork, which takes some 20 to 50 ms.
WORTH_A_FORK = 0.2
# Long batches after which the slower way is tried again.
TRY_AGAIN = 16
_LENGTH = struct.Struct("<Q")


class Workers:
    """At most ``count`` processes, this one among them; one core each."""

    def __init__(self, count: int):
        self.count = count if sys.platform == "linux" else 1

    def map(self, function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """``function`` of every part, in order: tensors on the CPU, alone or in dicts, lists and tuples.

        What a function changes in objects that it shares with its caller may be lost. What it raises is raised here.
        """
        shares = [range(first, len(parts), self.count) for first in range(min(self.count, len(parts)))]
        if len(shares) < 2:
            return [function(part) for part in parts]
        children: list[_Child] = []
        found: dict[int, Result] = {}
        threads = torch.get_num_threads()
        try:
            with contextlib.suppress(OSError):  # no more processes or pipes may be had: the rest is done here
                for share in shares[1:]:
                    children.append(_Child(lambda s=share: [function(parts[i]) for i in s]))  # type: ignore[misc]
            torch.set_num_threads(1)  # the children have the other cores
            found.update((i, function(parts[i])) for i in shares[0])
            for share, child in zip_longest(shares[1:], children):
                results = child.results() if child is not None else None
                if results is None:  # killed, perhaps for want of memory
                    results = [function(parts[i]) for i in share]
                found.update(zip(share, results, strict=True))
        finally:
            torch.set_num_threads(threads)
            for child in children:
                child.end()
        return [found[i] for i in range(len(parts))]


class Shared:
    """A function of batches of domains, shared by workers where that is known to take less time.

    Whether it does depends on the machine: other programs may hold its cores, and after a fork both processes copy
    every page that they write to. So batches that take long are computed both ways, and then the faster way, with the
    other tried again now and then.
    """

    def __init__(self, bound: Bound, workers: Workers, rate: float = 0.0):
        self.bound, self.workers = bound, workers
        self.rate = rate
        """Seconds that a domain takes, smoothed; 0 while unknown."""
        self._rates: dict[bool, float] = {}  # of long batches, shared or not
        self._long = 0

    def __call__(self, fields: Fields) -> tuple[Fields, Tensor]:
        """(fields of the open domains, their minimisers), in the batch's order."""
        begun = time.monotonic()
        count = fields["bound"].shape[0]
        parts = min(self.workers.count, count)
        long = parts > 1 and self.rate * count > WORTH_A_FORK
        shared = long and self._share()
        if shared:
            results = self.workers.map(self.bound, cut(fields, -(-count // parts)))
            result = joined([r[0] for r in results]), torch.cat([r[1] for r in results])
        else:
            result = self.bound(fields)
        seconds = (time.monotonic() - begun) / max(1, count)
        self.rate = _smoothed(self.rate, seconds)
        if long:
            self._rates[shared] = _smoothed(self._rates.get(shared, 0.0), seconds)
        return result

    def _share(self) -> bool:
        self._long += 1
        if len(self._rates) < 2:
            return True not in self._rates
        better = self._rates[True] < self._rates[False]
        return better != (self._long % TRY_AGAIN == 0)


def _smoothed(old: float, new: float) -> float:
    return 0.5 * (old + new) if old else new


def cut(fields: Fields, size: int) -> list[Fields]:
    """Runs of at most ``size`` domains."""
    count = fields["bound"].shape[0]
    return [{k: v[i : i + size] for k, v in fields.items()} for i in range(0, count, size)]


def joined(parts: Iterable[Fields]) -> Fields:
    """The runs put together."""
    parts = list(parts)
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


class _Child:
    """A process that computes ``work()`` and sends what it returns or raises."""

    def __init__(self, work: Callable[[], Any]):
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            # Other threads of this process (onnxruntime's, a caller's) are not needed in the child.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                self.process = os.fork()
            except OSError:
                os.close(reader)
                os.close(writer)
                raise
        if self.process == 0:
            os.close(reader)
            _live(work, writer)
        os.close(writer)
        self.reader = reader

    def results(self) -> list[Any] | None:
        """What the work returned; None if the process was ended before it could say."""
        data = bytearray()
        while piece := os.read(self.reader, 1 << 20):
            data += piece
        if len(data) < _LENGTH.size or len(data) != _LENGTH.size + _LENGTH.unpack_from(data)[0]:
            return None
        raised, value = pickle.loads(memoryview(data)[_LENGTH.size :])
        if raised:
            raise value
        return _tensors(value)

    def end(self) -> None:
        os.close(self.reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.process, 0)


def _live(work: Callable[[], Any], writer: int) -> None:
    """The child's whole life; never returns into the parent's code."""
    code = 1
    try:
        die_with_parent()
        gc.disable()
        torch.set_num_threads(1)
        try:
            message = pickle.dumps((False, _arrays(work())), protocol=5)
        except Exception as error:  # noqa: BLE001 (whatever it is, the parent raises it)
            message = pickle.dumps((True, error))
        view = memoryview(_LENGTH.pack(len(message)) + message)
        while view:
            view = view[os.write(writer, view) :]
        code = 0
    finally:
        os._exit(code)  # no destructors, no exit handlers: they are the parent's


def _arrays(value: Any) -> Any:
    """Tensors as arrays: those pickle what they show, not what they are a view of."""
    if isinstance(value, Tensor):
        return value.numpy(force=True).copy()
    if isinstance(value, dict):
        return {k: _arrays(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_arrays(v) for v in value)
    return value


def _tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy() if not value.flags.writeable else value)
    if isinstance(value, dict):
        return {k: _tensors(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_tensors(v) for v in value)
    return value
