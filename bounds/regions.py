"""Regions of a network's input: boxes and balls, as a caller states them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._graph import Graph
from provenn.bounds.propagate.ball import BallBox
from provenn.bounds.propagate.interval import Box as Ends
from provenn.errors import InputError

ArrayLike: TypeAlias = "Tensor | np.ndarray | Sequence | float"


def _tensor(value: ArrayLike, what: str) -> Tensor:
    """A float64 copy ``[*shape]`` on the CPU of anything that holds numbers; exact from any float type."""
    try:
        made = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value.detach())
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} got {type(value).__name__}, expected numbers ({error})") from None
    made = made.to("cpu", torch.float64, copy=True)
    if bool(made.isnan().any()):
        raise InputError(f"{what} holds a number that is NaN, expected numbers")
    return made


@dataclass(frozen=True, eq=False)
class Box:
    """All inputs between two ends, ``lower <= x <= upper`` in every element.

    ``lower`` and ``upper`` have the shape of the network's input, leading dimension included, or one axis more in
    front: then they are that many boxes. Tensors, arrays, nested lists; one of them may be a single number. Raises
    InputError where shapes do not fit, an end is infinite, or a lower end is above an upper one.

    >>> Box([[0.0, 0.0]], 1.0)
    Box(lower=[[0.0, 0.0]], upper=[[1.0, 1.0]])
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, lower: ArrayLike, upper: ArrayLike):
        low, high = _tensor(lower, "Box: lower"), _tensor(upper, "Box: upper")
        try:
            low, high = torch.broadcast_tensors(low, high)
        except RuntimeError:
            raise InputError(
                f"Box got lower of shape {list(low.shape)} and upper of shape {list(high.shape)}, expected one shape"
            ) from None
        if not bool((low <= high).all()):
            place = tuple((low > high).nonzero()[0].tolist())
            raise InputError(
                f"Box got lower={float(low[place])!r} above upper={float(high[place])!r} at {list(place)}, "
                "expected lower <= upper"
            )
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise InputError("Box got an infinite end, expected finite numbers")
        object.__setattr__(self, "lower", low.clone())
        object.__setattr__(self, "upper", high.clone())

    @staticmethod
    def around(
        centre: ArrayLike, radius: ArrayLike, within: tuple[ArrayLike, ArrayLike] | None = None
    ) -> Box:
        """All inputs whose elements are within ``radius`` of the centre's: the ball of the norm inf.

        The ends are rounded outward. ``within=(lowest, highest)`` cuts the box to what inputs can be, pixels in
        [0, 1] for instance.
        """
        middle, spread = _tensor(centre, "Box.around: centre"), _tensor(radius, "Box.around: radius")
        _check_radius("Box.around", spread)
        return Box(*_cut(*_hull(middle, spread), within, "Box.around"))

    def ends(self, shape: tuple[int, ...], what: str) -> Ends:
        """(lower, upper) ``[boxes, *shape]`` as the bounder takes them."""
        return _with_boxes(self.lower, shape, what), _with_boxes(self.upper, shape, what)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.lower.shape)

    def __repr__(self) -> str:
        return f"Box(lower={_short(self.lower)}, upper={_short(self.upper)})"


@dataclass(frozen=True, eq=False)
class Ball:
    """All inputs ``x`` with ``|x - centre| <= radius`` in the norm 1, 2 or inf over all elements together.

    ``centre`` is as the ends of a Box; ``radius`` is one number, or one for every box. ``within=(lowest, highest)``
    says what inputs can be: the region is what the ball and that box have in common.

    >>> Ball([[0.0, 0.0]], 0.5, norm=2)
    Ball(centre=[[0.0, 0.0]], radius=0.5, norm=2)
    """

    centre: Tensor
    radius: Tensor
    norm: float
    within: tuple[ArrayLike, ArrayLike] | None

    def __init__(
        self,
        centre: ArrayLike,
        radius: ArrayLike,
        norm: float | str = 2,
        within: tuple[ArrayLike, ArrayLike] | None = None,
    ):
        found = {"1": 1, "2": 2, "inf": float("inf")}.get(str(norm).removesuffix(".0"))
        if found is None:
            raise InputError(f"Ball got norm={norm!r}, expected 1, 2 or inf")
        middle, size = _tensor(centre, "Ball: centre"), _tensor(radius, "Ball: radius")
        _check_radius("Ball", size)
        if size.dim() > 1 or (size.dim() == 1 and middle.shape[:1] != size.shape):
            raise InputError(
                f"Ball got radius of shape {list(size.shape)}, expected one number, or one for every box"
            )
        object.__setattr__(self, "centre", middle)
        object.__setattr__(self, "radius", size)
        object.__setattr__(self, "norm", found)
        object.__setattr__(self, "within", within)

    def ends(self, shape: tuple[int, ...], what: str) -> Ends:
        """The box around the ball, cut to ``within``, ``[boxes, *shape]``; it knows the ball where that is no box."""
        radius = self.radius.view(-1, *(1,) * (self.centre.dim() - 1)) if self.radius.dim() else self.radius
        low, high = Box(*_cut(*_hull(self.centre, radius), self.within, "Ball")).ends(shape, what)
        if self.norm == float("inf"):
            return low, high
        centre = _with_boxes(self.centre, shape, what)
        return BallBox(low, high, centre, self.radius.reshape(-1).expand(centre.shape[0]), 1 if self.norm == 1 else 2)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.centre.shape)

    def __repr__(self) -> str:
        norm = "inf" if self.norm == float("inf") else int(self.norm)
        return f"Ball(centre={_short(self.centre)}, radius={_short(self.radius)}, norm={norm})"


