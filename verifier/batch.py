"""Runs a benchmark: every instance in a process of its own, results on disk as they come, resumable."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from provenn.errors import InputError
from provenn.specs import (
    VERDICTS,
    Instance,
    ResultRow,
    append_result,
    read_instances,
    read_results,
    resolve,
    unfinished,
)
from provenn.verifier.arguments import named
from provenn.verifier.options import available_threads
from provenn.verifier.report import ANSWERED, REFUSED, one_line
from provenn.verifier.targets import check_target, make_folder
from provenn.verifier.watchdog import raising_on_termination

OVERTIME = 10.0
"""Seconds after its own limit at which a process that does not end by itself is ended."""


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
        threads = self.threads or max(1, available_threads() // self.jobs)
        command = [*self.command, _network(instance), str(instance.property_path)]
        command += ["--timeout", repr(self.limit(instance)), "--device", self.device]
        command += ["--threads", str(threads), "--seed", str(self.seed)]
        if self.memory is not None:
            command += ["--memory", f"{self.memory:g}"]
        name = stem(instance)
        if self.witnesses is not None:
            command += ["--witness", str(Path(self.witnesses) / f"{name}.counterexample")]
        if self.reports is not None:
            command += ["--json", str(Path(self.reports) / f"{name}.json")]
        return command


class View(Protocol):
    """Where the bench says how it goes."""

    def begin(self, total: int, left: int) -> None: ...
    def started(self, instance: Instance) -> None: ...
    def finished(self, row: ResultRow, error: str) -> None: ...
    def end(self, rows: Sequence[ResultRow]) -> None: ...


def run(source: str, output: str, plan: Plan, view: View) -> list[ResultRow]:
    """Run what ``output`` does not have yet and return all its rows.

    ``source`` is an instances.csv, a family's folder with one in it, or a folder of such folders. Raises
    InputError for a source without instances and for a results file that is not one or is in use.
    """
    instances = read_instances(source)
    lists = [path for path in (source, os.path.join(source, "instances.csv")) if os.path.isfile(path)]
    if os.path.isfile(output) and any(os.path.samefile(output, path) for path in lists):
        raise InputError(f"results {output!r} is the list of instances; name another")
    for folder in (plan.witnesses, plan.reports):
        if folder is not None:
            make_folder(folder)
    with _exclusive(output):
        left = unfinished(instances, output)
        view.begin(len(instances), len(left))
        try:
            with raising_on_termination(), contextlib.closing(_run_all(left, plan, view)) as rows:
                for row, error in rows:
                    append_result(output, row)
                    view.finished(row, error)
        finally:
            view.end(read_results(output))
    return read_results(output)


@contextlib.contextmanager
def _exclusive(path: str) -> Iterator[None]:
    """Hold a results file for one bench: two would run, and write, every instance twice."""
    if os.path.exists(path) and not os.path.isfile(path):  # a device may be read for ever
        raise InputError(f"results {path!r} is not a regular file; name another")
    check_target(path, "results")
    try:
        file = open(path, "a")  # noqa: SIM115 (held by the with below)
    except OSError as error:
        raise InputError(f"cannot write results {path!r}: {error.strerror}") from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except BlockingIOError as error:
            raise InputError(f"results {path!r} are being written by another bench") from error
        except OSError:
            pass  # a file system without locks
        yield


def _run_all(
    instances: Sequence[Instance], plan: Plan, view: View
) -> Generator[tuple[ResultRow, str], None, None]:
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


def _run_one(
    instance: Instance, plan: Plan, running: set[Any], stop: threading.Event
) -> tuple[ResultRow, str]:
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
        return _row(instance, "error", 0.0), str(problem)
    running.add(process)
    try:
        if stop.is_set():
            process.terminate()
        output, complaint = process.communicate(timeout=limit + OVERTIME)
        first = output.partition("\n")[0].strip()
        if process.returncode in (ANSWERED, REFUSED) and first in VERDICTS:
            verdict = first  # REFUSED with a verdict: a file could not be written, the verdict stands
        if process.returncode != ANSWERED or verdict == "error":
            error = one_line(complaint).removeprefix("provenn: ") or f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        error = f"did not end {OVERTIME:g} s after its time limit"
    finally:
        seconds = time.monotonic() - start
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        running.discard(process)
    return _row(instance, verdict, seconds), error


def several(network: str) -> dict[str, str]:
    """Files by name where an instance lists several networks, empty where not; a list that is none is left to
    ``verify``."""
    with contextlib.suppress(InputError):
        networks = named(network)
        if isinstance(networks, Mapping):
            return {name: os.fspath(path) for name, path in networks.items()}
    return {}


def _network(instance: Instance) -> str:
    """What ``verify`` takes as the network: a file or a list of them."""
    found = [(name, str(resolve(instance.folder / path))) for name, path in several(instance.network).items()]
    return repr(found) if found else str(instance.network_path)


def stem(instance: Instance | ResultRow) -> str:
    """A file name, without its ending, for an instance, folders included: the same names repeat between folders."""
    parts = [instance.category]
    for name in ("_".join(several(instance.network)) or instance.network, instance.property):
        inner = name.removesuffix(".gz").removesuffix(".onnx").removesuffix(".vnnlib")
        parts.append(inner.removeprefix("./").removeprefix("onnx/").removeprefix("vnnlib/").replace("/", "_"))
    return "__".join(parts)


def _row(instance: Instance, verdict: str, seconds: float) -> ResultRow:
    return ResultRow(instance.category, instance.network, instance.property, 0.0, verdict, round(seconds, 3))


class PlainView:
    """A line per instance on standard output, errors on standard error: for pipes and logs."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out, self._err = out, err

    def begin(self, total: int, left: int) -> None:
        """Say how much is done already."""
        if left < total:
            self._out.write(f"{total - left} of {total} instances had a row already\n")
            self._out.flush()

    def started(self, instance: Instance) -> None:
        """Silent: the row tells."""

    def finished(self, row: ResultRow, error: str) -> None:
        """Print the row."""
        self._out.write(f"{row.result:8}{row.run_time:9.2f} s  {row.network}  {row.property}\n")
        self._out.flush()
        if error:
            self._err.write(f"provenn: {row.network} {row.property}: {error}\n")
            self._err.flush()

    def end(self, rows: Sequence[ResultRow]) -> None:
        """Print the table of families."""
        self._out.write("\n".join(table(rows)) + "\n")
        self._out.flush()


def table(rows: Sequence[ResultRow]) -> list[str]:
    """Verdicts and seconds per family, and in all."""
    families = sorted({row.category for row in rows})
    lines = [f"{'family':20}" + "".join(f"{verdict:>9}" for verdict in VERDICTS) + f"{'seconds':>11}"]
    for family in [*families, "all"]:
        chosen = [row for row in rows if family in (row.category, "all")]
        counts = "".join(f"{sum(row.result == verdict for row in chosen):9}" for verdict in VERDICTS)
        lines.append(f"{family:20}{counts}{sum(row.run_time for row in chosen):11.1f}")
    return lines


def view(out: TextIO, err: TextIO) -> View:
    """The view that fits: live on a terminal, plain lines elsewhere."""
    if out.isatty():
        from provenn.verifier._live import LiveView

        return LiveView()
    return PlainView(out, err)
