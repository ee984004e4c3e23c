"""The derivative of every operator of one variable as a node on its operand, times a constant."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._builder import Operand, Value
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._graph import Node
from provenn.bounds.jacobian._chain import ONE, Chain, number


class Factor(NamedTuple):
    """A derivative ``scale * value``; None is 0."""

    value: Operand
    scale: Constant = ONE


Rule: TypeAlias = Callable[[Chain, Node, Value, Value], "Factor | None"]
"""``rule(chain, node, x, y)`` of a node that makes y of x."""


def _on_operand(operator: str, scale: float = 1.0, **attributes: float) -> Rule:
    """Another operator on the same operand."""
    return lambda chain, node, x, y: Factor(chain.unary(operator, x, **attributes), number(scale))


def _step(left: float, right: float) -> Rule:
    return _on_operand("step", left=left, right=right)


def _leaky(chain: Chain, node: Node, x: Value, y: Value) -> Factor:
    return Factor(chain.unary("step", x, left=node.attributes["slope"], right=1.0))


def _clip(chain: Chain, node: Node, x: Value, y: Value) -> Factor:
    limits = {n: node.attributes[n] for n in ("lower", "upper") if node.attributes.get(n) is not None}
    return Factor(chain.unary("pulse", x, **limits))


def _hard_sigmoid(chain: Chain, node: Node, x: Value, y: Value) -> Factor:
    alpha, beta = (Constant(np.asarray(node.attributes[name], np.float64)) for name in ("alpha", "beta"))
    return Factor(chain.unary("pulse", chain.builder.affine(x, alpha, beta), lower=0.0, upper=1.0), alpha)


def _hard_swish(chain: Chain, node: Node, x: Value, y: Value) -> Factor:
    if "slope_radius" in node.attributes:
        raise chain.refuse(
            node, "its kinks are known up to a rounding only", "export it as the operator HardSwish"
        )
    return Factor(chain.unary("hard_swish_slope", x), constants.divide(number(1.0), number(6.0)))


def _gelu_tanh(chain: Chain, node: Node, x: Value, y: Value) -> Factor:
    """The file's constants may be other ones: then the derivative is that far off at most."""
    made: Operand = chain.unary("gelu_tanh_slope", x)
    radius = float(node.attributes.get("slope_radius", 0.0))
    if radius:
        zero = np.zeros(())
        made = chain.builder.affine(chain.builder.value(made), shift=Constant(zero, None, np.asarray(radius)))
    return Factor(made)


def _elu(chain: Chain, node: Node, x: Value, y: Value) -> Factor:
    return Factor(chain.unary("elu_slope", x, height=node.attributes["alpha"], scale=1.0))


def _selu(chain: Chain, node: Node, x: Value, y: Value) -> Factor:
    gamma = Constant(np.asarray(node.attributes["gamma"], np.float64))
    return Factor(chain.unary("elu_slope", x, height=node.attributes["alpha"], scale=1.0), gamma)


def _celu(chain: Chain, node: Node, x: Value, y: Value) -> Factor:
    return Factor(chain.unary("elu_slope", x, height=1.0, scale=node.attributes["alpha"]))


def _pow(chain: Chain, node: Node, x: Value, y: Value) -> Factor | None:
    """``n x^(n-1)``; as ``n y / x`` where n - 1 is no number of float64."""
    values = np.unique(np.asarray(node.attributes["exponent"], np.float64))
    n = float(values[0])
    if n == 0.0:
        return None
    if n == 1.0:
        return Factor(Constant(np.ones(node.shape)))
    if n == 2.0:
        return Factor(x, number(2.0))
    if Fraction(n) - 1 != Fraction(n - 1.0):
        return Factor(chain.builder.binary("mul", y, chain.unary("reciprocal", x)), number(n))
    return Factor(chain.unary("pow", x, exponent=n - 1.0), number(n))


FACTORS: dict[str, Rule] = {
    "relu": _step(0.0, 1.0),
    "leaky_relu": _leaky,
    "prelu": _leaky,
    "abs": _step(-1.0, 1.0),
    "clip": _clip,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "sigmoid": _on_operand("sigmoid_slope"),
    "tanh": _on_operand("tanh_slope"),
    "erf": _on_operand("erf_slope"),
    "atan": _on_operand("atan_slope"),
    "softsign": _on_operand("softsign_slope"),
    "exp": lambda chain, node, x, y: Factor(y),
    "log": _on_operand("reciprocal"),
    "sqrt": _on_operand("pow", 0.5, exponent=-0.5),
    "reciprocal": _on_operand("pow", -1.0, exponent=-2.0),
    "pow": _pow,
    "sin": _on_operand("cos"),
    "cos": _on_operand("sin", -1.0),
    "tan": _on_operand("tan_slope"),
    "softplus": _on_operand("sigmoid"),
    "elu": _elu,
    "selu": _selu,
    "celu": _celu,
    "gelu": _on_operand("gelu_slope"),
    "gelu_tanh": _gelu_tanh,
    "silu": _on_operand("silu_slope"),
    "mish": _on_operand("mish_slope"),
}
"""The derivatives of records for which no rule is here are refused: ``JUMPS`` and second derivatives."""

JUMPS = frozenset({
    "sign", "floor", "ceil", "round", "equal", "less", "less_or_equal", "cast", "argmax", "one_hot", "step", "pulse",
    "hard_swish_slope",
})  # fmt: skip
"""Operators with jumps: no bound of a slope holds across one."""


def scaled_by(chain: Chain, g: Operand, factor: Factor) -> Operand:
    """``g`` times a derivative: the product reads the derivative itself, the constant follows."""
    made = chain.times(g, factor.value)
    return made if factor.scale is ONE else chain.scaled(made, factor.scale)
