"""Specialises a graph to a region (DESIGN 3): fixed inputs become constants, outputs that no row reads are cut off.

Every value is known, or partly known (a vector of variable elements and constants around it), or variable. Known
elements pass through operators as boxes, so that what they become carries a proven radius (DESIGN 7). At an affine map
their rows drop out of the matrix and their product joins the constant term; where a value has to be whole for an
operator it is put together again. The result is kept only where it is less work than the graph it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fold import interval
from provenn.bounds.graph._fuse import attribute, fuse, prune, with_constants
from provenn.bounds.graph._graph import Graph, Node

# A folded constant whose radius is more than this share of its size would loosen bounds: its node stays.
_RADIUS = 1e-6
_UNIT = 2.0**-53
_UP = 1.0 + 2.0**-40
# An element that is read and written costs as much as this many multiplications.
_ELEMENT = 4


@dataclass(frozen=True, eq=False)
class Known:
    """Constants ``value`` up to ``radius``, both float64 ``[*shape]``."""

    value: np.ndarray
    radius: np.ndarray

    def take(self, flat: np.ndarray) -> Known:
        return Known(self.value.reshape(-1)[flat], self.radius.reshape(-1)[flat])

    @property
    def constant(self) -> Constant:
        return Constant(self.value, None, self.radius if self.radius.any() else None)


@dataclass(frozen=True, eq=False)
class Partial:
    """Elements ``places`` ``[k]`` (flat) are those of node ``source`` ``[1, k]``; the others are ``known``."""

    source: int
    places: np.ndarray
    known: Known


State: TypeAlias = "Known | Partial | int"


@dataclass(frozen=True)
class Specialised:
    """A graph that agrees with another one on a region.

    Its input holds the elements ``free`` of the old one (flat positions), its output the elements ``read``; None is
    all of them, in their old shape.
    """

    graph: Graph
    free: np.ndarray | None = None
    read: np.ndarray | None = None


def specialise(
    graph: Graph, lower: np.ndarray, upper: np.ndarray, fixed: np.ndarray, read: np.ndarray | None = None
) -> Specialised:
    """Fold the ``fixed`` elements of the input and cut off the outputs other than ``read`` (flat positions).

    ``lower``, ``upper`` (float64) and ``fixed`` (bool) are ``[inputs]``; a fixed element may be any number between
    its bounds. Graphs with several inputs or outputs come back unchanged.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return Specialised(graph)
    found = Specialised(graph)
    fixed = np.asarray(fixed, bool).copy()
    if fixed.all():
        fixed[0] = False  # a graph has an input
    if fixed.any():
        centre = 0.5 * lower + 0.5 * upper
        radius = np.maximum(upper - centre, centre - lower) * _UP
        made = _Rewrite(graph, fixed, Known(centre, radius)).run()
        if work(made) < work(graph):
            found = Specialised(made, np.flatnonzero(~fixed))
    size = graph.nodes[graph.outputs[0]].size
    if read is not None and 0 < len(np.unique(read)) < size:
        cut = _cut(found.graph, np.unique(read))
        if work(cut) < work(found.graph):
            found = replace(found, graph=cut, read=np.unique(read))
    return found


def work(graph: Graph) -> int:
    """Multiplications of one evaluation, and its elements."""
    total = 0
    for node in graph.nodes:
        total += _ELEMENT * node.size
        weight = node.attributes.get("weight")
        if weight is not None:
            total += node.size * int(np.size(weight)) // _results(node, weight)
    return total


def _results(node: Node, weight: np.ndarray) -> int:
    """By what to divide elements times entries of a weight for the number of multiplications."""
    if node.operator == "linear":
        return weight.shape[-1]
    if node.operator == "conv":
        return weight.shape[0]
    if node.operator == "conv_transpose":
        return weight.shape[1] * node.attributes["groups"]
    return weight.shape[-2]


def _tidy(nodes: list[Node], inputs: list[int], outputs: list[int], like: Graph) -> Graph:
    made = prune(*fuse(*prune(nodes, inputs, outputs)))
    return replace(like, nodes=tuple(made[0]), inputs=tuple(made[1]), outputs=tuple(made[2]))


# -- fixed inputs ----------------------------------------------------------------------------------------


