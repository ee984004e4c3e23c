"""Run by test_one_copy in a pytest of its own: the guard of tests/conftest.py must find nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import provenn.bounds
import provenn.cli
import provenn.specs
import provenn.verifier

ROOT = Path(__file__).resolve().parents[2]


def test_one_copy() -> None:
    names = ("bounds", "cli", "errors", "specs", "verifier", "__init__", ROOT.name)
    assert not [name for name in sys.modules if name.split(".")[0] in names]
    owned = [module for name, module in sys.modules.items() if name.split(".")[0] == "provenn"]
    files = [file for module in owned if (file := getattr(module, "__file__", None))]
    assert len(files) == len(set(files))
