"""What random graphs are made of: operators in their forms, and fragments that exporters write.

A recipe appends nodes to a draft (``graphs.Draft``); what does not fit is refused there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

Recipe = Callable[[Any], Any]


def whole(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


# -- one variable ------------------------------------------------------------------------------------------

PLAIN = (
    "Relu", "Abs", "Neg", "Sigmoid", "Tanh", "Exp", "Sin", "Cos", "Atan", "Erf", "Softplus", "Softsign", "Elu", "Selu",
    "LeakyRelu", "HardSigmoid", "Celu", "ThresholdedRelu", "HardSwish", "Mish", "Gelu", "Sign", "Floor", "Ceil",
    "Round", "Identity", "Tan", "Reciprocal", "Sqrt", "Log", "Sinh", "Cosh", "Atanh", "Acosh", "Asinh", "Shrink",
)  # fmt: skip


def plain(operator: str) -> Recipe:
    return lambda g: g.node(operator, g.pick())


def with_parameters(g):
    operator = g.choose(["Elu", "Celu", "LeakyRelu", "Selu", "HardSigmoid", "ThresholdedRelu", "Gelu tanh", "PRelu"])
    x, a = g.pick(), float(np.float32(g.random.uniform(0.1, 1.8)))
    if operator == "Gelu tanh":
        return g.node("Gelu", x, approximate="tanh")
    if operator == "PRelu":
        return g.node("PRelu", x, np.asarray(g.real(*x.shape[-1:]) if x.rank else g.real(1)))
    more = {"Selu": {"gamma": 1.1}, "HardSigmoid": {"beta": 0.4}}.get(operator, {})
    return g.node(operator, x, alpha=a, **more)


def positive(g):
    """Values above a small constant."""
    x = g.pick()
    how = g.choose(["Abs", "square", "Exp", "Softplus", "Sigmoid"])
    x = g.node("Mul", x, x) if how == "square" else g.node(how, x)
    return g.node("Add", x, g.number(0.05, 1.0))


def of_positive(g):
    return g.node(g.choose(["Log", "Sqrt", "Reciprocal"]), positive(g))


def power(g):
    exponent = float(g.choose([2, 3, 4, 5, 2, 3]))
    return g.node("Pow", g.pick(), np.asarray(exponent, g.element))


def positive_power(g):
    return g.node("Pow", positive(g), np.asarray(g.choose([0.5, 1.5, -1, -2, -0.5, 2.5, -3]), g.element))


def power_of(g):
    return g.node("Pow", g.number(0.2, 3.0), g.pick())


def integer_power(g):
    return g.node("Pow", g.pick(), whole(g.choose([2, 3])))


def clip(g):
    low, high = sorted((float(g.number(-1, 1)), float(g.number(-1, 1))))
    limits = [np.asarray(low, g.element), np.asarray(high, g.element)]
    missing = g.choose([None, None, 0, 1])
    if missing is not None:
        limits[missing] = None
    return g.node("Clip", g.pick(), *limits)


# -- several variables -------------------------------------------------------------------------------------


def pair(operator: str) -> Recipe:
    def act(g):
        x = g.pick()
        return g.node(operator, x, g.partner(x))

    return act


def with_constant(g):
    x = g.pick()
    constant = g.real(*x.shape) if g.chance(0.5) else g.number(-2, 2)
    operator = g.choose(["Add", "Sub", "Mul", "Div", "Max", "Min"])
    if operator == "Div":
        constant = np.asarray(np.sign(constant + 1e-3) * (np.abs(constant) + 0.2), g.element)
    return g.node(operator, *((constant, x) if g.chance(0.3) and operator != "Div" else (x, constant)))


def divide(g):
    y = positive(g)
    if g.chance(0.3):
        y = g.node("Neg", y)
    return g.node("Div", g.partner(y) if g.chance(0.8) else g.number(-2, 2), y)


def square(g):
    x = g.pick()
    y = g.node("Mul", x, x)
    return g.node("Mul", y, x) if g.chance(0.3) else y


def many(g):
    x = g.pick()
    y = g.partner(x)
    return g.node(g.choose(["Sum", "Max", "Min", "Mean"]), x, y, g.real(*x.shape))


def compare(g):
    x = g.pick()
    other = g.partner(x) if g.chance(0.6) else g.number(-1, 1)
    operators = ["Less", "Greater"] + (["LessOrEqual", "GreaterOrEqual"] if g.opset >= 12 else [])
    condition = g.node(g.choose(operators), x, other)
    if g.chance(0.3):
        y = g.pick()
        second = g.node("Less", y, g.number(-1, 1))
        condition = g.node(g.choose(["And", "Or", "Xor"]), condition, second)
    return g.node("Not", condition) if g.chance(0.2) else condition


def where(g):
    condition = compare(g)
    x = g.pick()
    y = g.partner(x) if g.chance(0.7) else g.number(-1, 1)
    return g.node("Where", condition, *((x, y) if g.chance(0.5) else (y, x)))


def decided(g):
    return g.node("Cast", compare(g), to=_type(g))


def equal(g):
    x = g.node("Cast", g.pick(), to=TensorProto.INT64)
    same = g.node("Equal", x, whole(g.choose([-1, 0, 1, 2])))
    return g.node("Where", same, g.number(-1, 1), g.number(-1, 1)) if g.chance(0.5) else where_of(g, same)


def where_of(g, condition):
    x = g.pick()
    return g.node("Where", condition, x, g.partner(x))


def fixed_where(g):
    x = g.pick()
    return g.node("Where", g.random.random(x.shape) < 0.5, x, g.partner(x))


def _type(g) -> int:
    return TensorProto.DOUBLE if g.element == "float64" else TensorProto.FLOAT


# -- matrices ----------------------------------------------------------------------------------------------


def flat(g):
    x = g.pick()
    return g.node("Reshape", x, whole(1, -1))


def gemm(g):
    x = flat(g)
    n, m = x.shape[1], int(g.random.integers(1, 7))
    bias = g.real(*g.choose([(m,), (1, m), (1, 1)]))
    weight = g.real(n, m, scale=1.2 / np.sqrt(n))
    if g.chance(0.5):
        return g.node("Gemm", x, np.ascontiguousarray(weight.T), bias, transB=1, alpha=g.choose([1.0, 0.5]), beta=1.5)
    return g.node("Gemm", x, weight, bias)


def matmul(g):
    x = g.matrix()
    if g.chance(0.3) and x.rank >= 2:
        return g.node("MatMul", g.real(int(g.random.integers(1, 4)), x.shape[-2]), x)
    n = x.shape[-1]
    return g.node("MatMul", x, g.real(n, int(g.random.integers(1, 5)), scale=1 / np.sqrt(n)))


def matmul_variable(g):
    x = flat(g)
    n = x.shape[1]
    rows = g.choose([r for r in (1, 2, 3, 4) if n % r == 0])
    x = g.node("Reshape", x, whole(rows, n // rows))
    y = g.node("Transpose", x, perm=[1, 0]) if g.chance(0.4) else None
    if y is None:
        other = flat(g)
        columns = int(g.random.integers(1, 4))
        size = other.shape[1]
        mixed = g.node("MatMul", other, g.real(size, n // rows * columns, scale=1 / np.sqrt(size)))
        y = g.node("Reshape", mixed, whole(n // rows, columns))
    return g.node("MatMul", x, y)


def conv(g):
    x = g.image()
    k, groups = g.choose([1, 2]), 1
    weight = g.real(int(g.random.integers(1, 4)), x.shape[1] // groups, k, k, scale=0.7)
    bias = g.real(weight.shape[0])
    return g.node("Conv", x, weight, bias, strides=[g.choose([1, 2])] * 2, pads=[0, g.choose([0, 1]), 0, 0])


def conv_transpose(g):
    x = g.image()
    weight = g.real(x.shape[1], int(g.random.integers(1, 3)), 2, 2, scale=0.6)
    return g.node("ConvTranspose", x, weight, strides=[g.choose([1, 2]), 1])


def batch_normalization(g):
    x = g.image()
    n = x.shape[1]
    return g.node("BatchNormalization", x, g.real(n), g.real(n), g.real(n), np.abs(g.real(n)) + 0.1)


def pool(g):
    x = g.image()
    operator = g.choose(["MaxPool", "MaxPool", "AveragePool"])
    return g.node(operator, x, kernel_shape=[2, g.choose([1, 2])], strides=[1, g.choose([1, 2])])


def global_pool(g):
    return g.node(g.choose(["GlobalMaxPool", "GlobalAveragePool"]), g.image())


def resize(g):
    x = g.image()
    mode = g.choose(["nearest", "linear"])
    scales = np.asarray([1, 1, g.choose([1, 2]), g.choose([1.5, 2])], np.float32)
    return g.node(
        "Resize", x, None if g.opset >= 13 else np.zeros(0, np.float32), scales, mode=mode,
        coordinate_transformation_mode=g.choose(["asymmetric", "half_pixel"]),
        **({"nearest_mode": "floor"} if mode == "nearest" else {}),
    )  # fmt: skip


# -- reductions and normalisation --------------------------------------------------------------------------


def reduce(g):
    name = g.choose(["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"])
    x = g.matrix()
    axis, keep = int(g.random.integers(x.rank)), int(g.chance(0.5))
    if g.opset >= 18 or (name == "Sum" and g.opset >= 13):
        return g.node(f"Reduce{name}", x, whole(axis), keepdims=keep)
    return g.node(f"Reduce{name}", x, axes=[axis], keepdims=keep)


def reduce_log(g):
    x = positive(g)
    if g.opset >= 18:
        return g.node("ReduceLogSum", x, keepdims=1)
    return g.node("ReduceLogSum", x, keepdims=1, axes=list(range(x.rank)))


def softmax(g):
    return g.node(g.choose(["Softmax", "LogSoftmax"]), g.matrix(), axis=-1)


def layer_norm(g):
    x = g.pick(lambda t: t.rank >= 1 and t.shape[-1] > 1)
    n = x.shape[-1]
    return g.node("LayerNormalization", x, g.real(n), g.real(n), axis=-1)


def instance_norm(g):
    x = g.image()
    return g.node("InstanceNormalization", x, g.real(x.shape[1]), g.real(x.shape[1]))


def lp_norm(g):
    return g.node("LpNormalization", g.matrix(), axis=-1, p=g.choose([1, 2]))


def lrn(g):
    return g.node("LRN", g.image(), size=3, alpha=0.3, bias=1.0)


# -- recurrent ---------------------------------------------------------------------------------------------


def recurrent(g):
    name, hidden = g.choose(["LSTM", "GRU", "RNN"]), int(g.random.integers(1, 4))
    x = flat(g)
    steps = g.choose([s for s in (1, 2, 3) if x.shape[1] % s == 0])
    width = x.shape[1] // steps
    x = g.node("Reshape", x, whole(steps, 1, width))
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[name]
    return g.node(
        name, x, g.real(1, gates * hidden, width, scale=0.7), g.real(1, gates * hidden, hidden, scale=0.7),
        g.real(1, 2 * gates * hidden, scale=0.3), hidden_size=hidden,
        **({"linear_before_reset": int(g.chance(0.5))} if name == "GRU" else {}),
    )  # fmt: skip


# -- moving and choosing elements --------------------------------------------------------------------------


def transpose(g):
    x = g.matrix()
    return g.node("Transpose", x, perm=[int(a) for a in g.random.permutation(x.rank)])


def concat(g):
    x, y = flat(g), flat(g)
    return g.node("Concat", x, y, g.real(1, 1), axis=1)


def split(g):
    x = flat(g)
    n = x.shape[1]
    if n < 2:
        raise ValueError
    k = int(g.random.integers(1, n))
    if g.opset >= 13:
        return g.nodes_outputs("Split", x, whole(k, n - k), outputs=2, axis=1)
    return g.nodes_outputs("Split", x, outputs=2, axis=1, split=[k, n - k])


def slices(g):
    x = g.matrix()
    axis = int(g.random.integers(x.rank))
    start = int(g.random.integers(x.shape[axis]))
    if g.chance(0.3):
        return g.node("Slice", x, whole(-1), whole(-100), whole(axis), whole(-1))
    return g.node("Slice", x, whole(start), whole(100), whole(axis))


def gather(g):
    x = g.matrix()
    axis = int(g.random.integers(x.rank))
    return g.node("Gather", x, g.random.integers(-x.shape[axis], x.shape[axis], 2), axis=axis)


def gather_variable(g):
    """A table looked up at the cast of a value, or a value at the place of another's largest element."""
    x = flat(g)
    if g.chance(0.5):
        index = g.node("ArgMax", x, axis=1, keepdims=0)
        return g.node("Gather", g.real(x.shape[1], 2) if g.chance(0.5) else g.node("Transpose", x, perm=[1, 0]), index)
    inside = g.node("Clip", x, np.asarray(0, g.element), np.asarray(2.9, g.element))
    return g.node("Gather", g.real(3), g.node("Cast", inside, to=TensorProto.INT64))


