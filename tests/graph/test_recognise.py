"""Spelled-out functions are recognised: the same outputs, one operator, and bounds that are at least as tight."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node, evaluate
from provenn.bounds.graph._fuse import fuse, prune
from provenn.bounds.graph._merge import simplify
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes

RANDOM = np.random.default_rng(5)
SHAPE = (1, 5)


def spelled(*parts: tuple) -> list[Node]:
    """Nodes over an input [1, 5]: (operator, operands, attributes[, shape])."""
    made = [Node("input", (), SHAPE)]
    return made + [Node(name, inputs, shape[0] if shape else SHAPE, more) for name, inputs, more, *shape in parts]


def graph(nodes, inputs=(0,), outputs=None) -> Graph:
    return Graph(tuple(nodes), tuple(inputs), tuple(outputs or (len(nodes) - 1,)))


def operators(nodes) -> list[str]:
    return [n.operator for n in nodes if n.operator not in ("input", "affine", "constant")]


def rewritten(nodes: list[Node], low: float = -2, high: float = 2, tolerance: float = 1e-13) -> list[Node]:
    """The nodes after all rewrites; outputs at random points of [low, high] are the same."""
    found = simplify(nodes, [0], [len(nodes) - 1])
    x = torch.from_numpy(RANDOM.uniform(low, high, (200, *SHAPE)))
    expected, other = evaluate(graph(nodes), [x])[0], evaluate(graph(*found), [x])[0]
    torch.testing.assert_close(other, expected, rtol=tolerance, atol=tolerance)
    return found[0]


C = np.float32
RSQRT2 = {"scale": C([0.70710677])}
ONE, MINUS, HALF, TWO = ({name: C(value)} for name, value in
                         (("shift", 1), ("scale", -1), ("scale", 0.5), ("scale", 2)))  # fmt: skip
CUBE, ROOT = {"scale": C(0.044715)}, {"scale": C(0.7978846)}
TENTH = {"scale": C(0.1)}
SIGMOID = [("affine", (0,), MINUS), ("exp", (1,), {}), ("affine", (2,), ONE), ("reciprocal", (3,), {})]
SPELLED = {
    "gelu": spelled(("affine", (0,), RSQRT2), ("erf", (1,), {}), ("affine", (2,), {"shift": C(1)}), ("mul", (0, 3), {}),
                    ("affine", (4,), {"scale": C(0.5)})),
    "gelu half first": spelled(("affine", (0,), {"scale": C(0.5)}), ("affine", (0,), RSQRT2), ("erf", (2,), {}),
                               ("affine", (3,), {"shift": C(1)}), ("mul", (1, 4), {})),
    "gelu half inside": spelled(("affine", (0,), RSQRT2), ("erf", (1,), {}),
                                ("affine", (2,), {"scale": C(0.5), "shift": C(0.5)}), ("mul", (3, 0), {})),
    "gelu of a multiple": spelled(("affine", (0,), {"scale": C(3)}), ("affine", (1,), RSQRT2), ("erf", (2,), {}),
                                  ("affine", (3,), {"shift": C(1)}), ("mul", (1, 4), {})),
    "silu": spelled(("sigmoid", (0,), {}), ("mul", (1, 0), {})),
    "silu scaled": spelled(("affine", (0,), {"scale": C(1.702)}), ("sigmoid", (1,), {}), ("mul", (0, 2), {})),
    "mish": spelled(("exp", (0,), {}), ("affine", (1,), {"shift": C(1)}), ("log", (2,), {}), ("tanh", (3,), {}),
                    ("mul", (0, 4), {})),
    "softplus": spelled(("exp", (0,), {}), ("affine", (1,), {"shift": C(1)}), ("log", (2,), {})),
    "hard_swish": spelled(("affine", (0,), {"shift": C(3)}), ("clip", (1,), {"lower": C(0), "upper": C(6)}),
                          ("mul", (0, 2), {}), ("affine", (3,), {"scale": C(1 / 6)})),
    "gelu sum": spelled(("affine", (0,), RSQRT2), ("erf", (1,), {}), ("mul", (0, 2), {}), ("add", (0, 3), {}),
                        ("affine", (4,), HALF)),
    "gelu apart": spelled(("affine", (0,), RSQRT2), ("erf", (1,), {}), ("affine", (2,), HALF),
                          ("affine", (3,), {"shift": C(0.5)}), ("mul", (4, 0), {})),
    "gelu_tanh": spelled(("pow", (0,), {"exponent": 3.0}), ("affine", (1,), CUBE), ("add", (0, 2), {}),
                         ("affine", (3,), ROOT), ("tanh", (4,), {}), ("affine", (5,), ONE), ("affine", (0,), HALF),
                         ("mul", (7, 6), {})),
    "gelu_tanh of products": spelled(("mul", (0, 0), {}), ("mul", (1, 0), {}), ("affine", (2,), CUBE),
                                     ("add", (3, 0), {}), ("affine", (4,), ROOT), ("tanh", (5,), {}),
                                     ("affine", (6,), ONE), ("mul", (0, 7), {}), ("affine", (8,), HALF)),
    "gelu_tanh factored": spelled(("mul", (0, 0), {}), ("affine", (1,), CUBE | ONE), ("affine", (0,), ROOT),
                                  ("mul", (3, 2), {}), ("tanh", (4,), {}),
                                  ("affine", (5,), HALF | {"shift": C(0.5)}), ("mul", (0, 6), {})),
    "silu with beta": spelled(("affine", (0,), {"scale": C(0.3)}), ("sigmoid", (1,), {}), ("mul", (2, 0), {})),
    "silu by division": spelled(*SIGMOID[:3], ("div", (0, 3), {})),
    "silu of a reciprocal": spelled(*SIGMOID, ("mul", (0, 4), {})),
    "silu by tanh": spelled(("affine", (0,), HALF), ("tanh", (1,), {}), ("affine", (2,), HALF | {"shift": C(0.5)}),
                            ("mul", (3, 0), {})),
    "sigmoid": spelled(*SIGMOID),
    "softplus twice": spelled(("affine", (0,), TWO), ("exp", (1,), {}), ("affine", (2,), ONE), ("log", (3,), {}),
                              ("affine", (4,), HALF)),
    "softplus of a sigmoid": spelled(("sigmoid", (0,), {}), ("log", (1,), {})),
    "softplus without overflow": spelled(("abs", (0,), {}), ("affine", (1,), MINUS), ("exp", (2,), {}),
                                         ("affine", (3,), ONE), ("log", (4,), {}), ("relu", (0,), {}),
                                         ("add", (6, 5), {})),
    "hard_swish divided first": spelled(("affine", (0,), {"scale": C(1 / 6), "shift": C(0.5)}),
                                        ("clip", (1,), {"lower": C(0), "upper": C(1)}), ("mul", (0, 2), {})),
    "hard_swish by hard sigmoid": spelled(("hard_sigmoid", (0,), {"alpha": C(1 / 6), "beta": C(0.5)}),
                                          ("mul", (1, 0), {})),
    "pow 2": spelled(("affine", (0,), {"scale": C(2), "shift": C(1)}), ("mul", (1, 1), {})),
    "pow 2 of multiples": spelled(("affine", (0,), TWO), ("affine", (0,), {"scale": C(-3)}), ("mul", (1, 2), {})),
    "pow 3": spelled(("mul", (0, 0), {}), ("mul", (0, 1), {})),
    "pow 3 of a multiple": spelled(("affine", (0,), TWO), ("pow", (1,), {"exponent": 2.0}), ("mul", (0, 2), {})),
    "pow 4": spelled(("mul", (0, 0), {}), ("mul", (1, 1), {})),
    "pow 2 of a size": spelled(("abs", (0,), {}), ("pow", (1,), {"exponent": 2.0})),
    "pow 2 twice written": spelled(("affine", (0,), ONE), ("affine", (0,), ONE), ("mul", (1, 2), {})),
    "abs by root": spelled(("mul", (0, 0), {}), ("sqrt", (1,), {})),
    "abs by relus": spelled(("relu", (0,), {}), ("affine", (0,), MINUS), ("relu", (2,), {}), ("add", (1, 3), {})),
    "abs by a maximum": spelled(("affine", (0,), MINUS), ("max", (0, 1), {})),
    "abs by a minimum": spelled(("affine", (0,), MINUS), ("min", (1, 0), {})),
    "leaky_relu": spelled(("affine", (0,), TENTH), ("max", (0, 1), {})),
    "leaky_relu by a minimum": spelled(("affine", (0,), TENTH), ("min", (0, 1), {})),
    "sign": spelled(("abs", (0,), {}), ("div", (0, 1), {})),
    "sign of a multiple": spelled(("affine", (0,), MINUS), ("abs", (0,), {}), ("div", (1, 2), {})),
    "softsign": spelled(("abs", (0,), {}), ("affine", (1,), ONE), ("div", (0, 2), {})),
    "tanh": spelled(("exp", (0,), {}), ("affine", (0,), MINUS), ("exp", (2,), {}), ("sub", (1, 3), {}),
                    ("add", (1, 3), {}), ("div", (4, 5), {})),
    "tanh of the double": spelled(("affine", (0,), TWO), ("exp", (1,), {}), ("affine", (2,), {"shift": C(-1)}),
                                  ("affine", (2,), ONE), ("div", (3, 4), {})),
    "relu by a choice": spelled(("constant", (), {"value": np.zeros(SHAPE)}), ("less", (1, 0), {}),
                                ("where", (2, 0, 1), {})),
    "relu by a mask": spelled(("constant", (), {"value": np.zeros(SHAPE)}), ("less", (1, 0), {}), ("mul", (2, 0), {})),
    "leaky_relu by a choice": spelled(("constant", (), {"value": np.zeros(SHAPE)}), ("less", (0, 1), {}),
                                      ("affine", (0,), TENTH), ("where", (2, 3, 0), {})),
    "elu by a choice": spelled(("constant", (), {"value": np.zeros(SHAPE)}), ("less_or_equal", (0, 1), {}),
                               ("exp", (0,), {}), ("affine", (3,), {"shift": C(-1)}), ("where", (2, 4, 0), {})),
}  # fmt: skip
APART = {"gelu_tanh", "hard_swish"}
"""Operators whose own constants are not the file's: the result has a radius."""


