"""The chain rule of operators of several operands, and of those whose outputs read several elements of one.

Every rule has two directions: ``reverse(chain, node, index, g)`` maps cotangents ``g [rows, *shape]`` of the node to
those of its operands, ``forward(chain, node, index, tangents)`` tangents of the operands (None is 0) to the node's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from provenn.bounds.graph._builder import Operand, Value
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._graph import Node
from provenn.bounds.graph.lattice import distinct
from provenn.bounds.jacobian._chain import Chain, number
from provenn.bounds.jacobian._linear import scattered

Tangents: TypeAlias = "Sequence[Operand | None]"


class Rule(NamedTuple):
    reverse: Callable[[Chain, Node, int, Operand], list[Operand | None]]
    forward: Callable[[Chain, Node, int, Tangents], Operand]


def _operands(chain: Chain, node: Node) -> list[Value]:
    return [chain.value(i) for i in node.inputs]


def _total(chain: Chain, parts: Sequence[Operand | None]) -> Operand:
    return chain.add([part for part in parts if part is not None])


# -- products and quotients ---------------------------------------------------------------------------------


def _mul_reverse(chain: Chain, node: Node, index: int, g: Operand) -> list[Operand | None]:
    x, y = _operands(chain, node)
    return [chain.times(g, y), chain.times(g, x)]


def _mul_forward(chain: Chain, node: Node, index: int, tangents: Tangents) -> Operand:
    x, y = _operands(chain, node)
    pairs = zip(tangents, (y, x), strict=True)
    return _total(chain, [None if t is None else chain.times(t, other) for t, other in pairs])


def _over(chain: Chain, g: Operand, y: Value) -> Operand:
    if isinstance(g, Constant):
        return chain.times(g, chain.unary("reciprocal", y))
    return chain.builder.binary("div", g, y)


def _div_reverse(chain: Chain, node: Node, index: int, g: Operand) -> list[Operand | None]:
    """``g / y`` and ``-(g / y) (x / y)``; the quotient is the node itself."""
    first = _over(chain, g, chain.value(node.inputs[1]))
    return [first, chain.scaled(chain.times(first, chain.value(index)), number(-1.0))]


def _div_forward(chain: Chain, node: Node, index: int, tangents: Tangents) -> Operand:
    x, y = tangents
    moved = None if y is None else chain.scaled(chain.times(y, chain.value(index)), number(-1.0))
    return _over(chain, _total(chain, [x, moved]), chain.value(node.inputs[1]))


# -- matrix products ----------------------------------------------------------------------------------------


def _product(chain: Chain, x: Operand, y: Operand) -> Operand:
    """``x @ y`` of matrices with the same batch axes, one of which at most is constant."""
    shape = (*x.shape[:-1], y.shape[-1])
    if isinstance(x, Value) and isinstance(y, Value):
        return chain.builder.emit("matmul", (x, y), shape)
    if isinstance(x, Constant):
        return chain.matmul_left(x, y)
    assert isinstance(y, Constant)
    if len(y.shape) == 2:
        return chain.linear(x, y)
    swapped = chain.matmul_left(
        y.mapped(lambda a: np.ascontiguousarray(np.swapaxes(a, -1, -2))), _swapped(chain, x)
    )
    return _swapped(chain, swapped)


def _swapped(chain: Chain, x: Operand) -> Operand:
    rank = len(x.shape)
    return chain.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


def _rows_in(chain: Chain, g: Operand, axis: int) -> Operand:
    """Rows ``[rows, *batch, p, q]`` in one of the last two axes: ``[*batch, rows p, q]`` or ``[*batch, p, rows q]``."""
    rank = len(g.shape)
    order = list(range(1, rank))
    order.insert(rank - 3 if axis == -2 else rank - 2, 0)
    moved = chain.transpose(g, order)
    batch, p, q = g.shape[1:-2], g.shape[-2], g.shape[-1]
    return chain.reshape(moved, (*batch, g.shape[0] * p, q) if axis == -2 else (*batch, p, g.shape[0] * q))


def _rows_out(chain: Chain, g: Operand, rows: int, axis: int) -> Operand:
    """What ``_rows_in`` undoes."""
    batch, p, q = g.shape[:-2], g.shape[-2], g.shape[-1]
    count = len(batch)
    if axis == -2:
        apart = chain.reshape(g, (*batch, rows, p // rows, q))
        return chain.transpose(apart, [count, *range(count), count + 1, count + 2])
    apart = chain.reshape(g, (*batch, p, rows, q // rows))
    return chain.transpose(apart, [count + 1, *range(count), count, count + 2])


def _matrices(chain: Chain, node: Node) -> tuple[Value, Value]:
    x, y = _operands(chain, node)
    if len(x.shape) < 2 or x.shape[:-2] != y.shape[:-2]:
        raise chain.refuse(
            node, "a product of vectors or of unlike batches", "write it as a product of matrices"
        )
    return x, y


def _matmul_reverse(chain: Chain, node: Node, index: int, g: Operand) -> list[Operand | None]:
    """``g y^T`` and ``x^T g``; rows are part of the axis that is not summed over, so no factor is copied."""
    x, y = _matrices(chain, node)
    rows = g.shape[0]
    first = _product(chain, _rows_in(chain, g, -2), _swapped(chain, y))
    second = _product(chain, _swapped(chain, x), _rows_in(chain, g, -1))
    return [_rows_out(chain, first, rows, -2), _rows_out(chain, second, rows, -1)]


def _matmul_forward(chain: Chain, node: Node, index: int, tangents: Tangents) -> Operand:
    x, y = _matrices(chain, node)
    dx, dy = tangents
    parts: list[Operand | None] = [None, None]
    if dx is not None:
        parts[0] = _rows_out(chain, _product(chain, _rows_in(chain, dx, -2), y), dx.shape[0], -2)
    if dy is not None:
        parts[1] = _rows_out(chain, _product(chain, x, _rows_in(chain, dy, -1)), dy.shape[0], -1)
    return _total(chain, parts)


# -- softmax: the Jacobian is symmetric ---------------------------------------------------------------------


def _softmax(chain: Chain, node: Node, index: int, t: Operand) -> Operand:
    """``s (t - sum s t)``: the difference has a smaller range than its terms."""
    axis = int(node.attributes["axis"]) + 1
    s = chain.value(index)
    mean = chain.sum(chain.times(t, s), [axis], keepdims=True)
    return chain.times(chain.subtract(t, chain.broadcast(mean, t.shape)), s)


def _log_softmax_reverse(chain: Chain, node: Node, index: int, g: Operand) -> list[Operand | None]:
    axis = int(node.attributes["axis"]) + 1
    total = chain.broadcast(chain.sum(g, [axis], keepdims=True), g.shape)
    return [chain.subtract(g, chain.times(total, _probabilities(chain, node)))]


def _log_softmax_forward(chain: Chain, node: Node, index: int, tangents: Tangents) -> Operand:
    (t,) = tangents
    assert t is not None
    axis = int(node.attributes["axis"]) + 1
    mean = chain.sum(chain.times(t, _probabilities(chain, node)), [axis], keepdims=True)
    return chain.subtract(t, chain.broadcast(mean, t.shape))


def _probabilities(chain: Chain, node: Node) -> Value:
    return chain.builder.unary("softmax", chain.value(node.inputs[0]), axis=node.attributes["axis"])


# -- maxima: the derivative selects an operand that attains it ----------------------------------------------


def _chooses(chain: Chain, x: Value, y: Value) -> Value:
    """1 where x is larger, 0 where y is."""
    return chain.unary("step", chain.builder.emit("sub", (x, y), x.shape), left=0.0, right=1.0)


def _shared(chain: Chain, g: Operand, choice: Value) -> tuple[Operand, Operand]:
    """A cotangent's parts where the choice is 1 and where it is 0."""
    first = chain.times(g, choice)
    return first, chain.subtract(g, first)


