"""A tabulated function of one variable, a polynomial of degree at most 2 between knots: ``bounds.graph.univariate``.

A node's tables hold one row per function; ``which`` ``[*shape]`` is the function of each element, None where there is
one only. In the piece that begins at knot t the value is ``value + d (slope + d curve)`` with ``d = x - t``;
``before`` is the limit at t from the left. The real function is within ``radius`` of that, in a piece that x is within
``doubt`` of. ``ends`` are those of the domain, which shorter rows go beyond; outside of it nothing is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops._operator import Prepared, Univariate
from provenn.bounds.ops.relaxation import record

Candidates = list[tuple]
_TABLES = ("knots", "value", "slope", "curve", "before", "radius", "doubt", "ends")
# Roundings of an evaluation, of the comparison of candidates, and of a product with a slope.
_ULPS = 8.0


def _derive(node: Node, shapes: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    curved = bool(np.any(node.attributes["curve"]))
    return {"curved": curved, "single": len(node.attributes["radius"]) == 1}


def _table(p: Prepared, name: str, index: Tensor) -> Tensor:
    """Entries ``index`` ``[..., *shape, k]`` of every element's table."""
    if p.derived["single"]:
        return p.tensors[name][0][index]
    return p.tensors[name][_which(p, index.shape[:-1]).unsqueeze(-1), index]


def _which(p: Prepared, shape: torch.Size) -> Tensor:
    """The functions of elements ``[..., *shape]``."""
    return p.tensors["which"].expand(shape)


def _of_element(p: Prepared, name: str) -> Tensor:
    """One number per function, as ``[*shape]`` or as a scalar."""
    return p.tensors[name][0] if p.derived["single"] else p.tensors[name][p.tensors["which"]]


def _pieces_left(p: Prepared, x: Tensor, right: bool = True) -> Tensor:
    """How many inner knots lie below x (or at x, with ``right``): the piece that holds x."""
    inner = p.tensors["knots"][:, 1:-1]
    x = x.detach()
    if p.derived["single"]:
        return torch.searchsorted(inner[0], x.contiguous(), right=right)
    rank = p.tensors["which"].dim()
    moved = x.reshape(-1, p.tensors["which"].numel()).mT.contiguous()
    found = torch.searchsorted(inner[p.tensors["which"].flatten()], moved, right=right)
    assert x.shape[x.dim() - rank :] == p.tensors["which"].shape
    return found.mT.reshape(x.shape)


def _evaluate(p: Prepared, x: Tensor) -> Tensor:
    index = _pieces_left(p, x).unsqueeze(-1)
    return _polynomial(p, index, x.unsqueeze(-1)).squeeze(-1)


def _polynomial(p: Prepared, index: Tensor, x: Tensor) -> Tensor:
    """The polynomials of pieces ``index`` ``[..., k]`` at ``x``."""
    d = x - _table(p, "knots", index)
    slope = _table(p, "slope", index)
    if p.derived["curved"]:
        slope = slope + d * _table(p, "curve", index)
    return _table(p, "value", index) + d * slope


def _derivative(p: Prepared, x: Tensor) -> Tensor:
    index = _pieces_left(p, x).unsqueeze(-1)
    slope = _table(p, "slope", index)
    if p.derived["curved"]:
        slope = slope + 2 * (x.unsqueeze(-1) - _table(p, "knots", index)) * _table(p, "curve", index)
    return slope.squeeze(-1)


def _terms(p: Prepared) -> Tensor:
    """The largest sum of magnitudes that an evaluation adds up, for every function ``[functions]``."""
    width = p.tensors["knots"].diff(dim=1)
    t = {name: p.tensors[name].abs() for name in ("value", "slope", "curve", "before")}
    return torch.maximum(t["value"] + width * (t["slope"] + width * t["curve"]), t["before"]).amax(1)


def _rounding(p: Prepared) -> Tensor:
    terms = _terms(p) * (_ULPS * torch.finfo(p.dtype).eps)
    return terms[0] if p.derived["single"] else terms[p.tensors["which"]]


def _error(p: Prepared, x: Tensor, value: Tensor) -> Tensor:
    return (_of_element(p, "radius") + _rounding(p)).expand(value.shape)


def _candidates(p: Prepared, slope: Tensor, lower: Tensor, upper: Tensor) -> Candidates:
    """Where ``f(x) - slope x`` is largest and smallest over the knots and stationary points of the box.

    Which of them that is may be lost to rounding; their values are widened by as much. A knot within ``doubt`` of
    the box counts as inside, with its limits from both sides.
    """
    ends = p.tensors["ends"]
    outside = ~((lower >= ends[0]) & (upper < ends[1]))
    doubt = 2 * _of_element(p, "doubt")
    first = _pieces_left(p, lower - doubt, right=False)
    last = _pieces_left(p, upper + doubt)
    count = int((last - first).max()) if first.numel() else 0
    step = torch.arange(count + 1, device=lower.device)
    piece = torch.minimum(first.unsqueeze(-1) + step, last.unsqueeze(-1))
    low, high, k = lower.unsqueeze(-1), upper.unsqueeze(-1), slope.unsqueeze(-1) if slope.dim() else slope
    points, least, most = [], [], []
    if count:
        knot = piece[..., 1:]
        found = _table(p, "knots", knot).clamp(min=low, max=high)
        left, right = _table(p, "before", knot), _table(p, "value", knot)
        real = knot > first.unsqueeze(-1)
        points.append(torch.where(real, found, low))
        least.append(torch.where(real, torch.minimum(left, right), torch.inf))
        most.append(torch.where(real, torch.maximum(left, right), -torch.inf))
    if p.derived["curved"]:
        start = _table(p, "knots", piece)
        curve = _table(p, "curve", piece)
        away = (k - _table(p, "slope", piece)) / (2 * curve)
        x = torch.where(curve == 0, torch.nan, start + away)
        # The ends of a piece are knots, and those of the box carry the gradient.
        inside = (x > start) & (x < _table(p, "knots", piece + 1)) & (x > low) & (x < high)
        value = _polynomial(p, piece, x)
        points.append(torch.where(inside, x, low))
        least.append(torch.where(inside, value, torch.inf))
        most.append(torch.where(inside, value, -torch.inf))
    result: Candidates = []
    if bool(outside.any()):
        result.append((torch.where(outside, lower, torch.nan), -torch.inf, torch.inf))
    if not points:
        return result
    shape = torch.broadcast_shapes(points[0].shape[:-1], points[-1].shape[:-1], slope.shape)
    x, low_value, high_value = (torch.cat([t.expand(*shape, -1) for t in part], -1) for part in (points, least, most))
    reach = torch.maximum(lower.abs(), upper.abs())
    doubtful = slope.abs() * (doubt + reach * (_ULPS * torch.finfo(p.dtype).eps)) + _rounding(p)
    product = k * x
    for chosen in ((high_value - product).argmax(-1, keepdim=True), (low_value - product).argmin(-1, keepdim=True)):
        point, least_, most_ = (t.gather(-1, chosen).squeeze(-1) for t in (x, low_value, high_value))
        point = torch.where(most_ == -torch.inf, torch.nan, point)  # there is none
        result.append((point, least_ - doubtful, most_ + doubtful))
    return result


PIECES = record(
    "pieces",
    _evaluate,
    _candidates,
    _derivative,
    constants=(*_TABLES, "which"),
    tables=frozenset(_TABLES),
    derive=_derive,
    error=_error,
)

OPERATORS: tuple[Univariate, ...] = (PIECES,)
