"""Processor time and peak memory of reading giant properties: in VNN-LIB 1.0 a disjunction of 120,000 clauses and a
box of 600,000 lines, in VNN-LIB 2 an audio and a video tensor of 1.27 million inputs, and two equal images of 100,000.

Usage: python benchmarks/giants.py [--wide]
Makes them (seeded) in a temporary folder, in the shape of the competition's largest files, and reads each in a
process of its own. `--wide` adds a 100 MB disjunction of 11,080 clauses with 617 atoms each.
"""

from __future__ import annotations

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
from pathlib import Path

AUDIO, VIDEO, COPIED = (1, 80, 800), (1, 3, 32, 112, 112), 100_000
CLAUSES, PIXELS, WIDE_CLAUSES, WIDE_INPUTS = 120_000, 150_528, 11_080, 308

READ = """
import resource, sys, time
import numpy
from provenn.specs import read_query
imported = time.process_time()
query = read_query(sys.argv[1])
read = time.process_time()
clauses = rows = 0
for batch in query.batches(4096):
    clauses += len(batch.clause_box)
    rows += len(batch.row_clause)
query.input_box, query.fixed
streamed = time.process_time()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"read {read - imported:.2f} s, streamed {streamed - read:.2f} s, peak {peak:.2f} GB: "
      f"{query.input_count} inputs, {query.output_count} outputs, {clauses} clauses, {rows} rows")
"""


def index_property(path: Path, generator: random.Random) -> None:
    """A learned index: each clause is an interval of the one input and a violated side of the output."""
    with path.open("w") as file:
        file.write("(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(assert (or\n")
        for clause in range(CLAUSES):
            low = (clause + generator.random() * 0.1) / CLAUSES
            sign, error = (">=", 0.01) if clause % 2 else ("<=", -0.01)
            file.write(
                f"(and (>= X_0 {low}) (<= X_0 {low + 0.9 / CLAUSES}) (>= X_0 0) ({sign} Y_0 {low + error}))\n"
            )
        file.write("))\n")


def image_property(path: Path, generator: random.Random) -> None:
    """A large image: two lines per pixel, most of them fixed, and one pair of outputs."""
    with path.open("w") as file:
        file.writelines(f"(declare-const X_{i} Real)\n" for i in range(PIXELS))
        file.writelines(f"(declare-const Y_{i} Real)\n" for i in range(1000))
        for i in range(PIXELS):
            value = generator.uniform(-2.2, 2.7)
            file.write(
                f"\n(assert (<= X_{i} {value:.9f}))\n(assert (>= X_{i} {value - 0.01 * (i % 50 == 0):.9f}))\n"
            )
        file.write("(assert (>= Y_233 Y_226))\n")


def wide_property(path: Path, generator: random.Random) -> None:
    """Clauses that each have a box over all inputs."""
    with path.open("w") as file:
        file.writelines(f"(declare-const X_{i} Real)\n" for i in range(WIDE_INPUTS))
        file.write("(declare-const Y_0 Real)\n(assert (or\n")
        for _ in range(WIDE_CLAUSES):
            value = generator.random()
            box = " ".join(f"(>= X_{i} {value}) (<= X_{i} {value})" for i in range(WIDE_INPUTS))
            file.write(f"(and {box} (>= Y_0 {value}))\n")
        file.write("))\n")


def video_property(path: Path, generator: random.Random) -> None:
    """Two input tensors, a line per element."""
    with path.open("w") as file:
        shapes = ["[" + ",".join(map(str, shape)) + "]" for shape in (AUDIO, VIDEO)]
        file.write("(vnnlib-version <2.0>)\n(declare-network f\n")
        file.write(f"  (declare-input A float32 {shapes[0]})\n  (declare-input B float32 {shapes[1]})\n")
        file.write("  (declare-output Y float32 [1,2]))\n")
        for name, shape in (("A", AUDIO), ("B", VIDEO)):
            for place in itertools.product(*map(range, shape)):
                element, value = f"{name}[{','.join(map(str, place))}]", generator.uniform(-2, 2)
                file.write(f"(assert (and (>= {element} {value:.9f}) (<= {element} {value + 0.01:.9f})))\n")
        file.write("(assert (< Y[0,0] Y[0,1]))\n")


def copied_property(path: Path, generator: random.Random) -> None:
    """The same image in two networks."""
    with path.open("w") as file:
        file.write("(vnnlib-version <2.0>)\n")
        for network, x, y in (("f", "X", "Y"), ("g", "U", "V")):
            file.write(f"(declare-network {network} (declare-input {x} float32 [{COPIED}]) ")
            file.write(f"(declare-output {y} float32 [10]))\n")
        for k in range(COPIED):
            value = generator.random()
            file.write(f"(assert (and (>= X[{k}] {value:.6f}) (<= X[{k}] {value + 0.01:.6f}) (== U[{k}] X[{k}])))\n")
        file.write("(assert (or (and (<= Y[0] 0.5) (>= V[0] 0.5)) (and (>= Y[0] 0.5) (<= V[0] 0.5))))\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wide", action="store_true", help="also the 100 MB disjunction")
    makers = [("120,000 clauses", index_property), ("600,000-line box", image_property)]
    makers += [("VNN-LIB 2, 1.27 million inputs", video_property), ("VNN-LIB 2, equal images", copied_property)]
    if parser.parse_args().wide:
        makers.append(("6.8 million atoms", wide_property))
    with tempfile.TemporaryDirectory() as folder:
        for name, make in makers:
            path = Path(folder) / "property.vnnlib"
            make(path, random.Random(0))
            with path.open("rb") as file:
                lines = sum(1 for _ in file)
            print(f"{name} ({path.stat().st_size / 1e6:.1f} MB, {lines} lines)", flush=True)
            subprocess.run([sys.executable, "-c", READ, str(path)], check=True)


if __name__ == "__main__":
    main()
