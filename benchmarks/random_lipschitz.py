"""Random small graphs of mixed operators without jumps: bounds of their Lipschitz constants against sampled gradients.

Usage: python benchmarks/random_lipschitz.py --count 500 [--first 0] [--timeout 4] [--samples 100000] [--results FILE]
The norms 1, 2 and inf, and the whole Jacobian and a row of it, take turns. No sampled norm may exceed the upper bound:
neither of automatic differentiation of the graph in float64 at that many points of the box, the worst of which are
moved on, nor of differences of the graph's values, which no code of derivatives had a part in. The lower bound must be
at most the upper one, and what both say of the point that comes with it. Wrong ones and crashes are printed, and the
exit code is 1 where there are any. With --results it appends a line for each graph.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
from of_tests import load
from seeds import rows_of

os.environ.setdefault("OMP_NUM_THREADS", "1")
FIELDS = (
    "seed", "inputs", "nodes", "norm", "output", "verdict", "lower", "sampled", "upper", "seconds", "domains", "fault",
    "operators",
)  # fmt: skip
# What rounding of float64 evaluations may add to a sampled norm, and to one of differences.
ROUNDING, DIFFERENCES = 1e-9, 1e-4
BATCH = 2000


class Sampled:
    """Norms of Jacobians of a graph at points ``[n, inputs]``, by automatic differentiation."""

    def __init__(self, graph, norm: str, output: int | None):
        from provenn.bounds.graph import evaluator

        self.shape = graph.nodes[graph.inputs[0]].shape
        self.evaluate, self.norm, self.output = evaluator(graph), norm, output

    def outputs(self, x):
        y = self.evaluate([x.reshape(-1, *self.shape)])[0].flatten(1)
        return y if self.output is None else y[:, self.output : self.output + 1]

    def matrices(self, x):
        import torch

        x = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            y = self.outputs(x)
            rows = []
            for k in range(y.shape[1]):
                row = None
                if y.requires_grad:
                    (row,) = torch.autograd.grad(y[:, k].sum(), x, retain_graph=True, allow_unused=True)
                rows.append(torch.zeros_like(x) if row is None else row)
        return torch.stack(rows, 1)

    def differences(self, x, lower, upper):
        """Matrices ``[n, outputs, inputs]`` of difference quotients within the box; 0 where that has no width."""
        import torch

        columns = []
        for i in range(x.shape[1]):
            step = 1e-6 * torch.clamp(upper[i] - lower[i], max=1.0)
            first, last = x.clone(), x.clone()
            last[:, i] = torch.minimum(x[:, i] + step, upper[i])
            first[:, i] = torch.maximum(x[:, i] - step, lower[i])
            width = last[:, i] - first[:, i]
            change = self.outputs(last) - self.outputs(first)
            columns.append(torch.where(width[:, None] > 0, change / width[:, None], 0.0))
        return torch.stack(columns, 2)

    def norms(self, matrices):
        import torch

        fine = torch.isfinite(matrices).flatten(1).all(1)
        order = {"1": 1, "2": 2, "inf": np.inf}[self.norm]
        found = torch.linalg.matrix_norm(torch.where(fine[:, None, None], matrices, 0.0), order)
        return torch.where(fine, found, 0.0)

    def largest(self, lower, upper, count: int, seed: int):
        """The largest norm of ``count`` points and of moves of the best, and the best 200 points."""
        import torch

        random = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.rand(*shape, dtype=torch.float64, generator=random)  # noqa: E731
        best, points = torch.zeros(0, dtype=torch.float64), torch.zeros(0, len(lower), dtype=torch.float64)
        for _ in range(0, count, BATCH):
            share = draw(BATCH, len(lower))
            ends = draw(BATCH, len(lower)) < draw(BATCH, 1) - 0.5
            x = torch.lerp(lower, upper, torch.where(ends, share.round(), share))
            if len(points):
                near = points[torch.randint(len(points), (BATCH // 4,), generator=random)]
                size = 10.0 ** -(6 * draw(BATCH // 4, 1)) * (upper - lower)
                x[: BATCH // 4] = (near + (2 * draw(*near.shape) - 1) * size).clamp(lower, upper)
            found = self.norms(self.matrices(x))
            best, points = torch.cat([best, found]), torch.cat([points, x])
            chosen = best.topk(min(200, len(best))).indices
            best, points = best[chosen], points[chosen]
        return float(best.max()), points


def run(seed: int, timeout: float, samples: int, graphs, recipes: dict) -> dict:
    """Make the graph of a seed, bound a norm and judge the bounds."""
    import torch

    from provenn.bounds.graph import read_onnx
    from provenn.errors import ProvennError
    from provenn.verifier import local_lipschitz

    made = graphs.random_graph(seed, recipes)
    norm, output = ("1", "2", "inf")[seed % 3], None if seed % 5 else 0
    row = {"seed": seed, "inputs": len(made.lower), "nodes": len(made.model.graph.node), "norm": norm}
    row |= {"output": "" if output is None else output, "operators": " ".join(made.operators), "fault": ""}
    lower, upper = (torch.from_numpy(end.astype(np.float64)) for end in (made.lower, made.upper))
    with tempfile.TemporaryDirectory() as folder:
        onnx = made.write(Path(folder) / "network.onnx")
        try:
            graph = read_onnx(onnx)
            begun = time.monotonic()
            found = local_lipschitz(graph, lower.numpy(), upper.numpy(), norm, output, timeout=timeout, seed=seed)
        except ProvennError as error:
            return row | {"verdict": "refused", "lower": str(error)[:200]}
        except Exception as error:  # noqa: BLE001 a crash is a result here
            last = traceback.extract_tb(error.__traceback__)[-1]
            return row | {"verdict": "crash", "fault": f"{Path(last.filename).name}:{last.lineno}: {error!r}"[:300]}
    row |= {"seconds": round(time.monotonic() - begun, 2), "domains": found.domains}
    sampled = Sampled(graph, norm, output)
    with torch.no_grad():
        largest, points = sampled.largest(lower, upper, samples, seed)
        change = float(sampled.norms(sampled.differences(points, lower, upper)).max())
        point = torch.from_numpy(found.point)[None]
        # Beside the point, where it lies on a kink.
        beside = point + 1e-9 * (upper - lower) * torch.randn(64, len(lower), dtype=torch.float64)
        at = float(sampled.norms(sampled.matrices(torch.cat([point, beside.clamp(lower, upper)]))).max())
    row |= {"lower": found.lower, "sampled": largest, "upper": found.upper}
    faults = []
    if not found.lower <= found.upper:
        faults.append(f"lower {found.lower} above upper {found.upper}")
    if largest > found.upper * (1 + ROUNDING) + ROUNDING * _size(sampled, points):
        faults.append(f"a sampled norm {largest} above {found.upper}")
    if change > found.upper * (1 + DIFFERENCES) + DIFFERENCES * 1e-2 * _size(sampled, points):
        faults.append(f"a norm of differences {change} above {found.upper}")
    if at < found.lower * (1 - 1e-5) - ROUNDING:
        faults.append(f"the norm at the point is {at}, not {found.lower}")
    if bool(((point < lower) | (point > upper)).any()):
        faults.append("the point is outside")
    tight = found.upper <= found.lower * 1.01
    loose = "loose" if np.isfinite(found.upper) else "infinite"
    return row | {"verdict": "within 1 %" if tight else loose, "fault": "; ".join(faults)}


def _size(sampled: Sampled, x) -> float:
    """The size of the outputs, which rounding of their differences is proportional to."""
    import torch

    return float(torch.nan_to_num(sampled.outputs(x), nan=0.0, posinf=0.0, neginf=0.0).abs().max())


def report(rows: list[dict]) -> int:
    """Print the table; return the number of faults."""
    faults = [row for row in rows if row["fault"]]
    for row in faults:
        print(f"WRONG: seed {row['seed']} (norm {row['norm']}, {row['verdict']}): {row['fault']}")
    for (norm, verdict), count in sorted(Counter((row["norm"], row["verdict"]) for row in rows).items()):
        print(f"norm {norm:4} {verdict:12} {count:6}")
    used = Counter(name for row in rows if row["verdict"] != "refused" for name in row["operators"].split())
    seconds = sum(float(row.get("seconds") or 0) for row in rows)
    print(f"{len(rows)} graphs, {len(used)} operators, {seconds:.0f} s of bounding, {len(faults)} faults")
    return len(faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", "--seed", type=int, default=0, help="seed of the first graph")
    parser.add_argument("--timeout", type=float, default=4)
    parser.add_argument("--samples", type=int, default=100_000, help="gradients that a bound must not be below")
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    graphs = load("soundness/graphs")
    recipes = load("soundness/recipes").RECIPES | load("soundness/fragments").RECIPES
    recipes = {name: recipe for name, recipe in recipes.items() if name not in graphs.JUMPING}
    seeds = range(arguments.first, arguments.first + arguments.count)
    judge = lambda seed: run(seed, arguments.timeout, arguments.samples, graphs, recipes)  # noqa: E731
    rows = rows_of(judge, seeds, FIELDS, arguments.results)
    return 1 if report(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
