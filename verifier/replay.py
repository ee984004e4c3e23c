"""Replay of candidate witnesses on onnxruntime: nothing else can make a verdict ``sat``."""

from __future__ import annotations

import copy
import gzip
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from provenn.errors import InputError, ModelError
from provenn.specs import Query
from provenn.verifier.result import Witness

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_ELEMENT_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
_GZIP = b"\x1f\x8b"
_LARGEST_IR = re.compile(r"max supported IR version: (\d+)")
_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed:|/\S+:\d+ .*?\) (?=[A-Z])")
"""What onnxruntime puts before what it has to say: a code, the path once more, the place in its own sources."""


class Replay:
    """Runs a network on onnxruntime (CPU) and judges inputs by a property, with tolerance zero.

    The session is created at the first run, so that a proof that needs no witness never pays for it. ``calls``
    counts network runs, ``failures`` those that onnxruntime refused (an index out of range, for instance).
    A float32 network is run with the graph optimisations that the competition's checker uses: the default ones.
    """

    def __init__(
        self,
        network_path: str | os.PathLike[str],
        query: Query,
        threads: int = 1,
        free: np.ndarray | None = None,
    ):
        """``free``: points hold only these inputs (flat positions); all others have one value in every clause."""
        if threads < 1:
            raise InputError(f"Replay got threads={threads!r}, expected at least 1")
        self.network_path, self.query, self.threads = Path(network_path), query, threads
        self.free = free
        self.columns: int | None = None
        self.calls = self.failures = 0
        self._session: InferenceSession | None = None
        self._input_name = self._output_name = ""
        self._input_shape: tuple[int, ...] = ()
        self._element: np.dtype[Any] = np.dtype(query.element_type)

    def run(self, x: np.ndarray) -> np.ndarray | None:
        """Flat outputs of the network at a flat input, None where onnxruntime refuses it. Raises ModelError."""
        session = self._open()
        self.calls += 1
        feed = {self._input_name: np.asarray(x).astype(self._element).reshape(self._input_shape)}
        try:
            return np.asarray(session.run([self._output_name], feed)[0]).reshape(-1)
        except Exception:  # noqa: BLE001 onnxruntime's own exceptions share no base class but this
            self.failures += 1
            return None

    def leading(self, columns: int) -> Replay:
        """The same for points of which only the first ``columns`` are inputs; the others follow from those."""
        found = copy.copy(self)
        found.columns = columns
        return found

    def lifted(self, x: np.ndarray) -> np.ndarray:
        """A point of the search as one of the network: fixed inputs have their value in the element type."""
        x = np.asarray(x).reshape(-1)[: self.columns]
        if self.free is None:
            return x
        whole = self.query.witness_box[0].astype(np.float64)
        if len(x) == len(self.free):
            whole[self.free] = x
            return whole
        return x

    def project(self, x: np.ndarray, clause: int) -> np.ndarray | None:
        """The nearest point to ``x`` in the witness box of a clause, None where that box is empty."""
        lower, upper = self.query.witness_bounds(clause)
        if (lower > upper).any():
            return None
        return np.clip(np.asarray(x).reshape(-1).astype(lower.dtype), lower, upper)

    def check(self, x: np.ndarray, clause: int | None = None) -> Witness | None:
        """The witness that a flat input is, or None.

        ``x`` is cast to the element type of the network; only where a clause of the query is named is it moved,
        to the nearest point of that clause's witness box. The outputs are onnxruntime's own.
        """
        x = self.lifted(x)
        point: np.ndarray | None = x
        if clause is not None:
            point = self.project(x, clause)
        if point is None or len(point) != self.query.input_count or not np.isfinite(point).all():
            return None
        self._open()
        with np.errstate(over="ignore"):
            point = point.astype(self._element)
        outputs = self.run(point)
        if outputs is None or len(outputs) != self.query.output_count:
            return None
        return Witness(point, outputs) if self.query.violated(point, outputs) else None

    def check_many(
        self,
        x: np.ndarray,
        margin: np.ndarray | None = None,
        clause: np.ndarray | None = None,
        limit: int = 4,
    ) -> Witness | None:
        """The first witness among the ``limit`` inputs of the smallest margin.

        ``x`` ``[n, inputs]``; ``margin`` ``[n]`` as the search evaluated it (None: in the order given; those with
        NaN come last); ``clause`` ``[n]`` numbers of clauses of the query to whose boxes the inputs are moved.
        """
        order = np.arange(len(x)) if margin is None else np.argsort(np.asarray(margin), kind="stable")
        for i in order[:limit]:
            witness = self.check(x[i], None if clause is None else int(clause[i]))
            if witness is not None:
                return witness
        return None

    def _open(self) -> InferenceSession:
        if self._session is not None:
            return self._session
        import onnxruntime  # half a second, which only a candidate is worth

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # refused inputs are counted, not printed
        # where external data lies, for a network that is handed over as bytes
        folder = str(self.network_path.resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)

        def load(source: bytes | str) -> InferenceSession:
            return onnxruntime.InferenceSession(
                source, sess_options=options, providers=["CPUExecutionProvider"]
            )

        source = self._source()
        try:
            try:
                session = load(source)
            except Exception as error:  # noqa: BLE001 onnxruntime's exceptions have no common base
                largest = _LARGEST_IR.search(str(error))
                if largest is not None:
                    source = _relabelled(source, int(largest[1]))
                else:  # its fusions break some networks: a gelu written out whose first product has other readers
                    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
                session = load(source)
        except Exception as error:
            raise ModelError(
                f"{self.network_path}: onnxruntime cannot load the network ({_gist(error)}); "
                "mend it or export it again, or use a newer onnxruntime"
            ) from error
        declared = session.get_inputs()
        if len(declared) != 1:
            raise ModelError(
                f"{self.network_path}: has {len(declared)} inputs, expected 1; merge them into one"
            )
        if declared[0].type not in _ELEMENT_TYPES:
            raise ModelError(f"{self.network_path}: input of type {declared[0].type}, expected a float type")
        self._element = np.dtype(_ELEMENT_TYPES[declared[0].type])
        self._input_name, self._output_name = declared[0].name, session.get_outputs()[0].name
        shape = declared[0].shape
        # the leading dimension of a file is often a name (a batch); any unknown dimension reads as 1
        self._input_shape = tuple(n if isinstance(n, int) and n > 0 else 1 for n in shape)
        if int(np.prod(self._input_shape, dtype=np.int64)) != self.query.input_count:
            raise InputError(
                f"{self.network_path} takes {int(np.prod(self._input_shape, dtype=np.int64))} inputs {shape}, the "
                f"property has {self.query.input_count}: is it a property of another network?"
            )
        self._session = session
        return session

    def _source(self) -> bytes | str:
        """What onnxruntime opens: the path, so that external data is found beside it, or unpacked bytes."""
        try:
            with open(self.network_path, "rb") as file:
                packed = file.read(2) == _GZIP
            if not packed:
                return str(self.network_path)
            content = self.network_path.read_bytes()
            while content[:2] == _GZIP:
                content = gzip.decompress(content)
            return content
        except (OSError, EOFError) as error:
            raise ModelError(f"{self.network_path}: cannot be read ({error})") from error


def _relabelled(source: bytes | str, ir_version: int) -> bytes:
    """The network marked with an older format version; external data stays where it is.

    What a graph means is settled by its operator set: the format's versions only say which fields a file may have,
    and onnxruntime refuses what it does not know by itself.
    """
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(Path(source).read_bytes() if isinstance(source, str) else source)
    model.ir_version = ir_version
    return model.SerializeToString()  # type: ignore[no-any-return]


def _gist(error: Exception) -> str:
    """The first line of what onnxruntime says, without its codes and the paths of its sources."""
    first = str(error).strip().partition("\n")[0]
    return _NOISE.sub("", first).strip() or type(error).__name__
