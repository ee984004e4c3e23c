"""What an operator states. One record per operator; the table OPS in ``__init__`` lists them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops._patterns import Pattern

Box = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Prepared:
    """A node's constants as tensors of one element type on one device; made once per plan.

    ``derived`` holds what ``Operator.derive`` computed from the node once (strides, paddings, ...).
    """

    node: Node
    input_shapes: tuple[tuple[int, ...], ...]
    tensors: dict[str, Tensor]
    dtype: torch.dtype
    device: torch.device
    derived: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shape


@dataclass(frozen=True)
class Operator:
    """An operator that can be evaluated and bounded by an interval.

    ``evaluate(prepared, *inputs)`` maps ``[domains, *sample]`` tensors to ``[domains, *shape]``.
    ``interval(prepared, *boxes)`` maps (lower, upper) pairs to a pair that contains the image of the
    real function over the boxes; it is rounded outward for float64 and approximate for float32.
    ``tables`` are those of the ``constants`` that belong to no element; others broadcast to the node's shape where the
    operator is elementwise.
    """

    name: str
    evaluate: Callable[..., Tensor]
    interval: Callable[..., Box]
    constants: tuple[str, ...] = ()
    derive: Callable[[Node, tuple[tuple[int, ...], ...]], dict[str, Any]] | None = field(default=None, kw_only=True)
    tables: frozenset[str] = field(default=frozenset(), kw_only=True)


@dataclass(frozen=True)
class LinearOperator(Operator):
    """An affine map of its inputs: ``y = sum_i M_i x_i + c``.

    ``transpose(prepared, a)`` maps coefficients ``[n, *shape]`` to a tuple with ``a M_i`` for every
    input i, shape ``[n, *input_shapes[i]]``; the results may alias ``a`` or each other, so do not
    write into them. ``offset(prepared)`` is c, shape ``[*shape]`` or None.
    ``magnitude(prepared, *m)`` maps m_i >= |x_i| (shape ``[n, *input]``) to ``sum_i |M_i| m_i + |c|``,
    inflated so that ``length * 2^-53`` times it also covers the radii of the constants.
    ``length(prepared)`` is the number of roundings an output element or a transposed
    coefficient accumulates at most (inner product length plus roundings inside the constants).
    """

    transpose: Callable[[Prepared, Tensor], tuple[Tensor, ...]] = None  # type: ignore[assignment]
    offset: Callable[[Prepared], Tensor | None] = None  # type: ignore[assignment]
    magnitude: Callable[..., Tensor] = None  # type: ignore[assignment]
    length: Callable[[Prepared], int] = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Univariate(Operator):
    """An elementwise function of one variable, relaxed by slope and support function (DESIGN 5).

    ``candidates(prepared, slope, lower, upper)`` returns a list of ``(point, low, high)`` triples of
    broadcastable tensors: at ``point`` (clamped to the box by the caller's engine) the function takes,
    or tends to from one side, values between ``low`` and ``high``. Together with the two ends they must
    contain every extremum of ``f(x) - slope x`` over the box. An error of ``point`` is allowed where
    the value triple covers it (slack).
    ``low`` is None where the function is continuous: the engine evaluates it at the point clamped to the
    box, and ``high`` is None or an additional error.
    ``breakpoints`` are where the search splits by preference (relu: 0).
    ``piecewise_linear`` says that the function is linear between its break points.

    The rest is optional. ``error(prepared, x, fx)`` bounds ``|evaluate(x) - f(x)|``; None means a few
    ulps of the value. ``derivative(prepared, x)`` only seeds searches, soundness never rests on it.
    ``linear(prepared, lower, upper)`` returns ``(where, slope, offset)``: the boxes on which the function
    is exactly linear and its line there. ``lines(prepared, lower, upper, lower_slope, upper_slope)`` is a
    closed form of ``relaxation.lines`` for hot operators, ``start(prepared, lower, upper)`` one of
    ``relaxation.starting_slopes`` and ``slopes(prepared, lower, upper)`` one of ``relaxation.slope_range``;
    both may return None for boxes they do not cover.
    """

    candidates: Callable[[Prepared, Tensor, Tensor, Tensor], list[tuple[Any, Any, Any]]] = None  # type: ignore
    breakpoints: Callable[[Prepared], tuple[Any, ...]] = None  # type: ignore[assignment]
    piecewise_linear: bool = False
    error: Callable[[Prepared, Tensor, Tensor], Tensor] | None = None
    derivative: Callable[[Prepared, Tensor], Tensor] | None = None
    linear: Callable[[Prepared, Tensor, Tensor], tuple[Tensor, Any, Any]] | None = None
    lines: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] | None = None
    start: Callable[[Prepared, Tensor, Tensor], Box | None] | None = None
    slopes: Callable[[Prepared, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor] | None] | None = None


@dataclass(frozen=True)
class Plane:
    """One linear bound of a multi-input operator's output, elementwise.

    ``slopes[i]`` is ``[domains, *shape]``, or what the operator's pattern for that input says; ``offset`` is
    ``[domains, *shape]``.
    """

    slopes: tuple[Tensor, ...]
    offset: Tensor


class Weighted(Protocol):
    """Planes over given boxes as functions of weights ``[domains, rows, *size]``, one tensor for each side."""

    def planes(self, weights: tuple[Tensor, Tensor]) -> tuple[Plane, Plane]:
        """The lower and the upper planes, slopes and offsets ``[1|domains, 1|rows, ...]``."""
        ...

    def gradient(
        self, weights: tuple[Tensor, Tensor], coefficients: tuple[Tensor, Tensor], *values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The derivative in the weights of ``coefficients``, those on the lower and on the upper planes, times the
        planes at the operands' ``values``, all ``[domains, rows, ...]``."""
        ...


@dataclass(frozen=True)
class Multivariate(Operator):
    """An elementwise operator of several inputs (mul, max, min) or one whose outputs read several elements of an input.

    ``relax(prepared, weights, *boxes)`` returns (lower Plane, upper Plane), both sound over the boxes.
    ``weights`` is None for the starting relaxation or a pair of tensors in [0,1] ``[domains, *size]`` that
    choose among planes, the lower and the upper one (any value is sound).

    ``start(prepared, *boxes)`` is the pair of weights of the starting relaxation, and ``weighted(prepared, *boxes)``
    gives the planes for weights of rows of their own, and their gradient: both None where weights are not to be
    optimised. ``patterns(prepared)`` says for each input where its slopes go
    (``_patterns``), None for elementwise operators. ``products(prepared)`` is how many products a coefficient takes,
    ``opaque(prepared)`` whether planes would be too large, so that intervals have to do.
    """

    relax: Callable[..., tuple[Plane, Plane]] = None  # type: ignore[assignment]
    piecewise_linear: bool = False
    start: Callable[..., tuple[Tensor, Tensor]] | None = None
    weighted: Callable[..., Weighted] | None = None
    patterns: Callable[[Prepared], tuple[Pattern, ...]] | None = None
    products: Callable[[Prepared], int] = lambda prepared: 0
    opaque: Callable[[Prepared], bool] = lambda prepared: False


def at_elements(operator: Operator, prepared: Prepared, elements: Tensor) -> Prepared:
    """An elementwise node's constants at flat ``elements`` ``[n]``: those with a value per element are taken there."""
    tensors = {
        name: t.expand(prepared.shape).flatten()[elements] if t.dim() and name not in operator.tables else t
        for name, t in prepared.tensors.items()
    }
    return replace(prepared, tensors=tensors)
