"""Leaves of a search are decided one after the other, may be interrupted, and count as open until they are decided."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from provenn.verifier.pool import Fields
from provenn.verifier.search import Search


class Unsplittable:
    """Three roots that stay open and cannot be split."""

    name = "unsplittable"

    def roots(self) -> Fields:
        return {
            "bound": torch.tensor([-1.0, -3.0, -2.0]),
            "depth": torch.zeros(3),
            "clause": torch.tensor([5, 6, 7]),
        }

    def bound(self, fields: Fields) -> tuple[Fields, Tensor]:
        return fields, torch.zeros(3, 2)

    def split(self, fields: Fields) -> Fields:
        raise AssertionError

    def splittable(self, fields: Fields) -> Tensor:
        return torch.zeros(fields["bound"].shape[0], dtype=torch.bool)


class Steps:
    """A tree that ends after some turns, and returns from each at once."""

    def __init__(self, turns: int, ending: str = "refuted"):
        self.turns, self.left, self.end = turns, turns, ending
        self.ending: str | None = None
        self.margin = -1.0
        self.points: list[Tensor] = []

    @property
    def remaining(self) -> float:
        return self.left / self.turns

    def run(self, until: float) -> str | None:
        self.left -= 1
        self.points.append(torch.full((2,), float(self.left)))
        self.ending = None if self.left else self.end
        return self.ending


def search(trees: list[Steps], seen: list[tuple[Tensor, Tensor]], stop: float | None = None) -> Search:
    """A search whose ``check`` keeps what it was asked and finds a witness in a point of value ``stop``."""

    def check(points: Tensor, clause: Tensor) -> bool:
        seen.append((points, clause))
        return stop is not None and bool((points == stop).any())

    def leaf(fields: Fields) -> Iterator[Steps]:
        return iter(trees)

    return Search(Unsplittable(), batch=8, check=check, progress=lambda *_: None, leaf=leaf)


def test_leaves_go_on_where_they_were_interrupted() -> None:
    trees = [Steps(3), Steps(1), Steps(2)]
    one = search(trees, [])
    past = time.monotonic() - 1
    assert one.run(past) == "timeout" and one.pending  # nothing is begun after the end of a slice
    one._bound(one.pending.pop())
    shares = [one.remaining()]
    while one.leaves:
        assert one.run(past) == "timeout"
        one._settle(past)
        shares.append(one.remaining())
    assert len(shares) == 7 and shares == sorted(shares, reverse=True)
    assert one.run(time.monotonic() + 10) == "refuted"
    assert [t.left for t in trees] == [0, 0, 0]
    assert one.stuck == 0 and one.open() == 0


def test_undecided_leaves_are_open() -> None:
    one = search([Steps(1), Steps(4), Steps(1)], [])
    one._bound(one.pending.pop())
    assert one.open() == 3 and one.bound() == -3.0 and one.remaining() == 1.0
    one._settle(0.0)
    assert one.open() == 2 and one.open_clauses().tolist() == [6, 7]
    one._settle(0.0)
    assert one.open() == 2 and abs(one.remaining() - (0.75 + 1) / 3) < 1e-12


def test_a_leaf_that_ends_otherwise_is_stuck() -> None:
    one = search([Steps(1), Steps(2, "stuck"), Steps(1, "violated")], [])
    assert one.run(time.monotonic() + 10) == "stuck"
    assert one.stuck == 2 and one.lowest_stuck == -3.0


def test_points_of_interrupted_leaves_are_tried_with_their_clause() -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    one = search([Steps(1), Steps(9), Steps(1)], seen, stop=4.0)
    assert one.run(time.monotonic() + 10) == "witness"
    points, clause = seen[-1]
    assert points.tolist() == [[4.0, 4.0]] and clause.tolist() == [6]


def test_without_trees_leaves_are_stuck() -> None:
    one = Search(
        Unsplittable(), batch=8, check=lambda points, clause: False, progress=lambda domains, open_, bound: None
    )
    assert one.run(time.monotonic() + 10) == "stuck"
    assert one.stuck == 3 and one.lowest_stuck == -3.0
