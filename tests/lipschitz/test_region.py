"""Boxes around a centre."""

from fractions import Fraction

import numpy as np
import pytest

from provenn.bounds.graph._builder import Builder
from provenn.bounds.graph._graph import Graph
from provenn.verifier.region import box


@pytest.fixture
def graph():
    builder = Builder()
    builder.name, builder.origin = "x", "input 'x'"
    x = builder.emit("input", (), (1, 200), "float64")
    return Graph(tuple(builder.nodes), (x.index,), (x.index,))


@pytest.mark.parametrize("radius", [0.0, 0.5, 0.1, 3e-9, 1e300, 5e-324])
def test_ends_are_the_nearest_numbers_outside(graph, tmp_path, radius):
    random = np.random.default_rng(0)
    centre = np.append(random.normal(size=199) * 10.0 ** random.integers(-12, 12, 199), 0.5)
    (tmp_path / "centre.txt").write_text(" ".join(map(repr, centre.tolist())))
    lower, upper = box(graph, None, str(tmp_path / "centre.txt"), radius)
    for x, low, high in zip(centre.tolist(), lower.tolist(), upper.tolist(), strict=True):
        exact = Fraction(x) - Fraction(radius), Fraction(x) + Fraction(radius)
        assert Fraction(low) <= exact[0] < Fraction(float(np.nextafter(low, np.inf)))
        assert Fraction(float(np.nextafter(high, -np.inf))) < exact[1] <= Fraction(high)


def test_an_infinite_radius_is_the_whole_space(graph, tmp_path):
    (tmp_path / "centre.txt").write_text("0 " * 200)
    lower, upper = box(graph, None, str(tmp_path / "centre.txt"), float("inf"))
    assert (lower == -np.inf).all() and (upper == np.inf).all()
