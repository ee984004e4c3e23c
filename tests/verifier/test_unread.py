"""What is said when time runs out: of clauses that no batch has read yet, and of bounds that were known before."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from provenn.errors import PropertyError
from provenn.verifier import Options, decide, verify
from provenn.verifier.run import Run, Silent
from provenn.verifier.search import Search

from .networks import affine, box, layers, property_text


def late_after(monkeypatch: pytest.MonkeyPatch, ended: str, clauses: int) -> tuple[str, list[str]]:
    """`_decide` on a property of ``clauses`` clauses whose time is over after the first one."""
    batches = [
        SimpleNamespace(first=i, count=1, offset=np.zeros(1, np.int64)) for i in range(clauses)
    ]
    problem = SimpleNamespace(query=SimpleNamespace(clause_count=clauses), clauses=lambda batch: [batch])
    monkeypatch.setattr(decide, "_batches", lambda run: iter(batches))
    monkeypatch.setattr(decide, "_decide_clauses", lambda run, chosen, numbers: ended)
    run = Run(problem, None, Options(), 0.0, Silent(), None)  # type: ignore[arg-type]
    return decide._decide(run), run.open


@pytest.mark.parametrize(
    ("ended", "clauses", "verdict", "unread"),
    [
        ("unknown", 1, "timeout", False),
        ("timeout", 1, "timeout", False),
        ("refuted", 1, "refuted", False),
        ("unknown", 2, "timeout", True),
        ("refuted", 2, "timeout", True),
    ],
)
def test_only_clauses_that_are_left_are_unread(
    monkeypatch: pytest.MonkeyPatch, ended: str, clauses: int, verdict: str, unread: bool
) -> None:
    assert late_after(monkeypatch, ended, clauses) == (verdict, ["clauses were left unread"] * unread)


def test_a_symbolic_dimension_is_named_where_a_property_has_more_inputs(tmp_path) -> None:
    import onnx

    network = affine(tmp_path / "net.onnx", [[3.0]], [0.0])
    model = onnx.load(network)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "M"
    onnx.save(model, network)
    path = tmp_path / "property.vnnlib"
    path.write_bytes(property_text(2, 1, box([("0", "1"), ("0", "1")]), "(assert (<= Y_0 0))"))
    with pytest.raises(PropertyError, match="declares 2 inputs, the network has 1; dimension 'M' of input 'X'"):
        verify(network, path, Options(timeout=10, device="cpu"))


def test_what_a_late_root_finds_does_not_hide_an_earlier_bound(tmp_path, monkeypatch) -> None:
    """The second pass over the outputs has no time and knows nothing: the bound of the first is told."""
    network = layers(tmp_path / "net.onnx", "Relu", [np.eye(2), np.ones((2, 1))], [np.zeros(2), np.zeros(1)])
    path = tmp_path / "property.vnnlib"
    path.write_bytes(property_text(2, 1, box([("-1", "1"), ("-1", "1")]), "(assert (<= Y_0 -0.5))"))
    found = []

    def outputs_bound(*given, **more):
        refuted, best, starts = real(*given, **more)
        found.append(-0.25 if not found else -np.inf)
        return torch.zeros_like(refuted), torch.full_like(best, found[-1]), starts

    real = decide.outputs_bound
    monkeypatch.setattr(decide, "outputs_bound", outputs_bound)
    monkeypatch.setattr(Run, "late", lambda run: len(found) == 2)
    result = verify(network, path, Options(timeout=30, device="cpu", input_split_limit=0))
    assert len(found) == 2 and result.verdict == "timeout" and result.bound == -0.25
    assert "1 clauses at the root, lowest bound -0.25" in result.reason


def test_a_search_without_a_bound_does_not_hide_an_earlier_one(tmp_path, monkeypatch) -> None:
    """Neither in the reason nor in the progress on the way."""
    network = layers(tmp_path / "net.onnx", "Relu", [np.eye(2), np.ones((2, 1))], [np.zeros(2), np.zeros(1)])
    path = tmp_path / "property.vnnlib"
    path.write_bytes(property_text(2, 1, box([("-1", "1"), ("-1", "1")]), "(assert (<= Y_0 -0.5))"))
    told = []

    def run(search: Search, until: float) -> str:
        search.progress(1, 1, -np.inf)
        return "timeout"

    def outputs_bound(*given, **more):
        refuted, best, starts = real(*given, **more)
        return torch.zeros_like(refuted), torch.full_like(best, -0.25), starts

    real = decide.outputs_bound
    monkeypatch.setattr(decide, "outputs_bound", outputs_bound)
    monkeypatch.setattr(Search, "run", run)
    monkeypatch.setattr(Search, "bound", lambda search: -np.inf)
    result = verify(
        network, path, Options(timeout=30, device="cpu", branching="neurons"),
        lambda stage, bound=None, **counts: told.append((stage, bound)),
    )  # fmt: skip
    assert result.verdict == "timeout" and result.bound == -0.25 and "open, lowest bound -0.25" in result.reason
    assert ("neuron splits", -0.25) in told and ("neuron splits", -np.inf) not in told
