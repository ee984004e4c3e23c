"""What a split changes: the lines of an operand's readers in both children, without bounding the children."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.ops import relaxation
from provenn.bounds.ops._operator import Multivariate, Univariate
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.starts import Starts

Pair = tuple[tuple[tuple[Tensor, ...], Tensor | None], tuple[tuple[Tensor, ...], Tensor | None]]
"""Slopes and offset of the lower line (or plane), then of the upper one."""


@dataclass(frozen=True)
class Reader:
    """What a value's reader does in every domain: coefficients on its output ``[n, *shape]`` and its lines ``[n, 1,
    *shape]``."""

    index: int
    positive: Tensor
    negative: Tensor
    lines: Lines


@dataclass(frozen=True)
class Change:
    """Change of the coefficient (``slope``) and of the constant (``offset``) of a value below and above its split,
    ``[2, n, *shape]``, and the coefficient ``before`` it."""

    slope: Tensor
    offset: Tensor
    before: Tensor

    def __add__(self, other: Change) -> Change:
        return Change(self.slope + other.slope, self.offset + other.offset, self.before + other.before)

    def gain(self, z: Tensor) -> Tensor:
        """What the bound gains at values z."""
        return self.slope * z + self.offset


def change_of(
    starts: Starts, reader: Reader, value: int, box: dict[int, Box], point: Tensor, z: dict[int, Tensor]
) -> Change:
    """How an elementwise reader changes below and above the ``point [n, *shape]`` of one operand.

    ``box`` and ``z`` are the boxes of its operands and where the parent's bound is attained, ``[n, *shape]``. Of the
    parent's slope and the child's starting slope that one is taken which is better at the nearest point of the child;
    what changes for the other operand of a product counts at z.
    """
    plan = starts.plan
    operator, prepared = plan.operators[reader.index], plan.prepared[reader.index]
    operands = plan.graph.nodes[reader.index].inputs
    twice = lambda t: torch.cat([t, t])  # noqa: E731
    positive, negative = twice(reader.positive), twice(reader.negative)
    lower, upper = torch.cat([box[value][0], point]), torch.cat([point, box[value][1]])
    at = [twice(z[i]) for i in operands]
    at = [torch.minimum(torch.maximum(x, lower), upper) if i == value else x for i, x in zip(operands, at, strict=True)]
    boxes = [(lower, upper) if i == value else (twice(box[i][0]), twice(box[i][1])) for i in operands]

    def through(lines: Pair) -> list[Tensor]:
        """Coefficients on the operands and the constant."""
        (kl, bl), (ku, bu) = lines
        offset = torch.zeros_like(positive)
        for part, term in ((positive, bl), (negative, bu)):
            if term is not None:
                offset = offset + torch.where(part == 0, 0.0, part * term)
        return [*(positive * low + negative * high for low, high in zip(kl, ku, strict=True)), offset]

    def there(terms: list[Tensor]) -> Tensor:
        return sum((k * x for k, x in zip(terms, at, strict=False)), terms[-1])

    lines = reader.lines
    slopes = [tuple(twice(t.squeeze(1)) for t in each) for each in (lines.lower_slopes, lines.upper_slopes)]
    offsets = [None if t is None else twice(t.squeeze(1)) for t in (lines.lower_offset, lines.upper_offset)]
    below, above = zip(slopes, offsets, strict=True)
    old = through((below, above))
    if isinstance(operator, Univariate):
        kl, bl, ku, bu = starts.children(reader.index, box[value][0], point, box[value][1])
        new = through((((kl,), bl), ((ku,), bu)))
        if not operator.piecewise_linear:
            kl, bl, ku, bu = relaxation.lines(operator, prepared, lower, upper, below[0][0], above[0][0])
            kept = through((((kl,), bl), ((ku,), bu)))
            better = there(kept) > there(new)
            new = [torch.where(better, k, n) for k, n in zip(kept, new, strict=True)]
    else:
        assert isinstance(operator, Multivariate)
        low, high = operator.relax(prepared, None, *boxes)
        new = through(((low.slopes, low.offset), (high.slopes, high.offset)))
    slope, offset = torch.zeros_like(positive), new[-1] - old[-1]
    before = torch.zeros_like(positive)
    for place, operand in enumerate(operands):
        change = new[place] - old[place]
        if operand == value:
            slope = slope + change
            before = before + old[place]
        else:
            offset = offset + change * at[place]
    shape = 2, point.shape[0], *point.shape[1:]
    clean = lambda t: torch.nan_to_num(t, nan=0.0, posinf=0.0, neginf=0.0).view(shape)  # noqa: E731
    return Change(clean(slope), clean(offset), clean(before))
