"""What is said when time runs out between two batches of clauses, and what is not when it runs out after the last."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from provenn.errors import PropertyError
from provenn.verifier import Options, decide, verify
from provenn.verifier.run import Run, Silent

from .networks import affine, box, property_text


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
