"""Scales, ticks and the frame of a figure, in the units of its view box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from provenn.verifier.pages.markup import Element, fill, tag

WIDTH, HEIGHT = 440.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 12.0, 14.0, 44.0


@dataclass(frozen=True)
class Axis:
    """Maps ``low`` to ``start`` and ``high`` to ``end``, evenly or by logarithms. Values beyond are put on the ends."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, some four to eight of them."""
        if not self.log:
            step = _round_step((self.high - self.low) / 5)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [number * step for number in range(first, last + 1)]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        every = math.ceil((last - first) / 7)
        parts = (1, 2, 5) if last - first < 3 else (1,)
        values = [part * 10.0**power for power in range(first, last + 1, every) for part in parts]
        return [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]


def linear(values: Sequence[float], start: float, end: float, *, zero: bool = False) -> Axis:
    """An axis over these values (and 0); some length even where they are all the same."""
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        half = 0.5 * abs(high) or 0.5
        low, high = (low, high + 2 * half) if zero else (low - half, high + half)
    return Axis(low, high, start, end)


def logarithmic(values: Sequence[float], start: float, end: float, *, least: float) -> Axis:
    """An axis from a round value below to one above these values; what is below ``least`` is put there."""
    low, high = max(min(values), least), max(max(values), least)
    low, high = _round_down(low), high * 1.05
    return Axis(low, max(high, 10 * low), start, end, log=True)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(part for part in (1.0, 2.0, 5.0, 10.0) if part * power >= rough * (1 - 1e-9))


def _round_down(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return power * max(part for part in (1.0, 2.0, 5.0) if part * power <= value * (1 + 1e-9))


def number(value: float) -> str:
    """A number of a tick or a table, as short as it can be."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _tick(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}" if abs(value) < 1e4 * size else f"{value:.0e}".replace("e+0", "e")
    return number(value)


def frame(across: Axis, up: Axis, across_title: str, up_title: str) -> Element:
    """Grid lines, ticks and titles of two axes; the vertical one runs from ``up.start`` (below) to ``up.end``."""
    grid = tag("g", class_="grid")
    for tick in across.ticks():
        x = across.at(tick)
        fill(grid, tag("line", x1=x, x2=x, y1=up.start, y2=up.end))
        fill(grid, tag("text", _tick(tick), x=x, y=up.start + 19, text_anchor="middle"))
    for tick in up.ticks():
        y = up.at(tick)
        fill(grid, tag("line", x1=across.start, x2=across.end, y1=y, y2=y))
        fill(grid, tag("text", _tick(tick), x=across.start - 6, y=y + 4, text_anchor="end"))
    middle = (across.start + across.end) / 2, (up.start + up.end) / 2
    fill(
        grid,
        tag("text", across_title, x=middle[0], y=up.start + 38, text_anchor="middle", class_="axis"),
        tag(
            "text", up_title, x=12, y=middle[1], text_anchor="middle", class_="axis",
            transform=f"rotate(-90 12 {middle[1]:.1f})",
        ),
    )  # fmt: skip
    return grid


def line(points: Sequence[tuple[float, float]], *, steps: bool = False) -> str:
    """The path through places, thinned to what can be seen: its length is bounded by the size of the figure."""
    kept = [points[0]]
    for point in points[1:-1]:
        if abs(point[0] - kept[-1][0]) + abs(point[1] - kept[-1][1]) >= 0.5:
            kept.append(point)
    kept += points[1:][-1:]
    parts = [f"M{_short(kept[0][0])} {_short(kept[0][1])}"]
    for x, y in kept[1:]:
        parts.append(f"H{_short(x)}V{_short(y)}" if steps else f"L{_short(x)} {_short(y)}")
    return "".join(parts)


def dots(points: Sequence[tuple[float, float]]) -> str:
    """A path of dots, which the shape of the line's ends makes round or square; places that coincide once."""
    places = dict.fromkeys((_short(x), _short(y)) for x, y in points)
    return "".join(f"M{x} {y}h.01" for x, y in places)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
