"""Makes the networks and properties of this folder from nothing but a seed.

    python vnnlib_examples/make.py [FOLDER]

Three small networks are trained on data that the script invents, and each gets a property that holds (`unsat`)
and one that does not (`sat`). A `sat` property is written only after onnxruntime has violated it at a point
found here; an `unsat` one keeps a distance from everything a search has reached. `version2.py` adds properties in
VNN-LIB 2. Takes about ten seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from version2 import make_version2

SEED = 20
TIMEOUT = 60


@dataclass(frozen=True)
class Example:
    """A property of a network: a box, and a violation as a disjunction of conjunctions of rows over the outputs.

    A row (coefficients by output, threshold) reads ``sum coefficient * Y <= threshold``; the coefficients are
    +1 and -1, one or two of them, as VNN-LIB 1.0 writes them.
    """

    network: str
    name: str
    comment: str
    lower: np.ndarray
    upper: np.ndarray
    violation: list[list[tuple[dict[int, int], float]]]
    result: str


def main() -> None:
    """Write everything into the folder of this script, or into the one that is named."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for inner in ("onnx", "vnnlib"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    examples = [example for make in (make_controller, make_classifier, make_response) for example in make(folder)]
    instances, truth = [], ["network,property,result,what"]
    for example in examples:
        path = folder / "onnx" / f"{example.network}.onnx"
        check(example, path)
        (folder / "vnnlib" / f"{example.name}.vnnlib").write_text(property_text(example))
        files = f"onnx/{example.network}.onnx,vnnlib/{example.name}.vnnlib"
        instances.append(f"{files},{TIMEOUT}")
        truth.append(f'{files},{example.result},"{example.comment}"')
    for written in make_version2(folder):
        (folder / "vnnlib" / f"{written.name}.vnnlib").write_text(f"; {written.comment}\n\n{written.text}")
        network = f'"{written.network}"' if "," in written.network else written.network
        files = f"{network},vnnlib/{written.name}.vnnlib"
        instances.append(f"{files},{TIMEOUT}")
        truth.append(f'{files},{written.result},"{written.comment}"')
    (folder / "instances.csv").write_text("\n".join(instances) + "\n")
    (folder / "truth.csv").write_text("\n".join(truth) + "\n")


def make_controller(folder: Path) -> list[Example]:
    """A cart with a pole: position, velocity, angle, angular velocity to the scores of pushing left and right."""
    torch.manual_seed(SEED)
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    gain = torch.tensor([0.1, 0.3, 3.0, 0.8])

    def batch() -> tuple[Tensor, Tensor]:
        state = torch.rand(256, 4) * 2 - 1
        force = torch.tanh(2 * state @ gain)
        return state, torch.stack([-force, force], dim=1)

    train(network, batch, nn.functional.mse_loss, steps=800)
    save(network, folder / "onnx" / "controller.onnx", (1, 4))
    leaning = np.array([[-0.5, 0.5], [-0.5, 0.5], [0.15, 0.3], [0.0, 0.5]])
    falling_back = np.array([[-0.5, 0.5], [-0.5, 0.5], [0.15, 0.3], [-0.9, 0.5]])
    left_wins = [[({1: 1, 0: -1}, 0.0)]]
    return [
        Example(
            "controller", "controller_leaning", "a pole that leans and falls to the right is never pushed left",
            *leaning.T, left_wins, "unsat",
        ),
        Example(
            "controller", "controller_falling_back",
            "a pole that leans right but may be falling back fast is never pushed left (false)",
            *falling_back.T, left_wins, "sat",
        ),
    ]  # fmt: skip


