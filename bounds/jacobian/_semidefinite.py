"""Norms of Jacobians from multipliers of what is unknown of them (LipSDP, Fazlyab et al., arXiv 1906.04893).

For a system ``(y, z) = M (x, u)`` with ``|u_j| <= |z_j|`` and any ``t >= 0``

    |y|^2 <= |y|^2 + sum_j t_j (z_j^2 - u_j^2) <= sum_i p_i x_i^2   if   F = diag(p, t) - M^T diag(1, t) M >= 0,

so the spectral norm is at most the root of p where all p_i are one number, and the sum of absolute values of a single
row y at most the root of ``sum_i p_i``. An interior point method chooses p and t; whether F is positive semidefinite is
then proven in floating point, so its numbers need not be right. Cost: some fifty times n^3 for n inputs and unknowns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from provenn.bounds.graph._graph import Graph
from provenn.bounds.jacobian._system import System, system_of
from provenn.bounds.propagate.interval import Box
from provenn.bounds.propagate.rounding import gamma

# How far a path is followed (the relative gap of p), how much closer each stage goes, Newton steps of a stage, the gain
# of a step with which a stage ends, and how much shorter than another a step is tried.
GAP, CLOSER, NEWTON, CENTRED, SHORTER = 1e-5, 0.15, 12, 0.1, 0.6
# Entries of a system beyond which products of three overflow.
LARGEST = 1e90


def multiplier_bound(
    graph: Graph, boxes: Mapping[int, Box], norm: str, output: int | None = None, column: int | None = None,
    *, until: float = math.inf,
) -> float:
    """A proven upper bound of the induced ``norm`` of dY/dX where all values are in ``boxes`` (float64, one domain).

    Only of the row ``output`` and, of norm 1, of the ``column``. The boxes may be infinite. Infinity for graphs of
    other operators than affine maps and functions of one variable whose slopes are bounded, and where ``until``
    (time.monotonic()) comes first.
    """
    system = system_of(graph, boxes, output)
    if system is None:
        return math.inf
    if norm == "2":
        return spectral_bound(system, until)
    if norm == "1":
        system = system.transposed()
    largest = 0.0
    for row in range(system.outputs) if norm != "1" or column is None else [column]:
        largest = max(largest, sum_bound(system.row(row), until))
        if math.isinf(largest):
            break
    return largest


def spectral_bound(system: System, until: float = math.inf) -> float:
    """A proven upper bound of the spectral norm of all Jacobians of a system."""
    return _bound(system, torch.zeros(system.inputs, dtype=torch.int64), until)


def sum_bound(system: System, until: float = math.inf) -> float:
    """A proven upper bound of the sum of absolute values of the Jacobians' only row."""
    assert system.outputs == 1
    return _bound(system, torch.arange(system.inputs), until)


def _bound(system: System, shared: Tensor, until: float) -> float:
    """The root of the sum of p, where inputs of equal numbers ``shared [inputs]`` have one p that counts once."""
    best = math.inf
    if float(system.matrix.abs().max()) > LARGEST:
        return best
    for weights in reversed(_path(*_narrowed(system, shared), until)):
        best = _proven(system, weights, shared)
        if math.isfinite(best):
            break
    return best


def _narrowed(system: System, shared: Tensor) -> tuple[System, Tensor]:
    """A system of as few inputs as it has rows, with the same best weights where all inputs share one: of x only its
    part in the rows' span counts. Weights are sought in it, not proven."""
    rows = len(system.matrix)
    if system.inputs <= rows or bool(shared.any()):
        return system, shared
    turned = torch.linalg.qr(system.matrix[:, : system.inputs].mT, mode="r").R.mT
    matrix = torch.cat([turned, system.matrix[:, system.inputs :]], 1)
    return replace(system, matrix=matrix, radius=torch.zeros_like(matrix), inputs=rows), shared[:rows]


