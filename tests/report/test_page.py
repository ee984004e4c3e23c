"""What a page says, what it holds and how long it is."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from provenn.errors import InputError
from provenn.specs import read_results
from provenn.verifier.batch import table as bench_table
from provenn.verifier.pages import axes, sources, write

from .pages import SUITE, conflicting, suite


class Seen(HTMLParser):
    """Elements, their texts by identity, and whether every element was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in ("meta", "br"):
            self._open.append((tag, attributes.get("id")))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, identity in self._open:
            if identity:
                self.texts[identity] = self.texts.get(identity, "") + data + " "

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(suite(tmp_path_factory.mktemp("real")).read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Seen]:
    text = conflicting(tmp_path_factory.mktemp("made")).read_text()
    return text, Seen(text)


@pytest.fixture(params=["real", "made"])
def page(request: pytest.FixtureRequest) -> Iterator[Seen]:
    found = request.getfixturevalue(request.param)
    yield found if isinstance(found, Seen) else found[1]


def test_it_needs_nothing_else(page: Seen) -> None:
    """No script, no file, no address: nothing that a browser would fetch or run."""
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
    for _, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style")}
        assert (attributes.get("href") or "#").startswith("#")
    style = page.texts.get("", "")
    assert "url(" not in style and "@import" not in style


def test_what_is_named_is_there_once(page: Seen) -> None:
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identities) == len(set(identities))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "href"):
            if name in attributes:
                target = (attributes[name] or "").removeprefix("#")
                assert page.texts[target].strip(), target


def test_figures_and_tables_are_told(page: Seen) -> None:
    for attributes in page.all("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes["role"] == "img"
    assert len(page.all("caption")) == len(page.all("table")) > 2
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1 and headings[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))


def test_the_figures_of_a_real_run(real: Seen) -> None:
    """As bench's own table counts them; repeated instances count once here."""
    rows = {row.key: row for row in read_results(SUITE / "results.csv")}
    *_, last = bench_table(list(rows.values()))
    unsat, sat = map(int, last.split()[1:3])
    assert f"all {len(rows)} {unsat + sat} {unsat} {sat}" in " ".join(real.texts["families"].split())
    assert "No conflicts" in real.texts["conflicts"]
    assert "both solve 114" in real.texts["scatter-1"] and "114 solved of 125" in real.texts["cactus-1"]
    assert "time ran out: " in real.texts["unsolved"] and "every clause was refuted" in real.texts["slowest"]
    courses = [identity for identity in real.texts if re.fullmatch(r"course-\d", identity)]
    assert len(courses) == 6
    assert all("lowest bound goes from" in real.texts[one] and "are open" in real.texts[one] for one in courses)


def test_conflicts_come_first_and_loud(made: tuple[str, Seen]) -> None:
    text, page = made
    sections = page.all("section")
    assert sections[0]["id"] == "conflicts" and sections[0]["class"] == "alarm"
    assert "verdict conflicts" in page.texts["conflicts"] and "UNSAT" in page.texts["conflicts"]
    assert text.index("verdict conflict") < text.index("Families")


def test_names_are_text_and_not_markup(made: tuple[str, Seen]) -> None:
    """That they add no element is checked above, for every page."""
    page = made[1]
    assert '<script>alert("x")</script>&amp;<img' in page.texts["conflicts"], "and can be read"


def test_a_page_of_thousands_of_rows_stays_short(made: tuple[str, Seen]) -> None:
    text, page = made
    assert len(text) < 900_000 and len(page.all("tr")) < 2000
    assert "more are in the files" in page.texts["unsolved"]
    assert not any("open" in attributes for attributes in page.all("details"))


