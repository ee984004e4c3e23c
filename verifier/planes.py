"""Clipping of intermediate boxes: what the splits of a domain say about its other elements.

Every splittable element has a lower and an upper plane over the inputs, made once at the root. A split makes one of
them a constraint on the inputs, and an end of any other element is then the minimum of its plane over the input box
and these constraints. Its dual is maximised by a few steps for all elements at once; any multipliers are sound
(relaxed clipping, arXiv 2512.11087).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.propagate.backward import Trace, backward
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError, gamma

# Coefficients of all planes up to which clipping costs less than what it saves.
MOST_COEFFICIENTS = 1 << 15
# Steps of the multipliers, their first size relative to the planes, and its decay.
STEPS, RATE, DECAY = 10, 0.2, 0.85
# What a step keeps of the running means of the gradient and of its square.
FIRST, SECOND = 0.5, 0.9

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Planes:
    """Rows r with ``a[r] . x + c[r] <= s z`` for all x of the input box (float64, proven).

    ``a`` ``[2 columns, inputs]``, ``c`` ``[2 columns]``: first the planes of z (s = 1), then those of -z. ``lower`` and
    ``upper`` ``[inputs]`` is the box. ``usable`` ``[columns]`` are those whose ends may be replaced.
    """

    a: Tensor
    c: Tensor
    lower: Tensor
    upper: Tensor
    usable: Tensor

    def clipped(self, lower: Tensor, upper: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
        """Ends ``[domains, columns]`` (float32, closed) no wider, where the splits of a domain (``sign`` not 0) hold.

        A domain whose splits exclude each other may come back with a lower end above its upper end.
        """
        most = int(sign.ne(0).sum(1).max()) if sign.numel() else 0
        if most == 0:
            return lower, upper
        g, h = self._constraints(lower, upper, sign, most)
        wanted = ((lower < upper) & (sign == 0) & self.usable).any(0).nonzero().squeeze(1)
        if wanted.numel() == 0:
            return lower, upper
        rows = torch.cat([wanted, wanted + self.usable.numel()])
        ends = _down32(self._minima(rows, g, h))
        lower, upper = lower.clone(), upper.clone()
        count = wanted.numel()
        lower[:, wanted] = torch.fmax(lower[:, wanted], ends[:, :count])
        upper[:, wanted] = torch.fmin(upper[:, wanted], -ends[:, count:])
        return lower, upper

    def _constraints(self, lower: Tensor, upper: Tensor, sign: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Every domain's splits as ``g x <= h``: ``[domains, most, inputs]`` and ``[domains, most]``, padded with 0."""
        chosen = sign.abs().topk(most, 1).indices
        side = sign.gather(1, chosen)
        row = chosen + (side > 0) * self.usable.numel()
        end = torch.where(side > 0, lower.gather(1, chosen), upper.gather(1, chosen)).double()
        end = torch.where(end.abs() == _TINY, 0.0, end)  # an open end at a jump: the closed hull
        # s (z - end) >= 0, and -s z is at least its plane; an infinite end says nothing.
        real = (side != 0) & torch.isfinite(end)
        g = self.a[row] * real.unsqueeze(-1)
        h = torch.where(real, -self.c[row] - side.double() * end, 0.0)
        # The subtraction above rounded.
        h = h + torch.where(real, 4 * torch.finfo(h.dtype).eps * (self.c[row].abs() + end.abs()), 0.0)
        return g, h

    def _minima(self, rows: Tensor, g: Tensor, h: Tensor) -> Tensor:
        """Proven lower bounds ``[domains, rows]`` of ``a x + c`` over the box and ``g x <= h``."""
        multipliers = self._multipliers(self.a[rows], g, h)
        a, c = self.a[rows], self.c[rows]
        total = a + multipliers @ g
        magnitude = torch.maximum(self.lower.abs(), self.upper.abs())
        least = torch.minimum(total * self.lower, total * self.upper).sum(-1)
        moved = (multipliers @ h.unsqueeze(-1)).squeeze(-1)
        rounding = (a.abs() + multipliers @ g.abs()) @ magnitude
        rounding = rounding + (multipliers @ h.abs().unsqueeze(-1)).squeeze(-1) + c.abs()
        terms = self.a.shape[1] + 2 * g.shape[1] + 8
        return c + least - moved - gamma(terms, torch.float64) * rounding * 1.01

    def _multipliers(self, a: Tensor, g: Tensor, h: Tensor) -> Tensor:
        """Multipliers >= 0 ``[domains, rows, constraints]`` (float64) that raise the minima; sought in float32."""
        a, g, h = a.float(), g.float(), h.float().unsqueeze(1)
        lower, width = self.lower.float(), (self.upper - self.lower).float()
        size = (g.abs() @ width).clamp(min=1e-30)
        step = (a.abs() @ width)[None, :, None] / size.unsqueeze(1)
        size = size.unsqueeze(1)
        transposed = g.mT.contiguous()
        found = best = a.new_zeros(g.shape[0], a.shape[0], g.shape[1])
        first, second = torch.zeros_like(found), torch.zeros_like(found)
        bound: Tensor | None = None
        for number in range(STEPS + 1):
            total = a + found @ g
            x = torch.where(total > 0, lower, lower + width)
            value = (total * x).sum(-1) - (found * h).sum(-1)
            if bound is None:
                bound = value
            else:
                better = value > bound
                bound = torch.where(better, value, bound)
                best = torch.where(better.unsqueeze(-1), found, best)
            if number == STEPS:
                break
            gradient = (x @ transposed - h) / size
            first.lerp_(gradient, 1 - FIRST)
            second.lerp_(gradient.square(), 1 - SECOND)
            move = first / (1 - FIRST ** (number + 1))
            move = move / ((second / (1 - SECOND ** (number + 1))).sqrt() + 1e-12)
            found = (found + (RATE * DECAY**number) * step * move).clamp(min=0)
        return torch.nan_to_num(best.double(), nan=0.0, posinf=0.0)


