"""What branching is worth: solved instances and domains for each way to choose a split and its point.

Usage: python benchmarks/ablation.py FOLDER... --timeout 60
Every FOLDER holds an ``instances.csv`` (network, property, seconds). Each instance is verified without branching, by
neuron splits chosen as GenBaB's baseline and GenBaB itself choose them (arXiv 2405.21063), and as the defaults do; no
inputs are split. Prints a markdown table: solved, and the median number of domains of the instances that branching
solves, some way; one that a way does not solve counts as infinitely many for it. What is solved without branching is
not verified again. Counts of domains, not seconds; but how many are bounded before the time is over depends on the
machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from provenn.errors import ProvennError
from provenn.specs import Instance, read_instances
from provenn.verifier import Options, verify

WAYS: dict[str, dict[str, str]] = {
    "no branching": {"branching": "none"},
    "intercepts, midpoints": {"score": "intercept", "split_points": "midpoint"},
    "shortcuts, midpoints": {"score": "shortcut", "split_points": "midpoint"},
    "shortcuts, optimised points": {"score": "shortcut", "split_points": "optimised"},
    "minimiser, midpoints": {"score": "minimiser", "split_points": "midpoint"},
    "minimiser, optimised points": {"score": "minimiser", "split_points": "optimised"},
}


@dataclass(frozen=True)
class Outcome:
    """How one instance ended one way."""

    solved: bool
    domains: int


def outcome(instance: Instance, way: dict[str, str], timeout: float) -> Outcome:
    """Verify one instance one way."""
    options = Options(**{"branching": "neurons", **way}, timeout=timeout, threads=1, device="cpu")  # type: ignore[arg-type]
    try:
        result = verify(instance.network_path, instance.property_path, options)
    except ProvennError as error:
        print(f"{instance.network}, {instance.property}: {error}", file=sys.stderr)
        return Outcome(False, 0)
    print(instance.property, way, result.verdict, result.statistics["domains"], file=sys.stderr, flush=True)
    return Outcome(result.verdict in ("sat", "unsat"), result.statistics["domains"])


def rows(folder: Path, timeout: float) -> list[str]:
    """The table's rows for one folder."""
    first, *others = WAYS
    plain = {one: outcome(one, WAYS[first], timeout) for one in read_instances(folder / "instances.csv")}
    solved = sum(found.solved for found in plain.values())
    left = [one for one, found in plain.items() if not found.solved]
    table = {name: [outcome(one, WAYS[name], timeout) for one in left] for name in others}
    tree = [i for i in range(len(left)) if any(found[i].solved for found in table.values())]
    result = [f"| {folder.name} | {first} | {solved} of {len(plain)} | - |"]
    for name, found in table.items():
        domains = [found[i].domains if found[i].solved else math.inf for i in tree]
        count = solved + sum(one.solved for one in found)
        result.append(f"| {folder.name} | {name} | {count} of {len(plain)} | {_median(domains)} |")
    return result


def _median(domains: list[float]) -> str:
    if not domains:
        return "-"
    middle = statistics.median_low(domains)
    return f"{'not solved' if math.isinf(middle) else f'{middle:.0f}'} ({len(domains)})"


def main() -> None:
    parser = argparse.ArgumentParser(description="What branching is worth, as a markdown table.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a folder with an instances.csv")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each instance and way (60)")
    given = parser.parse_args()
    print("| family | way | solved | median domains (instances) |\n|---|---|---|---|")
    for folder in given.folders:
        print("\n".join(rows(folder, given.timeout)), flush=True)


if __name__ == "__main__":
    main()
