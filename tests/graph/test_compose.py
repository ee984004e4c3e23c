"""Networks side by side give what each gives alone, and products and chosen inputs what they are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from provenn.bounds.graph import Expected, Graph, Interface, Node, check_isomorphic, evaluate, read_onnx
from provenn.bounds.graph.compose import Substitution, compose
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.errors import ModelError
from provenn.specs import Equality
from provenn.verifier.equalities import Difference, solve

RANDOM = np.random.default_rng(5)
FREE = Substitution.none


def small(inputs: int, outputs: int) -> Graph:
    """A layer of ReLUs between two linear ones."""

    def linear(source: int, n: int, m: int) -> Node:
        return Node("linear", (source,), (1, m), {"weight": RANDOM.normal(size=(n, m)), "bias": RANDOM.normal(size=m)})

    nodes = (Node("input", (), (1, inputs)), linear(0, inputs, 4), Node("relu", (1,), (1, 4)), linear(2, 4, outputs))
    return Graph(nodes, (0,), (3,))


def value(graph: Graph, *x: np.ndarray) -> np.ndarray:
    """All outputs, flat, at one point."""
    inputs = [torch.from_numpy(part).view(1, *graph.nodes[i].shape) for part, i in zip(x, graph.inputs, strict=True)]
    return np.concatenate([y.numpy().reshape(-1) for y in evaluate(graph, inputs)])


def test_columns_are_outputs_chosen_inputs_and_products():
    f, g = small(3, 2), small(2, 1)
    products = [(0, 0), (3, 4), (2, 2, 4), (1, 3, 3, 3, 4), (4, 4, 4)]
    graph = compose([f, g], FREE(5), [1, 4], products)
    assert len(graph.inputs) == len(graph.outputs) == 1
    for _ in range(5):
        x = RANDOM.normal(size=5)
        y = np.concatenate([value(f, x[:3]), value(g, x[3:]), x[[1, 4]]])
        expected = np.concatenate([y, [np.prod(y[list(product)]) for product in products]])
        np.testing.assert_allclose(value(graph, x), expected, rtol=1e-12)


def test_copies_at_equal_inputs_are_computed_once():
    f = small(3, 2)
    equalities = [Equality((i, 3 + i), (Fraction(1), Fraction(-1)), Fraction(0), Fraction(0)) for i in range(3)]
    once = compose([f, f], solve(equalities, 6))
    assert sum(node.operator == "relu" for node in once.nodes) == 1
    assert sum(node.operator == "relu" for node in compose([f, f], FREE(6)).nodes) == 2
    apart = compose([f, f], solve(equalities[1:], 6))
    x = RANDOM.normal(size=4)
    np.testing.assert_allclose(value(apart, x)[:2], value(f, x[:3]))
    np.testing.assert_allclose(value(apart, x)[2:], value(f, x[[3, 1, 2]]))


def test_constants_that_only_look_alike_are_kept_apart():
    """Two networks whose folded weights agree up to their radii are two networks; two copies of one are one."""
    inexact = {"weight": np.ones((1, 1)), "weight_radius": np.full((1, 1), 1e-3)}
    nodes = Node("input", (), (1, 1)), Node("linear", (0,), (1, 1), inexact)
    first, second = Graph(nodes, (0,), (1,)), Graph(nodes, (0,), (1,))
    same = solve([Equality((0, 1), (Fraction(1), Fraction(-1)), Fraction(0), Fraction(0))], 2)
    for pair, count in (([first, first], 1), ([first, second], 2)):
        assert sum(node.operator == "linear" for node in compose(pair, same).nodes) == count
    assert all("graph" not in node.attributes for node in compose([first, second], same).nodes)


def test_solved_inputs_contain_all_that_the_slack_allows():
    # V = 2 U - W + 0.1 up to a slack, and T equal to V
    slack = Fraction(1, 1000)
    equalities = [
        Equality((0, 1, 2), (Fraction(2), Fraction(-4), Fraction(2)), Fraction(1, 5), slack),
        Equality((1, 3), (Fraction(1), Fraction(-1)), Fraction(0), Fraction(0)),
    ]
    found = solve(equalities, 4)
    assert found.free.tolist() == [0, 2] and found.solved.tolist() == [1, 3]
    assert (found.radius >= 0.00025).all() and (found.radius < 0.000251).all()
    f = small(4, 2)
    graph = compose([f], found)
    plan = Plan(graph, torch.float64, torch.device("cpu"))
    for _ in range(20):
        u, w, a = RANDOM.normal(size=3)
        v = 0.5 * u + 0.5 * w - 0.05 + 0.00025 * np.sign(a)
        whole = np.array([u, v, w, v])
        box = torch.tensor([[[u, w]]])
        lower, upper = interval_boxes(plan, {graph.inputs[0]: (box, box)})[graph.outputs[0]]
        y = np.concatenate([value(f, whole), [v, v]])
        assert (lower.numpy() - 1e-12 <= y).all() and (y <= upper.numpy() + 1e-12).all()
        assert np.abs(found.lift(np.array([u, w])) - whole).max() <= 0.00026


def test_radii_are_kept_apart():
    """Two inputs that differ by slacks only may still differ."""
    slack = Fraction(1, 10)
    equalities = [Equality((0, j), (Fraction(-1), Fraction(1)), Fraction(0), slack) for j in (1, 2)]
    found = solve(equalities, 3)
    weight = np.array([[0.0], [1.0], [-1.0]])
    difference = Graph((Node("input", (), (1, 3)), Node("linear", (0,), (1, 1), {"weight": weight})), (0,), (1,))
    graph = compose([difference], found)
    plan = Plan(graph, torch.float64, torch.device("cpu"))
    box = torch.zeros(1, 1, len(found.free), dtype=torch.float64)
    lower, upper = interval_boxes(plan, {graph.inputs[0]: (box, box)})[graph.outputs[0]]
    assert float(lower.flatten()[0]) <= -0.2 and float(upper.flatten()[0]) >= 0.2


def test_differences_take_the_place_of_inputs():
    found = solve([], 3, [Difference(0, 2, -0.1, 0.2), Difference(1, 2, -0.1, 0.1), Difference(2, 1, 0.0, 0.1)])
    assert found.shifted.tolist() == [2] and found.free.tolist() == [0, 1, 2]  # the others are about what was replaced
    assert found.lift(np.array([1.0, 5.0, 0.125])).tolist() == [1.0, 5.0, 1.125]
    lower, upper = found.together(np.array([[-1.0, -2.0, -3.0]]), np.array([[1.0, 2.0, 3.0]]))
    assert lower.tolist() == [[-1.0, -2.0, -0.1]] and upper.tolist() == [[1.0, 2.0, 0.2]]
    f = small(3, 2)
    graph = compose([f], found, [2])
    for _ in range(3):
        x = RANDOM.normal(size=3)
        whole = found.lift(x)
        expected = np.concatenate([value(f, whole), whole[[2, 2]]])  # the last column is what is solved
        np.testing.assert_allclose(value(graph, x), expected, rtol=1e-12)


# -- what a caller expects of a file ---------------------------------------------------------------------


def two_inputs(path: Path, scale: float = 1.0, operator: str = "Relu", batch: int | str = 1) -> Path:
    """``Y = relu(A + scale * B)`` ``[batch, 2]`` and ``Z``, its sum."""
    nodes = [
        helper.make_node("Mul", ["B", "S"], ["M"]),
        helper.make_node("Add", ["A", "M"], ["T"]),
        helper.make_node(operator, ["T"], ["Y"]),
        helper.make_node("ReduceSum", ["Y"], ["Z"], keepdims=0),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "two",
        [tensor("A", TensorProto.FLOAT, [batch, 2]), tensor("B", TensorProto.FLOAT, [1, 2])],
        [tensor("Y", TensorProto.FLOAT, [batch, 2]), tensor("Z", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array([scale, 1.0], np.float32), "S")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def declared(a: tuple[int, ...] = (1, 2), hidden: str = "T", **types: str) -> Interface:
    of = lambda name: types.get(name, "float32")  # noqa: E731
    return Interface(
        (Expected("U", of("U"), a), Expected("V", of("V"), (1, 2))),
        (Expected("H", of("H"), a, hidden),),
        (Expected("P", of("P"), a), Expected("Q", of("Q"), ())),
    )


def test_hidden_tensors_come_first_and_survive_rewrites(tmp_path):
    graph = read_onnx(two_inputs(tmp_path / "two.onnx"), declared(H="real"))
    x = np.array([1.0, -3.0, 0.5, 1.0])
    assert value(compose([graph], FREE(4)), x).tolist() == [1.5, -2.0, 1.5, 0.0, 1.5]


def test_open_dimensions_are_read_as_declared(tmp_path):
    graph = read_onnx(two_inputs(tmp_path / "open.onnx", batch="N"), declared((3, 2)))
    assert [graph.nodes[i].shape for i in graph.outputs] == [(3, 2), (3, 2), ()]


@pytest.mark.parametrize(
    "interface, message",
    [
        (declared((1, 3)), "input 'A' has shape [1, 2], the property declares U as [1, 3]"),
        (declared((2,)), "input 'A' has shape [1, 2], the property declares U as [2]"),
        (declared(V="float64"), "input 'B' is of type float32, the property declares V as float64"),
        (declared(Q="float64"), "output 'Z' is of type float32, the property declares Q as float64"),
        (declared(hidden="TT"), "hidden tensor 'TT' (H) is computed by no node; mend the name (such as 'T')"),
        (declared(hidden="Z"), "hidden tensor 'Z' (H) has shape [], the property declares H as [1, 2]"),
        (Interface((), (), ()), "has 2 inputs ('A', 'B'), the property declares 0"),
        (Interface(declared().inputs, (), declared().outputs[:1]), "has 2 outputs ('Y', 'Z'), the property declares 1"),
    ],
)  # fmt: skip
def test_a_file_that_differs_is_refused(tmp_path, interface, message):
    path = two_inputs(tmp_path / "two.onnx")
    with pytest.raises(ModelError) as error:
        read_onnx(path, interface)
    assert str(error.value).startswith(f"{path}: {message}")


def test_isomorphic_networks_differ_in_weights_only(tmp_path):
    first, other = two_inputs(tmp_path / "a.onnx"), two_inputs(tmp_path / "b.onnx", scale=3.0)
    check_isomorphic(first, other)
    with pytest.raises(ModelError, match="is not isomorphic to"):
        check_isomorphic(first, two_inputs(tmp_path / "c.onnx", operator="Sigmoid"))
