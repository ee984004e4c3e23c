"""Jacobian graphs compute what automatic differentiation does, in both modes, on the suite and on random graphs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from provenn.bounds import jacobian, vector_jacobian
from provenn.bounds.graph import Graph, evaluator, read_onnx
from provenn.bounds.jacobian import jacobian_vector
from provenn.errors import UnsupportedOperatorError

from .made import SMOOTH, at, differentiated, drawn, graph_of, inputs_of, random_networks

FOLDER = Path(
    os.environ.get("PROVENN_BENCHMARKS") or Path(__file__).parents[2].parent / "shared" / "benchmarks"
)
NETWORKS = sorted(
    [*FOLDER.glob("*/onnx/*.onnx*"), *FOLDER.glob("lipschitz/*.onnx*")], key=lambda p: p.stat().st_size
)
LARGEST_FILE, LARGEST_VALUE = 4 << 20, 1 << 17
JUMPING = frozenset({"cctsdb_yolo", "traffic_signs", "ml4acopf"})
"""Families of which some networks jump."""


def agree(graph: Graph, flat: torch.Tensor, random: np.random.Generator, rows: int = 2) -> None:
    """Both modes times random vectors, against autograd, up to rounding."""
    outputs = sum(graph.nodes[i].size for i in graph.outputs)
    left, right = random.normal(size=(rows, outputs)), random.normal(size=(rows, flat.shape[1]))
    x = flat.detach().clone().requires_grad_()
    y = torch.cat([out.flatten(1) for out in evaluator(graph)(inputs_of(graph, x))], 1)
    truth = []
    for vector in left:
        (row,) = torch.autograd.grad(
            (y @ torch.from_numpy(vector)).sum(), x, retain_graph=True, allow_unused=True
        )
        truth.append(torch.zeros_like(x) if row is None else row)
    expected = torch.stack(truth, 1)
    fine = torch.isfinite(expected).flatten(1).all(1)
    expected = expected[fine]
    size = 1e-4 + expected.abs().amax((1, 2), keepdim=True)
    reverse = at(vector_jacobian(graph, left), flat)[fine]
    assert ((reverse - expected).abs() <= 1e-10 * size).all()
    forward = torch.from_numpy(left) @ at(jacobian_vector(graph, right), flat)[fine]
    both = expected @ torch.from_numpy(right).T
    assert ((forward - both).abs() <= 1e-10 * size * flat.shape[1]).all()


@pytest.mark.skipif(not NETWORKS, reason="no benchmark suite here")
@pytest.mark.parametrize("family", sorted({path.relative_to(FOLDER).parts[0] for path in NETWORKS}))
def test_networks_of_the_suite(family: str) -> None:
    """One network of every structure."""
    seen, refused = set(), 0
    for path in NETWORKS:
        if path.relative_to(FOLDER).parts[0] != family or path.stat().st_size > LARGEST_FILE:
            continue
        graph = read_onnx(path)
        structure = tuple(node.operator for node in graph.nodes)
        if structure in seen or max(node.size for node in graph.nodes) > LARGEST_VALUE:
            continue
        seen.add(structure)
        random = np.random.default_rng(len(seen))
        size = sum(graph.nodes[i].size for i in graph.inputs)
        flat = torch.from_numpy(random.uniform(0, 1, (2, size)) * random.choice([0.05, 1.0], (2, 1)))
        try:
            agree(graph, flat, random)
        except UnsupportedOperatorError as error:
            assert family in JUMPING and "(node " in str(error), path
            refused += 1
        if len(seen) == 6:
            break
    assert seen


@pytest.mark.parametrize("group", range(6))
def test_random_graphs(group: int, tmp_path: Path) -> None:
    """Mixed operators; those that jump all the same are refused."""
    done = 0
    for seed, made, graph in random_networks(tmp_path, range(1000 * group, 1000 * group + 30)):
        lower, upper = made.lower.astype(float), made.upper.astype(float)
        random = np.random.default_rng(seed)
        flat = drawn(lower, upper, 8, seed)[2:]
        # Beside kinks that corners and zeros lie on: there automatic differentiation takes a side of its own.
        flat = flat + torch.from_numpy(random.uniform(-1e-7, 1e-7, flat.shape))
        try:
            agree(graph, flat, random, rows=3)
        except UnsupportedOperatorError:
            continue
        done += 1
    assert done >= 20


def test_random_graphs_have_nearly_all_recipes() -> None:
    assert len(SMOOTH) >= 70


def network(seed: int = 0) -> Graph:
    random = np.random.default_rng(seed)

    def build(b, x):
        from provenn.bounds.graph._constants import Constant

        h = b.unary(
            "tanh", b.linear(x, Constant(random.normal(size=(4, 5))), Constant(random.normal(size=5)))
        )
        return b.unary("relu", b.linear(h, Constant(random.normal(size=(5, 3))), None))

    return graph_of((1, 4), build)


def test_rows_and_columns_are_those_of_the_whole() -> None:
    graph, x = network(), torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = at(jacobian(graph), x)
    assert whole.shape == (6, 3, 4)
    torch.testing.assert_close(whole, differentiated(graph, x), rtol=0, atol=1e-12)
    for rows, columns in (([1], None), ([2, 0], [3]), (None, [0, 2, 1]), ([0], [1])):
        part = at(jacobian(graph, rows, columns), x)
        expected = whole[:, rows or slice(None)][:, :, columns or slice(None)]
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-12)


def test_forward_values_are_shared() -> None:
    """The derivative reads the operand of its own operator: one value to split for both."""
    made = jacobian(network())
    for name, slope in (("relu", "step"), ("tanh", "tanh_slope")):
        operands = {node.inputs for node in made.nodes if node.operator in (name, slope)}
        assert len(operands) == 1


def test_one_row_has_the_size_of_one_row() -> None:
    made = jacobian(network(), [1])
    assert max(node.size for node in made.nodes) <= 5


def test_of_constants_and_of_what_no_output_reads() -> None:
    graph = graph_of((2, 2), lambda b, x: b.index(x, np.array([3])))
    x = torch.zeros(1, 4, dtype=torch.float64)
    assert at(jacobian(graph), x).tolist() == [[[0.0, 0.0, 0.0, 1.0]]]
    assert at(jacobian(graph, inputs=[0]), x).tolist() == [[[0.0]]]
