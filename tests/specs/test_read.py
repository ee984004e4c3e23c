"""Properties read from text: hand-computed."""

import gzip

import numpy as np
import pytest

from provenn.errors import InputError, PropertyError
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


def test_contradiction_names_its_line():
    with pytest.raises(PropertyError, match=r"p.vnnlib:7:\d+: contradictory bounds: X_0"):
        parse("(assert (<= Y_0 0))", box=BOX + "(assert (>= X_0 2))")
