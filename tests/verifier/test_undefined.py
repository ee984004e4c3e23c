"""What a network computes where a quotient is no number, in odd orders and of odd shapes: found by an adversary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from provenn.bounds.graph import Node, read_onnx
from provenn.bounds.ops import OPS, prepare
from provenn.bounds.propagate.plan import Plan
from provenn.verifier import Options, Result, verify
from provenn.verifier.exact import Programs
from provenn.verifier.surrogate import Surrogate

from .networks import box, property_text, save
from .test_import_truth import a, decided, n

BRANCH = [n("Less", "s h", "c"), n("Where", "c p q", "Y")]
QUOTIENTS = {
    "x / |x|": [n("Abs", "X", "b"), n("Div", "X b", "s")],
    "x / sqrt(x x)": [n("Mul", "X X", "d"), n("Sqrt", "d", "b"), n("Div", "X b", "s")],
    "x / norm": [n("ReduceL2", "X", "b", axes=[1]), n("Div", "X b", "s")],
}


@pytest.mark.parametrize("quotient", QUOTIENTS)
def test_a_comparison_makes_a_number_of_none(quotient: str, tmp_path: Path) -> None:
    """At 0 the quotient is NaN, which is not less than anything: the other branch."""
    constants = {"h": a(1.5 if "norm" in quotient else 0.5), "p": a([[0]]), "q": a([[1]])}
    bounds = [("-1", "1")] if "norm" in quotient else [("-1", "0")]
    assert decided(tmp_path, QUOTIENTS[quotient] + BRANCH, constants, bounds, "(>= Y_0 0.5)") != "unsat"


def test_a_quotient_that_nothing_compares_is_a_sign(tmp_path: Path) -> None:
    nodes = [n("Abs", "X", "b"), n("Div", "X b", "s"), n("Mul", "s w", "Y")]
    assert decided(tmp_path, nodes, {"w": a([[2]])}, [("0.5", "1")], "(<= Y_0 1.5)") == "unsat"
    assert "sign" in {node.operator for node in read_onnx(tmp_path / "net.onnx").nodes}


def test_shrink_with_a_negative_edge(tmp_path: Path) -> None:
    """Where x is below -lambd and above lambd, the first counts."""
    nodes = [n("Shrink", "X", "Y", lambd=-1.0, bias=0.5)]
    assert decided(tmp_path, nodes, {}, [("-0.5", "0.5")], "(>= Y_0 0.4)") == "sat"
    assert decided(tmp_path, nodes, {}, [("-0.5", "0.5")], "(<= Y_0 -0.1)") == "unsat"


def test_a_sum_of_three(tmp_path: Path) -> None:
    nodes = [n("Relu", "X", "r"), n("Exp", "X", "e"), n("Sum", "X r e", "Y")]
    assert decided(tmp_path, nodes, {}, [("-1", "1")], "(>= Y_0 4.7)") == "sat"
    assert decided(tmp_path, nodes, {}, [("-1", "1")], "(>= Y_0 4.8)") == "unsat"


@pytest.mark.parametrize("operator", ["Einsum", "ReduceSum"])
def test_an_output_without_axes(operator: str, tmp_path: Path) -> None:
    node = n("Einsum", "X", "Y", equation="ij->") if operator == "Einsum" else n("ReduceSum", "X", "Y", keepdims=0)
    graph = helper.make_graph(
        [node], "test", [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [])], [numpy_helper.from_array(a(0), "unused")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.save(made, str(tmp_path / "net.onnx"))
    for limit, verdict in (("1.5", "sat"), ("2.5", "unsat")):
        text = property_text(2, 1, box([("0", "1"), ("0", "1")]), f"(assert (>= Y_0 {limit}))")
        (tmp_path / "net.vnnlib").write_bytes(text)
        found = verify(tmp_path / "net.onnx", tmp_path / "net.vnnlib", Options(timeout=10, device="cpu"))
        assert found.verdict == verdict


def test_softmax_next_to_an_infinite_end() -> None:
    """The image of an element whose exponential underflows beside others is above 0."""
    prepared = prepare(Node("softmax", (0,), (3,), {"axis": 0}), ((3,),), torch.float64, torch.device("cpu"))
    low = torch.tensor([[0.0, 589.0, -5.0]], dtype=torch.float64)
    high = torch.tensor([[0.0, 590.0, np.inf]], dtype=torch.float64)
    _, upper = OPS["softmax"].interval(prepared, (low, high))
    assert float(upper[0, 0]) >= float(np.exp(-589.0)) * 0.9


def test_no_points_have_outputs(tmp_path: Path) -> None:
    """An attack may be left without points."""
    nodes = [n("Tanh", "X", "Y")]
    assert decided(tmp_path, nodes, {}, [("0", "1")], "(>= Y_0 2)") == "unsat"
    target = Surrogate(Plan(read_onnx(tmp_path / "net.onnx"), torch.float32))
    assert target(torch.zeros(0, 1)).shape == (0, 1)


def ended(folder: Path, node: onnx.NodeProto, bounds: list[tuple[str, str]], condition: str) -> Result:
    """How a network of one operator with a name ends, of which no domain but the root is bounded."""
    node.name = "culprit"
    constants = {"p": np.float32(1.5)} if "p" in node.input else {}
    select = [n("Gemm", "X U", "U0"), n("Gemm", "X V", "V0")]
    network = save(
        folder / "net.onnx", [*select, node], 2, 1, U=np.float32([[1], [0]]), V=np.float32([[0], [1]]), **constants
    )
    path = folder / "net.vnnlib"
    path.write_bytes(property_text(2, 1, box(bounds), f"(assert {condition})"))
    return verify(network, path, Options(timeout=20, device="cpu", branching="none"))


PARTIAL = {
    "Log": ("U0", "(<= Y_0 -100)"), "Sqrt": ("U0", "(>= Y_0 5)"), "Pow": ("U0 p", "(>= Y_0 5)"),
    "Reciprocal": ("U0", "(<= Y_0 0.1) (>= Y_0 -0.1)"), "Div": ("V0 U0", "(<= Y_0 0.1) (>= Y_0 -0.1)"),
}  # fmt: skip


@pytest.mark.parametrize("operator", PARTIAL)
def test_what_is_undefined_on_a_part_of_the_box_is_named(operator: str, tmp_path: Path) -> None:
    inputs, condition = PARTIAL[operator]
    result = ended(tmp_path, n(operator, inputs, "Y"), [("-2", "1"), ("3", "4")], f"(and {condition})")
    assert result.verdict == "unknown" and result.bound is None
    assert f"{operator} (node culprit) may have no finite value" in result.reason
    assert "[-2, 1]" in result.reason and "restrict the region" in result.reason and "inf" not in result.reason


@pytest.mark.parametrize("operator", ["Log", "Sqrt", "Pow"])
def test_what_is_undefined_everywhere_ends_at_once(operator: str, tmp_path: Path, monkeypatch) -> None:
    """No search begins, whatever splits it may make; it is no proof all the same."""
    inputs, condition = PARTIAL[operator]
    monkeypatch.setattr("provenn.verifier.decide.Rebound", None)
    monkeypatch.setattr("provenn.verifier.decide.Fixed", None)
    result = ended(tmp_path, n(operator, inputs, "Y"), [("-2", "-1"), ("3", "4")], f"(and {condition})")
    assert result.verdict == "unknown" and result.statistics["domains"] == 1
    assert f"{operator} (node culprit) has no value anywhere" in result.reason


def test_a_choice_leaves_out_what_is_undefined_everywhere(tmp_path: Path) -> None:
    """The logarithm is not chosen: the other branch is a function like any other, which splits decide."""
    nodes = [
        n("Log", "X", "l"), n("Greater", "X z", "c"), n("Gemm", "X W B", "h"), n("Relu", "h", "r"),
        n("Gemm", "r V", "s"), n("Where", "c l s", "Y"),
    ]  # fmt: skip
    constants = {"z": a([[0]]), "W": a([[1, 1, 1]]), "B": a([1.75, 1.5, 1.25]), "V": a([[1], [-2], [1]])}
    bounds, tip = [("-2", "-1")], 0.25
    assert decided(tmp_path, nodes, constants, bounds, f"(>= Y_0 {tip + 0.01})") == "unsat"
    assert decided(tmp_path, nodes, constants, bounds, f"(>= Y_0 {tip - 0.01})") == "sat"


def test_no_bound_is_no_matter_of_floating_point() -> None:
    programs = Programs.__new__(Programs)
    programs.trees = [type("Stuck", (), {"ending": "stuck", "margin": -np.inf})()]
    assert programs.why() == "1 of 1 clauses have no finite bound by a linear program"
