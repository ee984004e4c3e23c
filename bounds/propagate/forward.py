"""Forward propagation: two linear functions of the input around every value, carried from operand to result.

Over an input box ``x = c + r e``, e in [-1, 1]^k, a value v is kept between ``(middle - half) . (e, 1)`` and
``(middle + half) . (e, 1)``. Through an affine map M the middle becomes ``M middle`` and the half ``|M| half``, since
``M+ L + M- U = M (U + L)/2 - |M| (U - L)/2``; a line ``k v + b`` takes from v the side that the sign of k selects
(Zhang et al., 2018; Xu et al., arXiv 2002.12920, section 3.2). The cost does not depend on how many elements are to be
bounded: some ``2 (k + 1)`` evaluations of the network for all values together, against one backward pass per element.
The bounds are looser than backward ones: lower and upper functions are mixed at every affine map.

In float64 every rounding error goes into the constant term of the half (as ``|e| <= 1``, so may an error of a
coefficient), and the boxes hold in real arithmetic.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from provenn.bounds.ops._operator import LinearOperator, Prepared
from provenn.bounds.ops._outward import TINY, UNIT
from provenn.bounds.ops._sparse import tensors_of
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.lines import Lines, relax
from provenn.bounds.propagate.plan import Plan

# Linear operators that only move elements: nothing rounds.
_MOVING = frozenset({"reshape", "transpose", "index", "concat"})
# Linear operators whose result is a new tensor.
_FRESH = frozenset({"linear", "matmul_left", "conv", "conv_transpose"})
# Backward passes that one pass of forms must be able to save, and the multiplications they must take together.
_ROWS, _WORK = 8, 1 << 30
# Inputs narrower than this share of the widest are constants with a radius: not worth a column.
_NARROW = 1e-6
# Pays for the roundings made in forming an error term itself.
_UP = 1 + 2.0**-20


@dataclass(frozen=True)
class Form:
    """``middle [domains, k + 1, *shape]`` and ``half [domains, 1 | k + 1, *shape]``; the last column is constant.

    A half with one column has no other: both functions have the same slopes.
    """

    middle: Tensor
    half: Tensor

    def size(self) -> Tensor:
        """``sum |middle| + sum |half|`` over the columns, ``[domains, *shape]``."""
        return self.middle.abs().sum(1) + self.half.abs().sum(1)


class Forward:
    """Forms of the values of one batch of domains, made in topological order as far as they are asked for."""

    def __init__(self, plan: Plan, inputs: Mapping[int, Box], deadline: float = math.inf):
        """``inputs`` are boxes ``[domains, *shape]`` of the graph's inputs; after ``deadline`` nothing is known."""
        self.plan, self.inputs, self.deadline = plan, inputs, deadline
        self.domains = max(box[0].shape[0] for box in inputs.values())
        self.forms: dict[int, Form] = {}
        self.next = 0
        self._absolute: dict[int, Prepared] = {}

    def box(self, value: int, boxes: Mapping[int, Box]) -> Box | None:
        """The box of a value, outward rounded in float64; None where time ran out.

        ``boxes`` holds a box of every node before it: relaxations are made over these.
        """
        while self.next <= value:
            if time.monotonic() > self.deadline:
                return None
            self._advance(self.next, boxes)
            self.next += 1
        form = self.forms.get(value)
        return None if form is None else concretised(form)

    @cached_property
    def places(self) -> dict[int, Tensor]:
        """The flat elements of every input that have a column."""
        return {value: columns(box) for value, box in self.inputs.items()}

    @cached_property
    def width(self) -> int:
        """The number of columns but for the constant one."""
        return sum(place.numel() for place in self.places.values())

    def pays(self, value: int, rows: int) -> bool:
        """Whether to carry forms to a value of which intervals leave ``rows`` elements to backward passes.

        They cost about ``2 k + 3`` passes in all, must fit into memory, and are worth their many small operations
        only where the backward passes take long (docs/decisions.md has the figures).
        """
        plan = self.plan
        if rows * self.domains * plan.cost(value) < _WORK or rows < _ROWS * (2 * self.width + 3):
            return False
        widest = max(plan.size(i) for i in plan.order(value))
        return 8 * self.domains * (self.width + 1) * widest * plan.dtype.itemsize < plan.room

    def _advance(self, index: int, boxes: Mapping[int, Box]) -> None:
        plan, node = self.plan, self.plan.graph.nodes[index]
        if index in self.inputs:
            form = self._input(index)
        elif index in plan.opaque:
            form = self._constant(*boxes[index])
        elif plan.linear[index]:
            form = self._linear(index)
        else:
            lines = relax(plan, index, boxes)
            form = through(lines, [self.forms[i] for i in node.inputs], self._terms(lines))
        self.forms[index] = form
        for operand in node.inputs:
            if operand in self.forms and max(plan.consumers[operand]) <= index:
                del self.forms[operand]

    def _input(self, index: int) -> Form:
        lower, upper = (end.flatten(1) for end in self.inputs[index])
        centre = 0.5 * lower + 0.5 * upper
        radius = torch.maximum(upper - centre, centre - lower) * (1 + 2.0**-50)
        place = self.places[index]
        first = sum(other.numel() for value, other in self.places.items() if value < index)
        middle = centre.new_zeros(centre.shape[0], self.width + 1, centre.shape[1])
        middle[:, -1] = centre
        middle[:, torch.arange(first, first + place.numel(), device=place.device), place] = radius[:, place]
        half = radius.index_fill(1, place, 0.0).unsqueeze(1)
        shape = self.plan.shape(index)
        middle, half = (t.expand(self.domains, *t.shape[1:]) for t in (middle, half))
        return Form(middle.reshape(self.domains, -1, *shape), half.reshape(self.domains, -1, *shape))

    def _constant(self, lower: Tensor, upper: Tensor) -> Form:
        """A value of which only a box is known."""
        centre = 0.5 * lower + 0.5 * upper
        half = torch.maximum(upper - centre, centre - lower) * (1 + 2.0**-50)
        middle = centre.new_zeros(self.domains, self.width + 1, *centre.shape[1:])
        middle[:, -1] = centre
        return Form(middle, half.expand(self.domains, *half.shape[1:]).unsqueeze(1))

    def _linear(self, index: int) -> Form:
        plan, node, prepared = self.plan, self.plan.graph.nodes[index], self.plan.prepared[index]
        operator = plan.operators[index]
        assert isinstance(operator, LinearOperator)
        if not node.inputs:
            return self._constant(*plan.interval(index, {}))
        operands = [self.forms[i] for i in node.inputs]
        middle = self._applied(operator, _without_constant(prepared), [form.middle for form in operands])
        widest = max(form.half.shape[1] for form in operands)
        halves = [_padded(form.half, widest) for form in operands]
        if operator.name in _MOVING:
            return Form(middle, self._applied(operator, prepared, halves))
        half = self._applied(operator, self._magnified(index), halves, absolute=True)
        if operator.name not in _FRESH:
            middle, half = middle.clone(), half.clone()
        constant = plan.offsets[index]
        if constant is not None:
            middle[:, -1] += constant[0]
        size = operator.magnitude(prepared, *(form.size() for form in operands))
        half[:, -1] += size * ((operator.length(prepared) + 8) * UNIT * _UP) + TINY
        return Form(middle, half)

    def _applied(
        self, operator: LinearOperator, prepared: Prepared, parts: list[Tensor], absolute: bool = False
    ) -> Tensor:
        """Every column of every domain through a linear operator; ``absolute`` makes of differences sums."""
        flat = [part.reshape(-1, *part.shape[2:]) for part in parts]
        if absolute and operator.name == "sub":
            result = flat[0] + flat[1]
        else:
            result = operator.evaluate(prepared, *flat)
        return result.reshape(self.domains, -1, *prepared.shape)

    def _magnified(self, index: int) -> Prepared:
        """The node with absolute values for constants, and without its constant term."""
        if index not in self.plan.absolute:
            prepared = self.plan.prepared[index]
            if "sparse" in prepared.derived and "columns_weights" not in prepared.tensors:
                derived = prepared.derived
                made = tensors_of(derived["sparse"], derived["length"], prepared.dtype, prepared.device)
                prepared.tensors.update(made)
            tensors = {name: t.abs() if t.is_floating_point() else t for name, t in prepared.tensors.items()}
            self.plan.absolute[index] = _without_constant(replace(prepared, tensors=tensors))
        return self.plan.absolute[index]

    def _terms(self, lines: Lines) -> int:
        terms = 1 if lines.patterns is None else max(pattern.terms for pattern in lines.patterns)
        return terms * max(1, len(lines.lower_slopes))


