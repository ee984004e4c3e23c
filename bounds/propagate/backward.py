"""Backward (CROWN) propagation: the largest provable lower bound of rows over a box.

Rows c on a value v, ``c . v``, are carried back to the inputs. At a relaxed node with lower line
``kl x + bl`` and upper line ``ku x + bu`` a coefficient a becomes ``max(a,0) kl + min(a,0) ku`` and the
offset grows by ``max(a,0) bl + min(a,0) bu`` (Zhang et al., 2018; Xu et al., arXiv 2002.12920).
An upper bound is the negated lower bound of the negated row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from provenn.bounds.propagate import interrupt
from provenn.bounds.propagate.apart import apart
from provenn.bounds.propagate.ball import BallBox
from provenn.bounds.propagate.coefficients import (
    Elements,
    Rows,
    Windows,
    channels_last,
    flattened,
    is_channels_last,
    is_dense,
    products,
    stored,
)
from provenn.bounds.propagate.extent import Extent, is_image
from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.plan import Matrix, Plan
from provenn.bounds.propagate.reduction import Reduction
from provenn.bounds.propagate.rounding import RoundingError
from provenn.bounds.propagate.sieve import Sieve
from provenn.bounds.propagate.trace import Trace as Trace

InputBoxes = Mapping[int, tuple[Tensor, Tensor]]

# Linear operators whose transpose is a new tensor that the walk may write into.
_FRESH = frozenset({"linear", "matmul_left", "conv", "conv_transpose"})


def dot(a: Rows, v: Tensor) -> Tensor:
    """Sum over the sample axes of a [domains, rows, *shape] times v [1|domains, 1|rows, *shape]."""
    if not isinstance(a, Tensor):
        return a.dot(v)
    domains, rows = a.shape[:2]
    if is_channels_last(a):
        a, v = a.movedim(-3, -1), v.movedim(-3, -1)
    if v.shape[0] == 1 and v.shape[1] == 1:
        return (a.reshape(domains * rows, -1) @ v.reshape(-1)).view(domains, rows)
    if v.shape[1] == 1:
        if a.shape[0] == 1:
            return (v.reshape(v.shape[0], -1) @ a.reshape(rows, -1).T).view(-1, rows)
        if rows == 1:
            return torch.linalg.vecdot(flattened(a, 2), flattened(v, 2))
        # The vector on the left: about three times as fast as on the right.
        return torch.bmm(v.reshape(domains, 1, -1), a.reshape(domains, rows, -1).mT).squeeze(1)
    return torch.linalg.vecdot(flattened(a, 2), flattened(v, 2))


class _Sweep:
    """The state of one backward walk."""

    def __init__(
        self,
        plan: Plan,
        lines: Mapping[int, Lines],
        trace: Trace | None,
        error: RoundingError | None,
        extents: Mapping[int, Extent | None],
        reduction: Reduction | None,
        sieve: Sieve | None,
    ):
        self.plan, self.lines, self.trace, self.error = plan, lines, trace, error
        self.extents, self.reduction, self.sieve = extents, reduction, sieve
        self.coefficients: dict[int, Rows] = {}
        self.owned: set[int] = set()
        self.waiting: dict[int, list[tuple[tuple[slice, slice], Tensor]]] = {}
        self.offset: Tensor | None = None
        self.terms: Tensor | None = None
        """Products whose sums over a row belong to the offset: one sum for many nodes of one shape."""

    def push(self, value: int, a: Rows, owned: bool) -> None:
        """Add rows to what a value has received; ``owned`` says that nobody else reads the tensor."""
        extent = self.extents.get(value)
        if isinstance(a, Windows):
            a, owned = (a.grown(extent) if extent is not None else a.dense()), True
        elif isinstance(a, Elements) and a.places is not None and extent is None:
            a, owned = a.dense(), True
        present = self.coefficients.get(value)
        if present is None:
            self.coefficients[value] = a
            (self.owned.add if owned else self.owned.discard)(value)
            return
        total = _sum(present, a, extent)
        if self.error is not None:
            self.error.accumulated(value, total)
        self.coefficients[value] = total
        self.owned.add(value)

    def take(self, value: int) -> Rows | None:
        """All rows that a value has received."""
        a = self.coefficients.pop(value, None)
        for place, part in self.waiting.pop(value, ()):
            if a is None:
                a = part.new_zeros(*part.shape[:2], *self.plan.shape(value)[2:], part.shape[-1])
                a = a.permute(0, 1, 4, 2, 3).unsqueeze(2)
            elif not isinstance(a, Tensor):
                a = a.dense()
            elif value not in self.owned:
                a = a.clone()
            a[:, :, 0, :, place[0], place[1]] += part.permute(0, 1, 4, 2, 3)
            self.owned.add(value)
            if self.error is not None:
                self.error.accumulated(value, a)
        return a

    def add_offset(self, term: Tensor) -> None:
        self.offset = term if self.offset is None else self.offset + term

    def add_products(self, a: Tensor, offset: Tensor) -> None:
        """``dot(a, offset)`` of tensors of one shape, summed later."""
        if self.terms is not None and self.terms.shape == a.shape == offset.shape:
            self.terms.addcmul_(a, offset)
            return
        self.add_terms()
        self.terms = a * offset

    def add_terms(self) -> None:
        if self.terms is not None:
            self.add_offset(flattened(self.terms, 2).sum(-1))
        self.terms = None

    def linear(self, index: int, a: Rows, owned: bool) -> None:
        if isinstance(a, Windows):
            a = a.cleaned()
        if self.error is not None:
            self.error.linear(index, a)
        reduced = self.reduction is not None and index in self.reduction.linear
        if isinstance(a, Tensor):
            matrix = self.reduction.matrix(index) if reduced else self.plan.matrices[index]  # type: ignore[union-attr]
            if matrix is not None:
                self._product(index, a, matrix)
            else:
                self._transposed(index, a, owned)
            return
        operands = self.plan.graph.nodes[index].inputs
        constant = self.plan.offsets[index]
        if constant is not None:
            self.add_offset(a.dot(constant))
        if reduced:
            self.push(operands[0], self.reduction.columns(index, a), True)  # type: ignore[union-attr, arg-type]
            return
        parts = apart(self.plan, index, a)
        if parts is None:
            self._transposed(index, a.dense(), True, constant_done=True)
            return
        for operand, part in zip(operands, parts, strict=True):
            self.push(operand, part, isinstance(part, Tensor))

    def _product(self, index: int, a: Tensor, matrix: Matrix) -> None:
        """Rows on a vector through a matrix."""
        domains, rows = a.shape[:2]
        flat = a.reshape(domains * rows, -1)
        if matrix.bias is not None:
            self.add_offset(torch.mv(flat, matrix.bias).view(domains, rows))
        part = torch.mm(flat, matrix.transposed).view(domains, rows, *matrix.shape)
        self.push(self.plan.graph.nodes[index].inputs[0], part, True)

    def _transposed(self, index: int, a: Tensor, owned: bool, constant_done: bool = False) -> None:
        """Dense rows through any linear node."""
        plan, name = self.plan, self.plan.operators[index].name
        constant = plan.offsets[index]
        if constant is not None and not constant_done:
            self.add_offset(dot(a, constant))
        domains, rows = a.shape[:2]
        if name == "conv" and self.extents and not is_channels_last(a) and is_image(plan.shape(index)):
            a = channels_last(a)
        if name == "conv" and self.extents and self._scattered(index, a):
            return
        parts = plan.operators[index].transpose(plan.prepared[index], a.reshape(domains * rows, *a.shape[2:]))  # type: ignore[attr-defined]
        fresh = name in _FRESH or (owned and name == "reshape")
        for operand, part in zip(plan.graph.nodes[index].inputs, parts, strict=True):
            self.push(operand, part.view(domains, rows, *part.shape[1:]), fresh)

    def _scattered(self, index: int, a: Tensor) -> bool:
        """A strided convolution of single positions: its product waits until it can be added to what else arrives."""
        prepared, (operand,) = self.plan.prepared[index], self.plan.graph.nodes[index].inputs
        derived, weight = prepared.derived, prepared.tensors["weight"]
        alone = derived["rank"] == 2 and derived["groups"] == 1 and weight.shape[2] == weight.shape[3] == 1
        if (
            not alone
            or max(derived["strides"]) == 1
            or any(derived["begin"])
            or max(derived["pads"]) > 0
            or not is_image(self.plan.shape(operand))
        ):
            return False
        domains, rows, _, filters, height, width = a.shape
        product = torch.mm(a.movedim(3, 5).reshape(-1, filters), weight.flatten(1))
        first, second = derived["strides"]
        place = (slice(0, (height - 1) * first + 1, first), slice(0, (width - 1) * second + 1, second))
        self.waiting.setdefault(operand, []).append((place, product.view(domains, rows, height, width, -1)))
        return True

    def relaxed(self, index: int, a: Rows, owned: bool) -> None:
        lines = self.lines[index]
        operands = self.plan.graph.nodes[index].inputs if lines.lower_slopes else ()
        if not isinstance(a, Tensor) and lines.patterns is None and len(operands) == 1:
            through = self._windows if isinstance(a, Windows) else self._elements
            return through(index, a, lines, operands[0])  # type: ignore[arg-type]
        if not isinstance(a, Tensor):
            a, owned = a.dense(), True
        kept = self._sieved(index, a)
        if kept is not None and kept.numel() == 0:
            return
        if kept is not None:
            a, owned = _selected(a, kept), True
        if lines.gap is not None and (self.trace is None or self.trace.narrow):
            if not _covers(a, lines):
                a, owned = a.expand(lines.lower_slopes[0].shape[0], *a.shape[1:]), False
            if lines.gap.channels_last != is_channels_last(a):  # type: ignore[union-attr]
                a = channels_last(a) if lines.gap.channels_last else a.contiguous()  # type: ignore[union-attr]
            elif not (owned and is_dense(a)):
                a = a.clone() if is_dense(a) else (channels_last(a) if is_channels_last(a) else a.contiguous())
            self._where_they_differ(index, a, lines, operands[0])
        elif lines.patterns is None and len(operands) == 1 and self.trace is None and self.error is None:
            negative = a.clamp(max=0)
            self._offsets_of_both(a, negative, lines)
            new = a.mul_(lines.lower_slopes[0]) if owned and _covers(a, lines) else a * lines.lower_slopes[0]
            self.push(operands[0], new.addcmul_(negative, lines.spread), True)
        elif lines.patterns is None and len(operands) == 1 and self.error is None:
            self._chosen(index, a, owned, lines, operands[0])
        else:
            self._in_general(index, a, owned, lines, operands)

    def _sieved(self, index: int, a: Tensor | Windows) -> Tensor | None:
        """The rows that the sieve keeps at a relaxed node; None where all go on."""
        if self.sieve is None or self.coefficients or self.waiting:
            return None
        keep = self.sieve.test(index, a, self.offset, self.error)
        if keep is not None:
            self.offset = None if self.offset is None else self.offset[:, keep]
            if self.error is not None:
                self.error.keep(keep)
        return keep

    def _chosen(self, index: int, a: Tensor, owned: bool, lines: Lines, operand: int) -> None:
        """The line that the sign of each coefficient selects, which the gradient's forward pass goes through too."""
        assert self.trace is not None
        positive = a.clamp(min=0)
        sign = positive.sign()  # and interpolation: comparing and choosing takes five times as long on a CPU
        slope = torch.lerp(lines.upper_slopes[0], lines.lower_slopes[0], sign)
        low, high = lines.lower_offset, lines.upper_offset
        offset: Tensor | None = None
        if high is not None:
            offset = torch.addcmul(high, high, sign, value=-1) if low is None else torch.lerp(high, low, sign)
        elif low is not None:
            offset = low * sign
        if offset is not None:
            self.add_products(a, offset)
        self.trace.positive[index], self.trace.chosen[index] = positive, (slope, offset)
        if self.trace.negatives or not (owned and _covers(a, lines)):
            self.trace.whole[index] = a
            self.push(operand, a * slope, True)
        else:
            self.push(operand, a.mul_(slope), True)

    def _in_general(
        self, index: int, a: Tensor, owned: bool, lines: Lines, operands: tuple[int, ...]
    ) -> None:
        """Rows through a relaxed node of any kind; keeps what a trace and an error term need."""
        negative = a.clamp(max=0)
        positive = a.clamp_(min=0) if owned else a.clamp(min=0)
        if self.trace is not None:
            self.trace.positive[index], self.trace.negative[index] = positive, negative
        self._offsets(index, positive, negative, lines)
        last = len(operands) - 1
        for position, operand in enumerate(operands):
            lower, upper = lines.lower_slopes[position], lines.upper_slopes[position]
            if lines.patterns is None:
                free = self.trace is None and position == last and _covers(positive, lines)
                new = positive.mul_(lower) if free else positive * lower
                self.push(operand, new.addcmul_(negative, upper), True)
            else:
                self.push(operand, lines.patterns[position].back(positive, lower, negative, upper), True)

    def _offsets(self, index: int, positive: Tensor, negative: Tensor, lines: Lines) -> None:
        pairs = ((positive, lines.lower_offset), (negative, lines.upper_offset))
        terms = [dot(part, offset) for part, offset in pairs if offset is not None]
        for term in terms:
            self.add_offset(term)
        if self.error is not None:
            self.error.relaxed(index, positive, negative, lines, terms)

    def _where_they_differ(self, index: int, a: Tensor, lines: Lines, operand: int) -> None:
        """Lines that are the same but for a few elements: one product in place, and both signs for those few."""
        gap = lines.gap
        assert gap is not None
        flat = stored(a)
        count = gap.elements.numel()
        part = flat[:, :, :count] if gap.first else flat.index_select(2, gap.elements)
        positive, negative = part.clamp(min=0), part.clamp(max=0)
        self._offsets(index, positive, negative, gap.lines)
        if self.trace is not None:
            self.trace.positive[index], self.trace.negative[index] = positive, negative
        new = (positive * gap.lines.lower_slopes[0]).addcmul_(negative, gap.lines.upper_slopes[0])
        if gap.first:
            part.copy_(new)
            flat[:, :, count:].mul_(stored(lines.lower_slopes[0])[:, :, count:])
        else:
            a.mul_(lines.lower_slopes[0])
            if count:  # lines without gaps may be those of one domain for all
                flat[:, :, gap.elements] = new
        self.push(operand, a, True)

    def _offsets_of_both(self, a: Tensor, negative: Tensor, lines: Lines) -> None:
        """``max(a,0) bl + min(a,0) bu = a bl + min(a,0) (bu - bl)``; without an error term only."""
        if lines.lower_offset is not None:
            self.add_offset(dot(a, lines.lower_offset))
        if lines.spread_offset is not None:
            self.add_offset(dot(negative, lines.spread_offset))

    def _elements(self, index: int, a: Elements, lines: Lines, operand: int) -> None:
        positive, negative = a.weights.clamp(min=0), a.weights.clamp(max=0)
        weights = positive * a.pick(lines.lower_slopes[0]) + negative * a.pick(lines.upper_slopes[0])
        for part, offset in ((positive, lines.lower_offset), (negative, lines.upper_offset)):
            if offset is not None:
                self.add_offset(part * a.pick(offset))
        if self.error is not None:
            self.error.relaxed_apart(index, a, lines)
        self.push(operand, Elements(a.index, weights, a.shape, a.places), False)

    def _windows(self, index: int, rows: Windows, lines: Lines, operand: int) -> None:
        kept = self._sieved(index, rows)
        if kept is not None and kept.numel() == 0:
            return
        rows = rows if kept is None else rows.select(kept)
        a = rows.a
        negative = a.clamp(max=0)
        vectors = [lines.lower_slopes[0], lines.spread]
        if lines.spread_offset is not None:
            vectors.append(lines.spread_offset)
        slope, spread, *offset = rows.gather(vectors)
        if self.error is not None:
            self.error.relaxed_apart(index, rows, lines)
        if lines.lower_offset is not None:
            self.add_offset(rows.dot(lines.lower_offset))
        if offset:
            self.add_offset(products(negative, offset[0]))
        new = (a * slope).addcmul_(negative, spread)
        self.push(operand, Windows(new, rows.places, rows.extent, rows.shape), True)


