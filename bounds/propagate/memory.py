"""Memory: what a bound may use, and keeping what the process already has."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt


def keep_freed_memory(most: int = 1 << 29) -> bool:
    """Let the allocator keep up to ``most`` freed bytes instead of returning them to the system after every large
    tensor.

    Tensors of megabytes live for one operation here; fetching fresh zeroed pages for each costs more than the
    operation
    (a third of the time of a convolutional network's root bounds). Only glibc knows the switch; False elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 25)) and bool(mallopt(_TRIM_THRESHOLD, most))


def available() -> int:
    """Bytes that the machine, or the control group the process lives in, still has; 4 GB where nobody says."""
    found = [_meminfo(), _group()]
    known = [n for n in found if n is not None]
    return max(1 << 28, min(known)) if known else 4 << 30


def _meminfo() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _group() -> int | None:
    """What is left of a control group's limit (version 2)."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        return None if limit == "max" else int(limit) - int(used)
    except (OSError, ValueError):
        return None
