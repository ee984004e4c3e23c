"""Properties made in Python agree with the truth of their conditions at points, and with the same in VNN-LIB."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from provenn.errors import InputError
from provenn.specs import Condition, Query, all_of, always, any_of, never, output, parse_query, robust

Y = output(2, 3)
X = np.array([0.5, -0.25])
POINTS = np.random.default_rng(3).integers(-3, 4, (300, 6)) / 2

CONDITIONS: dict[str, tuple[Callable[[], Condition], Callable[[np.ndarray], object]]] = {
    "one comparison": (lambda: Y[0, 0] - Y[0, 1] <= 0.5, lambda y: y[0, 0] - y[0, 1] <= 0.5),
    "strict": (lambda: Y[0, 0] < Y[1, 2], lambda y: y[0, 0] < y[1, 2]),
    "numbers on the left": (lambda: 1 - Y[0, 0] >= 2 * Y[1, 0] + 0.5, lambda y: 1 - y[0, 0] >= 2 * y[1, 0] + 0.5),
    "turned round": (lambda: 0.5 - Y[1, 1] > Y[0, 0] / 4, lambda y: 0.5 - y[1, 1] > y[0, 0] / 4),
    "a row against a number": (lambda: Y[0] >= -1, lambda y: (y[0] >= -1).all()),
    "one against all": (lambda: Y[0, 0] >= Y[1], lambda y: (y[0, 0] >= y[1]).all()),
    "arrays": (lambda: Y * np.array([1, 2, 3]) < 2.5, lambda y: (y * np.array([1, 2, 3]) < 2.5).all()),
    "and": (lambda: (Y[0, 0] > 0) & (Y[0, 1] <= 0), lambda y: y[0, 0] > 0 and y[0, 1] <= 0),
    "or": (lambda: (Y[0, 0] > 1) | (Y[0, 1] <= -1), lambda y: y[0, 0] > 1 or y[0, 1] <= -1),
    "not": (lambda: ~(Y[0] < 1), lambda y: not (y[0] < 1).all()),
    "nested": (
        lambda: ((Y[0, 0] > 0) | ((Y[0, 1] > 0) & (Y[0, 2] > 0))) & ~((Y[1, 0] < 0) & (Y[1, 1] < 0)),
        lambda y: (y[0, 0] > 0 or (y[0, 1] > 0 and y[0, 2] > 0)) and not (y[1, 0] < 0 and y[1, 1] < 0),
    ),
    "equal": (lambda: Y[0, 0] == Y[0, 1], lambda y: y[0, 0] == y[0, 1]),
    "not equal": (lambda: Y[0, 0] != 0.5, lambda y: y[0, 0] != 0.5),
    "a matrix": (lambda: np.array([[1.0, -2, 0], [0, 1, 1]]) @ Y[0] <= [0.5, 1],
                 lambda y: (np.array([[1.0, -2, 0], [0, 1, 1]]) @ y[0] <= [0.5, 1]).all()),
    "sums": (lambda: Y.sum() <= Y[0].sum() * 2, lambda y: y.sum() <= y[0].sum() * 2),
    "sums along an axis": (lambda: Y.sum(0) > -2, lambda y: (y.sum(0) > -2).all()),
    "all of": (lambda: all_of([Y[0, k] <= Y[1, k] for k in range(3)]), lambda y: (y[0] <= y[1]).all()),
    "any of": (lambda: any_of([row[0] > row[1] for row in Y]), lambda y: (y[:, 0] > y[:, 1]).any()),
    "negative": (lambda: -Y[0, 0] + 1 <= 0, lambda y: -y[0, 0] + 1 <= 0),
    "exact numbers": (lambda: Fraction(3, 2) * Y[0, 0] < Decimal("0.75"), lambda y: 1.5 * y[0, 0] < 0.75),
    "no exact float": (lambda: Y[0, 0] <= Fraction(1, 3), lambda y: Fraction(y[0, 0]) <= Fraction(1, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", CONDITIONS)
def test_truth_at_points(name: str) -> None:
    make, truth = CONDITIONS[name]
    lower, upper = [[0.0, -1.0]], [[1.0, 1.0]]
    holds, fails = never(make(), lower, upper, outputs=6), always(make(), lower, upper, outputs=6)
    expected = [bool(truth(y.reshape(2, 3))) for y in POINTS]
    assert any(expected) and not all(expected)
    assert [holds.violated(X, y) for y in POINTS] == expected
    assert [fails.violated(X, y) for y in POINTS] == [not one for one in expected]


@pytest.mark.parametrize("name", CONDITIONS)
def test_clauses_cover_the_violation(name: str) -> None:
    """Where the condition holds some clause's rows do; that is what proofs refute."""
    make, truth = CONDITIONS[name]
    (batch,) = never(make(), [[0.0, -1.0]], 1.0, outputs=6).batches(4096)
    rows = np.zeros((len(batch.threshold), 6))
    owner = np.repeat(np.arange(len(batch.threshold)), np.diff(batch.row_start))
    np.add.at(rows, (owner, batch.column), batch.coefficient)
    for y in POINTS:
        satisfied = rows @ y <= batch.threshold
        whole = np.array([satisfied[batch.row_clause == clause].all() for clause in range(len(batch.clause_box))])
        if truth(y.reshape(2, 3)):
            assert whole.any()


