"""What must be decided within a count, and bounds that must be at least this tight: counts, never seconds."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from provenn.bounds.graph import read_onnx
from provenn.bounds.graph.lattice import lattice
from provenn.specs import read_query
from provenn.verifier import halving
from provenn.verifier.exact import Programs, neuron_leaves
from provenn.verifier.fixed import Fixed
from provenn.verifier.problem import Clauses, Problem, dense_clauses
from provenn.verifier.program import Domain, Program
from provenn.verifier.rebound import Rebound
from provenn.verifier.root import Facts, _outputs_bound, root_facts
from provenn.verifier.search import Search

from ..soundness import networks

LIMIT = 120.0
pytestmark = pytest.mark.power


def instance(family: str, seed: int, distance: float, folder: Path) -> tuple[Problem, Clauses, Facts]:
    """A small network whose first output stays above its sampled minimum less ``distance`` of its spread."""
    network = networks.random_network(seed, family, small=True)
    random = np.random.default_rng(seed)
    x = random.uniform(network.lower, network.upper, (20000, len(network.lower)))
    x[:5000] = np.where(random.random((5000, len(network.lower))) < 0.5, network.lower, network.upper)
    y = network.outputs(x)[:, 0]
    threshold = float(np.float32(y.min() - distance * np.ptp(y)))
    onnx = networks.write_onnx(network, folder / "network.onnx")
    unit = np.eye(network.steps[-1].size)[0]
    vnnlib = networks.write_property(network, [[(unit, threshold)]], folder / "property.vnnlib")
    query = read_query(vnnlib, network.steps[0].size, network.steps[-1].size, "float32")
    problem = Problem(lattice(read_onnx(onnx)), query, torch.device("cpu"))
    clauses = dense_clauses(next(iter(query.batches(1))), problem.outputs, problem.device)
    facts = root_facts(problem, clauses.lower, clauses.upper, steps=20, deadline=time.monotonic() + LIMIT)
    return problem, clauses, facts


def nothing(*_) -> bool:
    """No witness, no progress."""
    return False


@pytest.mark.parametrize("family, seed, most", [
    ("dense", 21, 22), ("wide", 22, 58), ("conv", 23, 2), ("residual", 24, 6), ("pool", 25, 6), ("sign", 26, 2),
])  # fmt: skip
@torch.no_grad()
def test_linear_programs(family: str, seed: int, most: int, tmp_path) -> None:
    """A tree of programs needs half of ``most``."""
    search = Programs(*instance(family, seed, 0.1, tmp_path), check=nothing, progress=nothing)
    assert search.run(time.monotonic() + LIMIT) == "refuted"
    assert search.domains <= most


@pytest.mark.parametrize("family, seed, most", [
    ("dense", 21, 26), ("wide", 22, 1000), ("conv", 23, 2), ("residual", 24, 22), ("pool", 25, 6), ("sign", 26, 2),
])  # fmt: skip
@torch.no_grad()
def test_neuron_splits(family: str, seed: int, most: int, tmp_path) -> None:
    """A tree of neuron splits needs half of ``most``."""
    bounder = Fixed(*instance(family, seed, 0.1, tmp_path), steps=8, candidates=4)
    until = time.monotonic() + LIMIT
    search = Search(bounder, batch=64, check=nothing, progress=nothing, leaf=neuron_leaves(bounder))
    assert search.run(until) == "refuted"
    assert search.domains <= most


@pytest.mark.parametrize("family, seed, most", [("dense", 21, 34), ("residual", 24, 18)])
@torch.no_grad()
def test_input_splits(family: str, seed: int, most: int, tmp_path, monkeypatch) -> None:
    """A tree of input splits needs half of ``most``; halving two axes at once saves a third of its rounds, for at most
    half as many domains again."""
    problem, clauses, _ = instance(family, seed, 0.1, tmp_path)
    found = {}
    for axes in (1, 2):
        monkeypatch.setattr(halving, "AXES", axes)
        search = Search(Rebound(problem, clauses), batch=64, check=nothing, progress=nothing)
        assert search.run(time.monotonic() + LIMIT) == "refuted"
        found[axes] = search.rounds, search.domains
    assert found[1][1] <= most
    assert found[2][0] <= 2 / 3 * found[1][0] and found[2][1] <= 1.5 * found[1][1]


@pytest.mark.parametrize(
    "family, seed", [("dense", 31), ("wide", 32), ("conv", 33), ("residual", 34), ("pool", 35)]
)
@torch.no_grad()
def test_slopes_come_close_to_the_program(family: str, seed: int, tmp_path) -> None:
    """The program over the same boxes has the best slopes there are: 40 steps reach most of it."""
    problem, clauses, facts = instance(family, seed, 0.1, tmp_path)
    domain = Domain(facts.inputs, facts.boxes, {}, clauses.rows[0], clauses.threshold[0])
    found = Program(problem.plan(torch.float64), problem.output, domain).solve({})
    # By lines alone: the output's box, which no slope moves, may be better than unoptimised lines.
    plain, optimised = (
        _outputs_bound(problem, facts.slopes(problem, steps, math.inf), clauses.rows, clauses.threshold)[1]
        for steps in (0, 40)
    )
    assert found is not None
    assert plain[0] <= optimised[0] + 1e-9 <= found.margin + 1e-6
    assert found.margin - float(optimised[0]) <= 0.2 * (found.margin - float(plain[0])) + 1e-3
