"""Passes in parts are the whole: windows, runs of rows, runs of domains, lines that differ on few elements."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from provenn.bounds.propagate import intermediate, sieve
from provenn.bounds.propagate.backward import backward, concretise, least
from provenn.bounds.propagate.coefficients import Windows, by_place, channels_last, elements_of
from provenn.bounds.propagate.intermediate import intermediate_boxes, one_hot, read_by_relus
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError

from .small import MAKERS, Case, case, convolutional, residual


def large(name: str, folder) -> Case:
    """An image large enough for windows to be smaller."""
    maker = {"convolutional": convolutional, "residual": residual}[name]
    MAKERS[f"large {name}"] = lambda path: maker(path, 13)
    try:
        return case(f"large {name}", folder, radius=0.1)
    finally:
        del MAKERS[f"large {name}"]


@pytest.mark.parametrize("name", ["convolutional", "residual"])
@pytest.mark.parametrize("proven", [False, True])
def test_windows_are_dense_passes(name: str, proven: bool, tmp_path) -> None:
    """Rows of single elements that keep to their windows have the bounds of dense rows, less a like error."""
    made = large(name, tmp_path)
    plan = made.plan
    magnitudes = Magnitudes(plan, interval_boxes(plan, made.inputs))
    windowed = 0
    for value in plan.bounded:
        extents = plan.extents(value)
        if value in made.inputs or extents[value] is None:
            continue
        windowed += any(e is not None and e.area > 1 for e in extents.values())
        lines = relax_all(plan, value, made.boxes)
        elements = torch.arange(0, plan.size(value), 7)
        elements = elements[by_place(plan.shape(value), elements)]
        error = lambda: RoundingError(plan, magnitudes) if proven else None  # noqa: E731
        weights = torch.ones(1, elements.numel(), dtype=plan.dtype)
        rows = elements_of(plan.shape(value), elements, weights, extents[value])
        apart = backward(plan, value, rows, lines, made.inputs, error=error(), extents=extents)
        dense = one_hot(plan, value, elements)[:, : elements.numel()]
        whole = backward(plan, value, dense, lines, made.inputs, error=error())
        assert (apart - whole).abs().max() <= 1e-10 * (1 + whole.abs().max()), value
        if proven:
            exact = backward(plan, value, dense, lines, made.inputs)
            assert (apart < exact).all() and (whole < exact).all()
    assert windowed >= 2


def same(found: Mapping[int, Box], expected: Mapping[int, Box]) -> None:
    assert found.keys() == expected.keys()
    for value, ends in expected.items():
        for one, other in zip(found[value], ends, strict=True):
            assert (one - other).abs().max() <= 1e-10 * (1 + other.abs().max()), value


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_runs_of_domains(name: str, tmp_path, monkeypatch) -> None:
    """Each domain gets its own boxes back. (Within a run an element is bounded in all domains or in none.)"""
    made = case(name, tmp_path, domains=7)
    runs = [slice(0, 3), slice(3, 6), slice(6, 7)]
    apart = []
    for run in runs:
        inputs = {v: (b[0][run], b[1][run]) for v, b in made.inputs.items()}
        apart.append(intermediate_boxes(made.plan, inputs, until=made.target))
    monkeypatch.setattr(intermediate, "domains_at_once", lambda plan: 3)
    together = intermediate_boxes(made.plan, made.inputs, until=made.target)
    for run, boxes in zip(runs, apart, strict=True):
        same({v: (b[0][run], b[1][run]) for v, b in together.items()}, boxes)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_runs_of_rows(name: str, tmp_path, monkeypatch) -> None:
    made = case(name, tmp_path)
    monkeypatch.setattr(intermediate, "rows_per_chunk", lambda plan, value, domains: 2)
    same(intermediate_boxes(made.plan, made.inputs, until=made.target), made.boxes)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_narrow_lines(name: str, tmp_path, monkeypatch) -> None:
    """Treating apart the elements whose lines differ, and leaving out dead ones, changes no bound."""
    made = case(name, tmp_path)
    for worth in (0, 1 << 40):
        monkeypatch.setattr(intermediate, "_WORTH_NARROWING", worth)
        monkeypatch.setattr(intermediate, "_WORTH", worth)
        same(intermediate_boxes(made.plan, made.inputs, until=made.target), made.boxes)


@pytest.mark.parametrize("name", sorted(MAKERS))
@pytest.mark.parametrize("domains", [1, 3])
def test_dead_first(name: str, domains: int, tmp_path, monkeypatch) -> None:
    """Looking for dead elements first changes nothing but the lower ends of those that are dead in every domain."""
    made = case(name, tmp_path, domains=domains)
    plan = made.plan
    monkeypatch.setattr(intermediate, "_COSTLY", 1 << 60)
    monkeypatch.setattr(intermediate, "_LARGE", 1 << 60)
    expected = intermediate_boxes(plan, made.inputs, until=made.target)
    monkeypatch.setattr(intermediate, "_LARGE", 0)
    found = intermediate_boxes(plan, made.inputs, until=made.target)
    for value, (low, high) in expected.items():
        dead = (high <= 0).all(0) if plan.consumers[value] and read_by_relus(plan, value) else high[0] < high[0]
        assert torch.equal((found[value][1] <= 0).all(0)[dead], dead[dead])
        for one, other in zip(found[value], (low, high), strict=True):
            assert ((one - other).abs() <= 1e-10 * (1 + other.abs()))[:, ~dead].all(), value


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_intervals_in_float32(name: str, tmp_path) -> None:
    """Intervals in float32, made without rounding errors, are those of float64 but for roundings."""
    made = case(name, tmp_path)
    rough = Plan(made.plan.graph, torch.float32)
    expected = interval_boxes(made.plan, made.inputs)
    found = interval_boxes(rough, {v: (b[0].float(), b[1].float()) for v, b in made.inputs.items()})
    for value, ends in expected.items():
        for one, other in zip(found[value], ends, strict=True):
            assert (one - other).abs().max() <= 1e-4 * (1 + other.abs().max()), value


@pytest.mark.parametrize("proven", [False, True])
def test_sieved_windows(proven: bool, tmp_path, monkeypatch) -> None:
    """Windows of rows that are settled before the last step are dropped; every box still contains sampled values."""
    made = large("residual", tmp_path)
    plan = made.plan
    monkeypatch.setattr(intermediate, "_COSTLY", 0)
    monkeypatch.setattr(sieve, "WORTH", 0)
    monkeypatch.setattr(sieve, "SHARE", 0.0)
    dropped, test = [0], sieve.Sieve.test

    def counted(self, index, a, offset, error):
        before = self.rows.numel()
        keep = test(self, index, a, offset, error)
        dropped[0] += before - self.rows.numel() if isinstance(a, Windows) else 0
        return keep

    monkeypatch.setattr(sieve.Sieve, "test", counted)
    magnitudes = Magnitudes(plan, interval_boxes(plan, made.inputs)) if proven else None
    boxes = intermediate_boxes(plan, made.inputs, magnitudes=magnitudes, until=made.target)
    assert dropped[0] > 0
    generator = torch.Generator().manual_seed(3)
    (source, (lower, upper)), *_ = made.inputs.items()
    for _ in range(20):
        point = torch.where(torch.rand(lower.shape, generator=generator) < 0.5, lower, upper)
        for value, (low, high) in interval_boxes(plan, {source: (point, point)}).items():
            if value in boxes:
                room = 0.0 if proven else 1e-9
                assert (boxes[value][0] <= high + room).all() and (boxes[value][1] >= low - room).all(), value


@pytest.mark.parametrize("domains", [1, 3])
def test_least_is_the_minimum_over_the_box(domains: int) -> None:
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(domains, 4, 1, 2, 3, 3, generator=generator, dtype=torch.float64)
    lower = torch.randn(domains, 1, 2, 3, 3, generator=generator, dtype=torch.float64)
    upper = lower + torch.rand(lower.shape, generator=generator, dtype=torch.float64)
    low, high = lower.unsqueeze(1), upper.unsqueeze(1)
    wanted = torch.minimum(a * low, a * high).flatten(2).sum(2)
    for rows in (a, channels_last(a)):
        torch.testing.assert_close(least(rows, (lower, upper)), wanted)
        torch.testing.assert_close(concretise(rows, (lower, upper)), wanted)
