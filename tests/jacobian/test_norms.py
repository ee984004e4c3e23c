"""Norm bounds: never below sampled gradients nor exact constants, and what they are made of."""

from __future__ import annotations

import csv
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from provenn.bounds import jacobian, jacobian_norm, norm_graph
from provenn.bounds.graph import Graph, read_onnx
from provenn.bounds.graph._constants import Constant
from provenn.bounds.jacobian import NormGraph, norm_bounds, spectral
from provenn.bounds.jacobian._norms import input_boxes
from provenn.bounds.ops import Multivariate
from provenn.bounds.propagate.alpha import alpha
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes
from provenn.errors import UnsupportedOperatorError

from .made import at, differentiated, drawn, graph_of, random_networks

FOLDER = Path(
    os.environ.get("PROVENN_BENCHMARKS") or Path(__file__).parents[2].parent / "shared" / "benchmarks"
)
EXPECTED = FOLDER / "lipschitz" / "expected.csv"
ORDER = {"1": 1, "2": 2, "inf": np.inf}


def norms(matrices: torch.Tensor, norm: str) -> torch.Tensor:
    return torch.linalg.matrix_norm(matrices, ORDER[norm])


def small(seed: int, activation: str, shape: tuple[int, ...] = (3, 6, 5, 2)) -> Graph:
    random = np.random.default_rng(seed)

    def build(b, x):
        for place, (n, m) in enumerate(itertools.pairwise(shape)):
            x = b.unary(activation, x) if place else x
            weight, bias = random.normal(size=(n, m)) / np.sqrt(n) * 1.5, random.normal(size=m) * 0.3
            x = b.linear(x, Constant(weight), Constant(bias))
        return x

    return graph_of((1, shape[0]), build)


@pytest.mark.parametrize("group", range(2))
def test_sampled_gradients_of_random_graphs_never_exceed_the_bounds(group: int, tmp_path: Path) -> None:
    done = 0
    for seed, made, graph in random_networks(tmp_path, range(2000 * group + 7, 2000 * group + 13)):
        lower, upper = made.lower.astype(float), made.upper.astype(float)
        centre = 0.5 * lower + 0.5 * upper
        radius = (upper - lower) * 10.0 ** np.random.default_rng(seed).uniform(-2, -0.3) / 2
        lower, upper = centre - radius, centre + radius
        try:
            whole = jacobian(graph)
        except UnsupportedOperatorError:
            continue
        x = drawn(lower, upper, 400, seed)
        sampled = at(whole, x)
        sampled = sampled[torch.isfinite(sampled).flatten(1).all(1)]
        if len(sampled) == 0:
            continue
        for norm, output, steps in (("inf", None, 0), ("2", None, 0), ("2", 0, 1)):
            bound = float(jacobian_norm(graph, lower, upper, norm, output, steps=steps))
            rows = sampled if output is None else sampled[:, output : output + 1]
            assert float(norms(rows, norm).max()) <= bound * (1 + 1e-12), (seed, norm, output)
        done += 1
    assert done >= 3


@pytest.mark.skipif(not EXPECTED.is_file(), reason="no benchmark suite here")
@pytest.mark.parametrize("steps", [0, 5])
def test_bounds_are_not_below_exact_constants(steps: int) -> None:
    """And not far above them on finite boxes: 2.4 times at the root without optimised slopes, 1.9 with."""
    checked = 0
    with EXPECTED.open(newline="") as file:
        for row in csv.DictReader(file):
            graph = read_onnx(EXPECTED.parent / row["net"])
            size = graph.nodes[graph.inputs[0]].size
            ends = [np.full(size, float(row[f"domain_{end}"])) for end in ("lower", "upper")]
            least = float(row["exact_value"] or row["exact_lower"])
            bound = float(jacobian_norm(graph, *ends, row["norm"], steps=steps))
            assert bound >= least * (1 - 1e-12), row
            if np.isfinite(ends).all():
                assert bound <= (1.95 if steps else 2.4) * least, row
            checked += 1
    assert checked >= 10


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "sin"])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_bounds_are_exact_on_points_and_close_on_small_boxes(activation: str, norm: str) -> None:
    graph = small(3, activation)
    centre = np.array([0.3, -0.4, 0.1])
    truth = float(norms(differentiated(graph, torch.from_numpy(centre[None])), norm))
    for radius, factor in ((0.0, 1e-9), (1e-3, 0.1)):
        bound = float(jacobian_norm(graph, centre - radius, centre + radius, norm, steps=1))
        assert truth * (1 - 1e-9) <= bound <= truth * (1 + factor)


def test_optimised_slopes_help_and_batches_agree() -> None:
    """Slopes of forward and derivative nodes; every domain of a batch gets its own bound."""
    graph = small(5, "relu", (3, 8, 8, 2))
    lower, upper = np.full((2, 3), -0.4), np.stack([np.full(3, 0.4), np.full(3, 0.1)])
    made = norm_graph(graph, "inf")
    plain, better = norm_bounds(made, lower, upper, steps=0), norm_bounds(made, lower, upper, steps=15)
    assert (better < plain).all() and float(better[0]) < 0.97 * float(plain[0])
    for k in range(2):
        alone = norm_bounds(made, lower[k], upper[k], steps=0)
        assert float(alone) == pytest.approx(float(plain[k]), rel=1e-6)