@dataclass
class _Rewrite:
    graph: Graph
    fixed: np.ndarray
    known: Known
    nodes: list[Node] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    whole: dict[int, int] = field(default_factory=dict)

    def run(self) -> Graph:
        """The graph in which only the other elements are inputs."""
        for index, node in enumerate(self.graph.nodes):
            if index == self.graph.inputs[0]:
                free = np.flatnonzero(~self.fixed)
                parts = (self.known.value, self.known.radius)
                known = Known(*(np.where(self.fixed, part, 0.0).reshape(node.shape) for part in parts))
                self.nodes.append(replace(node, shape=(1, len(free))))
                self.states.append(Partial(0, free, known))
            else:
                self.states.append(self.state(node))
        output = self.variable(self.graph.outputs[0])
        return _tidy(self.nodes, [0], [output], self.graph)

    def push(
        self, like: Node, operator: str, inputs: tuple[int, ...], shape: tuple[int, ...], **attributes: Any
    ) -> int:
        kept = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(replace(like, operator=operator, inputs=inputs, shape=shape, attributes=kept))
        return len(self.nodes) - 1

    def state(self, node: Node) -> State:
        """What a node's value is now; appends what it needs."""
        states = [self.states[i] for i in node.inputs]
        found: State | None = None
        if all(isinstance(state, Known) for state in states):
            found = evaluated(node, [state for state in states if isinstance(state, Known)])
        elif any(not isinstance(state, int) for state in states):
            found = self.partly(node, states)
        if found is None:
            operands = tuple(self.variable(i) for i in node.inputs)
            self.nodes.append(replace(node, inputs=operands))
            found = len(self.nodes) - 1
        return found

    def variable(self, index: int) -> int:
        """The node of an old value as a whole."""
        state = self.states[index]
        if isinstance(state, int):
            return state
        if index not in self.whole:
            self.whole[index] = self._assembled(self.graph.nodes[index], state)
        return self.whole[index]

    def _assembled(self, node: Node, state: Known | Partial) -> int:
        if isinstance(state, Known):
            given = state.constant
            return self.push(node, "constant", (), node.shape, value=given.value, radius=given.radius)
        size, k = node.size, len(state.places)
        rest = np.setdiff1d(np.arange(size), state.places)
        source = state.source
        if len(rest):
            given = state.known.take(rest[None]).constant
            others = self.push(node, "constant", (), (1, len(rest)), value=given.value, radius=given.radius)
            source = self.push(node, "concat", (source, others), (1, size), axis=1)
        indices = np.empty(size, np.int64)
        indices[state.places], indices[rest] = np.arange(k), k + np.arange(len(rest))
        if np.array_equal(indices, np.arange(size)):
            return self.push(node, "reshape", (source,), node.shape)
        return self.push(node, "index", (source,), node.shape, indices=indices.reshape(node.shape))

    def partly(self, node: Node, states: list[State]) -> State | None:
        """A node of which some operand is known in part; None where the operands have to be whole."""
        from provenn.bounds.ops import OPS, Univariate

        first = states[0]
        moved = moves(node, [self.graph.nodes[i].shape for i in node.inputs])
        if moved is not None:
            return self.moved(node, moved, self.joined(node, states))
        if len(states) == 2 and node.operator in ("add", "sub", "mul"):
            return self.with_constant(node, states)
        if len(states) > 1 or not isinstance(first, Partial):
            return None
        same = self.graph.nodes[node.inputs[0]].shape == node.shape
        if same and (node.operator == "affine" or isinstance(OPS[node.operator], Univariate)):
            return self.elementwise(node, first)
        if node.operator == "linear" and first.known.value.size == node.attributes["weight"].shape[0]:
            return self.linear(node, first)
        return None

    def joined(self, node: Node, states: list[State]) -> Partial:
        """All operands as one partly known vector."""
        if len(states) == 1 and isinstance(states[0], Partial):
            return states[0]
        sources, places, values, start = [], [], [], 0
        for index, state in zip(node.inputs, states, strict=True):
            size = self.graph.nodes[index].size
            if isinstance(state, int):
                sources.append(self.push(self.graph.nodes[index], "reshape", (state,), (1, size)))
                places.append(start + np.arange(size))
                values.append(Known(np.zeros(size), np.zeros(size)))
            else:
                if isinstance(state, Partial):
                    sources.append(state.source)
                    places.append(start + state.places)
                values.append(state.known if isinstance(state, Partial) else state)
            start += size
        source = sources[0]
        if len(sources) > 1:
            width = sum(len(place) for place in places)
            source = self.push(node, "concat", tuple(sources), (1, width), axis=1)
        value = np.concatenate([known.value.reshape(-1) for known in values])
        radius = np.concatenate([known.radius.reshape(-1) for known in values])
        return Partial(source, np.concatenate(places), Known(value, radius))

    def moved(self, node: Node, origin: np.ndarray, state: Partial) -> State:
        """Elements moved: ``origin`` ``[*shape]`` are flat positions in the operand, -1 for an element that is 0."""
        origin = origin.reshape(-1)
        padded = Known(*(np.append(np.ravel(p), 0.0) for p in (state.known.value, state.known.radius)))
        taken = padded.take(origin)
        known = Known(taken.value.reshape(node.shape), taken.radius.reshape(node.shape))
        lookup = np.full(len(padded.value), -1)
        lookup[state.places] = np.arange(len(state.places))
        order = lookup[origin]
        places = np.flatnonzero(order >= 0)
        order = order[places]
        if not len(places):
            return known
        source = state.source
        if not np.array_equal(order, np.arange(len(state.places))):
            source = self.push(node, "index", (source,), (1, len(order)), indices=order[None])
        return Partial(source, places, known)

    def with_constant(self, node: Node, states: list[State]) -> State | None:
        """A sum, difference or product with a constant is an affine map."""
        side = next((i for i, state in enumerate(states) if isinstance(state, Known)), None)
        if side is None:
            return None
        given = states[side]
        assert isinstance(given, Known)
        constant, other = given.constant, node.inputs[1 - side]
        if given.value.shape != node.shape or self.graph.nodes[other].shape != node.shape:
            return None
        if node.operator == "mul":
            attributes = with_constants(replace(node, attributes={}), scale=constant)
        else:
            shift = constants.negate(constant) if node.operator == "sub" and side == 1 else constant
            scale = constants.scalar(-1.0) if node.operator == "sub" and side == 0 else None
            attributes = with_constants(replace(node, attributes={}), scale=scale, shift=shift)
        affine = replace(node, operator="affine", inputs=(other,), attributes=attributes)
        state = self.states[other]
        if isinstance(state, Partial):
            return self.elementwise(affine, state)
        self.nodes.append(replace(affine, inputs=(self.variable(other),)))
        return len(self.nodes) - 1

    def elementwise(self, node: Node, state: Partial) -> State | None:
        rest = np.setdiff1d(np.arange(node.size), state.places)
        value, radius = np.zeros(node.size), np.zeros(node.size)
        if len(rest):
            folded = evaluated(restricted(node, rest), [state.known.take(rest[None])])
            if folded is None:
                return None
            value[rest], radius[rest] = folded.value[0], folded.radius[0]
        few = restricted(node, state.places)
        self.nodes.append(replace(few, inputs=(state.source,)))
        known = Known(value.reshape(node.shape), radius.reshape(node.shape))
        return Partial(len(self.nodes) - 1, state.places, known)

    def linear(self, node: Node, state: Partial) -> State:
        """The rows of variable elements stay, the product with the known ones joins the bias."""
        weight, bias = attribute(node, "weight"), attribute(node, "bias")
        assert weight is not None
        rest = np.setdiff1d(np.arange(weight.shape[0]), state.places)
        if len(rest):
            moved = _product(state.known.take(rest), weight.mapped(lambda a: a[rest]))
            bias = moved if bias is None else constants.add(bias, moved)
        kept = with_constants(node, weight=weight.mapped(lambda a: a[state.places]), bias=bias)
        width = (1, weight.shape[1])
        made = self.push(node, "linear", (state.source,), width, **kept)
        return made if node.shape == width else self.push(node, "reshape", (made,), node.shape)


