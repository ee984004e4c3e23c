"""Positions that a network reads from its inputs: cells cover every one, verdicts agree with brute force."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from provenn.bounds.graph import evaluate, read_onnx
from provenn.bounds.graph.cells import Cells, cells
from provenn.verifier import Options, verify
from provenn.verifier.result import Result

from .networks import box, property_text, save

KINDS = ("where", "scatter", "gather")
INTEGERS = {"Cast": np.trunc, "Floor": np.floor, "Ceil": np.ceil, "Round": np.round}
FEATURES = 4


def network(path: Path, kind: str, integer: str = "Cast", seed: int = 0, shift: int = 0) -> Path:
    """``X`` ``[1, 5]``: a position and four features, of which the one at the position is changed; then two layers."""
    random = np.random.default_rng(seed)
    pick = lambda name, index: helper.make_node("Gather", ["X", index], [name], axis=1)  # noqa: E731
    nodes = [pick("P", "first"), pick("I", "others")]
    if integer == "Cast":
        nodes.append(helper.make_node("Cast", ["P"], ["N"], to=TensorProto.INT64))
    else:
        nodes += [
            helper.make_node(integer, ["P"], ["F"]), helper.make_node("Cast", ["F"], ["N"], to=TensorProto.INT64)
        ]  # fmt: skip
    nodes.append(helper.make_node("Add", ["N", "shift"], ["K"]))
    if kind == "where":
        nodes += [
            helper.make_node("Equal", ["range", "K"], ["C"]), helper.make_node("Where", ["C", "zero", "I"], ["S"])
        ]  # fmt: skip
    elif kind == "scatter":
        nodes += [
            helper.make_node("ScatterND", ["ones", "K", "updates"], ["M"]), helper.make_node("Mul", ["M", "I"], ["S"])
        ]  # fmt: skip
    else:
        nodes += [
            helper.make_node("Gather", ["table", "K"], ["G"], axis=0),
            helper.make_node("Reshape", ["G", "flat"], ["R"]),
            helper.make_node("Add", ["R", "I"], ["S"]),
        ]  # fmt: skip
    nodes += [
        helper.make_node("Gemm", ["S", "W", "B"], ["Z"]), helper.make_node("Relu", ["Z"], ["A"]),
        helper.make_node("Gemm", ["A", "V"], ["Y"]),
    ]  # fmt: skip
    small = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    given = {
        "first": np.int64([0]), "others": np.arange(1, 5), "shift": np.int64([shift]), "range": np.arange(FEATURES),
        "zero": np.float32(0), "ones": np.ones(FEATURES, np.float32), "updates": np.float32([0]),
        "flat": np.int64([1, 4]), "table": small(FEATURES, FEATURES), "W": small(FEATURES, 8), "B": small(8),
        "V": small(8, 1),
    }  # fmt: skip
    used = {name for node in nodes for name in node.input}
    return save(path, nodes, 1 + FEATURES, 1, **{name: value for name, value in given.items() if name in used})


def outputs(path: Path, points: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.array([session.run(None, {"X": x[None].astype(np.float32)})[0].item() for x in points])


def decided(path: Path, bounds: list[tuple[str, str]], condition: str, timeout: float = 20) -> Result:
    place = path.with_suffix(".vnnlib")
    place.write_bytes(property_text(1 + FEATURES, 1, box(bounds), condition))
    return verify(path, place, Options(timeout=timeout, device="cpu", threads=1))


def cut(path: Path, lower: list[float], upper: list[float]) -> Cells:
    found = cells(read_onnx(path), np.array(lower, np.float64), np.array(upper, np.float64))
    assert found is not None
    return found


@pytest.mark.parametrize("integer", list(INTEGERS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_input_lies_in_a_cell(tmp_path: Path, kind: str, integer: str) -> None:
    """At integers, halves, next to both and at random points: the graph of some cell that holds the input agrees."""
    path = network(tmp_path / "net.onnx", kind, integer, shift=1)
    graph, ends = read_onnx(path), (-0.75, 2.0)
    found = cut(path, [ends[0], *[-1.0] * 4], [ends[1], *[1.0] * 4])
    random = np.random.default_rng(1)
    jumps = np.arange(-1, 2.5, 0.5)
    first = np.concatenate([jumps, np.nextafter(jumps, 9), np.nextafter(jumps, -9), random.uniform(*ends, 40)])
    for place in first[(first >= ends[0]) & (first <= ends[1])]:
        x = np.array([place, *random.uniform(-1, 1, 4)])
        expected = evaluate(graph, [torch.from_numpy(x)[None, None]])[0].item()
        holds = (found.lower[:, :5] <= x).all(1) & (x <= found.upper[:, :5]).all(1)
        points = np.concatenate([np.repeat(x[None], holds.sum(), 0), found.lower[holds, 5:]], 1)
        made = evaluate(found.graph, [torch.from_numpy(points)[:, None]])[0].reshape(-1)
        assert (made - expected).abs().min() < 1e-12, (place, expected, made)


@pytest.mark.parametrize("integer", list(INTEGERS))
def test_cells_are_the_integers_of_the_box(tmp_path: Path, integer: str) -> None:
    """As many cells as the operator has values, each as wide as the operator is constant."""
    path = network(tmp_path / "net.onnx", "where", integer, shift=2)
    found = cut(path, [-1.5, *[-1.0] * 4], [1.25, *[1.0] * 4])
    reached = np.unique(INTEGERS[integer](np.linspace(-1.5, 1.25, 12)))
    assert len(found) == found.combinations == len(reached)
    assert found.lower[:, 0].min() == -1.5 and found.upper[:, 0].max() == 1.25
    assert (found.upper[:, 0] - found.lower[:, 0] <= 2.0).all()


def test_equal_constants_are_one_cell(tmp_path: Path) -> None:
    """Positions beyond the features change nothing, so they are one cell if nothing else reads the position."""
    path = network(tmp_path / "net.onnx", "where")
    found = cut(path, [0.0, *[-1.0] * 4], [30.0, *[1.0] * 4])
    assert found.combinations == 31 and len(found) == FEATURES + 1


def test_no_cells_without_few_integers(tmp_path: Path) -> None:
    graph = read_onnx(network(tmp_path / "net.onnx", "where"))
    point, wide = np.array([1.0, *[0.0] * 4]), np.array([1e9, *[0.0] * 4])
    assert cells(graph, point, point + 0.5) is None
    assert cells(graph, -wide, wide) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_verdicts_agree_with_all_positions(tmp_path: Path, kind: str, seed: int) -> None:
    """Fixed features: brute force over positions knows the minimum; thresholds on either side of it."""
    random = np.random.default_rng(seed)
    path = network(tmp_path / "net.onnx", kind, seed=seed)
    features = random.uniform(-1, 1, FEATURES).astype(np.float32).round(3)
    low = outputs(path, np.array([[n, *features] for n in range(FEATURES)])).min()
    bounds = [("0", "3.75"), *((f"{v:.3f}", f"{v:.3f}") for v in features)]
    below = decided(path, bounds, f"(assert (<= Y_0 {low - 1e-3:.6f}))")
    above = decided(path, bounds, f"(assert (<= Y_0 {low + 1e-3:.6f}))")
    assert (below.verdict, above.verdict) == ("unsat", "sat")
    assert any("cells" in line for line in below.strategy)


@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_with_free_features(tmp_path: Path, kind: str) -> None:
    """What a cell leaves variable is bounded and split as ever; thousands of samples stay above a proven bound."""
    path = network(tmp_path / "net.onnx", kind, seed=7)
    random = np.random.default_rng(3)
    points = np.concatenate([random.uniform(0, 4, (4000, 1)), random.uniform(-0.5, 0.5, (4000, 4))], 1)
    least = outputs(path, np.clip(points, None, [3.99, 1, 1, 1, 1])).min()
    bounds = [("0", "3.99"), *[("-0.5", "0.5")] * 4]
    assert decided(path, bounds, f"(assert (<= Y_0 {least:.6f}))").verdict == "sat"
    assert decided(path, bounds, f"(assert (<= Y_0 {least - 1:.6f}))").verdict == "unsat"


@pytest.mark.parametrize(
    ("first", "reached"),
    [
        (("1", "2"), (1, 2)),
        (("1", "1.9999999"), (1,)),
        (("1.5", "1.5"), (1,)),
        (("-0.9999999", "0.9999999"), (0,)),
        (("-0.5", "1"), (0, 1)),
        (("2.9999997", "3"), (2, 3)),
    ],
)
def test_ends_of_the_box_at_jumps(tmp_path: Path, first: tuple[str, str], reached: tuple[int, ...]) -> None:
    """A position that the box has only at its end counts; one just behind it does not."""
    path = network(tmp_path / "net.onnx", "where", seed=2)
    features = np.array([0.5, -0.75, 0.25, 1.0])
    values = outputs(path, np.array([[n, *features] for n in range(FEATURES)]))
    fixed = [(str(v), str(v)) for v in features]
    for position in range(FEATURES):
        condition = f"(assert (<= Y_0 {values[position] + 1e-4:.6f}))\n(assert (>= Y_0 {values[position] - 1e-4:.6f}))"
        expected = "sat" if position in reached else "unsat"
        if expected == "unsat" and np.abs(values[list(reached)] - values[position]).min() < 1e-3:
            continue
        assert decided(path, [first, *fixed], condition).verdict == expected


def test_casts_truncate_negative_positions(tmp_path: Path) -> None:
    """Positions in (-2, -1] are -1 for a cast: with a shift of 1 that is feature 0, and never feature -1."""
    path = network(tmp_path / "net.onnx", "gather", seed=4, shift=1)
    features = [0.5, -0.75, 0.25, 1.0]
    value = outputs(path, np.array([[-1.5, *features]])).item()
    bounds = [("-1.75", "-1"), *((str(v), str(v)) for v in features)]
    assert decided(path, bounds, f"(assert (<= Y_0 {value - 1e-3:.6f}))").verdict == "unsat"
    assert decided(path, bounds, f"(assert (>= Y_0 {value + 1e-3:.6f}))").verdict == "unsat"
    assert decided(path, bounds, f"(assert (<= Y_0 {value + 1e-3:.6f}))").verdict == "sat"


@pytest.mark.parametrize("chain", [(TensorProto.INT8,), (TensorProto.INT64, TensorProto.INT8)])
def test_a_type_that_cannot_hold_the_box_proves_nothing(chain: tuple[int, ...], tmp_path: Path) -> None:
    """What becomes of 200 in int8 is -56, or nothing that ONNX defines."""
    names = ["X", *(f"C{i}" for i in range(len(chain))), "Y"]
    nodes = [
        helper.make_node("Cast", [a], [b], to=to)
        for (a, b), to in zip(pairwise(names), (*chain, TensorProto.FLOAT), strict=True)
    ]
    path = save(tmp_path / "narrow.onnx", nodes, 1, 1)
    for last, proven in (("300.0", False), ("127.0", True)):
        text = property_text(1, 1, box([("0.0", last)]), "(assert (<= Y_0 -1.0))")
        (tmp_path / "p.vnnlib").write_bytes(text)
        assert (verify(path, tmp_path / "p.vnnlib", Options(timeout=20)).verdict == "unsat") == proven


@pytest.mark.parametrize("power", [600, 520])
def test_factors_whose_product_is_no_number(power: int, tmp_path: Path) -> None:
    """``floor(x t t / t)`` of x in [1, 1.5] / t is 1, but t t is 0 in float64 (or has lost digits)."""
    tiny, huge = np.float64(2.0**-power), np.float64(2.0**power)
    nodes = [
        helper.make_node("Mul", ["X", "t"], ["a"]),
        helper.make_node("Mul", ["a", "t"], ["b"]),
        helper.make_node("Mul", ["b", "u"], ["c"]),
        helper.make_node("Floor", ["c"], ["d"]),
        helper.make_node("Abs", ["a"], ["e"]),
        helper.make_node("Abs", ["b"], ["f"]),
        helper.make_node("Add", ["e", "f"], ["g"]),
        helper.make_node("Mul", ["g", "t"], ["h"]),
        helper.make_node("Add", ["d", "h"], ["Y"]),
    ]
    path = save(tmp_path / "net.onnx", nodes, 1, 1, "float64", t=[[tiny]], u=[[huge]])
    ends = [(format(2.0**power, ".1f"), format(1.5 * 2.0**power, ".1f"))]
    (tmp_path / "net.vnnlib").write_bytes(property_text(1, 1, box(ends), "(assert (>= Y_0 0.5))"))
    assert verify(path, tmp_path / "net.vnnlib", Options(timeout=5, device="cpu")).verdict != "unsat"
