"""Scores of splits, splits of factors, and what children inherit."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from torch import Tensor

from provenn.bounds.graph import evaluate, read_onnx
from provenn.specs import read_query
from provenn.verifier import Options, verify
from provenn.verifier.changes import Change
from provenn.verifier.fixed import Fixed
from provenn.verifier.options import SCORES
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Problem
from provenn.verifier.root import root_facts
from provenn.verifier.scores import Bounded, at_minimiser, by_intercept, gap
from provenn.verifier.shortcuts import MULTIPLIERS, Shortcuts

from .networks import box, layers, property_text, save


def problem_of(network: Path, inputs: int, threshold: float = 0.0) -> Problem:
    path = network.with_suffix(".vnnlib")
    condition = f"(assert (<= Y_0 {threshold}))"
    path.write_bytes(property_text(inputs, 1, box([("-1", "1")] * inputs), condition))
    return Problem(read_onnx(network), read_query(str(path), inputs, 1, "float32"), torch.device("cpu"))


def bounder_of(problem: Problem, **options) -> Fixed:
    clauses = problem.clauses(next(problem.query.batches(1)))
    facts = root_facts(problem, clauses.lower, clauses.upper, steps=0, deadline=float("inf"))
    return Fixed(problem, clauses, facts, **{"steps": 4, **options})


def network(tmp_path: Path, activation: str, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    sizes = (4, 8, 8, 1)
    weights = [2 * random.normal(size=(n, m)) / n**0.5 for n, m in itertools.pairwise(sizes)]
    return layers(tmp_path / "net.onnx", activation, weights, [0.3 * random.normal(size=m) for m in sizes[1:]])


def product(tmp_path: Path) -> Path:
    """``tanh(A x + a) * (B x + b)``, summed."""
    random = np.random.default_rng(3)
    weights = {name: random.normal(size=(3, 5)).astype(np.float32) for name in ("A", "B")}
    nodes = [
        helper.make_node("MatMul", ["X", "A"], ["P"]),
        helper.make_node("Tanh", ["P"], ["T"]),
        helper.make_node("MatMul", ["X", "B"], ["Q"]),
        helper.make_node("Mul", ["T", "Q"], ["R"]),
        helper.make_node("MatMul", ["R", "S"], ["Y"]),
    ]
    return save(tmp_path / "net.onnx", nodes, 3, 1, **weights, S=random.normal(size=(5, 1)).astype(np.float32))


def rounds(bounder: Fixed, count: int) -> list[tuple[Fields, Fields]]:
    """Pairs of split domains and their bounded children."""
    fields, _ = bounder.bound(bounder.roots())
    result = []
    for _ in range(count):
        children, _ = bounder.bound(bounder.split(fields))
        result.append((fields, children))
        fields = {k: v[:24] for k, v in children.items()}
    return result


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_a_multiplier_at_work_keeps_its_side(seed: int, tmp_path) -> None:
    """A second split of an element keeps the constraint whose multiplier is positive: for the constraint of the other
    side the multiplier would be wrong, and children far looser than their parent."""
    bounder = bounder_of(problem_of(network(tmp_path, "Tanh", seed), 4, 50.0), steps=12)
    fields, _ = bounder.bound(bounder.roots())
    column, kept = fields["column"], 0
    for _ in range(4):
        count = fields["bound"].shape[0]
        fields = dict(fields, column=column.expand(count).clone())
        fields["point"] = bounder._points(fields, fields["column"])
        children = bounder.split(fields)
        sign, old = children["sign"][:, column[0]], fields["sign"][:, column[0]].repeat(2)
        multiplier = children["parameters"][:, 0, bounder._multipliers + column[0]]
        assert (sign[multiplier > 0] == old[multiplier > 0]).all()
        new = torch.tensor([-1, 1], dtype=torch.int8).repeat_interleave(count)
        assert (sign[multiplier == 0] == new[multiplier == 0]).all()
        kept += int((multiplier > 0).sum())
        fields, _ = bounder.bound(children)
    assert kept


@pytest.mark.parametrize("score", SCORES)
@torch.no_grad()
def test_no_score_loses_a_sample(score: str, tmp_path) -> None:
    """Values of every sample stay in an open domain, whose bound is below what the sample gives; factors are split."""
    problem = problem_of(product(tmp_path), 3, 1e3)
    bounder = bounder_of(problem, score=score)
    x = 2 * torch.rand(400, *problem.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 1
    values = evaluate(problem.graph, [x], keep="all")
    samples = bounder._gather({v: values[v] for v in bounder.columns.values})
    output = values[problem.output].flatten(1)
    split: set[int] = set()
    for parents, children in rounds(bounder, 5):
        chosen = parents["column"].tolist()
        split |= {v for v, _, place in bounder.columns for c in chosen if place.start <= c < place.stop}
        every = bounder.split(parents)
        inside = contains(every, samples)
        before = contains(parents, samples)
        assert (inside.sum(0) >= before.sum(0)).all()
        held = contains(children, samples)
        for i in held.any(1).nonzero().flatten().tolist():
            truth = output[held[i]].amin() - 1e3
            assert float(children["bound"][i]) <= float(truth) + 1e-4 * (1 + abs(float(truth)))
    (node,) = (i for i, n in enumerate(problem.graph.nodes) if n.operator == "mul")
    assert split & set(problem.graph.nodes[node].inputs)


def contains(fields: Fields, samples: Tensor) -> Tensor:
    """Which samples ``[domains, samples]`` lie in which domains."""
    low, high = fields["lower"].double().unsqueeze(1), fields["upper"].double().unsqueeze(1)
    return ((samples >= low) & (samples <= high)).all(2)


@torch.no_grad()
def test_shortcuts_contain_samples(tmp_path) -> None:
    problem = problem_of(network(tmp_path, "Sigmoid"), 4)
    bounder = bounder_of(problem)
    e = 2 * torch.rand(300, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 1
    found = bounder.shortcuts
    assert found is not None
    lower, upper = (end.flatten() for end in bounder.inputs[torch.float64][problem.input])
    x = 0.5 * (lower + upper) + 0.5 * (upper - lower) * e
    values = evaluate(problem.graph, [x.view(-1, *problem.input_shape)], keep="all")
    z = bounder._gather({v: values[v] for v in bounder.columns.values})
    lower, upper = (e @ found.slopes[i].double().T + found.offsets[i] for i in (0, 1))
    assert (lower <= z + 1e-4).all() and (z <= upper + 1e-4).all()
    assert float((upper - lower).min()) < 0.1 * float((upper - lower).max())


def test_gains_are_those_of_concretised_coefficients() -> None:
    """Against a sum over all elements of the value for every candidate, side and multiplier."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    places, inputs, domains = (slice(0, 3), slice(3, 8)), 4, 2
    shortcuts = Shortcuts(draw(2, 8, inputs), draw(2, 8), places)
    change = Change(draw(2, domains, 8), draw(2, domains, 8), draw(1, domains, 8).expand(2, -1, -1))
    columns, point = torch.tensor([[0, 5, 7], [4, 1, 2]]), draw(domains, 3)

    def bound(coefficients: Tensor, place: slice) -> float:
        total, offset = torch.zeros(inputs), 0.0
        for c, k in zip(range(place.start, place.stop), coefficients, strict=True):
            side = int(k < 0)
            total, offset = total + k * shortcuts.slopes[side, c], offset + float(k * shortcuts.offsets[side, c])
        return offset - float(total.abs().sum())

    found = shortcuts.gains(columns, change, point)
    for n, k, (side, sign) in itertools.product(range(domains), range(3), enumerate((-1.0, 1.0))):
        column = int(columns[n, k])
        place = next(p for p in places if p.start <= column < p.stop)
        before = change.before[0, n, place]
        steepest = float(before[column - place.start].abs() + change.slope[:, n, column].abs().amax())
        best = -math.inf
        for multiplier in (share * steepest for share in MULTIPLIERS):
            after = before.clone()
            after[column - place.start] += change.slope[side, n, column] - sign * multiplier
            best = max(best, bound(after, place) - bound(before, place) + sign * multiplier * float(point[n, k]))
        assert float(found[side, n, k]) == pytest.approx(best + float(change.offset[side, n, column]), abs=1e-4)


