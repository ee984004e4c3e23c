"""Small networks with known Lipschitz constants."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from provenn.bounds.graph import Graph
from provenn.bounds.graph._constants import Constant

from ..jacobian.made import graph_of

ORDER = {"1": 1, "2": 2, "inf": np.inf}


@dataclass(frozen=True)
class Layers:
    """Weights ``[n, m]`` and biases ``[m]`` of layers with an activation in between."""

    weights: list[np.ndarray]
    biases: list[np.ndarray]

    def graph(self, activation: str = "relu", **attributes: float) -> Graph:
        def build(b, x):
            for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                x = b.unary(activation, x, **attributes) if place else x
                x = b.linear(x, Constant(weight), Constant(bias))
            return x

        return graph_of((1, len(self.weights[0])), build)

    def regions(self, lower: np.ndarray, upper: np.ndarray):
        """The Jacobian ``[outputs, inputs]`` of every linear region of a ReLU network that has an inside in the box."""
        hidden = [len(bias) for bias in self.biases[:-1]]
        for pattern in itertools.product((0.0, 1.0), repeat=sum(hidden)):
            signs = np.split(np.array(pattern), np.cumsum(hidden)[:-1])
            a, c = self.weights[0].T, self.biases[0]
            rows, limits = [], []
            for on, weight, bias in zip(signs, self.weights[1:], self.biases[1:], strict=True):
                turned = 1 - 2 * on  # (1 - 2 on) z <= 0
                rows.append(turned[:, None] * a)
                limits.append(-turned * c)
                a, c = weight.T @ (on[:, None] * a), weight.T @ (on * c) + bias
            if _has_inside(np.concatenate(rows), np.concatenate(limits), lower, upper):
                yield a

    def constant(self, lower: np.ndarray, upper: np.ndarray, norm: str, output: int | None = None) -> float:
        """The largest norm over all regions."""
        chosen = slice(None) if output is None else slice(output, output + 1)
        return max(float(np.linalg.norm(a[chosen], ORDER[norm])) for a in self.regions(lower, upper))


def _has_inside(g: np.ndarray, h: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> bool:
    """Whether some x of a box satisfies ``g x < h`` by more than rounding."""
    size = np.abs(g).sum(1, keepdims=True)
    ends = [*zip(lower, upper, strict=True), (0.0, 1.0)]
    found = linprog(np.append(np.zeros(len(lower)), -1.0), np.hstack([g, size]), h, bounds=ends, method="highs")
    return found.status == 0 and -found.fun > 1e-9


def drawn_layers(seed: int, *sizes: int) -> Layers:
    random = np.random.default_rng(seed)
    pairs = list(itertools.pairwise(sizes))
    return Layers(
        [random.normal(size=pair) / np.sqrt(pair[0]) * 1.5 for pair in pairs],
        [random.normal(size=m) * 0.3 for _, m in pairs],
    )
