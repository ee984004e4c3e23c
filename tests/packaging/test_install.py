"""A wheel and an editable install hold the package `provenn` and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77")

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("bounds", "specs", "verifier")
NOT_SOURCE = (".git", "build", "dist", "*.egg-info", "__pycache__", ".venv", ".*_cache", ".hypothesis")
NEIGHBOURS = (
    "bounds",
    "specs",
    "verifier",
    "cli",
    "errors",
    "tests",
    "benchmarks",
    "vnnlib_examples",
    "vnncomp_scripts",
    "docs",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, under another name: building writes into the tree it builds."""
    copy = tmp_path_factory.mktemp("copy") / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return build(source, "build_wheel", tmp_path_factory.mktemp("wheel"))


def build(source: Path, hook: str, folder: Path) -> Path:
    """Call a hook of the build backend, as pip does without build isolation."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / done.stdout.splitlines()[-1]


def modules_in_the_tree() -> set[str]:
    """Every file of the package, by its path in the wheel."""
    files = [*ROOT.glob("*.py"), *(file for part in PARTS for file in (ROOT / part).rglob("*.py"))]
    return {f"provenn/{file.relative_to(ROOT).as_posix()}" for file in files}


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {file.parent for part in PARTS for file in (ROOT / part).rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_the_wheel_holds_every_module_and_the_examples(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = modules_in_the_tree() - names
    assert not missing, f"not in the wheel (add the package to pyproject.toml): {sorted(missing)}"
    assert {name for name in names if name.endswith(".py")} == modules_in_the_tree()
    shipped = {name for name in names if name.startswith("provenn/") and not name.endswith(".py")}
    data = {"provenn/verifier/point_tables.npz", "provenn/verifier/pages/style.css"}
    assert data <= shipped
    shipped -= data
    assert all(name.startswith("provenn/vnnlib_examples/") for name in shipped), shipped
    assert {Path(name).suffix for name in shipped} == {".onnx", ".vnnlib", ".csv", ".md"}


def test_the_wheel_puts_nothing_beside_the_package(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            "--target",
            str(target),
            str(wheel),
        ],
        check=True,
    )
    assert {path.name for path in target.iterdir()} == {
        "provenn",
        "bin",
        wheel.name.split("-py3")[0] + ".dist-info",
    }
    assert [path.name for path in (target / "bin").iterdir()] == ["provenn"]
    environment = {**os.environ, "PYTHONPATH": str(target)}
    code = "import provenn.cli, provenn.verifier.options as o; print(o.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(target / "provenn" / "verifier" / "options.py")
    version = subprocess.run(
        [sys.executable, str(target / "bin" / "provenn"), "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", version.stdout)


def test_an_editable_install_puts_nothing_beside_the_package(source: Path, tmp_path: Path) -> None:
    wheel = build(source, "build_editable", tmp_path)
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    names = {path.name for path in site.iterdir()}
    assert all("editable__" in name or name.endswith(".dist-info") for name in names), names
    code = (
        "import importlib.util, site, sys\n"
        "site.addsitedir(sys.argv[1])\n"
        "import provenn.errors, provenn.verifier.options\n"
        "print(provenn.verifier.options.__file__)\n"
        f"print([name for name in {NEIGHBOURS!r} if importlib.util.find_spec(name)])\n"
    )
    done = subprocess.run(  # -S: without the site-packages of the environment that runs this test
        [sys.executable, "-S", "-c", code, str(site)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(source / "verifier" / "options.py"), "[]"]
