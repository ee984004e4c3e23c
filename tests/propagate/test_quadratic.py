"""Products expanded together: bounds against the truth at dense samples, and exact where the form is convex."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from provenn.bounds.graph import read_onnx
from provenn.bounds.propagate import quadratic
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.quadratic import Expansion, Minimum, expanded, products
from provenn.bounds.propagate.rounding import Magnitudes

from .small import Writer

DOMAINS = 6


def network(folder, kind: str, seed: int) -> Plan:
    """``convex``: ``x^T P x`` and a linear form; ``layered``: products of layers' outputs, and a product of those."""
    writer = Writer(seed)
    axis = writer.constant(np.array([1]))
    if kind == "convex":
        root = writer.random.normal(size=(3, 3))
        image = writer.add("MatMul", "X", writer.constant((root @ root.T).astype(np.float32)))
        total = writer.add("ReduceSum", writer.add("Mul", "X", image), axis, keepdims=1)
        total = writer.add("Add", total, writer.dense("X", 3, 1))
        return Plan(read_onnx(writer.save(folder / "convex.onnx", (1, 3), total, (1, 1))))
    hidden = writer.add("Relu", writer.dense("X", 3, 4))
    left = writer.add("Concat", "X", writer.add("Sin", writer.dense(hidden, 4, 2)), axis=1)
    right = writer.dense(writer.add("Concat", "X", hidden, axis=1), 7, 5)
    inner = writer.add("Mul", left, right)
    outer = writer.add("Mul", writer.dense(inner, 5, 2), writer.dense(hidden, 4, 2))
    total = writer.dense(writer.add("Concat", inner, outer, axis=1), 7, 2)
    return Plan(read_onnx(writer.save(folder / "layered.onnx", (1, 3), total, (1, 2))))


def boxes_of(plan: Plan, seed: int, radius: float) -> dict:
    generator = torch.Generator().manual_seed(seed)
    source = plan.graph.inputs[0]
    shape = (DOMAINS, *plan.shape(source))
    centre = torch.randn(shape, generator=generator, dtype=torch.float64)
    wide = radius * torch.rand(shape, generator=generator, dtype=torch.float64)
    return {source: (centre - wide, centre + wide)}


def expand(plan: Plan, inputs: dict, columns: torch.Tensor | None = None) -> Expansion:
    source, target = plan.graph.inputs[0], plan.graph.outputs[0]
    magnitudes = Magnitudes(plan, interval_boxes(plan, inputs))
    boxes = intermediate_boxes(plan, inputs, until=target, magnitudes=magnitudes)
    lines = relax_all(plan, target, boxes)
    columns = torch.arange(plan.size(source)) if columns is None else columns
    return expanded(plan, source, columns, products(plan, target), boxes, lines, inputs, magnitudes)


def rows_of(plan: Plan) -> torch.Tensor:
    eye = torch.eye(plan.size(plan.graph.outputs[0]), dtype=torch.float64)
    return torch.cat([eye, -eye, eye.sum(0, keepdim=True)]).view(1, -1, *plan.shape(plan.graph.outputs[0]))


def points(inputs: dict, count: int = 400) -> torch.Tensor:
    """``[samples, domains, n]``: corners, faces and inner points of every box."""
    ((low, high),) = inputs.values()
    low, high = low.flatten(1), high.flatten(1)
    generator = torch.Generator().manual_seed(3)
    share = torch.rand((count, *low.shape), generator=generator, dtype=torch.float64)
    share[: count // 2] = (2 * share[: count // 2] - 0.5).clamp(0, 1)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=low.shape[1])), dtype=torch.float64)
    share = torch.cat([share, corners.unsqueeze(1).expand(-1, *low.shape)])
    return low + share * (high - low)


def values_at(plan: Plan, x: torch.Tensor) -> torch.Tensor:
    """Outputs ``[samples, domains, m]``."""
    source, target = plan.graph.inputs[0], plan.graph.outputs[0]
    at = {source: x.reshape(-1, *plan.shape(source))}
    for index, node in enumerate(plan.graph.nodes):
        if index not in at:
            operands = [at[i] for i in node.inputs]
            at[index] = plan.operators[index].evaluate(plan.prepared[index], *operands)
    return at[target].reshape(*x.shape[:2], -1)


def assert_below(plan: Plan, inputs: dict, rows: torch.Tensor, found: Minimum) -> None:
    """The bounds, and the linear forms that rise from them, are below the rows everywhere."""
    x = points(inputs)
    ((low, high),) = inputs.values()
    truth = values_at(plan, x) @ rows.flatten(2)[0].T
    distance = torch.where(
        found.a >= 0,
        x.unsqueeze(2) - low.flatten(1).unsqueeze(1),
        high.flatten(1).unsqueeze(1) - x.unsqueeze(2),
    )
    form = found.value + (found.a.abs() * distance).sum(-1)
    assert (form <= truth + 1e-9 * (1 + truth.abs())).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [1e-6, 0.3, 3.0])
