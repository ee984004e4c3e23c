"""Local Lipschitz constants of networks over boxes in a few of their inputs: bounds, gaps and times.

Usage: python benchmarks/lipschitz_smooth.py NET.onnx... --free 1 2 4 --radius 0.1
Around a seeded random point with coordinates in [0, 1] the first ``--free`` of a seeded order of the inputs vary, all
others are fixed. Prints a markdown table of the constant of one row of the Jacobian (norm inf; with fixed inputs the
gradient still has all its entries).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from provenn.bounds.graph import read_onnx
from provenn.verifier import local_lipschitz


def main() -> None:
    parser = argparse.ArgumentParser(description="Lipschitz constants over boxes in few inputs, as a markdown table.")
    parser.add_argument("networks", nargs="+", type=Path, metavar="NET.onnx")
    parser.add_argument("--free", type=int, nargs="+", default=[1, 2, 4], help="how many inputs vary (1 2 4)")
    parser.add_argument("--radius", type=float, default=0.1, help="half width of the box (0.1)")
    parser.add_argument("--norm", default="inf", help="1, 2 or inf (inf)")
    parser.add_argument("--output", type=int, default=0, help="the row of the Jacobian (0)")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="relative gap that ends a row (1e-2)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each row (60)")
    given = parser.parse_args()
    print("| network | free inputs | lower | upper | gap | seconds | domains |\n|---|---|---|---|---|---|---|")
    for path in given.networks:
        graph = read_onnx(path)
        size = graph.nodes[graph.inputs[0]].size
        for free in given.free:
            random = np.random.default_rng(0)
            centre, order = random.random(size), random.permutation(size)
            width = np.zeros(size)
            width[order[:free]] = given.radius
            found = local_lipschitz(
                graph, centre - width, centre + width, given.norm, given.output,
                tolerance=given.tolerance, timeout=given.timeout,
            )  # fmt: skip
            name = path.name.removesuffix(".gz").removesuffix(".onnx")
            print(
                f"| {name} | {free} | {found.lower:.6g} | {found.upper:.6g} | {found.upper / found.lower - 1:.3%} | "
                f"{found.seconds:.1f} | {found.domains} |", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
