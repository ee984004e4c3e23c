"""Work that its caller may stop: long computations ask, between their steps, whether the caller still wants them.

Whom to ask is bound to the call, not to the process: a ``ContextVar`` is what a thread's own calls see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from provenn.errors import Cancelled


class Cancellation(Protocol):
    """What says that a computation is no longer wanted: a ``threading.Event``, for instance."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


_asked: ContextVar[Cancellation | None] = ContextVar("provenn_cancellation", default=None)


def check() -> None:
    """Raise Cancelled if the caller of this computation has said so."""
    cancellation = _asked.get()
    if cancellation is not None and cancellation.is_set():
        raise Cancelled("cancelled by the caller")


@contextmanager
def cancellable(cancellation: Cancellation | None) -> Iterator[None]:
    """What runs inside, in this thread, raises ``provenn.errors.Cancelled`` soon after ``cancellation`` is set.

    "Soon" is after the backward pass, linear program or gradient step at work: below a second, but for large networks.
    """
    token = _asked.set(cancellation if cancellation is not None else _asked.get())
    try:
        check()
        yield
    finally:
        _asked.reset(token)
