"""The organisers' part of the competition: instances run one by one, witnesses replayed, answers scored.

The rules of 2026 (scripts' arguments, hard time limits, acceptance of witnesses, points) as far as they concern
properties about one network in VNN-LIB 1.0. Shares no code with the package.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

PREPARATION = 600.0
"""Seconds that the preparation of an instance may take."""
RIGHT, WRONG = 10, -150
TOLERANCE = 1e-4
"""What a witness may miss the bounds of inputs by and still be worth points; it then refutes nobody."""


@dataclass(frozen=True)
class Row:
    """One line of the results."""

    category: str
    network: str
    property: str
    prepare_time: float
    result: str
    run_time: float
    witness: str = ""


def run_category(scripts: Path, folder: Path, out: Path, *, grace: float = 60.0) -> list[Row]:
    """Run the instances of a category's folder and write results.csv and the counterexamples into ``out``.

    An instance that is still running ``grace`` seconds after its time limit is killed, with all it started.
    """
    category = folder.parent.name if folder.name in ("1.0", "2.0") else folder.name
    rows = []
    with open(folder / "instances.csv") as file:
        for network, name, limit in csv.reader(file):
            row = _run(scripts, category, folder, network, name, float(limit), out, grace)
            rows.append(row)
    with open(out / "results.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in rows:
            writer.writerow([row.category, row.network, row.property, row.prepare_time, row.result, row.run_time])
            if row.witness:
                stem = f"{Path(row.network).stem}_{Path(row.property).stem}"
                (out / f"{stem}.counterexample").write_text(row.witness)
    return rows


def _run(
    scripts: Path, category: str, folder: Path, network: str, name: str, limit: float, out: Path, grace: float
) -> Row:
    files = [str(folder / network), str(folder / name)]
    if network.startswith("["):
        files[0] = network
    begun = time.monotonic()
    prepared, _ = _call([str(scripts / "prepare_instance.sh"), "v1", category, *files], out, PREPARATION)
    preparation = round(time.monotonic() - begun, 3)
    if prepared != 0:
        return Row(category, network, name, preparation, "error_prepare_instance", 0.0)
    answer = out / "out.txt"
    answer.write_text("no_result_in_file\n")
    command = [str(scripts / "run_instance.sh"), "v1", category, *files, str(answer), f"{limit:g}"]
    begun = time.monotonic()
    code, killed = _call(command, out, limit + grace)
    seconds = round(time.monotonic() - begun, 3)
    first, _, witness = answer.read_text().partition("\n")
    result = re.sub(r"\s", "", first)
    if killed or seconds > limit:
        result = "timeout"
    elif code != 0:
        result = f"error_exit_code_{code}"
    return Row(category, network, name, preparation, result, seconds, witness if result == "sat" else "")


def _call(command: Sequence[str], folder: Path, limit: float) -> tuple[int, bool]:
    """The exit code of a command in a session of its own, and whether it had to be killed."""
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(limit), False
    except subprocess.TimeoutExpired:
        return -1, True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def score(tools: Mapping[str, Iterable[Row]], folder: Path) -> dict[str, int]:
    """The points of every tool: +10 for a right answer, -150 for a wrong one, 0 for none."""
    judged: dict[tuple[str, str], dict[str, tuple[Row, str]]] = {}
    for tool, rows in tools.items():
        for row in rows:
            quality = judge(folder / row.network, folder / row.property, row.witness) if row.result == "sat" else ""
            judged.setdefault((row.network, row.property), {})[tool] = row, quality
    points = dict.fromkeys(tools, 0)
    for answers in judged.values():
        refuted = any(quality == "correct" for _, quality in answers.values())
        for tool, (row, quality) in answers.items():
            if row.result == "sat":
                points[tool] += RIGHT if quality in ("correct", "correct up to tolerance") else WRONG
            elif row.result == "unsat":
                points[tool] += WRONG if refuted else RIGHT
    return points


def judge(network: Path, name: Path, witness: str) -> str:
    """What a witness is worth; the outputs that it names are not looked at.

    Inputs are cast to the network's type, which runs on the CPU; comparisons of inputs are made in that type.
    """
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    text = " ".join(witness.split())
    if not (text.startswith("((") and text.endswith("))")):
        return "malformed"
    pairs = [pair.strip(" (").split() for pair in text[1:-1].split(")") if pair.strip()]
    if any(len(pair) != 2 for pair in pairs):
        return "malformed"
    inputs = [float(value) for variable, value in pairs if variable.startswith("X_")]
    if [variable for variable, _ in pairs][: len(inputs)] != [f"X_{i}" for i in range(len(inputs))]:
        return "malformed"
    if len(inputs) != np.prod(shape):
        return "wrong shape"
    x = np.array(inputs, dtype="float64" if given.type == "tensor(double)" else "float32")
    y = np.ravel(session.run(None, {given.name: x.reshape(shape)})[0])
    asserted = [formula for head, *rest in _parse(name.read_text()) if head == "assert" for formula in rest]
    for tolerance, verdict in ((0.0, "correct"), (TOLERANCE, "correct up to tolerance")):
        if all(_holds(formula, {"X": x, "Y": y}, tolerance) for formula in asserted):
            return verdict
    return "property not violated"


def _holds(formula: Any, values: Mapping[str, np.ndarray], tolerance: float) -> bool:
    head, *parts = formula
    if head in ("and", "or"):
        return (all if head == "and" else any)(_holds(part, values, tolerance) for part in parts)
    if head == ">=":
        parts.reverse()
    low, high = (_value(part, values) for part in parts)
    if "Y_" in str(parts):  # outputs are compared in double precision, inputs in their own
        return float(low) <= float(high)
    if tolerance:
        return float(low) <= float(high) + tolerance
    return bool(values["X"].dtype.type(low) <= values["X"].dtype.type(high))


def _value(term: Any, values: Mapping[str, np.ndarray]) -> Any:
    if isinstance(term, list):
        head, *parts = term
        numbers = [float(_value(part, values)) for part in parts]
        if head == "-":
            return -numbers[0] if len(numbers) == 1 else numbers[0] - sum(numbers[1:])
        return sum(numbers) if head == "+" else np.prod(numbers)
    variable = re.fullmatch(r"([XY])_(\d+)", term)
    return values[variable[1]][int(variable[2])] if variable else float(term)


def _parse(text: str) -> Iterator[list[Any]]:
    """The statements of a property as nested lists of words."""
    stack: list[list[Any]] = [[]]
    for word in re.findall(r"[()]|[^\s()]+", re.sub(r";.*", "", text)):
        if word == "(":
            stack.append([])
        elif word == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(word)
    yield from stack[0]


def deploy(repository: Path, folder: Path, program: str, python: str) -> Path:
    """A fresh copy of the scripts whose installation is there already: ``program`` stands for provenn."""
    shutil.copytree(repository / "vnncomp_scripts", folder / "tool" / "vnncomp_scripts")
    commands = folder / "tool" / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, text in (("provenn", program), ("python", python)):
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    return folder / "tool" / "vnncomp_scripts"
