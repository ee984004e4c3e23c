"""Fragments that are functions of one variable become one operator with one tight relaxation (DESIGN 5).

Exporters spell out functions of one variable: a spline as a sum of relus of one number, a period as a floor, a sine
by quarters, ``x p(|x|)`` as a product. Relaxed part by part every part adds its own gap; as a whole only the hull of
the function remains. A fragment lies between one value that it reads and one value that it makes, and nothing else
reads what is between. Every element of the result depends on one element of the operand, by operators that are
polynomials between break points (``_piecewise.py``); then its tables are made exactly and rounded with a radius.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from math import ceil, floor
from typing import Any

import numpy as np

from provenn.bounds.graph import _piecewise as piecewise
from provenn.bounds.graph._fuse import prune
from provenn.bounds.graph._graph import Graph, Node
from provenn.bounds.graph._piecewise import Domain, NotPiecewiseError, Piecewise, Table

# Nodes that a fragment consists of: those that move elements, affine maps, and relaxed ones.
_MOVING = frozenset({"reshape", "index", "transpose"})
_AFFINE = frozenset({"affine", "linear", "add", "sub"})
_RELAXED = frozenset({"relu", "leaky_relu", "abs", "clip", "floor", "ceil", "pow", "mul"})
# Elements of a fragment's values, and different functions at its end, up to which tables are made.
MOST_ELEMENTS = 1 << 20
MOST_FUNCTIONS = 512
# Entries of the matrices of a fragment: each is a term of a sum of functions.
MOST_WEIGHTS = 1 << 12
# Pieces of all functions made on the way, and of the terms of sums: some 20 microseconds each.
MOST_WORK = 1 << 15
# Ranges are a little wider than the operand's box, so that no rounding of a smaller box leaves them.
_WIDER = 1e-3
# Relaxed elements for each one of the result from which a fragment counts: fewer can be split one by one.
_ELEMENTS = 4
# Entries of a matrix times rows up to which it is asked what they mix.
_MOST_PRODUCTS = 1 << 22
_ONE = Fraction(1)

Ranges = Callable[[], list[tuple[np.ndarray, np.ndarray]]]


@dataclass
class _State:
    """Of a value in a fragment: the operand's element (-1 for constants) and the function of it, ``[*shape]``."""

    element: np.ndarray
    function: np.ndarray


def univariate(graph: Graph, ranges: Ranges) -> Graph:
    """The graph with fragments of one variable as ``pieces`` nodes; unchanged where there are none.

    ``ranges()`` gives the box of every value, flat or shaped, over all inputs that matter; it is asked only where a
    fragment may be.
    """
    fragments = _fragments(graph)
    if not fragments:
        return graph
    boxes = ranges()
    replaced: dict[int, tuple[int, np.ndarray, dict[str, Any]]] = {}
    for end, (start, inner) in fragments.items():
        try:
            found = _Fragment(graph, start, boxes[start]).table(end, inner)
        except NotPiecewiseError:
            continue
        replaced[end] = (start, *found)
    return _rebuilt(graph, replaced) if replaced else graph


def _rebuilt(graph: Graph, replaced: dict[int, tuple[int, np.ndarray, dict[str, Any]]]) -> Graph:
    nodes: list[Node] = []
    position: list[int] = []
    for index, node in enumerate(graph.nodes):
        if index in replaced:
            start, element, tables = replaced[index]
            source = position[start]
            old = graph.nodes[start]
            if element.shape != old.shape or not np.array_equal(element.ravel(), np.arange(old.size)):
                nodes.append(replace(node, operator="index", inputs=(source,), attributes={"indices": element}))
                source = len(nodes) - 1
            nodes.append(replace(node, operator="pieces", inputs=(source,), attributes=tables))
        else:
            nodes.append(replace(node, inputs=tuple(position[i] for i in node.inputs)))
        position.append(len(nodes) - 1)
    made = prune(nodes, [position[i] for i in graph.inputs], [position[i] for i in graph.outputs])
    return replace(graph, nodes=tuple(made[0]), inputs=tuple(made[1]), outputs=tuple(made[2]))


# -- where fragments may be -------------------------------------------------------------------------------


def _fragments(graph: Graph) -> dict[int, tuple[int, list[int]]]:
    """For every end of a fragment its operand and the nodes in between, the end included, in order."""
    nodes = graph.nodes
    mixing = _mixing(graph)
    end = list(range(len(nodes)))
    consumers = graph.consumers()
    for index in range(len(nodes) - 1, -1, -1):
        ends = {index if mixing[i] else end[i] for i in consumers[index]}
        if len(ends) == 1 and index not in graph.outputs and index not in graph.inputs:
            end[index] = ends.pop()
    inside: dict[int, list[int]] = {}
    for index, last in enumerate(end):
        if not mixing[index]:
            inside.setdefault(last, []).append(index)
    found = {}
    for last, inner in inside.items():
        operands = {i for n in inner for i in nodes[n].inputs} - set(inner)
        if len(operands) == 1 and _worthwhile(graph, inner, last):
            found[last] = (operands.pop(), inner)
    return found


