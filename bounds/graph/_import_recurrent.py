"""Imports LSTM, GRU and RNN by unrolling them over their static number of steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Builder, Operand, Value, positions
from provenn.bounds.graph._constants import Constant

_ACTIVATIONS = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu"}
_DEFAULT = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}

Step = Callable[[Value, Value | None, Value | None], tuple[Value, Value | None]]


def _part(x: Constant | None, direction: int) -> Constant | None:
    return None if x is None else x.mapped(lambda a: a[direction])


def _rows(x: Constant, first: int, last: int) -> Constant:
    return x.mapped(lambda a: a[first:last])


def _columns(b: Builder, x: Value, gate: int, size: int) -> Value:
    """One gate's columns of [batch, gates * size]."""
    return b.index(x, positions(x.shape)[:, gate * size : (gate + 1) * size])


def _sum(b: Builder, x: Value, y: Value | None) -> Value:
    return x if y is None else b.binary("add", x, y)


def _lstm_step(
    op: Application, size: int, recurrent: Constant, peephole: Constant | None, names: list[str]
) -> Step:
    b = op.builder
    gate, candidate, output = names

    def peek(pre: Value, cell: Value | None, position: int) -> Value:
        if peephole is None or cell is None:
            return pre
        weights = _rows(peephole, position * size, (position + 1) * size)
        return b.binary("add", pre, b.affine(cell, scale=weights))

    def step(x: Value, hidden: Value | None, cell: Value | None) -> tuple[Value, Value | None]:
        """Gates in ONNX's order: input, output, forget, cell."""
        pre = _sum(b, x, None if hidden is None else b.linear(hidden, recurrent.mapped(np.transpose)))
        i, o, f, c = (_columns(b, pre, k, size) for k in range(4))
        new = b.binary("mul", b.unary(gate, peek(i, cell, 0)), b.unary(candidate, c))
        if cell is not None:
            new = b.binary("add", b.binary("mul", b.unary(gate, peek(f, cell, 2)), cell), new)
        return b.binary("mul", b.unary(gate, peek(o, new, 1)), b.unary(output, new)), new

    return step


def _gru_step(
    op: Application, size: int, recurrent: Constant, bias: Constant | None, names: list[str]
) -> Step:
    b = op.builder
    gate, candidate = names
    before = bool(op.attribute("linear_before_reset", 0))

    def step(x: Value, hidden: Value | None, cell: Value | None) -> tuple[Value, Value | None]:
        """Gates in ONNX's order: update, reset, hidden. ``bias`` is the recurrent bias of the hidden gate."""
        z, r, h = (_columns(b, x, k, size) for k in range(3))
        if hidden is None:
            reset = b.unary(gate, r)
            if bias is not None:
                h = b.binary("add", h, b.affine(reset, scale=bias)) if before else b.affine(h, shift=bias)
            new = b.unary(candidate, h)
            keep = b.affine(b.unary(gate, z), constants.scalar(-1.0), constants.scalar(1.0))
            return b.binary("mul", keep, new), None
        gates = b.linear(hidden, _rows(recurrent, 0, 2 * size).mapped(np.transpose))
        z = b.unary(gate, b.binary("add", z, _columns(b, gates, 0, size)))
        r = b.unary(gate, b.binary("add", r, _columns(b, gates, 1, size)))
        weight = _rows(recurrent, 2 * size, 3 * size).mapped(np.transpose)
        if before:
            inner = b.binary("mul", r, b.linear(hidden, weight, bias))
        else:
            inner = b.linear(b.binary("mul", r, hidden), weight, bias)
        new = b.unary(candidate, b.binary("add", h, inner))
        # (1 - z) new + z hidden, written so that z appears once: new + z (hidden - new)
        return b.binary("add", new, b.binary("mul", z, b.binary("sub", hidden, new))), None

    return step


def _rnn_step(op: Application, recurrent: Constant, names: list[str]) -> Step:
    b = op.builder

    def step(x: Value, hidden: Value | None, cell: Value | None) -> tuple[Value, Value | None]:
        pre = _sum(b, x, None if hidden is None else b.linear(hidden, recurrent.mapped(np.transpose)))
        return b.unary(names[0], pre), None

    return step


def _check(op: Application, steps: int) -> list[str]:
    if op.attribute("clip") is not None or op.attribute("input_forget", 0):
        op.unsupported("clip or input_forget", "re-export without them")
    if op.has(4) and any(length != steps for length in op.integers(4, "sequence_lens")):
        op.unsupported("sequences shorter than the input", "re-export without sequence_lens")
    names = list(op.attribute("activations") or [])
    count = 2 if op.attribute("direction", "forward") == "bidirectional" else 1
    names = names or _DEFAULT[op.operator] * count
    if any(name not in _ACTIVATIONS for name in names) or op.attribute("activation_alpha"):
        op.unsupported(f"activations {names}", f"re-export with {sorted(_ACTIVATIONS)}")
    return [_ACTIVATIONS[name] for name in names]