def test_the_same_as_vnnlib() -> None:
    text = b"""(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
    (assert (>= X_0 0.25)) (assert (<= X_0 0.5)) (assert (>= X_1 -1)) (assert (<= X_1 1))
    (assert (or (and (<= Y_0 Y_1) (>= Y_1 0.1)) (and (> Y_0 3))))"""
    read = parse_query(text, "p.vnnlib", 2, 2, "float32")
    y = output(2)
    made = never(((y[0] <= y[1]) & (y[1] >= 0.1)) | (y[0] > 3), [0.25, -1.0], [0.5, 1.0])
    one, other = (next(iter(query.batches(10))) for query in (read, made))
    for field in ("lower", "upper", "clause_box", "row_clause", "column", "coefficient", "witness_lower"):
        assert np.array_equal(getattr(one, field), getattr(other, field)), field
    # a decimal is not its nearest float64: the file's threshold may be rounded up further
    assert np.allclose(one.threshold, other.threshold) and made.input_shapes == ((2,),)


def test_robustness() -> None:
    query = robust([[0.5, 0.05]], label=1, radius=0.1, classes=3, within=(0, 1), margin=0.25)
    assert query.clause_count == 2 and query.output_count == 3 and query.input_shapes == ((1, 2),)
    lower, upper = query.input_box
    assert lower[1] == 0 and lower[0] <= 0.4 and upper[0] >= 0.6
    x = np.float32([0.5, 0.05])
    assert query.violated(x, [0.0, 0.2, 0.0]) and query.violated(x, [0.0, 0.25, 0.0])
    assert not query.violated(x, [0.0, 0.26, 0.0])


def test_several_inputs_come_in_a_row() -> None:
    query = never(output(1)[0] <= 0, ([[0.0, 1.0]], [2.0]), ([[1.0, 2.0]], 3.0))
    assert query.input_shapes == ((1, 2), (1,)) and query.input_count == 3
    assert query.input_box[0].tolist() == [0.0, 1.0, 2.0]


def test_long_chains_and_many_conditions() -> None:
    y = output(4000)
    chain = y[0] > 0
    for k in range(1, 3000):
        chain = chain | (y[k] > 0)
    assert never(chain, [0.0], [1.0]).clause_count == 3000
    assert never(y <= 1, [0.0], [1.0]).clause_count == 1


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a truth value": (lambda: (Y[0, 0] > 0) and (Y[0, 1] > 0), "by & and |"),
    "a chain": (lambda: 0 <= Y[0, 0] <= 1, "a <= y <= b"),
    "a product": (lambda: Y[0, 0] * Y[0, 1] <= 1, "two outputs"),
    "no number": (lambda: Y[0, 0] <= "a", "finite numbers"),
    "infinity": (lambda: Y[0, 0] <= math.inf, "finite numbers"),
    "shapes": (lambda: Y[0] <= [1.0, 2.0], "do not fit"),
    "no condition": (lambda: always(True, [0.0], [1.0]), "expected comparisons"),  # type: ignore[arg-type]
    "nothing": (lambda: always(all_of([]), [0.0], [1.0]), "at least one"),
    "numbers only": (lambda: never(Y[0, 0] - Y[0, 0] <= 1, [0.0], [1.0]), "numbers only"),
    "ends in the wrong order": (lambda: never(Y[0, 0] <= 1, [1.0], [0.0]), r"lower=.*1.0.* above"),
    "ends of two shapes": (lambda: never(Y[0, 0] <= 1, [1.0, 2.0], [1.0, 2.0, 3.0]), "expected one shape"),
    "an infinite end": (lambda: never(Y[0, 0] <= 1, [-math.inf], [0.0]), "infinite"),
    "ends of inputs": (lambda: never(Y[0, 0] <= 1, ([0.0], [0.0]), ([1.0],)), "2 lower and 1 upper"),
    "too few outputs": (lambda: never(Y[1, 2] <= 1, [0.0], [1.0], outputs=3), "at least 6"),
    "a label": (lambda: robust([0.0], label=3, radius=0.1, classes=3), "label=3"),
    "a radius": (lambda: robust([0.0], label=0, radius=-0.1, classes=3), "radius=-0.1"),
    "no outputs": (lambda: output(), "positive whole"),
    "too long a product": (lambda: never(Fraction(1, 3) * Y[0, 0] <= 1, [0.0], [1.0]), "one number"),
    "a matrix of outputs": (lambda: np.eye(2) @ Y <= 1, "a vector"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_calls_are_named(name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_conditions_show_what_they_say() -> None:
    assert repr((Y[0, 0] - 2 * Y[0, 1] <= 0.5) | (Y[1, 0] > 1)) == "Condition((y0 - 2 y1 <= 0.5 | -y3 < -1))"
    assert isinstance(never(Y[0, 0] <= 1, [0.0], [1.0]), Query)
    with pytest.raises(IndexError, match=r"shape \[2, 3\]"):
        Y[2, 0]
