"""Results of several tools side by side: which rows are the same instance, and where answers contradict each other."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from provenn.specs import ResultRow, Table
from provenn.verifier.batch import several

SOLVED = ("unsat", "sat")
_FOLDERS = ("onnx", "vnnlib")
_ENDINGS = (".gz", ".onnx", ".vnnlib")
_YEAR = re.compile(r"[_-]?(?<!\d)20[12]\d(?!\d)[_-]?")


@dataclass(eq=False)
class Instance:
    """A network with a property, as the first file spells it that has it; ``rows`` are those of table number i."""

    category: str
    network: str
    property: str
    rows: dict[int, list[ResultRow]] = field(default_factory=dict)

    def row(self, table: int) -> ResultRow | None:
        """The row of a table; of several the first that is an answer, or else the first."""
        rows = self.rows.get(table, [])
        return next((row for row in rows if row.result in SOLVED), rows[0] if rows else None)

    def conflicts(self) -> bool:
        """Whether one row says sat and another unsat: one of them is wrong."""
        return len({row.result for rows in self.rows.values() for row in rows} & set(SOLVED)) == 2


@dataclass(frozen=True)
class Comparison:
    """Tables, the first being the one that the page is about, and every instance that any of them has."""

    tables: Sequence[Table]
    instances: Sequence[Instance]

    def of(self, *tables: int) -> list[Instance]:
        """The instances that all these tables have."""
        return [one for one in self.instances if all(table in one.rows for table in tables)]

    def answers(self, table: int, among: Sequence[Instance]) -> list[ResultRow]:
        """A table's rows of these instances, one of each."""
        return [row for one in among if (row := one.row(table)) is not None]

    def repeated(self, table: int) -> int:
        """Rows of a table whose instance it has already."""
        return sum(len(one.rows.get(table, ())) - 1 for one in self.of(table))

    def conflicts(self) -> list[Instance]:
        return [one for one in self.instances if one.conflicts()]

    def checked(self) -> int:
        """Instances with at least two answers that could contradict each other."""
        return sum(
            sum(row.result in SOLVED for rows in one.rows.values() for row in rows) >= 2 for one in self.instances
        )


def compare(tables: Sequence[Table]) -> Comparison:
    """Find the rows that speak of the same instance.

    Files spell names differently: with or without the family's folder, ``./``, ``.gz``, a year in the category. Rows of
    one file are the same instance where category, network and property are the same. Rows of different files are where
    categories fit and the longer path ends with the shorter one, for the network and for the property, and no other
    instance fits as well: a doubtful pair is none, because a wrong one could show a conflict that is not there.
    """
    index: dict[tuple[str, str], list[_Known]] = {}
    instances: list[Instance] = []
    for number, table in enumerate(tables):
        own: dict[tuple[str, str, str], tuple[_Known, list[ResultRow]]] = {}
        for row in table.rows:
            if row.key not in own:
                own[row.key] = _Known(row), []
            own[row.key][1].append(row)
        partners = _partners([spelled for spelled, _ in own.values()], index)
        for spelled, rows in own.values():
            if (instance := partners.get(id(spelled))) is None:
                instance = spelled.instance
                instances.append(instance)
                index.setdefault(spelled.short, []).append(spelled)
            instance.rows[number] = rows
    return Comparison(tables, instances)


class _Known:
    """An instance with its names in the form in which they are compared."""

    def __init__(self, row: ResultRow) -> None:
        self.instance = Instance(row.category, row.network, row.property)
        self.exact = row.category.lower()
        self.category = _YEAR.sub("", self.exact) or self.exact
        self.network, self.property = (_parts(name, self) for name in (row.network, row.property))
        self.short = self.network[-1], self.property[-1]

    def fits(self, other: _Known) -> bool:
        """Whether the two may be the same instance."""
        same = self.category == other.category or not self.category or not other.category
        return same and _ends(self.network, other.network) and _ends(self.property, other.property)

    def is_like(self, other: _Known) -> bool:
        return (self.category, self.network, self.property) == (other.category, other.network, other.property)


def _parts(name: str, of: _Known) -> tuple[str, ...]:
    """A path's parts without what only says where the family lies, the last one without its endings; of a list of
    networks a single part."""
    if networks := several(name):
        return (" ".join(f"{network}={_parts(path, of)[-1]}" for network, path in networks.items()),)
    *folders, last = os.path.normpath(name.replace("\\", "/")).split("/")
    for ending in _ENDINGS:
        last = last.removesuffix(ending)
    outer = [i for i, part in enumerate(folders) if part.lower() in (*_FOLDERS, of.exact)]
    inner = folders[outer[-1] + 1 :] if outer else [] if os.path.isabs(name) else folders
    return (*inner, last)


def _ends(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]


def _partners(own: Sequence[_Known], index: dict[tuple[str, str], list[_Known]]) -> dict[int, Instance]:
    """By the identity of each of a table's instances the known one that it is; what is doubtful is left out."""
    wanted: dict[int, list[tuple[int, _Known, Instance]]] = {}
    for spelled in own:
        fitting = [one for one in index.get(spelled.short, ()) if one.fits(spelled)]
        alike = [one for one in fitting if one.is_like(spelled)]
        exact = [one for one in alike if one.exact == spelled.exact]
        best = exact or alike or fitting
        if len(best) == 1:
            rank = 0 if exact else 1 if alike else 2
            wanted.setdefault(id(best[0]), []).append((rank, spelled, best[0].instance))
    partners = {}
    for suitors in wanted.values():
        first = min(rank for rank, _, _ in suitors)
        best_suited = [(spelled, instance) for rank, spelled, instance in suitors if rank == first]
        if len(best_suited) == 1:
            partners[id(best_suited[0][0])] = best_suited[0][1]
    return partners
