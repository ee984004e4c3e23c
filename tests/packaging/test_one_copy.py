"""pytest, doctests and the type checker each see one copy of every module."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import provenn

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("bounds", "specs", "verifier")
"""The packages below the root; everything else in the repository is not part of ``provenn``."""


def modules() -> list[str]:
    """Every module of the package, by its import name."""
    found = ["provenn", "provenn.cli", "provenn.errors"]
    for part in PARTS:
        package = importlib.import_module(f"provenn.{part}")
        found.append(package.__name__)
        found += [entry.name for entry in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return found


def test_modules_are_found() -> None:
    assert {"provenn.cli", "provenn.verifier.options", "provenn.bounds.ops"} <= set(modules())


@pytest.mark.parametrize("name", modules())
def test_doctests(name: str) -> None:
    """Doctests run on the imported module itself: ``--doctest-modules`` would import files a second time."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_pytest_sees_one_copy() -> None:
    """A test run in the repository's root, the place where a second copy is made most easily."""
    probe = ROOT / "tests" / "packaging" / "probe_one_copy.py"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(probe)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_mypy_sees_one_copy() -> None:
    """mypy parses every file of the repository under one name, and that name is ``provenn.*``."""
    pytest.importorskip("mypy")
    result = subprocess.run(
        ["bash", str(ROOT / ".ci" / "types"), "-v", "--cache-dir", os.devnull, "--follow-imports", "silent"]
        + ["-m", "provenn.errors", "-m", "provenn.specs"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    parsed = re.findall(r"Parsing (\S+) \(([\w.]+)\)", result.stderr)
    ours = {name for file, name in parsed if "site-packages" not in file and "typeshed" not in file}
    assert {"provenn", "provenn.errors", "provenn.specs", "provenn.specs._results"} <= ours, result.stderr[
        -2000:
    ]
    assert all(name == "provenn" or name.startswith("provenn.") for name in ours), ours


def test_the_installed_package_is_this_one() -> None:
    """The tests test what is in this repository (editable), or a copy installed from it; never a mixture."""
    here = Path(provenn.__file__).resolve().parent
    for name in ("provenn.cli", "provenn.errors", "provenn.bounds", "provenn.specs", "provenn.verifier"):
        file = importlib.import_module(name).__file__
        assert file is not None and here in Path(file).resolve().parents


def test_the_guard_notices_a_second_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at the end of every run (tests/conftest.py) can fail."""
    from tests.conftest import second_copies  # type: ignore[import-not-found]

    assert second_copies() == []
    copy = type(sys)("errors")
    copy.__file__ = str(ROOT / "errors.py")
    monkeypatch.setitem(sys.modules, "errors", copy)
    assert second_copies() == [f"errors ({ROOT / 'errors.py'})"]
