"""Induced norms of a Jacobian as outputs of a graph: what has to be maximised, and the norm's bound that follows.

``inf`` and ``1`` are the largest absolute row and column sum, so every sum is an output. ``2`` of a single row or
column is the root of a sum of squares. ``2`` of a matrix is no output; the least of four sound bounds is taken:
``sqrt(|J|_1 |J|_inf)``, the root of the sum of squares, the spectral norm of the matrix of largest magnitudes, and that
of the middle of the entries' boxes plus that of their half widths, which alone becomes exact as boxes shrink.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._builder import Builder, Value
from provenn.bounds.graph._graph import Graph
from provenn.bounds.jacobian._sweep import Positions, jacobian, tidied
from provenn.bounds.propagate.alpha import Slopes
from provenn.bounds.propagate.intermediate import Batch, Boxes
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, gamma
from provenn.errors import InputError

NORMS = ("1", "2", "inf")
LARGEST, ROOT, MATRIX = "largest", "root", "matrix"
# Entries of a matrix up to which each has bounds of its own, besides the sums.
MOST_ENTRIES = 1024


@dataclass(frozen=True)
class NormGraph:
    """A graph with one output ``[1, n]`` that bounds an induced norm of a Jacobian ``shape`` (rows, columns).

    ``kind`` says how: the norm is the largest output (``largest``), its root (``root``), or at most what ``upper``
    makes of all (``matrix``: row sums, column sums, the sum of squares, and the entries, of which both ends count).
    """

    graph: Graph
    norm: str
    kind: str
    shape: tuple[int, int]

    @property
    def outputs(self) -> int:
        return self.graph.nodes[self.graph.outputs[0]].size

    @property
    def entries(self) -> slice:
        """The outputs that are entries of the Jacobian, whose lower ends matter too."""
        count = self.shape[0] * self.shape[1] if self.kind == MATRIX else 0
        return slice(self.outputs - count, self.outputs)

    def rows(self) -> Tensor:
        """Rows ``[n, outputs]`` whose lower bounds ``upper`` wants: minus every output, then plus every entry; of a
        matrix of many entries the first ones only, minus sums."""
        if self.entries.stop - self.entries.start > MOST_ENTRIES:
            return -torch.eye(self.entries.start, self.outputs, dtype=torch.float64)
        eye = torch.eye(self.outputs, dtype=torch.float64)
        return torch.cat([-eye, eye[self.entries]])

    def within(self, box: Box) -> Tensor:
        """What a box of the outputs says of all rows ``[domains, n]``."""
        low, high = (end.flatten(1) for end in box)
        return torch.cat([-high, low[:, self.entries]], 1)

    def upper(self, bounds: Tensor) -> Tensor:
        """The norm is at most this ``[domains]`` where the ``rows`` are at least ``bounds [domains, n]`` (float64).

        Rounded upwards; infinite where a bound that is needed is.
        """
        high = -bounds[:, : self.outputs].double()
        if self.kind != MATRIX:
            top = torch.nan_to_num(high.amax(1), nan=torch.inf, posinf=torch.inf)
            return top.clamp(min=0.0) if self.kind == LARGEST else _root(top)
        rows, columns = self.shape
        low = bounds[:, self.outputs :].double().view(-1, rows, columns)
        sums = torch.nan_to_num(high[:, : rows + columns + 1], nan=torch.inf, posinf=torch.inf).clamp(min=0.0)
        product = sums[:, :rows].amax(1) * sums[:, rows : rows + columns].amax(1)
        least = torch.minimum(_root(_up(product)), _root(sums[:, rows + columns]))
        return torch.minimum(least, spectral(low, high[:, self.entries].view(-1, rows, columns)))


def norm_graph(
    graph: Graph, norm: str | float, output: int | None = None, inputs: Positions = None
) -> NormGraph:
    """The graph whose outputs bound the induced ``norm`` (1, 2 or inf) of dY/dX, of one row if ``output`` is given.

    ``inputs`` restricts the columns to some flat inputs. Raises InputError for another norm or a position that does not
    exist, UnsupportedOperatorError for operators with jumps.
    """
    name = norm_name(norm)
    made = jacobian(graph, None if output is None else [output], inputs)
    builder = Builder(list(made.nodes), origin=f"norm {name}", name=f"norm {name}")
    node = made.nodes[made.outputs[0]]
    entries = Value(made.outputs[0], node.shape, node.scalar_type)
    rows, columns = entries.shape
    single = min(rows, columns) == 1
    if name == "2" and single and entries.size > 1:
        result, kind = _sum(builder, _squares(builder, entries), [0, 1]), ROOT
    elif name == "2" and not single:
        sizes = builder.unary("abs", entries)
        squares = _sum(builder, _squares(builder, entries), [0, 1])
        parts = [_sum(builder, sizes, [1]), _sum(builder, sizes, [0]), squares, entries]
        flat = [builder.reshape(part, (1, part.size)) for part in parts]
        result, kind = builder.concat(flat, 1), MATRIX
    else:
        sizes = builder.unary("abs", entries)
        result, kind = _sum(builder, sizes, [1 if name == "inf" else 0]), LARGEST
    result = builder.reshape(result, (1, result.size))
    found = tidied(replace(made, nodes=tuple(builder.nodes), outputs=(result.index,)))
    return NormGraph(found, name, kind, (rows, columns))


def norm_name(norm: str | float) -> str:
    """An entry of ``NORMS``. Raises InputError for what is none."""
    found = {"1": "1", "1.0": "1", "2": "2", "2.0": "2", "inf": "inf"}.get(str(norm))
    if found is None:
        raise InputError(f"norm got {norm!r}, expected one of {', '.join(NORMS)}")
    return found


def _squares(builder: Builder, x: Value) -> Value:
    return builder.unary("pow", x, exponent=2.0)


def _sum(builder: Builder, x: Value, axes: list[int]) -> Value:
    return builder.sum(x, axes, keepdims=False)


# -- spectral norms -----------------------------------------------------------------------------------------


def spectral(lower: Tensor, upper: Tensor) -> Tensor:
    """An upper bound ``[domains]`` of the spectral norm of every matrix between two ``[domains, rows, columns]``."""
    infinity = torch.full((), torch.inf, dtype=torch.float64, device=lower.device)
    known = (torch.isfinite(lower) & torch.isfinite(upper)).flatten(1).all(1)
    lower, upper = (torch.where(known[:, None, None], end, 0.0) for end in (lower, upper))
    middle = 0.5 * lower + 0.5 * upper
    radius = torch.maximum(upper - middle, middle - lower).clamp(min=0.0)
    radius = torch.where(radius > 0, torch.nextafter(radius, infinity), radius)
    around = _up(_spectral(middle) + _spectral(radius))
    largest = _spectral(torch.maximum(lower.abs(), upper.abs()))
    return torch.where(known, torch.minimum(around, largest), infinity)


def _spectral(matrix: Tensor) -> Tensor:
    """An upper bound of the spectral norm of float64 matrices, from singular vectors that need not be right.

    For any U with ``|U^T U - I|_inf <= d < 1``: ``|M| <= |U^T M| / sqrt(1 - d)``, and ``|B|^2 <= |B B^T|_inf``, which
    is tight where the rows of B are almost orthogonal.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        matrix = matrix.mT
    size, length = matrix.shape[-2], matrix.shape[-1]
    try:
        u = torch.linalg.svd(matrix, full_matrices=False).U
    except RuntimeError:  # it did not converge: any orthogonal matrix will do
        u = torch.eye(size, dtype=matrix.dtype, device=matrix.device).expand_as(matrix[..., :size])
    one = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    few, many = gamma(size + 4, matrix.dtype), gamma(length + 4, matrix.dtype)
    apart = ((u.mT @ u - one).abs() + few * (u.mT.abs() @ u.abs()) + few * one).sum(-1).amax(-1)
    turned = u.mT @ matrix
    error = few * (u.mT.abs() @ matrix.abs())
    gram = (turned @ turned.mT).abs() + many * (turned.abs() @ turned.mT.abs())
    norm = _root(_up(gram.sum(-1).amax(-1) * (1 + 2 * few) + 1e-300))
    lost = error.pow(2).sum((-2, -1)).sqrt() * (1 + gamma(4 * size * length + 8, matrix.dtype)) + 1e-150
    bound = (norm + lost) / torch.sqrt((1 - apart).clamp(min=0.0)) * (1 + 16 * torch.finfo(matrix.dtype).eps)
    return torch.nan_to_num(bound, nan=torch.inf, posinf=torch.inf)


