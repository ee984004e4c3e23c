"""Runs a benchmark: every instance in a process of its own, results on disk as they come, resumable."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from provenn.errors import InputError
from provenn.verifier.report import ANSWERED, one_line

VERDICTS = ("unsat", "sat", "unknown", "timeout", "error")
OVERTIME = 10.0
"""Seconds after its own limit at which a process that does not end by itself is ended."""


@dataclass(frozen=True)
class Instance:
    """One line of an instances.csv: where the files are, and the names that the results file shows."""

    category: str
    network: Path
    property_path: Path
    timeout: float

    @property
    def names(self) -> tuple[str, str]:
        """``family/onnx/x.onnx`` and ``family/vnnlib/y.vnnlib``: the same from wherever the bench is run."""
        return _name(self.category, self.network), _name(self.category, self.property_path)


@dataclass(frozen=True)
class Row:
    """One line of a results file, in the competition's format."""

    category: str
    network: str
    property_path: str
    prepare_time: float
    verdict: str
    run_time: float

    def text(self) -> str:
        """The line, with its end."""
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(
            [self.category, self.network, self.property_path, f"{self.prepare_time:g}", self.verdict]
            + [f"{self.run_time:.2f}"]
        )
        return line.getvalue()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How every instance is run. ``timeout`` None is what instances.csv says; ``threads`` None is cores / jobs."""

    timeout: float | None = None
    jobs: int = 1
    device: str = "auto"
    threads: int | None = None
    memory: float | None = None
    seed: int = 0
    witnesses: str | None = None
    reports: str | None = None
    command: Sequence[str] = field(default=(sys.executable, "-m", "provenn.cli", "verify"))

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise InputError(f"bench got timeout={self.timeout!r}, expected a positive number of seconds")

    def limit(self, instance: Instance) -> float:
        """Seconds that an instance gets."""
        return instance.timeout if self.timeout is None else self.timeout

    def arguments(self, instance: Instance) -> list[str]:
        """The command of one instance."""
        threads = self.threads or max(1, _cores() // self.jobs)
        command = [*self.command, str(instance.network), str(instance.property_path)]
        command += [
            "--timeout",
            f"{self.limit(instance):g}",
            "--device",
            self.device,
            "--threads",
            str(threads),
        ]
        command += ["--seed", str(self.seed)]
        if self.memory is not None:
            command += ["--memory", f"{self.memory:g}"]
        stem = "__".join(_stem(name) for name in instance.names)
        if self.witnesses is not None:
            command += ["--witness", str(Path(self.witnesses) / f"{stem}.counterexample")]
        if self.reports is not None:
            command += ["--json", str(Path(self.reports) / f"{stem}.json")]
        return command


class View(Protocol):
    """Where the bench says how it goes."""

    def begin(self, instances: Sequence[Instance], done: Sequence[Row]) -> None: ...
    def started(self, instance: Instance) -> None: ...
    def finished(self, row: Row, error: str) -> None: ...
    def end(self, rows: Sequence[Row]) -> None: ...


def run(source: str, output: str, plan: Plan, view: View) -> list[Row]:
    """Run what ``output`` does not have yet and return all its rows.

    ``source`` is an instances.csv, a family's folder with one in it, or a folder of such folders. Raises
    InputError for a source without instances and for a results file that is not one or is in use.
    """
    instances = find_instances(source)
    for folder in (plan.witnesses, plan.reports):
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
    with _Results(output) as results:
        present = {(row.category, row.network, row.property_path) for row in results.rows}
        left = [instance for instance in instances if (instance.category, *instance.names) not in present]
        view.begin(instances, results.rows)
        try:
            for row, error in _run_all(left, plan, view):
                results.append(row)
                view.finished(row, error)
        finally:
            view.end(results.rows)
        return results.rows


def find_instances(source: str) -> list[Instance]:
    """The instances of a file, a family's folder or a folder of families; each pair of files once."""
    path = Path(source)
    if path.is_file():
        lists = [path]
    elif (path / "instances.csv").is_file():
        lists = [path / "instances.csv"]
    elif path.is_dir():
        lists = sorted(path.glob("*/instances.csv"))
    else:
        raise InputError(f"cannot read {source!r}: no such file or folder")
    if not lists:
        raise InputError(f"no instances.csv in {source!r} or in a folder of it")
    found = {(i.category, *i.names): i for file in reversed(lists) for i in reversed(list(_read_list(file)))}
    return list(reversed(found.values()))


def _read_list(file: Path) -> Iterator[Instance]:
    """The lines ``onnx,vnnlib,timeout``; paths are relative to the folder of the list."""
    from provenn.specs import read_instances

    folder = file.resolve().parent
    for entry in read_instances(str(file)):
        network, property_path = folder / entry.network, folder / entry.property
        yield Instance(folder.name, network, property_path, entry.timeout)


