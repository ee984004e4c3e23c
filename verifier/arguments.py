"""How a command names networks: one file, a list of pairs as in competitions, or ``NAME=FILE`` as the standard has it.

Nothing heavy is imported at the top: the process that waits and prints must start at once.
"""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from provenn.errors import InputError

PathLike: TypeAlias = "str | os.PathLike[str]"
Networks: TypeAlias = "PathLike | Mapping[str, PathLike]"
"""One file, or files by the names of the networks that a property declares."""


def named(networks: Networks) -> Networks:
    """Files by name where a text lists them: ``[('f', 'a.onnx'), ('g', 'b.onnx')]``. Raises InputError."""
    if isinstance(networks, Mapping):
        return networks
    text = os.fspath(networks).strip()
    if not (text.startswith("[") and text.endswith("]")) or os.path.exists(text):
        return networks
    wrong = InputError(f"networks {text[:200]!r} are no list; expected [('name', 'file.onnx'), ..]")
    try:
        pairs = ast.literal_eval(text)
        found = [(name, path) for name, path in pairs]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise wrong from None
    if not found or not all(isinstance(part, str) for pair in found for part in pair):
        raise wrong
    return _once(found)


def by_name(assignments: Sequence[str]) -> dict[str, str]:
    """Files by name from ``NAME=FILE`` each. Raises InputError."""
    found = []
    for text in assignments:
        name, sign, path = text.partition("=")
        if not (name.strip() and sign and path):
            raise InputError(f"--network got {text!r}, expected NAME=FILE.onnx with a name that the property declares")
        found.append((name.strip(), path))
    return _once(found)


def _once(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"network {name!r} is given {names.count(name)} files; name it once")
    return dict(pairs)


def present(path: PathLike) -> str:
    """A file as it is named, or its packed form where only that exists."""
    name = os.fspath(path)
    return f"{name}.gz" if not os.path.exists(name) and os.path.exists(f"{name}.gz") else name


def readable(path: str, name: str) -> str:
    """The path of a file that can be read; ``name`` says what it is. Raises InputError."""
    if os.path.isdir(path):
        raise InputError(f"{name} {path!r} is a directory, expected a file")
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISFIFO(mode) and name == "property":
            return path  # it may wait for its writer for ever: read where the time limit holds
        if not stat.S_ISREG(mode):
            pipe = " or a pipe" if name == "property" else ""
            raise InputError(f"{name} {path!r} is not a regular file{pipe}; copy it into one")
        with open(path, "rb"):
            return path
    except OSError as error:
        raise InputError(f"cannot read {name} {path!r}: {error.strerror}") from error
