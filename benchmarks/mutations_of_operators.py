"""Seeded bugs of relaxations and intervals, for ``mutation.py``."""

from __future__ import annotations

from mutations import BOUNDS, ROUNDING, Mutation


def held(*labels: str) -> tuple[str, ...]:
    """Tests that the bounds of these operators hold."""
    return tuple(f"tests/ops/test_conformance.py::test_bounds_hold[{label}]" for label in labels)


MUTATIONS = (
    Mutation(
        "missing candidate of a support function",
        "bounds/ops/piecewise.py",
        "return [(limit, None, None) for limit in _limits(p) if limit is not None]",
        "return [(limit, None, None) for limit in _limits(p) if limit is not None][:1]",
        (*held("clip"), *BOUNDS),
    ),
    Mutation(
        "wrong upper offset of relu",
        "bounds/ops/piecewise.py",
        "bu = torch.maximum(-ku * low, high - product)",
        "bu = 0.9 * torch.maximum(-ku * low, high - product)",
        (*held("relu"), *BOUNDS),
    ),
    Mutation(
        "lower plane of max pooling above the maximum",
        "bounds/ops/minmax.py",
        "slopes = zero.scatter(-1, (lower + upper).nan_to_num(nan=-torch.inf).argmax(-1, keepdim=True), 1.0)",
        "slopes = zero.scatter(-1, (lower + upper).nan_to_num(nan=-torch.inf).argmax(-1, keepdim=True), 1.1)",
        ("tests/ops/test_planes.py",),
    ),
    Mutation(
        "transposed convolution ignores the padding",
        "bounds/ops/conv.py",
        'y = _spread(prepared, flat, weight, derived["begin"], derived["wide"])',
        'y = _spread(prepared, flat, weight, (0, 0), derived["wide"])',
        ("tests/graph/test_linear_operators.py", *BOUNDS),
    ),
    Mutation(
        "interval not rounded outward",
        "bounds/ops/_outward.py",
        "lower, upper = lower - error, upper + error",
        "lower, upper = lower + 0 * error, upper + 0 * error",
        ROUNDING,
    ),
    Mutation(
        "a jump of a table without its limit from the left",
        "bounds/ops/pieces.py",
        "torch.maximum(left, right)",
        "right",
        ("tests/graph/test_univariate.py",),
    ),
    Mutation(
        "scattered positions below zero are not counted from the end",
        "bounds/ops/opaque.py",
        "                reach = reach | ((a <= along - extent) & (along - extent <= b))",
        "                reach = reach | ((a <= along - extent) & (along - extent < a))",
        ("tests/graph/test_interval_operators.py",),
    ),
    Mutation(
        "a cast's type holds everything",
        "bounds/ops/discrete.py",
        "    held = (lower >= first) & (upper <= last)",
        "    held = lower <= upper",
        ("tests/graph/test_operators.py",),
    ),
    Mutation(
        "half of the stationary points of sin",
        "bounds/ops/smooth.py",
        "for start in (angle, -angle)]",
        "for start in (angle, angle)]",
        held("sin"),
    ),
    Mutation(
        "stationary points of cos with the wrong sign",
        "bounds/ops/smooth.py",
        "for start in (-angle, math.pi + angle)]",
        "for start in (angle, math.pi + angle)]",
        held("cos"),
    ),
    Mutation(
        "no negative root of a power",
        "bounds/ops/smooth.py",
        "return [(x, None, None), (-x, None, None), (0.0, -torch.inf, torch.inf) if n < 0",
        "return [(x, None, None), (x, None, None), (0.0, -torch.inf, torch.inf) if n < 0",
        held("pow 4"),
    ),
    Mutation(
        "no pole of the reciprocal",
        "bounds/ops/smooth.py",
        "return [(x, None, None), (-x, None, None), (0.0, -torch.inf, torch.inf)]",
        "return [(x, None, None), (-x, None, None)]",
        held("reciprocal around 0"),
    ),
    Mutation(
        "derivative of erf with the wrong factor",
        "bounds/ops/smooth.py",
        "torch.log(k * (math.sqrt(math.pi) / 2))",
        "torch.log(k * (2 / math.sqrt(math.pi)))",
        held("erf"),
    ),
    Mutation(
        "roots of the least slopes",
        "bounds/ops/smooth.py",
        "min=info.tiny * info.eps, max=most",
        "min=info.tiny, max=most",
        ("tests/ops/test_conformance.py::test_a_slope_of_the_reciprocal_below_the_normal_range",),
    ),
    Mutation(
        "a lost root of selu without its slack",
        "bounds/ops/smooth.py",
        "return [zero, (inner, None, lost)]",
        "return [zero, (inner, None, None)]",
        held("selu standard"),
    ),
    Mutation(
        "elu linear where only the upper end is positive",
        "bounds/ops/smooth.py",
        'return lower >= 0, p.tensors.get("gamma", 1.0), 0.0',
        'return upper >= 0, p.tensors.get("gamma", 1.0), 0.0',
        held("elu"),
    ),
    Mutation(
        "a bracketed root without the slack of its bracket",
        "bounds/ops/_bracketed.py",
        "cover = torch.where(crossing, rest.abs() * (high - low), 0.0) + noise",
        "cover = 0 * rest",
        held("gelu", "mish"),
    ),
    Mutation(
        "offsets without the slack of their evaluation",
        "bounds/ops/relaxation.py",
        "return error + rounding + (point != 0).to(point.dtype) * info.tiny",
        "return 0 * (error + rounding)",
        held("tanh", "pow 3"),
    ),
    Mutation(
        "images of increasing functions not rounded outward",
        "bounds/ops/smooth.py",
        "a, b = outward(evaluate(p, lower), evaluate(p, upper))",
        "a, b = evaluate(p, lower), evaluate(p, upper)",
        held("sigmoid"),
    ),
    Mutation(
        "a break point of the hard sigmoid off by rounding",
        "bounds/ops/piecewise.py",
        "return torch.where(saturated, 0.0, rounding)",
        "return torch.where(saturated, 0.0, 0 * rounding)",
        held("hard_sigmoid", "hard_sigmoid 1/6"),
    ),
    Mutation(
        "floor without its last jump",
        "bounds/ops/_jumps.py",
        "first, last = torch.floor(lower) + 1, torch.floor(upper)",
        "first, last = torch.floor(lower) + 1, torch.floor(upper) - 1",
        held("floor"),
    ),
    Mutation(
        "planes without their rounding",
        "bounds/ops/_planes.py",
        "(slack * info.eps + 3 * info.tiny * nonzero).detach()",
        "(0 * slack).detach()",
        held("mul both operands"),
    ),
    Mutation(
        "a maximum's lower plane without the diagonal",
        "bounds/ops/minmax.py",
        "lower = lower_plane(torch.maximum, corners(x, y) + meets, below",
        "lower = lower_plane(torch.maximum, corners(x, y), below",
        held("max operand 0", "max both operands"),
    ),
    Mutation(
        "a quotient's planes without stationary points",
        "bounds/ops/products.py",
        "points.append((end, torch.minimum(torch.maximum(root, y[0]), y[1])))",
        "points.append((end, y[0]))",
        held("div operand 0", "div operand 1"),
    ),
    Mutation(
        "a window's upper plane by its first element",
        "bounds/ops/minmax.py",
        "offset = swing.amax(-1) - at_low.sum(-1)",
        "offset = swing[..., 0] - at_low.sum(-1)",
        held("window_max"),
    ),
    Mutation(
        "sums of planes rounded inward",
        "bounds/ops/products.py",
        "(plane.offset.sum(-2) + side * slack)",
        "(plane.offset.sum(-2) - 8 * side * slack)",
        held("matmul both operands"),
    ),
    Mutation(
        "blends of planes without their rounding",
        "bounds/ops/_blend.py",
        "slack = size * ((2 * terms + 12) * info.eps) + 8 * terms * info.tiny",
        "slack = 0 * size",
        held("mul both operands", "matmul both operands"),
    ),
    Mutation(
        "exponentials that underflow are exact",
        "bounds/ops/softmax.py",
        "first = torch.where(low < tiny, 0.0, ",
        "first = torch.where(low < 0, 0.0, ",
        ("tests/ops/test_conformance.py::test_softmax_whose_exponentials_underflow", *held("softmax axis 1")),
    ),
    Mutation(
        "ties of the largest element",
        "bounds/ops/discrete.py",
        "possible = upper >= lower.amax(axis, keepdim=True)",
        "possible = upper > lower.amax(axis, keepdim=True)",
        held("argmax axis 1", "argmax axis 1 last"),
    ),
    Mutation(
        "a class that is possible is certain",
        "bounds/ops/discrete.py",
        "certain = (lower == upper) & possible",
        "certain = possible",
        held("one_hot 1.0 0.0"),
    ),
)
