"""Properties read from text: hand-computed."""

import gzip

import numpy as np
import pytest

from provenn.errors import InputError
from provenn.specs import parse_query, read_query

DECLARE = "".join(f"(declare-const X_{i} Real)\n" for i in range(2)) + "".join(
    f"(declare-const Y_{i} Real)\n" for i in range(3)
)
BOX = "(assert (>= X_0 0.0)) (assert (<= X_0 1.0)) (assert (>= X_1 -1)) (assert (<= X_1 1))\n"


def parse(assertions, box=BOX, **options):
    return parse_query((DECLARE + box + assertions).encode(), "p.vnnlib", **options)


def dense(batch, outputs=3):
    """[(clause, row coefficients, threshold)] of a batch."""
    rows = []
    for row, clause in enumerate(batch.row_clause):
        coefficients = np.zeros(outputs)
        terms = slice(batch.row_start[row], batch.row_start[row + 1])
        coefficients[batch.column[terms]] = batch.coefficient[terms]
        rows.append((int(clause), coefficients.tolist(), float(batch.threshold[row])))
    return rows


def only(query):
    (batch,) = query.batches(1000)
    return batch


def test_single_clause():
    query = parse("(assert (<= Y_0 Y_1)) (assert (>= Y_2 0.5))")
    assert (query.input_count, query.output_count, query.clause_count) == (2, 3, 1)
    batch = only(query)
    assert batch.lower.tolist() == [[0, -1]] and batch.upper.tolist() == [[1, 1]]
    assert dense(batch) == [(0, [1, -1, 0], 0.0), (0, [0, 0, -1], -0.5)]
    assert query.violated(np.zeros(2, np.float32), np.array([0, 0, 0.5]))
    assert not query.violated(np.zeros(2, np.float32), np.array([1, 0, 0.5]))


def test_rounding_covers_decimal_and_element():
    query = parse(
        "(assert (<= Y_0 0.1))",
        "(assert (>= X_0 0.1)) (assert (<= X_0 0.1)) (assert (>= X_1 0)) (assert (<= X_1 .5))",
    )
    lower, upper = query.input_box
    nearest = float(np.float32(0.1))  # above 0.1
    assert lower[0] == np.nextafter(0.1, 0) and upper[0] == nearest
    assert (lower[1], upper[1]) == (0.0, 0.5)  # exact literals are not widened
    assert query.fixed.tolist() == [True, False]
    assert only(query).threshold[0] == nearest
    assert query.witness_bounds(0)[0].tolist() == [np.float32(0.1), 0.0]
    assert query.violated(np.array([0.1, 0], np.float32), np.array([0.1, 0, 0]))


def test_gzip_by_content(tmp_path):
    text = (DECLARE + BOX + "(assert (<= Y_0 1e-06))").encode()
    (tmp_path / "a.vnnlib.gz").write_bytes(gzip.compress(text))
    (tmp_path / "b.vnnlib").write_bytes(gzip.compress(text))
    for name in ("a.vnnlib", "a.vnnlib.gz", "b.vnnlib"):
        assert read_query(tmp_path / name).clause_count == 1
    with pytest.raises(InputError, match="no such file"):
        read_query(tmp_path / "c.vnnlib")
    with pytest.raises(InputError, match="directory"):
        read_query(tmp_path)


def test_product_stays_lazy():
    text = "(assert (or (<= Y_0 0) (<= Y_1 0)))" * 70
    query = parse(text)
    assert query.clause_count == 2**70
    batch = next(query.batches(8))
    assert len(batch.clause_box) == 8 and len(batch.lower) == 1 and len(batch.row_clause) == 8 * 70
    assert query.violated(np.zeros(2, np.float32), np.array([-1, 0, 0]))


def test_boxes_in_clauses_and_shared_boxes():
    text = """(assert (or
      (and (>= X_0 0) (<= X_0 0.25) (>= Y_0 1))
      (and (>= X_0 0) (<= X_0 0.25) (<= Y_0 -1))
      (and (>= X_0 0.5) (<= X_0 1) (>= Y_1 Y_0) (<= 2 Y_1))))"""
    query = parse(text, box="(assert (>= X_1 0)) (assert (<= X_1 1))")
    batch = only(query)
    assert batch.clause_box.tolist() == [0, 0, 1]
    assert batch.lower.tolist() == [[0, 0], [0.5, 0]] and batch.upper.tolist() == [[0.25, 1], [1, 1]]
    assert dense(batch) == [
        (0, [-1, 0, 0], -1.0),
        (1, [1, 0, 0], -1.0),
        (2, [1, -1, 0], 0.0),
        (2, [0, -1, 0], -2.0),
    ]
    lower, upper = query.input_box
    assert (lower.tolist(), upper.tolist()) == ([0, 0], [1, 1])
    assert [w.tolist() for w in query.witness_bounds(2)] == [[0.5, 0], [1, 1]]


