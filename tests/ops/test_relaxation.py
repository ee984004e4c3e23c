"""Hand-computed relaxations, and the boxes on which published tangent tables are wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import OPS, prepare, relaxation

FLOAT = torch.float64


def record(name: str, dtype=FLOAT, **attributes):
    return OPS[name], prepare(Node(name, (0,), (1,), attributes), ((1,),), dtype, torch.device("cpu"))


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=FLOAT)


def numbers(lines) -> list[float]:
    return [line.item() for line in lines]


def test_relu_lines_are_crowns():
    op, p = record("relu")
    kl, bl, ku, bu = relaxation.lines(op, p, tensor(-2.0, -1.0), tensor(1.0, 3.0))
    assert kl.tolist() == [0.0, 1.0]
    assert bl.tolist() == [0.0, 0.0]
    assert ku.tolist() == pytest.approx([1 / 3, 3 / 4])
    assert bu.tolist() == pytest.approx([2 / 3, 3 / 4])


@pytest.mark.parametrize(
    ("low", "high", "slope"), [(0.0, 2.0, 1.0), (1e-300, 5.0, 1.0), (-3.0, 0.0, 0.0), (-2.0, -1.0, 0.0)]
)
def test_a_stable_relu_adds_nothing(low, high, slope):
    op, p = record("relu")
    for given in (None, tensor(0.3)):
        assert numbers(relaxation.lines(op, p, tensor(low), tensor(high), given, given)) == [
            slope,
            0.0,
            slope,
            0.0,
        ]
    assert numbers(relaxation.slope_range(op, p, tensor(low), tensor(high))) == [slope] * 4


def test_useful_relu_slopes():
    op, p = record("relu")
    assert numbers(relaxation.slope_range(op, p, tensor(-1.0), tensor(3.0))) == [0.0, 1.0, 0.75, 0.75]


def test_useful_leaky_relu_slopes_swap_when_it_is_concave():
    op, p = record("leaky_relu", slope=np.array(3.0))
    assert numbers(relaxation.slope_range(op, p, tensor(-1.0), tensor(1.0))) == [2.0, 2.0, 1.0, 3.0]


def test_sign_lines_of_a_split_box():
    """On [0, u] the value 0 at 0 counts; on the open side, whose end is the adjacent number, sign is 1."""
    op, p = record("sign")
    assert numbers(op.interval(p, tensor(0.0), tensor(2.0))) == [0.0, 1.0]
    zero, one = tensor(0.0), tensor(1.0)
    assert relaxation.lower_offset(op, p, zero, tensor(0.0), tensor(2.0)).item() == 0.0
    assert relaxation.upper_offset(op, p, zero, tensor(-2.0), tensor(0.0)).item() == 0.0
    positive = relaxation.open_end(tensor(0.0), tensor(2.0))
    assert positive.item() > 0
    assert numbers(relaxation.lines(op, p, positive, tensor(2.0))) == [0.0, 1.0, 0.0, 1.0]
    negative = relaxation.open_end(tensor(0.0), tensor(-2.0))
    assert numbers(relaxation.lines(op, p, tensor(-2.0), negative)) == [0.0, -1.0, 0.0, -1.0]
    # any other slope still holds up to the open end
    assert relaxation.upper_offset(op, p, one, positive, tensor(2.0)).item() >= 1.0


def test_sign_upper_line_spans_the_jump():
    """On [-2, 1] the envelope at -0.5 is the line through (-2, -1) and (0, 1)."""
    op, p = record("sign")
    _, _, ku, bu = relaxation.lines(op, p, tensor(-2.0), tensor(1.0))
    assert ku.item() == pytest.approx(1.0)
    assert bu.item() == pytest.approx(1.0)


def test_floor_over_a_wide_box_lies_between_x_minus_1_and_x():
    op, p = record("floor")
    kl, bl, ku, bu = numbers(relaxation.lines(op, p, tensor(-1000.5), tensor(2000.25)))
    assert (kl, ku) == pytest.approx((1.0, 1.0))
    assert bl == pytest.approx(-1.0, abs=1e-9)
    assert bu == pytest.approx(0.0, abs=1e-9)


def test_sigmoid_lines_of_a_symmetric_box_are_the_tangents_from_the_ends():
    """On [-4, 4] the upper line starts at (-4, s(-4)) and touches the right half; the lower mirrors it."""
    op, p = record("sigmoid")
    kl, bl, ku, bu = numbers(relaxation.lines(op, p, tensor(-4.0), tensor(4.0)))
    assert kl == pytest.approx(ku, rel=1e-6)
    assert bl + bu == pytest.approx(1.0, rel=1e-6)
    ends = torch.sigmoid(tensor(-4.0)).item()
    assert -4 * ku + bu == pytest.approx(ends, abs=1e-9)
    touching = np.linspace(0, 4, 4001)
    rest = ku * touching + bu - 1 / (1 + np.exp(-touching))
    assert rest.min() == pytest.approx(0.0, abs=1e-7)


def test_a_given_slope_is_kept_and_its_offset_is_best():
    op, p = record("tanh")
    kl, bl, ku, bu = numbers(relaxation.lines(op, p, tensor(0.0), tensor(2.0), tensor(0.5), tensor(0.5)))
    assert (kl, ku) == (0.5, 0.5)
    assert bu == pytest.approx(np.sqrt(0.5) - 0.5 * np.arctanh(np.sqrt(0.5)), rel=1e-12)
    assert bl == pytest.approx(min(0.0, np.tanh(2.0) - 1.0), rel=1e-12)


# -- boxes from DESIGN 5 that break tables of tangents --------------------------------------------------

BREAKERS = [
    ("pow", 1.96, 4.84, {"exponent": 4.0}, lambda x: x**4),
    ("sin", -0.0522, 4.5083, {}, np.sin),
    ("cos", 5.132, 9.0777, {}, np.cos),
    ("tan", -1.1995, -0.2116, {}, np.tan),
    ("tan", 0.1998, 1.1955, {}, np.tan),
    *[("gelu", low, high, {}, None) for low in (1e-9, 1e-3, 0.005, 0.0099) for high in (0.02, 1.0, 3.0)],
]


@pytest.mark.parametrize(("name", "low", "high", "attributes", "f"), BREAKERS)
def test_published_breakers(name, low, high, attributes, f):
    op, p = record(name, **attributes)
    x = np.linspace(low, high, 20001).clip(low, high)
    value = op.evaluate(p, torch.from_numpy(x)).numpy() if f is None else f(x)
    kl, bl, ku, bu = numbers(relaxation.lines(op, p, tensor(low), tensor(high)))
    assert (kl * x + bl <= value + 1e-12 * np.abs(value)).all()
    assert (value <= ku * x + bu + 1e-12 * np.abs(value)).all()
    below, above = numbers(op.interval(p, tensor(low), tensor(high)))
    assert below <= value.min() and value.max() <= above
    assert above - below <= (value.max() - value.min()) * (1 + 1e-6) + 1e-10


def test_published_figures():
    op, p = record("pow", exponent=4.0)
    assert op.interval(p, tensor(1.96), tensor(4.84))[1].item() >= 548.7
    op, p = record("sin")
    assert op.interval(p, tensor(-0.0522), tensor(4.5083))[0].item() <= -0.979
    op, p = record("cos")
    assert op.interval(p, tensor(5.132), tensor(9.0777))[0].item() <= -0.9403


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("log", -1.0, 2.0), ("sqrt", -0.5, 1.0), ("reciprocal", -1.0, 2.0), ("tan", 1.0, 2.0)],
)
def test_a_box_that_leaves_the_domain_proves_nothing(name, low, high):
    op, p = record(name)
    kl, bl, ku, bu = numbers(relaxation.lines(op, p, tensor(low), tensor(high)))
    assert (kl, bl) == (0.0, -np.inf) or name == "sqrt"
    assert bl == -np.inf or bl <= 0.0
    assert (ku, bu) == (0.0, np.inf)


def test_a_power_with_several_exponents_is_refused():
    op, p = record("pow", exponent=np.array([2.0, 3.0]))
    with pytest.raises(NotImplementedError, match=r"exponent=\[2.0, 3.0\]"):
        op.evaluate(p, tensor(1.0, 2.0))


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_a_wave_that_bends_one_way_has_chord_and_tangent(name):
    """Between two zeros, of either sign and far from 0: what the search finds, which any other box still needs."""
    op, p = record(name)
    function = getattr(torch, name)
    zeros = (torch.arange(-7, 7, dtype=FLOAT) + (0.5 if name == "cos" else 0.0)) * np.pi
    lower, upper = zeros + 0.2, zeros + 2.6
    kl, _, ku, _ = relaxation.lines(op, p, lower, upper)
    chord = (function(upper) - function(lower)) / (upper - lower)
    tangent = op.derivative(p, 0.5 * (lower + upper))
    bowl = function(zeros + 1.0) < 0
    torch.testing.assert_close(kl, torch.where(bowl, tangent, chord))
    torch.testing.assert_close(ku, torch.where(bowl, chord, tangent))
    assert op.start(p, lower, upper + 1.0) is None
    assert op.start(p, lower, upper + torch.inf) is None