def make_classifier(folder: Path) -> list[Example]:
    """Images of 8x8 pixels with a noisy horizontal bar, vertical bar, cross or nothing, by two convolutions."""
    torch.manual_seed(SEED)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip
    train(network, lambda: images(128), nn.functional.cross_entropy, steps=400)
    save(network, folder / "onnx" / "classifier.onnx", (1, 1, 8, 8))
    torch.manual_seed(SEED + 1)
    picture, label = (part[0] for part in images(1))
    centre, target = picture.reshape(-1).double().numpy(), int(label)
    violation = [[({target: 1, other: -1}, 0.0)] for other in range(4) if other != target]
    return [
        Example(
            "classifier", f"classifier_{name}", f"no change of up to {radius} per pixel changes the class{truth}",
            np.clip(centre - radius, 0, 1).round(6), np.clip(centre + radius, 0, 1).round(6), violation, result,
        )
        for name, radius, result, truth in (("near", 0.05, "unsat", ""), ("far", 0.3, "sat", " (false)"))
    ]  # fmt: skip


def make_response(folder: Path) -> list[Example]:
    """A sigmoid network for the response to a dose over time: rises with the dose, decays."""
    torch.manual_seed(SEED)
    network = nn.Sequential(nn.Linear(2, 20), nn.Sigmoid(), nn.Linear(20, 20), nn.Sigmoid(), nn.Linear(20, 1))

    def batch() -> tuple[Tensor, Tensor]:
        point = torch.rand(256, 2)
        dose, time = point.T
        response = torch.sigmoid(8 * dose - 3) * torch.exp(-2 * (time - 0.3) ** 2)
        return point, response[:, None]

    train(network, batch, nn.functional.mse_loss, steps=1500)
    save(network, folder / "onnx" / "response.onnx", (1, 2))
    lower, upper = np.array([0.2, 0.0]), np.array([0.5, 1.0])
    highest = float(-search(folder / "onnx" / "response.onnx", lower, upper, [[({0: -1}, 0.0)]])[0])
    return [
        Example(
            "response", f"response_{name}", f"half the dose never gives a response of {threshold}{truth}",
            lower, upper, [[({0: -1}, -threshold)]], result,
        )
        for name, threshold, result, truth in (
            ("bounded", round(highest + 0.02, 3), "unsat", ""),
            ("exceeded", round(highest - 0.02, 3), "sat", " (false)"),
        )
    ]  # fmt: skip


def images(count: int) -> tuple[Tensor, Tensor]:
    """Invented images [count, 1, 8, 8] in [0, 1] and their classes."""
    label = torch.arange(count) % 4 if count > 1 else torch.tensor([2])
    row, column = torch.randint(1, 7, (count,)), torch.randint(1, 7, (count,))
    place = torch.arange(8)
    horizontal = (place[None, :, None] == row[:, None, None]) & ((label == 0) | (label == 2))[:, None, None]
    vertical = (place[None, None, :] == column[:, None, None]) & ((label == 1) | (label == 2))[:, None, None]
    picture = (horizontal | vertical).float() * 0.8 + torch.rand(count, 8, 8) * 0.2
    return picture[:, None], label


def train(
    network: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], loss: Callable[..., Tensor], *, steps: int
) -> None:
    """Adam with a decaying rate, on fresh data at every step."""
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        inputs, targets = batch()
        optimiser.zero_grad()
        loss(network(inputs), targets).backward()
        optimiser.step()
        schedule.step()


def save(network: nn.Sequential, path: Path, shape: tuple[int, ...]) -> None:
    """Write a sequence of layers as ONNX, opset 13."""
    nodes, weights, value = [], [], "input"
    for index, layer in enumerate(network):
        names = [f"layer{index}.{name}" for name, _ in layer.named_parameters()]
        for name, (_, parameter) in zip(names, layer.named_parameters(), strict=True):
            weights.append(numpy_helper.from_array(parameter.detach().numpy(), name))
        operator, attributes = layer_operator(layer)
        result = "output" if index == len(network) - 1 else f"value{index}"
        nodes.append(helper.make_node(operator, [value, *names], [result], name=f"layer{index}", **attributes))
        value = result
    outputs = network(torch.zeros(shape)).shape
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, tuple(outputs))],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def layer_operator(layer: nn.Module) -> tuple[str, dict[str, object]]:
    """The ONNX operator of a layer, and its attributes."""
    if isinstance(layer, nn.Conv2d):
        (pad, _), (stride, _) = layer.padding, layer.stride
        return "Conv", {"pads": [pad] * 4, "strides": [stride] * 2, "kernel_shape": list(layer.kernel_size)}
    if isinstance(layer, nn.Linear):
        return "Gemm", {"transB": 1}
    return {nn.ReLU: "Relu", nn.Sigmoid: "Sigmoid", nn.Flatten: "Flatten"}[type(layer)], {}


