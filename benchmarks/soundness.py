"""Relaxations and intervals of every operator against the real function, on any number of cases.

Usage: OMP_NUM_THREADS=1 python benchmarks/soundness.py --cases 1000000 [--operator NAME ...] [--seed 0]
A case is a box with a slope (or weights, or an element of a result that is bounded by intervals alone). Bounds in
float64 are compared at adversarial and random points with functions in extended precision; what that leaves open is
decided in 400 bits. Prints a line for each operator, set of constants and argument position: cases, points, violations,
and the least distance of a bound from the function in float64 roundings of the terms involved. Exits 1 on a violation.
The tests run the same checks with fewer cases (tests/ops/conformance).
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from of_tests import load


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=100_000, help="cases for each line")
    parser.add_argument(
        "--operator", nargs="*", help="names of operators, or labels as printed"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checks = [
        check
        for check in load("ops/conformance").CHECKS
        if not arguments.operator
        or not {check.operator, check.label}.isdisjoint(arguments.operator)
    ]
    if not checks:
        parser.error(f"no check got --operator {arguments.operator}")
    print(f"{'operator':30} {'cases':>10} {'points':>12} {'violations':>10} {'least':>9} {'seconds':>8}")
    wrong = 0
    for check in checks:
        begun = time.monotonic()
        found = check.run(arguments.cases, arguments.seed)
        seconds = time.monotonic() - begun
        print(
            f"{check.label:30} {found.cases:10} {found.points:12} {found.violations:10} {found.least:9.2g} "
            f"{seconds:8.1f}",
            *found.examples,
            sep="\n  ",
            flush=True,
        )
        wrong += found.violations
    print(f"{wrong} violations in {len(checks)} checks")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