def columns(box: Box) -> Tensor:
    """Flat elements of an input that get a column: those not (almost) constant in every domain."""
    lower, upper = (end.flatten(1) for end in box)
    width = (upper - lower).amax(0)
    return (width > _NARROW * width.amax()).nonzero().squeeze(1)


def _without_constant(prepared: Prepared) -> Prepared:
    """The linear part of an affine operator."""
    if not ("bias" in prepared.tensors or "shift" in prepared.tensors):
        return prepared
    return replace(prepared, tensors={k: t for k, t in prepared.tensors.items() if k not in ("bias", "shift")})


def _padded(half: Tensor, width: int) -> Tensor:
    """A half with ``width`` columns, the constant one last."""
    if half.shape[1] == width:
        return half
    return torch.cat([half.new_zeros(half.shape[0], width - 1, *half.shape[2:]), half], 1)


def through(lines: Lines, operands: list[Form], terms: int) -> Form:
    """The form of a relaxed node; its lines take ``terms`` products per element.

    ``kl v + bl >= kl middle - |kl| half + bl`` and ``ku v + bu <= ku middle + |ku| half + bu``, whatever the signs.
    """
    middle: Tensor | None = None
    half: Tensor | None = None
    size: Tensor | None = None
    parallel = all(torch.equal(k, m) for k, m in zip(lines.lower_slopes, lines.upper_slopes, strict=True))
    for place, (form, lower, upper) in enumerate(zip(operands, lines.lower_slopes, lines.upper_slopes, strict=True)):
        low, high = lower.abs(), upper.abs()
        mean, swing = 0.5 * lower + 0.5 * upper, 0.5 * low + 0.5 * high
        m, h = form.middle, form.half
        reach = form.size().unsqueeze(1)
        one = lines.through(place, mean, m)
        two = lines.through(place, swing, h)
        if not parallel:
            width = m.shape[1]
            two = _padded(two, width) + lines.through(place, 0.5 * upper - 0.5 * lower, m)
            cross = lines.through(place, 0.5 * high - 0.5 * low, h)
            one[:, width - cross.shape[1] :] += cross
        middle = one if middle is None else middle + one
        if half is not None and half.shape[1] != two.shape[1]:
            width = max(half.shape[1], two.shape[1])
            half, two = _padded(half, width), _padded(two, width)
        half = two if half is None else half + two
        part = lines.through(place, low + high, reach)
        size = part if size is None else size + part
    assert middle is not None and half is not None and size is not None
    below, above = lines.lower_offset, lines.upper_offset
    for offset, sign in ((below, -1.0), (above, 1.0)):
        if offset is not None:
            middle[:, -1] += 0.5 * offset[:, 0]
            half[:, -1] += (0.5 * sign) * offset[:, 0]
            size = size + offset.abs()
    half[:, -1] += size[:, 0] * ((terms + 12) * UNIT * _UP) + TINY
    return Form(middle, half)


