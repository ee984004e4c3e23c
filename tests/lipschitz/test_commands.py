"""`provenn lipschitz` and `provenn monotone` as a user calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from provenn import cli
from provenn.verifier import answers, watchdog
from provenn.verifier.watchdog import Outcome

from ..cli.conftest import Done, Shell
from ..verifier.networks import affine, box, layers, property_text, save
from .test_monotone import node


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder with a network of 2 inputs and 3 outputs, a property of it, and a centre."""
    made = Shell(tmp_path)
    random = np.random.default_rng(0)
    weights = [np.abs(random.normal(size=shape)) for shape in ((2, 4), (4, 3))]
    layers(tmp_path / "net.onnx", "Tanh", weights, [np.zeros(4), np.zeros(3)])
    text = property_text(2, 3, box([("-0.5", "0.5"), ("0", "1")]), "(assert (<= Y_0 0))")
    (tmp_path / "prop.vnnlib").write_bytes(text)
    (tmp_path / "centre.txt").write_text("0.25, -0.5\n")
    return made


def numbers(done: Done) -> tuple[float, float]:
    assert (done.code, done.err) == (0, "")
    (first, lower), (second, upper) = (line.split() for line in done.out.splitlines())
    assert (first, second) == ("lower", "upper")
    return float(lower), float(upper)


def test_a_constant_over_the_box_of_a_property(shell: Shell) -> None:
    done = shell.run(
        "lipschitz", "net.onnx", "--region", "prop.vnnlib", "--norm", "inf", "--timeout", "60", "--json", "out.json"
    )
    lower, upper = numbers(done)
    assert 0 < lower <= upper <= lower * 1.0011
    report = json.loads((shell.folder / "out.json").read_text())
    assert {"lower", "upper", "point", "norm", "seconds", "domains"} <= report.keys()
    assert (report["lower"], report["upper"], report["norm"]) == (lower, upper, "inf")
    assert len(report["point"]) == 2 and report["domains"] >= 1 and report["seconds"] > 0
    # The slopes are largest at the centre: |W| tanh'(0) |V|.
    random = np.random.default_rng(0)
    weights = [np.abs(random.normal(size=shape)) for shape in ((2, 4), (4, 3))]
    exact = np.linalg.norm((weights[0] @ weights[1]).T.astype(np.float32), np.inf)
    assert lower <= exact * (1 + 1e-6) and exact * (1 - 1e-6) <= upper


def test_a_constant_of_one_row_around_a_centre(shell: Shell) -> None:
    given = ("lipschitz", "net.onnx", "--center", "centre.txt", "--radius", "0.1", "--output", "1", "--timeout", "60")
    whole = numbers(shell.run(*given[:-4], "--timeout", "60", "--tolerance", "0.01"))
    row = numbers(shell.run(*given))
    assert row[0] <= whole[1]


def test_a_constant_over_the_whole_space(shell: Shell) -> None:
    around = ("lipschitz", "net.onnx", "--center", "centre.txt", "--output", "1", "--timeout", "10", "--radius")
    whole, near = numbers(shell.run(*around, "inf")), numbers(shell.run(*around, "0.1"))
    assert near[0] <= whole[1] < float("inf")


def test_monotonicity(shell: Shell) -> None:
    given = ("monotone", "net.onnx", "--region", "prop.vnnlib", "--input", "1", "--output", "2", "--timeout", "60")
    done = shell.run(*given, "--json", "out.json")
    assert (done.out, done.err, done.code) == ("proved\n", "", 0)
    report = json.loads((shell.folder / "out.json").read_text())
    assert report["verdict"] == "proved" and report["bound"] >= 0 and report["inputs"] is None
    done = shell.run(*given, "--direction", "down", "--json", "out.json")
    assert done.out.startswith("refuted\nX_1 ") and (done.err, done.code) == ("", 0)
    report = json.loads((shell.folder / "out.json").read_text())
    first, second = report["inputs"]
    assert first[1] < second[1] and first[0] == second[0] and report["outputs"][0] < report["outputs"][1]
    assert done.out.splitlines()[3:] == [f"X_0 {first[0]!r}"]


