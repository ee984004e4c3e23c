"""Random properties: rendered to text, read again, compared with a brute-force evaluation."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenn.errors import PropertyError
from provenn.specs import parse_query

INPUTS, OUTPUTS = 2, 3
GRID = [f"{k / 4}" for k in range(-4, 5)]
DECIMALS = [
    "0.1",
    "-0.3",
    "1e-1",
    "0.7000000001",
    "0.69999999",
    "-.3",
    "+0.25",
    "1.0E0",
    "0.30000001",
    "3e-1",
]

variables = st.one_of(
    st.tuples(st.just("X"), st.integers(0, INPUTS - 1)), st.tuples(st.just("Y"), st.integers(0, OUTPUTS - 1))
)
operators = st.sampled_from(["<=", ">=", "<", ">", "=", "=="])


def atoms(literals):
    """(operator, left, right); an operand is (letter, index), a literal, or ('+', coefficient, index, literal)."""
    literal = st.sampled_from(literals)
    output = st.tuples(st.just("Y"), st.integers(0, OUTPUTS - 1))
    arithmetic = st.tuples(st.just("+"), literal, st.integers(0, OUTPUTS - 1), literal)
    either = st.one_of(output, arithmetic)
    return st.one_of(
        st.tuples(operators, variables, literal),
        st.tuples(operators, literal, variables),
        st.tuples(operators, output, output),
        st.tuples(operators, either, output),
    )


def formulas(literals):
    return st.recursive(
        atoms(literals),
        lambda inner: st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)),
        max_leaves=6,
    )


seeds = st.integers(0, 2**32)
BLANKS = [" ", "\n", "\t ", " ; note (\n", "\r\n"]


def is_atom(formula):
    return len(formula) == 3


def operand_tokens(operand):
    if isinstance(operand, str):
        return [operand]
    if operand[0] == "+":
        return ["(", "+", "(", "*", operand[1], f"Y_{operand[2]}", ")", operand[3], ")"]
    return [f"{operand[0]}_{operand[1]}"]


def tokens(formula):
    if is_atom(formula):
        return ["(", formula[0], *operand_tokens(formula[1]), *operand_tokens(formula[2]), ")"]
    return ["(", formula[0], *(token for inner in formula[1] for token in tokens(inner)), ")"]


def render(box, asserted, seed):
    """Text with random blanks and comments where they are allowed."""
    generator = random.Random(seed)
    every = []
    for letter, count in (("X", INPUTS), ("Y", OUTPUTS)):
        for index in range(count):
            every += ["(", "declare-const", f"{letter}_{index}", "Real", ")"]
    for index, (low, high) in enumerate(box):
        for operator, literal in ((">=", low), ("<=", high)):
            every += ["(", "assert", "(", operator, f"X_{index}", literal, ")", ")"]
    for formula in asserted:
        every += ["(", "assert", *tokens(formula), ")"]
    every += ["(", "assert", "(", "<=", "Y_0", "100", ")", ")"]  # so that an output is always mentioned
    text = ""
    for token in every:
        text += token + (generator.choice(BLANKS) if token not in "()" or generator.random() < 0.5 else "")
    return text


def read(box, asserted, seed):
    """The query, None where the assertions contradict each other on an input (and the reader says so)."""
    limits = {index: [Fraction(low), Fraction(high)] for index, (low, high) in enumerate(box)}
    flat = list(asserted)
    while flat:
        formula = flat.pop()
        if not is_atom(formula):
            if formula[0] == "and" or len(formula[1]) == 1:
                flat += formula[1]
            continue
        operator, left, right = formula
        if isinstance(left, str):
            operator, left, right = {"<": ">", ">": "<"}.get(operator[0], "=") + "=", right, left
        if left[0] != "X":
            continue
        low, high = limits[left[1]]
        value = Fraction(float(right))
        limits[left[1]] = [
            low if operator[0] == "<" else max(low, value),
            high if operator[0] == ">" else min(high, value),
        ]
    text = render(box, asserted, seed).encode()
    if all(Fraction(float(low)) <= Fraction(float(high)) for low, high in limits.values()):
        return parse_query(text, "p")
    with pytest.raises(PropertyError, match="contradictory bounds"):
        parse_query(text, "p")
    return None


def compare(operator, left, right, strict):
    if operator in ("=", "=="):
        return left == right
    if not strict:
        operator = operator[0] + "="
    return {"<=": left <= right, ">=": left >= right, "<": left < right, ">": left > right}[operator]


def exact(operand, x, y, literal):
    if isinstance(operand, str):
        return literal(operand)
    if operand[0] == "+":
        return Fraction(operand[1]) * y[operand[2]] + Fraction(operand[3])
    return (x if operand[0] == "X" else y)[operand[1]]


def evaluate(formula, x, y, strict, literal_input=Fraction, literal_output=Fraction):
    """Truth at exact x and y; literals are read by the two functions, by what they are compared with."""
    if not is_atom(formula):
        values = (evaluate(inner, x, y, strict, literal_input, literal_output) for inner in formula[1])
        return (all if formula[0] == "and" else any)(list(values))
    operator, left, right = formula
    about_input = any(not isinstance(o, str) and o[0] == "X" for o in (left, right))
    literal = literal_input if about_input else literal_output
    return compare(operator, exact(left, x, y, literal), exact(right, x, y, literal), strict)


def count(formula):
    if is_atom(formula):
        return 1
    total = 1 if formula[0] == "and" else 0
    for inner in formula[1]:
        total = total * count(inner) if formula[0] == "and" else total + count(inner)
    return total


def inside(batches, x, y):
    """Whether some clause's box and rows hold (x, y), in exact arithmetic."""
    for batch in batches:
        good = np.ones(len(batch.clause_box), bool)
        for clause, box in enumerate(batch.clause_box):
            good[clause] = all(
                Fraction(low) <= value <= Fraction(high)
                for low, value, high in zip(batch.lower[box], x, batch.upper[box], strict=True)
            )
        for row, clause in enumerate(batch.row_clause):
            terms = range(batch.row_start[row], batch.row_start[row + 1])
            left = sum((Fraction(batch.coefficient[t]) * y[batch.column[t]] for t in terms), Fraction(0))
            good[clause] &= left <= Fraction(batch.threshold[row])
        if good.any():
            return True
    return False


