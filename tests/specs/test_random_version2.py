"""Random properties of VNN-LIB 2, compared with an evaluation of what was generated."""

import operator
import random
from fractions import Fraction

import numpy as np
import pytest

from provenn.specs import parse_query

INPUTS = ["U[0,0]", "U[0,1]", "V[0,0]", "V[0,1]"]
OUTPUTS = ["P", "Q"]
HEAD = """(vnnlib-version <2.0>)
(declare-network f (declare-input U {0} [1,2]) (declare-output P {0} []))
(declare-network g (isomorphic-to f) (declare-input V {0} [1,2]) (declare-output Q {0} []))
"""
GRID = [f"{k / 4}" for k in range(-8, 9)]
DECIMALS = ["0.1", "-0.3", "0.7000000001", "0.69999999", "0.30000001", "0.2", "-0.05", "1.1", "3.0", "0.000001"]
SIGNS = {
    "<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq, "!=": operator.ne
}  # fmt: skip
ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def expression(generator, leaves, literals, depth=2):
    """A literal, a variable, or (operator, operands)."""
    if depth == 0 or generator.random() < 0.4:
        return generator.choice(leaves if generator.random() < 0.7 else literals)
    name = generator.choice("++--*")
    count = generator.randint(1 if name != "*" else 2, 3 if name != "*" else 2)
    return name, [expression(generator, leaves, literals, depth - 1) for _ in range(count)]


def formula(generator, literals, depth=2):
    """(sign, left, right) or (and/or, formulas)."""
    if depth == 0 or generator.random() < 0.5:
        leaves = generator.choice([INPUTS, INPUTS, OUTPUTS, INPUTS + OUTPUTS])
        sides = [expression(generator, leaves, literals), generator.choice(leaves + literals)]
        generator.shuffle(sides)
        return generator.choice(list(SIGNS)), *sides
    parts = [formula(generator, literals, depth - 1) for _ in range(generator.randint(1, 3))]
    return generator.choice(["and", "or"]), parts


def text(node):
    if isinstance(node, str):
        return node
    operands = node[1] if isinstance(node[1], list) else node[1:]
    return f"({node[0]} {' '.join(text(each) for each in operands)})"


def value(node, values, literal):
    if isinstance(node, str):
        return values[node] if node in values else literal(node)
    name, operands = node
    numbers = [value(each, values, literal) for each in operands]
    if len(numbers) == 1:
        return -numbers[0] if name == "-" else numbers[0]
    total = numbers[0]
    for number in numbers[1:]:
        total = ARITHMETIC[name](total, number)
    return total


def holds(node, values, literal):
    if node[0] in ("and", "or"):
        return (all if node[0] == "and" else any)([holds(each, values, literal) for each in node[1]])
    left, right = (value(each, values, literal) for each in node[1:])
    return bool(SIGNS[node[0]](left, right))


def inside(query, x, y):
    """Whether some clause's box and rows hold (x, y), in exact arithmetic."""
    composition = query.composition
    columns = [Fraction(float(each)) for each in y] + [Fraction(float(x[k])) for k in composition.passed]
    for key in composition.monomials:
        columns.append(Fraction(1))
        for factor in key:
            columns[-1] *= columns[factor]
    for batch in query.batches(50):
        good = [all(batch.lower[box] <= x) and all(x <= batch.upper[box]) for box in batch.clause_box]
        for row, clause in enumerate(batch.row_clause):
            terms = range(batch.row_start[row], batch.row_start[row + 1])
            left = sum(Fraction(batch.coefficient[t]) * columns[batch.column[t]] for t in terms)
            good[clause] &= left <= Fraction(batch.threshold[row])
        if any(good):
            return True
    return False


def queries(count, literals, element, seed):
    """(query, what it asserts, a generator) of random properties."""
    for number in range(count):
        generator = random.Random(seed + number)
        bounds = [(sign, name, end) for name in INPUTS for sign, end in ((">=", "-1.0"), ("<=", "1.0"))]
        asserted = bounds + [formula(generator, literals) for _ in range(generator.randint(1, 3))]
        body = "".join(f"(assert {text(each)})\n" for each in asserted)
        yield parse_query((HEAD.format(element) + body).encode(), "p"), asserted, generator


def point(generator, numbers):
    return np.array([generator.choice(numbers) for _ in range(6)], np.float32)


@pytest.mark.parametrize("element", ["float32", "real", "float64"])
def test_on_a_grid_nothing_is_rounded(element):
    quarters = [k / 4 for k in range(-5, 6)]
    seen = set()
    for query, asserted, generator in queries(40, GRID, element, 0):
        for _ in range(8):
            p = point(generator, quarters)
            values = dict(zip(INPUTS + OUTPUTS, (Fraction(float(each)) for each in p), strict=True))
            truth = all(holds(each, values, Fraction) for each in asserted)
            seen.add(truth)
            if query.contradiction is not None:
                assert not truth
                continue
            assert query.violated(p[:4], p[4:]) == truth
            assert inside(query, p[:4], p[4:]) or not truth
            if truth:
                lower, upper = query.input_box
                assert (lower <= p[:4]).all() and (p[:4] <= upper).all()
    assert seen == {True, False}