def _mixing(graph: Graph) -> list[bool]:
    """Whether a node's elements depend on several elements of what they are made of, or by an operator unknown here.

    Every value has a root, itself or an earlier value of which each of its elements depends on one element.
    """
    root = list(range(len(graph.nodes)))
    element: list[np.ndarray | None] = []
    for index, node in enumerate(graph.nodes):
        roots = {root[i] for i in node.inputs}
        found = None
        if len(roots) == 1 and node.size <= MOST_ELEMENTS and _possible(node):
            operands = [element[i] for i in node.inputs]
            if all(e is not None for e in operands):
                found = _elements(node, operands)  # type: ignore[arg-type]
        if found is not None:
            root[index] = roots.pop()
        elif node.size <= MOST_ELEMENTS:
            found = np.arange(node.size).reshape(node.shape)
        element.append(found)
    return [r == i for i, r in enumerate(root)]


def _possible(node: Node) -> bool:
    if node.operator == "pow":
        exponent = np.asarray(node.attributes["exponent"])
        return bool(exponent.size) and bool((exponent == 2).all())
    return node.operator in _MOVING | _AFFINE | _RELAXED


def _elements(node: Node, operands: list[np.ndarray]) -> np.ndarray | None:
    """The root's element that each one of a node depends on (-1 for none), given those of the operands."""
    x = operands[0]
    if node.operator == "reshape":
        return x.reshape(node.shape)
    if node.operator == "transpose":
        return x.transpose(node.attributes["perm"])
    if node.operator == "index":
        indices = np.asarray(node.attributes["indices"])
        return np.where(indices < 0, -1, x.ravel()[np.maximum(indices, 0)])
    if node.operator == "linear":
        weight = np.asarray(node.attributes["weight"])
        if x.size * weight.shape[-1] > _MOST_PRODUCTS:
            return None
        rows = x.reshape(-1, weight.shape[0], 1)
        used = weight != 0
        most = np.where(used, rows, -1).max(1)
        least = np.where(used & (rows >= 0), rows, most[:, None, :]).min(1)
        return most.reshape(node.shape) if (most == least).all() else None
    if len(operands) == 2:
        y = operands[1]
        if ((x != y) & (x >= 0) & (y >= 0)).any():
            return None
        return np.maximum(x, y)
    return np.broadcast_to(x, node.shape)


def _worthwhile(graph: Graph, inner: list[int], last: int) -> bool:
    """Several relaxed elements for each one of the result, in a fragment of moderate size without large matrices."""
    size = sum(graph.nodes[i].size for i in inner if graph.nodes[i].operator in _RELAXED)
    if sum(np.size(graph.nodes[i].attributes.get("weight", 0)) for i in inner) > MOST_WEIGHTS:
        return False
    return _ELEMENTS * graph.nodes[last].size <= size <= MOST_ELEMENTS


# -- tables -----------------------------------------------------------------------------------------------


