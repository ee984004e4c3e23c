"""Witnesses of VNN-LIB 2: every declared tensor with its type and shape, then one number per line.

    U float32 [1,2]
    0.125
    -1.0

The competition's checker wants the tensors in the order of their declarations, per network inputs, hidden tensors and
outputs, row-major, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from provenn.errors import InputError
from provenn.specs._composition import Composition, Tensor


def format_assignment(inputs: np.ndarray, outputs: np.ndarray, composition: Composition) -> str:
    """The text of flat inputs and of flat hidden tensors and outputs, without the verdict's line.

    Numbers are the shortest decimals of their float64 values. Raises ValueError for inputs that are not finite and for
    wrong counts.
    """
    inputs, outputs = (np.asarray(values, np.float64).reshape(-1) for values in (inputs, outputs))
    if len(inputs) != composition.input_count or len(outputs) != composition.output_count:
        raise ValueError(
            f"got {len(inputs)} inputs and {len(outputs)} outputs, expected {composition.input_count} and "
            f"{composition.output_count}"
        )
    if not np.isfinite(inputs).all():
        raise ValueError("a witness's inputs must be finite numbers")
    lines = []
    for tensor, is_input, place in _tensors(composition):
        lines.append(_header(tensor))
        lines += map(repr, (inputs if is_input else outputs)[place].tolist())
    return "\n".join(lines)


def parse_assignment(
    text: str, composition: Composition, element_type: str = "float32", path: str | Path = "<text>"
) -> tuple[np.ndarray, np.ndarray]:
    """(flat inputs, flat hidden tensors and outputs) in the element type, with or without the verdict's line.

    Raises InputError, with the line, unless it is what `format_assignment` writes (blanks may differ).
    """
    lines = text.splitlines()
    number = 1 if lines and lines[0].strip() == "sat" else 0
    inputs, outputs = np.zeros(composition.input_count), np.zeros(composition.output_count)
    for tensor, is_input, place in _tensors(composition):
        header = lines[number] if number < len(lines) else ""
        if "".join(header.split()) != "".join(_header(tensor).split()):
            raise InputError(f"{path}:{number + 1}: got {header[:80]!r}, expected {_header(tensor)!r}")
        values = []
        for line in lines[number + 1 : number + 1 + tensor.size]:
            try:
                values.append(float(line))
            except ValueError:
                raise InputError(
                    f"{path}:{number + 2 + len(values)}: got {line[:80]!r}, expected one number of {tensor.name}"
                ) from None
        if len(values) != tensor.size:
            raise InputError(
                f"{path}:{len(lines)}: ends after {len(values)} of the {tensor.size} numbers of {tensor.name}; add them"
            )
        (inputs if is_input else outputs)[place] = values
        number += 1 + tensor.size
    for rest, line in enumerate(lines[number:], number + 1):
        if line.strip():
            raise InputError(f"{path}:{rest}: got {line[:80]!r} behind the last tensor; remove it")
    with np.errstate(over="ignore"):
        return inputs.astype(element_type), outputs.astype(element_type)


def _tensors(composition: Composition) -> list[tuple[Tensor, bool, slice]]:
    inputs = {tensor.name: start for _, tensor, start in composition.inputs}
    outputs = {tensor.name: start for _, tensor, start in composition.outputs}
    found = []
    for network in composition.networks:
        for tensor in (*network.inputs, *network.hidden, *network.outputs):
            is_input = tensor.name in inputs
            start = (inputs if is_input else outputs)[tensor.name]
            found.append((tensor, is_input, slice(start, start + tensor.size)))
    return found


def _header(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.type} [{','.join(map(str, tensor.shape))}]"
