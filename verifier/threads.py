"""How many threads an operation gets: all of them, or one where meeting after every operation costs more than it saves.

Which it is depends on the machine (cores may be halves of one, or held by other programs) and on the sizes of the
network's tensors, so both are timed. Other cores are left to processes (``verifier/workers.py``).
"""

from __future__ import annotations

import time

import torch

from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.verifier.problem import Problem

# Rows of the pass that is timed, and multiplications and seconds that it may take.
ROWS, WORK, SECONDS = 64, 1e8, 0.02
# Share of the time on one thread that several must save.
GAIN = 0.1


def settle_threads(problem: Problem) -> int:
    """Let torch use one thread or all, whichever bounds random rows of this network in less time; how many it uses.

    Nothing changes on a GPU.
    """
    threads = torch.get_num_threads()
    if threads == 1 or problem.device.type != "cpu":
        return threads
    plan = problem.plan(torch.float64)
    inputs = problem.input_boxes(*problem.hull)
    lines = relax_all(plan, problem.output, interval_boxes(plan, inputs, until=problem.output))
    fits = plan.rows_at_once(problem.output, 1)
    count = max(1, min(ROWS, fits, int(WORK / max(1, plan.cost(problem.output)))))
    rows = torch.linspace(-1, 1, count * problem.outputs, dtype=plan.dtype).view(
        1, count, *problem.output_shape
    )
    backward(plan, problem.output, rows, lines, inputs)  # makes caches and threads
    best = {1: float("inf"), threads: float("inf")}
    until = time.monotonic() + SECONDS
    while best[1] == float("inf") or time.monotonic() < until:
        for number in best:
            torch.set_num_threads(number)
            begun = time.monotonic()
            backward(plan, problem.output, rows, lines, inputs)
            best[number] = min(best[number], time.monotonic() - begun)
    chosen = threads if best[threads] < (1 - GAIN) * best[1] else 1
    torch.set_num_threads(chosen)
    return chosen
