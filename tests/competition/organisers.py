"""The organisers' part of the competition: instances run one by one, witnesses replayed, answers scored.

The rules of 2026: scripts' arguments, hard time limits, lists of networks, acceptance of witnesses in VNN-LIB 1.0 and
2, points. Shares no code with the package.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import functools
import operator
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
TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}
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
            rows.append(_run(scripts, category, folder, network, name, float(limit), out, grace))
    with open(out / "results.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in rows:
            writer.writerow([row.category, row.network, row.property, row.prepare_time, row.result, row.run_time])
            if row.witness:
                stem = f"{'_'.join(files(folder, row.network, short=True))}_{Path(row.property).stem}"
                (out / f"{stem}.counterexample").write_text(row.witness)
    return rows


def _run(
    scripts: Path, category: str, folder: Path, network: str, name: str, limit: float, out: Path, grace: float
) -> Row:
    several = files(folder, network)
    paths = [repr([(one, str(path)) for one, path in several.items()]), str(folder / name)]
    if not network.startswith("["):
        paths[0] = str(folder / network)
    begun = time.monotonic()
    prepared, _ = _call([str(scripts / "prepare_instance.sh"), "v1", category, *paths], out, PREPARATION)
    preparation = round(time.monotonic() - begun, 3)
    if prepared != 0:
        return Row(category, network, name, preparation, "error_prepare_instance", 0.0)
    answer = out / "out.txt"
    answer.write_text("no_result_in_file\n")
    command = [str(scripts / "run_instance.sh"), "v1", category, *paths, str(answer), f"{limit:g}"]
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


def files(folder: Path, network: str, *, short: bool = False) -> dict[str, Path]:
    """The files of an instance's networks by name; that of a single one is called as the file, or as the property's
    first network (``short``: file names, for the name of a counterexample)."""
    if network.startswith("["):
        return {name: folder / path for name, path in ast.literal_eval(network)}
    return {Path(network).stem: folder / network} if short else _Single(folder / network)


class _Single(dict[str, Path]):
    """One file, whatever network is asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__({"": path})

    def __missing__(self, name: str) -> Path:
        return self[""]


def score(tools: Mapping[str, Iterable[Row]], folder: Path) -> dict[str, int]:
    """The points of every tool: +10 for a right answer, -150 for a wrong one, 0 for none."""
    judged: dict[tuple[str, str], dict[str, tuple[Row, str]]] = {}
    for tool, rows in tools.items():
        for row in rows:
            quality = ""
            if row.result == "sat":
                quality = judge(files(folder, row.network), folder / row.property, row.witness)
            judged.setdefault((row.network, row.property), {})[tool] = row, quality
    points = dict.fromkeys(tools, 0)
    for answers in judged.values():
        refuted = any(quality == "correct" for _, quality in answers.values())
        for tool, (row, quality) in answers.items():
            if row.result == "sat":
                points[tool] += {"unsupported": 0}.get(quality, RIGHT if quality.startswith("correct") else WRONG)
            elif row.result == "unsat":
                points[tool] += WRONG if refuted else RIGHT
    return points


def judge(networks: Mapping[str, Path], name: Path, witness: str) -> str:
    """What a witness is worth; the outputs that it names are not looked at.

    ``networks`` are files by the names that the property declares (any name for the one of VNN-LIB 1.0). Inputs are
    cast to the networks' types, which run on the CPU.
    """
    statements = list(_parse(name.read_text()))
    asserted = [formula for head, *rest in statements if head == "assert" for formula in rest]
    declared = [statement for statement in statements if statement[0] == "declare-network"]
    try:
        if declared:
            values, cast, outputs = _assigned(declared, networks, witness)
        else:
            values, cast, outputs = _flat(next(iter(networks.values())), witness)
    except ValueError as error:
        return str(error)
    for tolerance, verdict in ((0.0, "correct"), (TOLERANCE, "correct up to tolerance")):
        if all(_holds(formula, _Reading(values, cast, outputs, tolerance)) for formula in asserted):
            return verdict
    return "property not violated"


