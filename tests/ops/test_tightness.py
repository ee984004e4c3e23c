"""Starting lines leave at most a percent more than the least area: a small sample of ``benchmarks/tightness.py``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from provenn.bounds.ops import OPS, Univariate

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "tightness.py"
specification = importlib.util.spec_from_file_location("tightness", FILE)
assert specification is not None and specification.loader is not None
tightness = importlib.util.module_from_spec(specification)
sys.modules["tightness"] = tightness  # dataclasses look their module up
specification.loader.exec_module(tightness)


@pytest.mark.parametrize("case", tightness.CASES, ids=str)
def test_starting_lines_leave_the_least_area(case) -> None:
    _, _, excess = tightness.excess(case, count=60, points=2000, seed=1)
    assert len(excess) >= 30
    # The hulls of samples lie inside the envelopes: lines that cut into them would be unsound.
    assert excess.min() > -1e-6
    assert excess.mean() < 0.01
    assert excess.max() < 0.02


def test_every_operator_of_one_variable_has_a_case() -> None:
    found = {case.name for case in tightness.CASES}
    assert found | {"pieces", "step"} == {name for name, record in OPS.items() if isinstance(record, Univariate)}