Region: TypeAlias = Box | Ball
Regions: TypeAlias = "Region | Tensor | Sequence[Region | Tensor]"
"""One region per input of the network, in order; a single one where there is one input. A tensor is a point."""


def as_regions(region: Regions) -> list[Region]:
    """The regions one by one."""
    many = list(region) if isinstance(region, Sequence) else [region]
    found: list[Region] = []
    for one in many:
        if isinstance(one, Tensor):
            one = Box(one, one)
        if not isinstance(one, Box | Ball):
            raise InputError(
                f"region got {type(one).__name__}, expected a Box, a Ball or a tensor for every input of the network"
            )
        found.append(one)
    return found


def input_ends(graph: Graph, regions: Sequence[Region]) -> tuple[dict[int, Ends], bool]:
    """(ends ``[boxes, *shape]`` of every input of the graph, whether the regions have an axis of boxes)."""
    names = [f"input {graph.nodes[i].name!r}" for i in graph.inputs]
    if len(regions) != len(graph.inputs):
        raise InputError(
            f"region got {len(regions)} regions, expected {len(graph.inputs)}: one for each of {', '.join(names)}"
        )
    boxes: dict[int, Ends] = {}
    many = False
    for index, one, name in zip(graph.inputs, regions, names, strict=True):
        shape = graph.nodes[index].shape
        boxes[index] = one.ends(shape, name)
        many = many or len(one.shape) == len(shape) + 1
    counts = {ends[0].shape[0] for ends in boxes.values()}
    if len(counts - {1}) > 1:
        raise InputError(f"region got {sorted(counts)} boxes in different inputs, expected the same number in each")
    return boxes, many


def _with_boxes(end: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    if end.shape == shape:
        return end.unsqueeze(0)
    if end.dim() == len(shape) + 1 and end.shape[1:] == shape and end.shape[0]:
        return end
    raise InputError(
        f"region of {what} got shape {list(end.shape)}, expected {list(shape)} as the network declares it, "
        f"or [boxes, {', '.join(map(str, shape))}]"
    )


def _check_radius(what: str, radius: Tensor) -> None:
    if not bool((radius >= 0).all() and torch.isfinite(radius).all()):
        raise InputError(f"{what} got radius={_short(radius)}, expected a finite number of at least 0")


def _hull(centre: Tensor, radius: Tensor) -> Ends:
    """``centre -+ radius``, rounded outward where the radius is not 0."""
    try:
        low, high = centre - radius, centre + radius
    except RuntimeError:
        raise InputError(
            f"got centre of shape {list(centre.shape)} and radius of shape {list(radius.shape)}, expected one shape"
        ) from None
    infinity = torch.full_like(low, torch.inf)
    moved = radius != 0
    return torch.where(moved, torch.nextafter(low, -infinity), low), torch.where(
        moved, torch.nextafter(high, infinity), high
    )


def _cut(
    low: Tensor, high: Tensor, within: tuple[ArrayLike, ArrayLike] | None, what: str
) -> tuple[Tensor, Tensor]:
    if within is None:
        return low, high
    lowest, highest = (_tensor(end, f"{what}: within") for end in within)
    low, high = torch.maximum(low, lowest), torch.minimum(high, highest)
    if not bool((low <= high).all()):
        raise InputError(f"{what} got within={within!r}, which the region around the centre lies outside of")
    return low, high


def _short(tensor: Tensor) -> str:
    return str(tensor.tolist()) if tensor.numel() <= 8 else f"<{list(tensor.shape)}>"
