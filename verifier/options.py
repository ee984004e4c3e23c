"""Every default of the verifier that matters, in one typed object."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields

from provenn.errors import InputError

DEVICES = ("auto", "cpu", "cuda")
SCORES = ("minimiser", "shortcut", "intercept")
BRANCHING = ("all", "neurons", "none")
SPLIT_POINTS = ("optimised", "midpoint")
LARGEST_SEED = 2**63 - 1
"""What the generators of torch and numpy both take."""


def available_threads() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a verification run may use and how hard it tries; nothing here is specific to a benchmark.

    The numbers say how much work is done, never what counts as proven: no value of any option can make
    a verdict wrong. Raises InputError where a value has no meaning.
    """

    # What the run may use.
    timeout: float = 60.0
    """Seconds from ``started`` after which the verdict is ``timeout``."""
    started: float | None = None
    """``time.monotonic()`` at which the clock of ``timeout`` started; None is the call of ``verify``."""
    device: str = "auto"
    """``auto`` (the GPU if there is one and the network is worth it), ``cpu`` or ``cuda``."""
    threads: int | None = None
    """Threads of torch and onnxruntime; None is what the process may run on."""
    memory: float | None = None
    """GB (1e9 bytes) the bounds may plan with; None is what the machine has free."""
    seed: int = 0
    """Seed of everything random (attack restarts); the same seed gives the same search."""
    verbose: bool = False
    """Report every stage through ``logging`` as well as in the result."""

    # Falsification.
    attack_restarts: int = 64
    """Starting points of the first attack, in one batch."""
    attack_steps: int = 50
    """Gradient steps of each starting point."""

    # Bounds at the root.
    root_steps: int = 20
    """Steps of slope optimisation (alpha) at the root; 0 leaves the starting slopes."""

    # Branch and bound.
    batch: int = 1024
    """Domains bounded together in one round, if memory allows."""
    tree_steps: int = 8
    """Steps of slope and multiplier optimisation (alpha, beta) for a domain of the tree."""
    candidates: int = 1
    """Splits of a domain whose children are bounded before one is chosen."""
    score: str = "minimiser"
    """What a split is chosen by: what it gains at the ``minimiser`` of the domain's bound, along shortcuts to
    the input (``shortcut``, GenBaB) or in constants alone (``intercept``)."""
    branching: str = "all"
    """What is split: ``all`` that may end first, only ``neurons`` (and factors of products), or ``none``."""
    split_points: str = "optimised"
    """Where a smooth operator's operand is split: ``optimised`` (least area between the children's lines) or
    ``midpoint``."""
    input_split_limit: int = 256
    """With at most this many free inputs, splits of inputs are tried as well as splits of neurons."""
    exact_leaves: bool = True
    """Decide leaves without an unsplit element by linear programming."""

    def __post_init__(self) -> None:
        if not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise InputError(f"Options got timeout={self.timeout!r}, expected a positive number of seconds")
        if self.device not in DEVICES:
            raise InputError(f"Options got device={self.device!r}, expected one of {', '.join(DEVICES)}")
        known_names = ("score", SCORES), ("branching", BRANCHING), ("split_points", SPLIT_POINTS)
        for name, known in known_names:
            if getattr(self, name) not in known:
                raise InputError(f"Options got {name}={getattr(self, name)!r}, expected one of {', '.join(known)}")
        if self.threads is not None and self.threads < 1:
            raise InputError(
                f"Options got threads={self.threads!r}, expected at least 1; leave it out for all"
            )
        if self.memory is not None and not (self.memory > 0 and math.isfinite(self.memory)):
            raise InputError(
                f"Options got memory={self.memory!r}, expected a positive number of GB; leave it out for what is free"
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(f"Options got seed={self.seed!r}, expected 0 to {LARGEST_SEED} (2^63 - 1)")
        for name in ("attack_restarts", "attack_steps", "root_steps", "tree_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"Options got {name}={getattr(self, name)!r}, expected 0 or more")
        for name in ("batch", "candidates"):
            if getattr(self, name) < 1:
                raise InputError(f"Options got {name}={getattr(self, name)!r}, expected at least 1")

    def as_dict(self) -> dict[str, object]:
        """The options by name, as the JSON report shows them."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "started"}
