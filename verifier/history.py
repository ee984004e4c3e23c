"""How a run moved over time: a sample of its progress messages, of bounded length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provenn.verifier.watchdog import Message

POINTS = 128
"""Points that are kept at most."""
COLUMNS = ("stage", "domains", "open", "bound")


class History:
    """Points of time with what the run said there, spread evenly over the time however long that becomes.

    Where there are more than ``POINTS``, every second one is dropped and points must lie twice as far apart, so the
    length is bounded and adding a point takes constant time on average. The first point of a stage counts as any
    other; the last point of all is always there.
    """

    def __init__(self) -> None:
        self._points: list[tuple[float, Message]] = []
        self._latest: tuple[float, Message] | None = None
        self._apart = 0.0

    def add(self, seconds: float, message: Message) -> None:
        """Take in the message that holds at this time; the same one again, or an empty one, adds nothing."""
        if not message or (self._latest is not None and message is self._latest[1]):
            return
        self._latest = seconds, message
        if self._points and seconds - self._points[-1][0] < self._apart:
            return
        self._points.append(self._latest)
        if len(self._points) == POINTS:
            self._points = self._points[::2]
            self._apart = max(2 * self._apart, 2 * (seconds - self._points[0][0]) / POINTS)

    def columns(self) -> dict[str, list[Any]]:
        """``seconds`` since the process started, and lists as long with ``stage``, ``domains`` (bounded so far),
        ``open`` (domains left in the search at hand) and ``bound`` (the lowest one); None where a message had none."""
        points = list(self._points)
        if self._latest is not None and points[-1] is not self._latest:
            points.append(self._latest)
        table: dict[str, list[Any]] = {"seconds": [round(seconds, 3) for seconds, _ in points]}
        return table | {name: [message.get(name) for _, message in points] for name in COLUMNS}
