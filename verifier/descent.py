"""Projected gradient descent on the margins of clauses, all points in one batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.verifier.result import Witness
from provenn.verifier.target import Target, finite

_LAST_STEP = 0.1
"""The last step is this fraction of the first."""
_DIVERSE = 0.1
"""Fraction of the steps in which diversified points follow a random direction of the outputs."""
_MOMENTUM, _MEMORY = 0.9, 0.99


@dataclass(frozen=True)
class Points:
    """Where descents stand: inputs ``[n, inputs]``, their clauses ``[n]`` and margins ``[n]``."""

    x: Tensor
    clause: Tensor
    margin: Tensor

    def __len__(self) -> int:
        return self.x.shape[0]

    def take(self, index: Tensor) -> Points:
        return Points(self.x[index], self.clause[index], self.margin[index])

    def best(self, count: int) -> Points:
        """The ``count`` points of the smallest margin, in order."""
        return self.take(self.margin.argsort(stable=True)[:count])

    @staticmethod
    def join(parts: list[Points]) -> Points:
        return Points(
            torch.cat([part.x for part in parts]),
            torch.cat([part.clause for part in parts]),
            torch.cat([part.margin for part in parts]),
        )


def descend(
    target: Target, points: Points, rate: Tensor, diverse: Tensor, steps: int
) -> tuple[Points, Witness | None]:
    """Descend from all points at once; return each one's best position, and a witness if one was replayed.

    ``rate`` ``[n]``: the first step as a fraction of the box's width per input, which decays geometrically.
    ``diverse`` ``[n]`` bool: points that first follow a random direction of the outputs (output diversified
    initialisation, Tashiro et al. 2020). Steps are Adam's: per coordinate, whatever the derivative's scale.
    The loss of a point is its largest row margin plus the rows that are still violated the wrong way, so that a
    conjunction's rows are not traded against each other.
    """
    x, clause = points.x.clone(), points.clause
    lower, upper = target.lower[target.box[clause]], target.upper[target.box[clause]]
    step = (upper - lower) * rate[:, None]
    rows, threshold = target.rows[clause], target.threshold[clause]
    best_x, best = points.x.clone(), points.margin.clone()
    first = torch.zeros_like(x)
    second = torch.zeros_like(x)
    direction = target.signs(len(points), target.columns.shape[0]) if bool(diverse.any()) else None
    for t in range(steps + 1):
        last = t == steps or target.expired
        x.requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            y = target.outputs(x)
            margins = torch.einsum("nrc,nc->nr", rows, y) - threshold
            loss = margins.amax(1)
            if margins.shape[1] > 1:
                loss = loss + margins.clamp(min=0.0).sum(1)
            if direction is not None and t < _DIVERSE * steps:
                loss = torch.where(diverse, (y * direction).sum(1), loss)
        margin = finite(margins.detach().amax(1))
        better = margin < best
        best = torch.where(better, margin, best)
        best_x = torch.where(better[:, None], x.detach(), best_x)
        if float(margin.min()) <= target.goal:
            scale = float(target.scale(y.detach()[:1], clause[:1]))
            witness = target.try_violating(x, margin, clause, scale)
            if witness is not None:
                return Points(best_x, clause, best), witness
        if last:
            break
        gradient = _gradient(target, loss, x)
        x = x.detach()
        first.lerp_(gradient, 1 - _MOMENTUM)
        second.lerp_(gradient.square(), 1 - _MEMORY)
        size = (second / (1 - _MEMORY ** (t + 1))).sqrt_().clamp_(min=torch.finfo(x.dtype).tiny)
        move = (first / (1 - _MOMENTUM ** (t + 1))).div_(size).clamp_(-1.0, 1.0)
        x = x - move * step * _LAST_STEP ** (t / max(1, steps))
        x = torch.minimum(torch.maximum(x, lower), upper)
    return Points(best_x, clause, best), None


def _gradient(target: Target, loss: Tensor, x: Tensor) -> Tensor:
    """d loss / d x, scaled per point so that its squares neither vanish nor overflow; random where it is zero."""
    gradient = None
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss.sum(), x, allow_unused=True)
    if gradient is None:
        gradient = torch.zeros_like(x)
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    size = gradient.abs().amax(1, keepdim=True)
    flat = size == 0
    if bool(flat.any()):
        gradient = torch.where(flat, 2 * target.random(*x.shape) - 1, gradient)
        size = torch.where(flat, 1.0, size)
    return gradient / size


def mutate(target: Target, points: Points, children: int, rounds: int) -> tuple[Points, Witness | None]:
    """Random flips of coordinates, for networks whose derivative says little; every parent keeps its best child.

    A child redraws a random fraction of its parent's coordinates: to an end of the box, anywhere in it, or to
    an integer. Evaluations only; ``children`` per parent and round.
    """
    free = (target.upper > target.lower).sum(1).clamp(min=1).to(target.lower.dtype)
    for _ in range(rounds):
        if target.expired:
            break
        parents, count = len(points), len(points) * children
        clause = points.clause.repeat_interleave(children)
        x = points.x.repeat_interleave(children, dim=0)
        # between one coordinate and half of them, the same number of children on every scale
        fraction = (0.5 * free[target.box[clause]]).clamp(min=1.0) ** -target.random(count) * 0.5
        drawn = draw(target, clause, count)
        x = torch.where(target.random(*x.shape) < fraction[:, None], drawn, x)
        y = target.outputs_in_chunks(x)
        margin = target.margins(y, clause)
        if float(margin.min()) <= target.goal:
            witness = target.try_violating(x, margin, clause, float(target.scale(y[:1], clause[:1])))
            if witness is not None:
                return points, witness
        family = torch.cat([points.margin[:, None], margin.view(parents, children)], 1)
        value, which = family.min(1)
        kept = torch.cat([points.x[:, None], x.view(parents, children, -1)], 1)
        points = Points(kept[torch.arange(parents, device=which.device), which], points.clause, value)
    return points, None


def draw(target: Target, clause: Tensor, count: int) -> Tensor:
    """Random points of the clauses' boxes: each uniform, at the corners, or at integers."""
    lower, upper = target.lower[target.box[clause]], target.upper[target.box[clause]]
    uniform = lower + (upper - lower) * target.random(count, target.inputs)
    corner = torch.where(target.random(count, target.inputs) < 0.5, lower, upper)
    kind = target.random(count, 1)
    x = torch.where(kind < 0.4, corner, uniform)
    if target.surrogate.jumps:
        x = torch.where(kind > 0.7, uniform.round(), x)
    return torch.minimum(torch.maximum(x, lower), upper)
