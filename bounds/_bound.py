"""Bounds of a network's output over a region, by intervals, backward passes (CROWN), or optimised slopes (alpha).

Bounds are proven: of the real function that the stored weights define, in float64, less a bound of all rounding errors.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from provenn.bounds.graph._graph import Graph
from provenn.bounds.graph.lattice import lattice
from provenn.bounds.propagate.alpha import Slopes, bound_at, rows_together
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.ball import BallBox
from provenn.bounds.propagate.coefficients import flattened
from provenn.bounds.propagate.intermediate import (
    Batch,
    Boxes,
    domains_at_once,
    intermediate_boxes,
    rows_per_chunk,
)
from provenn.bounds.propagate.interval import Box as Ends
from provenn.bounds.propagate.interval import interval_boxes, outward32
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.objective import Objective
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError
from provenn.bounds.propagate.trace import Trace
from provenn.bounds.regions import Regions, as_regions, input_ends
from provenn.errors import InputError

if TYPE_CHECKING:
    from torch.nn import Module

# Relative widths of boxes that rounding to float32 would widen by more than a thousandth.
THIN = 1e-4

Network: TypeAlias = "str | os.PathLike[str] | Module | Graph | Plan"
"""The path of an ONNX file, a torch module, a graph, or a plan (see ``plan``) where one network has many calls."""


@dataclass(frozen=True, eq=False)
class Line:
    """A linear function of the network's inputs, one for every element of what was bounded.

    ``coefficients`` has a tensor ``[*bounded, *input]`` for every input of the network, ``offset`` is ``[*bounded]``;
    where the region has an axis of ``boxes``, both have it in front.
    """

    coefficients: tuple[Tensor, ...]
    offset: Tensor
    boxes: bool = False

    def at(self, *inputs: Tensor) -> Tensor:
        """The values at a point ``[*input]``, or ``[points, *bounded]`` at points ``[points, *input]``.

        Takes a tensor for every input of the network; one point for each box where there are boxes. Rounded to nearest.
        """
        total = self.offset
        for slopes, x in zip(self.coefficients, inputs, strict=True):
            flat = slopes.reshape(*self.offset.shape, -1)
            rank = slopes.dim() - self.offset.dim()
            if x.dim() == rank:
                point = x.reshape(-1)
            elif x.dim() == rank + 1:
                inner = self.offset.dim() - (1 if self.boxes else 0)
                point = x.reshape(x.shape[0], *(1,) * inner, -1)
            else:
                raise InputError(f"Line.at got a point of shape {list(x.shape)}, expected {list(slopes.shape[-rank:])}")
            total = total + (flat * point.to(flat)).sum(-1)
        return total


@dataclass(frozen=True, eq=False)
class Bounds:
    """``lower <= f(x) <= upper`` for every x of the region, elementwise.

    ``lower`` and ``upper`` (float64) have the shape of the network's output, or ``[rows]`` where rows were given,
    with an axis of boxes in front where the region has one. With ``linear=True`` also
    ``lower_line(x) <= f(x) <= upper_line(x)`` there, and the least of the one and the largest of the other over the
    region are ``lower`` and ``upper`` up to rounding. Infinite where there is no finite bound.
    """

    lower: Tensor
    upper: Tensor
    lower_line: Line | None = None
    upper_line: Line | None = None


def plan(network: Network, *examples: Any, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Plan:
    """Read a network once, for many calls of ``interval``, ``crown`` and ``alpha``.

    ``examples`` are tensors of the shapes and types of a torch module's inputs. Bounds are proven with
    ``dtype=torch.float64`` only; in float32 they cost about half and hold up to rounding. Raises ModelError,
    UnsupportedOperatorError or InputError.
    """
    if isinstance(network, Plan):
        return network
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"plan got dtype={dtype}, expected torch.float64 (proven) or torch.float32")
    return Plan(lattice(_graph(network, examples)), dtype, torch.device(device))


def interval(network: Network, region: Regions, *, output: int | None = None) -> Bounds:
    """Bounds by interval arithmetic: the cheapest, about two evaluations of the network.

    ``region`` is a Box, a Ball or a tensor (a point), or a sequence of them where the network has several inputs; a
    ``torch.nn.Module`` takes its shapes from it. ``output`` counts from 0, and is needed where there are several.
    Raises ModelError, UnsupportedOperatorError or InputError.

    >>> from provenn.bounds import Box, interval
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.constant_(layer.weight, 3.0)
    >>> found = interval(layer, Box([[-1.0, 0.0]], [[1.0, 2.0]]))
    >>> round(found.lower.item(), 6), round(found.upper.item(), 6)
    (-3.0, 9.0)
    """
    made, target, inputs, many = _prepared(network, region, output)
    with torch.no_grad():
        low, high = interval_boxes(made, inputs, until=target)[target]
    return _shaped(_finite((low, high)), _count(inputs), many)


def crown(
    network: Network,
    region: Regions,
    *,
    rows: Tensor | None = None,
    linear: bool = False,
    output: int | None = None,
) -> Bounds:
    """Bounds by backward passes through linear relaxations (CROWN), at slopes of least area.

    ``rows`` ``[k, *output]`` are linear forms of the output to bound instead of its elements: the margin
    ``y[0] - y[1]`` has tighter bounds than the difference of the elements' bounds. ``linear=True`` returns linear
    bounds in the input, too. Cost: for every layer about two backward passes per neuron that intervals leave unstable,
    and two per row. The other arguments are those of ``interval``.
    """
    return _bounded(network, region, rows, linear, output, None)


def alpha(
    network: Network,
    region: Regions,
    *,
    rows: Tensor | None = None,
    linear: bool = False,
    output: int | None = None,
    steps: int = 20,
    seconds: float = math.inf,
) -> Bounds:
    """Bounds with optimised slopes (alpha-CROWN): of all layers' neurons in turn, then of every row.

    Cost: some ``2 * steps`` times that of ``crown``; after ``seconds`` no step begins, and what has been reached is
    returned. Slopes are sought in float32, bounds proven in float64. The arguments are those of ``crown``.
    """
    if steps < 0 or not seconds > 0:
        raise InputError(
            f"alpha got steps={steps!r} and seconds={seconds!r}, expected at least 0 steps and a positive time"
        )
    return _bounded(network, region, rows, linear, output, (int(steps), time.monotonic() + seconds))


# -- how ------------------------------------------------------------------------------------------------------


def _graph(network: Network, examples: tuple[Any, ...]) -> Graph:
    if isinstance(network, Graph):
        return network
    if isinstance(network, str | os.PathLike):
        from provenn.bounds.graph import read_onnx

        return read_onnx(network)
    if isinstance(network, torch.nn.Module):
        from provenn.bounds.graph import read_module

        return read_module(network, *examples)
    raise InputError(
        f"network got {type(network).__name__}, expected the path of an ONNX file, a torch.nn.Module, a Graph or a Plan"
    )


def _prepared(network: Network, region: Regions, output: int | None) -> tuple[Plan, int, dict[int, Ends], bool]:
    """(the plan, the output's value, input ends, whether the region has an axis of boxes)."""
    regions = as_regions(region)
    if isinstance(network, torch.nn.Module):
        from provenn.bounds.graph import example_of

        network = plan(network, *(example_of(network, one.shape) for one in regions))
    made = plan(network)
    inputs, many = input_ends(made.graph, regions)
    for value, ends in inputs.items():
        if made.dtype != torch.float64 or made.device.type != "cpu":
            inputs[value] = _moved(ends, made)
    outputs = made.graph.outputs
    if output is None and len(outputs) > 1:
        raise InputError(f"the network has {len(outputs)} outputs: choose one by output=0 to {len(outputs) - 1}")
    if not 0 <= (output or 0) < len(outputs):
        raise InputError(f"output={output!r}, expected 0 to {len(outputs) - 1}: the network has {len(outputs)}")
    return made, outputs[output or 0], inputs, many


def _moved(ends: Ends, made: Plan) -> Ends:
    if isinstance(ends, BallBox):
        return ends.to(made.dtype, made.device)
    return ends[0].to(made.device, made.dtype), ends[1].to(made.device, made.dtype)


def _runs(inputs: dict[int, Ends], size: int) -> Iterator[dict[int, Ends]]:
    """Runs of at most ``size`` boxes; what all boxes share stays whole."""
    count = _count(inputs)
    for start in range(0, count, size):
        yield {
            i: ends
            if ends[0].shape[0] == 1
            else ends.part(start, size)
            if isinstance(ends, BallBox)
            else (ends[0][start : start + size], ends[1][start : start + size])
            for i, ends in inputs.items()
        }


def _count(inputs: dict[int, Ends]) -> int:
    return max(ends[0].shape[0] for ends in inputs.values())


def _bounded(
    network: Network,
    region: Regions,
    rows: Tensor | None,
    linear: bool,
    output: int | None,
    effort: tuple[int, float] | None,
) -> Bounds:
    """Lower bounds of rows and of minus the rows, box by box, in what memory allows."""
    made, target, inputs, many = _prepared(network, region, output)
    shape = made.shape(target)
    if rows is not None and (rows.dim() != len(shape) + 1 or tuple(rows.shape[1:]) != shape):
        raise InputError(f"rows got shape {list(rows.shape)}, expected [k, {', '.join(map(str, shape))}]")
    bounded = shape if rows is None else (rows.shape[0],)
    if rows is not None:
        rows = rows.detach().to(made.device, made.dtype)
    runs = []
    with torch.no_grad():
        for run in _runs(inputs, domains_at_once(made)):
            pieces = _Bounder(made, target, run, rows, linear, effort).run()
            runs.append([torch.cat(piece, 1) for piece in zip(*pieces, strict=True)])
    found = [torch.cat(parts) for parts in zip(*runs, strict=True)]
    (low, high), *rest = [_shape(part, found[0].shape[1] // 2, bounded, many) for part in found]
    low, high = _finite((low, -high))
    if not linear:
        return Bounds(low, high)
    (offset, minus_offset), *slopes = rest
    below = Line(tuple(pair[0] for pair in slopes), offset, many)
    above = Line(tuple(-pair[1] for pair in slopes), -minus_offset, many)
    return Bounds(low, high, below, above)


def _shape(part: Tensor, half: int, bounded: tuple[int, ...], many: bool) -> tuple[Tensor, Tensor]:
    """The two halves ``[boxes, *bounded, ...]`` of ``[boxes, 2 k, ...]``, on the CPU, in float64."""
    sides = (part[:, :half], part[:, half:])
    low, high = (side.reshape(side.shape[0], *bounded, *part.shape[2:]).to("cpu", torch.float64) for side in sides)
    return (low, high) if many else (low[0], high[0])


class _Forgetful(dict):
    """What a trace keeps for gradients, which nobody asks for here."""

    def __setitem__(self, key: int, value: Any) -> None:
        pass


@dataclass
class _Bounder:
    """Bounds of one run of boxes. ``effort`` is (steps, deadline) of optimised slopes, None for CROWN."""

    plan: Plan
    target: int
    inputs: dict[int, Ends]
    rows: Tensor | None
    linear: bool
    effort: tuple[int, float] | None

    def run(self) -> Iterator[tuple[Tensor, ...]]:
        """Pieces, to be joined along the rows, of bounds ``[boxes, 2 k]`` of all rows and then of minus all rows.

        With lines offsets ``[boxes, 2 k]`` follow, and slopes ``[boxes, 2 k, *input]`` for every input.
        """
        plan, target = self.plan, self.target
        self.count = _count(self.inputs)
        intervals = interval_boxes(plan, self.inputs, until=target)
        self.magnitudes = Magnitudes(plan, intervals) if plan.dtype == torch.float64 else None
        at, size = (self._crown if self.effort is None else self._alpha)(intervals)
        total = plan.size(target) if self.rows is None else self.rows.shape[0]
        for sign in (1, -1):
            for start in range(0, total, size):
                yield self._piece(at, sign * self._some_rows(start, min(size, total - start)))

    def _some_rows(self, start: int, count: int) -> Tensor:
        """Rows ``[1, count, *shape]``."""
        if self.rows is not None:
            return self.rows[start : start + count].unsqueeze(0)
        made = torch.zeros(count, self.plan.size(self.target), dtype=self.plan.dtype, device=self.plan.device)
        made[torch.arange(count), torch.arange(start, start + count)] = 1
        return made.view(1, count, *self.plan.shape(self.target))

    def _crown(self, intervals: dict[int, Ends]) -> tuple[_At, int]:
        plan, target, inputs = self.plan, self.target, self.inputs
        boxes = intermediate_boxes(plan, inputs, magnitudes=self.magnitudes, until=target)
        lines = relax_all(plan, target, boxes)
        self.box = boxes[target]

        def at(rows: Tensor, error: RoundingError | None, trace: Trace | None) -> Tensor:
            return backward(plan, target, rows, lines, inputs, error=error, trace=trace)

        return at, rows_per_chunk(plan, target, self.count)

    def _alpha(self, intervals: dict[int, Ends]) -> tuple[_At, int]:
        assert self.effort is not None
        plan, target, inputs = self.plan, self.target, self.inputs
        steps, deadline = self.effort
        search = plan if plan.dtype == torch.float32 else Plan(plan.graph, torch.float32, plan.device, plan.memory)
        slopes = Slopes(plan, search, inputs, magnitudes=self.magnitudes, steps=steps, deadline=deadline)
        if math.isfinite(deadline):
            slopes.expect({i: box for i, box in intervals.items() if i in plan.bounded_below(target)})
        batch = Batch(plan, inputs, self.magnitudes, Boxes(), {}, self.count)

        def tighten(value: int, box: Ends, boxes: dict[int, Ends]) -> Ends:
            box = slopes.tighten(value, batch.tighten(value, box))
            box = _rounded(box) if plan.dtype == torch.float64 else box
            slopes.add(value, box)
            return box

        interval_boxes(plan, inputs, tighten=tighten, until=target, into=batch.boxes)
        self.box = batch.boxes[target]

        def at(rows: Tensor, error: RoundingError | None, trace: Trace | None) -> Tensor:
            found = slopes.sought(target, rows)
            objective = Objective(plan, target, rows, slopes.boxes, inputs, narrow=True, planes=True)
            return bound_at(objective, found.parameters, error, trace)

        return at, rows_together(plan, target, self.count)

    def _piece(self, at: _At, rows: Tensor) -> tuple[Tensor, ...]:
        plan, error = self.plan, self._error()
        trace = Trace(True, True, _Forgetful(), _Forgetful(), _Forgetful(), _Forgetful()) if self.linear else None
        bound = at(rows, error, trace).expand(self.count, -1)
        by_box = self._by_box(rows)
        best = torch.fmax(bound, by_box)
        if trace is None:
            return (best,)
        offset = trace.offset if trace.offset is not None else torch.zeros_like(bound)
        offset = (offset if error is None else error.lowered(offset)).expand(self.count, -1)
        # A number is a line, too: where it is better than the line's least value, or there is no line.
        linear = (bound >= by_box) & torch.isfinite(offset)
        slopes = []
        for index in plan.graph.inputs:
            a = trace.inputs.get(index)
            if a is None:
                a = torch.zeros(1, 1, *plan.shape(index), dtype=plan.dtype, device=plan.device)
            a = a.expand(self.count, rows.shape[1], *plan.shape(index))
            chosen = linear.view(*linear.shape, *(1,) * (a.dim() - 2))
            slopes.append(torch.where(chosen, a, torch.zeros_like(a)))
        return best, torch.where(linear, offset, by_box), *slopes


    def _error(self) -> RoundingError | None:
        return None if self.magnitudes is None else RoundingError(self.plan, self.magnitudes)

    def _by_box(self, rows: Tensor) -> Tensor:
        """What the target's box says; rows that read an infinite end have no bound, whatever the others' ends are."""
        low, high = self.box
        ends = [torch.where(torch.isfinite(end), end, torch.zeros_like(end)) for end in (low, high)]
        bound = backward(
            self.plan, self.target, rows, {}, self.inputs, error=self._error(), stop={self.target: (ends[0], ends[1])}
        )
        lost = (rows > 0) & ~torch.isfinite(low).unsqueeze(1) | (rows < 0) & ~torch.isfinite(high).unsqueeze(1)
        return bound.expand(self.count, -1).masked_fill(flattened(lost, 2).any(-1), -math.inf)


_At: TypeAlias = "Callable[[Tensor, RoundingError | None, Trace | None], Tensor]"
"""Bounds ``[1|boxes, rows]`` of rows ``[1, rows, *shape]`` of the target."""


def _rounded(box: Ends) -> Ends:
    """Outward to numbers of float32, but for what is too thin for that.

    The search in float32 and the proof then see the same boxes, or slopes of the one would not fit the other.
    """
    thin = box[1] - box[0] < THIN * torch.maximum(box[0].abs(), box[1].abs())
    low, high = outward32(box)
    return torch.where(thin, box[0], low), torch.where(thin, box[1], high)


def _shaped(ends: Ends, count: int, many: bool) -> Bounds:
    low, high = (end.expand(count, *end.shape[1:]).to("cpu", torch.float64) for end in ends)
    return Bounds(low, high) if many else Bounds(low[0], high[0])


def _finite(ends: Ends) -> Ends:
    """What is not a number is no bound."""
    return ends[0].nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf), ends[1].nan_to_num(
        nan=math.inf, posinf=math.inf, neginf=-math.inf
    )
