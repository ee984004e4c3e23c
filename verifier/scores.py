"""Scores of splits: how much of a domain's bound every splittable element costs.

Three ways. At the minimiser: what the children's relaxations gain where the parent's bound is attained. By intercepts:
the gain of constants alone (what GenBaB calls BaBSR-like, arXiv 2405.21063). By shortcuts: the gain after what changed
was carried to the input along linear bounds made at the root (GenBaB, shortcuts.py). docs/decisions.md compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.ops._operator import Multivariate, Univariate
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.optimise import Optimised
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.starts import Starts
from provenn.verifier.changes import Change, Reader, change_of
from provenn.verifier.columns import Columns, splittable
from provenn.verifier.shortcuts import Shortcuts

# Weight of a line's offset against its gap at the minimiser (docs/decisions.md has the counts).
OFFSET_SHARE = 0.3
# What the better child's gain adds to the worse one's, and what the largest gain over a child's box adds to that at
# the minimiser.
BETTER_SHARE, ELSEWHERE_SHARE = 0.1, 0.3
# Columns of a domain that are scored by shortcuts.
SHORTLIST = 64


@dataclass(frozen=True)
class Bounded:
    """What the last bounding of a batch left of its open ``domains``, each with its best ``row``; ``boxes`` are those
    of the batch, ``[1|batch, *shape]``."""

    starts: Starts
    columns: Columns
    boxes: Mapping[int, Box]
    found: Optimised
    domains: Tensor
    row: Tensor

    @property
    def plan(self) -> Plan:
        return self.starts.plan

    def pick(self, t: Tensor) -> Tensor:
        """One row ``[open, ...]`` of every open domain of ``[1|domains, 1|rows, ...]``."""
        return t.expand(*self.found.bound.shape, *t.shape[2:])[self.domains, self.row]

    def box(self, value: int) -> Box:
        """The box of a value in every open domain, ``[open, *shape]``."""
        count = self.found.bound.shape[0]
        lower, upper = (end.expand(count, *end.shape[1:])[self.domains] for end in self.boxes[value])
        return lower, upper

    def width(self, value: int) -> Tensor:
        lower, upper = self.box(value)
        return upper - lower

    def z(self, value: int) -> Tensor:
        """Where the bound is attained (mean of the last minimisers), ``[open, *shape]``."""
        return self.pick(self.found.values[value])

    def spread(self, points: Tensor) -> dict[int, Tensor]:
        """Columns as dense tensors ``[open, *shape]`` of their values."""
        anywhere = {value: self.box(value)[0] for value in self.columns.values}
        return self.columns.spread(self.plan, anywhere, points, points.dtype)

    def smooth(self, value: int) -> bool:
        """Whether a split changes curved lines or planes, element by element."""
        operators = (self.plan.operators[i] for i in self.plan.consumers[value] if not self.plan.linear[i])
        linear = all(isinstance(op, Univariate) and op.piecewise_linear for op in operators)
        return not linear and elementwise(self.plan, value)

    def readers(self, value: int) -> list[Reader]:
        """The relaxed readers that rows reach."""
        result = []
        for index in self.plan.consumers[value]:
            positive = self.found.trace.positive.get(index)
            if positive is None or not splittable(self.plan, index):
                continue
            negative = self.found.trace.below(index)
            assert negative is not None
            result.append(Reader(index, self.pick(positive), self.pick(negative), self._lines(index)))
        return result

    def _lines(self, index: int) -> Lines:
        lines = self.found.lines[index]
        maybe = lambda t: None if t is None else self.pick(t).unsqueeze(1)  # noqa: E731
        each = lambda slopes: tuple(self.pick(s).unsqueeze(1) for s in slopes)  # noqa: E731
        return Lines(
            each(lines.lower_slopes), maybe(lines.lower_offset), each(lines.upper_slopes), maybe(lines.upper_offset),
            lines.patterns,
        )  # fmt: skip


def gap(bounded: Bounded, value: int) -> Tensor:
    """``[open, *shape]``: the readers' gap where the bound is attained, and a share of what their offsets cost."""
    total = torch.zeros_like(bounded.z(value))
    for reader in bounded.readers(value):
        total = total + _gap(bounded, reader, value)
    return total


def _gap(bounded: Bounded, reader: Reader, value: int) -> Tensor:
    plan, lines, index = bounded.plan, reader.lines, reader.index
    operands = plan.graph.nodes[index].inputs
    z = [bounded.z(i) for i in operands]
    cost = torch.zeros_like(reader.positive)
    ends = []
    for part, slopes, offset in (
        (reader.positive, lines.lower_slopes, lines.lower_offset),
        (reader.negative, lines.upper_slopes, lines.upper_offset),
    ):
        terms = [lines.through(i, k, x.unsqueeze(1)) for i, (k, x) in enumerate(zip(slopes, z, strict=True))]
        line = torch.stack(torch.broadcast_tensors(*terms)).sum(0).squeeze(1)
        if offset is not None:
            line, cost = line + offset.squeeze(1), cost - part * offset.squeeze(1)
        ends.append(line)
    y = plan.operators[index].evaluate(plan.prepared[index], *z)
    score = reader.positive * (y - ends[0]) + reader.negative * (y - ends[1]) + OFFSET_SHARE * cost.clamp(min=0)
    if lines.patterns is None:
        return score
    return _shared(bounded, reader, score, operands.index(value))


