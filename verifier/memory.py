"""Keeping the memory that the process has."""

from __future__ import annotations

import ctypes
import sys

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
