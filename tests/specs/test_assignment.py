"""Witnesses of VNN-LIB 2."""

import re

import numpy as np
import pytest

from provenn.errors import InputError
from provenn.specs import Composition, Network, Tensor, Witness, format_witness, parse_assignment

NETWORKS = (
    Network(
        "f",
        None,
        (Tensor("U", "float32", (1, 2)),),
        (Tensor("H", "float32", (), "h"),),
        (Tensor("P", "float32", (1,)),),
    ),
    Network("g", ("equal-to", "f"), (Tensor("V", "float32", (1, 2)),), (), (Tensor("Q", "float32", (1,)),)),
)
COMPOSITION = Composition(NETWORKS, "2.0")
TEXT = "U float32 [1,2]\n0.125\n-1.0\nH float32 []\n7.0\nP float32 [1]\n0.10000000149011612\n"
TEXT += "V float32 [1,2]\n1e-30\n2.0\nQ float32 [1]\nnan"
INPUTS, OUTPUTS = np.array([0.125, -1, 1e-30, 2]), np.array([7, np.float32(0.1), np.nan])


def test_text_of_every_tensor_in_order():
    assert format_witness(Witness(INPUTS, OUTPUTS), COMPOSITION) == TEXT
    for text in (TEXT, "sat\n" + TEXT + "\n\n", TEXT.replace(",", ", ")):
        inputs, outputs = parse_assignment(text, COMPOSITION, "float64")
        assert (inputs == INPUTS).all() and np.array_equal(outputs, OUTPUTS, equal_nan=True)
    assert parse_assignment(TEXT, COMPOSITION)[0].dtype == np.float32
    with pytest.raises(ValueError, match="finite"):
        format_witness(Witness(OUTPUTS[[0, 0, 0, 2]], OUTPUTS), COMPOSITION)
    with pytest.raises(ValueError, match="got 3 inputs and 3 outputs, expected 4 and 3"):
        format_witness(Witness(INPUTS[:3], OUTPUTS), COMPOSITION)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "w:1: got '', expected 'U float32 [1,2]'"),
        (TEXT.replace("U float32", "U float64"), "w:1: got 'U float64 [1,2]', expected 'U float32 [1,2]'"),
        (TEXT.replace("H float32 []\n7.0\n", ""), "w:4: got 'P float32 [1]', expected 'H float32 []'"),
        (TEXT.replace("0.125\n-1.0", "0.125 -1.0"), "w:2: got '0.125 -1.0', expected one number of U"),
        (TEXT.replace("\nnan", ""), "w:11: ends after 0 of the 1 numbers of Q"),
        (TEXT + "\n1.0", "w:13: got '1.0' behind the last tensor; remove it"),
        ("((X_0 0.5))", "w:1: got '((X_0 0.5))', expected 'U float32 [1,2]'"),
    ],
)
def test_what_is_no_assignment_is_refused_with_its_line(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse_assignment(text, COMPOSITION, path="w")
