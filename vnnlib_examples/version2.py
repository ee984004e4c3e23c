"""Properties in VNN-LIB 2 of the networks that make.py has trained; it calls this.

Thresholds come from a search for the largest value of a quantity over the points that satisfy the property's other
conditions: above it by a distance for what holds (`unsat`), below it for what does not (`sat`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 21
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Written:
    """A property: the file of its network, or a list of pairs as competitions write it, and what it claims."""

    network: str
    name: str
    text: str
    result: str
    comment: str


def make_version2(folder: Path) -> list[Written]:
    """Write two more networks, and return the properties."""
    rounded(folder / "onnx" / "controller.onnx", folder / "onnx" / "controller_rounded.onnx")
    two_inputs(folder / "onnx" / "controller.onnx", folder / "onnx" / "cart.onnx")
    makers = (rising, agreement, product, cart, hidden, swinging)
    return [written for make in makers for written in make(folder / "onnx")]


def rising(folder: Path) -> list[Written]:
    """Two copies of one network at inputs that differ in one element."""
    lower, upper = np.array([0.2, 0.1]), np.array([0.8, 0.6])

    def text(relation: str, violation: str) -> str:
        return f"""(vnnlib-version <2.0>)
(declare-network less (declare-input U float32 [1,2]) (declare-output P float32 [1,1]))
(declare-network more (equal-to less) (declare-input V float32 [1,2]) (declare-output Q float32 [1,1]))

{box("U", lower, upper)}
{box("V", lower, upper)}
(assert {relation}) ; the doses
(assert (== V[0,1] U[0,1])) ; the same time

(assert {violation})
"""

    def growth(x: np.ndarray) -> np.ndarray:
        """The response at a dose that is larger by 0.1 or less, less that at the smaller one."""
        more = np.stack([np.minimum(x[:, 0] + 0.1 * x[:, 2], upper[0]), x[:, 1]], 1)
        first, second = (values(folder / "response.onnx", at)["output"][:, 0] for at in (x[:, :2], more))
        return second - first

    most = largest(growth, np.append(lower, 0.0), np.append(upper, 1.0))
    threshold = decimal(0.9 * most)
    return [
        Written(
            "onnx/response.onnx", "response_rising",
            text("(>= V[0,0] (+ U[0,0] 0.05))", "(<= Q[0,0] P[0,0])"),
            "unsat", "a larger dose gives a larger response at every time",
        ),
        Written(
            "onnx/response.onnx", "response_steep",
            text("(<= V[0,0] (+ U[0,0] 0.1))", f"(>= Q[0,0] (+ P[0,0] {threshold}))"),
            "sat", f"a dose that is larger by at most 0.1 never adds {threshold} to the response (false)",
        ),
    ]  # fmt: skip


def agreement(folder: Path) -> list[Written]:
    """A network and one of the same graph with fewer digits in its weights, at equal inputs."""
    lower, upper = np.array([-0.5, -0.5, -0.2, -0.5]), np.array([0.5, 0.5, 0.2, 0.5])

    def difference(x: np.ndarray) -> np.ndarray:
        one, other = (values(folder / f"{name}.onnx", x)["output"] for name in ("controller", "controller_rounded"))
        return np.abs(one - other).max(1)

    most = largest(difference, lower, upper)
    found = []
    for name, threshold, result, truth in (
        ("near", decimal(1.5 * most), "unsat", ""),
        ("close", decimal(0.8 * most), "sat", " (false)"),
    ):
        further = " ".join(
            f"(> (- {one}[0,{i}] {other}[0,{i}]) {threshold})" for i in (0, 1) for one, other in ("LS", "SL")
        )
        text = f"""(vnnlib-version <2.0>)
(declare-network long (declare-input X float32 [1,4]) (declare-output L float32 [1,2]))
(declare-network short (isomorphic-to long) (declare-input Y float32 [1,4]) (declare-output S float32 [1,2]))

{box("X", lower, upper)}
{lines(f"(assert (== Y[0,{i}] X[0,{i}]))" for i in range(4))}

