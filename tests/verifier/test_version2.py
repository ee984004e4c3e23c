"""Properties in VNN-LIB 2 from file to verdict: several networks and inputs, relations, products, hidden tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from provenn.errors import InputError, ModelError, PropertyError
from provenn.specs import read_query
from provenn.verifier import Options, Result, verify

from .networks import layers

OPTIONS = Options(timeout=20.0, threads=1)
# f(x) = relu(x0 + x1) - relu(x0 - x1): rises with x1; in x0 it rises by at most 1 and falls by at most 1.
WEIGHTS = [np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[1.0], [-1.0]])]
BIASES = [np.zeros(2), np.zeros(1)]
TWO = """(vnnlib-version <2.0>)
(declare-network f (declare-input U float32 [1,2]) (declare-output P float32 [1,1]))
(declare-network g (RELATION f) (declare-input V float32 [1,2]) (declare-output Q float32 [1,1]))
(assert (and (>= U[0,0] -1.0) (<= U[0,0] 1.0) (>= U[0,1] -1.0) (<= U[0,1] 1.0)))
(assert (and (>= V[0,0] -1.0) (<= V[0,0] 1.0) (>= V[0,1] -1.0) (<= V[0,1] 1.0)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("version2")


@pytest.fixture(scope="module")
def network(folder: Path) -> Path:
    return layers(folder / "f.onnx", "Relu", WEIGHTS, BIASES)


def decide(folder: Path, networks, text: str, *assertions: str) -> Result:
    """Verify; a witness is judged again by the query as read from its file."""
    path = folder / "property.vnnlib"
    path.write_text(text + "\n".join(f"(assert {assertion})" for assertion in assertions))
    result = verify(networks, path, OPTIONS)
    if result.witness is not None:
        assert read_query(path).violated(result.witness.inputs, result.witness.outputs)
    return result


def two(folder: Path, network: Path, *assertions: str) -> Result:
    """About two copies of f."""
    return decide(folder, network, TWO.replace("RELATION", "equal-to"), *assertions)


SAME_0, SAME_1 = "(== V[0,0] U[0,0])", "(== V[0,1] U[0,1])"
NEAR = [f"(and (<= (- V[0,{i}] U[0,{i}]) 0.05) (<= (- U[0,{i}] V[0,{i}]) 0.05))" for i in (0, 1)]
LESS, MORE = "(<= Q[0,0] P[0,0])", "(>= Q[0,0] P[0,0])"


@pytest.mark.parametrize(
    "assertions, verdict",
    [
        ([SAME_0, "(>= V[0,1] (+ U[0,1] 0.25))", "(<= Q[0,0] (- P[0,0] 0.001))"], "unsat"),
        ([SAME_0, "(>= V[0,1] U[0,1])", "(< Q[0,0] (- P[0,0] 0.001))"], "unsat"),
        ([SAME_1, "(>= V[0,0] (+ U[0,0] 0.25))", "(< Q[0,0] P[0,0])"], "sat"),
        # the two differ by 0.25 in input 0: by at most 0.25 in the output
        ([SAME_1, "(== V[0,0] (+ U[0,0] 0.25))", "(> Q[0,0] (+ P[0,0] 0.251))"], "unsat"),
        ([SAME_1, "(== V[0,0] (+ U[0,0] 0.25))", "(> Q[0,0] (+ P[0,0] 0.249))"], "sat"),
        # 2 V = U + 0.5: an end of V's own box is a constraint on U
        ([SAME_1, "(== (* 2.0 V[0,0]) (+ U[0,0] 0.5))", "(> U[0,0] 0.51)", "(<= V[0,0] 0.5)"], "unsat"),
        ([SAME_1, "(== (* 2.0 V[0,0]) (+ U[0,0] 0.5))", "(<= V[0,0] -0.25)", "(<= U[0,0] -0.9)"], "sat"),
        ([SAME_0, SAME_1, "(> Q[0,0] (+ P[0,0] 0.001))"], "unsat"),
        ([SAME_0, SAME_1, "(<= V[0,0] -0.5)", "(>= U[0,0] 0.5)"], "unsat"),
        # never far apart: the search sees a difference in the place of an input
        ([*NEAR, "(> Q[0,0] (+ P[0,0] 0.19))"], "unsat"),
        ([*NEAR, "(> Q[0,0] (+ P[0,0] 0.099))"], "sat"),
        ([*NEAR, "(> V[0,0] (+ U[0,0] 0.051))"], "unsat"),
        # a disc and a line that does not meet it, then one that does
        (["(<= (+ (* U[0,0] U[0,0]) (* U[0,1] U[0,1])) 0.5)", "(>= (+ U[0,0] U[0,1]) 1.01)"], "unsat"),
        (["(<= (+ (* U[0,0] U[0,0]) (* U[0,1] U[0,1])) 0.5)", "(>= (+ U[0,0] U[0,1]) 0.99)"], "sat"),
        # products of outputs and inputs
        (["(>= (* P[0,0] P[0,0] U[0,1]) 4.01)"], "unsat"),
        (["(>= (* P[0,0] P[0,0] U[0,1]) 3.5)"], "sat"),
        (["(or (and (<= V[0,0] -0.5) (>= P[0,0] 2.1)) (and (>= V[0,0] 0.5) (>= Q[0,0] 2.1)))"], "unsat"),
        (["(or (and (<= V[0,0] -0.5) (>= P[0,0] 2.1)) (and (>= V[0,0] 0.5) (>= Q[0,0] 1.5)))"], "sat"),
    ],
)  # fmt: skip
def test_two_copies(folder, network, assertions, verdict):
    assert two(folder, network, *assertions).verdict == verdict


def test_another_network_of_the_same_graph(folder, network):
    other = layers(folder / "g.onnx", "Relu", [WEIGHTS[0] * 1.01, WEIGHTS[1]], BIASES)
    files, text = {"f": network, "g": other}, TWO.replace("RELATION", "isomorphic-to")
    same = [SAME_0, SAME_1]
    assert decide(folder, files, text, *same, "(> Q[0,0] (+ P[0,0] 0.021))").verdict == "unsat"
    found = decide(folder, files, text, *same, "(> Q[0,0] (+ P[0,0] 0.019))")
    assert found.verdict == "sat" and found.composition is not None
    assert [network.name for network in found.composition.networks] == ["f", "g"]


def several(path: Path) -> Path:
    """``Y = relu(A) - B`` and ``Z = [sum of Y]``, of inputs A ``[1, 2]`` and B ``[1]``; the ReLU is ``H``."""
    nodes = [
        helper.make_node("Relu", ["A"], ["H"]),
        helper.make_node("Sub", ["H", "B"], ["Y"]),
        helper.make_node("ReduceSum", ["Y", "axes"], ["Z"], keepdims=0),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "several",
        [tensor("A", TensorProto.FLOAT, [1, 2]), tensor("B", TensorProto.FLOAT, [1])],
        [tensor("Y", TensorProto.FLOAT, [1, 2]), tensor("Z", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array([0, 1]), "axes")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


SEVERAL = """(vnnlib-version <2.0>)
(declare-network m (declare-input A float32 [1,2]) (declare-input B float32 [1])
  (declare-hidden H float32 [1,2] "H") (declare-output Y float32 [1,2]) (declare-output Z float32 []))
(assert (and (>= A[0,0] -1.0) (<= A[0,0] 1.0) (>= A[0,1] -1.0) (<= A[0,1] 1.0) (>= B[0] 0.0) (<= B[0] 0.5)))
"""


@pytest.mark.parametrize(
    "assertions, verdict",
    [
        (["(> Z 2.001)"], "unsat"),
        (["(> Z 1.5)", "(< B[0] 0.125)"], "sat"),
        (["(<= H[0,0] 0.0)", "(> Y[0,0] 0.001)"], "unsat"),
        (["(<= H[0,0] 0.0)", "(> Z 0.75)"], "sat"),
        (["(< H[0,1] -0.001)"], "unsat"),
        (["(> (* H[0,0] H[0,1] B[0]) 0.501)"], "unsat"),
        (["(> (- (* H[0,0] H[0,1]) B[0]) 0.9)"], "sat"),
    ],
)
def test_several_inputs_outputs_and_a_hidden_tensor(folder, assertions, verdict):
    result = decide(folder, several(folder / "m.onnx"), SEVERAL, *assertions)
    assert result.verdict == verdict
    if result.witness is not None:  # hidden tensors come first
        a, b = result.witness.inputs[:2], result.witness.inputs[2]
        h, y, z = np.split(result.witness.outputs, [2, 4])
        np.testing.assert_array_equal(h, np.maximum(a, 0))
        np.testing.assert_array_equal(y, h - b)
        np.testing.assert_allclose(z, [y.sum()], rtol=1e-6)


def test_real_numbers_take_the_type_of_the_network(folder):
    path = layers(folder / "d.onnx", "Relu", WEIGHTS, BIASES)
    model = onnx.load(path)
    for array in model.graph.initializer:
        array.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(array).astype(np.float64), array.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(model, path)
    text = TWO.split("(declare-network g")[0].replace("float32", "real")
    box = "(and (>= U[0,0] 0.1) (<= U[0,0] 0.1) (>= U[0,1] 0.0) (<= U[0,1] 0.3))"
    result = decide_real(folder, path, text, box, "(>= P[0,0] 0.19)")
    assert result.verdict == "sat" and result.witness is not None and result.witness.inputs.dtype == np.float64
    assert decide_real(folder, path, text, box, "(>= P[0,0] 0.41)").verdict == "unsat"


def decide_real(folder: Path, network: Path, text: str, *assertions: str) -> Result:
    path = folder / "property.vnnlib"
    path.write_text(text + "\n".join(f"(assert {assertion})" for assertion in assertions))
    return verify(network, path, OPTIONS)


@pytest.mark.parametrize(
    "networks, message",
    [
        ("f.onnx", "the property declares 2 networks of their own (f, g), got one file; give each its file"),
        ({"f": "f.onnx"}, "network 'g' has no file; add --network g=FILE.onnx"),
        ({"f": "f.onnx", "g": "f.onnx", "h": "f.onnx"}, "the property declares no network 'h', it declares f, g"),
        ({"f": "f.onnx", "g": "s.onnx"}, "s.onnx: is not isomorphic to"),
        ({"f": "f.onnx", "g": "none.onnx"}, "none.onnx: no such file"),
        ({"f": "f.onnx", "g": "m.onnx"}, "m.onnx: has 2 inputs ('A', 'B'), the property declares 1 (V)"),
        ("[('f', 'f.onnx'), ('f', 'f.onnx')]", "network 'f' is given 2 files; name it once"),
        ("[('f', 'f.onnx', 1)]", "are no list; expected [('name', 'file.onnx'), ..]"),
    ],
)
def test_networks_that_do_not_fit_are_refused(folder, network, networks, message, monkeypatch):
    layers(folder / "s.onnx", "Sigmoid", WEIGHTS, BIASES)
    several(folder / "m.onnx")
    monkeypatch.chdir(folder)
    with pytest.raises((InputError, ModelError)) as error:
        decide(folder, networks, TWO.replace("RELATION", "isomorphic-to"), LESS)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_copy_has_no_file_of_its_own_or_the_same(folder, network):
    other = layers(folder / "g.onnx", "Relu", [WEIGHTS[0] * 1.01, WEIGHTS[1]], BIASES)
    text = TWO.replace("RELATION", "equal-to")
    assert decide(folder, {"f": network, "g": network}, text, LESS).verdict == "sat"
    with pytest.raises(InputError, match=r"network 'g' is equal-to 'f', but .* is not"):
        decide(folder, {"f": network, "g": other}, text, LESS)


def test_copies_with_weights_beside_them_are_the_same_in_one_folder_only(folder, network):
    paths = []
    for name in ("here", "there"):
        (folder / name).mkdir()
        paths.append(folder / name / "f.onnx")
        onnx.save(onnx.load(network), paths[-1], save_as_external_data=True, size_threshold=0, location="f.data")
    text = TWO.replace("RELATION", "equal-to")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(InputError, match="is equal-to"):
        decide(folder, {"f": paths[0], "g": paths[1]}, text, LESS)


def test_equalities_that_leave_no_input_free_are_named(folder, network):
    ties = [f"(== {name}[0,{k}] 0.5)" for name in "UV" for k in (0, 1)]
    sums = ["(== (+ U[0,0] U[0,1]) 1.0)", "(== (- U[0,0] U[0,1]) 0.5)", "(== V[0,0] U[0,0])", "(== V[0,1] U[0,1])"]
    with pytest.raises(PropertyError, match="determine every input"):
        decide(folder, network, TWO.replace("RELATION", "equal-to"), *sums, LESS)
    assert decide(folder, network, TWO.replace("RELATION", "equal-to"), *ties, LESS).verdict == "sat"
