"""How well each score of splits foretells what a split gains.

Usage: python benchmarks/split_scores.py NETWORK PROPERTY [--domains 1] [--steps 8]
All splits of a domain are made and their children bounded, with slopes and multipliers optimised as in the tree (8
steps): what the worse child gains over its parent, and a tenth of what the better one does, is what scores foretell.
The first domain is the root of the clause that the root's bounds leave open and almost refute, the next ones are the
worst of its tree. Prints a markdown table: Pearson's and Spearman's correlation, and the gain of the split that has
the best score as a share of the best gain. ``children`` are the children's bounds before any step, for comparison.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import read_onnx
from provenn.bounds.propagate.optimise import Schedule, optimise
from provenn.specs import read_query
from provenn.verifier import scores as scores_of_splits
from provenn.verifier.fixed import Fixed
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Problem
from provenn.verifier.root import outputs_bound, root_facts
from provenn.verifier.scores import Bounded, worse

WAYS = ("minimiser", "shortcut", "intercept")
AT_ONCE = 256


class Watched(Fixed):
    """Keeps what the last choice of splits was made from."""

    seen: tuple[Fields, Bounded, Tensor]

    def _scores(self, fields: Fields, bounded: Bounded, allowed: Tensor) -> Tensor:
        self.seen = fields, bounded, allowed
        return super()._scores(fields, bounded, allowed)


def bounder_of(network: Path, specification: Path, steps: int) -> Watched | None:
    """The tree's bounder of one open clause; None where the root leaves nothing open."""
    graph = read_onnx(network)
    inputs, outputs = graph.nodes[graph.inputs[0]].shape, graph.nodes[graph.outputs[0]].shape
    query = read_query(str(specification), math.prod(inputs), math.prod(outputs), "float32")
    problem = Problem(graph, query, torch.device("cpu"))
    clauses = problem.clauses(next(iter(query.batches(4096))))
    facts = root_facts(problem, clauses.lower, clauses.upper, steps=0, deadline=math.inf)
    facts = root_facts(problem, clauses.lower, clauses.upper, steps=20, deadline=math.inf, known=facts)
    refuted, best, _ = outputs_bound(problem, facts, clauses, steps=20)
    if bool(refuted.all()):
        return None
    chosen = best.masked_fill(refuted, -torch.inf).argmax()
    return Watched(problem, clauses.select(chosen[None]), facts, steps=steps)


def gains(bounder: Watched, fields: Fields, columns: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """What splits of ``columns`` of one domain gain, before and after ``steps`` of optimisation, ``[2, columns]``."""
    before, after = [], []
    for part in columns.split(AT_ONCE):
        each = {k: v[:1].repeat_interleave(part.numel(), 0) for k, v in fields.items()}
        each["column"], each["point"] = part, bounder._points(fields, part[None])[0]
        children = bounder.split(each)
        objective = bounder.objective(children, torch.float32)
        start, threshold = bounder._start(objective, children), bounder.threshold(children)
        never = torch.full_like(threshold.float(), 1e30)
        found = optimise(objective, Schedule(steps=steps), start=start, threshold=never, any_row=True)
        for bound, result in ((objective.bound(start)[0], before), (found.bound, after)):
            result.append((bound.double() - threshold).amax(1).view(2, -1) - fields["bound"][0])
    return torch.cat(before, 1), torch.cat(after, 1)


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("network", type=Path)
    parser.add_argument("property", type=Path)
    parser.add_argument("--domains", type=int, default=1, help="domains whose splits are all made (1)")
    parser.add_argument("--steps", type=int, default=8, help="steps of slopes and multipliers for a child (8)")
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    scores_of_splits.SHORTLIST = 1 << 30  # every split has a score
    bounder = bounder_of(given.network, given.property, given.steps)
    if bounder is None:
        print("the root refutes every clause")
        return
    open_, _ = bounder.bound(bounder.roots())
    print("| domain's bound | score | Pearson | Spearman | gain of its choice |\n|---|---|---|---|---|")
    for _ in range(given.domains):
        if open_["bound"].numel() == 0:
            break
        fields, bounded, allowed = bounder.seen
        columns = allowed[0].nonzero().squeeze(1)
        scores = {}
        for bounder.score in WAYS:
            scores[bounder.score] = bounder._scores(fields, bounded, allowed)[0, columns]
        before, after = gains(bounder, fields, columns, given.steps)
        scores["children"], truth = worse(before), worse(after).numpy()
        for name, score in scores.items():
            value = score.numpy()
            linear, rank = (np.corrcoef(f(value), f(truth))[0, 1] for f in (np.asarray, ranks))
            share = truth[value.argmax()] / truth.max()
            print(f"| {float(fields['bound'][0]):.4g} | {name} | {linear:.2f} | {rank:.2f} | {share:.0%} |", flush=True)
        open_, _ = bounder.bound(bounder.split({k: v[:1] for k, v in open_.items()}))
        worst = open_["bound"].argsort()[:1]
        if worst.numel():
            open_, _ = bounder.bound({k: v[worst] for k, v in open_.items()})


if __name__ == "__main__":
    main()
