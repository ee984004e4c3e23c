"""The pool of open domains: a structure of arrays on one device, never Python objects."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Fields = dict[str, Tensor]


class Pool:
    """Rows of equal-length tensors, one row per domain; every pool needs a field ``bound`` [domains]."""

    def __init__(self) -> None:
        self._fields: Fields = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, fields: Fields) -> None:
        """Append domains; the first push fixes names, shapes and types."""
        added = fields["bound"].shape[0]
        if added == 0:
            return
        if not self._fields:
            self._fields = {k: v.new_empty((max(64, added), *v.shape[1:])) for k, v in fields.items()}
        capacity = self._fields["bound"].shape[0]
        if self._count + added > capacity:
            wanted = max(2 * capacity, self._count + added)
            for name, old in self._fields.items():
                new = old.new_empty((wanted, *old.shape[1:]))
                new[: self._count] = old[: self._count]
                self._fields[name] = new
        for name, column in self._fields.items():
            column[self._count : self._count + added] = fields[name]
        self._count += added

    def take(self, count: int) -> Fields:
        """Remove and return the ``count`` domains of the lowest bound."""
        count = min(count, self._count)
        if count == self._count:
            result = {k: v[:count].clone() for k, v in self._fields.items()}
            self._count = 0
            return result
        chosen = torch.topk(self._fields["bound"][: self._count], count, largest=False, sorted=False).indices
        result = {k: v[chosen] for k, v in self._fields.items()}
        # Fill the holes below the new end with the survivors above it.
        end = self._count - count
        taken = torch.zeros(self._count, dtype=torch.bool, device=chosen.device)
        taken[chosen] = True
        holes = taken[:end].nonzero().squeeze(1)
        movers = end + (~taken[end:]).nonzero().squeeze(1)
        for column in self._fields.values():
            column[holes] = column[movers]
        self._count = end
        return result

    def lowest(self) -> float:
        """The smallest bound of an open domain, inf if there is none."""
        return float(self._fields["bound"][: self._count].min()) if self._count else float("inf")

    def values(self, name: str) -> Tensor:
        """One field of the open domains."""
        return self._fields[name][: self._count] if self._fields else torch.zeros(0, dtype=torch.int64)

    def sum(self, of: Callable[[Fields], Tensor]) -> float:
        """Sum of a function of the open domains' fields."""
        return float(of({k: v[: self._count] for k, v in self._fields.items()}).sum()) if self._count else 0.0

    def bytes_per_domain(self) -> int:
        return sum(v[0].numel() * v.element_size() for v in self._fields.values()) if self._fields else 0