LIPSCHITZ = ("lipschitz", "net.onnx")
AROUND = ("--center", "centre.txt", "--radius", "0.1")
MONOTONE = ("monotone", "net.onnx", *AROUND, "--input", "0", "--output", "0")

WRONG = {
    "no network": (("lipschitz", "none.onnx", *AROUND), 1, "none.onnx"),
    "a folder": (("lipschitz", ".", *AROUND), 1, "is a directory"),
    "no network in the file": (("lipschitz", "centre.txt", *AROUND), 1, "centre.txt"),
    "no property": ((*LIPSCHITZ, "--region", "none.vnnlib"), 1, "none.vnnlib"),
    "a malformed property": ((*LIPSCHITZ, "--region", "broken.vnnlib"), 1, "broken.vnnlib"),
    "a property of another network": ((*LIPSCHITZ, "--region", "other.vnnlib"), 1, "other.vnnlib"),
    "no centre": ((*LIPSCHITZ, "--center", "none.txt", "--radius", "1"), 1, "none.txt"),
    "a centre of another size": ((*LIPSCHITZ, "--center", "long.txt", "--radius", "1"), 1, "3 numbers"),
    "an empty centre": ((*LIPSCHITZ, "--center", "empty.txt", "--radius", "1"), 1, "empty.txt"),
    "NaN in the centre": ((*LIPSCHITZ, "--center", "nan.txt", "--radius", "1"), 1, "number 2 is 'nan'"),
    "a word in the centre": ((*LIPSCHITZ, "--center", "word.txt", "--radius", "1"), 1, "number 1 is 'zero'"),
    "a centre that is no text": ((*LIPSCHITZ, "--center", "net.onnx", "--radius", "1"), 1, "net.onnx"),
    "no region": (LIPSCHITZ, 2, "--region"),
    "two regions": ((*LIPSCHITZ, *AROUND, "--region", "prop.vnnlib"), 2, "--region"),
    "no radius": ((*LIPSCHITZ, "--center", "centre.txt"), 2, "--radius"),
    "a negative radius": ((*LIPSCHITZ, "--center", "centre.txt", "--radius", "-1"), 2, "--radius=-1.0"),
    "a radius that is none": ((*LIPSCHITZ, "--center", "centre.txt", "--radius", "nan"), 2, "--radius=nan"),
    "another norm": ((*LIPSCHITZ, *AROUND, "--norm", "3"), 2, "--norm"),
    "no such output": ((*LIPSCHITZ, *AROUND, "--output", "3"), 1, "output got 3"),
    "a negative output": ((*LIPSCHITZ, *AROUND, "--output", "-1"), 2, "--output"),
    "a negative tolerance": ((*LIPSCHITZ, *AROUND, "--tolerance", "-1"), 2, "--tolerance"),
    "no time": ((*LIPSCHITZ, *AROUND, "--timeout", "0"), 2, "--timeout"),
    "an unwritable report": ((*LIPSCHITZ, *AROUND, "--json", "none/out.json"), 1, "none/out.json"),
    "a report over the network": ((*LIPSCHITZ, *AROUND, "--json", "net.onnx"), 2, "--json"),
    "a report over the centre": ((*LIPSCHITZ, *AROUND, "--json", "centre.txt"), 2, "--json"),
    "a jump": (("lipschitz", "sign.onnx", *AROUND), 1, "(node jump)"),
    "a floor": (("lipschitz", "floor.onnx", *AROUND), 1, "(node jump)"),
    "a slope without end": (("lipschitz", "sqrt.onnx", "--region", "root.vnnlib", "--timeout", "100"), 1, "Sqrt"),
    "no such input": ((*MONOTONE[:-4], "--input", "2", "--output", "0"), 1, "input got 2"),
    "no input": (("monotone", "net.onnx", *AROUND, "--output", "0"), 2, "--input"),
    "another direction": ((*MONOTONE, "--direction", "left"), 2, "--direction"),
    "monotonicity of a jump": (("monotone", "floor.onnx", *MONOTONE[2:]), 1, "(node jump)"),
}  # fmt: skip


