"""Functions of one variable that the import writes as a few operators: their bounds contain the real function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from provenn.bounds.graph import read_onnx
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError

COUNT, SAMPLES = 400, 33
LIMITS = {"Asinh": (-1e12, 1e12), "Sinh": (-30.0, 30.0), "Acosh": (1.001, 1e6), "Atanh": (-1 + 1e-6, 1 - 1e-6)}
REFERENCE = {"Asinh": np.arcsinh, "Sinh": np.sinh, "Acosh": np.arccosh, "Atanh": np.arctanh}


def boxes(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of all sizes, around 0 and away from it, points among them."""
    random = np.random.default_rng(5)
    centre = random.choice([-1.0, 1.0], COUNT) * 10.0 ** random.uniform(-12, np.log10(high) if high > 1 else 0, COUNT)
    radius = np.where(random.random(COUNT) < 0.1, 0.0, np.abs(centre) * 10.0 ** random.uniform(-9, 1, COUNT))
    lower, upper = np.clip(centre - radius, low, high), np.clip(centre + radius, low, high)
    return lower, upper


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no numbers longer than float64 here")
@pytest.mark.parametrize("operator", LIMITS)
def test_bounds_contain_the_function(operator: str, tmp_path: Path) -> None:
    """At the ends and between them, by intervals and by lines; the operators are monotone, and so are their parts:
    the intervals are no wider than the function's image."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["X"], ["Y"])], "test",
        [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [1])],
        [helper.make_tensor_value_info("Y", TensorProto.DOUBLE, [1])],
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    plan = Plan(read_onnx(path))
    source, target = plan.graph.inputs[0], plan.graph.outputs[0]
    lower, upper = boxes(*LIMITS[operator])
    inputs = {source: (torch.from_numpy(lower)[:, None], torch.from_numpy(upper)[:, None])}
    image = interval_boxes(plan, inputs)
    magnitudes = Magnitudes(plan, image)
    error = RoundingError(plan, magnitudes)
    lines = relax_all(plan, target, intermediate_boxes(plan, inputs, magnitudes=magnitudes, until=target))
    one = torch.ones(COUNT, 1, 1, dtype=torch.float64)
    ends = [sign * backward(plan, target, sign * one, lines, inputs, error=error).numpy() for sign in (1, -1)]
    share = np.linspace(0, 1, SAMPLES)
    points = np.minimum(lower[:, None] + share * (upper - lower)[:, None], upper[:, None]).astype(np.longdouble)
    y = REFERENCE[operator](points)
    assert (ends[0] <= y).all() and (y <= ends[1]).all()
    low, high = (end.numpy() for end in image[target])
    assert (low <= y).all() and (y <= high).all() and np.isfinite(low).all() and np.isfinite(high).all()
    slack = 1e-9 * np.maximum(np.abs(y).max(1), 1)
    assert (high[:, 0] - low[:, 0] <= (y[:, -1] - y[:, 0]) + slack).all()
