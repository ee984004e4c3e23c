"""Fragments that exporters write for one function, as recipes of random graphs (``recipes.py`` has the operators)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Recipe = Callable[[Any], Any]


def whole(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def flat(g):
    x = g.pick()
    return g.node("Reshape", x, whole(1, -1))


def _mean(g, x):
    return g.node("ReduceMean", x, whole(-1)) if g.opset >= 18 else g.node("ReduceMean", x, axes=[-1])


def softmax_written(g):
    """exp / sum, with or without the largest subtracted."""
    x = g.matrix()
    if g.chance(0.5):
        most = g.node("ReduceMax", x, whole(-1)) if g.opset >= 18 else g.node("ReduceMax", x, axes=[-1])
        x = g.node("Sub", x, most)
    e = g.node("Exp", x)
    total = g.node("ReduceSum", e, whole(-1)) if g.opset >= 13 else g.node("ReduceSum", e, axes=[-1])
    return g.node("Div", e, total)


def layer_norm_written(g):
    x = g.pick(lambda t: t.rank >= 1 and t.shape[-1] > 1)
    centred = g.node("Sub", x, _mean(g, x))
    square = (
        g.node("Mul", centred, centred)
        if g.chance(0.5)
        else g.node("Pow", centred, np.asarray(2, g.element))
    )
    variance = g.node("Add", _mean(g, square), np.asarray(g.choose([1e-5, 1e-2]), g.element))
    normal = g.node("Div", centred, g.node("Sqrt", variance))
    return g.node("Add", g.node("Mul", normal, g.real(x.shape[-1])), g.real(x.shape[-1]))


def attention(g):
    """softmax(Q K^T / sqrt d) V over tokens made of one value."""
    x = flat(g)
    n, tokens, width = x.shape[1], int(g.random.integers(2, 4)), int(g.random.integers(1, 4))
    parts = []
    for _ in range(3):
        mixed = g.node("MatMul", x, g.real(n, tokens * width, scale=1 / np.sqrt(n)))
        parts.append(g.node("Reshape", mixed, whole(1, tokens, width)))
    query, key, value = parts
    scores = g.node("MatMul", query, g.node("Transpose", key, perm=[0, 2, 1]))
    scores = g.node("Div", scores, np.asarray(np.sqrt(width), g.element))
    return g.node("MatMul", g.node("Softmax", scores, axis=-1), value)


def gelu_written(g):
    x = g.pick()
    c = lambda value: np.asarray(value, g.element)  # noqa: E731
    if g.chance(0.5):
        gate = g.node("Add", g.node("Erf", g.node("Div", x, c(np.sqrt(2)))), c(1))
    else:
        cube = g.node("Pow", x, c(3)) if g.chance(0.5) else g.node("Mul", g.node("Mul", x, x), x)
        inner = g.node("Add", x, g.node("Mul", cube, c(0.044715)))
        gate = g.node("Add", g.node("Tanh", g.node("Mul", inner, c(np.sqrt(2 / np.pi)))), c(1))
    if g.chance(0.5):
        return g.node("Mul", g.node("Mul", x, c(0.5)), gate)
    return g.node("Mul", g.node("Mul", x, gate), c(0.5))


def sigmoid_written(g):
    """1 / (1 + exp(-x)), sometimes as a gate of x."""
    x = g.pick()
    e = g.node("Exp", g.node("Neg", x))
    total = g.node("Add", e, np.asarray(1, g.element))
    if g.chance(0.5):
        return g.node("Div", x, total)
    return g.node("Div", np.asarray(1, g.element), total) if g.chance(0.5) else g.node("Reciprocal", total)


def gated(g):
    x = g.pick()
    return g.node("Mul", x, g.node(g.choose(["Sigmoid", "Tanh", "HardSigmoid", "Softplus", "Sin"]), x))


def softplus_written(g):
    return g.node("Log", g.node("Add", g.node("Exp", g.pick()), np.asarray(1, g.element)))


def folded(g):
    """relu(x) - relu(-x), relu(x) + relu(-x), sqrt(x^2), x / |x|."""
    x = g.pick()
    how = g.choose(["sub", "add", "root", "unit"])
    if how == "root":
        return g.node("Sqrt", g.node("Mul", x, x))
    if how == "unit":
        return g.node("Div", x, g.node("Abs", x))
    parts = g.node("Relu", x), g.node("Relu", g.node("Neg", x))
    return g.node("Sub" if how == "sub" else "Add", *parts)


def shared(g):
    """The same expression written twice, combined."""
    x = g.pick()
    operator = g.choose(["Sigmoid", "Tanh", "Relu", "Exp", "Sin"])
    return g.node(g.choose(["Add", "Sub", "Mul"]), g.node(operator, x), g.node(operator, x))


RECIPES: dict[str, Recipe] = {
    f.__name__: f
    for f in (
        softmax_written, layer_norm_written, attention, gelu_written, sigmoid_written, gated, softplus_written, folded,
        shared,
    )
}  # fmt: skip
