"""What a round of the tree costs apart from arithmetic: no autograd graph, no Python work per domain."""

from __future__ import annotations

import cProfile
import gc
import pstats
import time
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

from provenn.bounds.graph import read_onnx
from provenn.bounds.propagate import intermediate
from provenn.bounds.propagate.optimise import Schedule, optimise
from provenn.specs import read_query
from provenn.verifier import halving
from provenn.verifier.fixed import Fixed
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Problem, dense_clauses
from provenn.verifier.rebound import Rebound
from provenn.verifier.root import root_facts

from .small import dense, residual

MANY = 1024


def problem_of(folder: Path, make=dense, inputs: int = 4) -> tuple:
    """A network with one clause that no bound refutes, and its facts."""
    path = folder / "network.onnx"
    if make is dense:
        dense(path, ("Relu", "Relu", "Relu"))
    else:
        make(path)
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)] + [f"(declare-const Y_{i} Real)" for i in range(3)]
    lines += [f"(assert (>= X_{i} -0.5))\n(assert (<= X_{i} 0.5))" for i in range(inputs)]
    lines.append("(assert (<= Y_0 100))")
    (folder / "property.vnnlib").write_text("\n".join(lines))
    query = read_query(folder / "property.vnnlib", inputs, 3, "float32")
    problem = Problem(read_onnx(path), query, torch.device("cpu"))
    clauses = dense_clauses(next(iter(query.batches(1))), problem.outputs, problem.device)
    return problem, clauses


def bounder_of(kind: str, folder: Path, make=dense, inputs: int = 4) -> Fixed | Rebound:
    problem, clauses = problem_of(folder, make, inputs)
    if kind == "rebound":
        return Rebound(problem, clauses)
    facts = root_facts(problem, clauses.lower, clauses.upper, steps=2, deadline=time.monotonic() + 60)
    return Fixed(problem, clauses, facts, steps=4, candidates=2)


def opened(bounder: Fixed | Rebound) -> Fields:
    """One open domain that was split and bounded, with all it inherits."""
    fields, _ = bounder.bound(bounder.roots())
    fields, _ = bounder.bound(bounder.split(fields))
    assert len(fields["bound"]) and bool(bounder.splittable(fields).all())
    return {k: v[:1] for k, v in fields.items()}


def round_of(bounder: Fixed | Rebound, fields: Fields) -> Fields:
    """One round of the search: split, bound, see what can be split again."""
    open_, _ = bounder.bound(bounder.split(fields))
    bounder.splittable(open_)
    return open_


def calls(run) -> int:
    """Python functions and built-in ones that a call enters."""
    run()  # what is made once is made
    gc.collect()
    gc.disable()
    profile = cProfile.Profile()
    profile.enable()
    run()
    profile.disable()
    gc.enable()
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["fixed", "rebound"])
@torch.no_grad()
def test_calls_of_a_round(kind: str, tmp_path, monkeypatch) -> None:
    """As many calls for 1,024 domains as for one: nothing loops over domains.

    Dead elements and lines that differ on few elements are treated apart from some number of domains on, and dead
    elements sought first; here from the first one.
    """
    monkeypatch.setattr(intermediate, "_WORTH_NARROWING", 0)
    monkeypatch.setattr(intermediate, "_WORTH", 0)
    monkeypatch.setattr(intermediate, "_LARGE", 0)
    monkeypatch.setattr(halving, "AXES", 1)  # few domains are halved twice
    bounder = bounder_of(kind, tmp_path)
    one = opened(bounder)
    many = {k: v.repeat_interleave(MANY, 0) for k, v in one.items()}
    few, more = calls(lambda: round_of(bounder, one)), calls(lambda: round_of(bounder, many))
    assert few == more > 100


def calls_of_a_step(bounder: Fixed, fields: Fields) -> int:
    objective = bounder.objective(fields, torch.float32)
    start = objective.start()
    more, few = (calls(lambda: optimise(objective, Schedule(steps=n), start=start)) for n in (6, 3))  # noqa: B023
    return more - few


@torch.no_grad()
def test_calls_of_a_step(tmp_path) -> None:
    """A step of slopes and multipliers costs the same calls however many domains; for one domain at most that."""
    bounder = bounder_of("fixed", tmp_path)
    assert isinstance(bounder, Fixed)
    one = opened(bounder)
    found = [
        calls_of_a_step(bounder, {k: v.repeat_interleave(count, 0) for k, v in one.items()})
        for count in (1, 2, MANY)
    ]
    assert 0 < found[0] <= found[1] == found[2]


class NoGraph(TorchFunctionMode):
    """Fails at the first tensor with a history."""

    tensors = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.tensors += 1
                assert tensor.grad_fn is None and not tensor.requires_grad, function
        return result


@pytest.mark.parametrize("make, inputs", [(dense, 4), (residual, 72)])
@pytest.mark.parametrize("kind", ["fixed", "rebound"])
def test_no_graph_in_the_tree(kind: str, make, inputs: int, tmp_path) -> None:
    """No tensor of a round has a history, even where autograd is switched on."""
    bounder = bounder_of(kind, tmp_path, make, inputs)
    one = opened(bounder)
    with torch.enable_grad(), NoGraph() as seen:
        fields = round_of(bounder, one)
    assert seen.tensors > 100
    assert all(v.grad_fn is None and not v.requires_grad for v in fields.values())
