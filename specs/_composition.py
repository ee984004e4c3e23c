"""What a VNN-LIB 2 query is about: networks, their tensors, and how they lie in two flat vectors.

The query's inputs X are the input tensors of all networks in the order of their declarations, each row-major. What its
rows are about are the columns: first, per network in the order of the declarations, its hidden tensors and then its
outputs (so a witness is read off both vectors from left to right), then the inputs that rows mention, X[passed], and
last the products of variables, `monomials`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Literal

import numpy as np

Relation = Literal["equal-to", "isomorphic-to"]


@dataclass(frozen=True)
class Tensor:
    """A declared input, hidden or output tensor; a scalar has shape ()."""

    name: str
    type: str  # as declared, in lower case: 'float32', 'real', ...
    shape: tuple[int, ...]
    onnx_name: str | None = None  # of hidden tensors only
    offset: int = 0  # bytes, in the source

    @property
    def size(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    def element(self, index: int) -> str:
        """The name of its element at a flat index: `U[0,1]`, or `A` of a scalar."""
        if not self.shape:
            return self.name
        return f"{self.name}[{','.join(map(str, np.unravel_index(index, self.shape)))}]"


@dataclass(frozen=True)
class Network:
    """A declared network; tensors in the order of their declarations."""

    name: str
    relation: tuple[Relation, str] | None  # and the name of an earlier network
    inputs: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    offset: int = 0  # bytes, in the source


@dataclass(frozen=True)
class Equality:
    """`|sum coefficients * X[variables] - constant| <= slack` in every clause; 0 unless a checker rounds here.

    The variables are distinct and sorted, no coefficient is 0.
    """

    variables: tuple[int, ...]
    coefficients: tuple[Fraction, ...]
    constant: Fraction
    slack: Fraction


@dataclass(frozen=True, eq=False)
class Composition:
    """The networks of a query, and the columns that its rows are about.

    A monomial is a product of degree 2 or more: columns of hidden tensors, outputs and passed inputs, sorted; a
    power repeats its column.
    """

    networks: tuple[Network, ...]
    version: str  # '2.0'
    passed: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # int64, sorted: flat inputs
    monomials: tuple[tuple[int, ...], ...] = ()
    equalities: tuple[Equality, ...] = ()  # linear relations of inputs that every clause has

    @property
    def inputs(self) -> Iterator[tuple[Network, Tensor, int]]:
        """(network, input tensor, its first place in X)."""
        return _placed((network, tensor) for network in self.networks for tensor in network.inputs)

    @property
    def outputs(self) -> Iterator[tuple[Network, Tensor, int]]:
        """(network, hidden or output tensor, its first column), in the order of the columns."""
        return _placed(
            (network, tensor) for network in self.networks for tensor in (*network.hidden, *network.outputs)
        )

    @cached_property
    def input_count(self) -> int:
        """The length of X."""
        return sum(tensor.size for _, tensor, _ in self.inputs)

    @cached_property
    def output_count(self) -> int:
        """How many elements hidden tensors and outputs have: the columns that networks compute."""
        return sum(tensor.size for _, tensor, _ in self.outputs)

    @property
    def column_count(self) -> int:
        """All columns: hidden tensors and outputs, passed inputs, monomials."""
        return self.output_count + len(self.passed) + len(self.monomials)

    def input_slice(self, tensor: Tensor) -> slice:
        """Where an input tensor lies in X; tensors have different names."""
        return _find(self.inputs, tensor)

    def column_slice(self, tensor: Tensor) -> slice:
        """Where a hidden or output tensor lies in the columns."""
        return _find(self.outputs, tensor)

    def input_name(self, variable: int) -> str:
        """`U[0,1]` for a flat input."""
        return _name(self.inputs, variable)

    def column_name(self, column: int) -> str:
        """The element that a column is, or the product: `Q[0,0]`, `U[0,1]`, `S[1]*S[1]`."""
        if column < self.output_count:
            return _name(self.outputs, column)
        column -= self.output_count
        if column < len(self.passed):
            return self.input_name(int(self.passed[column]))
        return "*".join(self.column_name(factor) for factor in self.monomials[column - len(self.passed)])


def _placed(pairs: Iterator[tuple[Network, Tensor]]) -> Iterator[tuple[Network, Tensor, int]]:
    found = list(pairs)
    starts = accumulate((tensor.size for _, tensor in found), initial=0)
    return ((network, tensor, start) for (network, tensor), start in zip(found, starts, strict=False))


def _find(places: Iterator[tuple[Network, Tensor, int]], tensor: Tensor) -> slice:
    for _, other, start in places:
        if other.name == tensor.name:
            return slice(start, start + tensor.size)
    raise KeyError(tensor.name)


def _name(places: Iterator[tuple[Network, Tensor, int]], index: int) -> str:
    for _, tensor, start in places:
        if start <= index < start + tensor.size:
            return tensor.element(index - start)
    raise IndexError(index)
