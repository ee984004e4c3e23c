"""Memory that a bound may use."""

from __future__ import annotations

import os
from pathlib import Path


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
