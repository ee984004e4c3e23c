"""Malformed or hostile properties of VNN-LIB 2: one error that names the place and says what to do."""

import re

import pytest

from provenn.errors import PropertyError, UnsupportedPropertyError
from provenn.specs import parse_query

VERSION = "(vnnlib-version <2.0>)\n"
X, Y = "(declare-input X float32 [1,2])", "(declare-output Y float32 [])"
BOX = "(assert (and (>= X[0,0] 0) (<= X[0,0] 1) (>= X[0,1] 0) (<= X[0,1] 1)))\n"
GOOD = VERSION + f"(declare-network f {X} {Y})\n" + BOX + "(assert (<= Y (+ X[0,0] 2)))"

ASSERTIONS = [
    # text on line 4, column, part of the message
    ("(assert (<= Z 1))", 13, "Z is not declared (declared: X, Y); mend the name"),
    ("(assert (<= X_0 1))", 13, "X_0 is not declared"),
    ("(assert (<= f 1))", 13, "f is a network; name an element of one of its tensors"),
    ("(assert (<= X 1))", 13, "X has shape [1, 2]; name one element, such as X[0,0]"),
    ("(assert (<= X[0] 1))", 13, "X has 2 dimensions, got 1 indices; write it like X[0,0]"),
    ("(assert (<= X[0,2] 1))", 13, "index 2 is out of range: dimension 1 of X has size 2; expected 0 to 1"),
    ("(assert (<= X[-1,0] 1))", 13, "'-1' is no index; write whole numbers from 0, such as X[0,0]"),
    ("(assert (<= X[0,0.0] 1))", 13, "'0.0' is no index"),
    ("(assert (<= X[0,] 1))", 13, "'' is no index"),
    (f"(assert (<= X[0,{'9' * 5000}] 1))", 13, "index 9999999999999999999999999999999999999.. is out of range"),
    ("(assert (<= Y[0] 1))", 13, "Y is a scalar; write it without an index"),
    (f"(assert (<= {'Z' * 5000} 1))", 13, "ZZZZ.. is not declared"),
    ("(assert (<= Y abc))", 15, "abc is not declared"),
    ("(assert (<= Y 1.0.0))", 15, "malformed number"),
    ("(assert (<= Y 1e999))", 15, "exceeds the range of float64"),
    (f"(assert (<= Y {'9' * 5000}))", 15, "exceeds the range of float64"),
    ("(assert (<= (+ Y 1e999) 1))", 18, "exceeds the range of float64"),
    ("(assert (<= (+ Y 1e9999999999) 1))", 18, "number out of range"),
    ("(assert (<= (/ Y 2) 1))", 13, "unknown arithmetic operator '/'; supported: + - *"),
    ("(assert (<= (+) Y))", 13, "(+) is empty; give it operands"),
    ("(assert (<= (+ Y (and)) 1))", 18, "supported: + - *"),
    ("(assert (<= Y 1 2))", 9, "<= takes two operands, got 3"),
    ("(assert (<= Y))", 9, "<= takes two operands, got 1"),
    ("(assert (=> (<= Y 1) (<= Y 2)))", 9, "unknown operator '=>'; supported: and, or, <=, <, >=, >, ==, !="),
    ("(assert (not (<= Y 1)))", 9, "unknown operator 'not'"),
    ("(assert (and))", 9, "(and) is empty"),
    ("(assert (<= Y 1) (<= Y 2))", 1, "assert takes one operand, got 2"),
    ("(assert (<= Y (<= Y 1)))", 15, "a formula stands where a number or variable is expected"),
    ("(assert (<= Y 1)", 1, "not closed"),
    ("(assert (<= Y 1)))", 18, "unexpected ')'"),
    ('(assert (<= Y "1))', 15, "this quote is not closed"),
    ("(declare-const X_0 Real)", 1, "unknown statement 'declare-const'; expected declare-network or assert"),
    ("(<= Y 1)", 1, "expected a statement (declare-network ..) or (assert ..)"),
    (f"(declare-network f {X} {Y})", 18, "f is declared twice; give every network and tensor a name of its own"),
    ("(vnnlib-version <2.0>)", 1, "a second version; remove one of them"),
    ("(assert (<= (* " + "Y " * 40 + ") 1))", 13, "a product of more than 32 variables is not supported"),
    ("(assert (<= (* " + "(+ X[0,0] X[0,1] Y 1) " * 32 + ") 1))", 13, "multiplies out to too many terms"),
    ("(assert (<= (* " + "0.1 " * 4000 + "Y) 1))", 13, "numbers with too many digits; write shorter ones"),
    ("(assert (<= (+ (* 1e-300 Y) (* 1e300 X[0,0])) 1))", 9, "coefficients differ by too many orders"),
    ("(assert (<= (+ (* 0.12345678901234567891 Y) X[0,0]) 1))", 9, "too many digits; write them with at most 15"),
    ("(assert (<= (* 1e30 X[0,0] 1e30 X[0,1]) 1))", 9, "may exceed the range of float32; rescale them"),
]  # fmt: skip
DECLARATIONS = [
    # network declaration on line 2, column, part of the message
    (f"(declare-network f {X})", 1, "network f declares no output; add (declare-output ..)"),
    (f"(declare-network f {Y})", 1, "network f declares no input; add (declare-input ..)"),
    (f"(declare-network {X} {Y})", 1, "malformed declaration; expected (declare-network name"),
    ("(declare-network f (declare-input X [2]))", 20, "expected (declare-input name float32 [1,2])"),
    ("(declare-network f (declare-input X float32))", 20, "expected (declare-input name float32 [1,2])"),
    ("(declare-network f (declare-hidden H real [8]))", 20, 'expected (declare-hidden name real [8] "name in the ONNX'),
    ("(declare-network f (declare-input X flort [2]))", 37, "unknown type 'flort'; expected one of float16"),
    ("(declare-network f (declare-input X int64 [2]))", 37, "type int64 cannot be decided; supported: float16"),
    ("(declare-network f (declare-input X float32 [2,0]))", 37, "'0' is no size of a dimension; expected whole"),
    ("(declare-network f (declare-input X float32 [N]))", 37, "'N' is no size of a dimension"),
    ("(declare-network f (declare-input X float32 [65536,65536]))", 20, "X makes it more than 2^31 elements; mend its"),
    (f"(declare-network f (declare-input X float32 [{'1,' * 40}1]))", 37, "a tensor of 41 dimensions"),
    ("(declare-network f (declare-input 1X float32 [2]))", 35, "'1X' is no name; expected a letter"),
    (f"(declare-network f {X} {X})", 67, "X is declared twice"),
    (f"(declare-network f {X} (declare-output Y float64 []))", 52, "Y is of type float64, X of type float32"),
    (f"(declare-network f (equal-to g) {X} {Y})", 30, "'g' is no network declared before f; name one of those"),
    (f"(declare-network f (equal-to f) {X} {Y})", 30, "'f' is no network declared before f"),
    (f"(declare-network f (equal-to) {X} {Y})", 20, "malformed relation; expected (equal-to name)"),
    (f"(declare-network f (same-as g) {X} {Y})", 20, "unknown declaration 'same-as'; expected declare-input"),
    ("(declare-network f (declare-input X float32 [1]) real)", 50, "malformed declaration; expected (declare-input"),
    (f"(declare-network f {X} {Y}) (declare-network g (equal-to f) (declare-input U float32 [2]) "
     "(declare-output V float32 []))", 115, "U has shape [2], X of f has [1, 2]; equal-to needs the same shapes"),
    (f"(declare-network f {X} {Y}) (declare-network g (equal-to f) (declare-input U float32 [2]) {X.replace('X', 'W')} "
     "(declare-output V float32 []))", 83, "g has 2 inputs, f has 1; equal-to needs the same interface"),
]  # fmt: skip