def _selected(a: Tensor, keep: Tensor) -> Tensor:
    """Some rows, stored in the same order."""
    return a.movedim(-3, -1)[:, keep].movedim(-1, -3) if is_channels_last(a) else a[:, keep]


def _covers(a: Tensor, lines: Lines) -> bool:
    """Whether the lines have no more domains or rows than the coefficients."""
    return lines.lower_slopes[0].shape[0] <= a.shape[0] and lines.lower_slopes[0].shape[1] <= a.shape[1]


def _sum(present: Rows, a: Rows, extent: Extent | None) -> Rows:
    """The sum of two contributions to one value."""
    if extent is not None:
        both = [(x.windows() if isinstance(x, Elements) else x).grown(extent).cleaned() for x in (present, a)]  # type: ignore[union-attr]
        return Windows(both[0].a + both[1].a, both[0].places, extent, both[0].shape)
    dense = [x if isinstance(x, Tensor) else x.dense() for x in (present, a)]
    return dense[0] + dense[1]


def backward(
    plan: Plan,
    target: int,
    rows: Rows,
    lines: Mapping[int, Lines],
    inputs: InputBoxes,
    *,
    multipliers: Mapping[int, tuple[Tensor, Tensor]] | None = None,
    trace: Trace | None = None,
    error: RoundingError | None = None,
    stop: Mapping[int, tuple[Tensor, Tensor]] | None = None,
    extents: Mapping[int, Extent | None] | None = None,
    reduction: Reduction | None = None,
    sieve: Sieve | None = None,
) -> Tensor:
    """Lower bounds ``[domains, rows]`` of ``rows . target`` over the input boxes.

    ``rows`` is ``[1|domains, rows, *shape]``; ``lines`` has an entry for every relaxed node below the target,
    ``inputs`` a box ``[1|domains, *shape]`` for every graph input. ``multipliers[v] = (signed, constant)`` adds
    the split constraints of value v: ``a_v -= signed`` (``[domains, 1|rows, *shape]``), ``offset += constant``
    (``[domains, 1|rows]``), valid for any signs and points as ``signed = s beta``, ``constant = sum s beta p``,
    beta >= 0 (Wang et al., arXiv 2103.06624). ``trace`` receives what a gradient needs. With ``error`` (float64)
    the bound is lowered by an a-priori bound of all rounding errors, so that it holds for real arithmetic.
    ``stop`` gives boxes of values where the walk ends early (a truncated pass: looser, cheaper).

    Rows of single elements (``Elements``) keep to their windows where ``extents`` says so. ``reduction`` leaves out
    elements that contribute nothing; ``sieve`` drops rows whose sign is settled before the last step.
    """
    interrupt.check()
    sweep = _Sweep(plan, lines, trace, error, extents or {}, reduction, sieve)
    if error is not None:
        error.reduction = reduction
    sweep.coefficients[target] = rows
    bound: Tensor | None = None
    for index in plan.order(target):
        a = sweep.take(index)
        if a is None:
            continue
        owned = index in sweep.owned
        if multipliers is not None and index in multipliers:
            signed, constant = multipliers[index]
            a, owned = (a if isinstance(a, Tensor) else a.dense()) - signed, True
            sweep.add_offset(constant)
            if error is not None:
                error.accumulated(index, a)
                error.multiplied(index, signed)
        box = inputs.get(index) if stop is None else stop.get(index, inputs.get(index))
        if box is not None:
            if trace is not None:
                trace.inputs[index] = a if isinstance(a, Tensor) else a.dense()
            if error is not None:
                error.concretised(index, a, box)
            term = concretise(a, box) if error is not None else least(a, box)
            bound = term if bound is None else bound + term
        elif plan.linear[index]:
            sweep.linear(index, a, owned)
        else:
            sweep.relaxed(index, a, owned)
    if sieve is not None and sieve.rows.numel() == 0:
        return sieve.best
    sweep.add_terms()
    offset = sweep.offset
    if trace is not None:
        trace.offset = offset
    if bound is None:
        assert offset is not None or isinstance(rows, Tensor)
        bound = offset if offset is not None else rows.new_zeros(rows.shape[:2])  # type: ignore[union-attr]
    elif offset is not None:
        bound = bound + offset
    bound = bound if error is None else error.lowered(bound)
    return bound if sieve is None else sieve.merged(bound)


