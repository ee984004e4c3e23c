"""The engine against a hand-written torch loop of the same arithmetic, and its rows per second.

Usage: OMP_NUM_THREADS=1 python benchmarks/engine.py [--device cpu|cuda] [--seconds 2] [--suite ../shared/benchmarks]
Times are the least of runs that alternate between the things compared; on a CPU they are processor time, so that one
thread on a shared machine is measured like one on an idle machine. A network of the suite with convolutions is left
out, with a message, where the suite is missing.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from provenn.bounds.graph import read_onnx
from provenn.bounds.graph.lattice import lattice
from provenn.bounds.propagate.backward import backward
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.interval import Box, interval_boxes
from provenn.bounds.propagate.lines import relax_all
from provenn.bounds.propagate.objective import Objective
from provenn.bounds.propagate.optimise import Schedule, optimise
from provenn.bounds.propagate.plan import Plan
from provenn.bounds.propagate.rounding import Magnitudes, RoundingError
from provenn.specs import read_query
from provenn.verifier.memory import keep_freed_memory

WIDTHS = (5, 50, 50, 50, 50, 50, 50, 5)
CONVOLUTIONAL = ("oval21", "onnx/cifar_base_kw.onnx.gz", "cifar_base_kw-*.vnnlib.gz")
STEPS = 20


def network(path: Path) -> Path:
    """Six hidden layers of 50 ReLU neurons with seeded weights, 5 inputs and 5 outputs."""
    random = np.random.default_rng(0)
    nodes, constants, value = [], [], "X"
    for i, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS)):
        weight = random.normal(size=(inputs, outputs)).astype(np.float32) * (1.6 / inputs) ** 0.5
        bias = random.normal(size=outputs).astype(np.float32) * 0.1
        constants += [
            numpy_helper.from_array(weight.astype(np.float32), f"W{i}"),
            numpy_helper.from_array(bias.astype(np.float32), f"B{i}"),
        ]
        last = i == len(WIDTHS) - 2
        nodes.append(helper.make_node("Gemm", [value, f"W{i}", f"B{i}"], ["Y" if last else f"Z{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"Z{i}"], [f"A{i}"]))
            value = f"A{i}"
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width])]
        for name, width in (("X", WIDTHS[0]), ("Y", WIDTHS[-1]))
    ]
    graph = helper.make_graph(nodes, "engine", *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


@dataclass
class Case:
    """A plan with boxes of ``domains`` input boxes and rows ``[domains, 1, outputs]``."""

    plan: Plan
    target: int
    inputs: dict[int, Box]
    boxes: dict[int, Box]
    rows: Tensor

    def cast(self, plan: Plan) -> Case:
        to = lambda boxes: {i: (b[0].to(plan.dtype), b[1].to(plan.dtype)) for i, b in boxes.items()}  # noqa: E731
        return Case(plan, self.target, to(self.inputs), to(self.boxes), self.rows.to(plan.dtype))


def case(plan: Plan, domains: int) -> Case:
    """Boxes of radius 0.1 around seeded centres, one row each."""
    generator = torch.Generator().manual_seed(domains)
    source, target = plan.graph.inputs[0], plan.graph.outputs[0]
    centre = torch.rand(domains, *plan.shape(source), generator=generator, dtype=torch.float64).to(plan.device)
    inputs = {source: (centre - 0.1, centre + 0.1)}
    rows = torch.randn(domains, 1, *plan.shape(target), generator=generator, dtype=torch.float64).to(plan.device)
    return Case(plan, target, inputs, intermediate_boxes(plan, inputs, until=target), rows)


class ByHand:
    """The backward pass of a chain of matrices and ReLUs, for lines that are given."""

    def __init__(self, made: Case):
        lines = relax_all(made.plan, made.target, made.boxes)
        tensors = [p.tensors for p in made.plan.prepared if "weight" in p.tensors]
        self.weights = [t["weight"].T.contiguous() for t in reversed(tensors)]  # [out, in], the last layer first
        self.biases = [t["bias"] for t in reversed(tensors)]
        self.lower = [lines[i].lower_slopes[0].flatten(2) for i in sorted(lines, reverse=True)]
        self.upper = [lines[i].upper_slopes[0].flatten(2) for i in sorted(lines, reverse=True)]
        self.offsets = [lines[i].upper_offset.flatten(2).mT.contiguous() for i in sorted(lines, reverse=True)]  # type: ignore[union-attr]
        low, high = made.inputs[made.plan.graph.inputs[0]]
        self.low, self.high = low.flatten(1).unsqueeze(2), high.flatten(1).unsqueeze(2)
        self.rows = made.rows.flatten(2)

    def __call__(self) -> Tensor:
        a = self.rows
        offset = a @ self.biases[0]
        a = a @ self.weights[0]
        for lower, upper, constant, bias, weight in zip(
            self.lower, self.upper, self.offsets, self.biases[1:], self.weights[1:], strict=True
        ):
            negative = a.clamp(max=0)
            offset = offset + torch.bmm(negative, constant).squeeze(2)
            a = (a.clamp(min=0) * lower).addcmul_(negative, upper)
            offset = offset + a @ bias
            a = a @ weight
        return offset + (torch.bmm(a.clamp(min=0), self.low) + torch.bmm(a.clamp(max=0), self.high)).squeeze(2)


def alternately(runs: dict[str, Callable[[], object]], seconds: float, device: torch.device) -> dict[str, float]:
    """Least seconds of each run; the runs take turns, so that a busy machine is the same to all."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(runs, float("inf"))
    for call in runs.values():
        call()
    gc.collect()
    gc.disable()
    until = time.perf_counter() + seconds * len(runs)
    rounds = 0
    while time.perf_counter() < until or rounds < 5:
        rounds += 1
        for name, call in runs.items():
            repeats = max(1, min(100, int(0.002 / best[name]))) if rounds > 1 else 1
            _wait(device)
            begun = clock()
            for _ in range(repeats):
                call()
            _wait(device)
            best[name] = min(best[name], (clock() - begun) / repeats)
    gc.enable()
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(device: torch.device) -> str:
    """Peak memory of the process so far, and of the device."""
    host = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB"
    if device.type != "cuda":
        return host
    return f"{host}, device {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GB"


