"""Properties of VNN-LIB 2 read from text: hand-computed."""

from fractions import Fraction

import numpy as np
import pytest

from provenn.errors import PropertyError
from provenn.specs import parse_query

ONE = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [2]) (declare-output Y float32 [1,2]))
(assert (and (>= X[0] -1.0) (<= X[0] 1.0) (>= X[1] 0.0) (<= X[1] 2.0)))
"""
COPIES = """; two evaluations of one network; monotone in input 0?
(vnnlib-version <2.0>)
(declare-network base (declare-input U float32 [1,2]) (declare-output P float32 [1,1]))
(declare-network step (equal-to base)
  (declare-input V float32 [1,2]) (declare-output Q float32 [1,1]))
(assert (and (>= U[0,0] 0.0) (<= V[0,0] 1.0) (>= V[0,0] U[0,0])))
(assert (and (>= U[0,1] -1.0) (<= U[0,1] 1.0) (== V[0,1] U[0,1])))
(assert (< Q[0,0] P[0,0]))
"""
BRAKE = """; polynomial region, a scalar output and a hidden tensor
(vnnlib-version <2.1>)
(declare-network brake (declare-input S real [2])
  (declare-hidden H real [8] "relu_3") (declare-output A real []))
(assert (and (>= S[0] 0.5) (<= S[0] 4.0) (>= S[1] 0.0) (<= S[1] 2.0)))
(assert (>= (* 3.0 S[0]) (* S[1] S[1])))
(assert (or (> A 0.9) (and (<= H[2] 0.0) (!= A 0.0))))
"""


def one(assertions, **options):
    return parse_query((ONE + assertions).encode(), "p", **options)


def rows(query):
    """[{column name: coefficient}, threshold] of every row, per clause."""
    found: list[list] = []
    for batch in query.batches(1000):
        clauses = [[] for _ in batch.clause_box]
        for row, clause in enumerate(batch.row_clause):
            terms = slice(batch.row_start[row], batch.row_start[row + 1])
            names = [query.composition.column_name(column) for column in batch.column[terms]]
            clauses[clause].append(
                (dict(zip(names, batch.coefficient[terms].tolist(), strict=True)), float(batch.threshold[row]))
            )
        found += clauses
    return found


def test_one_network():
    query = one("(assert (or (<= Y[0,0] 0.1) (> Y[0,1] Y[0,0])))", strict=True)
    assert (query.input_count, query.output_count, query.element_type, query.clause_count) == (2, 2, "float32", 2)
    assert [end.tolist() for end in query.input_box] == [[-1, 0], [1, 2]]
    assert rows(query) == [[({"Y[0,0]": 1}, float(np.float32(0.1)))], [({"Y[0,1]": -1, "Y[0,0]": 1}, 0)]]
    assert query.violated(np.zeros(2), np.array([0.1, 0], np.float32))  # both are 0.1 in float32
    assert query.violated(np.zeros(2), np.array([2, 3], np.float32))
    assert not query.violated(np.zeros(2), np.array([2, 2], np.float32))
    assert not query.violated(np.array([0, 3]), np.array([0, 0], np.float32))


def test_two_copies():
    query = parse_query(COPIES.encode(), "p", strict=True)
    base, step = query.composition.networks
    assert (base.relation, step.relation) == (None, ("equal-to", "base"))
    assert [end.tolist() for end in query.input_box] == [[0, -1, 0, -1], [1, 1, 1, 1]]  # V[0,0] >= U[0,0] <= 1
    (equality,) = query.composition.equalities
    assert (equality.variables, equality.coefficients) == ((1, 3), (-1, 1))
    assert (equality.constant, equality.slack) == (0, 0)
    assert query.composition.passed.tolist() == [0, 1, 2, 3]
    (clause,) = rows(query)
    assert len(clause) == 4 and all(threshold == 0 for _, threshold in clause)
    for terms in ({"Q[0,0]": 1, "P[0,0]": -1}, {"V[0,0]": -1, "U[0,0]": 1}, {"V[0,1]": 1, "U[0,1]": -1}):
        assert (terms, 0) in clause
    assert ({"V[0,1]": -1, "U[0,1]": 1}, 0) in clause
    x = np.array([0.25, 0.5, 0.75, 0.5])
    assert query.violated(x, np.array([1, 0], np.float32))
    assert not query.violated(x, np.array([1, 1], np.float32))
    assert not query.violated(np.array([0.25, 0.5, 0.75, 0.25]), np.array([1, 0], np.float32))


def test_polynomial_and_hidden():
    query = parse_query(BRAKE.encode(), "p", strict=True)
    composition = query.composition
    assert composition.networks[0].hidden[0].onnx_name == "relu_3"
    assert (composition.output_count, composition.column_count, query.output_count) == (9, 12, 12)
    assert composition.monomials == ((10, 10),) and composition.column_name(11) == "S[1]*S[1]"
    assert query.clause_count == 3  # A > 0.9; A < 0 or A > 0 with H[2] <= 0
    for clause in rows(query):
        (region,) = [row for row in clause if "S[0]" in row[0]]
        assert region[0] == {"S[0]": -3, "S[1]*S[1]": 1}
        assert 0 < region[1] < 1e-5  # what a checker in float32 may accept beyond 3 s0 >= s1^2
    y = np.zeros(9, np.float32)
    y[8] = 0.91
    assert query.violated(np.array([3, 2]), y)
    assert not query.violated(np.array([1, 2]), y)  # 3 < 4
    y[[2, 8]] = 1, 0.5
    assert not query.violated(np.array([3, 2]), y)
    y[[2, 8]] = 0, 0.5
    assert query.violated(np.array([3, 2]), y)
    y[8] = 0
    assert not query.violated(np.array([3, 2]), y)


def test_checker_arithmetic_is_that_of_the_element_type():
    query = one("(assert (<= (+ X[0] 0.2) 0.3))")
    x = np.array([0.1, 0], np.float32)
    assert Fraction(float(x[0])) + Fraction(2, 10) > Fraction(3, 10)  # not as real numbers
    assert query.violated(x, np.zeros(2, np.float32))  # 0.1f + 0.2f <= 0.3f
    assert query.input_box[1][0] >= float(x[0])  # so unsat must cover it
    real = parse_query((ONE.replace("float32", "real") + "(assert (<= (+ X[0] 0.2) 0.3))").encode())
    assert not real.violated(x, np.zeros(2, np.float32))


def test_bounds_with_arithmetic_are_bounds():
    query = one("(assert (and (<= (* 2.0 X[0]) 1.0) (>= (- X[1]) -0.5) (<= (+ X[1] X[1]) 0.5)))")
    assert [end.tolist() for end in query.input_box] == [[-1, 0], [0.5, pytest.approx(0.25, abs=1e-6)]]
    assert query.input_box[1][1] >= 0.25


def test_names_of_hidden_tensors():
    """Whatever they hold: blanks, parentheses, comments, quotes."""
    text = BRAKE.replace('"relu_3"', '"a (b;[0] \\"c\\\\"')
    assert parse_query(text.encode(), strict=True).composition.networks[0].hidden[0].onnx_name == 'a (b;[0] "c\\'


def test_an_input_bounded_by_relations_only():
    text = COPIES.replace("(<= V[0,0] 1.0)", "(<= V[0,0] (+ U[0,0] 0.25)) (<= U[0,0] 1.0)")
    lower, upper = parse_query(text.encode()).input_box
    assert lower.tolist() == [0, -1, 0, -1]
    assert upper[2] == pytest.approx(1.25, abs=1e-5) and upper[2] >= 1.25
    chain = text.replace("(== V[0,1] U[0,1])", "(== (+ V[0,1] (* 2.0 U[0,1])) 0.5)")
    query = parse_query(chain.encode())
    assert query.input_box[1][3] == pytest.approx(2.5, abs=1e-5) and query.input_box[0][3] <= -1.5
    (equality,) = query.composition.equalities
    assert (equality.variables, equality.coefficients) == ((1, 3), (2, 1))
    assert equality.constant == Fraction(1, 2) and 0 < equality.slack < 1e-5


def test_an_input_without_bounds_is_named():
    with pytest.raises(PropertyError, match=r"p:7:51: input V\[0,1\] has no lower bound"):
        parse_query(COPIES.replace("(== V[0,1] U[0,1])", "(<= V[0,1] U[0,1])").encode(), "p")
    with pytest.raises(PropertyError, match=r"p:5:3: input V\[0,1\] has no bounds"):
        parse_query(COPIES.replace("(== V[0,1] U[0,1])", "(>= 1.0 U[0,1])").encode(), "p")


def test_bounds_that_exclude_their_literal_leave_nothing():
    query = one("(assert (or (< X[0] -1.0) (and (== X[1] 0.5) (!= X[1] 0.5)) (<= Y[0,0] 0.0)))")
    (batch,) = query.batches(10)
    assert (batch.count, batch.offset.tolist()) == (4, [1])  # dropped: X[0] < -1 and >= -1; X[1] = 0.5 and < or > 0.5
    decimals = one("(assert (and (<= X[0] 0.1) (or (> X[0] 0.1) (<= Y[0,0] 0.0))))")
    assert [batch.dropped for batch in decimals.batches(10)] == [0]  # 0.1 may stand for two numbers
    assert "X[0] has lower bound 1.0 and upper bound 1.0" in one("(assert (> X[0] 1.0))").contradiction
    assert one("(assert (>= X[0] 1.0))").contradiction is None


def test_what_never_holds_has_a_row_that_says_so():
    for text in ("(< Y[0,0] Y[0,0])", "(> X[0] X[0])", "(!= X[1] X[1])", "(< (- X[1]) (- X[1]))", "(< 0.5 0.25)"):
        for clause in rows(one(f"(assert {text})")):
            assert all(not any(terms.values()) and threshold < 0 for terms, threshold in clause), text
    for text in ("(<= Y[0,0] Y[0,0])", "(== X[1] X[1])", "(<= (- X[1]) (- X[1]))", "(< 0.25 0.5)"):
        query = one(f"(assert {text})")
        assert all(threshold >= 0 for _, threshold in rows(query)[0]), text
        assert query.violated(np.zeros(2), np.zeros(2)), text


def test_contradictions_are_told_and_no_errors():
    assert one("(assert (>= X[0] 1.5))").contradiction == (
        "contradictory bounds: X[0] has lower bound 1.5 and upper bound 1.0"
    )
    assert one("(assert (>= (+ X[0] X[1]) 3.5))").contradiction == "the relations of inputs leave no value for X[0]"
    assert one("(assert (or (< X[0] -2.0) (> X[0] 2.0)))").contradiction is None
    either = one("(assert (or (and (>= X[0] 2.0) (<= X[0] 3.0)) (and (<= X[0] 4.0) (>= X[0] 3.5))))")
    assert either.contradiction == "no clause leaves a value for X[0]"