@pytest.mark.parametrize("element", ["float32", "float16"])
def test_what_a_checker_accepts_is_to_be_proven(element):
    """numpy scalars and Python numbers, as the competition's checker computes."""
    kind = np.dtype(element).type
    close = [float(each) for each in DECIMALS if abs(float(each)) <= 1.5]
    accepted = 0
    for query, asserted, generator in queries(60, DECIMALS, element, 1000):
        for _ in range(8):
            p = point(generator, close + [0.0, 1.0, -1.0]).astype(element)
            steps = np.array([generator.randint(-1, 1) for _ in p])
            p = np.where(steps > 0, np.nextafter(p, kind(9)), np.where(steps < 0, np.nextafter(p, kind(-9)), p))
            values = dict(zip(INPUTS + OUTPUTS, p, strict=True))
            truth = all(holds(each, values, float) for each in asserted)
            only_inputs = all(not mentions_output(each) for each in asserted)
            if query.violated(p[:4], p[4:]):
                assert truth
                accepted += 1
                assert not only_inputs or inside(query, p[:4], p[4:])
            exactly = dict(zip(INPUTS + OUTPUTS, (Fraction(float(each)) for each in p), strict=True))
            if all(holds(each, exactly, Fraction) for each in asserted):
                assert inside(query, p[:4], p[4:])
            if truth and only_inputs:
                assert inside(query, p[:4], p[4:])
    assert accepted > 10


def mentions_output(node):
    if isinstance(node, str):
        return node in OUTPUTS
    return any(mentions_output(each) for part in node[1:] for each in (part if isinstance(part, list) else [part]))


@pytest.mark.parametrize("element", ["float32", "float16", "real"])
def test_values_as_a_checker_rounds_them_are_to_be_proven(element):
    """Each expression is compared with its own rounded value: half of those comparisons do not hold exactly."""
    kind = np.dtype("float32" if element == "real" else element).type
    bounds = "".join(f"(assert (and (>= {name} -1.5) (<= {name} 1.5)))\n" for name in INPUTS)
    inexact = 0
    for seed in range(150):
        generator = random.Random(seed)
        node = expression(generator, INPUTS, DECIMALS, 3)
        x = np.array([generator.uniform(-1, 1) for _ in INPUTS], kind)
        with np.errstate(under="ignore"):
            found = value(node, dict(zip(INPUTS, x, strict=True)), generator.choice([float, kind]))
        if isinstance(found, float):
            continue
        sign = generator.choice(["<=", ">=", "=="])
        asserted = f"(assert ({sign} {text(node)} {float(found):.60f}))\n"
        query = parse_query((HEAD.format(element) + bounds + asserted).encode(), "p")
        exactly = value(node, dict(zip(INPUTS, (Fraction(float(each)) for each in x), strict=True)), Fraction)
        inexact += not SIGNS[sign](exactly, Fraction(float(found)))
        assert inside(query, x, np.zeros(2)), (seed, asserted)
    assert inexact > 40


def test_what_only_one_reading_of_literals_accepts_is_no_witness():
    """0.3 * 0.1 is another float32 number where the product is computed in float64 first."""
    head = HEAD.format("float32") + "".join(f"(assert (and (>= {name} 0.0) (<= {name} 1.0)))\n" for name in INPUTS)
    in_type, first_double = np.float32(0.3) * np.float32(0.1), np.float32(0.3 * 0.1)
    assert in_type != first_double
    query = parse_query((head + "(assert (== U[0,0] (* 0.3 0.1)))").encode(), "p")
    for number in (in_type, first_double):
        x = np.array([number, 0, 0, 0])
        assert not query.violated(x, np.zeros(2)) and inside(query, x, np.zeros(2))


def test_products_that_underflow_are_to_be_proven():
    """4e-4 * 3e-4 = 1.2e-7 is two of the smallest float16 numbers, 1.19e-7; 3e-4 * 3e-4 = 0.9e-7 as well."""
    head = HEAD.format("float16") + "".join(f"(assert (and (>= {name} 0.0) (<= {name} 0.001)))\n" for name in INPUTS)
    for first, sign in ((3e-4, ">="), (4e-4, "<=")):
        x = np.array([first, 3e-4, 0, 0], np.float16)
        product = float(x[0] * x[1])
        assert abs(product / (float(x[0]) * float(x[1])) - 1) > 2**-9  # more than a rounding of normal numbers
        query = parse_query((head + f"(assert ({sign} (* U[0,0] U[0,1]) {product:.30f}))").encode(), "p")
        assert query.violated(x, np.zeros(2)) and inside(query, x, np.zeros(2))
