"""Optimised slopes and multipliers: projected gradient steps on the parameters of an objective."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from provenn.bounds.propagate.backward import Trace
from provenn.bounds.propagate.lines import Lines
from provenn.bounds.propagate.objective import Layout as Layout
from provenn.bounds.propagate.objective import Objective as Objective
from provenn.bounds.propagate.objective import Segment as Segment
from provenn.bounds.propagate.objective import Splits as Splits
from provenn.bounds.propagate.selected import selected_values as selected_values


@dataclass
class Optimised:
    """Best bounds ``[domains, rows]`` and the parameters ``[domains, rows, total]`` of the last step that improved.

    ``values`` are the means of recent values at the minimisers, ``minimiser`` the last one at the inputs.
    """

    bound: Tensor
    parameters: Tensor
    minimiser: dict[int, Tensor]
    trace: Trace
    values: dict[int, Tensor]
    lines: dict[int, Lines]


# Weight of the latest minimiser in the running mean: a subgradient method's averaged minimisers approach the minimiser
# of the linear program, single ones jump between its corners.
RECENT = 0.3

# Where the mean of squared gradients starts: far below what matters, far above what float32 flushes to 0.
SMALLEST_SQUARE = 1e-24

# Steps before a bound may count as settled: the first ones of a momentum method can be lost.
SETTLES_AFTER = 3

# One kernel for a whole step, half the time of five; what ``torch.optim.Adam(fused=True)`` calls.
_fused = getattr(torch, "_fused_adam_", None)


@dataclass(frozen=True)
class Schedule:
    """How a bound is improved: steps, their sizes and how they decay.

    ``multiplier_rate`` is in mean coefficients of the multiplied value, ``slope_rate`` is a slope.
    ``first`` and ``second`` are how much of the running means of the gradient and of its square a step keeps.
    """

    steps: int = 20
    slope_rate: float = 0.25
    multiplier_rate: float = 0.5
    decay: float = 0.95
    first: float = 0.9
    second: float = 0.999
    settled: float = 0.0
    """Stop when a step gains less than this share of what all steps so far have gained (mean over rows)."""


def few_steps(steps: int, settled: float = 0.02) -> Schedule:
    """Large, quickly forgetting steps: from scratch they get in 5 to 10 as far as Adam's usual ones in 20."""
    return Schedule(steps=steps, slope_rate=0.5, decay=0.85, first=0.5, second=0.9, settled=settled)


def optimise(
    objective: Objective,
    schedule: Schedule,
    *,
    start: Tensor | None = None,
    threshold: Tensor | float = torch.inf,
    any_row: bool = False,
    points: bool = True,
    deadline: float = math.inf,
) -> Optimised:
    """Improve the lower bounds of an objective by projected Adam steps on its flat parameters.

    Stops early once every bound exceeds its ``threshold`` ([domains, rows] or a number); with ``any_row`` once one row
    of every domain does. No step begins after ``deadline`` (time.monotonic()). The bound returned for a row is the
    best one seen, the parameters are those that gave it. Without ``points`` neither minimisers nor values are kept.
    """
    flat = objective.start() if start is None else start.clone()
    gradient, adam = torch.zeros_like(flat), _Adam.of(flat, schedule)
    best: Tensor | None = None
    best_flat = flat
    mean: dict[int, Tensor] | None = None
    rate: Tensor | None = None
    read = frozenset(objective.plan.bounded)
    for step in range(schedule.steps + 1):
        trace = objective.trace()
        bound, lines = objective.bound(flat, trace)
        if best is None:
            best, best_flat = bound.clone(), flat.clone()
            origin = last = float(best.mean())
        else:
            _keep_better(best_flat, flat, bound, best)
            best = torch.fmax(best, bound)
            if schedule.settled and step >= SETTLES_AFTER:
                before, last = last, float(best.mean())
                if step > SETTLES_AFTER and last - before <= schedule.settled * (last - origin):
                    break
        if step == schedule.steps or flat.shape[-1] == 0 or time.monotonic() > deadline:
            break
        decided = best > threshold
        if bool((decided.any(1) if any_row else decided).all()):
            break
        if step == 0:
            rate = objective.rates(trace, schedule.multiplier_rate / schedule.slope_rate)
        at_minimiser = objective.gradient(trace, lines, gradient, read if points else (), flat)
        if not points:
            pass
        elif mean is None:
            mean = {i: v.clone() for i, v in at_minimiser.items() if i in read}
        else:
            for index, value in mean.items():
                value.lerp_(at_minimiser[index], RECENT)
        adam.ascend(flat, gradient, rate, schedule.slope_rate * schedule.decay**step)
        torch.clamp(flat, objective.low, objective.high, out=flat)
    assert best is not None  # the first step always bounds
    if not points:
        return Optimised(best, best_flat, {}, trace, {}, lines)
    # The same walk as the gradient's: the mean knows its values.
    whole = objective.conjunction is not None
    values = selected_values(objective.plan, objective.target, trace, lines, objective.inputs, whole=whole)
    minimiser = {i: values[i] for i in objective.inputs if i in values}
    if mean is not None:
        values = {i: m.lerp_(values[i], RECENT) for i, m in mean.items()}
    return Optimised(best, best_flat, minimiser, trace, values, lines)


