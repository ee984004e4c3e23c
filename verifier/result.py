"""What a verification run answers: results are values, not messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from provenn.specs import Composition
from provenn.specs import Witness as Witness

Verdict = Literal["sat", "unsat", "unknown", "timeout"]
VERDICTS: tuple[Verdict, ...] = ("unsat", "sat", "unknown", "timeout")


@dataclass(frozen=True, eq=False)
class Result:
    """The verdict with its reason and how it was reached.

    ``verdict``: ``unsat`` (the property holds), ``sat`` (``witness`` violates it), ``unknown`` or
    ``timeout``. ``reason`` is one sentence for the user. ``bound`` is the smallest proven margin of
    the violation rows (positive: refuted), None where no bound was computed. ``statistics`` are numbers by
    name (seconds, domains, rounds, ...). ``strategy`` lists each choice that was made, and why.
    """

    verdict: Verdict
    reason: str
    witness: Witness | None = None
    bound: float | None = None
    statistics: Mapping[str, Any] = field(default_factory=dict)
    strategy: Sequence[str] = ()
    composition: Composition | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"Result got verdict={self.verdict!r}, expected one of {', '.join(VERDICTS)}")
        if (self.witness is not None) != (self.verdict == "sat"):
            raise ValueError(
                f"Result got verdict={self.verdict!r} and witness={self.witness!r}: expected a witness "
                "exactly when the verdict is 'sat'"
            )
