"""Files that a command writes at its end: judged before the work, written whole or not at all after it.

Nothing heavy is imported at the top: the process that waits and prints must start at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from provenn.errors import InputError

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")


def clash(targets: Mapping[str, str | None], inputs: Mapping[str, str]) -> str:
    """Why these targets (None is not wanted) cannot be meant, empty if they can: one is an input or another target."""
    taken = dict(inputs)
    for name, path in targets.items():
        if path is None:
            continue
        if path == "-":
            return f"{name} got '-', expected a file; for standard output name /dev/stdout"
        for other, used in taken.items():
            if _same(path, used):
                return f"{name} got {path!r}, which is the file of {other}; name another file"
        if not _is_stream(path):  # streams take one text after the other
            taken[name] = path
    return ""


def check_target(path: str, what: str) -> None:
    """Refuse a file that certainly cannot be written; nothing is created or changed. Raises InputError."""
    refusal = ""
    target = os.path.realpath(path)
    if not path or os.path.isdir(path):
        refusal = "is a directory"
    elif _is_stream(path):
        refusal = (
            "" if _open_descriptor(path) is not None or os.access(path, os.W_OK) else "permission denied"
        )
    else:
        try:
            os.stat(target)
        except FileNotFoundError:
            pass
        except OSError as error:
            refusal = error.strerror or str(error)
        refusal = refusal or _folder_refusal(os.path.dirname(target))
    if refusal:
        raise InputError(f"cannot write {what} {path!r}: {refusal}; name another file")


def make_folder(path: str) -> None:
    """Make a folder in which files can be written; it may be there already. Raises InputError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path!r}: {error.strerror}") from error
    if refusal := _folder_refusal(path):
        raise InputError(f"cannot write into {path!r}: {refusal}; name another folder")


def write_text(path: str, text: str) -> None:
    """Write a text; see ``write_bytes``. Raises OSError."""
    write_bytes(path, text.encode())


def write_bytes(path: str, content: bytes) -> None:
    """Write a whole file or none: into a file beside it, then renamed. Raises OSError.

    Devices, pipes and what this process has open as its standard output or error get the text appended
    (to what was flushed before).
    """
    if _is_stream(path):
        _append(path, content)
        return
    target = Path(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(prefix=target.name + ".", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _append(path: str, data: bytes) -> None:
    shared = _open_descriptor(path)
    if shared is None:
        # Without waiting for a reader of a pipe: there may never be one.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
    else:
        descriptor = os.dup(shared)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


def _is_stream(path: str) -> bool:
    """Whether others may be writing it, or it holds nothing that could be replaced."""
    return (os.path.exists(path) and not os.path.isfile(path)) or _open_descriptor(path) is not None


def _open_descriptor(path: str) -> int | None:
    """The open file that a path names: ``/dev/fd/N``, or that of standard output or error; a device is opened anew."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        return None
    named = _DESCRIPTOR.fullmatch(path)
    for descriptor in (int(named[1]), 1, 2) if named else (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None


def _same(path: str, other: str) -> bool:
    """Whether two paths are one file that holds something, or will be."""
    if os.path.exists(path) and not os.path.isfile(path):
        return False
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.realpath(path) == os.path.realpath(other)


def _folder_refusal(folder: str) -> str:
    """Why no file can be made in a folder, empty if one can."""
    if not os.path.isdir(folder):
        return f"{folder!r} is not a directory" if os.path.exists(folder) else f"no such folder {folder!r}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"the folder {folder!r} may not be written"
