"""The tables of the page: they keep their roles where a narrow page lays them out as blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from provenn.specs import VERDICTS, ResultRow, Table
from provenn.verifier.batch import several
from provenn.verifier.pages.axes import number
from provenn.verifier.pages.comparison import SOLVED, Comparison, Instance
from provenn.verifier.pages.markup import Child, Element, fill, tag
from provenn.verifier.pages.reports import Reports


@dataclass(frozen=True)
class Listed:
    """An instance as a table lists it: its row, what is said of it, and others' rows with their tables."""

    row: ResultRow
    remark: str
    others: Sequence[tuple[Table, ResultRow]] = ()


def table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[Child]], *, last: Sequence[Child] = (), kind: str = ""
) -> Element:
    """A table whose first column names its rows; ``last`` is a row of sums. The box around it scrolls if need be."""
    head = tag("tr", *(tag("th", text, scope="col", role="columnheader") for text in header), role="row")
    bodies = [tag("thead", head, role="rowgroup"), tag("tbody", *map(_row, rows), role="rowgroup")]
    if last:
        bodies.append(tag("tfoot", _row(last), role="rowgroup"))
    whole = tag("table", tag("caption", caption), *bodies, role="table")
    return tag("div", whole, class_=f"scroll {kind}".strip(), tabindex="0", role="group", aria_label=caption)


def _row(cells: Sequence[Child]) -> Element:
    first, *others = cells
    name = tag("th", first, scope="row", role="rowheader")
    cells = [tag("td", cell, role="cell", **({"class_": "nil"} if cell == "0" else {})) for cell in others]
    return tag("tr", name, *cells, role="row")


def families(comparison: Comparison) -> Element:
    """Verdicts and seconds of the first table, per family and in all."""
    groups: dict[str, list[ResultRow]] = {}
    for row in comparison.answers(0, comparison.of(0)):
        groups.setdefault(row.category, []).append(row)
    every = [row for group in groups.values() for row in group]

    def cells(name: str, rows: Sequence[ResultRow]) -> list[Child]:
        counts = [sum(row.result == verdict for row in rows) for verdict in VERDICTS]
        solved = sum(row.result in SOLVED for row in rows)
        return [name, *map(str, (len(rows), solved, *counts)), number(sum(row.run_time for row in rows))]

    return table(
        f"Verdicts and seconds of {comparison.tables[0].name} per family",
        ["family", "instances", "solved", *VERDICTS, "seconds"],
        [cells(name or "(none)", groups[name]) for name in sorted(groups)],
        last=cells("all", every) if len(groups) > 1 else (),
        kind="counts",
    )


def against(comparison: Comparison, other: int) -> Element:
    """Who of the first and another table solves what, per family; how fast, where the other has times."""
    own, theirs, timed = comparison.tables[0].name, comparison.tables[other].name, comparison.tables[other].timed
    groups: dict[str, list[tuple[ResultRow, ResultRow]]] = {}
    for one in comparison.of(0, other):
        mine, yours = one.row(0), one.row(other)
        if mine is not None and yours is not None:
            groups.setdefault(mine.category, []).append((mine, yours))
    every = [pair for group in groups.values() for pair in group]

    def cells(name: str, pairs: Sequence[tuple[ResultRow, ResultRow]]) -> list[Child]:
        solved = [(mine.result in SOLVED, yours.result in SOLVED) for mine, yours in pairs]
        both = [pair for pair, which in zip(pairs, solved, strict=True) if all(which)]
        counts = [len(pairs), len(both), solved.count((True, False)), solved.count((False, True))]
        seconds = [sum(pair[i].run_time for pair in both) for i in (0, 1)] if timed else []
        return [name, *map(str, counts), *map(number, seconds)]

    header = ["family", "instances", "both solve", f"only {own}", f"only {theirs}"]
    return table(
        f"{own} and {theirs} per family" + "; seconds of what both solve" * timed,
        header + [f"seconds {own}", f"seconds {theirs}"] * timed,
        [cells(name or "(none)", groups[name]) for name in sorted(groups)],
        last=cells("all", every) if len(groups) > 1 else (),
        kind="counts",
    )


def listed(caption: str, entries: Sequence[Listed], *, remark: str) -> Element:
    """Instances with verdict, seconds and a remark, under which others' answers stand."""
    rows: list[list[Child]] = []
    for entry in entries:
        told = tag("div", entry.remark)
        for other, row in entry.others:
            fill(told, tag("div", tag("strong", other.name), f": {row.result}{_in(other, row)}"))
        rows.append([named(entry.row), entry.row.result, f"{number(entry.row.run_time)} s", told])
    return table(caption, ["instance", "verdict", "time", remark], rows, kind="listed")


def conflicts(comparison: Comparison, found: Sequence[Instance]) -> Element:
    """Who says what of the instances whose answers contradict each other."""
    rows: list[list[Child]] = []
    for one in found:
        told = tag("ul")
        for index in sorted(one.rows):
            for row in one.rows[index]:
                verdict = tag("strong", row.result.upper()) if row.result in SOLVED else row.result
                table_ = comparison.tables[index]
                fill(told, tag("li", f"{table_.name}: ", verdict, _in(table_, row)))
        rows.append([named(one), told])
    return table("Conflicting verdicts", ["instance", "verdicts"], rows, kind="listed")


def _in(source: Table, row: ResultRow) -> str:
    return f" in {number(row.run_time)} s" if source.timed else ""


def named(one: ResultRow | Instance) -> Element:
    """Family, network and property, with places to break long names."""
    networks = [f"{name}: {path}" for name, path in several(one.network).items()] or [one.network]
    lines = [tag("div", text.removesuffix(".gz")) for text in (*networks, one.property)]
    return tag("div", tag("span", one.category, class_="family"), *lines, class_="name")


def title(one: ResultRow | Instance) -> str:
    """The same in a line, short: without folders and endings."""
    paths = [*(several(one.network).values() or [one.network]), one.property]
    names = (text.replace("\\", "/").rpartition("/")[2] for text in paths)
    short = [name.removesuffix(".gz").removesuffix(".onnx").removesuffix(".vnnlib") for name in names]
    return " ".join(filter(None, (one.category, *short)))


def remark(reports: Reports, row: ResultRow) -> str:
    """The reason that a row's report gives, with the domains where it was solved by a search."""
    report = reports.of(row)
    if report is None:
        return ""
    if row.result in SOLVED and report.domains:
        return f"{report.reason}; {report.domains:,} domain{'s' * (report.domains > 1)}"
    return report.reason
