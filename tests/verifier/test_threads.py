"""How many threads an operation gets is timed, and given back afterwards."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from provenn.bounds.graph import read_onnx
from provenn.specs import read_query
from provenn.verifier import Options, threads, verify
from provenn.verifier.problem import Problem
from provenn.verifier.threads import settle_threads

from .networks import box, layers, property_text


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """``Y = relu(X) - relu(X - 0.5)`` over [-1, 1] is never below -0.1; single lines prove no more than -1/3."""
    weights, biases = [np.ones((1, 2)), np.array([[1.0], [-1.0]])], [np.array([0.0, -0.5]), np.zeros(1)]
    network = layers(tmp_path / "net.onnx", "Relu", weights, biases)
    text = property_text(1, 1, box([("-1", "1")]), "(assert (<= Y_0 -0.1))")
    (tmp_path / "net.vnnlib").write_bytes(text)
    return network, tmp_path / "net.vnnlib"


@pytest.fixture
def problem(files: tuple[Path, Path]) -> Problem:
    return Problem(read_onnx(files[0]), read_query(str(files[1]), 1, 1, "float32"), torch.device("cpu"))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("one", "two", "chosen"), [(0.001, 0.02, 1), (0.02, 0.001, 2), (0.01, 0.01, 1)])
def test_the_faster_number_is_chosen(one, two, chosen, problem: Problem, two_threads, monkeypatch) -> None:
    clock = [0.0]

    def backward(*_) -> None:
        clock[0] += one if torch.get_num_threads() == 1 else two

    monkeypatch.setattr(threads, "backward", backward)
    monkeypatch.setattr(threads, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert settle_threads(problem) == chosen == torch.get_num_threads()


def test_one_thread_is_not_timed(problem: Problem, monkeypatch) -> None:
    monkeypatch.setattr(threads, "backward", lambda *_: pytest.fail("timed"))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert settle_threads(problem) == 1
    finally:
        torch.set_num_threads(before)


def test_threads_of_the_caller_come_back(files: tuple[Path, Path], two_threads, monkeypatch) -> None:
    monkeypatch.setattr(threads, "backward", lambda *_: time.sleep(0.001 * torch.get_num_threads() ** 2))
    result = verify(*files, Options(timeout=10, device="cpu", root_steps=0))
    assert result.verdict == "unsat"
    assert result.statistics["threads"] == 1
    assert torch.get_num_threads() == 2


def test_the_rows_that_are_timed_fit_into_memory(problem: Problem, two_threads, monkeypatch) -> None:
    plan, rows = problem.plan(torch.float64), []
    monkeypatch.setattr(type(plan), "rows_at_once", lambda *_: 3)
    monkeypatch.setattr(threads, "backward", lambda _plan, _target, given, *_: rows.append(given.shape[1]))
    settle_threads(problem)
    assert set(rows) == {3}
