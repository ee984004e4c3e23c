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
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
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


class Way(Enum):
    """How a batch is computed on a processor's cores."""

    PROCESSES = "parts of it in forked processes"
    ONE_THREAD = "here, on one thread"
    THREADS = "here, every operation on all threads"


class Shared:
    """A function of batches of domains, computed in the way that is known to take the least time.

    Which that is depends on the machine and on the network: other programs may hold the cores, after a fork both
    processes copy every page that they write to, and threads meet after every operation. So batches that take long are
    computed in all ways, and then in the fastest, with the others tried again now and then, and when batches have
    doubled: a domain takes less time in a larger one. A batch that is not worth a fork goes the faster of the other
    two.
    """

    def __init__(self, bound: Bound, workers: Workers, rate: float = 0.0):
        self.bound, self.workers = bound, workers
        self.rate = rate
        """Seconds that a domain takes, smoothed; 0 while unknown."""
        self.largest = 0, 0.0
        """Domains of the largest batch so far, and the seconds that the last such one took."""
        self._rates: dict[Way, tuple[float, int]] = {}  # of long batches, and how many domains the last one had
        self._long = 0

    def __call__(self, fields: Fields) -> tuple[Fields, Tensor]:
        """(fields of the open domains, their minimisers), in the batch's order."""
        begun = time.monotonic()
        count = fields["bound"].shape[0]
        parts = min(self.workers.count, count)
        long = parts > 1 and self.rate * count > WORTH_A_FORK
        way = self._way(count, long)
        if way is Way.PROCESSES:
            results = self.workers.map(self.bound, cut(fields, -(-count // parts)))
            result = joined([r[0] for r in results]), torch.cat([r[1] for r in results])
        else:
            with _threads(1 if way is Way.ONE_THREAD else None):
                result = self.bound(fields)
        seconds = time.monotonic() - begun
        if count >= self.largest[0]:
            self.largest = count, seconds
        seconds /= max(1, count)
        self.rate = _smoothed(self.rate, seconds)
        if long:
            before, size = self._rates.get(way, (0.0, 0))
            self._rates[way] = _smoothed(before if count <= 2 * size else 0.0, seconds), count
        return result

    def _way(self, count: int, long: bool) -> Way:
        if not long:
            here = [way for way in self._rates if way is not Way.PROCESSES]
            return min(here, key=self._rates.__getitem__) if len(here) > 1 else Way.THREADS
        self._long += 1
        untried = [way for way in Way if count > 2 * self._rates.get(way, (0.0, 0))[1]]
        if untried:
            return untried[0]
        best = min(self._rates, key=self._rates.__getitem__)
        others = [way for way in Way if way is not best]
        again, rest = divmod(self._long, TRY_AGAIN)
        return best if rest else others[again % len(others)]


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Operations on ``count`` threads; None leaves it as it is."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
