"""Disjuncts stay apart: each has its box, its rows and its clips, whichever search decides them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph import read_onnx
from provenn.bounds.propagate.intermediate import merge
from provenn.specs import read_query
from provenn.verifier import Options, verify
from provenn.verifier.clip import clip_box
from provenn.verifier.problem import Problem
from provenn.verifier.rebound import Rebound

from .networks import Network, random_network, write_onnx

BOXES = 5


def property_of(network: Network, thresholds: list[float], which: list[int], path):
    """A disjunction: clause i has its own part of the first input's range, and a threshold on an output."""
    inputs, outputs = network.steps[0].size, network.steps[-1].size
    ends = np.linspace(network.lower[0], network.upper[0], BOXES + 1).astype(np.float32)
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i in range(1, inputs):
        lines.append(
            f"(assert (>= X_{i} {network.lower[i]:.10f}))\n(assert (<= X_{i} {network.upper[i]:.10f}))"
        )
    clauses = [
        f"(and (>= X_0 {ends[i]:.10f}) (<= X_0 {ends[i + 1]:.10f}) (<= Y_{which[i]} {thresholds[i]:.10f}))"
        for i in range(BOXES)
    ]
    lines.append("(assert (or " + " ".join(clauses) + "))")
    path.write_text("\n".join(lines))
    return path


def lowest(network: Network, which: list[int]) -> tuple[np.ndarray, float]:
    """The least sampled output of each clause's box, and the spread of all outputs."""
    random = np.random.default_rng(0)
    x = random.uniform(network.lower, network.upper, (40000, len(network.lower)))
    y = network.outputs(x)
    ends = np.linspace(network.lower[0], network.upper[0], BOXES + 1)
    part = np.clip(np.searchsorted(ends, x[:, 0]) - 1, 0, BOXES - 1)
    return np.array([y[part == i, which[i]].min() for i in range(BOXES)]), float(np.ptp(y, axis=0).max())


@pytest.mark.parametrize("limit", [256, 0], ids=["input splits", "neuron splits"])
@pytest.mark.parametrize("violated", [None, 0, 2, 4])
def test_one_violated_disjunct_among_many(limit: int, violated: int | None, tmp_path) -> None:
    network = random_network(3, "dense", small=True)
    which = [i % 2 for i in range(BOXES)]
    least, spread = lowest(network, which)
    thresholds = [float(v) - 0.2 * spread for v in least]
    if violated is not None:
        thresholds[violated] = float(least[violated]) + 1e-3 * spread
    onnx = write_onnx(network, tmp_path / "network.onnx")
    vnnlib = property_of(network, thresholds, which, tmp_path / "property.vnnlib")
    options = Options(timeout=20, threads=1, device="cpu", input_split_limit=limit)
    result = verify(onnx, vnnlib, options)
    assert result.verdict == ("unsat" if violated is None else "sat")
    if violated is not None:
        ends = np.linspace(network.lower[0], network.upper[0], BOXES + 1).astype(np.float32)
        assert ends[violated] <= result.witness.inputs[0] <= ends[violated + 1]


def test_every_root_is_its_clause_in_its_box(tmp_path) -> None:
    """Seen without an attack, which finds violations first and hides a wrong box."""
    network = random_network(3, "dense", small=True)
    which = [i % 2 for i in range(BOXES)]
    least, _ = lowest(network, which)
    onnx = write_onnx(network, tmp_path / "network.onnx")
    vnnlib = property_of(network, [float(v) - 100.0 for v in least], which, tmp_path / "property.vnnlib")
    query = read_query(str(vnnlib), network.steps[0].size, network.steps[-1].size, "float32")
    problem = Problem(read_onnx(onnx), query, torch.device("cpu"))
    clauses = problem.clauses(next(iter(query.batches(BOXES))))
    bounder = Rebound(problem, clauses)
    roots = bounder.roots()
    ends = np.linspace(network.lower[0], network.upper[0], BOXES + 1).astype(np.float32).astype(float)
    for fields in (roots, bounder.split(roots)):
        for i in range(BOXES):
            mine = fields["clause"] == i
            assert float(fields["lower"][mine, 0].min()) == pytest.approx(ends[i], abs=1e-6)
            assert float(fields["upper"][mine, 0].max()) == pytest.approx(ends[i + 1], abs=1e-6)
            row = clauses.rows[i, 0]
            assert row.nonzero().flatten().tolist() == [which[i]]
            assert float(clauses.threshold[i, 0]) == pytest.approx(float(least[i]) - 100.0, abs=1e-4)


def test_a_clip_belongs_to_its_domain() -> None:
    """The rows of one domain clip that domain and no other."""
    lower, upper = torch.zeros(2, 1).double(), torch.ones(2, 1).double()
    a = torch.tensor([[[1.0]], [[1.0]]]).double()
    low, high = clip_box(lower, upper, a, torch.tensor([[-0.25], [-2.0]]).double())
    assert low.tolist() == [[0.0], [0.0]]
    assert high[0, 0] == pytest.approx(0.25) and high[1, 0] == 1.0
    low, high = clip_box(lower, upper, -a, torch.tensor([[-0.25], [-2.0]]).double())
    assert low[0, 0] == pytest.approx(0.75) and low[1, 0] == 0.0 and high.tolist() == [[1.0], [1.0]]


def test_merging_bounds_never_loosens() -> None:
    """A bound that is not a number, or looser than what is known, changes nothing."""
    nan = float("nan")
    box = (torch.tensor([[-1.0, -1.0, -1.0, -1.0]]), torch.tensor([[1.0, 1.0, 1.0, 1.0]]))
    lower, upper = torch.tensor([[nan, -5.0, -0.5]]), torch.tensor([[nan, 5.0, 0.5]])
    low, high = merge(box, torch.tensor([0, 1, 3]), lower, upper)
    assert low.tolist() == [[-1.0, -1.0, -1.0, -0.5]]
    assert high.tolist() == [[1.0, 1.0, 1.0, 0.5]]