# Found by the worker, which loads torch: it works in this process, but for one of each command.
BY_WORKER = frozenset({
    "no network in the file", "a property of another network", "a centre of another size", "an empty centre",
    "NaN in the centre", "a word in the centre", "a centre that is no text", "no such output", "no such input",
    "a floor", "a slope without end",
})  # fmt: skip


def run_here(arguments: tuple[str, ...], shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Done:
    """The command without a process of its own."""
    monkeypatch.chdir(shell.folder)
    monkeypatch.setattr(
        watchdog, "supervise", lambda work, deadline, **_: Outcome("answer", work(lambda message: None))
    )
    found = CliRunner().invoke(cli.commands, arguments)
    return Done(found.stdout, found.stderr, found.exit_code, 0.0)


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, code, words = WRONG[case]
    folder = shell.folder
    texts = {"long.txt": "1 2 3", "empty.txt": "", "nan.txt": "1 nan", "word.txt": "zero 1"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "broken.vnnlib").write_text("(declare-const X_0 Real)\n(assert (<= X_0")
    (folder / "other.vnnlib").write_bytes(property_text(5, 3, box([("0", "1")] * 5), "(assert (<= Y_0 0))"))
    (folder / "root.vnnlib").write_bytes(property_text(2, 2, box([("0", "1")] * 2), "(assert (<= Y_0 0))"))
    save(folder / "sqrt.onnx", [node("Sqrt", "X", "Y", name="root")], 2, 2)
    for operator in ("Sign", "Floor"):
        save(folder / f"{operator.lower()}.onnx", [node(operator, "X", "Y", name="jump")], 2, 2)
    done = run_here(arguments, shell, monkeypatch) if case in BY_WORKER else shell.run(*arguments)
    assert done.code == code, done
    assert done.out == "" and "Traceback" not in done.err
    assert words in done.err and len(done.err.splitlines()) == 1, done.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_centre_that_is_a_pipe_is_refused(shell: Shell) -> None:
    os.mkfifo(shell.folder / "pipe")
    done = shell.run(*LIPSCHITZ, "--center", "pipe", "--radius", "1")
    assert done.code == 1 and "pipe" in done.err and len(done.err.splitlines()) == 1


def test_what_stops_early_still_has_bounds(shell: Shell) -> None:
    affine(shell.folder / "affine.onnx", np.eye(2), np.zeros(2))
    lower, upper = numbers(shell.run("lipschitz", "affine.onnx", *AROUND, "--timeout", "0.01"))
    assert lower <= 1 <= upper


QUESTION = answers.Question("lipschitz", "net.onnx", None, "centre.txt", 0.1, 0.0, 2.0)


@pytest.mark.parametrize(
    ("outcome", "text", "code"),
    [
        (Outcome("deadline", {}, progress={"stage": "loading"}), "lower 0.0\nupper inf\n", 0),
        (
            Outcome("deadline", {}, progress={"stage": "s", "domains": 3, "bound": 2.5, "lower": 1.5}),
            "lower 1.5\nupper 2.5\n", 0,
        ),
        (
            Outcome("crash", {}, detail="died", progress={"stage": "s", "bound": "inf", "lower": 1.5}),
            "lower 1.5\nupper inf\n", 3,
        ),
        (Outcome("answer", {"failure": "internal error"}), "lower 0.0\nupper inf\n", 3),
    ],
)  # fmt: skip
def test_what_did_not_end_says_what_it_knew(outcome: Outcome, text: str, code: int) -> None:
    answer = answers.conclude(outcome, QUESTION, 2.0)
    assert (answer.text, answer.code) == (text, code)
    assert {"lower", "upper", "point", "norm", "seconds", "domains"} <= answer.report.keys()
