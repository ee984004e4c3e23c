"""The competition's scripts, called as its organisers call them."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .organisers import Row, deploy, files, judge, run_category, score

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "vnnlib_examples"
VERIFY = f"exec '{sys.executable}' -m provenn.cli \"$@\""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def benchmark(folder: Path, *lines: str) -> Path:
    """A category's folder as the organisers lay it out, with the examples' files."""
    made = folder / "benchmarks" / "examples" / "1.0"
    for name in ("onnx", "vnnlib"):
        shutil.copytree(EXAMPLES / name, made / name)
    (made / "instances.csv").write_text("\n".join(lines) + "\n")
    return made


def test_a_category_is_run_and_scored(tmp_path: Path) -> None:
    """From a folder that is not the tool's: a sat with its witness, an unsat about a packed file (a stand-in says it,
    to save time), and the libraries' warm-up."""
    program = f"case $3 in *leaning.vnnlib.gz) echo unsat;; *) {VERIFY};; esac"
    warm = f"[ -e '{tmp_path}/warm' ] && exit 0; touch '{tmp_path}/warm'; exec '{sys.executable}' \"$@\""
    scripts = deploy(ROOT, tmp_path, program, warm)
    folder = benchmark(
        tmp_path,
        "onnx/response.onnx,vnnlib/response_exceeded.vnnlib,60",
        "onnx/controller.onnx,vnnlib/controller_leaning.vnnlib,60.5",
        "\"[('long','onnx/controller.onnx'),('short','onnx/controller_rounded.onnx')]\",vnnlib/controllers_close.vnnlib,60",
    )
    subprocess.run(["gzip", str(folder / "vnnlib" / "controller_leaning.vnnlib")], check=True)
    out = tmp_path / "out"
    out.mkdir()
    rows = run_category(scripts, folder, out)
    assert [row.result for row in rows] == ["sat", "unsat", "sat"]
    assert all(0 < row.run_time < 60 and row.prepare_time < 60 for row in rows)
    for row in (rows[0], rows[2]):
        assert judge(files(folder, row.network), folder / row.property, row.witness) == "correct"
    assert score({"provenn": rows}, folder) == {"provenn": 30}
    with open(out / "results.csv") as file:
        assert [line[0::4] for line in csv.reader(file)] == [["examples", row.result] for row in rows]
    assert (out / "long_short_controllers_close.counterexample").read_text().startswith("X float32 [1,4]\n")
    assert (out / "response_response_exceeded.counterexample").read_text().startswith("((X_0 ")
    assert sorted(path.name for path in scripts.parent.iterdir()) == [".venv", "vnncomp_scripts"], "nothing is left"


ENDINGS = {
    # what stands for provenn, the time limit, the result
    "slow": ("sleep 0.8; echo unsat", "0.5", "timeout"),
    "stuck": (f"trap '' TERM INT; sleep 61.{os.getpid()} & wait; sleep 61.{os.getpid()}", "0.3", "timeout"),
    "crashed": ("echo unknown; exit 3", "20", "error_exit_code_3"),
    "refused": ("echo 'provenn: no' >&2; exit 1", "20", "error_exit_code_1"),
    "killed": ("kill -9 $$", "20", "error_exit_code_-9"),
    "silent": ("exit 0", "20", ""),
    "unknown": ("echo unknown", "20", "unknown"),
    "timeout": ("echo timeout", "20", "timeout"),
}