def _pair_reverse(chain: Chain, node: Node, index: int, g: Operand) -> list[Operand | None]:
    larger, smaller = _shared(chain, g, _chooses(chain, *_operands(chain, node)))
    return [larger, smaller] if node.operator == "max" else [smaller, larger]


def _chosen(chain: Chain, choice: Value, x: Operand | None, y: Operand | None) -> Operand:
    """``y + choice (x - y)`` of tangents."""
    if x is not None and y is not None:
        return chain.add([y, chain.times(chain.subtract(x, y), choice)])
    if x is not None:
        return chain.times(x, choice)
    assert y is not None
    return chain.subtract(y, chain.times(y, choice))


def _pair_forward(chain: Chain, node: Node, index: int, tangents: Tangents) -> Operand:
    x, y = tangents if node.operator == "max" else tangents[::-1]
    return _chosen(chain, _chooses(chain, *_operands(chain, node)), x, y)


class _Tree(NamedTuple):
    """A tournament over windows: the choices of every level, with where there is a second value to choose."""

    leaves: list[np.ndarray]
    choices: list[list[tuple[Value, np.ndarray]]]


def _tree(chain: Chain, node: Node) -> _Tree:
    """The same tree of maxima that ``lattice`` makes of a window."""
    indices, present = distinct(np.asarray(node.attributes["indices"]))
    x = chain.value(node.inputs[0])
    leaves = [indices[..., k] for k in range(indices.shape[-1])]
    level = [chain.builder.index(x, leaf) for leaf in leaves]
    there = [present[..., k] for k in range(present.shape[-1])]
    choices = []
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=False))
        choices.append([(_chooses(chain, a, b), both) for (a, b), both in zip(pairs, there[1::2], strict=False)])
        there = there[:-1:2] + there[len(there) - len(there) % 2 :]
        larger = (
            [chain.builder.emit("max", (a, b), a.shape) for a, b in pairs] if len(level) > 2 else [level[0]]
        )
        level = larger + level[len(level) - len(level) % 2 :]
    return _Tree(leaves, choices)


