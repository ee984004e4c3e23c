"""`provenn bench`: a process per instance, rows as they come, resuming, and a crash that costs one instance."""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from provenn.errors import InputError
from provenn.specs import Instance, ResultRow, read_results
from provenn.verifier import _live, batch, launch, nursery

from .conftest import DRIVER, Terminal, environment
from .test_time import running

pytestmark = pytest.mark.skipif(not nursery.available(), reason="forks on Linux")


def plan(**more: Any) -> batch.Plan:
    """A plan whose verifier behaves as the name of the network says."""
    command = (sys.executable, DRIVER, "nursery")
    return batch.Plan(launcher=functools.partial(launch.Nursery, command=command), **more)



class Recorder:
    """A view that remembers."""

    def __init__(self) -> None:
        self.started_: list[str] = []
        self.rows: list[ResultRow] = []
        self.errors: dict[str, str] = {}

    def begin(self, total: int, left: int) -> None:
        self.total, self.left = total, left

    def started(self, instance: Instance) -> None:
        self.started_.append(instance.network)

    def finished(self, row: ResultRow, error: str, ahead: float) -> None:
        self.ahead = ahead
        self.rows.append(row)
        if error:
            self.errors[row.network] = error

    def end(self, rows: list[ResultRow]) -> None:
        self.all = list(rows)


def family(folder: Path, *behaviours: str, timeout: float = 20) -> Path:
    """A folder with an instance for each behaviour of the driver."""
    for inner in ("onnx", "vnnlib"):
        (folder / inner).mkdir(parents=True)
    (folder / "vnnlib" / "p.vnnlib").write_text("")
    lines = []
    for name in behaviours:
        (folder / "onnx" / f"{name}.onnx").write_bytes(b"")
        lines.append(f"onnx/{name}.onnx,vnnlib/p.vnnlib,{timeout}\n")
    (folder / "instances.csv").write_text("".join(lines))
    return folder


