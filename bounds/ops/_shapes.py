"""Starting slopes and slope ranges in closed form for convex, concave and S-shaped functions.

They replace the search of the engine where it would be hot. Offsets stay the engine's, so nothing here can
make a bound unsound.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Box, Prepared
from provenn.bounds.ops.relaxation import Lines

NEWTON_STEPS = 6


def curved(evaluate: Callable, derivative: Callable, convex: Callable) -> tuple[Callable, Callable]:
    """``(start, slopes)`` of a function that is convex or concave on every box inside its domain.

    ``convex(prepared, lower, upper)`` says which, or None where it is neither (the engine searches). The
    chord is one side's only useful line; the other's are the tangents, least area at the midpoint.
    """

    def start(p: Prepared, lower: Tensor, upper: Tensor) -> Box | None:
        bowl = convex(p, lower, upper)
        if bowl is None:
            return None
        chord = _chord_slope(evaluate, p, lower, upper)
        tangent = _finite(derivative(p, 0.5 * lower + 0.5 * upper), chord)
        return torch.where(bowl, tangent, chord), torch.where(bowl, chord, tangent)

    def slopes(p: Prepared, lower: Tensor, upper: Tensor) -> Lines | None:
        bowl = convex(p, lower, upper)
        if bowl is None:
            return None
        chord = _chord_slope(evaluate, p, lower, upper)
        # an infinite slope at an end is replaced by one a little inside
        inset = (upper - lower) * 1e-4
        first = _finite(derivative(p, lower), _finite(derivative(p, lower + inset), chord))
        last = _finite(derivative(p, upper), _finite(derivative(p, upper - inset), chord))
        low, high = torch.minimum(first, last), torch.maximum(first, last)
        return (
            torch.where(bowl, low, chord),
            torch.where(bowl, high, chord),
            torch.where(bowl, chord, low),
            torch.where(bowl, chord, high),
        )

    return start, slopes


def s_shaped(evaluate: Callable, derivative: Callable, root: Callable) -> tuple[Callable, Callable]:
    """``(start, slopes)`` of a function that is odd about its inflection at 0, convex left and concave right.

    ``root(k)`` is the x >= 0 with ``f'(x) = k``. The upper hull over ``[l, u]`` with l < 0 is a line from
    ``(l, f(l))`` to a point of contact t, then f. Newton: the chord to t gives a slope, its root the next t.
    The lower hull is the upper hull of the mirrored box.
    """

    def contact(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
        """Slope of the upper hull's line and where it ends; the tangent at l where f is concave."""
        start = evaluate(p, lower)
        steep = derivative(p, lower)
        narrow = upper - lower <= torch.finfo(lower.dtype).eps ** (1 / 3)
        slope = _quotient(evaluate(p, upper) - start, upper - lower, steep)
        point = upper
        for _ in range(NEWTON_STEPS):
            point = torch.minimum(root(slope), upper)
            slope = _quotient(evaluate(p, point) - start, point - lower, slope)
        # differences over few numbers are noise, and the curve is straight there
        settled = narrow | (lower >= 0)
        return torch.where(settled, steep, slope), torch.where(settled, lower, point)

    def mirrored(lower: Tensor, upper: Tensor) -> Box:
        return torch.stack([-upper, lower]), torch.stack([-lower, upper])

    def start(p: Prepared, lower: Tensor, upper: Tensor) -> Box:
        low, high = mirrored(lower, upper)
        slope, point = contact(p, low, high)
        middle = 0.5 * low + 0.5 * high
        found = torch.where(middle >= point, derivative(p, middle), slope)
        return _finite(found[0], 0.0), _finite(found[1], 0.0)

    def slopes(p: Prepared, lower: Tensor, upper: Tensor) -> Lines:
        low, high = mirrored(lower, upper)
        steepest, _ = contact(p, low, high)
        flattest = torch.minimum(derivative(p, high), steepest)
        steepest, flattest = _finite(steepest, 0.0), _finite(flattest, 0.0)
        return flattest[0], steepest[0], flattest[1], steepest[1]

    return start, slopes


def _chord_slope(evaluate: Callable, p: Prepared, lower: Tensor, upper: Tensor) -> Tensor:
    rise = evaluate(p, upper) - evaluate(p, lower)
    return _quotient(rise, upper - lower, torch.zeros_like(lower))


def _quotient(rise: Tensor, run: Tensor, otherwise: Tensor) -> Tensor:
    slope = rise / run
    return torch.where((run > 0) & torch.isfinite(slope), slope, otherwise)


def _finite(slope: Tensor, otherwise: Tensor | float) -> Tensor:
    return torch.where(torch.isfinite(slope), slope, otherwise)
