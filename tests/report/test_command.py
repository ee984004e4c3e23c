"""``provenn report`` as a command: what it prints, and one clear line for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provenn.cli import main

ROW = "f,a.onnx,p.vnnlib,0,timeout,60\n"
REPORT = {"verdict": "timeout", "reason": "time ran out", "statistics": {"domains": 4}}
HISTORY = {"seconds": [1.0], "stage": ["search"], "domains": [2], "open": [1], "bound": [-1.0]}
FILE = "reports/f__a__p.json"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with results and a report, and the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.csv").write_text(ROW)
    (tmp_path / "reports").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "r.csv").write_text(ROW)
    (tmp_path / FILE).write_text(json.dumps(REPORT | {"history": HISTORY}))
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ending:
        main(["report", *arguments])
    captured = capsys.readouterr()
    return int(ending.value.code or 0), captured.out, captured.err


def test_a_page_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["r.csv", "--compare", "x=sub/r.csv", "--reports", "reports", "--show", "a.onnx", "-o", "page.html"]
    assert call(capsys, *given) == (0, "", "page.html: 1 instances, 0 solved, no conflicts\n")
    text = (folder / "page.html").read_text()
    assert text.startswith("<!DOCTYPE html>") and text.isascii() and "course-1" in text
    assert call(capsys, *given)[0] == 0 and (folder / "page.html").read_text() == text, "the same page again"


WRONG = {
    # what is given instead of `r.csv -o page.html`, the files changed before, exit code, what the line says
    "no results": (["none.csv"], {}, 1, "none.csv: no such file"),
    "folder": (["sub"], {}, 1, "sub: is a directory, expected a file"),
    "a bad row": (["r.csv"], {"r.csv": ROW + "a,b\n" + ROW}, 1, "r.csv:2: got 2 columns"),
    "a bad other": (["r.csv", "--compare", "o.csv"], {"o.csv": ROW.replace("60", "x")}, 1, "o.csv:1: run_time is 'x'"),
    "no other": (["r.csv", "--compare", "o.csv"], {}, 1, "o.csv: no such file"),
    "empty": (["r.csv"], {"r.csv": ""}, 1, "r.csv: has no results"),
    "damaged": (["r.csv"], {"r.csv": b"\x1f\x8b\x00"}, 1, "r.csv: damaged gzip data"),
    "twice": (["r.csv", "--compare", "./r.csv"], {}, 1, "results './r.csv' are named twice"),
    "one name": (["a=r.csv", "--compare", "a=sub/r.csv"], {}, 1, "are both called 'a'; write NAME=sub/r.csv"),
    "no folder of reports": (["r.csv", "--reports", "none"], {}, 1, "reports 'none' is no folder"),
    "a file for reports": (["r.csv", "--reports", "r.csv"], {}, 1, "reports 'r.csv' is no folder"),
    "broken report": (["r.csv", "--reports", "reports"], {FILE: '{"verdict": '}, 1, f"{FILE}: is no JSON (Expecting"),
    "binary report": (["r.csv", "--reports", "reports"], {FILE: b"\xff\xfe"}, 1, f"{FILE}: is not UTF-8 text"),
    "nested report": (["r.csv", "--reports", "reports"], {FILE: "[" * 100_000}, 1, f"{FILE}: is nested too deeply"),
    "list": (["r.csv", "--reports", "reports"], {FILE: "[]"}, 1, f"{FILE}: is no report of provenn (not an object)"),
    "no reason": (["r.csv", "--reports", "reports"], {FILE: '{"reason": 7}'}, 1, "(reason is 7); remove it"),
    "no series": (
        ["r.csv", "--reports", "reports"], {FILE: json.dumps(REPORT | {"history": {"seconds": [1]}})}, 1,
        "(history is not lists of one length called seconds, stage, domains, open, bound)",
    ),
    "lengths": (
        ["r.csv", "--reports", "reports"], {FILE: json.dumps(REPORT | {"history": HISTORY | {"open": []}})}, 1,
        "(history is not lists of one length",
    ),
    "no times": (
        ["r.csv", "--reports", "reports"], {FILE: json.dumps(REPORT | {"history": HISTORY | {"seconds": ["x"]}})}, 1,
        "(moment 0 of its history is 'x', 'search')",
    ),
    "shown without reports": (["r.csv", "--show", "a.onnx"], {}, 1, "--show got 'a.onnx', but none of the 1 instances"),
    "shown and not there": (["r.csv", "--reports", "reports", "--show", "q.v"], {}, 1, "'q.v', which no instance has"),
    "too many shown": (
        ["r.csv", "--reports", "reports", "--show", "onnx"],
        {"r.csv": "".join(ROW.replace("a.", f"a{i}.") for i in range(101))}
        | {f"reports/f__a{i}__p.json": json.dumps(REPORT | {"history": HISTORY}) for i in range(101)}, 1,
        "--show got 'onnx', which 101 instances have; show up to 100",
    ),
    "output is an input": (["r.csv", "-o", "r.csv"], {}, 2, "which is the file of the results of r"),
    "output is another": (["r.csv", "--compare", "sub/r.csv", "-o", "sub/r.csv"], {}, 2, "which is the file of"),
    "output is a folder": (["r.csv", "-o", "sub"], {}, 1, "cannot write -o 'sub': is a directory"),
    "output in no folder": (["r.csv", "-o", "no/page.html"], {}, 1, "no such folder"),
    "full disk": (["r.csv", "-o", "/dev/full"], {}, 1, "cannot write '/dev/full': No space left on device"),
    "a dash": (["r.csv", "-o", "-"], {}, 2, "for standard output name /dev/stdout"),
    "nothing": ([], {}, 2, "Missing argument '[NAME=]results.csv'"),
    "more": (["r.csv", "o.csv"], {}, 2, "unexpected extra argument"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    arguments, files, code, message = WRONG[name]
    for path, content in files.items():
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    wanted = [] if "-o" in arguments else ["-o", "page.html"]
    ended, out, err = call(capsys, *arguments, *wanted)
    assert (ended, out) == (code, "") and message in err, err
    assert err.startswith("provenn: ") and err.count("\n") == 1 and "Traceback" not in err
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before, "nothing is left half-written"
