"""Receptive fields: how large a window of each value a single element of a target can depend on.

A row that starts at one element of an image reads, on every value below, a window whose place is an affine function
of the
element's place: ``origin = place * scale + shift``. This is worked out once per target; a backward pass of such rows
keeps only the
windows (DESIGN 4).
"""

from __future__ import annotations

from dataclasses import dataclass

from provenn.bounds.ops._operator import Univariate
from provenn.bounds.propagate.plan import Plan

# A window of more than this share of its image is not worth keeping apart.
SHARE = 0.6

Pair = tuple[int, int]


@dataclass(frozen=True)
class Extent:
    """A window of ``size`` positions whose first lies at ``place * scale + shift`` for an element at ``place``."""

    size: Pair
    scale: Pair
    shift: Pair

    def through(self, kernel: Pair, strides: Pair, begin: Pair, dilations: Pair) -> Extent:
        """The window of a convolution's operand."""
        return Extent(
            _pair(
                (n - 1) * s + d * (k - 1) + 1
                for n, s, d, k in zip(self.size, strides, dilations, kernel, strict=True)
            ),
            _pair(c * s for c, s in zip(self.scale, strides, strict=True)),
            _pair(c * s - b for c, s, b in zip(self.shift, strides, begin, strict=True)),
        )

    def union(self, other: Extent) -> Extent | None:
        """The smallest window around two; None where they move at different speeds."""
        if self.scale != other.scale:
            return None
        first = _pair(min(a, b) for a, b in zip(self.shift, other.shift, strict=True))
        last = (
            max(a + n, b + m)
            for a, n, b, m in zip(self.shift, self.size, other.shift, other.size, strict=True)
        )
        return Extent(_pair(e - f for e, f in zip(last, first, strict=True)), self.scale, first)

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]


ELEMENT = Extent((1, 1), (1, 1), (0, 0))


def _pair(values) -> Pair:
    first, second = values
    return int(first), int(second)


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether windows can be cut from a value: one image ``[1, channels, height, width]``."""
    return len(shape) == 4 and shape[0] == 1


def extents(plan: Plan, target: int) -> dict[int, Extent | None]:
    """The window of every value below ``target``; None where rows are dense."""
    found: dict[int, Extent | None] = {target: ELEMENT if is_image(plan.shape(target)) else None}
    for index in plan.order(target):
        extent = found.get(index)
        if extent is not None and index != target and _too_large(plan, index, extent):
            extent = found[index] = None
        operands = plan.graph.nodes[index].inputs if index not in plan.opaque else ()
        for operand in operands:
            mine = _below(plan, index, extent) if extent is not None else None
            if operand in found:
                other = found[operand]
                mine = mine.union(other) if mine is not None and other is not None else None
            found[operand] = mine
    return found


def _too_large(plan: Plan, index: int, extent: Extent) -> bool:
    height, width = plan.shape(index)[2:]
    return extent.area > SHARE * height * width


def _below(plan: Plan, index: int, extent: Extent) -> Extent | None:
    """The window on the operands of one node."""
    operator, derived = plan.operators[index], plan.prepared[index].derived
    if not all(is_image(plan.shape(i)) for i in plan.graph.nodes[index].inputs):
        return None
    if operator.name == "conv" and derived["rank"] == 2:
        kernel = _pair(plan.graph.nodes[index].attributes["weight"].shape[2:])
        return extent.through(kernel, derived["strides"], derived["begin"], derived["dilations"])
    same = isinstance(operator, Univariate) or operator.name in ("add", "sub", "affine")
    return extent if same else None
