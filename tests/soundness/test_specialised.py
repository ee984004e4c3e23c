"""Properties that fix inputs or read few outputs: verdicts, and witnesses with every input."""

from __future__ import annotations

import numpy as np
import pytest

from provenn.bounds.graph import read_onnx
from provenn.specs import read_query
from provenn.verifier import Options, verify
from provenn.verifier.problem import specialised

from .networks import random_network, write_onnx, write_property


@pytest.mark.parametrize("family", ["dense", "wide", "residual", "sign", "conv", "pool"])
def test_fixed_inputs(family: str, tmp_path) -> None:
    """A threshold that a sample reaches is ``sat`` with a whole witness, one that no value reaches is ``unsat``."""
    network = random_network(21, family)
    size = len(network.lower)
    random = np.random.default_rng(2)
    fixed = np.arange(size) != int(random.integers(size))
    fixed[random.permutation(size)[: size // 3]] = False
    # decimals of their own: what is fixed need not be a float32 number
    network.lower[fixed] = np.round(network.lower[fixed] + 0.01, 3)
    network.upper[fixed] = network.lower[fixed]
    x = random.uniform(network.lower, network.upper, (3000, size))
    lowest = float(network.outputs(x)[:, 0].min())
    onnx = write_onnx(network, tmp_path / "network.onnx")
    unit = np.eye(network.steps[-1].size)
    for margin, verdict in ((0.02, "sat"), (-2.0, "unsat")):
        threshold = float(np.float32(lowest + margin * (1 + abs(lowest))))
        vnnlib = write_property(network, [[(unit[0], threshold)]], tmp_path / "property.vnnlib")
        query = read_query(vnnlib, size, len(unit), "float32")
        assert np.array_equal(query.fixed, fixed)
        found = specialised(read_onnx(onnx), query)
        if family in ("dense", "wide", "residual", "sign"):
            assert found.free is not None and np.array_equal(found.free, np.flatnonzero(~fixed))
            assert found.read is not None and found.read.tolist() == [0]
        result = verify(onnx, vnnlib, Options(timeout=30, device="cpu"))
        assert result.verdict == verdict, result.reason
        if verdict == "sat":
            assert result.witness is not None
            point = np.asarray(result.witness.inputs).reshape(-1)
            assert len(point) == size
            np.testing.assert_array_equal(point[fixed], network.lower[fixed].astype(np.float32))
            assert query.violated(point, np.asarray(result.witness.outputs).reshape(-1))
