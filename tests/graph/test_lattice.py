"""Maxima and minima as ReLU trees compute what the operators compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node, evaluate
from provenn.bounds.graph.lattice import LATTICE, comparisons, distinct, lattice
from provenn.bounds.graph.opposite import opposite

RANDOM = np.random.default_rng(3)


def windows(shape: tuple[int, ...], width: int, size: int) -> np.ndarray:
    """Random windows, some positions absent, none of them empty."""
    indices = RANDOM.integers(0, size, (*shape, width))
    absent = RANDOM.random(indices.shape) < 0.3
    absent[..., RANDOM.integers(0, width)] = False
    return np.where(absent, -1, indices)


def graph(operator: str, width: int = 4) -> Graph:
    """The operator between affine nodes, read twice."""
    scale = {"scale": RANDOM.standard_normal((1, 3, 4))}
    nodes = [Node("input", (), (1, 3, 4)), Node("affine", (0,), (1, 3, 4), scale)]
    if operator == "window_max":
        indices = {"indices": windows((1, 5), width, 12)}
        nodes.append(Node("window_max", (1,), (1, 5), indices))
    else:
        nodes.append(Node(operator, (0, 1), (1, 3, 4)))
    nodes.append(Node("affine", (2,), nodes[2].shape, {"shift": np.ones(1)}))
    nodes.append(Node("add", (2, 3), nodes[2].shape))
    return Graph(tuple(nodes), (0,), (4, 2))


@pytest.mark.parametrize(
    "operator, width", [("max", 0), ("min", 0), *(("window_max", n) for n in (2, 3, 4, 5, 9, 16))]
)
def test_same_outputs(operator: str, width: int) -> None:
    old = graph(operator, width)
    new = lattice(old)
    assert not any(node.operator in LATTICE for node in new.nodes)
    compared = sum(node.size for node in new.nodes if node.operator == "relu")
    assert compared == comparisons(old) or (operator == "window_max" and compared < comparisons(old))  # repeated ones
    x = torch.from_numpy(RANDOM.standard_normal((200, 1, 3, 4)))
    for before, after in zip(evaluate(old, [x]), evaluate(new, [x]), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-14)


def test_nothing_to_rewrite() -> None:
    plain = Graph((Node("input", (), (1, 2)), Node("relu", (0,), (1, 2))), (0,), (1,))
    assert lattice(plain) is plain


def test_too_many_comparisons_and_wide_windows_stay() -> None:
    assert lattice(graph("max"), limit=11).nodes[2].operator == "max"
    wide = lattice(graph("window_max", 17))
    assert any(node.operator == "window_max" for node in wide.nodes)


def test_jumps_get_an_operand_of_their_own() -> None:
    nodes = (
        Node("input", (), (1, 3)),
        Node("sign", (0,), (1, 3)),
        Node("relu", (0,), (1, 3)),
        Node("add", (1, 2), (1, 3)),
    )
    old = Graph(nodes, (0,), (3,))
    new = lattice(old)
    readers = new.consumers()
    (sign,) = (i for i, node in enumerate(new.nodes) if node.operator == "sign")
    assert readers[new.nodes[sign].inputs[0]] == [sign]
    x = torch.tensor([[[-1.0, 0.0, 2.0]]])
    torch.testing.assert_close(evaluate(new, [x]), evaluate(old, [x]))


def test_positions_of_a_window_once_and_in_order() -> None:
    indices, present = distinct(np.array([[7, 3, -1, 3, 5], [-1, 4, 4, -1, -1]]))
    assert indices.tolist() == [[7, 3, 5], [4, 4, 4]]
    assert present.tolist() == [[True, True, True], [True, False, False]]


def pairs(*chosen: Node) -> Graph:
    """Nodes on the differences of two halves of the input."""
    halves = [Node("index", (0,), (1, 2), {"indices": np.array([part])}) for part in ([0, 1], [2, 3])]
    nodes = [Node("input", (), (1, 4)), *halves, *chosen]
    readers = {i for node in nodes for i in node.inputs}
    return Graph(tuple(nodes), (0,), tuple(i for i in range(len(nodes)) if i not in readers))


MINUS = {"scale": np.array([-1.0])}
SWAP = {"indices": np.array([[1, 0]])}
OPPOSITE = {
    "differences": [Node("sub", (1, 2), (1, 2)), Node("sub", (2, 1), (1, 2))],
    "the same difference": [Node("sub", (1, 2), (1, 2)), Node("sub", (1, 2), (1, 2))],
    "a value and its negative": [Node("reshape", (1,), (1, 2)), Node("affine", (1,), (1, 2), MINUS)],
    "another order": [Node("sub", (1, 2), (1, 2)), Node("index", (3,), (1, 2), SWAP)],
    "a sum of negatives": [
        Node("sub", (1, 2), (1, 2)), Node("affine", (1,), (1, 2), MINUS), Node("add", (2, 4), (1, 2)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", OPPOSITE)
def test_relus_of_opposite_operands_are_one(name: str) -> None:
    made = OPPOSITE[name]
    first, last = 3, 2 + len(made)
    old = pairs(*made, Node("relu", (first,), (1, 2)), Node("relu", (last,), (1, 2)))
    new = opposite(old)
    assert sum(node.operator == "relu" for node in new.nodes) == 1
    x = torch.from_numpy(RANDOM.standard_normal((200, 1, 4)))
    for before, after in zip(evaluate(old, [x]), evaluate(new, [x]), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-14)


def test_comparisons_of_what_was_compared_before_are_one() -> None:
    shape = (1, 2)
    chosen = [Node("sub", (1, 2), shape), Node("relu", (3,), shape), Node("add", (2, 4), shape)]  # the larger one
    chosen += [Node("sub", (5, 1), shape), Node("sub", (1, 5), shape)]
    chosen += [Node("relu", (6,), shape), Node("relu", (7,), shape)]
    old = pairs(*chosen)
    new = opposite(old)
    assert sum(node.operator == "relu" for node in new.nodes) == 2
    x = torch.from_numpy(RANDOM.standard_normal((200, 1, 4)))
    for before, after in zip(evaluate(old, [x]), evaluate(new, [x]), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "second",
    [
        Node("add", (1, 2), (1, 2)),
        Node("affine", (3,), (1, 2), {"scale": np.array([[1.0, -1.0]])}),
        Node("affine", (3,), (1, 2), {"scale": np.array([-2.0])}),
        Node("affine", (3,), (1, 2), {"scale": np.array([-1.0]), "shift": np.array([0.5])}),
        Node("index", (3,), (1, 2), {"indices": np.array([[0, -1]])}),
    ],
    ids=["a sum", "signs of both kinds", "twice as much", "shifted", "nothing in a place"],
)
def test_other_relus_stay(second: Node) -> None:
    old = pairs(Node("sub", (1, 2), (1, 2)), second, Node("relu", (3,), (1, 2)), Node("relu", (4,), (1, 2)))
    assert opposite(old) is old
