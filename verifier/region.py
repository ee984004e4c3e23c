"""Boxes of inputs as commands name them: a property's, or all around a centre."""

from __future__ import annotations

import io
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
    """The numbers of a file, in order; float64 ``[n]``.

    A text file with anything between them (spaces, commas, lines; # begins a comment), or an array saved by numpy.
    """
    content = read_bytes(path)
    if content.startswith(b"\x93NUMPY"):
        return _saved(path, content)
    try:
        text = re.sub("#.*", "", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text ({error.reason}); write one number after the other") from error
    if not text.strip(" \t\r\n,;"):
        raise InputError(f"{path}: holds no number; write as many as the network has inputs")
    found = []
    for place, word in enumerate(re.split(r"[\s,;]+", text.strip(" \t\r\n,;"))):
        try:
            found.append(float(word if "_" not in word else "_"))
        except ValueError:
            raise InputError(f"{path}: number {place + 1} is {word[:40]!r}; write it as a decimal") from None
        if not math.isfinite(found[-1]):
            raise InputError(f"{path}: number {place + 1} is {word[:40]!r}, expected a finite number")
    return np.array(found)


def _saved(path: str, content: bytes) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: is no whole .npy file ({error}); save it again") from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: is an array of {array.dtype}, expected real numbers")
    found = array.reshape(-1).astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        raise InputError(f"{path}: number {wrong[0] + 1} is {found[wrong[0]]!r}, expected a finite number")
    return found