def _window_reverse(chain: Chain, node: Node, index: int, g: Operand) -> list[Operand | None]:
    tree = _tree(chain, node)
    level: list[Operand] = [g]
    for choices in reversed(tree.choices):
        below: list[Operand] = []
        for (choice, both), part in zip(choices, level, strict=False):
            below += _shared(chain, part, choice) if both.all() else _shared_where(chain, part, choice, both)
        level = below + level[len(choices) :]
    joined = chain.joined([chain.reshape(part, (*part.shape, 1)) for part in level], len(g.shape))
    origin = np.stack(tree.leaves, -1)
    return list(scattered(chain, joined, origin, [chain.graph.nodes[node.inputs[0]].shape]))


def _window_forward(chain: Chain, node: Node, index: int, tangents: Tangents) -> Operand:
    (t,) = tangents
    assert t is not None
    tree = _tree(chain, node)
    size = chain.graph.nodes[node.inputs[0]].size
    offset = (np.arange(t.shape[0]) * size).reshape(-1, *(1 for _ in node.shape))
    level: list[Operand] = [chain.moved(t, leaf + offset) for leaf in tree.leaves]
    for choices in tree.choices:
        pairs = zip(choices, level[::2], level[1::2], strict=False)
        chosen = [
            _chosen(chain, choice, x, y) if both.all() else _chosen_where(chain, choice, both, x, y)
            for (choice, both), x, y in pairs
        ]
        level = chosen + level[len(level) - len(level) % 2 :]
    return level[0]


def _shared_where(chain: Chain, g: Operand, choice: Value, both: np.ndarray) -> tuple[Operand, Operand]:
    """``_shared``, all of it the first one's where there is no second."""
    second = chain.times(g, _second(chain, choice, both))
    return chain.subtract(g, second), second


def _chosen_where(chain: Chain, choice: Value, both: np.ndarray, x: Operand, y: Operand) -> Operand:
    return chain.add([x, chain.times(chain.subtract(y, x), _second(chain, choice, both))])


def _second(chain: Chain, choice: Value, both: np.ndarray) -> Value:
    """How much of the second is chosen: nothing where there is none."""
    return chain.builder.affine(choice, Constant(-1.0 * both), Constant(1.0 * both))


RULES: dict[str, Rule] = {
    "mul": Rule(_mul_reverse, _mul_forward),
    "div": Rule(_div_reverse, _div_forward),
    "matmul": Rule(_matmul_reverse, _matmul_forward),
    "softmax": Rule(
        lambda chain, node, index, g: [_softmax(chain, node, index, g)],
        lambda chain, node, index, tangents: _softmax(chain, node, index, _total(chain, tangents)),
    ),
    "log_softmax": Rule(_log_softmax_reverse, _log_softmax_forward),
    "max": Rule(_pair_reverse, _pair_forward),
    "min": Rule(_pair_reverse, _pair_forward),
    "window_max": Rule(_window_reverse, _window_forward),
}