def margins(outputs: np.ndarray, violation: list[list[tuple[dict[int, int], float]]]) -> np.ndarray:
    """How far each point [points, outputs] is from a violation; zero or less violates."""
    rows = [
        np.stack([sum(c * outputs[:, y] for y, c in row.items()) - threshold for row, threshold in clause]).max(0)
        for clause in violation
    ]
    return np.stack(rows).min(0)


def search(
    path: Path, lower: np.ndarray, upper: np.ndarray, violation: list[list[tuple[dict[int, int], float]]]
) -> tuple[float, np.ndarray]:
    """The smallest margin that random points and a shrinking search around the best one reach on onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    generator = np.random.default_rng(SEED)
    best, where, width = np.inf, (lower + upper) / 2, upper - lower
    for step in range(60):
        scale = 1.0 if step < 4 else 0.95**step
        points = where + scale * width * generator.uniform(-1, 1, (256, lower.size))
        corners = np.where(generator.random(points.shape) < 0.5, np.clip(points, lower, upper), where)
        points = np.clip(np.where(generator.random((256, 1)) < 0.5, points, corners), lower, upper).astype(np.float32)
        outputs = np.stack([session.run(None, {"input": point.reshape(shape)})[0].reshape(-1) for point in points])
        found = margins(outputs.astype(np.float64), violation)
        if found.min() < best:
            best, where = float(found.min()), points[found.argmin()].astype(np.float64)
    return best, where


def check(example: Example, path: Path) -> None:
    """Stop unless the search agrees with what the example says of itself, with some distance."""
    margin, _ = search(path, example.lower, example.upper, example.violation)
    print(f"{example.name:26} {example.result:6} smallest margin found {margin:.4f}")
    if not (margin < -0.01 if example.result == "sat" else margin > 0.01):
        raise SystemExit(f"{example.name}: margin={margin:.4f} does not fit {example.result}; change the property")


def property_text(example: Example) -> str:
    """The property in VNN-LIB 1.0; `sat` is a violation."""
    lines = [f"; {example.comment}", ""]
    count = 1 + max(y for clause in example.violation for row, _ in clause for y in row)
    lines += [f"(declare-const X_{i} Real)" for i in range(example.lower.size)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(count)] + [""]
    for i, (lower, upper) in enumerate(zip(example.lower, example.upper, strict=True)):
        lines += [f"(assert (>= X_{i} {lower:.9g}))", f"(assert (<= X_{i} {upper:.9g}))"]
    clauses = [[row_text(row, threshold) for row, threshold in clause] for clause in example.violation]
    if len(clauses) == 1:
        lines += ["", *(f"(assert {row})" for row in clauses[0])]
    else:
        lines += ["", "(assert (or", *(f"    (and {' '.join(clause)})" for clause in clauses), "))"]
    return "\n".join(lines) + "\n"


def row_text(row: dict[int, int], threshold: float) -> str:
    """``Y_i - Y_j <= 0``, ``Y_i <= c`` or ``-Y_i <= c`` as VNN-LIB has them."""
    plus, minus = [y for y, c in row.items() if c > 0], [y for y, c in row.items() if c < 0]
    if plus and minus:
        return f"(<= Y_{plus[0]} Y_{minus[0]})"
    return f"(<= Y_{plus[0]} {threshold:.9g})" if plus else f"(>= Y_{minus[0]} {-threshold:.9g})"


if __name__ == "__main__":
    main()
