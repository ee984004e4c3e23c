"""Values at the minimiser of a bound, through the lines that each row selected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from provenn.bounds.propagate.ball import BallBox
from provenn.bounds.propagate.coefficients import channels_last, is_channels_last, stored
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.trace import Trace


def selected_values(
    plan: Plan,
    target: int,
    trace: Trace,
    lines: Mapping[int, Lines],
    inputs: Mapping[int, Box],
    *,
    visit: Callable[[int, Tensor], None] | None = None,
    keep: Collection[int] | None = None,
    whole: bool = False,
) -> dict[int, Tensor]:
    """Values z ``[domains, rows, *shape]`` at each row's minimiser, through the lines the row selected.

    Linear nodes that no relaxed node reads are left out, unless the walk is ``whole``: to the target itself.
    ``visit(value, z)`` is called as soon as a value is known; it is the trace's last reader, so the trace is used up.
    With ``keep`` only those values are returned, others are dropped once nothing reads them: what follows then finds
    their memory in the cache.
    """
    values: dict[int, Tensor] = {}
    for index, done in plan.forward_walk(target, whole):
        operands = plan.graph.nodes[index].inputs
        if index in inputs:
            z = at_ends(trace.inputs.get(index), inputs[index])
        elif plan.linear[index]:
            z = _linear(plan, index, [values[i] for i in operands])
        elif trace.narrow and lines[index].gap is not None:
            z = _where_they_differ(values[operands[0]], trace.positive.get(index), lines[index])
        elif index in trace.chosen:
            slope, offset = trace.chosen[index]
            z = values[operands[0]]
            z = z * slope if offset is None else torch.addcmul(offset, z, slope)
        else:
            z = _selected(operands, trace.positive.get(index), lines[index], values, visit is not None)
        values[index] = z
        if visit is not None:
            visit(index, z)
        if keep is not None:
            for value in done:
                if value not in keep:
                    del values[value]
    return values


def at_ends(a: Tensor | None, box: Box) -> Tensor:
    """The corner of a box where ``a . x`` is least, the lower end where a is positive; a ball has a point for it."""
    if isinstance(box, BallBox):
        return box.minimiser(a)
    lower, upper = (b.unsqueeze(1) for b in box)
    if a is None:
        return lower
    return torch.lerp(upper, lower, torch.sign(a.clamp(min=0)))


def _linear(plan: Plan, index: int, operands: list[Tensor]) -> Tensor:
    if not operands:
        return plan.operators[index].evaluate(plan.prepared[index]).unsqueeze(1)
    matrix = plan.matrices[index]
    if matrix is not None:
        return _product(operands[0], plan.prepared[index].tensors["weight"], matrix.bias)
    domains, rows = max(t.shape[0] for t in operands), max(t.shape[1] for t in operands)
    flat = [t.expand(domains, rows, *t.shape[2:]).reshape(domains * rows, *t.shape[2:]) for t in operands]
    result = plan.operators[index].evaluate(plan.prepared[index], *flat)
    return result.view(domains, rows, *plan.shape(index))


def _product(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A vector per domain and row through a matrix ``[n, m]``."""
    flat = z.reshape(-1, weight.shape[0])
    y = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
    return y.view(*z.shape[:-1], -1)


def narrow_part(z: Tensor, lines: Lines) -> tuple[Tensor, Tensor]:
    """A value stored as its operator's gap is counted, and the elements of the gap ``[domains, rows, k]``."""
    assert lines.gap is not None
    if lines.gap.channels_last != is_channels_last(z):
        z = channels_last(z) if lines.gap.channels_last else z.contiguous()
    return z, stored(z).index_select(2, lines.gap.elements)


def _where_they_differ(z: Tensor, positive: Tensor | None, lines: Lines) -> Tensor:
    """The common line, and for the elements of the gap the one that the coefficient's sign selects."""
    assert lines.gap is not None
    z, part = narrow_part(z, lines)
    few = lines.gap.lines
    low, high = part * few.lower_slopes[0], part * few.upper_slopes[0]
    if few.lower_offset is not None:
        low = low + few.lower_offset
    if few.upper_offset is not None:
        high = high + few.upper_offset
    chosen = low if positive is None else torch.lerp(high, low, torch.sign(positive))
    result = z * lines.lower_slopes[0]
    flat = stored(result)
    flat[:, :, lines.gap.elements] = chosen.expand(*flat.shape[:2], -1)
    return result


def _selected(
    operands: tuple[int, ...], positive: Tensor | None, lines: Lines, values: dict[int, Tensor], consume: bool
) -> Tensor:
    low = _line(operands, lines.lower_slopes, lines.lower_offset, lines, values)
    if positive is None:
        return low
    high = _line(operands, lines.upper_slopes, lines.upper_offset, lines, values)
    # A sign selects the line; comparing and choosing takes five times as long on a CPU.
    return torch.lerp(high, low, positive.sign_() if consume else positive.sign())


def _line(operands, slopes, offset, lines: Lines, values) -> Tensor:
    if lines.patterns is None and len(operands) == 1 and slopes:
        z = values[operands[0]]
        return z * slopes[0] if offset is None else torch.addcmul(offset, z, slopes[0])
    total = offset
    for place, (operand, slope) in enumerate(zip(operands, slopes, strict=False)):
        term = lines.through(place, slope, values[operand])
        total = term if total is None else total + term
    return total
