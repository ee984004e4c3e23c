"""`provenn robust`: certified accuracy over a data set."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from provenn import bounds
from provenn.bounds import Bounds
from provenn.errors import InputError
from provenn.specs import ResultRow, read_results
from provenn.verifier import Options, Result, batch, launch, nursery, report, robustness, watchdog

from .conftest import Shell

WEIGHT = np.array([[2, -1, 0.5, 1], [-1, 1, 1, -0.5], [0, 0, 0, 0]], np.float32)
IMAGE = np.array([0.5, 0.25, 0.5, 0.75])  # scores 1.75, -0.125, 0


@pytest.fixture
def network(tmp_path: Path) -> str:
    """Scores ``W x`` of 2 x 2 images."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    path = tmp_path / "linear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return str(path)


def ask(network: str, radius: float, norm: str, within: Any = None, image: Any = IMAGE, label: int = 0) -> Result:
    images = Path(network).with_suffix(".npy")
    np.save(images, np.asarray(image)[None])
    question = {"images": str(images), "index": 0, "label": label, "radius": radius, "norm": norm, "within": within}
    return robustness.decide(network, question, Options(timeout=20, threads=1), lambda *a, **k: None)


@pytest.mark.parametrize(("norm", "dual"), [("inf", 1), ("2", 2), ("1", np.inf)])
def test_the_radius_of_a_linear_network(network: str, norm: str, dual: float) -> None:
    """The margin over the dual norm of its weights."""
    rows = WEIGHT[:1] - WEIGHT[1:]
    radius = min((rows @ IMAGE) / np.linalg.norm(rows, dual, axis=1))
    assert ask(network, 0.999 * radius, norm).verdict == "unsat"
    beyond = ask(network, 1.001 * radius, norm)
    assert beyond.verdict in (("sat",) if norm == "inf" else ("sat", "unknown"))
    far = ask(network, 4 * radius, norm, image=IMAGE.reshape(2, 2))
    assert far.verdict == "sat" and far.witness is not None
    apart = far.witness.inputs.reshape(-1) - IMAGE
    assert np.linalg.norm(apart, float(norm)) <= 4 * radius * (1 + 1e-6)


@pytest.mark.parametrize("norm", ["1", "2"])
def test_a_witness_around_the_ball_is_none(network: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here bounds over the ball would prove it; without them the corners of the box must not refute it."""
    lowest = torch.full((2,), -1.0)
    monkeypatch.setattr(bounds, "alpha", lambda *a, **k: Bounds(lowest, lowest))
    rows = WEIGHT[:1] - WEIGHT[1:]
    radius = 0.9 * min((rows @ IMAGE) / np.linalg.norm(rows, 2 if norm == "2" else np.inf, axis=1))
    result = ask(network, radius, norm)
    assert result.verdict == "unknown" and result.witness is None and "box around the ball" in result.reason


def test_inputs_stay_within(network: str) -> None:
    """The margin's minimum is 1.875 - 7 * 0.27 < 0; with the first element at 0.25 it is 0.045."""
    assert ask(network, 0.27, "inf").verdict == "sat"
    assert ask(network, 0.27, "inf", within=(0.25, 1)).verdict == "unsat"
    assert ask(network, 0.0, "inf", label=1).verdict == "sat"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"label": 3}, "label 3, the network has 3 outputs"),
        ({"image": IMAGE.reshape(4, 1)}, r"takes inputs of shape \[1, 1, 2, 2\], the images have the shape \[4, 1\]"),
        ({"norm": "2", "within": (0.5, 1)}, "image 0 leaves"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(network: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(network, 0.1, **{"norm": "inf", **more})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 4))}, "arrays 'images' and 'labels'"),
        ({"images": np.zeros((2, 4)), "labels": np.zeros(3, int)}, "as many whole numbers"),
        ({"images": np.zeros((2, 4)), "labels": np.zeros(2)}, "as many whole numbers"),
        ({"images": np.zeros((0, 4)), "labels": np.zeros(0, int)}, "has no images"),
        ({"images": np.full((2, 4), np.nan), "labels": np.zeros(2, int)}, "not all finite"),
        ({"images": np.array([[None], [1]]), "labels": np.zeros(2, int)}, "cannot be read"),
        (b"PK\x03\x04broken", "cannot be read"),
        (b"", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, arrays: Any, message: str) -> None:
    path = tmp_path / "data.npz"
    if isinstance(arrays, dict):
        np.savez(path, **arrays)
    elif arrays is not None:
        path.write_bytes(arrays)
    with pytest.raises(InputError, match=message):
        robustness.read_images(str(path))


