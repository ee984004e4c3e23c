"""The bounds of auto_LiRPA on a network of the suite, for `reference_bounds.py --peer`.

auto_LiRPA (Xu et al., "Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond", 2020) is imported
from PYTHONPATH. The network is built as a torch module from the nodes of the ONNX file, here and not by a converter,
so that only the bounds are the peer's; a subtraction of zeros is left out. Its options are those that alpha-beta-CROWN
passes. With them the bounds of reference_bounds.csv come out, to some 1e-6.
"""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

OPTIONS = {
    "conv_mode": "patches",
    "activation_bound_option": "adaptive",
    "sparse_intermediate_bounds": True,
    "sparse_conv_intermediate_bounds": True,
    "sparse_intermediate_bounds_with_ibp": True,
    "sparse_features_alpha": True,
    "sparse_spec_alpha": True,
    "minimum_sparsity": 0.9,
    "verbosity": 0,
}


class Network(nn.Module):
    """The nodes of an ONNX file, one after another; the leading dimension is a batch."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        self.constants = {item.name: tensor(item) for item in graph.initializer}
        self.source = next(item.name for item in graph.input if item.name not in self.constants)
        self.target = graph.output[0].name
        self.parts = nn.ModuleList()
        self.steps: list[tuple[Callable[..., Tensor], list[str], str]] = []
        for node in graph.node:
            self.add(node)

    def add(self, node: onnx.NodeProto) -> None:
        """Append one node; a constant added to a product becomes the bias of its layer."""
        options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        values = [name for name in node.input if name not in self.constants]
        constants = [self.constants[name] for name in node.input if name in self.constants]
        kind, second = node.op_type, node.input[1:2] and node.input[1] in self.constants
        call: Callable[..., Tensor]
        if kind == "Conv" and len(values) == 1 and not options.get("auto_pad"):
            call = convolution(constants, options)
        elif kind == "Gemm" and len(values) == 1 and plain(options):
            weight = constants[0] if options.get("transB", 0) else constants[0].t()
            call = linear(weight, constants[1] if len(constants) > 1 else None)
        elif kind == "MatMul" and second:
            call = linear(constants[0].t(), None)
        elif kind == "Add" and len(constants) == len(values) == 1 and self.takes_bias(values[0]):
            self.steps[-1][0].bias = nn.Parameter(constants[0].flatten())  # type: ignore[attr-defined]
            self.steps[-1] = (*self.steps[-1][:2], node.output[0])
            return
        elif kind == "Add" and not constants:
            call = torch.add
        elif kind == "Sub" and second and not constants[0].any():
            call = nn.Identity()
        elif kind == "Relu":
            call = nn.ReLU()
        elif (kind == "Flatten" and options.get("axis", 1) == 1) or (kind == "Reshape" and flattens(constants)):
            call = nn.Flatten()
        else:
            raise NotImplementedError(f"peer_bounds.py does not build {kind}")
        if isinstance(call, nn.Module):
            self.parts.append(call)
        self.steps.append((call, values, node.output[0]))

    def takes_bias(self, name: str) -> bool:
        """Whether the value is the last step's, a product without bias."""
        layer, _, output = self.steps[-1] if self.steps else (None, None, None)
        return output == name and isinstance(layer, nn.Linear) and layer.bias is None

    def forward(self, x: Tensor) -> Tensor:
        values = {self.source: x}
        for call, names, output in self.steps:
            values[output] = call(*(values[name] for name in names))
        return values[self.target]


def tensor(item: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(item).copy())


def plain(options: dict) -> bool:
    return options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0 and not options.get("transA", 0)


def flattens(constants: list[Tensor]) -> bool:
    """Whether a Reshape to these sizes keeps the batch and flattens the rest."""
    return len(constants) == 1 and len(constants[0]) == 2 and int(constants[0][0]) in (-1, 0, 1)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def convolution(constants: list[Tensor], options: dict) -> nn.Module:
    weight, pads = constants[0], options.get("pads", [0, 0, 0, 0])
    if weight.dim() != 4 or pads[:2] != pads[2:]:
        raise NotImplementedError("peer_bounds.py builds Conv of images with equal padding only")
    groups = options.get("group", 1)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=tuple(options.get("strides", [1, 1])),
        padding=tuple(pads[:2]),
        dilation=tuple(options.get("dilations", [1, 1])),
        groups=groups,
        bias=False,
    )
    layer.weight = nn.Parameter(weight)
    if len(constants) > 1:
        layer.bias = nn.Parameter(constants[1])
    return layer


def read_network(path: Path) -> Network:
    """The module of an ONNX file, checked against onnxruntime on five random inputs."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    network = Network(onnx.load_model_from_string(data)).eval()
    session = onnxruntime.InferenceSession(data)
    source = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in source.shape]
    random = np.random.default_rng(0)
    for _ in range(5):
        x = random.uniform(-1, 1, shape).astype(np.float32)
        truth = session.run(None, {source.name: x})[0]
        ours = network(torch.from_numpy(x)).detach().numpy()
        if np.abs(ours - truth).max() > 1e-4 * (1 + np.abs(truth).max()):
            raise ValueError(f"{path}: the torch module differs from onnxruntime by {np.abs(ours - truth).max()}")
    return network


def peer_call(
    path: Path, method: str, lower: Tensor, upper: Tensor, rows: Tensor, *, both: bool, steps: int
) -> Callable[[], Tensor]:
    """A call that makes the peer's lower bounds [batch, rows] of rows [rows, outputs] over boxes [batch, *sample].

    Upper bounds of the rows are made with them if `both`. `interval`, `crown` and `alpha20` make all intermediate
    bounds in every call, `crown_final` only in the first; `alpha20` optimises them jointly with those of the rows.
    Raises NotImplementedError for a network with another operator than the ones above.
    """
    with warnings.catch_warnings(record=True):  # it uses torch.jit, which is deprecated
        from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # type: ignore[import-not-found]

    optimised = {"iteration": steps, "lr_alpha": 0.1, "fix_interm_bounds": False}
    options = OPTIONS | {"optimize_bound_args": optimised}
    middle = (lower + upper) / 2
    with torch.enable_grad():  # slopes are parameters
        bounded = BoundedModule(read_network(path), torch.zeros_like(lower[:1]), bound_opts=options, device="cpu")
    matrix = rows.expand(lower.shape[0], *rows.shape).contiguous()
    name = {"interval": "IBP", "alpha20": "CROWN-Optimized"}.get(method, "CROWN")
    known: dict[str, list[Tensor]] = {}

    def call() -> Tensor:
        point = BoundedTensor(middle, PerturbationLpNorm(x_L=lower, x_U=upper))
        reused = {"interm_bounds": known} if known else {}
        with torch.set_grad_enabled(method == "alpha20"):
            found, _ = bounded.compute_bounds(x=(point,), C=matrix, method=name, bound_upper=both, **reused)
        if method == "crown_final" and not known:
            for layer in bounded.get_layers_requiring_bounds():
                known[layer.name] = [layer.lower.detach(), layer.upper.detach()]
        return found.detach()

    return call
