"""The attack finds what it must find, believes nothing but onnxruntime, and repeats itself for a seed."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from onnx import helper

from provenn.bounds.graph import evaluate, read_onnx
from provenn.specs import parse_query
from provenn.verifier.attack import attack, attack_query
from provenn.verifier.options import Options
from provenn.verifier.problem import Problem, dense_clauses
from provenn.verifier.replay import Replay
from provenn.verifier.surrogate import Surrogate

from .networks import affine, box, layers, property_text, save


class Case:
    """A network file with a property, ready to be attacked."""

    def __init__(self, path, text: bytes, element: str = "float32"):
        self.query = parse_query(text, element_type=element)
        self.problem = Problem(read_onnx(path), self.query, torch.device("cpu"))
        self.replay = Replay(path, self.query)

    def whole(self, seed: int = 0, seconds: float = 20.0, **options):
        return attack_query(
            self.problem,
            self.replay,
            options=Options(**options),
            deadline=time.monotonic() + seconds,
            generator=torch.Generator().manual_seed(seed),
        )

    def clauses(self, seed: int = 0, seconds: float = 20.0, **arguments):
        (batch,) = self.query.batches(1000)
        return attack(
            self.problem,
            dense_clauses(batch, self.problem.outputs, self.problem.device),
            self.replay,
            options=Options(),
            deadline=time.monotonic() + seconds,
            generator=torch.Generator().manual_seed(seed),
            **arguments,
        )


def corner_case(path, inputs: int, below: float) -> Case:
    """relu(+-x) summed: |x|_1, largest at the corners of [-1, 1]^n, with its flattest point in the middle."""
    eye = np.eye(inputs)
    net = layers(
        path, "Relu", [np.hstack([eye, -eye]), np.ones((2 * inputs, 1))], [np.zeros(2 * inputs), np.zeros(1)]
    )
    text = property_text(inputs, 1, box([("-1", "1")] * inputs), f"(assert (>= Y_0 {inputs - below}))")
    return Case(net, text)


def test_descent_reaches_a_corner_that_no_sampling_hits(tmp_path):
    case = corner_case(tmp_path / "net.onnx", 200, 0.0)
    witness = case.whole()
    assert witness is not None
    assert (np.abs(witness.inputs) == 1).all() and witness.outputs[0] == 200


def test_a_caller_without_derivatives_gets_the_same_descent(tmp_path):
    case = corner_case(tmp_path / "net.onnx", 200, 0.0)
    with torch.no_grad():
        assert case.whole() is not None


def test_a_property_that_holds_yields_nothing(tmp_path):
    case = corner_case(tmp_path / "net.onnx", 5, -0.001)
    assert case.whole() is None


def test_the_same_seed_finds_the_same_witness(tmp_path):
    case = corner_case(tmp_path / "net.onnx", 20, 4.0)
    found = [case.whole(seed).inputs.tolist() for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]


def test_all_rows_of_a_conjunction_must_hold(tmp_path):
    # y = x rotated: a thin wedge that only one corner of the box reaches
    net = affine(tmp_path / "net.onnx", [[1.0, 1.0], [-1.0, 1.0]], [0.0, 0.0])
    wedge = "(assert (and (<= Y_0 -0.999) (>= Y_0 -1.001)))\n(assert (>= Y_1 0.998))"
    witness = Case(net, property_text(2, 2, box([("-1", "1")] * 2), wedge)).whole()
    assert witness is not None
    assert -1.001 <= witness.outputs[0] <= -0.999 and witness.outputs[1] >= 0.998


def test_fixed_inputs_stay_and_float64_networks_are_searched_in_float64(tmp_path):
    net = affine(tmp_path / "net.onnx", [[1.0], [1.0]], [0.0], element="float64")
    text = property_text(2, 1, box([("0.1", "0.1"), ("0", "0.7")]), "(assert (>= Y_0 0.7999999999))")
    witness = Case(net, text, "float64").whole()
    assert witness is not None and witness.inputs[0] == 0.1 and witness.inputs.dtype == np.float64


def needle(path) -> Case:
    """A spike of width 1e-3 at 0.3 in a box of width 1: flat elsewhere."""
    net = layers(
        path,
        "Relu",
        [np.full((1, 3), 2000.0), np.array([[1.0], [-2.0], [1.0]])],
        [np.array([-599.0, -600.0, -601.0]), np.zeros(1)],
    )
    return Case(net, property_text(1, 1, box([("0", "1")]), "(assert (>= Y_0 0.9))"))


def test_given_starts_are_tried_first(tmp_path):
    case = needle(tmp_path / "net.onnx")
    starts = torch.tensor([[0.9], [0.3], [0.1]], dtype=torch.float64)
    assert case.clauses(starts=starts, restarts=0) is not None
    assert case.replay.calls == 1
    clause = torch.zeros(3, dtype=torch.int64)
    assert case.clauses(starts=starts, start_clause=clause, restarts=0) is not None


def test_starts_are_descended_from(tmp_path):
    case = needle(tmp_path / "net.onnx")
    near = torch.tensor([[0.29965]], dtype=torch.float64)
    witness = case.clauses(starts=near)
    assert witness is not None and abs(witness.inputs[0] - 0.3) < 1e-3


@pytest.mark.parametrize("activation", ["Sign", "Floor"])
def test_jumps_are_searched_by_surrogate_and_mutation(tmp_path, activation):
    # the outputs' derivative is zero everywhere; all 40 hidden signs must agree with a hidden pattern
    rng = np.random.default_rng(0)
    weight, pattern = rng.normal(size=(60, 40)), np.where(rng.random(40) < 0.5, -1.0, 1.0)
    net = layers(tmp_path / "net.onnx", activation, [weight, pattern[:, None]], [np.zeros(40), np.zeros(1)])
    text = property_text(60, 1, box([("-1", "1")] * 60), "(assert (>= Y_0 40))")
    assert Case(net, text).whole() is not None


def test_integers_of_few_free_inputs_are_enumerated(tmp_path):
    # a table of 2,000 entries indexed by an input: one entry violates
    table = np.zeros(2000, np.float32)
    table[1234] = 1.0
    nodes = [
        helper.make_node("Cast", ["X"], ["I"], to=7),
        helper.make_node("Gather", ["T", "I"], ["Y"], axis=0),
    ]
    net = save(tmp_path / "net.onnx", nodes, 1, 1, T=table)
    witness = Case(net, property_text(1, 1, box([("0", "1999")]), "(assert (>= Y_0 1))")).whole()
    assert witness is not None and witness.inputs[0] == 1234


def test_many_clauses_with_a_box_each(tmp_path):
    # 20,000 intervals of the one input: one clause asks for less than the rest
    net = affine(tmp_path / "net.onnx", [[1.0]], [0.0])
    parts = [
        f"(and (>= X_0 {i}) (<= X_0 {i + 1}) (>= Y_0 {i + 0.5 if i == 15_321 else i + 1.5}))"
        for i in range(20_000)
    ]
    case = Case(net, property_text(1, 1, "(assert (or", *parts, "))"))
    witness = case.whole(seconds=20)
    assert witness is not None and 15_321.5 <= witness.inputs[0] <= 15_322


def test_clauses_keep_their_number(tmp_path):
    # the candidate is moved into the box of the clause that it was found for
    net = affine(tmp_path / "net.onnx", [[1.0]], [0.0])
    parts = ["(and (<= X_0 0.1) (>= Y_0 1))", "(and (>= X_0 0.7) (<= X_0 0.7) (>= Y_0 0.5))"]
    case = Case(net, property_text(1, 1, box([("0", "1")]), f"(assert (or {' '.join(parts)}))"))
    witness = case.clauses()
    assert witness is not None and witness.inputs[0] == np.float32(0.7)
    (batch,) = case.query.batches(10)
    second = dense_clauses(batch, 1, torch.device("cpu")).select(torch.tensor([1]))
    arguments = {"options": Options(), "generator": torch.Generator().manual_seed(0)}
    deadline = time.monotonic() + 20
    found = attack(case.problem, second, case.replay, deadline=deadline, number=np.array([1]), **arguments)
    assert found is not None


def test_an_expired_deadline_costs_nothing(tmp_path):
    case = corner_case(tmp_path / "net.onnx", 50, 0.0)
    assert case.whole(seconds=-1) is None
    assert case.replay.calls == 0


def test_the_deadline_is_kept(tmp_path):
    case = corner_case(tmp_path / "net.onnx", 200, -1.0)
    begin = time.monotonic()
    assert case.clauses(seconds=0.3, thorough=True) is None
    assert time.monotonic() - begin < 1.5


def test_surrogate_values_are_the_operators_and_derivatives_pass_jumps(tmp_path):
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(4, 6)), rng.normal(size=(6, 5)), rng.normal(size=(5, 2))]
    biases = [rng.normal(size=n) for n in (6, 5, 2)]
    graph = read_onnx(layers(tmp_path / "net.onnx", "Sign", weights, biases))
    case = Case(tmp_path / "net.onnx", property_text(4, 2, box([("-1", "1")] * 4), "(assert (<= Y_0 Y_1))"))
    surrogate = Surrogate(case.problem.plan(torch.float64))
    x = torch.rand(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    y = surrogate(x)
    assert surrogate.jumps
    assert torch.equal(y.detach(), evaluate(graph, [x.detach().view(7, *graph.nodes[0].shape)])[0].view(7, 2))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert bool((gradient != 0).all()) and bool(torch.isfinite(gradient).all())
