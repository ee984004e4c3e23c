"""Malformed properties: the error names file, line, column, and says what to do."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenn.errors import InputError, PropertyError
from provenn.specs import parse_query, read_query

HEAD = (
    "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
)
BOX = "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= X_1 0))(assert (<= X_1 1))\n"
GOOD = HEAD + BOX + "(assert (or (and (<= Y_0 0.5) (>= Y_1 1e-3)) (<= Y_0 (+ Y_1 2)))) ; end\n"

CASES = [
    # assertions, line, column, part of the message
    ("(assert (>= X_0 2))", 6, 9, "contradictory bounds: X_0 has lower bound 2.0 and upper bound 1.0"),
    ("(assert (<= Y_0 0.5)", 6, 1, "not closed"),
    ("(assert (<= Y_0 0.5)))", 6, 22, "unexpected ')'"),
    ("(assert (<= Y_2 0.5))", 6, 13, "Y_2 is not declared"),
    ("(assert (<= X_7 0.5))", 6, 13, "X_7 is not declared"),
    ("(assert (<= Y_0 (* 2 Y_9)))", 6, 22, "Y_9 is not declared"),
    ("(assert (<= Y_0 0.5.1))", 6, 17, "malformed number"),
    ("(assert (<= Y_0 abc))", 6, 17, "expected a variable"),
    ("(assert (<= Y_0 nan))", 6, 17, "expected a variable"),
    ("(assert (<= Y_0 1_0))", 6, 17, "expected a variable or a decimal number"),
    ("(assert (<= Y_0 1e999))", 6, 17, "range of float64"),
    ("(assert (<= Y_0 (+ 1e999 Y_1)))", 6, 9, "range of float64"),
    ("(assert (<= Y_0 (+ 1e99999999 Y_1)))", 6, 20, "out of range"),
    ("(assert (<= 0.5 1))", 6, 9, "compares two numbers"),
    ("(assert (<= (+ 1 2) 1))", 6, 9, "compares two numbers"),
    ("(assert (<= X_0 X_1))", 6, 9, "relates an input"),
    ("(assert (<= X_0 Y_1))", 6, 9, "relates an input"),
    ("(assert (<= (0.744 (- Y_0 (+ (* 13.9 X_1))))))", 6, 13, "unknown arithmetic operator"),
    ("(assert (<= Y_0 (/ Y_1 2)))", 6, 17, "supported: + - *"),
    ("(assert (<= Y_0 (* Y_1 Y_1)))", 6, 17, "not linear"),
    ("(assert (<= Y_0 Y_1 0))", 6, 9, "two operands"),
    ("(assert (<= Y_0))", 6, 9, "two operands"),
    ("(assert (!= Y_0 Y_1))", 6, 9, "unknown operator '!='"),
    ("(assert (=> (<= Y_0 0) (<= Y_1 0)))", 6, 9, "unknown operator '=>'"),
    ("(assert (or))", 6, 9, "(or) is empty"),
    ("(assert (or (and) (<= Y_0 0)))", 6, 13, "(and) is empty"),
    ("(assert)", 6, 1, "(assert) is empty"),
    ("(assert (<= Y_0 0) (<= Y_1 0))", 6, 1, "assert takes one operand, got 2"),
    ("(assert (and (assert (<= Y_0 0)) (<= Y_1 0)))", 6, 14, "assert inside an assertion"),
    ("(<= Y_0 0)", 6, 1, "expected a statement"),
    ("(or (<= Y_0 0))", 6, 1, "expected a statement"),
    ("hello", 6, 1, "expected a statement"),
    ("(push 1)", 6, 1, "unknown statement 'push'"),
    ("(check-sat) (assert (<= Y_0 0.5))", 6, 14, "an assertion behind (check-sat); put it before"),
    ("(assert (let ((a Y_0)) (<= a 0.5)))", 6, 10, "let is not supported; write out"),
    ("(define-fun a () Real 0.5) (assert (<= Y_0 a))", 6, 2, "define-fun is not supported; write out"),
    ("(declare-const Y_1 Real)", 6, 16, "Y_1 is declared twice; remove one of them"),
    ("(declare-const Y_9 Real)", 6, 16, "Y_2 is not"),
    ("(declare-const Z_0 Real)", 6, 16, "expected a variable"),
    ("(declare-const Y_2 Bool)", 6, 20, "unsupported type"),
    ("(declare-const Y_2)", 6, 1, "malformed declaration"),
    ("", 6, 1, "no assertion mentions an output"),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), CASES, ids=[case[0] for case in CASES])
def test_error_names_the_place(text, line, column, message):
    with pytest.raises(PropertyError) as caught:
        parse_query((HEAD + BOX + text).encode(), "dir/p.vnnlib")
    report = str(caught.value)
    assert report.startswith(f"dir/p.vnnlib:{line}:{column}: "), report
    assert message in report
    shown, mark = report.split("\n")[1:]
    assert shown.strip() == text and len(mark) == 4 + column


def test_unbounded_input_is_named():
    with pytest.raises(PropertyError, match=r"p:2:16: input X_1 has no upper bound"):
        parse_query((HEAD + "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= X_1 0))").encode(), "p")
    text = HEAD + "(assert (>= X_0 0))(assert (<= X_0 1))(assert (or (= X_1 0) (<= Y_0 0)))"
    with pytest.raises(PropertyError, match="input X_1 has no lower bound in some clause"):
        parse_query(text.encode(), "p")


def test_counts_of_another_network():
    for counts, part in (((3, 2), "declares 2 inputs, the network has 3"), ((2, 5), "2 outputs")):
        with pytest.raises(PropertyError, match=part):
            parse_query(GOOD.encode(), "p", *counts)
    place = r"^p:3:1: .* network has 3; is .*another network\?\n +\(declare-const X_0 Real"
    with pytest.raises(PropertyError, match=place):
        parse_query(b"; a comment\n\n" + GOOD.encode(), "p", 3, 2)
    with pytest.raises(PropertyError, match=r"network has 1; dimension 'M' is symbolic\n"):
        parse_query(GOOD.encode(), "p", 1, 2, note="dimension 'M' is symbolic")
    assert parse_query(GOOD.encode(), "p", 2, 2).clause_count == 2
    with pytest.raises(ValueError, match="element_type='int64'"):
        parse_query(GOOD.encode(), "p", element_type="int64")


@pytest.mark.parametrize("quote", ['"', "|"])
def test_an_open_quote_is_refused_with_its_place(quote):
    text = GOOD + f"(set-info :source {quote}a)\n(assert (<= Y_0 1))"
    place = GOOD.count("\n") + 1
    with pytest.raises(PropertyError, match=rf"^p:{place}:\d+: this quote is not closed"):
        parse_query(text.encode(), "p")


@pytest.mark.parametrize("data", [b"", b"  \n", b"; only a comment", b"\xff\xfe(", b"(assert", b")"])
def test_no_property_at_all(data):
    with pytest.raises(PropertyError):
        parse_query(data, "p")


def test_damaged_gzip(tmp_path):
    import gzip

    path = tmp_path / "p.vnnlib.gz"
    path.write_bytes(gzip.compress(GOOD.encode())[:-20])
    with pytest.raises(InputError, match="damaged gzip"):
        read_query(path)


def test_long_lines_are_cut():
    text = HEAD + BOX + "(assert (or " + "(<= Y_0 0) " * 10_000 + "(<= Y_0 oops)))"
    with pytest.raises(PropertyError) as caught:
        parse_query(text.encode(), "p")
    assert len(str(caught.value)) < 500 and "oops" in str(caught.value)


TOKENS = re.findall(r"[()]|[^\s()]+", GOOD.split(";")[0])
SPARE = [
    "(",
    ")",
    "and",
    "or",
    "assert",
    "<=",
    "<",
    "=",
    "X_0",
    "Y_1",
    "1",
    "-",
    "+",
    "*",
    "declare-const",
    "x",
    "1e5",
]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(TOKENS) - 1), st.integers(0, 2), st.sampled_from(SPARE)),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_text_is_read_or_refused(edits):
    tokens = list(TOKENS)
    for position, action, token in edits:
        position = min(position, len(tokens) - 1)
        tokens[position : position + (action != 1)] = [] if action == 0 else [token]
    try:
        query = parse_query(" ".join(tokens).encode(), "p")
    except PropertyError as error:
        assert re.match(r"p:\d+:\d+: ", str(error))
    else:
        assert sum(batch.count for batch in query.batches(7)) == query.clause_count
