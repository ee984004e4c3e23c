"""Build the tables of split points that the package ships: ``verifier/point_tables.npz``.

Usage: OMP_NUM_THREADS=1 python benchmarks/point_tables.py
After a change of the grids, the search or an operator's lines, with the next ``VERSION`` (verifier/point_store.py).
Some minutes, most of them for the operators whose slopes are sought in a bracket (gelu, silu, mish).
"""

from __future__ import annotations

import time

import numpy as np
import torch

from provenn.bounds.graph._graph import Node
from provenn.bounds.ops import OPS, Univariate, prepare
from provenn.verifier.point_store import SHIPPED, VERSION
from provenn.verifier.point_tables import Reader, build, key

ONE = np.array(1.0)
SELU = {"alpha": np.array(1.67326319217681884765625), "gamma": np.array(1.05070102214813232421875)}
COMBINATIONS: tuple[tuple[tuple[str, dict], ...], ...] = (
    *(
        ((name, {}),)
        for name in ("sigmoid", "tanh", "atan", "erf", "softsign", "exp", "log", "sqrt", "reciprocal")
    ),
    *(
        ((name, {}),)
        for name in ("softplus", "gelu", "gelu_tanh", "silu", "mish", "hard_swish", "sin", "cos", "tan")
    ),
    *((("pow", {"exponent": n}),) for n in (3.0, 4.0, 0.5, 1.5, -1.0, -2.0, -0.5)),
    *(((name, {"alpha": ONE}),) for name in ("elu", "celu")),
    (("selu", SELU),),
    (("sin", {}), ("cos", {})),
    (("sigmoid", {}), ("tanh", {})),
    (("exp", {}), ("reciprocal", {})),
)


def reader(name: str, constants: dict) -> Reader:
    """An operator with constants, in float64."""
    operator = OPS[name]
    assert isinstance(operator, Univariate)
    return operator, prepare(Node(name, (0,), (1,), constants), ((1,),), torch.float64, torch.device("cpu"))


def main() -> None:
    tables = {"version": np.array(VERSION)}
    for combination in COMBINATIONS:
        readers = [reader(*part) for part in combination]
        name = key(readers)
        assert name is not None
        begun = time.process_time()
        tables[name] = build(readers)
        print(
            f"{name}: {tables[name].nbytes} bytes, {time.process_time() - begun:.1f} s of processor time",
            flush=True,
        )
    np.savez_compressed(SHIPPED, **tables)  # type: ignore[arg-type]
    print(f"{SHIPPED}: {SHIPPED.stat().st_size} bytes")


if __name__ == "__main__":
    main()
