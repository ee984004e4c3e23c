"""Whether the splits of a domain leave a point: linear programs over planes of its own.

Once enough is split a bound is exact where it is attained, and nothing but the splits themselves can refute the domain:
they exclude each other, or a point keeps them all. The program maximises the distance to all splits; its
dual proves in float64 that there is none, its optimum is where the domain has its interior.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.propagate.backward import Trace, backward
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError, gamma
from provenn.verifier._highs import minimise
from provenn.verifier.columns import Columns


def constraints(
    plan: Plan, input_: int, columns: Columns, boxes: Mapping[int, Box], inputs: Mapping[int, Box],
    magnitudes: Magnitudes, ends: tuple[Tensor, Tensor], sign: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What splits say of the inputs: ``g x <= h`` with ``[domains, columns, inputs]`` and ``[domains, columns]``.

    ``boxes`` are those of the domains, ``ends`` ``[domains, columns]`` (float64) of their columns, of which those with
    ``sign`` 1 are at least the lower, with -1 at most the upper one; the others have rows of 0.
    """
    low, high = (end.flatten(1) for end in inputs[input_])
    domains, count = sign.shape[0], low.shape[1]
    g = low.new_zeros(domains, columns.total, count)
    h = low.new_zeros(domains, columns.total)
    for value, elements, place in columns:
        side = sign[:, place]
        used = (side != 0).any(0).nonzero().squeeze(1)
        if used.numel() == 0:
            continue
        chosen = elements[used]
        rows = low.new_zeros(domains, used.numel(), plan.size(value))
        # sign s: s z >= s end, and -s z is at least its plane a x + c; so a x + c <= -s end.
        signs = -side[:, used].to(low.dtype)
        rows[:, torch.arange(used.numel(), device=low.device), chosen] = signs
        trace, error = Trace(), RoundingError(plan, magnitudes)
        rows = rows.view(domains, -1, *plan.shape(value))
        lines = relax_all(plan, value, boxes)
        bound = backward(plan, value, rows, lines, inputs, trace=trace, error=error).expand(domains, -1)
        a = trace.inputs.get(input_)
        if a is None:
            continue
        a = a.expand(domains, used.numel(), *a.shape[2:]).flatten(2)
        least = torch.minimum(a * low[:, None], a * high[:, None])
        slack = gamma(2 * count + 4, torch.float64) * (least.abs().sum(2) + bound.abs())
        c = bound - least.sum(2) - slack
        end = torch.where(signs < 0, ends[0][:, place][:, used], ends[1][:, place][:, used])
        right = signs * end - c
        right = right + 4e-16 * ((signs * end).abs() + c.abs())
        real = (signs != 0) & torch.isfinite(right) & torch.isfinite(a).all(2)
        columns_here = place.start + used
        g[:, columns_here] = torch.where(real[:, :, None], a, 0.0)
        h[:, columns_here] = torch.where(real, right, 0.0)
    return g, h


def inside(g: np.ndarray, h: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[bool, np.ndarray | None]:
    """Whether no x of a box satisfies ``g x <= h`` (proven), and else the point that is farthest from all rows."""
    width = high - low
    size = np.abs(g) @ width
    used = size > 0
    if (h[~g.any(1)] < 0).any():
        return True, None
    g, h, size = g[used], h[used], size[used]
    if len(g) == 0:
        return False, 0.5 * low + 0.5 * high
    # x = low + width u; the distance is in units of what a row can change over the box.
    scaled = np.concatenate([g * width / size[:, None], np.ones((len(g), 1))], 1)
    right = (h - g @ low) / size
    cost = np.zeros(len(low) + 1)
    cost[-1] = -1.0
    found = minimise(
        cost, scaled, right, np.append(np.zeros(len(low)), -2.0), np.append(np.ones(len(low)), 1.0)
    )
    if found is None:
        return False, None
    if found.empty:
        return False, None
    weights = np.maximum(found.dual, 0.0) / size
    total, moved = weights @ g, weights @ h
    least = np.minimum(total * low, total * high).sum() - moved
    magnitude = (weights @ np.abs(g)) @ np.maximum(np.abs(low), np.abs(high)) + weights @ np.abs(h)
    if least > gamma(2 * len(g) + 2 * len(low) + 8, torch.float64) * 4 * magnitude:
        return True, None
    point = low + width * found.x[:-1]
    return False, point if found.x[-1] > 0 else None
