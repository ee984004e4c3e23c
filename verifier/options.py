"""Every default of the verifier that matters, in one typed object."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from provenn.errors import InputError

DEVICES = ("auto", "cpu", "cuda")
SCORES = ("minimiser", "shortcut", "intercept")
BRANCHING = ("all", "neurons", "none")
SPLIT_POINTS = ("optimised", "midpoint")
LARGEST_SEED = 2**63 - 1
"""What the generators of torch and numpy both take."""
LARGEST_COUNT = 2**31 - 1
"""What everything that counts can count to."""
LARGEST_NUMBER = 1e30
"""Beyond any clock and any machine, and within every type of number."""


def available_threads() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Rule = tuple[type, Callable[[Any], bool], str]
"""The type of a value, what holds for it, and both in words."""


def _one_of(names: tuple[str, ...]) -> Rule:
    return str, lambda value: value in names, f"one of {', '.join(names)}"


def _at_least(least: int, note: str = "") -> Rule:
    return (
        Integral, lambda value: least <= value <= LARGEST_COUNT,
        f"a whole number of at least {least} and at most {LARGEST_COUNT}{note}",
    )  # fmt: skip


def _positive(unit: str) -> Rule:
    return Real, lambda value: 0 < value < LARGEST_NUMBER, f"a positive number of {unit}"


_PLAIN: dict[type, type] = {Integral: int, Real: float}
_TRUTH: Rule = bool, lambda value: True, "True or False"
_RULES: dict[str, Rule] = {
    "timeout": _positive("seconds"),
    "started": (Real, lambda value: abs(value) < LARGEST_NUMBER, "a time of time.monotonic(), or None"),
    "device": _one_of(DEVICES),
    "threads": _at_least(1, "; leave it out for all"),
    "memory": _positive("GB; leave it out for what is free"),
    "seed": (Integral, lambda value: 0 <= value <= LARGEST_SEED, f"0 to {LARGEST_SEED} (2^63 - 1), a whole number"),
    "verbose": _TRUTH,
    "attack_restarts": _at_least(0),
    "attack_steps": _at_least(0),
    "root_steps": _at_least(0),
    "batch": _at_least(1),
    "tree_steps": _at_least(0),
    "candidates": _at_least(1),
    "score": _one_of(SCORES),
    "branching": _one_of(BRANCHING),
    "split_points": _one_of(SPLIT_POINTS),
    "input_split_limit": _at_least(0),
    "exact_leaves": _TRUTH,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a verification run may use and how hard it tries; nothing here is specific to a benchmark.

    The numbers say how much work is done, never what counts as proven: no value of any option can make
    a verdict wrong. Raises InputError where a value has no meaning or another type.
    """

    # What the run may use.
    timeout: float = 60.0
    """Seconds from ``started`` after which the verdict is ``timeout``."""
    started: float | None = None
    """``time.monotonic()`` at which the clock of ``timeout`` started; None is the call of ``verify``."""
    device: str = "auto"
    """``auto`` (the GPU if there is one and the network is worth it), ``cpu`` or ``cuda``."""
    threads: int | None = None
    """Threads of torch and onnxruntime; None, and any more than that, is what the process may run on."""
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
        for field in fields(self):
            value, (kind, holds, expected) = getattr(self, field.name), _RULES[field.name]
            if value is None and field.default is None:
                continue
            # A bool is an int to Python. Narrow types overflow in arithmetic, and torch takes no numbers of numpy.
            fits = isinstance(value, bool) == (kind is bool) and isinstance(value, kind)
            with contextlib.suppress(OverflowError):
                plain = _PLAIN.get(kind, kind)(value) if fits else None
                if fits and holds(plain):
                    object.__setattr__(self, field.name, plain)
                    continue
            raise InputError(f"Options got {field.name}={value!r}, expected {expected}")
        if self.threads is not None:  # more than there are only wait for each other
            object.__setattr__(self, "threads", min(self.threads, available_threads()))

    def as_dict(self) -> dict[str, object]:
        """The options by name, as the JSON report shows them."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "started"}
