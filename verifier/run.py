"""What one verification carries from stage to stage."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from provenn.bounds.propagate.interrupt import check as check_cancelled
from provenn.verifier.options import Options
from provenn.verifier.problem import Problem
from provenn.verifier.replay import Replay
from provenn.verifier.result import Witness
from provenn.verifier.undefined import Undefined


class Silent:
    def __call__(
        self, stage: str, *, domains: int | None = None, open: int | None = None, bound: float | None = None
    ) -> None:
        """No progress wanted."""


@dataclass
class Told:
    """Passes progress on; the searches of a race count what they bounded each for itself, their caller sees no number
    fall."""

    progress: Any
    domains: int = 0
    stage: str = ""

    def __call__(self, stage: str, *, domains: int | None = None, **numbers: Any) -> None:
        check_cancelled()
        self.stage = stage
        if domains is not None:
            numbers["domains"] = self.domains = max(self.domains, domains)
        self.progress(stage, **numbers)

    def where(self) -> str:
        """How far a run came, as reasons name it."""
        return f", in stage {self.stage!r}" if self.stage else ""


@dataclass
class Run:
    """What one verification carries from stage to stage.

    ``bound`` is the lowest bound of the clauses at hand that are open, inf where there is none yet; ``open`` says what
    was left open; ``undefined`` names what keeps the box at hand from having bounds.
    """

    problem: Problem
    replay: Replay
    options: Options
    deadline: float
    progress: Any
    generator: torch.Generator
    witness: Witness | None = None
    strategy: list[str] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=lambda: {"domains": 0, "rounds": 0, "clauses": 0})
    bound: float = float("inf")
    open: list[str] = field(default_factory=list)
    undefined: Undefined | None = None

    def say(self, text: str) -> None:
        if text not in self.strategy:
            self.strategy.append(text)

    def tell(self, stage: str) -> None:
        """Report a stage with the lowest bound so far."""
        self.progress(stage, bound=self.bound if np.isfinite(self.bound) else None)

    def searched(self, name: str, domains: int, open_: int, bound: float) -> None:
        """Report the search of that name: what it has bounded itself, what it has open, and its lowest bound."""
        self.progress(
            name, domains=self.statistics["domains"] + domains, open=open_, bound=self.best(bound)
        )

    def best(self, bound: float) -> float:
        """The better of a search's lowest bound and what is known from before it."""
        return max(bound, self.bound) if np.isfinite(self.bound) else bound

    def lowest(self) -> str:
        """The lowest bound so far, as reasons name it."""
        return f"lowest bound {self.bound:.4g}" if np.isfinite(self.bound) else "no finite bound"

    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def ended(self) -> str:
        return "witness" if self.witness is not None else "timeout"

    def count(self, name: str, amount: int) -> None:
        self.statistics[name] = self.statistics.get(name, 0) + amount
