"""Results in the competition's format: category, network, property, prepare_time, result, run_time."""

from __future__ import annotations

import builtins
import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from provenn.errors import InputError
from provenn.specs._instances import Instance


@dataclass(frozen=True)
class ResultRow:
    """One line of a results file; times in seconds."""

    category: str
    network: str
    property: str
    prepare_time: float
    result: str
    run_time: float

    @builtins.property  # a field has the plain name
    def key(self) -> tuple[str, str, str]:
        """What identifies the instance."""
        return self.category, _plain(self.network), _plain(self.property)


def _plain(name: str) -> str:
    return os.path.normpath(name).removesuffix(".gz")


def read_results(path: str | Path) -> list[ResultRow]:
    """The rows of a results file; none if it does not exist. An unfinished last line is ignored.

    Raises InputError with file:line for a malformed line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a results file ({error})") from None
    text = text[: text.rfind("\n") + 1]
    rows = []
    reader = csv.reader(io.StringIO(text))
    for row in reader:
        if not row:
            continue
        try:
            category, network, name, prepare, result, seconds = row
            rows.append(ResultRow(category, network, name, float(prepare), result, float(seconds)))
        except ValueError:
            raise InputError(
                f"{path}:{reader.line_num}: expected category,network,property,prepare_time,result,run_time; "
                "mend or remove the line"
            ) from None
    return rows


def append_result(path: str | Path, row: ResultRow) -> None:
    """Add a row, on disk when this returns. What a crash left of an unfinished line is removed first."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        [
            row.category,
            row.network,
            row.property,
            f"{row.prepare_time:.6g}",
            row.result,
            f"{row.run_time:.6g}",
        ]
    )
    try:
        with open(path, "ab+") as file:
            file.seek(0)
            content = file.read()
            complete = content.rfind(b"\n") + 1
            if complete != len(content):
                file.truncate(complete)
            file.write(line.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); name another file"
        ) from None


def unfinished(instances: list[Instance], path: str | Path) -> list[Instance]:
    """The instances that the results file at `path` has no row for: where to resume.

    An instance listed twice is owed two rows.
    """
    done: dict[tuple[str, str, str], int] = {}
    for row in read_results(path):
        done[row.key] = done.get(row.key, 0) + 1
    left = []
    for instance in instances:
        key = (instance.category, _plain(instance.network), _plain(instance.property))
        if done.get(key, 0):
            done[key] -= 1
        else:
            left.append(instance)
    return left
