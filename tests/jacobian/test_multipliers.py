"""Norms from multipliers: never below a norm at a point, exact where nothing is unknown."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from provenn.bounds.graph import Graph
from provenn.bounds.graph._builder import Value
from provenn.bounds.graph._constants import Constant
from provenn.bounds.jacobian import _semidefinite as semidefinite
from provenn.bounds.jacobian import multiplier_bound
from provenn.bounds.jacobian._system import system_of
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.verifier.gradients import matrix_norm

from .made import differentiated, graph_of


def network(seed: int, function: str, sizes: tuple[int, ...] = (3, 6, 5, 2)) -> Graph:
    random = np.random.default_rng(seed)

    def build(builder, x: Value) -> Value:
        for i, (n, m) in enumerate(itertools.pairwise(sizes)):
            x = builder.linear(x, Constant(random.normal(size=(n, m))), Constant(random.normal(size=m)))
            if i < len(sizes) - 2:
                slope = np.asarray(0.3) if function == "leaky_relu" else None
                x = builder.unary(function, x, slope=slope)
        return x

    return graph_of((1, sizes[0]), build)


def boxes_of(graph: Graph, lower: float, upper: float) -> dict[int, Box]:
    shape = (1, *graph.nodes[graph.inputs[0]].shape)
    ends = (torch.full(shape, end, dtype=torch.float64) for end in (lower, upper))
    return interval_boxes(Plan(graph), {graph.inputs[0]: tuple(ends)})


def patterns(graph: Graph) -> Tensor:
    """The Jacobians of all signs of what is unknown ``[2^unknown, outputs, inputs]``."""
    system = system_of(graph, boxes_of(graph, -math.inf, math.inf))
    m, p, n = system.matrix, system.outputs, system.inputs
    found = []
    for signs in itertools.product((-1.0, 1.0), repeat=system.unknown):
        unknown = torch.diag(torch.tensor(signs, dtype=m.dtype))
        loop = torch.linalg.inv(torch.eye(system.unknown, dtype=m.dtype) - m[p:, n:] @ unknown)
        found.append(m[:p, :n] + m[:p, n:] @ unknown @ loop @ m[p:, :n])
    return torch.stack(found)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("function", ["relu", "leaky_relu", "abs", "tanh", "gelu", "sin", "hard_swish"])
@pytest.mark.parametrize("ends", [(-math.inf, math.inf), (-0.5, 1.0)])
def test_never_below_gradients(norm, function, ends):
    for seed in range(4):
        graph = network(seed, function)
        bound = multiplier_bound(graph, boxes_of(graph, *ends), norm)
        generator = torch.Generator().manual_seed(seed)
        points = torch.randn(2000, 3, dtype=torch.float64, generator=generator) * 3
        found = differentiated(graph, points.clamp(*ends))
        assert math.isfinite(bound)
        assert float(matrix_norm(found, norm).max()) <= bound
        row = multiplier_bound(graph, boxes_of(graph, *ends), norm, 1)
        assert float(matrix_norm(found[:, 1:], norm).max()) <= row <= bound * (1 + 1e-5)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("function", ["relu", "leaky_relu"])
def test_never_below_any_signs(norm, function):
    """Over the whole space a system knows nothing of signs, so its bound holds for all; it is not far above them."""
    for seed in range(6):
        graph = network(seed, function, (3, 4, 4, 2))
        exact = float(matrix_norm(patterns(graph), norm).max())
        bound = multiplier_bound(graph, boxes_of(graph, -math.inf, math.inf), norm)
        assert exact <= bound <= 1.4 * exact


def test_system_is_the_network():
    """Its Jacobians with the signs of a point are the Jacobian there."""
    graph = network(1, "leaky_relu", (3, 4, 4, 2))
    known = patterns(graph)
    points = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for matrix in differentiated(graph, points):
        assert float((known - matrix).abs().amax((1, 2)).min()) <= 1e-12


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_exact_where_nothing_is_unknown(norm):
    graph = network(2, "relu")
    point = 0.3
    bound = multiplier_bound(graph, boxes_of(graph, point, point), norm)
    exact = float(matrix_norm(differentiated(graph, torch.full((1, 3), point, dtype=torch.float64)), norm).max())
    assert exact <= bound <= exact * (1 + 1e-4)


def test_infinite_slopes_and_products_have_no_bound():
    for function in ("exp", "sqrt", "softplus"):
        graph = network(0, function)
        bound = multiplier_bound(graph, boxes_of(graph, -math.inf, math.inf), "2")
        assert math.isfinite(bound) == (function == "softplus")
    product = graph_of((1, 3), lambda builder, x: builder.binary("mul", x, x))
    assert math.isinf(multiplier_bound(product, boxes_of(product, -1.0, 1.0), "2"))


def test_weights_that_do_not_do_prove_nothing():
    """What the interior point method returns is not trusted."""
    system = system_of(network(3, "relu"), boxes_of(network(3, "relu"), -math.inf, math.inf))
    shared = torch.zeros(3, dtype=torch.int64)
    best = semidefinite._path(system, shared, math.inf)[-1]
    proven = semidefinite._proven(system, best, shared)
    assert math.isfinite(proven)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        changed = best.clone()
        changed[3] *= wrong
        assert math.isinf(semidefinite._proven(system, changed, shared))
    less = best.clone()
    less[0] *= 1 - 1e-5
    assert math.isinf(semidefinite._proven(system, less, shared))


def test_no_time_no_bound():
    graph = network(0, "relu")
    assert math.isinf(multiplier_bound(graph, boxes_of(graph, -1.0, 1.0), "2", until=0.0))


def test_weights_of_wide_networks_are_found_in_the_span_of_their_rows() -> None:
    """More inputs than rows: the bound is that of all of them."""
    graph = network(3, "relu", (40, 6, 5, 2))
    ends = torch.full((1, 1, 40), torch.inf, dtype=torch.float64)
    plan = Plan(graph)
    system = system_of(graph, interval_boxes(plan, {graph.inputs[0]: (-ends, ends)}))
    assert system is not None and system.inputs == 40 > len(system.matrix)
    shared = torch.zeros(40, dtype=torch.int64)
    narrow, fewer = semidefinite._narrowed(system, shared)
    assert narrow.inputs == len(system.matrix) == len(fewer)
    bounds = [semidefinite._proven(system, path[-1], shared) for path in (
        semidefinite._path(system, shared, math.inf), semidefinite._path(narrow, fewer, math.inf))]
    assert semidefinite.spectral_bound(system) == pytest.approx(bounds[0], rel=1e-4)
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-4)
