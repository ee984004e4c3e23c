"""Cuts a box into cells in which integers that a network makes of its inputs are constant (DESIGN 3).

A cast, floor, ceil, round or sign of affine functions of single input elements takes few values over a box. A
cell is one combination of those values. Together the cells cover the box, whatever happens at the jumps: an operator's
result is *some* integer of its interval image, and the box of a cell's inputs is the closed hull of where the operators
may have its integers. In a cell, whatever is computed from the integers alone is a constant: selections, comparisons,
gathered and scattered elements. Cells with the same constants are one where nothing else tells them apart.

All cells share one graph, whose input holds the old input and then the constants.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from provenn.bounds.graph._constants import sum_error
from provenn.bounds.graph._fold import interval
from provenn.bounds.graph._fuse import prune
from provenn.bounds.graph._graph import Graph, Node
from provenn.bounds.graph.specialise import moves

# Combinations of integers up to which cells are made, and the elements that all cells together may hold.
COMBINATIONS, ELEMENTS = 1 << 15, 1 << 26
# Combinations whose constants are computed together.
_CHUNK = 64
# Pays for the roundings of an affine function of one element and of its inverse, relative to its terms.
_SLACK = 2.0**-44
# Factors and shifts of such functions lie between its inverse and this.
_RANGE = 1e100
# Integers below are exact in float64, and so are their sums and products below.
_EXACT = 2.0**50

_INTEGRAL = frozenset({"cast", "floor", "ceil", "round", "sign"})
_SELECT = frozenset({
    "reshape", "transpose", "index", "concat", "where", "gather", "scatter_nd", "equal", "less", "less_or_equal",
    "cast", "floor", "ceil", "round", "sign",
})  # fmt: skip
_ARITHMETIC = frozenset({"affine", "add", "sub", "mul"})


@dataclass(frozen=True, eq=False)
class Cells:
    """``graph`` on boxes ``lower``, ``upper`` ``[cells, columns]``; the first ``inputs`` columns are the old input.

    ``combinations`` are the cells before those with equal constants were merged.
    """

    graph: Graph
    lower: np.ndarray
    upper: np.ndarray
    inputs: int
    combinations: int

    def __len__(self) -> int:
        return len(self.lower)


@dataclass(frozen=True, eq=False)
class _Form:
    """Elements ``scale * x[position] + shift`` of a value, each ``[size]``.

    ``terms`` bounds the sizes of all shifts on the way to ``shift``; where ``exact`` no rounding was made.
    """

    position: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    terms: np.ndarray
    exact: np.ndarray

    def moved(self, scale: np.ndarray, shift: np.ndarray) -> _Form | None:
        """``scale`` times the elements plus ``shift``; None where numbers become so small or large that they round
        otherwise than others."""
        with np.errstate(all="ignore"):
            before = self.shift * scale
            for old, new in ((self.shift, before), (self.scale, self.scale * scale)):
                if not (((old == 0) | (scale == 0)) | ((np.abs(new) > 1 / _RANGE) & (np.abs(new) < _RANGE))).all():
                    return None
        exact = self.exact & _power_of_two(scale) & (sum_error(before, shift, before + shift) == 0)
        terms = self.terms * np.abs(scale) + np.abs(shift)
        return _Form(self.position, self.scale * scale, before + shift, terms, exact)

    def ends(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The elements' bounds over a box of the input, rounded outward."""
        given = [end[self.position] for end in (lower, upper)]
        a, b = (self.scale * end for end in given)
        slack = _SLACK * (np.maximum(np.abs(a), np.abs(b)) + self.terms) + 1e-300
        exact = self.exact & _power_of_two(self.scale)
        for x, end in zip(given, (a, b), strict=True):
            exact &= sum_error(end, self.shift, end + self.shift) == 0
            exact &= (x == 0) | (self.scale == 0) | (np.abs(end) > 1 / _RANGE)
        slack = np.where(exact, 0.0, slack)
        return np.minimum(a, b) + self.shift - slack, np.maximum(a, b) + self.shift + slack