def _product(known: Known, weight: Constant) -> Constant:
    """``known @ weight`` with the radius of its rounding and of both factors."""
    matrix = weight.value.astype(np.float64)
    size, radii = np.abs(matrix), 0.0 if weight.radius is None else weight.radius
    value = known.value @ matrix
    error = (np.abs(known.value) @ size) * ((len(known.value) + 2) * _UNIT)
    error = error + known.radius @ (size + radii) + np.abs(known.value) @ (np.zeros_like(matrix) + radii)
    return Constant(value, None, error * _UP + 1e-300)


def evaluated(node: Node, operands: list[Known]) -> Known | None:
    """A node of constants, by the operator's own float64 interval; None where its radius is not small."""
    from provenn.bounds.ops import OPS, prepare

    record = OPS[node.operator]
    prepared = prepare(node, tuple(o.value.shape for o in operands), torch.float64, torch.device("cpu"))
    values = [torch.from_numpy(np.asarray(o.value, np.float64)).unsqueeze(0) for o in operands]
    boxes = []
    for value, operand in zip(values, operands, strict=True):
        radius = torch.from_numpy(np.asarray(operand.radius, np.float64)).unsqueeze(0)
        low, high = (torch.nextafter(value + s * radius, torch.full_like(value, s * torch.inf)) for s in (-1, 1))
        boxes.append((torch.where(radius > 0, low, value), torch.where(radius > 0, high, value)))
    with torch.no_grad():
        real = record.evaluate(prepared, *values)[0].double().numpy().reshape(node.shape)
        lower, upper = (end[0].double().numpy().reshape(node.shape) for end in interval(record, prepared, boxes))
    with np.errstate(invalid="ignore"):
        radius = np.maximum(upper - real, real - lower) * _UP
        fine = np.isfinite(real) & (radius <= _RADIUS * (1 + np.abs(real)))
    return Known(real, np.maximum(radius, 0.0)) if fine.all() else None


