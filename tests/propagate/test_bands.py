"""Bands of products: quadratic forms of a dense layer, where both operands read the same inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph import read_onnx
from provenn.bounds.ops.products import Band
from provenn.bounds.propagate import intermediate
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.intermediate import Boxes, intermediate_boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes

from .small import Writer

DOMAINS = 5


def form(folder) -> tuple[Plan, dict]:
    """``sum z_i (P z)_i`` of inputs and a layer z, P positive definite, boxes around 0 where it is curved."""
    writer = Writer(21)
    first = writer.add("Relu", writer.dense("X", 3, 4))
    z = writer.add("Concat", "X", writer.add("Sigmoid", first), axis=1)
    root = writer.random.normal(size=(7, 7))
    product = writer.add("MatMul", z, writer.constant((root @ root.T / 7).astype(np.float32)))
    total = writer.add("ReduceSum", writer.add("Mul", z, product), writer.constant(np.array([1])), keepdims=1)
    plan = Plan(read_onnx(writer.save(folder / "form.onnx", (1, 3), total, (1, 1))))
    generator = torch.Generator().manual_seed(5)
    shape = (DOMAINS, *plan.shape(plan.graph.inputs[0]))
    centre = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    radius = torch.rand(shape, generator=generator, dtype=torch.float64)
    return plan, {plan.graph.inputs[0]: (centre - radius, centre + radius)}


def ends(plan: Plan, inputs: dict, boxes: Boxes) -> torch.Tensor:
    """Lower bounds ``[domains, 2]`` of the form and of its negative."""
    target = plan.graph.outputs[0]
    rows = torch.tensor([1.0, -1.0], dtype=torch.float64).view(1, 2, *(1 for _ in plan.shape(target)))
    return backward(plan, target, rows, relax_all(plan, target, boxes), inputs)


@pytest.mark.parametrize("proven", [False, True])
def test_bands_are_sound_and_tighter(proven: bool, tmp_path) -> None:
    plan, inputs = form(tmp_path)
    magnitudes = Magnitudes(plan, interval_boxes(plan, inputs)) if proven else None
    until = plan.graph.outputs[0]
    plain = ends(plan, inputs, intermediate_boxes(plan, inputs, until=until, magnitudes=magnitudes))
    boxes = intermediate_boxes(plan, inputs, until=until, magnitudes=magnitudes, bands=True)
    found = ends(plan, inputs, boxes)
    (index,) = boxes.bands
    x, y = plan.graph.nodes[index].inputs
    known: Band = boxes.bands[index]
    low, high = inputs[plan.graph.inputs[0]]
    generator = torch.Generator().manual_seed(6)
    for _ in range(200):
        point = low + (high - low) * torch.rand(low.shape, generator=generator, dtype=torch.float64)
        values = interval_boxes(plan, {plan.graph.inputs[0]: (point, point)})
        total = values[until][0].flatten(1)
        assert (found <= torch.cat([total, -total], 1) + 1e-9).all()
        for side, value in (
            (known.difference, values[x][0] - known.scale * values[y][0]),
            (known.sum, values[x][0] + known.scale * values[y][0]),
        ):
            assert ((side[0] <= value + 1e-9) & (value <= side[1] + 1e-9)).all()
    assert (found[:, 0] - plain[:, 0]).mean() > 0.1 * plain[:, 0].abs().mean()


def test_runs_of_domains_keep_their_bands(tmp_path, monkeypatch) -> None:
    plan, inputs = form(tmp_path)
    until = plan.graph.outputs[0]
    runs = [slice(0, 3), slice(3, DOMAINS)]
    parts = [{v: (b[0][run], b[1][run]) for v, b in inputs.items()} for run in runs]
    apart = [ends(plan, part, intermediate_boxes(plan, part, until=until, bands=True)) for part in parts]
    monkeypatch.setattr(intermediate, "domains_at_once", lambda plan: 3)
    together = intermediate_boxes(plan, inputs, until=until, bands=True)
    assert together.bands and not together.lines
    assert torch.allclose(ends(plan, inputs, together), torch.cat(apart), rtol=1e-10, atol=1e-10)
