"""Instances on a Ray cluster: an actor per instance that runs at a time, each with servers of its own (``launch``).

Every node needs provenn and the same files under the same paths. What a lost node had is run again elsewhere.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from provenn.errors import InputError
from provenn.verifier import watchdog
from provenn.verifier.history import History
from provenn.verifier.launch import COMMAND, Job, Nursery, Stopped

ATTEMPTS = 5
"""Times that an instance is begun, at most, where nodes are lost."""
PAUSE = 0.2
"""Seconds between two looks at what is to be had."""


class Worker:
    """What an actor is: runs one instance at a time on its node."""

    def __init__(self, threads: int, command: Sequence[str]) -> None:
        self._nursery = Nursery(threads, command)

    def ready(self) -> bool:
        return True

    def run(self, job: Job) -> tuple[watchdog.Outcome, float, History]:
        history = History()
        outcome, seconds = self._nursery.run(job, history)
        return outcome, seconds, history


@dataclass(eq=False)
class _Actor:
    handle: Any
    ready: Any
    networks: Any = None
    """Of its last instance, which it has read already."""


def connect(address: str) -> int:
    """Connect to a cluster (``auto``: the one that runs here); how many CPUs it has. Raises InputError."""
    try:
        import ray
    except ImportError:
        raise InputError("--cluster needs Ray: pip install 'provenn[cluster]'") from None
    try:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 (Ray raises what its layers do)
        first = str(error).strip().partition("\n")[0]
        raise InputError(f"--cluster {address}: cannot connect ({first}); start one by ray start --head") from None
    return int(ray.cluster_resources().get("CPU", 0))


class Cluster:
    """A launcher (see ``launch``) whose processes are on the nodes of a cluster that is connected already."""

    def __init__(self, threads: int, command: Sequence[str] = COMMAND) -> None:
        self._threads, self._command = threads, command
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._idle: list[_Actor] = []
        self._coming: list[_Actor] = []
        self._waiting = 0

    def run(self, job: Job, history: History) -> tuple[watchdog.Outcome, float]:
        """As every launcher; seconds are those on the node."""
        import ray

        if isinstance(job.networks, str):
            networks: Any = os.path.abspath(job.networks)
        else:
            networks = {name: os.path.abspath(path) for name, path in job.networks.items()}
        job = replace(job, networks=networks, property_path=os.path.abspath(job.property_path))
        begun = time.monotonic()
        for _ in range(ATTEMPTS):
            actor = self._leased(networks)
            try:
                answer = actor.handle.run.remote(job)
                while not ray.wait([answer], timeout=PAUSE)[0]:
                    self._check()
                outcome, seconds, theirs = ray.get(answer)
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError):
                ray.kill(actor.handle)
                self._check()
                continue  # its node is lost, and it or its answer with that
            except Stopped:
                ray.kill(actor.handle)
                raise
            with self._lock:
                actor.networks = networks
                self._idle.append(actor)
            vars(history).update(vars(theirs))
            return outcome, seconds
        return watchdog.Outcome("crash", detail=f"lost its node {ATTEMPTS} times"), time.monotonic() - begun

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        """End all actors, and with them what they run."""
        import ray

        self.stop()
        with self._lock:
            for actor in (*self._idle, *self._coming):
                ray.kill(actor.handle)
            self._idle, self._coming = [], []

    def _leased(self, networks: Any) -> _Actor:
        """An idle actor, one that has read these networks if possible; waits for one."""
        import ray

        with self._lock:
            self._waiting += 1
        try:
            while True:
                self._check()
                with self._lock:
                    if self._idle:
                        best = max(self._idle, key=lambda actor: actor.networks == networks)
                        self._idle.remove(best)
                        return best
                    while len(self._coming) < self._waiting:
                        self._coming.append(self._new())
                    coming = list(self._coming)
                ready, _ = ray.wait([actor.ready for actor in coming], timeout=PAUSE)
                with self._lock:
                    for actor in [one for one in self._coming if one.ready in ready]:
                        self._coming.remove(actor)
                        if _alive(actor):
                            self._idle.append(actor)
        finally:
            with self._lock:
                self._waiting -= 1

    def _new(self) -> _Actor:
        """An actor that may have to wait for a place."""
        import ray

        worker: Any = ray.remote(Worker)
        made = worker.options(
            num_cpus=self._threads, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )
        handle = made.remote(self._threads, self._command)
        return _Actor(handle, handle.ready.remote())

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Stopped


def _alive(actor: _Actor) -> bool:
    import ray

    try:
        return bool(ray.get(actor.ready))
    except ray.exceptions.RayActorError:
        return False
