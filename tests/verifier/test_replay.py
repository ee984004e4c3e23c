"""Replay: only what onnxruntime computes, inside the rounded box, with tolerance zero, is a witness."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from provenn.errors import InputError, ModelError
from provenn.specs import parse_query
from provenn.verifier.replay import Replay

from .networks import affine, box, property_text, save

SUM = [[1.0], [1.0]]


def query(bounds: list[tuple[str, str]], *parts: str, element: str = "float32"):
    return parse_query(property_text(len(bounds), 1, box(bounds), *parts), element_type=element)


def replay(
    folder: Path, bounds: list[tuple[str, str]], *parts: str, name: str = "sum.onnx", **kinds
) -> Replay:
    path = affine(folder / name, np.ones((len(bounds), 1)), [0.0], **kinds)
    return Replay(path, query(bounds, *parts, element=kinds.get("element", "float32")))


def test_a_violating_input_is_a_witness_with_the_outputs_of_onnxruntime(tmp_path):
    r = replay(tmp_path, [("0", "1"), ("0", "1")], "(assert (>= Y_0 1.5))")
    assert r.calls == 0 and r._sessions is None  # opened when first needed
    witness = r.check(np.array([0.75, 0.75]))
    assert witness is not None and r.calls == 1
    assert witness.inputs.dtype == np.float32 and witness.inputs.tolist() == [0.75, 0.75]
    assert witness.outputs.tolist() == [1.5]  # equal to the threshold: violated, with tolerance zero


@pytest.mark.parametrize("x", [[0.5, 0.5], [1.25, 0.75], [np.nan, 1.0], [np.inf, 0.0], [1.0]])
def test_other_inputs_are_no_witness(tmp_path, x):
    r = replay(tmp_path, [("0", "1"), ("0", "1")], "(assert (>= Y_0 1.5))")
    assert r.check(np.array(x)) is None


def test_nothing_is_moved_unless_a_clause_is_named(tmp_path):
    r = replay(tmp_path, [("0", "1"), ("0", "1")], "(assert (>= Y_0 1.5))")
    assert r.check(np.array([1.0 + 1e-6, 0.75])) is None
    witness = r.check(np.array([1.0 + 1e-6, 0.75]), clause=0)
    assert witness is not None and witness.inputs.tolist() == [1.0, 0.75]


def test_the_box_of_a_witness_has_its_literals_rounded_to_nearest(tmp_path):
    # 0.1 is no float32 number: the nearest one exceeds it, and the exact box [0.1, 0.1] holds none at all
    r = replay(tmp_path, [("0.1", "0.1")], "(assert (>= Y_0 0.1))")
    witness = r.check(np.array([0.1]))
    assert witness is not None and witness.inputs[0] == np.float32(0.1)
    assert r.check(np.array([np.nextafter(np.float32(0.1), np.float32(1))])) is None
    assert r.check(np.array([0.0]), clause=0) is not None


def test_float64_networks_are_given_float64(tmp_path):
    r = replay(tmp_path, [("0", "1")], "(assert (>= Y_0 0.1))", element="float64")
    witness = r.check(np.array([0.1]))
    assert witness is not None and witness.inputs.dtype == np.float64
    assert r.check(np.array([np.nextafter(0.1, 0.0)])) is None


def test_gzip_and_a_symbolic_leading_dimension(tmp_path):
    r = replay(tmp_path, [("0", "1")], "(assert (>= Y_0 0.5))", name="sum.onnx.gz", leading="batch")
    assert r.check(np.array([0.5])) is not None


def test_each_clause_has_its_own_box(tmp_path):
    either = """(assert (or (and (<= X_0 0.25) (>= Y_0 0.25)) (and (>= X_0 0.75) (>= Y_0 1.0))))"""
    r = replay(tmp_path, [("0", "1")], either)
    assert r.check(np.array([0.5])) is None
    points = np.array([[0.5], [0.5]])
    assert r.check_many(points, clause=np.array([1, 0])).inputs.tolist() == [0.25]


def test_the_best_candidates_are_replayed_first_and_no_more_than_the_limit(tmp_path):
    r = replay(tmp_path, [("0", "1")], "(assert (>= Y_0 0.5))")
    x, margin = np.array([[0.1], [0.9], [0.2], [0.6]]), np.array([0.4, np.nan, 0.3, -0.1])
    assert r.check_many(x, margin, limit=3).inputs[0] == np.float32(0.6)
    assert r.calls == 1
    assert r.check_many(x, -margin, limit=2) is None
    assert r.calls == 3


def test_an_input_that_onnxruntime_refuses_is_no_witness(tmp_path):
    # X_0 is an index into a table of two entries
    nodes = [
        helper.make_node("Cast", ["X"], ["I"], to=7),
        helper.make_node("Gather", ["T", "I"], ["Y"], axis=0),
    ]
    path = save(tmp_path / "gather.onnx", nodes, 1, 1, T=np.array([3.0, 4.0], np.float32))
    r = Replay(path, query([("0", "9")], "(assert (>= Y_0 4))"))
    assert r.check(np.array([7.0])) is None and r.failures == 1
    assert r.check(np.array([1.0])) is not None


def test_a_property_of_another_network_is_named(tmp_path):
    path = affine(tmp_path / "sum.onnx", SUM, [0.0])
    r = Replay(path, query([("0", "1")], "(assert (>= Y_0 0.5))"))
    with pytest.raises(InputError, match="takes 2 inputs"):
        r.check(np.array([0.5]))


def test_a_file_that_is_no_network_is_named(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no network")
    r = Replay(path, query([("0", "1")], "(assert (>= Y_0 0.5))"))
    with pytest.raises(ModelError, match=r"cannot load the network \(Protobuf parsing failed\.?\); "):
        r.check(np.array([0.5]))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_format_newer_than_onnxruntime_reads_is_no_obstacle(tmp_path, monkeypatch, external, packed):
    path = affine(tmp_path / "sum.onnx", SUM, [0.0])
    model = onnx.load(path)
    model.ir_version = 99
    onnx.save(model, path, save_as_external_data=external, location="weights", size_threshold=0)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    content = path.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    r = Replay(path, query([("0", "1"), ("0", "1")], "(assert (>= Y_0 1.5))"))
    assert r.check(np.array([0.75, 0.75])).outputs.tolist() == [1.5]
    assert path.read_bytes() == content


def test_a_refusal_of_onnxruntime_is_one_line_without_its_sources(tmp_path):
    path = affine(tmp_path / "sum.onnx", SUM, [0.0])
    model = onnx.load(path)
    model.opset_import[0].version = 999
    onnx.save(model, path)
    with pytest.raises(ModelError) as caught:
        Replay(path, query([("0", "1"), ("0", "1")], "(assert (>= Y_0 1.5))")).check(np.array([0.75, 0.75]))
    text = str(caught.value)
    assert "Opset 999" in text and "export it again" in text and "\n" not in text
    assert "onnxruntime_src" not in text and "[ONNXRuntimeError]" not in text and text.count(str(path)) == 1


def test_a_network_that_onnxruntime_breaks_by_fusing_is_replayed(tmp_path):
    """Fusions from the extended level on take the gelu's first product away from its other reader."""
    constant = {"three": 3.0, "cubic": 0.044715, "scale": 0.7978845834732056, "one": 1.0, "half": 0.5}
    steps = [
        ("Pow", "X", "three", "cube"), ("Mul", "cube", "cubic", "small"), ("Add", "X", "small", "sum"),
        ("Mul", "sum", "scale", "inner"), ("Tanh", "inner", "", "tanh"), ("Add", "tanh", "one", "plus"),
        ("Mul", "X", "half", "halved"), ("Mul", "halved", "plus", "gelu"), ("Add", "gelu", "halved", "Y"),
    ]  # fmt: skip
    nodes = [helper.make_node(op, [a] if not b else [a, b], [y]) for op, a, b, y in steps]
    weights = {name: np.array(value, np.float32) for name, value in constant.items()}
    path = save(tmp_path / "gelu.onnx", nodes, 1, 1, **weights)
    found = Replay(path, query([("0", "1")], "(assert (>= Y_0 1.3))")).check(np.array([1.0]))
    assert found is not None and found.outputs.tolist() == pytest.approx([1.3411918], abs=1e-5)