def bounded_root(bounder: Fixed) -> tuple[Bounded, Tensor]:
    fields = bounder.roots()
    objective, found = bounder.improved(fields)
    one = torch.zeros(1, dtype=torch.int64)
    every = torch.arange(bounder.columns.total).expand(1, -1)
    bounded = Bounded(bounder.starts[torch.float32], bounder.columns, objective.boxes, found, one, one)
    return bounded, bounder._points(fields, every)


@torch.no_grad()
def test_a_relu_gains_its_gap_and_an_intercept_its_chord(tmp_path) -> None:
    """Without steps, coefficients of the last layer select the chord or not; a child without a gap gains all of it."""
    bounder = bounder_of(problem_of(network(tmp_path, "Relu"), 4), steps=0)
    bounded, points = bounded_root(bounder)
    value = bounder.columns.values[-1]
    (reader,) = bounded.readers(value)
    offset = reader.lines.upper_offset
    assert offset is not None
    expected = -reader.negative * offset.squeeze(1) * 1.1  # both children gain the offset
    place = slice(bounder.columns.start[-1], bounder.columns.total)
    elements = bounder.columns.elements[-1]
    assert torch.allclose(by_intercept(bounded, points)[:, place], expected.flatten(1)[:, elements], atol=1e-5)
    score = at_minimiser(bounded, points)
    assert torch.equal(score[:, place], gap(bounded, value).flatten(1)[:, elements])
    assert (score >= -1e-4).all() and float(score.max()) > 0


@pytest.mark.parametrize("branching", ["all", "neurons", "none"])
def test_what_is_not_split_is_not_decided(branching: str, tmp_path) -> None:
    path = network(tmp_path, "Relu", 1)
    problem = problem_of(path, 4)
    x = (3 * torch.rand(20000, *problem.input_shape, dtype=torch.float64) - 1.5).clamp(-1, 1)
    least = float(evaluate(problem.graph, [x])[0].min())
    problem_of(path, 4, least - 0.05)
    result = verify(path, path.with_suffix(".vnnlib"), Options(timeout=20, device="cpu", branching=branching))
    assert result.verdict == ("unknown" if branching == "none" else "unsat"), result.reason