def _place(g, last: float):
    """A variable place from 0 to ``last``, as [1] integers."""
    x = flat(g)
    one = g.node("Slice", x, whole(0), whole(1), whole(1))
    inside = g.node("Clip", one, np.asarray(0, g.element), np.asarray(last + 0.9, g.element))
    return g.node("Reshape", g.node("Cast", inside, to=TensorProto.INT64), whole(1))


def _row(g, least: int):
    x = flat(g)
    if x.shape[1] < least:
        raise ValueError
    return g.node("Reshape", x, whole(-1))


def scatter_variable(g):
    data = _row(g, 3)
    update = g.node("Slice", _row(g, 1), whole(0), whole(1), whole(0))
    return g.node("ScatterND", data, g.node("Reshape", _place(g, 2), whole(1, 1)), update)


def slice_variable(g):
    data = _row(g, 4)
    start = _place(g, 2)
    return g.node("Slice", data, start, g.node("Add", start, whole(2)), whole(0))


def scaled(g):
    return g.node("Mul", g.pick(), np.asarray(g.choose([1e-3, 0.1, 10, 40, -5]), g.element))


def one_hot(g):
    x = flat(g)
    index = g.node(g.choose(["ArgMax", "ArgMin"]), x, axis=1, keepdims=0)
    return g.node("OneHot", index, np.asarray(x.shape[1], np.int64), np.asarray([-0.5, 1.0], g.element))