def _up(x: Tensor) -> Tensor:
    """Above the real result of one operation on numbers that are not negative."""
    return torch.nextafter(x, torch.full_like(x, torch.inf))


def _root(x: Tensor) -> Tensor:
    """Above the real root; of what is not positive 0."""
    return _up(torch.sqrt(torch.nan_to_num(x, nan=torch.inf, posinf=torch.inf).clamp(min=0.0)))


# -- a bound over boxes -------------------------------------------------------------------------------------


def jacobian_norm(
    graph: Graph,
    lower: np.ndarray | Tensor,
    upper: np.ndarray | Tensor,
    norm: str | float = "2",
    output: int | None = None,
    *,
    steps: int = 20,
) -> Tensor:
    """Proven upper bounds ``[domains]`` of the norm of dY/dX over boxes ``[domains, inputs]`` (one box: ``[inputs]``).

    It bounds the norm at every point of the box at which the network is differentiable, and of Clarke's generalised
    Jacobian at every point inside. ``steps`` is how often the slopes of each value's and of each output's lines, those
    of derivatives included, are improved; 0 takes the starting slopes. Infinite where the network's slope may be.
    """
    return norm_bounds(norm_graph(graph, norm, output), lower, upper, steps=steps)


def norm_bounds(
    made: NormGraph, lower: np.ndarray | Tensor, upper: np.ndarray | Tensor, *, steps: int = 20,
    deadline: float = math.inf,
) -> Tensor:  # fmt: skip
    """``jacobian_norm`` of a graph that is made already; after ``deadline`` (time.monotonic()) by what is known."""
    graph = made.graph
    exact, search = Plan(graph, torch.float64), Plan(graph, torch.float32)
    inputs = input_boxes(graph, lower, upper)
    magnitudes = Magnitudes(exact, interval_boxes(exact, inputs))
    slopes = Slopes(exact, search, inputs, magnitudes=magnitudes, steps=steps, deadline=deadline)
    domains = max(box[0].shape[0] for box in inputs.values())
    batch = Batch(exact, inputs, magnitudes, Boxes(), {}, domains, deadline=deadline)

    def tighten(value: int, box: Box, boxes: dict[int, Box]) -> Box:
        box = slopes.tighten(value, batch.tighten(value, box))
        slopes.add(value, box)
        return box

    target = graph.outputs[0]
    with torch.no_grad():
        interval_boxes(exact, inputs, tighten=tighten, until=target, into=batch.boxes)
        bounds = made.within(batch.boxes[target]).expand(domains, -1).clone()
        if time.monotonic() < deadline:
            rows = made.rows().view(1, -1, *exact.shape(target))
            found = slopes.rows(target, rows)[0].expand(domains, -1)
            bounds[:, : found.shape[1]] = torch.fmax(bounds[:, : found.shape[1]], found)
        return made.upper(bounds)


