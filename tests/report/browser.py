"""A real browser that looks at a page. As a script it takes the screenshots of docs/:

    python tests/report/browser.py docs
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE = 120_000.0
"""Milliseconds that a step may take: the machine may be busy."""
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# What sticks out of the window on the right, boxes that scroll by themselves left out, and texts that stick out of
# their figure: an empty list if all is well.
STICKING_OUT = """() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push('the page scrolls sideways');
  for (const one of document.querySelectorAll('body *')) {
    const box = one.getBoundingClientRect(), around = one.closest('.scroll');
    if (box.width && box.right > width + 0.5 && (!around || around === one || around.scrollWidth <= around.clientWidth))
      found.push(`${one.tagName} ${one.className} ends at ${box.right}`);
  }
  for (const text of document.querySelectorAll('figure > svg text')) {
    const box = text.getBoundingClientRect(), around = text.closest('svg').getBoundingClientRect();
    if (box.left < around.left - 1 || box.right > around.right + 1 || box.top < around.top - 1
        || box.bottom > around.bottom + 1) found.push(`the text ${text.textContent} leaves its figure`);
  }
  return found;
}"""

# Pairs of texts of one figure that lie over each other.
OVERLAPPING = """() => {
  const found = [];
  for (const svg of document.querySelectorAll('figure > svg')) {
    const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    for (const [i, [one, a]] of texts.entries()) for (const [other, b] of texts.slice(i + 1))
      if (one && other && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
          && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) found.push(`${one} | ${other}`);
  }
  return found;
}"""


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A running Chromium, driven by Playwright. Raises RuntimeError where there is none."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise RuntimeError("playwright is not installed") from error
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            running = playwright.chromium.launch(executable_path=program, timeout=PATIENCE)
        except Error as error:
            raise RuntimeError(f"no Chromium: {str(error).splitlines()[0]}") from error
        yield running
        running.close()


def show(running: Any, path: Path, width: int, height: int = 900, scheme: str = "light") -> Any:
    """A tab of that size with the page; what it complains of and fetches is in ``tab.complaints``."""
    tab = running.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab.set_default_timeout(PATIENCE)
    tab.complaints = []
    tab.on("console", lambda message: tab.complaints.append(message.text))
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on("request", lambda request: tab.complaints.append(request.url) if request.url != path.as_uri() else None)
    tab.goto(path.as_uri())
    return tab


def screenshots(running: Any, path: Path, folder: Path) -> list[Path]:
    """Pictures of the page: the comparison and the courses as wide as a desk, the beginning as narrow as a phone."""
    taken = [folder / name for name in ("report.png", "report-courses.png", "report-phone.png")]
    wide = show(running, path, 1280)
    wide.locator("#against-1").screenshot(path=taken[0])
    wide.locator("#courses").screenshot(path=taken[1])
    show(running, path, 375, 812).screenshot(path=taken[2])
    return taken


if __name__ == "__main__":
    from pages import suite  # type: ignore[import-not-found] # beside this file, which is run as a script

    with tempfile.TemporaryDirectory() as made, browser() as chromium:
        for picture in screenshots(chromium, suite(Path(made)), Path(sys.argv[1])):
            print(picture, picture.stat().st_size)
