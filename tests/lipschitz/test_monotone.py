"""Monotonicity: proofs hold at samples, witnesses are replayed, and neither rounding nor poles decide."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from provenn.errors import InputError, UnsupportedOperatorError
from provenn.verifier import MonotoneResult, prove_monotone

from ..verifier.networks import layers, save


def node(operator: str, inputs: str, output: str, **attributes: float):
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def unary(folder: Path, operator: str, element: str = "float32") -> Path:
    return save(folder / f"{operator}.onnx", [node(operator, "X", "Y")], 1, 1, element)


def positive(folder: Path, activation: str, sign: float = 1.0) -> Path:
    """Grows with every input: no weight is negative, or those of two layers are."""
    random = np.random.default_rng(0)
    weights = [np.abs(random.normal(size=shape)) for shape in ((3, 6), (6, 5), (5, 2))]
    weights[0], weights[1] = sign * weights[0], sign * weights[1]
    return layers(folder / "net.onnx", activation, weights, [random.normal(size=m) for m in (6, 5, 2)])


def checked(path: Path, found: MonotoneResult, input: int, output: int, up: bool) -> None:
    """A witness differs in one input only, and onnxruntime gives the outputs it names, in the wrong order."""
    assert found.verdict == "refuted" and found.inputs is not None and found.outputs is not None
    first, second = found.inputs
    assert first[input] < second[input]
    assert np.array_equal(np.delete(first, input), np.delete(second, input))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [session.run(None, {"X": x.reshape(1, -1)})[0].reshape(-1)[output] for x in (first, second)]
    assert np.array_equal(outputs, found.outputs)
    assert (outputs[1] < outputs[0]) == up and outputs[0] != outputs[1]


@pytest.mark.parametrize("activation", ["Tanh", "Sigmoid", "Softplus"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_networks_of_positive_weights(activation: str, sign: float, tmp_path: Path) -> None:
    path = positive(tmp_path, activation, sign)
    assert prove_monotone(path, -1.0, 1.0, 1, 0, timeout=60).verdict == "proved"
    down = prove_monotone(path, -1.0, 1.0, 1, 0, "down", timeout=60)
    checked(path, down, 1, 0, up=False)
    assert (np.abs(down.inputs) <= 1).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_relus_stand_still_somewhere(sign: float, tmp_path: Path) -> None:
    path = positive(tmp_path, "Relu", sign)
    assert prove_monotone(path, -1.0, 1.0, 1, 0, timeout=60).verdict == "proved"
    checked(path, prove_monotone(path, -1.0, 1.0, 1, 0, "down", timeout=3), 1, 0, up=False)


@pytest.mark.parametrize(
    ("operator", "ends", "direction", "verdict"),
    [
        ("Sin", (-1.5, 1.5), "up", "proved"), ("Sin", (-1.5, 1.5), "down", "refuted"),
        ("Sin", (-1.5, 1.7), "up", "refuted"), ("Exp", (-3.0, 3.0), "up", "proved"),
        ("Neg", (-3.0, 3.0), "down", "proved"), ("Neg", (-3.0, 3.0), "up", "refuted"),
        ("Reciprocal", (1.0, 2.0), "down", "proved"), ("Reciprocal", (1.0, 2.0), "up", "refuted"),
        ("Abs", (-1.0, 1.0), "up", "refuted"), ("Abs", (-1.0, 1.0), "down", "refuted"),
        ("Sqrt", (0.25, 1.0), "up", "proved"), ("Tan", (-1.0, 1.0), "up", "proved"),
    ],
)  # fmt: skip
def test_functions(operator: str, ends: tuple[float, float], direction: str, verdict: str, tmp_path: Path) -> None:
    path = unary(tmp_path, operator)
    found = prove_monotone(path, *ends, 0, 0, direction, timeout=60)
    assert found.verdict == verdict
    if verdict == "refuted":
        checked(path, found, 0, 0, up=direction == "up")
        assert (found.inputs >= ends[0]).all() and (found.inputs <= ends[1]).all()
    else:
        assert found.bound >= 0 and found.inputs is None and found.outputs is None


@pytest.mark.parametrize(
    ("operator", "ends", "direction"), [("Tan", (1.0, 2.0), "up"), ("Reciprocal", (-1.0, 1.0), "down")]
)
def test_the_sign_of_a_slope_says_nothing_across_a_pole(
    operator: str, ends: tuple[float, float], direction: str, tmp_path: Path
) -> None:
    """Wherever tan has a slope it is at least 1, and yet tan 1 > tan 2."""
    assert prove_monotone(unary(tmp_path, operator), *ends, 0, 0, direction, timeout=3).verdict != "proved"


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kind", ["no weight", "no width", "cancelled"])
def test_an_input_without_effect_is_never_refuted(kind: str, direction: str, tmp_path: Path) -> None:
    """Two halves whose difference is 0 may differ by rounding on onnxruntime: no witness of anything."""
    weight = np.array([[0.37, 0.37], [0.73, 0.73]], np.float32)
    if kind == "no weight":
        weight[1] = 0.0
    nodes = [node("Gemm", "X W B", "H"), node("Tanh", "H", "T"), node("Gemm", "T V C", "Y")]
    last = np.array([[1.0], [-1.0]]) if kind == "cancelled" else np.ones((2, 1))
    shift = np.array([0.1, 0.1], np.float32)
    path = save(
        tmp_path / "net.onnx", nodes, 2, 1, W=weight, B=shift, V=last.astype(np.float32), C=np.ones(1, np.float32)
    )
    ends = np.array([-1.0, 0.5]), np.array([1.0, 0.5 if kind == "no width" else 1.0])
    found = prove_monotone(path, *ends, 1, 0, direction, timeout=3)
    assert found.verdict in (("unknown", "proved") if kind == "cancelled" else ("proved",))


def test_rounding_alone_refutes_nothing(tmp_path: Path) -> None:
    """(x + 10000) - 10000 - x / 1000 grows; in float32 it stands still between steps, where the last term falls."""
    constants = {name: np.asarray(value, np.float32) for name, value in (("a", 1e4), ("b", 1e4), ("c", 1e-3))}
    nodes = [node("Add", "X a", "p"), node("Sub", "p b", "q"), node("Mul", "X c", "r"), node("Sub", "q r", "Y")]
    path = save(tmp_path / "net.onnx", nodes, 1, 1, **constants)
    assert prove_monotone(path, -0.01, 0.01, 0, 0, timeout=5).verdict == "proved"


def test_without_time_nothing_wrong_is_said(tmp_path: Path) -> None:
    assert prove_monotone(positive(tmp_path, "Tanh"), -1.0, 1.0, 1, 0, timeout=1e-9).verdict != "refuted"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": 3}, "input got 3"), ({"input": -1}, "input got -1"), ({"output": 2}, "output got 2"),
        ({"direction": "left"}, "direction got 'left'"), ({"upper": math.inf}, "infinite"),
        ({"timeout": -1.0}, "timeout"), ({"lower": 2.0}, "lower=2.0"),
    ],
)  # fmt: skip
def test_wrong_calls(changes: dict, words: str, tmp_path: Path) -> None:
    given = {"lower": -1.0, "upper": 1.0, "input": 0, "output": 0} | changes
    with pytest.raises(InputError, match=words):
        prove_monotone(positive(tmp_path, "Tanh"), **given)


def test_jumps_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match="Floor"):
        prove_monotone(unary(tmp_path, "Floor"), -1.0, 1.0, 0, 0)