(assert (or {further}))
"""
        comment = f"rounding the weights moves no score by more than {threshold}{truth}"
        networks = "[('long','onnx/controller.onnx'),('short','onnx/controller_rounded.onnx')]"
        found.append(Written(networks, f"controllers_{name}", text, result, comment))
    return found


def product(folder: Path) -> list[Written]:
    """A region that a polynomial bounds."""
    lower, upper = np.array([0.0, 0.0]), np.array([1.0, 1.0])

    def response(x: np.ndarray) -> np.ndarray:
        y = values(folder / "response.onnx", x)["output"][:, 0]
        return np.where(x[:, 0] * x[:, 1] ** 2 <= 0.05, y, -np.inf)

    threshold = decimal(largest(response, lower, upper) - 0.02)
    text = f"""(vnnlib-version <2.0>)
(declare-network response (declare-input X real [1,2]) (declare-output Y real [1,1]))

{box("X", lower, upper)}
(assert (<= (* X[0,0] X[0,1] X[0,1]) 0.05)) ; little dose, or early

(assert (>= Y[0,0] {threshold}))
"""
    comment = f"where dose times time squared is at most 0.05 the response stays below {threshold} (false)"
    return [Written("onnx/response.onnx", "response_early", text, "sat", comment)]


def cart(_folder: Path) -> list[Written]:
    """A network of two inputs and two outputs, one of them a scalar."""
    text = f"""(vnnlib-version <2.0>)
(declare-network cart
    (declare-input Place float32 [1,2])
    (declare-input Pole float32 [1,2])
    (declare-output Left float32 [1,1])
    (declare-output Right float32 []))

{box("Place", np.array([-0.5, -0.5]), np.array([0.5, 0.5]))}
{box("Pole", np.array([0.15, 0.0]), np.array([0.3, 0.5]))}

(assert (>= Left[0,0] Right))
"""
    comment = "a pole that leans and falls to the right is never pushed left, by a network of two inputs"
    return [Written("onnx/cart.onnx", "cart_leaning", text, "unsat", comment)]


def hidden(folder: Path) -> list[Written]:
    """A condition on hidden tensors: where most of the first layer is off."""
    lower, upper = np.array([-0.5, -0.5, -0.3, -0.5]), np.array([0.5, 0.5, 0.3, 0.5])
    random = np.random.default_rng(SEED)
    known = values(folder / "controller.onnx", random.uniform(lower, upper, (4000, 4)))
    unit = int(np.abs((known["value1"] > 0).mean(0) - 0.5).argmin())  # on for half of the states

    def score(x: np.ndarray) -> np.ndarray:
        at = values(folder / "controller.onnx", x)
        return np.where(at["value1"][:, unit] <= 0, np.abs(at["output"]).max(1), -np.inf)

    threshold = decimal(0.9 * largest(score, lower, upper))
    exceed = " ".join(f"(>= Y[0,{i}] {threshold}) (<= Y[0,{i}] -{threshold})" for i in (0, 1))
    text = f"""(vnnlib-version <2.0>)
(declare-network controller
    (declare-input X float32 [1,4])
    (declare-hidden H float32 [1,16] "value1")
    (declare-output Y float32 [1,2]))

{box("X", lower, upper)}
(assert (<= H[0,{unit}] 0.0)) ; unit {unit} of the first layer is off

(assert (or {exceed}))
"""
    comment = f"while unit {unit} of the first layer is off no score reaches {threshold} (false)"
    return [Written("onnx/controller.onnx", "controller_off", text, "sat", comment)]


def swinging(folder: Path) -> list[Written]:
    """An equality between two inputs: a pole that swings back as fast as it leans."""
    lower, upper = np.array([-0.5, -0.5, -0.4, -1.0]), np.array([0.5, 0.5, 0.4, 1.0])

    def right(x: np.ndarray) -> np.ndarray:
        state = np.stack([x[:, 0], x[:, 1], x[:, 2], -2.5 * x[:, 2]], 1)
        y = values(folder / "controller.onnx", state)["output"]
        return y[:, 1] - y[:, 0]

    threshold = decimal(1.2 * largest(right, lower, upper) + 0.02)
    text = f"""(vnnlib-version <2.0>)
