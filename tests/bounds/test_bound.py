"""Bounds in one call: sound against samples, lines and all, for modules, files, boxes and balls."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from provenn.bounds import Ball, Bounds, Box, Graph, Line, alpha, crown, interval, plan, read_module
from provenn.bounds.propagate.plan import Plan
from provenn.errors import InputError

from ..propagate import small

# Few steps: what is tested holds for any number.
improved = partial(alpha, steps=4)
CONTROLLER = "vnnlib_examples/onnx/controller.onnx"
SHAPE = (1, 2, 5, 5)


class Mixed(nn.Module):
    """A convolution, kinks, maxima, a smooth function and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.hidden, self.last = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        x = torch.tanh(self.hidden(x))
        return self.last(x * torch.sigmoid(x))


@pytest.fixture(scope="module")
def mixed() -> Mixed:
    torch.manual_seed(3)
    return Mixed().double().requires_grad_(False)


@pytest.fixture(scope="module")
def mixed_plan(mixed: Mixed) -> Plan:
    return plan(mixed, torch.zeros(SHAPE, dtype=torch.float64))


def centre(shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) / 2


REGIONS: dict[str, Callable[[], Box | Ball]] = {
    "box": lambda: Box.around(centre(), 0.1),
    "cut box": lambda: Box.around(centre().clamp(-0.4, 0.5), 0.2, within=(-0.3, 0.4)),
    "ball of norm 2": lambda: Ball(centre(), 0.5, 2),
    "ball of norm 1": lambda: Ball(centre(), 1.0, 1),
    "ball of norm inf": lambda: Ball(centre(), 0.1, math.inf),
    "cut ball": lambda: Ball(centre().clamp(-0.5, 0.5), 0.6, 2, within=(-0.5, 0.5)),
}


