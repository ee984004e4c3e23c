"""Boxes by zonotopes: ``x = centre + sum_k generators_k e_k + remainder``, ``|e_k| <= 1`` (Singh et al., 2018).

Meant for boxes so narrow that nearly every element is stable: there the network is affine, intervals lose a factor in
every layer, and backward passes for thousands of elements cost far more than carrying some hundred generators forward.
The generators start behind the values that intervals bound well, at a place where few elements are alive.

Rounding: what the computed centre and generators miss goes into the remainder, which grows like an interval. For a
linear node it is ``gamma_n (|M| (|centre| + reach) + |c|)`` in float64, once for sums and once for radii, and
``gamma_n |M| reach`` in the generators' own type: they describe narrow boxes, so float32 is often enough for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import LinearOperator, prepare
from provenn.bounds.ops._operator import Prepared
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import gamma

# Entries of the matrices of one depthwise convolution up to which it is made of them.
_MATRICES = 1 << 20
# Pays for the roundings of a sum of magnitudes and of a few operations on it.
_UP = 1.0 + 2.0**-36
_TINY = 1e-290
# Covers the underflow of products of a generator with weights, in all generators of an element.
_TINY32 = 1e-30

_MOVES = frozenset({"reshape", "transpose", "index", "concat"})

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Zonotope:
    """``centre`` and ``remainder`` ``[*shape]`` float64, ``generators`` ``[elements, k]`` float32 or float64.

    ``reach`` ``[*shape]`` bounds how far an element can be from its centre.
    """

    centre: Tensor
    generators: Tensor
    remainder: Tensor
    reach: Tensor

    @property
    def box(self) -> Box:
        """Both ends, rounded outward; what is not a number may be anything."""
        lower = (self.centre - self.reach).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        upper = (self.centre + self.reach).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        infinity = torch.full_like(lower, torch.inf)
        return torch.nextafter(lower, -infinity), torch.nextafter(upper, infinity)


def _reach(generators: Tensor, remainder: Tensor) -> Tensor:
    count = generators.shape[1]
    total = torch.linalg.vector_norm(generators, 1, dim=1) if count else generators.new_zeros(len(generators))
    total = total.double() * (1 + 2 * gamma(count + 2, generators.dtype))
    return (total.view(remainder.shape) + remainder) * _UP + _TINY


@dataclass(frozen=True, eq=False)
class _Depthwise:
    """``matrices`` ``[channels, narrow, wide]`` float64 with at most as many entries in a row as the kernel has."""

    matrices: Tensor
    offset: Tensor | None
    shape: tuple[int, ...]

    def centre(self, x: Tensor) -> Tensor:
        y = torch.bmm(self.matrices, x.reshape(len(self.matrices), -1, 1)).view(self.shape)
        return y if self.offset is None else y + self.offset

    def sizes(self, radii: Tensor) -> Tensor:
        """``|matrices| radii`` for ``radii`` ``[n, *wide]``, rounded up."""
        each = radii.reshape(len(radii), len(self.matrices), -1).permute(1, 2, 0)
        return torch.bmm(self.matrices.abs(), each).permute(2, 0, 1).reshape(-1, *self.shape) * _UP


@dataclass(eq=False)
class Zonotopes:
    """Carries one domain's zonotopes through a float64 plan, generators as ``dtype``; ready for many domains."""

    plan: Plan
    dtype: torch.dtype = torch.float32
    _maps: dict[int, Map] = field(default_factory=dict, init=False)
    _matrices: dict[int, _Depthwise] = field(default_factory=dict, init=False)
    _offsets: dict[int, Tensor] = field(default_factory=dict, init=False)
    _plain: dict[tuple[int, torch.dtype], Prepared] = field(default_factory=dict, init=False)

    def boxes(self, known: Mapping[int, Box], start: int) -> dict[int, Box]:
        """Boxes ``[1, *shape]`` of values from node ``start`` on that other nodes than linear ones read.

        ``known`` are boxes ``[1, *shape]`` of all values before ``start``. Values behind nodes other than linear ones
        and relus have none.
        """
        wanted = {*self.plan.bounded, *self.plan.graph.outputs}
        nodes = self.plan.graph.nodes
        states = self._begin(known, start)
        result: dict[int, Box] = {}
        columns = max((z.generators.shape[1] for z in states.values()), default=0)  # of all generators so far
        for index in range(start, len(nodes)):
            operands = [states.get(i) for i in nodes[index].inputs]
            if not operands or any(operand is None for operand in operands):
                continue
            given = _level([operand for operand in operands if operand is not None])
            if self.plan.linear[index]:
                states[index] = self._linear(index, given, index in wanted)
            elif nodes[index].operator == "relu":
                states[index] = _relu(given[0], columns)
                columns = max(columns, states[index].generators.shape[1])
            else:
                continue
            if index in wanted:
                low, high = states[index].box
                result[index] = low[None], high[None]
        return result

    def _begin(self, known: Mapping[int, Box], start: int) -> dict[int, Zonotope]:
        """Values before ``start`` that later nodes read, with a generator for every element that is not a point."""
        alive = live(self.plan, start)
        columns = {v: (known[v][1] > known[v][0])[0].reshape(-1).nonzero().squeeze(1) for v in alive}
        total, first = sum(len(c) for c in columns.values()), 0
        states = {}
        for value in alive:
            lower, upper = (end[0] for end in known[value])
            centre = 0.5 * lower + 0.5 * upper
            radius = torch.maximum(upper - centre, centre - lower) * _UP
            radius = _up_in(radius, self.dtype)
            generators = torch.zeros(centre.numel(), max(1, total), dtype=self.dtype)
            own = columns[value]
            generators[own, first + torch.arange(len(own))] = radius.reshape(-1)[own].to(self.dtype)
            first += len(own)
            states[value] = Zonotope(centre, generators, torch.zeros_like(centre), radius * _UP + _TINY)
        return states

    def _linear(self, index: int, given: list[Zonotope], exact: bool) -> Zonotope:
        """The image under a linear node; its reach from its own generators if ``exact``, else from its operands'."""
        operator, prepared = self.plan.operators[index], self.plan.prepared[index]
        assert isinstance(operator, LinearOperator)
        generators = self._image(index, given)
        radii = [torch.stack([z.remainder, z.reach, z.centre.abs() + z.reach]) for z in given]
        matrices = self._matrices.get(index)
        if matrices is None:
            centre = operator.evaluate(prepared, *[z.centre[None] for z in given])[0].view(prepared.shape)
            sizes = operator.magnitude(self._without_offset(index), *radii)
        else:
            centre, sizes = matrices.centre(given[0].centre), matrices.sizes(radii[0])
        spread, away, size = sizes.expand(3, *prepared.shape)
        size = size + self._offset_size(index)
        length = operator.length(prepared) + 2
        rounding = size * (4 * gamma(length, self.plan.dtype)) + _TINY
        if self.plan.graph.nodes[index].operator not in _MOVES:
            rounding = rounding + away * (2 * gamma(length, self.dtype)) + _TINY32
        remainder = (rounding + spread) * _UP
        reach = _reach(generators, remainder) if exact else (away + remainder) * _UP
        return Zonotope(centre, generators, remainder, reach)

    def _offset_size(self, index: int) -> Tensor:
        """The magnitude of a linear node's constant, its radius included in units of the node's length."""
        if index not in self._offsets:
            operator, prepared = self.plan.operators[index], self.plan.prepared[index]
            shapes = [self.plan.shape(i) for i in self.plan.graph.nodes[index].inputs]
            zeros = [torch.zeros(1, *shape, dtype=self.plan.dtype) for shape in shapes]
            self._offsets[index] = operator.magnitude(prepared, *zeros)[0]  # type: ignore[attr-defined]
        return self._offsets[index]

    def _image(self, index: int, given: list[Zonotope]) -> Tensor:
        """The generators ``[elements, k]`` behind a linear node."""
        node = self.plan.graph.nodes[index]
        if len(given) == 1:
            if index not in self._maps:
                self._maps[index] = self._map(index)
            return self._maps[index](given[0].generators)
        if node.operator == "concat" and all(n == 1 for n in node.shape[: node.attributes["axis"]]):
            return torch.cat([z.generators for z in given])
        return self._generic(index, [z.generators for z in given])

    def _generic(self, index: int, given: list[Tensor]) -> Tensor:
        """By the operator itself: generators are domains."""
        nodes, plain = self.plan.graph.nodes, self._without_offset(index, self.dtype)
        shapes = [nodes[i].shape for i in nodes[index].inputs]
        operands = [g.T.reshape(-1, *shape) for g, shape in zip(given, shapes, strict=True)]
        image = self.plan.operators[index].evaluate(plain, *operands)
        return image.reshape(operands[0].shape[0], -1).T.contiguous()

    def _without_offset(self, index: int, dtype: torch.dtype = torch.float64) -> Prepared:
        if (index, dtype) not in self._plain:
            nodes = self.plan.graph.nodes
            attributes = {k: v for k, v in nodes[index].attributes.items() if not k.startswith(("bias", "shift"))}
            shapes = tuple(nodes[i].shape for i in nodes[index].inputs)
            plain = replace(nodes[index], attributes=attributes)
            self._plain[index, dtype] = prepare(plain, shapes, dtype, self.plan.device)
        return self._plain[index, dtype]

    def _map(self, index: int) -> Map:
        """The fastest way to apply a linear node of one operand to generators."""
        node = self.plan.graph.nodes[index]
        wide = self.plan.graph.nodes[node.inputs[0]].shape
        if node.operator == "reshape":
            return lambda g: g
        if node.operator == "index" and (node.attributes["indices"] >= 0).all():
            places = torch.from_numpy(node.attributes["indices"].reshape(-1).copy())
            return lambda g: g[places]
        if node.operator == "conv" and wide[0] == 1:
            kind = _kind(node, wide)
            weight = self.plan.prepared[index].tensors["weight"]
            if kind == "pointwise":
                matrix = weight.flatten(1).to(self.dtype)
                return lambda g: (matrix @ g.view(wide[1], -1)).view(-1, g.shape[1])
            if kind == "depthwise":
                own = self._depthwise(index, wide)
                self._matrices[index] = own
                matrices = own.matrices.to(self.dtype)
                return lambda g: torch.bmm(matrices, g.view(wide[1], -1, g.shape[1])).view(-1, g.shape[1])
        return lambda g: self._generic(index, [g])

    def _depthwise(self, index: int, wide: tuple[int, ...]) -> _Depthwise:
        """A depthwise convolution as matrices: its image of each place."""
        area = torch.Size(wide[2:]).numel()
        basis = torch.eye(area, dtype=self.plan.dtype).view(area, 1, 1, *wide[2:]).expand(area, *wide)
        image = self.plan.operators[index].evaluate(self._without_offset(index), basis.contiguous())
        matrices = image.reshape(area, wide[1], -1).permute(1, 2, 0).contiguous()
        offset = self.plan.operators[index].offset(self.plan.prepared[index])  # type: ignore[attr-defined]
        return _Depthwise(matrices, offset, self.plan.graph.nodes[index].shape)


