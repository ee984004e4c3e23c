"""What a caller expects a network's tensors to be; a file that differs is refused before anything is built from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from provenn.errors import ModelError

# Element types of ONNX that a number's type may name.
_TYPES = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16",
          6: "int32", 7: "int64", 9: "bool", 12: "uint32", 13: "uint64"}  # fmt: skip
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Expected:
    """A tensor as a caller declares it.

    ``type`` is an element type by numpy's name, or ``real`` for any float; ``tensor`` is the ONNX name of a hidden
    tensor, None for inputs and outputs, which are known by their position.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    tensor: str | None = None


@dataclass(frozen=True)
class Interface:
    """The inputs, hidden tensors and outputs that a caller expects, in the file's order."""

    inputs: tuple[Expected, ...]
    hidden: tuple[Expected, ...]
    outputs: tuple[Expected, ...]


def check_counts(interface: Interface, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[str]) -> None:
    """Refuse a file with more or fewer inputs or outputs; ``inputs`` are those that are not stored weights."""
    for kind, expected, found in (
        ("input", interface.inputs, [info.name for info in inputs]),
        ("output", interface.outputs, list(outputs)),
    ):
        if len(expected) != len(found):
            names = ", ".join(tensor.name for tensor in expected)
            raise ModelError(
                f"has {len(found)} {kind}{'s' * (len(found) != 1)} ({', '.join(map(repr, found))}), the property "
                f"declares {len(expected)} ({names}); declare all of them in the model's order"
            )


def input_shape(expected: Expected, info: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The declared shape where the file's fits: equal, or left open there. Raises ModelError."""
    kind = info.type.tensor_type
    found = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    fits = len(found) == len(expected.shape) and all(
        n is None or n == m for n, m in zip(found, expected.shape, strict=True)
    )
    if not fits:
        shown = ", ".join("?" if n is None else str(n) for n in found)
        raise ModelError(
            f"input {info.name!r} has shape [{shown}], the property declares {expected.name} as "
            f"{_shown(expected.shape)}; mend the declaration, or name another model"
        )
    check_type(expected, _TYPES.get(kind.elem_type, str(kind.elem_type)), f"input {info.name!r}")
    return expected.shape


def check_value(expected: Expected, shape: tuple[int, ...], scalar_type: str, what: str) -> None:
    """Refuse a hidden tensor or an output of another shape or type. Raises ModelError."""
    if shape != expected.shape:
        raise ModelError(
            f"{what} has shape {_shown(shape)}, the property declares {expected.name} as {_shown(expected.shape)}; "
            "mend the declaration, or name another model"
        )
    check_type(expected, scalar_type, what)


def check_type(expected: Expected, scalar_type: str, what: str) -> None:
    """Refuse another element type; ``real`` is any float. Raises ModelError."""
    if scalar_type == expected.type or (expected.type == "real" and scalar_type in _FLOATS):
        return
    raise ModelError(
        f"{what} is of type {scalar_type}, the property declares {expected.name} as {expected.type}; "
        "mend the declaration, or name another model"
    )


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
