"""Verification from Python: modules and graphs, queries made in Python, progress, cancellation."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provenn.bounds import Box, alpha, cancellable, crown, read_module, read_onnx
from provenn.errors import Cancelled, InputError, ProvennError
from provenn.specs import always, any_of, never, output, read_query, robust
from provenn.verifier import Options, verify

ROOT = Path(__file__).resolve().parents[2] / "vnnlib_examples"
QUICK = Options(timeout=20, threads=1)


def dense(*sizes: int, seed: int = 0, kind: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(kind).requires_grad_(False)


class Two(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.relu(self.first(x) + self.second(y))
        return z, z.sum(1)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_robustness_of_a_module(kind: torch.dtype) -> None:
    net = dense(6, 12, 3, kind=kind)
    x = torch.linspace(0, 1, 6, dtype=kind).view(1, 6)
    label = int(net(x).argmax())
    proven = verify(net, robust(x, label, 0.001, 3), QUICK)
    assert proven.verdict == "unsat"
    refuted = verify(net, robust(x, label, 3.0, 3), QUICK)
    assert refuted.verdict == "sat" and refuted.witness is not None and "on torch" in refuted.reason
    found = torch.from_numpy(refuted.witness.inputs)
    assert found.dtype == kind and (found - x).abs().max() <= 3.0 + 1e-6
    y = net(found.view(1, 6))[0]
    assert np.array_equal(y.numpy(), refuted.witness.outputs)
    assert int(y.argmax()) != label or (y == y[label]).sum() > 1


def test_several_inputs_and_outputs_of_a_module() -> None:
    y, net = output(5), Two()  # the four of the first output, then their sum
    lower, upper = (np.zeros((1, 3)), np.zeros((1, 2))), (np.ones((1, 3)), 1.0)
    for ends in ((lower, upper), ((0.0, 0.0), (np.ones((1, 3)), np.ones((1, 2))))):
        query = always((y[:4] >= -0.001) & (y[4] - y[:4].sum() <= 0.01), *ends)
        assert verify(net, query, QUICK).verdict == "unsat"
    result = verify(net, never(y[4] >= 0.25, lower, upper), QUICK)
    assert result.verdict == "sat" and result.witness is not None
    inputs = torch.from_numpy(result.witness.inputs)
    outputs = net(inputs[:3].view(1, 3), inputs[3:].view(1, 2))
    assert outputs[1] >= 0.25 and np.array_equal(result.witness.outputs[4:], outputs[1].detach().numpy())


def test_a_graph_and_a_file_get_the_verdicts_of_the_examples() -> None:
    """One question asked in three ways: both files, a query read from the file, a graph."""
    network, leaning = ROOT / "onnx" / "controller.onnx", ROOT / "vnnlib" / "controller_falling_back.vnnlib"
    graph = read_onnx(network)
    query = read_query(leaning, 4, 2, "float32")
    found = [verify(network, leaning, QUICK), verify(network, query, QUICK), verify(graph, leaning, QUICK)]
    assert len({result.verdict for result in found}) == 1 and found[0].verdict in ("sat", "unsat")
    assert all("torch" not in result.reason for result in found)


def test_a_module_and_a_file_of_a_property(tmp_path: Path) -> None:
    net = dense(2, 5, 1)
    path = tmp_path / "p.vnnlib"
    path.write_text("""(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real)
    (assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 0)) (assert (<= X_1 1)) (assert (>= Y_0 1000))""")
    assert verify(read_module(net, torch.zeros(1, 2)), path, QUICK).verdict == "unsat"
    with pytest.raises(InputError, match="read_module"):
        verify(net, path, QUICK)


def test_progress_never_falls() -> None:
    net = dense(8, 24, 24, 3, seed=3)
    x = torch.zeros(1, 8)
    label = int(net(x).argmax())
    told: list[tuple[str, dict]] = []
    result = verify(
        net, robust(x, label, 0.35, 3), Options(timeout=4, threads=1, attack_restarts=1, attack_steps=1),
        lambda stage, **numbers: told.append((stage, numbers)),
    )  # fmt: skip
    assert told and all(isinstance(stage, str) and stage for stage, _ in told)
    domains = [numbers["domains"] for _, numbers in told if "domains" in numbers]
    assert domains == sorted(domains)
    assert result.verdict != "unknown" and result.statistics["domains"] >= max(domains, default=0)


class After:
    """Set once it has been asked so many times: cancellation without a clock."""

    def __init__(self, asked: int):
        self.left = asked

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


def hard() -> tuple[nn.Sequential, object]:
    net = dense(24, 48, 48, 48, 2, seed=2)
    y = output(2)
    centre = net(torch.zeros(1, 24))[0]
    condition = any_of([y[0] - y[1] <= float(centre[0] - centre[1]) - 1.2, y[0] >= 1e3])
    return net, never(condition, np.full((1, 24), -0.9), 0.9)


@pytest.mark.parametrize("asked", [0, 1, 20, 400])
def test_a_cancelled_run_ends_with_its_reason(asked: int) -> None:
    """At any moment, in whatever stage: the attack, root bounds, searches."""
    net, query = hard()
    cancel = After(asked)
    result = verify(net, query, Options(timeout=60, threads=1), cancel=cancel)  # type: ignore[arg-type]
    assert result.verdict == "unknown" and "cancelled" in result.reason and result.witness is None
    assert cancel.left == -1, "nobody asks again after the run was cancelled"
    assert result.statistics["seconds"] < 60


def test_cancelled_from_another_thread_and_from_progress() -> None:
    net, query = hard()
    event = threading.Event()

    def progress(stage: str, **numbers: object) -> None:
        event.set()

    result = verify(net, query, Options(timeout=60, threads=1), progress, cancel=event)  # type: ignore[arg-type]
    assert result.verdict == "unknown" and "cancelled" in result.reason
    timer = threading.Timer(0.3, (later := threading.Event()).set)
    timer.start()
    result = verify(net, query, Options(timeout=60, threads=1), cancel=later)  # type: ignore[arg-type]
    timer.cancel()
    assert result.verdict == "unknown" or not later.is_set()


def test_bounds_are_cancelled_by_an_exception() -> None:
    net = dense(4, 8, 8, 2)
    region = Box.around(torch.zeros(1, 4), 0.5)
    event = threading.Event()
    with cancellable(event):
        alpha(net, region)
        event.set()
        with pytest.raises(Cancelled):
            crown(net, region)
    crown(net, region)  # the end of the block is the end of it
    with pytest.raises(ProvennError), cancellable(event):
        pytest.fail("a block that was cancelled before it began does not begin")


def test_wrong_calls_are_named() -> None:
    net = dense(2, 3, 2)
    y = output(3)
    calls = {
        "is it a property of another network": lambda: verify(net, always(y[2] <= 1, np.zeros((1, 2)), 1.0)),
        r"\[\[1, 2\]\]": lambda: verify(read_module(net, torch.zeros(1, 2)), robust(np.zeros((1, 3)), 0, 0.1, 2)),
        "expected a file": lambda: verify(3, robust(np.zeros((1, 2)), 0, 0.1, 2)),  # type: ignore[arg-type]
        "cannot judge": lambda: verify(
            read_onnx_without_source(), robust(np.zeros((1, 4)), 0, 0.1, 2)
        ),
    }  # fmt: skip
    for words, call in calls.items():
        with pytest.raises(InputError, match=words):
            call()


def read_onnx_without_source():  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(read_onnx(ROOT / "onnx" / "controller.onnx"), source="")


def test_robustness_speaks_of_all_classes() -> None:
    with pytest.raises(InputError, match="3 outputs"):
        verify(dense(2, 4, 3), robust([[0.0, 0.0]], label=0, radius=0.1, classes=2), QUICK)


def test_a_module_with_weights_of_two_types_needs_an_example() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", torch.zeros(1, dtype=torch.float64))
            self.register_buffer("b", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b

    with pytest.raises(InputError, match="read_module"):
        crown(Mixed(), Box([[0.0]], [[1.0]]))
