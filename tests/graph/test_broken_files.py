"""Files that are no networks, or no networks that can be imported: one clear ModelError each."""

from __future__ import annotations

import gzip
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from provenn.bounds.graph import describe, read_onnx, symbolic_note
from provenn.bounds.graph._onnx import HANDLERS
from provenn.bounds.graph._unsupported import _INSTEAD
from provenn.errors import ModelError, UnsupportedOperatorError


def network(nodes=None, weight=None, shape=(1, 3), opset=13, outputs=("y",), **more) -> onnx.ModelProto:
    weight = np.ones((3, 2), np.float32) if weight is None else weight
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="first")] if nodes is None else nodes
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", [])]
    return helper.make_model(graph, opset_imports=opsets, **more)


@pytest.fixture
def read(tmp_path):
    def act(content: bytes | onnx.ModelProto, name: str = "network.onnx"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return read_onnx(path)

    return act


def refuse(read, content, *words, kind=ModelError):
    with pytest.raises(kind) as caught:
        read(content)
    text = str(caught.value)
    assert "network.onnx" in text and "\n" not in text
    for word in words:
        assert word in text
    assert caught.type is kind


def test_reads_plain_and_gzipped_files_by_content(read):
    content = network().SerializeToString()
    assert read(content).nodes[-1].shape == (1, 2)
    assert read(gzip.compress(content), "named.onnx").nodes[-1].shape == (1, 2)
    assert read(content, "named.onnx.gz").nodes[-1].shape == (1, 2)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        read_onnx(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="is a directory"):
        read_onnx(tmp_path)


def test_no_network_at_all(read):
    refuse(read, b"", "empty")
    refuse(
        read, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-LFS", "git lfs pull"
    )
    refuse(read, gzip.compress(b"version https://git-lfs.github.com/spec/v1\n"), "git-LFS")
    refuse(read, b"this is not a network, it is a sentence", "not")
    refuse(read, gzip.compress(network().SerializeToString())[:-20], "gzip")
    refuse(read, gzip.compress(b""), "empty")
    refuse(read, onnx.ModelProto(), "empty")


def test_truncated_at_every_length(read):
    content = network().SerializeToString()
    for length in range(len(content)):
        with pytest.raises(ModelError):
            read(content[:length])


def test_damaged_at_random(read):
    """Whatever a flipped byte does, the file is read or refused with one line."""
    conv = helper.make_node("Conv", ["i", "k"], ["c"], name="second", strides=[2, 1], pads=[1, 0, 1, 0])
    nodes = [
        helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array([1, 1, 3, 4]))),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones((2, 1, 2, 2), np.float32))),
        helper.make_node("Reshape", ["x", "s"], ["i"]), conv,
        helper.make_node("ReduceMean", ["c"], ["y"], axes=[2, 3], keepdims=0),
    ]  # fmt: skip
    content = network(nodes, shape=(1, 12)).SerializeToString()
    assert read(content).nodes[-1].shape == (1, 2)
    random = np.random.default_rng(1)
    for _ in range(400):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] ^= 1 << random.integers(8)
        try:
            read(bytes(damaged))
        except ModelError as error:
            assert "network.onnx" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(read, bad):
    weight = np.ones((3, 2), np.float32)
    weight[1, 1] = bad
    refuse(read, network(weight=weight), "'w'", "NaN or infinity", f"({bad} at [1, 1], read by MatMul (node first))")
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weight))
    refuse(
        read,
        network([constant, helper.make_node("MatMul", ["x", "c"], ["y"], name="first")]),
        "NaN or infinity",
    )


def test_shapes_must_fit(read):
    refuse(read, network(weight=np.ones((4, 2), np.float32)), "MatMul (node first)", "[1, 3]", "[4, 2]")
    add = helper.make_node("Add", ["x", "w"], ["y"], name="sum")
    refuse(read, network([add], weight=np.ones((4,), np.float32)), "Add (node sum)")
    for attributes, words in (({}, "[1, 3] and [4, 2]"), ({"transB": 1}, "[1, 3] and [2, 4]")):
        gemm = helper.make_node("Gemm", ["x", "w"], ["y"], name="dense", **attributes)
        made = network([gemm], weight=np.ones((4, 2), np.float32))
        refuse(read, made, "Gemm (node dense)", f"{words} (after transA and transB)", "mend the shape of the weight")
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], name="dense")
    refuse(read, network([gemm], shape=(1, 2, 3)), "Gemm (node dense)", "expected matrices; flatten")
    reshape = helper.make_node("Reshape", ["x", "s"], ["y"], name="fold")
    made = network([reshape])
    made.graph.initializer.append(numpy_helper.from_array(np.array([2, 2]), "s"))
    refuse(read, made, "Reshape (node fold)")


