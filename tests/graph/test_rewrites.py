"""Rewrites at import keep the function: fused weights, merged neurons, sparse products."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Graph, Node, evaluate
from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._fuse import fuse, prune
from provenn.bounds.graph._merge import simplify

RANDOM = np.random.default_rng(5)


def chain(*parts: tuple[str, dict], shape=(1, 4)) -> list[Node]:
    """A chain of operators on one input; shapes follow from the weights."""
    nodes = [Node("input", (), shape)]
    for operator, attributes in parts:
        last = nodes[-1].shape
        if operator == "linear":
            last = (*last[:-1], attributes["weight"].shape[1])
        if operator == "conv":
            last = (last[0], attributes["weight"].shape[0], *last[2:])
        if operator == "conv_transpose":
            last = (last[0], attributes["weight"].shape[1] * attributes["groups"], *last[2:])
        nodes.append(Node(operator, (len(nodes) - 1,), last, attributes))
    return nodes


def compare(nodes: list[Node], rewritten, tolerance=1e-12) -> list[Node]:
    graph = Graph(tuple(nodes), (0,), (len(nodes) - 1,))
    other = Graph(*(tuple(part) for part in rewritten))
    x = torch.from_numpy(RANDOM.uniform(-2, 2, (50, *nodes[0].shape)))
    expected, found = evaluate(graph, [x])[0], evaluate(other, [x])[0]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    return list(other.nodes)


def relus(nodes) -> list[int]:
    return [node.size for node in nodes if node.operator == "relu"]


def weights(n: int, m: int, bias: bool = True) -> tuple[str, dict]:
    made = {"weight": RANDOM.standard_normal((n, m)).astype(np.float32)}
    return "linear", made | ({"bias": RANDOM.standard_normal(m).astype(np.float32)} if bias else {})


# ---------------------------------------------------------------------------------------- constants


def fraction(x: float) -> Fraction:
    return Fraction(float(x))


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_arithmetic_states_its_error(operation, dtype):
    exact = {"add": Fraction.__add__, "subtract": Fraction.__sub__, "multiply": Fraction.__mul__,
             "divide": Fraction.__truediv__}[operation]  # fmt: skip
    values = np.concatenate([RANDOM.standard_normal(40), [1.0, 3.0, -0.5, 1e-30, 7e25, 0.1]]).astype(dtype)
    for _ in range(4):
        a, b = RANDOM.permutation(values), RANDOM.permutation(values)
        x = Constant(a, a.astype(np.float64), np.abs(a.astype(np.float64)) * 1e-14)
        for left in (Constant(a), x):
            found = getattr(constants, operation)(left, Constant(b))
            radius = np.zeros(a.shape) if found.radius is None else found.radius
            for p, q, value, r in zip(a, b, found.value, radius, strict=True):
                ends = [fraction(p)]
                if left is x:
                    spread = fraction(abs(np.float64(p)) * 1e-14)
                    ends = [fraction(p) - spread, fraction(p) + spread]
                for end in ends:
                    assert abs(exact(end, fraction(q)) - fraction(value)) <= fraction(r)


def test_exact_arithmetic_has_no_radius():
    a, b = (RANDOM.standard_normal(100).astype(np.float32) for _ in range(2))
    assert constants.multiply(Constant(a), Constant(b)).radius is None
    assert constants.add(Constant(a), Constant(np.float32([0.5]))).radius is None
    assert constants.divide(Constant(a), Constant(np.float32([4.0]))).radius is None
    assert constants.square_root(Constant(np.float32([4.0, 2.25]))).radius is None
    assert constants.square_root(Constant(np.float32([2.0]))).radius is not None
    assert constants.divide(constants.scalar(1.0), constants.scalar(3.0)).radius is not None


def test_square_root_states_its_error():
    x = Constant(np.abs(RANDOM.standard_normal(50)), None, np.full(50, 1e-12))
    found = constants.square_root(x)
    for a, value, radius in zip(x.array, found.value, found.radius, strict=True):
        for end in (fraction(a) - fraction(1e-12), fraction(a) + fraction(1e-12)):
            low, high = fraction(value) - fraction(radius), fraction(value) + fraction(radius)
            assert max(low, 0) ** 2 <= end <= high**2


# ---------------------------------------------------------------------------------------- fusing


CONVOLUTION = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1}


@pytest.mark.parametrize("scale", [None, (5, 1, 1), (1,)])
def test_affine_after_convolution(scale):
    affine = {"shift": RANDOM.standard_normal((1, 5, 1, 1))}
    if scale:
        affine["scale"] = RANDOM.standard_normal(scale)
    conv = CONVOLUTION | {"weight": RANDOM.standard_normal((5, 3, 1, 1)), "bias": RANDOM.standard_normal(5)}
    nodes = chain(("conv", conv), ("affine", affine), ("relu", {}), shape=(1, 3, 4, 4))
    assert [n.operator for n in compare(nodes, prune(*fuse(nodes, [0], [3])))] == ["input", "conv", "relu"]


def test_affine_after_grouped_transposed_convolution():
    conv = CONVOLUTION | {"weight": RANDOM.standard_normal((4, 3, 1, 1)), "groups": 2}
    affine = {"scale": RANDOM.standard_normal((6, 1, 1)), "shift": RANDOM.standard_normal((6, 1, 1))}
    nodes = chain(("conv_transpose", conv), ("affine", affine), ("relu", {}), shape=(1, 4, 3, 3))
    assert len(compare(nodes, prune(*fuse(nodes, [0], [3])))) == 3


def test_affine_that_varies_within_a_channel_stays():
    conv = CONVOLUTION | {"weight": RANDOM.standard_normal((5, 3, 1, 1))}
    nodes = chain(
        ("conv", conv), ("affine", {"shift": RANDOM.standard_normal((5, 4, 4))}), shape=(1, 3, 4, 4)
    )
    assert len(compare(nodes, prune(*fuse(nodes, [0], [2])))) == 3


def test_affine_maps_and_linear_maps_join():
    affine = {"scale": RANDOM.standard_normal(6), "shift": RANDOM.standard_normal(6)}
    nodes = chain(weights(4, 6), ("affine", affine), ("affine", affine), weights(6, 3), ("relu", {}))
    assert [n.operator for n in compare(nodes, prune(*fuse(nodes, [0], [5])))][-1] == "relu"
    narrow = chain(weights(40, 2), weights(2, 40), shape=(1, 40))
    assert len(compare(narrow, prune(*fuse(narrow, [0], [2])))) == 3  # the product would be more work


def test_a_factor_before_a_linear_map_joins_it():
    nodes = chain(("relu", {}), ("affine", {"scale": RANDOM.standard_normal(4)}), weights(4, 3))
    assert [n.operator for n in compare(nodes, prune(*fuse(nodes, [0], [3])))] == ["input", "relu", "linear"]
    shifted = chain(("affine", {"shift": RANDOM.standard_normal(4)}), weights(4, 3))
    assert len(compare(shifted, prune(*fuse(shifted, [0], [2])))) == 3


def test_a_value_with_two_readers_is_not_fused():
    nodes = [*chain(weights(4, 6), ("affine", {"shift": np.ones(6)})), Node("add", (1, 2), (1, 6))]
    assert len(compare(nodes, prune(*fuse(nodes, [0], [3])))) == 4


def test_the_radius_covers_the_rounding_of_fused_weights():
    scale = {"scale": np.full(6, 1 / 3), "scale_radius": np.full(6, 2.0**-54)}
    fused = prune(*fuse(chain(weights(4, 6), ("affine", scale)), [0], [2]))[0][-1]
    weight, radius = fused.attributes["weight"], fused.attributes["weight_radius"]
    stored = chain(weights(4, 6))  # only to show that exact products need none
    assert "weight_radius" not in stored[-1].attributes
    assert (radius >= np.abs(weight) * 2.0**-54).all() and (radius <= np.abs(weight) * 2.0**-50).all()


# ---------------------------------------------------------------------------------------- merging


def test_equal_neurons_become_one():
    name, first = weights(4, 5)
    pick = [0, 1, 0, 2, 3, 4, 4]
    first = {key: value[..., pick] for key, value in first.items()}
    nodes = chain((name, first), ("relu", {}), weights(7, 3))
    found = compare(nodes, simplify(nodes, [0], [3]))
    assert relus(found) == [5] and [n.operator for n in found] == ["input", "linear", "relu", "linear"]


def test_opposite_and_scaled_neurons_become_one():
    name, first = weights(4, 3)
    factors = np.float32([1, -1, 2, 1, -0.25])
    pick = [0, 0, 0, 1, 2]
    first = {key: value[..., pick] * factors for key, value in first.items()}
    nodes = chain((name, first), ("relu", {}), weights(5, 6), ("relu", {}), weights(6, 2))
    found = compare(nodes, simplify(nodes, [0], [5]))
    assert relus(found) == [3, 6]


def test_a_relu_that_cancels_disappears():
    """relu(z) - relu(-z) = z."""
    first = {"weight": np.float32([[1, -1], [2, -2]]), "bias": np.float32([3, -3])}
    second = {"weight": np.float32([[1], [-1]]), "bias": np.float32([0.5])}
    nodes = chain(("linear", first), ("relu", {}), ("linear", second), shape=(1, 2))
    assert [n.operator for n in compare(nodes, simplify(nodes, [0], [3]))] == ["input", "linear"]


def test_neurons_with_constant_input_move_into_the_bias():
    first = {"weight": np.float32([[1, 0, 0], [2, 0, 0]]), "bias": np.float32([3, 2, -1])}
    nodes = chain(("linear", first), ("relu", {}), weights(3, 2), shape=(1, 2))
    assert relus(compare(nodes, simplify(nodes, [0], [3]))) == [1]


@pytest.mark.parametrize("first, second", [(0.0, 1.0), (1.0, 0.0)])
def test_layers_of_zeros_are_left_alone(first, second):
    nodes = chain(
        ("linear", {"weight": np.full((2, 3), np.float32(first)), "bias": np.float32([3, 2, -1])}),
        ("relu", {}),
        ("linear", {"weight": np.full((3, 2), np.float32(second))}),
        shape=(1, 2),
    )  # fmt: skip
    compare(nodes, simplify(nodes, [0], [3]))


def maximum_tree(width: int) -> list[Node]:
    """The largest of ``width`` affine functions, written with three ReLUs per pair as converters do."""
    parts = [weights(2, width)]
    while width > 1:
        pairs = width // 2
        before, after = np.zeros((width, 3 * pairs), np.float32), np.zeros((3 * pairs, pairs), np.float32)
        for k in range(pairs):
            before[2 * k, 3 * k], before[2 * k + 1, 3 * k] = 1, -1
            before[2 * k + 1, 3 * k + 1], before[2 * k + 1, 3 * k + 2] = 1, -1
            after[3 * k : 3 * k + 3, k] = 1, 1, -1
        parts += [("linear", {"weight": before}), ("relu", {}), ("linear", {"weight": after})]
        width = pairs
    return chain(*parts, shape=(1, 2))


@pytest.mark.parametrize("width", [2, 4, 16])
def test_a_tree_of_maxima_keeps_one_relu_per_pair(width):
    nodes = maximum_tree(width)
    found = compare(nodes, simplify(nodes, [0], [len(nodes) - 1]))
    assert sum(relus(found)) == width - 1
    affine = evaluate(Graph(tuple(nodes[:2]), (0,), (1,)), [x := torch.ones(1, 1, 2, dtype=torch.float64)])[0]
    whole = evaluate(Graph(tuple(nodes), (0,), (len(nodes) - 1,)), [x])[0]
    torch.testing.assert_close(whole.flatten(), affine.amax().reshape(1))


def test_random_networks_with_repeated_hyperplanes():
    for _ in range(20):
        parts, width = [], 4
        for _ in range(3):
            name, layer = weights(width, 6)
            pick = RANDOM.integers(0, 6, 9)
            factors = RANDOM.choice([1.0, -1.0, 0.5, -2.0], 9).astype(np.float32)
            parts += [(name, {key: value[..., pick] * factors for key, value in layer.items()}), ("relu", {})]
            width = 9
        nodes = chain(*parts, weights(9, 3))
        compare(nodes, simplify(nodes, [0], [len(nodes) - 1]), 1e-9)
