"""Linear programs of domains: what they decide, what they refuse, and both ways to the solver."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes
from provenn.verifier import Options, _highs, program, verify
from provenn.verifier.leaf import Tree, jump_pieces
from provenn.verifier.program import Domain

from .networks import box, layers, property_text


def tree(
    nodes: list[Node], rows: list[list[float]], threshold: list[float], lower=-1.0, upper=1.0, split=None
) -> Tree:
    """A tree over the box ``[lower, upper]^n`` of a network given by its nodes."""
    plan = Plan(Graph(tuple(nodes), (0,), (len(nodes) - 1,)))
    ends = tuple(torch.full((1, *nodes[0].shape), end, dtype=torch.float64) for end in (lower, upper))
    boxes = interval_boxes(plan, {0: ends})
    kinds = {"dtype": torch.float64}
    domain = Domain(
        {0: ends}, boxes, split or {}, torch.tensor(rows, **kinds), torch.tensor(threshold, **kinds)
    )
    return Tree(plan, len(nodes) - 1, Magnitudes(plan, boxes), domain)


def linear(weight: list[list[float]], source: int = 0, bias: list[float] | None = None) -> Node:
    attributes = {"weight": np.array(weight)} | ({} if bias is None else {"bias": np.array(bias)})
    return Node("linear", (source,), (1, len(weight[0])), attributes)


def elementwise(operator: str, source: int, size: int, **attributes) -> Node:
    return Node(operator, (source,), (1, size), {k: np.array(v) for k, v in attributes.items()})


X1, X2 = Node("input", (), (1, 1)), Node("input", (), (1, 2))
SOON = 30.0


@pytest.fixture(params=["direct", "linprog"])
def solver(request, monkeypatch) -> str:
    if request.param == "linprog":
        monkeypatch.setattr(_highs, "_FOUND", [None])
    elif _highs._core() is None:
        pytest.skip("this scipy has no solver object of its own")
    return request.param


def test_a_conjunction_that_no_row_refutes_alone(solver: str) -> None:
    """x <= -0.1 and -x <= -0.1 exclude each other; each alone has points."""
    made = tree([X1, linear([[1.0, -1.0]])], [[1.0, 0.0], [0.0, 1.0]], [-0.1, -0.1])
    assert made.run(time.monotonic() + SOON) == "refuted" and made.programs == 1


def test_contradictory_splits(solver: str) -> None:
    """relu(x - 0.5) split to its active side and relu(-x - 0.5) to its active side: no x has both."""
    nodes = [X1, linear([[1.0, -1.0]], 0, [-0.5, -0.5]), elementwise("relu", 1, 2), linear([[1.0], [1.0]], 2)]
    made = tree(nodes, [[-1.0]], [0.0], split={(1, 0): (0.0, 0.5), (1, 1): (0.0, 0.5)})
    assert made.run(time.monotonic() + SOON) == "refuted" and made.programs == 1


@pytest.mark.parametrize("margin, ending", [(1e-6, "refuted"), (-1e-6, "violated"), (0.0, "violated")])
def test_thresholds_at_the_minimum(solver: str, margin: float, ending: str) -> None:
    """|x - y| + |x + y| = 2 max(|x|, |y|) has its minimum 0 at one point inside."""
    nodes = [X2, linear([[1.0, 1.0], [-1.0, 1.0]]), elementwise("abs", 1, 2), linear([[1.0], [1.0]], 2)]
    made = tree(nodes, [[1.0]], [-margin])
    assert made.run(time.monotonic() + SOON) == ending
    assert made.margin <= max(margin, 0.0) or ending == "refuted"


@pytest.mark.parametrize("operator, attributes", [
    ("relu", {}), ("leaky_relu", {"slope": 0.2}), ("prelu", {"slope": [0.5, -0.3, 2.0]}), ("abs", {}),
    ("clip", {"lower": -0.2, "upper": 0.4}), ("hard_sigmoid", {"alpha": 2.0, "beta": 0.5}),
    ("sign", {}), ("floor", {}), ("ceil", {}), ("round", {}),
])  # fmt: skip
def test_one_layer_of_every_piecewise_linear_operator(operator: str, attributes: dict) -> None:
    """Thresholds close to the minimum over a fine grid are told apart."""
    random = np.random.default_rng(2)
    first, last = random.standard_normal((2, 3)) * 1.5, random.standard_normal((3, 1))
    nodes = [X2, linear(first.tolist()), elementwise(operator, 1, 3, **attributes), linear(last.tolist(), 2)]
    plan = Plan(Graph(tuple(nodes), (0,), (3,)))
    grid = torch.linspace(-1, 1, 401, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid).view(-1, 1, 2)
    values = points
    for index in (1, 2, 3):
        values = plan.operators[index].evaluate(plan.prepared[index], values)
    least = float(values.min())
    above = tree(nodes, [[1.0]], [least + 1e-3])
    assert above.run(time.monotonic() + SOON) == "violated"
    below = tree(nodes, [[1.0]], [least - 0.05])
    assert below.run(time.monotonic() + SOON) == "refuted"


def test_a_jump_is_three_pieces() -> None:
    """|sign(x)| < 0.5 holds at x = 0 only: no proof may overlook that point."""
    nodes = [X1, elementwise("sign", 0, 1), elementwise("abs", 1, 1)]
    assert tree(nodes, [[1.0]], [0.5]).run(time.monotonic() + SOON) == "violated"
    assert tree(nodes, [[1.0]], [0.5], lower=0.25).run(time.monotonic() + SOON) == "refuted"
    assert tree(nodes, [[1.0]], [-0.5]).run(time.monotonic() + SOON) == "refuted"
    pieces = jump_pieces(-1.0, 2.0, 0.0)
    assert sorted(closed for _, closed in pieces) == [(-1.0, 0.0), (0.0, 0.0), (0.0, 2.0)]


def test_too_large_or_unbounded_is_stuck(monkeypatch) -> None:
    nodes = [X1, elementwise("relu", 0, 1)]
    monkeypatch.setattr(program, "POINT_ELEMENTS", 1)
    made = tree(nodes, [[1.0]], [-0.5])
    assert made.run(time.monotonic() + SOON) == "stuck"
    monkeypatch.undo()
    assert tree(nodes, [[1.0]], [-0.5], upper=float("inf")).run(time.monotonic() + SOON) in (
        "stuck",
        "refuted",
    )


def test_resumes_where_it_paused() -> None:
    """One program per call decides as one call does."""
    random = np.random.default_rng(6)
    nodes = [X2]
    for layer, (n, m) in enumerate([(2, 8), (8, 6)]):
        nodes.append(
            linear(random.standard_normal((n, m)).tolist(), 2 * layer, random.standard_normal(m).tolist())
        )
        nodes.append(elementwise("relu", 2 * layer + 1, m))
    nodes.append(linear(random.standard_normal((6, 1)).tolist(), 4))
    plan = Plan(Graph(tuple(nodes), (0,), (5,)))
    grid = torch.linspace(-1, 1, 401, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid).view(-1, 1, 2)
    for index in range(1, 6):
        x = plan.operators[index].evaluate(plan.prepared[index], x)
    whole, parts = (tree(nodes, [[1.0]], [float(x.min()) - 0.05]) for _ in range(2))
    assert whole.run(time.monotonic() + SOON) == "refuted"
    shares = [1.0]
    while parts.run(0.0) is None:
        assert parts.remaining <= shares[-1] + 1e-12
        shares.append(parts.remaining)
    assert parts.ending == "refuted" and parts.programs == whole.programs > 1


def test_both_solvers_agree(monkeypatch) -> None:
    if _highs._core() is None:
        pytest.skip("this scipy has no solver object of its own")
    random = np.random.default_rng(1)
    for _ in range(50):
        rows, upper = random.standard_normal((12, 4)), random.standard_normal(12)
        low, high = -np.ones(4), np.ones(4)
        cost = random.standard_normal(4)
        direct = _highs.minimise(cost, rows, upper, low, high)
        public = _highs._linprog(cost, rows, upper, low, high)
        assert direct is not None and public is not None and direct.empty == public.empty
        if direct.empty:
            assert _highs._excess(direct.dual, rows, upper, low, high) > 0
            assert _highs._excess(np.maximum(public.dual, 0), rows, upper, low, high) > 0
        else:
            assert direct.value == pytest.approx(public.value, abs=1e-7)
            assert (rows @ direct.x <= upper + 1e-7).all()


def test_a_margin_below_floating_point_is_unknown_and_says_so(tmp_path) -> None:
    """|x + y| + |y - x| + 0.1 <= 0.1 holds at one point in real arithmetic, and nowhere on onnxruntime."""
    weights = [np.array([[1.0, -1.0], [1.0, 1.0]]), np.ones((2, 1))]
    onnx = layers(tmp_path / "network.onnx", "Abs", weights, [np.zeros(2), np.array([0.1])])
    text = property_text(2, 1, box([("-1", "0.7"), ("-0.33", "1")]), "(assert (<= Y_0 0.0999999999))")
    (tmp_path / "property.vnnlib").write_bytes(text)
    result = verify(onnx, tmp_path / "property.vnnlib", Options(timeout=20, threads=1, device="cpu"))
    assert result.verdict == "unknown"
    assert "float64" in result.reason and "1 of 1 clauses" in result.reason
