"""Random small networks against exact mixed-integer minima: every verdict is checked, most must be decided.

Usage: python benchmarks/random_networks.py --count 2000 [--first 0] [--jobs 1] [--timeout 20] [--kind several]
    [--results FILE]
Prints a table and exits 1 on any wrong verdict. With --results it appends a line for each network and, started
again, goes on where it stopped; networks whose minimum is in doubt are left out and replaced by the next seeds.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from of_tests import load

os.environ.setdefault("OMP_NUM_THREADS", "1")
FIELDS = (
    "seed", "family", "kind", "inputs", "distance", "truth", "verdict", "seconds", "milp_seconds", "domains",
    "programs", "strategy", "reason",
)  # fmt: skip


def run(job: tuple[int, float, str | None, dict]) -> dict | None:
    """Make the network of a seed and verify it; None where its truth is in doubt."""
    seed, timeout, kind, more = job
    import torch

    from provenn.verifier import Options, verify

    torch.set_num_threads(1)
    networks, truth = load("soundness/networks"), load("soundness/truth")
    begun = time.monotonic()
    network = networks.random_network(seed)
    case = truth.make_case(network, seconds=6.0, kind=kind)
    milp_seconds = time.monotonic() - begun
    row = {"seed": seed, "family": network.family, "inputs": network.steps[0].size}
    row["milp_seconds"] = round(milp_seconds, 2)
    if case is None:
        return row | {"verdict": "left out"}
    with tempfile.TemporaryDirectory() as folder:
        onnx = networks.write_onnx(network, Path(folder) / "network.onnx")
        vnnlib = networks.write_property(network, case.clauses, Path(folder) / "property.vnnlib")
        begun = time.monotonic()
        try:
            result = verify(onnx, vnnlib, Options(timeout=timeout, threads=1, device="cpu", **more))
        except Exception as error:  # noqa: BLE001 a crash is a result here
            return row | {"kind": case.kind, "truth": case.truth, "verdict": "crash", "reason": repr(error)}
    return row | {
        "kind": case.kind,
        "distance": f"{case.distance:.2e}",
        "truth": case.truth,
        "verdict": result.verdict,
        "seconds": round(time.monotonic() - begun, 2),
        "domains": result.statistics.get("domains"),
        "programs": result.statistics.get("programs"),
        "strategy": " | ".join(result.strategy),
        "reason": result.reason,
    }


def known(path: Path | None) -> list[dict]:
    if path is None or not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def report(rows: list[dict]) -> int:
    """Print the table; return the number of wrong verdicts."""
    judged = [r for r in rows if r["verdict"] != "left out"]
    wrong = [r for r in judged if {r["truth"], r["verdict"]} == {"sat", "unsat"}]
    undecided = [r for r in judged if r["verdict"] not in ("sat", "unsat")]
    print(
        f"{'family':10} {'count':>6} {'sat':>6} {'unsat':>6} {'open':>6} {'wrong':>6} {'mean s':>7} {'max s':>7}"
    )
    for family in [*sorted({r["family"] for r in judged}), "all"]:
        part = [r for r in judged if family in (r["family"], "all")]
        truths = Counter(r["truth"] for r in part)
        seconds = [float(r["seconds"] or 0) for r in part]
        bad, left = (sum(r in part for r in group) for group in (wrong, undecided))
        mean, most = sum(seconds) / max(1, len(part)), max(seconds, default=0)
        print(
            f"{family:10} {len(part):6} {truths['sat']:6} {truths['unsat']:6} {left:6} {bad:6} {mean:7.2f} {most:7.2f}"
        )
    if judged:
        share, doubtful = 100 * len(undecided) / len(judged), len(rows) - len(judged)
        print(f"undecided: {share:.2f} %; left out (minimum in doubt): {doubtful}")
    for row in wrong:
        print(
            f"WRONG: seed {row['seed']} ({row['family']}, {row['kind']}): {row['verdict']}, truth {row['truth']}"
        )
    return len(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=20)
    parser.add_argument("--kind", help="of property, for all: single, pair, either, difference or several")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--report", action="store_true", help="only print the table of --results")
    arguments = parser.parse_args()
    rows = known(arguments.results)
    done = {int(r["seed"]) for r in rows}
    judged = sum(r["verdict"] != "left out" for r in rows)
    file = writer = None
    if arguments.results is not None and not arguments.report:
        fresh = not arguments.results.exists()
        file = arguments.results.open("a", newline="")
        writer = csv.DictWriter(file, FIELDS)
        if fresh:
            writer.writeheader()
    if not arguments.report and judged < arguments.count:
        seeds = (s for s in range(arguments.first, arguments.first + 100 * arguments.count) if s not in done)
        jobs = ((seed, arguments.timeout, arguments.kind, {}) for seed in seeds)
        with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
            for row in pool.imap(run, _lazily(jobs, 4 * arguments.jobs)):
                assert row is not None
                rows.append(row)
                judged += row["verdict"] != "left out"
                if writer is not None and file is not None:
                    writer.writerow(row)
                    file.flush()
                if row["verdict"] not in (row.get("truth"), "left out"):
                    print({k: row[k] for k in ("seed", "family", "truth", "verdict") if k in row}, flush=True)
                if judged >= arguments.count:
                    break
            pool.terminate()
    return 1 if report(rows) else 0


def _lazily(jobs, ahead: int):
    """Hand out jobs no further ahead than needed: ``imap`` reads its iterator to the end at once."""
    yield from jobs


if __name__ == "__main__":
    sys.exit(main())