def planes_of(
    plan: Plan,
    input_: int,
    values: tuple[int, ...],
    elements: tuple[Tensor, ...],
    usable: Tensor,
    boxes: dict[int, Box],
    inputs: dict[int, Box],
    magnitudes: Magnitudes,
) -> Planes | None:
    """Planes of some elements of some values over one input box; None where they would be too large."""
    lower, upper = (side.flatten() for side in inputs[input_])
    count = sum(e.numel() for e in elements)
    if count == 0 or len(inputs) > 1 or 2 * count * lower.numel() > MOST_COEFFICIENTS:
        return None
    below: list[tuple[Tensor, Tensor]] = []
    above: list[tuple[Tensor, Tensor]] = []
    for value, chosen in zip(values, elements, strict=True):
        lines = relax_all(plan, value, boxes)
        for sign, found in ((1.0, below), (-1.0, above)):
            rows = lower.new_zeros(1, chosen.numel(), plan.size(value))
            rows[0, torch.arange(chosen.numel(), device=rows.device), chosen] = sign
            trace, error = Trace(), RoundingError(plan, magnitudes)
            rows = rows.view(1, chosen.numel(), *plan.shape(value))
            bound = backward(plan, value, rows, lines, inputs, trace=trace, error=error)[0]
            a = trace.inputs.get(input_)
            if a is None:  # the rows do not depend on the input
                a = lower.new_zeros(1, *rows.shape[1:2], *plan.shape(input_))
            a = a.expand(1, *rows.shape[1:2], *plan.shape(input_))[0].flatten(1)
            least = torch.minimum(a * lower, a * upper)
            slack = gamma(2 * least.shape[1] + 4, torch.float64) * (least.abs().sum(1) + bound.abs())
            found.append((a, bound - least.sum(1) - slack))
    a, c = (torch.cat([pair[i] for pair in [*below, *above]]) for i in (0, 1))
    return Planes(a, c, lower, upper, usable)


def _down32(x: Tensor) -> Tensor:
    """The largest float32 numbers not above float64 ones; NaN says nothing."""
    x = torch.nan_to_num(x, nan=-torch.inf)
    single = x.float()
    infinity = torch.full((), -torch.inf, device=x.device)
    return torch.where(single.double() > x, torch.nextafter(single, infinity), single)
