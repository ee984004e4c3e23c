"""Exact minima of random networks by mixed-integer programming (HiGHS, big-M from intervals).

The answer is believed only where an evaluation at the optimum agrees with it and no sample lies below it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array


class Encoder:
    """Variables and rows of one program; values are blocks of variables with known ranges.

    At the jump of a sign the inner program leaves a small gap out, the ``outer`` one takes all limits and the value
    0: the minimum lies between theirs.
    """

    def __init__(self, outer: bool = False) -> None:
        self.outer = outer
        self.lower: list[np.ndarray] = []
        self.upper: list[np.ndarray] = []
        self.integer: list[np.ndarray] = []
        self.count = 0
        self.entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.row_low: list[np.ndarray] = []
        self.row_high: list[np.ndarray] = []
        self.rows = 0

    def block(self, lower: np.ndarray, upper: np.ndarray, integer: bool = False) -> np.ndarray:
        lower, upper = np.atleast_1d(lower).astype(float), np.atleast_1d(upper).astype(float)
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(np.full(len(lower), int(integer)))
        self.count += len(lower)
        return np.arange(self.count - len(lower), self.count)

    def require(self, terms: list[tuple[np.ndarray, np.ndarray]], low, high) -> None:
        """Rows ``low <= sum_t matrix_t @ x[block_t] <= high``; a vector stands for a diagonal matrix."""
        count = 0
        for matrix, block in terms:
            matrix = np.atleast_1d(np.asarray(matrix, float))
            if matrix.ndim == 1:
                rows = np.arange(len(block))
                self.entries.append((self.rows + rows, block, np.broadcast_to(matrix, len(block))))
                count = len(block)
            else:
                r, c = np.nonzero(matrix)
                self.entries.append((self.rows + r, block[c], matrix[r, c]))
                count = matrix.shape[0]
        self.row_low.append(np.broadcast_to(np.asarray(low, float), count))
        self.row_high.append(np.broadcast_to(np.asarray(high, float), count))
        self.rows += count

    def solve(self, objective: int, seconds: float):
        cost = np.zeros(self.count)
        cost[objective] = 1
        rows, columns, values = (np.concatenate([e[k] for e in self.entries]) for k in range(3))
        matrix = csr_array((values, (rows, columns)), shape=(self.rows, self.count))
        limits = LinearConstraint(matrix, np.concatenate(self.row_low), np.concatenate(self.row_high))
        with warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")
            return milp(
                cost,
                constraints=limits,
                bounds=Bounds(np.concatenate(self.lower), np.concatenate(self.upper)),
                integrality=np.concatenate(self.integer),
                options={"mip_rel_gap": 1e-9, "time_limit": seconds},
            )


@contextlib.contextmanager
def _silent():
    """HiGHS prints remarks past its own switch: send them nowhere."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def encode(network, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """Add the network; return the blocks of its inputs and outputs."""
    blocks, low, high = [], [], []
    for step in network.steps:
        operands = [(blocks[i], low[i], high[i]) for i in step.inputs]
        if not operands:
            block, lo, hi = encoder.block(network.lower, network.upper), network.lower, network.upper
        elif step.matrix is not None:
            x, xl, xu = operands[0]
            positive, negative = np.maximum(step.matrix, 0), np.minimum(step.matrix, 0)
            lo = positive @ xl + negative @ xu + step.offset
            hi = positive @ xu + negative @ xl + step.offset
            block = encoder.block(lo, hi)
            encoder.require([(step.matrix, x), (-1.0, block)], -step.offset, -step.offset)
        elif step.operator == "Add":
            (x, xl, xu), (y, yl, yu) = operands
            lo, hi = xl + yl, xu + yu
            block = encoder.block(lo, hi)
            encoder.require([(1.0, x), (1.0, y), (-1.0, block)], 0, 0)
        elif step.operator in ("MaxPool", "Max"):
            if step.operator == "MaxPool":
                x, xl, xu = operands[0]
                windows = step.parameters["windows"]
                parts = [(x[w], xl[w], xu[w]) for w in windows.T]
            else:
                parts = operands
            block, lo, hi = _maximum(encoder, parts)
        else:
            block, lo, hi = _elementwise(encoder, step, *operands[0])
        blocks.append(block)
        low.append(lo)
        high.append(hi)
    return blocks[0], blocks[-1]


def _maximum(encoder: Encoder, parts):
    lo, hi = np.max([p[1] for p in parts], 0), np.max([p[2] for p in parts], 0)
    block = encoder.block(lo, hi)
    choices = []
    for x, xl, _ in parts:
        chosen = encoder.block(np.zeros(len(x)), np.ones(len(x)), integer=True)
        choices.append((1.0, chosen))
        encoder.require([(1.0, block), (-1.0, x)], 0, np.inf)
        # block <= x + (hi - xl) (1 - chosen)
        encoder.require([(1.0, block), (-1.0, x), (hi - xl, chosen)], -np.inf, hi - xl)
    encoder.require(choices, 1, 1)
    return block, lo, hi


def _pieces(step, lower: float, upper: float, outer: bool) -> list[tuple[float, float, float, float]]:
    """Pieces (from, to, slope, offset) of an elementwise operator on [lower, upper]."""
    p = step.parameters
    if step.operator == "Sign":
        gap = 1e-6 * max(-lower, upper, 1.0)
        pieces = (
            [(lower, 0, 0, -1), (0, 0, 0, 0), (0, upper, 0, 1)]
            if outer
            else [(lower, -gap, 0, -1), (gap, upper, 0, 1)]
        )
    elif step.operator == "Clip":
        pieces = [
            (lower, p["low"], 0, p["low"]),
            (p["low"], p["high"], 1, 0),
            (p["high"], upper, 0, p["high"]),
        ]
    else:
        negative = {"Relu": 0.0, "Abs": -1.0, "LeakyRelu": p.get("alpha", 0.0)}[step.operator]
        pieces = [(lower, 0, negative, 0), (0, upper, 1, 0)]
    cut = [(max(a, lower), min(b, upper), k, c) for a, b, k, c in pieces]
    kept = [
        piece
        for piece in cut
        if piece[0] < piece[1] or (piece[0] == piece[1] == 0 and outer and lower < 0 < upper)
    ]
    if kept or lower > upper:
        return kept
    if step.operator == "Sign":  # within the gap
        return [(lower, upper, 0, float(np.sign(lower)))]
    return [next((lower, upper, k, c) for a, b, k, c in pieces if a <= lower <= b)]


def _elementwise(encoder: Encoder, step, x, xl, xu):
    """One binary for each piece of each element; a stable element is one equation."""
    lo, hi, blocks = np.empty(len(x)), np.empty(len(x)), []
    for j in range(len(x)):
        pieces = _pieces(step, xl[j], xu[j], encoder.outer)
        ends = [k * t + c for a, b, k, c in pieces for t in (a, b)]
        lo[j], hi[j] = min(ends), max(ends)
        y = encoder.block(lo[j], hi[j])
        blocks.append(y)
        source = x[j : j + 1]
        if len(pieces) == 1:
            _, _, k, c = pieces[0]
            encoder.require([(1.0, y), (-k, source)], c, c)
            continue
        chosen = []
        for a, b, k, c in pieces:
            z = encoder.block(0, 1, integer=True)
            chosen.append((1.0, z))
            encoder.require([(1.0, source), (-(a - xl[j]), z)], xl[j], np.inf)
            encoder.require([(1.0, source), (xu[j] - b, z)], -np.inf, xu[j])
            ranges = [(lo[j], xl[j]), (lo[j], xu[j]), (hi[j], xl[j]), (hi[j], xu[j])]
            miss = [yy - k * t - c for yy, t in ranges]
            encoder.require([(1.0, y), (-k, source), (max(miss), z)], -np.inf, c + max(miss))
            encoder.require([(1.0, y), (-k, source), (min(miss), z)], c + min(miss), np.inf)
        encoder.require(chosen, 1, 1)
    return np.concatenate(blocks), lo, hi


def minimum(
    network, rows: list[tuple[np.ndarray, float]], seconds: float = 30.0
) -> tuple[float, float] | None:
    """The least ``max_r (row_r . y - constant_r)`` over the box as (proven, attained); None if in doubt.

    They differ only where a sign jumps: exactly at its jump it is 0, which no float32 input may hit.
    """
    jumps = any(step.operator == "Sign" for step in network.steps)
    answers = []
    for outer in (False, True) if jumps else (False,):
        encoder = Encoder(outer)
        inputs, outputs = encode(network, encoder)
        t = encoder.block(-1e6, 1e6)
        for coefficients, constant in rows:
            encoder.require([(coefficients[None], outputs), (np.array([[-1.0]]), t)], -np.inf, constant)
        found = encoder.solve(int(t[0]), seconds)
        if found.status != 0 or found.x is None:
            return None
        answers.append((float(found.fun), np.clip(found.x[inputs], network.lower, network.upper)))
    attained, x = answers[0]
    evaluated = violation(network, rows, x[None])[0]
    if abs(evaluated - attained) > 2e-6 * (1 + abs(attained)):
        return None
    return answers[-1][0], attained


def violation(network, rows: list[tuple[np.ndarray, float]], x: np.ndarray) -> np.ndarray:
    """``max_r (row_r . y - constant_r)`` at inputs ``[n, inputs]``: a violation is <= 0."""
    y = network.outputs(x)
    return np.max([y @ coefficients - constant for coefficients, constant in rows], 0)


@dataclass
class Case:
    """A network with a property, its truth, and how far (absolute) the threshold is from the optimum."""

    network: object
    clauses: list
    truth: str
    distance: float
    kind: str


def make_case(network, seconds: float = 30.0, kind: str | None = None) -> Case | None:
    """Place a threshold at 1e-4 or 1e-2 of the output's spread on either side of the exact optimum.

    The seed chooses the kind of property unless it is given: ``several`` is a conjunction over all outputs.
    """
    random = np.random.default_rng([11, network.seed])
    kind = kind or ("single", "pair", "single", "either", "difference")[network.seed // 9 % 5]
    outputs = network.steps[-1].size
    unit = np.eye(outputs)
    a, b = (int(i) for i in random.permutation(outputs)[:2])
    samples = network.lower + random.random((20000, len(network.lower))) * (network.upper - network.lower)
    y = network.outputs(samples)
    apart = float(np.median(y[:, b]) - np.median(y[:, a]))
    forms = {
        "single": [[(random.choice([-1.0, 1.0]) * unit[a], 0.0)]],
        "pair": [[(unit[a], 0.0), (-unit[b], apart)]],
        "either": [[(unit[a], 0.0)], [(-unit[b], 0.0)]],
        "difference": [[(unit[a] - unit[b], 0.0)]],
    }
    middle = np.median(y, 0)
    signs = np.where(np.arange(outputs) % 2 == network.seed % 2, 1.0, -1.0)
    forms["several"] = [[(s * unit[i], s * middle[i]) for i, s in enumerate(signs)]]
    clauses = forms[kind]
    least = []
    for rows in clauses:
        values = violation(network, rows, samples)
        scale = max(float(values.max() - values.min()), 1e-3)
        found = minimum(network, rows, seconds)
        if found is None or values.min() < found[0] - 1e-6 * scale:
            return None
        least.append((*found, scale))
    sat = bool(random.random() < 0.5)
    share = float(random.choice([1e-4, 1e-2]))
    shifted = []
    for position, (rows, (proven, attained, scale)) in enumerate(zip(clauses, least, strict=True)):
        # Of two clauses at most the first can be violated.
        move = attained + share * scale if sat and position == 0 else proven - share * scale
        if kind == "difference":
            network.steps[-1].offset[a] = float(np.float32(network.steps[-1].offset[a] - move))
            shifted.append(rows)
        else:
            shifted.append([(coefficients, _short(constant + move)) for coefficients, constant in rows])
    return Case(network, shifted, "sat" if sat else "unsat", share * least[0][2], kind)


def _short(x: float) -> float:
    """Eight digits: what a property file holds."""
    return float(f"{x:.8g}")