def _power_of_two(scale: np.ndarray) -> np.ndarray:
    return np.abs(np.frexp(scale)[0]) == 0.5


@dataclass(frozen=True, eq=False)
class _Integers:
    """One integral element: which nodes' elements it is, its form, and its least and greatest value."""

    operator: str
    places: list[tuple[int, int]]
    position: int
    scale: float
    shift: float
    terms: float
    first: int
    last: int


def cells(graph: Graph, lower: np.ndarray, upper: np.ndarray, limit: int = COMBINATIONS) -> Cells | None:
    """The cells of an input box ``[inputs]`` (float64); None where no integers are few enough or nothing is constant.

    Cost: one evaluation of the part of the graph that integers decide for each of up to ``limit`` combinations.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1 or not (lower <= upper).all():
        return None
    found = _integers(graph, lower, upper)
    counts = [v.last - v.first + 1 for v in found]
    if not any(count > 1 for count in counts) or np.prod([float(count) for count in counts]) > limit:
        return None
    return _Cutter(graph, lower, upper, found).run()


# -- integers --------------------------------------------------------------------------------------------


def _forms(graph: Graph) -> dict[int, _Form]:
    """Values whose elements are affine functions of one input element each."""
    size = graph.nodes[graph.inputs[0]].size
    zeros = np.zeros(size)
    forms = {graph.inputs[0]: _Form(np.arange(size), np.ones(size), zeros, zeros, np.ones(size, bool))}
    for index, node in enumerate(graph.nodes):
        if not node.inputs or not all(i in forms for i in node.inputs):
            continue
        given = [forms[i] for i in node.inputs]
        origin = moves(node, [graph.nodes[i].shape for i in node.inputs])
        if origin is not None:
            flat = origin.reshape(-1)
            if (flat >= 0).all():
                names = ("position", "scale", "shift", "terms", "exact")
                forms[index] = _Form(*(np.concatenate([getattr(f, name) for f in given])[flat] for name in names))
        elif node.operator == "affine" and graph.nodes[node.inputs[0]].shape == node.shape:
            if any(np.any(node.attributes.get(f"{name}_radius", 0.0)) for name in ("scale", "shift")):
                continue
            moved = given[0].moved(_flat(node, "scale", 1.0), _flat(node, "shift", 0.0))
            if moved is not None:
                forms[index] = moved
    return forms


def _flat(node: Node, name: str, otherwise: float) -> np.ndarray:
    value = np.asarray(node.attributes.get(name, otherwise), np.float64)
    return np.broadcast_to(value, node.shape).reshape(-1)


def _integers(graph: Graph, lower: np.ndarray, upper: np.ndarray) -> list[_Integers]:
    """All integral elements that are made of single input elements, with their ranges over the box."""
    from provenn.bounds.ops import OPS, prepare

    found: dict[tuple, _Integers] = {}
    consumers = graph.consumers()
    for index, form in _forms(graph).items():
        for reader in consumers[index]:
            node = graph.nodes[reader]
            if node.operator not in _INTEGRAL or graph.nodes[index].shape != node.shape:
                continue
            shape = graph.nodes[index].shape
            box = [torch.from_numpy(end.reshape(1, *shape)) for end in form.ends(lower, upper)]
            prepared = prepare(node, (shape,), torch.float64, torch.device("cpu"))
            first, last = (end.numpy().reshape(-1) for end in interval(OPS[node.operator], prepared, [tuple(box)]))
            if not (np.abs(np.stack([first, last])) < _EXACT).all() or not _held(node, *box):
                return []
            kind = "bool" if node.attributes.get("to") == "bool" else node.operator
            for place in range(node.size):
                position, scale, shift = int(form.position[place]), float(form.scale[place]), float(form.shift[place])
                key = kind, position, scale, shift, float(form.terms[place])
                if key not in found:
                    ends = int(first[place]), int(last[place])
                    found[key] = _Integers(kind, [], position, scale, shift, key[-1], *ends)
                found[key].places.append((reader, place))
    return list(found.values())


def _held(node: Node, *ends: torch.Tensor) -> bool:
    """Whether a cast's type holds some numbers and all between them; another number becomes some other integer."""
    from provenn.bounds.ops.discrete import integer_range

    if node.operator != "cast" or node.attributes["to"] == "bool":
        return True
    first, last = integer_range(node.attributes["to"])
    return all(bool(((end.trunc() >= first) & (end.trunc() <= last)).all()) for end in ends)


