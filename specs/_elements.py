"""Elements of declared tensors, `U[0,1]`: from tokens to flat indices, by array operations."""

from __future__ import annotations

import re

import numpy as np

from provenn.specs._composition import Composition, Tensor
from provenn.specs._scan import Tokens
from provenn.specs._source import Source

_CHUNK = 1 << 17
_LONGEST = 40  # bytes; longer tokens are rare and go one by one
_MOST = 64  # tensors; of more, every element is looked up by its name
_ELEMENT = re.compile(r"([^\[\]]*)(?:\[([^\[\]]*)\])?")


class Elements:
    """The variables of VNN-LIB 2; see `Variables`. Inputs are places in X, hidden tensors and outputs are columns."""

    relates = True

    def __init__(self, composition: Composition):
        self.networks = {network.name for network in composition.networks}
        self.tensors: dict[str, tuple[Tensor, bool, int]] = {}
        for is_input, places in ((True, composition.inputs), (False, composition.outputs)):
            for _, tensor, start in places:
                self.tensors[tensor.name] = (tensor, is_input, start)

    def read(self, tokens: Tokens, which: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """(is an input: bool [n], flat index: int64 [n]) of tokens; PropertyError at the first that is none."""
        is_input, index = np.zeros(len(which), bool), np.full(len(which), -1, np.int64)
        for begin in range(0, len(which), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            self._read(tokens, which[part], is_input[part], index[part])
        for position in np.flatnonzero(index < 0):  # long ones, and what is no element
            is_input[position], index[position] = self.one(tokens, int(which[position]), source)
        return is_input, index

    def _read(self, tokens: Tokens, which: np.ndarray, is_input: np.ndarray, index: np.ndarray) -> None:
        """Fill in the tokens that are elements; the others keep index -1."""
        if len(self.tensors) > _MOST:
            return
        length = tokens.length(which)
        left = np.flatnonzero(length <= _LONGEST)
        for name, (tensor, about_input, start) in self.tensors.items():
            text = (name + "[" * bool(tensor.shape)).encode()
            if len(text) > _LONGEST:
                continue
            found = tokens.windows(which[left], len(text)) == np.frombuffer(text, np.uint8)
            fits = found.all(axis=1) & (length[left] > len(text) if tensor.shape else length[left] == len(text))
            here, left = left[fits], left[~fits]
            if not here.size:
                continue
            flat = np.zeros(len(here), np.int64)
            if tensor.shape:
                flat = _places(tokens, tokens.start[which[here]] + len(text), length[here] - len(text), tensor.shape)
            is_input[here] = about_input
            index[here] = np.where(flat >= 0, flat + start, -1)

    def one(self, tokens: Tokens, token: int, source: Source) -> tuple[bool, int]:
        """(is an input, flat index) of one token."""
        word = tokens.word(token)
        found = _ELEMENT.fullmatch(word)
        name = found[1] if found else word
        if found is None or name not in self.tensors:
            if name in self.networks:
                message = f"{name} is a network; name an element of one of its tensors"
            else:
                message = f"{_short(name)} is not declared (declared: {_listed(list(self.tensors))}); mend the name"
            raise source.error(tokens.start[token], message)
        tensor, is_input, start = self.tensors[name]
        try:
            return is_input, start + _flat(tensor, found[2])
        except ValueError as error:
            raise source.error(tokens.start[token], str(error)) from None


def _places(tokens: Tokens, first: np.ndarray, length: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Flat indices int64 [n] of `0,1]` at bytes `first` [n], -1 where they are no indices into `shape`."""
    flat, value = np.zeros((2, len(first)), np.int64)
    axis, digits = np.zeros((2, len(first)), np.int64)
    good = np.ones(len(first), bool)
    sizes = np.array((*shape, 0))  # behind the last axis nothing is in range
    for position in range(int(length.max())):
        character = tokens.text[first + position]
        inside = position < length
        digit = character.astype(np.int64) - ord("0")
        is_digit = (digit >= 0) & (digit <= 9)
        ends = (character == ord(",")) | (character == ord("]"))
        good &= is_digit | ends | ~inside
        good &= ~ends | ~inside | ((digits > 0) & (value < sizes[axis]))
        last = position == length - 1
        good &= ~inside | ((character == ord("]")) == last)
        flat = np.where(inside & ends, flat * sizes[axis] + value, flat)
        axis = np.where(inside & ends, np.minimum(axis + 1, len(shape)), axis)
        digits = np.where(ends, 0, digits + 1)
        value = np.where(ends, 0, np.minimum(value * 10 + digit, 1 << 40))
    return np.where(good & (axis == len(shape)), flat, -1)


def _flat(tensor: Tensor, indices: str | None) -> int:
    """The flat index that `0,1` means; ValueError says what is wrong with it."""
    shape, rank = list(tensor.shape), len(tensor.shape)
    example = tensor.element(0)
    if indices is None:
        if rank:
            raise ValueError(f"{tensor.name} has shape {shape}; name one element, such as {example}")
        return 0
    if not rank:
        raise ValueError(f"{tensor.name} is a scalar; write it without an index")
    parts = indices.split(",")
    if len(parts) != rank:
        raise ValueError(f"{tensor.name} has {rank} dimensions, got {len(parts)} indices; write it like {example}")
    flat = 0
    for axis, (part, size) in enumerate(zip(parts, shape, strict=True)):
        if not (part.isascii() and part.isdigit()):
            raise ValueError(f"{_short(part)!r} is no index; write whole numbers from 0, such as {example}")
        if len(part.lstrip("0")) > 18 or int(part) >= size:
            raise ValueError(
                f"index {_short(part)} is out of range: dimension {axis} of {tensor.name} has size {size}; "
                f"expected 0 to {size - 1}"
            )
        flat = flat * size + int(part)
    return flat


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + ".."


def _listed(names: list[str]) -> str:
    return ", ".join(_short(name) for name in names[:8]) + (", .." if len(names) > 8 else "")
