"""Imports operators that are a few others: Einsum, TopK of values, Hardmax, Lp pooling, Shrink, Sinh, Mod."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Operand, Value, positions
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._import_elementwise import import_mul, is_integer
from provenn.bounds.graph._import_linear import matmul, window_positions

_COMPARISONS = 512
"""TopK of values is a sorting network of at most so many comparisons."""

# ---------------------------------------------------------------------------------------- Einsum


def import_einsum(op: Application) -> list[Operand]:
    """Products and sums over labelled axes, two operands at a time: a matrix product over what both share."""
    labels, result = _equation(op)
    operands = [op.builder.value(x) if len(op.inputs) == 1 else x for x in op.operands()]
    operand, seen = _diagonal(op, operands[0], labels[0])
    for position, other in enumerate(operands[1:], 1):
        later = set(result).union(*labels[position + 1 :])
        other, names = _diagonal(op, other, labels[position])
        operand, seen = _contract(op, operand, seen, other, names, later)
    value = op.builder.value(operand)
    value, seen = _summed(op, value, seen, set(result))
    return [op.builder.transpose(value, [seen.index(name) for name in result])]


def _equation(op: Application) -> tuple[list[str], str]:
    """Labels of every operand and of the result; an ellipsis becomes labels of its own."""
    equation = "".join(str(op.required("equation")).split())
    left, arrow, right = equation.partition("->")
    parts = left.split(",")
    if len(parts) != len(op.inputs):
        op.fail(f"its equation {equation!r} has {len(parts)} operands, the node has {len(op.inputs)}")
    free = [letter for letter in reversed(string.ascii_letters) if letter not in equation]
    ranks = [len(x.shape) - len(part.replace("...", "")) for x, part in zip(op.operands(), parts, strict=True)]
    most = max([rank for rank, part in zip(ranks, parts, strict=True) if "..." in part], default=0)
    dots = "".join(free[:most])
    labels = [part.replace("...", dots[most - rank :]) for rank, part in zip(ranks, parts, strict=True)]
    for x, part in zip(op.operands(), labels, strict=True):
        if len(part) != len(x.shape):
            op.fail(f"its equation {equation!r} names {len(part)} axes of an operand of shape {list(x.shape)}")
    if arrow:
        result = right.replace("...", dots)
    else:
        written = left.replace(",", "").replace(".", "")
        result = dots + "".join(sorted(name for name in set(written) if written.count(name) == 1))
    if len(set(result)) != len(result) or not set(result) <= set("".join(labels)):
        op.fail(f"its equation {equation!r} has a result whose axes no operand has, or twice")
    return labels, result


def _diagonal(op: Application, x: Operand, names: str) -> tuple[Operand, str]:
    """The elements where axes with the same label have the same index."""
    kept = "".join(dict.fromkeys(names))
    if kept == names:
        return x, names
    if isinstance(x, Constant):
        return x.mapped(lambda a: np.einsum(f"{names}->{kept}", a)), kept
    return op.builder.index(x, np.einsum(f"{names}->{kept}", positions(x.shape))), kept


def _summed(op: Application, x: Value, names: str, kept: set[str]) -> tuple[Value, str]:
    axes = [axis for axis, name in enumerate(names) if name not in kept]
    if not axes:
        return x, names
    return op.builder.sum(x, axes, False), "".join(name for name in names if name in kept)


def _contract(
    op: Application, x: Operand, left: str, y: Operand, right: str, later: set[str]
) -> tuple[Operand, str]:
    """The product of two operands, summed over the labels that nothing reads later."""
    b = op.builder
    if isinstance(x, Value):
        x, left = _summed(op, x, left, later | set(right))
    if isinstance(y, Value):
        y, right = _summed(op, y, right, later | set(left))
    extent: dict[str, int] = {}
    for names, shape in ((left, x.shape), (right, y.shape)):
        for name, size in zip(names, shape, strict=True):
            if extent.get(name, 1) != 1 and size not in (1, extent[name]):
                op.fail(f"its axis {name!r} has {extent[name]} and {size} elements")
            extent[name] = max(extent.get(name, 1), size)
    inner = [name for name in left if name in right and name not in later]
    batch = [name for name in left if name in right and name in later]
    rows = [name for name in left if name not in right]
    columns = [name for name in right if name not in left]
    first = _arranged(op, x, left, [batch, rows, inner], extent)
    second = _arranged(op, y, right, [batch, inner, columns], extent)
    if inner:
        product: Operand = matmul(op, b.value(first) if isinstance(second, Constant) else first, second)
    else:
        second = _reshaped(op, second, (*second.shape[:1], 1, *second.shape[2:]))
        product = import_mul(Application("Mul", op.label, (first, second), {}, op.version, op.outputs, b))[0]
    made = _reshaped(op, product, [extent[n] for n in (*batch, *rows, *columns)])
    return made, "".join((*batch, *rows, *columns))


def _arranged(
    op: Application, x: Operand, names: str, groups: Sequence[Sequence[str]], extent: dict[str, int]
) -> Operand:
    """The operand with its axes in groups, each group one axis, repeated where an axis has one element only."""
    order = [names.index(name) for group in groups for name in group]
    full = [extent[name] for name in names]
    shape = [int(np.prod([extent[name] for name in group], dtype=np.int64)) for group in groups]
    if isinstance(x, Constant):
        return x.mapped(lambda a: np.broadcast_to(a, full).transpose(order).reshape(shape))
    return op.builder.reshape(op.builder.transpose(op.builder.broadcast(x, full), order), shape)


def _reshaped(op: Application, x: Operand, shape: Sequence[int]) -> Operand:
    if isinstance(x, Constant):
        return x.mapped(lambda a: a.reshape(tuple(shape)))
    return op.builder.reshape(x, shape)


# ---------------------------------------------------------------------------------------- choosing


def import_hardmax(op: Application) -> list[Operand]:
    """One at the first largest element along an axis, else 0; before opset 13 over all axes from ``axis`` on."""
    x, b = op.variable(), op.builder
    axis, whole = op.axis(int(op.attribute("axis", -1 if op.version >= 13 else 1)), len(x.shape)), x
    if op.version < 13:
        first = int(np.prod(x.shape[:axis], dtype=np.int64))
        whole, axis = b.reshape(x, (first, x.size // max(first, 1))), 1
    shape = tuple(1 if a == axis else n for a, n in enumerate(whole.shape))
    place = b.emit("argmax", (whole,), shape, "int64", axis=axis, keepdims=True, last=False)
    place = b.reshape(place, tuple(n for a, n in enumerate(whole.shape) if a != axis))
    depth = whole.shape[axis]
    hot = b.emit("one_hot", (place,), whole.shape, x.scalar_type, depth=depth, axis=axis, on=1.0, off=0.0)
    return [b.reshape(hot, x.shape)]


def import_top_k(op: Application) -> list[Operand]:
    """The k largest values in order, by a sorting network; their places only for k = 1."""
    x, b = op.variable(), op.builder
    count, largest = op.integers(1, "k")[0], bool(op.attribute("largest", 1))
    axis = op.axis(int(op.attribute("axis", -1)), len(x.shape))
    extent = x.shape[axis]
    if not 0 < count <= extent:
        op.fail(f"takes {count} of {extent} elements")
    if count * extent > _COMPARISONS:
        op.unsupported(f"{count} of {extent} elements in order", "re-export with ReduceMax, or fewer elements")
    take = np.moveaxis(positions(x.shape), axis, 0)
    lanes = [b.index(x, np.expand_dims(part, axis)) for part in take]
    high, low = ("max", "min") if largest else ("min", "max")
    for first in range(min(count, extent - 1)):
        for place in range(extent - 1, first, -1):
            p, q = lanes[place - 1], lanes[place]
            lanes[place - 1], lanes[place] = b.binary(high, p, q), b.binary(low, p, q)
    results: list[Operand] = [b.concat(lanes[:count], axis)]
    if count == 1:
        source = x if largest else b.negate(x)
        shape = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
        results.append(b.emit("argmax", (source,), shape, "int64", axis=axis, keepdims=True, last=False))
    return results


# ---------------------------------------------------------------------------------------- powers and norms


def _norm(op: Application, x: Value, p: int, total) -> Value:  # type: ignore[no-untyped-def]
    """``(sum |x|^p)^(1/p)`` for a sum over some elements."""
    b = op.builder
    if p == 1:
        return total(b.unary("abs", x))
    if p == 2:
        return b.unary("sqrt", total(b.unary("pow", x, exponent=2.0)))
    if p < 1 or p & (p - 1):  # one by p must be a number of the machine
        op.unsupported(f"its p is {p}", "re-export with p = 1, 2 or 4, or with Abs, Pow and AveragePool")
    return b.unary("pow", total(b.unary("pow", x, exponent=float(p))), exponent=1.0 / p)


def import_lp_pool(op: Application) -> list[Operand]:
    x, b = op.variable(), op.builder
    p = int(op.attribute("p", 2))
    if op.operator == "GlobalLpPool":
        return [_norm(op, x, p, lambda t: b.sum(t, list(range(2, len(x.shape))), True))]
    windows = window_positions(op, x.shape, [int(k) for k in op.required("kernel_shape")])

    def total(powers: Value) -> Value:
        return b.sum(b.index(powers, windows), [windows.ndim - 1], False)

    return [_norm(op, x, p, total)]


def import_mean_variance_normalization(op: Application) -> list[Operand]:
    """``(x - mean) / (deviation + 1e-9)``, as the operator's definition writes it."""
    x, b = op.variable(), op.builder
    axes = op.axes([int(a) for a in op.attribute("axes") or (0, 2, 3)], len(x.shape))
    centred = b.binary("sub", x, b.mean(x, axes, True))
    deviation = b.unary("sqrt", b.mean(b.unary("pow", centred, exponent=2.0), axes, True))
    return [b.binary("div", centred, b.affine(deviation, shift=constants.scalar(float(np.float32(1e-9)))))]


