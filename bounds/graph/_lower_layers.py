"""Lowers ATen layers to operators that the ONNX importer builds: products, convolutions, pooling, norms, attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._builder import Operand
from provenn.bounds.graph._call import Call, Lowering, Result
from provenn.bounds.graph._constants import Constant

EVALUATION = "call module.eval() first"

# ---------------------------------------------------------------------------------------- products


def _linear(call: Call) -> Result:
    x, weight = call.operand("input"), call.operand("weight")
    bias = call.operand("bias") if call.given("bias") else None
    if len(weight.shape) == 2 and len(x.shape) == 2:
        return call.onnx("Gemm", x, weight, bias, transB=1)
    product = call.onnx("MatMul", x, call.permuted(weight, range(len(weight.shape))[::-1]))
    return product if bias is None else call.onnx("Add", product, bias)


def _addmm(call: Call) -> Result:
    """beta self + alpha mat1 mat2."""
    return call.onnx(
        "Gemm", call.operand("mat1"), call.operand("mat2"), call.operand("self"),
        alpha=_factor(call, "alpha"), beta=_factor(call, "beta"),
    )  # fmt: skip


def _factor(call: Call, name: str) -> float:
    return 1.0 if call[name] is None else float(call.number(call[name]).array)


def _baddbmm(call: Call) -> Result:
    product = call.onnx("MatMul", call.operand("batch1"), call.operand("batch2"))
    parts = [(call.operand("self"), _factor(call, "beta")), (product, _factor(call, "alpha"))]
    scaled = [part if factor == 1 else call.onnx("Mul", part, call.number(factor)) for part, factor in parts]
    return call.onnx("Add", *scaled)


def _product(second: str) -> Lowering:
    def lowering(call: Call) -> Result:
        return call.onnx("MatMul", call.operand("self"), call.operand(second))

    return lowering


def _einsum(call: Call) -> Result:
    operands = [call.cast(one, call.type) for one in call["tensors"]]
    return call.onnx("Einsum", *operands, equation=call["equation"])


# ---------------------------------------------------------------------------------------- windows


def _many(value: int | Sequence[int] | None, rank: int, default: int = 1) -> list[int]:
    """One number per spatial axis."""
    found = [default] if value is None or value == [] else [value] if isinstance(value, int) else list(value)
    return [int(one) for one in (found * rank if len(found) == 1 else found)]


def _batched(call: Call, x: Operand, rank: int) -> tuple[Operand, bool]:
    """The operand with the batch axis that torch lets one leave out, and whether it was."""
    alone = len(x.shape) == rank + 1
    return (call.reshape(x, (1, *x.shape)) if alone else x), alone


def _unbatched(call: Call, x: Operand, alone: bool) -> Operand:
    return call.reshape(x, x.shape[1:]) if alone else x


def _conv(call: Call) -> Result:
    weight = call.operand("weight")
    rank = len(weight.shape) - 2
    if call["transposed"]:
        return _conv_transpose(call)
    x, alone = _batched(call, call.operand("input"), rank)
    dilations, padding = _many(call["dilation"], rank), call["padding"]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    else:
        pads = 2 * _many(None if padding == "valid" else padding, rank, 0)
    found = call.onnx(
        "Conv", x, weight, call.operand("bias") if call.given("bias") else None, pads=pads, dilations=dilations,
        strides=_many(call["stride"], rank), group=call["groups"] or 1,
    )  # fmt: skip
    return _unbatched(call, found, alone)


def _conv_transpose(call: Call) -> Result:
    weight = call.operand("weight")
    rank = len(weight.shape) - 2
    x, alone = _batched(call, call.operand("input"), rank)
    found = call.onnx(
        "ConvTranspose", x, weight, call.operand("bias") if call.given("bias") else None,
        pads=2 * _many(call["padding"], rank, 0), dilations=_many(call["dilation"], rank),
        strides=_many(call["stride"], rank), output_padding=_many(call["output_padding"], rank, 0),
        group=call["groups"] or 1,
    )  # fmt: skip
    return _unbatched(call, found, alone)


def _pool(operator: str, rank: int) -> Lowering:
    def lowering(call: Call) -> Result:
        x, alone = _batched(call, call.operand("self"), rank)
        if call.given("divisor_override"):
            call.unsupported("a divisor of its own", "multiply the result instead")
        kernel = _many(call["kernel_size"], rank)
        attributes = {"dilations": _many(call["dilation"], rank)} if operator == "MaxPool" else {}
        if operator == "AveragePool":
            attributes["count_include_pad"] = int(call["count_include_pad"] is not False)  # type: ignore[assignment]
        found = call.onnx(
            operator, x, kernel_shape=kernel, strides=_many(call["stride"] or kernel, rank),
            pads=2 * _many(call["padding"], rank, 0), ceil_mode=int(bool(call["ceil_mode"])), **attributes,
        )  # fmt: skip
        return [_unbatched(call, found, alone)]

    return lowering


def _adaptive(operator: str, rank: int) -> Lowering:
    """Windows from floor(i n / m) to ceil((i + 1) n / m)."""

    def lowering(call: Call) -> Result:
        x, alone = _batched(call, call.operand("self"), rank)
        inside = x.shape[-rank:]
        wanted = [n if m is None else m for n, m in zip(inside, _many(call["output_size"], rank), strict=True)]
        if all(n % m == 0 for n, m in zip(inside, wanted, strict=True)):
            kernel = [n // m for n, m in zip(inside, wanted, strict=True)]
            found = call.onnx(operator, x, kernel_shape=kernel, strides=kernel)
        elif operator == "MaxPool":
            call.unsupported(f"{list(inside)} elements in {wanted} windows", "use windows of one size")
        else:
            found = x
            for axis, (n, m) in enumerate(zip(inside, wanted, strict=True), 2):
                ends = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
                ones = np.array([[float(low <= k < high) for k in range(n)] for low, high in ends])
                widths = np.array([[float(high - low)] for low, high in ends])
                matrix = constants.divide(Constant(ones), Constant(widths))
                found = call.builder.along_axis(call.builder.value(found), matrix, axis)
        return [_unbatched(call, found, alone)]

    return lowering


def _upsampled(mode: str) -> Lowering:
    """Interpolation; scales that are no quotient of the sizes would be rounded."""

    def lowering(call: Call) -> Result:
        x, shape = call.operand(next(iter(call.arguments))), call.results[0][0]
        factors = call["scale_factors"] or [call["scales"] or call["scales_h"], call["scales_w"]][: len(shape) - 2]
        for factor, n, m in zip(factors, x.shape[2:], shape[2:], strict=False):
            if factor is not None and n * factor != m:
                call.unsupported(f"a factor {factor} for {n} elements", "name the size of the result")
        align = "align_corners" if call["align_corners"] else "half_pixel"
        sizes = Constant(np.asarray(shape, np.int64))
        return call.onnx("Resize", x, None, None, sizes, mode=mode, coordinate_transformation_mode=align)

    return lowering


# ---------------------------------------------------------------------------------------- norms


def _vector(call: Call, name: str, size: int, fill: float) -> Operand:
    return call.operand(name) if call.given(name) else Constant(np.full(size, fill, call.type))


def _batch_norm(call: Call) -> Result:
    if call["training"] or not call.given("running_mean"):
        call.unsupported("it takes mean and variance from its input", EVALUATION)
    x = call.operand("input")
    size = x.shape[1]
    found = call.onnx(
        "BatchNormalization", x, _vector(call, "weight", size, 1), _vector(call, "bias", size, 0),
        call.operand("running_mean"), call.operand("running_var"), epsilon=_epsilon(call),
    )  # fmt: skip
    return [found]


def _epsilon(call: Call) -> float:
    """As torch computes with it: in the element type."""
    return float(call.number(call["eps"]).array)


def _layer_norm(call: Call) -> Result:
    x, inner = call.operand("input"), call["normalized_shape"]
    scale = call.operand("weight") if call.given("weight") else Constant(np.ones(inner, call.type))
    shift = call.operand("bias") if call.given("bias") else None
    return call.onnx_all("LayerNormalization", x, scale, shift, axis=-len(inner), epsilon=_epsilon(call))


def _group_norm(call: Call) -> Result:
    x = call.operand("input")
    size = x.shape[1]
    groups = call["num_groups"] or call["group"]
    found = call.onnx(
        "GroupNormalization", x, _vector(call, "weight", size, 1), _vector(call, "bias", size, 0),
        num_groups=groups, epsilon=_epsilon(call),
    )  # fmt: skip
    return [found]


def _instance_norm(call: Call) -> Result:
    if not call["use_input_stats"]:
        return _batch_norm(call)
    x = call.operand("input")
    size = x.shape[1]
    return call.onnx(
        "InstanceNormalization", x, _vector(call, "weight", size, 1), _vector(call, "bias", size, 0),
        epsilon=_epsilon(call),
    )  # fmt: skip


def _rms_norm(call: Call) -> Result:
    """x / sqrt(mean of squares + eps) * weight."""
    x = call.operand("input")
    axes = list(range(-len(call["normalized_shape"]), 0))
    eps = call["eps"] if call.given("eps") else float(np.finfo(call.type).eps)
    mean = call.onnx("ReduceMean", call.onnx("Mul", x, x), axes=axes, keepdims=1)
    found = call.onnx("Div", x, call.onnx("Sqrt", call.onnx("Add", mean, call.number(eps))))
    return call.onnx("Mul", found, call.operand("weight")) if call.given("weight") else found


# ---------------------------------------------------------------------------------------- softmax, attention


def _softmax(operator: str) -> Lowering:
    def lowering(call: Call) -> Result:
        return call.onnx(operator, call.operand("self"), axis=call["dim"])

    return lowering


def _attention(call: Call) -> Result:
    """softmax(q k' / sqrt(d) + mask) v, without a mask of truth values."""
    q, k, v = (call.operand(name) for name in ("query", "key", "value"))
    mask = call["attn_mask"]
    if call["is_causal"] or (mask is not None and mask.scalar_type == "bool"):
        call.unsupported("a mask that leaves scores out", "use one attention per group of scores, or no mask")
    if call["dropout_p"]:
        call.unsupported("it is in training mode, where its results are random", EVALUATION)
    if call["enable_gqa"]:
        call.unsupported("grouped queries", "repeat the keys and values")
    if call.given("scale"):
        scale = call.number(call["scale"])
    else:
        scale = constants.divide(constants.scalar(1.0), constants.square_root(constants.scalar(float(q.shape[-1]))))
    order = [*range(len(k.shape) - 2), len(k.shape) - 1, len(k.shape) - 2]
    scores = call.onnx("MatMul", call.onnx("Mul", q, scale), call.permuted(k, order))
    if mask is not None:
        scores = call.onnx("Add", scores, call.cast(mask, call.type))
    return call.onnx("MatMul", call.onnx("Softmax", scores, axis=-1), v)


# ---------------------------------------------------------------------------------------- reductions


def _reduction(operator: str) -> Lowering:
    def lowering(call: Call) -> Result:
        x = call.operand("self")
        rank = len(x.shape)
        if rank == 0:
            return x
        keep = int(bool(call["keepdim"]))
        return call.onnx(operator, x, axes=call.axes("dim", rank), keepdims=keep)

    return lowering


def _extreme_along(operator: str, place: str) -> Lowering:
    """max and min over all elements; along an axis with their places; or of two tensors."""

    def lowering(call: Call) -> Result:
        if "other" in call.arguments:
            return call.onnx({"ReduceMax": "Max"}.get(operator, "Min"), call.operand("self"), call.operand("other"))
        x = call.operand("self")
        if not call.given("dim"):
            return call.onnx(operator, x, axes=list(range(len(x.shape))), keepdims=0) if x.shape else x
        keep = int(bool(call["keepdim"]))
        values = call.onnx(operator, x, axes=[call["dim"]], keepdims=keep)
        return [values, call.onnx(place, x, axis=call["dim"], keepdims=keep)]

    return lowering


def _place(operator: str) -> Lowering:
    def lowering(call: Call) -> Result:
        x = call.tensor()
        if call.given("dim"):
            return call.onnx(operator, x, axis=call["dim"], keepdims=int(bool(call["keepdim"])))
        flat = call.reshape(x, (int(np.prod(x.shape, dtype=np.int64)),))
        return call.onnx(operator, flat, axis=0, keepdims=0)

    return lowering


def _variance(root: bool) -> Lowering:
    """The mean of squared differences, over n less the correction."""

    def lowering(call: Call) -> Result:
        x = call.operand("self")
        axes = call.axes("dim", len(x.shape))
        count = int(np.prod([x.shape[axis] for axis in axes], dtype=np.int64))
        correction = call["correction"]
        if correction is None:
            correction = 0 if call["unbiased"] is False else 1
        if count - correction <= 0:
            call.fail(f"takes the variance of {count} elements with correction {correction}; use correction=0")
        centred = call.onnx("Sub", x, call.onnx("ReduceMean", x, axes=axes, keepdims=1))
        squares = call.onnx("Mul", centred, centred)
        total = call.onnx("ReduceSum", squares, axes=axes, keepdims=int(bool(call["keepdim"])))
        share = constants.divide(constants.scalar(1.0), constants.scalar(float(count - correction)))
        found = call.onnx("Mul", total, share)
        return call.onnx("Sqrt", found) if root else found

    return lowering


def _norm(call: Call) -> Result:
    x = call.operand("self")
    order = call["ord"] if "ord" in call.arguments else call["p"]
    order = 2 if order is None else order
    axes, keep = call.axes("dim", len(x.shape)), int(bool(call["keepdim"]))
    if order in (float("inf"), float("-inf")):
        operator = "ReduceMax" if order > 0 else "ReduceMin"
        return call.onnx(operator, call.onnx("Abs", x), axes=axes, keepdims=keep)
    if order not in (1, 2):
        call.unsupported(f"a norm of order {order}", "use 1, 2 or inf")
    return call.onnx("ReduceL1" if order == 1 else "ReduceL2", x, axes=axes, keepdims=keep)


def _cumsum(call: Call) -> Result:
    return call.onnx("CumSum", call.operand("self"), Constant(np.asarray([call["dim"]], np.int64)))


def _topk(call: Call) -> Result:
    if call["sorted"] is False:
        call.unsupported("sorted=False, where the order is left open", "leave sorted=True")
    count = Constant(np.asarray([call["k"]], np.int64))
    axis, largest = -1 if call["dim"] is None else call["dim"], int(call["largest"] is not False)
    return call.onnx_all("TopK", call.operand("self"), count, axis=axis, largest=largest)


LAYERS: dict[str, Lowering] = {
    "linear": _linear, "addmm": _addmm, "baddbmm": _baddbmm, "mm": _product("mat2"), "bmm": _product("mat2"),
    "matmul": _product("other"), "mv": _product("vec"), "dot": _product("tensor"), "einsum": _einsum,
    "conv1d": _conv, "conv2d": _conv, "conv3d": _conv, "convolution": _conv,
    "conv_transpose1d": _conv_transpose, "conv_transpose2d": _conv_transpose, "conv_transpose3d": _conv_transpose,
    "max_pool1d": _pool("MaxPool", 1), "max_pool2d": _pool("MaxPool", 2), "max_pool3d": _pool("MaxPool", 3),
    "max_pool2d_with_indices": _pool("MaxPool", 2),
    "avg_pool1d": _pool("AveragePool", 1), "avg_pool2d": _pool("AveragePool", 2), "avg_pool3d": _pool("AveragePool", 3),
    "adaptive_avg_pool1d": _adaptive("AveragePool", 1), "adaptive_avg_pool2d": _adaptive("AveragePool", 2),
    "adaptive_avg_pool3d": _adaptive("AveragePool", 3), "_adaptive_avg_pool2d": _adaptive("AveragePool", 2),
    "adaptive_max_pool1d": _adaptive("MaxPool", 1),
    "adaptive_max_pool2d": _adaptive("MaxPool", 2), "adaptive_max_pool3d": _adaptive("MaxPool", 3),
    "upsample_linear1d": _upsampled("linear"), "upsample_bilinear2d": _upsampled("linear"),
    "upsample_trilinear3d": _upsampled("linear"), "upsample_bicubic2d": _upsampled("cubic"),
    "batch_norm": _batch_norm, "_native_batch_norm_legit_no_training": _batch_norm,
    "layer_norm": _layer_norm, "native_layer_norm": _layer_norm, "group_norm": _group_norm,
    "native_group_norm": _group_norm,
    "instance_norm": _instance_norm, "rms_norm": _rms_norm,
    "softmax": _softmax("Softmax"), "_softmax": _softmax("Softmax"), "log_softmax": _softmax("LogSoftmax"),
    "_log_softmax": _softmax("LogSoftmax"), "scaled_dot_product_attention": _attention,
    "sum": _reduction("ReduceSum"), "mean": _reduction("ReduceMean"), "amax": _reduction("ReduceMax"),
    "amin": _reduction("ReduceMin"), "logsumexp": _reduction("ReduceLogSumExp"), "prod": _reduction("ReduceProd"),
    "max": _extreme_along("ReduceMax", "ArgMax"), "min": _extreme_along("ReduceMin", "ArgMin"),
    "argmax": _place("ArgMax"), "argmin": _place("ArgMin"), "var": _variance(False), "std": _variance(True),
    "linalg_vector_norm": _norm, "norm": _norm, "cumsum": _cumsum, "topk": _topk,
}  # fmt: skip


