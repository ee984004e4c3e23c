"""A judged run for each of many seeds, for the scripts that try random graphs: faults shown at once, rows kept."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

SHOWN = ("seed", "norm", "truth", "verdict", "fault")


def rows_of(
    run: Callable[[int], dict], seeds: Iterable[int], fields: Sequence[str], results: Path | None
) -> list[dict]:
    """The row of each seed; a fault is printed at once, and each row is appended to ``results`` as soon as it is made.

    :param run: makes the row of a seed: a dictionary with at least ``fault``, empty where nothing is wrong.
    :param fields: columns of the CSV file ``results``; what else a row has is left out there.
    """
    rows = []
    for seed in seeds:
        row = run(seed)
        rows.append(row)
        if row["fault"]:
            print({name: row[name] for name in SHOWN if name in row}, flush=True)
        if results is not None:
            fresh = not results.exists()
            with results.open("a", newline="") as file:
                writer = csv.DictWriter(file, fields, extrasaction="ignore")
                if fresh:
                    writer.writeheader()
                writer.writerow(row)
    return rows