def test_a_report_of_another_run_gives_no_reason(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("f,a.onnx,p.vnnlib,0,timeout,60\nf,b.onnx,p.vnnlib,0,error,1\n")
    for name, verdict in (("a", "unsat"), ("b", "unknown")):
        options = {"timeout": 60.0, "device": "cpu", "threads": None, "memory": [], "seed": 7}
        report = {"verdict": verdict, "reason": f"reason of {name}", "options": options, "versions": {"torch": "2.4"}}
        (tmp_path / f"f__{name}__p.json").write_text(json.dumps(report))
    output = tmp_path / "r.html"
    summary = write(sources([str(tmp_path / "r.csv")]), str(tmp_path), (), str(output))
    text = output.read_text()
    assert summary == "2 instances, 0 solved, no conflicts"
    assert "reason of b" in text and "reason of a" not in text and "1 JSON reports are of another run" in text
    assert "1 of 1 JSON reports that were read: 60.0 s, device cpu, [] GB, seed 7, torch 2.4." in text


def test_the_course_asked_for_is_drawn(tmp_path: Path) -> None:
    moments = {
        "seconds": [0.5, 1.0, 2.0, 3.0],
        "stage": ["loading", "root bounds", "input splits", "refuted"],
        "domains": [None, None, 4, None],
        "open": [None, None, 3, 0],
        "bound": [None, "-inf", -0.25, None],
    }
    (tmp_path / "r.csv").write_text("f,a.onnx,p.vnnlib,0,unsat,3\nf,b.onnx,p.vnnlib,0,unsat,3\n")
    (tmp_path / "f__b__p.json").write_text(json.dumps({"verdict": "unsat", "reason": "", "history": moments}))
    output = tmp_path / "r.html"
    found = sources([str(tmp_path / "r.csv")])
    write(found, str(tmp_path), (), str(output))
    assert "courses" not in Seen(output.read_text()).texts, "too short to be chosen"
    write(found, str(tmp_path), ("b.onnx",), str(output))
    course = Seen(output.read_text()).texts["course-1"]
    assert "unsat after 3 s: the lowest bound goes from -0.25 to -0.25 at best; at most 3 domains are open" in course


def test_two_tools_side_by_side(tmp_path: Path) -> None:
    """Who solves what and in which time; a third tool that ran little is left out of the overview."""
    ours = ("unsat,1", "unsat,2", "timeout,60", "unknown,4", "sat,5", "error,7", "timeout,9")
    theirs = ("timeout,60", "unsat,30", "sat,40", "sat,50", "timeout,60", "sat,3", "unknown,3")
    for name, answers in (("ours", ours), ("theirs", theirs), ("third", theirs[:2])):
        lines = [f"f\a,n{number}.onnx,p.vnnlib,0,{answer}\n" for number, answer in enumerate(answers)]
        (tmp_path / f"{name}.csv").write_text("".join(lines))
    found = sources([str(tmp_path / f"{name}.csv") for name in ("ours", "theirs", "third")])
    summary = write(found, None, (), str(tmp_path / "page.html"))
    page = Seen((tmp_path / "page.html").read_text())
    assert summary == "7 instances, 3 solved, no conflicts"
    texts = {name: " ".join(text.split()) for name, text in page.texts.items()}
    assert "f\ufffd 7 1 2 3 2 30" in texts["against-1"], "instances, both, only either, seconds of what both solve"
    assert "only ours solves 2, only theirs 3, neither 1" in texts["scatter-1"]
    assert "n0 p: theirs timeout 60 s, ours unsat 1 s" in (tmp_path / "page.html").read_text()
    assert "third" not in texts["cactus"] and "ours: 3 solved of 7" in texts["cactus"]
    assert "2 in common" in texts["against-2"]
    assert "3 of them another file solves" in texts["unsolved"] and "theirs : sat in 40 s" in texts["unsolved"]
    assert "theirs : unknown" not in texts["unsolved"]


def test_known_answers_beside_results(tmp_path: Path) -> None:
    """They take part in conflicts and in lists, not in figures."""
    (tmp_path / "r.csv").write_text("f,a.onnx,p.vnnlib,0,unsat,3\nf,b.onnx,p.vnnlib,0,timeout,9\n")
    (tmp_path / "truth.csv").write_text("onnx,vnnlib,truth\na.onnx,p.vnnlib,sat\nb.onnx,p.vnnlib,unsat\n")
    paths = [str(tmp_path / name) for name in ("r.csv", "truth.csv")]
    output = tmp_path / "page.html"
    assert write(sources(paths), None, (), str(output)) == "2 instances, 1 solved, 1 conflicts"
    texts = {name: " ".join(text.split()) for name, text in Seen(output.read_text()).texts.items()}
    assert "r: UNSAT in 3 s truth: SAT" in texts["conflicts"] and "0 s" not in texts["conflicts"]
    assert "truth : unsat" in texts["unsolved"] and "scatter-1" not in texts and "truth" not in texts["cactus"]
    assert "seconds" not in texts["against-1"] and "f 2 1 0 1" in texts["against-1"]
    with pytest.raises(InputError, match="truth has no seconds; name results first"):
        write(sources(paths[::-1]), None, (), str(output))


def test_the_same_stem_twice(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "results.csv").write_text("f,a.onnx,p.vnnlib,0,unsat,3\n")
    found = sources([str(tmp_path / folder / "results.csv") for folder in ("one", "two")])
    assert list(found) == ["one/results", "two/results"]
    equals = tmp_path / "a=b.csv"
    equals.write_text("")
    assert sources([str(equals)]) == {"a=b": str(equals)}


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-3.0, 1e9], [1e-9, 2e-9], [-1e-300, 0.0], [0.1 + 0.2, 0.3]])
def test_axes_of_any_values(values: list[float]) -> None:
    for zero in (False, True):
        axis = axes.linear(values, 300.0, 10.0, zero=zero)
        assert all(10.0 <= axis.at(value) <= 300.0 for value in (*values, -1e300, 1e300))
        assert 2 <= len(axis.ticks()) <= 12 and all(axis.low <= tick <= axis.high * (1 + 1e-9) for tick in axis.ticks())
    axis = axes.logarithmic([max(value, 0.0) for value in values], 0.0, 100.0, least=0.01)
    assert 2 <= len(axis.ticks()) <= 12 and axis.at(0.0) == 0.0 and axis.at(1e300) == 100.0


