"""Random small queries in VNN-LIB 2, and what they mean by brute force: sampling and climbing, in numpy alone.

A formula is a tree of tuples: ``("and" | "or", formulas)`` or ``(comparison, left, right)`` of expressions, which are
numbers, variables ``("U", 0)`` or ``("+" | "-" | "*", expressions)``. Its robustness at a point is positive where it
holds, by how much the nearest comparison could move, and negative where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Values = dict[str, np.ndarray]
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Relu": lambda z: np.maximum(z, 0),
    "Tanh": np.tanh,
    "Sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}
SAMPLES, CLIMBERS, STEPS = 20_000, 60, 60
CLEAR = 2e-3
"""Robustness, of either sign, that brute force can tell from none."""


@dataclass(frozen=True)
class Net:
    """``Y = act(sum A_i W_i + b) V + c`` of one or two inputs, with ``Z``, the sum of Y, beside it if there are two."""

    activation: str
    weights: list[np.ndarray]
    bias: np.ndarray
    last: np.ndarray
    shift: np.ndarray

    @staticmethod
    def random(random: np.random.Generator, sizes: list[int], outputs: int) -> Net:
        hidden = int(random.integers(3, 6))

        def draw(*shape: int) -> np.ndarray:
            return np.round(random.normal(size=shape), 2).astype(np.float32)

        weights = [draw(n, hidden) for n in sizes]
        return Net(
            str(random.choice(list(FUNCTIONS), p=[0.7, 0.15, 0.15])), weights, draw(hidden), draw(hidden, outputs),
            draw(outputs),
        )  # fmt: skip

    def like(self, random: np.random.Generator) -> Net:
        """The same graph with other weights."""
        moved = lambda a: (a + 0.1 * random.normal(size=a.shape)).astype(np.float32)  # noqa: E731
        return Net(self.activation, [moved(w) for w in self.weights], moved(self.bias), moved(self.last), self.shift)

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(hidden, outputs) ``[points, n]`` in float64."""
        z = sum(x @ w.astype(np.float64) for x, w in zip(inputs, self.weights, strict=True)) + self.bias
        hidden = FUNCTIONS[self.activation](z)
        return hidden, hidden @ self.last.astype(np.float64) + self.shift

    def save(self, path: Path) -> Path:
        two = len(self.weights) == 2
        nodes = [helper.make_node("MatMul", [f"A{i}", f"W{i}"], [f"M{i}"]) for i in range(len(self.weights))]
        nodes += [helper.make_node("Add", ["M0", "M1" if two else "b"], ["S"])]
        nodes += [helper.make_node("Add", ["S", "b"], ["T"])] if two else []
        nodes += [
            helper.make_node(self.activation, ["T" if two else "S"], ["H"]),
            helper.make_node("Gemm", ["H", "V", "c"], ["Y"]),
        ]
        nodes += [helper.make_node("ReduceSum", ["Y"], ["Z"], keepdims=0)] if two else []
        tensor = helper.make_tensor_value_info
        inputs = [tensor(f"A{i}", TensorProto.FLOAT, [1, len(w)]) for i, w in enumerate(self.weights)]
        outputs = [tensor("Y", TensorProto.FLOAT, [1, len(self.shift)])]
        outputs += [tensor("Z", TensorProto.FLOAT, [])] if two else []
        stored = {f"W{i}": w for i, w in enumerate(self.weights)}
        stored |= {"b": self.bias, "V": self.last, "c": self.shift}
        graph = helper.make_graph(
            nodes, "net", inputs, outputs, [numpy_helper.from_array(a, name) for name, a in stored.items()]
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        return path


@dataclass
class Case:
    """A random query: its text, its networks, and its meaning."""

    seed: int
    random: np.random.Generator = field(init=False)
    nets: dict[str, Net] = field(default_factory=dict)
    declared: list[str] = field(default_factory=list)
    inputs: dict[str, tuple[str, int]] = field(default_factory=dict)  # name: (network, elements)
    outputs: dict[str, tuple[str, str, int]] = field(default_factory=dict)  # name: (network, kind, elements)
    scalars: set[str] = field(default_factory=set)
    box: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    tied: dict[tuple[str, int], tuple[tuple[str, int], float]] = field(default_factory=dict)
    near: dict[tuple[str, int], tuple[tuple[str, int], float]] = field(default_factory=dict)
    formula: Any = None

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        kind = self.random.choice(["one", "two inputs", "copy", "isomorphic"], p=[0.25, 0.2, 0.4, 0.15])
        sizes = [1, int(self.random.integers(1, 3))] if kind == "two inputs" else [int(self.random.integers(1, 3))]
        net = Net.random(self.random, sizes, int(self.random.integers(1, 3)))
        self._declare("f", net, "", ("A", "B"), "P")
        if kind == "copy":
            self._declare("g", net, "(equal-to f) ", ("U",), "Q")
        if kind == "isomorphic":
            self._declare("g", net.like(self.random), "(isomorphic-to f) ", ("U",), "Q")
        self._bound(kind)
        self.formula = ("and", [self._drawn(2) for _ in range(int(self.random.integers(1, 4)))])

    def _declare(self, name: str, net: Net, relation: str, inputs: tuple[str, ...], output: str) -> None:
        self.nets[name] = net
        parts = []
        for tensor, weight in zip(inputs, net.weights, strict=False):
            self.inputs[tensor] = name, len(weight)
            parts.append(f"(declare-input {tensor} float32 [1,{len(weight)}])")
        if self.random.random() < 0.3:
            self.outputs[f"H{output}"] = name, "hidden", len(net.bias)
            parts.append(f'(declare-hidden H{output} float32 [1,{len(net.bias)}] "H")')
        self.outputs[output] = name, "output", len(net.shift)
        parts.append(f"(declare-output {output} float32 [1,{len(net.shift)}])")
        if len(net.weights) == 2:
            self.outputs["Z"] = name, "sum", 1
            self.scalars.add("Z")
            parts.append("(declare-output Z float32 [])")
        self.declared.append(f"(declare-network {name} {relation}{' '.join(parts)})")

    def _bound(self, kind: str) -> None:
        for tensor, (_, size) in self.inputs.items():
            for i in range(size):
                centre, half = np.round(self.random.normal(), 1), np.round(0.2 + self.random.random(), 2)
                if kind in ("copy", "isomorphic") and tensor == "U":  # near the other network's
                    centre = np.round(np.mean(self.box["A", i]), 1)
                self.box[tensor, i] = float(np.round(centre - half, 3)), float(np.round(centre + half, 3))
                if tensor == "U" and self.random.random() < 0.5:
                    self.tied["U", i] = ("A", i), float(self.random.choice([0.0, 0.0, 0.125, -0.1]))
                elif tensor == "U" and self.random.random() < 0.5:
                    self.near["U", i] = ("A", i), float(self.random.choice([0.02, 0.1]))

    # -- formulas ----------------------------------------------------------------------------------------

    def _variables(self) -> list[tuple[str, int]]:
        names = [(name, i) for name, (_, size) in self.inputs.items() for i in range(size)]
        return names + 2 * [(name, i) for name, (*_, size) in self.outputs.items() for i in range(size)]

    def _term(self, depth: int) -> Any:
        variables = self._variables()
        variable = variables[int(self.random.integers(len(variables)))]
        kind = self.random.choice(["variable", "scaled", "product", "sum"], p=[0.5, 0.15, 0.15, 0.2])
        if kind == "scaled":
            return ("*", [float(np.round(self.random.normal(), 1)) or 1.0, variable])
        if kind == "product":
            other = variables[int(self.random.integers(len(variables)))]
            return ("*", [variable, other])
        if kind == "sum" and depth:
            return (str(self.random.choice(["+", "-"])), [self._term(depth - 1) for _ in range(2)])
        return variable

    def _comparison(self) -> Any:
        left, right = self._term(1), self._term(1)
        if self.random.random() < 0.6:
            right = 0.0
        at = self.values(self.points(300))
        difference = evaluate(left, at) - evaluate(right, at)
        threshold = float(np.round(np.quantile(difference, self.random.choice([0.02, 0.2, 0.8, 0.98])), 2))
        right = threshold if right == 0.0 else ("+", [right, threshold])
        operation = str(self.random.choice(["<=", "<", ">=", ">", "!="], p=[0.24, 0.24, 0.24, 0.24, 0.04]))
        beyond = self.random.choice([0.0, 0.0, 0.4])  # some hold nowhere
        if beyond and operation in (">", ">="):
            high = float(np.round(difference.max() + beyond * (np.ptp(difference) + 0.1), 2))
            right = high if not isinstance(right, tuple) else ("+", [right[1][0], high])
        return operation, left, right

    def _drawn(self, depth: int) -> Any:
        if depth and self.random.random() < 0.5:
            kind = str(self.random.choice(["and", "or"]))
            return kind, [self._drawn(depth - 1) for _ in range(int(self.random.integers(1, 4)))]
        return self._comparison()

    # -- text --------------------------------------------------------------------------------------------

    def text(self) -> str:
        bounds = [
            f"(assert (and (>= {self.name(v)} {low!r}) (<= {self.name(v)} {high!r})))"
            for v, (low, high) in self.box.items()
        ]
        ties = [
            f"(assert (== {self.name(v)} {self.name(to) if not by else f'(+ {self.name(to)} {by!r})'}))"
            for v, (to, by) in self.tied.items()
        ]
        for v, (to, by) in self.near.items():
            one, other = self.name(v), self.name(to)
            ties.append(f"(assert (and (<= (- {one} {other}) {by!r}) (<= {other} (+ {one} {by!r}))))")
        lines = ["(vnnlib-version <2.0>)", *self.declared, *bounds, *ties, f"(assert {self.shown(self.formula)})"]
        return "\n".join(lines) + "\n"

    def name(self, variable: tuple[str, int]) -> str:
        tensor, i = variable
        return tensor if tensor in self.scalars else f"{tensor}[0,{i}]"

    def shown(self, part: Any) -> str:
        if isinstance(part, float):
            return format(part, "f")
        if isinstance(part[1], int):
            return self.name(part)
        inner = part[1] if isinstance(part[1], list) else part[1:]
        return f"({part[0]} {' '.join(self.shown(each) for each in inner)})"

    def save(self, folder: Path) -> tuple[dict[str, Path], Path]:
        """Files of the networks (a copy has none) and of the query."""
        files = {
            name: net.save(folder / f"{name}{self.seed}.onnx")
            for name, net in self.nets.items()
            if name == "f" or net is not self.nets["f"]
        }
        path = folder / f"query{self.seed}.vnnlib"
        path.write_text(self.text())
        return files, path

    # -- meaning -----------------------------------------------------------------------------------------

    def points(self, count: int) -> Values:
        """Random inputs that satisfy the relations; what a relation gives may leave its box."""
        return self._tie({
            name: np.stack([self.random.uniform(*self.box[name, i], count) for i in range(size)], 1)
            for name, (_, size) in self.inputs.items()
        })  # fmt: skip

    def _tie(self, x: Values) -> Values:
        for (name, i), ((other, j), by) in self.tied.items():
            x[name][:, i] = x[other][:, j] + by
        for (name, i), ((other, j), by) in self.near.items():
            x[name][:, i] = x[other][:, j] + np.clip(x[name][:, i] - x[other][:, j], -by, by)
        return x

    def values(self, x: Values) -> Values:
        """Inputs, hidden tensors and outputs."""
        found = dict(x)
        for network, net in self.nets.items():
            hidden, output = net(*(x[name] for name, (owner, _) in self.inputs.items() if owner == network))
            parts = {"hidden": hidden, "output": output, "sum": output.sum(1, keepdims=True)}
            found |= {name: parts[kind] for name, (owner, kind, _) in self.outputs.items() if owner == network}
        return found

    def robustness(self, x: Values) -> np.ndarray:
        """Of everything that is asserted but relations of inputs, ``[points]``."""
        values = self.values(x)
        bounds = [
            margin
            for (name, i), (low, high) in self.box.items()
            for margin in (values[name][:, i] - low, high - values[name][:, i])
            if low < high
        ]
        inside = np.minimum.reduce(bounds)
        held = robustness(self.formula, values)
        return np.where(inside >= 0, held, np.minimum(inside, held))

    def best(self) -> tuple[float, Values]:
        """The largest robustness that sampling and climbing find, and where."""
        x = self.points(SAMPLES)
        value = self.robustness(x)
        order = np.argsort(-value)[:CLIMBERS]
        x, value = {name: part[order] for name, part in x.items()}, value[order]
        scale = 0.2
        for _ in range(STEPS):
            moved = {}
            for name, part in x.items():
                low, high = (np.array([self.box[name, i][k] for i in range(part.shape[1])]) for k in (0, 1))
                noise = self.random.normal(size=(8, *part.shape)) * scale * (self.random.random(part.shape) < 0.7)
                moved[name] = np.clip(part + noise, low, high).reshape(-1, part.shape[1])
            moved = self._tie(moved)
            tried = self.robustness(moved).reshape(8, -1)
            which, column = tried.argmax(0), np.arange(tried.shape[1])
            better = tried[which, column] > value
            for name, part in x.items():
                chosen = moved[name].reshape(8, *part.shape)[which, column]
                x[name] = np.where(better[:, None], chosen, part)
            value = np.maximum(value, tried[which, column])
            scale *= 0.9
        top = int(value.argmax())
        return float(value[top]), {name: part[top : top + 1] for name, part in x.items()}

    def truth(self) -> str | None:
        """``sat`` or ``unsat`` where brute force is sure of it."""
        value, _ = self.best()
        return None if abs(value) < CLEAR else "sat" if value > 0 else "unsat"


def evaluate(part: Any, values: Values) -> np.ndarray:
    """An expression at points."""
    if isinstance(part, float):
        return np.full(len(next(iter(values.values()))), part)
    if isinstance(part[1], int):
        return values[part[0]][:, part[1]]
    first, *rest = (evaluate(each, values) for each in part[1])
    for other in rest:
        first = first + other if part[0] == "+" else first - other if part[0] == "-" else first * other
    return first


def robustness(part: Any, values: Values) -> np.ndarray:
    """By how much a formula holds at points; negative where it does not."""
    if part[0] in ("and", "or"):
        inner = [robustness(each, values) for each in part[1]]
        return np.minimum.reduce(inner) if part[0] == "and" else np.maximum.reduce(inner)
    difference = evaluate(part[2], values) - evaluate(part[1], values)
    if part[0] == "!=":
        return np.abs(difference)
    return difference if part[0] in ("<", "<=") else -difference


def cases(first: int) -> Iterator[tuple[Case, str]]:
    """Queries of which brute force is sure, with what it says, from a seed on."""
    for seed in range(first, first + 1_000_000):
        case = Case(seed)
        truth = case.truth()
        if truth is not None:
            yield case, truth
