"""Modules of the tests, which are no installed package, for the scripts that share them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).resolve().parent.parent / "tests"


def load(name: str) -> ModuleType:
    """The module or package ``tests/NAME``, for example ``soundness/networks``; imported once."""
    known = name.replace("/", "_")
    if known not in sys.modules:
        folder = TESTS / name
        package = [str(folder)] if folder.is_dir() else None
        file = folder / "__init__.py" if package else folder.with_suffix(".py")
        spec = importlib.util.spec_from_file_location(known, file, submodule_search_locations=package)
        assert spec is not None and spec.loader is not None
        sys.modules[known] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[known]