def sleeping() -> int:
    """Processes that the test "stuck" of this process has started and that still run."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes().split(b"\0")[:2] == [b"sleep", f"61.{os.getpid()}".encode()]
    return found


@pytest.mark.parametrize("name", ENDINGS)
def test_every_way_to_end(tmp_path: Path, name: str) -> None:
    program, limit, result = ENDINGS[name]
    scripts = deploy(ROOT, tmp_path, program, "exit 0")
    folder = benchmark(tmp_path, f"onnx/response.onnx,vnnlib/response_bounded.vnnlib,{limit}")
    begun = time.monotonic()
    (row,) = run_category(scripts, folder, tmp_path, grace=0.5)
    assert row.result == result and time.monotonic() - begun < 50
    if name == "stuck":
        limit = time.monotonic() + 10  # the system may take a while to end what is killed
        while (left := sleeping()) and time.monotonic() < limit:
            time.sleep(0.05)
        assert left == 0, "whatever it started is gone"
    assert score({"tool": [row]}, folder) == {"tool": 0}


def test_what_the_tool_is_told(tmp_path: Path) -> None:
    """Names with blanks, several networks as one argument, and a time limit with something kept back."""
    scripts = deploy(ROOT, tmp_path, 'printf "%s\\n" "$@"', "exit 0")
    several = "[('f','a b.onnx'),('g','c.onnx')]"
    (tmp_path / "a $p.vnnlib").write_text("")
    for given, limit in (("100", 98.5), ("116.0", 114.5), ("10", 9), ("0.5", 0.45), ("7.", 6.3)):
        call = [str(scripts / "run_instance.sh"), "v1", "any", several, "a $p.vnnlib", "out file", given]
        assert subprocess.run(call, cwd=tmp_path).returncode == 0
        told = (tmp_path / "out file").read_text().splitlines()
        assert told[:-1] == ["verify", several, "a $p.vnnlib", "--timeout"] and float(told[-1]) == limit


RUN, PREPARE, INSTALL = (f"{name}.sh" for name in ("run_instance", "prepare_instance", "install_tool"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([RUN], "got '', expected v1 CATEGORY ONNX VNNLIB RESULTS TIMEOUT"),
        ([RUN, "v2", "c", "a", "b", "out", "60"], "expected v1 CATEGORY"),
        ([RUN, "v1", "c", "a", "b", "out"], "expected v1 CATEGORY"),
        ([RUN, "v1", "c", "a", "b", "out", "soon"], "TIMEOUT is 'soon', expected seconds"),
        ([RUN, "v1", "c", "a", "b", "out", "-1"], "TIMEOUT is '-1'"),
        ([RUN, "v1", "c", "a", "b", "no/out", "60"], "No such file or directory"),
        ([PREPARE, "v1", "c", "a"], "expected v1 CATEGORY ONNX VNNLIB"),
        ([PREPARE, "c", "a", "b", "v1"], "expected v1 CATEGORY ONNX VNNLIB"),
        ([INSTALL], "expected the one argument v1"),
        ([INSTALL, "v2"], "got 'v2'"),
    ],
)
def test_wrong_calls_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    scripts = deploy(ROOT, tmp_path, "echo unsat", "exit 0")
    name, *given = arguments
    done = subprocess.run([str(scripts / name), *given], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1 and name in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [RUN, PREPARE])
def test_what_is_not_installed_says_so(tmp_path: Path, name: str) -> None:
    shutil.copytree(ROOT / "vnncomp_scripts", tmp_path / "vnncomp_scripts")
    given = ["v1", "c", "a", "b", "out", "60"][: 6 if name == RUN else 4]
    done = subprocess.run(
        [str(tmp_path / "vnncomp_scripts" / name), *given], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.endswith("not installed; run install_tool.sh v1\n")


def test_the_installation(tmp_path: Path) -> None:
    """With the README's commands, which `.ci/run` carries out; a stand-in for Python writes them down."""
    shutil.copytree(ROOT / "vnncomp_scripts", tmp_path / "vnncomp_scripts")
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(
        f"#!/bin/bash\nif [ \"$1\" = -c ]; then exit 0; fi\necho \"python $*\" >> '{log}'\nmkdir -p \"$3/bin\"\n"
        f"for name in pip provenn; do printf '#!/bin/bash\\necho \"'$name' $*\" >> {log}\\n' > \"$3/bin/$name\"; "
        'chmod +x "$3/bin/$name"; done\n'
    )
    python.chmod(0o755)
    call = [str(tmp_path / "vnncomp_scripts" / INSTALL), "v1"]
    subprocess.run(call, cwd="/", check=True, env={**os.environ, "PYTHON": str(python)})
    torch = re.search(r"pip install (torch==\S+) && pip install \.", (ROOT / "README.md").read_text())
    assert torch is not None
    expected = [f"python -m venv {tmp_path}/.venv", f"pip install {torch[1]}", f"pip install {tmp_path}"]
    assert log.read_text().splitlines() == [*expected, "provenn --version"]
    done = subprocess.run(call, env={**os.environ, "PYTHON": "/bin/false"}, capture_output=True, text=True)
    assert done.returncode == 1 and "'/bin/false' is no Python 3.10 or newer" in done.stderr


def test_the_organisers_notice_wrong_answers(tmp_path: Path) -> None:
    """The scoring itself: what is no witness, a witness by tolerance only, and an unsat that another refutes."""
    folder = benchmark(tmp_path, "")
    names = "onnx/response.onnx", "vnnlib/response_exceeded.vnnlib"
    given = files(folder, names[0]), folder / names[1]
    good = "((X_0 0.4981720447540283)\n (X_1 0.2554769515991211)\n (Y_0 0.65))"
    near = good.replace("0.4981720447540283", "0.50005")
    qualities = {
        good: "correct",
        near: "correct up to tolerance",
        good.replace("0.498", "0.298"): "property not violated",
        good.replace("0.498", "0.698"): "property not violated",
        good.replace(" (X_1 0.2554769515991211)\n", ""): "wrong shape",
        good.replace("X_1", "X_2"): "malformed",
        "": "malformed",
    }
    for witness, quality in qualities.items():
        assert judge(*given, witness) == quality

    def row(result: str, witness: str = "") -> list[Row]:
        return [Row("examples", *names, 0.0, result, 1.0, witness)]

    tools = {"right": row("sat", good), "wrong": row("unsat"), "lies": row("sat", ""), "late": row("timeout")}
    assert score(tools, folder) == {"right": 10, "wrong": -150, "lies": -150, "late": 0}
    assert score({"one": row("unsat"), "two": row("sat", near)}, folder) == {"one": 10, "two": 10}


def test_the_organisers_judge_tensors(tmp_path: Path) -> None:
    """Witnesses of VNN-LIB 2: two evaluations of one network, an equation that holds by tolerance, strict forms."""
    folder = benchmark(tmp_path, "")
    given = files(folder, "onnx/response.onnx"), folder / "vnnlib" / "response_steep.vnnlib"
    found = (
        "U float32 [1,2]\n0.2153378427028656\n0.11092454940080643\nP float32 [1,1]\n0.24682661890983582\n"
        "V float32 [1,2]\n0.31212663650512695\n0.11092454940080643\nQ float32 [1,1]\n0.38670414686203003\n"
    )
    assert judge(*given, found) == "correct"
    number = found.splitlines()[7]  # V[0,1], which equals U[0,1]
    near = found.replace(f"{number}\nQ", f"{float(number) + 5e-5}\nQ")
    assert near != found and judge(*given, near) == "correct up to tolerance"
    far = found.replace(f"{number}\nQ", f"{float(number) + 5e-4}\nQ")
    assert judge(*given, far) == "property not violated"
    for broken in (
        found.replace("[1,2]", "[2]"),
        found.replace("float32", "float64"),
        found.replace(f"\n{number}\nP", f" {number}\nP"),
        found + "1.0\n",
        found[: found.index("Q float32")],
        "((X_0 1.0))",
        "",
    ):
        assert judge(*given, broken) == "malformed", broken
    assert judge(*given, found.replace("0.", "0.x")) == "malformed"
