"""Finding and reading files that may or may not be gzipped."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from provenn.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"


def resolve(path: str | Path) -> Path:
    """The file that `path` means: itself, or its only form with or without `.gz`.

    Competition lists name `a.vnnlib` where only `a.vnnlib.gz` exists, and the reverse. A path of which no
    form exists is returned as it is; reading it names what is missing.
    """
    path = Path(path)
    if os.path.exists(path):  # False where Path.exists raises: for names that are too long
        return path
    other = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    return other if os.path.exists(other) else path


def read_bytes(path: str | Path) -> bytes:
    """The file's content, decompressed where the *content* (not the name) is gzip.

    Raises InputError for a missing file, a directory, an unreadable or a damaged file.
    """
    found = resolve(path)
    try:
        data = found.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (neither plain nor with .gz); correct the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, expected a file; name a file in it") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    try:
        while data.startswith(_GZIP_MAGIC):  # some archives compress twice
            data = gzip.decompress(data)
        return data
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip data ({error}); fetch the file again") from None
