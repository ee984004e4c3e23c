"""Values at the minimiser of a bound, through the lines that each row selected."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from provenn.bounds.propagate.backward import Trace
from provenn.bounds.propagate.coefficients import channels_last, is_channels_last, stored
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.plan import Plan


def selected_values(
    plan: Plan,
    target: int,
    trace: Trace,
    lines: Mapping[int, Lines],
    inputs: Mapping[int, Box],
    whole: bool = False,
) -> dict[int, Tensor]:
    """Values z ``[domains, rows, *shape]`` at each row's minimiser, through the lines the row selected.

    ``whole`` evaluates up to the target; otherwise linear nodes that no relaxed node reads are left out.
    """
    values: dict[int, Tensor] = {}
    order = plan.order(target)
    needed = set(order) if whole else read_by_relaxed(plan, target)
    for index in reversed(order):
        if index not in needed:
            continue
        node = plan.graph.nodes[index]
        if index in inputs:
            values[index] = at_ends(trace.inputs.get(index), inputs[index])
        elif plan.linear[index]:
            values[index] = _linear(plan, index, [values[i] for i in node.inputs])
        elif trace.narrow and lines[index].gap is not None:
            values[index] = _where_they_differ(
                values[node.inputs[0]], trace.positive.get(index), lines[index]
            )
        else:
            values[index] = _selected(node.inputs, trace.positive.get(index), lines[index], values)
    return values


def at_ends(a: Tensor | None, box: Box) -> Tensor:
    """The corner of a box where ``a . x`` is least: the lower end where a is positive."""
    lower, upper = (b.unsqueeze(1) for b in box)
    if a is None:
        return lower
    return upper + torch.sign(a.clamp(min=0)).mul_(lower - upper)


def _linear(plan: Plan, index: int, operands: list[Tensor]) -> Tensor:
    if not operands:
        return plan.operators[index].evaluate(plan.prepared[index]).unsqueeze(1)
    domains, rows = max(t.shape[0] for t in operands), max(t.shape[1] for t in operands)
    flat = [t.expand(domains, rows, *t.shape[2:]).reshape(domains * rows, *t.shape[2:]) for t in operands]
    result = plan.operators[index].evaluate(plan.prepared[index], *flat)
    return result.view(domains, rows, *plan.shape(index))


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
    chosen = low if positive is None else high + torch.sign(positive) * (low - high)
    result = z * lines.lower_slopes[0]
    flat = stored(result)
    flat[:, :, lines.gap.elements] = chosen.expand(*flat.shape[:2], -1)
    return result


def _selected(
    operands: tuple[int, ...], positive: Tensor | None, lines: Lines, values: dict[int, Tensor]
) -> Tensor:
    low = _line(operands, lines.lower_slopes, lines.lower_offset, lines, values)
    if positive is None:
        return low
    high = _line(operands, lines.upper_slopes, lines.upper_offset, lines, values)
    return high + torch.sign(positive) * (low - high)


def _line(operands, slopes, offset, lines: Lines, values) -> Tensor:
    total = offset
    for operand, slope in zip(operands, slopes, strict=False):
        z = values[operand]
        term = slope * z if lines.window is None else (slope * lines.window.gather(z)).sum(-1)
        total = term if total is None else total + term
    return total


def read_by_relaxed(plan: Plan, target: int) -> set[int]:
    """The values that relaxed nodes below the target read, and all that those are made of."""
    needed: set[int] = set()
    for index in plan.order(target):
        if index in needed or not plan.linear[index]:
            needed.add(index)
            if index not in plan.opaque:
                needed.update(plan.graph.nodes[index].inputs)
    return needed