@dataclass
class _Fragment:
    """The functions of one fragment, each distinct one made once."""

    graph: Graph
    start: int
    box: tuple[np.ndarray, np.ndarray]
    functions: list[Piecewise] = field(default_factory=list)
    known: dict[Any, int] = field(default_factory=dict)
    pieces: int = 0

    def table(self, end: int, inner: list[int]) -> tuple[np.ndarray, dict[str, Any]]:
        """The operand's element for each one of the result, and the attributes of the node."""
        lower, upper = float(np.min(self.box[0])), float(np.max(self.box[1]))
        if not np.isfinite([lower, upper]).all():
            raise NotPiecewiseError("an operand without bounds")
        margin = _WIDER * max(upper - lower, abs(lower), abs(upper), 1e-30)
        self.domain = Domain(Fraction(lower - margin), Fraction(upper + margin))
        shape = self.graph.nodes[self.start].shape
        identity = self._made("identity", lambda: piecewise.identity(self.domain))
        size = self.graph.nodes[self.start].size
        states = {
            self.start: _State(np.arange(size).reshape(shape), np.full(shape, identity)),
        }
        for index in inner:
            node = self.graph.nodes[index]
            states[index] = self._state(node, *(states[i] for i in node.inputs))
        last = states[end]
        distinct, which = np.unique(last.function, return_inverse=True)
        if len(distinct) > MOST_FUNCTIONS:
            raise NotPiecewiseError("too many functions")
        tables = [piecewise.table(self.functions[i]) for i in distinct.tolist()]
        return np.maximum(last.element, 0), tabulated(tables, which.reshape(last.function.shape))

    def _made(self, key: Any, make: Callable[[], Piecewise]) -> int:
        if key not in self.known:
            self.functions.append(make())
            self._spend(len(self.functions[-1].pieces))
            self.known[key] = len(self.functions) - 1
        return self.known[key]

    def _spend(self, pieces: int) -> None:
        self.pieces += pieces
        if self.pieces > MOST_WORK:
            raise NotPiecewiseError("too much work")

    def _elementwise(self, rows: np.ndarray, shape: tuple[int, ...], key: Any, make: Callable[..., Piecewise]):
        """``make(*row)`` for every distinct row ``[elements, k]`` of float64 numbers."""
        distinct, which = np.unique(rows, axis=0, return_inverse=True)
        made = [self._made((key, *row), partial(make, *row)) for row in distinct.tolist()]
        return np.array(made)[which.ravel()].reshape(shape)

    def _state(self, node: Node, *operands: _State) -> _State:
        makers: dict[str, Callable[..., _State]] = {
            "reshape": self._reshape, "transpose": self._transpose, "index": self._index, "affine": self._affine,
            "linear": self._linear, "add": self._add, "sub": self._sub, "mul": self._mul, "pow": self._pow,
        }  # fmt: skip
        return makers.get(node.operator, self._outer)(node, *operands)

    def _depends(self, node: Node, *operands: _State) -> np.ndarray:
        found = _elements(node, [x.element for x in operands])
        if found is None:
            raise NotPiecewiseError("several variables")
        return found

    def _reshape(self, node: Node, x: _State) -> _State:
        return _State(self._depends(node, x), x.function.reshape(node.shape))

    def _transpose(self, node: Node, x: _State) -> _State:
        return _State(self._depends(node, x), x.function.transpose(node.attributes["perm"]))

    def _index(self, node: Node, x: _State) -> _State:
        indices = np.asarray(node.attributes["indices"])
        absent = indices < 0
        function = x.function.ravel()[np.maximum(indices, 0)]
        if absent.any():
            zero = self._made("zero", lambda: piecewise.constant(self.domain, Fraction(0)))
            function = np.where(absent, zero, function)
        return _State(self._depends(node, x), function)

    def _affine(self, node: Node, x: _State) -> _State:
        columns = [x.function.astype(float)]
        for name, default in (("scale", 1.0), ("shift", 0.0), ("scale_radius", 0.0), ("shift_radius", 0.0)):
            found = node.attributes.get(name)
            columns.append(np.full((), default) if found is None else np.asarray(found, np.float64))
        rows = np.stack([np.broadcast_to(c, node.shape).ravel() for c in columns], 1)

        def make(f: float, *constants: float) -> Piecewise:
            return piecewise.affine(self.functions[int(f)], *map(Fraction, constants))

        return _State(self._depends(node, x), self._elementwise(rows, node.shape, "affine", make))

    def _pair(self, node: Node, x: _State, y: _State, key: str, make: Callable[..., Piecewise]) -> _State:
        rows = np.stack([x.function.ravel(), y.function.ravel()], 1).astype(float)

        def of(f: float, g: float) -> Piecewise:
            return make(self.functions[int(f)], self.functions[int(g)])

        return _State(self._depends(node, x, y), self._elementwise(rows, node.shape, key, of))

    def _add(self, node: Node, x: _State, y: _State) -> _State:
        return self._pair(node, x, y, "add", lambda f, g: piecewise.weighted_sum([(f, _ONE), (g, _ONE)]))

    def _sub(self, node: Node, x: _State, y: _State) -> _State:
        return self._pair(node, x, y, "sub", lambda f, g: piecewise.weighted_sum([(f, _ONE), (g, -_ONE)]))

    def _mul(self, node: Node, x: _State, y: _State) -> _State:
        return self._pair(node, x, y, "mul", piecewise.product)

    def _pow(self, node: Node, x: _State) -> _State:
        return self._pair(node, x, x, "mul", piecewise.product)

    def _linear(self, node: Node, x: _State) -> _State:
        if node.attributes.get("weight_radius") is not None:
            raise NotPiecewiseError("a matrix that is not exact")
        weight = np.asarray(node.attributes["weight"], np.float64)
        bias, radius = (node.attributes.get(name) for name in ("bias", "bias_radius"))
        count, width = weight.shape
        functions = x.function.reshape(-1, count)
        distinct, which = np.unique(functions, axis=0, return_inverse=True)
        made = np.zeros((len(distinct), width), np.int64)
        for column in range(width):
            used = np.flatnonzero(weight[:, column])
            shift = [Fraction(0 if t is None else float(np.ravel(t)[column])) for t in (bias, radius)]
            for row, mine in enumerate(distinct):
                key = ("linear", *mine[used].tolist(), *weight[used, column].tolist(), *shift)
                made[row, column] = self._made(key, partial(self._sum, mine[used], weight[used, column], *shift))
        return _State(self._depends(node, x), made[which.ravel()].reshape(node.shape))

    def _sum(self, functions: np.ndarray, weights: np.ndarray, shift: Fraction, radius: Fraction) -> Piecewise:
        if len(functions) == 0:
            made = piecewise.constant(self.domain, Fraction(0))
        else:
            terms = [self.functions[f] for f in functions.tolist()]
            self._spend(len(terms) * len({t for f in terms for t in f.knots}))
            made = piecewise.weighted_sum(list(zip(terms, map(Fraction, weights.tolist()), strict=True)))
        return piecewise.affine(made, Fraction(1), shift, shift_radius=radius)

    def _outer(self, node: Node, x: _State) -> _State:
        """An operator that is linear between break points."""
        columns = [x.function.astype(float)]
        for name in ("slope", "lower", "upper"):
            found = node.attributes.get(name)
            columns.append(np.full((), np.nan) if found is None else np.asarray(found, np.float64))
        rows = np.stack([np.broadcast_to(c, node.shape).ravel() for c in columns], 1)
        # NaN is unequal to itself and would make every row its own.
        rows = np.where(np.isnan(rows), np.inf, rows)
        element = self._depends(node, x)
        key: tuple[Any, ...] = (node.operator,)
        if node.operator in ("floor", "ceil"):
            rows = np.concatenate([rows, _rank(element)[:, None]], 1)
            key = (node.operator, id(node))

        def make(f: float, slope: float, lower: float, upper: float, *rank: float) -> Piecewise:
            origin = (key, *rank) if rank else None
            return piecewise.outer(self.functions[int(f)], *_outer(node.operator, slope, lower, upper), origin)

        return _State(element, self._elementwise(rows, node.shape, key, make))


