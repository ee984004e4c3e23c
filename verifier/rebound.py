"""Domains that differ in their input boxes: every bound is made anew, in float64, rounded outward.

This is the bounder of networks with few free inputs. Nothing but the input box (and the clause) is inherited, so a
domain needs no confirmation: its margin is already a proof.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from provenn.bounds.propagate.backward import Trace, backward
from provenn.bounds.propagate.conjunction import Conjunction, best_weights
from provenn.bounds.propagate.intermediate import CACHE_ELEMENTS, intermediate_boxes
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines, relax_all
from provenn.bounds.propagate.quadratic import MOST_INPUTS, Expansion, expanded, lines_of, products
from provenn.bounds.propagate.rounding import RoundingError
from provenn.verifier.clip import clip_box
from provenn.verifier.halving import Halving
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Clauses, Problem
from provenn.verifier.workers import cut, joined


class Rebound(Halving):
    """Bounds domains ``(clause, lower, upper)`` whose columns are the free inputs, ``[domains, free]`` float64."""

    name = "input splits"

    def __init__(self, problem: Problem, clauses: Clauses):
        super().__init__(problem)
        self.clauses = clauses
        self.products = products(self.plan, problem.output) if self.free.numel() <= MOST_INPUTS else ()
        self._shared: tuple[Tensor, dict[int, Box]] | None = None

    def roots(self) -> Fields:
        """One domain per clause."""
        box = self.clauses.box
        return self.rooted(self.clauses.lower[box][:, self.free], self.clauses.upper[box][:, self.free])

    def whole(self, fields: Fields) -> tuple[Tensor, Tensor]:
        """Full input boxes ``[domains, inputs]``: the clause's box with the free columns replaced."""
        box = self.clauses.box[fields["clause"]]
        lower, upper = self.clauses.lower[box], self.clauses.upper[box]
        lower[:, self.free], upper[:, self.free] = fields["lower"], fields["upper"]
        return lower, upper

    def bound(self, fields: Fields) -> tuple[Fields, Tensor]:
        """Bound a batch: (fields of the open domains, their minimisers ``[open, inputs]``)."""
        parts = [self._bound(part) for part in cut(fields, self.at_once)]
        return joined([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    @cached_property
    def at_once(self) -> int:  # type: ignore[override]
        """Domains whose coefficient tensors (all rows of the widest value) are about as large as the processor's cache.

        Half as many fit better, but a pass is thousands of operations however few domains it has.
        """
        if self.problem.device.type != "cpu":
            return 1 << 16
        widest = max(self.plan.size(v) for v in self.plan.bounded) if self.plan.bounded else 1
        return max(16, CACHE_ELEMENTS // (widest * widest))

    def _bound(self, fields: Fields) -> tuple[Fields, Tensor]:
        lower, upper = self.whole(fields)
        alike = lower.shape[0] > 1 and bool((lower == lower[:1]).all() and (upper == upper[:1]).all())
        count = 1 if alike else lower.shape[0]  # clauses of one box share its boxes and lines
        inputs = self.problem.input_boxes(lower[:count], upper[:count])
        magnitudes = self.problem.magnitudes
        boxes = self._boxes(inputs, alike)
        rows, threshold = self.clauses.rows[fields["clause"]], self.clauses.threshold[fields["clause"]]
        shaped = rows.view(*rows.shape[:2], *self.problem.output_shape)
        trace = Trace()
        lines = relax_all(self.plan, self.problem.output, boxes)
        error = RoundingError(self.plan, magnitudes)
        value = backward(self.plan, self.problem.output, shaped, lines, inputs, trace=trace, error=error)
        refuted = (value > threshold).any(1) | self._contradictory(boxes, lower.shape[0])
        low, high, a = self._clip(fields["lower"], fields["upper"], trace, value, threshold)
        refuted = refuted | (low > high).any(1)
        left = (~refuted).nonzero().squeeze(1)
        best, missed, expansion = value - threshold, None, None
        if self.products and left.numel():
            expansion = self._expanded(boxes, lines, inputs, left)
            best, a, low, high, missed = self._by_forms(expansion, shaped, threshold, best, a, low, high, left)
            refuted = refuted | (best > 0).any(1) | (low > high).any(1)
            opened, left = left, (~refuted).nonzero().squeeze(1)
        if shaped.shape[1] > 1 and left.numel():
            if expansion is not None:
                expansion = expansion.select(torch.searchsorted(opened, left))
            margin, coefficients = self._combined(shaped, threshold, best, a, lines, inputs, left, expansion)
            low, high = clip_box(low, high, coefficients[:, :, self.free], margin)
            best, a = torch.cat([best, margin], 1), torch.cat([a, coefficients], 1)
            refuted = refuted | (margin > 0).squeeze(1) | (low > high).any(1)
            left = (~refuted).nonzero().squeeze(1)
        kept = {"clause": fields["clause"][left], "lower": low[left], "upper": high[left]}
        kept["depth"] = fields["depth"][left]
        a = a[left]
        best, row = best[left].max(1)
        chosen = a[torch.arange(a.shape[0], device=a.device), row]
        minimiser = torch.where(chosen >= 0, lower[left], upper[left])
        if left.numel():
            width = kept["upper"] - kept["lower"]
            # A form's slopes say little: it is 0 where the minimum is inside. What it misses takes its place.
            direct = a[:, :, self.free].abs().amax(1) * width if missed is None else missed[left]
            kept["axes"] = self.best_axes(direct, shaped[left].abs().amax(1), lines, left, width)
        else:
            kept["axes"] = fields["axes"][left]
        kept["bound"] = torch.nan_to_num(best, nan=-torch.inf, neginf=-torch.inf)
        return kept, minimiser

    def _expanded(
        self, boxes: dict[int, Box], lines: dict[int, Lines], inputs: dict[int, Box], index: Tensor
    ) -> Expansion:
        """The products of some domains."""
        pick = lambda box: tuple(t if t.shape[0] == 1 else t[index] for t in box)  # noqa: E731
        return expanded(
            self.plan, self.problem.input, self.free, self.products,
            {i: pick(box) for i, box in boxes.items()}, {i: lines_of(n, index) for i, n in lines.items()},
            {i: pick(box) for i, box in inputs.items()}, self.problem.magnitudes,
        )  # fmt: skip

    def _by_forms(
        self, expansion: Expansion, rows: Tensor, threshold: Tensor, margin: Tensor, a: Tensor, lower: Tensor,
        upper: Tensor, index: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """Margins, coefficients and clipped boxes where the expansion of the domains ``index`` gives better ones, and
        what its forms miss ``[domains, free]``."""
        found = expansion.bound(self.problem.output, rows[index])
        better = _below(found.value, threshold[index])
        low, high = clip_box(lower[index], upper[index], found.a[:, :, self.free], better)
        higher = (better > margin[index]).unsqueeze(-1)
        a = a.index_copy(0, index, torch.where(higher, found.a, a[index]))
        margin = margin.index_copy(0, index, torch.maximum(margin[index], better))
        missed = lower.new_zeros(lower.shape).index_copy(0, index, found.missed.amax(1))
        return margin, a, lower.index_copy(0, index, low), upper.index_copy(0, index, high), missed

    def _combined(
        self, rows: Tensor, threshold: Tensor, margin: Tensor, a: Tensor, lines: dict[int, Lines],
        inputs: dict[int, Box], index: Tensor, expansion: Expansion | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Margins ``[domains, 1]`` of one combination of each domain's rows, and its coefficients ``[domains, 1,
        inputs]``; -inf and 0 for domains not in ``index`` and where no combination promises more than a single row.

        The weights are sought on the rows' linear bounds; the combined row is then bounded on its own, which is
        tighter: what cancels in it needs no relaxation.
        """
        pick = lambda t: t if t.shape[0] == 1 else t[index]  # noqa: E731
        result = margin.new_full((margin.shape[0], 1), -torch.inf), a.new_zeros(a.shape[0], 1, a.shape[2])
        ends = [pick(end).flatten(1) for end in inputs[self.problem.input]]
        weights, promised = best_weights(margin[index], a[index], ends[0], ends[1])
        chosen = (promised > margin[index].amax(1)).nonzero().squeeze(1)
        if chosen.numel() == 0:
            return result
        index, weights = index[chosen], weights[chosen]
        magnitude = self.problem.magnitudes.value[self.problem.output]
        if expansion is not None:
            together = Conjunction(rows[index], threshold[index])
            form = expansion.select(chosen).bound(self.problem.output, together.combined(weights))
            result[0][index], result[1][index] = together.margin(form.value, weights, magnitude), form.a
            return result
        inputs = {i: (pick(box[0]), pick(box[1])) for i, box in inputs.items()}
        together = Conjunction(rows[index], threshold[index])
        trace, error = Trace(), RoundingError(self.plan, self.problem.magnitudes)
        mine = {i: lines_of(n, index) for i, n in lines.items()}
        bound = backward(
            self.plan, self.problem.output, together.combined(weights), mine, inputs, trace=trace, error=error
        )
        result[0][index] = together.margin(bound, weights, magnitude)
        found = trace.inputs.get(self.problem.input)
        if found is not None:
            result[1][index] = found.flatten(2).expand(index.numel(), 1, -1)
        return result

    def _boxes(self, inputs: dict[int, Box], alike: bool) -> dict[int, Box]:
        """Boxes of all values; those of a box that several clauses share are kept for the next of them."""
        if alike and self._shared is not None and torch.equal(self._shared[0], torch.cat(inputs[self.problem.input])):
            return self._shared[1]
        boxes = intermediate_boxes(
            self.plan, inputs, magnitudes=self.problem.magnitudes, until=self.problem.output,
            bands=not self.products,
        )
        if alike:
            self._shared = torch.cat(inputs[self.problem.input]), boxes
        return boxes

    def _clip(
        self, lower: Tensor, upper: Tensor, trace: Trace, value: Tensor, threshold: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of the free inputs clipped by every row's bound, and the rows' coefficients ``[domains, rows,
        inputs]``."""
        a = trace.inputs.get(self.problem.input)
        if a is None:  # the rows do not depend on the input
            return lower, upper, value.new_zeros(*value.shape, self.clauses.lower.shape[1])
        a = a.flatten(2).expand(*value.shape, -1)
        return *clip_box(lower, upper, a[:, :, self.free], _below(value, threshold)), a

    def _contradictory(self, boxes: dict, domains: int) -> Tensor:
        """Domains with a value whose sound bounds exclude each other: nothing is in them."""
        result = torch.zeros(domains, dtype=torch.bool, device=self.problem.device)
        for value in self.plan.bounded:
            if value in boxes:
                lower, upper = boxes[value]
                result |= (lower > upper).reshape(lower.shape[0], -1).any(1)
        return result


def _below(value: Tensor, threshold: Tensor) -> Tensor:
    """A lower bound of the difference, which rounds."""
    return torch.nextafter(value - threshold, torch.full_like(value, -torch.inf))
