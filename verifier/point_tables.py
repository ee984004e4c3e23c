"""Where a box should be split: tables of the point that leaves least area between the lines of the two children.

GenBaB (arXiv 2405.21063): for each combination of operators that read a value the point is found once for a grid of
boxes, and looked up ever after. A table holds it as a fraction of the box, so that it may be interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import prepare, relaxation
from provenn.bounds.ops._bracketed import BRACKETED
from provenn.bounds.ops._operator import Prepared, Univariate
from provenn.bounds.ops.slopes import SEARCHED
from provenn.verifier import point_store

Reader = tuple[Univariate, Prepared]

# A table's shape: sides, sizes of places, widths. Widths are WIDTHS to an octave, from a power of two.
WHOLE, HALVES = (1, 121, 43), (2, 21, 91)
NARROWEST, WIDTHS = -6, 3
# Boxes of the whole line have centres ``SCALE sinh(a)``, finer near 0; half-line boxes end SIZES to an octave.
REACH, SCALE, SIZES = 100.0, 0.25, 1
# The search for a point: fractions tried over the whole box, then around the best one, this often.
FIRST, NEXT, ROUNDS = 15, 6, 2
# Boxes sought at once, so that the relaxations of one scan stay in the processor's cache.
TOGETHER = 2048
# Fractions stay this far from the ends, and a point must save this share of the middle's area to be taken instead.
MARGIN, WORTH = 1e-4, 1e-4
# Areas smaller than this share of a box's size are rounding.
ROUNDING = 1e-13
# Neighbours that differ by more are two minima of the area, between which nothing is gained by a mixture.
JUMP = 0.1
# A fraction as an integer; even, so that a half is exact.
STEPS = 65534


def child_area(readers: Sequence[Reader], lower: Tensor, upper: Tensor) -> Tensor:
    """Area between the starting lines of all readers over boxes; infinite where one has no finite lines."""
    total = torch.zeros_like(lower)
    middle = 0.5 * lower + 0.5 * upper
    for operator, prepared in readers:
        kl, bl, ku, bu = relaxation.lines(operator, prepared, lower, upper)
        total = total + ((ku - kl) * middle + (bu - bl)) * (upper - lower)
    return torch.nan_to_num(total, nan=torch.inf, posinf=torch.inf)


def best_fractions(
    readers: Sequence[Reader], lower: Tensor, upper: Tensor, first: int = FIRST, rounds: int = ROUNDS
) -> Tensor:
    """Fractions ``[n]`` of boxes ``[n]`` at which the children's summed area is least; 0.5 where the middle will do.

    A scan of the whole box, then ``rounds`` finer ones around the best: ``2 (first + 1 + rounds NEXT)`` relaxations.
    """
    width = upper - lower

    def area(fraction: Tensor) -> Tensor:
        point = lower + fraction * width
        shape = point.shape
        ends = torch.cat([lower.expand(shape), point]), torch.cat([point, upper.expand(shape)])
        return child_area(readers, *ends).view(2, *shape).sum(0)

    best = torch.full_like(lower, 0.5)
    least = middle = area(best.unsqueeze(0)).squeeze(0)
    step, tried = 0.5, torch.linspace(-1, 1, first + 2, dtype=lower.dtype, device=lower.device)
    for _ in range(rounds + 1):
        fractions = (best + step * tried[1:-1].unsqueeze(1)).clamp(MARGIN, 1 - MARGIN)
        found, at = area(fractions).min(0)
        better = found < least
        best = torch.where(better, fractions.gather(0, at.unsqueeze(0)).squeeze(0), best)
        least = torch.where(better, found, least)
        step *= 2 / (tried.numel() - 1)
        tried = torch.linspace(-1, 1, NEXT + 2, dtype=lower.dtype, device=lower.device)
    noise = ROUNDING * width * (1 + torch.maximum(lower.abs(), upper.abs()))
    return torch.where(least < (1 - WORTH) * middle - noise, best, 0.5)


@dataclass(frozen=True)
class Table:
    """Fractions ``[sides, n, m]`` over a grid of boxes.

    On the whole line (one side) the axes are the centre, as ``asinh(centre / SCALE)``, and the logarithm of the width.
    Functions with a pole or an end at 0 have two sides, boxes below and above 0, and the axes are the logarithms of
    the outer end's size and of the ratio of the two ends less 1. ``period`` is that of all readers, or 0.
    """

    fraction: Tensor
    whole: bool
    period: float

    def to(self, device: torch.device) -> Table:
        return Table(self.fraction.to(device), self.whole, self.period)

    def at(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Fractions for boxes ``[n]``, interpolated; 0.5 beyond the grid."""
        lower, upper = lower.double(), upper.double()
        width = upper - lower
        if self.whole:
            side = torch.zeros_like(lower, dtype=torch.int64)
            centre = 0.5 * lower + 0.5 * upper
            if self.period:
                centre = centre - self.period * torch.round(centre / self.period)
            row = (torch.asinh(centre / SCALE) / math.asinh(REACH / SCALE) + 1) * ((WHOLE[1] - 1) / 2)
            column = (torch.log2(width) - NARROWEST) * WIDTHS
            inside = (centre.abs() <= REACH) & (column <= WHOLE[2] - 1)
        else:
            side = (lower >= 0).long()
            near, far = torch.minimum(lower.abs(), upper.abs()), torch.maximum(lower.abs(), upper.abs())
            row = torch.log2(far / REACH) * SIZES + HALVES[1] - 1
            column = (torch.log2(width / near) - NARROWEST) * WIDTHS
            inside = (far <= REACH) & ((lower >= 0) | (upper <= 0))
        fraction = self._interpolated(side, row, column)
        return torch.where(inside & torch.isfinite(fraction), fraction, 0.5)

    def _interpolated(self, side: Tensor, row: Tensor, column: Tensor) -> Tensor:
        _, rows, columns = self.fraction.shape
        row = torch.nan_to_num(row).clamp(0, rows - 1)
        column = torch.nan_to_num(column, posinf=columns).clamp(0, columns - 1)
        i, j = row.floor().clamp(max=rows - 2).long(), column.floor().clamp(max=columns - 2).long()
        s, t = row - i, column - j
        corners = [self.fraction[side, i + m, j + n] for m in (0, 1) for n in (0, 1)]
        mixed = torch.lerp(torch.lerp(corners[0], corners[1], t), torch.lerp(corners[2], corners[3], t), s)
        nearest = self.fraction[side, i + (s > 0.5).long(), j + (t > 0.5).long()]
        together = torch.stack(corners)
        return torch.where(together.amax(0) - together.amin(0) > JUMP, nearest, mixed)


