"""The contract of `provenn verify`: first line, witness, errors of one line, exit codes, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from provenn.verifier.options import available_threads

from .conftest import DRIVER, Shell, Terminal, environment

SAT = "sat\n((X_0 0.10000000149011612)\n (X_1 -1.0)\n (Y_0 2.5))\n"


@pytest.mark.parametrize("verdict", ["unsat", "unknown", "timeout"])
def test_the_verdict_is_all_that_a_pipe_sees(shell: Shell, verdict: str) -> None:
    done = shell.verify(verdict)
    assert (done.out, done.err, done.code) == (f"{verdict}\n", "", 0)


def test_sat_is_followed_by_the_witness(shell: Shell) -> None:
    done = shell.verify("sat", "--witness", "found.txt")
    assert done.out.splitlines()[0] == "sat"
    values = [line.strip("() ").split() for line in done.out.splitlines()[1:]]
    assert [(name, float(value)) for name, value in values] == [
        ("X_0", 0.10000000149011612),
        ("X_1", -1.0),
        ("Y_0", 2.5),
    ]
    assert (shell.folder / "found.txt").read_text() == done.out.partition("\n")[2]
    assert (done.err, done.code) == ("", 0)


def test_what_libraries_print_stays_out_of_the_answer(shell: Shell) -> None:
    done = shell.verify("noisy")
    assert (done.out, done.err, done.code) == ("unsat\n", "", 0)


def test_verbose_explains_on_standard_error(shell: Shell) -> None:
    done = shell.verify("noisy", "-v")
    assert done.out == "unsat\n"
    assert "native code warns" in done.err and "because the test says so" in done.err
    assert "\n  said so\n" in done.err


def test_json_has_everything(shell: Shell) -> None:
    shell.verify("sat", "--json", "report.json", "--seed", "7")
    report = json.loads((shell.folder / "report.json").read_text())
    assert report["verdict"] == "sat" and report["reason"] == "found"
    assert report["witness"] == {"inputs": [pytest.approx(0.1), -1.0], "outputs": [2.5]}
    assert report["statistics"] == {"bound": 1.0, "worst": "-inf"}
    assert report["options"]["seed"] == 7
    assert {"provenn", "torch", "onnxruntime", "python", "platform"} <= report["versions"].keys()
    assert 0 < report["seconds"] < 60
    shell.verify("unsat", "--json", "report.json")
    report = json.loads((shell.folder / "report.json").read_text())
    assert (report["verdict"], report["bound"], report["strategy"], report["witness"]) == (
        "unsat", 0.5, ["said so"], None,
    )  # fmt: skip
    history = report["history"]
    assert history["stage"] == ["loading", "neuron splits", "refuted"]
    assert (history["domains"][1:], history["open"]) == ([12, None], [None, 3, 0])
    assert history["bound"] == [None, -0.25, None]
    assert sorted(history["seconds"]) == history["seconds"] and history["seconds"][-1] <= report["seconds"] + 1e-3
    assert [path.name for path in shell.folder.glob("*.part")] == []


@pytest.mark.parametrize(
    ("behaviour", "out", "code", "text"),
    [
        ("refused", "", 1, "unsupported operator Foo (node bar): | x = Foo( y)\n"),
        ("broken", "unknown\n", 3, "internal error, please report it: TypeError: wrong | type"),
        ("starved", "unknown\n", 3, "out of memory"),
        ("segfault", "unknown\n", 3, "was killed by SIGSEGV"),
        ("killed", "unknown\n", 3, "was killed by SIGKILL, probably for want of memory"),
        ("leaving", "unknown\n", 3, "exit status 7"),
    ],
)
def test_a_failure_is_one_line(shell: Shell, behaviour: str, out: str, code: int, text: str) -> None:
    done = shell.verify(behaviour, "--json", "report.json")
    assert (done.out, done.code) == (out, code)
    assert text in done.err and done.err.count("\n") == 1 and done.err.startswith("provenn: ")
    report = json.loads((shell.folder / "report.json").read_text())
    assert report["verdict"] == (out.strip() or "error") and text.strip() in report["reason"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["verify", "none.onnx", "prop.vnnlib"], 1, "cannot read network 'none.onnx': No such file"),
        (["verify", ".", "prop.vnnlib"], 1, "is a directory, expected a file"),
        (["verify", "net.onnx", "."], 1, "property '.' is a directory, expected a file"),
        (["verify", "net.onnx"], 2, "Missing argument"),
        (["verify", "net.onnx", "prop.vnnlib", "--device", "tpu"], 2, "'tpu' is not one of"),
        (["verify", "net.onnx", "prop.vnnlib", "--timeout", "soon"], 2, "'soon' is not a valid float"),
        (["verify", "net.onnx", "prop.vnnlib", "--timeout", "-1"], 2, "--timeout=-1.0, expected a positive"),
        (["verify", "net.onnx", "prop.vnnlib", "--timeout", "nan"], 2, "timeout=nan, expected a positive"),
        (
            ["verify", "net.onnx", "prop.vnnlib", "--threads", "0"],
            2,
            "--threads=0, expected a whole number of at least 1 and at most 2147483647; leave it out",
        ),
        (
            ["verify", "net.onnx", "prop.vnnlib", "--memory", "0"],
            2,
            "--memory=0.0, expected a positive number of GB; leave",
        ),
        (
            ["verify", "net.onnx", "prop.vnnlib", "--seed", "-1"],
            2,
            "--seed=-1, expected 0 to 9223372036854775807",
        ),
        (["verify", "net.onnx", "prop.vnnlib", "--seed", str(2**63)], 2, f"--seed={2**63}, expected 0 to"),
        (["bench", ".", "-o", "r.csv", "--timeout", "0"], 2, "--timeout=0.0, expected a positive"),
        (["bench", ".", "-o", "r.csv", "--seed", "-1"], 2, "--seed=-1, expected 0 to"),
        (["inspect", "none.onnx"], 1, "cannot read network 'none.onnx'"),
        (["bench", "nowhere", "-o", "r.csv"], 1, "nowhere: no such folder or file; name an instances.csv"),
        (["prove"], 2, "No such command 'prove'"),
    ],
)
def test_bad_arguments_are_one_line(shell: Shell, arguments: list[str], code: int, text: str) -> None:
    done = shell.run(*arguments)
    assert (done.out, done.code) == ("", code)
    assert text in done.err and done.err.count("\n") == 1 and done.err.startswith("provenn: ")
    assert done.seconds < 2.0, "refused before anything heavy is imported"


@pytest.mark.parametrize("option", ["--witness", "--json"])
def test_the_verdict_is_printed_even_if_a_file_cannot_be_written(shell: Shell, option: str) -> None:
    path = "/dev/full"
    done = shell.verify("sat", option, path)
    assert done.out == SAT and done.code == 1
    assert done.err.count("\n") == 1 and path in done.err and "the verdict stands" in done.err


def test_a_full_standard_output_is_one_error(shell: Shell) -> None:
    with open("/dev/full", "w") as full:
        process = shell.start("unsat", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("\n") == 1 and "No space left" in err


def test_a_closed_standard_output_is_one_error(shell: Shell) -> None:
    """Nobody got the verdict, so the command did not succeed; the files are written all the same."""
    command = f"'{sys.executable}' '{DRIVER}' sat verify net.onnx prop.vnnlib --witness w.txt >&-"
    done = subprocess.run(
        ["sh", "-c", command], cwd=shell.folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "cannot write the verdict to standard output" in done.stderr
    assert (shell.folder / "w.txt").read_text() == SAT.partition("\n")[2]


def test_a_closed_pipe_is_silent(shell: Shell) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = shell.start("unsat", "--json", "report.json", stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert (err, process.returncode) == ("", 1)
    assert (shell.folder / "report.json").exists(), "files are written all the same"


def test_closed_standard_files_do_no_harm(shell: Shell) -> None:
    """The pipe between the two processes must not become the standard output of one."""
    command = f"'{sys.executable}' '{DRIVER}' sat verify net.onnx prop.vnnlib --witness w.txt <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=shell.folder, env=environment(), check=False)
    assert done.returncode == 1 and (shell.folder / "w.txt").read_text() == SAT.partition("\n")[2]


def test_a_terminal_sees_progress(shell: Shell, terminal: Terminal) -> None:
    process = shell.start("blocked", "--timeout", "1", stderr=terminal.descriptor)
    out, _ = process.communicate(timeout=60)
    seen = terminal.text()
    assert out == "timeout\n"
    assert "blocking, 3 domains, bound -1.5" in seen
    assert seen.rstrip().endswith("(blocking, 3 domains, bound -1.5)"), "the line is cleared, a summary stays"
    assert "\r\x1b[Ktimeout in 1." in seen


def test_nothing_heavy_is_imported_by_the_process_that_waits() -> None:
    code = (
        "import sys, provenn.cli, provenn.verifier.report, provenn.verifier.watchdog, provenn.verifier.options\n"
        "print([name for name in ('torch', 'numpy', 'onnx', 'onnxruntime', 'scipy', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_states_the_exit_codes(shell: Shell) -> None:
    done = shell.run("verify", "--help")
    assert done.code == 0 and "Exit codes: 0" in done.out and "130 interrupted" in done.out


def test_no_command_is_answered_by_the_help(shell: Shell) -> None:
    done = shell.run()
    assert (done.out, done.code) == ("", 2)
    assert done.err.startswith("Usage: provenn") and "\n  verify " in done.err


def test_more_threads_than_the_machine_has_are_not_started(shell: Shell) -> None:
    shell.verify("unsat", "--threads", "100000", "--json", "report.json")
    report = json.loads((shell.folder / "report.json").read_text())
    assert report["options"]["threads"] == available_threads()


@pytest.mark.parametrize("module", ["click", "provenn.verifier.report"])
def test_an_interrupt_while_the_command_is_loaded(tmp_path: Path, module: str) -> None:
    """Both before and after the command line itself is there: one line, and 130."""
    code = (
        "import sys, signal, importlib.abc\n"
        "class Interrupt(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            sys.meta_path.remove(self)\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "sys.meta_path.insert(0, Interrupt())\n"
        "from provenn.__main__ import main\n"
        "sys.argv[1:] = ['--help']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "provenn: interrupted\n")
