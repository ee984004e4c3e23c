"""Scores of splits by bound propagation with shortcuts (BBPS; GenBaB, arXiv 2405.21063, section 4).

A split of an element z changes its readers' lines, and with them the coefficient on z and the constant. What that is
worth is read off linear bounds of z in the input, made once at the root, instead of walking back to the input again:
all elements of z's value together, each by the bound that its coefficient's sign asks for, concretised with the
parent's coefficient of one element and with its child's. One relaxation of every element and one product of numbers
per candidate score all elements of all domains at once. Nothing is proven here: float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.propagate.backward import Trace, backward
from provenn.bounds.propagate.coefficients import elements_of
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.verifier.changes import Change
from provenn.verifier.columns import Columns

# Bytes that the linear bounds of all elements may take together.
MOST_BYTES = 1 << 28
# Multipliers of the split that are tried, relative to the coefficients before and after it.
MULTIPLIERS = (0.0, 0.5, 1.0)
# Numbers of the largest tensor while candidates are concretised.
AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Shortcuts:
    """Linear bounds in the input ``x = centre + radius e``: ``slopes[0] . e + offsets[0] <= z <= slopes[1] . e +
    offsets[1]`` for e in [-1, 1], ``[2, columns, inputs]`` and ``[2, columns]``; ``places`` are the columns of every
    value."""

    slopes: Tensor
    offsets: Tensor
    places: tuple[slice, ...]

    def gains(self, columns: Tensor, change: Change, point: Tensor) -> Tensor:
        """What the bounds of domains gain by a split of ``columns [n, k]`` at ``point [n, k]``, ``[2, n, k]``: below
        and above. ``change`` is that of all columns."""
        together = torch.stack([self._carried(change.before[0], place) for place in self.places], 1)
        value = torch.bucketize(columns, columns.new_tensor([place.stop for place in self.places]), right=True)
        pick = lambda t: t.gather(2, columns.expand(2, -1, -1))  # noqa: E731
        before, slope, gain = pick(change.before)[0], pick(change.slope), pick(change.offset)
        scale = before.abs() + slope.abs().amax(0)
        size = max(1, AT_ONCE // max(1, columns.shape[1] * together.shape[2]))
        for first in range(0, columns.shape[0], size):
            part = slice(first, first + size)
            rest = together[part].gather(1, value[part].unsqueeze(2).expand(-1, -1, together.shape[2]))
            old = rest.abs().sum(2) - before[part] * self._bound(columns[part], before[part])[1]
            rest = rest - before[part].unsqueeze(2) * self._bound(columns[part], before[part])[0]
            for side, sign in enumerate((-1.0, 1.0)):
                found = []
                for share in MULTIPLIERS:
                    multiplier = share * scale[part]
                    after = before[part] + slope[side, part] - sign * multiplier
                    plane, offset = self._bound(columns[part], after)
                    reach = torch.addcmul(rest, plane, after.unsqueeze(2)).abs_().sum(2)
                    found.append(after * offset + old - reach + sign * multiplier * point[part])
                gain[side, part] += torch.stack(found).amax(0)
        return gain

    def _bound(self, columns: Tensor, coefficient: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes ``[n, k, inputs]`` and offsets ``[n, k]`` of the bound that columns with such coefficients need."""
        which = (coefficient < 0).long()
        return self.slopes[which, columns], self.offsets[which, columns]

    def _carried(self, coefficients: Tensor, place: slice) -> Tensor:
        """Coefficients on the input ``[n, inputs]`` of one value's columns with ``coefficients [n, columns]``."""
        lower, upper = self.slopes[:, place]
        part = coefficients[:, place]
        return part.clamp(min=0) @ lower + part.clamp(max=0) @ upper


def shortcuts_of(
    plan: Plan, input_: int, columns: Columns, boxes: dict[int, Box], inputs: dict[int, Box]
) -> Shortcuts | None:
    """Shortcuts of all columns; None where they would be too large or there are several inputs."""
    lower, upper = (side.flatten() for side in inputs[input_])
    size = 2 * columns.total * lower.numel() * lower.element_size()
    if len(inputs) > 1 or columns.total == 0 or size > min(MOST_BYTES, plan.room):
        return None
    radius = 0.5 * (upper - lower)
    slopes = lower.new_zeros(2, columns.total, lower.numel())
    offsets = lower.new_zeros(2, columns.total)
    for value, elements, start in zip(columns.values, columns.elements, columns.start, strict=True):
        lines = relax_all(plan, value, boxes)
        at_once = plan.rows_at_once(value, 1, traced=True)
        for side, sign in enumerate((1.0, -1.0)):
            for first in range(0, elements.numel(), at_once):
                chosen = elements[first : first + at_once]
                signs = lower.new_full((1, chosen.numel()), sign)
                rows = elements_of(plan.shape(value), chosen, signs, None).dense()
                trace = Trace(negatives=False)
                bound = backward(plan, value, rows, lines, inputs, trace=trace)[0]
                a = trace.inputs.get(input_)
                reach = radius * a[0].flatten(1) if a is not None else lower.new_zeros(1, lower.numel())
                place = slice(start + first, start + first + chosen.numel())
                slopes[side, place] = sign * reach
                offsets[side, place] = sign * (bound + reach.abs().sum(1))
    return Shortcuts(slopes.nan_to_num_(), offsets.nan_to_num_(), tuple(place for _, _, place in columns))
