"""Networks whose import once gave another function, or too narrow a box: a violation that exists is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from provenn.errors import InputError, ModelError, UnsupportedOperatorError
from provenn.verifier import Options, verify

from .networks import box, property_text

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
ELEMENTS = {np.uint8: TensorProto.UINT8, np.uint32: TensorProto.UINT32, np.uint64: TensorProto.UINT64}


def n(operator: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def decided(
    folder: Path, nodes, constants, bounds, condition: str, outputs: int = 1, element: int = FLOAT
) -> str:
    """The verdict for a network from ``X [1, inputs]`` to ``Y [1, outputs]``."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("X", element, [1, len(bounds)])],
        [helper.make_tensor_value_info("Y", DOUBLE if element == DOUBLE else FLOAT, [1, outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    (folder / "net.onnx").write_bytes(made.SerializeToString())
    text = property_text(len(bounds), outputs, box(bounds), f"(assert {condition})")
    (folder / "net.vnnlib").write_bytes(text)
    return verify(folder / "net.onnx", folder / "net.vnnlib", Options(timeout=10, device="cpu")).verdict


def a(value, element=np.float32) -> np.ndarray:
    return np.asarray(value, element)


UNIT, TWO = [("0", "1")], [("0", "1"), ("0", "1")]


@pytest.mark.parametrize(
    ("last", "condition"),
    [(n("Add", "X q", "Y"), "(>= Y_1 -4.5)"), (n("Mul", "X q", "Y"), "(<= Y_1 -4.5)")],
    ids=["add", "mul"],
)
def test_a_padded_constant_has_no_radius_where_it_is_filled(last, condition, tmp_path) -> None:
    nodes = [n("Div", "a b", "d"), n("Pad", "d p v", "q"), last]
    constants = {"a": a([[1]]), "b": a([[3]]), "p": a([0, 0, 0, 1], np.int64), "v": a(-5)}
    assert decided(tmp_path, nodes, constants, TWO, condition, 2) == "sat"


@pytest.mark.parametrize("element", [np.uint8, np.uint32])
def test_where_of_unsigned_constants(element, tmp_path) -> None:
    nodes = [n("Greater", "X z", "c"), n("Where", "c a b", "w"), n("Cast", "w", "Y", to=FLOAT)]
    constants = {"z": a([[0]]), "a": a([[5]], element), "b": a([[1]], element)}
    assert decided(tmp_path, nodes, constants, [("0.5", "1")], "(<= Y_0 6.0)") == "sat"


@pytest.mark.parametrize("element", [np.uint8, np.uint32, np.uint64])
def test_max_with_unsigned_constants(element, tmp_path) -> None:
    nodes = [n("Cast", "X", "i", to=ELEMENTS[element]), n("Max", "i a", "w"), n("Cast", "w", "Y", to=FLOAT)]
    constants = {"a": a([[1, 2]], element)}
    assert decided(tmp_path, nodes, constants, [("3", "4")] * 2, "(<= Y_0 6.0)", 2) == "sat"


def test_a_constant_subtracted_from_64_bits_without_a_sign(tmp_path) -> None:
    nodes = [n("Cast", "X", "i", to=TensorProto.UINT64), n("Sub", "i a", "w"), n("Cast", "w", "Y", to=FLOAT)]
    constants = {"a": a([[1]], np.uint64)}
    assert decided(tmp_path, nodes, constants, [("3", "4")], "(<= Y_0 2.0)") == "sat"


def test_integers_that_float64_cannot_hold(tmp_path) -> None:
    nodes = [
        n("Cast", "X", "i", to=INT64), n("Add", "i a", "w"), n("Sub", "w b", "v"), n("Cast", "v", "Y", to=FLOAT),
    ]  # fmt: skip
    constants = {"a": a([[2**53 + 1]], np.int64), "b": a([[2**53]], np.int64)}
    bounds = [("3.2", "3.8")]
    assert decided(tmp_path, nodes, constants, bounds, "(>= Y_0 3.5)") != "unsat"


@pytest.mark.parametrize(
    ("operator", "constants", "condition"),
    [
        ("Div", {"a": a([[-128]], np.int8), "b": a([[3]], np.int8)}, "(<= Y_0 0.0)"),
        ("Div", {"a": a([[-(2**63)]], np.int64), "b": a([[2**62]], np.int64)}, "(<= Y_0 -1.0)"),
        ("Div", {"a": a([[-7]], np.int64), "b": a([[2]], np.int64)}, "(>= Y_0 -3.0)"),
        ("CumSum", {"a": a([[2000000000] * 2], np.int32), "b": a(1, np.int64)}, "(<= Y_1 0.0)"),
    ],
    ids=str,
)
def test_integers_folded(operator, constants, condition, tmp_path) -> None:
    nodes = [n(operator, "a b", "d"), n("Cast", "d", "f", to=FLOAT), n("Add", "X f", "Y")]
    outputs = constants["a"].size
    assert decided(tmp_path, nodes, constants, UNIT, condition, outputs) == "sat"


def test_an_identity_of_integers(tmp_path) -> None:
    nodes = [
        n("EyeLike", "X", "e", dtype=INT64), n("Div", "e two", "d"), n("Cast", "d", "f", to=FLOAT),
        n("Add", "X f", "Y"),
    ]  # fmt: skip
    assert decided(tmp_path, nodes, {"two": a(2, np.int64)}, UNIT, "(<= Y_0 0.2)") == "sat"


@pytest.mark.parametrize("limit", [1e39, float(np.finfo(np.float32).max)])
def test_limits_as_large_as_a_float32(limit: float, tmp_path) -> None:
    nodes = [n("Mul", "X a", "s"), n("Clip", "s lo hi", "c"), n("Mul", "c b", "Y")]
    constants = {
        "a": a(1e41, np.float64), "b": a(1 / limit, np.float64), "lo": a(-limit, np.float64),
        "hi": a(limit, np.float64),
    }  # fmt: skip
    bounds = [("-1", "-0.5")]
    assert decided(tmp_path, nodes, constants, bounds, "(>= Y_0 -2.0)", element=DOUBLE) == "sat"


@pytest.mark.parametrize(("biases", "condition"), [((40, 41), "(>= Y_0 2.9)"), ((41, 40), "(<= Y_0 3.1)")])
def test_neurons_that_differ_in_a_bias_too_large_to_compare(biases, condition, tmp_path) -> None:
    nodes = [n("MatMul", "X w", "p"), n("Add", "p b", "c"), n("Relu", "c", "d"), n("MatMul", "d v", "Y")]
    constants = {
        "w": a([[2.0**-1000] * 2], np.float64), "b": a([[2.0**k for k in biases]], np.float64),
        "v": a([[2.0**-40]] * 2, np.float64),
    }  # fmt: skip
    assert decided(tmp_path, nodes, constants, [("-1", "1")], condition, element=DOUBLE) == "sat"


def test_cast_like(tmp_path) -> None:
    nodes = [n("CastLike", "X k", "i"), n("Cast", "i", "Y", to=FLOAT)]
    constants = {"k": a(1, np.int64)}
    assert decided(tmp_path, nodes, constants, [("3.2", "3.8")], "(<= Y_0 3.1)") == "sat"


REFUSED = [
    ("ReduceMean", {}, {"axes": [1]}), ("ReduceL2", {}, {"axes": [1]}), ("ReduceLogSum", {}, {"axes": [1]}),
    ("ReduceLogSumExp", {}, {"axes": [1]}), ("Pow", {"e": a(0.5)}, {}), ("Pow", {"e": a(-1)}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "constants", "attributes"), REFUSED, ids=str)
def test_integers_that_a_runtime_cuts_off_are_refused(operator, constants, attributes, tmp_path) -> None:
    nodes = [
        n("Cast", "X", "i", to=INT64), n(operator, " ".join(["i", *constants]), "w", **attributes),
        n("Cast", "w", "Y", to=FLOAT),
    ]  # fmt: skip
    with pytest.raises(UnsupportedOperatorError, match="integer"):
        decided(tmp_path, nodes, constants, TWO, "(<= Y_0 1.0)")


def test_a_celu_that_is_not_monotone_is_refused(tmp_path) -> None:
    with pytest.raises(UnsupportedOperatorError, match="alpha"):
        decided(tmp_path, [n("Celu", "X", "Y", alpha=-1.0)], {}, UNIT, "(<= Y_0 1.0)")


def test_a_network_of_integer_inputs_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="int64"):
        decided(
            tmp_path, [n("Cast", "X", "Y", to=FLOAT)], {}, [("0.4", "0.6")], "(<= Y_0 0.3)", element=INT64
        )


def lost(shape: tuple[int, ...]) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The constant ``d``: 5 in real numbers, 0 with a radius in float64."""
    nodes = [n("Add", "five big", "s"), n("Sub", "s big", "d")]
    return nodes, {"five": np.full(shape, 5.0), "big": a(1e20, np.float64)}


def test_where_keeps_radii_in_their_places(tmp_path) -> None:
    nodes, constants = lost((1, 1))
    nodes += [n("Where", "m x d", "w"), n("Reshape", "w sh", "v"), n("Mul", "X v", "Y")]
    constants |= {
        "m": np.array([[True], [False]]),
        "x": a([[1, 2], [3, 4]], np.float64),
        "sh": a([1, 4], np.int64),
    }
    bounds = [("0.5", "1")] * 4
    assert decided(tmp_path, nodes, constants, bounds, "(>= Y_2 4.0)", 4, DOUBLE) != "unsat"


def test_a_quotient_of_what_may_be_zero(tmp_path) -> None:
    nodes, constants = lost((1, 1))
    nodes += [n("Add", "d one", "e"), n("Div", "d e", "q"), n("Mul", "X q", "Y")]
    constants |= {"one": a([[1]], np.float64)}
    try:
        assert decided(tmp_path, nodes, constants, UNIT, "(>= Y_0 0.8)", element=DOUBLE) != "unsat"
    except ModelError as error:
        assert "infinity" in str(error)


@pytest.mark.parametrize(
    "chain",
    [
        [n("MatMul", "X a", "p"), n("MatMul", "p a", "q"), n("MatMul", "q c", "Y")],
        [n("MatMul", "X a", "p"), n("MatMul", "p a", "q"), n("Relu", "q", "r"), n("MatMul", "r c", "Y")],
        [n("Mul", "X a", "p"), n("Mul", "p a", "q"), n("Mul", "q c", "Y")],
    ],
    ids=["matrices", "relu", "factors"],
)
def test_products_of_weights_that_are_no_numbers(chain, tmp_path) -> None:
    constants = {"a": a([[2.0**-600]], np.float64), "c": a([[2.0**600]], np.float64)}
    ends = [(format(2.0**600, ".1f"), format(2.0**601, ".1f"))]
    assert decided(tmp_path, chain, constants, ends, "(>= Y_0 0.5)", element=DOUBLE) != "unsat"


@pytest.mark.parametrize("activation", ["Abs", "LeakyRelu"])
def test_coefficients_that_are_no_numbers(activation, tmp_path) -> None:
    weights = [2.0**600, 2.0**600, 2.0**-600, 2.0**-600]
    nodes, value = [], "X"
    for i in range(4):
        nodes.append(n("MatMul", f"{value} w{i}", f"z{i}" if i < 3 else "Y"))
        if i < 3:
            nodes.append(n(activation, f"z{i}", f"a{i}"))
            value = f"a{i}"
    constants = {f"w{i}": a([[w]], np.float64) for i, w in enumerate(weights)}
    ends = [("2e-181", "3e-181")]
    assert decided(tmp_path, nodes, constants, ends, "(>= Y_0 1e-181)", element=DOUBLE) != "unsat"


@pytest.mark.parametrize(
    ("operator", "constants", "attributes"),
    [
        ("MatMul", {"a": a([[65536]], np.int32), "b": a([[65536]], np.int32)}, {}),
        ("ReduceSumSquare", {"a": a([[2**27 + 1]], np.int64)}, {}),
        ("ArgMax", {"a": a([[2**54, 2**54 + 1]], np.int64)}, {"axis": 1}),
        ("Range", {"a": a(16777216), "b": a(16777226), "c": a(1)}, {}),
    ],
    ids=["product", "squares", "largest", "range"],
)
def test_constants_beyond_what_is_exact_are_refused(operator, constants, attributes, tmp_path) -> None:
    nodes = [n(operator, " ".join(constants), "w", **attributes), n("Cast", "w", "f", to=FLOAT)]
    nodes += [n("ReduceSum", "f", "g", keepdims=0), n("Add", "X g", "Y")]
    with pytest.raises(UnsupportedOperatorError, match="integers"):
        decided(tmp_path, nodes, constants, UNIT, "(<= Y_0 1.0)")


def test_inexact_slopes_and_classes_are_refused(tmp_path) -> None:
    nodes, constants = lost((1, 1))
    with pytest.raises(UnsupportedOperatorError, match="slope"):
        decided(tmp_path, [*nodes, n("PRelu", "X d", "Y")], constants, UNIT, "(<= Y_0 -2.0)", element=DOUBLE)
