"""Files that `provenn verify` writes, and pipes that it reads: what is refused at the start, what is never lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provenn.errors import InputError
from provenn.verifier import targets

from .conftest import DRIVER, Shell, environment

SAT = "sat\n((X_0 0.10000000149011612)\n (X_1 -1.0)\n (Y_0 2.5))\n"
WITNESS = SAT.partition("\n")[2]


def in_shell(shell: Shell, options: str) -> subprocess.CompletedProcess[str]:
    """A `sat` run with options and redirections as a shell reads them."""
    command = f"'{sys.executable}' '{DRIVER}' sat verify net.onnx prop.vnnlib {options}"
    return subprocess.run(
        ["sh", "-c", command], cwd=shell.folder, env=environment(), capture_output=True, text=True
    )


@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "out.txt"])
@pytest.mark.parametrize("redirection", [">", ">>"])
def test_a_redirected_standard_output_keeps_the_answer(shell: Shell, target: str, redirection: str) -> None:
    out = shell.folder / "out.txt"
    out.write_text("kept\n")
    done = in_shell(shell, f"--witness {target} {redirection} out.txt")
    assert (done.returncode, done.stderr) == (0, "")
    assert out.read_text() == ("kept\n" if redirection == ">>" else "") + SAT + WITNESS


def test_a_redirected_standard_error_keeps_its_lines(shell: Shell) -> None:
    done = in_shell(shell, "-v --json /dev/stderr 2> log.txt")
    log = (shell.folder / "log.txt").read_text()
    assert (done.returncode, done.stdout) == (0, SAT)
    assert log.index("loading\n") < log.index('"verdict": "sat"') < log.index("sat in ")


def test_another_open_file_is_appended_to(shell: Shell) -> None:
    in_shell(shell, "--witness /dev/fd/7 7> other.txt")
    assert (shell.folder / "other.txt").read_text() == WITNESS
    in_shell(shell, "--witness /dev/fd/7 7>> other.txt")
    assert (shell.folder / "other.txt").read_text() == WITNESS + WITNESS


def test_pipes_and_devices_are_written_as_they_are(shell: Shell) -> None:
    assert shell.verify("sat", "--witness", "/dev/stdout").out == SAT + WITNESS
    done = shell.verify("sat", "--witness", "/dev/stdout", "--json", "/dev/stdout")
    assert done.out.startswith(SAT + WITNESS) and json.loads(done.out[len(SAT + WITNESS) :])
    assert shell.verify("sat", "--witness", "/dev/null", "--json", "/dev/null").code == 0


def test_a_pipe_without_a_reader_is_no_wait(shell: Shell) -> None:
    os.mkfifo(shell.folder / "pipe")
    done = shell.verify("sat", "--witness", "pipe")
    assert (done.out, done.code) == (SAT, 1) and "the verdict stands" in done.err
    reader = os.open(shell.folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert shell.verify("sat", "--witness", "pipe").code == 0
    assert os.read(reader, 1000).decode() == WITNESS
    os.close(reader)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--json", "net.onnx"], "--json got 'net.onnx', which is the file of NET.onnx"),
        (["--witness", "./prop.vnnlib"], "which is the file of PROPERTY.vnnlib"),
        (["--json", "link"], "--json got 'link', which is the file of PROPERTY.vnnlib"),
        (["--json", "new", "--witness", "./new"], "--json got 'new', which is the file of --witness"),
        (["--json", "-"], "--json got '-', expected a file; for standard output name /dev/stdout"),
        (["--witness", "-"], "--witness got '-'"),
    ],
)
def test_files_that_cannot_be_meant_are_wrong_usage(shell: Shell, options: list[str], text: str) -> None:
    (shell.folder / "link").symlink_to("prop.vnnlib")
    before = sorted(shell.folder.iterdir())
    done = shell.verify("sat", *options)
    assert (done.out, done.code) == ("", 2) and text in done.err and done.err.count("\n") == 1
    assert sorted(shell.folder.iterdir()) == before
    assert (shell.folder / "net.onnx").read_bytes() == (shell.folder / "prop.vnnlib").read_bytes() == b""


@pytest.mark.parametrize("option", ["--witness", "--json"])
@pytest.mark.parametrize("path", ["no/such/file", ".", "net.onnx/file", "", "x" * 300])
def test_a_file_that_cannot_be_written_is_refused_at_the_start(shell: Shell, option: str, path: str) -> None:
    """The verifier would never end by itself."""
    before = sorted(shell.folder.iterdir())
    done = shell.verify("deaf", "--timeout", "30", option, path)
    assert (done.out, done.code) == ("", 1)
    assert done.err.startswith(f"provenn: cannot write {option} {path!r}: ") and done.err.count("\n") == 1
    assert sorted(shell.folder.iterdir()) == before


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the system; the user of a test may be allowed everything."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="may not be written"):
        targets.check_target(str(tmp_path / "report.json"), "--json")
    with pytest.raises(InputError, match="may not be written"):
        targets.make_folder(str(tmp_path / "reports"))


def test_a_file_is_replaced_through_its_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old and long")
    (tmp_path / "link").symlink_to("file")
    targets.check_target(str(tmp_path / "link"), "--json")
    targets.write_text(str(tmp_path / "link"), "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


def test_the_limit_covers_a_property_that_never_comes(shell: Shell) -> None:
    os.remove(shell.folder / "prop.vnnlib")
    os.mkfifo(shell.folder / "prop.vnnlib")
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "provenn.cli", "verify", network(shell), "prop.vnnlib", "--timeout", "4"],
        cwd=shell.folder,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    try:
        assert process.communicate(timeout=30)[0] == "timeout\n"
    finally:
        process.kill()
    assert time.monotonic() - start < 10 and process.returncode == 0


def test_a_network_is_a_regular_file(shell: Shell) -> None:
    """It is read twice, by provenn and by onnxruntime."""
    os.mkfifo(shell.folder / "pipe.onnx")
    for arguments in (["verify", "pipe.onnx", "prop.vnnlib"], ["inspect", "pipe.onnx"]):
        done = shell.run(*arguments)
        assert (done.out, done.code) == ("", 1) and "'pipe.onnx' is not a regular file" in done.err
    done = shell.run("verify", "net.onnx", "/dev/zero")
    assert done.code == 1 and "is not a regular file or a pipe" in done.err


def test_a_property_may_come_through_a_pipe(shell: Shell) -> None:
    lines = [f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0")]
    lines += [f"(assert (>= {name} 0)) (assert (<= {name} 1))" for name in ("X_0", "X_1")]
    done = subprocess.run(
        [sys.executable, "-m", "provenn.cli", "verify", network(shell), "/dev/stdin"],
        input="\n".join([*lines, "(assert (<= Y_0 -1))"]),
        cwd=shell.folder,
        capture_output=True,
        env=environment(),
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("unsat\n", "", 0)


def network(shell: Shell) -> str:
    """A real network: the sum of two inputs' ReLUs."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.ones((2, 1), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, shell.folder / "sum.onnx")
    return "sum.onnx"
