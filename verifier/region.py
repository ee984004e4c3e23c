"""Boxes of inputs as commands name them: a property's, or all around a centre."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from provenn.bounds.graph import Graph, symbolic_note
from provenn.errors import InputError
from provenn.specs import read_bytes, read_query


@dataclass(frozen=True)
class Region:
    """The input box of the ``property`` file, or the cube of half width ``radius`` around the numbers in ``centre``."""

    property: str | None = None
    centre: str | None = None
    radius: float | None = None

    def __post_init__(self) -> None:
        if (self.property is None) == (self.centre is None):
            raise InputError("got neither or both of --region and --center, expected one")
        if (self.centre is None) != (self.radius is None):
            raise InputError("--center and --radius go together: give both or neither")
        if self.radius is not None and not (self.radius >= 0 and math.isfinite(self.radius)):
            raise InputError(f"got --radius={self.radius!r}, expected a number of at least 0")

    def box(self, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
        """Flat ends ``[inputs]``, rounded outward. Raises InputError or PropertyError where a file does not fit."""
        node_in, node_out = graph.nodes[graph.inputs[0]], graph.nodes[graph.outputs[0]]
        if self.property is not None:
            note = symbolic_note(graph.metadata["symbolic"])
            query = read_query(self.property, node_in.size, node_out.size, node_in.scalar_type, note)
            return query.input_box
        assert self.centre is not None and self.radius is not None
        centre = numbers(self.centre)
        if centre.size != node_in.size:
            raise InputError(f"{self.centre}: has {centre.size} numbers, the network has {node_in.size} inputs")
        if self.radius == 0:
            return centre, centre
        return np.nextafter(centre - self.radius, -np.inf), np.nextafter(centre + self.radius, np.inf)


def numbers(path: str) -> np.ndarray:
    """The numbers of a text file, in order, whatever is between them (spaces, commas, lines); float64 ``[n]``."""
    try:
        words = re.split(r"[\s,;]+", read_bytes(path).decode().strip(" \t\r\n,;"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text ({error.reason}); write one number after the other") from error
    found = []
    for place, word in enumerate(words):
        try:
            found.append(float(word))
        except ValueError:
            raise InputError(f"{path}: number {place + 1} is {word[:40]!r}; write it as a decimal") from None
        if not math.isfinite(found[-1]):
            raise InputError(f"{path}: number {place + 1} is {word[:40]!r}, expected a finite number")
    return np.array(found)
