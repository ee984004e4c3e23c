"""Pages that the tests look at: of a real run of the benchmark suite, and of made-up results."""

from __future__ import annotations

import json
from pathlib import Path

from provenn.specs import VERDICTS
from provenn.verifier.pages import sources, write

SUITE = Path(__file__).parent / "suite"


def suite(folder: Path) -> Path:
    """The page about a real run beside another tool's, with reports. ``suite/`` has a run of the whole suite on two
    cores, and alpha-beta-CROWN's on such a machine, tuned by hand for every family."""
    reports = folder / "reports"
    reports.mkdir()
    for name, report in json.loads((SUITE / "reports.json").read_text()).items():
        (reports / f"{name}.json").write_text(json.dumps(report))
    found = sources([f"provenn={SUITE / 'results.csv'}", str(SUITE / "abcrown.csv")])
    write(found, str(reports), (), str(folder / "report.html"))
    return folder / "report.html"


def conflicting(folder: Path) -> Path:
    """A page of contradicting tools, long and hostile names, and thousands of rows."""
    hostile = '<script>alert("x")</script>&amp;<img src=x onerror=alert(1)>'
    long = "a_very_long_name_without_any_place_to_break_" * 6
    verdicts = ("unsat", "sat", "timeout", "unknown", "error")
    for number, tool in enumerate(("ours", "theirs")):
        lines = [f'{hostile},"{long}.onnx",vnnlib/{hostile.replace(",", "")}_{long}.vnnlib,0,{verdicts[number]},1e-9']
        for i in range(2000):
            kind = verdicts[i % 5] if number == 0 or i % 7 else verdicts[(i + number) % 5]
            lines.append(f"family_{i % 30},onnx/{long[: i % 90]}{i}.onnx,vnnlib/p.vnnlib,0,{kind},{1 + i * 10.0}")
        (folder / f"{tool}.csv").write_text("\n".join(lines) + "\n")
    found = {"ours": folder / "ours.csv", hostile + long: folder / "theirs.csv"}
    write({name: str(path) for name, path in found.items()}, None, (), str(folder / "conflicts.html"))
    return folder / "conflicts.html"


def short(folder: Path) -> Path:
    """A page that has everything once: a conflict, unsolved instances, a scatter plot and a course."""
    (folder / "mine.csv").write_text("".join(f"f,a{i}.onnx,p.vnnlib,0,{v},{i}\n" for i, v in enumerate(VERDICTS, 1)))
    (folder / "other.csv").write_text("".join(f"f,a{i}.onnx,p.vnnlib,0,sat,2\n" for i in range(1, 5)))
    moments = {"seconds": [1, 2], "stage": ["input splits"] * 2, "domains": [1, 2], "open": [1, 2], "bound": [-2, -1]}
    report = {"verdict": "timeout", "reason": "time ran out", "statistics": {"domains": 2}, "history": moments}
    (folder / "f__a4__p.json").write_text(json.dumps(report))
    found = sources([str(folder / "mine.csv"), str(folder / "other.csv")])
    write(found, str(folder), ["a4"], str(folder / "short.html"))
    return folder / "short.html"
