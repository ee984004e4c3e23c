"""Products of operands that move together: their sum and difference are bounded as well.

McCormick's planes of ``x y`` know the box of (x, y) alone and miss ``r_x r_y`` at its middle (r: half widths). In
``z^T P z``, a sum of products ``z_i (P z)_i``, both operands read the same inputs. Then ``x - s y``, bounded to the
inputs, has a smaller radius than ``r_x + s r_y``, and with ``x y = ((x + s y)^2 - (x - s y)^2) / (4 s)`` the lower
plane misses ``r_{x - s y}^2 / (4 s)`` only, the upper one ``r_{x + s y}^2 / (4 s)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Multivariate
from provenn.bounds.ops.products import Band
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.plan import Plan

# Products of one node beyond which their passes cost more than they gain.
MOST_PRODUCTS = 64

Bounds = Callable[[int, Tensor, dict[int, Lines]], Tensor]


def banded(plan: Plan, index: int) -> bool:
    """Whether node ``index`` multiplies two variable operands elementwise, few enough for bands."""
    operator = plan.operators[index]
    return (
        isinstance(operator, Multivariate)
        and operator.name == "mul"
        and plan.size(index) <= MOST_PRODUCTS
        and all(plan.shape(i) == plan.shape(index) for i in plan.graph.nodes[index].inputs)
    )


def band(plan: Plan, index: int, boxes: Mapping[int, Box], lower_bounds: Bounds) -> Band:
    """Boxes of ``x - s y`` and ``x + s y`` of a product, s the ratio of the operands' widths.

    ``lower_bounds(index, rows, lines)`` is a backward pass from the product with ``lines`` in the place of its own;
    one pass of ``4 n`` rows for n products.
    """
    x, y = (boxes[i] for i in plan.graph.nodes[index].inputs)
    scale = (x[1] - x[0]) / (y[1] - y[0])
    scale = torch.where((scale > 1e-30) & (scale < 1e30), scale, 1.0)
    size, shape = plan.size(index), plan.shape(index)
    eye = torch.eye(size, dtype=plan.dtype, device=plan.device)
    rows = torch.cat([eye, -eye, eye, -eye]).view(1, 4 * size, *shape)
    sign = torch.cat([-eye.new_ones(2 * size), eye.new_ones(2 * size)])  # of y in x - s y and x + s y
    slopes = (torch.ones_like(scale).unsqueeze(1), scale.unsqueeze(1) * sign.view(1, -1, *(1 for _ in shape)))
    bound = lower_bounds(index, rows, {index: Lines(slopes, None, slopes, None)}).unflatten(1, (4, *shape))
    difference, total = (bound[:, 0], -bound[:, 1]), (bound[:, 2], -bound[:, 3])
    return Band(scale.expand_as(difference[0]), difference, total)


def merged(parts: list[Band]) -> Band:
    """The bands of runs of domains put together."""
    return Band(
        torch.cat([p.scale for p in parts]),
        (torch.cat([p.difference[0] for p in parts]), torch.cat([p.difference[1] for p in parts])),
        (torch.cat([p.sum[0] for p in parts]), torch.cat([p.sum[1] for p in parts])),
    )
