"""Every operator against the real function: 10,000 boxes, slopes and argument positions each, without tolerance.

``benchmarks/soundness.py`` draws any number more.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import OPS, LinearOperator, prepare, relaxation

from .conformance import CHECKS, Check, planes, univariate
from .conformance.cases import CASES, FLOAT, Case
from .conformance.reference import DOUBT, ENOUGH, LONG, on_numbers

if not ENOUGH:
    pytest.skip("needs a long double of 64 bits", allow_module_level=True)

COUNT = 10_000
MORE_CONSTANTS = 2_500
"""Cases for each further set of constants of an operator."""

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_bounds_hold(check: Check):
    found = check.run(COUNT if check.first else MORE_CONSTANTS, 1)
    assert found.violations == 0, "\n".join(found.examples)


@every_case
def test_float32_is_sound_up_to_its_own_rounding(case: Case):
    """Lines in float32 only guide the search; they may be off by 64 roundings of the terms involved."""
    found = univariate.check(case, 600, 1, torch.float32)
    assert found.violations == 0, "\n".join(found.examples)


@pytest.mark.parametrize("pair", planes.PAIRS, ids=lambda pair: pair.name)
def test_planes_in_float32_are_sound_up_to_rounding(pair: planes.Pair):
    found = planes.check(pair, 2, 1000, 1, torch.float32)
    assert found.violations == 0, "\n".join(found.examples)


def test_windows_in_float32_are_sound_up_to_rounding():
    found = planes.check_windows(1000, 1, torch.float32)
    assert found.violations == 0, "\n".join(found.examples)


def test_every_operator_has_a_check():
    """A new record needs a line in a table of ``conformance``; linear ones are tested with their transposes."""
    assert {check.operator for check in CHECKS} == {
        name for name, record in OPS.items() if not isinstance(record, LinearOperator)
    }


@every_case
def test_references_agree_with_many_bits(case: Case):
    """At 200 points of all magnitudes: within what the comparisons allow, less their own roundings."""
    random = np.random.default_rng(5)
    size = 10.0 ** random.uniform(-8, 4, 80) * random.choice([-1.0, 1.0], 80)
    near = np.clip(case.domain, -50.0, 50.0) if case.name != "tan" else np.array(case.domain)
    far = np.clip(case.domain, -1e4, 1e4)
    x = [
        size,
        random.uniform(*near, 80),
        np.linspace(*far, 20),
        case.special + 1e-9,
        np.nextafter(case.special, 9),
    ]
    x = np.concatenate(x)
    x = np.clip(x, *case.domain).astype(LONG)
    x = x[x != 0]
    with np.errstate(over="ignore", under="ignore"):
        value, truth = case.reference(x), on_numbers(case.exact, x)
        scale = np.abs(truth) if case.size is None else case.size(x)
    tiny = np.abs(truth) <= np.finfo(LONG).tiny  # underflow: only the sign counts
    assert (np.abs(value - truth) <= 0.75 * DOUBT * scale)[~tiny].all()
    assert (np.sign(value) == np.sign(truth))[tiny & (truth != 0)].all()


# -- what larger runs found ----------------------------------------------------------------------------------


def record(name: str, shape: tuple[int, ...] = (1,), **attributes):
    return OPS[name], prepare(Node(name, (0,), shape, attributes), (shape,), FLOAT, torch.device("cpu"))


def test_a_slope_next_to_the_derivative_of_selu_at_0():
    """``gamma alpha`` is 1e-17 above the slope, and the quotient of both rounds to 1: the root is not 0."""
    op, p = record("selu", alpha=np.array(1.6732632423543772), gamma=np.array(1.0507009873554805))
    slope, low = torch.tensor([1.7580993408473766], dtype=FLOAT), torch.tensor([-0.02], dtype=FLOAT)
    offset = relaxation.lower_offset(op, p, slope, low, torch.zeros_like(low)).item()
    x = -(LONG(2.0) ** -58)
    value = LONG(1.0507009873554805) * LONG(1.6732632423543772) * np.expm1(x)
    assert value - LONG(slope.item()) * x < -1e-34
    assert -1e-28 < offset <= value - LONG(slope.item()) * x


def test_a_slope_of_the_reciprocal_below_the_normal_range():
    """``1/x + 5e-324 x`` is least at 4.5e161; the root of the least normal number is 6.7e153."""
    op, p = record("reciprocal")
    slope, low, high = (torch.tensor([x], dtype=FLOAT) for x in (-5e-324, 2.0, 1e190))
    x = 1 / np.sqrt(LONG(5e-324))
    least = 1 / x + LONG(5e-324) * x
    assert 0.9 * least < relaxation.lower_offset(op, p, slope, low, high).item() <= least


def test_softmax_whose_exponentials_underflow():
    """``exp(-0.2 - 724.3)`` keeps nine digits; the lower bound that was made of it was above the value."""
    op, p = record("softmax", (2,), axis=0)
    lower, upper = (
        torch.tensor([ends], dtype=FLOAT)
        for ends in ([265.60021217402914, -0.20099047576635798], [265.6002121740294, 724.2676623393376])
    )
    low, high = op.interval(p, (lower, upper))
    x = LONG(lower[0, 1].item()) - LONG(upper[0, 0].item())
    assert LONG(low[0, 1].item()) <= np.exp(x) / (1 + np.exp(x)) <= LONG(high[0, 1].item())
    assert low[0, 1].item() == 0.0
