"""Lowers ATen arithmetic, activations, comparisons and choices to operators that the ONNX importer builds."""

from __future__ import annotations

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._builder import Operand
from provenn.bounds.graph._call import Call, Lowering, Result
from provenn.bounds.graph._constants import Constant

# ---------------------------------------------------------------------------------------- arithmetic


def _scaled(call: Call, x: Operand, factor: float) -> Operand:
    return x if factor == 1 else call.onnx("Mul", x, call.number(factor))


def _or_one(call: Call, name: str) -> float:
    return 1 if call[name] is None else call[name]


def _add(call: Call) -> Result:
    """self + alpha other."""
    return call.onnx("Add", call.operand("self"), _scaled(call, call.operand("other"), _or_one(call, "alpha")))


def _sub(call: Call) -> Result:
    return call.onnx("Sub", call.operand("self"), _scaled(call, call.operand("other"), _or_one(call, "alpha")))


def _rsub(call: Call) -> Result:
    return call.onnx("Sub", call.operand("other"), _scaled(call, call.operand("self"), _or_one(call, "alpha")))


def _mul(call: Call) -> Result:
    return call.onnx("Mul", call.operand("self"), call.operand("other"))


def _div(call: Call) -> Result:
    mode = call["rounding_mode"]
    if mode is not None and np.dtype(call.type).kind != "f":
        call.unsupported("a rounded quotient of integers that depend on the input", "divide floats and use floor")
    quotient = call.onnx("Div", call.operand("self"), call.operand("other"))
    if mode is None:
        return quotient
    return call.onnx("Floor", quotient) if mode == "floor" else _truncated(call, quotient)


def _truncated(call: Call, x: Operand) -> Operand:
    """trunc is odd: the floor of the positive part less the floor of the negative one."""
    above = call.onnx("Floor", call.onnx("Relu", x))
    return call.onnx("Sub", above, call.onnx("Floor", call.onnx("Relu", call.onnx("Neg", x))))


def _trunc(call: Call) -> Result:
    return _truncated(call, call.operand("self"))


def _pow(call: Call) -> Result:
    return call.onnx("Pow", call.operand("self"), call.operand("exponent"))


def _remainder(call: Call) -> Result:
    return call.onnx("Mod", call.operand("self"), call.operand("other"))


def _fmod(call: Call) -> Result:
    return call.onnx("Mod", call.operand("self"), call.operand("other"), fmod=1)


def _rsqrt(call: Call) -> Result:
    return call.onnx("Reciprocal", call.onnx("Sqrt", call.operand("self")))


def _square(call: Call) -> Result:
    x = call.operand("self")
    return call.onnx("Mul", x, x)


def _expm1(call: Call) -> Result:
    return call.onnx("Sub", call.onnx("Exp", call.operand("self")), call.number(1))


def _log1p(call: Call) -> Result:
    return call.onnx("Log", call.onnx("Add", call.operand("self"), call.number(1)))


def _log_of_base(base: int) -> Lowering:
    def lowering(call: Call) -> Result:
        logarithm = np.log(np.float64(base))
        share = constants.divide(
            constants.scalar(1.0), Constant(np.asarray(logarithm), np.asarray(logarithm), np.asarray(2.0**-50))
        )
        return call.onnx("Mul", call.onnx("Log", call.operand("self")), share)

    return lowering


def _plain(operator: str) -> Lowering:
    def lowering(call: Call) -> Result:
        return call.onnx(operator, call.operand("self"))

    return lowering


def _round(call: Call) -> Result:
    if call.arguments.get("decimals"):
        call.unsupported("rounds to decimals", "multiply by a power of ten, round and divide")
    return call.onnx("Round", call.operand("self"))


def _own(operator: str) -> Lowering:
    """An operator of the graph's own that no version of ONNX up to 21 has."""

    def lowering(call: Call) -> Result:
        return call.unary(operator, call.operand("self"))

    return lowering


# ---------------------------------------------------------------------------------------- activations


def _parameter(call: Call, name: str) -> np.ndarray:
    """A number as torch computes with it, in float64."""
    return call.number(call[name]).array.astype(np.float64)


def _leaky_relu(call: Call) -> Result:
    slope = _parameter(call, "negative_slope")
    return call.unary("leaky_relu" if slope <= 1 else "prelu", call.operand("self"), slope=slope)


def _prelu(call: Call) -> Result:
    x, slope = call.operand("self"), call.operand("weight")
    size = int(np.prod(slope.shape, dtype=np.int64))
    if size > 1 and len(slope.shape) == 1:  # one slope per channel, which is the second axis
        slope = call.reshape(slope, (size, *(1,) * max(0, len(x.shape) - 2)))
    return call.onnx("PRelu", x, slope)


