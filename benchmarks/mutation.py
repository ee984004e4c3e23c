"""Seeded bugs: each must make the test suite fail.

Usage: python benchmarks/mutation.py [--only NAME ...] [--limit SECONDS]
Copies the repository, applies one text replacement at a time (it must match exactly once, so that it fails loudly when
the code has changed), and runs the tests named for it. Prints killed or survived; exits 1 unless all are killed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mutations
import mutations_of_operators

ROOT = Path(__file__).resolve().parent.parent
MUTATIONS = (*mutations.MUTATIONS, *mutations_of_operators.MUTATIONS)


def copy(folder: Path) -> Path:
    """The working tree as a package ``provenn`` of its own."""
    target = folder / "provenn"
    skip = shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, target, ignore=skip)
    return target


def run(target: Path, tests: tuple[str, ...], limit: float) -> tuple[int, str]:
    """Run tests in a copy: (exit status of pytest, its last lines)."""
    environment = os.environ | {
        "PYTHONPATH": str(target.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=target, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return -1, f"no answer within {limit:.0f} s"
    return done.returncode, "\n".join(done.stdout.strip().splitlines()[-4:])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="*", help="parts of names of mutations")
    parser.add_argument("--limit", type=float, default=600, help="seconds for the tests of one mutation")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if not arguments.only or any(part in m.name for part in arguments.only)]
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        target = copy(Path(folder))
        for mutation in chosen:
            text = (target / mutation.file).read_text()
            if text.count(mutation.old) != 1:
                print(
                    f"{mutation.name}: {mutation.file} has the text {text.count(mutation.old)} times, expected once"
                )
                return 2
        tests = tuple(sorted({test for mutation in chosen for test in mutation.tests}))
        status, tail = run(target, tests, 2 * arguments.limit)
        if status != 0:
            print(f"the tests fail without any mutation:\n{tail}")
            return 2
        for mutation in chosen:
            file = target / mutation.file
            text = file.read_text()
            file.write_text(text.replace(mutation.old, mutation.new))
            begun = time.monotonic()
            status, tail = run(target, mutation.tests, arguments.limit)
            file.write_text(text)
            killed = status == 1
            print(
                f"{'killed' if killed else 'SURVIVED':9} {mutation.name} ({time.monotonic() - begun:.0f} s)",
                flush=True,
            )
            if not killed:
                survived.append(mutation.name)
                print(tail)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} killed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
