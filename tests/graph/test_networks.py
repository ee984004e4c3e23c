"""Every network of the benchmark suite: the imported graph computes what the file says.

Against onnxruntime (float32, so only to its own accuracy) and against onnx's reference evaluator
on a float64 copy, which shares no code with provenn. The suite's folder is PROVENN_BENCHMARKS.
"""

from __future__ import annotations

import gzip
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from provenn.bounds.graph import evaluator, read_onnx
from provenn.bounds.ops import OPS

from .reference import evaluate_double, load

FOLDER = Path(
    os.environ.get("PROVENN_BENCHMARKS") or Path(__file__).parents[2].parent / "shared" / "benchmarks"
)
NETWORKS = sorted(FOLDER.glob("*/onnx/*.onnx.gz")) + sorted(FOLDER.glob("lipschitz/*.onnx.gz"))
if not NETWORKS:
    pytest.skip("no benchmark suite here", allow_module_level=True)


def families() -> list[Path]:
    """The two smallest networks of every family: the reference evaluator is slow."""
    found: dict[str, list[Path]] = {}
    for path in sorted(NETWORKS, key=lambda path: path.stat().st_size):
        found.setdefault(path.relative_to(FOLDER).parts[0], []).append(path)
    return [path for paths in found.values() for path in paths[:2]]


def points(path: Path, shape: tuple[int, ...], scalar_type: str) -> list[np.ndarray]:
    """Random inputs, zero, and large ones; where the input selects a position, the position is valid."""
    random = np.random.default_rng(3)
    draws = [
        np.zeros(shape),
        random.uniform(0, 1, shape),
        random.uniform(-1, 1, shape),
        random.uniform(-1e3, 1e3, shape),
    ]
    if "cctsdb" in path.parts[-3]:
        return [patched(path, random) for _ in range(12)]
    if path.parts[-3] in ("gelu_sin", "ml4acopf"):
        draws = draws[:3]  # the sine of a large argument has no accuracy in float32
    return [draw.astype(scalar_type) for draw in draws]


@cache
def _upper_ends(specification: Path) -> tuple[float, ...]:
    text = gzip.decompress(specification.read_bytes()).decode()
    limits = {int(i): float(v) for i, v in re.findall(r"<= X_(\d+) ([-0-9.eE+]+)\)", text)}
    return tuple(limits[i] for i in range(len(limits)))


def upper_ends(specification: Path) -> np.ndarray:
    """The upper end of every input in a property."""
    return np.array(_upper_ends(specification))


def patched(path: Path, random: np.random.Generator) -> np.ndarray:
    """An image and where the patch goes (past the end it is cut off), then the box and class that the network expects.

    Where that class is not predicted the output is 0.
    """
    x = upper_ends(next(iter(sorted((path.parents[1] / "vnnlib").glob(f"*{path.name[:7]}*")))))
    x[12288:12290] = random.choice([0, 1, 2, 5, 62]), random.integers(0, 63)
    return x.astype(np.float32)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = load(path).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.name)
def test_agrees_with_onnxruntime(path):
    torch.set_num_threads(1)
    graph = read_onnx(path)
    assert {node.operator for node in graph.nodes} <= set(OPS)
    node = graph.nodes[graph.inputs[0]]
    run, evaluate = session(path), evaluator(graph)
    for x in points(path, node.shape, node.scalar_type):
        expected = run.run(None, {run.get_inputs()[0].name: x})
        found = evaluate([torch.from_numpy(x.astype(np.float64))[None]])
        for index, y, reference in zip(graph.outputs, found, expected, strict=True):
            assert graph.nodes[index].shape == reference.shape
            assert graph.nodes[index].scalar_type == reference.dtype.name
            values = evaluate([torch.from_numpy(x.astype(np.float64))[None]], keep="all")
            # Cancellation inside the network costs float32 accuracy relative to what cancels.
            scale = max(float(v.abs().max()) for v in values)
            assert np.abs(y[0].numpy() - reference).max() <= 1e-5 * scale


@pytest.mark.parametrize("path", families(), ids=lambda path: path.name)
def test_agrees_with_a_float64_evaluation(path):
    torch.set_num_threads(1)
    graph = read_onnx(path)
    node = graph.nodes[graph.inputs[0]]
    evaluate, model = evaluator(graph), load(path)
    nonzero = False
    for x in points(path, node.shape, node.scalar_type)[: 12 if "cctsdb" in path.parts[-3] else 3]:
        expected = evaluate_double(model, x)
        found = evaluate([torch.from_numpy(x.astype(np.float64))[None]])
        for y, reference in zip(found, expected, strict=True):
            scale = max(1e-3, float(np.abs(reference).max()))
            assert np.abs(y[0].numpy() - reference).max() <= 1e-9 * scale
            nonzero = nonzero or bool(np.abs(reference).max() > 0)
    assert nonzero


def test_a_batch_is_evaluated_row_by_row():
    path = min(NETWORKS, key=lambda path: path.stat().st_size)
    graph = read_onnx(path)
    shape = graph.nodes[graph.inputs[0]].shape
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (4, *shape)))
    evaluate = evaluator(graph)
    together = evaluate([x])[0]
    for row in range(4):
        torch.testing.assert_close(together[row : row + 1], evaluate([x[row : row + 1]])[0])
