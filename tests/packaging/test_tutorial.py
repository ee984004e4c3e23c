"""The tutorial's code runs, and prints what the page says it prints."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


def test_the_tutorial_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = re.sub(r"(?m)^```.*$", "", TUTORIAL.read_text())
    test = doctest.DocTestParser().get_doctest(text, {}, "docs/tutorial.md", str(TUTORIAL), 0)
    assert len(test.examples) > 60
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            failed = doctest.DocTestRunner().run(test).failed
    finally:
        torch.set_num_threads(before)
    assert failed == 0, capsys.readouterr().out
