"""The shipped examples: what make.py writes, and what the command says of it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from provenn.specs import is_version_2, parse_assignment, read_query, read_results, read_witness
from provenn.verifier.arguments import named

from .conftest import environment

EXAMPLES = Path(__file__).resolve().parents[2] / "vnnlib_examples"
with open(EXAMPLES / "truth.csv") as _file:
    TRUTH = list(csv.DictReader(_file))


def test_the_folder_is_complete_and_small() -> None:
    with open(EXAMPLES / "instances.csv") as file:
        listed = [row[:2] for row in csv.reader(file)]
    assert listed == [[row["network"], row["property"]] for row in TRUTH]
    for kind in ("onnx", "vnnlib"):
        named = {name for pair in listed for cell in pair for name in re.findall(rf"{kind}/\w+\.{kind}", cell)}
        assert {f"{kind}/{path.name}" for path in (EXAMPLES / kind).iterdir()} == named
    first = [row for row in TRUTH if not is_version_2((EXAMPLES / row["property"]).read_bytes())]
    networks = {row["network"] for row in first}
    assert {(row["network"], row["result"]) for row in first} == {(n, r) for n in networks for r in ("sat", "unsat")}
    assert len(TRUTH) - len(first) >= 6
    files = [path for path in EXAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 200_000


@pytest.mark.slow
def test_the_command_decides_them(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "provenn.cli",
        "bench",
        str(EXAMPLES),
        "-o",
        "results.csv",
        "--jobs",
        "2",
    ]
    command += ["--witnesses", "witnesses", "--reports", "reports"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    found = {(row.network, row.property): row.result for row in read_results(tmp_path / "results.csv")}
    assert found == {(row["network"], row["property"]): row["result"] for row in TRUTH}
    for row in TRUTH:
        name = Path(row["property"]).stem
        several = named(row["network"]) if row["network"].startswith("[") else {}
        stem = f"vnnlib_examples__{'_'.join(several) or Path(row['network']).stem}__{name}"
        report = json.loads((tmp_path / "reports" / f"{stem}.json").read_text())
        assert report["strategy"] and report["reason"] and report["verdict"] == row["result"]
        if row["result"] == "sat":
            files = {key: EXAMPLES / path for key, path in several.items()} or EXAMPLES / row["network"]
            check_witness(files, EXAMPLES / row["property"], tmp_path / "witnesses" / f"{stem}.counterexample")


def test_inspect_shows_a_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "provenn.cli", "inspect", str(EXAMPLES / "onnx" / "classifier.onnx")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("[1, 1, 8, 8]", "[1, 4]", "2,468", "conv", "relu"):
        assert text in done.stdout


def check_witness(networks: Path | dict[str, Path], property_path: Path, witness_path: Path) -> None:
    """The witness violates the property when onnxruntime runs its networks, and says so truly."""
    if is_version_2(property_path.read_bytes()):
        check_assignment(networks, property_path, witness_path)
        return
    witness = read_witness(witness_path)
    session = onnxruntime.InferenceSession(str(networks), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    outputs = session.run(None, {entry.name: witness.inputs.reshape(entry.shape)})[0].reshape(-1)
    np.testing.assert_array_equal(outputs, witness.outputs)
    assert read_query(property_path, witness.inputs.size, outputs.size).violated(witness.inputs, outputs)


def check_assignment(networks: Path | dict[str, Path], property_path: Path, witness_path: Path) -> None:
    """The same for VNN-LIB 2; hidden tensors are taken from the witness."""
    query = read_query(property_path)
    assert query.composition is not None
    inputs, outputs = parse_assignment(witness_path.read_text(), query.composition)
    for network in query.composition.networks:
        path = networks[network.name] if isinstance(networks, dict) else networks
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        x = [inputs[query.composition.input_slice(tensor)].reshape(tensor.shape) for tensor in network.inputs]
        names = [entry.name for entry in session.get_inputs()]
        for tensor, y in zip(network.outputs, session.run(None, dict(zip(names, x, strict=True))), strict=True):
            np.testing.assert_array_equal(y.reshape(-1), outputs[query.composition.column_slice(tensor)])
    assert query.violated(inputs, outputs)


@pytest.mark.slow
def test_the_script_makes_them(tmp_path: Path) -> None:
    """From the seed; bit by bit the same only on the same libraries and processor, so the claims are compared."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "make.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "truth.csv") as file:
        made = list(csv.DictReader(file))
    keys = ("network", "property", "result")
    assert [[row[key] for key in keys] for row in made] == [[row[key] for key in keys] for row in TRUTH]
    for row in made:
        several = named(row["network"]) if row["network"].startswith("[") else {"": row["network"]}
        assert all((tmp_path / path).is_file() for path in (*several.values(), row["property"]))
