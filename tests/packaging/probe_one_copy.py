"""Run by test_one_copy in a pytest of its own: the guard of tests/conftest.py must find nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("bounds", "specs", "verifier")
"""The packages below the root; an environment or a build that lies there too is not the package."""


def test_one_copy() -> None:
    for name in ("cli", "bounds.graph", "specs", "verifier.batch"):
        importlib.import_module(f"provenn.{name}")
    names = ("bounds", "cli", "errors", "specs", "verifier", "__init__")
    assert not [name for name in sys.modules if name.split(".")[0] in names]
    modules = list(sys.modules.values())
    files = [Path(file).resolve() for module in modules if (file := getattr(module, "__file__", None))]
    owned = [file for file in files if file.parent == ROOT or any(file.is_relative_to(ROOT / p) for p in PARTS)]
    assert len(owned) > 20
    assert len(owned) == len(set(owned)), "the same file under two names"
