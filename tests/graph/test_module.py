"""Torch modules as graphs: every operator that is lowered gives what torch computes, the others are refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from provenn.bounds.graph import _call, _module, evaluate, read_module
from provenn.errors import InputError, ModelError, UnsupportedOperatorError

Case = Callable[[Tensor], Tensor]


class Several(nn.Module):
    """The results of several functions of one tensor."""

    def __init__(self, cases: dict[str, Case]):
        super().__init__()
        self.cases = cases

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(case(x) for case in self.cases.values())


def compare(module: nn.Module, *inputs: Tensor, names: list[str] | None = None) -> None:
    """The graph's values in float64 are torch's."""
    graph = read_module(module, *inputs)
    with torch.no_grad():
        expected = module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = evaluate(graph, [x.unsqueeze(0) for x in inputs])
    assert len(found) == len(expected)
    for place, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        name = names[place] if names else str(place)
        assert mine.shape[1:] == theirs.shape, name
        node = graph.nodes[graph.outputs[place]]
        assert node.scalar_type == str(theirs.dtype).removeprefix("torch."), name
        tolerance = 1e-6 if theirs.dtype == torch.float32 else 1e-9
        assert torch.allclose(mine[0].double(), theirs.double(), rtol=tolerance, atol=tolerance), name


V = torch.tensor([[0.3, -1.2, 2.5, 0.7], [1.4, 0.2, -0.6, 3.1]], dtype=torch.float64)
POSITIVE = V.abs() + 1.1
INDEX = torch.tensor([2, 0])
MASK = torch.tensor([[True, False, True, False]])
weight = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)

ELEMENTWISE: dict[str, Case] = {
    "add": lambda x: torch.add(x, x[0], alpha=0.3) + 2, "sub": lambda x: torch.sub(x, 1.5, alpha=2) - x[:, :1],
    "rsub": lambda x: 2.0 - x, "mul": lambda x: x * x * 0.1, "div": lambda x: x / 3 + 1 / (x.abs() + 1),
    "floor of a quotient": lambda x: torch.div(x, 0.7, rounding_mode="floor"),
    "truncated quotient": lambda x: torch.div(x, 0.7, rounding_mode="trunc"),
    "neg": lambda x: -x, "abs": torch.abs, "pow": lambda x: x**2 + x.abs() ** 1.5 + 2.0**x,
    "remainder": lambda x: torch.remainder(x, 0.75), "fmod": lambda x: torch.fmod(x, 0.75),
    "square": torch.square, "reciprocal": lambda x: torch.reciprocal(x.abs() + 1), "exp": torch.exp,
    "expm1": torch.expm1, "sin": torch.sin, "cos": torch.cos, "tan": lambda x: torch.tan(x / 3), "atan": torch.atan,
    "sinh": torch.sinh, "cosh": torch.cosh, "asinh": torch.asinh, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "erf": torch.erf, "floor": torch.floor, "ceil": torch.ceil, "round": torch.round, "trunc": torch.trunc,
    "sign": torch.sign, "relu": torch.relu, "relu6": F.relu6, "leaky relu": lambda x: F.leaky_relu(x, 0.3),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.2, 0.1, -0.5, 1.5], dtype=torch.float64)),
    "elu": lambda x: F.elu(x, 0.7), "selu": F.selu, "celu": lambda x: F.celu(x, 1.3), "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu, "mish": F.mish, "softplus": F.softplus,
    "softplus beta": lambda x: F.softplus(x, beta=2.5), "logsigmoid": F.logsigmoid,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.9), "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid,
    "softshrink": lambda x: F.softshrink(x, 0.4), "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.25, -3.0), "glu": F.glu, "softsign": F.softsign,
    "clamp": lambda x: x.clamp(-0.5, 1.2) + x.clamp(min=0.1) + x.clamp(max=0.4),
    "clamp by tensors": lambda x: x.clamp(min=x[0] * 0.5, max=x[0] + 1),
    "maximum": lambda x: torch.maximum(x, x[:1] * 0 + 0.2), "minimum": lambda x: torch.minimum(x, x.flip(1)),
    "comparisons": lambda x: torch.stack([x < 0.3, x <= 0.3, x > 0.2, x >= 0.2, x == 0.3, x != 0.3]),
    "logic": lambda x: ((x > 0) & (x < 1)) | ~(x > 2) ^ torch.logical_and(x > 0, x < 3),
    "more logic": lambda x: torch.logical_or(x > 2, torch.logical_xor(x > 0, torch.logical_not(x > 1))),
    "bits": lambda x: torch.bitwise_or(torch.bitwise_and(x > 0, x < 1), torch.bitwise_xor(x > 2, x > 3)),
    "ends": lambda x: torch.clamp_min(x, 0.1) + torch.clamp_max(x, 1.0),
    "where": lambda x: torch.where(x > 0.5, x * 2, -1.0), "masked fill": lambda x: x.masked_fill(x > 1, 9.0),
    "masked by a constant": lambda x: x.masked_fill(MASK, 0.5), "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5), "hardshrink": lambda x: F.hardshrink(x, 0.4),
    "integers": lambda x: (x > 0).long() * 3 - 1, "to float": lambda x: (x > 0).float() * 0.5,
}  # fmt: skip
POSITIVES: dict[str, Case] = {
    "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "log": torch.log, "log1p": torch.log1p, "log2": torch.log2,
    "log10": torch.log10, "acosh": torch.acosh, "atanh": lambda x: torch.atanh(x / 8),
}  # fmt: skip
STRUCTURE: dict[str, Case] = {
    "views": lambda x: x.view(4, 2).reshape(2, 2, 2).flatten(1).unflatten(1, (2, 2))[:, None].squeeze(1),
    "axes": lambda x: x.t().transpose(0, 1).permute(1, 0).movedim(0, 1).unsqueeze(-1).squeeze(),
    "expand": lambda x: x[:, None].expand(2, 3, 4) + x[:1].expand_as(x)[:, None],
    "repeat": lambda x: x.repeat(1, 2) + x.repeat_interleave(2, dim=1), "parts": lambda x: x[1:, ::2] + x[0, 1],
    "select": lambda x: torch.index_select(x, 1, INDEX) + x[:, INDEX] + x[..., [1, 3]],
    "split": lambda x: x.split(2, 1)[1] + x.chunk(2, 1)[0] + torch.stack(x.unbind(1)[:2], 1),
    "turn": lambda x: x.flip(1) + x.roll(1, 1) + torch.rot90(x, 2), "triangles": lambda x: x.tril() + x.triu(1),
    "diagonal": lambda x: x[:, :2].diagonal() + x[:, 0].diag_embed().diagonal(),
    "gather": lambda x: x.gather(1, torch.tensor([[1, 1], [0, 3]])),
    "pad": lambda x: F.pad(x, (1, 2)) + F.pad(x, (1, 2), value=-0.3) + F.pad(x[None], (1, 2), mode="replicate")[0],
    "cat": lambda x: torch.cat([x, x * 2, torch.ones(2, 1, dtype=x.dtype)], 1),
    "stack": lambda x: torch.stack([x, -x], 1),
    "same": lambda x: x.clone().contiguous().detach() + F.dropout(x, 0.5, False),
    "made": lambda x: x + torch.arange(4) * 0.5 + torch.zeros_like(x) + torch.full_like(x, 0.25) + torch.eye(2, 4),
    "like": lambda x: torch.ones_like(x) + x.new_zeros(2, 4) + x.new_ones(4) + x.new_full((1, 4), 0.5) + x,
    "like another": lambda x: x.view_as(x[None]) + x.reshape_as(x.t()).t(),
    "narrow": lambda x: x.narrow(1, 1, 2) + x.split([1, 2, 1], 1)[1], "mT": lambda x: x.mT + x.swapaxes(0, 1),
    "window": lambda x: x.unfold(1, 2, 1).sum(-1),
    "types": lambda x: x.float().to(torch.float32).type_as(torch.zeros(1)),
    "scatter": lambda x: torch.slice_scatter(x, x[:, :2] * 3, 1, 2, 4) + torch.select_scatter(x, x[0] * 2, 0, 1),
    "put": lambda x: aten.index_put(x, [None, INDEX], x[:, :2] * 5) + aten.copy(x, x[0]),
    "scattered": lambda x: x.scatter(1, torch.tensor([[0], [2]]), x[:, 3:] * 2).scatter(1, torch.tensor([[1]]), 2.0),
    "embedding": lambda x: F.embedding((x > 0.5).long(), weight),
    "constant": lambda x: (torch.ones(2, 4, dtype=torch.float64) * 3).sqrt(),
}  # fmt: skip
REDUCTIONS: dict[str, Case] = {
    "sum": lambda x: x.sum() + x.sum(1, keepdim=True), "mean": lambda x: x.mean() + x.mean(0),
    "amax": lambda x: x.amax(1) + x.amin(), "max": lambda x: x.max() + x.max(1).values + x.min(1)[0],
    "places": lambda x: x.argmax(1) + x.argmin(1) + x.max(1).indices, "place": torch.argmax,
    "logsumexp": lambda x: x.logsumexp(1), "prod": lambda x: x.prod(1), "variance": lambda x: x.var(1) + x.var(),
    "deviation": lambda x: x.std(1, correction=0, keepdim=True), "cumsum": lambda x: x.cumsum(1),
    "norms": lambda x: x.norm(dim=1) + torch.linalg.vector_norm(x, 1, 1) + torch.linalg.vector_norm(x, float("inf"), 1),
    "topk": lambda x: x.topk(2, 1).values, "smallest": lambda x: x.topk(2, 1, largest=False)[0],
    "softmax": lambda x: x.softmax(-1) + F.log_softmax(x, 0), "normalize": lambda x: F.normalize(x, dim=1),
}  # fmt: skip
PRODUCTS: dict[str, Case] = {
    "linear": lambda x: F.linear(x, weight, weight[:, 0]) + F.linear(x[None, None], weight)[0, 0],
    "mm": lambda x: x @ weight.t() + torch.mm(x, weight.t()), "bmm": lambda x: torch.bmm(x[None], x.t()[None]),
    "constant on the left": lambda x: weight @ x.t(), "mv": lambda x: torch.mv(x, weight[0]) + x[0].dot(x[1]),
    "addmm": lambda x: torch.addmm(weight[:2, :3], x, weight.t(), beta=0.5, alpha=2),
    "baddbmm": lambda x: torch.baddbmm(x[None, :, :2], x[None], x.t()[None], beta=0.5, alpha=0.25),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, weight),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None] * 0.5, x[None], weight[None, :2, :2]),
    "layer norm": lambda x: F.layer_norm(x, (4,), weight[0], weight[1]) + F.layer_norm(x, (4,)),
    "rms norm": lambda x: F.rms_norm(x, (4,), weight[2], 1e-4),
}  # fmt: skip
IMAGES: dict[str, Case] = {
    "conv": lambda x: F.conv2d(x, KERNEL, KERNEL[:, 0, 0, 0], stride=2, padding=1),
    "same": lambda x: F.conv2d(x, KERNEL, padding="same") + F.conv2d(x[0], KERNEL, padding=1),
    "groups": lambda x: F.conv2d(x, KERNEL[:, :1], groups=2, dilation=2),
    "of vectors": lambda x: F.conv1d(x[0, :, 0], KERNEL[:, :, 0]),
    "transposed": lambda x: F.conv_transpose2d(x, KERNEL.transpose(0, 1), stride=2, output_padding=1, padding=1),
    "max pool": lambda x: F.max_pool2d(x, 2, 1, 1)[..., 1:, 1:] + F.max_pool2d(x, 3, 1, 1),
    "max pool ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "mean pool": lambda x: F.avg_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "mean pool ceil": lambda x: F.avg_pool2d(x, 2, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 3)).sum(-1) + F.adaptive_avg_pool2d(x, 1)[..., 0],
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, 1),
    "pool1d": lambda x: F.max_pool1d(x[0], 2) + F.avg_pool1d(x[0], 2),
    "batch norm": lambda x: F.batch_norm(x, KERNEL[0, 0, 0, :2], POSITIVE[0, :2], KERNEL[0, 0, 1, :2]),
    "group norm": lambda x: F.group_norm(x, 1, KERNEL[0, 0, 0, :2]), "instance norm": lambda x: F.instance_norm(x),
    "nearest": lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(x, size=(10, 10), mode="nearest"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear, corners": lambda x: F.interpolate(x, size=(7, 8), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, size=(7, 8), mode="bicubic"),
    "shuffle": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x[..., :4, :4], 2).flip(1), 2),
    "reflect": lambda x: F.pad(x, (1, 1, 2, 0), mode="reflect"),
    "max pool indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
}  # fmt: skip
aten = torch.ops.aten
OLDER: dict[str, Case] = {
    "convolution": lambda x: aten.convolution(x, KERNEL, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
    "backwards": lambda x: aten.convolution(
        x, KERNEL.transpose(0, 1), None, [1, 1], [0, 0], [1, 1], True, [0, 0], 1),
    "norms": lambda x: aten._native_batch_norm_legit_no_training(
        x, None, None, KERNEL[0, 0, 0, :2], POSITIVE[0, :2], 0.1, 1e-5)[0]
        + aten.native_group_norm(x, None, None, 1, 2, 25, 2, 1e-5)[0]
        + aten.native_layer_norm(x, [5], None, None, 1e-5)[0],
    "softmax": lambda x: aten._softmax(x, 1, False) + aten._log_softmax(x, 1, False),
    "pool": lambda x: aten._adaptive_avg_pool2d(x, [1, 1]) + aten.alias(aten.constant_pad_nd(x, [1, 0], 2.0)),
    "slopes": lambda x: aten._prelu_kernel(x, POSITIVE[0, :2].view(1, 2, 1, 1)),
    "view": lambda x: aten._unsafe_view(x, [1, 2, 25]),
    "norm": lambda x: aten.norm(x, 2, [1], True), "copies": lambda x: aten._to_copy(x, dtype=torch.float32),
    "in order": lambda x: x.transpose(2, 3).contiguous(),
    "lift": lambda x: x + torch.tensor([1.0, 2.0, 0.0, 1.0, 2.0]),
    "line": lambda x: F.adaptive_avg_pool1d(x[0], 2) + F.adaptive_max_pool1d(x[0], 1) + F.interpolate(
        x[0], scale_factor=2.0, mode="linear")[:, :, :2] + F.interpolate(x[0], scale_factor=2)[:, :, 1:3],
    "upwards": lambda x: F.conv_transpose1d(x[0, :, 0], KERNEL[:2, :, 0]),
    "volume": lambda x: F.conv3d(x[None], KERNEL[:, None, :1, :, :]),
    "volume upwards": lambda x: F.conv_transpose3d(x[None], KERNEL[:1, :, None]),
    "volumes": lambda x: F.avg_pool3d(x[None], (1, 2, 2), 1) + F.max_pool3d(x[None], (2, 2, 2), 1)
        + F.adaptive_avg_pool3d(x[None], (1, 4, 4)) + F.adaptive_max_pool3d(x[None], 1),
    "finer": lambda x: F.interpolate(x[None], scale_factor=2.0, mode="trilinear"),
    "nearest in volumes": lambda x: F.interpolate(x[None], scale_factor=2),
}  # fmt: skip
KERNEL = torch.linspace(-1, 1, 72, dtype=torch.float64).sin().view(4, 2, 3, 3)
IMAGE = (torch.arange(50, dtype=torch.float64) * 0.7).sin().view(1, 2, 5, 5)

GROUPS = (
    (ELEMENTWISE, V), (POSITIVES, POSITIVE), (STRUCTURE, V), (REDUCTIONS, V), (PRODUCTS, V), (IMAGES, IMAGE),
    (OLDER, IMAGE),
)  # fmt: skip


def test_values_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operator of the table is exported by some case, so that none is just believed."""
    seen: set[str] = set()

    def recorded(target: object, name: str, *rest: object) -> _call.Call:
        seen.add(name)
        return _call.Call(target, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(_module, "Call", recorded)
    for cases, x in GROUPS:
        compare(Several(cases), x, names=list(cases))
    assert sorted(name for name in _module.LOWERINGS if name not in seen) == []


class Network(nn.Module):
    """What modules are made of: weights, buffers, activations in place, a residual sum, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.5)
        )
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.GroupNorm(2, 4), nn.Hardswish(inplace=True))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor(0.7))
        self.mean = torch.tensor([0.1, -0.2]).view(1, 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x - self.mean)
        x = x + self.block(x) * self.scale
        tokens = x.flatten(2).transpose(1, 2)
        return self.head(tokens + self.attention(tokens, tokens, tokens)[0]).mean(1)


def test_a_network() -> None:
    torch.manual_seed(1)
    net = Network().eval()
    with torch.no_grad():
        net(torch.randn(20, 2, 4, 4))  # no statistics are learned in evaluation
    double = net.double()
    double.mean = double.mean.double()
    compare(double, torch.randn(1, 2, 4, 4, dtype=torch.float64))
    graph = read_module(double, torch.randn(1, 2, 4, 4, dtype=torch.float64))
    assert {"conv", "matmul", "softmax"} <= {node.operator for node in graph.nodes}
    assert graph.metadata["module"] is net and any("in attention" in node.origin for node in graph.nodes)


def test_numbers_are_those_of_the_element_type() -> None:
    """0.1 in a float32 module is the float32, in a float64 module the float64."""
    for kind in (torch.float32, torch.float64):
        graph = read_module(Several({"scaled": lambda x: F.leaky_relu(x * 0.1, 0.3)}), torch.zeros(1, 2, dtype=kind))
        scale = next(node.attributes["scale"] for node in graph.nodes if "scale" in node.attributes)
        slope = next(node.attributes["slope"] for node in graph.nodes if "slope" in node.attributes)
        assert float(scale.reshape(-1)[0]) == float(torch.tensor(0.1, dtype=kind))
        assert float(slope) == float(torch.tensor(0.3, dtype=kind))


def test_several_inputs_and_outputs_of_different_types() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x @ y.t(), (x * 2).float()

    compare(Two(), V, V[:1] + 1)


def test_in_place_on_what_others_read() -> None:
    """A view that is changed changes what it is a view of."""

    def case(x: Tensor) -> Tensor:
        y = x * 2
        y[:, 1:3].add_(1.0).relu_()
        z = y + 0
        y.mul_(3)
        return y + z

    compare(Several({"in place": case}), V)


IN_PLACE: dict[str, Case] = {}


def in_place(case: Case) -> Case:
    IN_PLACE[case.__name__] = case
    return case


@in_place
def result_unused(x: Tensor) -> Tensor:
    y = x * 2
    y.relu_()
    return y + 1


@in_place
def view_of_a_view(x: Tensor) -> Tensor:
    y = x * 2
    y.t()[1:].abs_()
    return y


@in_place
def chained(x: Tensor) -> Tensor:
    return (x * 2).add_(1).relu_() + x


@in_place
def read_before(x: Tensor) -> Tensor:
    y = x - 1
    z = y.flatten()
    F.relu(y, inplace=True)
    return z.view(2, 4) + y


@in_place
def put_in_places(x: Tensor) -> Tensor:
    y = x * 1
    y[:, INDEX] = x[:, :2] * 5
    y[0, [1, 3]] = 7.0
    return y.scatter(1, torch.tensor([[0], [2]]), x[:, 3:] * 2).scatter(1, torch.tensor([[1]]), -2.0)


@in_place
def written_into(x: Tensor) -> Tensor:
    y = torch.zeros(2, 4, dtype=x.dtype)
    y[:, 1:3] = x[:, :2]
    y[0] += 1
    return y


def test_in_place_operators_are_what_they_are_in_torch() -> None:
    compare(Several(IN_PLACE), V, names=list(IN_PLACE))
    for name, case in IN_PLACE.items():
        if name in ("result_unused", "chained"):
            compare(Several({name: case}), V)


def test_what_export_gets_wrong_is_noticed() -> None:
    """Dropout in evaluation returns its operand itself, which torch.export takes for a copy."""

    def alias(x: Tensor) -> Tensor:
        y = x * 2
        F.dropout(y, 0.5, False).relu_()
        return y + 1

    with pytest.raises(ModelError, match="in place"):
        read_module(Several({"alias": alias}), V)


def test_an_input_that_is_changed_is_refused() -> None:
    with pytest.raises(ModelError, match="whenever it runs"):
        read_module(Several({"changed": lambda x: x.relu_() + 1}), V)


def test_upsampling_goes_where_the_type_says() -> None:
    x = torch.arange(49, dtype=torch.float32).view(1, 1, 7, 7) / 8
    compare(Several({str(n): lambda x, n=n: F.interpolate(x, size=(n, n + 3)) for n in (10, 13, 21)}), x)  # type: ignore[misc]


def test_decomposed_where_that_helps() -> None:
    """What has no lowering of its own is taken apart by torch; what has one stays whole."""

    class Cosine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.softplus(F.cosine_similarity(x, x.flip(1), dim=1)) + torch.sinc(x[:, 0])

    compare(Cosine(), V)
    operators = [node.operator for node in read_module(Cosine(), V).nodes]
    assert "softplus" in operators


def test_recurrent_and_attention_layers() -> None:
    """Made of many operators, which torch takes apart."""

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(4)
            self.recurrent = nn.GRU(3, 4, batch_first=True)
            self.encoder = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(self.recurrent(x)[0])

    compare(Sequence().double().eval(), torch.randn(1, 3, 3, dtype=torch.float64))


class Holder(nn.Module):
    def __init__(self, forward: Callable[..., object], inner: nn.Module | None = None):
        super().__init__()
        self.inner, self.run = inner, forward

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


def causal(holder: Holder, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True)


def counted(holder: Holder, x: Tensor) -> Tensor:
    return holder.inner(x[None])


REFUSED: dict[str, tuple[Callable[[], nn.Module], Tensor, type[Exception], tuple[str, ...]]] = {
    "an unknown operator": (
        lambda: Holder(lambda h, x: torch.special.i0(x)), V, UnsupportedOperatorError,
        ("i0", "forward", "docs/operators"),
    ),
    "dropout in training": (
        lambda: nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)).double(), V, UnsupportedOperatorError,
        ("dropout", "in 1", "eval()"),
    ),
    "batch norm in training": (
        lambda: nn.BatchNorm1d(4).double(), V, ModelError, ("eval()",),
    ),
    "randomness": (
        lambda: Holder(lambda h, x: x + torch.randn(2, 4)), V, UnsupportedOperatorError, ("random", "randn")
    ),
    "a mask": (lambda: Holder(causal), V, UnsupportedOperatorError, ("scaled_dot_product_attention", "mask")),
    "a condition": (
        lambda: Holder(lambda h, x: x if x.sum() > 0 else -x), V, ModelError, ("torch.export", "condition")
    ),
    "a wrong shape": (lambda: nn.Linear(3, 2).double(), V, ModelError, ("[[2, 4]]", "shapes")),
    "NaN": (
        lambda: Holder(lambda h, x: x * h.inner.weight, nn.Linear(4, 2).double().requires_grad_(False)), V, ModelError,
        ("inner.weight", "NaN"),
    ),
    "half precision": (lambda: nn.Linear(4, 2).half(), V.half(), InputError, ("float16", "module.float()")),
    "half weights": (
        lambda: Holder(lambda h, x: x @ h.inner.weight.t().double(), nn.Linear(4, 2).half()), V, ModelError,
        ("inner.weight", "float16"),
    ),
    "no tensor": (lambda: Holder(lambda h, x: 3), V, ModelError, ("output 0",)),
    "an index of the input": (
        lambda: Holder(lambda h, x: x.gather(1, (x > 0).long())), V, UnsupportedOperatorError, ("gather", "constant"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    make, x, kind, words = REFUSED[name]
    module = make()
    if name == "NaN":
        module.inner.weight[0, 0] = float("nan")  # type: ignore[union-attr, operator, index]
    with pytest.raises(kind) as caught:
        read_module(module, x)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text and len(text) < 700


def test_an_example_is_a_tensor() -> None:
    with pytest.raises(InputError, match="expected a tensor"):
        read_module(nn.Linear(2, 2), [1.0, 2.0])  # type: ignore[arg-type]


def test_a_tensor_without_dimensions_does_not_widen_a_comparison() -> None:
    """torch compares float32 numbers with 0.1 in float32."""
    tenth = torch.tensor(0.1, dtype=torch.float64)
    module = Several({"le": lambda x: (x <= tenth).float(), "eq": lambda x: (x == tenth).float()})
    compare(module, torch.tensor([0.1, 0.2, 0.0]), names=["le", "eq"])


def test_rounding_to_decimals_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="decimals"):
        read_module(Several({"round": lambda x: torch.round(x, decimals=1)}), torch.zeros(1, 3))


def test_a_small_output_beside_a_large_one_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_module.LOWERINGS, "abs", _module.LOWERINGS["relu"])
    module = Several({"both": lambda x: torch.cat([x.abs(), x * 0 + 1e5], 1)})
    with pytest.raises(ModelError, match="differ"):
        read_module(module, torch.zeros(1, 3))


def test_values_without_dimensions_move() -> None:
    cases: dict[str, Case] = {
        "unsqueeze": lambda x: x.sum().unsqueeze(0),
        "view": lambda x: x.sum().view(1),
        "expand": lambda x: x.mean().expand(3),
    }
    compare(Several(cases), torch.randn(1, 3), names=list(cases))
