"""Linear regions along rays and around vertices.

All that a line passes are found from the values that bend there. What is too thin for lines is wide beside its
vertices, where kinks meet.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from provenn.verifier.crossings import Crossings

# Times at which a ray is looked at first, besides its ends; rounds in which kinks between them are found, which have to
# be as many as layers for all of them; segments of a ray on average, beyond which they are drawn.
TIMES, ROUNDS, SEGMENTS = 6, 3, 256
# Kinks that meet at most, and points around where they do.
MEETING, FAN = 10, 64
# Steps towards where they meet.
NEWTON = 3
# How far a ray goes where the box is infinite.
REACH = 3e5


class Rays:
    """Rays in a box, from kink to kink."""

    def __init__(self, crossings: Crossings, lower: Tensor, upper: Tensor, generator: torch.Generator):
        """``lower`` and ``upper`` ``[inputs]`` may be infinite."""
        self.crossings, self.low, self.high, self.generator = crossings, lower, upper, generator
        self.infinite = not bool(torch.isfinite(lower).all() and torch.isfinite(upper).all())

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=self.generator)

    def directions(self, points: Tensor) -> Tensor:
        """Directions ``[n, inputs]`` from points: all inputs, a few, or to another of the points."""
        count = len(points)
        width = torch.where(torch.isfinite(self.high - self.low), self.high - self.low, 1.0)
        every = torch.randn(points.shape, dtype=torch.float64, generator=self.generator) * width
        few = self._uniform(*points.shape) < self._uniform(count, 1).square()
        few[torch.arange(count), torch.randint(points.shape[1], (count,), generator=self.generator)] = True
        other = points[torch.randperm(count, generator=self.generator)] - points
        kind = torch.randint(3, (count, 1), generator=self.generator)
        same = ~other.any(1, keepdim=True)
        return torch.where(kind == 0, every, torch.where((kind == 1) | same, torch.where(few, every, 0.0), other))

    def ends(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Times ``[n]``, at most 0 and at least 0, at which rays leave the box."""
        low = torch.minimum(self.low.clamp(min=-REACH), points)
        high = torch.maximum(self.high.clamp(max=REACH), points)
        first, last = (low - points) / directions, (high - points) / directions
        still = directions == 0
        backward = torch.where(still, -torch.inf, torch.minimum(first, last)).amax(1)
        forward = torch.where(still, torch.inf, torch.maximum(first, last)).amin(1)
        return torch.nan_to_num(backward, 0.0, 0.0, 0.0), torch.nan_to_num(forward, 0.0, 0.0, 0.0)

    def passed(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points ``[m, inputs]`` in the segments of rays from points, one in each, and the point ``[m]`` each is of."""
        directions = self.directions(points)
        count = len(points)
        backward, forward = self.ends(points, directions)
        shares = self._uniform(count, TIMES) ** (8 if self.infinite else 1)
        ahead = torch.arange(TIMES) % 2 == 0
        inner = shares * torch.where(ahead, forward[:, None], backward[:, None])
        known = torch.stack([backward, forward, torch.zeros_like(forward)], 1)
        times = torch.cat([known, inner], 1).flatten().numpy()
        rays = np.repeat(np.arange(count), TIMES + 3)
        start, move = points.numpy(), directions.numpy()
        times, rays = _sorted(times, rays)
        for _ in range(ROUNDS):
            heights = self.crossings.heights(torch.from_numpy(start[rays] + times[:, None] * move[rays])).numpy()
            found, where = self._met(times, rays, heights, SEGMENTS * count)
            if len(found) == 0:
                break
            times, rays = _sorted(np.append(times, found), np.append(rays, where))
        inside = (rays[:-1] == rays[1:]) & (times[1:] > times[:-1])
        first, last, rays = times[:-1][inside], times[1:][inside], rays[:-1][inside]
        at = self._between(first, last, np.abs(start[rays]).max(1) / np.abs(move[rays]).max(1))
        return torch.from_numpy(start[rays] + at[:, None] * move[rays]), torch.from_numpy(rays)

    def _met(
        self, times: np.ndarray, rays: np.ndarray, heights: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Times at which kinks are met, were the operands linear between sorted times, and their rays."""
        first, last = heights[:-1], heights[1:]
        place, kink = np.nonzero(((first < 0) != (last < 0)) & (rays[:-1] == rays[1:])[:, None])
        if len(place) > most:
            drawn = torch.randperm(len(place), generator=self.generator)[:most].numpy()
            place, kink = place[drawn], kink[drawn]
        before, after = times[place], times[place + 1]
        with np.errstate(all="ignore"):
            share = first[place, kink] / (first[place, kink] - last[place, kink])
        new = (share > 1e-9) & (share < 1 - 1e-9)
        return (before + share * (after - before))[new], rays[place][new]

    def _between(self, first: np.ndarray, last: np.ndarray, size: np.ndarray) -> np.ndarray:
        """A time in each segment; where the box is infinite a long one is entered only as far as it is away, and as
        the point where the ray begins is from 0 (``size``)."""
        forward = np.abs(first) < np.abs(last)
        near, far = np.where(forward, first, last), np.where(forward, last, first)
        length = np.abs(far - near)
        if self.infinite:
            length = np.minimum(length, 2 * (np.abs(near) + size))
        return near + np.sign(far - near) * self._uniform(len(near)).numpy() * length

    def fans(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points ``[m, inputs]`` all around where some kinks near points meet, and the point ``[m]`` each is of.

        A region that is small anywhere else is as wide as any beside its own vertices.
        """
        count, size = points.shape
        most = min(size, len(self.crossings.kinks), MEETING)
        kept = torch.arange(most) < torch.randint(1, most + 1, (count, 1), generator=self.generator)
        height, slope = self._linear(points)
        steep = slope.square().sum(2).sqrt()
        away = torch.where(steep > 0, height.abs() / steep, torch.inf)
        noise = torch.randn(away.shape, dtype=torch.float64, generator=self.generator)
        chosen = (away * noise.exp()).topk(most, largest=False).indices
        low, high = self.low.clamp(min=-REACH), self.high.clamp(max=REACH)
        corner = points
        for _ in range(NEWTON):
            rows = slope.gather(1, chosen[:, :, None].expand(-1, -1, size)) * kept[:, :, None]
            right = (height.gather(1, chosen) * kept)[:, :, None]
            rows, right = (torch.nan_to_num(part, 0.0, 0.0, 0.0) for part in (rows, right))
            move = torch.linalg.pinv(rows, rtol=1e-9) @ right
            corner = torch.nan_to_num(corner - move[:, :, 0]).clamp(low, high)
            height, slope = self._linear(corner)
        scale = 10.0 ** (-5 * self._uniform(count, FAN, 1) - 1) * (1 + corner.abs().amax(1)[:, None, None])
        around = torch.randn(count, FAN, size, dtype=torch.float64, generator=self.generator)
        return (corner[:, None] + scale * around).flatten(0, 1), torch.arange(count).repeat_interleave(FAN)

    def _linear(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Heights above kinks ``[n, kinks]`` and their slopes ``[n, kinks, inputs]``, by differences; 0 in inputs that
        are fixed."""
        count, size = points.shape
        step = 1e-6 * (1 + points.abs().amax(1))[:, None, None]
        beside = points[:, None] + step * torch.eye(size, dtype=torch.float64)
        heights = self.crossings.heights(torch.cat([points, beside.flatten(0, 1)]))
        slopes = ((heights[count:].view(count, size, -1) - heights[:count, None]) / step).mT
        return heights[:count], torch.where(self.low < self.high, slopes, 0.0)


def _sorted(times: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By ray, then by time."""
    order = np.lexsort((times, rays))
    return times[order], rays[order]
