"""Outward rounding of interval bounds: a computed float64 bound is moved past its rounding error."""

from __future__ import annotations

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Box

UNIT = 2.0**-53
"""Largest relative error of one float64 operation that does not underflow."""

TINY = 2.0**-1000
"""More than any inner product of fewer than 2**70 terms can lose to underflow."""


def without_nan(lower: Tensor, upper: Tensor) -> Box:
    """Replace bounds that are not numbers (inf - inf, 0 * inf) by infinite ones, so that they prove nothing."""
    infinity = float("inf")
    return (
        torch.nan_to_num(lower, nan=-infinity, posinf=infinity, neginf=-infinity),
        torch.nan_to_num(upper, nan=infinity, posinf=infinity, neginf=-infinity),
    )


def widen(lower: Tensor, upper: Tensor, magnitude: Tensor, length: int) -> Box:
    """Move computed bounds outward by ``(length + 4) 2^-53 magnitude`` in float64; float32 stays as it is.

    ``magnitude`` bounds the sum of the absolute values of the terms of every element, so that
    ``gamma_length * magnitude`` bounds the accumulated error (Higham 2002, section 3.1); the extra 4
    pays for forming centre, radius and the widening itself.
    """
    if lower.dtype == torch.float64:
        error = magnitude * ((length + 4) * UNIT * (1.0 + 2.0**-20)) + TINY
        lower, upper = lower - error, upper + error
    return without_nan(lower, upper)


def largest(lower: Tensor, upper: Tensor) -> Tensor:
    """Return the largest absolute value in each interval."""
    return torch.maximum(lower.abs(), upper.abs())