def rounded(literal):
    return Fraction(float(np.float32(float(literal))))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_grid_properties_are_exact(data):
    asserted = data.draw(st.lists(formulas(GRID), max_size=3))
    query = read([("-1", "1")] * INPUTS, asserted, data.draw(seeds))
    if query is None:
        return
    batches = list(query.batches(data.draw(st.integers(1, 9))))
    total = 1
    for formula in asserted:
        total *= count(formula)
    assert query.clause_count == total == sum(batch.count for batch in batches)
    quarters = st.integers(-5, 5).map(lambda k: Fraction(k, 4))
    for _ in range(4):
        x = data.draw(st.tuples(*[quarters] * INPUTS))
        y = data.draw(st.tuples(*[quarters] * OUTPUTS))
        in_box = all(abs(value) <= 1 for value in x)
        relaxed = in_box and all(evaluate(f, x, y, strict=False) for f in asserted)
        assert inside(batches, x, y) == relaxed
        strict = in_box and all(evaluate(f, x, y, strict=True) for f in asserted)
        assert query.violated(np.array(x, np.float32), np.array(y, np.float32)) == strict
        if relaxed:
            lower, upper = query.input_box
            assert all(low <= value <= high for low, value, high in zip(lower, x, upper, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_decimal_properties_contain_both_readings(data):
    asserted = data.draw(st.lists(formulas(DECIMALS), max_size=3))
    query = read([("-0.7", "0.9")] * INPUTS, asserted, data.draw(seeds))
    if query is None:
        return
    batches = list(query.batches(5))
    near = st.sampled_from(DECIMALS)
    for _ in range(4):
        texts_x = data.draw(st.tuples(*[near] * INPUTS))
        texts_y = data.draw(st.tuples(*[near] * OUTPUTS))
        for literal in (Fraction, rounded):
            x, y = [literal(t) for t in texts_x], [literal(t) for t in texts_y]
            if not all(literal("-0.7") <= value <= literal("0.9") for value in x):
                continue
            if all(evaluate(f, x, y, False, literal, literal) for f in asserted):
                assert inside(batches, x, y)
        x, y = [rounded(t) for t in texts_x], [rounded(t) for t in texts_y]
        checker = all(rounded("-0.7") <= value <= rounded("0.9") for value in x) and all(
            evaluate(f, x, y, True, rounded, lambda t: Fraction(float(t))) for f in asserted
        )
        assert query.violated(np.array(x, np.float32), np.array(y, np.float32)) == checker
        if checker:  # a witness lies in the witness box of a clause, and in what is to be proven
            assert inside(batches, x, y)
            boxes = [query.witness_bounds(clause) for clause in range(query.clause_count)]
            assert any(all(low <= x) and all(x <= high) for low, high in boxes)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_batches_do_not_depend_on_their_size(data):
    asserted = data.draw(st.lists(formulas(GRID), min_size=1, max_size=4))
    query = read([("-1", "1")] * INPUTS, asserted, data.draw(seeds))
    if query is None:
        return

    def clauses(maximum):
        return [
            (
                batch.first + batch.offset[clause],
                batch.lower[box].tolist(),
                batch.upper[box].tolist(),
                batch.witness_lower[box].tolist(),
                batch.threshold[batch.row_clause == clause].tolist(),
            )
            for batch in query.batches(maximum)
            for clause, box in enumerate(batch.clause_box)
        ]

    if query.clause_count > 100:
        return
    assert clauses(1) == clauses(3) == clauses(1000)
    for number, _, _, witness_lower, _ in clauses(1000):
        assert query.witness_bounds(number)[0].tolist() == witness_lower
