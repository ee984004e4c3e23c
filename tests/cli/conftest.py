"""Runs the command line as a process, with a verifier that behaves as a test says (see driver.py)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

DRIVER = str(Path(__file__).with_name("driver.py"))


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    out: str
    err: str
    code: int
    seconds: float


class Shell:
    """A folder with two files that exist, and commands on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "net.onnx").write_bytes(b"")
        (folder / "prop.vnnlib").write_bytes(b"")

    def start(self, behaviour: str, *options: str, **pipes: object) -> subprocess.Popen[str]:
        """``provenn verify net.onnx prop.vnnlib OPTIONS`` with that behaviour, not waited for."""
        return self.popen([behaviour, "verify", "net.onnx", "prop.vnnlib", *options], **pipes)

    def popen(self, arguments: list[str], **pipes: object) -> subprocess.Popen[str]:
        """The command with a verifier that behaves as the first argument says, not waited for."""
        command = [sys.executable, DRIVER, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes
        return subprocess.Popen(command, cwd=self.folder, text=True, env=environment(), **pipes)  # type: ignore

    def verify(self, behaviour: str, *options: str) -> Done:
        """The same, waited for."""
        start = time.monotonic()
        process = self.start(behaviour, *options)
        out, err = process.communicate(timeout=60)
        return Done(out, err, process.returncode, time.monotonic() - start)

    def drive(self, *arguments: str) -> Done:
        """Any arguments with that behaviour, waited for."""
        start = time.monotonic()
        process = self.popen(list(arguments))
        out, err = process.communicate(timeout=60)
        return Done(out, err, process.returncode, time.monotonic() - start)

    def run(self, *arguments: str) -> Done:
        """``provenn ARGUMENTS``, with the real verifier."""
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "provenn.cli", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=120,
        )
        return Done(done.stdout, done.stderr, done.returncode, time.monotonic() - start)


def environment() -> dict[str, str]:
    """The environment without what would change a command's output."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "COLUMNS")}


class Terminal:
    """A terminal that remembers what was written on it."""

    def __init__(self) -> None:
        self._leader, self.descriptor = os.openpty()
        self._seen = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while data := os.read(self._leader, 10_000):
                self._seen += data

    def text(self) -> str:
        """Everything written, once nobody will write more."""
        time.sleep(0.2)
        os.close(self.descriptor)
        self._reader.join(5)
        return self._seen.decode()


@pytest.fixture
def terminal() -> Terminal:
    if not hasattr(os, "openpty"):
        pytest.skip("this system has no terminals to open")
    return Terminal()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)
