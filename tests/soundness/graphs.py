"""Random small ONNX graphs that mix all operators that the import knows, made by trying each node on onnxruntime.

A node is kept where onnxruntime computes finite values of moderate size at the sampled inputs; so shapes, element
types and domains need no rules of their own. The same seed makes the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

TYPES = {
    "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64,
    "int32": TensorProto.INT32, "bool": TensorProto.BOOL,
}  # fmt: skip
JUMPING = (
    "Sign", "Floor", "Ceil", "Round", "where", "decided", "equal", "compare", "gather_variable", "scatter_variable",
    "slice_variable", "one_hot", "cast_there_and_back", "top_k", "hardmax", "remainder", "ThresholdedRelu", "Shrink",
)  # fmt: skip
"""Recipes of graphs that have no Jacobian."""
SAMPLES, LARGEST, MOST_ELEMENTS = 12, 300.0, 48


@dataclass
class Tensor:
    """A value of the graph: its name and what it is at the samples, ``[samples, *shape]``."""

    name: str
    data: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape[1:]

    @property
    def rank(self) -> int:
        return self.data.ndim - 1

    @property
    def kind(self) -> str:
        return self.data.dtype.name


class Refused(Exception):
    """The node does not fit here; another one is tried."""


@dataclass
class Draft:
    """A graph that grows: nodes, constants and values so far, and the dice."""

    random: np.random.Generator
    element: str
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)

    # -- drawing

    def choose(self, options: Sequence[Any]) -> Any:
        return options[int(self.random.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def real(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (self.random.normal(size=shape) * scale).astype(self.element)

    def number(self, low: float, high: float) -> np.ndarray:
        return np.asarray(self.random.uniform(low, high), self.element)

    def pick(self, condition: Callable[[Tensor], bool] = lambda t: True) -> Tensor:
        """A value of floats, later ones by preference."""
        fitting = [t for t in self.tensors if t.kind == self.element and t.data.size and condition(t)]
        if not fitting:
            raise Refused
        weight = 1.5 ** np.arange(len(fitting))
        return fitting[int(self.random.choice(len(fitting), p=weight / weight.sum()))]

    def image(self) -> Tensor:
        """A value with a batch, channels and two dimensions; made by a reshape where there is none."""
        if any(t.rank == 4 for t in self.tensors) and self.chance(0.7):
            return self.pick(lambda t: t.rank == 4)
        x = self.matrix()
        layouts = [(1, a, b, c) for a in (1, 2, 3) for b in (1, 2, 3, 4) for c in (2, 3, 4)]
        size = int(np.prod(x.shape))
        fitting = [s for s in layouts if np.prod(s) == size]
        if not fitting:
            shape = self.choose([(1, 1, 3, 3), (1, 2, 3, 2), (1, 2, 2, 2), (1, 1, 4, 4)])
            weight = self.real(size, int(np.prod(shape)), scale=1 / np.sqrt(size))
            x = self.node("MatMul", self.node("Reshape", x, np.array([1, size])), weight)
            fitting = [shape]
        return self.node("Reshape", x, np.array(self.choose(fitting), np.int64))

    def matrix(self) -> Tensor:
        return self.pick(lambda t: t.rank >= 1)

    def partner(self, x: Tensor) -> Tensor:
        """Another value that broadcasts with x; made from any by a linear map where there is none."""

        def fits(t: Tensor) -> bool:
            try:
                return t is not x and np.prod(np.broadcast_shapes(t.shape, x.shape)) <= MOST_ELEMENTS
            except ValueError:
                return False

        if self.chance(0.6):
            try:
                return self.pick(fits)
            except Refused:
                pass
        other = self.pick()
        size, wanted = int(np.prod(other.shape)), int(np.prod(x.shape))
        row = self.node("Reshape", other, np.array([1, size]))
        mixed = self.node("MatMul", row, self.real(size, wanted, scale=1 / np.sqrt(size)))
        return self.node("Reshape", mixed, np.array(x.shape, np.int64))

    # -- growing

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def node(self, operator: str, *operands: Tensor | np.ndarray | None, outputs: int = 1, **attributes: Any) -> Tensor:
        """Append a node; its first output. Raises Refused where onnxruntime does not compute it or values explode."""
        return self.nodes_outputs(operator, *operands, outputs=outputs, **attributes)[0]

    def nodes_outputs(
        self, operator: str, *operands: Tensor | np.ndarray | None, outputs: int = 1, **attributes: Any
    ) -> list[Tensor]:
        inputs = ["" if x is None else x.name if isinstance(x, Tensor) else self.constant(x) for x in operands]
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        node = helper.make_node(operator, inputs, names, name=f"n{len(self.nodes)}", **attributes)
        found = self._run(node, [x for x in operands if isinstance(x, Tensor)])
        for array in found:
            if array.dtype.kind == "f" and not (np.abs(array) <= LARGEST).all():
                raise Refused
            if array[0].size > MOST_ELEMENTS or array[0].size == 0 or array.dtype.name not in TYPES:
                raise Refused
        self.nodes.append(node)
        made = [Tensor(name, array) for name, array in zip(names, found, strict=True)]
        self.tensors += made
        return made

    def _run(self, node: onnx.NodeProto, operands: list[Tensor]) -> list[np.ndarray]:
        variables = {t.name: t for t in operands}
        inputs = [helper.make_tensor_value_info(t.name, TYPES[t.kind], t.shape) for t in variables.values()]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        stored = [numpy_helper.from_array(self.constants[n], n) for n in node.input if n in self.constants]
        session = _session(_model(helper.make_graph([node], "one", inputs, outputs, stored), self.opset))
        try:
            rows = [session.run(None, {n: t.data[k] for n, t in variables.items()}) for k in range(SAMPLES)]
        except Exception as error:
            raise Refused(str(error)) from error
        if any(x.shape != y.shape for row in rows for x, y in zip(row, rows[0], strict=True)):
            raise Refused
        return [np.stack([row[k] for row in rows]) for k in range(len(node.output))]


def _model(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8 if opset < 19 else 9
    return made


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        content = model.SerializeToString()
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Refused(str(error)) from error


@dataclass
class RandomGraph:
    """A finished graph: input ``X`` of ``shape``, output ``Y`` ``[1, outputs]``, and a box of its flat inputs."""

    seed: int
    model: onnx.ModelProto
    shape: tuple[int, ...]
    outputs: int
    element: str
    lower: np.ndarray
    upper: np.ndarray

    @property
    def operators(self) -> list[str]:
        return sorted({node.op_type for node in self.model.graph.node})

    def write(self, path: Path) -> Path:
        path.write_bytes(self.model.SerializeToString())
        return path


def random_graph(seed: int, recipes: dict[str, Callable[[Draft], Any]]) -> RandomGraph:
    """The graph of a seed: one to six inputs, two to eight recipes, one or two outputs."""
    random = np.random.default_rng([17, seed])
    element = "float64" if random.random() < 0.15 else "float32"
    draft = Draft(random, element, int(random.choice([11, 13, 17, 20])))
    inputs = int(random.integers(1, 7))
    shape = draft.choose([(1, inputs), (inputs,), (1, 1, inputs), (inputs, 1), (1, inputs)])
    middle = random.uniform(-2, 2, inputs)
    radius = 10.0 ** random.uniform(-3, 0.6) * random.uniform(0.3, 1, inputs)
    if inputs > 1 and random.random() < 0.15:
        radius[random.integers(inputs)] = 0.0
    lower, upper = (np.asarray(side, element) for side in (middle - radius, middle + radius))
    samples = (lower + random.random((SAMPLES, inputs)) * (upper - lower)).astype(element)
    draft.tensors.append(Tensor("X", samples.reshape(SAMPLES, *shape)))
    names = sorted(recipes)
    wanted = int(random.integers(2, 9))
    grown = 0
    for _ in range(12 * wanted):
        before = len(draft.nodes), len(draft.tensors)
        try:
            recipes[draft.choose(names)](draft)
            grown += 1
        except (Refused, ValueError, IndexError, RuntimeError):
            del draft.nodes[before[0] :], draft.tensors[before[1] :]
        if grown == wanted:
            break
    outputs = int(random.integers(1, 3))
    while True:
        before = len(draft.nodes), len(draft.tensors)
        try:
            _finish(draft, outputs)
            break
        except Refused:  # too large a sum: leave the last value out
            del draft.nodes[before[0] :], draft.tensors[before[1] - 1 :]
    graph = helper.make_graph(
        draft.nodes, f"random {seed}",
        [helper.make_tensor_value_info("X", TYPES[element], shape)],
        [helper.make_tensor_value_info("Y", TYPES[element], (1, outputs))],
        [numpy_helper.from_array(v, n) for n, v in draft.constants.items() if _read(draft.nodes, n)],
    )  # fmt: skip
    return RandomGraph(seed, _model(graph, draft.opset), shape, outputs, element, lower, upper)


def _read(nodes: list[onnx.NodeProto], name: str) -> bool:
    return any(name in node.input for node in nodes)


def _finish(draft: Draft, outputs: int) -> None:
    """Two of the last values, mixed into the output."""
    floats = [t for t in draft.tensors if t.kind == draft.element]
    chosen = [floats[-1], floats[int(draft.random.integers(max(0, len(floats) - 4), len(floats)))]]
    if len(draft.tensors) > 1 and draft.tensors[-1].kind != draft.element:
        chosen.append(draft.node("Cast", draft.tensors[-1], to=TYPES[draft.element]))
    parts = [draft.node("Reshape", t, np.array([1, -1])) for t in chosen]
    joined = draft.node("Concat", *parts, axis=1)
    size = joined.shape[1]
    weight, bias = draft.real(size, outputs, scale=1.0 / np.sqrt(size)), draft.real(outputs)
    last = draft.node("Gemm", joined, weight, bias)
    draft.nodes[-1].output[0] = "Y"
    last.name = "Y"
