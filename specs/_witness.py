"""Witnesses in the competition's format: `((X_0 0.25) .. (Y_0 1.0))`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from provenn.errors import InputError
from provenn.specs._assignment import format_assignment
from provenn.specs._composition import Composition
from provenn.specs._files import read_bytes

_PAIR = re.compile(r"\(\s*([XY])_(\d+)\s+([^\s()]+)\s*\)")
_VERDICT = re.compile(r"\s*(sat|violated)\b")


@dataclass(frozen=True, eq=False)
class Witness:
    """An input that violates a property and the network's output there, flat, in their element types."""

    inputs: np.ndarray
    outputs: np.ndarray


def format_witness(witness: Witness, composition: Composition | None = None) -> str:
    """The witness as text, without the verdict's line; in the form of VNN-LIB 2 for a composition's.

    Numbers are printed as the shortest decimal of their float64 value: reading them gives the same element
    back in every type, and a checker that compares in float64 sees the exact value too.
    Raises ValueError for inputs that are not finite.
    """
    if composition is not None:
        return format_assignment(witness.inputs, witness.outputs, composition)
    if not np.isfinite(witness.inputs).all():
        raise ValueError("a witness's inputs must be finite numbers")
    lines = [
        f"({letter}_{index} {value!r})"
        for letter, values in (("X", witness.inputs), ("Y", witness.outputs))
        for index, value in enumerate(np.asarray(values, np.float64).reshape(-1).tolist())
    ]
    return "(" + "\n ".join(lines) + ")"


def write_witness(
    path: str | Path, witness: Witness, verdict: bool = False, composition: Composition | None = None
) -> None:
    """Write the witness to a file, after a line `sat` if `verdict`."""
    text = ("sat\n" if verdict else "") + format_witness(witness, composition) + "\n"
    try:
        Path(path).write_text(text, encoding="ascii")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); name another file"
        ) from None


def parse_witness(text: str, element_type: str = "float32", path: str | Path = "<text>") -> Witness:
    """Read a witness, with or without the verdict's line; inputs and outputs in `element_type`.

    Raises InputError unless it is one parenthesised list of X_0 .. and then Y_0 .. in order.
    """
    verdict = _VERDICT.match(text)
    body = (text[verdict.end() :] if verdict else text).strip()
    if not (body.startswith("(") and body.endswith(")")):
        raise InputError(f"{path}: not a witness; expected ((X_0 value) .. (Y_0 value) ..)")
    body = body[1:-1]
    left = _PAIR.sub("", body).split()
    if left:
        raise InputError(f"{path}: a witness holds only pairs (X_k value) and (Y_k value), got {left[0]!r}")
    values: dict[str, list[float]] = {"X": [], "Y": []}
    for letter, index, number in _PAIR.findall(body):
        if int(index) != len(values[letter]) or (letter == "X" and values["Y"]):
            raise InputError(
                f"{path}: {letter}_{index} is out of order; expected X_0, X_1 .., then Y_0, Y_1 .."
            )
        try:
            values[letter].append(float(number))
        except ValueError:
            raise InputError(
                f"{path}: {letter}_{index} has the value {number!r}, expected a number"
            ) from None
    if not values["X"]:
        raise InputError(f"{path}: the witness has no input; expected (X_0 value)")
    return Witness(*(np.array(values[letter]).astype(element_type) for letter in "XY"))


def read_witness(path: str | Path, element_type: str = "float32") -> Witness:
    """Read a witness file (plain or gzip); see `parse_witness`."""
    return parse_witness(read_bytes(path).decode("utf-8", "replace"), element_type, path)
