"""One ONNX node as its importer sees it: operands, attributes, opset, and the errors that name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from provenn.bounds.graph._builder import Builder, Operand, Value
from provenn.bounds.graph._constants import Constant
from provenn.errors import ModelError, UnsupportedOperatorError


@dataclass(frozen=True)
class Application:
    """An operator applied to operands; a missing optional operand is None."""

    operator: str
    label: str
    inputs: tuple[Operand | None, ...]
    attributes: dict[str, Any]
    version: int
    outputs: tuple[str, ...]
    builder: Builder

    @property
    def origin(self) -> str:
        return f"{self.operator} (node {self.label})"

    def fail(self, problem: str) -> NoReturn:
        raise ModelError(f"{self.origin}: {problem}")

    def unsupported(self, what: str, advice: str) -> NoReturn:
        raise UnsupportedOperatorError(f"unsupported operator {self.origin}: {what}; {advice}")

    # ------------------------------------------------------------------------------------ operands

    def has(self, position: int) -> bool:
        return position < len(self.inputs) and self.inputs[position] is not None

    def operand(self, position: int) -> Operand:
        if not self.has(position):
            self.fail(f"operand {position} is missing")
        operand = self.inputs[position]
        assert operand is not None
        return operand

    def operands(self) -> list[Operand]:
        return [operand for operand in self.inputs if operand is not None]

    def variable(self, position: int = 0) -> Value:
        """The operand as a value, made one if it is constant."""
        return self.builder.value(self.operand(position))

    def constant(self, position: int, what: str) -> Constant:
        operand = self.operand(position)
        if isinstance(operand, Value):
            self.unsupported(
                f"its {what} depends on the network's input", f"re-export with a constant {what}"
            )
        return operand

    def optional(self, position: int, what: str) -> Constant | None:
        return self.constant(position, what) if self.has(position) else None

    def integers(self, position: int, what: str) -> list[int]:
        array = self.constant(position, what).array
        return [int(element) for element in array.reshape(-1)]

    # ------------------------------------------------------------------------------------ attributes

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def required(self, name: str) -> Any:
        if name not in self.attributes:
            self.fail(f"attribute {name!r} is missing")
        return self.attributes[name]

    def list_or_operand(self, name: str, position: int) -> list[int] | None:
        """Integers that older opsets give as an attribute and newer ones as an operand."""
        if name in self.attributes:
            return [int(element) for element in self.attributes[name]]
        return self.integers(position, name) if self.has(position) else None

    def axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < max(rank, 1):
            self.fail(f"axis {axis} is out of range for {rank} dimensions")
        return axis % rank if rank else 0

    def axes(self, axes: Sequence[int], rank: int) -> list[int]:
        return [self.axis(axis, rank) for axis in axes]

    def number(self, name: str, default: float) -> np.ndarray:
        """A real attribute as it is given, in float32 where that is exact; a default is what a file would store."""
        value = float(self.attributes.get(name, np.float32(default)))
        single = np.asarray(value, np.float32)
        return single if float(single) == value else np.asarray(value)

    def scalar(self, constant: Constant, what: str) -> float:
        if constant.array.size != 1:
            self.fail(f"its {what} has shape {list(constant.shape)}, expected a single number")
        if constant.radius is not None:
            self.unsupported(f"its {what} is computed inexactly", f"store the {what} as a number")
        return float(np.asarray(constant.value).reshape(()))
