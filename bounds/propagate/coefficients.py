"""Coefficients of rows that read little of a value: one element each, or a window of an image each.

Dense coefficients are plain tensors ``[domains, rows, *shape]``. The two kinds here carry rows that start at single
elements of
a value until they have spread too far, and then turn into dense ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from provenn.bounds.propagate.extent import Extent


def flattened(a: Tensor, axis: int) -> Tensor:
    """All axes from ``axis`` on as one; a tensor that has no such axis (of scalars) gets one."""
    return a.flatten(axis) if a.dim() > axis else a.unsqueeze(-1)


def channels_last(a: Tensor) -> Tensor:
    """The same tensor ``[..., channels, h, w]`` stored with its channels next to each other."""
    return a.movedim(-3, -1).contiguous().movedim(-1, -3)


def is_channels_last(a: Tensor) -> bool:
    """Whether an image tensor ``[domains, rows, 1, channels, h, w]`` or a window ``[domains, rows, channels, h, w]``
    is."""
    return a.dim() > 4 and a.stride(-3) == 1 and a.stride(-1) == a.shape[-3] and a.shape[-3] > 1


def is_dense(a: Tensor) -> bool:
    """Whether ``stored`` is a view: no gaps between the elements of a row, rows one after the other."""
    return (a.movedim(-3, -1) if is_channels_last(a) else a).is_contiguous()


def stored(a: Tensor) -> Tensor:
    """``[domains, rows, n]`` in the order of storage; writes go through where ``is_dense``."""
    return flattened(a.movedim(-3, -1) if is_channels_last(a) else a, 2)


@dataclass(frozen=True)
class Elements:
    """Rows with one coefficient each: ``weights`` ``[1|domains, rows]`` on the flat elements ``index`` ``[rows]`` of
    a value.

    ``places`` are the elements' rows and columns in the image they started from (None where that was no image).
    """

    index: Tensor
    weights: Tensor
    shape: tuple[int, ...]
    places: Places | None = None

    @property
    def count(self) -> int:
        return self.index.shape[0]

    def pick(self, vector: Tensor) -> Tensor:
        """The rows' elements ``[1|domains, rows]`` of a ``[1|domains, 1, *shape]``."""
        return flattened(vector, 1).index_select(1, self.index)

    def dot(self, vector: Tensor) -> Tensor:
        return self.weights * self.pick(vector)

    def select(self, keep: Tensor) -> Elements:
        places = self.places.select(keep) if self.places is not None else None
        return Elements(self.index[keep], self.weights[:, keep], self.shape, places)

    def dense(self) -> Tensor:
        size = int(np.prod(self.shape))
        result = self.weights.new_zeros(self.weights.shape[0], self.count, size)
        result.scatter_(
            2, self.index.view(1, -1, 1).expand(result.shape[0], -1, 1), self.weights.unsqueeze(2)
        )
        return result.view(*result.shape[:2], *self.shape)

    def windows(self) -> Windows:
        """The same rows as windows of one position."""
        assert self.places is not None
        channels, area = self.shape[1], self.shape[2] * self.shape[3]
        channel = torch.div(self.index, area, rounding_mode="floor")
        a = self.weights.new_zeros(self.weights.shape[0], self.count, channels)
        a.scatter_(2, channel.view(1, -1, 1).expand(a.shape[0], -1, 1), self.weights.unsqueeze(2))
        return Windows(a[..., None, None], self.places, self.places.extent, self.shape)


@dataclass(frozen=True)
class Places:
    """Where rows started: ``position`` ``[places, 2]`` (on the host), ``row`` ``[rows]`` the place of each row,
    sorted."""

    position: np.ndarray
    row: Tensor
    extent: Extent

    def select(self, keep: Tensor) -> Places:
        return Places(self.position, self.row[keep], self.extent)

    def of(self, extent: Extent) -> Places:
        return self if extent == self.extent else Places(self.position, self.row, extent)

    def origins(self, extent: Extent) -> np.ndarray:
        """First positions ``[places, 2]`` of the windows; negative in the padding."""
        return self.position * np.array(extent.scale) + np.array(extent.shift)


def products(a: Tensor, under: Tensor) -> Tensor:
    """Inner products ``[1|domains, rows]`` of windows with what lies under them."""
    if is_channels_last(a):
        a, under = a.movedim(-3, -1), under.movedim(-3, -1)
    return torch.linalg.vecdot(flattened(a, 2), flattened(under, 2))


