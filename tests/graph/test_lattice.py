"""Maxima and minima as ReLU trees compute what the operators compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node, evaluate
from provenn.bounds.graph.lattice import LATTICE, comparisons, lattice

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
    assert sum(node.size for node in new.nodes if node.operator == "relu") == comparisons(old)
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