def below(process: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    children: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in os.listdir(f"/proc/{process}/task"):
            children += [int(one) for one in Path(f"/proc/{process}/task/{task}/children").read_text().split()]
    return children + [one for child in children for one in below(child)]


def results(rows: list[ResultRow]) -> dict[str, str]:
    return {Path(row.network).stem: row.result for row in rows}


def test_a_crash_costs_its_instance_only(tmp_path: Path) -> None:
    folder = family(tmp_path / "toy", "unsat", "segfault", "sat", "refused", "broken", "noisy", "missing")
    (folder / "onnx" / "missing.onnx").unlink()
    view = Recorder()
    chosen = plan(jobs=2, witnesses=str(tmp_path / "w"), reports=str(tmp_path / "r"))
    rows = batch.run(str(folder), str(tmp_path / "results.csv"), chosen, view)
    expected = dict.fromkeys(("segfault", "refused", "broken", "missing"), "error")
    assert results(rows) == {"unsat": "unsat", "sat": "sat", "noisy": "unsat"} | expected
    assert view.errors.keys() == {f"onnx/{name}.onnx" for name in expected}
    assert view.errors["onnx/refused.onnx"].startswith("unsupported operator Foo")
    assert "SIGSEGV" in view.errors["onnx/segfault.onnx"]
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["toy__sat__p.counterexample"]
    assert "toy__unsat__p.json" in {path.name for path in (tmp_path / "r").iterdir()}
    with open(tmp_path / "results.csv") as file:
        lines = list(csv.reader(file))
    assert all(len(line) == 6 and line[0] == "toy" and float(line[5]) < 20 for line in lines)


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = family(tmp_path / "toy", "unsat", "sat", "unknown")
    output = tmp_path / "results.csv"
    output.write_text("toy,onnx/unsat.onnx,vnnlib/p.vnnlib,0,timeout,60\ntoy,onnx/sat.onnx,vnn")
    view = Recorder()
    rows = batch.run(str(folder), str(output), plan(), view)
    assert view.started_ == ["onnx/sat.onnx", "onnx/unknown.onnx"] and (view.total, view.left) == (3, 2)
    assert results(rows) == {"unsat": "timeout", "sat": "sat", "unknown": "unknown"}
    again = Recorder()
    assert len(batch.run(str(folder), str(output), plan(), again)) == 3
    assert again.started_ == [] and (again.total, again.left) == (3, 0)


def test_a_pipe_is_told_what_was_done_already(capsys: pytest.CaptureFixture[str]) -> None:
    view = batch.PlainView(sys.stdout, sys.stderr)
    view.begin(3, 3)
    assert capsys.readouterr().out == ""
    view.begin(3, 0)
    assert capsys.readouterr().out == "3 of 3 instances had a row already\n"


def test_time_limits_come_from_the_list_or_the_option(tmp_path: Path) -> None:
    folder = family(tmp_path / "toy", "blocked", timeout=0.7)
    start = time.monotonic()
    rows = batch.run(str(folder), str(tmp_path / "a.csv"), plan(), Recorder())
    assert results(rows) == {"blocked": "timeout"} and time.monotonic() - start < 3
    rows = batch.run(
        str(folder), str(tmp_path / "b.csv"), plan(timeout=1.5), Recorder()
    )
    assert 1.5 <= rows[0].run_time < 2.7


def test_a_folder_of_folders(tmp_path: Path) -> None:
    family(tmp_path / "suite" / "one", "unsat")
    family(tmp_path / "suite" / "two", "unknown")
    rows = batch.run(
        str(tmp_path / "suite"), str(tmp_path / "r.csv"), plan(), Recorder()
    )
    assert [(row.category, row.result) for row in rows] == [("one", "unsat"), ("two", "unknown")]


def test_an_instance_that_will_not_end_is_ended_in_time(tmp_path: Path) -> None:
    folder = family(tmp_path / "toy", "deaf", "unsat", timeout=1)
    view = Recorder()
    rows = batch.run(str(folder), str(tmp_path / "r.csv"), plan(), view)
    assert results(rows) == {"deaf": "timeout", "unsat": "unsat"} and 1 <= view.rows[0].run_time < 2.5


def test_memory_is_limited_for_each_instance(tmp_path: Path) -> None:
    folder = family(tmp_path / "toy", "hungry", "unsat")
    chosen = plan(memory=0.2, reports=str(tmp_path / "r"))
    rows = batch.run(str(folder), str(tmp_path / "r.csv"), chosen, Recorder())
    assert results(rows) == {"hungry": "unknown", "unsat": "unsat"}
    assert "memory limit" in (tmp_path / "r" / "toy__hungry__p.json").read_text()


def test_a_server_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    """Instances that it takes along begin again."""
    folder = family(tmp_path / "toy", "unsat", "sleepy", "sat")
    started: list[launch.Nursery] = []

    class Killed(Recorder):
        def started(self, instance: Instance) -> None:
            super().started(instance)
            if instance.network == "onnx/sleepy.onnx":
                root = started[0]._root
                assert root is not None and root.process is not None
                threading.Timer(0.3, os.kill, (root.process.pid, signal.SIGKILL)).start()

    def launcher(threads: int) -> launch.Nursery:
        started.append(launch.Nursery(threads, (sys.executable, DRIVER, "nursery")))
        return started[0]

    view = Killed()
    rows = batch.run(str(folder), str(tmp_path / "r.csv"), batch.Plan(launcher=launcher), view)
    assert results(rows) == {"unsat": "unsat", "sleepy": "unknown", "sat": "sat"} and not view.errors


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise ImportError('no torch here')")
    chosen = batch.Plan(launcher=functools.partial(launch.Nursery, command=command))
    with pytest.raises(RuntimeError, match="no torch here"):
        batch.run(str(family(tmp_path / "toy", "unsat")), str(tmp_path / "r.csv"), chosen, Recorder())


def test_bad_sources_and_results_are_refused(tmp_path: Path) -> None:
    folder = family(tmp_path / "toy", "unsat")
    (tmp_path / "notes.csv").write_text("these,are\nno,results\n")
    output = str(tmp_path / "r.csv")
    for source, results_file in (
        (str(folder), str(tmp_path / "notes.csv")),
        (str(folder), str(tmp_path / "no" / "folder" / "r.csv")),
        (str(folder), "/dev/full"),
        (str(folder), str(tmp_path)),
        (str(tmp_path / "none"), output),
        (str(tmp_path / "toy" / "onnx"), output),
    ):
        with pytest.raises(InputError):
            batch.run(source, results_file, plan(), Recorder())
    assert (tmp_path / "notes.csv").read_text() == "these,are\nno,results\n"


def test_the_list_is_not_written_over(tmp_path: Path) -> None:
    """One line without an end would pass for an unfinished row of results."""
    folder = family(tmp_path / "toy", "unsat")
    path = folder / "instances.csv"
    path.write_text(path.read_text().rstrip())
    before = path.read_text()
    for source in (folder, path):
        with pytest.raises(InputError, match="is the list of instances"):
            batch.run(str(source), str(path), plan(), Recorder())
    assert path.read_text() == before


def test_one_bench_per_results_file(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder, output = family(tmp_path / "toy", "unsat"), tmp_path / "r.csv"
    with open(output, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another bench"):
            batch.run(str(folder), str(output), plan(), Recorder())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_end_from_outside_keeps_the_rows(tmp_path: Path, number: signal.Signals, code: int) -> None:
    folder = family(tmp_path / "toy", "unsat", "deaf", timeout=40)
    output = tmp_path / "r.csv"
    process = subprocess.Popen(
        [sys.executable, DRIVER, "bench", str(folder), "-o", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    limit = time.monotonic() + 20
    while not (output.exists() and output.read_text()) and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(0.7)
    children = below(process.pid)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == code and "Traceback" not in err
    assert results(read_results(output)) == {"unsat": "unsat"}
    assert out.splitlines()[0].startswith("unsat ")
    assert len(children) == 2 and not [child for child in children if running(child)]


def test_the_report_names_families(tmp_path: Path) -> None:
    rows = [ResultRow("a", "n", "p", 0, "sat", 1.5), ResultRow("b", "n", "p", 0, "timeout", 60)]
    header, *lines = batch.table(rows)
    assert header.split() == ["family", "unsat", "sat", "unknown", "timeout", "error", "seconds"]
    assert [line.split() for line in lines] == [
        ["a", "0", "1", "0", "0", "0", "1.5"],
        ["b", "0", "0", "0", "1", "0", "60.0"],
        ["all", "0", "1", "0", "1", "0", "61.5"],
    ]


def test_a_terminal_sees_a_live_view(tmp_path: Path, terminal: Terminal) -> None:
    folder = family(tmp_path / "toy", "unsat", "refused")
    process = subprocess.Popen(
        [sys.executable, DRIVER, "bench", str(folder), "-o", str(tmp_path / "r.csv")],
        stdout=terminal.descriptor,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | {"TERM": "xterm"},
    )
    _, err = process.communicate(timeout=60)
    seen = terminal.text()
    assert process.returncode == 0, err
    assert "unsat" in seen and "Foo" in seen and "seconds" in seen
    assert "less than a minute left" in seen


def test_the_time_left_is_foretold_by_family() -> None:
    left = [Instance(name, "n", "p", 60, Path()) for name in ("a", "a", "a", "b", "c")]
    ahead = batch.Estimate(left, jobs=2)
    assert ahead(ResultRow("a", "n", "p", 0, "sat", 4)) == (2 * 4 + 4 + 4) / 2
    assert ahead(ResultRow("b", "n", "p", 0, "sat", 20)) == (2 * 4 + 12) / 2
    for name in ("a", "a"):
        ahead(ResultRow(name, "n", "p", 0, "sat", 4))
    assert ahead(ResultRow("c", "n", "p", 0, "sat", 4)) == 0
    assert [_live.left(seconds) for seconds in (-3, 59, 90, 9000)] == [
        "less than a minute left", "less than a minute left", "about 2 min left", "about 2 h left",
    ]  # fmt: skip


def test_a_bench_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    """Whole rows stay as they are, every instance has one in the end, nothing half-written and no process is left."""
    names = [f"{verdict}.{number}" for number in range(4) for verdict in ("unsat", "sat", "unknown", "refused")]
    folder, output, reports = family(tmp_path / "toy", *names), tmp_path / "r.csv", tmp_path / "reports"
    command = [sys.executable, DRIVER, "bench", str(folder), "-o", str(output), "--reports", str(reports)]
    chance, killed, before = random.Random(5), 0, b""
    while True:
        process = subprocess.Popen(
            [*command, "--jobs", "2"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
        )
        if killed < 3:
            assert process.stdout is not None
            for _ in range(chance.randrange(4)):
                process.stdout.readline()
            time.sleep(chance.uniform(0, 0.1))
            children = below(process.pid)
            process.kill()
            killed += 1
        process.communicate(timeout=60)
        after = output.read_bytes() if output.exists() else b""
        assert after.startswith(before)
        if killed == 3 and process.returncode == 0:
            break
        time.sleep(0.3)
        assert not [child for child in children if running(child)]
        before = after[: after.rfind(b"\n") + 1]
        output.write_bytes(before + b"toy,onnx/unsat.0")  # as if the kill had come while a row was written
        reports.mkdir(exist_ok=True)
        (reports / f"toy__{names[-1]}__p.json.abcdefgh.part").write_text("{")
    rows = read_results(output)
    expected = {name: name.partition(".")[0].replace("refused", "error") for name in names}
    assert results(rows) == expected and len(rows) == len(names)
    assert {path.name for path in reports.iterdir()} == {f"toy__{name}__p.json" for name in names}