def _path(system: System, shared: Tensor, until: float) -> list[Tensor]:
    """Weights ``[p of every number, t]`` that should do, each better than the one before; none if there is no time.

    Newton's method minimises ``sum p / mu - log det F`` for smaller and smaller mu. F is linear in the weights:
    ``F = sum_k w_k (D_k - m_k m_k^T) - M_y^T M_y`` with a diagonal D_k and, for t, the row m_k of M.
    """
    if time.monotonic() > until:
        return []
    weights = _start(system, shared)
    found = [weights.clone()]
    m, outputs, inputs = system.matrix, system.outputs, system.inputs
    count, size = int(shared.max()) + 1, m.shape[1]
    # In units of the first weights all are 1.
    unit = torch.cat([weights[:count][shared], weights[count:]]).sqrt()
    rows = torch.cat([torch.ones(outputs, dtype=m.dtype), unit[inputs:]])
    m = rows[:, None] * m / unit
    constant, of_z = m[:outputs].mT @ m[:outputs], m[outputs:]
    owner = torch.cat([shared, torch.arange(count, len(weights))])

    def gathered(x: Tensor) -> Tensor:
        """Sums over the diagonal elements that share a weight, along the first axis."""
        if len(weights) == size:
            return x
        return torch.zeros(len(weights), *x.shape[1:], dtype=x.dtype).index_add_(0, owner, x)

    cost = torch.zeros(len(weights), dtype=m.dtype)
    cost[:count] = weights[:count] / weights[:count].sum()
    w = torch.ones(len(weights), dtype=m.dtype)

    def matrix(w: Tensor) -> Tensor:
        return torch.diag(w[owner]) - constant - of_z.mT @ (w[count:, None] * of_z)

    def potential(w: Tensor, mu: float) -> tuple[float, Tensor]:
        """What is minimised, infinite where F is not positive definite, and F's Cholesky factor."""
        factor, failed = torch.linalg.cholesky_ex(matrix(w))
        value = float(cost @ w) / mu - 2 * float(factor.diagonal().log().sum())
        return (math.inf if int(failed) or not math.isfinite(value) else value), factor

    mu = 1.0 / size
    while mu * size > GAP * float(cost @ w):
        value, factor = potential(w, mu)
        for _ in range(NEWTON):
            if time.monotonic() > until or math.isinf(value):
                return [*found, w * weights]
            inverse = torch.cholesky_inverse(factor)
            crossed = of_z @ inverse
            slope = cost / mu - gathered(inverse.diagonal())
            slope[count:] += (crossed * of_z).sum(1)
            curve = gathered(gathered(inverse.square()).mT.contiguous()).clone()
            mixed = gathered(crossed.mT.square())
            curve[:, count:] -= mixed
            curve[count:] -= mixed.mT
            curve[count:, count:] += (crossed @ of_z.mT).square()
            damped, failed = torch.linalg.cholesky_ex(curve)
            if int(failed):
                return [*found, w * weights]
            step = -torch.cholesky_solve(slope[:, None], damped)[:, 0]
            gain = -float(slope @ step)
            share, after = 1.0, potential(w + step, mu)
            while share > 1e-6:  # the best of shorter steps: the first that gains may end beside the boundary
                shorter = potential(w + SHORTER * share * step, mu)
                if math.isfinite(after[0]) and shorter[0] >= after[0]:
                    break
                share, after = SHORTER * share, shorter
            if not after[0] < value:
                break
            w, (value, factor) = w + share * step, after
            if gain < CENTRED:
                break
        found.append(w * weights)
        mu *= CLOSER
    return found


def _start(system: System, shared: Tensor) -> Tensor:
    """Weights with which F is positive definite: with m groups ``|sum_g v_g|^2 <= m sum_g |v_g|^2``, so each group's
    weight is m times what it does to later ones, and something more."""
    groups = torch.unique(system.groups)
    share = 2.0 * (len(groups) + 1)
    weight = torch.ones(len(system.matrix), dtype=system.matrix.dtype)
    least = 1e-12
    for group in groups.flip(0):
        here = (system.groups == group).nonzero().squeeze(1)
        behind = (system.groups > group).nonzero().squeeze(1)
        later = torch.cat([torch.arange(system.outputs), system.outputs + behind])
        part = weight[later].sqrt()[:, None] * system.matrix[later][:, system.inputs + here]
        weight[system.outputs + here] = max(least, share * float(torch.linalg.matrix_norm(part, 2).square()))
    part = weight.sqrt()[:, None] * system.matrix[:, : system.inputs]
    p = max(least, share * float(torch.linalg.matrix_norm(part, 2).square()))
    return torch.cat([torch.full((int(shared.max()) + 1,), p, dtype=part.dtype), weight[system.outputs :]])


def _proven(system: System, weights: Tensor, shared: Tensor) -> float:
    """The root of the sum of p if F is positive semidefinite for every matrix of the system, infinity if it may not be.

    F is computed with an error of at most E, entry by entry, and scaled by powers of 2, which is exact. Less the row
    sums of E on its diagonal (Gershgorin) and less the error of a Cholesky factorisation (Rump, Verification of
    positive definiteness, BIT 46, 2006), it must have a Cholesky factor.
    """
    count, outputs = int(shared.max()) + 1, system.outputs
    if not bool(torch.isfinite(weights).all()) or float(weights.min()) <= 0:
        return math.inf
    m, size = system.matrix, system.matrix.shape[1]
    rows = torch.cat([torch.ones(outputs, dtype=m.dtype), weights[count:]])
    diagonal = torch.cat([weights[:count][shared], weights[count:]])
    f = torch.diag(diagonal) - m.mT @ (rows[:, None] * m)
    largest = m.abs() + system.radius
    error = largest.mT @ (rows[:, None] * system.radius)
    rounded = gamma(len(m) + 4, m.dtype) * (largest.mT @ (rows[:, None] * largest) + torch.diag(diagonal))
    error = 1.0001 * (error + error.mT + rounded) + 1e-290
    if not (bool(torch.isfinite(f).all()) and bool(torch.isfinite(error).all()) and float(f.diagonal().min()) > 0):
        return math.inf  # overflow is no proof
    scale = torch.exp2(-(0.5 * f.diagonal().log2()).round())
    f, error = scale[:, None] * (0.5 * (f + f.mT)) * scale, scale[:, None] * error * scale
    cholesky = 1.01 * gamma(size + 2, m.dtype) * float(f.diagonal().sum()) + 1e-290
    lost = 1.0001 * (torch.maximum(error, error.mT).sum(1) + cholesky) + 4e-16 * f.diagonal().abs()
    f = f - torch.diag(lost)
    factor, failed = torch.linalg.cholesky_ex(f)
    if int(failed) or not bool(torch.isfinite(factor).all()):
        return math.inf
    total = float(weights[:count].sum()) * (1 + 2 * gamma(count + 1, m.dtype))
    return math.nextafter(math.sqrt(total) * (1 + 1e-15), math.inf)
