"""The starting lines of every operator of one variable against the best single lines there are.

Usage: OMP_NUM_THREADS=1 python benchmarks/tightness.py [--boxes 400] [--seed 0] [--points 10000] [OPERATOR ...]

For each box the least area between a lower and an upper line is that between the supporting lines of the convex and the
concave envelope at the midpoint: a line's area over a box is its value at the midpoint times the width. The envelopes
are hulls of samples of the function (numpy, no code of the engine). Printed are the mean over the boxes of the engine's
area over the least one, less 1, and the largest of them, in percent.

The boxes: half have a centre ``+-10^c`` with c uniform in [-2, 1.5] and a width ``10^w`` with w uniform in [-1.5, 1.5];
half have such a width and straddle a focus point (inflection, break point, extremum), which lies at a uniform fraction
of the box. They are cut to the operator's domain. Boxes whose least gap is below 1e-9 (1 + the size of f) are left
out: both are rounding there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import erf

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import OPS, Univariate, prepare, relaxation

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    """An operator with constants: the function in numpy, its focus points and the domain that boxes are cut to."""

    name: str
    function: Function
    focus: tuple[float, ...] = (0.0,)
    constants: dict = field(default_factory=dict)
    domain: tuple[float, float] = (-math.inf, math.inf)
    shape: str = "other"
    """``convex``, ``concave``, ``S`` or ``other``."""
    label: str = ""

    def __str__(self) -> str:
        return self.label or self.name


def _constant(value: float) -> np.ndarray:
    return np.array(value)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


def _elu(alpha: float, gamma: float = 1.0, inner: float = 1.0) -> Function:
    return lambda x: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / inner))


_GELU = math.sqrt(2 / math.pi)
_PI = math.pi


def _hard_swish_slope(x: np.ndarray) -> np.ndarray:
    return np.where(x <= -3, 0.0, np.where(x < 3, 2 * x + 3, 6.0))


def _gelu_tanh_slope(x: np.ndarray) -> np.ndarray:
    u = 2 * _GELU * (x + 0.044715 * x**3)
    return _sigmoid(u) * (1 + x * _sigmoid(-u) * 2 * _GELU * (1 + 3 * 0.044715 * x * x))


def _mish_slope(x: np.ndarray) -> np.ndarray:
    t = np.tanh(_softplus(x))
    return t + x * (1 - t * t) * _sigmoid(x)


CASES = (
    Case("relu", lambda x: np.maximum(x, 0), shape="convex"),
    Case(
        "leaky_relu",
        lambda x: np.where(x < 0, 0.01 * x, x),
        constants={"slope": _constant(0.01)},
        shape="convex",
    ),
    Case(
        "prelu", lambda x: np.where(x < 0, 2.5 * x, x), constants={"slope": _constant(2.5)}, shape="concave"
    ),
    Case("abs", np.abs, shape="convex"),
    Case(
        "clip",
        lambda x: np.clip(x, 0, 6),
        (0.0, 6.0),
        {"lower": _constant(0.0), "upper": _constant(6.0)},
        shape="S",
    ),
    Case(
        "hard_sigmoid",
        lambda x: np.clip(0.2 * x + 0.5, 0, 1),
        (-2.5, 2.5),
        {"alpha": _constant(0.2), "beta": _constant(0.5)},
        shape="S",
    ),
    Case("sigmoid", _sigmoid, shape="S"),
    Case("tanh", np.tanh, shape="S"),
    Case("atan", np.arctan, shape="S"),
    Case("erf", erf, shape="S"),
    Case("softsign", lambda x: x / (1 + np.abs(x)), shape="S"),
    Case("exp", np.exp, domain=(-60.0, 60.0), shape="convex"),
    Case("softplus", _softplus, shape="convex"),
    Case("elu", _elu(1.0), constants={"alpha": _constant(1.0)}, shape="convex"),
    Case("elu", _elu(1.7), constants={"alpha": _constant(1.7)}, label="elu 1.7"),
    Case("selu", _elu(1.6733, 1.0507), constants={"alpha": _constant(1.6733), "gamma": _constant(1.0507)}),
    Case("celu", _elu(0.5, 1.0, 0.5), constants={"alpha": _constant(0.5)}, shape="convex"),
    Case("log", np.log, (1.0,), domain=(1e-4, math.inf), shape="concave"),
    Case("sqrt", np.sqrt, (0.0, 1.0), domain=(0.0, math.inf), shape="concave"),
    Case("reciprocal", lambda x: 1 / x, (1.0,), domain=(1e-3, math.inf), shape="convex"),
    Case(
        "reciprocal",
        lambda x: 1 / x,
        (-1.0,),
        domain=(-math.inf, -1e-3),
        shape="concave",
        label="reciprocal below 0",
    ),
    Case("pow", lambda x: x**2, constants={"exponent": 2.0}, shape="convex", label="pow 2"),
    Case("pow", lambda x: x**3, constants={"exponent": 3.0}, shape="S", label="pow 3"),
    Case("pow", lambda x: x**4, constants={"exponent": 4.0}, shape="convex", label="pow 4"),
    Case("pow", lambda x: x**5, constants={"exponent": 5.0}, shape="S", label="pow 5"),
    Case("pow", lambda x: x**2.5, (0.0, 1.0), {"exponent": 2.5}, (0.0, math.inf), "convex", "pow 2.5"),
    Case("pow", lambda x: x**0.25, (0.0, 1.0), {"exponent": 0.25}, (0.0, math.inf), "concave", "pow 0.25"),
    Case("pow", lambda x: x**-2.0, (1.0,), {"exponent": -2.0}, (1e-2, math.inf), "convex", "pow -2"),
    Case("gelu", lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))), (-math.sqrt(2), 0.0, math.sqrt(2))),
    Case("gelu_tanh", lambda x: x * _sigmoid(2 * _GELU * (x + 0.044715 * x**3)), (-1.4185, 0.0, 1.4185)),
    Case("silu", lambda x: x * _sigmoid(x), (-2.3994, 0.0, 2.3994)),
    Case("mish", lambda x: x * np.tanh(_softplus(x)), (-2.2564, 0.0, 1.4906)),
    Case("hard_swish", lambda x: x * np.clip(x + 3, 0, 6) / 6, (-3.0, -1.5, 3.0)),
    Case("sin", np.sin, (0.0, _PI / 2, _PI)),
    Case("cos", np.cos, (0.0, _PI / 2, _PI)),
    Case("tan", np.tan, (0.0,), domain=(-1.55, 1.55), shape="S"),
    Case("sign", np.sign),
    Case("floor", np.floor),
    Case("ceil", np.ceil),
    Case("round", np.round, (0.5,)),
    Case(
        "pulse",
        lambda x: ((x > -1) & (x < 2)).astype(float),
        (-1.0, 2.0),
        {"lower": _constant(-1.0), "upper": _constant(2.0)},
    ),
    Case("hard_swish_slope", _hard_swish_slope, (-3.0, -1.5, 3.0)),
    Case(
        "elu_slope",
        lambda x: np.where(x > 0, 1.0, 1.7 * np.exp(np.minimum(x, 0))),
        constants={"height": _constant(1.7), "scale": _constant(1.0)},
    ),
    Case("sigmoid_slope", lambda x: _sigmoid(x) * _sigmoid(-x)),
    Case("tanh_slope", lambda x: 4 * _sigmoid(2 * x) * _sigmoid(-2 * x)),
    Case("erf_slope", lambda x: np.exp(-x * x) * (2 / math.sqrt(_PI))),
    Case("atan_slope", lambda x: 1 / (1 + x * x)),
    Case("softsign_slope", lambda x: (1 + np.abs(x)) ** -2.0),
    Case("tan_slope", lambda x: np.cos(x) ** -2.0, domain=(-1.55, 1.55), shape="convex"),
    Case(
        "gelu_slope",
        lambda x: 0.5 * (1 + erf(x / math.sqrt(2))) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * _PI),
        (-2.0, 0.0, 2.0),
    ),
    Case("gelu_tanh_slope", _gelu_tanh_slope, (-2.0135, 0.0, 2.0135)),
    Case("silu_slope", lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)), (-3.4358, 0.0, 3.4358)),
    Case("mish_slope", _mish_slope, (-3.2673, 0.0, 2.1148)),
)
"""``pieces`` is missing: its tables are made of data; and ``step``, whose starting lines are constant."""


def boxes(case: Case, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ends ``[boxes]`` of at most ``count`` boxes, distributed as the module says."""
    random = np.random.default_rng(seed)
    half = count // 2
    width = 10 ** random.uniform(-1.5, 1.5, count)
    centre = random.choice([-1.0, 1.0], half) * 10 ** random.uniform(-2, 1.5, half)
    focus = random.choice(case.focus, count - half)
    lower = np.concatenate(
        [centre - width[:half] / 2, focus - width[half:] * random.uniform(0, 1, count - half)]
    )
    ends = np.clip(lower, *case.domain), np.clip(lower + width, *case.domain)
    keep = ends[1] - ends[0] > 1e-3 * width
    return ends[0][keep], ends[1][keep]


