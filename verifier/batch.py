"""Runs a benchmark: every instance in a process of its own, results on disk as they come, resumable."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
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
from provenn.verifier import launch
from provenn.verifier.arguments import named
from provenn.verifier.launch import Job, Launcher, launcher
from provenn.verifier.options import available_threads
from provenn.verifier.report import ANSWERED, REFUSED, deliver
from provenn.verifier.targets import check_target, make_folder
from provenn.verifier.watchdog import raising_on_termination


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
    question: Callable[[Instance], dict[str, Any]] | None = None
    """What is asked instead of properties in files. A refusal ends the run then: it is about all instances."""
    launcher: Callable[[int], Launcher] = launcher

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise InputError(f"bench got timeout={self.timeout!r}, expected a positive number of seconds")

    @property
    def threads_each(self) -> int:
        """Threads of one instance."""
        return self.threads or max(1, available_threads() // self.jobs)

    def limit(self, instance: Instance) -> float:
        """Seconds that an instance gets."""
        return instance.timeout if self.timeout is None else self.timeout

    def job(self, instance: Instance, keep: bool = False) -> Job:
        """What has to be answered for one instance; ``keep``: others are about the same network."""
        options = {
            "timeout": self.limit(instance),
            "device": self.device,
            "threads": self.threads_each,
            "memory": self.memory,
            "seed": self.seed,
        }
        networks = {name: str(resolve(instance.folder / p)) for name, p in several(instance.network).items()}
        network = networks or str(instance.network_path)
        if self.question is not None:
            asked = self.question(instance)
            return Job(
                networks=network, property_path=instance.property, options=options, question=asked, keep=keep
            )
        return Job(networks=network, property_path=str(instance.property_path), options=options, keep=keep)

    def files(self, instance: Instance) -> dict[str, str | None]:
        """Where an instance's witness and report go."""
        name = stem(instance)
        return {
            "witness": None if self.witnesses is None else str(Path(self.witnesses) / f"{name}.counterexample"),
            "json_file": None if self.reports is None else str(Path(self.reports) / f"{name}.json"),
        }


class View(Protocol):
    """Where the bench says how it goes."""

    def begin(self, total: int, left: int) -> None: ...
    def started(self, instance: Instance) -> None: ...
    def finished(self, row: ResultRow, error: str, ahead: float) -> None:
        """``ahead``: seconds that the rest will take, about."""

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
    return run_instances(instances, output, plan, view)


def run_instances(instances: list[Instance], output: str, plan: Plan, view: View) -> list[ResultRow]:
    """The same for instances that are in no list."""
    for folder in (plan.witnesses, plan.reports):
        if folder is not None:
            make_folder(folder)
    with _exclusive(output):
        left = unfinished(instances, output)
        view.begin(len(instances), len(left))
        ahead = Estimate(left, plan.jobs)
        try:
            _clean(plan, left)
            with raising_on_termination(), contextlib.closing(_run_all(left, plan, view)) as rows:
                for row, error in rows:
                    append_result(output, row)
                    view.finished(row, error, ahead(row))
        finally:
            view.end(read_results(output))
    return read_results(output)


class Estimate:
    """Foretells the seconds that are left from the families' means so far."""

    def __init__(self, left: Sequence[Instance], jobs: int) -> None:
        self._left = Counter(instance.category for instance in left)
        self._jobs = jobs
        self._spent: Counter[str] = Counter()
        self._done: Counter[str] = Counter()

    def __call__(self, row: ResultRow) -> float:
        """Count a row; what the others will take, a family without any row as the mean of all."""
        self._left[row.category] -= 1
        self._done[row.category] += 1
        self._spent[row.category] += row.run_time  # type: ignore[assignment]
        mean = sum(self._spent.values()) / sum(self._done.values())
        return sum(
            count * (self._spent[name] / self._done[name] if self._done[name] else mean)
            for name, count in self._left.items()
        ) / min(self._jobs, max(1, sum(self._left.values())))


def _clean(plan: Plan, left: Sequence[Instance]) -> None:
    """Remove what a bench that was killed had begun to write for these instances (see ``targets.write_bytes``)."""
    wanted = {Path(path) for one in left for path in plan.files(one).values() if path is not None}
    for folder in {path.parent for path in wanted}:
        for part in folder.glob("*.part"):
            if part.with_suffix("").with_suffix("") in wanted:
                part.unlink(missing_ok=True)


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
    if not instances:
        return
    networks = Counter((instance.folder, instance.network) for instance in instances)
    waiting = iter(instances)
    started = plan.launcher(plan.threads_each)
    with ThreadPoolExecutor(plan.jobs) as pool:
        tasks: set[Any] = set()
        try:
            while True:
                for instance in waiting:
                    view.started(instance)
                    keep = networks[instance.folder, instance.network] > 1
                    tasks.add(pool.submit(_run_one, instance, plan, started, keep))
                    if len(tasks) == plan.jobs:
                        break
                if not tasks:
                    return
                finished, tasks = wait(tasks, return_when=FIRST_COMPLETED)
                for task in finished:
                    yield task.result()
        finally:
            started.close()


def _run_one(instance: Instance, plan: Plan, started: Launcher, keep: bool) -> tuple[ResultRow, str]:
    """One instance in its process; an instance that fails in any way is a row with ``error``."""
    answer, seconds = launch.answer(started, plan.job(instance, keep))
    if plan.question is not None and answer.code == REFUSED:
        raise InputError(answer.error)
    verdict = answer.report["verdict"] if answer.code in (ANSWERED, REFUSED) else "error"
    errors = deliver(answer, lambda text: None, **plan.files(instance))  # a verdict stands without its files
    return _row(instance, verdict, seconds), " | ".join(errors)


def several(network: str) -> dict[str, str]:
    """Files by name where an instance lists several networks, empty where not; a list that is none is left to
    ``verify``."""
    with contextlib.suppress(InputError):
        networks = named(network)
        if isinstance(networks, Mapping):
            return {name: os.fspath(path) for name, path in networks.items()}
    return {}


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

    def finished(self, row: ResultRow, error: str, ahead: float) -> None:
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
