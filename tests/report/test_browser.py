"""The page in a real browser: at the width of a phone and of a desk, in the dark, in print, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .browser import OVERLAPPING, STICKING_OUT, browser, screenshots, show
from .pages import conflicting, short, suite


class Pages(dict[str, Path]):
    """Pages by name, made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, name: str) -> Path:
        self[name] = {"real": suite, "made": conflicting, "short": short}[name](self._folder)
        return self[name]


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    chromium = browser()
    try:
        started = chromium.__enter__()
    except RuntimeError as error:
        pytest.skip(str(error))
    yield started
    chromium.__exit__(None, None, None)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    return Pages(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("name", ["real", "made"])
def test_nothing_overflows(running: Any, pages: Pages, name: str) -> None:
    """And nothing is fetched or complained of."""
    tab = show(running, pages[name], 375)
    for width in (320, 375, 768, 1280):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate(STICKING_OUT) == [], width
        assert tab.evaluate(OVERLAPPING) == [], width
    assert tab.complaints == []
    tab.close()


@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (1280, "dark")])
def test_axe_finds_nothing(running: Any, pages: Pages, width: int, scheme: str) -> None:
    """Contrast, roles, names, headings: the checks of axe-core that a program can make, on a short page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab = show(running, pages["short"], width, scheme=scheme)
    found = axe.run(tab).response
    told = [(one["id"], len(one["nodes"]), one["nodes"][0]["html"][:200]) for one in found["violations"]]
    assert told == [] and len(found["passes"]) > 20
    tab.close()


def test_it_can_be_printed(running: Any, pages: Pages) -> None:
    """On white paper whatever the screen is like, with nothing cut off, on a reasonable number of sheets."""
    tab = show(running, pages["real"], 794, scheme="dark")  # A4 at 96 dots per inch
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(27, 27, 27)"
    assert tab.evaluate(STICKING_OUT) == []
    cut = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert tab.evaluate(cut) == 0
    printed = tab.pdf(format="A4")
    assert printed.startswith(b"%PDF") and 5 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 25
    tab.close()


def test_the_keyboard_reaches_everything(running: Any, pages: Pages) -> None:
    """Links, lists that open, and boxes that scroll; the one that has the focus is outlined."""
    tab = show(running, pages["short"], 375)
    wanted = tab.locator("a:visible, summary:visible, .scroll:visible").count()
    reached = set()
    for _ in range(wanted):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert len(reached) == wanted > 10
    first = tab.locator("details").first
    assert first.get_attribute("open") is not None
    first.locator("summary").focus()
    tab.keyboard.press("Enter")
    assert first.get_attribute("open") is None
    tab.close()


def test_screen_readers_get_figures_and_tables(running: Any, pages: Pages) -> None:
    """As the browser hands them over: figures by their titles, tables with headers where a phone lays them out."""
    tab = show(running, pages["short"], 375)
    told = tab.locator("body").aria_snapshot()
    for text in (
        'heading "Results of mine" [level=1]',
        '1 verdict conflict" [level=2]',
        'img "Seconds of mine against other"',
        'img "f a4 p"',
        'columnheader "timeout"',
        'rowheader "f"',
        'columnheader "instance"',
        'navigation "sections"',
    ):
        assert text in told, text
    tab.close()


def test_the_screenshots_of_the_documentation(running: Any, pages: Pages, tmp_path: Path) -> None:
    """They can be made (``browser.py`` is a script, too), and show something."""
    for picture in screenshots(running, pages["real"], tmp_path):
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
        shown = Path(__file__).resolve().parents[2] / "docs" / picture.name
        assert shown.is_file(), f"docs has no {picture.name}; run browser.py"
