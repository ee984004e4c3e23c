"""The command line of the VNN-LIB 2 standard: networks by name, its words, serialised assignments, capabilities."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from provenn.bounds.graph._onnx import HANDLERS
from provenn.cli import _what, commands
from provenn.errors import InputError
from provenn.verifier.supports import CAPABILITIES

from .conftest import Shell

EXAMPLES = Path(__file__).resolve().parents[2] / "vnnlib_examples"


@pytest.mark.parametrize(
    ("files", "assignments", "message"),
    [
        ([], [], "Missing argument 'NET.onnx'"),
        (["q.vnnlib"], [], "Missing argument 'PROPERTY.vnnlib'; expected NET.onnx PROPERTY.vnnlib or PROPERTY.vnnlib"),
        (["a.onnx", "q.vnnlib", "c"], [], "Got unexpected extra argument (c)"),
        (["a.onnx", "q.vnnlib"], ["f=a.onnx"], "got 2 files beside --network, expected PROPERTY.vnnlib alone"),
        (["q.vnnlib"], ["a.onnx"], "--network got 'a.onnx', expected NAME=FILE.onnx"),
        (["q.vnnlib"], ["f="], "--network got 'f=', expected NAME=FILE.onnx"),
        (["q.vnnlib"], ["f=a.onnx", "f=a.onnx"], "network 'f' is given 2 files; name it once"),
        (["q.vnnlib"], ["f=none.onnx"], "cannot read network 'none.onnx': No such file"),
        (["none.vnnlib"], ["f=a.onnx"], "cannot read property 'none.vnnlib': No such file"),
        (["[('f','none.onnx')]", "q.vnnlib"], [], "cannot read network 'none.onnx': No such file"),
        (["['a.onnx']", "q.vnnlib"], [], "networks \"['a.onnx']\" are no list; expected [('name', 'file.onnx'), ..]"),
    ],
)
def test_wrong_calls_are_named(tmp_path, monkeypatch, files, assignments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "q.vnnlib"):
        (tmp_path / name).touch()
    with pytest.raises((click.UsageError, InputError)) as error:
        _what(files, assignments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_networks_are_named_in_two_forms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "b c.onnx.gz", "q.vnnlib"):
        (tmp_path / name).touch()
    expected = {"f": "a.onnx", "g": "b c.onnx.gz"}, "q.vnnlib"  # of the second only the packed form is there
    assert _what(["q.vnnlib"], ["f=a.onnx", "g=b c.onnx"]) == expected
    assert _what(["[('f','a.onnx'),('g','b c.onnx')]", "q.vnnlib"], []) == expected
    assert _what(["a.onnx", "q.vnnlib"], []) == ("a.onnx", "q.vnnlib")


def test_a_timeout_has_the_word_of_the_form(shell: Shell):
    assert shell.drive("timeout", "verify", "net.onnx", "prop.vnnlib").out == "timeout\n"
    assert shell.drive("timeout", "verify", "prop.vnnlib", "--network", "f=net.onnx").out == "timed-out\n"


def test_assignments_are_serialised_instead_of_printed(shell: Shell):
    files = {name: EXAMPLES / "onnx" / f"{name}.onnx" for name in ("controller", "controller_rounded")}
    done = shell.run(
        "verify", str(EXAMPLES / "vnnlib" / "controllers_close.vnnlib"),
        "--network", f"long={files['controller']}", "--network", f"short={files['controller_rounded']}",
        "--serialise-assignments", "found", "--witness", "witness.txt",
    )  # fmt: skip
    assert (done.out, done.err, done.code) == ("sat\n", "", 0)
    found = {}
    for path in (shell.folder / "found").iterdir():
        proto = onnx.TensorProto()
        proto.ParseFromString(path.read_bytes())
        assert proto.name == path.stem
        found[path.stem] = numpy_helper.to_array(proto)
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "X": ("float32", (1, 4)), "L": ("float32", (1, 2)), "Y": ("float32", (1, 4)), "S": ("float32", (1, 2)),
    }  # fmt: skip
    np.testing.assert_array_equal(found["X"], found["Y"])
    lines = (shell.folder / "witness.txt").read_text().splitlines()
    assert lines[0] == "X float32 [1,4]" and [float(line) for line in lines[1:5]] == found["X"].reshape(-1).tolist()


def test_every_capability_is_answered():
    def asked(*arguments: str) -> list[str]:
        result = CliRunner().invoke(commands, [*arguments])
        assert result.exit_code == 0, result.output
        return result.output.splitlines()

    answers = {name: asked("supports", f"--{name}") for name in CAPABILITIES}
    assert len(answers) == 11 and all(answers.values())
    assert answers["onnx-opset-versions"] == ["7", "21"] and answers["vnnlib-versions"] == ["1.0", "2.1"]
    assert answers["onnx-operators"] == sorted(HANDLERS)
    assert answers["hidden-node-theories"] == ["NH", "H"] and answers["arithmetic-complexity-theories"][-1] == "POLY"
    assert answers["serialise-assignments"] == answers["optimised-disjunctive-reasoning"] == ["true"]
    assert answers["onnx-element-types"][0] == "real"
    assert asked("--name") == ["provenn"] and len(asked("--version")[0].split(".")) == 3
    assert "Missing option" in CliRunner().invoke(commands, ["supports"]).output
