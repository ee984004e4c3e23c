"""The figures of the page, as plain SVG: each tells in words what it shows, and takes its colours from the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from provenn.specs import ResultRow
from provenn.verifier.pages.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    dots,
    frame,
    line,
    linear,
    logarithmic,
    number,
)
from provenn.verifier.pages.comparison import SOLVED
from provenn.verifier.pages.markup import Element, tag
from provenn.verifier.pages.reports import Moment

LEAST = 0.01
"""Seconds below which times are not told apart."""
TITLED = 1000
"""Points up to which each one of a scatter plot tells its name."""
MOST_LETTERS = 24
"""Letters of a tool's name beside an axis."""
KINDS = 6
"""Colours and dash patterns that lines are told apart by."""


ROOT, END = "root bounds", "refuted"
"""Stages of a history that are no searches."""


@dataclass(frozen=True)
class Point:
    """An instance in a scatter plot: seconds of either tool, None where it was not solved; ``kind`` is the verdict or
    ``conflict``."""

    name: str
    across: float | None
    up: float | None
    kind: str


def figure(identity: str, title: str, description: str, drawing: Sequence[Element], *below: Element | None) -> Element:
    """A figure with its title, its description in words and what stands below it."""
    heading, words = f"{identity}-title", f"{identity}-words"
    svg = tag(
        "svg", *drawing, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_labelledby=heading,
        aria_describedby=words,
    )  # fmt: skip
    caption = tag("figcaption", tag("h3", title, id=heading), tag("p", description, id=words))
    return tag("figure", caption, svg, *below, id=identity)


def legend(entries: Sequence[tuple[str, str]]) -> Element:
    """The names of marks: pairs of a class and a text."""
    items = []
    for kind, text in entries:
        shape = "M14 8h.01" if kind.startswith("dot") else "M1 8H27"
        sample = tag("svg", tag("path", d=shape, class_=kind), viewBox="0 0 28 16", aria_hidden="true")
        items.append(tag("li", sample, " ", text))
    return tag("ul", *items, class_="legend")


def cactus(identity: str, title: str, runs: Sequence[tuple[str, Sequence[ResultRow]]]) -> Element:
    """How many instances each tool solves within how many seconds each."""
    times = [sorted(max(row.run_time, LEAST) for row in rows if row.result in SOLVED) for _, rows in runs]
    total = len(runs[0][1])
    most = max(1, *(len(solved) for solved in times))
    across = Axis(0.0, float(most), LEFT, WIDTH - RIGHT)
    known = [seconds for solved in times for seconds in solved] or [1.0]
    up = logarithmic(known, HEIGHT - BOTTOM, TOP, least=LEAST)
    drawing = [frame(across, up, "instances solved", "seconds for the slowest of them")]
    entries = []
    for kind, ((name, _), solved) in enumerate(zip(runs, times, strict=True)):
        entries.append((f"line c{kind % KINDS}", f"{name}: {len(solved)} solved of {total}"))
        if solved:
            places = [(across.at(count), up.at(seconds)) for count, seconds in enumerate(solved, 1)]
            path = line([(across.start, places[0][1]), *places], steps=True)
            drawing.append(tag("path", d=path, class_=f"line c{kind % KINDS}"))
    told = [f"{name} solves {_within(solved)}" for (name, _), solved in zip(runs, times, strict=True)]
    return figure(identity, title, f"Of {total} instances {'; '.join(told)}.", drawing, legend(entries))


def _short(name: str) -> str:
    """A name that fits beside an axis; the caption has it in full."""
    return name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "\u2026"


def _within(solved: Sequence[float]) -> str:
    if not solved:
        return "none"
    limits = [limit for limit in (1, 10, 100) if limit < solved[-1]]
    counts = {sum(seconds <= limit for seconds in solved): limit for limit in limits}
    told = [f"{count} within {limit} s" for count, limit in counts.items() if count]
    return ", ".join([*told, f"{len(solved)} in all"])


