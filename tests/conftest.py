"""Guards of the whole test run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
"""The repository, which is also the source of the package ``provenn``."""

if "PYTEST_XDIST_WORKER" in os.environ:  # there are as many of them as cores; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

COPIES: list[str] = []
"""What the workers of this run have found."""


@pytest.fixture(autouse=True, scope="session")
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tables that tests build stay out of the user's cache, and what lies there out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def second_copies() -> list[str]:
    """Modules of the package that were imported under any name but ``provenn.*``.

    The root of the repository is a package, so a tool that puts the root or its parent on ``sys.path``
    imports modules twice: two classes of the same name then are not the same class.
    """
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != "__main__" and name.split(".")[0] != "provenn" and file and _is_source(Path(file)):
            found.append(f"{name} ({file})")
    return found


def _is_source(file: Path) -> bool:
    """Whether a file belongs to the package: it lies in the root, or in a folder of the root that is a package."""
    if not file.is_absolute() or ROOT not in file.resolve().parents:
        return False
    first, *inner = file.resolve().relative_to(ROOT).parts
    return not inner or (ROOT / first / "__init__.py").is_file()


class _RootIsNoTestPackage:
    """Collect the root of the repository as a folder: as the package it is, pytest would import it, under the
    name of the checkout."""

    @pytest.hookimpl
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    """Register as a plugin: a conftest's own hooks are not asked about folders above it."""
    config.pluginmanager.register(_RootIsNoTestPackage())


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if any module of the package was imported twice, here or by a worker."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["copies"] = second_copies()
    elif copies := second_copies() + COPIES:
        print("\nmodules of provenn were imported under a second name:", *copies, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker of pytest-xdist has found."""
    COPIES.extend(getattr(node, "workeroutput", {}).get("copies", []))
