"""The importers of all operators, and how one is applied: fold what is constant, keep integers in their types.

Both front ends, ONNX files and torch modules, go through here.
"""

from __future__ import annotations

import numpy as np

from provenn.bounds.graph import (
    _import_compound,
    _import_constant,
    _import_elementwise,
    _import_linear,
    _import_recurrent,
    _import_reduce,
    _import_resize,
    _import_structure,
)
from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Operand, Value
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fold import fold, fold_nodes

HANDLERS = {
    **_import_constant.HANDLERS,
    **_import_structure.HANDLERS,
    **_import_linear.HANDLERS,
    **_import_elementwise.HANDLERS,
    **_import_reduce.HANDLERS,
    **_import_resize.HANDLERS,
    **_import_recurrent.HANDLERS,
    **_import_compound.HANDLERS,
}

_ALWAYS_CONSTANT = frozenset(_import_constant.HANDLERS)
# Operators whose results may not fit into the type of their operands.
_ARITHMETIC = frozenset({
    "Add", "Sum", "Sub", "Mul", "Div", "Neg", "Abs", "Pow", "MatMul", "Gemm", "ReduceSum", "ReduceProd", "ReduceL1",
    "ReduceSumSquare", "CumSum", "PRelu",
})  # fmt: skip

MISFITS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RuntimeError,
)
"""What numpy, torch and the importers raise for operands and attributes that do not fit the operator."""


def imported(op: Application, handler) -> list[Operand]:  # type: ignore[no-untyped-def]
    """The results of an operator: constants if all its operands are."""
    fixed = op.operator not in _ALWAYS_CONSTANT and all(isinstance(x, Constant) for x in op.operands())
    if fixed:
        folded = fold(op)
        if folded is not None:
            return folded
    first = len(op.builder.nodes)
    results = handler(op)
    if fixed and any(isinstance(result, Value) for result in results):
        return [_whole(op, folded) for folded in fold_nodes(op.builder, first, results)]
    return [_in_its_type(op, result) for result in results]


def _whole(op: Application, folded: Operand) -> Operand:
    """What the nodes of constants gave: as an integer it must be exact and fit its type."""
    if isinstance(folded, Value) or np.dtype(folded.scalar_type).kind not in "iu":
        return folded
    ends = np.iinfo(folded.scalar_type)
    value = folded.value
    inside = (value >= float(ends.min)) & (value <= float(ends.max)) & (np.abs(value) < 2.0**53)
    if folded.radius is not None or not (inside & (value == np.floor(value))).all():
        op.unsupported("of constant integers beyond what is exact", "store its result as a constant")
    return folded


def _in_its_type(op: Application, result: Operand) -> Operand:
    """Integers beyond their type lose their higher bits; those of 64 bits with a sign are taken to fit."""
    if isinstance(result, Constant) or op.operator not in _ARITHMETIC:
        return result
    name = result.scalar_type
    if np.dtype(name).kind not in "iu" or name == "int64":
        return result
    return op.builder.unary("cast", result, name, to=name)