def cast_there_and_back(g):
    integer = g.node("Cast", g.pick(), to=g.choose([TensorProto.INT64, TensorProto.INT32]))
    if g.chance(0.5):
        constant = np.asarray(g.choose([2, 3]), integer.kind)
        integer = g.node(g.choose(["Add", "Mul", "Sub", "Div"]), integer, constant)
    return g.node("Cast", integer, to=_type(g))


def scatter(g):
    x, y = flat(g), flat(g)
    if g.chance(0.5):
        count = min(x.shape[1], y.shape[1])
        places = g.random.permutation(x.shape[1])[:count]
        index = np.stack([np.zeros(count, np.int64), places], 1)[None]
        return g.node("ScatterND", x, index, g.node("Slice", y, whole(0), whole(count), whole(1)))
    update = g.node("Slice", y, whole(0), whole(1), whole(1))
    return g.node("ScatterElements", x, whole(int(g.random.integers(x.shape[1])))[None], update, axis=1)


def pad(g):
    x = g.pick(lambda t: t.rank == 2)
    mode = g.choose(["constant", "constant", "edge", "reflect"])
    fill = g.number(-1, 1) if mode == "constant" else None
    return g.node("Pad", x, whole(0, g.choose([0, 1]), 0, 1), fill, mode=mode)


