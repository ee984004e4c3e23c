"""Where a verification looks for witnesses: minimisers of bounds, and the attack before and between searches."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from provenn.bounds.graph import evaluate
from provenn.bounds.propagate.coefficients import flattened
from provenn.verifier.attack import attack
from provenn.verifier.problem import Clauses
from provenn.verifier.run import Run

# The share of a search that attacks between its rounds may take.
ATTACK_SHARE = 0.1


def checker(run: Run, clauses: Clauses, numbers: Tensor) -> Callable[[Tensor, Tensor], bool]:
    """Judges minimisers: a forward pass finds the nearest to a violation, onnxruntime has the last word."""

    def check(points: Tensor, clause: Tensor) -> bool:
        shaped = points.float().view(points.shape[0], *run.problem.input_shape)
        (y,) = evaluate(run.problem.graph, [shaped], dtype=torch.float32, device=run.problem.device)
        outputs = flattened(y, 1)
        margin = (
            torch.einsum("dro,do->dr", clauses.rows[clause].float(), outputs) - clauses.threshold[clause]
        ).amax(1)
        near, order = margin.topk(min(3, margin.numel()), largest=False)
        for value, index in zip(near.tolist(), order.tolist(), strict=False):
            if value <= 1e-4:
                found = run.replay.check(points[index].cpu().numpy(), int(numbers[clause[index]]))
                if found is not None:
                    run.witness = found
                    return True
        return False

    return check


def attacked(
    run: Run,
    clauses: Clauses,
    numbers: Tensor,
    seconds: float,
    starts: Tensor | None = None,
    thorough: bool = False,
) -> bool:
    """Attack the clauses for some seconds; whether that found the witness that the run then has."""
    run.tell("attack")
    begun = time.monotonic()
    with torch.enable_grad():
        run.witness = attack(
            run.problem,
            clauses,
            run.replay,
            number=numbers.cpu().numpy(),
            options=run.options,
            deadline=min(run.deadline, begun + seconds),
            generator=run.generator,
            starts=starts,
            start_clause=None if starts is None else torch.arange(len(clauses)),
            thorough=thorough,
        )
    run.statistics["attack_seconds"] = round(
        run.statistics.get("attack_seconds", 0) + time.monotonic() - begun, 3
    )
    return run.witness is not None


def interlude_of(run: Run, clauses: Clauses, numbers: Tensor) -> Callable[[], bool]:
    """Between rounds: another attack whenever the search has run for long enough since the last."""
    begun = time.monotonic()
    spent = 0.0

    def interlude() -> bool:
        nonlocal spent
        elapsed = time.monotonic() - begun - spent
        seconds = max(0.5, 0.5 * spent)
        if ATTACK_SHARE * elapsed < spent + seconds:
            return False
        before = time.monotonic()
        found = attacked(run, clauses, numbers, seconds, thorough=True)
        spent += time.monotonic() - before
        return found

    return interlude