def _elu(call: Call) -> Result:
    if call["scale"] in (None, 1, 1.0) and call["input_scale"] in (None, 1, 1.0):
        return call.unary("elu", call.operand("self"), alpha=_parameter(call, "alpha"))
    if call["input_scale"] not in (None, 1, 1.0):
        call.unsupported("an elu whose input is scaled", "scale the input before it")
    return call.unary(
        "selu", call.operand("self"), alpha=_parameter(call, "alpha"), gamma=_parameter(call, "scale")
    )


def _selu(call: Call) -> Result:
    numbers = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)
    alpha, gamma = (call.number(value).array.astype(np.float64) for value in numbers)
    return call.unary("selu", call.operand("self"), alpha=alpha, gamma=gamma)


def _celu(call: Call) -> Result:
    alpha = _parameter(call, "alpha")
    if not alpha > 0:
        call.unsupported(f"alpha {float(alpha):g}", "use a positive alpha")
    return call.unary("celu", call.operand("self"), alpha=alpha)


def _gelu(call: Call) -> Result:
    return call.onnx("Gelu", call.operand("self"), approximate=call["approximate"] or "none")


def _softplus(call: Call) -> Result:
    """log(1 + exp(beta x)) / beta; beyond its threshold torch computes x, which is that but for 2e-9."""
    beta, threshold = _or_one(call, "beta"), 20 if call["threshold"] is None else call["threshold"]
    if threshold < 20:
        call.unsupported(f"threshold {threshold}", "use a threshold of at least 20")
    if beta == 1:
        return call.onnx("Softplus", call.operand("self"))
    found = call.onnx("Softplus", call.onnx("Mul", call.operand("self"), call.number(beta)))
    return call.onnx("Div", found, call.number(beta))


def _log_sigmoid(call: Call) -> Result:
    return call.onnx("Neg", call.onnx("Softplus", call.onnx("Neg", call.operand("self"))))


def _between(call: Call, x: Operand, low: float | None, high: float | None) -> Operand:
    ends = [None if end is None or np.isinf(end) else call.number(end) for end in (low, high)]
    return x if ends == [None, None] else call.onnx("Clip", x, *ends)


def _clamp(call: Call) -> Result:
    """max with the lower, then min with the upper end, each a number or a tensor."""
    if not any(isinstance(call[name], Operand) for name in ("min", "max")):
        return _between(call, call.operand("self"), call["min"], call["max"])
    x = call.operand("self")
    x = call.onnx("Max", x, call.operand("min")) if call.given("min") else x
    return call.onnx("Min", x, call.operand("max")) if call.given("max") else x


def _hardtanh(call: Call) -> Result:
    return _between(call, call.operand("self"), call["min_val"], call["max_val"])


def _relu6(call: Call) -> Result:
    return _between(call, call.operand("self"), 0, 6)


def _hard_sigmoid(call: Call) -> Result:
    """relu6(x + 3) / 6."""
    cut = _between(call, call.onnx("Add", call.operand("self"), call.number(3)), 0, 6)
    return call.onnx("Div", cut, call.number(6))


def _softshrink(call: Call) -> Result:
    edge = float(_parameter(call, "lambd"))
    x = call.operand("self")
    above = call.onnx("Relu", call.onnx("Sub", x, call.number(edge)))
    below = call.onnx("Relu", call.onnx("Sub", call.onnx("Neg", x), call.number(edge)))
    return call.onnx("Sub", above, below)


def _hardshrink(call: Call) -> Result:
    """x where |x| > lambd, else 0."""
    x = call.operand("self")
    outside = call.onnx("Less", call.operand("lambd"), call.onnx("Abs", x))
    return call.onnx("Where", outside, x, call.number(0))


def _threshold(call: Call) -> Result:
    """x where x > threshold, else a value."""
    x = call.operand("self")
    if call["threshold"] == call["value"] == 0:
        return call.onnx("Relu", x)
    above = call.onnx("Less", call.operand("threshold"), x)
    return call.onnx("Where", above, x, call.operand("value"))


def _glu(call: Call) -> Result:
    x = call.operand("self")
    axis = call.axis(call["dim"], len(x.shape))
    first, second = call.onnx_all("Split", x, axis=axis, num_outputs=2)
    return call.onnx("Mul", first, call.onnx("Sigmoid", second))


# ---------------------------------------------------------------------------------------- comparisons and choices


def _common(call: Call, *names: str) -> str:
    """The type that torch compares in: the largest of the tensors', a float's where there is one; one without
    dimensions counts only against tensors of a lesser kind."""
    operands = [call[name] for name in names if isinstance(call[name], Operand)]
    kind = lambda x: "biuf".index(np.dtype(x.scalar_type).kind.replace("u", "i"))  # noqa: E731
    shaped = [x for x in operands if x.shape]
    if shaped and max(map(kind, shaped)) >= max(map(kind, operands)):
        operands = shaped
    return max(operands, key=lambda x: (kind(x), np.dtype(x.scalar_type).itemsize)).scalar_type


