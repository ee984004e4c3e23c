"""Seeded bugs (``benchmarks/mutation.py``) can still be sown: their text is in the code once, their tests exist."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_seeded_bug_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = importlib.import_module("mutation").MUTATIONS
    assert [name for name, count in Counter(m.name for m in found).items() if count > 1] == []
    lost = [m.name for m in found if (ROOT / m.file).read_text().count(m.old) != 1]
    assert not lost, f"their text is not in the code once: {lost}"
    assert {test for m in found for test in m.tests if not (ROOT / test.split("::")[0]).exists()} == set()
