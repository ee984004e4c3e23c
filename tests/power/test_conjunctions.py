"""Conjunctions whose rows can each be violated, but not together: trees that weigh the rows are far smaller."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from provenn.bounds.graph import read_onnx
from provenn.bounds.graph.lattice import lattice
from provenn.specs import read_query
from provenn.verifier.exact import neuron_leaves
from provenn.verifier.fixed import Fixed
from provenn.verifier.problem import Clauses, Problem, dense_clauses
from provenn.verifier.rebound import Rebound
from provenn.verifier.root import root_facts
from provenn.verifier.search import Search

from .test_counts import LIMIT, networks, nothing

pytestmark = pytest.mark.power


def conjunction(family: str, seed: int, folder: Path) -> tuple[Problem, Clauses]:
    """Every output on one side of its middle, out of reach by a fiftieth of the spread."""
    network = networks.random_network(seed, family)
    random = np.random.default_rng(seed)
    y = network.outputs(random.uniform(network.lower, network.upper, (20000, len(network.lower))))
    signs = np.where(np.arange(y.shape[1]) % 2 == 0, 1.0, -1.0)
    margin = signs * (y - np.median(y, 0))
    least = float(margin.max(1).min() - 0.02 * np.ptp(margin.max(1)))
    rows = [
        (sign * unit, float(np.float32(sign * middle + least)))
        for sign, unit, middle in zip(signs, np.eye(y.shape[1]), np.median(y, 0), strict=True)
    ]
    assert all((y @ row).min() < threshold for row, threshold in rows), "a row alone excludes all"
    onnx = networks.write_onnx(network, folder / "network.onnx")
    vnnlib = networks.write_property(network, [rows], folder / "property.vnnlib")
    query = read_query(vnnlib, network.steps[0].size, network.steps[-1].size, "float32")
    problem = Problem(lattice(read_onnx(onnx)), query, torch.device("cpu"))
    return problem, dense_clauses(next(iter(query.batches(1))), problem.outputs, problem.device)


@pytest.mark.parametrize("family, seed, most", [("dense", 40, 160), ("dense", 43, 90)])
@torch.no_grad()
def test_neuron_splits(family: str, seed: int, most: int, tmp_path) -> None:
    """A tree of neuron splits needs two thirds of ``most``, without weights more than twice that."""
    problem, clauses = conjunction(family, seed, tmp_path)
    until = time.monotonic() + LIMIT
    facts = root_facts(problem, clauses.lower, clauses.upper, steps=20, deadline=until)
    bounder = Fixed(problem, clauses, facts, steps=8)
    search = Search(bounder, batch=64, check=nothing, progress=nothing, leaf=neuron_leaves(bounder))
    assert search.run(until) == "refuted"
    assert search.domains <= most


@pytest.mark.parametrize("family, seed", [("dense", 41), ("dense", 43)])
@torch.no_grad()
def test_input_splits(family: str, seed: int, tmp_path, monkeypatch) -> None:
    """A tree of input splits without weights of the rows is at least a quarter larger."""
    made, found = conjunction(family, seed, tmp_path), []
    for weighted in (True, False):
        if not weighted:
            monkeypatch.setattr(Rebound, "_combined", unweighted)
        search = Search(Rebound(*made), batch=64, check=nothing, progress=nothing)
        assert search.run(time.monotonic() + LIMIT) == "refuted"
        found.append(search.domains)
    assert found[1] >= 1.25 * found[0], found


def unweighted(_bounder, rows, threshold, margin, a, *_) -> tuple[torch.Tensor, torch.Tensor]:
    """No combination of rows promises anything."""
    return margin.new_full((len(margin), 1), -torch.inf), a.new_zeros(len(a), 1, a.shape[2])
