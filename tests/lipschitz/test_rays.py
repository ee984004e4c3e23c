"""Searches for large norms in thin regions."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph.lattice import lattice
from provenn.verifier.crossings import Crossings
from provenn.verifier.gradients import Gradients

from ..jacobian.made import graph_of
from .small import drawn_layers

INFINITY = torch.full((5,), torch.inf, dtype=torch.float64)


def tent(height: float = 1e4) -> Graph:
    """``sum(x) + relu(1 - height |x - c|_1)`` of five inputs: steep in a small ball around ``c`` alone."""
    centre = np.array([0.3, -1.2, 2.5, 0.7, -0.4])

    def build(b, x):
        away = b.unary("abs", b.linear(x, Constant(np.eye(5)), Constant(-centre)))
        bump = b.unary("relu", b.linear(away, Constant(np.full((5, 1), -height)), Constant(np.ones(1))))
        return b.emit("add", (bump, b.linear(x, Constant(np.ones((5, 1))), Constant(np.zeros(1)))), (1, 1))

    return graph_of((1, 5), build)


def test_annealing_enters_a_region_that_climbing_misses() -> None:
    """The largest norm is sqrt(5) (1 + height), where all kinks meet."""
    until, exact = time.monotonic() + 600, 5**0.5 * (1 + 1e4)
    climbed, annealed = (Gradients(tent(), -INFINITY, INFINITY, "2", None) for _ in range(2))
    with torch.no_grad():
        climbed.climb(5, until)
        annealed.anneal(20, until)
    assert climbed.lower < 0.9 * exact
    assert exact * (1 - 1e-6) <= annealed.lower <= exact * (1 + 1e-9)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_annealing_reaches_the_largest_of_all_regions_in_a_box(norm: str) -> None:
    layers = drawn_layers(4, 3, 5, 4, 2)
    lower, upper = np.full(3, -1.0), np.full(3, 1.0)
    found = Gradients(layers.graph(), torch.from_numpy(lower), torch.from_numpy(upper), norm, None)
    with torch.no_grad():
        found.anneal(40, time.monotonic() + 600)
    assert found.lower == pytest.approx(layers.constant(lower, upper, norm), rel=1e-6)
    assert bool(((found.point >= -1) & (found.point <= 1)).all())


def test_rays_enter_every_segment() -> None:
    """Along a line through a one-dimensional network each linear piece is visited once it is passed."""
    places = np.linspace(-3, 3, 13)

    def build(b, x):
        steps = b.unary("relu", b.linear(x, Constant(np.ones((1, 13))), Constant(-places)))
        return b.linear(steps, Constant(np.ones((13, 1))), Constant(np.zeros(1)))

    end = torch.full((1,), torch.inf, dtype=torch.float64)
    found = Gradients(graph_of((1, 1), build), -end, end, "2", None)
    passed, owners = found._rays.passed(torch.tensor([[0.1]], dtype=torch.float64))
    assert set(np.searchsorted(places, passed[:, 0].numpy()).tolist()) == set(range(14))
    assert owners.tolist() == [0] * len(passed)


def test_fixed_inputs_stay() -> None:
    """A box that is a point in some inputs, infinite in others."""
    lower = torch.tensor([0.31, -torch.inf, 2.49, -torch.inf, -0.39], dtype=torch.float64)
    upper = torch.tensor([0.31, torch.inf, 2.49, torch.inf, -0.39], dtype=torch.float64)
    found = Gradients(tent(10.0), lower, upper, "2", None)
    with torch.no_grad():
        found.anneal(10, time.monotonic() + 600)
    assert found.lower == pytest.approx(525**0.5, rel=1e-6)  # slopes -9, 11, 11, 11, -9
    assert bool(((found.point >= lower) & (found.point <= upper)).all())


def test_smooth_and_large_networks_are_climbed() -> None:
    def layers(width: int, activation: str) -> Gradients:
        return Gradients(drawn_layers(0, 5, width, 2).graph(activation), -INFINITY, INFINITY, "2", None)

    assert layers(20, "relu").anneals
    assert not layers(20, "tanh").anneals and not layers(400, "relu").anneals


def test_one_kink_is_crossed_and_all_others_keep_their_distance() -> None:
    found = Crossings(drawn_layers(7, 12, 9, 2).graph(), torch.Generator().manual_seed(0))
    assert found.flips
    points = torch.randn(6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = found.heights(points)
    after = found.heights(found.flipped(points)).view(6, -1, 9)
    crossed = (after < 0) != (before[:, None] < 0)
    assert (crossed.sum(2) == 1).all() and (crossed.sum(1) == 1).all()
    assert ((after - before[:, None]).abs()[~crossed] < 1e-5).all()


def test_kinks_of_later_layers_are_crossed_too() -> None:
    """Their heights depend on earlier ones, which then change a little."""
    found = Crossings(drawn_layers(7, 12, 5, 4, 2).graph(), torch.Generator().manual_seed(0))
    points = torch.randn(6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    crossed = (found.heights(found.flipped(points)).view(6, -1, 9) < 0) != (found.heights(points)[:, None] < 0)
    share, number = crossed.any(1).double().mean(), crossed.sum(2).double().mean()
    assert share > 0.6 and 0.6 < number < 2, (share, number)


def test_kinks_beyond_the_inputs_are_not_flipped() -> None:
    assert not Crossings(drawn_layers(7, 8, 5, 4, 2).graph(), torch.Generator()).flips


def test_flips_find_the_best_of_all_choices() -> None:
    """8 sorted pairs of 32 inputs: all 256 choices have a region, that of the largest norm is one."""
    random = np.random.default_rng(5)
    first, second = random.normal(size=(32, 16)), random.normal(size=(16, 3))

    def build(b, x):
        z = b.linear(x, Constant(first))
        parts = [b.index(z, np.arange(k, 16, 2)[None]) for k in (0, 1)]
        return b.linear(b.concat([b.emit(name, parts, (1, 8)) for name in ("min", "max")], 1), Constant(second))

    swaps = [np.array([[1, 0], [0, 1]]), np.array([[0, 1], [1, 0]])]
    best = 0.0
    for choice in itertools.product((0, 1), repeat=8):
        lower = np.array([2 * k + swaps[c][0].argmax() for k, c in enumerate(choice)])
        upper = np.array([2 * k + swaps[c][1].argmax() for k, c in enumerate(choice)])
        best = max(best, np.linalg.norm(first[:, np.concatenate([lower, upper])] @ second, 2))
    ends = torch.full((32,), torch.inf, dtype=torch.float64)
    climbed = Gradients(lattice(graph_of((1, 32), build)), -ends, ends, "2", None)
    with torch.no_grad():
        climbed.climb(12, time.monotonic() + 600)
    assert best * (1 - 1e-6) <= climbed.lower <= best * (1 + 1e-9)
