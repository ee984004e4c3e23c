"""Verdicts on random small queries in VNN-LIB 2 agree with brute force; benchmarks/random_queries.py runs hundreds."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from provenn.verifier import Options, verify

from .queries import cases

COUNT, FIRST = 30, 5000


def test_verdicts_agree_with_brute_force(tmp_path: Path) -> None:
    verdicts = []
    for case, truth in islice(cases(FIRST), COUNT):
        files, path = case.save(tmp_path)
        result = verify(files, path, Options(timeout=15, threads=1, device="cpu"))
        assert result.verdict == truth, (case.seed, result.reason, path.read_text())
        if result.witness is not None:
            ends = np.cumsum([size for _, size in case.inputs.values()])[:-1]
            parts = np.split(result.witness.inputs.astype(np.float64), ends)
            x = {name: part[None] for name, part in zip(case.inputs, parts, strict=True)}
            assert case.robustness(x)[0] > -1e-5, (case.seed, result.witness)
        verdicts.append(truth)
    assert min(verdicts.count("sat"), verdicts.count("unsat")) >= COUNT // 4
