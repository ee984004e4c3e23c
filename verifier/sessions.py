"""Networks on onnxruntime (CPU): a file, the tensors wanted from it, and what to do with files that it refuses."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from provenn.errors import ModelError

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

_ELEMENT_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
_GZIP = b"\x1f\x8b"
_LARGEST_IR = re.compile(r"max supported IR version: (\d+)")
_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed:|/\S+:\d+ .*?\) (?=[A-Z])")
"""What onnxruntime puts before what it has to say: a code, the path once more, the place in its own sources."""


@dataclass(frozen=True)
class Model:
    """A network's file, the hidden tensors that are wanted from it, and its inputs' shapes where they are declared."""

    path: Path
    hidden: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] | None = None

    @property
    def name(self) -> str:
        return str(self.path)

    def session(self, threads: int) -> Session:
        return Session(self, threads)


@dataclass(frozen=True, eq=False)
class TorchModel:
    """A torch module with the shapes and the element type (numpy's name) of its inputs."""

    module: Any
    shapes: tuple[tuple[int, ...], ...]
    element_type: str

    @property
    def name(self) -> str:
        return f"module {type(self.module).__name__}"

    def session(self, threads: int) -> TorchSession:
        return TorchSession(self)


class TorchSession:
    """A torch module that judges its own witnesses: it runs as it is, on its own device."""

    def __init__(self, model: TorchModel) -> None:
        self.model = model
        self.shapes = list(model.shapes)
        self.declared: list[Any] = [list(shape) for shape in model.shapes]
        self.elements: list[np.dtype[Any]] = [np.dtype(model.element_type) for _ in model.shapes]

    @property
    def sizes(self) -> list[int]:
        """How many elements each input has."""
        return [int(np.prod(shape, dtype=np.int64)) for shape in self.shapes]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Outputs, flat, at flat inputs; None where the module refuses them."""
        import torch

        found = next((p.device for p in self.model.module.parameters()), torch.device("cpu"))
        tensors = [
            torch.from_numpy(np.array(x, dtype=element).reshape(shape)).to(found)
            for x, element, shape in zip(inputs, self.elements, self.shapes, strict=True)
        ]
        try:
            with torch.no_grad():
                outputs = torch.utils._pytree.tree_leaves(self.model.module(*tensors))
        except Exception:  # noqa: BLE001 (whatever a module raises, this is no witness)
            return None
        return [y.detach().to("cpu").numpy().reshape(-1) for y in outputs]


class Session:
    """One network, loaded at once. ``elements`` and ``shapes`` are its inputs', unknown dimensions read as 1.

    A float32 network is run with the graph optimisations that the competition's checker uses: the default ones.
    Raises ModelError.
    """

    def __init__(self, model: Model, threads: int = 1) -> None:
        self.model = model
        source = _source(model.path)
        names: list[str] | None = None
        if model.hidden:
            source, names = _with_outputs(source, model.hidden)
        self._session = _load(source, model.path, threads)
        declared = self._session.get_inputs()
        for tensor in declared:
            if tensor.type not in _ELEMENT_TYPES:
                raise ModelError(f"{model.path}: input of type {tensor.type}, expected a float type")
        self.elements: list[np.dtype[Any]] = [np.dtype(_ELEMENT_TYPES[tensor.type]) for tensor in declared]
        # the leading dimension of a file is often a name (a batch)
        found = [tuple(n if isinstance(n, int) and n > 0 else 1 for n in tensor.shape) for tensor in declared]
        self.declared = [tensor.shape for tensor in declared]
        self.shapes: list[tuple[int, ...]] = list(model.shapes or found)
        self._inputs = [tensor.name for tensor in declared]
        names = names or [tensor.name for tensor in self._session.get_outputs()]
        self._outputs = [*model.hidden, *names]

    @property
    def sizes(self) -> list[int]:
        """How many elements each input has."""
        return [int(np.prod(shape, dtype=np.int64)) for shape in self.shapes]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Hidden tensors and outputs, flat, at flat inputs; None where onnxruntime refuses them."""
        feed = {
            name: np.asarray(x).astype(element).reshape(shape)
            for name, x, element, shape in zip(self._inputs, inputs, self.elements, self.shapes, strict=True)
        }
        try:
            return [np.asarray(y).reshape(-1) for y in self._session.run(self._outputs, feed)]
        except Exception:  # noqa: BLE001 onnxruntime's own exceptions share no base class but this
            return None


def _load(source: bytes | str, path: Path, threads: int) -> InferenceSession:
    import onnxruntime  # half a second, which only a candidate is worth

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # refused inputs are counted, not printed
    # where external data lies, for a network that is handed over as bytes
    folder = str(path.resolve().parent)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)

    def load(source: bytes | str) -> InferenceSession:
        return onnxruntime.InferenceSession(source, sess_options=options, providers=["CPUExecutionProvider"])

    try:
        try:
            return load(source)
        except Exception as error:  # noqa: BLE001 onnxruntime's exceptions have no common base
            largest = _LARGEST_IR.search(str(error))
            if largest is not None:
                source = _relabelled(source, int(largest[1]))
            else:  # its fusions break some networks: a gelu written out whose first product has other readers
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            return load(source)
    except Exception as error:
        raise ModelError(
            f"{path}: onnxruntime cannot load the network ({_gist(error)}); "
            "mend it or export it again, or use a newer onnxruntime"
        ) from error


def _source(path: Path) -> bytes | str:
    """What onnxruntime opens: the path, so that external data is found beside it, or unpacked bytes."""
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == _GZIP
        if not packed:
            return str(path)
        content = path.read_bytes()
        while content[:2] == _GZIP:
            content = gzip.decompress(content)
        return content
    except (OSError, EOFError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error


def _parsed(source: bytes | str) -> onnx.ModelProto:
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(Path(source).read_bytes() if isinstance(source, str) else source)
    return model


def _with_outputs(source: bytes | str, hidden: Sequence[str]) -> tuple[bytes, list[str]]:
    """The network with more of its tensors as outputs, and the names of those that it had."""
    import onnx

    model = _parsed(source)
    names = [info.name for info in model.graph.output]
    added = dict.fromkeys(name for name in hidden if name not in names)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)
    return model.SerializeToString(), names


def _relabelled(source: bytes | str, ir_version: int) -> bytes:
    """The network marked with an older format version; external data stays where it is.

    What a graph means is settled by its operator set: the format's versions only say which fields a file may have,
    and onnxruntime refuses what it does not know by itself.
    """
    model = _parsed(source)
    model.ir_version = ir_version
    return model.SerializeToString()  # type: ignore[no-any-return]


def _gist(error: Exception) -> str:
    """The first line of what onnxruntime says, without its codes and the paths of its sources."""
    first = str(error).strip().partition("\n")[0]
    return _NOISE.sub("", first).strip() or type(error).__name__