def least_gap(function: Function, lower: float, upper: float, points: int, focus: tuple[float, ...]) -> float:
    """The concave less the convex envelope at the midpoint, from samples: a little below the true gap."""
    inside = [f for f in focus if lower < f < upper]
    middle = 0.5 * (lower + upper)
    near = np.array(inside)[:, None] + np.array([-1e-9, 0.0, 1e-9]) * (upper - lower)
    x = np.unique(
        np.concatenate([np.linspace(lower, upper, points), near.ravel(), [middle]]).clip(lower, upper)
    )
    y = function(x)
    return _hull(x, y, middle) + _hull(x, -y, middle)


def _hull(x: np.ndarray, y: np.ndarray, middle: float) -> float:
    """The upper hull of samples at ``middle``: its supporting line there has the slope that minimises ``max y - k x``.

    Binary search on the slope, whose maximiser lies left or right of the middle; then the chord of the last ones.
    """
    left, right = 0, len(x) - 1
    for _ in range(200):
        slope = (y[right] - y[left]) / (x[right] - x[left])
        best = int(np.argmax(y - slope * x))
        rise = (y[best] - slope * x[best]) - (y[left] - slope * x[left])
        if best in (left, right) or rise <= 1e-15 * (1 + abs(y[best]) + abs(slope * x[best])):
            break
        if x[best] <= middle:
            left = best
        if x[best] >= middle:
            right = best
        if left == right:
            return float(y[best])
    return float(y[left] + (y[right] - y[left]) / (x[right] - x[left]) * (middle - x[left]))