@pytest.mark.parametrize("kind", ["convex", "layered"])
def test_forms_are_below_the_network(kind: str, radius: float, seed: int, tmp_path) -> None:
    plan = network(tmp_path, kind, seed)
    inputs = boxes_of(plan, seed, radius)
    rows = rows_of(plan)
    found = expand(plan, inputs).bound(plan.graph.outputs[0], rows)
    assert torch.isfinite(found.value).all()
    assert_below(plan, inputs, rows, found)


@pytest.mark.parametrize("seed", range(4))
def test_a_convex_form_is_bounded_by_its_minimum(seed: int, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(quadratic, "ROUNDS", 400)
    plan = network(tmp_path, "convex", seed)
    inputs = boxes_of(plan, seed, 1.0)
    found = expand(plan, inputs).bound(plan.graph.outputs[0], rows_of(plan)[:, :1])
    low, high = (end.flatten(1) for end in inputs[plan.graph.inputs[0]])
    with torch.enable_grad():  # the truth by projected gradients on the network itself
        x = (0.5 * (low + high)).clone()
        for _ in range(3000):
            x.requires_grad_(True)
            (slope,) = torch.autograd.grad(values_at(plan, x.unsqueeze(0)).sum(), x)
            x = torch.minimum(torch.maximum(x.detach() - 0.01 * slope, low), high)
    least = values_at(plan, x.detach().unsqueeze(0))[0]
    assert torch.allclose(found.value, least, rtol=0, atol=1e-4)
    assert (found.value <= least + 1e-9).all()


def test_forms_are_tighter_than_planes_of_single_products(tmp_path) -> None:
    plan = network(tmp_path, "layered", 1)
    inputs = boxes_of(plan, 1, 0.3)
    expansion = expand(plan, inputs)
    target = plan.graph.outputs[0]
    boxes = intermediate_boxes(plan, inputs, until=target)
    plain = backward(plan, target, rows_of(plan), relax_all(plan, target, boxes), inputs)
    found = expansion.bound(target, rows_of(plan)).value
    middle = values_at(plan, points(inputs)).amin(0)
    missing = [(middle - bound[:, :2]).mean() for bound in (plain, found)]
    assert missing[1] < missing[0]


def test_fixed_inputs_and_inputs_outside_the_columns(tmp_path) -> None:
    plan = network(tmp_path, "layered", 2)
    ((source, (low, high)),) = boxes_of(plan, 2, 0.5).items()
    low, high = low.clone(), high.clone()
    high[..., 1] = low[..., 1]
    for columns in ([0, 2], [0, 1, 2], [2]):
        inputs = {source: (low, high)}
        found = expand(plan, inputs, torch.tensor(columns)).bound(plan.graph.outputs[0], rows_of(plan))
        assert torch.isfinite(found.value).all()
        assert found.missed.shape == (DOMAINS, 5, len(columns))
        assert_below(plan, inputs, rows_of(plan), found)


def test_boxes_without_ends_prove_nothing(tmp_path) -> None:
    plan = network(tmp_path, "layered", 3)
    ((source, (low, high)),) = boxes_of(plan, 3, 0.5).items()
    low, high = low.clone(), high.clone()
    high[0, ..., 0], low[1], high[1] = torch.inf, -1e200, 1e200
    high[2, ..., 1] = torch.nan
    magnitudes = Magnitudes(plan, interval_boxes(plan, {source: (low[3:] - 1, high[3:] + 1)}))
    inputs = {source: (low, high)}
    target = plan.graph.outputs[0]
    boxes = intermediate_boxes(plan, inputs, until=target)
    lines = relax_all(plan, target, boxes)
    columns = torch.arange(3)
    expansion = expanded(plan, source, columns, products(plan, target), boxes, lines, inputs, magnitudes)
    found = expansion.bound(target, rows_of(plan))
    assert (found.value[:3] < -1e100).all() and not found.value.isnan().any()
    assert torch.isfinite(found.a).all() and torch.isfinite(found.value[3:]).all()


def test_what_eigenvalues_say_is_not_trusted(tmp_path, monkeypatch) -> None:
    plan = network(tmp_path, "layered", 4)
    inputs = boxes_of(plan, 4, 0.5)
    generator = torch.Generator().manual_seed(1)
    wrong = lambda form: 0.3 * torch.randn(form.shape, generator=generator, dtype=form.dtype)  # noqa: E731
    monkeypatch.setattr(quadratic, "_root", wrong)
    found = expand(plan, inputs).bound(plan.graph.outputs[0], rows_of(plan))
    assert_below(plan, inputs, rows_of(plan), found)

    def fails(form: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError

    monkeypatch.undo()
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    found = expand(plan, inputs).bound(plan.graph.outputs[0], rows_of(plan))
    assert_below(plan, inputs, rows_of(plan), found)


def test_selected_domains_keep_their_bounds(tmp_path) -> None:
    plan = network(tmp_path, "layered", 5)
    expansion = expand(plan, boxes_of(plan, 5, 0.5))
    whole = expansion.bound(plan.graph.outputs[0], rows_of(plan))
    index = torch.tensor([1, 4])
    part = expansion.select(index).bound(plan.graph.outputs[0], rows_of(plan))
    assert torch.allclose(part.value, whole.value[index], rtol=1e-10, atol=1e-10)