def _compared(operator: str, negated: bool = False) -> Lowering:
    def lowering(call: Call) -> Result:
        kind = _common(call, "self", "other")
        number = call["other"]
        if isinstance(number, float) and np.dtype(kind).kind != "f":
            kind = "float64"  # an integer against a fraction
        found = call.onnx(operator, call.operand("self", kind), call.operand("other", kind))
        return call.onnx("Not", found) if negated else found

    return lowering


def _logic(operator: str) -> Lowering:
    def lowering(call: Call) -> Result:
        names = ("self", "other") if "other" in call.arguments else ("self",)
        if any(call.tensor(name).scalar_type != "bool" for name in names):
            call.unsupported("of numbers that are no truth values", "compare them with 0 first")
        return call.onnx(operator, *(call.tensor(name) for name in names))

    return lowering


def _where(call: Call) -> Result:
    return call.onnx("Where", call.tensor("condition"), call.operand("self"), call.operand("other"))


def _masked_fill(call: Call) -> Result:
    return call.onnx("Where", call.tensor("mask"), call.operand("value"), call.operand("self"))


def _extreme(operator: str) -> Lowering:
    def lowering(call: Call) -> Result:
        return call.onnx(operator, call.operand("self"), call.operand("other"))

    return lowering


def _lerp(call: Call) -> Result:
    first, second = call.operand("self"), call.operand("end")
    return call.onnx("Add", first, call.onnx("Mul", call.operand("weight"), call.onnx("Sub", second, first)))


def _addcmul(call: Call) -> Result:
    product = call.onnx("Mul", call.operand("tensor1"), call.operand("tensor2"))
    return call.onnx("Add", call.operand("self"), _scaled(call, product, _or_one(call, "value")))


ELEMENTWISE: dict[str, Lowering] = {
    "add": _add, "sub": _sub, "rsub": _rsub, "mul": _mul, "div": _div, "neg": _plain("Neg"), "abs": _plain("Abs"),
    "pow": _pow, "remainder": _remainder, "fmod": _fmod, "sqrt": _plain("Sqrt"), "rsqrt": _rsqrt, "square": _square,
    "reciprocal": _plain("Reciprocal"), "exp": _plain("Exp"), "expm1": _expm1, "log": _plain("Log"), "log1p": _log1p,
    "log2": _log_of_base(2), "log10": _log_of_base(10), "sin": _plain("Sin"), "cos": _plain("Cos"),
    "tan": _plain("Tan"), "atan": _plain("Atan"), "sinh": _plain("Sinh"), "cosh": _plain("Cosh"),
    "asinh": _plain("Asinh"), "acosh": _plain("Acosh"), "atanh": _plain("Atanh"), "tanh": _plain("Tanh"),
    "sigmoid": _plain("Sigmoid"), "erf": _plain("Erf"), "floor": _plain("Floor"), "ceil": _plain("Ceil"),
    "round": _round, "trunc": _trunc, "sign": _plain("Sign"), "relu": _plain("Relu"), "relu6": _relu6,
    "leaky_relu": _leaky_relu, "prelu": _prelu, "_prelu_kernel": _prelu, "elu": _elu, "selu": _selu, "celu": _celu,
    "gelu": _gelu, "silu": _own("silu"), "mish": _own("mish"), "softplus": _softplus, "log_sigmoid": _log_sigmoid,
    "hardtanh": _hardtanh, "hardswish": _plain("HardSwish"), "hardsigmoid": _hard_sigmoid, "softshrink": _softshrink,
    "hardshrink": _hardshrink, "threshold": _threshold, "glu": _glu, "clamp": _clamp, "clamp_min": _clamp,
    "clamp_max": _clamp, "maximum": _extreme("Max"), "minimum": _extreme("Min"), "eq": _compared("Equal"),
    "ne": _compared("Equal", negated=True), "lt": _compared("Less"), "le": _compared("LessOrEqual"),
    "gt": _compared("Greater"), "ge": _compared("GreaterOrEqual"), "__and__": _logic("And"), "__or__": _logic("Or"),
    "__xor__": _logic("Xor"), "logical_and": _logic("And"), "logical_or": _logic("Or"), "logical_xor": _logic("Xor"),
    "logical_not": _logic("Not"), "bitwise_and": _logic("And"), "bitwise_or": _logic("Or"),
    "bitwise_xor": _logic("Xor"), "bitwise_not": _logic("Not"), "where": _where, "masked_fill": _masked_fill,
    "lerp": _lerp, "addcmul": _addcmul,
}  # fmt: skip
