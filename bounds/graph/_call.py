"""One node of a torch graph as its lowering sees it: arguments by name, and ONNX operators to build it from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Builder, Operand, Value, positions
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._importers import HANDLERS, imported
from provenn.errors import ModelError, UnsupportedOperatorError

OPSET = 21
"""The operator set whose meaning the applications have."""

Result: TypeAlias = "Operand | list[Operand]"


def type_name(dtype: torch.dtype) -> str:
    """numpy's name of an element type."""
    return str(dtype).removeprefix("torch.")


@dataclass
class Call:
    """An ATen operator, called with ``arguments`` by the names of its schema, tensors among them as operands.

    ``title`` names it for the user: operator, module path, line of code. ``results`` are shape and element type of each
    result as torch has them.
    """

    operator: Any
    name: str
    title: str
    arguments: dict[str, Any]
    results: list[tuple[tuple[int, ...], str]]
    builder: Builder

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    def fail(self, problem: str) -> NoReturn:
        raise ModelError(f"{self.title}: {problem}")

    def unsupported(self, what: str, advice: str) -> NoReturn:
        raise UnsupportedOperatorError(f"unsupported {self.title}: {what}; {advice}")

    @property
    def type(self) -> str:
        """Element type of the first result."""
        return self.results[0][1]

    # ------------------------------------------------------------------------------------ operands

    def operand(self, name: str, scalar_type: str | None = None) -> Operand:
        """A tensor or a number of the call as an operand of a type, that of the result if none is named."""
        value = self.arguments[name]
        wanted = scalar_type or self.type
        if isinstance(value, Value | Constant):
            return value if value.scalar_type == wanted else self.cast(value, wanted)
        return self.number(value, wanted)

    def number(self, value: Any, scalar_type: str | None = None) -> Constant:
        """A Python number in the element type that torch computes with."""
        wanted = np.dtype(scalar_type or self.type)
        if not isinstance(value, bool | int | float):
            self.fail(f"got {type(value).__name__}, expected a real number")
        if wanted.kind in "iu" and int(value) != value:
            self.fail(f"{value!r} does not fit {wanted}")
        return Constant(np.asarray(value, wanted))

    def tensor(self, name: str = "self") -> Operand:
        """A tensor of the call, in its own type."""
        value = self.arguments[name]
        if not isinstance(value, Value | Constant):
            self.fail(f"got {type(value).__name__} for {name}, expected a tensor")
        return value

    def given(self, name: str) -> bool:
        return self.arguments.get(name) is not None

    def axis(self, axis: int, rank: int) -> int:
        return axis % rank if rank else 0

    def axes(self, name: str, rank: int) -> list[int]:
        """Axes that a reduction goes over; all where none is named."""
        found = self.arguments.get(name)
        if found is None or found == []:
            return list(range(rank))
        return [self.axis(axis, rank) for axis in ([found] if isinstance(found, int) else found)]

    # ------------------------------------------------------------------------------------ building

    def onnx(self, operator: str, *operands: Operand | None, **attributes: Any) -> Operand:
        """The first result of an ONNX operator on operands."""
        return self.onnx_all(operator, *operands, **attributes)[0]

    def onnx_all(self, operator: str, *operands: Operand | None, **attributes: Any) -> list[Operand]:
        kept = {name: value for name, value in attributes.items() if value is not None}
        op = Application(operator, self.title, operands, kept, OPSET, (self.name,), self.builder)
        return imported(op, HANDLERS[operator])

    def unary(self, operator: str, x: Operand, **attributes: Any) -> Operand:
        """A node of the graph's own, folded where x is constant."""

        def handler(op: Application) -> list[Operand]:
            return [op.builder.unary(operator, op.variable(), **attributes)]

        return imported(Application(self.name, self.title, (x,), {}, OPSET, (self.name,), self.builder), handler)[0]

    def cast(self, x: Operand, scalar_type: str) -> Operand:
        numbers = {"float32": 1, "uint8": 2, "int8": 3, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float64": 11}
        if scalar_type not in numbers:
            self.unsupported(
                f"element type {scalar_type}", "convert the module with module.float() or module.double()"
            )
        return self.onnx("Cast", x, to=numbers[scalar_type])

    def reshape(self, x: Operand, shape: Sequence[int]) -> Operand:
        if isinstance(x, Value):
            return self.builder.reshape(x, shape)
        return x.mapped(lambda a: a.reshape(tuple(shape)))

    def permuted(self, x: Operand, order: Sequence[int]) -> Operand:
        return self.onnx("Transpose", x, perm=list(order))

    # ------------------------------------------------------------------------------------ by torch itself

    def computed(self) -> list[Operand]:
        """The results that torch computes from constants and numbers: for what is exact in every type."""
        found = self._call({name: _as_tensor(value) for name, value in self.arguments.items()})
        return [Constant(one.numpy()) for one in found]

    def moved(self, fill: float | None = None) -> list[Operand]:
        """Results whose elements are elements of the first operand: torch moves their positions.

        With ``fill`` an element may also come from nowhere; it has that value then.
        """
        name = next(iter(self.arguments))
        x = self.tensor(name)
        others = {key: _as_tensor(value) for key, value in self.arguments.items() if key != name}
        if any(_has_value(value) for key, value in self.arguments.items() if key != name):
            self.unsupported("where it takes elements depends on the network's input", "use constant indices")

        def run(array: np.ndarray) -> list[np.ndarray]:
            return [one.numpy() for one in self._call({name: torch.from_numpy(np.array(array)), **others})]

        if isinstance(x, Constant) and fill is None:
            parts = [run(x.array), *(None if a is None else run(a) for a in (x.real, x.radius))]
            return [
                Constant(array, *(None if part is None else part[k] for part in parts[1:]))
                for k, array in enumerate(parts[0])  # type: ignore[arg-type]
            ]
        shifted = 0 if fill is None else 1
        # As numbers, which every operator takes; in the operand's type, which may decide where things go (upsampling).
        own = np.dtype(x.scalar_type).kind == "f" and positions(x.shape).size < 2**24
        numbered = (positions(x.shape) + shifted).astype(x.scalar_type if own else np.float64)
        tables = [table.astype(np.int64) - shifted for table in run(numbered)]
        return [self._taken(x, table, fill or 0.0) for table in tables]

    def placed(self, numbers: dict[str, Any]) -> np.ndarray:
        """What torch makes of arrays and numbers in the place of some arguments, the others being constant."""
        given = {key: torch.from_numpy(one) if isinstance(one, np.ndarray) else one for key, one in numbers.items()}
        others = {key: _as_tensor(value) for key, value in self.arguments.items() if key not in numbers}
        return self._call({**others, **given})[0].numpy()

    def _taken(self, x: Operand, table: np.ndarray, fill: float) -> Operand:
        absent = table < 0
        chosen: Operand
        if isinstance(x, Constant):
            chosen = x.mapped(lambda a: np.where(absent, 0, a.reshape(-1)[np.maximum(table, 0)]).astype(a.dtype))
        else:
            chosen = self.builder.index(x, table)
        if fill == 0.0 or not absent.any():
            return chosen
        return self.onnx("Add", chosen, Constant(np.where(absent, fill, 0.0).astype(x.scalar_type)))

    def _call(self, arguments: dict[str, Any]) -> list[Tensor]:
        """Run the operator on real tensors."""
        schema = self.operator._schema.arguments
        positional = [arguments[a.name] for a in schema if not a.kwarg_only]
        named = {a.name: arguments[a.name] for a in schema if a.kwarg_only}
        if "device" in named:
            named["device"] = torch.device("cpu")
        with torch.no_grad():
            found = self.operator(*positional, **named)
        return [one.contiguous() for one in (found if isinstance(found, tuple | list) else [found])]


Lowering: TypeAlias = "Callable[[Call], Result]"


def is_constant(value: Any) -> bool:
    return not _has_value(value)


def _has_value(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_value(one) for one in value)
    return isinstance(value, Value)


def _as_tensor(value: Any) -> Any:
    if isinstance(value, Constant):
        return torch.from_numpy(np.array(value.array))
    if isinstance(value, list | tuple):
        return [_as_tensor(one) for one in value]
    return value
