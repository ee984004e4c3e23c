"""Every linear operator against torch.autograd: the transpose is the derivative's, bounds contain samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenn.bounds.graph import Node
from provenn.bounds.ops import OPS, LinearOperator, prepare

torch.set_num_threads(1)
RANDOM = np.random.default_rng(7)
UNIT = 2.0**-53


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape)


def node(operator: str, shape: tuple[int, ...], inputs: int = 1, **attributes) -> Node:
    return Node(operator, tuple(range(inputs)), shape, attributes)


def convolution(spatial, kernel, strides, pads, dilations, groups, channels=4, filters=6, bias=True, batch=2):
    rank = len(spatial)
    narrow = [
        (n + pads[k] + pads[rank + k] - dilations[k] * (kernel[k] - 1) - 1) // strides[k] + 1
        for k, n in enumerate(spatial)
    ]
    attributes = {
        "weight": normal(filters, channels // groups, *kernel), "strides": strides, "pads": pads,
        "dilations": dilations, "groups": groups,
    }  # fmt: skip
    if bias:
        attributes["bias"] = normal(filters)
    return node("conv", (batch, filters, *narrow), **attributes), [(batch, channels, *spatial)]


def spreading(spatial, kernel, strides, pads, dilations, groups, extra, channels=4, filters=6, batch=2):
    rank = len(spatial)
    wide = [
        (n - 1) * strides[k] + dilations[k] * (kernel[k] - 1) + 1 + extra[k] - pads[k] - pads[rank + k]
        for k, n in enumerate(spatial)
    ]
    made = node(
        "conv_transpose", (batch, filters, *wide), weight=normal(channels, filters // groups, *kernel),
        bias=normal(filters), strides=strides, pads=pads, dilations=dilations, groups=groups, output_padding=extra,
    )  # fmt: skip
    return made, [(batch, channels, *spatial)]


def sparse_matrix(n: int, m: int) -> np.ndarray:
    matrix = np.zeros((n, m))
    for column in range(m):
        matrix[RANDOM.integers(0, n, 3), column] = RANDOM.standard_normal(3)
    return matrix


def index(shape, indices):
    indices = np.asarray(indices)
    return node("index", indices.shape, indices=indices), [shape]


GRID = np.arange(24).reshape(2, 3, 4)
CASES = {
    "reshape": (node("reshape", (4, 6)), [(2, 3, 4)]),
    "transpose": (node("transpose", (4, 2, 3), perm=[2, 0, 1]), [(2, 3, 4)]),
    "index slice": index((2, 3, 4), GRID[:, 1:, ::2]),
    "index reverse": index((2, 3, 4), GRID[:, ::-1]),
    "index broadcast": index((2, 3, 1), np.broadcast_to(np.arange(6).reshape(2, 3, 1), (5, 2, 3, 4))),
    "index upsample": index((2, 3, 4), GRID.repeat(2, 1).repeat(3, 2)),
    "index tile": index((2, 3, 4), np.tile(GRID, (1, 2, 2))),
    "index pad": index((2, 3, 4), np.pad(GRID, 1, constant_values=-1)),
    "index pad and crop": index((2, 3, 4), np.pad(GRID[:, 1:], ((0, 0), (2, 1), (0, 0)), constant_values=-1)),
    "index repeated": index((2, 3, 4), RANDOM.integers(-1, 24, (5, 7))),
    "index gather": index((2, 3, 4), RANDOM.permutation(24)[:10].reshape(2, 5)),
    "index all absent": index((2, 3), np.full((4,), -1)),
    "concat": (node("concat", (2, 6, 4), 3, axis=1), [(2, 3, 4), (2, 1, 4), (2, 2, 4)]),
    "add": (node("add", (2, 3), 3), [(2, 3)] * 3),
    "sub": (node("sub", (2, 3), 2), [(2, 3)] * 2),
    "affine": (node("affine", (2, 3, 4), scale=normal(3, 1), shift=normal(4)), [(2, 3, 4)]),
    "affine scale": (node("affine", (2, 3), scale=normal(1)), [(2, 3)]),
    "affine shift": (node("affine", (2, 3), shift=normal(2, 1)), [(2, 3)]),
    "linear": (node("linear", (2, 3, 5), weight=normal(4, 5), bias=normal(5)), [(2, 3, 4)]),
    "linear vector": (node("linear", (5,), weight=normal(4, 5)), [(4,)]),
    "linear radius": (
        node("linear", (1, 5), weight=normal(4, 5), weight_radius=np.full((4, 5), 1e-9), bias=normal(5),
             bias_radius=np.full(5, 1e-9)), [(1, 4)],
    ),
    "linear sparse": (node("linear", (1, 300), weight=sparse_matrix(400, 300), bias=normal(300)), [(1, 400)]),
    "matmul_left": (node("matmul_left", (2, 5, 4), weight=normal(5, 3)), [(2, 3, 4)]),
    "matmul_left batch": (node("matmul_left", (2, 5, 4), weight=normal(2, 5, 3)), [(2, 3, 4)]),
    "matmul_left grown": (node("matmul_left", (2, 5, 4), weight=normal(2, 5, 3)), [(1, 3, 4)]),
    "matmul_left added": (node("matmul_left", (2, 6, 5, 4), weight=normal(2, 6, 5, 3)), [(6, 3, 4)]),
    "matmul_left both": (node("matmul_left", (2, 6, 5, 4), weight=normal(2, 6, 5, 3)), [(3, 4)]),
    "sum": (node("sum", (2, 4), axes=(1,), keepdims=False), [(2, 3, 4)]),
    "sum keep": (node("sum", (1, 3, 1), axes=(0, 2), keepdims=True), [(2, 3, 4)]),
    "constant": (node("constant", (2, 3), 0, value=normal(2, 3)), []),
    "conv 1d": convolution([9], [3], [2], [1, 0], [1], 1),
    "conv 2d": convolution([7, 8], [3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1),
    "conv rest": convolution([8, 7], [3, 2], [2, 3], [1, 0, 1, 0], [1, 1], 2),
    "conv asymmetric": convolution([8, 7], [3, 3], [2, 2], [0, 2, 1, 0], [1, 2], 1),
    "conv unread": convolution([9, 9], [2, 1], [3, 4], [0, 0, 0, 0], [1, 1], 2),
    "conv wide pads": convolution([4, 4], [3, 3], [1, 2], [3, 1, 0, 4], [1, 1], 1, bias=False),
    "conv 3d": convolution([4, 5, 4], [2, 3, 2], [2, 1, 1], [0, 1, 1, 1, 1, 0], [1, 1, 2], 2),
    "conv_transpose 1d": spreading([5], [3], [2], [1, 0], [1], 1, [1]),
    "conv_transpose 2d": spreading([4, 5], [4, 4], [2, 2], [1, 1, 1, 1], [1, 1], 2, [0, 0]),
    "conv_transpose asymmetric": spreading([4, 5], [3, 2], [2, 3], [0, 1, 1, 0], [2, 1], 1, [1, 2]),
    "conv_transpose crop": spreading([4, 5], [3, 2], [2, 3], [3, 0, 2, 1], [1, 1], 1, [0, 0]),
    "conv_transpose 3d": spreading([3, 2, 3], [2, 2, 3], [2, 1, 2], [0, 0, 1, 1, 0, 1], [1, 1, 1], 2, [0, 0, 1]),
}  # fmt: skip


@pytest.fixture(params=CASES, ids=str)
def case(request):
    made, shapes = CASES[request.param]
    prepared = prepare(made, tuple(shapes), torch.float64, torch.device("cpu"))
    record = OPS[made.operator]
    assert isinstance(record, LinearOperator)
    return record, prepared, [torch.from_numpy(normal(5, *shape)) for shape in shapes]


def test_evaluates_to_the_declared_shape(case):
    record, prepared, inputs = case
    y = record.evaluate(prepared, *inputs)
    assert tuple(y.shape[1:]) == prepared.shape


def test_is_affine_with_its_offset(case):
    record, prepared, inputs = case
    offset = record.offset(prepared)
    zero = record.evaluate(prepared, *(torch.zeros_like(x) for x in inputs))
    expected = torch.zeros(prepared.shape, dtype=torch.float64) if offset is None else offset
    assert tuple(expected.shape) == prepared.shape
    torch.testing.assert_close(zero, expected.expand_as(zero), rtol=1e-13, atol=1e-13)


def test_transpose_is_the_vector_jacobian_product(case):
    record, prepared, inputs = case
    a = torch.from_numpy(normal(5, *prepared.shape))
    found = record.transpose(prepared, a)
    assert len(found) == len(inputs)
    if not inputs:
        return
    inputs = [x.requires_grad_() for x in inputs]
    y = record.evaluate(prepared, *inputs)
    if y.requires_grad:
        expected = torch.autograd.grad(y, inputs, a)
    else:
        expected = [torch.zeros_like(x) for x in inputs]
    for x, part, reference in zip(inputs, found, expected, strict=True):
        assert part.shape == x.shape
        torch.testing.assert_close(part, reference, rtol=1e-12, atol=1e-12)


def test_magnitude_bounds_the_sum_of_absolute_terms(case):
    record, prepared, inputs = case
    if not inputs:
        return
    m = [x.abs() for x in inputs]
    magnitude = record.magnitude(prepared, *m)
    # Brute force: |M_i| column by column through the transpose of unit rows.
    size = int(np.prod(prepared.shape))
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *prepared.shape)
    total = torch.zeros(5, size, dtype=torch.float64)
    for part, x in zip(record.transpose(prepared, unit), m, strict=True):
        total += x.reshape(5, -1) @ part.abs().reshape(size, -1).T
    offset = record.offset(prepared)
    if offset is not None:
        total += offset.abs().reshape(-1)
    magnitude = magnitude.reshape(5, -1)
    assert (magnitude >= total * (1 - 1e-12)).all()
    if not any("radius" in name for name in prepared.node.attributes):
        torch.testing.assert_close(magnitude, total, rtol=1e-12, atol=1e-12)


def test_interval_contains_samples_and_corners_and_is_tight(case):
    record, prepared, inputs = case
    if not inputs:
        return
    radii = [torch.from_numpy(RANDOM.uniform(0, 1, x.shape)) for x in inputs]
    boxes = [(x - r, x + r) for x, r in zip(inputs, radii, strict=True)]
    lower, upper = record.interval(prepared, *boxes)
    for _ in range(20):
        mix = [torch.from_numpy(np.clip(RANDOM.uniform(-1, 2, x.shape), 0, 1)) for x in inputs]
        sample = [low + t * (high - low) for t, (low, high) in zip(mix, boxes, strict=True)]
        y = record.evaluate(prepared, *sample)
        assert (lower <= y + 1e-12).all() and (y - 1e-12 <= upper).all()
    # The ends are attained: the row's worst corner is known from the transpose.
    size = int(np.prod(prepared.shape))
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *prepared.shape)
    reach = torch.zeros(5, size, dtype=torch.float64)
    for part, r in zip(record.transpose(prepared, unit), radii, strict=True):
        reach += r.reshape(5, -1) @ part.abs().reshape(size, -1).T
    centre = record.evaluate(prepared, *inputs).reshape(5, -1)
    slack = 1e-7 if any("radius" in name for name in prepared.node.attributes) else 1e-11
    torch.testing.assert_close(lower.reshape(5, -1), centre - reach, rtol=slack, atol=slack)
    torch.testing.assert_close(upper.reshape(5, -1), centre + reach, rtol=slack, atol=slack)


def test_interval_is_rounded_outward(case):
    """A point box must contain the exact value: checked in exact rational arithmetic for one element."""
    record, prepared, inputs = case
    if not inputs or record.length(prepared) == 0 or prepared.node.operator == "index":
        return
    boxes = [(x, x) for x in inputs]
    lower, upper = record.interval(prepared, *boxes)
    y = record.evaluate(prepared, *inputs)
    assert (lower <= y).all() and (y <= upper).all()
    longdouble = [x.numpy().astype(np.longdouble) for x in inputs]
    size = int(np.prod(prepared.shape))
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *prepared.shape)
    exact = np.zeros((5, size), np.longdouble)
    for part, x in zip(record.transpose(prepared, unit), longdouble, strict=True):
        exact += x.reshape(5, -1) @ part.numpy().reshape(size, -1).T.astype(np.longdouble)
    offset = record.offset(prepared)
    if offset is not None:
        exact += offset.numpy().reshape(-1).astype(np.longdouble)
    assert (lower.numpy().reshape(5, -1) <= exact).all() and (exact <= upper.numpy().reshape(5, -1)).all()
    assert (upper - lower).max() < 1e-7


def test_infinite_boxes_never_give_nan(case):
    record, prepared, inputs = case
    if not inputs:
        return
    infinity = float("inf")
    boxes = [(torch.full_like(x, -infinity), torch.full_like(x, infinity)) for x in inputs]
    lower, upper = record.interval(prepared, *boxes)
    assert not lower.isnan().any() and not upper.isnan().any()
    assert (lower <= upper).all()


def test_radius_enters_the_magnitude():
    made, shapes = CASES["linear radius"]
    prepared = prepare(made, tuple(shapes), torch.float64, torch.device("cpu"))
    record = OPS["linear"]
    x = torch.from_numpy(normal(3, 1, 4))
    lower, upper = record.interval(prepared, (x, x))
    y = record.evaluate(prepared, x)
    spread = 1e-9 * (x.abs().sum(-1, keepdim=True) + 1)
    assert (upper - y >= spread).all() and (y - lower >= spread).all()
    assert (record.length(prepared) * UNIT * record.magnitude(prepared, x.abs()) >= spread).all()
