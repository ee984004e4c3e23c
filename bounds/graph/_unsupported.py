"""What could replace an operator that cannot be imported: the end of its error message."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

import onnx

_CONTROL = "re-export with control flow unrolled (If, Loop and Scan are not supported)"
_QUANTISED = "export the network in floating point (quantised operators are not supported)"
_RANDOM = "it is random, and a property of a random network has no truth; export the network for inference"
_SEQUENCES = "re-export with tensors; supported are Concat, Split, Gather and Slice with constant positions"
_BITS = "re-export with Add, Mul, Div and Mod of integers, or And, Or, Xor and Not of booleans"
_WINDOW = "store the window as a constant"
_PLACES = "the shape of its result depends on the input; re-export with ReduceMax, ArgMax, TopK or Where"

_INSTEAD = {
    "Acos": "re-export with Atan: acos(x) = pi/2 - 2 atan(x / (1 + sqrt(1 - x^2))) by Mul, Sub, Sqrt, Add, Div",
    "Asin": "re-export with Atan: asin(x) = 2 atan(x / (1 + sqrt(1 - x^2))) by Mul, Sub, Sqrt, Add, Div, Atan",
    "Attention": "re-export it written out with MatMul, Mul, Add and Softmax (operator set <= 21)",
    "LinearAttention": "re-export it written out with MatMul and Mul (operator set <= 21)",
    "RotaryEmbedding": "re-export it written out with Slice, Mul, Add and Concat (operator set <= 21)",
    "RMSNormalization": "re-export it written out with Mul, ReduceMean, Add, Sqrt and Div (operator set <= 21)",
    "SwiGLU": "re-export it written out with Split, Sigmoid and Mul",
    "AffineGrid": "store the grid as a constant, or re-export with MatMul",
    "GridSample": "re-export with Resize, Slice or Gather where the grid is constant, or with MatMul by its weights",
    "RoiAlign": "re-export with Slice and Resize of constant regions",
    "MaxRoiPool": "re-export with Slice and ReduceMax of constant regions",
    "DeformConv": "re-export with Conv where the offsets are constant",
    "CausalConvWithState": "re-export with Concat and Conv",
    "MaxUnpool": "re-export with ConvTranspose or Resize",
    "Col2Im": "re-export with ConvTranspose, or with MatMul by a constant matrix",
    "DFT": "re-export with MatMul by the constant matrices of cosines and sines",
    "STFT": "re-export with Slice, and MatMul by the constant matrices of cosines and sines",
    "MelWeightMatrix": "store the matrix as a constant",
    "Det": "re-export with Slice, Mul and Sub, written out",
    "CumProd": "re-export with Slice, Mul and Concat, written out, or with Exp, Log and CumSum of positive values",
    "CenterCropPad": "re-export with Slice and Pad",
    "TensorScatter": "re-export with ScatterND or ScatterElements",
    "IsNaN": "a network's values are taken as real numbers, which are never NaN; re-export without it",
    "IsInf": "a network's values are taken as real numbers, which are never infinite; re-export without it",
    "NonMaxSuppression": "cut the network before it and state the property on its scores and boxes",
    "NegativeLogLikelihoodLoss": "export the network without its loss, or re-export with LogSoftmax and Gather",
    "SoftmaxCrossEntropyLoss": "export the network without its loss, or re-export with LogSoftmax and Gather",
    "RegexFullMatch": "text is not supported; export the part of the network that computes with numbers",
    **dict.fromkeys(("If", "Loop", "Scan"), _CONTROL),
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
                     "RandomUniformLike"), _RANDOM),
    **dict.fromkeys(("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BitCast"), _BITS),
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow"), _WINDOW),
    **dict.fromkeys(("NonZero", "Unique", "Compress"), _PLACES),
}  # fmt: skip


def instead(node: onnx.NodeProto, supported: Collection[str]) -> str:
    """Say what to do about an operator: which supported ones could replace it, as far as that is known."""
    name = node.op_type
    if name in _INSTEAD:
        return _INSTEAD[name]
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        return _CONTROL
    if name.startswith("QLinear") or "Quant" in name or name.endswith("Integer"):
        return _QUANTISED
    if "Sequence" in name or "Optional" in name:
        return _SEQUENCES
    if name.startswith("String") or name in ("TfIdfVectorizer", "ImageDecoder"):
        return _INSTEAD["RegexFullMatch"]
    near = get_close_matches(name, sorted(supported), 3, 0.75)
    known = f"supported operators with such a name: {', '.join(near)}; " if near else ""
    return f"{known}re-export the network without it"