def _rank(element: np.ndarray) -> np.ndarray:
    """How many earlier elements depend on the same one."""
    flat = element.ravel()
    order = np.argsort(flat, kind="stable")
    rank = np.empty(flat.size)
    rank[order] = np.arange(flat.size) - np.searchsorted(flat[order], flat[order])
    return rank



def _outer(operator: str, slope: float, lower: float, upper: float) -> tuple[Any, Any]:
    """Break points within bounds, and the line around a number."""
    zero, one = Fraction(0), Fraction(1)
    if operator in ("floor", "ceil"):
        whole = floor if operator == "floor" else ceil

        def integers(low: Fraction, high: Fraction) -> list[Fraction]:
            if high - low > piecewise.MOST_PIECES:
                raise NotPiecewiseError("too many pieces")
            return [Fraction(n) for n in range(ceil(low), floor(high) + 1)]

        return integers, lambda v: (Fraction(whole(v)), zero, zero)
    if operator == "clip":
        ends = [Fraction(e) for e in (lower, upper) if np.isfinite(e)]
        bottom, top = (Fraction(e) if np.isfinite(e) else None for e in (lower, upper))

        def clipped(v: Fraction) -> piecewise.Polynomial:
            if bottom is not None and v < bottom:
                return bottom, zero, zero
            if top is not None and v > top:
                return top, zero, zero
            return zero, one, zero

        return lambda low, high: [e for e in ends if low <= e <= high], clipped
    below = {"relu": zero, "abs": -one}.get(operator)
    below = Fraction(slope) if below is None else below
    return (
        lambda low, high: [zero] if low <= 0 <= high else [],
        lambda v: (zero, below if v < 0 else one, zero),
    )


def tabulated(tables: list[Table], which: np.ndarray) -> dict[str, Any]:
    """Tables of one length: shorter ones go on beyond the end of the domain, with pieces of no use."""
    longest = max(len(t.value) for t in tables)

    def padded(row: np.ndarray, count: int, further: bool) -> np.ndarray:
        missing = count - len(row)
        more = row[-1] + (1 + abs(row[-1])) * np.arange(1, missing + 1) if further else np.zeros(missing)
        return np.concatenate([row, more])

    attributes: dict[str, Any] = {"which": which if len(tables) > 1 else None, "ends": tables[0].knots[[0, -1]]}
    attributes["knots"] = np.stack([padded(t.knots, longest + 1, True) for t in tables])
    for name in ("value", "slope", "curve", "before"):
        attributes[name] = np.stack([padded(getattr(t, name), longest, False) for t in tables])
    for name in ("radius", "doubt"):
        attributes[name] = np.array([getattr(t, name) for t in tables])
    return attributes