# ---------------------------------------------------------------------------------------- functions


def import_shrink(op: Application) -> list[Operand]:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    x, b = op.variable(), op.builder
    if is_integer(x):
        op.unsupported("of integers", "re-export with floats")
    edge, bias = (float(np.float32(op.attribute(name, default))) for name, default in (("lambd", 0.5), ("bias", 0.0)))
    number = lambda value: constants.scalar(value)  # noqa: E731
    if edge == bias and edge >= 0:  # soft thresholding has no jump
        above = b.unary("relu", b.affine(x, shift=number(-edge)))
        below = b.unary("relu", b.affine(x, number(-1.0), number(-edge)))
        return [b.binary("sub", above, below)]
    limit, other = (b.broadcast(b.constant(number(end)), x.shape) for end in (edge, -edge))
    zero = b.broadcast(b.constant(number(0.0)), x.shape)
    shape = x.shape
    # Where both hold, for a negative lambd, a runtime asks for x < -lambd first.
    high = b.emit("where", (b.binary("less", limit, x), b.affine(x, shift=number(-bias)), zero), shape, x.scalar_type)
    low = b.affine(x, shift=number(bias))
    return [b.emit("where", (b.binary("less", x, other), low, high), shape, x.scalar_type)]


def import_hyperbolic(op: Application) -> list[Operand]:
    """(exp(x) + exp(-x)) / 2 or (exp(x) - exp(-x)) / 2."""
    x, b = op.variable(), op.builder
    operator = "add" if op.operator == "Cosh" else "sub"
    return [b.scaled(b.binary(operator, b.unary("exp", x), b.unary("exp", b.negate(x))), 0.5)]


