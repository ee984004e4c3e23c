"""The contracted token stream between the flat and the nested reader."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from provenn.specs._formula import Table

ATOM, CONJUNCTION, TABLE, ASSERT, AND, OR = 4, 5, 6, 7, 8, 9  # beside OPEN, CLOSE and WORD of `_scan`


@dataclass(frozen=True, eq=False)
class Stream:
    """Contracted tokens: `kind`, what they refer to, and their first token in the file, all [length].

    An ATOM refers to its number, a CONJUNCTION to a clause of `conjunctions[0]`, a TABLE to `tables`.
    """

    kind: np.ndarray
    reference: np.ndarray
    token: np.ndarray
    conjunctions: list[Table]  # none or one table of all conjunctions
    tables: list[Table]