(declare-network controller (declare-input X float32 [1,4]) (declare-output Y float32 [1,2]))

{box("X", lower, upper)}
(assert (== (+ X[0,3] (* 2.5 X[0,2])) 0.0)) ; the faster back, the more it leans

(assert (>= (- Y[0,1] Y[0,0]) {threshold}))
"""
    comment = f"a pole that swings back is never pushed right by a lead of {threshold}"
    return [Written("onnx/controller.onnx", "controller_swinging", text, "unsat", comment)]


# -- networks --------------------------------------------------------------------------------------------


def rounded(source: Path, target: Path) -> None:
    """The same graph with weights that are multiples of 1/64."""
    model = onnx.load(source)
    for array in model.graph.initializer:
        short = np.round(numpy_helper.to_array(array) * 64) / 64
        array.CopyFrom(numpy_helper.from_array(short.astype(np.float32), array.name))
    target.write_bytes(model.SerializeToString())


def two_inputs(source: Path, target: Path) -> None:
    """The same function of two inputs ``[1, 2]``, with outputs ``[1, 1]`` and a scalar."""
    model = onnx.load(source)
    graph = model.graph
    nodes = [helper.make_node("Concat", ["place", "pole"], ["input"], axis=1), *graph.node]
    nodes.append(helper.make_node("Split", ["output"], ["left", "second"], axis=1))
    nodes.append(helper.make_node("Squeeze", ["second"], ["right"]))
    tensor = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes, "cart",
        [tensor(name, TensorProto.FLOAT, (1, 2)) for name in ("place", "pole")],
        [tensor("left", TensorProto.FLOAT, (1, 1)), tensor("right", TensorProto.FLOAT, ())], list(graph.initializer),
    )  # fmt: skip
    found = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(found, full_check=True)
    target.write_bytes(found.SerializeToString())


def values(path: Path, x: np.ndarray) -> Values:
    """All values of a sequence of layers at points ``[n, inputs]``, by their names in the file; float64."""
    graph = onnx.load(path).graph
    stored = {array.name: numpy_helper.to_array(array).astype(np.float64) for array in graph.initializer}
    found = {"input": x}
    for node in graph.node:
        first = found[node.input[0]]
        if node.op_type == "Gemm":
            result = first @ stored[node.input[1]].T + stored[node.input[2]]
        else:
            result = np.maximum(first, 0) if node.op_type == "Relu" else 1 / (1 + np.exp(-first))
        found[node.output[0]] = result
    return found


def largest(quantity: Callable[[np.ndarray], np.ndarray], lower: np.ndarray, upper: np.ndarray) -> float:
    """The largest value that random points of a box and a shrinking search around the best ones reach."""
    random = np.random.default_rng(SEED)
    x = random.uniform(lower, upper, (20_000, len(lower)))
    for step in range(60):
        value = quantity(x)
        best = x[np.argsort(-value)[:50]]
        moved = best[:, None] + 0.5 * 0.9**step * (upper - lower) * random.normal(size=(50, 20, len(lower)))
        x = np.concatenate([best, np.clip(moved, lower, upper).reshape(-1, len(lower))])
    return float(quantity(x).max())


# -- text ------------------------------------------------------------------------------------------------


def box(name: str, lower: np.ndarray, upper: np.ndarray) -> str:
    """Bounds of a tensor ``[1, n]``."""
    return lines(
        f"(assert (and (>= {name}[0,{i}] {low:.9g}) (<= {name}[0,{i}] {high:.9g})))"
        for i, (low, high) in enumerate(zip(lower, upper, strict=True))
    ).replace(" 1)", " 1.0)").replace(" 0)", " 0.0)").replace(" -1)", " -1.0)")  # fmt: skip


def lines(parts) -> str:  # type: ignore[no-untyped-def]
    """One part per line."""
    return "\n".join(parts)


def decimal(value: float) -> str:
    """Three digits behind the point."""
    return f"{value:.3f}"