def test_raw_data_must_fill_the_shape(read):
    made = network()
    made.graph.initializer[0].dims[0] = 30
    refuse(read, made, "'w'", "bytes")
    made.graph.initializer[0].dims[0] = -1
    refuse(read, made, "'w'", "negative")


def test_tensors_must_be_defined_once_and_without_cycles(read):
    refuse(
        read,
        network([helper.make_node("Relu", ["nowhere"], ["y"], name="first")]),
        "Relu (node first)",
        "'nowhere', which nothing computes",
        "no stored weight",
        "export the network again",
    )
    refuse(read, network(outputs=("z",)), "'z'", "export the network again")
    loop = [helper.make_node("Add", ["x", "b"], ["a"], name="p"), helper.make_node("Relu", ["a"], ["b"], name="q"),
            helper.make_node("Relu", ["b"], ["y"], name="r")]  # fmt: skip
    refuse(read, network(loop), "cycle", "export the network again")
    twice = [
        helper.make_node("Relu", ["x"], ["y"], name="p"),
        helper.make_node("Abs", ["x"], ["y"], name="q"),
    ]
    refuse(read, network(twice), "twice", "'y'", "export the network again")


def test_nodes_in_any_order(read):
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("MatMul", ["x", "w"], ["a"])]
    assert [node.operator for node in read(network(nodes)).nodes] == ["input", "linear", "relu"]


def test_operator_sets(read):
    refuse(read, network(opset=6), "operator set 6", "version_converter")
    refuse(read, network(opset=22), "operator set 22", "re-export it with opset <= 21")
    made = network()
    del made.opset_import[:]
    refuse(read, made, "operator set")
    twice = network(opsets=[helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 2)])
    assert read(twice).metadata["opset"] == 13


def test_unsupported_operators_are_named(read):
    kind = UnsupportedOperatorError
    refuse(
        read,
        network([helper.make_node("Foo", ["x"], ["y"], name="bar")]),
        "unsupported operator Foo (node bar)",
        kind=kind,
    )
    refuse(
        read,
        network([helper.make_node("Relu", ["x"], ["y"], name="bar", domain="my.ops")]),
        "my.ops",
        kind=kind,
    )
    refuse(
        read,
        network([helper.make_node("QLinearMatMul", ["x"] * 8, ["y"], name="bar")]),
        "floating point",
        kind=kind,
    )
    body = helper.make_graph([], "body", [], [])
    for name, attributes in (("Loop", {"body": body}), ("If", {"then_branch": body, "else_branch": body})):
        refuse(
            read,
            network([helper.make_node(name, ["x"], ["y"], name="bar", **attributes)]),
            name,
            "unrolled",
            kind=kind,
        )