def excess(case: Case, count: int, points: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lower, upper, engine's gap over the least gap less 1), ``[boxes]``."""
    operator = OPS[case.name]
    assert isinstance(operator, Univariate)
    node = Node(case.name, (0,), (1,), case.constants)
    prepared = prepare(node, ((1,),), torch.float64, torch.device("cpu"))
    lower, upper = boxes(case, count, seed)
    kl, bl, ku, bu = (
        t.numpy()
        for t in relaxation.lines(operator, prepared, torch.from_numpy(lower), torch.from_numpy(upper))
    )
    gap = (ku - kl) * (lower + upper) / 2 + (bu - bl)
    with np.errstate(over="ignore", under="ignore"):
        ends = zip(lower, upper, strict=True)
        least = np.array([least_gap(case.function, a, b, points, case.focus) for a, b in ends])
        size = np.maximum(np.abs(case.function(lower)), np.abs(case.function(upper)))
    keep = least > 1e-9 * (1 + size)
    return lower[keep], upper[keep], gap[keep] / least[keep] - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operators", nargs="*", help="names of operators; all if none")
    parser.add_argument("--boxes", type=int, default=400)
    parser.add_argument("--points", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(
        "| operator | shape | boxes | mean excess % | largest % | box of the largest |\n|---|---|---|---|---|---|"
    )
    for case in CASES:
        if arguments.operators and case.name not in arguments.operators:
            continue
        lower, upper, found = excess(case, arguments.boxes, arguments.points, arguments.seed)
        worst = int(found.argmax())
        where = f"[{lower[worst]:.6g}, {upper[worst]:.6g}]"
        print(
            f"| {case} | {case.shape} | {len(found)} | {100 * found.mean():.4f} | {100 * found[worst]:.3f} | {where} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