def scatter(identity: str, title: str, other: str, own: str, points: Sequence[Point]) -> Element:
    """Seconds of one tool against those of another; what one of them does not solve lies in a band at its edge."""
    known = [seconds for point in points for seconds in (point.across, point.up) if seconds is not None] or [1.0]
    band = 18.0
    across = logarithmic(known, LEFT, WIDTH - RIGHT - band, least=LEAST)
    up = logarithmic(known, HEIGHT - BOTTOM, TOP + band, least=LEAST)
    edges = WIDTH - RIGHT - band / 2, TOP + band / 2
    drawing = [
        frame(across, up, f"seconds of {_short(other)}", f"seconds of {_short(own)}"),
        tag("rect", x=across.end, y=TOP, width=band, height=up.start - TOP, class_="band"),
        tag("rect", x=across.start, y=TOP, width=across.end - across.start + band, height=band, class_="band"),
        tag("text", "unsolved", x=across.start + 4, y=edges[1] + 4, class_="edge"),
        tag(
            "text", "unsolved", x=edges[0] + 4, y=up.start - 4, class_="edge",
            transform=f"rotate(-90 {edges[0] + 4:.1f} {up.start - 4:.1f})",
        ),
        tag("path", d=f"M{across.start:g} {up.start:g}L{across.end:g} {up.end:g}", class_="diagonal"),
    ]  # fmt: skip
    shown = [point for point in points if point.across is not None or point.up is not None]
    places = {
        kind: [
            (
                edges[0] if point.across is None else across.at(point.across),
                edges[1] if point.up is None else up.at(point.up),
                point.name,
            )
            for point in shown
            if point.kind == kind
        ]
        for kind in ("unsat", "sat", "conflict")
    }
    for kind, group in places.items():
        if len(shown) <= TITLED:
            drawing += [tag("path", tag("title", name), d=dots([(x, y)]), class_=f"dot {kind}") for x, y, name in group]
        elif group:
            drawing.append(tag("path", d=dots([(x, y) for x, y, _ in group]), class_=f"dot {kind}"))
    both = [(p.across, p.up) for p in shown if p.across is not None and p.up is not None]
    faster = sum(mine < theirs for theirs, mine in both)
    description = (
        f"Of {len(points)} instances both solve {len(both)}, of which {own} is the faster on {faster} (below the "
        f"diagonal); only {own} solves {sum(p.across is None for p in shown)}, only {other} "
        f"{sum(p.up is None for p in shown)}, neither {len(points) - len(shown)} (not shown)."
    )
    entries = [(f"dot {kind}", f"{kind}: {len(group)}") for kind, group in places.items() if group]
    return figure(identity, title, description, drawing, legend(entries))


def course(identity: str, title: str, moments: Sequence[Moment], row: ResultRow) -> Element:
    """How the lowest bound and the open domains of one run moved: two drawings over the same seconds, in which every
    search has a line of its own."""
    across = Axis(0.0, max(row.run_time, moments[-1].seconds, LEAST), LEFT, WIDTH - RIGHT)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    bounds = [(m.seconds, m.stage, m.bound) for m in moments]
    counts = [(m.seconds, m.stage, m.open) for m in moments]
    kinds = _kinds(moments)
    drawing: list[Element] = []
    told: list[str] = []
    if known := [bound for _, stage, bound in bounds if bound is not None and stage in kinds]:
        up = linear(known, middle - 14, TOP, zero=True)
        drawing.append(_panel(across, up, "lowest bound"))
        drawing.append(tag("path", d=f"M{across.start:g} {up.at(0):.1f}H{across.end:g}", class_="zero"))
        told.append(f"the lowest bound goes from {number(known[0])} to {number(max(known))} at best")
        drawing += _lines(bounds, kinds, across, up)
    if open_ := [count for _, _, count in counts if count is not None]:
        up = linear([4.0, *map(float, open_)], HEIGHT - BOTTOM, middle + 10, zero=True)
        drawing.append(frame(across, up, "seconds", "open domains"))
        last = {stage: count for _, stage, count in counts if count is not None}
        told.append(f"at most {max(open_):,} domain{'s are' if max(open_) > 1 else ' is'} open")
        if row.result not in SOLVED:
            told += [f"{stage} leave {count:,} open" for stage, count in last.items() if count]
        drawing += _lines(counts, kinds, across, up)
    description = f"{row.result} after {number(row.run_time)} s: {'; '.join(told) or 'nothing was bounded'}."
    entries = [(f"line c{kind}", stage) for stage, kind in kinds.items()]
    return figure(identity, title, description, drawing, legend(entries))


def _kinds(moments: Sequence[Moment]) -> dict[str, int]:
    """The colour of the root bounds and of every search; other stages only repeat a bound that is known already."""
    stages = dict.fromkeys(m.stage for m in moments if m.open is not None or (m.stage == ROOT and m.bound is not None))
    stages.pop(END, None)
    return {stage: kind % KINDS for kind, stage in enumerate(stages)}


def _panel(across: Axis, up: Axis, title: str) -> Element:
    """A frame whose seconds are those of the one below."""
    grid = frame(across, up, "", title)
    for text in [text for text in grid.findall("text") if float(text.get("y", "0")) > up.start + 10]:
        grid.remove(text)
    return grid


def _lines(
    values: Sequence[tuple[float, str, float | None]], kinds: dict[str, int], across: Axis, up: Axis
) -> list[Element]:
    """A line for every stage, through its pauses: what it knows then still holds."""
    drawn = []
    for stage, kind in kinds.items():
        own = [number for number, (_, name, value) in enumerate(values) if name == stage and value is not None]
        if not own:
            continue
        places = [(across.at(values[number][0]), up.at(values[number][2] or 0.0)) for number in own]
        until, after, value = [*values, (across.high, "", None)][own[-1] + 1]
        places.append((across.at(until), up.at(0.0) if after == END and value == 0 else places[-1][1]))
        drawn.append(tag("path", d=line(places, steps=True), class_=f"line c{kind}"))
    return drawn