def _shared(bounded: Bounded, reader: Reader, score: Tensor, place: int) -> Tensor:
    """Scores of outputs shared among the elements of one operand that they read, by slopes times widths."""
    lines = reader.lines
    width = bounded.width(bounded.plan.graph.nodes[reader.index].inputs[place]).unsqueeze(1)
    steep = torch.maximum(lines.lower_slopes[place].abs(), lines.upper_slopes[place].abs())
    assert lines.patterns is not None
    pattern = lines.patterns[place]
    total = pattern.through(steep, width).clamp(min=torch.finfo(score.dtype).tiny)
    return (pattern.single(score.unsqueeze(1) / total, steep) * width).squeeze(1)


def elementwise(plan: Plan, value: int) -> bool:
    """Whether all readers of which splits tighten the lines are elementwise."""
    operators = (plan.operators[i] for i in plan.consumers[value] if not plan.linear[i] and splittable(plan, i))
    return not any(isinstance(op, Multivariate) and op.patterns is not None for op in operators)


def change_at(bounded: Bounded, value: int, point: Tensor) -> Change:
    """What splits of a value at ``point [open, *shape]`` change."""
    zero = torch.zeros_like(point)
    total = Change(torch.stack([zero, zero]), torch.stack([zero, zero]), torch.stack([zero, zero]))
    for reader in bounded.readers(value):
        operands = bounded.plan.graph.nodes[reader.index].inputs
        boxes, z = {i: bounded.box(i) for i in operands}, {i: bounded.z(i) for i in operands}
        total = total + change_of(bounded.starts, reader, value, boxes, point, z)
    return total


def at_minimiser(bounded: Bounded, points: Tensor) -> Tensor:
    """Scores ``[open, columns]`` of splits at ``points [open, columns]``: what the worse child's bound gains where the
    parent's is attained (or at the nearest point of the child), and shares of what it gains elsewhere.

    At a relu this is the gap, as one child's gain is; so it is not asked for children there.
    """
    dense, scores = bounded.spread(points), {}
    for value in bounded.columns.values:
        if not bounded.smooth(value):
            scores[value] = gap(bounded, value)
            continue
        point, z, (low, high) = dense[value], bounded.z(value), bounded.box(value)
        change = change_at(bounded, value, point)
        lower, upper = torch.stack([low, point]), torch.stack([point, high])
        near = change.gain(torch.minimum(torch.maximum(z, lower), upper))
        ends = torch.maximum(change.gain(lower), change.gain(upper))
        scores[value] = worse(near + ELSEWHERE_SHARE * torch.maximum(ends, change.gain(0.5 * (lower + upper))))
    return bounded.columns.gather(scores)


def by_intercept(bounded: Bounded, points: Tensor) -> Tensor:
    """Scores ``[open, columns]``: what constants alone gain in the worse child; gaps where a reader is not
    elementwise."""
    dense, scores = bounded.spread(points), {}
    for value in bounded.columns.values:
        known = elementwise(bounded.plan, value)
        scores[value] = worse(change_at(bounded, value, dense[value]).offset) if known else gap(bounded, value)
    return bounded.columns.gather(scores)


def by_shortcut(bounded: Bounded, shortcuts: Shortcuts, points: Tensor, allowed: Tensor) -> Tensor:
    """Scores ``[open, columns]`` by shortcuts of the ``allowed`` columns with the largest scores at the minimiser;
    none of the others is chosen."""
    first = at_minimiser(bounded, points).masked_fill(~allowed, -torch.inf)
    if not all(elementwise(bounded.plan, value) for value in bounded.columns.values):
        return first
    dense = bounded.spread(points)
    parts = {value: change_at(bounded, value, dense[value]) for value in bounded.columns.values}
    fields = ("slope", "offset", "before")
    change = Change(*(bounded.columns.gather({v: getattr(c, f) for v, c in parts.items()}, 2) for f in fields))
    best = first.topk(min(SHORTLIST, first.shape[1]), 1).indices
    gain = shortcuts.gains(best, change, points.gather(1, best))
    return torch.full_like(first, -torch.inf).scatter(1, best, worse(gain))


def worse(gain: Tensor) -> Tensor:
    """One score of the gains ``[2, ...]`` of both children: the worse one's, and a share of the better one's."""
    return gain.amin(0) + BETTER_SHARE * gain.amax(0)
