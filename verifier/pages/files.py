"""The files that a page is made of, and the one that it is written to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from provenn.errors import InputError
from provenn.specs import read_tables
from provenn.verifier.pages.page import page
from provenn.verifier.pages.reports import Reports
from provenn.verifier.targets import write_text


def sources(given: Sequence[str]) -> dict[str, str]:
    """The paths of results by the names of their tools.

    Each of ``given`` is a path or ``NAME=path``. Without a name the file's without its ending is taken, with its folder
    in front where two are the same. Raises InputError where a file or a name comes twice.
    """
    named = [_split(text) for text in given]
    for number, (_, path) in enumerate(named):
        for _, other in named[:number]:
            if os.path.realpath(path) == os.path.realpath(other):
                raise InputError(f"results {path!r} are named twice; name every file once")
    plain = [name or _stem(path) for name, path in named]
    found: dict[str, str] = {}
    for (name, path), short in zip(named, plain, strict=True):
        if not name and plain.count(short) > 1:
            short = f"{Path(path).absolute().parent.name}/{short}"
        if short in found:
            raise InputError(f"{found[short]!r} and {path!r} are both called {short!r}; write NAME={path}")
        found[short] = path
    return found


def write(found: Mapping[str, str], reports: str | None, wanted: Sequence[str], output: str) -> str:
    """Write the page about the first file beside the others to ``output`` and return one line that sums it up.

    ``reports`` and ``wanted`` are those of ``page``. Raises InputError for whatever cannot be read or written; then
    ``output`` is as it was.
    """
    tables = [table for name, path in found.items() for table in read_tables(path, name)]
    text, summary = page(tables, Reports(reports), wanted)
    try:
        write_text(output, text)
    except OSError as error:
        raise InputError(f"cannot write {output!r}: {error.strerror or error}; name another file") from error
    return summary


def _split(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or os.path.exists(text):
        return "", text
    return name.strip(), path


def _stem(path: str) -> str:
    return Path(path).name.removesuffix(".gz").removesuffix(".csv") or path