def refused(text, line, column, message):
    with pytest.raises(PropertyError) as caught:
        parse_query(text.encode(), "dir/p.vnnlib")
    report = str(caught.value)
    assert report.startswith(f"dir/p.vnnlib:{line}:{column}: "), report
    assert message in report and len(report) < 700
    return caught.value


@pytest.mark.parametrize(("text", "column", "message"), ASSERTIONS, ids=[case[0][:50] for case in ASSERTIONS])
def test_error_names_the_place(text, column, message):
    refused(VERSION + f"(declare-network f {X} {Y})\n" + BOX + text, 4, column, message)


@pytest.mark.parametrize(("text", "column", "message"), DECLARATIONS, ids=[case[0][:70] for case in DECLARATIONS])
def test_error_names_the_declaration(text, column, message):
    refused(VERSION + text + "\n" + BOX, 2, column, message)


def test_versions():
    rest = GOOD[len(VERSION) :]
    assert parse_query(GOOD.replace("2.0", "2.1").encode()).composition.version == "2.1"
    assert parse_query(rest.encode()).composition.version == "2.0"
    error = refused("(vnnlib-version <3.0>)\n" + rest, 1, 17, "VNN-LIB 3.0 is not supported; write the property in 2.0")
    assert isinstance(error, UnsupportedPropertyError)
    refused("(vnnlib-version 2.0)\n" + rest, 1, 1, "malformed version; expected (vnnlib-version <2.0>)")
    refused(VERSION + BOX, 1, 1, "no network is declared; expected (declare-network name")


def test_every_truncation_is_refused_or_says_less():
    ends = [end for end in range(len(GOOD)) if not raises(GOOD[:end])]
    assert {GOOD[:end].strip()[-3:] for end in ends} == {")))"} and len(ends) <= 2  # between assertions


def raises(text):
    try:
        parse_query(text.encode(), "p")
    except PropertyError as error:
        assert re.match(r"p:\d+:\d+: ", str(error))
        return True
    return False


def test_shapes_that_no_text_can_bound_take_no_memory():
    text = GOOD.replace("[1,2]", "[1,2000000000]")
    refused(text, 2, 20, "input X[0,2] has no bounds; add (assert (and (>= X[0,2] ..) (<= X[0,2] ..)))")


def test_nests_deeper_than_a_stack():
    depth = 5_000
    for opening in ("(+ ", "(- ", "(* 1 ", "(+ 1 "):
        assert parse_query((GOOD + f"(assert (<= {opening * depth}Y{')' * depth} 1))").encode()).clause_count == 1
    nested = "(and (<= Y 1) (or (>= Y 0) " * depth + "(!= Y 2)" + "))" * depth
    assert parse_query((GOOD + f"(assert {nested})").encode()).clause_count == depth + 2


def test_disjunctions_are_not_multiplied_out():
    query = parse_query((GOOD + "(assert (or (!= Y 1) (!= X[0,0] Y)))" * 200).encode())
    assert query.clause_count == 4**200
    assert next(query.batches(8)).count == 8
