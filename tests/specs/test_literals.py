"""Outward rounding of decimal literals."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provenn.specs._literals import exact_fraction, outward_lower, outward_upper, read_literals
from provenn.specs._scan import scan

digits = st.text("0123456789", max_size=25)
decimals = st.one_of(
    st.builds(
        lambda sign, whole, fraction, exponent: f"{sign}{whole or '0'}.{fraction}{exponent}",
        st.sampled_from(["", "-", "+"]),
        digits,
        digits,
        st.sampled_from(["", "e-3", "E+2", "e-40", "e20"]),
    ),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1, 1, width=32).map(lambda value: str(Decimal(value))),
    st.integers(-(2**70), 2**70).map(str),
    st.integers(-1000, 1000).map(lambda k: f"{k / 32:.10f}"),
)


@settings(max_examples=100, deadline=None)
@example(["0", "-0.0", "0.000", "10", "10.50", "1e-400", ".5", "5.", "9007199254740993", "1" + "0" * 60])
@example(["0.1e1", "0." + 80 * "0" + "1", "1e-99999999999999999999"])
@given(st.lists(decimals, min_size=1, max_size=8))
def test_outward(texts):
    tokens = scan(" ".join(texts).encode())
    nearest, exact = read_literals(tokens, np.arange(len(texts)))
    for name in ("float32", "float64"):
        element = np.dtype(name)
        upper, lower = outward_upper(nearest, exact, element), outward_lower(nearest, exact, element)
        for i, text in enumerate(texts):
            if "99999999999" in text and "e" in text:
                value = Fraction(1, 10**400)  # any positive number below float64's smallest
            else:
                value = Fraction(text)
            assert nearest[i] == float(value)
            assert exact[i] == (Fraction(float(value)) == value)
            with np.errstate(over="ignore"):
                rounded = float(nearest[i : i + 1].astype(element)[0])
            points = [value] + ([Fraction(rounded)] if np.isfinite(rounded) else [])
            if np.isfinite(upper[i]):
                assert max(points) <= Fraction(upper[i])
                assert upper[i] <= max(np.nextafter(nearest[i], np.inf), rounded)
            if np.isfinite(lower[i]):
                assert Fraction(lower[i]) <= min(points)
                assert lower[i] >= min(np.nextafter(nearest[i], -np.inf), rounded)
            if exact[i] and rounded == nearest[i]:
                assert lower[i] == upper[i] == nearest[i]


@given(decimals)
def test_exact_fraction(text):
    """Also a check of the test's own oracle."""
    assert exact_fraction(text) == Fraction(text)