def input_boxes(graph: Graph, lower: np.ndarray | Tensor, upper: np.ndarray | Tensor) -> dict[int, Box]:
    """Flat boxes ``[domains, inputs]`` or ``[inputs]`` over all inputs of a graph, as the bounders take them."""
    ends = [torch.as_tensor(end, dtype=torch.float64) for end in (lower, upper)]
    ends = [end.unsqueeze(0) if end.dim() == 1 else end for end in ends]
    sizes = [graph.nodes[i].size for i in graph.inputs]
    shapes = [list(end.shape) for end in ends]
    if shapes[0] != shapes[1] or shapes[0][1:] != [sum(sizes)] or not bool((ends[0] <= ends[1]).all()):
        raise InputError(
            f"box got ends of shapes {shapes[0]} and {shapes[1]}, expected [domains, {sum(sizes)}] with lower <= upper"
        )
    parts = zip(*(end.split(sizes, 1) for end in ends), graph.inputs, strict=True)
    return {
        index: (low.reshape(-1, *graph.nodes[index].shape), high.reshape(-1, *graph.nodes[index].shape))
        for low, high, index in parts
    }


def unbounded(graph: Graph, boxes: Mapping[int, Box]) -> list[str]:
    """Where nodes are infinite over boxes of all values though what they read is not: an infinite slope, a pole."""
    finite = {i: bool(torch.isfinite(torch.stack(box)).all()) for i, box in boxes.items()}
    return [
        node.origin or node.operator
        for index, node in enumerate(graph.nodes)
        if node.inputs and not finite.get(index, True) and all(finite.get(i, True) for i in node.inputs)
    ]