def _run_all(instances: Sequence[Instance], plan: Plan, view: View) -> Iterator[tuple[Row, str]]:
    """Rows as they come, ``plan.jobs`` at a time. Whatever stops the caller ends the processes too."""
    running: set[subprocess.Popen[str]] = set()
    stop = threading.Event()
    waiting = iter(instances)
    with ThreadPoolExecutor(plan.jobs) as pool:
        tasks: set[Any] = set()
        try:
            while True:
                for instance in waiting:
                    view.started(instance)
                    tasks.add(pool.submit(_run_one, instance, plan, running, stop))
                    if len(tasks) == plan.jobs:
                        break
                if not tasks:
                    return
                finished, tasks = wait(tasks, return_when=FIRST_COMPLETED)
                for task in finished:
                    yield task.result()
        finally:
            stop.set()
            for process in list(running):
                process.send_signal(signal.SIGTERM)


def _run_one(instance: Instance, plan: Plan, running: set[Any], stop: threading.Event) -> tuple[Row, str]:
    """One instance in its process; an instance that fails in any way is a row with ``error``."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # no module of the current folder shadows a library
    limit, start = plan.limit(instance), time.monotonic()
    verdict, error = "error", ""
    try:
        process = subprocess.Popen(
            plan.arguments(instance),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
    except OSError as problem:
        return Row(instance.category, *instance.names, 0.0, "error", 0.0), str(problem)
    running.add(process)
    try:
        if stop.is_set():
            process.terminate()
        output, complaint = process.communicate(timeout=limit + OVERTIME)
        first = output.partition("\n")[0].strip()
        if process.returncode == ANSWERED and first in VERDICTS:
            verdict = first
        else:
            error = one_line(complaint) or f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        error = f"did not end {OVERTIME:g} s after its time limit"
    finally:
        seconds = time.monotonic() - start
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        running.discard(process)
    return Row(instance.category, *instance.names, 0.0, verdict, seconds), error


class _Results:
    """A results file: rows that are there, and rows appended, each on the disk before the next."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.rows: list[Row] = []

    def __enter__(self) -> _Results:
        try:
            self._file = open(self._path, "a+", newline="")
        except OSError as error:
            raise InputError(f"cannot write results {self._path!r}: {error.strerror}") from error
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def append(self, row: Row) -> None:
        """Add a row and wait until the disk has it."""
        try:
            self._file.write(row.text())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(f"cannot write results {self._path!r}: {error.strerror}") from error
        self.rows.append(row)

    def _lock(self) -> None:
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return
        except OSError as error:
            raise InputError(f"results {self._path!r} are being written by another bench") from error

    def _read(self) -> None:
        """Read the rows; a last line without an end was being written when the machine stopped, and is dropped."""
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind("\n") + 1]
        for number, cells in enumerate(csv.reader(whole.splitlines()), start=1):
            try:
                category, network, property_path, prepare_time, verdict, run_time = cells
                row = Row(category, network, property_path, float(prepare_time), verdict, float(run_time))
            except ValueError as error:
                raise InputError(
                    f"{self._path}:{number}: {','.join(cells)!r} is no line of a results file "
                    "(category,onnx,vnnlib,prepare_time,verdict,run_time): name another file with -o"
                ) from error
            self.rows.append(row)
        if whole != text:
            self._file.truncate(len(whole.encode()))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _name(category: str, path: Path) -> str:
    """The path from the family's folder on."""
    parts = path.parts
    if category in parts:
        last = len(parts) - 1 - parts[::-1].index(category)
        return "/".join(parts[last:])
    return str(path)


def _stem(name: str) -> str:
    """A file name for the path of a network or property, folders included: stems repeat between folders."""
    inner = name.split("/", 2)[-1]
    for ending in (".gz", ".onnx", ".vnnlib"):
        inner = inner.removesuffix(ending)
    return inner.replace("/", "_")


class PlainView:
    """A line per instance on standard output, errors on standard error: for pipes and logs."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out, self._err = out, err

    def begin(self, instances: Sequence[Instance], done: Sequence[Row]) -> None:
        """Nothing to say yet."""

    def started(self, instance: Instance) -> None:
        """Silent: the row tells."""

    def finished(self, row: Row, error: str) -> None:
        """Print the row."""
        self._out.write(f"{row.verdict:8}{row.run_time:9.2f} s  {row.network}  {row.property_path}\n")
        self._out.flush()
        if error:
            self._err.write(f"provenn: {row.network} {row.property_path}: {error}\n")
            self._err.flush()

    def end(self, rows: Sequence[Row]) -> None:
        """Print the table of families."""
        self._out.write("\n".join(table(rows)) + "\n")
        self._out.flush()


def table(rows: Sequence[Row]) -> list[str]:
    """Verdicts and seconds per family, and in all."""
    families = sorted({row.category for row in rows})
    lines = [f"{'family':20}" + "".join(f"{verdict:>9}" for verdict in VERDICTS) + f"{'seconds':>11}"]
    for family in [*families, "all"]:
        chosen = [row for row in rows if family in (row.category, "all")]
        counts = "".join(f"{sum(row.verdict == verdict for row in chosen):9}" for verdict in VERDICTS)
        lines.append(f"{family:20}{counts}{sum(row.run_time for row in chosen):11.1f}")
    return lines


def view(out: TextIO, err: TextIO) -> View:
    """The view that fits: live on a terminal, plain lines elsewhere."""
    if out.isatty():
        from provenn.verifier._live import LiveView

        return LiveView()
    return PlainView(out, err)
