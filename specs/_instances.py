"""Benchmark folders: `instances.csv` with the columns network, property, timeout."""

from __future__ import annotations

import builtins
import csv
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

from provenn.errors import InputError
from provenn.specs._files import read_bytes, resolve

LIST = "instances.csv"
_ENDINGS = (".onnx", ".vnnlib", ".gz")
_WANTED = f"name an {LIST} or a folder that has one"


@dataclass(frozen=True)
class Instance:
    """One line of an instance list."""

    category: str
    network: str  # as the list spells it
    property: str
    timeout: float  # seconds
    folder: Path  # that the two names are relative to

    @builtins.property  # a field has the plain name
    def network_path(self) -> Path:
        """The network's file, plain or `.gz`; it may not exist."""
        return resolve(self.folder / self.network)

    @builtins.property  # a field has the plain name
    def property_path(self) -> Path:
        """The property's file, plain or `.gz`; it may not exist."""
        return resolve(self.folder / self.property)


def read_instances(path: str | Path) -> list[Instance]:
    """The instances of a list, of a folder with a list, or of all lists below a folder (sorted by path).

    An instance's category is the name of its list's folder (of the one above for `1.0` and `2.0`). Files that
    an instance names are not looked for here: a missing one concerns that instance only.
    Raises InputError where there is no list or an empty one, and with file:line for a malformed line.
    """
    path = Path(path)
    if not path.is_dir():
        if not resolve(path).exists():
            raise InputError(f"{path}: no such folder or file; {_WANTED}")
        return _read_list(path)
    if (path / LIST).exists():
        return _read_list(path / LIST)
    lists = sorted(Path(folder) / LIST for folder, _, files in os.walk(path) if LIST in files)
    if not lists:
        raise InputError(f"{path}: no {LIST} in this folder or below; {_WANTED}")
    return [instance for one in lists for instance in _read_list(one)]


def _read_list(path: Path) -> list[Instance]:
    folder = path.parent
    absolute = folder.resolve()
    category = absolute.parent.name if absolute.name in ("1.0", "2.0") else absolute.name
    data = read_bytes(path)
    if b"\0" in data:
        raise InputError(f"{path}: is no list of instances but a binary file; {_WANTED}")
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig", "replace")), skipinitialspace=True)
    instances: list[Instance] = []
    try:
        for row in reader:
            row = [cell.strip() for cell in row]
            if not any(row):
                continue
            where = f"{path}:{reader.line_num}"
            if len(row) < 3:
                raise InputError(f"{where}: got {len(row)} columns, expected network,property,timeout; {_WANTED}")
            try:
                timeout = float(row[2])
            except ValueError:
                if reader.line_num == 1 and not any(cell.endswith(_ENDINGS) for cell in row):
                    continue  # a header, which the format does not have but some lists do
                raise InputError(f"{where}: timeout is {row[2]!r}, expected seconds") from None
            if not (timeout > 0 and math.isfinite(timeout)):
                raise InputError(f"{where}: timeout is {row[2]!r}, expected positive seconds")
            instances.append(Instance(category, row[0], row[1], timeout, folder))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: {error}; mend the quotes") from None
    if not instances:
        raise InputError(f"{path}: has no instances, expected lines of network,property,timeout")
    return instances
