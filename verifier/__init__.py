"""Decides properties of networks: attack, branch and bound, strategy, batch runs, reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provenn.verifier.decide import verify as verify
    from provenn.verifier.lipschitz import LipschitzResult as LipschitzResult
    from provenn.verifier.lipschitz import local_lipschitz as local_lipschitz
    from provenn.verifier.monotone import MonotoneResult as MonotoneResult
    from provenn.verifier.monotone import prove_monotone as prove_monotone
    from provenn.verifier.options import Options as Options
    from provenn.verifier.result import Result as Result
    from provenn.verifier.result import Witness as Witness

_HOMES = {
    "LipschitzResult": "lipschitz",
    "MonotoneResult": "monotone",
    "Options": "options",
    "Result": "result",
    "Witness": "result",
    "local_lipschitz": "lipschitz",
    "prove_monotone": "monotone",
    "verify": "decide",
}


def __getattr__(name: str) -> object:
    """Import on first use: the command line reads options and reports before it pays for torch."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"provenn.verifier.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'provenn.verifier' has no attribute {name!r}")