@dataclass(frozen=True)
class Windows:
    """Rows with coefficients ``a [1|domains, rows, channels, h, w]`` on a window each of an image ``shape``.

    Positions of a window outside the image carry no meaning: ``cleaned`` zeroes them where something would read them.
    """

    a: Tensor
    places: Places
    extent: Extent
    shape: tuple[int, ...]
    clean: bool = True

    @property
    def count(self) -> int:
        return self.a.shape[1]

    def room(self) -> tuple[int, int, int, int]:
        """How far windows stick out of the image: left, right, top, bottom."""
        origin = self.places.origins(self.extent)
        (top, left), (bottom, right) = origin.min(0), origin.max(0) + np.array(self.extent.size)
        height, width = self.shape[2:]
        return max(0, -int(left)), max(0, int(right) - width), max(0, -int(top)), max(0, int(bottom) - height)

    def gather(self, vectors: list[Tensor]) -> list[Tensor]:
        """What lies under every row's window, ``[1|domains, rows, channels, h, w]``, of ``[1|domains, 1, *shape]``;
        0 outside."""
        images = [v[:, 0, 0].permute(0, 2, 3, 1) for v in vectors]
        if len(images) == 1:
            return [self._under(images[0])]
        return list(self._under(torch.cat(images)).split([v.shape[0] for v in vectors]))

    def _under(self, image: Tensor) -> Tensor:
        """``image [1|domains, H, W, channels]``; copied once for each place, then once for each row."""
        left, right, top, bottom = self.room()
        if left or right or top or bottom:
            image = F.pad(image, (0, 0, left, right, top, bottom))
        origin = torch.from_numpy(self.places.origins(self.extent) + np.array([top, left])).to(image.device)
        views = (
            image.unfold(1, self.extent.size[0], 1)
            .unfold(2, self.extent.size[1], 1)
            .permute(0, 1, 2, 4, 5, 3)
        )
        picked = views[:, origin[:, 0], origin[:, 1]]
        return picked.index_select(1, self.places.row).permute(0, 1, 4, 2, 3)

    def cleaned(self) -> Windows:
        if self.clean:
            return self
        if not any(self.room()):
            return Windows(self.a, self.places, self.extent, self.shape)
        inside = self._under(self.a.new_ones(1, *self.shape[2:], 1))
        return Windows(self.a * inside, self.places, self.extent, self.shape)

    def dot(self, vector: Tensor) -> Tensor:
        """Products with a ``[1|domains, 1, *shape]``; one number per channel needs no gathering."""
        if vector.stride()[-1] == 0 and vector.stride()[-2] == 0:
            sums = self.cleaned().a.sum((3, 4))
            return torch.matmul(sums, vector[:, 0, 0, :, 0, 0].unsqueeze(-1)).squeeze(-1)
        (under,) = self.gather([vector])
        return products(self.a, under)

    def select(self, keep: Tensor) -> Windows:
        return Windows(self.a[:, keep], self.places.select(keep), self.extent, self.shape, self.clean)

    def grown(self, extent: Extent) -> Windows:
        """The same rows on a larger window."""
        if extent == self.extent:
            return self
        before = [mine - new for mine, new in zip(self.extent.shift, extent.shift, strict=True)]
        after = [n - m - b for n, m, b in zip(extent.size, self.extent.size, before, strict=True)]
        a = F.pad(self.a, (before[1], after[1], before[0], after[0]))
        return Windows(a, self.places, extent, self.shape, self.clean)

    def dense(self) -> Tensor:
        """``[1|domains, rows, *shape]``; rows of one place are copied together."""
        left, right, top, bottom = self.room()
        height, width = self.shape[2:]
        domains, rows, channels = self.a.shape[:3]
        result = self.a.new_zeros(domains, rows, height + top + bottom, width + left + right, channels)
        result = result.permute(0, 1, 4, 2, 3)
        stops = torch.bincount(self.places.row, minlength=len(self.places.position)).cumsum(0).tolist()
        start = 0
        for (y, x), stop in zip(self.places.origins(self.extent).tolist(), stops, strict=True):
            if stop > start:
                y, x = y + top, x + left
                target = result[:, start:stop, :, y : y + self.extent.size[0], x : x + self.extent.size[1]]
                target.copy_(self.a[:, start:stop])
            start = stop
        result = result[..., top : top + height, left : left + width]
        return result.unsqueeze(2)


Rows = Tensor | Elements | Windows


def elements_of(shape: tuple[int, ...], index: Tensor, weights: Tensor, extent: Extent | None) -> Elements:
    """Rows of single elements; for an image (``extent`` given) they must be sorted by position, see ``by_place``."""
    if extent is None:
        return Elements(index, weights, shape)
    area = shape[2] * shape[3]
    position, row = torch.unique(torch.remainder(index, area), return_inverse=True)
    flat = position.cpu().numpy()
    places = Places(np.stack([flat // shape[3], flat % shape[3]], 1), row, extent)
    return Elements(index, weights, shape, places)


def by_place(shape: tuple[int, ...], index: Tensor) -> Tensor:
    """The order that sorts flat elements of an image by position, channels of one position together."""
    return torch.argsort(torch.remainder(index, shape[2] * shape[3]), stable=True)
