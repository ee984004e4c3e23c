"""Jumps, unknown choices and wrong calls are refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds import jacobian, jacobian_norm, norm_graph, vector_jacobian
from provenn.bounds.graph._constants import Constant
from provenn.bounds.jacobian import unbounded
from provenn.bounds.jacobian._norms import input_boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.errors import InputError, UnsupportedOperatorError

from .made import at, graph_of

ZERO = Constant(np.zeros((1, 2)))
JUMPS = {
    "sign": lambda b, x: b.unary("sign", x),
    "floor": lambda b, x: b.unary("floor", x),
    "ceil": lambda b, x: b.unary("ceil", x),
    "round": lambda b, x: b.unary("round", x),
    "less": lambda b, x: b.binary("less", x, b.constant(ZERO)),
    "cast": lambda b, x: b.unary("cast", x, "int64", to="int64"),
    "argmax": lambda b, x: b.emit("argmax", (x,), (1,), axis=1, keepdims=0),
    "where": lambda b, x: b.emit("where", (b.binary("less", x, b.constant(ZERO)), x, x), (1, 2), "float64"),
    "step": lambda b, x: b.unary("step", x, left=np.array(0.0), right=np.array(1.0)),
}


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.parametrize("mode", [None, [0]])
def test_jumps_are_refused_with_their_node(name: str, mode) -> None:
    graph = graph_of((1, 2), JUMPS[name])
    with pytest.raises(UnsupportedOperatorError, match=r"no Jacobian: made \(node made\): .*jump"):
        jacobian(graph, [0], mode)


def test_jumps_that_no_output_reads_do_not_matter() -> None:
    def build(b, x):
        b.unary("sign", x)
        return b.unary("relu", x)

    assert at(jacobian(graph_of((1, 2), build)), torch.ones(1, 2, dtype=torch.float64)).shape == (1, 2, 2)


def test_wrong_calls_say_what_they_got() -> None:
    graph = graph_of((1, 2), lambda b, x: b.unary("tanh", x))
    with pytest.raises(InputError, match=r"outputs=\[2\], expected positions from 0 to 1"):
        jacobian(graph, [2])
    with pytest.raises(InputError, match="inputs="):
        jacobian(graph, None, [-1])
    with pytest.raises(InputError, match=r"norm got 3, expected one of 1, 2, inf"):
        norm_graph(graph, 3)
    with pytest.raises(InputError, match=r"expected finite numbers \[rows, 2\]"):
        vector_jacobian(graph, np.zeros((1, 3)))
    with pytest.raises(InputError, match="box got ends"):
        jacobian_norm(graph, np.ones(2), np.zeros(2))


@pytest.mark.parametrize("operator", ["sqrt", "pow", "reciprocal", "log"])
def test_infinite_slopes_are_infinite_and_named(operator: str) -> None:
    attributes = {"exponent": 0.25} if operator == "pow" else {}
    graph = graph_of((1, 1), lambda b, x: b.unary(operator, x, **attributes))
    assert float(jacobian_norm(graph, np.zeros(1), np.ones(1), "inf", steps=2)) == np.inf
    assert float(jacobian_norm(graph, np.full(1, 0.25), np.ones(1), "inf", steps=2)) < 20
    made = norm_graph(graph, "inf").graph
    plan = Plan(made)
    named = unbounded(made, interval_boxes(plan, input_boxes(made, np.zeros(1), np.ones(1))))
    assert any("made (node made)" in name for name in named)
