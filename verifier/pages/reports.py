"""What the JSON reports of ``provenn bench --reports DIR`` say of the rows of a results file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenn.errors import InputError
from provenn.specs import ResultRow, read_bytes
from provenn.verifier.batch import stem
from provenn.verifier.history import COLUMNS

OPTIONS = {"timeout": "{} s", "device": "device {}", "threads": "{} threads", "memory": "{} GB", "seed": "seed {}"}
VERSIONS = ("provenn", "torch", "onnxruntime", "platform")
MOST_OPEN = 10**15
"""More open domains than any run has."""


@dataclass(frozen=True)
class Moment:
    """A point of time of a run; ``open`` and ``bound`` are None where it had none."""

    seconds: float
    stage: str
    open: int | None
    bound: float | None


@dataclass(frozen=True)
class Report:
    """A JSON report, as far as the page shows it; ``domains`` were bounded."""

    reason: str
    domains: int | None
    history: Sequence[Moment]


class Reports:
    """The reports in a folder, read when asked for. ``stale`` counts those of another run than the row's, ``settings``
    those with the same options and versions."""

    def __init__(self, folder: str | None) -> None:
        if folder is not None and not os.path.isdir(folder):
            raise InputError(f"reports {folder!r} is no folder; name the one that bench --reports wrote")
        self._folder = folder
        self._read: dict[str, Report | None] = {}
        self.stale = 0
        self.settings: Counter[str] = Counter()

    def of(self, row: ResultRow) -> Report | None:
        """The report of a row, None where the folder has none. Raises InputError for a file that is no report."""
        if self._folder is None:
            return None
        name = stem(row).replace("/", "_")
        if name not in self._read:
            path = Path(self._folder) / f"{name}.json"
            self._read[name] = self._of(path, row) if os.path.exists(path) else None
        return self._read[name]

    def _of(self, path: Path, row: ResultRow) -> Report | None:
        try:
            content = json.loads(read_bytes(path).decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is not UTF-8 text; remove the file or run its instance again") from error
        except RecursionError as error:
            raise InputError(f"{path}: is nested too deeply for a report; remove it") from error
        except ValueError as error:
            raise InputError(f"{path}: is no JSON ({error}); remove it or run its instance again") from error
        report = _report(content, path)
        # A run that fails prints nothing, or "unknown", and the row says "error".
        if row.result != content.get("verdict") and row.result != "error":
            self.stale += 1
            return None
        self.settings[_setting(content)] += 1
        return report


def _setting(content: Mapping[str, Any]) -> str:
    """What a run was told and what it was run by, in words."""
    options, versions = (content.get(key) for key in ("options", "versions"))
    parts = []
    if isinstance(options, dict):
        parts += [text.format(options[name]) for name, text in OPTIONS.items() if options.get(name) is not None]
    if isinstance(versions, dict):
        parts += [f"{name} {versions[name]}" for name in VERSIONS if name in versions]
    return ", ".join(part[:100] for part in parts)


def _report(content: Any, path: Path) -> Report:
    wrong = f"{path}: is no report of provenn ({{}}); remove it or run its instance again"
    if not isinstance(content, dict):
        raise InputError(wrong.format("not an object"))
    reason, statistics, history = (content.get(key) for key in ("reason", "statistics", "history"))
    if not isinstance(reason, str):
        raise InputError(wrong.format(f"reason is {reason!r:.40}"))
    domains = statistics.get("domains") if isinstance(statistics, dict) else None
    moments: list[Moment] = []
    if history is not None:  # reports had none before
        names = ("seconds", *COLUMNS)
        columns = [history.get(name) for name in names] if isinstance(history, dict) else []
        lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
        if len(lengths) != 1 or -1 in lengths:
            raise InputError(wrong.format(f"history is not lists of one length called {', '.join(names)}"))
        moments = list(_moments(history, wrong))
    return Report(reason, domains if isinstance(domains, int) else None, moments)


def _moments(history: Mapping[str, list[Any]], wrong: str) -> Sequence[Moment]:
    moments = []
    rows = zip(*(history[name] for name in ("seconds", "stage", "open", "bound")), strict=True)
    for number, (seconds, stage, open_, bound) in enumerate(rows):
        if not _is_number(seconds) or not isinstance(stage, str):
            raise InputError(wrong.format(f"moment {number} of its history is {seconds!r:.40}, {stage!r:.40}"))
        moments.append(
            Moment(
                seconds,
                stage,
                open_ if isinstance(open_, int) and 0 <= open_ < MOST_OPEN else None,
                bound if _is_number(bound) else None,  # infinite ones are text
            )
        )
    return sorted(moments, key=lambda moment: moment.seconds)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
