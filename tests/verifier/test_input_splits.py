"""Splits of inputs: the children of a domain are all of it, four while they fit into one pass."""

from __future__ import annotations

import torch

from provenn.verifier.rebound import Rebound

from .test_scores import network, problem_of


@torch.no_grad()
def test_children_cover_their_parent(tmp_path) -> None:
    problem = problem_of(network(tmp_path, "Tanh"), 4, threshold=-0.5)
    bounder = Rebound(problem, problem.clauses(next(problem.query.batches(1))))
    open_, _ = bounder.bound(bounder.roots())
    assert open_["clause"].numel() == 1
    x = 2 * torch.rand(2000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 1
    for few, count in ((4, 4), (1, 2)):
        bounder.at_once = few
        children = bounder.split(open_)
        lower, upper = children["lower"].unsqueeze(1), children["upper"].unsqueeze(1)
        inside = ((x >= open_["lower"]) & (x <= open_["upper"])).all(1)
        held = ((x >= lower) & (x <= upper)).all(2).any(0)
        assert lower.shape[0] == count and torch.equal(inside, held) and bool(inside.any())
        volume = (upper - lower).prod(2).sum()
        assert torch.allclose(volume, (open_["upper"] - open_["lower"]).prod(1).sum())
        assert (children["depth"] == count // 2).all()
