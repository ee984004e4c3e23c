"""The bench on a terminal: rows scroll by, a bar and what is running stay at the bottom."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from provenn.specs import Instance, ResultRow
from provenn.verifier.batch import table

COLOURS = {"unsat": "green", "sat": "cyan", "unknown": "yellow", "timeout": "yellow", "error": "red"}


class LiveView:
    """The bench's view for a terminal (see ``provenn.verifier.batch.View``)."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], float] = {}
        self._total = self._done = 0
        self._until: float | None = None
        self._console = Console(highlight=False)
        self._live = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True
        )

    def begin(self, total: int, left: int) -> None:
        """Start drawing."""
        self._total, self._done = total, total - left
        if self._done:
            self._console.print(f"{self._done} of {total} instances had a row already", style="dim")
        self._live.start()

    def started(self, instance: Instance) -> None:
        """Show an instance as running."""
        self._running[instance.network, instance.property] = time.monotonic()

    def finished(self, row: ResultRow, error: str, ahead: float) -> None:
        """Print its row above the bar."""
        self._until = time.monotonic() + ahead
        self._running.pop((row.network, row.property), None)
        self._done += 1
        line = Text.assemble((f"{row.result:8}", COLOURS.get(row.result, "")), f"{row.run_time:9.2f} s  ")
        line.append(f"{row.network}  {row.property}")
        self._console.print(line, overflow="ellipsis", no_wrap=True)
        if error:
            self._console.print(Text(f"        {error}", style="red"))

    def end(self, rows: Sequence[ResultRow]) -> None:
        """Stop drawing and print the table of families."""
        self._live.stop()
        self._console.print(Text("\n".join(table(rows))))

    def _render(self) -> Group:
        now = time.monotonic()
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=max(1, self._total), completed=self._done, width=40),
            f"{self._done}/{self._total}",
            "" if self._until is None else left(self._until - now),
        )
        lines = [
            Text(f"{now - start:9.1f} s  {network}  {property_path}", overflow="ellipsis", no_wrap=True)
            for (network, property_path), start in list(self._running.items())
        ]
        return Group(*lines, bar)


def left(seconds: float) -> str:
    """About how long something still takes, in words."""
    if seconds < 60:
        return "less than a minute left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 120 else f"about {round(minutes / 60)} h left"