def _flat(network: Path, witness: str) -> tuple[dict[str, np.ndarray], Any, tuple[str, ...]]:
    """The inputs X and outputs Y of VNN-LIB 1.0: comparisons of inputs are made in their type, of outputs in double."""
    session = _session(network)
    given = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    text = " ".join(witness.split())
    if not (text.startswith("((") and text.endswith("))")):
        raise ValueError("malformed")
    pairs = [pair.strip(" (").split() for pair in text[1:-1].split(")") if pair.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("malformed")
    inputs = [float(value) for variable, value in pairs if variable.startswith("X_")]
    if [variable for variable, _ in pairs][: len(inputs)] != [f"X_{i}" for i in range(len(inputs))]:
        raise ValueError("malformed")
    if len(inputs) != np.prod(shape):
        raise ValueError("wrong shape")
    x = np.array(inputs, TYPES[given.type])
    y = np.ravel(session.run(None, {given.name: x.reshape(shape)})[0])
    values = {f"X_{i}": value for i, value in enumerate(x)} | {f"Y_{i}": value for i, value in enumerate(y)}
    return values, x.dtype.type, tuple(f"Y_{i}" for i in range(len(y)))


def _assigned(
    declared: Sequence[Any], networks: Mapping[str, Path], witness: str
) -> tuple[dict[str, np.ndarray], Any, tuple[str, ...]]:
    """The tensors of VNN-LIB 2 as a witness assigns them, in the order of declarations, one number a line."""
    lines = witness.splitlines()
    values: dict[str, np.ndarray] = {}
    outputs: list[str] = []
    kind: Any = np.float32
    for _, network, *rest in declared:
        twin = next((part[1] for part in rest if part[0] == "equal-to"), network)
        session = _session(networks[twin])
        given = []
        for word, variable, element, dims in (part for part in rest if part[0].startswith("declare-")):
            shape = [int(size) for size in dims.strip("[]").split(",") if size]
            count = int(np.prod(shape))
            if lines[:1] != [f"{variable} {element} {dims}"] or word == "declare-hidden":
                raise ValueError("unsupported" if word == "declare-hidden" else "malformed")
            numbers, lines = lines[1 : count + 1], lines[count + 1 :]
            try:
                values[variable] = np.array([float(text) for text in numbers]).reshape(shape)
            except ValueError:
                raise ValueError("malformed") from None
            (given if word == "declare-input" else outputs).append(variable)
        for variable, tensor in zip(given, session.get_inputs(), strict=True):
            kind = TYPES[tensor.type]
            values[variable] = values[variable].astype(kind)
        feed = {tensor.name: values[variable] for variable, tensor in zip(given, session.get_inputs(), strict=True)}
        values |= dict(zip(outputs[-len(session.get_outputs()) :], session.run(None, feed), strict=True))
    if lines:
        raise ValueError("malformed")
    return values, kind, tuple(outputs)


def _session(network: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class _Reading:
    """How formulas are read: values by names, the type of arithmetic, the names of outputs, the tolerance."""

    values: Mapping[str, Any]
    cast: Any
    outputs: Sequence[str]
    tolerance: float


def _holds(formula: Any, reading: _Reading) -> bool:
    head, *parts = formula
    if head in ("and", "or"):
        return (all if head == "and" else any)(_holds(part, reading) for part in parts)
    words = re.findall(r"[A-Za-z]\w*", str(parts))
    of_inputs = not any(word in reading.outputs for word in words)
    flat = not of_inputs and "Y_0" in reading.outputs
    cast = np.float64 if flat else reading.cast
    one, other = (cast(_value(part, reading, cast)) for part in parts)
    if of_inputs and reading.tolerance:
        slack, difference = reading.tolerance, float(one) - float(other)
        return {"<": difference < slack, "<=": difference <= slack, ">": difference > -slack,
                ">=": difference >= -slack, "==": abs(difference) <= slack, "!=": one != other}[head]  # fmt: skip
    return bool({"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other,
                 "==": one == other, "!=": one != other}[head])  # fmt: skip


def _value(term: Any, reading: _Reading, cast: Any) -> Any:
    """A number in the type of arithmetic, made in the order in which it is written."""
    if isinstance(term, list):
        head, *parts = term
        first, *others = (cast(_value(part, reading, cast)) for part in parts)
        if head == "-" and not others:
            return -first
        steps = {"+": operator.add, "-": operator.sub, "*": operator.mul}
        return functools.reduce(lambda made, part: cast(steps[head](made, part)), others, first)
    if indexed := re.fullmatch(r"(\w+)\[([\d,]+)\]", term):
        return reading.values[indexed[1]][tuple(map(int, indexed[2].split(",")))]
    return reading.values[term] if term in reading.values else float(term)


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