def compare(domains: int, graph, device: torch.device, seconds: float) -> None:
    """Print a backward pass and an alpha step of ``domains`` domains against the loop."""
    exact, plan = Plan(graph, torch.float64, device), Plan(graph, torch.float32, device)
    proof = case(exact, domains)
    made = proof.cast(plan)
    magnitudes = Magnitudes(exact, interval_boxes(exact, _hull(proof.inputs)))
    lines, proof_lines = relax_all(plan, made.target, made.boxes), relax_all(exact, made.target, proof.boxes)
    loop = ByHand(made)
    objective = Objective(plan, made.target, made.rows, made.boxes, made.inputs)
    start = objective.start()

    def whole() -> Tensor:
        return backward(plan, made.target, made.rows, lines, made.inputs)

    def confirmed() -> Tensor:
        error = RoundingError(exact, magnitudes)
        return backward(exact, made.target, proof.rows, proof_lines, proof.inputs, error=error)

    difference = float((whole() - loop()).abs().max())
    assert difference <= 1e-3 * (1 + float(loop().abs().max())), f"the two passes differ by {difference}"
    found = alternately(
        {
            "loop": loop,
            "pass": whole,
            "few": lambda: optimise(objective, Schedule(steps=1), start=start, points=False),
            "steps": lambda: optimise(objective, Schedule(steps=STEPS), start=start, points=False),
            "points": lambda: optimise(objective, Schedule(steps=STEPS), start=start),
            "confirmed": confirmed,
        },
        seconds,
        device,
    )
    step = (found["steps"] - found["few"]) / (STEPS - 1)
    averaged = (found["points"] - found["few"]) / (STEPS - 1)
    micro = lambda t: f"{t * 1e6:.0f} us"  # noqa: E731
    print(f"6x50 ReLU network, {domains} domains of one row")
    print(f"  hand-written loop, float32            {micro(found['loop'])}")
    print(f"  backward pass, float32                {micro(found['pass'])}, {found['pass'] / found['loop']:.2f} loops")
    print(f"  alpha step, float32                   {micro(step)}, {step / found['pass']:.2f} backward passes")
    print(f"    that also averages the minimisers   {micro(averaged)}, {averaged / found['pass']:.2f} backward passes")
    print(
        f"  backward pass, float64 and its error  {micro(found['confirmed'])}, "
        f"{found['confirmed'] / found['loop']:.2f} loops"
    )
    print(f"  peak memory of the process            {peak(device)}", flush=True)


