"""What spelled-out functions of one variable look like: a list of rules for each operator that may end one.

A rule looks at a node and says which operator on which source it is, or None.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._graph import Node
from provenn.bounds.graph._normalise import as_bounded_quotient, as_softmax
from provenn.bounds.graph._recognise import ONE, Match, Reader, Rule, equals

_ROOT_2 = Constant(np.asarray(np.sqrt(2.0)), None, np.asarray(2.0**-52))
_TWO = constants.scalar(2.0)
_MINUS = constants.scalar(-1.0)
_GELU_CUBE = 0.044715
_GELU_SCALE = float(np.sqrt(2 / np.pi))
"""The constants of the operator ``gelu_tanh``."""

# ---------------------------------------------------------------------------------------- x times a gate of x


def _product(reader: Reader, node: Node) -> Match | None:
    x, y = node.inputs
    for rule in (_power, _gated):
        found = rule(reader, x, y) or rule(reader, y, x)
        if found is not None:
            return found
    return _by_reciprocal(reader, node)


def _gated(reader: Reader, x: int, gate: int) -> Match | None:
    """``x * gate`` where the gate is a sigmoid, an error function, a soft plus, a clip or the sign of x."""
    for link in reader.chain(gate):
        for base in reader.multiples(x):
            found = _gate(reader, base.source, link.source, link.scale, link.shift)
            if found is not None:
                outer = constants.multiply(base.scale, found.outer)
                return replace(found, source=base.source, outer=outer)
    return None


def _gate(reader: Reader, source: int, core: int, scale: Constant, shift: Constant | None) -> Match | None:
    """Recognise ``source * (scale * core + shift)``."""
    if shift is not None:
        if shift.radius is not None or scale.radius is not None or scale.value != shift.value:
            return None
        return _erf_gate(reader, source, core, scale) or _tanh_gate(reader, source, core, scale)
    argument = reader.operand(core, "sigmoid")
    inner = None if argument is None else reader.relative(argument, source)
    if inner is not None:
        return Match("silu", source, inner, constants.divide(scale, inner))
    argument = reader.operand(core, "tanh")
    argument = None if argument is None else reader.operand(argument, "softplus")
    if argument == source:
        return Match("mish", source, ONE, scale)
    if reader.nodes[core].operator == "less" and _is_zero(reader, reader.nodes[core].inputs[0]):
        inner = reader.relative(reader.nodes[core].inputs[1], source)
        if inner is not None and inner.value > 0 and inner.radius is None:
            return Match("relu", source, ONE, scale)
    return _clip_gate(reader, source, core, scale)


def _erf_gate(reader: Reader, source: int, core: int, scale: Constant) -> Match | None:
    """gelu(t) = t (1 + erf(t / sqrt 2)) / 2 at t = sqrt 2 inner x is sqrt 2 inner x (1 + erf(inner x)) / 2."""
    argument = reader.operand(core, "erf")
    inner = None if argument is None else reader.relative(argument, source)
    if inner is None or not inner.value > 0:
        return None
    factor = constants.multiply(_ROOT_2, inner)
    return Match("gelu", source, factor, constants.divide(constants.multiply(scale, _TWO), factor))


def _tanh_gate(reader: Reader, source: int, core: int, scale: Constant) -> Match | None:
    """``x (1 + tanh(k x)) = 2 x sigmoid(2 k x)``; with a cube inside it is the gelu of tanh."""
    argument = reader.operand(core, "tanh")
    if argument is None:
        return None
    double = constants.multiply(scale, _TWO)
    inner = reader.relative(argument, source)
    if inner is not None:
        inner = constants.multiply(inner, _TWO)
        return Match("silu", source, inner, constants.divide(double, inner))
    terms = polynomial(reader, argument, source)
    if terms is None or set(terms) != {1, 3}:
        return None
    first, third = _apart(terms[1], _GELU_SCALE), _apart(terms[3], _GELU_SCALE * _GELU_CUBE)
    if max(first, third) > 1e-4:
        return None
    # d/dk of x (1 + tanh u) / 2 is at most x^2 / (2 cosh^2 u) for the linear coefficient and x^4 / (2 cosh^2 u) for the
    # cubic one; with |u| >= 0.79 |x| these are below 0.36 and 1.5.
    # So the slope changes by at most 0.37 and 0.80, at constants 1e-4 away as well.
    return Match(
        "gelu_tanh", source, ONE, double, radius=0.36 * first + 1.5 * third, slope_radius=0.5 * first + 1.5 * third
    )


def _apart(found: Constant, wanted: float) -> float:
    radius = 0.0 if found.radius is None else float(found.radius)
    return abs(float(found.value) - wanted) + radius + 2.0**-52


def _clip_gate(reader: Reader, source: int, core: int, scale: Constant) -> Match | None:
    """``x clip(x + 3, 0, 6) = 6 hard_swish(x)``, and the same of x / 6 + 1/2, whose sixth the file rounds."""
    node = reader.nodes[core]
    if node.operator == "hard_sigmoid" and _is_scalar(node, "alpha") and _is_scalar(node, "beta"):
        slope, shift = (constants.scalar(float(node.attributes[name])) for name in ("alpha", "beta"))
        low, high = 0.0, 1.0
    elif node.operator == "clip" and _is_scalar(node, "lower") and _is_scalar(node, "upper"):
        slope, shift = ONE, constants.scalar(0.0)
        low, high = float(node.attributes["lower"]), float(node.attributes["upper"])
    else:
        return None
    link = next((link for link in reader.chain(node.inputs[0]) if link.source == source), None)
    if link is None or low != 0.0 or not high > 0:
        return None
    if link.shift is not None:
        shift = constants.add(constants.multiply(slope, link.shift), shift)
    slope = constants.multiply(slope, link.scale)
    if not equals(shift, high / 2):
        return None
    # With a the slope, clip(a x + h / 2, 0, h) and h clip(x / 6 + 1/2, 0, 1) are at most |a - h / 6| |x| apart, and
    # equal where both are cut off: where |x| is above 3 or so.
    apart = 0.0 if high == 6.0 and equals(slope, 1.0) else _apart(slope, high / 6)
    if apart > 1e-4 * high:
        return None
    outer = constants.multiply(scale, constants.scalar(high))
    # Where the kinks are apart so are the slopes, by 3/2.
    return Match("hard_swish", source, ONE, outer, radius=9.1 * apart / high, slope_radius=1.6 if apart else 0.0)


def _is_scalar(node: Node, name: str) -> bool:
    return name in node.attributes and np.size(node.attributes[name]) == 1


# ---------------------------------------------------------------------------------------- powers and roots


def polynomial(reader: Reader, index: int, source: int, depth: int = 8) -> dict[int, Constant] | None:
    """The coefficients of a value that is spelled out as a polynomial of degree at most 3 in the source."""
    if index == source:
        return {1: ONE}
    node = reader.nodes[index]
    if depth == 0:
        return None
    if node.operator == "affine":
        link = list(reader.chain(index))[1:2]
        terms = polynomial(reader, link[0].source, source, depth - 1) if link else None
        if terms is None:
            return None
        terms = {power: constants.multiply(link[0].scale, c) for power, c in terms.items()}
        if link[0].shift is not None:
            terms[0] = constants.add(terms[0], link[0].shift) if 0 in terms else link[0].shift
        return terms
    parts = []
    for operand in node.inputs if node.operator in ("add", "sub", "mul", "pow") else ():
        terms = polynomial(reader, operand, source, depth - 1)
        if terms is None:
            return None
        parts.append(terms)
    if node.operator == "pow" and node.attributes["exponent"] in (2.0, 3.0):
        parts *= int(node.attributes["exponent"])
    if node.operator in ("add", "sub") and parts:
        if len(parts) != 2:
            return None
        first, second = parts
        if node.operator == "sub":
            second = {power: constants.negate(c) for power, c in second.items()}
        both = {p: constants.add(first[p], second[p]) for p in first.keys() & second.keys()}
        return {**first, **second, **both}
    if node.operator not in ("mul", "pow") or len(parts) < 2:
        return None
    total = parts[0]
    for part in parts[1:]:
        grown: dict[int, Constant] = {}
        for p, a in total.items():
            for q, b in part.items():
                term = constants.multiply(a, b)
                grown[p + q] = constants.add(grown[p + q], term) if p + q in grown else term
        total = grown
    return total if max(total) <= 3 else None


def _power(reader: Reader, x: int, y: int) -> Match | None:
    """Products of powers of one value: ``x x``, ``x^2 x``, ``|x| |x|``."""
    for first in reader.multiples(x):
        for second in reader.multiples(y):
            (base, p), (other, q) = (_base(reader, link.source) for link in (first, second))
            if base == other:
                outer = constants.multiply(first.scale, second.scale)
                return Match("pow", base, ONE, outer, {"exponent": float(p + q)})
            # A factor between the base and its power: x (2 x)^2 is 4 x^3.
            inner = reader.relative(base, other) if p > 1 else None
            if inner is not None:
                outer = constants.multiply(constants.multiply(first.scale, second.scale), _raised(inner, p))
                return Match("pow", other, ONE, outer, {"exponent": float(p + q)})
    common = reader.common(x, y)
    if common is None:
        return None
    return Match("pow", common[0], ONE, constants.multiply(common[1], common[2]), {"exponent": 2.0})


def _raised(x: Constant, power: int) -> Constant:
    total = x
    for _ in range(power - 1):
        total = constants.multiply(total, x)
    return total


def _base(reader: Reader, index: int) -> tuple[int, int]:
    """A value as an integer power of another one."""
    node = reader.nodes[index]
    exponent = node.attributes.get("exponent", 0.0) if node.operator == "pow" else 0.0
    return (node.inputs[0], int(exponent)) if exponent in (2.0, 3.0, 4.0) else (index, 1)


def _power_of(reader: Reader, node: Node) -> Match | None:
    """``|x|^n = x^n`` for even n; powers of whole powers."""
    exponent = float(node.attributes["exponent"])
    source = reader.operand(node.inputs[0], "abs")
    if source is not None and exponent in (2.0, 4.0, 6.0):
        return Match("pow", source, attributes={"exponent": exponent})
    base, power = _base(reader, node.inputs[0])
    if power > 1 and exponent in (2.0, 3.0, 4.0):
        return Match("pow", base, attributes={"exponent": power * exponent})
    return None


def _root(reader: Reader, node: Node) -> Match | None:
    """``sqrt(c x^2) = sqrt(c) |x|``."""
    link = reader.affine(node.inputs[0])
    inside = reader.nodes[link.source]
    if link.shift is not None or inside.operator != "pow" or inside.attributes["exponent"] != 2.0:
        return None
    if not link.scale.value > 0:
        return None
    return Match("abs", inside.inputs[0], ONE, constants.square_root(link.scale))


# ---------------------------------------------------------------------------------------- quotients


def _by_reciprocal(reader: Reader, node: Node) -> Match | None:
    for x, y in (node.inputs, node.inputs[::-1]):
        link = reader.affine(y)
        below = reader.operand(link.source, "reciprocal")
        found = None if below is None or link.shift is not None else _over(reader, x, below)
        if found is not None:
            outer = constants.multiply(found.outer, link.scale)
            return replace(found, outer=outer)
    return None


def _quotient(reader: Reader, node: Node) -> Match | None:
    return _over(reader, *node.inputs) or _hyperbolic(reader, node)


def _over(reader: Reader, x: int, y: int) -> Match | None:
    """``x / |x|``, ``x / (1 + |x|)`` and ``x / (1 + exp(-k x))``."""
    link = reader.affine(y)
    node = reader.nodes[link.source]
    if node.operator not in ("abs", "exp"):
        return None
    for base in reader.multiples(x):
        inner = reader.relative(node.inputs[0], base.source)
        if inner is None:
            continue
        size = inner if inner.value > 0 else constants.negate(inner)
        if node.operator == "abs" and link.shift is None:
            below = constants.multiply(link.scale, size)
            return Match("sign", base.source, ONE, constants.divide(base.scale, below), undefined=True)
        one = equals(link.shift, 1.0) and equals(link.scale, 1.0)
        if node.operator == "abs" and one:
            return Match("softsign", base.source, size, constants.divide(base.scale, size))
        if node.operator == "exp" and one:
            inner = constants.negate(inner)
            return Match("silu", base.source, inner, constants.divide(base.scale, inner))
    return None


def _sigmoid(reader: Reader, node: Node) -> Match | None:
    """``1 / (1 + exp(-x))``."""
    link = reader.affine(node.inputs[0])
    argument = reader.operand(link.source, "exp")
    if argument is None or not (equals(link.scale, 1.0) and equals(link.shift, 1.0)):
        return None
    return Match("sigmoid", argument, _MINUS)


def _hyperbolic(reader: Reader, node: Node) -> Match | None:
    """``(e^x - e^-x) / (e^x + e^-x)`` and ``(e^2x - 1) / (e^2x + 1)`` are tanh(x)."""
    above, below = (reader.nodes[i] for i in node.inputs)
    same = len(below.inputs) == 2 and set(above.inputs) == set(below.inputs)
    if above.operator == "sub" and below.operator == "add" and same:
        arguments = [reader.operand(i, "exp") for i in above.inputs]
        if arguments[0] is None or arguments[1] is None:
            return None
        common = reader.common(arguments[0], arguments[1])
        if common is None or not all(c.radius is None for c in common[1:]):
            return None
        source, first, second = common
        return Match("tanh", source, first) if first.value == -second.value else None
    upper, lower = (reader.affine(i) for i in node.inputs)
    argument = reader.operand(upper.source, "exp")
    if argument is None or lower.source != upper.source or not (equals(upper.scale, 1.0) and equals(lower.scale, 1.0)):
        return None
    if equals(upper.shift, -1.0) and equals(lower.shift, 1.0):
        return Match("tanh", argument, constants.scalar(0.5))
    return None


# ---------------------------------------------------------------------------------------- logarithms


def _logarithm(reader: Reader, node: Node) -> Match | None:
    """``log(1 + exp(x))`` is softplus(x), ``log(sigmoid(x))`` is -softplus(-x)."""
    source = reader.operand(node.inputs[0], "sigmoid")
    if source is not None:
        return Match("softplus", source, _MINUS, _MINUS)
    link = reader.affine(node.inputs[0])
    argument = reader.operand(link.source, "exp")
    one = equals(link.scale, 1.0) and equals(link.shift, 1.0)
    return Match("softplus", argument) if argument is not None and one else None


# ---------------------------------------------------------------------------------------- sums of relus, maxima


def _opposite(reader: Reader, x: int, y: int) -> int | None:
    """x where y is -x."""
    return x if equals(reader.relative(y, x), -1.0) else None


def _sum(reader: Reader, node: Node) -> Match | None:
    """``relu(x) + relu(-x)``, ``relu(x) + log(1 + exp(-|x|))``, and ``x + x core`` as x times a gate."""
    if len(node.inputs) != 2:
        return None
    for x, y in (node.inputs, node.inputs[::-1]):
        source, other = reader.operand(x, "relu"), reader.operand(y, "relu")
        if source is not None and other is not None:
            found = _opposite(reader, source, other)
            if found is not None:
                return Match("abs", found)
        small = reader.operand(y, "softplus")
        if source is not None and small is not None:
            link = reader.affine(small)
            if equals(link.scale, -1.0) and link.shift is None and reader.operand(link.source, "abs") == source:
                return Match("softplus", source)
        product = reader.nodes[y]
        if product.operator == "mul":
            for base, core in (product.inputs, product.inputs[::-1]):
                if base == x:
                    gate = _gate(reader, base, core, ONE, ONE)
                    if gate is not None:
                        return gate
    return None


def _difference(reader: Reader, node: Node) -> Match | None:
    """``relu(x) - relu(-x)`` is x."""
    source, other = (reader.operand(i, "relu") for i in node.inputs)
    if source is None or other is None:
        return None
    found = _opposite(reader, source, other) if source != other else None
    return None if found is None else Match("identity", found)


def _maximum(reader: Reader, node: Node) -> Match | None:
    """``max(x, s x)`` for s < 1 is a leaky relu, |x| for s = -1; the same of a minimum with both signs turned."""
    sign = 1.0 if node.operator == "max" else -1.0
    for x, y in (node.inputs, node.inputs[::-1]):
        slope = reader.relative(y, x)
        if slope is None or slope.radius is not None or not slope.value <= 1:
            continue
        if slope.value == 1:
            return Match("identity", x)
        turned = constants.scalar(sign)
        if slope.value == -1:
            return Match("abs", x, turned, turned)
        return Match("leaky_relu", x, turned, turned, {"slope": np.asarray(float(slope.value))})
    return None


# ---------------------------------------------------------------------------------------- choices


def _is_zero(reader: Reader, index: int) -> bool:
    node = reader.nodes[index]
    while node.operator in ("reshape", "index", "transpose"):
        node = reader.nodes[node.inputs[0]]
    return node.operator == "constant" and "radius" not in node.attributes and not np.any(node.attributes["value"])


def _choice(reader: Reader, node: Node) -> Match | None:
    """``where(x > 0, x, s x)`` is a (leaky) relu, ``where(x > 0, x, s (exp(x) - 1))`` an elu: continuous at 0."""
    condition, above, below = node.inputs
    test = reader.nodes[condition]
    if test.operator not in ("less", "less_or_equal") or node.shape != test.shape:
        return None
    if _is_zero(reader, test.inputs[1]):  # x < 0
        above, below = below, above
        read = test.inputs[0]
    elif _is_zero(reader, test.inputs[0]):  # 0 < x
        read = test.inputs[1]
    else:
        return None
    sign = reader.relative(read, above)
    if sign is None or sign.radius is not None or not sign.value > 0:
        return None
    if _is_zero(reader, below):
        return Match("relu", above)
    slope = reader.relative(below, above)
    if slope is not None and slope.radius is None:
        if slope.value == 1:
            return Match("identity", above)
        operator = "leaky_relu" if slope.value <= 1 else "prelu"
        return Match(operator, above, attributes={"slope": np.asarray(float(slope.value))})
    link = reader.affine(below)
    argument = reader.operand(link.source, "exp")
    if argument != above or link.shift is None or link.scale.radius is not None or not link.scale.value > 0:
        return None
    if not equals(link.shift, -float(link.scale.value)):
        return None
    return Match("elu", above, attributes={"alpha": np.asarray(float(link.scale.value))})


RULES: dict[str, tuple[Rule, ...]] = {
    "mul": (_product,),
    "div": (_quotient, as_softmax, as_bounded_quotient),
    "reciprocal": (_sigmoid,),
    "sqrt": (_root,),
    "pow": (_power_of,),
    "log": (_logarithm,),
    "add": (_sum,),
    "sub": (_difference,),
    "max": (_maximum,),
    "min": (_maximum,),
    "where": (_choice,),
}