def samples(region: Box | Ball, count: int = 600) -> Tensor:
    """Points ``[count, *shape]`` of a region, many of them at its boundary."""
    generator = torch.Generator().manual_seed(7)
    (low, high), shape = region.ends(region.shape, "input"), region.shape
    if isinstance(region, Box) or region.norm == math.inf:
        share = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
        share[: count // 2] = share[: count // 2].round()
        return low + share * (high - low)
    if region.norm == 1:  # the vertices and what is between them
        weights = torch.rand(count, *shape, generator=generator, dtype=torch.float64) ** 20
        step = weights / weights.flatten(1).sum(1).view(-1, *(1,) * len(shape))
        step = step * torch.sign(torch.randn(step.shape, generator=generator, dtype=torch.float64))
    else:
        step = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
        step = step / step.flatten(1).norm(dim=1).view(-1, *(1,) * len(shape))
    return (region.centre + region.radius * step * (1 - 1e-12)).clamp(low, high)


def check(found: Bounds, network: nn.Module, x: Tensor) -> None:
    """Values at points lie between the bounds, and between the lines."""
    with torch.no_grad():
        y = torch.cat([network(one.unsqueeze(0).reshape(SHAPE)) for one in x])
    assert (found.lower <= y + 1e-12).all() and (y - 1e-12 <= found.upper).all()
    if found.lower_line is not None and found.upper_line is not None:
        below, above = (line.at(x).reshape(y.shape) for line in (found.lower_line, found.upper_line))
        assert (below <= y + 1e-12).all() and (y - 1e-12 <= above).all()


def least(line: Line, region: Box | Ball) -> Tensor:
    """The least value of a line over a region that is not cut."""
    (a,) = line.coefficients
    rows = a.reshape(line.offset.numel(), -1)
    if isinstance(region, Ball) and region.norm != math.inf:
        dual = rows.norm(dim=1) if region.norm == 2 else rows.abs().amax(1)
        found = rows @ region.centre.reshape(-1) - region.radius * dual
    else:
        low, high = (end.reshape(-1) for end in region.ends(region.shape, "input"))
        found = rows.clamp(min=0) @ low + rows.clamp(max=0) @ high
    return found.view(line.offset.shape) + line.offset


@pytest.mark.parametrize("name", REGIONS)
def test_sound_with_lines(name: str, mixed: Mixed, mixed_plan: Plan) -> None:
    region = REGIONS[name]()
    x = samples(region)
    by_interval = interval(mixed_plan, region)
    check(by_interval, mixed, x)
    before = by_interval
    for method in (crown, improved):
        found = method(mixed_plan, region, linear=True)
        check(found, mixed, x)
        plain = method(mixed_plan, region)
        assert torch.allclose(plain.lower, found.lower) and torch.allclose(plain.upper, found.upper)
        assert (found.upper - found.lower <= before.upper - before.lower + 1e-6).all()
        before = found
        assert found.lower_line is not None and found.upper_line is not None
        if "cut" not in name:
            assert torch.allclose(least(found.lower_line, region), found.lower, atol=1e-9)
            above = found.upper_line
            negated = Line(tuple(-a for a in above.coefficients), -above.offset)
            assert torch.allclose(-least(negated, region), found.upper, atol=1e-9)
    width = (before.upper - before.lower).sum()
    assert width < 0.7 * (by_interval.upper - by_interval.lower).sum()


def test_a_ball_is_tighter_than_its_box(mixed_plan: Plan) -> None:
    for norm, radius in ((2, 0.5), (1, 1.0)):
        ball = crown(mixed_plan, Ball(centre(), radius, norm))
        box = crown(mixed_plan, Box.around(centre(), radius))
        assert ((ball.upper - ball.lower) < 0.6 * (box.upper - box.lower)).all()


def test_a_ball_of_a_linear_network_is_exact() -> None:
    layer = nn.Linear(6, 3).double()
    ball = Ball(torch.full((1, 6), 0.25), 0.75, 2)
    found = crown(layer, ball)
    with torch.no_grad():
        middle, reach = layer(ball.centre), 0.75 * layer.weight.norm(dim=1)
    assert torch.allclose(found.lower, middle - reach, atol=1e-12)
    assert torch.allclose(found.upper, middle + reach, atol=1e-12)
    assert (found.lower <= middle - reach + 1e-15).all()


def module_of(path: str) -> nn.Sequential:
    """A chain of Gemm and Relu as a module of the same weights."""
    model = onnx.load(path)
    arrays = {proto.name: numpy_helper.to_array(proto) for proto in model.graph.initializer}
    layers: list[nn.Module] = []
    for node in model.graph.node:
        if node.op_type == "Relu":
            layers.append(nn.ReLU(inplace=True))
            continue
        assert node.op_type == "Gemm"
        weight, bias = (torch.from_numpy(arrays[name].copy()) for name in node.input[1:])
        weight = weight if any(a.name == "transB" and a.i for a in node.attribute) else weight.t()
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return nn.Sequential(*layers)


def test_a_module_and_its_file_have_the_same_bounds(tmp_path) -> None:
    path = small.dense(tmp_path / "net.onnx", ("Relu", "Relu"))
    module, region = module_of(str(path)), Box.around(centre((1, 4)), 0.3)
    for method in (interval, crown, improved):
        one, other = method(module, region), method(str(path), region)
        assert torch.equal(one.lower, other.lower) and torch.equal(one.upper, other.upper)
    check_dense = method(plan(path), region)
    assert torch.equal(check_dense.lower, other.lower)


def test_boxes_come_together(mixed_plan: Plan) -> None:
    regions = [Box.around(centre() + k / 4, 0.05 * (k + 1)) for k in range(3)]
    together = Box(torch.stack([r.lower for r in regions]), torch.stack([r.upper for r in regions]))
    for method in (crown, improved):
        found = method(mixed_plan, together, linear=True)
        assert found.lower.shape == (3, 1, 3) and found.lower_line is not None
        assert found.lower_line.coefficients[0].shape == (3, 1, 3, *SHAPE)
        x = torch.stack([region.lower for region in regions])
        values = found.lower_line.at(x)
        for k, region in enumerate(regions):
            alone = method(mixed_plan, region, linear=True)
            assert torch.allclose(alone.lower, found.lower[k], atol=2e-3)
            assert alone.lower_line is not None
            if method is crown:
                assert torch.allclose(alone.lower_line.at(region.lower), values[k], atol=1e-9)


def test_rows_are_tighter_than_differences(mixed: Mixed, mixed_plan: Plan) -> None:
    region = REGIONS["box"]()
    rows = torch.tensor([[[1.0, -1.0, 0.0]], [[0.0, 1.0, -1.0]]])
    with torch.no_grad():
        y = torch.cat([mixed(x.view(SHAPE)) for x in samples(region)])
    for method in (crown, improved):
        each, found = method(mixed_plan, region), method(mixed_plan, region, rows=rows, linear=True)
        difference = each.lower[0, :2] - each.upper[0, 1:]
        assert found.lower.shape == (2,) and (found.lower >= difference - 1e-9).all()
        assert (found.lower > difference + 1e-3).any()
        margins = torch.stack([y[:, 0] - y[:, 1], y[:, 1] - y[:, 2]], 1)
        assert (found.lower <= margins).all() and (margins <= found.upper).all()
        assert found.upper_line is not None and found.upper_line.coefficients[0].shape == (2, *SHAPE)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.relu(self.first(x) + self.second(y))
        return z.sum(1), z * z


def test_several_inputs_and_outputs() -> None:
    torch.manual_seed(2)
    net = Two()
    regions = (Box.around(torch.ones(1, 3), 0.5), Ball(torch.zeros(1, 2), 0.5))
    x, y = (samples(region, 200) for region in regions)
    with torch.no_grad():
        each = [net(a.float(), b.float()) for a, b in zip(x, y, strict=True)]
    values = [torch.stack(parts) for parts in zip(*each, strict=True)]
    for output, expected in enumerate(values):
        found = crown(net, regions, output=output, linear=True)
        assert (found.lower <= expected + 1e-5).all() and (expected - 1e-5 <= found.upper).all()
        assert found.lower_line is not None
        assert [tuple(a.shape) for a in found.lower_line.coefficients] == [
            (*expected.shape[1:], 1, 3),
            (*expected.shape[1:], 1, 2),
        ]
        assert (found.lower_line.at(x, y) <= expected + 1e-5).all()
    assert (interval(net, regions, output=0).lower <= values[0] + 1e-5).all()
    point = crown(net, (torch.ones(1, 3), regions[1]), output=0)  # a tensor is a point
    assert (point.upper - point.lower < found_width(net, regions)).all()
    with pytest.raises(InputError, match="output=0 to 1"):
        crown(net, regions)


def found_width(net: nn.Module, regions: tuple[Box | Ball, ...]) -> Tensor:
    found = crown(net, regions, output=0)
    return found.upper - found.lower


def test_float32_bounds_are_about_the_same(mixed: Mixed, mixed_plan: Plan) -> None:
    quick = plan(mixed, torch.zeros(SHAPE, dtype=torch.float64), dtype=torch.float32)
    for method in (crown, improved):
        for region in (REGIONS["box"](), REGIONS["ball of norm 2"]()):
            one, other = method(mixed_plan, region, linear=True), method(quick, region, linear=True)
            assert other.lower.dtype == torch.float64
            assert torch.allclose(one.lower, other.lower, atol=1e-2)
            assert other.upper_line is not None and torch.isfinite(other.upper_line.offset).all()


def test_where_there_is_no_value_there_is_no_finite_bound() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x) + x

    found = crown(Log(), Box([[-1.0, 1.0]], [[1.0, 2.0]]), linear=True)
    assert found.lower[0, 0] == -math.inf and torch.isfinite(found.lower[0, 1])
    assert found.lower_line is not None and found.lower_line.offset[0, 0] == -math.inf


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "ends in the wrong order": (lambda: Box([1.0], [0.0]), "lower=1.0 above upper=0.0"),
    "ends of two shapes": (lambda: Box([1.0, 2.0], [1.0, 2.0, 3.0]), r"\[2\].*\[3\]"),
    "an infinite end": (lambda: Box([-math.inf], [0.0]), "infinite"),
    "NaN": (lambda: Box([math.nan], [0.0]), "NaN"),
    "no numbers": (lambda: Box("a", [0.0]), "expected numbers"),  # type: ignore[arg-type]
    "a negative radius": (lambda: Box.around([0.0], -1.0), "at least 0"),
    "a norm": (lambda: Ball([0.0], 1.0, norm=3), "norm=3"),
    "radii": (lambda: Ball([0.0, 1.0], [1.0, 2.0, 3.0]), "radius of shape"),
    "outside": (lambda: crown(CONTROLLER, Box.around(torch.zeros(1, 4), 0.1, within=(1, 2))), "outside"),
    "the wrong shape": (lambda: crown(CONTROLLER, Box(torch.zeros(3), 1.0)), r"\[3\], expected \[1, 4\]"),
    "two regions": (lambda: crown(CONTROLLER, [Box([0.0], 1.0)] * 2), "2 regions, expected 1"),
    "no region": (lambda: crown(CONTROLLER, 3.0), "expected a Box"),  # type: ignore[arg-type]
    "no network": (lambda: crown(3, Box([0.0], 1.0)), "expected the path"),  # type: ignore[arg-type]
    "rows": (lambda: crown(CONTROLLER, Box(torch.zeros(1, 4), 1.0), rows=torch.ones(2, 3)), r"\[2, 3\], expected \[k"),
    "an output": (lambda: crown(CONTROLLER, Box(torch.zeros(1, 4), 1.0), output=1), "output=1"),
    "steps": (lambda: alpha(CONTROLLER, Box(torch.zeros(1, 4), 1.0), steps=-1), "steps=-1"),
    "half": (lambda: plan(CONTROLLER, dtype=torch.float16), "float64"),
    "a point": (
        lambda: crown(CONTROLLER, Box(torch.zeros(1, 4), 1.0), linear=True).lower_line.at(torch.zeros(4)),  # type: ignore[union-attr]
        r"\[4\], expected \[1, 4\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_calls_are_named(name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_network_is_read_once() -> None:
    graph = read_module(nn.Linear(2, 1), torch.zeros(1, 2))
    assert isinstance(graph, Graph)
    made = plan(graph)
    assert plan(made) is made


def test_nothing_heavy_is_imported_early() -> None:
    code = (
        "import sys, provenn, provenn.bounds, provenn.specs, provenn.verifier;"
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_ends_of_a_ball_are_outward() -> None:
    low, high = Box.around(np.array([0.1]), 0.2).ends((1,), "x")
    assert low.item() < 0.1 - 0.2 and high.item() > 0.1 + 0.2
