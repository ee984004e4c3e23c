"""The truth about small graphs by dense sampling with local refinement, and checks of bounds against samples."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch

from provenn.bounds.graph import Evaluator, Graph, evaluator
from provenn.bounds.graph.lattice import lattice
from provenn.bounds.propagate.alpha import Slopes
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes

BATCH = 20_000
JUMPS = frozenset({
    "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Sign", "Floor", "Ceil", "Round", "Cast", "ArgMax",
    "ArgMin", "Hardmax", "Mod", "Shrink", "ThresholdedRelu",
})  # fmt: skip
Row = tuple[int, float, float]
"""An output, a sign and a threshold: the row holds where ``sign * y <= threshold``."""


@dataclass
class Case:
    """A graph, its evaluation in float64, and a violation: some clause of which all rows hold."""

    random_graph: object
    graph: Graph
    evaluate: Evaluator
    clauses: list[list[Row]]
    spread: float = 0.0

    @property
    def lower(self) -> np.ndarray:
        return self.random_graph.lower.astype(np.float64)

    @property
    def upper(self) -> np.ndarray:
        return self.random_graph.upper.astype(np.float64)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """``[n, outputs]`` at flat inputs ``[n, inputs]``, in float64."""
        with torch.no_grad():
            samples = torch.from_numpy(x).reshape(-1, *self.random_graph.shape)
            return self.evaluate([samples])[0].reshape(len(x), -1).numpy()

    def violation(self, y: np.ndarray) -> np.ndarray:
        """At outputs ``[n, outputs]`` the least over clauses of the most over rows of what a row lacks: <= 0 violates.

        What is not a number violates nothing.
        """
        clauses = [np.max([sign * y[:, k] - limit for k, sign, limit in rows], 0) for rows in self.clauses]
        return np.nan_to_num(np.min(clauses, 0), nan=np.inf)

    def shifted(self, amount: float) -> None:
        """Move every threshold."""
        self.clauses = [[(k, sign, _short(limit + amount)) for k, sign, limit in rows] for rows in self.clauses]


def _short(x: float) -> float:
    """Eight digits: what a property file holds."""
    return float(f"{x:.8g}")


def points(case: Case, random: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Batches of points of the box in the model's element type: corners, edges, clusters at the ends, the inside."""
    low, high = case.lower, case.upper
    kind = case.random_graph.element
    for start in range(0, count, BATCH):
        n = min(BATCH, count - start)
        share = random.random((n, len(low)))
        how = random.random((n, 1))
        ends = np.round(share)
        part = random.random((n, len(low))) < 0.5
        near = np.abs(ends - 10.0 ** random.uniform(-9, -1, (n, 1)) * random.random((n, len(low))))
        share = np.where(how < 0.05, ends, np.where(how < 0.2, np.where(part, ends, share), share))
        share = np.where((how > 0.2) & (how < 0.3), near, share)
        yield np.clip((low + share * (high - low)).astype(kind), *_ends(case)).astype(np.float64)


def _ends(case: Case) -> tuple[np.ndarray, np.ndarray]:
    return case.random_graph.lower, case.random_graph.upper


def least(case: Case, random: np.random.Generator, count: int) -> tuple[float, np.ndarray]:
    """The least violation that ``count`` samples and a local search from the 100 worst find, and where."""
    best: list[tuple[np.ndarray, np.ndarray]] = []
    for x in points(case, random, count):
        value = case.violation(case.outputs(x))
        chosen = np.argsort(value)[:100]
        best.append((value[chosen], x[chosen]))
    value, x = (np.concatenate(part) for part in zip(*best, strict=True))
    chosen = np.argsort(value)[:100]
    value, x = value[chosen], x[chosen]
    width, tries = case.upper - case.lower, 12
    for step in range(24):
        size = 0.2 * 0.55**step
        moved = np.repeat(x, tries, 0)
        away = random.normal(size=moved.shape) * size * width
        away *= random.random(away.shape) < 0.7
        moved = np.clip((moved + away).astype(case.random_graph.element), *_ends(case)).astype(np.float64)
        found = case.violation(case.outputs(moved)).reshape(-1, tries)
        place = found.argmin(1)
        better = found[np.arange(len(x)), place] < value
        value = np.where(better, found[np.arange(len(x)), place], value)
        x = np.where(better[:, None], moved.reshape(len(x), tries, -1)[np.arange(len(x)), place], x)
    return float(value.min()), x[value.argmin()]


def make_case(random_graph, graph: Graph, count: int) -> tuple[Case, str] | None:
    """Place thresholds 0.1 % to 50 % of the spread on either side of the sampled extreme; (case, expected verdict).

    None where too few samples have outputs that are numbers, or where the graph sits on a jump in most of its box (it
    compares a value with itself): what float64 then evaluates is neither the real function nor what a runtime does.
    """
    random = np.random.default_rng([29, random_graph.seed])
    case = Case(random_graph, graph, evaluator(graph), [[(0, 1.0, 0.0)]])
    y = case.outputs(np.concatenate(list(points(case, random, 4000))))
    y = y[np.isfinite(y).all(1)]
    on_jump = not JUMPS.isdisjoint(random_graph.operators) and disagreement(case, runtime(case)) > APART
    if len(y) < 100 or on_jump:
        return None
    middle = np.median(y, 0)
    signs = random.choice([-1.0, 1.0], y.shape[1])
    rows = [(k, float(signs[k]), float(signs[k] * middle[k])) for k in range(y.shape[1])]
    kind = random.choice(["single", "single", "all", "any"])
    case.clauses = {"single": [rows[:1]], "all": [rows], "any": [[row] for row in rows]}[kind]
    values = case.violation(y)
    case.spread = max(float(np.quantile(values, 0.95) - values.min()), 1e-4 * (1 + float(np.abs(y).max())))
    extreme, _ = least(case, random, count)
    sat = bool(random.random() < 0.4)
    share = float(random.choice([1e-3, 1e-2, 0.1, 0.5]))
    case.shifted(extreme + share * case.spread if sat else extreme - share * case.spread)
    return case, "sat" if sat else "unsat"


