"""Lowers ATen operators that make constants or move elements: torch itself moves their positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from provenn.bounds.graph._builder import Operand, Value
from provenn.bounds.graph._call import Call, Lowering, Result, is_constant
from provenn.bounds.graph._constants import Constant

# Views and copies of parts: every result's element is one of the operand's, wherever torch puts it.
MOVES = frozenset({
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "movedim", "swapaxes", "expand",
    "repeat", "select", "slice", "narrow", "index_select", "split", "split_with_sizes", "chunk", "unbind", "flip",
    "roll", "rot90", "pixel_shuffle", "pixel_unshuffle", "unfold", "diagonal", "repeat_interleave", "gather",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
})  # fmt: skip
# The same, with zeros in some places.
WITH_ZEROS = frozenset({"tril", "triu", "diag_embed"})
SAME = frozenset({
    "clone", "contiguous", "detach", "alias", "lift_fresh_copy", "dropout", "_to_copy", "to", "type_as",
})  # fmt: skip


def _transposed(call: Call) -> Result:
    """Permutations of axes keep their form, which what follows can fuse."""
    x = call.tensor()
    rank = len(x.shape)
    order = list(range(rank))
    if call.name.startswith("permute"):
        order = [call.axis(axis, rank) for axis in call["dims"]]
    elif rank >= 2 and (call.name == "t" or call.name == "mT"):
        order[-2:] = order[-1], order[-2]
    elif call.name != "t":
        first, second = (call.axis(call[name], rank) for name in ("dim0", "dim1"))
        order[first], order[second] = order[second], order[first]
    return call.permuted(x, order)


def _like_other(call: Call) -> Result:
    """The shape of another tensor, of which nothing else is read."""
    x, shape = call.tensor(), call.results[0][0]
    return call.onnx("Expand", x, _shape(shape)) if call.name == "expand_as" else call.reshape(x, shape)


def _shape(shape: tuple[int, ...]) -> Constant:
    return Constant(np.asarray(shape, np.int64))


def _same(call: Call) -> Result:
    if call["train"]:
        call.unsupported("it is in training mode, where its results are random", "call module.eval() first")
    return call.cast(call.arguments[next(iter(call.arguments))], call.type)


def _padded(call: Call) -> Result:
    """Padding by a constant; other modes move elements."""
    if call["mode"] not in (None, "constant"):
        return call.moved()
    value = float(call["value"] or 0.0)
    number = float(np.asarray(value).astype(call.type))
    call.arguments["value"] = 0.0
    return call.moved(fill=number)[0]


def _concatenated(call: Call) -> Result:
    parts = [part for part in call["tensors"] if part.shape != (0,)]  # torch passes over empty vectors
    parts = [call.cast(part, call.type) for part in parts]
    return call.onnx("Concat", *parts, axis=call["dim"] or 0)


def _stacked(call: Call) -> Result:
    parts: list[Operand] = [call.cast(part, call.type) for part in call["tensors"]]
    shape = call.results[0][0]
    axis = call.axis(call["dim"] or 0, len(shape))
    thin = tuple(1 if place == axis else extent for place, extent in enumerate(shape))
    return call.onnx("Concat", *(call.reshape(part, thin) for part in parts), axis=axis)


def _indexed(call: Call) -> Result:
    """x[i, j, ...]; one index that depends on the input picks slices of an axis."""
    indices = call["indices"]
    if is_constant(indices):
        return call.moved()
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if len(axes) > 1 or indices[axes[0]].scalar_type == "bool":
        call.unsupported("several indices, or a mask, that depend on the network's input", "use torch.where")
    return call.onnx("Gather", call.tensor(), indices[axes[0]], axis=axes[0])


def _embedded(call: Call) -> Result:
    return call.onnx("Gather", call.tensor("weight"), call.tensor("indices"), axis=0)


def _filled_like(call: Call) -> Result:
    """full_like and its kin read only the shape."""
    shape, kind = call.results[0]
    value = {"zeros_like": 0, "ones_like": 1, "new_zeros": 0, "new_ones": 1}.get(call.name, call["fill_value"])
    return Constant(np.full(shape, call.number(value).array, kind))


def _placed(call: Call) -> Result:
    """The first operand with a part of its elements replaced by another's: torch places the positions of both."""
    name = "values" if "values" in call.arguments else "src" if "src" in call.arguments else "value"
    rest = {key: value for key, value in call.arguments.items() if key not in ("self", name)}
    if not all(is_constant(value) for value in rest.values()):
        call.unsupported("where it puts elements depends on the network's input", "use constant indices")
    if call["accumulate"] or call["reduce"]:
        call.unsupported("it adds to what is there", "add a tensor of zeros and these elements")
    x, part = call.operand("self"), call.operand(name)
    size = int(np.prod(x.shape, dtype=np.int64))
    numbers = {"self": _numbers(x, 0), name: _numbers(part, size)}
    if not isinstance(call[name], Operand):
        numbers[name] = float(size)
    taken = call.placed(numbers).astype(np.int64)
    if isinstance(x, Value) or isinstance(part, Value):
        return call.builder.assemble([x, part], taken)
    joined = call.onnx("Concat", call.reshape(x, (-1,)), call.reshape(part, (-1,)), axis=0)
    assert isinstance(joined, Constant)
    return joined.mapped(lambda a: a[taken])


def _copied(call: Call) -> Result:
    """The second operand in the shape and type of the first."""
    return call.onnx("Expand", call.operand("src"), _shape(call.results[0][0]))


def _numbers(x: Operand, first: int) -> Any:
    count = int(np.prod(x.shape, dtype=np.int64))
    return np.arange(first, first + count, dtype=np.float64).reshape(x.shape)


STRUCTURE: dict[str, Lowering] = {
    **dict.fromkeys(MOVES, lambda call: call.moved()),
    **dict.fromkeys(WITH_ZEROS, lambda call: call.moved(fill=0.0)),
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(("transpose", "permute", "t", "mT"), _transposed),
    **dict.fromkeys(("expand_as", "view_as", "reshape_as"), _like_other),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"), _filled_like),
    **dict.fromkeys(("slice_scatter", "select_scatter", "index_put", "scatter"), _placed),
    "copy": _copied,
    "cat": _concatenated,
    "stack": _stacked,
    "index": _indexed,
    "embedding": _embedded,
}
