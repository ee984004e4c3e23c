"""Verdicts on random small networks agree with exact minima (mixed-integer programs) and with samples.

``benchmarks/random_networks.py`` runs thousands of larger ones.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from provenn.specs import read_query
from provenn.verifier import Options, verify

from .networks import FAMILIES, Network, random_network, write_onnx, write_property
from .truth import make_case, violation

PER_FAMILY = 9


@pytest.mark.parametrize("family", sorted(set(FAMILIES)))
def test_verdicts(family: str, tmp_path) -> None:
    verdicts, seed = [], 1000  # in steps of 10: the seed chooses the kind of property too
    while len(verdicts) < PER_FAMILY:
        seed += 10
        network = random_network(seed, family, small=True)
        case = make_case(network, seconds=3.0)
        if case is None:
            assert seed < 1000 + 30 * PER_FAMILY, "too many exact minima are in doubt"
            continue
        onnx = write_onnx(network, tmp_path / f"{seed}.onnx")
        vnnlib = write_property(network, case.clauses, tmp_path / f"{seed}.vnnlib")
        result = verify(onnx, vnnlib, Options(timeout=15, threads=1, device="cpu", seed=seed))
        assert {result.verdict, case.truth} != {"sat", "unsat"}, (seed, result.verdict, case.truth)
        if result.witness is not None:
            _judge(network, case, vnnlib, result.witness)
        verdicts.append(result.verdict == case.truth)
    assert sum(verdicts) >= PER_FAMILY - 1, "more than one network stayed undecided"


def _judge(network: Network, case, vnnlib, witness) -> None:
    """A witness lies in the box and violates by an evaluation that shares no code with the package."""
    query = read_query(vnnlib, network.steps[0].size, network.steps[-1].size, "float32")
    assert query.violated(witness.inputs, witness.outputs)
    x = witness.inputs.astype(np.float64)
    assert (x >= network.lower).all() and (x <= network.upper).all()
    margins = [violation(network, rows, x[None])[0] for rows in case.clauses]
    assert min(margins) <= 1e-5


@pytest.mark.parametrize("family", sorted(set(FAMILIES)))
def test_the_generator_means_what_it_writes(family: str, tmp_path) -> None:
    """onnxruntime and the generator's own evaluation agree."""
    network = random_network(7, family)
    onnx = write_onnx(network, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    x = (
        np.random.default_rng(0)
        .uniform(network.lower, network.upper, (20, len(network.lower)))
        .astype(np.float32)
    )
    shape = (1, *network.steps[0].shape)
    found = np.concatenate([session.run(None, {"X": row.reshape(shape)})[0].reshape(1, -1) for row in x])
    np.testing.assert_allclose(found, network.outputs(x), rtol=1e-4, atol=1e-5)
    nonlinear = [s for s in network.steps[1:] if s.matrix is None and s.operator != "Add"]
    assert len(nonlinear) >= 3
