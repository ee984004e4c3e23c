"""Declarations of VNN-LIB 2: `(vnnlib-version <2.0>)` and `(declare-network ..)`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from provenn.specs._composition import Network, Relation, Tensor
from provenn.specs._scan import CLOSE, OPEN, WORD, Tokens
from provenn.specs._source import Source

TYPES = ("float16", "float32", "float64", "real")
_OTHER_TYPES = {
    "bfloat16", "float8e4m3fn", "float8e5m2", "float8e4m3fnuz", "float8e5m2fnuz", "float4e2m1", "int4", "int8", "int16",
    "int32", "int64", "uint4", "uint8", "uint16", "uint32", "uint64", "complex64", "complex128", "bool", "string",
}  # fmt: skip
_KINDS = {"declare-input": "inputs", "declare-hidden": "hidden", "declare-output": "outputs"}
_RELATIONS: dict[str, Relation] = {"equal-to": "equal-to", "isomorphic-to": "isomorphic-to"}
_SHAPED = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")
_VERSION = re.compile(r"<(\d{1,9})\.(\d{1,9})>")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_NAME = re.compile(r"[A-Za-z][\w.:/\-]*")
_MOST = 2**31 - 64  # elements: columns are int32
_RANK = 32
_EXPECTED = "(declare-network name (declare-input X float32 [1,2]) (declare-output Y float32 [1]))"


@dataclass(frozen=True)
class Declarations:
    """What a property declares; `tokens` [n] marks the tokens that say so."""

    version: str
    networks: tuple[Network, ...]
    tokens: np.ndarray


def read_declarations(tokens: Tokens, source: Source) -> Declarations:
    """Read all declarations, wherever they stand at the top level.

    Raises PropertyError where one is malformed or does not fit another, UnsupportedPropertyError for element types that
    cannot be decided.
    """
    kind = tokens.kind
    depth = np.cumsum((kind == OPEN).astype(np.int8) - (kind == CLOSE), dtype=np.int32)
    top = np.flatnonzero((kind[:-1] == OPEN) & (kind[1:] == WORD) & (depth[:-1] == 1))
    versions = top[tokens.equal(top + 1, b"vnnlib-version")]
    declared = top[tokens.equal(top + 1, b"declare-network")]
    ends = np.flatnonzero(depth == 0)
    taken = np.zeros(len(kind), bool)
    for opening in (*versions, *declared):
        taken[opening : ends[np.searchsorted(ends, opening)] + 1] = True
    version = _version(tokens, versions, ends, source)
    if not declared.size:
        raise source.error(0, f"no network is declared; expected {_EXPECTED}")
    reader = _Networks(tokens, source)
    for opening in declared:
        reader.read(int(opening), int(ends[np.searchsorted(ends, opening)]))
    reader.check_types()
    return Declarations(version, tuple(reader.networks), taken)


def _version(tokens: Tokens, versions: np.ndarray, ends: np.ndarray, source: Source) -> str:
    if not versions.size:
        return "2.0"
    if len(versions) > 1:
        raise source.error(tokens.start[versions[1]], "a second version; remove one of them")
    opening = int(versions[0])
    found = _VERSION.fullmatch(tokens.word(opening + 2)) if tokens.kind[opening + 2] == WORD else None
    if found is None or ends[np.searchsorted(ends, opening)] != opening + 3:
        raise source.error(tokens.start[opening], "malformed version; expected (vnnlib-version <2.0>)")
    if int(found[1]) != 2:
        raise source.unsupported(
            tokens.start[opening + 2], f"VNN-LIB {found[1]}.{found[2]} is not supported; write the property in 2.0"
        )
    return f"{found[1]}.{found[2]}"


class _Networks:
    """Collects networks and the names that are taken."""

    def __init__(self, tokens: Tokens, source: Source):
        self.tokens, self.source = tokens, source
        self.networks: list[Network] = []
        self.names: set[str] = set()
        self.total = 0

    def read(self, opening: int, closing: int) -> None:
        """Read `( declare-network NAME .. )` between two tokens."""
        kinds = self.tokens.kind[opening : closing + 1].tolist()
        if kinds[2] != WORD:
            raise self._error(opening, f"malformed declaration; expected {_EXPECTED}")
        name = self._name(opening + 2)
        relation: tuple[Relation, str] | None = None
        found: dict[str, list[Tensor]] = {part: [] for part in _KINDS.values()}
        position = opening + 3
        while position < closing:
            end = position + 1
            while kinds[end - opening] == WORD:
                end += 1
            if kinds[position - opening] != OPEN or kinds[end - opening] != CLOSE or end == position + 1:
                raise self._error(
                    position,
                    "malformed declaration; expected (declare-input ..), (declare-hidden ..), (declare-output ..), "
                    "(equal-to ..) or (isomorphic-to ..)",
                )
            head = self.tokens.word(position + 1)
            if head in _KINDS:
                found[_KINDS[head]].append(self._tensor(head, position, end))
            elif head in _RELATIONS:
                if relation is not None:
                    raise self._error(position, f"network {name} is related twice; remove one of the relations")
                relation = (_RELATIONS[head], self._related(position, end, name))
            else:
                raise self._error(
                    position,
                    f"unknown declaration {head!r}; expected declare-input, declare-hidden, declare-output, "
                    "equal-to or isomorphic-to",
                )
            position = end + 1
        for part, word in (("inputs", "declare-input"), ("outputs", "declare-output")):
            if not found[part]:
                raise self._error(opening, f"network {name} declares no {part[:-1]}; add ({word} ..)")
        network = Network(
            name,
            relation,
            tuple(found["inputs"]),
            tuple(found["hidden"]),
            tuple(found["outputs"]),
            int(self.tokens.start[opening]),
        )
        if relation is not None:
            self._check_related(network)
        self.networks.append(network)

    def check_types(self) -> None:
        """One element type for all: the formats in which a comparison is judged must be one."""
        tensors = [t for n in self.networks for t in (*n.inputs, *n.hidden, *n.outputs)]
        first = tensors[0]
        for tensor in tensors:
            if tensor.type != first.type:
                raise self.source.unsupported(
                    tensor.offset,
                    f"{tensor.name} is of type {tensor.type}, {first.name} of type {first.type}; "
                    "provenn decides properties of one type: declare all tensors with it",
                )

    def _error(self, token: int, message: str) -> Exception:
        return self.source.error(self.tokens.start[token], message)

    def _name(self, token: int) -> str:
        name = self.tokens.word(token)
        if not (name.isascii() and _NAME.fullmatch(name)):
            raise self._error(token, f"{name!r} is no name; expected a letter, then letters, digits and _")
        if name in self.names:
            raise self._error(token, f"{name} is declared twice; give every network and tensor a name of its own")
        self.names.add(name)
        return name

    def _tensor(self, head: str, opening: int, closing: int) -> Tensor:
        hidden = head == "declare-hidden"
        place = 'real [8] "name in the ONNX file"' if hidden else "float32 [1,2]"
        words = list(range(opening + 2, closing))
        onnx_name = None
        string = _STRING.fullmatch(self._text(words[2])) if len(words) == 3 else None
        if string is not None:
            onnx_name = re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), string[1])
        elif len(words) == 3 and head == "declare-input" and self.tokens.word(words[2]) == "initialized":
            words.pop()
        found = _SHAPED.fullmatch(self.tokens.word(words[1])) if len(words) > 1 else None
        if found is None or len(words) != 2 + (onnx_name is not None) or (hidden and onnx_name is None):
            raise self._error(opening, f"malformed declaration; expected ({head} name {place})")
        tensor = Tensor(
            self._name(words[0]),
            self._type(words[1], found[1]),
            self._shape(words[1], found[2]),
            onnx_name if hidden else None,
            int(self.tokens.start[opening]),
        )
        self.total += tensor.size
        if self.total > _MOST:
            raise self.source.unsupported(
                tensor.offset, f"{tensor.name} makes it more than 2^31 elements; mend its shape {list(tensor.shape)}"
            )
        return tensor

    def _text(self, token: int) -> str:
        """A word as it stands in the file, strings included."""
        return self.source.data[int(self.tokens.start[token]) : int(self.tokens.stop[token])].decode("utf-8", "replace")

    def _type(self, token: int, name: str) -> str:
        lower = name.lower()
        if lower in TYPES:
            return lower
        if lower in _OTHER_TYPES:
            raise self.source.unsupported(
                self.tokens.start[token],
                f"type {name} cannot be decided; supported: {', '.join(TYPES)}: verify a network of such tensors",
            )
        raise self._error(token, f"unknown type {name!r}; expected one of {', '.join(TYPES)}")

    def _shape(self, token: int, text: str) -> tuple[int, ...]:
        parts = text.split(",") if text else []
        if len(parts) > _RANK:
            raise self.source.unsupported(
                self.tokens.start[token], f"a tensor of {len(parts)} dimensions; expected at most {_RANK}"
            )
        for part in parts:
            if not (part.isascii() and part.isdigit() and len(part) < 19 and int(part) > 0):
                shown = part if len(part) < 40 else part[:37] + ".."
                raise self._error(
                    token, f"{shown!r} is no size of a dimension; expected whole numbers from 1, [] for a scalar"
                )
        return tuple(int(part) for part in parts)

    def _related(self, opening: int, closing: int, name: str) -> str:
        head = self.tokens.word(opening + 1)
        if closing != opening + 3:
            raise self._error(opening, f"malformed relation; expected ({head} name)")
        other = self.tokens.word(opening + 2)
        known = {network.name: network for network in self.networks}
        if other == name or other not in known:
            raise self._error(opening + 2, f"{other!r} is no network declared before {name}; name one of those")
        first = known[other].relation
        if first is not None:
            raise self._error(opening + 2, f"{other} is itself {first[0]} {first[1]}; write ({head} {first[1]})")
        return other

    def _check_related(self, network: Network) -> None:
        """The same numbers, shapes and (equal-to) types of inputs and outputs as the network that it names."""
        assert network.relation is not None
        kind, name = network.relation
        other = next(each for each in self.networks if each.name == name)
        for part in ("inputs", "outputs"):
            mine, theirs = getattr(network, part), getattr(other, part)
            if len(mine) != len(theirs):
                raise self.source.error(
                    network.offset,
                    f"{network.name} has {len(mine)} {part}, {name} has {len(theirs)}; {kind} needs the same interface",
                )
            for one, two in zip(mine, theirs, strict=True):
                if one.shape != two.shape:
                    raise self.source.error(
                        one.offset,
                        f"{one.name} has shape {list(one.shape)}, {two.name} of {name} has {list(two.shape)}; "
                        f"{kind} needs the same shapes",
                    )
                if one.type != two.type and kind == "equal-to":
                    raise self.source.error(
                        one.offset,
                        f"{one.name} is of type {one.type}, {two.name} of {name} of type {two.type}; "
                        "equal-to needs the same types",
                    )
