"""Monotonicity over a box: proven by the sign of a derivative, refuted by two inputs that differ in one coordinate."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import Graph, evaluator
from provenn.bounds.jacobian import jacobian, unbounded
from provenn.bounds.jacobian._norms import input_boxes
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes
from provenn.errors import InputError
from provenn.verifier.device import chosen_device
from provenn.verifier.gradients import finite, with_inside
from provenn.verifier.lipschitz import TURN, box_of, checked_timeout, differentiable, position
from provenn.verifier.maximise import Maximum, Quantity
from provenn.verifier.problem import Problem
from provenn.verifier.replay import Replay
from provenn.verifier.signs import signs
from provenn.verifier.threads import settle_threads

DIRECTIONS = ("up", "down")
# Points of the first search for a witness, those whose whole line is looked at, and points of a line.
SAMPLE, LINES, STATIONS = 4096, 64, 65

Finding = Literal["proved", "refuted", "unknown"]


@dataclass(frozen=True, eq=False)
class MonotoneResult:
    """Whether an output never falls (``up``) or never rises (``down``) as one input grows, over a box.

    ``refuted`` has ``inputs`` ``[2, inputs]``, which differ in that input only, the first one smaller, and the
    ``outputs`` ``[2]`` at both as onnxruntime computes them, in the wrong order. ``bound`` is the least slope in the
    wanted direction as far as it is proven.
    """

    verdict: Finding
    reason: str
    inputs: np.ndarray | None
    outputs: np.ndarray | None
    bound: float
    seconds: float
    domains: int


@dataclass(frozen=True)
class _Counts:
    """What a replay has to know of the network."""

    element_type: str
    input_count: int


def prove_monotone(
    network: str | os.PathLike[str],
    lower: np.ndarray | float,
    upper: np.ndarray | float,
    input: int,
    output: int,
    direction: str = "up",
    *,
    timeout: float = 60.0,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[..., None] | None = None,
) -> MonotoneResult:
    """Prove or refute that an output grows (``up``) or falls (``down``) with an input, all others held, over a box.

    Not strictly: a constant does both. ``network`` is a path; ``lower`` and ``upper`` ``[inputs]`` (or one number for
    all) are finite, ``input`` and ``output`` flat positions from 0. The proof is of the network as a real function,
    from the sign of its derivative wherever there is one: enough where every value is continuous, which the finite
    boxes of all values show (poles and undefined values have infinite ones). A witness has the wrong order both on
    onnxruntime, in the network's element type, and in real numbers. Ends after ``timeout`` seconds at the latest.
    Slopes are bounded on ``device`` (``auto``, ``cpu`` or ``cuda``). ``progress(stage, domains=n, bound=slope)`` hears
    where it is. Raises InputError for a wrong call, UnsupportedOperatorError, which names the operator, where the
    network jumps.
    """
    checked_timeout("prove_monotone", timeout)
    if direction not in DIRECTIONS:
        raise InputError(f"direction got {direction!r}, expected one of {', '.join(DIRECTIONS)}")
    if isinstance(network, Graph):
        raise InputError("prove_monotone got a Graph, expected the path of a network: onnxruntime replays witnesses")
    chosen = chosen_device(device)
    graph = differentiable(network)
    ends = box_of(graph, lower, upper)
    if not finite(*ends):
        raise InputError("prove_monotone got an infinite box, expected finite ends")
    input = position("input", input, graph.nodes[graph.inputs[0]].size)
    output = position("output", output, graph.nodes[graph.outputs[0]].size)
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            return _Task(network, graph, ends, input, output, direction, timeout, seed, progress, chosen).run()
    finally:
        torch.set_num_threads(before)


class _Task:
    def __init__(
        self, network: str | os.PathLike[str], graph: Graph, box: tuple[Tensor, Tensor], input: int, output: int,
        direction: str, timeout: float, seed: int, progress: Callable[..., None] | None, device: torch.device,
    ):  # fmt: skip
        self.begun = time.monotonic()
        self.deadline = self.begun + timeout
        self.graph, self.box, self.input, self.output = graph, box, input, output
        self.device = device
        self.sign = 1.0 if direction == "up" else -1.0
        self.words = "never falls" if direction == "up" else "never rises"
        self.progress = progress or (lambda stage, **numbers: None)
        element = graph.nodes[graph.inputs[0]].scalar_type
        self.replay = Replay(network, _Counts(element, len(box[0])))  # type: ignore[arg-type]
        self.element = np.dtype(element)
        self.generator = torch.Generator().manual_seed(seed)
        self.made = jacobian(graph, [output], [input])
        self.network, self.slope = evaluator(graph), evaluator(self.made)
        self.exact = Plan(graph)
        self.pair: tuple[np.ndarray, np.ndarray] | None = None
        self.broken, self.known = "", -np.inf

    def run(self) -> MonotoneResult:
        self.progress("looking for a witness", domains=0, bound=None)
        if bool(self.box[0][self.input] == self.box[1][self.input]):
            return self._result("proved", 0.0, 0)
        if self._attack(self._sample(SAMPLE)):
            return self._result("refuted", -np.inf, 0)
        whole = Problem(self.made, None, self.device)  # type: ignore[arg-type]
        problem = whole.within(*(end[None].to(self.device) for end in with_inside(*self.box)))
        settle_threads(problem)
        self.broken = self._broken()
        rows = torch.full((1, 1, 1), self.sign, dtype=torch.float64, device=self.device)
        self.maximum = Maximum(
            problem, Quantity(rows, self._measure, lambda limit: -limit), deadline=self.deadline, tried=self._attack,
            moved=self._tell,
        )  # fmt: skip
        self.known = -np.inf if self._wrong_sign(problem) else 0.0
        while self.known < 0 and self.pair is None and time.monotonic() < self.deadline and self.maximum.advance(TURN):
            pass
        domains = self.maximum.domains
        if self.pair is not None:
            return self._result("refuted", -np.inf, domains)
        bound = max(self.known, 0.0 - self.maximum.upper)
        return self._result("proved" if bound >= 0 and not self.broken else "unknown", bound, domains)

    def _wrong_sign(self, problem: Problem) -> bool:
        """Whether terms of the wrong sign may be in the slope."""
        plan = problem.plan(torch.float64)
        boxes = interval_boxes(plan, problem.input_boxes(*problem.hull), known=self.maximum.facts.boxes)
        negative, positive = signs(plan, boxes, problem.output)
        return bool((negative if self.sign > 0 else positive).any())

    def _broken(self) -> str:
        """An operator that may have a pole, or be undefined, somewhere in the box; empty where there is none.

        Inputs of one value are widened as they are for the slope: the proof is of a box with an inside.
        """
        plan, inputs = Plan(self.graph), input_boxes(self.graph, *with_inside(*self.box))
        boxes: dict[int, Box] = interval_boxes(plan, inputs)
        if unbounded(self.graph, boxes):
            boxes = intermediate_boxes(plan, inputs, magnitudes=Magnitudes(plan, boxes))
        return next(iter(unbounded(self.graph, boxes)), "")

    def _tell(self) -> None:
        self.progress("splitting", domains=self.maximum.domains, bound=-self.maximum.upper)

    def _measure(self, bound: Tensor, box: Box, clause: Tensor) -> Tensor:
        """Minus the least slope in the wanted direction ``[domains]``, by rows and by the box of the output."""
        end = box[0] if self.sign > 0 else -box[1]
        return -torch.fmax(bound[:, 0], end.reshape(len(end), -1)[:, 0])

    def _result(self, verdict: Finding, bound: float, domains: int) -> MonotoneResult:
        what = f"output {self.output} {self.words} as input {self.input} grows"
        late = "; time ran out" if time.monotonic() > self.deadline else ""
        if verdict == "proved":
            alone = bool(self.box[0][self.input] == self.box[1][self.input])
            reason = f"{what}: " + ("that input has one value" if alone else "its slope has one sign")
        elif verdict == "refuted":
            reason = "two inputs that differ in that input only were replayed on onnxruntime"
        elif self.broken and bound >= 0:
            reason = f"the slope has one sign, but {self.broken} may have a pole or be undefined; take a smaller box"
        else:
            reason = f"{what} as far as known, but the sign of its slope is open{late}"
        inputs, outputs = self.pair if self.pair is not None else (None, None)
        seconds = time.monotonic() - self.begun
        return MonotoneResult(verdict, reason, inputs, outputs, bound, seconds, domains)

    # -- witnesses ------------------------------------------------------------------------------------------

    def _sample(self, count: int) -> Tensor:
        share = torch.rand(count, len(self.box[0]), dtype=torch.float64, generator=self.generator)
        share[: count // 4] = share[: count // 4].round()
        return torch.lerp(*self.box, share)

    def _slopes(self, points: Tensor) -> Tensor:
        shaped = points.view(-1, *self.graph.nodes[self.graph.inputs[0]].shape)
        return torch.nan_to_num(self.slope([shaped])[0].flatten() * self.sign, nan=0.0)

    def _attack(self, points: Tensor) -> bool:
        """Look for a witness on lines through the points with the most negative slopes; whether there is one."""
        if len(points) == 0 or self.pair is not None:
            return self.pair is not None
        points = points.cpu().clamp(*self.box)
        slopes = self._slopes(points)
        worst = slopes.topk(min(LINES, len(points)), largest=False)
        chosen = points[worst.indices[worst.values < 0]]
        if len(chosen) == 0:
            return False
        low, high = self.box[0][self.input], self.box[1][self.input]
        size = float(high - low)
        everywhere = torch.linspace(0, 1, STATIONS, dtype=torch.float64)
        for near in (1.0, 0.05, 0.002):  # the whole line, then closer around the point
            start = (chosen[:, self.input] - 0.5 * near * size).clamp(low, high)
            stop = (chosen[:, self.input] + 0.5 * near * size).clamp(low, high)
            if near == 1.0:
                start, stop = low.expand_as(start), high.expand_as(stop)
            stations = start[:, None] + (stop - start)[:, None] * everywhere
            lines = chosen[:, None].repeat(1, STATIONS, 1)
            lines[:, :, self.input] = stations.clamp(low, high)
            if self._on_lines(lines):
                return True
        return False

    def _on_lines(self, lines: Tensor) -> bool:
        """Replay the pair of the largest wrong difference of the best few lines ``[n, stations, inputs]``."""
        count, stations = lines.shape[:2]
        shaped = lines.reshape(-1, *self.graph.nodes[self.graph.inputs[0]].shape)
        y = self.network([shaped])[0].reshape(count * stations, -1)[:, self.output].view(count, stations) * self.sign
        highest, at = torch.cummax(torch.nan_to_num(y, nan=-torch.inf), 1)
        wrong = highest - y
        best, stop = wrong.max(1)
        for k in best.topk(min(3, count)).indices.tolist():
            if float(best[k]) > 0 and self._replayed(lines[k, at[k, stop[k]]], lines[k, stop[k]]):
                return True
        return False

    def _replayed(self, first: Tensor, second: Tensor) -> bool:
        """The pair and its outputs where their order is wrong on onnxruntime and, by intervals, in real numbers."""
        pair = np.stack([first.numpy(), second.numpy()]).astype(self.element)
        # Moved into the box in the element type; the other inputs are the same numbers.
        low, high = (end.numpy().astype(self.element) for end in self.box)
        low = np.where(low.astype(np.float64) < self.box[0].numpy(), np.nextafter(low, np.inf, dtype=self.element), low)
        high = np.where(
            high.astype(np.float64) > self.box[1].numpy(), np.nextafter(high, -np.inf, dtype=self.element), high
        )
        if (low > high).any():
            return False
        pair = np.clip(pair, low, high)
        others = np.delete(pair, self.input, 1)
        if not (np.isfinite(pair).all() and (others[0] == others[1]).all()):
            return False
        if not pair[0, self.input] < pair[1, self.input]:
            return False
        if not self._falls(pair):
            return False
        y = np.full(2, np.nan)
        for place, x in enumerate(pair):
            out = self.replay.run(x)
            if out is not None:
                y[place] = out[self.output]
        if not np.isfinite(y).all() or not self.sign * (float(y[1]) - float(y[0])) < 0:
            return False
        self.pair = pair, y
        return True

    def _falls(self, pair: np.ndarray) -> bool:
        """Whether the real outputs at two inputs have the wrong order, whatever rounding does."""
        points = torch.from_numpy(pair.astype(np.float64))
        ends = interval_boxes(self.exact, input_boxes(self.graph, points, points))[self.graph.outputs[0]]
        low, high = (end.reshape(2, -1)[:, self.output].tolist() for end in ends)
        return high[1] < low[0] if self.sign > 0 else low[1] > high[0]


def as_report(result: MonotoneResult) -> dict[str, Any]:
    """What ``--json`` writes."""
    listed = lambda a: None if a is None else a.tolist()  # noqa: E731
    return {
        "verdict": result.verdict,
        "reason": result.reason,
        "inputs": listed(result.inputs),
        "outputs": listed(result.outputs),
        "bound": result.bound,
        "seconds": round(result.seconds, 3),
        "domains": result.domains,
    }