# What is left out, with a word of what the message says about it.
LEFT_OUT = {
    "NonZero": "ReduceMax", "GridSample": "Resize", "Scan": "unrolled", "Det": "Mul", "Bernoulli": "random",
    "RMSNormalization": "ReduceMean", "Attention": "Softmax", "DFT": "MatMul", "STFT": "MatMul", "Asin": "Atan",
    "Acos": "Atan", "CumProd": "CumSum", "Col2Im": "ConvTranspose", "RoiAlign": "Resize", "MaxUnpool": "ConvTranspose",
    "NonMaxSuppression": "scores", "Unique": "ArgMax", "IsNaN": "real", "BitShift": "Mul", "RandomNormal": "random",
    "SequenceConstruct": "Concat", "QuantizeLinear": "floating point", "ConvInteger": "floating point",
    "StringConcat": "text", "RotaryEmbedding": "Slice", "TensorScatter": "ScatterND", "HannWindow": "constant",
    "SoftmaxCrossEntropyLoss": "LogSoftmax", "Relu6": "Relu", "BatchNorm": "without it",
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_operators_that_are_left_out_come_with_advice(read, name):
    node = helper.make_node(name, ["x"], ["y"], name="bar")
    refuse(read, network([node]), f"{name} (node bar)", LEFT_OUT[name], kind=UnsupportedOperatorError)


def test_advice_names_supported_operators_only():
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    for name, advice in _INSTEAD.items():
        assert name in known and name not in HANDLERS
        named = set(re.findall(r"[A-Za-z0-9]+", advice)) & known
        assert named <= set(HANDLERS) | {"If", "Loop", "Scan"}, name


def test_every_operator_of_the_standard_is_imported_or_refused_by_name(read):
    for schema in onnx.defs.get_all_schemas():
        if schema.domain == "" and schema.name not in HANDLERS:
            node = helper.make_node(schema.name, ["x"], ["y"], name="bar")
            refuse(read, network([node]), schema.name, "node bar", kind=UnsupportedOperatorError)


def test_nodes_that_no_output_needs_are_not_looked_at(read):
    nodes = [helper.make_node("Foo", ["x"], ["z"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    assert len(read(network(nodes)).nodes) == 2


@pytest.mark.parametrize("shape", [(None, 3), ("batch", 3), (0, 3), (-1, 3)])
def test_unknown_dimensions_are_one(read, shape):
    made = network(shape=[None if s in (0, -1) else s for s in shape])
    if shape[0] in (0, -1):
        made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = shape[0]
    assert read(made).nodes[0].shape == (1, 3)


def test_symbolic_dimensions_are_told(read):
    """A leading one is the batch, of which nobody needs to hear."""
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    for shape, names in (
        (("N", 3), ()),
        (("N", "M"), ("dimension 'M'",)),
        (("N", None, "M"), ("dimension 1", "'M'")),
        (("N",), ("'N'",)),
        ((1, 3), ()),
    ):
        graph = read(network(relu, shape=shape))
        note = symbolic_note(graph.metadata["symbolic"])
        assert bool(note) == bool(names) and all(f"{name} of input 'x'" in note for name in names)
        assert "'N'" in names or "'N'" not in note
        assert ("taken as 1" in describe(graph)) == bool(names)
    refuse(read, network(shape=("N", "M")), "MatMul (node first)", "dimension 'M' of input 'x' is symbolic")


def test_an_axis_is_never_added(read):
    assert [node.shape for node in read(network(shape=(3,))).nodes] == [(3,), (2,)]


def test_input_without_shape(read):
    made = network()
    made.graph.input[0].type.tensor_type.ClearField("shape")
    refuse(read, made, "input 'x'", "shape")


def test_half_precision_input(read):
    made = network()
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    refuse(read, made, "'x'", "half precision")


def test_initialisers_listed_as_inputs(read):
    made = network()
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (3, 2)))
    assert len(read(made).inputs) == 1


def test_an_output_may_be_constant_or_the_input(read):
    graph = read(network([], outputs=("x", "w")))
    assert [graph.nodes[i].operator for i in graph.outputs] == ["input", "constant"]


# ---------------------------------------------------------------------------------------- external data


def external(location: str, count: int = 6, offset: int = 0) -> onnx.ModelProto:
    made = network()
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", 4 * count)):
        weight.external_data.add(key=key, value=str(value))
    return made


def test_external_data_beside_the_file(read, tmp_path):
    weights = np.arange(8, dtype=np.float32)
    weights.tofile(tmp_path / "weights.bin")
    found = read(external("weights.bin", offset=8)).nodes[-1].attributes["weight"]
    np.testing.assert_array_equal(found, weights[2:].reshape(3, 2))
    refuse(read, external("weights.bin", offset=16), "weights.bin", "'w'")
    refuse(read, external("absent.bin"), "absent.bin")


def test_external_data_never_leaves_the_folder(read, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    secret = tmp_path / "secret.bin"
    np.zeros(6, np.float32).tofile(secret)
    (inner / "link.bin").symlink_to(secret)
    for location in ("../secret.bin", str(secret), "sub/../../secret.bin", "link.bin", ""):
        path = inner / "network.onnx"
        path.write_bytes(external(location).SerializeToString())
        with pytest.raises(ModelError, match="leaves the network's folder"):
            read_onnx(path)