def test_product_order_shares_boxes():
    """acasxu prop_6: a disjunction over outputs and one over input boxes, in either order."""
    outputs = "(assert (or (<= Y_0 Y_1) (<= Y_0 Y_2) (<= Y_0 0)))"
    inputs = "(assert (or (<= X_0 0.25) (>= X_0 0.75)))"
    for text in (outputs + inputs, inputs + outputs):
        query = parse(text)
        batch = only(query)
        assert query.clause_count == 6 and batch.clause_box.tolist() == [0, 0, 0, 1, 1, 1]


def test_empty_clause_is_dropped_and_counted():
    query = parse("(assert (or (and (<= Y_0 0) (>= X_0 2)) (and (<= Y_1 0) (>= X_0 0.5)) (and (<= Y_2 0))))")
    batch = only(query)
    assert (query.clause_count, batch.count, batch.dropped) == (3, 3, 1)
    assert batch.offset.tolist() == [1, 2] and batch.clause_box.tolist() == [0, 1]
    assert [clause for clause, *_ in dense(batch)] == [0, 1]


def test_box_empty_exactly_but_not_when_rounded_is_kept():
    """The competition's checker compares in float32, where both literals are the same number."""
    query = parse("(assert (or (and (>= X_0 0.300000002) (<= X_0 0.3) (<= Y_0 0)) (<= Y_1 0)))")
    batch = only(query)
    point = float(np.float32(0.3))
    assert batch.dropped == 0 and batch.lower[0, 0] <= point <= batch.upper[0, 0]
    assert query.violated(np.array([0.3, 0], np.float32), np.zeros(3))
    strict = parse(
        "(assert (or (and (>= X_0 0.300000002) (<= X_0 0.3) (<= Y_0 0)) (<= Y_1 0)))", element_type="float64"
    )
    assert only(strict).dropped == 1


def test_clause_without_output_row_is_violated_everywhere():
    query = parse("(assert (or (<= Y_0 0) (and (<= X_0 0.5))))")
    rows = dense(only(query))
    assert rows == [(0, [1, 0, 0], 0.0), (1, [0, 0, 0], 0.0)]
    assert query.violated(np.zeros(2, np.float32), np.ones(3))


def test_equality_is_two_rows():
    query = parse("(assert (= Y_0 0.5)) (assert (== X_0 0.5))")
    batch = only(query)
    assert dense(batch) == [(0, [1, 0, 0], 0.5), (0, [-1, 0, 0], -0.5)]
    assert query.fixed.tolist() == [True, False]
    assert query.violated(np.array([0.5, 0], np.float32), np.array([0.5, 0, 0]))
    assert not query.violated(np.array([0.5, 0], np.float32), np.array([0.25, 0, 0]))


def test_strict_is_strict_for_witnesses_only():
    query = parse("(assert (< Y_0 0.5)) (assert (> X_0 0.5))")
    assert dense(only(query)) == [(0, [1, 0, 0], 0.5)]
    assert query.input_box[0][0] == 0.5
    assert query.witness_bounds(0)[0][0] == np.nextafter(np.float32(0.5), np.float32(1))
    assert not query.violated(np.array([0.5, 0], np.float32), np.zeros(3))
    assert not query.violated(np.array([0.75, 0], np.float32), np.array([0.5, 0, 0]))
    assert query.violated(np.array([0.75, 0], np.float32), np.zeros(3))


def test_linear_arithmetic_is_exact():
    query = parse("(assert (<= (+ (* 0.1 Y_0) (- Y_1) 0.2) (* 2 0.3 Y_2))) (assert (>= (- 0.5 X_0) 0.25))")
    # 0.1 y0 - y1 - 0.6 y2 <= -0.2, with integers: y0 - 10 y1 - 6 y2 <= -2
    assert dense(only(query)) == [(0, [1, -10, -6], -2.0)]
    assert query.input_box[1][0] == 0.25
    assert query.violated(np.zeros(2, np.float32), np.array([8.0, 1.0, 0.0]))
    assert not query.violated(np.zeros(2, np.float32), np.array([np.nextafter(8.0, 9), 1.0, 0.0]))


