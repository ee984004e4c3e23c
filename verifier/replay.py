"""Replay of candidate witnesses on onnxruntime: nothing else can make a verdict ``sat``."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from provenn.bounds.graph.compose import Substitution
from provenn.errors import InputError, ModelError
from provenn.specs import Query
from provenn.verifier.result import Witness
from provenn.verifier.sessions import Model, Session, TorchModel, TorchSession

_INWARD = (1, 4, 16)
"""Roundings by which a difference is moved into its range: what a checker computes of it rounds, too."""


class Replay:
    """Runs networks on onnxruntime (CPU), torch modules on torch, and judges inputs by a property, with tolerance zero.

    Sessions are created at the first run, so that a proof that needs no witness never pays for them; copies of a
    network share one. ``calls`` counts runs of all networks, ``failures`` those that onnxruntime refused (an index out
    of range, for instance).
    """

    def __init__(
        self,
        networks: str | os.PathLike[str] | Sequence[Model | TorchModel],
        query: Query,
        threads: int = 1,
        free: np.ndarray | None = None,
        substitution: Substitution | None = None,
    ):
        """``networks``: a network of one input and one output, or those that a query composes, in its order.

        ``substitution``: how all inputs follow from those that the search sees. ``free``: of the latter, points hold
        only these (flat positions); all others have one value in every clause.
        """
        if threads < 1:
            raise InputError(f"Replay got threads={threads!r}, expected at least 1")
        single = isinstance(networks, (str, os.PathLike))
        self.models: list[Model | TorchModel] = (
            [Model(Path(networks))] if isinstance(networks, (str, os.PathLike)) else list(networks)
        )
        torch = any(isinstance(model, TorchModel) for model in self.models)
        self.runtime = "torch" if torch else "onnxruntime"
        self.single = single
        self.query, self.threads = query, threads
        self.free, self.substitution = free, substitution
        self.columns: int | None = None
        self.calls = self.failures = 0
        self._sessions: dict[Model | TorchModel, Session | TorchSession] | None = None
        self._element: np.dtype[Any] = np.dtype(query.element_type)

    def run(self, x: np.ndarray) -> np.ndarray | None:
        """Flat outputs of all networks at a flat input, None where onnxruntime refuses it. Raises ModelError."""
        sessions = self._open()
        self.calls += 1
        x = np.asarray(x).reshape(-1)
        outputs: list[np.ndarray] = []
        for model in self.models:
            session = sessions[model]
            ends = np.cumsum(session.sizes)
            found = session.run(np.split(x[: ends[-1]], ends[:-1]))
            if found is None:
                self.failures += 1
                return None
            x = x[ends[-1] :]
            outputs += found[:1] if self.single else found
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def leading(self, columns: int) -> Replay:
        """The same for points of which only the first ``columns`` are inputs; the others follow from those."""
        found = copy.copy(self)
        found.columns = columns
        return found

    def lifted(self, x: np.ndarray) -> np.ndarray:
        """A point of the search as one of the inputs that equalities leave: fixed ones have their value."""
        x = np.asarray(x).reshape(-1)[: self.columns]
        if self.free is None or len(x) != len(self.free):
            return x
        whole = self._witness_box(*self.query.witness_box)[0].astype(np.float64)
        whole[self.free] = x
        return whole

    def _witness_box(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A box of all inputs as one of those that equalities leave."""
        return (lower, upper) if self.substitution is None else self.substitution.together(lower, upper)

    def project(self, x: np.ndarray, clause: int) -> np.ndarray | None:
        """The nearest point to ``x`` in the witness box of a clause, None where that box is empty.

        Of the inputs that equalities leave; so is the result.
        """
        lower, upper = self._witness_box(*self.query.witness_bounds(clause))
        if (lower > upper).any():
            return None
        return np.clip(np.asarray(x).reshape(-1).astype(lower.dtype), lower, upper)

    def check(self, x: np.ndarray, clause: int | None = None) -> Witness | None:
        """The witness that a flat input is, or None.

        ``x`` is cast to the element type of the network; only where a clause of the query is named is it moved,
        to the nearest point of that clause's witness box. The outputs are onnxruntime's own.
        """
        x = self.lifted(x)
        point: np.ndarray | None = x
        if clause is not None:
            point = self.project(x, clause)
        if point is None or not np.isfinite(point).all():
            return None
        self._open()
        for whole in self._whole(point):
            witness = self._judged(whole)
            if witness is not None:
                return witness
        return None

    def _whole(self, point: np.ndarray) -> Iterator[np.ndarray]:
        """All inputs; where others determine some, several in turn: rounded to nearest, up and down, then with
        differences of two inputs moved into their range."""
        sub = self.substitution
        with np.errstate(over="ignore"):
            point = point.astype(self._element)
            if sub is None:
                yield point
                return
            whole = sub.lift(point).astype(self._element)
        yield whole
        for end in (np.inf, -np.inf) if len(sub.solved) > len(sub.shifted) else ():
            moved = whole.copy()
            moved[sub.solved] = np.nextafter(whole[sub.solved], self._element.type(end))
            yield moved
        if len(sub.shifted):
            difference = point[sub.place[sub.shifted]].astype(np.float64)
            inward = np.sign(0.5 * sub.shift_lower + 0.5 * sub.shift_upper - difference)
            size = np.finfo(self._element).eps * (np.abs(whole[sub.shifted]) + np.abs(difference))
            for steps in _INWARD:
                moved = whole.astype(np.float64)
                moved[sub.shifted] += steps * inward * size
                yield moved.astype(self._element)

    def _judged(self, point: np.ndarray) -> Witness | None:
        """The witness that all inputs, in their element type, are."""
        if len(point) != self.query.input_count:
            return None
        outputs = self.run(point)
        if outputs is None or len(outputs) != self._output_count:
            return None
        return Witness(point, outputs) if self.query.violated(point, outputs) else None

    @property
    def _output_count(self) -> int:
        """How many numbers the networks give."""
        composition = self.query.composition
        return self.query.output_count if composition is None else composition.output_count

    def check_many(
        self,
        x: np.ndarray,
        margin: np.ndarray | None = None,
        clause: np.ndarray | None = None,
        limit: int = 4,
    ) -> Witness | None:
        """The first witness among the ``limit`` inputs of the smallest margin.

        ``x`` ``[n, inputs]``; ``margin`` ``[n]`` as the search evaluated it (None: in the order given; those with
        NaN come last); ``clause`` ``[n]`` numbers of clauses of the query to whose boxes the inputs are moved.
        """
        order = np.arange(len(x)) if margin is None else np.argsort(np.asarray(margin), kind="stable")
        for i in order[:limit]:
            witness = self.check(x[i], None if clause is None else int(clause[i]))
            if witness is not None:
                return witness
        return None

    def _open(self) -> dict[Model | TorchModel, Session | TorchSession]:
        if self._sessions is None:
            sessions = {model: model.session(self.threads) for model in dict.fromkeys(self.models)}
            if self.single:
                self._check_single(sessions[self.models[0]])
            self._sessions = sessions
        return self._sessions

    def _check_single(self, session: Session | TorchSession) -> None:
        """VNN-LIB 1.0 speaks of one input; its element type is the file's."""
        path = session.model.name
        if len(session.elements) != 1:
            raise ModelError(f"{path}: has {len(session.elements)} inputs, expected 1; merge them into one")
        self._element = session.elements[0]
        if session.sizes[0] != self.query.input_count:
            raise InputError(
                f"{path} takes {session.sizes[0]} inputs {session.declared[0]}, the property has "
                f"{self.query.input_count}: is it a property of another network?"
            )
