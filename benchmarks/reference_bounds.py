"""Our bounds against auto_LiRPA's on the same boxes and rows: tightness, time, memory.

Usage: python benchmarks/reference_bounds.py [--suite ../shared/benchmarks] [--only WORD] [--proven] [--peer]
Reads reference_bounds/reference_bounds.csv of the suite; prints a line for each of its rows, ours / reference. One
thread, a process for each line. `crown` and `alpha20` are made in float32, as the reference makes them; with
`--proven` slopes are sought in float32 and every bound is made in float64 less its rounding error. Times are the least
processor time of several calls; the reference's come from another machine of this kind, so compare them roughly.
With `--peer` auto_LiRPA runs here, a call of ours and a call of its in turns in one process, and the line compares
with that instead of the file; networks that `peer_bounds.py` cannot build are left out, and so is memory, which the
two would share. Rows are bounded on both sides where the reference bounds both (a width is given), but by `alpha20` on
the lower side alone: the file's bounds of `alpha20` are those that auto_LiRPA finds for lower bounds alone.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

SECONDS, MOST_CALLS = 8.0, 30
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--suite", type=Path, default=here.parent / "shared" / "benchmarks")
    parser.add_argument("--only", default="", help="lines that contain this word")
    parser.add_argument("--proven", action="store_true", help="float64 bounds less their rounding error")
    parser.add_argument("--peer", action="store_true", help="run auto_LiRPA, from PYTHONPATH, beside ours")
    parser.add_argument("--line", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    table = chosen.suite / "reference_bounds" / "reference_bounds.csv"
    if not table.exists():
        sys.exit(f"{table} is missing: --suite names the folder of the benchmarks")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    if chosen.line is not None:
        measure(chosen.suite, rows[chosen.line], chosen.proven, chosen.peer)
        return
    if chosen.peer and importlib.util.find_spec("auto_LiRPA") is None:
        sys.exit("--peer needs the folder that holds the package auto_LiRPA on PYTHONPATH")
    cells = [f"{'ms':>26}", f"{'mean':>30}", f"{'min':>30}"] + ([] if chosen.peer else [f"{'MB':>13}"])
    print(f"{'network':>14} {'method':>11} {'batch':>5} | " + " | ".join(cells), flush=True)
    for line, row in enumerate(rows):
        if chosen.only not in ",".join(row.values()):
            continue
        command = [sys.executable, __file__, "--suite", str(chosen.suite), "--line", str(line)]
        if chosen.proven:
            command.append("--proven")
        if chosen.peer:
            command.append("--peer")
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def measure(suite: Path, row: dict[str, str], proven: bool, peer: bool) -> None:
    """Print one line: ours and the reference's, and for times the ratio, for bounds the difference."""
    name = row["network"].split("/")[-1][:14]
    begun, calls = time.perf_counter(), 0
    try:
        runs = prepared(suite, row, proven, peer)
    except NotImplementedError as error:
        print(f"{name:>14} {row['method']:>11} {row['batch']:>5} | left out: {error}", flush=True)
        return
    best, found = [float("inf")] * len(runs), [(0.0, 0.0)] * len(runs)
    while calls < MOST_CALLS and (calls < 2 or time.perf_counter() - begun < SECONDS * len(runs)):
        for i, run in enumerate(runs):
            first = time.process_time()
            found[i] = run()
            best[i] = min(best[i], time.process_time() - first)
        calls += 1
    if peer:
        theirs, bounds = best[1] * 1e3, found[1]
    else:
        theirs, bounds = float(row["ms_per_call"]), (float(row["lower_mean"]), float(row["lower_min"]))
    cells = [f"{best[0] * 1e3:9.2f} {theirs:9.2f} {best[0] * 1e3 / theirs:6.2f}"]
    for ours, its in zip(found[0], bounds, strict=True):
        cells.append(f"{ours:10.5f} {its:10.5f} {ours - its:+8.5f}")
    if not peer:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        cells.append(f"{memory:6.0f} {float(row['peak_rss_mb']):6.0f}")
    print(f"{name:>14} {row['method']:>11} {row['batch']:>5} | " + " | ".join(cells), flush=True)


