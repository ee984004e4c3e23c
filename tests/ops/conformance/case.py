"""What a case of an operator of one variable states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy import ndarray as Array

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import OPS, Univariate, prepare

FLOAT = torch.float64


@dataclass(frozen=True, eq=False)
class Case:
    """``bends`` part the line into pieces on which the derivative is monotone; ``focus`` are further special points.

    ``size(x)`` is what errors of the reference are relative to, the value itself by default. ``jumps(lower, upper)``
    are break points ``[boxes, k]`` that depend on the box, and ``roots(slope, lower, upper)`` a list of the stationary
    points of functions with infinitely many pieces.
    """

    name: str
    reference: Callable
    exact: Callable
    derivative: Callable | None = None
    bends: tuple[float, ...] = ()
    focus: tuple[float, ...] = (0.0,)
    attributes: dict = field(default_factory=dict)
    domain: tuple[float, float] = (-1e6, 1e6)
    size: Callable | None = None
    jumps: Callable | None = None
    roots: Callable | None = None
    label: str = ""

    def __str__(self) -> str:
        return self.label or self.name

    @property
    def special(self) -> Array:
        """Bends and focus points inside the domain."""
        points = np.unique(np.array([*self.bends, *self.focus], dtype=float))
        return points[(points >= self.domain[0]) & (points <= self.domain[1])]

    def prepared(self, dtype: torch.dtype = FLOAT):
        node = Node(self.name, (0,), (1,), self.attributes)
        return prepare(node, ((1,),), dtype, torch.device("cpu"))

    @property
    def operator(self) -> Univariate:
        record = OPS[self.name]
        assert isinstance(record, Univariate)
        return record
