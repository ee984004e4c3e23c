"""Splits of inputs: what boxes of the free inputs have in common, whatever is bounded over them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.quadratic import lines_of
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Problem
from provenn.verifier.sensitivity import Sensitivity

# Axes that a domain is halved along at once, while there are few domains.
AXES = 2


class Halving:
    """Domains ``(clause, lower, upper)`` whose columns are the free inputs, ``[domains, free]`` float64, split in the
    middle of the axes in their field ``axes``, the best one first."""

    at_once: int
    """Domains that are bounded in one pass."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.plan: Plan = problem.plan(torch.float64)
        self.free = problem.free_inputs
        self.sensitivity = Sensitivity(self.plan, problem.input, problem.output)

    def rooted(self, lower: Tensor, upper: Tensor) -> Fields:
        """One domain per clause, of given boxes of the free inputs."""
        index = torch.arange(len(lower), device=self.problem.device)
        return {
            "clause": index,
            "lower": lower,
            "upper": upper,
            "bound": torch.full((len(lower),), -torch.inf, dtype=torch.float64, device=self.problem.device),
            "depth": torch.zeros(len(lower), device=self.problem.device),
            "axes": index.new_zeros(len(lower), min(AXES, self.free.numel())),
        }

    def best_axes(
        self, direct: Tensor, rows: Tensor, lines: Mapping[int, Lines], index: Tensor, width: Tensor
    ) -> Tensor:
        """The axes to halve ``[domains, axes]`` of the domains ``index``: those with the largest shares of what the
        rows' linear bounds change over the box (``direct [domains, free]``) and of what the lines miss.

        ``rows [domains, *output]`` are magnitudes, ``lines`` those of all domains, ``width [domains, free]``.
        """
        reach = self.sensitivity(rows, {i: lines_of(n, index) for i, n in lines.items()})
        score = shares(direct) + shares(reach[:, self.free] * width) + 1e-6 * shares(width)
        return score.topk(min(AXES, self.free.numel()), 1).indices

    def split(self, fields: Fields) -> Fields:
        """Two children per domain, the best axis halved; four, the next one halved as well, while all fit into one
        pass: it takes hardly longer for them, and few domains are refuted before their second split."""
        children = self._halved(fields, 0)
        for place in range(1, fields["axes"].shape[1]):
            if 2 * children["bound"].shape[0] <= self.at_once:
                children = self._halved(children, place)
        return children

    @staticmethod
    def _halved(fields: Fields, place: int) -> Fields:
        """Two children per domain: the axis at a place of its ``axes`` halved."""
        axis = fields["axes"][:, place : place + 1]
        lower, upper = fields["lower"].gather(1, axis), fields["upper"].gather(1, axis)
        middle = lower + 0.5 * (upper - lower)
        fields = dict(fields, depth=fields["depth"] + 1)
        left = dict(fields, upper=fields["upper"].scatter(1, axis, middle))
        right = dict(fields, lower=fields["lower"].scatter(1, axis, middle))
        return {name: torch.cat([left[name], right[name]]) for name in fields}

    def splittable(self, fields: Fields) -> Tensor:
        """Whether the best axis still has an inner point."""
        axis = fields["axes"][:, :1]
        lower, upper = fields["lower"].gather(1, axis), fields["upper"].gather(1, axis)
        middle = lower + 0.5 * (upper - lower)
        return ((middle > lower) & (middle < upper)).any(1)


def shares(score: Tensor) -> Tensor:
    """Each axis's share of a non-negative score ``[domains, axes]``; an overflowed score says nothing."""
    score = torch.nan_to_num(score, nan=0.0, posinf=0.0)
    return score / score.sum(1, keepdim=True).clamp(min=1e-300)
