"""Local Lipschitz constants against known ones: bounds, gaps and times of every row of a table.

Usage: python benchmarks/lipschitz.py TABLE.csv --timeout 60
The TABLE lies beside its networks (onnx, or onnx.gz) and has the columns ``net``, ``domain_lower`` and ``domain_upper``
(one number for all inputs, or inf), ``norm`` and ``exact_value``; where that is empty, ``exact_lower`` and
``exact_upper`` hold what is known, and ``refined_lower_bound``, if there, what is attained somewhere. Prints a markdown
table: what is known, the bounds, how far they are from the known value (from each other where it is not), seconds and
domains. The exit code is 1 if a bound contradicts what is known by more than the digits it is given with.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from provenn.bounds.graph import Graph, read_onnx
from provenn.verifier import LipschitzResult, local_lipschitz

# What a known value may be off relatively, for the digits that a table gives.
DIGITS = 1e-7


@dataclass(frozen=True)
class Row:
    """A constant and what is known of it: ``least <= constant <= most``, ``attained`` somewhere."""

    network: Path
    lower: float
    upper: float
    norm: str
    least: float
    most: float
    attained: float


def rows(table: Path) -> list[Row]:
    """The rows of a table."""
    with table.open(newline="") as file:
        return [_row(table.parent, fields) for fields in csv.DictReader(file)]


def _row(folder: Path, fields: dict[str, str]) -> Row:
    least, most = (
        float(fields["exact_value"] or fields.get(name) or other)
        for name, other in (("exact_lower", "0"), ("exact_upper", "inf"))
    )
    return Row(
        folder / fields["net"], float(fields["domain_lower"]), float(fields["domain_upper"]), fields["norm"],
        least, most, float(fields.get("refined_lower_bound") or 0),
    )  # fmt: skip


def read(network: Path) -> Graph:
    """The graph of a network, which may be compressed."""
    if network.suffix != ".gz":
        return read_onnx(network)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / network.stem
        plain.write_bytes(gzip.decompress(network.read_bytes()))
        return read_onnx(plain)


def wrong(row: Row, found: LipschitzResult) -> bool:
    """Whether the bounds contradict what is known."""
    least = max(row.least, row.attained) * (1 - DIGITS)
    return not (found.lower <= row.most * (1 + DIGITS) and found.upper >= least and found.lower <= found.upper)


def cells(row: Row, found: LipschitzResult) -> list[str]:
    """A row of the printed table."""
    known = f"{row.least:.9g}" if row.least == row.most else f"{row.least:.6g} to {row.most:.6g}"
    base = row.least if row.least == row.most else found.lower
    name = row.network.name.removesuffix(".gz").removesuffix(".onnx")
    box = "all" if row.upper == float("inf") else f"[{row.lower:g}, {row.upper:g}]"
    return [
        name, box, row.norm, known, f"{found.lower:.9g}", f"{found.upper:.9g}",
        f"{100 * (1 - found.lower / base):.3f} %", f"{100 * (found.upper / base - 1):.3f} %",
        f"{found.seconds:.1f}", str(found.domains),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Lipschitz constants against known ones, as a markdown table.")
    parser.add_argument("table", type=Path, metavar="TABLE.csv", help="networks, boxes, norms and constants")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each row (60)")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="relative gap that ends a row (1e-3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose network's name contains this")
    given = parser.parse_args()
    names = ["network", "box", "norm", "known", "lower", "upper", "lower off by", "upper off by", "seconds", "domains"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    contradictions = 0
    for row in rows(given.table):
        if given.only not in row.network.name:
            continue
        found = local_lipschitz(
            read(row.network), row.lower, row.upper, row.norm, tolerance=given.tolerance, timeout=given.timeout
        )
        contradictions += wrong(row, found)
        print(f"| {' | '.join(cells(row, found))} |{' WRONG' if wrong(row, found) else ''}", flush=True)
    if contradictions:
        sys.exit(f"{contradictions} rows contradict what is known")


if __name__ == "__main__":
    main()
