"""Which rows of several files are the same instance, and which answers contradict each other."""

from __future__ import annotations

import pytest

from provenn.specs import ResultRow, Table
from provenn.verifier.pages.comparison import compare
from provenn.verifier.pages.tables import named, title


def row(category: str, network: str, name: str, result: str = "unsat", seconds: float = 1.0) -> ResultRow:
    return ResultRow(category, network, name, 0.0, result, seconds)


OURS = ("acasxu", "onnx/N_1_1.onnx", "vnnlib/prop_3.vnnlib")


@pytest.mark.parametrize(
    ("theirs", "same"),
    [
        (("acasxu", "acasxu/onnx/N_1_1.onnx.gz", "acasxu/vnnlib/prop_3.vnnlib.gz"), True),
        (("acasxu_2023", "./onnx/N_1_1.onnx", "./vnnlib/prop_3.vnnlib"), True),
        (("2025_acasxu", "/data/bench/acasxu/1.0/onnx/N_1_1.onnx", "/x/prop_3.vnnlib"), True),
        (("", "N_1_1", "prop_3"), True),
        (("ACASXU", "onnx\\N_1_1.onnx", "vnnlib\\prop_3.vnnlib"), True),
        (("acasxu2026", "onnx/N_1_1.onnx", "vnnlib/prop_3.vnnlib"), True),
        (("acasxu2048", "onnx/N_1_1.onnx", "vnnlib/prop_3.vnnlib"), False),
        (("mnist", "onnx/N_1_1.onnx", "vnnlib/prop_3.vnnlib"), False),
        (("acasxu", "onnx/N_1_2.onnx", "vnnlib/prop_3.vnnlib"), False),
        (("acasxu", "onnx/N_1_1.onnx", "vnnlib/prop_4.vnnlib"), False),
    ],
)
def test_spellings(theirs: tuple[str, str, str], same: bool) -> None:
    comparison = compare([Table("a", [row(*OURS)]), Table("b", [row(*theirs)])])
    assert len(comparison.of(0, 1)) == same and len(comparison.instances) == 2 - same


def test_lists_of_networks() -> None:
    ours = row("mono", "[('f','onnx/a.onnx'),('g','onnx/b.onnx')]", "vnnlib/p.vnnlib")
    same = row("mono", "[('f', 'mono/onnx/a.onnx.gz'), ('g', './onnx/b.onnx.gz')]", "p.vnnlib", "sat")
    other = row("mono", "[('f','onnx/c.onnx'),('g','onnx/b.onnx')]", "vnnlib/p.vnnlib", "sat")
    comparison = compare([Table("a", [ours]), Table("b", [same, other])])
    assert len(comparison.instances) == 2 and [one.network for one in comparison.conflicts()] == [ours.network]
    assert title(ours) == "mono a b p"
    assert list(named(ours).itertext()) == ["mono", "f: onnx/a.onnx", "g: onnx/b.onnx", "vnnlib/p.vnnlib"]


def test_the_same_names_in_several_folders() -> None:
    """A file with folders, and one without: what could be either is neither."""
    ours = [row("nlp", f"onnx/{kind}/p_0.onnx", f"vnnlib/{kind}/h_1.vnnlib") for kind in ("medical", "robot")]
    folders = [row("nlp", f"nlp/onnx/{kind}/p_0.onnx", f"{kind}/h_1.vnnlib", "sat") for kind in ("robot", "medical")]
    flat = [row("nlp", "p_0.onnx", "h_1.vnnlib", "sat")]
    comparison = compare([Table("a", ours), Table("b", folders), Table("c", flat)])
    assert len(comparison.instances) == 3 and len(comparison.conflicts()) == 2
    for one in comparison.of(0, 1):
        theirs = one.row(1)
        assert theirs is not None and one.network.split("/")[1] in theirs.network
    assert len(compare([Table("c", flat), Table("a", ours)]).of(0, 1)) == 0, "either of two may be meant"


def test_years_that_tell_categories_apart() -> None:
    """One file has the family twice; another's row of a year is of that year, one of none is of neither."""
    ours = [row(f"vit_{year}", "a.onnx", "p.vnnlib") for year in (2023, 2024)]
    theirs = [row("vit_2024", "a.onnx", "p.vnnlib", "sat")]
    comparison = compare([Table("a", ours), Table("b", theirs)])
    (both,) = comparison.of(0, 1)
    assert both.category == "vit_2024" and both.conflicts()
    assert compare([Table("a", ours), Table("b", [row("vit", "a.onnx", "p.vnnlib")])]).of(0, 1) == []


def test_conflicts_are_found_wherever_they_are() -> None:
    """Between other tools, in one file, and not among answers that agree or are none."""
    names = [("f", "a.onnx", f"p{i}.vnnlib") for i in range(5)]
    verdicts = [
        ["timeout", "unsat", "unsat", "unknown", "unsat"],
        ["sat", "unsat", "error", "unknown", "sat"],
        ["unsat", "unsat", "timeout", "sat", "unsat"],
    ]
    tables = [
        Table(str(i), [row(*name, verdict) for name, verdict in zip(names, column, strict=True)])
        for i, column in enumerate(verdicts)
    ]
    comparison = compare(tables)
    assert [one.property for one in comparison.conflicts()] == ["p0.vnnlib", "p4.vnnlib"]
    assert comparison.checked() == 3
    alone = compare([Table("a", [row(*names[0], "sat"), row(*names[0], "timeout"), row(*names[0], "unsat")])])
    assert len(alone.conflicts()) == 1 and alone.repeated(0) == 2
    (one,) = compare([Table("a", [row(*names[0], "timeout"), row(*names[0], "unsat", 7.0)])]).instances
    assert one.row(0) == row(*names[0], "unsat", 7.0) and not one.conflicts()