def spread(g):
    x = g.pick(lambda t: t.rank >= 1)
    if g.chance(0.5):
        return g.node("Tile", x, whole(*[1] * (x.rank - 1), 2))
    return g.node("Expand", x, whole(2, *x.shape))


def depth_to_space(g):
    x = flat(g)
    if x.shape[1] % 4:
        raise ValueError
    x = g.node("Reshape", x, whole(1, 4, 1, x.shape[1] // 4))
    return g.node("DepthToSpace", x, blocksize=2)


def cumulative(g):
    return g.node("CumSum", g.matrix(), np.asarray(-1, np.int64), reverse=int(g.chance(0.5)))


def trilu(g):
    return g.node("Trilu", g.pick(lambda t: t.rank >= 2), upper=int(g.chance(0.5)))


def top_k(g):
    x = flat(g)
    count = int(g.random.integers(1, min(x.shape[1], 4) + 1))
    g.nodes_outputs("TopK", x, whole(count), outputs=2, axis=1)
    if count > 1:  # places of more than one are not imported
        g.tensors.pop()


def hardmax(g):
    return g.node("Hardmax", flat(g), axis=1)


def einsum(g):
    x = flat(g)
    equation = g.choose(["ij,kj->ik", "ij,ij->i", "ij,kl->jl", "ij,kj->j"])
    other = x if g.chance(0.3) or "kl" in equation else g.partner(x)
    # A label of two sizes is refused by onnxruntime where shapes are inferred, and broadcast where they are not.
    return g.node("Einsum", x, other if other.shape == x.shape else x, equation=equation)


def remainder(g):
    x = g.pick()
    return g.node("Mod", x, np.asarray(g.choose([0.5, 1.0, -0.7]), g.element), fmod=1)


def lp_pool(g):
    return g.node("GlobalLpPool", g.image(), p=g.choose([1, 2]))


def normalise(g):
    return g.node("MeanVarianceNormalization", g.image(), axes=[1, 2, 3])


RECIPES: dict[str, Recipe] = {
    **{name: plain(name) for name in PLAIN},
    **{name: pair(name) for name in ("Add", "Sub", "Mul", "Max", "Min", "Div")},
    "Mul again": pair("Mul"),
    **{
        f.__name__: f
        for f in (
            with_parameters, of_positive, power, positive_power, power_of, integer_power, clip, with_constant, divide,
            square, many, where, decided, equal, fixed_where, gemm, matmul, matmul_variable, conv,
            conv_transpose, batch_normalization, pool, global_pool, resize, reduce, reduce_log, softmax,
            layer_norm, instance_norm, lp_norm, lrn, recurrent, transpose, concat,
            split, slices, gather, gather_variable, scatter_variable,
            slice_variable, scaled, one_hot, cast_there_and_back, scatter, pad, spread, depth_to_space,
            cumulative, trilu, top_k, hardmax, einsum, remainder, lp_pool, normalise,
        )
    },
}  # fmt: skip
