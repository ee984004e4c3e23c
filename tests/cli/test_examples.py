"""The shipped examples: what make.py writes, and what the command says of it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from provenn.specs import read_query, read_results, read_witness

from .conftest import environment

EXAMPLES = Path(__file__).resolve().parents[2] / "vnnlib_examples"
with open(EXAMPLES / "truth.csv") as _file:
    TRUTH = list(csv.DictReader(_file))


def test_the_folder_is_complete_and_small() -> None:
    listed = [line.split(",")[:2] for line in (EXAMPLES / "instances.csv").read_text().splitlines()]
    assert listed == [[row["network"], row["property"]] for row in TRUTH]
    for kind in ("onnx", "vnnlib"):
        named = {name for pair in listed for name in pair if name.startswith(kind)}
        assert {f"{kind}/{path.name}" for path in (EXAMPLES / kind).iterdir()} == named
    networks = {row["network"] for row in TRUTH}
    assert {(row["network"], row["result"]) for row in TRUTH} == {
        (n, r) for n in networks for r in ("sat", "unsat")
    }
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
        network, name = EXAMPLES / row["network"], Path(row["property"]).stem
        stem = f"vnnlib_examples__{network.stem}__{name}"
        report = json.loads((tmp_path / "reports" / f"{stem}.json").read_text())
        assert report["strategy"] and report["reason"] and report["verdict"] == row["result"]
        if row["result"] == "sat":
            check_witness(
                network, EXAMPLES / row["property"], tmp_path / "witnesses" / f"{stem}.counterexample"
            )


def test_inspect_shows_a_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "provenn.cli", "inspect", str(EXAMPLES / "onnx" / "classifier.onnx")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("[1, 1, 8, 8]", "[1, 4]", "2,468", "conv", "relu"):
        assert text in done.stdout


def check_witness(network: Path, property_path: Path, witness_path: Path) -> None:
    """The witness violates the property when onnxruntime runs it, and says so truly."""
    witness = read_witness(witness_path)
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    outputs = session.run(None, {entry.name: witness.inputs.reshape(entry.shape)})[0].reshape(-1)
    np.testing.assert_array_equal(outputs, witness.outputs)
    assert read_query(property_path, witness.inputs.size, outputs.size).violated(witness.inputs, outputs)


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
        assert (tmp_path / row["network"]).is_file() and (tmp_path / row["property"]).is_file()