def concretise(a: Rows, box: tuple[Tensor, Tensor]) -> Tensor:
    """Minimum of ``a . x`` over the box, from the ends themselves (no midpoint: no cancellation)."""
    if isinstance(box, BallBox):
        return torch.maximum(concretise(a, (box[0], box[1])), _least_in_ball(a, box))
    lower, upper = box[0].unsqueeze(1), box[1].unsqueeze(1)
    if isinstance(a, Elements):
        return a.weights.clamp(min=0) * a.pick(lower) + a.weights.clamp(max=0) * a.pick(upper)
    if isinstance(a, Windows):
        below, above = a.gather([lower, upper])
        return products(a.a.clamp(min=0), below) + products(a.a.clamp(max=0), above)
    return dot(a.clamp(min=0), lower) + dot(a.clamp(max=0), upper)


def least(a: Rows, box: tuple[Tensor, Tensor]) -> Tensor:
    """``concretise`` as ``a . lower + min(a, 0) . (upper - lower)``: one pass over the coefficients fewer.

    The width is rounded, which the error term does not count with: for bounds that prove nothing.
    """
    if isinstance(a, Elements) or isinstance(box, BallBox):
        return concretise(a, box)
    lower, width = box[0].unsqueeze(1), (box[1] - box[0]).unsqueeze(1)
    if isinstance(a, Windows):
        below, wide = a.gather([lower, width])
        return products(a.a, below) + products(a.a.clamp(max=0), wide)
    return dot(a, lower) + dot(a.clamp(max=0), width)


def _least_in_ball(a: Rows, ball: BallBox) -> Tensor:
    if isinstance(a, Elements):
        return ball.least_of_elements(a.weights, a.pick(ball.centre.unsqueeze(1)))
    return ball.least(a if isinstance(a, Tensor) else a.dense())