def import_atanh(op: Application) -> list[Operand]:
    """(log(1 + x) - log(1 - x)) / 2: two monotone parts."""
    x, b = op.variable(), op.builder
    one = constants.scalar(1.0)
    above, below = (b.unary("log", b.affine(x, scale, one)) for scale in (one, constants.scalar(-1.0)))
    return [b.scaled(b.binary("sub", above, below), 0.5)]


def import_asinh(op: Application) -> list[Operand]:
    """``h(relu(x)) - h(relu(-x))`` with ``h(t) = log(t + sqrt(t^2 + 1))``: increasing parts of t >= 0, where nothing
    cancels, so that intervals are exact. Clips say what rounding over a wide box would forget: sums are at least 1."""
    x, b = op.variable(), op.builder
    one = np.asarray(1.0)

    def positive(t: Value) -> Value:
        square = b.affine(b.unary("pow", t, exponent=2.0), shift=constants.scalar(1.0))
        root = b.unary("sqrt", b.unary("clip", square, lower=one))
        return b.unary("log", b.unary("clip", b.binary("add", t, root), lower=one))

    above, below = (positive(b.unary("relu", part)) for part in (x, b.negate(x)))
    return [b.binary("sub", above, below)]


def import_acosh(op: Application) -> list[Operand]:
    """log(x + sqrt(x - 1) sqrt(x + 1)): increasing parts, where the root of x^2 - 1 would cancel."""
    x, b = op.variable(), op.builder
    first, second = (b.unary("sqrt", b.affine(x, shift=constants.scalar(shift))) for shift in (-1.0, 1.0))
    return [b.unary("log", b.binary("add", x, b.binary("mul", first, second)))]


def import_mod(op: Application) -> list[Operand]:
    """x - y floor(x / y), or with fmod x - y trunc(x / y), for a constant y without a rounding."""
    x, y, b = op.variable(0), op.constant(1, "divisor"), op.builder
    if not y.array.all():
        op.fail("divides by a constant zero")
    if y.radius is not None:
        op.unsupported("its divisor is computed inexactly", "store it as a number")
    shape = np.broadcast_shapes(x.shape, y.shape)
    x = b.broadcast(x, shape)
    quotient = b.binary("div", x, b.value(y))
    if op.attribute("fmod", 0):  # trunc is odd: floor of the positive part less floor of the negative one
        above, below = (b.unary("floor", b.unary("relu", part)) for part in (quotient, b.negate(quotient)))
        whole = b.binary("sub", above, below)
    else:
        whole = b.unary("floor", quotient)
    return [b.binary("sub", x, b.affine(whole, scale=y), x.scalar_type)]


HANDLERS = {
    "Einsum": import_einsum,
    "Hardmax": import_hardmax,
    "TopK": import_top_k,
    "LpPool": import_lp_pool,
    "GlobalLpPool": import_lp_pool,
    "MeanVarianceNormalization": import_mean_variance_normalization,
    "Shrink": import_shrink,
    "Cosh": import_hyperbolic,
    "Sinh": import_hyperbolic,
    "Atanh": import_atanh,
    "Acosh": import_acosh,
    "Asinh": import_asinh,
    "Mod": import_mod,
}
