"""Rows that hold together: one nonnegative combination of them with a positive margin excludes all of them at once.

A violation satisfies ``row_r . y <= threshold_r`` for every r. If ``w >= 0`` and ``sum_r w_r (row_r . y -
threshold_r)`` is positive on a domain, there is none in it. The weights are parameters like slopes and multipliers:
at the minimiser of the combined row the bound's derivative in ``w_r`` is ``row_r . y - threshold_r`` there (DESIGN
4). They are ``softmax(logits)``, and the logits move by that derivative less its mean: exponentiated gradients
(Kivinen and Warmuth, 1997) stay on the simplex and leave a corner as fast as its middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.propagate.coefficients import flattened
from provenn.bounds.propagate.rounding import gamma

# Logits lie between these; how far a row's corner of the simplex is from the middle at the start.
LEAST, MOST = -12.0, 12.0
CORNER = 3.0
# Steps of the game for linear forms, the size of the first and its decay.
GAME_STEPS, GAME_RATE, GAME_DECAY = 12, 2.0, 0.8


@dataclass(frozen=True)
class Conjunction:
    """``rows`` ``[1|domains, r, *shape]`` over one value and their ``threshold`` ``[1|domains, r]``.

    ``rate`` is the size of a logit's step in units of a slope's.
    """

    rows: Tensor
    threshold: Tensor
    rate: float = 2.0

    @property
    def count(self) -> int:
        return self.rows.shape[1]

    def start(self, combinations: int) -> Tensor:
        """Logits ``[combinations, r]``: the middle of the simplex, then a place near every corner, in turn."""
        places = torch.eye(self.count, dtype=self.rows.dtype, device=self.rows.device) * CORNER
        places = torch.cat([torch.zeros_like(places[:1]), places])
        return places[torch.arange(combinations, device=places.device) % (self.count + 1)]

    def combined(self, weights: Tensor) -> Tensor:
        """The rows ``[domains, k, *shape]`` that ``weights`` ``[domains, k, r]`` make."""
        found = weights @ flattened(self.rows, 2)
        return found.view(*found.shape[:2], *self.rows.shape[2:])

    def margin(self, bound: Tensor, weights: Tensor, magnitude: Tensor | None = None) -> Tensor:
        """A bound of combined rows less their threshold, ``[domains, k]``.

        With ``magnitude`` ``[*shape]`` of the value also less what the sums rounded: a row of r terms differs from the
        combination that it stands for by ``gamma_r`` of the terms' magnitudes.
        """
        margin = bound - self._total(weights, self.threshold)
        if magnitude is None:
            return margin
        terms = self._total(weights, flattened(self.rows.abs(), 2) @ magnitude.flatten() + self.threshold.abs())
        slack = terms * gamma(self.count + 4, weights.dtype) * (1 + 1e-6)
        return margin - slack - (bound.abs() + margin.abs()) * (4 * torch.finfo(weights.dtype).eps)

    def derivative(self, weights: Tensor, y: Tensor) -> Tensor:
        """How margins change with the logits of ``weights`` ``[domains, k, r]``, at values ``y`` ``[domains, k,
        *shape]``."""
        each = flattened(y, 2) @ flattened(self.rows, 2).mT - self.threshold.unsqueeze(1)
        return each - (weights * each).sum(-1, keepdim=True)

    @staticmethod
    def _total(weights: Tensor, values: Tensor) -> Tensor:
        """``sum_r weights[d, k, r] values[d, r]``."""
        return (weights @ values.unsqueeze(-1)).squeeze(-1)


def best_weights(margin: Tensor, a: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[domains, 1, r]`` that nearly maximise the minimum of linear forms together, and that ``[domains]``.

    The forms have the coefficients ``a`` ``[domains, r, n]`` and the minima ``margin`` ``[domains, r]`` over the boxes
    ``[1|domains, n]``. A matrix game, played by exponentiated gradients; the best weights of all steps count. Where
    nothing is a number the minimum is -inf.
    """
    width = (upper - lower).unsqueeze(1)
    constant = margin - torch.minimum(a * lower.unsqueeze(1), a * upper.unsqueeze(1)).sum(-1)
    at_lower, moved = constant + (a * lower.unsqueeze(1)).sum(-1), a * width
    logits = torch.zeros_like(margin).scatter_(1, margin.argmax(1, keepdim=True), CORNER)
    best, least = logits, torch.full_like(margin[:, :1], -torch.inf)
    for step in range(GAME_STEPS):
        weights = logits.softmax(-1)
        ends = (weights.unsqueeze(1) @ moved < 0).to(a.dtype)
        each = at_lower + (moved @ ends.mT).squeeze(-1)
        value = (weights * each).sum(-1, keepdim=True)
        better = value > least
        best, least = torch.where(better, weights, best), torch.where(better, value, least)
        slope = each - value
        logits = logits + GAME_RATE * GAME_DECAY**step * slope / slope.abs().amax(1, keepdim=True).clamp(min=1e-300)
    return best.unsqueeze(1), least.squeeze(1)
