"""Results of any tool: the competition's six columns, or a table whose header names its columns."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from provenn.errors import InputError
from provenn.specs._files import read_bytes
from provenn.specs._results import ResultRow

VERDICTS = ("unsat", "sat", "unknown", "timeout", "error")
PLAIN = ("category", "network", "property", "prepare_time", "result", "run_time")
NAMES = {
    "category": ("category", "benchmark", "family"),
    "network": ("network", "onnx", "model"),
    "property": ("property", "vnnlib", "spec"),
    "result": ("result", "verdict", "status", "truth"),
    "run_time": ("run_time", "seconds", "time", "wall_total_s", "wall_time", "runtime"),
    "prepare_time": ("prepare_time",),
    "config": ("config", "configuration"),
    "limit": ("timeout_s", "timeout", "limit"),
}
"""What a header may call a column. Without ``category`` a row belongs to whatever instance its names fit."""
NEEDED = ("network", "property", "result")
WORDS = {"holds": "unsat", "violated": "sat", "timed-out": "timeout", "timed_out": "timeout"}
ENDED = ("killed", "error", "crash", "memout", "oom", "out_of_memory", "prepare_instance", "no_result")
"""How words begin that stand for a run without an answer."""


@dataclass(frozen=True)
class Table:
    """The results of one tool (or of one of its configurations): ``result`` of every row is one of ``VERDICTS``.

    ``timed`` is False for known answers, whose file has no seconds; ``run_time`` is 0 then.
    """

    name: str
    rows: Sequence[ResultRow]
    timed: bool = True


def read_tables(path: str | Path, name: str) -> list[Table]:
    """The results in a file, one table for each word of its column ``config`` (a single one without that column).

    ``name`` is the tool's. The competition's words (``holds``, ``violated``, ...) become ours. A last line without an
    end that is no whole row is left out, as it is by ``bench``.
    Raises InputError with file:line for a malformed line, and where there are no rows.
    """
    text = _text(path)
    reader = csv.reader(io.StringIO(text), skipinitialspace=True, strict=True)
    columns: dict[str, int] | None = None
    found: dict[str, list[ResultRow]] = {}
    last = text.count("\n") + 1  # an empty line where the text ends with a whole one
    begun = 1  # the line on which the row at hand begins
    try:
        for cells in reader:
            first, begun = begun, reader.line_num + 1
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            where = f"{path}:{first}"
            if columns is None:
                columns, header = _columns(cells, where)
                if header:
                    continue
            try:
                config, row = _row(cells, columns, where)
            except InputError:
                if first == last:
                    break  # of a run that is going on, or was cut off
                raise
            found.setdefault(config, []).append(row)
    except csv.Error as error:
        if begun < last or not found:
            raise InputError(f"{path}:{begun}: {error}; mend the quotes") from None
    if not found:
        raise InputError(f"{path}: has no results, expected lines of {','.join(PLAIN)}")
    timed = columns is not None and "run_time" in columns
    return [Table(f"{name} ({config})" if config else name, rows, timed) for config, rows in found.items()]


def _text(path: str | Path) -> str:
    data = read_bytes(path)
    if b"\0" in data:
        raise InputError(f"{path}: is no results file but a binary file; name a CSV file of results")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: is not UTF-8 text; save the file as UTF-8") from None


def _columns(cells: list[str], where: str) -> tuple[dict[str, int], bool]:
    """The place of every column, and whether these cells are a header."""
    words = [cell.lower() for cell in cells]
    known = {alias for aliases in NAMES.values() for alias in aliases}
    if sum(word in known for word in words) < 3:
        return dict(zip(PLAIN, range(len(PLAIN)), strict=True)), False
    columns = {}
    for column, aliases in NAMES.items():
        places = [words.index(alias) for alias in aliases if alias in words]
        if places:
            columns[column] = places[0]
        elif column in NEEDED:
            raise InputError(
                f"{where}: the header has no column {column!r} (nor {', '.join(map(repr, aliases[1:]))}); add one"
            )
    return columns, True


def _row(cells: list[str], columns: dict[str, int], where: str) -> tuple[str, ResultRow]:
    if len(cells) <= max(columns.values()):
        expected = ",".join(sorted(columns, key=columns.__getitem__))
        raise InputError(f"{where}: got {len(cells)} columns, expected {expected}; mend or remove the line")

    def cell(column: str) -> str:
        return cells[columns[column]] if column in columns else ""

    for column in ("network", "property"):
        if not cell(column):
            raise InputError(f"{where}: the {column} is empty; mend or remove the line")
    word = cell("result").lower()
    answered = word in ("sat", "unsat", "holds", "violated")
    seconds = _seconds(cell, "run_time", where, needed=answered and "run_time" in columns)
    limit = _seconds(cell, "limit", where, needed=False)
    verdict = WORDS.get(word, word)
    if word.startswith("killed") and 0 < limit <= seconds:
        verdict = "timeout"
    elif verdict not in VERDICTS and word.startswith(ENDED):
        verdict = "error"
    elif verdict not in VERDICTS and "timeout" in word:
        verdict = "timeout"
    if verdict not in VERDICTS:
        expected = ", ".join((*VERDICTS, *list(WORDS)[:2]))
        raise InputError(f"{where}: the result is {cell('result')!r}, expected one of {expected}; mend the line")
    prepare = _seconds(cell, "prepare_time", where, needed=False)
    row = ResultRow(cell("category"), cell("network"), cell("property"), prepare, verdict, seconds)
    return cell("config"), row


def _seconds(cell: Callable[[str], str], column: str, where: str, *, needed: bool) -> float:
    """A number of seconds; 0 for an empty cell where none is needed."""
    text = cell(column)
    if not text and not needed:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{where}: {column} is {text!r}, expected seconds; mend or remove the line")
    return seconds