def _hull(inputs: dict[int, Box]) -> dict[int, Box]:
    return {i: (b[0].amin(0, keepdim=True), b[1].amax(0, keepdim=True)) for i, b in inputs.items()}


def convolutional(suite: Path, device: torch.device, seconds: float) -> None:
    """Print rows per second of a convolutional network of the suite."""
    family, name, pattern = CONVOLUTIONAL
    path = suite / family / name
    if not path.exists():
        print(f"convolutional network: {path} is missing (--suite names the folder of the benchmarks)")
        return
    graph = lattice(read_onnx(path))
    plan, search = Plan(graph, torch.float64, device), Plan(graph, torch.float32, device)
    source, target = graph.inputs[0], graph.outputs[0]
    found = sorted((suite / family / "vnnlib").glob(pattern))
    lower, upper = read_query(found[0], plan.size(source), plan.size(target), "float32").input_box
    ends = [torch.from_numpy(np.array(e)).view(1, *plan.shape(source)).to(device) for e in (lower, upper)]
    inputs: dict[int, Box] = {source: (ends[0], ends[1])}
    magnitudes = Magnitudes(plan, interval_boxes(plan, inputs))
    boxes = intermediate_boxes(plan, inputs, magnitudes=magnitudes, until=target)
    eye = torch.eye(plan.size(target), dtype=torch.float64, device=device)
    print(f"convolutional network {name} of {family}, its first property's box")
    for domains in (1, 64):
        rows = eye.view(1, -1, *plan.shape(target)).expand(domains, *[-1] * (1 + len(plan.shape(target))))
        proof = Case(plan, target, inputs, boxes, rows)
        made = proof.cast(search)
        lines, proof_lines = relax_all(search, target, made.boxes), relax_all(plan, target, boxes)

        def whole(made: Case = made, lines=lines) -> Tensor:
            return backward(search, target, made.rows, lines, made.inputs)

        def confirmed(rows: Tensor = rows, lines=proof_lines) -> Tensor:
            return backward(plan, target, rows, lines, inputs, error=RoundingError(plan, magnitudes))

        times = alternately({"pass": whole, "confirmed": confirmed}, seconds, device)
        count = domains * plan.size(target)
        print(
            f"  {domains} domains of {plan.size(target)} rows: {count / times['pass']:.0f} rows/s in float32, "
            f"{count / times['confirmed']:.0f} in float64 with their error"
        )
    begun = time.perf_counter()
    intermediate_boxes(plan, inputs, magnitudes=magnitudes, until=target)
    _wait(device)
    print(f"  all boxes, in float64 with their error: {time.perf_counter() - begun:.3f} s")
    print(f"  peak memory of the process: {peak(device)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each thing measured")
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--suite", type=Path, default=here.parent / "shared" / "benchmarks")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    torch.backends.cuda.matmul.allow_tf32 = False
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}")
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        graph = read_onnx(network(Path(folder) / "network.onnx"))
        for domains in (1, 1024):
            compare(domains, graph, device, chosen.seconds)
        convolutional(chosen.suite, device, chosen.seconds)


if __name__ == "__main__":
    main()
