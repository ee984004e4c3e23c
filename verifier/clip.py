"""Clipping: what a clause's linear bound says about where its violations can be (arXiv 2512.11087).

If ``L(x) = a . x + c <= row . y - threshold`` on a box and ``M = min L``, then ``L(x) = M + sum_i |a_i| d_i``
with d_i the distance of x_i from the minimising end. A violation needs ``L(x) <= 0``, so ``d_i <= -M / |a_i|`` for
every axis.
A clipped box belongs to the clause (and the domain) whose bound it came from.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clip_box(lower: Tensor, upper: Tensor, a: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    """Shrink boxes ``[domains, n]`` by rows ``a`` ``[domains, rows, n]`` whose minima are ``margin`` ``[domains,
    rows]``.

    All rows of a domain belong to one conjunction, so each may clip. Rounded outward: ``margin`` must be a
    sound lower bound of the minimum. An empty result (lower > upper) means that the domain holds no violation.
    """
    eps = torch.finfo(lower.dtype).eps
    reach = (-margin).clamp(min=0).unsqueeze(-1) / a.abs()
    reach = torch.nan_to_num(reach * (1 + 4 * eps), nan=torch.inf, posinf=torch.inf)
    infinity = torch.full((), torch.inf, dtype=lower.dtype, device=lower.device)
    ceiling = torch.nextafter(lower.unsqueeze(1) + reach, infinity)
    floor = torch.nextafter(upper.unsqueeze(1) - reach, -infinity)
    upper_new = torch.minimum(upper, ceiling.masked_fill(~(a > 0), torch.inf).amin(1))
    lower_new = torch.maximum(lower, floor.masked_fill(~(a < 0), -torch.inf).amax(1))
    return lower_new, upper_new
