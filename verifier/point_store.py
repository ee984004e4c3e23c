"""Where tables of split points are kept: those of common operators in the package, others in the user's cache.

A cache is a convenience: a folder that cannot be written, a full disk or a file of something else is never an error.
A file appears whole or not at all, so several processes may share the folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

VERSION = 1
"""Of the tables' contents: a change of grids, search or operators' lines makes it the next number."""

SHIPPED = Path(__file__).resolve().parent / "point_tables.npz"
# More than any table has.
LARGEST = 1 << 20


@functools.cache
def shipped() -> Mapping[str, np.ndarray]:
    """The tables that come with the package, by key; none where the file is missing or not of this version."""
    try:
        with np.load(SHIPPED, allow_pickle=False) as file:
            tables = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    return tables if int(tables.pop("version", np.array(-1))) == VERSION else {}


def cached(key: str, shapes: tuple[tuple[int, ...], ...]) -> np.ndarray | None:
    """The table of a key, of one of these shapes (uint16), that an earlier run kept; None where there is none."""
    try:
        path = _path(key)
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        content = path.read_bytes()
    except (OSError, RuntimeError):
        return None
    data = content[32:]
    if content[:32] != _digest(key, data):
        return None
    array = np.frombuffer(data, dtype="<u2")
    for shape in shapes:
        if array.size == np.prod(shape):
            return array.reshape(shape).astype(np.uint16)
    return None


def keep(key: str, table: np.ndarray) -> None:
    """Put a table (uint16) into the user's cache, if that can be written."""
    data = np.ascontiguousarray(table, dtype="<u2").tobytes()
    temporary = None
    try:
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(_digest(key, data) + data)
        os.replace(temporary, path)
    except (OSError, RuntimeError):
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _digest(key: str, data: bytes) -> bytes:
    return hashlib.sha256(f"{VERSION} {key}\n".encode() + data).digest()


def _path(key: str) -> Path:
    """The file of a key. Raises RuntimeError where the user has no home."""
    found = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(found) if os.path.isabs(found) else Path.home() / ".cache"
    return base / "provenn" / "points" / hashlib.sha256(f"{VERSION} {key}".encode()).hexdigest()[:32]
