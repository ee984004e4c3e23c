"""Conformance of operators with the real functions: shared by the tests and by ``benchmarks/soundness.py``.

CHECKS is the table: one entry for each operator, set of constants and argument position. ``cases`` states the functions
of one variable, ``planes`` those of two and windows, ``intervals`` what has no relaxation; ``draw`` makes boxes, slopes
and points, ``reference`` functions in extended precision, ``tally`` counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import intervals, planes, univariate
from .cases import CASES
from .tally import Tally


@dataclass(frozen=True)
class Check:
    """``run(count, seed)`` draws at least ``count`` cases of an operator; ``first`` of all checks of that operator."""

    operator: str
    label: str
    run: Callable[[int, int], Tally]
    first: bool = True

    def __str__(self) -> str:
        return self.label


CHECKS: tuple[Check, ...] = (
    *(
        Check(
            case.name, str(case), partial(univariate.check, case), all(c.name != case.name for c in CASES[:i])
        )
        for i, case in enumerate(CASES)
    ),
    *(
        Check(pair.name, f"{pair.name} {planes.POSITIONS[i]}", partial(planes.check, pair, i))
        for pair in planes.PAIRS
        for i in range(3)
    ),
    Check("window_max", "window_max", planes.check_windows),
    *(Check(case.name, str(case), partial(intervals.check, case)) for case in intervals.OPAQUES),
)