def test_accuracies_are_told_for_every_radius() -> None:
    row = functools.partial(ResultRow, "d", "n", prepare_time=0, run_time=1)
    rows = [row(property=f"d.npz[{i}] norm inf eps 0.1", result=result) for i, result in enumerate(["unsat", "sat"])]
    rows += [row(property=f"d.npz[{i}] norm inf eps 0.2", result=result) for i, result in enumerate(["error", "sat"])]
    assert robustness.accuracy(rows) == [
        "norm inf eps 0.1: certified accuracy 50.00% (2 images: 1 robust, 1 not, 0 open)",
        "norm inf eps 0.2: certified accuracy 0.00%, at most 50.00% (2 images: 0 robust, 1 not, 1 open)",
    ]


class Here:
    """A launcher that verifies in this process."""

    def run(self, job: launch.Job, history: Any) -> tuple[watchdog.Outcome, float]:
        options = Options(**job.options)
        message = report.work(job.networks, job.property_path, options, lambda message: None, job.question)
        return watchdog.Outcome("answer", message), 0.5

    def stop(self) -> None: ...
    def close(self) -> None: ...


def run(network: str, folder: Path, output: str, **more: Any) -> list[ResultRow]:
    plan = batch.Plan(timeout=20, threads=1, launcher=lambda threads: Here(), reports=str(folder / "reports"))
    view = batch.PlainView(io.StringIO(), io.StringIO())
    asked = {"radii": [0.05], "norm": "inf", "within": None, "count": None, **more}
    return robustness.run(network, str(folder / "d.npz"), output=str(folder / output), plan=plan, view=view, **asked)


def test_a_data_set_and_going_on(tmp_path: Path, network: str) -> None:
    images = np.stack([IMAGE, IMAGE]).astype(np.float32)
    np.savez(tmp_path / "d.npz", images=images, labels=np.array([0, 1]))
    assert [row.result for row in run(network, tmp_path, "r.csv", count=1)] == ["unsat"]
    written = (tmp_path / "r.csv").read_bytes()
    assert [row.result for row in run(network, tmp_path, "r.csv")] == ["unsat", "sat"]
    rows = run(network, tmp_path, "r.csv", radii=[0.05, 0.5])
    assert [row.result for row in rows] == ["unsat", "sat", "sat", "sat"]
    assert (tmp_path / "r.csv").read_bytes().startswith(written) and len(read_results(tmp_path / "r.csv")) == 4
    assert len(list((tmp_path / "reports").iterdir())) == 4
    np.savez(tmp_path / "d.npz", images=images[:, :3], labels=np.array([0, 1]))
    with pytest.raises(InputError, match="takes inputs of shape"):
        run(network, tmp_path, "s.csv")
    assert not read_results(tmp_path / "s.csv")
    for wrong in ({"radii": [-1.0]}, {"radii": [float("nan")]}, {"within": (1.0, 0.0)}):
        with pytest.raises(InputError, match="got --"):
            run(network, tmp_path, "s.csv", **wrong)


@pytest.mark.skipif(not nursery.available(), reason="forks on Linux")
def test_the_command(shell: Shell, network: str) -> None:
    np.savez(shell.folder / "d.npz", images=IMAGE[None], labels=np.array([0]))
    options = ["--images", "d.npz", "--eps", "0.05", "--norm", "2", "-o", "r.csv", "--threads", "1"]
    done = shell.run("robust", network, *options)
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("norm 2 eps 0.05: certified accuracy 100.00% (1 images: 1 robust, 0 not, 0 open)\n")