@pytest.mark.parametrize("name", SPELLED)
def test_spelled_out_functions_are_recognised(name):
    operator = name.split()[0]
    found = rewritten(SPELLED[name], tolerance=1e-7 if operator in APART else 1e-13)
    assert operators(found) == [operator]
    if operator == "pow":
        assert next(n for n in found if n.operator == "pow").attributes["exponent"] == float(name.split()[1])


@pytest.mark.parametrize("name", [n for n in SPELLED if n.split()[0] in APART and n != "hard_swish"])
def test_the_radius_covers_what_the_constants_differ_by(name):
    nodes = SPELLED[name]
    found = simplify(nodes, [0], [len(nodes) - 1])
    last = found[0][-1]
    assert last.operator == "affine" and 0 < last.attributes["shift_radius"] < 1e-6
    x = torch.linspace(-8, 8, 20_000, dtype=torch.float64).reshape(-1, *SHAPE)
    expected, other = evaluate(graph(nodes), [x])[0], evaluate(graph(*found), [x])[0]
    apart = float((expected - other).abs().max())
    assert apart <= float(last.attributes["shift_radius"]) + 1e-15
    plan = Plan(graph(*found), torch.float64)
    low, high = interval_boxes(plan, {0: (x, x)})[plan.graph.outputs[0]]
    assert (low <= expected).all() and (expected <= high).all()


