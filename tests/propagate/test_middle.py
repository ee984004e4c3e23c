"""Passes for the side that the middle of the inputs foretells come first; nothing that relaxations read is lost."""

from __future__ import annotations

import pytest
import torch

from provenn.bounds.graph import evaluate
from provenn.bounds.propagate import intermediate
from provenn.bounds.propagate.intermediate import Batch, Boxes, intermediate_boxes, unstable

from .small import MAKERS, Case, case


def batch_of(made: Case) -> Batch:
    boxes = Boxes()
    boxes.update(made.boxes)
    return Batch(made.plan, made.inputs, None, boxes, {}, 2)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_middle_is_the_value_at_the_centre(name: str, tmp_path) -> None:
    made = case(name, tmp_path)
    (lower, upper) = made.inputs[made.plan.graph.inputs[0]]
    found = batch_of(made).middle(made.target)
    torch.testing.assert_close(found, evaluate(made.plan.graph, [(lower + upper) / 2])[0].flatten(1))


@pytest.mark.parametrize("name", ["relu", "convolutional", "residual"])
def test_the_middle_settles_the_same_elements_with_fewer_rows(name: str, tmp_path, monkeypatch) -> None:
    made = case(name, tmp_path, domains=1, radius=0.1)
    monkeypatch.setattr(intermediate, "_COSTLY", 0)
    monkeypatch.setattr(intermediate, "ROWS", 1)
    rows: list[int] = []
    plain = Batch.bounds

    def counted(self, value, elements, signs, sift=False):
        rows.append(elements.numel())
        return plain(self, value, elements, signs, sift)

    monkeypatch.setattr(Batch, "bounds", counted)
    settled, counts = [], []
    for large in (0, 1 << 60):
        monkeypatch.setattr(intermediate, "_LARGE", large)
        rows.clear()
        boxes = intermediate_boxes(made.plan, made.inputs, until=made.target)
        counts.append(sum(rows))
        settled.append([unstable(made.plan, v, boxes[v]) for v in made.plan.bounded])
    assert counts[0] <= counts[1]
    assert all(torch.equal(a, b) for a, b in zip(*settled, strict=True))
