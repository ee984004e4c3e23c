"""The page about a file of results: one HTML file that needs no network and no script."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from provenn.errors import InputError
from provenn.specs import VERDICTS, ResultRow, Table
from provenn.verifier.pages import tables
from provenn.verifier.pages.axes import number
from provenn.verifier.pages.comparison import SOLVED, Comparison, compare
from provenn.verifier.pages.figures import Point, cactus, course, scatter
from provenn.verifier.pages.markup import Element, fill, tag, written
from provenn.verifier.pages.reports import Reports
from provenn.verifier.pages.tables import Listed
from provenn.verifier.report import versions

SLOWEST = 15
"""Solved instances that are listed."""
UNSOLVED, OPENED = 40, 80
"""Unsolved instances of a family that are listed, and in how many all lists are open from the start."""
CONFLICTS = 50
"""Conflicts that are listed."""
SETTINGS = 5
"""Ways in which instances were run that the notes tell."""
COURSES = 6
"""Instances whose course is drawn where none is asked for."""
MOST_COURSES = 100
"""Instances whose course may be asked for."""
CANDIDATES = 20
"""Reports of a family that are looked at for a course."""
LEAST_MOMENTS = 4
"""Moments of a search that make a course."""


def page(found: Sequence[Table], reports: Reports, wanted: Sequence[str] = ()) -> tuple[str, str]:
    """The page about the first table beside the others, and one line that sums it up.

    ``wanted`` are parts of the names of instances whose course is drawn; without any, slow ones of different families
    are chosen. Raises InputError where the first table has no times, a name fits nothing that has a report with a
    history, or a report is none.
    """
    if not found[0].timed:
        raise InputError(f"{found[0].name} has no seconds; name results first and known answers with --compare")
    comparison = compare(found)
    rows = comparison.answers(0, comparison.of(0))
    conflicts, courses = comparison.conflicts(), _courses(rows, reports, wanted)
    solved = sum(row.result in SOLVED for row in rows)
    sections = [
        _conflicts(comparison),
        _section("families", "Families", tables.families(comparison)),
        _section("cactus", "Solved over time", *_cactus(comparison)),
        *(_against(comparison, other) for other in range(1, len(found))),
        _slowest(rows, reports),
        _unsolved(comparison, reports),
        _drawn(courses, reports) if courses else None,
        _notes(comparison, reports),
    ]
    present = [section for section in sections if section is not None]
    summary = f"{len(rows)} instances, {solved} solved, {len(conflicts) or 'no'} conflicts"
    return written(_document(found[0].name, _overview(rows, solved), present)), summary


def _document(name: str, overview: Element, sections: Sequence[Element]) -> Element:
    style = resources.files("provenn.verifier.pages").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        tag("title", f"Results of {name}"),
        tag("style", style),
    )
    links = [tag("li", tag("a", section[0].text or "", href=f"#{section.get('id')}")) for section in sections]
    header = tag(
        "header", tag("h1", f"Results of {name}"), overview, tag("nav", tag("ul", *links), aria_label="sections")
    )
    footer = tag("footer", tag("p", f"Made by provenn {versions().get('provenn', '')}".strip()))
    return tag("html", head, tag("body", header, tag("main", *sections), footer), lang="en")


def _section(identity: str, heading: str, *children: Element | None, **more: str) -> Element:
    return tag("section", tag("h2", heading, id=f"{identity}-heading"), *children, id=identity,
               aria_labelledby=f"{identity}-heading", **more)  # fmt: skip


def _overview(rows: Sequence[ResultRow], solved: int) -> Element:
    counts = [(sum(row.result == verdict for row in rows), verdict) for verdict in VERDICTS]
    told = ", ".join(f"{count} {verdict}" for count, verdict in counts if count)
    seconds = number(sum(row.run_time for row in rows))
    return tag("p", tag("strong", f"{solved} of {len(rows)}"), f" instances solved: {told}; {seconds} s in all.")


def _conflicts(comparison: Comparison) -> Element:
    found = comparison.conflicts()
    if not found:
        several, checked = len(comparison.tables) > 1, comparison.checked()
        words = "No instance is sat in one place and unsat in another"
        words += f"; {checked} have two answers or more to compare." if several or checked else "."
        return _section("conflicts", "No conflicts", tag("p", words), class_="calm")
    title = f"{len(found)} verdict conflict{'s' * (len(found) > 1)}"
    words = "One says sat, another unsat, so one of them is wrong. Replay the witness of the sat to find out which."
    return _section(
        "conflicts", title, tag("p", words), tables.conflicts(comparison, found[:CONFLICTS]),
        _more(len(found), CONFLICTS), class_="alarm",
    )  # fmt: skip


def _more(count: int, shown: int) -> Element | None:
    return tag("p", f"{count - shown:,} more are in the files.") if count > shown else None


def _cactus(comparison: Comparison) -> list[Element]:
    """One figure of all tools over the instances that all have; where these are few, one of the first tool alone."""
    numbers = [number for number, table in enumerate(comparison.tables) if table.timed]
    common = comparison.of(*numbers)
    if 2 * len(common) < len(comparison.of(0)):
        numbers, common = [0], comparison.of(0)
    runs = [(comparison.tables[i].name, comparison.answers(i, common)) for i in numbers]
    title = "Instances solved over time"
    if len(numbers) > 1:
        title += f", the {len(common)} that all files have"
    return [tag("div", cactus("cactus-all", title, runs), class_="figures")]


def _against(comparison: Comparison, other: int) -> Element:
    own, theirs = comparison.tables[0].name, comparison.tables[other].name
    identity, heading = f"against-{other}", f"{own} and {theirs}"
    common = comparison.of(0, other)
    if not common:
        words = "The two files have no instance in common. Rows match by category, network and property: compare how"
        return _section(identity, heading, tag("p", f"{words} the two files spell them."))
    if not comparison.tables[other].timed:
        return _section(identity, heading, tables.against(comparison, other))
    points = []
    for one in common:
        mine, yours = one.row(0), one.row(other)
        if mine is not None and yours is not None:
            solved = [row.run_time if row.result in SOLVED else None for row in (yours, mine)]
            verdict = mine.result if mine.result in SOLVED else yours.result
            kind = "conflict" if {mine.result, yours.result} == set(SOLVED) else verdict
            words = f"{tables.title(one)}: {_took(theirs, yours)}, {_took(own, mine)}"
            points.append(Point(words, solved[0], solved[1], kind))
    figures = [scatter(f"scatter-{other}", f"Seconds of {own} against {theirs}", theirs, own, points)]
    if len(comparison.tables) > 2 or 2 * len(common) < len(comparison.of(0)):
        runs = [(comparison.tables[i].name, comparison.answers(i, common)) for i in (0, other)]
        figures.append(cactus(f"cactus-{other}", f"Instances solved over time, {len(common)} in common", runs))
    return _section(identity, heading, tables.against(comparison, other), tag("div", *figures, class_="figures"))


def _took(name: str, row: ResultRow) -> str:
    return f"{name} {row.result} {number(row.run_time)} s"


def _slowest(rows: Sequence[ResultRow], reports: Reports) -> Element | None:
    slow = sorted((row for row in rows if row.result in SOLVED), key=lambda row: -row.run_time)[:SLOWEST]
    if not slow:
        return None
    entries = [Listed(row, tables.remark(reports, row)) for row in slow]
    caption = f"The {len(slow)} solved instances that took longest"
    return _section("slowest", "Slowest solved", tables.listed(caption, entries, remark="how"))


def _unsolved(comparison: Comparison, reports: Reports) -> Element:
    """Lists per family of what has no answer, each with its reason and with the others' answers."""
    groups: dict[str, list[Listed]] = {}
    for one in comparison.of(0):
        row = one.row(0)
        if row is not None and row.result not in SOLVED:
            others = [
                (comparison.tables[i], theirs)
                for i in range(1, len(comparison.tables))
                if (theirs := one.row(i)) is not None and theirs.result in SOLVED
            ]
            groups.setdefault(row.category, []).append(Listed(row, tables.remark(reports, row), others))
    total = sum(map(len, groups.values()))
    section = _section("unsolved", "Unsolved" if total else "Nothing unsolved")
    missed = sum(bool(entry.others) for group in groups.values() for entry in group)
    if len(comparison.tables) > 1 and total:
        fill(section, tag("p", f"{total} instances; {missed} of them another file solves, which its row tells."))
    for name in sorted(groups):
        group = sorted(groups[name], key=lambda entry: (not entry.others, entry.row.key))
        caption = f"{name or '(no family)'}: {len(group)} unsolved"
        body = tables.listed(caption, group[:UNSOLVED], remark="reason")
        details = tag("details", tag("summary", caption), body, _more(len(group), UNSOLVED))
        if total <= OPENED:
            details.set("open", "open")
        fill(section, details)
    return section