def boxes(nodes, inputs, outputs, box) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of the output by backward passes, less rounding, for several input boxes at once."""
    plan = Plan(graph(nodes, inputs, outputs), torch.float64)
    region = {plan.graph.inputs[0]: box}
    hull = {plan.graph.inputs[0]: (box[0].amin(0, True), box[1].amax(0, True))}
    magnitudes = Magnitudes(plan, interval_boxes(plan, hull))
    return intermediate_boxes(plan, region, magnitudes=magnitudes)[plan.graph.outputs[0]]


@pytest.mark.parametrize("name", SPELLED)
def test_bounds_are_at_least_as_tight(name):
    """The box of the function alone is contained; that of a mixture with the input is narrower in the mean."""
    mix = {"weight": RANDOM.standard_normal((10, 3)), "bias": np.zeros(3)}
    nodes = SPELLED[name]
    end = len(nodes) - 1
    mixed = [*nodes, Node("concat", (end, 0), (1, 10), {"axis": 1}), Node("linear", (end + 1,), (1, 3), mix)]
    middle, radius = RANDOM.uniform(-3, 3, (16, *SHAPE)), 10 ** RANDOM.uniform(-2, 0.5, (16, *SHAPE))
    box = tuple(torch.from_numpy(middle + sign * radius) for sign in (-1, 1))
    for whole in (nodes, mixed):
        outputs = [len(whole) - 1]
        (low, high), (first, last) = (
            boxes(*form, box) for form in (prune(*fuse(whole, [0], outputs)), simplify(whole, [0], outputs))
        )
        if whole is nodes:
            # Radii of constants, and brackets of stationary points, are that wide.
            slack = 5e-7 * (1 + high.abs().nan_to_num(posinf=0))
            assert (first >= low - slack).all() and (last <= high + slack).all()
        else:
            width = (high - low).nan_to_num(posinf=1e6).clamp(max=1e6)
            assert (last - first).sum() <= width.sum() * (1 + 1e-6)


DIFFERENT = {
    "another shift": spelled(("affine", (0,), RSQRT2), ("erf", (1,), {}), ("affine", (2,), {"shift": C(1.5)}),
                             ("mul", (0, 3), {})),
    "another source": spelled(("affine", (0,), {"shift": C(1)}), ("sigmoid", (1,), {}), ("mul", (2, 0), {})),
    "another clip": spelled(("affine", (0,), {"shift": C(3)}), ("clip", (1,), {"lower": C(0), "upper": C(5)}),
                            ("mul", (0, 2), {})),
    "elementwise factors": spelled(("affine", (0,), {"scale": RANDOM.uniform(1, 2, 5)}),
                                   ("sigmoid", (1,), {}), ("mul", (2, 0), {})),
    "log of exp": spelled(("exp", (0,), {}), ("affine", (1,), {"shift": C(2)}), ("log", (2,), {})),
    "another cube": spelled(("pow", (0,), {"exponent": 3.0}), ("affine", (1,), {"scale": C(0.05)}),
                            ("add", (0, 2), {}), ("affine", (3,), ROOT), ("tanh", (4,), {}), ("affine", (5,), ONE),
                            ("mul", (0, 6), {})),
    "another middle": spelled(("affine", (0,), {"shift": C(2)}), ("clip", (1,), {"lower": C(0), "upper": C(6)}),
                              ("mul", (0, 2), {})),
    "relus of two values": spelled(("sin", (0,), {}), ("relu", (0,), {}), ("relu", (1,), {}), ("add", (2, 3), {})),
    "a jump": spelled(("constant", (), {"value": np.full(SHAPE, 0.5)}), ("less", (1, 0), {}), ("mul", (2, 0), {})),
    "a choice that jumps": spelled(("constant", (), {"value": np.zeros(SHAPE)}), ("less", (1, 0), {}),
                                   ("sin", (0,), {}), ("where", (2, 0, 3), {})),
    "the negative part": spelled(("constant", (), {"value": np.zeros(SHAPE)}), ("less", (0, 1), {}),
                                 ("mul", (2, 0), {})),
    "a steep maximum": spelled(("affine", (0,), TWO), ("max", (0, 1), {})),
    "two plus exp": spelled(("exp", (0,), {}), ("affine", (1,), {"shift": C(2)}), ("reciprocal", (2,), {})),
    "a root with a shift": spelled(("pow", (0,), {"exponent": 2.0}), ("affine", (1,), {"shift": C(0.1)}),
                                   ("sqrt", (2,), {})),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_fragments_that_only_look_alike_stay(name):
    nodes = DIFFERENT[name]
    assert sorted(operators(rewritten(nodes))) == sorted(operators(nodes))


# ---------------------------------------------------------------------------------------- whole axes

COLUMN = (1, 1)
REPEAT = {"indices": np.zeros(SHAPE, np.int64)}
TOTAL = {"axes": (1,), "keepdims": True}


def quotient(term: list, above: int, *after: tuple) -> list[Node]:
    """``above / sum of the last term`` over the axis, with more operators on the sum."""
    last = len(term)
    parts = [*term, ("sum", (last,), TOTAL, COLUMN)]
    for operator, attributes in after:
        parts.append((operator, (len(parts),), attributes, COLUMN))
    return spelled(*parts, ("index", (len(parts),), REPEAT), ("div", (above, len(parts) + 1), {}))


SOFTMAX = {
    "plain": quotient([("exp", (0,), {})], 1),
    "less a value": quotient([("sin", (0,), {}), ("index", (1,), REPEAT), ("sub", (0, 2), {}), ("exp", (3,), {})], 4),
}  # fmt: skip


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_written_out(name):
    assert operators(rewritten(SOFTMAX[name])) == ["softmax"]


def test_a_sum_of_something_else_is_no_softmax():
    for nodes in (
        quotient([("exp", (0,), {}), ("sin", (0,), {}), ("exp", (2,), {})], 1),
        quotient([("exp", (0,), {})], 1, ("affine", ONE)),
    ):
        assert "softmax" not in operators(rewritten(nodes))


def test_softmax_keeps_what_is_subtracted_from_single_elements():
    own = {"indices": np.arange(5).reshape(SHAPE)[:, ::-1].copy()}
    nodes = quotient([("index", (0,), own), ("sub", (0, 1), {}), ("exp", (2,), {})], 3)
    assert operators(rewritten(nodes)) == ["index", "sub", "softmax"]


FIFTH = {"scale": np.asarray(1 / 5), "scale_radius": np.asarray(2.0**-54), "shift": C(1e-5)}
MEAN = [("sum", (0,), TOTAL, COLUMN), ("affine", (1,), {"scale": C(0.2)}, COLUMN), ("index", (2,), REPEAT),
        ("sub", (0, 3), {}), ("pow", (4,), {"exponent": 2.0})]  # fmt: skip
NORMS = {
    "layer norm": (quotient(MEAN, 4, ("affine", FIFTH), ("sqrt", {})), 5**0.5),
    "deviation and epsilon": (quotient(MEAN, 4, ("affine", {"scale": C(0.25)}), ("sqrt", {}), ("affine", ONE)), 2.0),
    "length and epsilon": (quotient([("mul", (0, 0), {})], 0, ("sqrt", {}), ("affine", ONE)), 1.0),
    "sum of sizes": (quotient([("abs", (0,), {})], 0, ("affine", {**HALF, **ONE})), 2.0),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_the_image_of_a_norm_is_known(name):
    nodes, most = NORMS[name]
    found = simplify(nodes, [0], [len(nodes) - 1])
    rewritten(nodes)
    division = next(n for n in found[0] if n.operator == "div")
    assert division.attributes["image"] == pytest.approx((-most, most), rel=1e-9)
    box = tuple(torch.full((1, *SHAPE), end, dtype=torch.float64) for end in (0.1, 30.0))
    low, high = boxes(*found, box)
    wide = boxes(*prune(*fuse(nodes, [0], [len(nodes) - 1])), box)
    assert (low >= wide[0] - 1e-12).all() and (high <= wide[1] + 1e-12).all()
    assert (low >= -most * (1 + 1e-9)).all() and (high <= most * (1 + 1e-9)).all()
    x = torch.from_numpy(RANDOM.uniform(0.1, 30, (2000, *SHAPE)))
    y = evaluate(graph(nodes), [x])[0]
    assert (y >= low - 1e-12).all() and (y <= high + 1e-12).all()


def test_a_quotient_by_a_smaller_norm_has_no_image():
    for nodes in (
        quotient(MEAN, 4, ("affine", FIFTH | {"shift": C(-1e-5)}), ("sqrt", {})),
        quotient(MEAN, 0, ("affine", FIFTH), ("sqrt", {})),
        quotient([("abs", (0,), {})], 0, ("affine", {"scale": C(-1)})),
    ):
        found = simplify(nodes, [0], [len(nodes) - 1])[0]
        assert "image" not in next(n for n in found if n.operator == "div").attributes


def test_equal_expressions_become_one():
    for second, expected in ((TWO, ["sin", "add"]), (HALF, ["sin", "sin", "add"])):
        nodes = spelled(("affine", (0,), TWO), ("sin", (1,), {}), ("affine", (0,), second), ("sin", (3,), {}),
                        ("add", (2, 4), {}))  # fmt: skip
        assert operators(rewritten(nodes)) == expected
