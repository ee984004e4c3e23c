"""Networks that this process has in memory: a bench reads one once for all its properties (see ``nursery``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from provenn.bounds.graph import read_onnx

if TYPE_CHECKING:
    from provenn.bounds.graph import Graph, Interface

_Key = tuple[str, tuple[int, ...], "Interface | None"]
_networks: dict[_Key, Graph] = {}
_keeper: Callable[[], None] | None = None


def keep_with(keeper: Callable[[], None]) -> None:
    """Have ``keeper`` called once this process has read the networks of its next instance; it may fork."""
    global _keeper
    _keeper = keeper


def read_network(path: str | os.PathLike[str], interface: Interface | None = None) -> Graph:
    """``read_onnx``, or what it made of the same file before, in this process or in one that it was forked from."""
    if _keeper is None and not _networks:
        return read_onnx(path, interface)
    key = os.fspath(path), _state(path), interface
    if key not in _networks:
        graph = _alone(lambda: read_onnx(path, interface))
        if _keeper is None or _state(path) != key[1] or _has_other_files(path):
            return graph
        _networks[key] = graph
    return _networks[key]


def keep() -> None:
    """Call the keeper, if there is one, with the networks that have been read."""
    global _keeper
    keeper, _keeper = _keeper, None
    if keeper is not None and _networks:
        keeper()


def _alone(read: Callable[[], Graph]) -> Graph:
    """On one thread: a process forked after OpenMP has made more would wait for them for ever."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return read()
    finally:
        torch.set_num_threads(before)


def _state(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """What changes with a file's content; nothing where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _has_other_files(path: str | os.PathLike[str]) -> bool:
    """Whether weights may lie in files of their own, whose changes the network's file would not show.

    ONNX names those under the key ``location``.
    """
    from provenn.specs import read_bytes

    return b"location" in read_bytes(Path(path))
