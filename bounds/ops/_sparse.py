"""Products with matrices that are almost all zero: a few gathered terms per element instead of a dense product."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._graph import Node

_SMALLEST = 1 << 16
"""Matrices with fewer elements are multiplied densely."""

_GAIN = 24
"""A gathered term costs about as much as this many terms of a dense product."""


@dataclass(frozen=True)
class Terms:
    """For every output element the positions [m, k] of its nonzero terms and, per kind, their weights [m, k].

    Columns with fewer than k terms are padded with weight 0.
    """

    positions: np.ndarray
    weights: np.ndarray
    radii: np.ndarray | None


@dataclass(frozen=True)
class Sparse:
    """A matrix [n, m] by its columns (for ``x @ matrix``) and by its rows (for ``a @ matrix.T``)."""

    columns: Terms
    rows: Terms


def _terms(
    major: np.ndarray, minor: np.ndarray, weights: np.ndarray, radii: np.ndarray | None, count: int
) -> Terms:
    """Group entries by ``major`` index; ``minor`` are the positions they read."""
    order = np.argsort(major, kind="stable")
    major, minor, weights = major[order], minor[order], weights[order]
    lengths = np.bincount(major, minlength=count)
    width = max(int(lengths.max(initial=0)), 1)
    slot = np.arange(major.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions = np.zeros((count, width), np.int64)
    values = np.zeros((count, width), np.float64)
    positions[major, slot], values[major, slot] = minor, weights
    spread = None
    if radii is not None:
        spread = np.zeros((count, width), np.float64)
        spread[major, slot] = radii[order]
    return Terms(positions, values, spread)


_FOUND: WeakKeyDictionary[Node, Sparse | None] = WeakKeyDictionary()


def sparse_form(node: Node) -> Sparse | None:
    """Return the sparse form of a node's ``weight`` where it pays, else None; computed once per node."""
    if node not in _FOUND:
        _FOUND[node] = _build(node.attributes["weight"], node.attributes.get("weight_radius"))
    return _FOUND[node]


def _build(weight: np.ndarray, radius: np.ndarray | None) -> Sparse | None:
    if weight.size < _SMALLEST:
        return None
    present = weight != 0 if radius is None else (weight != 0) | (radius != 0)
    if np.count_nonzero(present) * _GAIN > weight.size:
        return None
    row, column = np.nonzero(present)
    # The widest column and row decide the padded size.
    rows, columns = (
        np.bincount(row, minlength=weight.shape[0]),
        np.bincount(column, minlength=weight.shape[1]),
    )
    padded = max(int(columns.max()) * weight.shape[1], int(rows.max()) * weight.shape[0])
    if padded * _GAIN > weight.size:
        return None
    values = weight[row, column].astype(np.float64)
    radii = None if radius is None else radius[row, column]
    return Sparse(
        _terms(column, row, values, radii, weight.shape[1]),
        _terms(row, column, values, radii, weight.shape[0]),
    )


def gather_product(x: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    """``x @ matrix`` for x [..., n] and the matrix's terms [m, k]."""
    if weights.shape[1] == 1:
        return x.index_select(-1, positions.reshape(-1)) * weights.reshape(-1)
    gathered = x.index_select(-1, positions.reshape(-1)).reshape(*x.shape[:-1], *weights.shape)
    return (gathered * weights).sum(-1)


def tensors_of(sparse: Sparse, length: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """The arrays as tensors: positions, weights, |weights| and |weights| inflated by the radii, for both directions."""
    result: dict[str, Tensor] = {}
    for name, terms in (("columns", sparse.columns), ("rows", sparse.rows)):
        weights = torch.from_numpy(terms.weights).to(device=device, dtype=dtype)
        result[f"{name}_positions"] = torch.from_numpy(terms.positions).to(device)
        result[f"{name}_weights"] = weights
        if name == "columns":
            result["columns_absolute"] = weights.abs()
            inflated = weights.abs()
            if terms.radii is not None:
                inflated = inflated + torch.from_numpy(terms.radii).to(inflated) / (length * 2.0**-53)
            result["columns_inflated"] = inflated
    return result
