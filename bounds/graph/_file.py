"""Reads the bytes of an ONNX file, plain or gzipped, and its tensors; every way to fail is a ModelError."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from provenn.errors import ModelError

_GZIP = b"\x1f\x8b"
_LFS = b"version https://git-lfs"
_RAW = {1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
        10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64}  # fmt: skip


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"{path}: is a directory, expected an ONNX file")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file, expected an ONNX network (.onnx or .onnx.gz)") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    # By content, not by name: instance lists name the plain file where only the gzipped one exists.
    while content[:2] == _GZIP:
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ModelError(
                f"{path}: broken gzip data ({error}), download or compress the file again"
            ) from error
    if not content:
        raise ModelError(f"{path}: the file is empty, expected an ONNX network")
    if content.startswith(_LFS):
        raise ModelError(f"{path}: is a git-LFS pointer, not a network; fetch the file with 'git lfs pull'")
    return content


def read_model(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Parse the ONNX file at ``path``; gzip is recognised by content. Raises ModelError."""
    path = Path(path)
    content = _bytes(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: not an ONNX file or a truncated one ({error}), export it again") from error
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError(
            f"{path}: contains no graph, not an ONNX network or a truncated one, export it again"
        )
    return model


def _external(proto: onnx.TensorProto, folder: Path, where: str) -> np.ndarray:
    """Read a tensor stored in another file, which must lie inside the network's folder."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    location = entries.get("location", "")
    target = Path(location)
    inside = location and not target.is_absolute() and ".." not in target.parts and "\\" not in location
    root = os.path.realpath(folder)
    real = os.path.realpath(folder / target)
    if not inside or os.path.commonpath([root, real]) != root:
        raise ModelError(
            f"{where}: external data {location!r} leaves the network's folder, store it beside the file"
        )
    dtype = np.dtype(_RAW.get(proto.data_type, np.void))
    if proto.data_type not in _RAW:
        raise ModelError(f"{where}: external data of element type {proto.data_type} is not supported")
    count = int(np.prod(proto.dims, dtype=np.int64))
    try:
        offset = int(entries.get("offset", 0))
        array = np.fromfile(real, dtype=dtype, count=count, offset=offset)
    except (OSError, ValueError) as error:
        raise ModelError(f"{where}: external data {location!r} cannot be read: {error}") from error
    if array.size != count:
        raise ModelError(f"{where}: external data {location!r} holds {array.size} of {count} elements")
    return array.reshape(tuple(proto.dims))


def tensor_array(proto: onnx.TensorProto, folder: Path, where: str) -> np.ndarray:
    """Convert a tensor to numpy without copying where the file stores raw bytes; half floats become float32."""
    if any(extent < 0 for extent in proto.dims):
        raise ModelError(f"{where}: has the negative shape {list(proto.dims)}")
    shape = tuple(proto.dims)
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        array = _external(proto, folder, where)
    elif proto.HasField("raw_data") and proto.data_type in _RAW:
        dtype = np.dtype(_RAW[proto.data_type]).newbyteorder("<")
        count = int(np.prod(shape, dtype=np.int64))
        if len(proto.raw_data) != count * dtype.itemsize:
            stored, expected = len(proto.raw_data), count * dtype.itemsize
            raise ModelError(f"{where}: stores {stored} bytes, expected {expected} for shape {list(shape)}")
        array = np.frombuffer(proto.raw_data, dtype=dtype).reshape(shape)
    else:
        try:
            array = np.asarray(numpy_helper.to_array(proto))
        except (
            Exception
        ) as error:  # onnx raises TypeError, ValueError and its own kinds for malformed tensors
            raise ModelError(f"{where}: malformed tensor ({error})") from error
    if array.dtype.kind == "O":
        raise ModelError(f"{where}: holds strings, expected numbers")
    if array.dtype == np.float16 or array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    return array


def initialisers(model: onnx.ModelProto, folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and value of every stored tensor."""
    for proto in model.graph.initializer:
        yield proto.name, tensor_array(proto, folder, f"initialiser {proto.name!r}")
    for sparse in model.graph.sparse_initializer:
        name = sparse.values.name
        values = tensor_array(sparse.values, folder, f"sparse initialiser {name!r}")
        indices = tensor_array(sparse.indices, folder, f"sparse initialiser {name!r}")
        array = np.zeros(tuple(sparse.dims), dtype=values.dtype)
        if indices.ndim == 1:
            array.reshape(-1)[indices] = values
        else:
            array[tuple(indices.T)] = values
        yield name, array


def attribute_value(attribute: Any, folder: Path, where: str) -> Any:
    """Return an attribute as int, float, str, list of them, numpy array, or None for a subgraph."""
    kind = attribute.type
    if kind == onnx.AttributeProto.FLOAT:
        return attribute.f
    if kind == onnx.AttributeProto.INT:
        return attribute.i
    if kind == onnx.AttributeProto.STRING:
        return attribute.s.decode("utf-8", "replace")
    if kind == onnx.AttributeProto.TENSOR:
        return tensor_array(attribute.t, folder, where)
    if kind == onnx.AttributeProto.FLOATS:
        return list(attribute.floats)
    if kind == onnx.AttributeProto.INTS:
        return list(attribute.ints)
    if kind == onnx.AttributeProto.STRINGS:
        return [text.decode("utf-8", "replace") for text in attribute.strings]
    return None