def concretised(form: Form) -> Box:
    """The box of a form; ends that are not numbers become infinite."""
    middle, half = form.middle, form.half
    if half.shape[1] == 1:
        low = high = middle[:, :-1].abs().sum(1)
    else:
        low = (middle[:, :-1] - half[:, :-1]).abs().sum(1)
        high = (middle[:, :-1] + half[:, :-1]).abs().sum(1)
    error = form.size() * ((middle.shape[1] + 8) * UNIT * _UP) + TINY
    lower, upper = middle[:, -1] - half[:, -1] - low - error, middle[:, -1] + half[:, -1] + high + error
    known = torch.isfinite(lower) & torch.isfinite(upper)
    return torch.where(known, lower, -torch.inf), torch.where(known, upper, torch.inf)


def forward_boxes(
    plan: Plan, inputs: Mapping[int, Box], *, until: int | None = None, deadline: float = math.inf
) -> dict[int, Box]:
    """A box ``[domains, *shape]`` of every value up to ``until``: the interval, and the form's where relaxations read.

    Outward rounded in float64. ``inputs`` are boxes of the graph's inputs. After ``deadline`` (``time.monotonic()``)
    values keep their intervals.
    """
    carried = Forward(plan, inputs, deadline)
    last = len(plan.graph.nodes) - 1 if until is None else until

    def tighten(value: int, box: Box, boxes: dict[int, Box]) -> Box:
        return met(box, carried.box(value, boxes))

    boxes = interval_boxes(plan, inputs, tighten=tighten, until=last)
    if last not in plan.bounded:
        boxes[last] = met(boxes[last], carried.box(last, boxes))
    return boxes


def met(box: Box, other: Box | None) -> Box:
    """The common part of two boxes of one value; one that is not known, or not a number, changes nothing."""
    return box if other is None else (torch.fmax(box[0], other[0]), torch.fmin(box[1], other[1]))