def _keep_better(kept: Tensor, flat: Tensor, bound: Tensor, best: Tensor) -> None:
    """Copy the parameters of rows whose bound is better than the best so far.

    Interpolation between the two takes a quarter of the time of copying rows and of choosing by a mask, but a
    parameter that is not a number would spread; the bound of its row is not a number either.
    """
    improved = bound > best
    if bound.device.type != "cpu":  # where asking for a number waits for all that was begun
        kept.copy_(torch.where(improved.unsqueeze(2), flat, kept))
    elif math.isfinite(bound.sum()):
        kept.lerp_(flat, improved.unsqueeze(2).to(flat.dtype))
    else:
        rows = improved.flatten().nonzero().squeeze(1)
        kept.flatten(0, 1).index_copy_(0, rows, flat.flatten(0, 1).index_select(0, rows))


@dataclass
class _Adam:
    """Running means of the gradient and of its square (Kingma & Ba, arXiv 1412.6980), all in place.

    The mean of squares starts above 0 instead of adding a constant to its root at every step. ``steps`` counts them
    for the one kernel that torch has for a step of size 1 in every parameter.
    """

    mean: Tensor
    square: Tensor
    keep: tuple[float, float]
    steps: Tensor
    count: int = 0

    @classmethod
    def of(cls, flat: Tensor, schedule: Schedule) -> _Adam:
        mean, square = torch.zeros_like(flat), torch.full_like(flat, SMALLEST_SQUARE)
        return cls(mean, square, (schedule.first, schedule.second), torch.zeros((), device=flat.device))

    def ascend(self, flat: Tensor, gradient: Tensor, rate: Tensor | None, size: float) -> None:
        """Move ``flat`` by about ``size`` times ``rate`` (None is 1) in each parameter; the gradient is overwritten."""
        one, two = self.keep
        self.count += 1
        if rate is None and _fused is not None:
            self.steps.fill_(self.count)
            _fused(
                [flat], [gradient], [self.mean], [self.square], [], [self.steps], lr=size, beta1=one, beta2=two,
                weight_decay=0.0, eps=0.0, amsgrad=False, maximize=True,
            )  # fmt: skip
            return
        self.mean.lerp_(gradient, 1 - one)
        self.square.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        size *= (1 - two**self.count) ** 0.5 / (1 - one**self.count)
        if rate is None:
            flat.addcdiv_(self.mean, torch.sqrt(self.square, out=gradient), value=size)
        else:
            flat.addcmul_(torch.rsqrt(self.square, out=gradient).mul_(self.mean), rate, value=size)