def _kind(node: Node, wide: tuple[int, ...]) -> str:
    weight, groups = node.attributes["weight"], node.attributes["groups"]
    if any(np.any(node.attributes.get(f"{name}_radius", 0.0)) for name in ("weight", "bias")):
        return "other"
    plain = all(n == 1 for n in weight.shape[2:]) and not any(node.attributes["pads"])
    if groups == 1 and plain and all(n == 1 for n in node.attributes["strides"]):
        return "pointwise"
    depthwise = groups == wide[1] == weight.shape[0]
    entries = wide[1] * torch.Size(wide[2:]).numel() * torch.Size(node.shape[2:]).numel()
    return "depthwise" if depthwise and entries <= _MATRICES else "other"


def _level(given: list[Zonotope]) -> list[Zonotope]:
    """Operands with equally many generators; younger ones are 0 in older values."""
    most = max(z.generators.shape[1] for z in given)
    return [
        z
        if z.generators.shape[1] == most
        else replace(z, generators=torch.nn.functional.pad(z.generators, (0, most - z.generators.shape[1])))
        for z in given
    ]


def _up_in(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A number of a type above a float64 one that is not negative, as float64."""
    return torch.nextafter(value.to(dtype), torch.full((), torch.inf, dtype=dtype)).double()


def _relu(z: Zonotope, columns: int) -> Zonotope:
    """Stable elements are exact; the others lie within ``mu`` of ``slope x + mu``: a generator each, behind all
    ``columns`` that any value has so far, since relus of different values err independently.

    With ``slope = u / (u - l)`` the upper line passes through ``(l, 0)`` and ``(u, u)`` and the lower one through 0, so
    ``mu = -slope l / 2``. A rounded slope in [0, 1] keeps the lower line below relu; the gap above is measured at both
    ends.
    """
    dtype = z.generators.dtype
    lower, upper = z.box
    on, unstable = lower >= 0, (lower < 0) & (upper > 0)
    slope = torch.where(unstable, (upper / (upper - lower)).clamp(0.0, 1.0), on.to(lower.dtype))
    slope = slope.to(dtype).double()
    gap = torch.maximum(upper - slope * upper, -slope * lower) * _UP
    half = torch.where(unstable, _up_in(0.5 * gap * _UP, dtype), 0.0)
    centre = torch.where(unstable, slope * z.centre + half, torch.where(on, z.centre, 0.0))
    # slope * centre, slope * generators and the sum round once or twice each
    rounding = z.centre.abs() * 2.0**-50 + z.reach * (2 * torch.finfo(dtype).eps) + _TINY32
    remainder = torch.where(unstable, slope * z.remainder * _UP + rounding, torch.where(on, z.remainder, 0.0))
    generators = z.generators * slope.to(dtype).reshape(-1, 1)
    rows = unstable.reshape(-1).nonzero().squeeze(1)
    if len(rows):
        first = columns - generators.shape[1]
        fresh = generators.new_zeros(len(generators), first + len(rows))
        fresh[rows, first + torch.arange(len(rows))] = half.reshape(-1)[rows].to(dtype)
        generators = torch.cat([generators, fresh], 1)
    reach = torch.where(unstable, (slope * z.reach + half + rounding) * _UP, torch.where(on, z.reach, 0.0))
    return Zonotope(centre, generators, remainder, reach)


def live(plan: Plan, start: int) -> list[int]:
    """Values before ``start`` that nodes from it on read."""
    nodes = plan.graph.nodes
    return sorted({i for index in range(start, len(nodes)) for i in nodes[index].inputs if i < start})
