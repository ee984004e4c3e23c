"""Domains of a derivative graph that differ in their input boxes: the other way to split, for few inputs.

Smooth networks have no kinks whose splits would make anything exact, and their derivatives are products of functions of
everything before them. Halving the inputs shrinks all of it at once. Bounds are made anew in float64 (``rebound.py``);
what differs is that a quantity is maximised, whose limit may rise on the way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from provenn.bounds.propagate.backward import Trace, backward
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.rounding import RoundingError
from provenn.verifier.clip import clip_box
from provenn.verifier.halving import Halving
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.renewed import Guide, Measure, Row, not_less
from provenn.verifier.workers import cut, joined


class Halved(Halving):
    """Bounds a quantity from above as ``Renewed`` does, over boxes of the free inputs ``[domains, free]`` (float64)."""

    name = "input splits"

    def __init__(
        self, problem: Problem, clauses: Clauses, measure: Measure, row: Row, *, guide: Guide | None = None,
        at_once: int = 64,
    ):  # fmt: skip
        super().__init__(problem)
        self.clauses = clauses
        self.measure, self.row, self.guide, self.at_once = measure, row, guide, at_once
        self.limit, self.highest = 0.0, -math.inf

    def roots(self) -> Fields:
        """One domain for each clause."""
        return self.rooted(*(end[:, self.free].expand(len(self.clauses), -1) for end in self.problem.hull))

    def bound(self, fields: Fields) -> tuple[Fields, Tensor]:
        """Bound a batch: (fields of the open domains, their minimisers ``[open, inputs]``)."""
        parts = [self._bound(part) for part in cut(fields, self.at_once)]
        return joined([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _bound(self, fields: Fields) -> tuple[Fields, Tensor]:
        count, target, plan = fields["bound"].shape[0], self.problem.output, self.plan
        lower, upper = (end.expand(count, -1).clone() for end in self.problem.hull)
        lower[:, self.free], upper[:, self.free] = fields["lower"], fields["upper"]
        inputs = self.problem.input_boxes(lower, upper)
        boxes = intermediate_boxes(plan, inputs, magnitudes=self.problem.magnitudes, until=target)
        low, high = (end.expand(count, *end.shape[1:]) for end in boxes[target])
        rows = self.clauses.rows[fields["clause"]] if self.guide is None else self.guide((low, high))
        shaped = rows.unflatten(2, plan.shape(target))
        lines = relax_all(plan, target, boxes)
        trace, error = Trace(), RoundingError(plan, self.problem.magnitudes)
        value = backward(plan, target, shaped, lines, inputs, trace=trace, error=error).expand(count, -1)
        found = not_less(self.measure(value, (low, high), fields["clause"]))
        found = torch.minimum(found, -fields["bound"])
        dropped = found <= self.limit
        if bool(dropped.any()):
            self.highest = max(self.highest, float(found[dropped].max()))
        a = trace.inputs.get(self.problem.input)
        a = value.new_zeros(count, 1, lower.shape[1]) if a is None else a.flatten(2)[:, :1].expand(count, -1, -1)
        first, last = fields["lower"], fields["upper"]
        if self.guide is None:  # what the row excludes is at most the limit
            below = torch.nextafter(value[:, :1] - self.row(self.limit), value.new_tensor(-torch.inf))
            clipped = clip_box(first, last, a[:, :, self.free], below)
            if not (torch.equal(clipped[0], first) and torch.equal(clipped[1], last)):
                self.highest = max(self.highest, self.limit)
            first, last = clipped
            dropped = dropped | (first > last).any(1)
        left = (~dropped).nonzero().squeeze(1)
        kept = {k: v[left] for k, v in fields.items()} | {"lower": first[left], "upper": last[left]}
        kept["bound"] = -found[left]
        points = torch.where(a[left, 0] >= 0, lower[left], upper[left])
        if left.numel():
            width = kept["upper"] - kept["lower"]
            direct = a[left, 0][:, self.free].abs() * width
            kept["axes"] = self.best_axes(direct, shaped[left, :1].abs().amax(1), lines, left, width)
        return kept, points
