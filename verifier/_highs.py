"""HiGHS on small dense linear programs, started from the basis of a similar one.

scipy carries the solver; its own object, where this version of scipy has it, is a tenth of the cost of ``linprog``.
Nothing here is trusted: duals are proven by whoever asked.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Optimum:
    """An answer: ``empty`` says that the rows exclude each other, and ``dual`` is then a combination that shows it.

    ``value`` is the optimum, ``x`` where it is, ``dual`` [rows] >= 0, ``basis`` a start for a similar program.
    """

    empty: bool
    value: float
    x: np.ndarray
    dual: np.ndarray
    basis: Any = None


def minimise(
    cost: np.ndarray,
    rows: np.ndarray,
    upper: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    start: Any = None,
) -> Optimum | None:
    """Minimise ``cost x`` with ``rows x <= upper`` and ``low <= x <= high``; None where the solver has no answer.

    Rows are scaled to a largest coefficient of 1. An infinite ``upper`` switches a row off.
    """
    scale = np.abs(rows).max(1, initial=0.0)
    scale[scale == 0] = 1.0
    rows, upper = rows / scale[:, None], upper / scale
    core = _core()
    found = None if core is None else _direct(core, cost, rows, upper, low, high, start)
    if found is None:
        found = _linprog(cost, rows, upper, low, high)
    if found is None:
        return None
    return Optimum(found.empty, found.value, found.x, np.maximum(found.dual, 0.0) / scale, found.basis)


_FOUND: list[Any] = []


def _core() -> Any:
    """The solver's own module inside scipy, None where this scipy has none."""
    if not _FOUND:
        try:
            _FOUND.append(importlib.import_module("scipy.optimize._highspy._core"))
        except ImportError:
            _FOUND.append(None)
    return _FOUND[0]


def available() -> bool:
    """Load the solver; whether scipy has it as an object that keeps a basis."""
    return _core() is not None


def _direct(core: Any, cost, rows, upper, low, high, start) -> Optimum | None:
    try:
        program = core.HighsLp()
        count, size = rows.shape
        program.num_col_, program.num_row_ = size, count
        program.col_cost_, program.col_lower_, program.col_upper_ = cost, low, high
        program.row_lower_, program.row_upper_ = np.full(count, -np.inf), upper
        where = rows != 0
        matrix = program.a_matrix_
        matrix.num_col_, matrix.num_row_ = size, count
        matrix.format_ = core.MatrixFormat.kRowwise
        matrix.start_ = np.concatenate([[0], np.cumsum(where.sum(1))]).astype(np.int32)
        matrix.index_ = np.nonzero(where)[1].astype(np.int32)
        matrix.value_ = rows[where]
        solver = core._Highs()
        for name, value in (
            ("output_flag", False),
            ("presolve", "off"),
            ("threads", 1),
            ("primal_feasibility_tolerance", TOLERANCE),
            ("dual_feasibility_tolerance", TOLERANCE),
        ):
            solver.setOptionValue(name, value)
        solver.passModel(program)
        if start is not None:
            solver.setBasis(start)
        solver.run()
        status = solver.getModelStatus()
        if status == core.HighsModelStatus.kOptimal:
            answer = solver.getSolution()
            dual = -np.asarray(answer.row_dual)
            value = solver.getInfo().objective_function_value
            return Optimum(False, value, np.asarray(answer.col_value), dual, solver.getBasis())
        if status == core.HighsModelStatus.kInfeasible:
            found = solver.getDualRay()
            if not found[1]:
                return None
            ray = np.asarray(found[2], dtype=np.float64)
            dual = max((ray, -ray), key=lambda d: _excess(np.maximum(d, 0), rows, upper, low, high))
            dual = np.maximum(dual, 0.0)
            dual = dual / max(dual.sum(), 1e-300)
            excess = _excess(dual, rows, upper, low, high)
            point = np.where(np.isfinite(low), low, 0.0)
            return Optimum(True, excess, point, dual, None) if excess > 0 else None
    except (AttributeError, TypeError, ValueError):  # another version's interface
        _FOUND[:] = [None]
    return None


def _excess(
    dual: np.ndarray, rows: np.ndarray, upper: np.ndarray, low: np.ndarray, high: np.ndarray
) -> float:
    """The least of ``dual (rows x - upper)`` over the ends of x; noise on columns without ends counts as 0."""
    a = dual @ rows
    open_ = ~(np.isfinite(low) & np.isfinite(high))
    ends = np.where(open_, 0.0, np.where(a > 0, low, high))
    used = dual > 0
    if np.abs(a[open_]).max(initial=0.0) > 1e-6 or np.isinf(upper[used]).any():
        return -np.inf
    return float(a @ ends - dual[used] @ upper[used])


def _linprog(cost, rows, upper, low, high) -> Optimum | None:
    """The public way: two programs where the rows exclude each other."""
    from scipy.optimize import linprog  # more than a second to load

    options = {"primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE}
    kept = np.isfinite(upper)
    ends = np.stack([low, high], 1)
    found = linprog(cost, rows[kept], upper[kept], bounds=ends, method="highs", options=options)
    empty = found.status == 2
    if empty:
        # Minimise the largest violation: its duals combine the rows to a contradiction.
        slack = np.concatenate([rows[kept], -np.ones((int(kept.sum()), 1))], 1)
        last = np.zeros(len(cost) + 1)
        last[-1] = 1.0
        ends = np.concatenate([ends, [[0.0, np.inf]]])
        found = linprog(last, slack, upper[kept], bounds=ends, method="highs", options=options)
    if found.status != 0:
        return None
    dual = np.zeros(len(upper))
    dual[kept] = -found.ineqlin.marginals
    return Optimum(empty, float(found.fun), found.x[: len(cost)], dual)