def property_text(case: Case) -> str:
    """The case as VNN-LIB 1.0."""
    made = case.random_graph
    lines = [f"(declare-const X_{i} Real)" for i in range(len(case.lower))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(made.outputs)]
    for i, (low, high) in enumerate(zip(case.lower, case.upper, strict=True)):
        lines += [f"(assert (>= X_{i} {_literal(low)}))", f"(assert (<= X_{i} {_literal(high)}))"]
    clauses = []
    for rows in case.clauses:
        atoms = [
            f"(<= Y_{k} {_literal(limit)})" if sign > 0 else f"(>= Y_{k} {_literal(-limit)})" for k, sign, limit in rows
        ]
        clauses.append(f"(and {' '.join(atoms)})")
    return "\n".join([*lines, f"(assert (or {' '.join(clauses)}))"]) + "\n"


def _literal(x: float) -> str:
    return np.format_float_positional(x, trim="0")


# -- judging -----------------------------------------------------------------------------------------------


def runtime(case: Case, optimised: bool = False) -> onnxruntime.InferenceSession:
    """A session; onnxruntime's own rewrites (of a spelled-out layer norm, for one) may change what a graph computes."""
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    content = case.random_graph.model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:  # its fusions break some valid networks
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def replayed(case: Case, session: onnxruntime.InferenceSession, x: np.ndarray) -> np.ndarray:
    """Outputs of onnxruntime ``[outputs]`` at one flat input."""
    made = case.random_graph
    return session.run(None, {"X": x.astype(made.element).reshape(made.shape)})[0].reshape(-1).astype(np.float64)


APART = 1e-3
"""Largest relative difference from onnxruntime that its rounding explains."""


def disagreement(case: Case, session: onnxruntime.InferenceSession, count: int = 40) -> float:
    """The median difference of the outputs from onnxruntime's, relative: 0 up to rounding where the import is right.

    A jump may fall to either side at single points; hence the median.
    """
    random = np.random.default_rng([31, case.random_graph.seed])
    x = next(points(case, random, count))
    ours = case.outputs(x)
    theirs = np.stack([replayed(case, session, row) for row in x])
    apart = np.abs(ours - theirs).max(1) / (1 + np.abs(theirs).max(1))
    return float(np.median(np.where(np.isnan(ours).any(1) & np.isnan(theirs).any(1), 0.0, apart)))


def wrong(case: Case, verdict: str, witness: np.ndarray | None, count: int) -> str:
    """Why a verdict is wrong; empty where nothing contradicts it."""
    if verdict == "sat":
        assert witness is not None
        x = witness.reshape(-1)
        low, high = _ends(case)
        if not ((x >= low).all() and (x <= high).all()):
            return "the witness leaves the box"
        value = case.violation(replayed(case, runtime(case, optimised=True), x)[None])[0]
        return "" if value <= 0 else f"the witness lacks {value:.3g} on onnxruntime"
    if verdict != "unsat":
        return ""
    value, x = least(case, np.random.default_rng([37, case.random_graph.seed]), count)
    if value > 0:
        return ""
    again = case.violation(replayed(case, runtime(case), x)[None])[0]
    # A violation that only float32's rounding makes, or only float64's at a jump, contradicts nothing.
    if max(value, again) > -1e-7 * case.spread:
        return ""
    return f"a sample violates by {-value:.3g} (onnxruntime {-again:.3g}) at {x.tolist()}"


def escaped(case: Case, count: int = 3000, seconds: float = 20.0) -> list[str]:
    """Values whose samples leave their boxes: by intervals, by backward passes and with optimised slopes."""
    random = np.random.default_rng([41, case.random_graph.seed])
    x = np.concatenate(list(points(case, random, count)))
    found = []
    for graph in {id(g): g for g in (case.graph, lattice(case.graph))}.values():
        plan = Plan(graph, torch.float64)
        shape = case.random_graph.shape
        box = tuple(torch.from_numpy(side).reshape(1, *shape) for side in (case.lower, case.upper))
        inputs = {graph.inputs[0]: box}
        with torch.no_grad():
            values = evaluator(graph)([torch.from_numpy(x).reshape(-1, *shape)], keep="all")
            intervals = interval_boxes(plan, inputs)
            magnitudes = Magnitudes(plan, intervals)
            ways = {"intervals": intervals, "backward": intermediate_boxes(plan, inputs, magnitudes=magnitudes)}
            ways["alpha"] = _optimised(plan, inputs, magnitudes, seconds)
        for way, boxes in ways.items():
            for value, (low, high) in boxes.items():
                sample = values[value]
                slack = 1e-9 * (1 + sample.abs())
                out = ((sample < low - slack) | (sample > high + slack)).reshape(len(x), -1).any(1)
                if bool(out.any()):
                    node = graph.nodes[value]
                    found.append(f"{way}: {node.operator} {node.origin}, {int(out.sum())} of {len(x)} samples")
    return found


def _optimised(plan: Plan, inputs, magnitudes: Magnitudes, seconds: float):
    """Boxes with slopes optimised for 3 steps, as the root makes them."""
    slopes = Slopes(plan, plan, inputs, magnitudes=magnitudes, steps=3, deadline=time.monotonic() + seconds)

    def tighten(value, box, boxes):
        box = slopes.tighten(value, box)
        slopes.add(value, box)
        return box

    return interval_boxes(plan, inputs, tighten=tighten, until=plan.graph.outputs[0])
