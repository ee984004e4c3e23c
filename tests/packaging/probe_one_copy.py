"""Run by test_one_copy in a pytest of its own: the guard of tests/conftest.py must find nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_one_copy() -> None:
    for name in ("cli", "bounds.graph", "specs", "verifier.batch"):
        importlib.import_module(f"provenn.{name}")
    names = ("bounds", "cli", "errors", "specs", "verifier", "__init__", ROOT.name)
    assert not [name for name in sys.modules if name.split(".")[0] in names]
    owned = [module for name, module in sys.modules.items() if name.split(".")[0] == "provenn"]
    files = [file for module in owned if (file := getattr(module, "__file__", None))]
    assert len(files) == len(set(files))
