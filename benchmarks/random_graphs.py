"""Random small graphs of all operators against dense sampling: every verdict and every box is checked.

Usage: python benchmarks/random_graphs.py --count 1000 [--first 0] [--timeout 5] [--evaluations 1000000]
    [--results FILE]
A proof must survive that many evaluations in float64 and a local search from the 100 worst, whose result is replayed on
onnxruntime; a witness is replayed; boxes of all values must hold what samples attain. Wrong ones and crashes are
printed first, and the exit code is 1 where there are any. With --results it appends a line for each graph.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from of_tests import load
from seeds import rows_of

os.environ.setdefault("OMP_NUM_THREADS", "1")
FIELDS = (
    "seed", "inputs", "nodes", "element", "truth", "verdict", "seconds", "domains", "fault", "reason", "operators",
)  # fmt: skip


def run(seed: int, timeout: float, evaluations: int, graphs, recipes: dict, sampling) -> dict:
    """Make the graph of a seed, verify it and judge the verdict and the boxes."""
    from provenn.bounds.graph import read_onnx
    from provenn.verifier import Options, verify

    made = graphs.random_graph(seed, recipes)
    row = {"seed": seed, "inputs": len(made.lower), "nodes": len(made.model.graph.node), "element": made.element}
    row |= {"operators": " ".join(made.operators), "fault": ""}
    with tempfile.TemporaryDirectory() as folder:
        onnx = made.write(Path(folder) / "network.onnx")
        try:
            found = sampling.make_case(made, read_onnx(onnx), min(evaluations, 40_000))
            if found is None:
                return row | {"verdict": "left out", "reason": "outputs are no numbers, or sit on a jump"}
            case, row["truth"] = found
            apart = sampling.disagreement(case, sampling.runtime(case))
            if apart > sampling.APART:
                row["fault"] = f"the import differs from onnxruntime by {apart:.2g}"
            row["fault"] += "; ".join(sampling.escaped(case, seconds=timeout))
            (Path(folder) / "property.vnnlib").write_text(sampling.property_text(case))
            begun = time.monotonic()
            options = Options(timeout=timeout, threads=1, device="cpu", seed=seed)
            result = verify(onnx, Path(folder) / "property.vnnlib", options)
            row |= {"verdict": result.verdict, "seconds": round(time.monotonic() - begun, 2), "reason": result.reason}
            row["domains"] = result.statistics.get("domains")
            witness = None if result.witness is None else result.witness.inputs
            row["fault"] += sampling.wrong(case, result.verdict, witness, evaluations)
        except Exception as error:  # noqa: BLE001 a crash is a result here
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            return row | {"verdict": "crash", "fault": f"{place}: {error!r}"[:300]}
    return row


def report(rows: list[dict]) -> int:
    """Print the table; return the number of faults."""
    faults = [row for row in rows if row["fault"]]
    for row in faults:
        print(f"WRONG: seed {row['seed']} ({row.get('truth')}, {row['verdict']}): {row['fault']}")
    table = Counter((row.get("truth", "-"), row["verdict"]) for row in rows)
    print(f"{'expected':10} {'verdict':10} {'count':>6}")
    for (truth, verdict), count in sorted(table.items()):
        print(f"{truth:10} {verdict:10} {count:6}")
    used = Counter(name for row in rows for name in row["operators"].split())
    seconds = sum(float(row.get("seconds") or 0) for row in rows)
    print(f"{len(rows)} graphs, {len(used)} operators, {seconds:.0f} s of verification, {len(faults)} faults")
    print("least used: " + ", ".join(f"{name} {count}" for name, count in used.most_common()[:-13:-1]))
    return len(faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", "--seed", type=int, default=0, help="seed of the first graph")
    parser.add_argument("--timeout", type=float, default=5)
    parser.add_argument("--evaluations", type=int, default=1_000_000, help="samples that a proof must survive")
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    graphs, sampling = load("soundness/graphs"), load("soundness/sampling")
    recipes = load("soundness/recipes").RECIPES | load("soundness/fragments").RECIPES
    seeds = range(arguments.first, arguments.first + arguments.count)
    judge = lambda seed: run(seed, arguments.timeout, arguments.evaluations, graphs, recipes, sampling)  # noqa: E731
    rows = rows_of(judge, seeds, FIELDS, arguments.results)
    return 1 if report(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
