"""Chains of relations that give inputs their boxes: points that a checker accepts lie in what is to be proven."""

import random
from fractions import Fraction

import numpy as np
import pytest

from provenn.specs import parse_query

COUNT = 6
LITERALS = ["0.1", "-0.3", "0.7", "1.3", "2.0", "-1.0", "0.5", "3.7"]


def chain(generator, element):
    """(text, a point in the element type); from the third on, inputs are bounded by relations to earlier ones only."""
    kind = np.dtype(element).type
    text = f"(declare-network f (declare-input X {element} [{COUNT}]) (declare-output Y {element} []))\n"
    text += "(assert (and (>= X[0] -1.0) (<= X[0] 1.0) (>= X[1] -0.5) (<= X[1] 2.0) (<= Y 1.0)))\n"
    x = [kind(generator.uniform(-1, 1)), kind(generator.uniform(-0.5, 2))]
    for i in range(2, COUNT):
        j, k = generator.sample(range(i), 2)
        a, b = generator.choice(LITERALS), generator.choice(LITERALS)
        p, q = kind(float(a)), kind(float(b))
        shown, value = generator.choice(
            [
                (f"X[{j}]", x[j]),
                (f"(+ X[{j}] {a})", x[j] + p),
                (f"(+ (* {a} X[{j}]) (* {b} X[{k}]))", p * x[j] + q * x[k]),
                (f"(- X[{j}] X[{k}] {b})", (x[j] - x[k]) - q),
                (f"(- (* {a} (+ X[{j}] {b})))", -(p * (x[j] + q))),
            ]
        )
        if generator.random() < 0.6:
            text += f"(assert (== X[{i}] {shown}))\n"
            x.append(value)
        else:
            text += f"(assert (and (<= X[{i}] (+ {shown} 0.25)) (>= (* 2.0 X[{i}]) (- {shown} 1.0))))\n"
            x.append(generator.choice([value + kind(0.25), (value - kind(1)) / kind(2)]))
    return text, np.array(x, kind)


@pytest.mark.parametrize("element", ["float32", "float16"])
def test_accepted_points_are_in_the_boxes_rows_and_equalities(element):
    accepted = 0
    for seed in range(50):
        text, x = chain(random.Random(seed), element)
        query = parse_query(text.encode(), "p")
        if not query.violated(x, np.zeros(1)):
            continue
        accepted += 1
        assert query.contradiction is None
        lower, upper = query.input_box
        assert (lower <= x).all() and (x <= upper).all(), seed
        exact = [Fraction(float(each)) for each in x]
        columns = [Fraction(0)] + [exact[k] for k in query.composition.passed]
        for equality in query.composition.equalities:
            terms = zip(equality.coefficients, equality.variables, strict=True)
            assert abs(sum(c * exact[v] for c, v in terms) - equality.constant) <= equality.slack, seed
        (batch,) = query.batches(10)
        for row, threshold in enumerate(batch.threshold):
            entries = range(batch.row_start[row], batch.row_start[row + 1])
            left = sum(Fraction(batch.coefficient[k]) * columns[batch.column[k]] for k in entries)
            assert left <= Fraction(threshold), seed
    assert accepted > 30


def test_long_chains_reach_their_end():
    count = 300
    text = f"(declare-network f (declare-input X float32 [{count}]) (declare-output Y float32 []))\n"
    text += "(assert (and (>= X[0] 0.25) (<= X[0] 0.5) (<= Y 1.0)))\n"
    equal = "".join(f"(assert (== X[{k}] X[{k - 1}]))\n" for k in range(1, count))
    lower, upper = parse_query((text + equal).encode()).input_box
    assert set(lower) == {0.25} and set(upper) == {0.5}


def test_contracting_relations_end_near_their_fixed_point():
    """x <= y / 2 + 1, y <= x / 2 + 1: both are at most 2, which no round reaches."""
    text = """(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [2]) (declare-output Y float32 []))
    (assert (and (>= X[0] 0.0) (>= X[1] 0.0) (<= X[0] 1000.0) (<= Y 1.0)))
    (assert (and (<= X[0] (+ (* 0.5 X[1]) 1.0)) (<= X[1] (+ (* 0.5 X[0]) 1.0))))"""
    _, upper = parse_query(text.encode()).input_box
    assert (upper >= 2).all() and (upper < 2.01).all()