def test_layout_is_free():
    text = """( assert
      ( or ; a comment ( with parentheses
        ( and( <=  Y_0
           -1E-2 )) (<= 1e0 Y_1)(or (and (and (>= +.5 Y_2)))))
    )"""
    rows = sorted(dense(only(parse(text))), key=lambda row: row[1], reverse=True)
    rows = [
        (clause, *row[1:]) for clause, row in enumerate(rows)
    ]  # a mixed disjunction need not keep its order
    assert rows == [(0, [1, 0, 0], pytest.approx(-0.01)), (1, [0, 0, 1], 0.5), (2, [0, -1, 0], -1.0)]


def test_quotes_are_words():
    """What stands in a string is no assertion and no comment; a quoted name is the name."""
    plain = dense(only(parse("(assert (<= Y_0 0.5))")))
    for text in (
        '(set-info :source "a) (assert (<= Y_1 1)) (b") (assert (<= Y_0 0.5))',
        '(set-info :source "x;y" ) (assert (<= Y_0 0.5)) (set-info :a "b\n;")',
        '(set-info :source "a; b")\n(assert (<= Y_0 0.5))',
        '(set-info :source |a; (b|)\n(assert (<= |Y_0| 0.5)) ; "not closed, but a comment',
    ):
        assert dense(only(parse(text))) == plain


def test_deep_nesting():
    depth = 5_000  # Python's own limit is 1,000
    alternating = "(and (<= Y_0 1) (or (<= Y_1 0) " * depth + "(<= Y_2 0)" + "))" * depth
    query = parse(f"(assert {alternating})")
    assert query.clause_count == depth + 1
    assert query.violated(np.zeros(2, np.float32), np.array([0, 1, 0]))
    assert next(query.batches(4)).count == 4
    unary = "(and (or " * depth + "(<= Y_0 0)" + "))" * depth
    assert dense(only(parse(f"(assert {unary})"))) == [(0, [1, 0, 0], 0.0)]
    assert parse(f"(assert (<= {'(- ' * depth}Y_0{')' * depth} 1))").clause_count == 1


def test_unbounded_input_bounded_by_every_clause():
    bound = "(and (>= X_0 {}) (<= X_0 {}) (<= Y_0 0))"
    text = "(assert (or " + bound.format(0, 1) + bound.format(2, 3) + "))"
    assert parse(text, box="(assert (>= X_1 0)) (assert (<= X_1 1))").input_box[1].tolist() == [3, 1]


def test_batches_stop_at_large_boxes():
    from provenn.specs._batch import assemble

    query = parse("(assert (or " + "".join(f"(and (<= X_0 0.{i}) (<= Y_0 0))" for i in range(1, 9)) + "))")
    batch = assemble(query, 0, 8, box_entries=6)
    assert (batch.count, len(batch.lower)) == (3, 3)
    assert assemble(query, 3, 5, box_entries=1).count == 1


def test_violated_rejects_what_is_no_element():
    query = parse("(assert (<= Y_0 1))")
    assert not query.violated(np.array([0.1, 0.0]), np.zeros(3))  # 0.1 is no float32
    assert not query.violated(np.array([np.nan, 0.0]), np.zeros(3))
    assert not query.violated(np.zeros(2), np.array([-np.inf, 0, 0]))
    with pytest.raises(ValueError, match="expected 2 and 3"):
        query.violated(np.zeros(3), np.zeros(3))


def test_commands_to_a_solver_state_nothing():
    """As SMT-LIB files begin and end; what they name is not read."""
    before = "(set-logic QF_LRA)\n(set-option :produce-models true)\n(set-info :status unsat)\n"
    after = "(check-sat)\n(get-model)\n(get-value (X_0 Y_0 (+ Y_0 1) (<= Y_0 0) (or (<= Y_0 0) (<= Y_0 1))))\n(exit)\n"
    plain = DECLARE + BOX + "(assert (or (<= Y_0 2) (and (<= Y_0 3) (>= Y_1 0))))\n"
    with_commands, without = parse_query((before + plain + after).encode(), "p"), parse_query(plain.encode(), "p")
    assert with_commands.clause_count == without.clause_count == 2
    for one, other in zip(with_commands.batches(9), without.batches(9), strict=True):
        assert (one.threshold == other.threshold).all() and (one.column == other.column).all()
