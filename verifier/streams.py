"""Standard input, output and error as a command finds and leaves them."""

from __future__ import annotations

import os
import sys


def open_standard_files() -> None:
    """Give descriptors that were closed (``>&-``) to nobody, before a pipe or a model gets them.

    A standard output that was closed fails at the first write, as a full one does: the answer would be lost.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 (for as long as the process lives)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def drop_unwritten() -> None:
    """What standard output did not take was reported; Python would complain again when it flushes at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