SLOW = frozenset(operator.name for operator in (*BRACKETED, *SEARCHED))
"""Their slopes are sought in a bracket within a search: some ten seconds for a table."""

PERIODS = {"sin": 2 * math.pi, "cos": 2 * math.pi}
"""A table of readers of one period serves boxes anywhere."""


def key(readers: Sequence[Reader]) -> str | None:
    """A name for a combination of readers with all their constants; None where elements differ in theirs."""
    parts = set()
    for operator, prepared in readers:
        try:
            given = sorted(prepared.node.attributes.items())
            constants = {name: _only(value) for name, value in given if name != "slope_radius"}
        except ValueError:
            return None
        if operator.tables:
            return None
        listed = ",".join(f"{name}={value}" for name, value in constants.items())
        parts.add(operator.name + (f"({listed})" if listed else ""))
    return "+".join(sorted(parts))


def table(readers: Sequence[Reader]) -> Table | None:
    """The table of a combination of readers: shipped, cached by an earlier run, or built and cached now.

    None where elements differ in their constants, so that one table does not serve them, and where building one would
    take too long for a run.
    """
    name = key(readers)
    if name is None:
        return None
    found = point_store.shipped().get(name)
    if found is None:
        found = point_store.cached(name, (WHOLE, HALVES))
    if found is None and any(operator.name in SLOW for operator, _ in readers):
        return None
    if found is None:
        found = build(readers)
        point_store.keep(name, found)
    fraction = torch.from_numpy(found.astype(np.float64) / STEPS)
    periods = {PERIODS.get(operator.name, 0.0) for operator, _ in readers}
    return Table(fraction, fraction.shape[0] == 1, periods.pop() if len(periods) == 1 else 0.0)


def build(readers: Sequence[Reader]) -> np.ndarray:
    """The table of a combination that has a key, fractions as integers: float64 on the CPU, some seconds at most."""
    alone = [(operator, _scalar(prepared)) for operator, prepared in readers]
    one = torch.ones(1, dtype=torch.float64)
    if bool(torch.isfinite(child_area(alone, -one, one)).all()):
        step = torch.linspace(-1, 1, WHOLE[1], dtype=torch.float64)
        centre = (SCALE * torch.sinh(step * math.asinh(REACH / SCALE))).unsqueeze(1)
        width = _powers(WHOLE[2])
        lower, upper = (centre - 0.5 * width).unsqueeze(0), (centre + 0.5 * width).unsqueeze(0)
    else:
        octaves = torch.arange(1 - HALVES[1], 1, dtype=torch.float64) / SIZES
        far = (REACH * torch.exp2(octaves)).unsqueeze(1).expand(HALVES[1:])
        near = far / (1 + _powers(HALVES[2]))
        lower, upper = torch.stack([-far, near]), torch.stack([-near, far])
    with torch.no_grad():
        ends = zip(lower.flatten().split(TOGETHER), upper.flatten().split(TOGETHER), strict=True)
        fraction = torch.cat([best_fractions(alone, *part) for part in ends]).view(lower.shape)
    return torch.round(fraction * STEPS).numpy().astype(np.uint16)


def _powers(count: int) -> Tensor:
    return torch.exp2(NARROWEST + torch.arange(count, dtype=torch.float64) / WIDTHS)


def _scalar(prepared: Prepared) -> Prepared:
    """The same constants, equal for all elements, for boxes of any shape."""
    constants = {name: _only(value) for name, value in prepared.node.attributes.items()}
    node = Node(prepared.node.operator, (0,), (1,), constants)
    return prepare(node, ((1,),), torch.float64, torch.device("cpu"))


def _only(value: object) -> object:
    """The one value of a constant; None where there is none. Raises ValueError where elements differ."""
    if value is None:
        return None
    values = np.unique(np.asarray(value))
    if values.size != 1 or values.dtype.kind not in "fiub":
        raise ValueError("elements differ")
    return np.asarray(values[0])
