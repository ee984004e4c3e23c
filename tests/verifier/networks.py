"""Small ONNX networks and properties for tests of the verifier."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ELEMENTS = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: int,
    outputs: int | str,
    element: str = "float32",
    leading: int | str = 1,
    **constants: Any,
) -> Path:
    """Write a network from ``X`` ``[leading, inputs]`` to ``Y`` ``[leading, outputs]``, gzipped if so named."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("X", ELEMENTS[element], [leading, inputs])],
        [helper.make_tensor_value_info("Y", ELEMENTS[element], [leading, outputs])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    content = model.SerializeToString()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def affine(path: Path, weight: Any, bias: Any, element: str = "float32", leading: int | str = 1) -> Path:
    """``Y = X @ weight + bias``."""
    weight, bias = np.asarray(weight, element), np.asarray(bias, element)
    node = helper.make_node("Gemm", ["X", "W", "B"], ["Y"])
    return save(path, [node], *weight.shape, element, leading, W=weight, B=bias)


def layers(path: Path, activation: str, weights: list[np.ndarray], biases: list[np.ndarray]) -> Path:
    """Gemm layers with an activation in between."""
    nodes, constants, value = [], {}, "X"
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        last = i == len(weights) - 1
        constants |= {f"W{i}": weight.astype(np.float32), f"B{i}": bias.astype(np.float32)}
        nodes.append(helper.make_node("Gemm", [value, f"W{i}", f"B{i}"], ["Y" if last else f"Z{i}"]))
        if not last:
            nodes.append(helper.make_node(activation, [f"Z{i}"], [f"A{i}"]))
            value = f"A{i}"
    return save(path, nodes, weights[0].shape[0], weights[-1].shape[1], **constants)


def box(bounds: list[tuple[str, str]]) -> str:
    """Assertions of a box, literals as given."""
    return "\n".join(
        f"(assert (>= X_{i} {low}))\n(assert (<= X_{i} {high}))" for i, (low, high) in enumerate(bounds)
    )


def property_text(inputs: int, outputs: int, *parts: str) -> bytes:
    """A VNN-LIB 1.0 property: declarations, then the given assertions."""
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "\n".join([*(f"(declare-const {name} Real)" for name in names), *parts]).encode()
