"""What a check counted: cases, violations, and how near the bounds came to the function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mpmath
import numpy as np
from numpy import ndarray as Array

from .reference import DOUBT, LONG

UNIT = LONG(2.0) ** -53
JUDGED = 100
"""Of the comparisons that extended precision leaves open, so many are decided in 400 bits, the worst first."""
SAMPLED = 10


@dataclass
class Tally:
    """``least`` is the least distance of a bound from the function, in float64 roundings of the terms involved."""

    name: str
    cases: int = 0
    points: int = 0
    violations: int = 0
    least: float = np.inf
    examples: list[str] = field(default_factory=list)

    def compare(
        self,
        slack: Array,
        size: Array,
        exact: Callable[[tuple], mpmath.mpf],
        describe: Callable[[tuple], str],
    ) -> None:
        """Count entries whose slack is negative.

        ``slack`` is computed in extended precision with an error of up to ``DOUBT size``. Where that leaves its sign
        open, ``exact(index)`` is the slack with many bits. NaN counts as a violation.
        """
        self.points += slack.size
        doubt = DOUBT * size
        known = np.isfinite(size)
        wrong = ~(slack >= -np.where(known, doubt, 0))
        open_ = known & (slack < 0) & ~wrong
        tie = known & (slack >= 0) & (slack < doubt)
        for mask, most in ((open_, JUDGED), (tie, SAMPLED)):
            chosen = np.flatnonzero(mask)
            if chosen.size > most:
                order = np.argsort(slack.ravel()[chosen], kind="stable")[:most]
                chosen = chosen[order] if mask is open_ else chosen[:: chosen.size // most]
            with mpmath.workprec(400):
                for flat in chosen:
                    index = np.unravel_index(flat, slack.shape)
                    if exact(index) < 0:
                        wrong[index] = True
        if slack.size:
            slack = np.where(open_ & ~wrong, 0, slack)
            ratio = slack[known] / (UNIT * size[known] + np.finfo(LONG).tiny)
            self.least = min(self.least, float(ratio.min(initial=np.inf)))
        self.report(
            wrong, lambda index: f"{describe(index)}: slack {slack[index]:.3e} of size {size[index]:.3e}"
        )

    def report(self, wrong: Array, describe: Callable[[tuple], str]) -> None:
        """Count the entries that are wrong, and keep some examples."""
        found = np.flatnonzero(wrong)
        self.violations += found.size
        for flat in found[: max(0, 5 - len(self.examples))]:
            self.examples.append(f"{self.name}: {describe(np.unravel_index(flat, wrong.shape))}")
