"""Networks in memory: read once, and again where their file has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from provenn.verifier import held


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(held, "_networks", {})
    monkeypatch.setattr(held, "_keeper", None)
    yield


def save(path: Path, weight: float, **more: Any) -> str:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.float32([weight]), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path, **more)
    return str(path)


def test_only_who_is_told_to_keeps_networks(tmp_path: Path) -> None:
    path = save(tmp_path / "n.onnx", 2)
    assert held.read_network(path) is not held.read_network(path)
    told: list[int] = []
    held.keep_with(lambda: told.append(1))
    held.keep()
    assert not told  # nothing was read: there is nothing to be had from it
    held.keep_with(lambda: told.append(1))
    graph = held.read_network(path)
    held.keep()
    held.keep()
    assert told == [1] and held.read_network(path) is graph


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = save(tmp_path / "n.onnx", 2)
    held.keep_with(lambda: None)
    graph = held.read_network(path)
    save(tmp_path / "n.onnx", 3)
    assert held.read_network(path) is not graph


def test_weights_in_other_files_are_read_again(tmp_path: Path) -> None:
    path = save(tmp_path / "n.onnx", 2, save_as_external_data=True, location="w.bin", size_threshold=0)
    held.keep_with(lambda: None)
    graph = held.read_network(path)
    assert b"location" in (tmp_path / "n.onnx").read_bytes() and held.read_network(path) is not graph