def prepared(
    suite: Path, row: dict[str, str], proven: bool, peer: bool
) -> list[Callable[[], tuple[float, float]]]:
    """A call that makes the bounds of one line from nothing but the plan, and says their mean and minimum.

    With `peer` a second one, auto_LiRPA's. Raises NotImplementedError for a network that it is not built for.
    """
    import numpy as np
    import torch

    from provenn.bounds.graph import evaluate, read_onnx
    from provenn.bounds.graph.lattice import lattice
    from provenn.bounds.propagate.alpha import alpha
    from provenn.bounds.propagate.backward import backward
    from provenn.bounds.propagate.intermediate import intermediate_boxes
    from provenn.bounds.propagate.interval import Box, interval_boxes
    from provenn.bounds.propagate.lines import relax_all
    from provenn.bounds.propagate.plan import Plan
    from provenn.bounds.propagate.rounding import Magnitudes, RoundingError
    from provenn.specs import read_query
    from provenn.verifier.memory import keep_freed_memory

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    keep_freed_memory()
    graph = lattice(read_onnx(suite / row["network"]))
    search = Plan(graph, torch.float32)
    plan = Plan(graph, torch.float64) if proven else search
    source, target = graph.inputs[0], graph.outputs[0]
    query = read_query(suite / row["property"], plan.size(source), plan.size(target), "float32")
    ends = [torch.from_numpy(np.array(end)).view(1, *plan.shape(source)) for end in query.input_box]
    unit = torch.eye(plan.size(target), dtype=plan.dtype)
    if row["rows"] == "margins":
        label = int(evaluate(graph, [(ends[0] + ends[1]) / 2])[0].argmax())
        others = [j for j in range(plan.size(target)) if j != label]
        unit = unit[label] - unit[others]
    count = unit.shape[0]
    both = bool(row["width_mean"]) and row["method"] != "alpha20"
    single = unit.float()
    if both:
        unit = torch.cat([unit, -unit])
    rows = unit.view(1, -1, *plan.shape(target))
    batch = int(row["batch"])
    lower, upper = (end.to(plan.dtype).expand(batch, *end.shape[1:]).contiguous() for end in ends)
    inputs: dict[int, Box] = {source: (lower, upper)}

    def magnitudes() -> Magnitudes | None:
        return Magnitudes(plan, interval_boxes(plan, inputs, until=target)) if proven else None

    def last(boxes, made: Magnitudes | None):
        error = RoundingError(plan, made) if made is not None else None
        return backward(plan, target, rows, relax_all(plan, target, boxes), inputs, error=error)

    def crown():
        made = magnitudes()
        return last(intermediate_boxes(plan, inputs, magnitudes=made, until=target), made)

    def interval():
        low, high = interval_boxes(plan, inputs, until=target)[target]
        flat = low.flatten(1).unsqueeze(1), high.flatten(1).unsqueeze(1)
        matrix = rows.flatten(2)
        return (matrix.clamp(min=0) * flat[0] + matrix.clamp(max=0) * flat[1]).sum(2)

    known: dict = {}

    def crown_final():
        if not known:
            known["magnitudes"] = magnitudes()
            known["boxes"] = intermediate_boxes(plan, inputs, magnitudes=known["magnitudes"], until=target)
        return last(known["boxes"], known["magnitudes"])

    def alpha20():
        return alpha(plan, inputs, target, rows, steps=STEPS, search=search, magnitudes=magnitudes())

    call = {"crown": crown, "interval": interval, "crown_final": crown_final, "alpha20": alpha20}[row["method"]]

    def summary(bounds: Callable[[], torch.Tensor]) -> tuple[float, float]:
        bound = bounds()[:, :count]
        return float(bound.mean()), float(bound.min())

    calls = [partial(summary, call)]
    if peer:
        from peer_bounds import peer_call

        box = [end.float().reshape(batch, *plan.shape(source)[1:]) for end in (lower, upper)]
        its = peer_call(suite / row["network"], row["method"], *box, single, both=both, steps=STEPS)
        calls.append(partial(summary, its))
    return calls


if __name__ == "__main__":
    main()