def _preimage(operator: str, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The closed hull of the numbers that an operator maps to the integers ``n``."""
    below, above = {
        "floor": (n, n + 1),
        "ceil": (n - 1, n),
        "round": (n - 0.5, n + 0.5),
        "cast": (np.where(n > 0, n, n - 1), np.where(n < 0, n, n + 1)),
        "sign": (np.where(n > 0, 0.0, np.where(n < 0, -np.inf, 0.0)), np.where(n > 0, np.inf, 0.0)),
        "bool": (np.where(n == 0, 0.0, -np.inf), np.where(n == 0, 0.0, np.inf)),
    }[operator]
    return below.astype(np.float64), above.astype(np.float64)


# -- cells -----------------------------------------------------------------------------------------------


@dataclass
class _Cutter:
    graph: Graph
    lower: np.ndarray
    upper: np.ndarray
    integers: list[_Integers]
    decided: set[int] = field(default_factory=set)
    boxed: set[int] = field(default_factory=set)
    prepared: dict[int, Any] = field(default_factory=dict)
    wanted: set[int] = field(default_factory=set)
    sources: list[int] = field(default_factory=list)

    def run(self) -> Cells | None:
        from provenn.bounds.ops import prepare

        nodes = self.graph.nodes
        self._classify()
        for index in self.decided | self.boxed:
            shapes = tuple(nodes[i].shape for i in nodes[index].inputs)
            self.prepared[index] = prepare(nodes[index], shapes, torch.float64, torch.device("cpu"))
        pieces = self._pieces()
        if not pieces:
            return None
        self._want(pieces)
        graph, read = self._shared_graph(pieces)
        combinations = _product(self.integers)
        low, high = self._input_boxes(combinations)
        possible = (low <= high).all(1)
        combinations, low, high = combinations[possible], low[possible], high[possible]
        kept: dict[bytes, None] = {}
        parts: list[np.ndarray] = []
        for start in range(0, len(combinations), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            values = self._constants(combinations[chunk])
            if values is None:
                return None
            keys = np.concatenate([values, low[chunk][:, read], high[chunk][:, read]], 1) + 0.0
            fresh = []
            for row, key in enumerate(keys):
                if (name := key.tobytes()) not in kept:
                    kept[name] = None
                    fresh.append(start + row)
            if len(kept) * max(keys.shape[1], graph.nodes[0].size) > ELEMENTS:
                return None
            parts.append(np.array(fresh, np.int64))
        chosen = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        if not len(chosen):
            return None
        boxes = [self._boxes(combinations[chosen[i : i + _CHUNK]], pieces) for i in range(0, len(chosen), _CHUNK)]
        ends = [np.concatenate(side) for side in zip(*boxes, strict=True)]
        lows, highs = (np.concatenate([x[chosen], y], 1) for x, y in zip((low, high), ends, strict=True))
        return Cells(graph, lows, highs, len(self.lower), len(combinations))

    def _classify(self) -> None:
        """Values that the integers decide, exactly; and affine functions of those, as boxes."""
        nodes, integral = self.graph.nodes, set()
        self.decided = {node for v in self.integers for node, _ in v.places}
        integral |= self.decided
        for index, node in enumerate(nodes):
            if index in self.decided or node.operator == "input":
                continue
            if not all(i in self.decided for i in node.inputs):
                continue
            constants = [np.asarray(v) for k, v in node.attributes.items() if k in ("value", "scale", "shift")]
            exact = not any(np.any(v) for k, v in node.attributes.items() if k.endswith("radius"))
            whole = all((v == np.floor(v)).all() and (np.abs(v) < _EXACT).all() for v in constants)
            operands = [i for i in node.inputs if i in integral]
            if node.operator == "constant" and exact:
                self.decided.add(index)
                integral |= {index} if whole else set()
            elif node.operator in _SELECT and exact:
                self.decided.add(index)
                makes = node.operator in _INTEGRAL or node.operator in ("equal", "less", "less_or_equal")
                integral |= {index} if makes or len(operands) == len(node.inputs) else set()
            elif node.operator in _ARITHMETIC and exact and whole and len(operands) == len(node.inputs):
                self.decided.add(index)
                integral.add(index)
            elif node.operator == "affine" and nodes[node.inputs[0]].shape == node.shape:
                self.boxed.add(index)

    def _pieces(self) -> list[int]:
        """Decided values that something else reads: the constants of the new graph."""
        nodes, done = self.graph.nodes, self.decided | self.boxed
        needed, reached = {self.graph.outputs[0]}, []
        for index in range(len(nodes) - 1, -1, -1):
            if index not in needed:
                continue
            if index in done:
                reached.append(index)
            else:
                needed.update(nodes[index].inputs)
        # A constant of the file stays one.
        return sorted(i for i in reached if nodes[i].operator != "constant" and self._changes(i))

    def _want(self, pieces: list[int]) -> None:
        """What has to be computed for the pieces, and the decided values that they are or are made of."""
        nodes = self.graph.nodes
        below = [i for piece in pieces for i in ([piece] if piece in self.decided else nodes[piece].inputs)]
        self.sources = sorted(set(below))
        while below:
            at = below.pop()
            if at not in self.wanted:
                self.wanted.add(at)
                below.extend(i for i in nodes[at].inputs if i in self.decided)

    def _changes(self, index: int) -> bool:
        below, nodes = [index], self.graph.nodes
        while below:
            at = below.pop()
            if any(at == node for v in self.integers for node, _ in v.places):
                return True
            below.extend(nodes[at].inputs)
        return False

    def _shared_graph(self, pieces: list[int]) -> tuple[Graph, np.ndarray]:
        """The graph behind the pieces, and the input elements that it still reads."""
        old, source = self.graph.nodes, self.graph.inputs[0]
        n = old[source].size
        width = n + sum(old[i].size for i in pieces)
        nodes: list[Node] = [replace(old[source], shape=(1, width))]
        starts = dict(zip(pieces, n + np.cumsum([0, *(old[i].size for i in pieces)]), strict=False))
        position: dict[int, int] = {}
        for index, node in enumerate(old):
            start = 0 if index == source else starts.get(index)
            if start is not None:
                places = np.arange(start, start + node.size).reshape(node.shape)
                made = replace(node, operator="index", inputs=(0,), attributes={"indices": places})
            elif all(i in position for i in node.inputs):
                made = replace(node, inputs=tuple(position[i] for i in node.inputs))
            else:
                continue
            position[index] = len(nodes)
            nodes.append(made)
        kept, inputs, outputs = prune(nodes, [0], [position[self.graph.outputs[0]]])
        graph = replace(self.graph, nodes=tuple(kept), inputs=tuple(inputs), outputs=tuple(outputs))
        return graph, _elements_read(graph, n)

    def _input_boxes(self, combinations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes ``[combinations, inputs]`` that contain every input with those integers."""
        low = np.repeat(self.lower[None], len(combinations), 0)
        high = np.repeat(self.upper[None], len(combinations), 0)
        for column, v in enumerate(self.integers):
            if v.scale == 0:
                continue
            below, above = _preimage(v.operator, combinations[:, column])
            a, b = (below - v.shift) / v.scale, (above - v.shift) / v.scale
            slack = np.zeros(len(a))
            if v.scale != 1 or v.shift != 0:
                size = np.where(np.isfinite(below), np.abs(below), 0) + np.where(np.isfinite(above), np.abs(above), 0)
                slack = 4 * _SLACK * (size + v.terms) / abs(v.scale) + 1e-290
            low[:, v.position] = np.maximum(low[:, v.position], np.minimum(a, b) - slack)
            high[:, v.position] = np.minimum(high[:, v.position], np.maximum(a, b) + slack)
        return low, high

    def _values(self, combinations: np.ndarray) -> dict[int, torch.Tensor] | None:
        """The decided values ``[combinations, *shape]``; None where an operator has no value or an inexact one."""
        from provenn.bounds.ops import OPS

        nodes, count = self.graph.nodes, len(combinations)
        values: dict[int, torch.Tensor] = {}
        for column, v in enumerate(self.integers):
            for index, place in v.places:
                if index not in values:
                    values[index] = torch.zeros(count, nodes[index].size, dtype=torch.float64)
                values[index][:, place] = torch.from_numpy(combinations[:, column])
        values = {index: value.view(count, *nodes[index].shape) for index, value in values.items()}
        for index in sorted(self.decided & self.wanted):
            node = nodes[index]
            if index not in values:
                if not _held(node, *[values[i] for i in node.inputs]):
                    return None
                values[index] = OPS[node.operator].evaluate(self.prepared[index], *[values[i] for i in node.inputs])
            value = values[index]
            # Only positions that leave their range and sums can have no value or an inexact one.
            if node.operator in ("gather", "scatter_nd") and not bool(torch.isfinite(value).all()):
                return None
            if node.operator in _ARITHMETIC and not bool((value.abs() < _EXACT).all()):
                return None
        return values

    def _constants(self, combinations: np.ndarray) -> np.ndarray | None:
        """Everything that the pieces are made of, ``[combinations, elements]``."""
        values = self._values(combinations)
        if values is None:
            return None
        return _side_by_side([values[i] for i in self.sources], len(combinations))

    def _boxes(self, combinations: np.ndarray, pieces: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Boxes ``[combinations, elements]`` of the pieces."""
        from provenn.bounds.ops import OPS

        values = self._values(combinations)
        assert values is not None
        boxes = {index: (value, value) for index, value in values.items()}
        for index in pieces:
            if index not in boxes:
                node = self.graph.nodes[index]
                boxes[index] = interval(OPS[node.operator], self.prepared[index], [boxes[i] for i in node.inputs])
        lower, upper = (_side_by_side([boxes[i][side] for i in pieces], len(combinations)) for side in (0, 1))
        return lower, upper


def _product(integers: list[_Integers]) -> np.ndarray:
    """Every combination ``[combinations, integers]`` of their values."""
    stride, columns = 1, []
    total = int(np.prod([v.last - v.first + 1 for v in integers]))
    for v in integers:
        count = v.last - v.first + 1
        columns.append(v.first + np.arange(total) // stride % count)
        stride *= count
    return np.stack(columns, 1).astype(np.float64)


def _side_by_side(values: list[torch.Tensor], count: int) -> np.ndarray:
    return torch.cat([v.expand(count, *v.shape[1:]).reshape(count, -1) for v in values], 1).numpy()


def _elements_read(graph: Graph, count: int) -> np.ndarray:
    """Which of the first ``count`` input elements something other than a movement reads (flat positions)."""
    forms = _forms(graph)
    read = set()
    consumers = graph.consumers()
    for index, form in forms.items():
        readers = [i for i in consumers[index] if i not in forms]
        if readers or index in graph.outputs:
            read.update(form.position[form.position < count].tolist())
    return np.array(sorted(read), np.int64)

