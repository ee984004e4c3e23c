"""Lipschitz constants of small ReLU networks against all of their linear regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph._constants import Constant
from provenn.verifier import local_lipschitz
from provenn.verifier.gradients import Gradients, matrix_norm

from ..jacobian.made import at, graph_of
from .small import Layers, drawn_layers

LOWER, UPPER = np.array([-1.0, -0.5]), np.array([0.75, 1.0])


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize(("seed", "output"), [(1, None), (1, 0), (2, None), (3, 1)])
def test_bounds_meet_at_the_constant(seed: int, norm: str, output: int | None) -> None:
    layers = drawn_layers(seed, 2, 3, 3, 2)
    constant = layers.constant(LOWER, UPPER, norm, output)
    found = local_lipschitz(layers.graph(), LOWER, UPPER, norm, output, tolerance=0.02, timeout=100)
    assert found.norm == norm
    assert found.lower <= constant * (1 + 1e-9) and constant * (1 - 1e-9) <= found.upper
    assert found.upper <= found.lower * 1.0201
    assert ((found.point >= LOWER) & (found.point <= UPPER)).all()


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_the_norm_at_the_point_is_the_lower_bound(norm: str) -> None:
    graph = drawn_layers(5, 2, 4, 3, 2).graph()
    found = local_lipschitz(graph, LOWER, UPPER, norm, timeout=1)
    gradients = Gradients(graph, torch.from_numpy(LOWER), torch.from_numpy(UPPER), norm, None)
    beside = torch.from_numpy(found.point) + 1e-9 * torch.randn(200, 2, dtype=torch.float64)
    largest = float(matrix_norm(at(gradients.made, beside), norm).max())
    assert largest == pytest.approx(found.lower, rel=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_a_tree_that_has_to_stop_early_is_not_below_the_constant(seed: int) -> None:
    layers = drawn_layers(20 + seed, 3, 4, 3, 2)
    lower, upper = -np.ones(3), np.ones(3)
    for norm in ("2", "inf"):
        constant = layers.constant(lower, upper, norm)
        for timeout in (1e-9, 0.3):
            found = local_lipschitz(layers.graph(), lower, upper, norm, timeout=timeout)
            assert found.lower <= constant * (1 + 1e-9) and constant * (1 - 1e-9) <= found.upper, (norm, timeout)


def hinge(weights: list[float], steep: list[float], bias: list[float]) -> Layers:
    """``sum steep relu(weights x + bias)``."""
    return Layers([np.array([weights]), np.array(steep)[:, None]], [np.array(bias), np.zeros(1)])


@pytest.mark.parametrize(
    ("layers", "lower", "upper", "constant"),
    [
        # relu(x) + 2 relu(x - 0.5): 3 beyond the second kink, which lies inside, on the end, or just not in the box.
        (hinge([1, 1], [1, 2], [0, -0.5]), -1, 1, 3),
        (hinge([1, 1], [1, 2], [0, -0.5]), -1, 0.25, 1),
        (hinge([1, 1], [1, 2], [0, -0.5]), 0.5, 1, 3),
        # |x| from two relus: both sides of the kink have 1, no side has 2.
        (hinge([1, -1], [1, 1], [0, 0]), -1, 1, 1),
        (hinge([1, -1], [1, 1], [0, 0]), 0, 1, 1),
        # A spike: relu(x) - 2 relu(x - 0.25) + relu(x - 0.5) with steep sides.
        (hinge([1, 1, 1], [40, -80, 40], [0, -0.25, -0.5]), -1, 1, 40),
    ],
)
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_kinks_count_with_the_sides_that_there_are(
    layers: Layers, lower: float, upper: float, constant: float, norm: str
) -> None:
    found = local_lipschitz(layers.graph(), lower, upper, norm, timeout=10)
    assert constant * (1 - 2e-3) <= found.lower <= constant
    assert constant <= found.upper <= constant * (1 + 2e-3)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_two_kinks_in_one_place_are_not_taken_for_a_point_that_has_both(norm: str) -> None:
    """relu(x) - relu(-x) is x. The upper bound may be 2, which the point 0 alone is in no way to exclude."""
    found = local_lipschitz(hinge([1, -1], [1, -1], [0, 0]).graph(), -1.0, 1.0, norm, timeout=2)
    assert 1 - 1e-9 <= found.lower <= 1 <= found.upper <= 2 + 1e-9


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_a_kink_on_the_boundary_may_count_with_both_sides(norm: str) -> None:
    """relu(-x) over [0, 1]: 0 inside, 1 just outside; every answer is 0 to 1, and the upper bound holds Clarke's."""
    found = local_lipschitz(hinge([-1], [1], [0]).graph(), 0.0, 1.0, norm, timeout=1)
    assert 0 <= found.lower <= 1 <= found.upper <= 1 + 1e-9


@pytest.mark.parametrize("operator", ["max", "min"])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_pairwise_maxima(operator: str, norm: str) -> None:
    """max(3 x0, 2 x1): the slope is (3, 0) or (0, 2), never both."""

    def build(b, x):
        first = b.linear(x, Constant(np.array([[3.0], [0.0]])), None)
        second = b.linear(x, Constant(np.array([[0.0], [2.0]])), None)
        return b.emit(operator, (first, second), (1, 1))

    found = local_lipschitz(graph_of((1, 2), build), -1.0, 1.0, norm, timeout=10)
    assert 3 * (1 - 2e-3) <= found.lower <= 3 * (1 + 1e-12) and 3 * (1 - 1e-12) <= found.upper <= 3 * (1 + 2e-3)