def test_lines_are_thinned() -> None:
    path = axes.line([(i / 1000, i / 1000) for i in range(100_000)])
    assert len(path) < 10_000 and path.startswith("M0 0") and path.endswith("L100 100")
    assert axes.dots([(1.0, 2.0)] * 50) == "M1 2h.01"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_told_apart(scheme: str) -> None:
    """All from the paper (3:1, WCAG 1.4.11), and unsat from sat by eyes that lack red or green cones."""
    style = resources.files("provenn.verifier.pages").joinpath("style.css").read_text()
    part = style.split("@media")[scheme == "dark"]
    colours = {name: np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
               for name, code in re.findall(r"--([\w-]+): #(\w{6})", part)}  # fmt: skip
    linear = {name: np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92) for name, c in colours.items()}
    light = {name: float(c @ [0.2126, 0.7152, 0.0722]) for name, c in linear.items()}
    for name in (*(f"c{i}" for i in range(6)), "alarm", "ink", "faint"):
        high, low = sorted((light[name], light["paper"]), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= (4.5 if name in ("ink", "faint", "alarm") else 3), name
    # Machado, Oliveira and Fernandes, A physiologically-based model for simulation of color vision deficiency, 2009.
    for lacking in (
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ):
        seen = {name: np.clip(np.array(lacking) @ linear[name], 0, 1) for name in ("c0", "c1", "c2")}
        for one, other in itertools.combinations(seen, 2):
            assert np.abs(np.cbrt(seen[one]) - np.cbrt(seen[other])).max() > 0.1, (one, other)
