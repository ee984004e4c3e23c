"""The device that tensors of the engine live on."""

from __future__ import annotations

import torch

from provenn.errors import InputError
from provenn.verifier.options import DEVICES


def chosen_device(name: str) -> torch.device:
    """The device of ``auto`` (a GPU where torch sees one), ``cpu`` or ``cuda``; products are not rounded to TF32.

    Raises InputError for another name and for a GPU that is not there.
    """
    if name not in DEVICES:
        raise InputError(f"device got {name!r}, expected one of {', '.join(DEVICES)}")
    there = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError("--device cuda: no CUDA device is visible to torch; use --device cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if there else "cpu")
