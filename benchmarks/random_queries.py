"""Random small queries in VNN-LIB 2: what provenn says, and what brute force says of their meaning.

Usage: python benchmarks/random_queries.py 300 [--first 0] [--timeout 20]
Draws queries (``tests/soundness/queries.py``: several networks, inputs and outputs, hidden tensors, equalities,
products, nested and/or) until brute force is sure of as many; verifies each; judges every witness by brute force.
Prints one line per disagreement and a count of each kind; the exit code is 1 if any query is decided wrongly.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from of_tests import load

from provenn.verifier import Options, Result, verify


def judged(case: Any, result: Result) -> float:
    """The robustness of a result's witness, by brute force's own networks."""
    assert result.witness is not None
    x = np.split(result.witness.inputs.astype(np.float64), np.cumsum([n for _, n in case.inputs.values()])[:-1])
    return float(case.robustness({name: part[None] for name, part in zip(case.inputs, x, strict=True)})[0])


def main() -> int:
    """Verify the queries and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=20.0)
    arguments = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for case, truth in itertools.islice(load("soundness/queries").cases(arguments.first), arguments.count):
            files, path = case.save(Path(folder))
            begun = time.monotonic()
            result = verify(files, path, Options(timeout=arguments.timeout, threads=1))
            seconds.append(time.monotonic() - begun)
            kind = "agree" if result.verdict == truth else "undecided"
            if {result.verdict, truth} == {"sat", "unsat"} or (
                result.witness is not None and judged(case, result) < -1e-5
            ):
                kind = "WRONG"
            counts[f"{kind} ({truth})"] += 1
            if kind != "agree":
                print(f"seed {case.seed}: {result.verdict}, brute force {truth}: {result.reason}", flush=True)
                if kind == "WRONG":
                    print(path.read_text(), flush=True)
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(f"median {np.median(seconds):.2f} s, longest {max(seconds):.2f} s")
    return int(any(name.startswith("WRONG") for name in counts))


if __name__ == "__main__":
    sys.exit(main())
