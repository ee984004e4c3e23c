"""Witnesses tensor by tensor, and as the standard's folder of serialised tensors: ``NAME.pb`` for every declared one.

Nothing heavy is imported at the top: the process that waits and prints must start at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from provenn.verifier.targets import write_bytes

if TYPE_CHECKING:
    from provenn.specs import Composition


_PLAIN = (("X", "inputs"), ("Y", "outputs"))  # of a property without declared tensors


def layout(composition: Composition) -> list[dict[str, Any]]:
    """Where each declared tensor lies in a witness (``of`` inputs or outputs, from ``start``), in declaration order."""
    inputs = {tensor.name: start for _, tensor, start in composition.inputs}
    outputs = {tensor.name: start for _, tensor, start in composition.outputs}
    return [
        {"name": tensor.name, "shape": list(tensor.shape), "of": of, "start": starts[tensor.name]}
        for network in composition.networks
        for of, starts, tensors in (
            ("inputs", inputs, network.inputs),
            ("outputs", outputs, (*network.hidden, *network.outputs)),
        )
        for tensor in tensors
    ]


def write(folder: str, witness: Mapping[str, Any]) -> None:
    """Write a witness as ONNX TensorProtos, each file whole or not at all; without a layout as X and Y. Raises OSError.

    ``witness``: flat ``inputs`` and ``outputs``, their element type ``type``, and ``tensors``, a layout.
    """
    import numpy as np
    from onnx import numpy_helper

    plain: list[dict[str, Any]] = [{"name": name, "shape": [-1], "of": of, "start": 0} for name, of in _PLAIN]
    for tensor in witness.get("tensors") or plain:
        values = np.array(witness[tensor["of"]], dtype=np.float64).astype(witness["type"])
        count = int(np.prod(tensor["shape"])) if -1 not in tensor["shape"] else len(values)
        array = values[tensor["start"] : tensor["start"] + count].reshape(tensor["shape"])
        content = numpy_helper.from_array(array, tensor["name"]).SerializeToString()
        write_bytes(os.path.join(folder, f"{tensor['name']}.pb"), content)
