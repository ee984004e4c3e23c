"""Random small networks with properties whose exact truth is known: built once, written as ONNX, evaluated in numpy.

Every network has at least three nonlinear layers; a third has convolution, residual sums, max pooling or sign.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

PLAIN = ("Relu", "Relu", "Relu", "LeakyRelu", "Abs", "Clip")
FAMILIES = ("dense", "dense", "wide", "dense", "conv", "residual", "pool", "sign", "conv")


@dataclass(frozen=True)
class Step:
    """One value: an affine map ``matrix x + offset`` of one, a sum of two, or an elementwise or pooling operator.

    ``operator`` is the ONNX name; affine maps carry their dense matrix as well as what ONNX needs.
    """

    operator: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    matrix: np.ndarray | None = None
    offset: np.ndarray | None = None
    parameters: dict = field(default_factory=dict)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


@dataclass
class Network:
    """Steps in order; the first is the input, the last the output. ``box`` is float32 values."""

    seed: int
    family: str
    steps: list[Step]
    lower: np.ndarray
    upper: np.ndarray

    def push(self, *arguments, **named) -> int:
        self.steps.append(Step(*arguments, **named))
        return len(self.steps) - 1

    def values(self, x: np.ndarray) -> list[np.ndarray]:
        """All values, each ``[n, size]``, in float64 at inputs ``[n, inputs]``."""
        found = [x.astype(np.float64)]
        for step in self.steps[1:]:
            found.append(apply(step, [found[i] for i in step.inputs]))
        return found

    def outputs(self, x: np.ndarray) -> np.ndarray:
        return self.values(x)[-1]


def apply(step: Step, operands: list[np.ndarray]) -> np.ndarray:
    x = operands[0]
    if step.matrix is not None:
        return x @ step.matrix.T + step.offset
    if step.operator == "Add":
        return x + operands[1]
    if step.operator == "MaxPool":
        return x[:, step.parameters["windows"]].max(-1)
    if step.operator == "Max":
        return np.maximum(x, operands[1])
    return elementwise(step, x)


def elementwise(step: Step, x: np.ndarray) -> np.ndarray:
    if step.operator == "Relu":
        return np.maximum(x, 0)
    if step.operator == "LeakyRelu":
        return np.where(x < 0, step.parameters["alpha"] * x, x)
    if step.operator == "Abs":
        return np.abs(x)
    if step.operator == "Clip":
        return np.clip(x, step.parameters["low"], step.parameters["high"])
    if step.operator == "Sign":
        return np.sign(x)
    return x


# -- making ----------------------------------------------------------------------------------------------


def random_network(seed: int, family: str | None = None, small: bool = False) -> Network:
    """The network of a seed: family, sizes, weights and box. ``small`` ones have exact minima within a second."""
    random = np.random.default_rng([7, seed])
    family = family or FAMILIES[seed % len(FAMILIES)]
    if family in ("conv", "pool"):
        side = 4 if family == "pool" or small else int(random.integers(4, 6))
        shape: tuple[int, ...] = (1, side, side)
    else:
        shape = (int(random.integers(18, 26) if family == "wide" else random.integers(2, 7)),)
    size = int(np.prod(shape))
    middle = random.uniform(-0.5, 0.5, size)
    radius = random.uniform(0.2, 1.0, size) * (0.6 if size > 16 else 1.0)
    network = Network(seed, family, [Step("Input", (), shape)], f32(middle - radius), f32(middle + radius))
    last = _images(network, random, small) if len(shape) == 3 else 0
    layers = 3 if family == "conv" or small else 2 if family == "pool" else int(random.integers(3, 5))
    width = 4 if small else {"conv": 6, "pool": 5, "residual": 7}.get(family, 6)
    for layer in range(layers):
        previous = last
        last = _dense(network, random, last, int(random.integers(width - 2, width + 3)))
        last = _activate(network, random, last, layer)
        if family == "residual" and layer:
            last = _dense(network, random, last, network.steps[previous].size)
            last = network.push("Add", (last, previous), network.steps[previous].shape)
    _dense(network, random, last, int(random.integers(2, 4)))
    return network


def f32(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).astype(np.float64)


def _dense(network: Network, random: np.random.Generator, source: int, width: int) -> int:
    step = network.steps[source]
    weight = f32(random.normal(size=(width, step.size)) * 1.4 / np.sqrt(step.size))
    bias = f32(random.normal(size=width) * 0.3)
    if len(step.shape) > 1:
        source = network.push("Flatten", (source,), (step.size,), np.eye(step.size), np.zeros(step.size))
    return network.push("Gemm", (source,), (width,), weight, bias)


def _images(network: Network, random: np.random.Generator, small: bool) -> int:
    """A convolution with an activation, in the family ``pool`` followed by max pooling."""
    _, side, _ = network.steps[0].shape
    channels, stride = (2, 2) if network.family == "conv" else (1 if small else 2, 1)
    kernel = 3 if network.family == "conv" else 2
    pads = int(random.integers(0, 2)) if network.family == "conv" else 0
    weight = f32(random.normal(size=(channels, 1, kernel, kernel)) * 1.4 / kernel)
    bias = f32(random.normal(size=channels) * 0.3)
    basis = torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side)
    mapped = torch.nn.functional.conv2d(basis, torch.from_numpy(weight), stride=stride, padding=pads)
    shape = tuple(mapped.shape[1:])
    matrix = mapped.flatten(1).numpy().T
    offset = np.repeat(bias, shape[1] * shape[2])
    parameters = {"weight": weight, "bias": bias, "stride": stride, "pads": pads, "kernel": kernel}
    last = network.push("Conv", (0,), shape, matrix, offset, parameters)
    last = _activate(network, random, last, 0, "Relu" if network.family == "pool" else None)
    if network.family == "pool":
        last = _pool(network, last, int(random.integers(1, 3)))
    return last


def _pool(network: Network, source: int, stride: int) -> int:
    channels, height, width = network.steps[source].shape
    place = np.arange(channels * height * width).reshape(channels, height, width)
    rows, columns = range(0, height - 1, stride), range(0, width - 1, stride)
    windows = np.array(
        [
            [[place[c, i : i + 2, j : j + 2].reshape(-1) for j in columns] for i in rows]
            for c in range(channels)
        ]
    )
    shape = windows.shape[:3]
    parameters = {"windows": windows.reshape(-1, 4), "stride": stride}
    return network.push("MaxPool", (source,), shape, parameters=parameters)


def _activate(
    network: Network, random: np.random.Generator, source: int, layer: int, operator: str | None = None
) -> int:
    step = network.steps[source]
    operator = operator or str(random.choice(PLAIN))
    if network.family == "sign" and layer == 1:
        operator = "Sign"
    if network.family == "pool" and layer == 1:
        other = _dense(network, random, source, step.size)
        return network.push("Max", (source, other), step.shape)
    parameters = {}
    if operator == "LeakyRelu":
        parameters = {"alpha": float(f32(random.uniform(0.05, 0.5)))}
    if operator == "Clip":
        parameters = {"low": float(f32(random.uniform(-1, 0))), "high": float(f32(random.uniform(0.2, 1)))}
    return network.push(operator, (source,), step.shape, parameters=parameters)


# -- files -----------------------------------------------------------------------------------------------


def write_onnx(network: Network, path: Path) -> Path:
    """Write the network with input ``X`` and output ``Y``, opset 13."""
    nodes, constants = [], {}

    def constant(name: str, value: np.ndarray) -> str:
        constants[name] = numpy_helper.from_array(np.asarray(value, np.float32), name)
        return name

    names = ["X"] + [f"V{i}" for i in range(1, len(network.steps) - 1)] + ["Y"]
    for i, step in enumerate(network.steps[1:], 1):
        sources, more = [names[s] for s in step.inputs], {}
        given = step.parameters
        if step.operator == "Gemm":
            assert step.matrix is not None and step.offset is not None
            sources += [constant(f"W{i}", step.matrix), constant(f"B{i}", step.offset)]
            more = {"transB": 1}
        elif step.operator == "Conv":
            sources += [constant(f"W{i}", given["weight"]), constant(f"B{i}", given["bias"])]
            more = {"strides": [given["stride"]] * 2, "pads": [given["pads"]] * 4}
        elif step.operator == "MaxPool":
            more = {"kernel_shape": [2, 2], "strides": [given["stride"]] * 2}
        elif step.operator == "Clip":
            sources += [constant(f"L{i}", given["low"]), constant(f"U{i}", given["high"])]
        elif step.operator == "LeakyRelu":
            more = {"alpha": given["alpha"]}
        nodes.append(helper.make_node(step.operator, sources, [names[i]], **more))
    make = helper.make_tensor_value_info
    ends = [
        [make(name, TensorProto.FLOAT, [1, *step.shape])]
        for name, step in (("X", network.steps[0]), ("Y", network.steps[-1]))
    ]
    graph = helper.make_graph(nodes, "random", *ends, list(constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


Clause = list[tuple[np.ndarray, float]]
"""Rows ``(coefficients, constant)`` that a violation satisfies all: ``coefficients . y <= constant``."""


def write_property(network: Network, clauses: list[Clause], path: Path) -> Path:
    """A VNN-LIB property: the network's box and a disjunction of clauses."""
    inputs, outputs = network.steps[0].size, network.steps[-1].size
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i in range(inputs):
        lines.append(f"(assert (>= X_{i} {_literal(network.lower[i])}))")
        lines.append(f"(assert (<= X_{i} {_literal(network.upper[i])}))")
    texts = ["(and " + " ".join(_atom(*row) for row in clause) + ")" for clause in clauses]
    lines.append("(assert (or " + " ".join(texts) + "))")
    path.write_text("\n".join(lines) + "\n")
    return path


def _literal(x: float) -> str:
    return np.format_float_positional(x, trim="0")


def _atom(coefficients: np.ndarray, constant: float) -> str:
    (places,) = np.nonzero(coefficients)
    if len(places) == 2:
        assert constant == 0 and sorted(coefficients[places]) == [-1, 1]
        low, high = (places[0], places[1]) if coefficients[places[0]] == 1 else (places[1], places[0])
        return f"(<= Y_{low} Y_{high})"
    if coefficients[places[0]] == 1:
        return f"(<= Y_{places[0]} {_literal(constant)})"
    return f"(>= Y_{places[0]} {_literal(-constant)})"
