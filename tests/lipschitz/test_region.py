"""Boxes around a centre."""

from fractions import Fraction

import numpy as np
import pytest

from provenn.bounds.graph._builder import Builder
from provenn.bounds.graph._graph import Graph
from provenn.errors import InputError
from provenn.verifier.region import box, numbers


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


@pytest.mark.parametrize(
    "content",
    [b"1 2.5,-3e-2", b"\xef\xbb\xbf1; 2.5\n-0.03\n", b"# image 7\n1 # a pixel\n2.5\n-.03"],
    ids=["mixed", "byte order mark", "comments"],
)
def test_numbers_as_text(tmp_path, content):
    (tmp_path / "centre.txt").write_bytes(content)
    assert numbers(str(tmp_path / "centre.txt")).tolist() == [1.0, 2.5, -0.03]


def test_numbers_as_an_array(tmp_path):
    np.save(tmp_path / "centre.npy", np.array([[1, 2.5], [-0.03, 4]], np.float32))
    assert numbers(str(tmp_path / "centre.npy")).tolist() == [1.0, 2.5, float(np.float32(-0.03)), 4.0]


@pytest.mark.parametrize(
    ("array", "words"),
    [(np.array(["a"]), "expected real"), (np.array([0.0, np.nan]), "number 2 is"), (None, "save it again")],
)
def test_arrays_that_are_no_centre(tmp_path, array, words):
    path = tmp_path / "centre.npy"
    np.save(path, np.zeros(9) if array is None else array)
    if array is None:
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=words):
        numbers(str(path))


@pytest.mark.parametrize(("text", "words"), [("1_0", "number 1 is '1_0'"), (" ,\n", "holds no number")])
def test_text_that_is_no_centre(tmp_path, text, words):
    (tmp_path / "centre.txt").write_text(text)
    with pytest.raises(InputError, match=words):
        numbers(str(tmp_path / "centre.txt"))
