"""Random small graphs of all operators: verdicts and boxes agree with dense sampling.

``benchmarks/random_graphs.py`` runs a thousand with a million samples for each proof.
"""

from __future__ import annotations

import pytest

from provenn.bounds.graph import read_onnx
from provenn.verifier import Options, verify

from . import fragments, recipes
from .graphs import random_graph
from .sampling import APART, disagreement, escaped, make_case, property_text, runtime, wrong

RECIPES = recipes.RECIPES | fragments.RECIPES
GROUPS, PER_GROUP = 8, 4


@pytest.mark.parametrize("group", range(GROUPS))
def test_verdicts_and_boxes_agree_with_samples(group: int, tmp_path) -> None:
    decided = 0
    for seed in range(100 * group, 100 * group + PER_GROUP):
        made = random_graph(seed, RECIPES)
        path = made.write(tmp_path / f"{seed}.onnx")
        found = make_case(made, read_onnx(path), 10_000)
        if found is None:
            decided += 1
            continue
        case, expected = found
        assert disagreement(case, runtime(case)) < APART, seed
        assert not escaped(case, 500, seconds=2), seed
        vnnlib = tmp_path / f"{seed}.vnnlib"
        vnnlib.write_text(property_text(case))
        result = verify(path, vnnlib, Options(timeout=2, threads=1, device="cpu", seed=seed))
        witness = None if result.witness is None else result.witness.inputs
        assert not wrong(case, result.verdict, witness, 10_000), seed
        decided += result.verdict == expected
    assert decided >= 1  # as many as time allows, but a verifier that says nothing is never wrong


def test_recipes_make_what_they_name() -> None:
    """Over some hundred graphs nearly all operators of the recipes occur."""
    used = {name for seed in range(120) for name in random_graph(seed, RECIPES).operators}
    assert len(used) >= 85
