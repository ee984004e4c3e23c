"""Networks with spelled-out functions of one variable: right verdicts on either side of the true optimum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from provenn.verifier import Options, verify

from .networks import box, property_text, save

WIDTH, KNOTS = 3, 9


def network(path: Path, seed: int) -> Path:
    """``Y = V . (s(Z) * p(Z))`` with Z affine in two inputs, s a spline of relus, p a period by floor."""
    random = np.random.default_rng([3, seed])
    node = helper.make_node
    nodes = [
        node("Gemm", ["X", "W", "B"], ["Z"]),
        node("Reshape", ["Z", "apart"], ["Z1"]),
        node("Add", ["Z1", "knots"], ["Z2"]),
        node("Relu", ["Z2"], ["Z3"]),
        node("MatMul", ["Z3", "heights"], ["Z4"]),
        node("Reshape", ["Z4", "together"], ["S"]),
        node("Div", ["Z", "period"], ["P1"]),
        node("Floor", ["P1"], ["P2"]),
        node("Mul", ["P2", "period"], ["P3"]),
        node("Sub", ["Z", "P3"], ["P4"]),
        node("Add", ["P4", "middle"], ["P5"]),
        node("Abs", ["P5"], ["P6"]),
        node("Mul", ["S", "P6"], ["M"]),
        node("Gemm", ["M", "V", "C"], ["Y"]),
    ]
    single = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    return save(
        path, nodes, 2, 1, W=single(2, WIDTH), B=single(WIDTH), V=single(WIDTH, 1), C=single(1),
        apart=np.array([1, WIDTH, 1]), together=np.array([1, WIDTH]), period=np.float32(0.7),
        middle=np.float32(-0.35), knots=random.uniform(-1, 1, KNOTS).astype(np.float32), heights=single(KNOTS, 1),
    )  # fmt: skip


def least(path: Path, lower: np.ndarray, upper: np.ndarray) -> float:
    """The smallest output that a dense grid finds."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    grid = np.stack(np.meshgrid(*(np.linspace(a, b, 41) for a, b in zip(lower, upper, strict=True))), -1)
    points = grid.reshape(-1, 1, 2).astype(np.float32)
    return min(float(session.run(None, {"X": x})[0].item()) for x in points)


@pytest.mark.parametrize("seed", range(6))
def test_verdicts_on_both_sides_of_the_optimum(tmp_path: Path, seed: int) -> None:
    path = network(tmp_path / "net.onnx", seed)
    lower = np.random.default_rng(seed).uniform(-1, 0.5, 2).round(3)
    upper = lower + 0.5
    found = least(path, lower, upper)
    region = box([(str(a), str(b)) for a, b in zip(lower, upper, strict=True)])
    verdicts = {}
    for shift in (0.02, -0.2):
        text = property_text(2, 1, region, f"(assert (<= Y_0 {found + shift}))")
        (tmp_path / "p.vnnlib").write_bytes(text)
        result = verify(path, tmp_path / "p.vnnlib", Options(timeout=60, device="cpu"))
        assert any("functions of one variable" in line for line in result.strategy)
        verdicts[shift] = result.verdict
    assert verdicts == {0.02: "sat", -0.2: "unsat"}