def moves(node: Node, shapes: list[tuple[int, ...]]) -> np.ndarray | None:
    """For every element of the node its flat position among its joined operands, -1 for 0; None where it computes."""
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    first = np.cumsum([0, *sizes])[: len(sizes)]
    places = [start + np.arange(n).reshape(shape) for start, n, shape in zip(first, sizes, shapes, strict=True)]
    if node.operator == "reshape":
        return places[0].reshape(node.shape)
    if node.operator == "transpose":
        return places[0].transpose([int(axis) for axis in node.attributes["perm"]])
    if node.operator == "index":
        return np.asarray(node.attributes["indices"], np.int64).reshape(node.shape)
    if node.operator == "concat":
        return np.concatenate(places, axis=int(node.attributes["axis"]))
    return None


def restricted(node: Node, places: np.ndarray) -> Node:
    """An elementwise node for some of its flat elements, as a vector ``[1, k]``."""
    from provenn.bounds.ops import OPS

    attributes = dict(node.attributes)
    for name in OPS[node.operator].constants:
        if np.size(attributes.get(name, 0.0)) > 1:
            attributes[name] = np.broadcast_to(attributes[name], node.shape).reshape(-1)[places][None]
        elif np.ndim(attributes.get(name, 0.0)):  # one number may have more axes than the vector
            attributes[name] = np.reshape(attributes[name], ())
    return replace(node, shape=(1, len(places)), attributes=attributes)


# -- outputs ---------------------------------------------------------------------------------------------


def _cut(graph: Graph, read: np.ndarray) -> Graph:
    """The graph whose output is the vector ``[1, k]`` of some elements of its output."""
    nodes = list(graph.nodes)
    output = _elements(nodes, graph.outputs[0], read)
    return _tidy(nodes, list(graph.inputs), [output], graph)


def _elements(nodes: list[Node], index: int, places: np.ndarray) -> int:
    """A node ``[1, k]`` with flat elements of a value: as few as possible are computed."""
    from provenn.bounds.ops import OPS, Univariate

    node = nodes[index]

    def push(operator: str, inputs: tuple[int, ...], width: int, **attributes: Any) -> int:
        kept = {name: value for name, value in attributes.items() if value is not None}
        nodes.append(replace(node, operator=operator, inputs=inputs, shape=(1, width), attributes=kept))
        return len(nodes) - 1

    shapes = [nodes[i].shape for i in node.inputs]
    origin = moves(node, shapes)
    if origin is not None and (origin.reshape(-1)[places] >= 0).all():
        origin = origin.reshape(-1)[places]
        first = np.cumsum([0, *(int(np.prod(shape, dtype=np.int64)) for shape in shapes)])
        parts, order, width = [], np.empty(len(origin), np.int64), 0
        for operand, start, end in zip(node.inputs, first, first[1:], strict=False):
            mine = np.flatnonzero((origin >= start) & (origin < end))
            if len(mine):
                wanted, inverse = np.unique(origin[mine] - start, return_inverse=True)
                parts.append(_elements(nodes, operand, wanted))
                order[mine] = width + inverse
                width += len(wanted)
        made = parts[0] if len(parts) == 1 else push("concat", tuple(parts), width, axis=1)
        same = np.array_equal(order, np.arange(width))
        return made if same else push("index", (made,), len(order), indices=order[None])
    weight, bias = attribute(node, "weight"), attribute(node, "bias")
    if node.operator == "linear" and weight is not None and node.size == weight.shape[1]:
        bias = None if bias is None else bias.mapped(lambda a: np.broadcast_to(a, node.shape[-1:])[places])
        kept = with_constants(node, weight=weight.mapped(lambda a: np.ascontiguousarray(a[:, places])), bias=bias)
        source = node.inputs[0]
        if nodes[source].shape != (1, weight.shape[0]):
            source = push("reshape", node.inputs, weight.shape[0])
        return push("linear", (source,), len(places), **kept)
    plain = node.operator in ("affine", "add", "sub") or isinstance(OPS[node.operator], Univariate)
    if plain and all(shape == node.shape for shape in shapes):
        operands = tuple(_elements(nodes, i, places) for i in node.inputs)
        nodes.append(replace(restricted(node, places), inputs=operands))
        return len(nodes) - 1
    return push("index", (index,), len(places), indices=places[None])
