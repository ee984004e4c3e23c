"""Imports elementwise arithmetic, activations, comparisons, selection and casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Operand, Value, positions
from provenn.bounds.graph._constants import Constant

TYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
         10: "float32", 11: "float64", 12: "uint32", 13: "uint64", 16: "float32"}  # fmt: skip
"""numpy names of ONNX element types; half precision is computed as float32."""


def is_integer(operand: Operand) -> bool:
    return np.dtype(operand.scalar_type).kind in "iub"


def _broadcastable(op: Application) -> None:
    shapes = [operand.shape for operand in op.operands()]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        op.fail(f"its operands have shapes {[list(shape) for shape in shapes]}, which do not broadcast")


# ---------------------------------------------------------------------------------------- arithmetic


def import_add(op: Application) -> list[Operand]:
    _broadcastable(op)
    fixed = [x for x in op.operands() if isinstance(x, Constant)]
    moving = [x for x in op.operands() if isinstance(x, Value)]
    if not moving:
        return [reduce(constants.add, fixed)]
    b = op.builder
    shape = np.broadcast_shapes(*(x.shape for x in moving))
    total = moving[0]
    if len(moving) > 1:
        total = b.emit("add", [b.broadcast(x, shape) for x in moving], shape)
    return [b.affine(total, shift=reduce(constants.add, fixed)) if fixed else total]


def import_mean(op: Application) -> list[Operand]:
    """The sum of the operands by their number."""
    (total,), share = import_add(op), constants.divide(constants.scalar(1.0), constants.scalar(len(op.operands())))
    return [constants.multiply(total, share) if isinstance(total, Constant) else op.builder.affine(total, share)]


def import_sub(op: Application) -> list[Operand]:
    _broadcastable(op)
    x, y, b = op.operand(0), op.operand(1), op.builder
    if isinstance(x, Value) and isinstance(y, Value):
        return [b.binary("sub", x, y)]
    if isinstance(x, Value):
        assert isinstance(y, Constant)
        return [b.affine(x, shift=constants.negate(y))]
    if isinstance(y, Value):
        return [b.affine(y, scale=constants.scalar(-1.0), shift=x)]
    return [constants.subtract(x, y)]


def import_mul(op: Application) -> list[Operand]:
    _broadcastable(op)
    x, y, b = op.operand(0), op.operand(1), op.builder
    if isinstance(x, Value) and isinstance(y, Value):
        if x.index == y.index:
            return [b.unary("pow", x, exponent=2.0)]
        return [b.binary("mul", x, y)]
    if isinstance(x, Value):
        assert isinstance(y, Constant)
        return [b.affine(x, scale=y)]
    if isinstance(y, Value):
        return [b.affine(y, scale=x)]
    return [constants.multiply(x, y)]


def import_div(op: Application) -> list[Operand]:
    _broadcastable(op)
    x, y, b = op.operand(0), op.operand(1), op.builder
    if isinstance(y, Constant) and not y.array.all():
        op.fail("divides by a constant zero")
    if is_integer(x):
        quotient = b.binary("div", b.value(x), b.value(y))
        return [b.unary("cast", quotient, x.scalar_type, to=x.scalar_type)]
    if isinstance(y, Constant):
        if isinstance(x, Constant):
            return [constants.divide(x, y)]
        return [b.affine(x, scale=constants.divide(constants.scalar(1.0), y))]
    if isinstance(x, Constant):
        return [b.affine(b.unary("reciprocal", y), scale=x)]
    return [b.binary("div", x, y)]


def import_neg(op: Application) -> list[Operand]:
    x = op.operand(0)
    return [constants.negate(x) if isinstance(x, Constant) else op.builder.negate(x)]


def import_sqrt(op: Application) -> list[Operand]:
    x = op.operand(0)
    return [constants.square_root(x) if isinstance(x, Constant) else op.builder.unary("sqrt", x)]


def import_pow(op: Application) -> list[Operand]:
    """Powers with one constant exponent; a constant base b is exp(x log b)."""
    _broadcastable(op)
    x, y, b = op.operand(0), op.operand(1), op.builder
    if isinstance(y, Value):
        base = op.constant(0, "base where the exponent is variable")
        if is_integer(base):
            op.unsupported("an integer base and a variable exponent", "re-export with a base of floats")
        if base.array.size != 1 or float(base.value.reshape(())) <= 0:
            op.unsupported("base and exponent vary", "re-export with a constant exponent")
        logarithm = np.log(np.float64(op.scalar(base, "base")))
        scale = Constant(
            np.asarray(logarithm), np.asarray(logarithm), np.abs(np.asarray(logarithm)) * 2.0**-50
        )
        return [b.unary("exp", b.affine(y, scale=scale))]
    x = b.broadcast(b.value(x), np.broadcast_shapes(x.shape, y.shape))
    exponents = y.value
    if exponents.size == 0 or (exponents != exponents.flat[0]).any() or y.radius is not None:
        op.unsupported("its exponents differ", "split the tensor by exponent")
    exponent = float(exponents.flat[0])
    if is_integer(x) and not (exponent >= 0 and exponent.is_integer()):
        op.unsupported(f"an integer to the power {exponent:g}", "re-export with a base of floats")
    if exponent == 1.0:
        return [x]
    simple = {0.5: "sqrt", -1.0: "reciprocal"}.get(exponent)
    return [b.unary(simple, x) if simple else b.unary("pow", x, exponent=exponent)]


# ---------------------------------------------------------------------------------------- activations


def _plain(operator: str) -> Callable[[Application], list[Operand]]:
    def handler(op: Application) -> list[Operand]:
        return [op.builder.unary(operator, op.variable())]

    return handler


def _number(value: float) -> np.ndarray:
    """An attribute that the file stores in float32, as the exact float64 of the same value."""
    return np.asarray(float(np.float32(value)))


def import_leaky_relu(op: Application) -> list[Operand]:
    slope = _number(op.attribute("alpha", 0.01))
    # A leaky relu is convex: its lower lines go through the origin, which those of a steeper slope do not.
    convex = bool(np.all(np.asarray(slope) <= 1))
    return [op.builder.unary("leaky_relu" if convex else "prelu", op.variable(), slope=slope)]


def import_prelu(op: Application) -> list[Operand]:
    x, slope = op.variable(), op.constant(1, "slope")
    if np.broadcast_shapes(x.shape, slope.shape) != x.shape:
        op.fail(f"its slope of shape {list(slope.shape)} does not fit {list(x.shape)}")
    if slope.radius is not None:
        op.unsupported("its slope is computed inexactly", "store the slope as a number")
    return [op.builder.unary("prelu", x, slope=slope.value)]


def import_elu(op: Application) -> list[Operand]:
    return [op.builder.unary("elu", op.variable(), alpha=_number(op.attribute("alpha", 1.0)))]


def import_celu(op: Application) -> list[Operand]:
    alpha = _number(op.attribute("alpha", 1.0))
    if not alpha > 0:
        op.unsupported(f"alpha {float(alpha):g}", "re-export with a positive alpha")
    return [op.builder.unary("celu", op.variable(), alpha=alpha)]


def import_selu(op: Application) -> list[Operand]:
    alpha, gamma = (
        op.attribute("alpha", 1.67326319217681884765625),
        op.attribute("gamma", 1.05070102214813232421875),
    )
    return [op.builder.unary("selu", op.variable(), alpha=_number(alpha), gamma=_number(gamma))]


def import_hard_sigmoid(op: Application) -> list[Operand]:
    alpha, beta = op.attribute("alpha", 0.2), op.attribute("beta", 0.5)
    return [op.builder.unary("hard_sigmoid", op.variable(), alpha=_number(alpha), beta=_number(beta))]


def import_gelu(op: Application) -> list[Operand]:
    exact = op.attribute("approximate", "none") == "none"
    return [op.builder.unary("gelu" if exact else "gelu_tanh", op.variable())]


def import_thresholded_relu(op: Application) -> list[Operand]:
    """x where x > alpha, else 0."""
    x, b = op.variable(), op.builder
    limit = b.broadcast(b.constant(Constant(_number(op.attribute("alpha", 1.0)))), x.shape)
    return [b.binary("mul", x, b.binary("less", limit, x))]


def import_ceil(op: Application) -> list[Operand]:
    b = op.builder
    return [b.negate(b.unary("floor", b.negate(op.variable())))]


# ---------------------------------------------------------------------------------------- max, min, clip


def _bounded(op: Application, x: Value, lower: Operand | None, upper: Operand | None) -> Value:
    """max with ``lower`` and then min with ``upper``, each constant or variable."""
    b = op.builder
    for limit, sign in ((lower, 1.0), (upper, -1.0)):
        if limit is None:
            continue
        if isinstance(limit, Value):
            x = b.binary("max" if sign > 0 else "min", x, limit)
            continue
        array = limit.value
        if array.size and (array == array.flat[0]).all() and limit.radius is None:
            x = b.broadcast(x, np.broadcast_shapes(x.shape, limit.shape))
            edge = float(array.flat[0])
            if -sign * edge == np.inf:
                continue  # no limit; the largest float32, which older opsets write instead, is one to a real number
            if edge == 0.0 and sign > 0:
                x = b.unary("relu", x)
            else:
                number = np.asarray(edge)
                x = b.unary("clip", x, lower=number) if sign > 0 else b.unary("clip", x, upper=number)
            continue
        # max(x, c) = c + relu(x - c); min(x, c) = c - relu(c - x).
        shifted = b.affine(x, constants.scalar(sign), limit if sign < 0 else constants.negate(limit))
        x = b.affine(b.unary("relu", shifted), constants.scalar(sign), limit)
    return x


def _merge_clip(op: Application, x: Value) -> Value:
    """Two consecutive one-sided clips with lower <= upper are one operator with one tight relaxation."""
    b = op.builder
    outer = b.node(x)
    if outer.operator != "clip" or "upper" not in outer.attributes or "lower" in outer.attributes:
        return x
    inner = b.nodes[outer.inputs[0]]
    if inner.operator == "relu":
        low = np.asarray(0.0)
    elif inner.operator == "clip" and "upper" not in inner.attributes:
        low = inner.attributes["lower"]
    else:
        return x
    if low > outer.attributes["upper"]:
        return x
    source = Value(inner.inputs[0], b.nodes[inner.inputs[0]].shape, x.scalar_type)
    return b.unary("clip", source, lower=low, upper=outer.attributes["upper"])


def import_clip(op: Application) -> list[Operand]:
    def limit(position: int, name: str) -> Operand | None:
        if op.version >= 11:
            return op.operand(position) if op.has(position) else None
        return Constant(_number(op.attribute(name))) if name in op.attributes else None

    x = _bounded(op, op.variable(), limit(1, "min"), limit(2, "max"))
    return [_merge_clip(op, x)]


def import_max_min(op: Application) -> list[Operand]:
    _broadcastable(op)
    operator, fold = ("max", np.maximum) if op.operator == "Max" else ("min", np.minimum)
    fixed = [x for x in op.operands() if isinstance(x, Constant)]
    moving = [x for x in op.operands() if isinstance(x, Value)]
    merged = None
    if fixed:
        if any(x.radius is not None for x in fixed):
            moving += [op.builder.constant(x) for x in fixed]
        else:
            merged = Constant(reduce(fold, [x.array for x in fixed]), reduce(fold, [x.value for x in fixed]))
    if not moving:
        assert merged is not None
        return [merged]
    total = reduce(lambda x, y: op.builder.binary(operator, x, y), moving)
    if merged is not None:
        merged = Constant(merged.array) if np.array_equal(merged.array, merged.value) else merged
        total = _bounded(op, total, merged, None) if operator == "max" else _bounded(op, total, None, merged)
    return [_merge_clip(op, total)]


# ---------------------------------------------------------------------------------------- logic, casts


def import_comparison(op: Application) -> list[Operand]:
    _broadcastable(op)
    x, y = op.variable(0), op.variable(1)
    name = op.operator
    if name.startswith("Greater"):
        x, y, name = y, x, name.replace("Greater", "Less")
    operator = {"Equal": "equal", "Less": "less", "LessOrEqual": "less_or_equal"}[name]
    return [op.builder.binary(operator, x, y, "bool")]


def import_logic(op: Application) -> list[Operand]:
    """On values that are 0 or 1: and is min, or is max, xor is |x - y|, not is 1 - x."""
    b, x = op.builder, op.variable(0)
    if op.operator == "Not":
        return [b.affine(x, constants.scalar(-1.0), constants.scalar(1.0))]
    if op.operator == "Xor":
        return [b.unary("abs", b.binary("sub", x, op.variable(1)))]
    return [b.binary("min" if op.operator == "And" else "max", x, op.variable(1))]


def import_where(op: Application) -> list[Operand]:
    _broadcastable(op)
    condition, x, y, b = op.operand(0), op.operand(1), op.operand(2), op.builder
    shape = np.broadcast_shapes(condition.shape, x.shape, y.shape)
    if isinstance(condition, Constant):
        first = np.broadcast_to(positions(x.shape), shape)
        second = np.broadcast_to(positions(y.shape), shape) + int(np.prod(x.shape, dtype=np.int64))
        return [
            b.assemble([x, y], np.where(np.broadcast_to(condition.array.astype(bool), shape), first, second))
        ]
    if isinstance(x, Constant) and isinstance(y, Constant):
        number = Value(condition.index, condition.shape, x.scalar_type)
        return [b.affine(b.broadcast(number, shape), constants.subtract(x, y), y)]
    parts = [b.broadcast(b.value(part), shape) for part in (condition, x, y)]
    return [b.emit("where", parts, shape, x.scalar_type)]


def import_cast(op: Application) -> list[Operand]:
    """Between floats nothing happens to the real value; to integers the fraction is dropped, and what the type cannot
    hold."""
    if op.operator == "CastLike":
        to: str | None = op.operand(1).scalar_type
    else:
        to = TYPES.get(int(op.required("to")))
    if to is None:
        op.unsupported(f"a cast to element type {op.required('to')}", "re-export with float, int64 or bool")
    x = op.operand(0)
    if isinstance(x, Constant):
        with np.errstate(all="ignore"):
            array = x.array.astype(to)
        if array.dtype.kind == x.array.dtype.kind == "f":
            return [Constant(array, x.real, x.radius)]
        return [Constant(array)]
    kind, source = np.dtype(to).kind, np.dtype(x.scalar_type).kind
    if kind == "b" and source != "b":
        return [op.builder.unary("cast", x, "bool", to="bool")]
    if kind in "iu" and not (source in "iub" and np.can_cast(x.scalar_type, to)):
        return [op.builder.unary("cast", x, to, to=to)]
    return [Value(x.index, x.shape, to)]


HANDLERS = {
    "Add": import_add, "Sum": import_add, "Mean": import_mean, "Sub": import_sub, "Mul": import_mul, "Div": import_div,
    "Neg": import_neg, "Sqrt": import_sqrt, "Pow": import_pow,
    "Relu": _plain("relu"), "Abs": _plain("abs"), "Sign": _plain("sign"), "Floor": _plain("floor"),
    "Ceil": import_ceil, "Round": _plain("round"), "Sigmoid": _plain("sigmoid"), "Tanh": _plain("tanh"),
    "Exp": _plain("exp"), "Log": _plain("log"), "Reciprocal": _plain("reciprocal"), "Sin": _plain("sin"),
    "Cos": _plain("cos"), "Tan": _plain("tan"), "Atan": _plain("atan"), "Erf": _plain("erf"),
    "Softplus": _plain("softplus"), "Softsign": _plain("softsign"), "Mish": _plain("mish"), "Gelu": import_gelu,
    "HardSwish": _plain("hard_swish"), "ThresholdedRelu": import_thresholded_relu, "Swish": _plain("silu"),
    "LeakyRelu": import_leaky_relu, "PRelu": import_prelu, "Elu": import_elu, "Celu": import_celu,
    "Selu": import_selu, "HardSigmoid": import_hard_sigmoid,
    "Clip": import_clip, "Max": import_max_min, "Min": import_max_min, "Equal": import_comparison,
    "Less": import_comparison, "LessOrEqual": import_comparison, "Greater": import_comparison,
    "GreaterOrEqual": import_comparison, "Not": import_logic, "And": import_logic, "Or": import_logic,
    "Xor": import_logic, "Where": import_where, "Cast": import_cast, "CastLike": import_cast,
}  # fmt: skip
