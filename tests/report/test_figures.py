"""Where marks lie in the figures."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

from provenn.specs import ResultRow
from provenn.verifier.pages import figures
from provenn.verifier.pages.axes import BOTTOM, HEIGHT
from provenn.verifier.pages.figures import Point
from provenn.verifier.pages.reports import Moment


def row(result: str, seconds: float) -> ResultRow:
    return ResultRow("f", "a.onnx", "p.vnnlib", 0.0, result, seconds)


def paths(figure: Element, kind: str) -> list[list[tuple[float, float]]]:
    """The corners of the paths of a class in the drawing."""
    (svg,) = [one for one in figure.findall("svg") if one.get("role") == "img"]
    found = []
    for path in svg.iter("path"):
        if kind in (path.get("class") or "").split():
            places: list[tuple[float, float]] = []
            for letter, words in re.findall(r"([MLHVh])([^MLHVh]*)", path.get("d") or ""):
                numbers = [float(word) for word in words.split()]
                x, y = places[-1] if places else (0.0, 0.0)
                if letter != "h":  # the length of a dot
                    places.append({"H": (numbers[0], y), "V": (x, numbers[0])}.get(letter) or (numbers[0], numbers[1]))
            found.append(places)
    return found


def words(figure: Element) -> str:
    return " ".join(" ".join(figure.itertext()).split())


def test_a_cactus_counts_what_is_solved_in_time() -> None:
    ours = [row("unsat", 1), row("sat", 100), row("timeout", 5), row("unsat", 10), row("error", 1)]
    theirs = [row("unsat", 10), *[row("unknown", 0)] * 4]
    figure = figures.cactus("c", "title", [("ours", ours), ("theirs", theirs)])
    (mine,), (other,) = paths(figure, "c0"), paths(figure, "c1")
    assert sorted({x for x, _ in mine}) == [x for x, _ in mine][::2], "to the right"
    assert [y for _, y in mine] == sorted((y for _, y in mine), reverse=True), "and up"
    (first, _), (second, ten), (third, hundred) = mine[2::2]
    assert other[-1] == (first, ten), "one solved, in the 10 s of our second"
    assert first < second < third and hundred < ten and abs(third - 3 * first + 2 * mine[0][0]) < 0.3
    assert "ours solves 1 within 1 s, 2 within 10 s, 3 in all; theirs solves 1 in all" in words(figure)
    assert "ours: 3 solved of 5" in words(figure)
    assert "theirs solves none" in words(figures.cactus("c", "t", [("ours", ours), ("theirs", [row("error", 1)])]))
    assert "ours: 0 solved of 1" in words(figures.cactus("c", "t", [("ours", [row("timeout", 9)])]))


def test_a_scatter_plot_puts_the_unsolved_at_its_edges() -> None:
    points = [
        Point("faster here", 10.0, 1.0, "unsat"),
        Point("as fast", 5.0, 5.0, "sat"),
        Point("only they", 2.0, None, "sat"),
        Point("only we", None, 2.0, "unsat"),
        Point("neither", None, None, "unsat"),
        Point("wrong", 20.0, 10.0, "conflict"),
    ]
    figure = figures.scatter("s", "title", "they", "we", points)
    (((x, y),), ((_, under),)), (((even, level),), ((_, edge),)) = paths(figure, "unsat"), paths(figure, "sat")
    ((diagonal),) = paths(figure, "diagonal")
    (left, bottom), (right, top) = diagonal
    assert abs((even - left) / (right - left) - (level - bottom) / (top - bottom)) < 0.01, "on the diagonal"
    assert (x - left) / (right - left) > (y - bottom) / (top - bottom), "below it"
    assert edge < top and paths(figure, "unsat")[1][0][0] > right and top < under < bottom
    assert len(paths(figure, "conflict")) == 1
    titles = [title.text for title in figure.iter("title")]
    assert len(titles) == 5 and "neither" not in titles
    assert "Of 6 instances both solve 3, of which we is the faster on 2 (below the diagonal)" in words(figure)
    assert "only we solves 1, only they 1, neither 1 (not shown)" in words(figure)
    many = figures.scatter("s", "title", "they", "we", [Point("p", i / 10, 1.0, "unsat") for i in range(1, 1500)])
    assert not list(many.iter("title")) and len(paths(many, "unsat")) == 1


def test_a_course_keeps_searches_apart() -> None:
    """Lines go on through pauses, repeated bounds of attacks are no line, and a proof ends at no open domains."""
    moments = [
        Moment(1.0, "root bounds", None, -8.0),
        Moment(2.0, "input splits", 4, -6.0),
        Moment(3.0, "attack", None, -8.0),
        Moment(4.0, "neuron splits", 10, -4.0),
        Moment(5.0, "input splits", 2, -1.0),
        Moment(6.0, "refuted", 0, None),
    ]
    figure = figures.course("c", "title", moments, row("unsat", 8.0))
    bound, opened = paths(figure, "c1")
    assert [y for _, y in bound] == sorted((y for _, y in bound), reverse=True), "the bound rises"
    assert bound[0][0] == opened[0][0] < bound[-1][0] and len(paths(figure, "c2")) == 2
    ((_, zero), _) = paths(figure, "zero")[0]
    assert all(y > zero for _, y in bound), "all bounds are negative"
    floor = HEIGHT - BOTTOM
    assert opened[-1][1] == floor > paths(figure, "c2")[1][0][1] and opened[0][1] < floor
    assert len(paths(figure, "c0")) == 1 and not paths(figure, "c3"), "root bounds, and no line of the attack"
    assert "unsat after 8 s: the lowest bound goes from -8 to -1 at best; at most 10 domains are open." in words(figure)
    told = words(figures.course("c", "title", moments[:5], row("timeout", 8.0)))
    assert "at most 10 domains are open; input splits leave 2 open; neuron splits leave 10 open." in told
    early = [Moment(0.0, "loading", None, None)]
    assert "nothing was bounded" in words(figures.course("c", "title", early, row("error", 0.0)))
