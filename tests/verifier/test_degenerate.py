"""Networks and boxes at the edge of what makes sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from onnx import helper

from provenn.bounds.graph import read_onnx
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.specs import read_query
from provenn.verifier import Options, verify
from provenn.verifier.fixed import JUMP_STEP, Fixed
from provenn.verifier.problem import Problem
from provenn.verifier.root import root_facts

from .networks import affine, box, property_text, save


def decided(network: Path, inputs: int, outputs: int, *parts: str) -> str:
    path = network.with_suffix(".vnnlib")
    path.write_bytes(property_text(inputs, outputs, *parts))
    return verify(network, path, Options(timeout=10, device="cpu")).verdict


def root_bounder(network: Path, bounds: list[tuple[str, str]]) -> Fixed:
    path = network.with_suffix(".vnnlib")
    path.write_bytes(property_text(len(bounds), 1, box(bounds), "(assert (<= Y_0 0))"))
    problem = Problem(read_onnx(network), read_query(str(path), len(bounds), 1, "float32"), torch.device("cpu"))
    clauses = problem.clauses(next(problem.query.batches(1)))
    facts = root_facts(problem, clauses.lower, clauses.upper, steps=0, deadline=float("inf"))
    return Fixed(problem, clauses, facts, steps=1)


def test_a_box_as_wide_as_the_rounding_of_its_literals(tmp_path) -> None:
    """The exact point violates, its float32 number does not: neither proof nor witness."""
    network = affine(tmp_path / "net.onnx", [[3.0]], [0.0])
    verdict = decided(network, 1, 1, box([("0.1", "0.1")]), "(assert (<= Y_0 0.300000001))")
    assert verdict in ("unknown", "timeout")


def test_elements_that_no_line_ties_to_the_input(tmp_path) -> None:
    """A choice by data is bounded by intervals, so the planes of what follows it are constants."""
    nodes = [
        helper.make_node("Greater", ["X", "O"], ["C"]),
        helper.make_node("Where", ["C", "X", "O"], ["S"]),
        helper.make_node("Gemm", ["S", "W", "B"], ["Z"]),
        helper.make_node("Relu", ["Z"], ["A"]),
        helper.make_node("Gemm", ["A", "V"], ["Y"]),
    ]
    network = save(
        tmp_path / "net.onnx", nodes, 2, 1,
        W=np.float32([[1, -1], [-1, 1]]), B=np.float32([0.1, 0.2]), V=np.float32([[1], [1]]),
        O=np.float32([[0, 0.1]]),
    )  # fmt: skip
    planes = root_bounder(network, [("-1", "1"), ("-1", "1")]).planes
    assert planes is not None and not planes.a.any() and torch.isfinite(planes.c).all()


def test_a_jump_inside_a_subnormal_box_loses_no_side(tmp_path) -> None:
    """The open end next to a jump may lie beyond the box; its points are below or above the jump all the same."""
    nodes = [
        helper.make_node("Gemm", ["X", "W"], ["Z"]),
        helper.make_node("Sign", ["Z"], ["A"]),
        helper.make_node("Gemm", ["A", "V"], ["Y"]),
    ]
    weight, one = np.float32([[1e-40]]), np.float32([[1]])
    network = save(tmp_path / "net.onnx", nodes, 1, 1, W=weight, V=one)
    bounder = root_bounder(network, [("-1", "1")])
    root = bounder.roots()
    assert bounder.planes is not None and 0 < float(root["upper"]) < JUMP_STEP
    halves = zip(*(v.chunk(2) for v in bounder.split(root).values()), strict=True)
    below, above = (dict(zip(root, part, strict=True)) for part in halves)
    for part in (below, above):
        assert bounder.clip(part)["bound"].numel() == 1
    assert bounder.clip(bounder.split(above))["bound"].numel() == 2


def test_a_leaky_relu_steeper_below_is_concave(tmp_path) -> None:
    """LeakyRelu with alpha 2.5 over [-1, 1]: no lower line but the chord is sound, and it misses the origin."""
    nodes = [
        helper.make_node("Gemm", ["X", "W"], ["Z"]),
        helper.make_node("LeakyRelu", ["Z"], ["A"], alpha=2.5),
        helper.make_node("Gemm", ["A", "V"], ["Y"]),
    ]
    one = np.float32([[1]])
    network = save(tmp_path / "net.onnx", nodes, 1, 1, W=one, V=one)
    problem = root_bounder(network, [("-1", "1")]).problem
    plan, boxes = problem.plan(torch.float64), problem.input_boxes(*problem.hull)
    rows = torch.ones(1, 1, *problem.output_shape, dtype=torch.float64)
    lines = relax_all(plan, problem.output, interval_boxes(plan, boxes))
    assert float(backward(plan, problem.output, rows, lines, boxes)) <= -2.5
