"""Single-operator networks in every attribute form and opset, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from provenn.bounds.graph import Graph, evaluate, read_onnx
from provenn.bounds.ops import OPS, prepare
from provenn.bounds.propagate.interval import interval_boxes
from provenn.bounds.propagate.plan import Plan
from provenn.errors import UnsupportedOperatorError

RANDOM = np.random.default_rng(11)
KINDS = {"f": TensorProto.FLOAT, "d": TensorProto.DOUBLE, "i": TensorProto.INT64, "b": TensorProto.BOOL}


def real(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def model(nodes, variables, constants, outputs=("y",), opset=13, output_type=TensorProto.FLOAT):
    """A network whose inputs are ``variables`` (name: shape) and whose ``constants`` are initialisers."""
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in variables.items()]
    results = [helper.make_tensor_value_info(n, output_type, None) for n in outputs]
    stored = [numpy_helper.from_array(v, n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "test", inputs, results, stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def save(made: onnx.ModelProto, folder) -> Graph:
    path = folder / "network.onnx"
    path.write_bytes(made.SerializeToString())
    return read_onnx(path)


def run(made: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def check(
    made: onnx.ModelProto, folder, variables: dict[str, tuple[int, ...]], draw=real, tolerance=2e-5
) -> Graph:
    graph = save(made, folder)
    assert {node.operator for node in graph.nodes} <= set(OPS)
    for _ in range(3):
        inputs = {name: np.asarray(draw(*shape), np.float32) for name, shape in variables.items()}
        expected = run(made, inputs)
        found = evaluate(graph, [torch.from_numpy(x.astype(np.float64))[None] for x in inputs.values()])
        for index, y, reference in zip(graph.outputs, found, expected, strict=True):
            assert graph.nodes[index].shape == reference.shape
            assert graph.nodes[index].scalar_type == reference.dtype.name
            scale = max(1.0, float(np.abs(reference.astype(float)).max(initial=0)))
            np.testing.assert_allclose(y[0].numpy(), reference, rtol=0, atol=tolerance * scale)
    return graph


def positive(*shape: int) -> np.ndarray:
    return RANDOM.uniform(0.1, 3, shape)


def tied(*shape: int) -> np.ndarray:
    return RANDOM.integers(-2, 3, shape)


X = (2, 3, 6, 4)
V = {"x": X}


def one(operator, inputs=("x",), outputs=("y",), **attributes):
    return helper.make_node(operator, list(inputs), list(outputs), name=f"the_{outputs[-1]}", **attributes)


def const(**values):
    return {name: np.asarray(value) for name, value in values.items()}


# (name, opset, node, variables, constants[, draw])
CASES: list[tuple] = [
    # moves
    ("Reshape", 13, one("Reshape", ("x", "s")), V, const(s=whole(0, -1, 8))),
    ("Reshape allowzero", 14, one("Reshape", ("x", "s")), V, const(s=whole(144))),
    ("Flatten", 13, one("Flatten", axis=2), V, {}),
    ("Flatten 0", 13, one("Flatten", axis=0), V, {}),
    ("Flatten -1", 13, one("Flatten", axis=-1), V, {}),
    ("Squeeze 11", 11, one("Squeeze", axes=[0, 2]), {"x": (1, 3, 1, 4)}, {}),
    ("Squeeze 13", 13, one("Squeeze", ("x", "a")), {"x": (1, 3, 1, 4)}, const(a=whole(-2))),
    ("Squeeze all", 13, one("Squeeze"), {"x": (1, 3, 1, 4)}, {}),
    ("Unsqueeze 11", 11, one("Unsqueeze", axes=[0, -1]), V, {}),
    ("Unsqueeze 13", 13, one("Unsqueeze", ("x", "a")), V, const(a=whole(-1, 1))),
    ("Identity", 13, one("Identity"), V, {}),
    ("Dropout 10", 10, one("Dropout", ratio=0.5), V, {}),
    ("Dropout 13", 13, one("Dropout"), V, {}),
    ("Transpose", 13, one("Transpose", perm=[2, 0, 3, 1]), V, {}),
    ("Transpose default", 13, one("Transpose"), V, {}),
    ("Slice 9", 9, one("Slice", starts=[1, -4], ends=[9, -1], axes=[1, 2]), V, {}),
    ("Slice 13", 13, one("Slice", ("x", "s", "e", "a", "t")), V,
     const(s=whole(5, 0), e=whole(-9, 2**62), a=whole(2, -1), t=whole(-2, 3))),
    ("Slice no axes", 13, one("Slice", ("x", "s", "e")), V, const(s=whole(0, 1), e=whole(1, 3))),
    ("Slice reverse", 13, one("Slice", ("x", "s", "e", "a", "t")), V,
     const(s=whole(-1), e=whole(-(2**62)), a=whole(3), t=whole(-1))),
    ("Split 11", 11, one("Split", outputs=("y", "z"), axis=2, split=[2, 4]), V, {}),
    ("Split 13", 13, one("Split", ("x", "s"), ("y", "z"), axis=-1), V, const(s=whole(1, 3))),
    ("Split equal", 13, one("Split", outputs=("y", "z"), axis=0), V, {}),
    ("Split 18", 18, one("Split", outputs=("y", "z"), axis=1, num_outputs=2), V, {}),
    ("Gather", 13, one("Gather", ("x", "i"), axis=2), V, const(i=np.array([[0, -1], [3, 3]]))),
    ("Gather scalar", 13, one("Gather", ("x", "i"), axis=1), V, const(i=np.array(-1))),
    ("GatherElements", 13, one("GatherElements", ("x", "i"), axis=1), V,
     const(i=RANDOM.integers(-3, 3, (2, 5, 6, 2)))),
    ("GatherND", 13, one("GatherND", ("x", "i")), V, const(i=np.array([[0, 1], [1, -1]]))),
    ("GatherND batch", 13, one("GatherND", ("x", "i"), batch_dims=1), V, const(i=np.array([[[0, 1]], [[2, -1]]]))),
    ("Expand", 13, one("Expand", ("x", "s")), {"x": (3, 1, 4)}, const(s=whole(2, 1, 5, 1))),
    ("Tile", 13, one("Tile", ("x", "r")), V, const(r=whole(1, 2, 1, 3))),
    ("DepthToSpace", 13, one("DepthToSpace", blocksize=2), {"x": (1, 8, 2, 3)}, {}),
    ("DepthToSpace CRD", 13, one("DepthToSpace", blocksize=2, mode="CRD"), {"x": (1, 8, 2, 3)}, {}),
    ("SpaceToDepth", 13, one("SpaceToDepth", blocksize=2), {"x": (1, 2, 4, 6)}, {}),
    ("Trilu", 14, one("Trilu", upper=0), {"x": (2, 4, 5)}, {}),
    ("Trilu k", 14, one("Trilu", ("x", "k")), {"x": (2, 4, 5)}, const(k=whole(1))),
    ("Pad 9", 9, one("Pad", pads=[0, 0, 1, 2, 0, 0, 3, 0], value=2.5), V, {}),
    ("Pad 13", 13, one("Pad", ("x", "p")), V, const(p=whole(0, 0, 1, 2, 0, 0, 3, 0))),
    ("Pad negative", 13, one("Pad", ("x", "p", "v")), V,
     const(p=whole(0, 0, -1, 2, 0, 0, 3, -1), v=np.float32(-1.5))),
    ("Pad 18", 18, one("Pad", ("x", "p", "", "a")), V, const(p=whole(1, 0, 2, 1), a=whole(1, -1))),
    ("Pad reflect", 13, one("Pad", ("x", "p"), mode="reflect"), V, const(p=whole(0, 0, 2, 1, 0, 0, 3, 2))),
    ("Pad edge", 13, one("Pad", ("x", "p"), mode="edge"), V, const(p=whole(0, 0, 2, 1, 0, 0, 3, 2))),
    ("Concat", 13, one("Concat", ("x", "z", "c"), axis=-2), {"x": (2, 3, 4), "z": (2, 1, 4)}, const(c=real(2, 2, 4))),
    ("ScatterND", 13, one("ScatterND", ("x", "i", "z")), {"x": (4, 3), "z": (2, 3)}, const(i=np.array([[2], [-4]]))),
    ("ScatterND constant", 13, one("ScatterND", ("c", "i", "x")), {"x": (2,)},
     const(c=real(4, 3), i=np.array([[2, 1], [0, 0]]))),
    ("ScatterElements", 13, one("ScatterElements", ("x", "i", "z"), axis=1), {"x": (3, 4), "z": (3, 2)},
     const(i=np.array([[0, 1], [3, 2], [-1, 0]]))),
    # arithmetic
    ("Add", 13, one("Add", ("x", "z")), {"x": (2, 1, 4), "z": (3, 1)}, {}),
    ("Add same", 13, one("Add", ("x", "x")), V, {}),
    ("Add constant", 13, one("Add", ("c", "x")), {"x": (3, 1)}, const(c=real(2, 1, 4))),
    ("Sub", 13, one("Sub", ("x", "z")), {"x": (4,), "z": (3, 1)}, {}),
    ("Sub from", 13, one("Sub", ("c", "x")), V, const(c=real(3, 1, 4))),
    ("Sub constant", 13, one("Sub", ("x", "c")), V, const(c=real(3, 1, 4))),
    ("Mul", 13, one("Mul", ("x", "z")), {"x": (4,), "z": (3, 1)}, {}),
    ("Mul square", 13, one("Mul", ("x", "x")), V, {}),
    ("Mul constant", 13, one("Mul", ("x", "c")), {"x": (1, 4)}, const(c=real(3, 1))),
    ("Div", 13, one("Div", ("x", "z")), {"x": (4,), "z": (3, 1)}, {}, positive),
    ("Div by", 13, one("Div", ("x", "c")), V, const(c=real(4))),
    ("Div constant", 13, one("Div", ("c", "x")), V, const(c=real(4)), positive),
    ("Neg", 13, one("Neg"), V, {}),
    ("Sum", 13, one("Sum", ("x", "z", "c")), {"x": (4,), "z": (3, 1)}, const(c=real(3, 4))),
    ("Pow 2", 13, one("Pow", ("x", "e")), V, const(e=np.float32(2))),
    ("Pow 3", 12, one("Pow", ("x", "e")), V, const(e=whole(3))),
    ("Pow .5", 13, one("Pow", ("x", "e")), V, const(e=np.float32(0.5)), positive),
    ("Pow -1", 13, one("Pow", ("x", "e")), V, const(e=np.float32(-1)), positive),
    ("Pow base", 13, one("Pow", ("b", "x")), V, const(b=np.float32(1.7))),
    *[(name, 13, one(name), V, {}) for name in ("Relu", "Abs", "Sign", "Floor", "Ceil", "Round", "Sigmoid", "Tanh",
      "Exp", "Sin", "Cos", "Atan", "Erf", "Softplus", "Softsign", "Elu", "Selu", "LeakyRelu", "HardSigmoid", "Celu",
      "ThresholdedRelu")],
    ("HardSwish", 14, one("HardSwish"), V, {}),
    ("Mish", 18, one("Mish"), V, {}),
    ("Gelu", 20, one("Gelu"), V, {}),
    ("Gelu tanh", 20, one("Gelu", approximate="tanh"), V, {}),
    *[(name, 13, one(name), V, {}, positive) for name in ("Log", "Sqrt", "Reciprocal")],
    ("Elu alpha", 13, one("Elu", alpha=0.7), V, {}),
    ("Celu alpha", 13, one("Celu", alpha=0.7), V, {}),
    ("Selu alpha", 13, one("Selu", alpha=1.2, gamma=0.9), V, {}),
    ("LeakyRelu alpha", 13, one("LeakyRelu", alpha=0.3), V, {}),
    ("HardSigmoid alpha", 13, one("HardSigmoid", alpha=0.4, beta=0.3), V, {}),
    ("PRelu", 13, one("PRelu", ("x", "c")), V, const(c=real(3, 1, 1))),
    ("Clip 6", 10, one("Clip", min=-0.5, max=0.7), V, {}),
    ("Clip 6 max", 10, one("Clip", max=0.7), V, {}),
    ("Clip 11", 13, one("Clip", ("x", "l", "h")), V, const(l=np.float32(-0.5), h=np.float32(0.7))),
    ("Clip low", 13, one("Clip", ("x", "l")), V, const(l=np.float32(0))),
    ("Clip 0 6", 13, one("Clip", ("x", "l", "h")), V, const(l=np.float32(0), h=np.float32(6))),
    ("Clip high", 13, one("Clip", ("x", "", "h")), V, const(h=np.float32(0.1))),
    ("Clip crossed", 13, one("Clip", ("x", "l", "h")), V, const(l=np.float32(0.5), h=np.float32(-0.7))),
    ("Max", 13, one("Max", ("x", "z", "c")), {"x": (4,), "z": (3, 1)}, const(c=real(3, 4))),
    ("Max constant", 13, one("Max", ("c", "x")), V, const(c=np.float32(0.3))),
    ("Min", 13, one("Min", ("x", "z")), {"x": (4,), "z": (3, 1)}, {}),
    ("Min constants", 13, one("Min", ("x", "c", "d")), V, const(c=real(4), d=np.float32(0.3))),
    # matrices
    ("MatMul", 13, one("MatMul", ("x", "c")), {"x": (2, 3, 4)}, const(c=real(4, 5))),
    ("MatMul row", 13, one("MatMul", ("x", "c")), {"x": (4,)}, const(c=real(4, 5))),
    ("MatMul vector", 13, one("MatMul", ("x", "c")), {"x": (2, 3, 4)}, const(c=real(4))),
    ("MatMul left", 13, one("MatMul", ("c", "x")), {"x": (2, 4, 3)}, const(c=real(5, 4))),
    ("MatMul column", 13, one("MatMul", ("c", "x")), {"x": (4, 1)}, const(c=real(5, 4))),
    ("MatMul left vector", 13, one("MatMul", ("c", "x")), {"x": (4,)}, const(c=real(5, 4))),
    ("MatMul batch", 13, one("MatMul", ("x", "c")), {"x": (3, 4)}, const(c=real(2, 4, 5))),
    ("MatMul left batch", 13, one("MatMul", ("c", "x")), {"x": (2, 1, 4, 3)}, const(c=real(3, 5, 4))),
    ("MatMul variable", 13, one("MatMul", ("x", "z")), {"x": (2, 3, 4), "z": (4, 5)}, {}),
    ("MatMul dot", 13, one("MatMul", ("x", "z")), {"x": (4,), "z": (4,)}, {}),
    ("Gemm", 13, one("Gemm", ("x", "c", "d"), alpha=0.5, beta=2.0, transB=1), {"x": (2, 4)},
     const(c=real(5, 4), d=real(5))),
    ("Gemm transA", 13, one("Gemm", ("x", "c"), transA=1), {"x": (4, 2)}, const(c=real(4, 5))),
    ("Gemm left", 13, one("Gemm", ("c", "x", "d"), alpha=0.5), {"x": (4, 2)}, const(c=real(3, 4), d=real(3, 1))),
    ("Gemm matrix bias", 13, one("Gemm", ("x", "c", "d")), {"x": (2, 4)}, const(c=real(4, 5), d=real(2, 5))),
    ("Gemm scalar bias", 13, one("Gemm", ("x", "c", "d")), {"x": (2, 4)}, const(c=real(4, 5), d=real(1))),
    ("Gemm variable bias", 13, one("Gemm", ("x", "c", "z"), beta=0.3), {"x": (2, 4), "z": (5,)}, const(c=real(4, 5))),
    ("Gemm variable", 13, one("Gemm", ("x", "z"), transB=1, alpha=2.0), {"x": (2, 4), "z": (5, 4)}, {}),
    ("Conv 1d", 13, one("Conv", ("x", "c"), strides=[2], pads=[1, 2]), {"x": (2, 3, 9)}, const(c=real(4, 3, 3))),
    ("Conv", 13, one("Conv", ("x", "c", "d"), strides=[2, 1], pads=[0, 1, 2, 0], dilations=[1, 2]), V,
     const(c=real(4, 3, 3, 2), d=real(4))),
    ("Conv groups", 13, one("Conv", ("x", "c"), group=3, kernel_shape=[2, 2]), V, const(c=real(6, 1, 2, 2))),
    ("Conv same upper", 13, one("Conv", ("x", "c"), auto_pad="SAME_UPPER", strides=[2, 3]), V,
     const(c=real(4, 3, 3, 2))),
    ("Conv same lower", 13, one("Conv", ("x", "c"), auto_pad="SAME_LOWER", strides=[1, 1]), V,
     const(c=real(4, 3, 2, 2))),
    ("Conv valid", 13, one("Conv", ("x", "c"), auto_pad="VALID"), V, const(c=real(4, 3, 2, 2))),
    ("Conv 3d", 13, one("Conv", ("x", "c"), pads=[1, 0, 1, 0, 1, 1]), {"x": (1, 2, 3, 4, 5)},
     const(c=real(3, 2, 2, 2, 3))),
    ("ConvTranspose", 13, one("ConvTranspose", ("x", "c", "d"), strides=[2, 2], pads=[1, 1, 1, 1],
     output_padding=[1, 0]), V, const(c=real(3, 4, 3, 3), d=real(4))),
    ("ConvTranspose pads", 13, one("ConvTranspose", ("x", "c"), strides=[2, 3], pads=[0, 1, 2, 0],
     dilations=[2, 1]), V, const(c=real(3, 4, 3, 2))),
    ("ConvTranspose shape", 13, one("ConvTranspose", ("x", "c"), strides=[2, 2], output_shape=[12, 9]), V,
     const(c=real(3, 4, 3, 3))),
    ("ConvTranspose groups", 13, one("ConvTranspose", ("x", "c"), group=3), V, const(c=real(3, 2, 2, 2))),
    ("ConvTranspose same", 13, one("ConvTranspose", ("x", "c"), strides=[2, 2], auto_pad="SAME_UPPER"), V,
     const(c=real(3, 4, 3, 3))),
    ("AveragePool", 13, one("AveragePool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]), V, {}),
    ("AveragePool include", 13, one("AveragePool", kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1), V, {}),
    ("AveragePool ceil", 13, one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), V, {}),
    ("AveragePool same", 13, one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"), V, {}),
    ("MaxPool", 13, one("MaxPool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]), V, {}),
    ("MaxPool dilated", 13, one("MaxPool", kernel_shape=[2, 2], dilations=[3, 2]), V, {}),
    ("MaxPool ceil", 13, one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), V, {}),
    ("MaxPool 1d", 13, one("MaxPool", kernel_shape=[3], strides=[2]), {"x": (2, 3, 9)}, {}),
    ("GlobalAveragePool", 13, one("GlobalAveragePool"), V, {}),
    ("GlobalMaxPool", 13, one("GlobalMaxPool"), V, {}),
    ("BatchNormalization", 9, one("BatchNormalization", ("x", "a", "b", "m", "v"), epsilon=1e-3), V,
     const(a=real(3), b=real(3), m=real(3), v=np.abs(real(3)))),
    ("BatchNormalization 15", 15, one("BatchNormalization", ("x", "a", "b", "m", "v")), {"x": (2, 3)},
     const(a=real(3), b=real(3), m=real(3), v=np.abs(real(3)))),
    # compounds
    ("Mean", 13, one("Mean", ("x", "z", "c")), {"x": (4,), "z": (3, 1)}, const(c=real(3, 4))),
    *[(f"Einsum {e}", 13, one("Einsum", ("x", "z"), equation=e), {"x": p, "z": q}, {}) for e, p, q in (
      ("ij,jk->ik", (2, 3), (3, 4)), ("bhid,bhjd->bhij", (1, 2, 3, 4), (1, 2, 5, 4)), ("i,j", (3,), (4,)),
      ("ij,ij->", (2, 3), (2, 3)), ("...ij,...jk->...ik", (2, 5, 3, 4), (2, 5, 4, 2)), ("bi,bj->bij", (2, 3), (2, 4)),
      ("ij,jk->ki", (2, 3), (3, 4)), ("ii,ij->j", (3, 3), (3, 4)), (" ij , kl -> jl ", (2, 3), (4, 2)))],
    *[(f"Einsum {e} constant", 13, one("Einsum", ("x", "c"), equation=e), {"x": p}, const(c=real(*q))) for e, p, q in (
      ("ij,jk->ik", (2, 3), (3, 4)), ("bij,bjk->bki", (2, 3, 4), (2, 4, 2)), ("ij,k->ijk", (2, 3), (4,)),
      ("ij,i->j", (2, 3), (2,)))],
    ("Einsum left", 13, one("Einsum", ("c", "x"), equation="ij,bjk->bik"), {"x": (2, 3, 4)}, const(c=real(5, 3))),
    ("Einsum three", 13, one("Einsum", ("x", "c", "z"), equation="ij,jk,kl->il"), {"x": (2, 3), "z": (4, 2)},
     const(c=real(3, 4))),
    *[(f"Einsum {e}", 13, one("Einsum", equation=e), {"x": p}, {}) for e, p in (
      ("ij->ji", (2, 3)), ("ijk->j", (2, 3, 4)), ("ii->i", (3, 3)), ("ii", (3, 3)), ("b...->...b", (2, 3, 4)))],
    *[(f"Hardmax {n} {a}", n, one("Hardmax", axis=a), V, {}, tied) for n in (11, 13) for a in (1, 2, -1)],
    *[(f"LpPool {p}", 18, one("LpPool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1], p=p), V, {})
      for p in (1, 2, 4)],
    ("GlobalLpPool", 13, one("GlobalLpPool"), V, {}),
    ("MeanVarianceNormalization", 13, one("MeanVarianceNormalization", axes=[0, 2]), V, {}),
    ("Shrink", 13, one("Shrink", lambd=0.4, bias=0.1), V, {}),
    ("Shrink soft", 13, one("Shrink", lambd=0.4, bias=0.4), V, {}),
    ("Cosh", 13, one("Cosh"), V, {}),
    ("Sinh", 13, one("Sinh"), V, {}),
    ("Atanh", 13, one("Atanh"), V, {}, lambda *s: RANDOM.uniform(-0.95, 0.95, s)),
    ("Acosh", 13, one("Acosh"), V, {}, lambda *s: RANDOM.uniform(1.05, 4, s)),
    *[(f"Asinh {size:g}", 13, one("Asinh"), V, {}, lambda *s, size=size: RANDOM.uniform(-size, size, s))
      for size in (1e-3, 3, 1e6)],
    ("Mod float", 13, one("Mod", ("x", "c"), fmod=1), V, const(c=np.float32([0.7, -0.3, 1, 2]))),
    # reductions
    *[(f"{name} 11", 11, one(name, axes=[1, -1], keepdims=0), V, {}, positive) for name in ("ReduceSum", "ReduceMean",
      "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
      "ReduceLogSumExp")],
    ("ReduceSum 13", 13, one("ReduceSum", ("x", "a")), V, const(a=whole(2))),
    ("ReduceSum all", 13, one("ReduceSum", keepdims=0), V, {}),
    ("ReduceSum noop", 13, one("ReduceSum", noop_with_empty_axes=1), V, {}),
    ("ReduceMean 18", 18, one("ReduceMean", ("x", "a"), keepdims=0), V, const(a=whole(0, 3))),
    ("CumSum", 14, one("CumSum", ("x", "a")), V, const(a=np.array(2))),
    ("CumSum reverse", 14, one("CumSum", ("x", "a"), reverse=1, exclusive=1), V, const(a=np.array(1))),
    ("Softmax 11", 11, one("Softmax", axis=1), V, {}),
    ("Softmax 13", 13, one("Softmax", axis=1), V, {}),
    ("LogSoftmax", 13, one("LogSoftmax"), V, {}),
    ("LayerNormalization", 17, one("LayerNormalization", ("x", "a", "b"), axis=-2), V,
     const(a=real(6, 4), b=real(6, 4))),
    ("InstanceNormalization", 13, one("InstanceNormalization", ("x", "a", "b")), V, const(a=real(3), b=real(3))),
    ("LpNormalization", 13, one("LpNormalization", axis=1), V, {}),
    ("LRN", 13, one("LRN", size=3, alpha=0.1), V, {}),
    # resampling
    ("Upsample 7", 7, one("Upsample", scales=[1.0, 1.0, 2.0, 3.0]), V, {}),
    ("Upsample 9", 9, one("Upsample", ("x", "s"), mode="linear"), V, const(s=np.float32([1, 1, 2, 2]))),
    ("Resize 10", 10, one("Resize", ("x", "s"), mode="nearest"), V, const(s=np.float32([1, 1, 2, 0.5]))),
    ("Resize sizes", 13, one("Resize", ("x", "", "", "n"), mode="nearest"), V, const(n=whole(2, 3, 9, 5))),
    *[(f"Resize nearest {c} {n}", 13, one("Resize", ("x", "", "s"), mode="nearest", nearest_mode=n,
       coordinate_transformation_mode=c), V, const(s=np.float32([1, 1, 1.7, 2.5])))
      for c in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
      for n in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")],
    *[(f"Resize linear {c}", 13, one("Resize", ("x", "", "s"), mode="linear", coordinate_transformation_mode=c), V,
       const(s=np.float32([1, 1, 1.7, 0.6]))) for c in ("asymmetric", "half_pixel", "align_corners")],
    ("Resize cubic", 13, one("Resize", ("x", "", "s"), mode="cubic"), V, const(s=np.float32([1, 1, 2, 2.5]))),
    ("Resize cubic outside", 13, one("Resize", ("x", "", "s"), mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5), V,
     const(s=np.float32([1, 1, 2, 2.5]))),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].replace(" ", "-"))
def test_agrees_with_onnxruntime(case, tmp_path):
    _, opset, node, variables, constants, *draw = case
    made = model([node], variables, constants, tuple(node.output), opset)
    check(made, tmp_path, variables, *draw)


INTEGER_CASES = [
    ("ArgMax", 13, one("ArgMax", axis=1), V, {}, tied),
    ("ArgMax last", 13, one("ArgMax", axis=-1, keepdims=0, select_last_index=1), V, {}, tied),
    ("ArgMin", 13, one("ArgMin", axis=2, keepdims=0), V, {}, tied),
    ("Cast int", 13, one("Cast", to=TensorProto.INT64), V, {}, lambda *s: 3 * real(*s)),
]


@pytest.mark.parametrize("case", INTEGER_CASES, ids=lambda case: case[0])
def test_integer_results(case, tmp_path):
    _, opset, node, variables, constants, draw = case
    check(model([node], variables, constants, ("y",), opset, TensorProto.INT64), tmp_path, variables, draw)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_largest_values_in_order(count, largest, tmp_path):
    made = model([one("TopK", ("x", "k"), ("y", "i"), axis=3, largest=largest)], V, const(k=whole(count)))
    check(made, tmp_path, V)
    places = model([one("TopK", ("x", "k"), ("v", "y"), axis=3, largest=largest)], V, const(k=whole(count)),
                   output_type=TensorProto.INT64)  # fmt: skip
    if count == 1:
        check(places, tmp_path, V, tied)
    else:
        with pytest.raises(UnsupportedOperatorError, match="'y'"):
            save(places, tmp_path)


def test_remainder_of_integers(tmp_path):
    nodes = [cast("x", "i", TensorProto.INT64), one("Mod", ("i", "k"), ("j",)), cast("j", "y")]
    check(model(nodes, V, const(k=whole(3, -4, 5, -1))), tmp_path, V, lambda *s: RANDOM.integers(-20, 20, s))


def cast(source: str, target: str, to: int = TensorProto.FLOAT):
    return helper.make_node("Cast", [source], [target], to=to)


@pytest.mark.parametrize("name", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_comparisons(name, tmp_path):
    made = model([one(name, ("x", "z"), ("b",)), cast("b", "y")], {"x": (4, 5), "z": (5,)}, {}, opset=16)
    check(made, tmp_path, {"x": (4, 5), "z": (5,)}, tied)


@pytest.mark.parametrize("name", ["And", "Or", "Xor"])
def test_logic(name, tmp_path):
    nodes = [
        cast("x", "p", TensorProto.BOOL), cast("z", "q", TensorProto.BOOL), one(name, ("p", "q"), ("r",)),
        one("Not", ("r",), ("b",)), cast("b", "y"),
    ]  # fmt: skip
    check(model(nodes, {"x": (4, 5), "z": (5,)}, {}), tmp_path, {"x": (4, 5), "z": (5,)}, tied)


@pytest.mark.parametrize("parts", ["xz", "xc", "cx", "cd"])
@pytest.mark.parametrize("fixed", [True, False])
def test_where(parts, fixed, tmp_path):
    constants = const(c=real(3, 1), d=real(1, 4), k=RANDOM.integers(0, 2, (3, 4)).astype(bool))
    variables = {"x": (3, 4), "z": (4,)}
    nodes = [
        one("Less", ("x", "z"), ("v",)),
        one("Where", ("k" if fixed else "v", parts[0], parts[1])),
        one("Identity", ("x",), ("u",)),
    ]
    if fixed and parts == "cd":
        nodes[1] = one("Where", ("k", "c", "x"))
    check(model(nodes, variables, constants, ("y", "u")), tmp_path, variables)


def test_one_hot_of_a_variable_class(tmp_path):
    nodes = [one("ArgMax", outputs=("i",), axis=1, keepdims=0), one("OneHot", ("i", "n", "v"), axis=1)]
    check(model(nodes, {"x": (2, 5)}, const(n=whole(5), v=np.float32([-1, 2]))), tmp_path, {"x": (2, 5)})


NARROW = {TensorProto.INT8: 3.0, TensorProto.UINT8: 3.0, TensorProto.INT16: 400.0, TensorProto.INT32: 1e5}


@pytest.mark.parametrize("to", NARROW)
def test_a_cast_to_fewer_bits_drops_the_higher_ones(to, tmp_path):
    nodes = [
        one("Mul", ("x", "many"), ("m",)), cast("m", "i", TensorProto.INT64), cast("i", "n", to), cast("n", "y"),
    ]  # fmt: skip
    made = model(nodes, {"x": (6,)}, {"many": np.array(100 * NARROW[to], np.float32)})
    check(made, tmp_path, {"x": (6,)})
    graph = save(made, tmp_path)
    narrow = next(n for n in graph.nodes if n.operator == "cast" and n.attributes["to"] != "int64")
    prepared = prepare(narrow, ((6,),), torch.float64, torch.device("cpu"))
    info = np.iinfo(narrow.attributes["to"])
    for low, high in ((info.min, info.max), (info.min, info.max + 1.0), (0.0, 5.0), (info.min - 1.0, info.min)):
        box = tuple(torch.full((1, 6), float(end), dtype=torch.float64) for end in (low, high))
        held = info.min <= low and high <= info.max
        expected = (low, high) if held else (info.min, info.max)
        assert [float(end.unique()) for end in OPS["cast"].interval(prepared, box)] == list(expected)


@pytest.mark.parametrize("to", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_a_cast_between_floats_keeps_what_a_constant_is_as_a_real_number(to, tmp_path):
    nodes = [one("Div", ("a", "b"), ("q",)), cast("q", "p", to), cast("p", "c"), one("Mul", ("x", "c"))]
    numbers = {"a": np.ones(2, np.float32), "b": np.array([3, 7], np.float32)}
    graph = save(model(nodes, {"x": (1, 2)}, numbers), tmp_path)
    found = evaluate(graph, [torch.ones(1, 1, 2, dtype=torch.float64)])[0]
    np.testing.assert_allclose(found.flatten().numpy(), [1 / 3, 1 / 7], rtol=1e-15)


def test_gather_with_a_variable_index(tmp_path):
    nodes = [cast("z", "i", TensorProto.INT64), one("Gather", ("x", "i"), axis=1)]
    variables = {"x": (2, 5, 3), "z": (2, 2)}
    check(model(nodes, variables, {}), tmp_path, variables, lambda *s: RANDOM.integers(-5, 5, s))


def test_scatter_with_a_variable_index(tmp_path):
    nodes = [cast("z", "i", TensorProto.INT64), one("ScatterND", ("x", "i", "c"))]
    variables = {"x": (2, 5, 3), "z": (1, 2)}
    made = model(nodes, variables, const(c=real(1, 3)))
    check(made, tmp_path, variables, lambda *s: RANDOM.integers(-2, 2, s))


def test_integer_arithmetic_of_variables(tmp_path):
    nodes = [cast("x", "i", TensorProto.INT64), one("Div", ("i", "k"), ("q",)), one("Mul", ("q", "k"), ("r",)),
             one("Sub", ("i", "r"), ("s",)), cast("s", "y")]  # fmt: skip
    check(model(nodes, V, const(k=whole(3))), tmp_path, V, lambda *s: RANDOM.integers(-20, 20, s))


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Neg"])
@pytest.mark.parametrize("to", [TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8], ids=str)
def test_integer_arithmetic_drops_the_bits_that_its_type_cannot_hold(operator, to, tmp_path):
    kind = helper.tensor_dtype_to_np_dtype(to)
    large = np.iinfo(kind).max * 2 // 5
    operands = ("i",) if operator == "Neg" else ("i", "k")
    nodes = [cast("x", "i", to), one(operator, operands, ("j",)), cast("j", "y")]
    made = model(nodes, V, {"k": np.asarray([large], kind)}, opset=14)
    state = onnxruntime.capi.onnxruntime_pybind11_state
    try:
        run(made, {"x": np.ones(V["x"], np.float32)})
    except (state.NotImplemented, state.InvalidGraph):
        pytest.skip("onnxruntime does not compute it for this type")
    graph = check(made, tmp_path, V, lambda *s: RANDOM.integers(0, 121, s))
    plan = Plan(graph, torch.float64)
    box = torch.zeros(1, 1, *V["x"], dtype=torch.float64), torch.full((1, 1, *V["x"]), 120.0, dtype=torch.float64)
    lower, upper = interval_boxes(plan, {graph.inputs[0]: box})[graph.outputs[0]]
    for point in RANDOM.integers(0, 121, (20, *V["x"])):
        (y,) = run(made, {"x": point.astype(np.float32)})
        rounding = np.abs(y) * 1e-7  # of the cast to float32
        assert (lower[0].numpy() <= y + rounding).all() and (y - rounding <= upper[0].numpy()).all()


RECURRENT = [
    (name, direction, extra)
    for name in ("LSTM", "GRU", "RNN")
    for direction in ("forward", "reverse", "bidirectional")
    for extra in ({}, {"states": True})
] + [("GRU", "forward", {"linear_before_reset": 1}),
     ("GRU", "bidirectional", {"linear_before_reset": 1, "states": True}),
     ("LSTM", "forward", {"states": True, "peephole": True}),
     ("RNN", "forward", {"activations": ["Relu"]})]  # fmt: skip


@pytest.mark.parametrize("name,direction,extra", RECURRENT, ids=str)
def test_recurrent(name, direction, extra, tmp_path):
    gates, count, hidden, width = (
        {"LSTM": 4, "GRU": 3, "RNN": 1}[name],
        2 if direction == "bidirectional" else 1,
        3,
        4,
    )
    extra = dict(extra)
    states, peephole = extra.pop("states", False), extra.pop("peephole", False)
    constants = const(
        w=real(count, gates * hidden, width),
        r=real(count, gates * hidden, hidden),
        b=real(count, 2 * gates * hidden),
    )
    inputs = ["x", "w", "r", "b"]
    if states:
        constants |= const(h=real(count, 2, hidden), c=real(count, 2, hidden), p=real(count, 3 * hidden))
        inputs += ["", "h"] + (["c"] if name == "LSTM" else []) + (["p"] if peephole else [])
    outputs = ["y", "yh"] + (["yc"] if name == "LSTM" else [])
    node = one(name, inputs, outputs, hidden_size=hidden, direction=direction, **extra)
    check(model([node], {"x": (5, 2, width)}, constants, tuple(outputs)), tmp_path, {"x": (5, 2, width)})