def import_recurrent(op: Application) -> list[Operand]:
    """Unroll: one linear map of all inputs, then one step after the other; zero initial states are skipped."""
    b, x = op.builder, op.variable(0)
    batch_first = bool(op.attribute("layout", 0))
    if batch_first:
        x = b.transpose(x, (1, 0, 2))
    steps, batch, _ = x.shape
    names = _check(op, steps)
    weight, recurrent, bias = op.constant(1, "W"), op.constant(2, "R"), op.optional(3, "B")
    size, directions = recurrent.shape[2], weight.shape[0]
    kind = op.attribute("direction", "forward")
    outputs: list[list[Value]] = []
    last_hidden: list[Value] = []
    last_cell: list[Value] = []
    for direction in range(directions):
        reverse = kind == "reverse" or direction == 1
        own = names[direction * len(names) // directions : (direction + 1) * len(names) // directions]
        step, product = _direction(op, x, direction, weight, recurrent, bias, size, own)
        hidden, cell = (_initial(op, position, direction, batch_first) for position in (5, 6))
        made: list[Value] = [x] * steps
        for time in range(steps)[:: -1 if reverse else 1]:
            row = b.index(product, positions(product.shape)[time])
            hidden, cell = step(row, hidden, cell)
            made[time] = hidden
        assert hidden is not None
        outputs.append(made)
        last_hidden.append(hidden)
        if cell is not None:
            last_cell.append(cell)
    return _collect(op, outputs, last_hidden, last_cell, (batch, size), batch_first)


def _direction(
    op: Application, x: Value, direction: int, weight: Constant, recurrent: Constant, bias: Constant | None,
    size: int, names: list[str],
) -> tuple[Step, Value]:  # fmt: skip
    """The step function of one direction and the input's contribution [steps, batch, gates * size]."""
    own, again, both = _part(weight, direction), _part(recurrent, direction), _part(bias, direction)
    assert own is not None and again is not None
    width = own.shape[0]
    inner: Constant | None = None
    total: Constant | None = None
    if both is not None:
        first, second = _rows(both, 0, width), _rows(both, width, 2 * width)
        if op.operator == "GRU":
            # The recurrent bias of the hidden gate may sit inside the reset product.
            inner = _rows(second, 2 * size, 3 * size)
            keep = np.arange(width) < 2 * size
            second = second.mapped(lambda a: np.where(keep, a, 0).astype(a.dtype))
        total = constants.add(first, second)
    product = op.builder.linear(x, own.mapped(np.transpose), total)
    if op.operator == "LSTM":
        return _lstm_step(op, size, again, _part(op.optional(7, "P"), direction), names), product
    if op.operator == "GRU":
        return _gru_step(op, size, again, inner, names), product
    return _rnn_step(op, again, names), product


def _initial(op: Application, position: int, direction: int, batch_first: bool) -> Value | None:
    """The initial state [batch, size] of one direction, or None where it is absent or zero."""
    if not op.has(position) or (position == 6 and op.operator != "LSTM"):
        return None
    state = op.operand(position)
    if isinstance(state, Constant) and state.radius is None and not state.value.any():
        return None
    value = op.builder.value(state)
    table = positions(value.shape)
    return op.builder.index(value, table[:, direction] if batch_first else table[direction])


def _collect(
    op: Application, outputs: list[list[Value]], hidden: list[Value], cell: list[Value], shape: tuple[int, int],
    batch_first: bool,
) -> list[Operand]:  # fmt: skip
    """Y [steps, directions, batch, size], Y_h and Y_c [directions, batch, size]; batch first with layout 1."""
    b = op.builder
    batch, size = shape
    results: list[Operand] = []
    if op.outputs and op.outputs[0]:
        joined = [b.concat([b.reshape(v, (1, 1, batch, size)) for v in made], 0) for made in outputs]
        sequence = b.concat(joined, 1)
        results.append(b.transpose(sequence, (2, 0, 1, 3)) if batch_first else sequence)
    else:
        results.append(hidden[0])
    for states in (hidden, cell):
        if states:
            state = b.concat([b.reshape(v, (1, batch, size)) for v in states], 0)
            results.append(b.transpose(state, (1, 0, 2)) if batch_first else state)
    return results


HANDLERS = {"LSTM": import_recurrent, "GRU": import_recurrent, "RNN": import_recurrent}