def _courses(rows: Sequence[ResultRow], reports: Reports, wanted: Sequence[str]) -> list[ResultRow]:
    """The rows whose course is drawn: those asked for, or the slowest of different families, half of them unsolved."""

    def searched(row: ResultRow) -> bool:
        report = reports.of(row)
        return report is not None and sum(m.open is not None for m in report.history) >= LEAST_MOMENTS

    if wanted:
        chosen: dict[tuple[str, str, str], ResultRow] = {}
        for part in wanted:
            named = [row for row in rows if part in f"{row.category} {row.network} {row.property}"]
            with_course = [row for row in named if (report := reports.of(row)) is not None and report.history]
            if not named:
                raise InputError(f"--show got {part!r}, which no instance has in its name; use a part of one's name")
            if not with_course:
                raise InputError(
                    f"--show got {part!r}, but none of the {len(named)} instances with it has a report with a history; "
                    "name the folder that bench --reports wrote with --reports"
                )
            chosen |= {row.key: row for row in with_course}
            if len(chosen) > MOST_COURSES:
                raise InputError(f"--show got {part!r}, which {len(chosen)} instances have; show up to {MOST_COURSES}")
        return list(chosen.values())
    groups: dict[tuple[str, bool], list[ResultRow]] = {}
    for row in sorted(rows, key=lambda row: -row.run_time):
        groups.setdefault((row.category, row.result in SOLVED), []).append(row)
    ranked: dict[bool, list[tuple[int, ResultRow]]] = {False: [], True: []}
    for (_, solved), group in groups.items():
        ranked[solved] += enumerate(filter(searched, group[:CANDIDATES]))
    open_, ended = (
        [row for _, row in sorted(group, key=lambda entry: (entry[0], -entry[1].run_time))] for group in ranked.values()
    )
    half = max(COURSES // 2, COURSES - len(ended))
    return [*open_[:half], *ended[: COURSES - len(open_[:half])]]


def _drawn(rows: Sequence[ResultRow], reports: Reports) -> Element:
    drawn = []
    for count, row in enumerate(rows, 1):
        report = reports.of(row)
        if report is not None:
            drawn.append(course(f"course-{count}", tables.title(row), report.history, row))
    words = (
        "Domains whose bound is above 0 are refuted. Every search has a line of its own, which holds while another "
        "search has its turn, and begins anew with better root bounds."
    )
    figures = tag("div", *drawn, class_="figures")
    return _section("courses", "Bounds and open domains over time", tag("p", words), figures)


def _notes(comparison: Comparison, reports: Reports) -> Element:
    """What was left out or may surprise."""
    items = []
    for number_, table in enumerate(comparison.tables):
        if repeated := comparison.repeated(number_):
            items.append(f"{table.name}: {repeated} rows repeat an instance, which counts once.")
        if number_ and (alone := len(comparison.of(number_)) - len(comparison.of(0, number_))):
            items.append(f"{table.name}: {alone} of its instances are not in {comparison.tables[0].name}.")
    if reports.stale:
        items.append(f"{reports.stale} JSON reports are of another run than the row, and were not used.")
    for setting, count in reports.settings.most_common(SETTINGS):
        if setting:
            items.append(f"{count} of {sum(reports.settings.values())} JSON reports that were read: {setting}.")
    items.append("Solved means unsat (no input violates the property) or sat (an input that does is known).")
    items.append("Times are seconds of whole processes, as the files give them.")
    return _section("notes", "Notes", tag("ul", *(tag("li", item) for item in items)))
