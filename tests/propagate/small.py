"""Small seeded networks with convolution, residual sums, max pooling and smooth operators, as plans with boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from provenn.bounds.graph import read_onnx
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.plan import Plan


class Writer:
    """Nodes and constants of an ONNX graph, in order; weights are seeded."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng([11, seed])
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def weight(self, *shape: int, scale: float = 1.3) -> str:
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 10
        return self.constant((self.random.normal(size=shape) * scale / fan**0.5).astype(np.float32))

    def constant(self, value: np.ndarray) -> str:
        name = f"C{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(self, operator: str, *inputs: str, **attributes) -> str:
        name = f"V{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def dense(self, value: str, inputs: int, outputs: int) -> str:
        return self.add("Gemm", value, self.weight(outputs, inputs), self.weight(outputs), transB=1)

    def conv(self, value: str, channels: int, filters: int, kernel: int = 3, groups: int = 1, **attributes) -> str:
        weight = self.weight(filters, channels // groups, kernel, kernel)
        return self.add("Conv", value, weight, self.weight(filters), group=groups, **attributes)

    def save(self, path: Path, inputs: tuple[int, ...], output: str, outputs: tuple[int, ...]) -> Path:
        ends = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
            for name, shape in (("X", inputs), (output, outputs))
        ]
        graph = helper.make_graph(self.nodes, "small", *ends, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path


def dense(path: Path, activations: tuple[str, ...], width: int = 7) -> Path:
    """A chain of matrices with an activation each."""
    writer, value, inputs = Writer(len(activations)), "X", 4
    for operator in activations:
        value, inputs = writer.add(operator, writer.dense(value, inputs, width)), width
    return writer.save(path, (1, 4), writer.dense(value, width, 3), (1, 3))


def convolutional(path: Path, side: int = 6) -> Path:
    """Strides, padding, groups, and a dense end."""
    writer = Writer(1)
    value = writer.add("Relu", writer.conv("X", 2, 4, pads=[1, 1, 1, 1]))
    value = writer.add("LeakyRelu", writer.conv(value, 4, 4, groups=2, strides=[2, 2], pads=[1, 1, 1, 1]), alpha=0.1)
    value = writer.add("Relu", writer.conv(value, 4, 3, kernel=2))
    after = (side + 1) // 2 - 1
    value = writer.dense(writer.add("Flatten", value), 3 * after * after, 3)
    return writer.save(path, (1, 2, side, side), value, (1, 3))


def residual(path: Path, side: int = 6) -> Path:
    """Two blocks with a sum each, the second with a strided shortcut of single positions."""
    writer = Writer(2)
    first = writer.add("Relu", writer.conv("X", 2, 3, pads=[1, 1, 1, 1]))
    inner = writer.add("Relu", writer.conv(first, 3, 3, pads=[1, 1, 1, 1]))
    value = writer.add("Add", writer.conv(inner, 3, 3, pads=[1, 1, 1, 1]), first)
    value = writer.add("Relu", value)
    inner = writer.add("Relu", writer.conv(value, 3, 4, strides=[2, 2], pads=[1, 1, 1, 1]))
    short = writer.conv(value, 3, 4, kernel=1, strides=[2, 2])
    value = writer.add("Relu", writer.add("Add", writer.conv(inner, 4, 4, pads=[1, 1, 1, 1]), short))
    after = (side + 1) // 2
    value = writer.dense(writer.add("Flatten", value), 4 * after * after, 3)
    return writer.save(path, (1, 2, side, side), value, (1, 3))


def pooling(path: Path, side: int = 6) -> Path:
    """Max pooling between a convolution and matrices."""
    writer = Writer(3)
    value = writer.add("Relu", writer.conv("X", 2, 3, pads=[1, 1, 1, 1]))
    value = writer.add("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = writer.dense(writer.add("Flatten", value), 3 * (side // 2) ** 2, 5)
    return writer.save(path, (1, 2, side, side), writer.dense(writer.add("Relu", value), 5, 3), (1, 3))


def attention(path: Path) -> Path:
    """Two tokens of three numbers: queries, keys and values, a softmax, products and a quotient."""
    writer = Writer(4)
    tokens = writer.add("Reshape", writer.dense("X", 4, 6), writer.constant(np.array([2, 3])))
    query, key, value = (writer.add("MatMul", tokens, writer.weight(3, 3)) for _ in range(3))
    scores = writer.add("MatMul", query, writer.add("Transpose", key, perm=[1, 0]))
    mixed = writer.add("MatMul", writer.add("Softmax", scores, axis=-1), value)
    gate = writer.add("Mul", mixed, writer.add("Sigmoid", tokens))
    whole = writer.add("Div", gate, writer.add("Exp", value))
    flat = writer.add("Reshape", whole, writer.constant(np.array([1, 6])))
    return writer.save(path, (1, 4), writer.dense(flat, 6, 3), (1, 3))


MAKERS = {
    "attention": attention,
    "relu": lambda path: dense(path, ("Relu", "Relu", "Relu")),
    "sigmoid": lambda path: dense(path, ("Sigmoid", "Tanh", "Relu")),
    "pieces": lambda path: dense(path, ("LeakyRelu", "Abs", "Clip")),
    "convolutional": convolutional,
    "residual": residual,
    "pooling": pooling,
}


@dataclass
class Case:
    """A plan, input boxes ``[domains, *shape]``, boxes of all values over them, and seeded rows of the output."""

    plan: Plan
    inputs: dict[int, Box]
    boxes: dict[int, Box]
    rows: Tensor

    @property
    def target(self) -> int:
        return self.plan.graph.outputs[0]


def case(name: str, folder: Path, *, domains: int = 2, rows: int = 3, radius: float = 0.3) -> Case:
    """A network in float64 over ``domains`` different boxes."""
    path = folder / f"{name}.onnx"
    if name == "pieces":  # bounds of Clip are inputs
        writer, value = Writer(9), "X"
        for operator, inputs in (("LeakyRelu", 4), ("Abs", 7), ("Clip", 7)):
            value = writer.dense(value, inputs, 7)
            ends = [writer.constant(np.float32(-0.4)), writer.constant(np.float32(0.5))] if operator == "Clip" else []
            value = writer.add(operator, value, *ends)
        writer.save(path, (1, 4), writer.dense(value, 7, 3), (1, 3))
    else:
        MAKERS[name](path)
    plan = Plan(read_onnx(path))
    generator = torch.Generator().manual_seed(3)
    shape = plan.shape(plan.graph.inputs[0])
    centre = torch.randn(domains, *shape, generator=generator, dtype=torch.float64) * 0.3
    inputs: dict[int, Box] = {plan.graph.inputs[0]: (centre - radius, centre + radius)}
    target = plan.graph.outputs[0]
    chosen = torch.randn(domains, rows, *plan.shape(target), generator=generator, dtype=torch.float64)
    return Case(plan, inputs, intermediate_boxes(plan, inputs, until=target), chosen)