def test_outputs_of_norm_graphs() -> None:
    """Row sums, column sums, squares and entries, evaluated at points."""
    graph, x = (
        small(1, "tanh"),
        torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    )
    whole = differentiated(graph, x)
    found = {name: at(norm_graph(graph, name).graph, x) for name in ORDER}
    torch.testing.assert_close(found["inf"], whole.abs().sum(2)[:, None])
    torch.testing.assert_close(found["1"], whole.abs().sum(1)[:, None])
    parts = [whole.abs().sum(2), whole.abs().sum(1), whole.pow(2).sum((1, 2))[:, None], whole.flatten(1)]
    torch.testing.assert_close(found["2"], torch.cat(parts, 1)[:, None])
    torch.testing.assert_close(at(norm_graph(graph, 2, 1).graph, x), whole[:, 1].pow(2).sum(1)[:, None, None])
    torch.testing.assert_close(at(norm_graph(graph, "1", 1).graph, x), whole[:, 1].abs()[:, None])


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_the_norm_follows_from_bounds_of_the_outputs(norm: str) -> None:
    """At points, where bounds are values: the norm itself, rounded upwards."""
    graph, x = (
        small(2, "tanh"),
        torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
    )
    made = norm_graph(graph, norm)
    values = at(made.graph, x).flatten(1)
    bound = made.upper(values @ made.rows().T)
    truth = norms(at(jacobian(graph), x), norm)
    assert (bound >= truth * (1 - 1e-14)).all() and (bound <= truth * (1 + 1e-12)).all()
    unknown = values @ made.rows().T
    unknown[:] = -torch.inf
    assert torch.isinf(made.upper(unknown)).all() and torch.isinf(made.upper(unknown * torch.nan)).all()
    assert isinstance(made, NormGraph)


@pytest.mark.parametrize("shape", [(1, 4), (3, 3), (2, 7), (6, 2)])
def test_spectral_bounds_hold_and_are_close(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(7)
    for width in (0.0, 1e-12, 1e-6, 1e-2, 1.0):
        middle = torch.from_numpy(
            random.normal(size=(40, *shape)) * 10.0 ** random.uniform(-6, 6, (40, 1, 1))
        )
        radius = middle.abs() * width * torch.from_numpy(random.random((40, *shape)))
        lower, upper = middle - radius, middle + radius
        bound = spectral(lower, upper)
        for _ in range(30):
            share = torch.from_numpy(random.choice([0.0, 1.0, 0.5], middle.shape))
            norm = torch.linalg.matrix_norm(torch.lerp(lower, upper, share), 2)
            assert (norm <= bound * (1 + 1e-13)).all()
        around = torch.linalg.matrix_norm(middle, 2) + torch.linalg.matrix_norm(radius, 2)
        assert (bound <= around * (1 + 1e-12)).all()
    zero = torch.zeros(2, *shape, dtype=torch.float64)
    assert (spectral(zero, zero) <= 1e-100).all()
    assert torch.isinf(spectral(zero - torch.inf, zero)).all()


def test_planes_of_a_product_with_a_step_of_unknown_sign_include_the_chords() -> None:
    """``min(g, 0) <= g d <= max(g, 0)``: with d in [0, 1] the product's planes at one weight are the chords of both.

    So no operator of its own is needed, and the lines of the step can make planes better than the chords.
    """

    def build(b, x):
        g, z = b.index(x, np.array([[0]])), b.index(x, np.array([[1]]))
        return b.binary("mul", g, b.unary("step", z, left=np.array(0.0), right=np.array(1.0)))

    graph = graph_of((1, 2), build)
    plan, target = Plan(graph), graph.outputs[0]
    low, high = -0.7, 1.9
    box = input_boxes(graph, np.array([low, -0.6]), np.array([high, 0.4]))
    boxes = interval_boxes(plan, box)
    share = torch.tensor([[high / (high - low)]], dtype=torch.float64)
    operator = plan.operators[target]
    assert isinstance(operator, Multivariate)
    operands = [boxes[i] for i in graph.nodes[target].inputs]
    below, above = operator.relax(plan.prepared[target], (share, share), *operands)
    chord = float(share)
    for plane, slope, offset in ((below, 1 - chord, -high * (1 - chord)), (above, chord, -low * chord)):
        assert float(plane.slopes[0]) == pytest.approx(slope) and float(plane.offset) == pytest.approx(offset)
        assert float(plane.slopes[1]) == pytest.approx(0, abs=1e-12)
    # What the starting planes give over the box is what the chords do.
    rows = torch.tensor([1.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1)
    plain = alpha(plan, box, target, rows, steps=0, magnitudes=Magnitudes(plan, boxes))
    assert plain.flatten().tolist() == pytest.approx([low, -high], abs=1e-9)


def test_both_children_of_a_split_at_a_kink_are_exact() -> None:
    """On ``z <= 0`` and on ``z >= 0`` the derivative of a relu is a number: no gap, and nothing between."""
    graph = jacobian(graph_of((1, 1), lambda b, x: b.unary("relu", x)))
    plan = Plan(graph)
    for ends, slope in (((-1.0, 0.0), 0.0), ((0.0, 1.0), 1.0)):
        box = tuple(torch.tensor([[end]], dtype=torch.float64) for end in ends)
        low, high = interval_boxes(plan, {0: box})[graph.outputs[0]]
        assert float(low) == slope == float(high)
