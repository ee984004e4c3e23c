"""A float64 copy of an ONNX model for onnx's own reference evaluator.

onnxruntime has no float64 kernels for convolution and others; the reference evaluator runs every
operator in numpy in the element type it is given, and shares no code with provenn.
"""

from __future__ import annotations

import gzip
from math import erf
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def load(path: Path) -> onnx.ModelProto:
    content = path.read_bytes()
    return onnx.load_model_from_string(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)


def _double(proto: TensorProto) -> TensorProto:
    if proto.data_type != TensorProto.FLOAT:
        return proto
    return numpy_helper.from_array(numpy_helper.to_array(proto).astype(np.float64), proto.name)


def double_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace float32 by float64 in stored tensors, casts, inputs and outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for position, proto in enumerate(graph.initializer):
        graph.initializer[position].CopyFrom(_double(proto))
    for info in [*graph.input, *graph.output]:
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    del graph.value_info[:]
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                attribute.t.CopyFrom(_double(attribute.t))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return copy


class Erf(OpRun):
    """onnx's own rounds to float32."""

    op_domain = ""

    def _run(self, x):
        return (np.vectorize(erf, otypes=[np.float64])(x),)


class BatchNormalization(OpRun):
    """onnx's own normalises by the batch where an older opset states a momentum."""

    op_domain = ""

    def _run(self, x, scale, bias, mean, var, epsilon=None, momentum=None, **_):
        scale, bias, mean, var = (p.reshape(-1, *(1,) * (x.ndim - 2)) for p in (scale, bias, mean, var))
        epsilon = np.float64(np.float32(1e-5 if epsilon is None else epsilon))
        return (scale * (x - mean) / np.sqrt(var + epsilon) + bias,)


def evaluate_double(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """Outputs of the float64 copy at one input."""
    evaluator = ReferenceEvaluator(double_precision(model), new_ops=[Erf, BatchNormalization])
    stored = {proto.name for proto in model.graph.initializer}
    name = next(name for name in evaluator.input_names if name not in stored)
    return evaluator.run(None, {name: x.astype(np.float64) if x.dtype == np.float32 else x})
