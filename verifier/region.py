"""Boxes of inputs as commands name them: a property's, or all around a centre."""

from __future__ import annotations

import math
import re

import numpy as np

from provenn.bounds.graph import Graph, symbolic_note
from provenn.errors import InputError
from provenn.specs import read_bytes, read_query


def box(
    graph: Graph, property: str | None, centre: str | None = None, radius: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Flat ends ``[inputs]``, rounded outward: a property's input box, or all within ``radius`` of a file's numbers.

    Raises InputError or PropertyError where a file does not fit.
    """
    node_in, node_out = graph.nodes[graph.inputs[0]], graph.nodes[graph.outputs[0]]
    if property is not None:
        note = symbolic_note(graph.metadata["symbolic"])
        query = read_query(property, node_in.size, node_out.size, node_in.scalar_type, note)
        return query.input_box
    assert centre is not None and radius is not None
    middle = numbers(centre)
    if middle.size != node_in.size:
        raise InputError(f"{centre}: has {middle.size} numbers, the network has {node_in.size} inputs")
    return 0.0 - _sum_above(-middle, radius), _sum_above(middle, radius)


def _sum_above(x: np.ndarray, y: float) -> np.ndarray:
    """The least float64 numbers that are at least ``x + y``."""
    total = x + y
    if math.isinf(y):
        return total
    taken = total - x
    below = (x - (total - taken)) + (y - taken) > 0  # what rounding lost, exactly (Knuth's two-sum)
    return np.where(below, np.nextafter(total, np.inf), total)


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
