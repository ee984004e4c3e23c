"""HTML as a tree: what is put into it as text can never become markup."""

from __future__ import annotations

import re
from xml.etree import ElementTree

Element = ElementTree.Element
Child = Element | str | None
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def tag(name: str, *children: Child, **attributes: str | float) -> Element:
    """An element. Attributes are written ``class_`` for ``class``, ``aria_label`` for ``aria-label``; numbers are
    rounded to a hundredth. A child that is None is left out."""
    element = Element(name)
    for key, value in attributes.items():
        text = value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
        element.set(key.removesuffix("_").replace("_", "-"), _clean(text))
    return fill(element, *children)


def fill(element: Element, *children: Child) -> Element:
    """Append children, in order, and return the element."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            child = _clean(child)
            if len(element):
                element[-1].tail = (element[-1].tail or "") + child
            else:
                element.text = (element.text or "") + child
        else:
            element.append(child)
    return element


def written(element: Element) -> str:
    """The document as text of ASCII characters only, so that no encoding can garble it."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(element, "us-ascii", "html").decode("ascii") + "\n"


def _clean(text: str) -> str:
    """Characters that no document may hold become the replacement character."""
    return _CONTROL.sub("\ufffd", text)
