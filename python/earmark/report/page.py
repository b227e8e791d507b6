"""HTML of one file: no script, nothing from elsewhere, the same for the same contents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from importlib import resources
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from earmark.report.words import visible

__all__ = ["details", "element", "figure", "page", "pairs", "paragraph", "section", "table"]

Child = Element | str

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def element(tag: str, *children: Child, **attributes: str) -> Element:
    """An element; text is escaped when it is written. ``class_`` stands for ``class``."""
    made = Element(tag, {key.rstrip("_").replace("_", "-"): v for key, v in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + visible(child)
        else:
            made.text = (made.text or "") + visible(child)
    return made


paragraph = partial(element, "p")


def section(title: str, children: Iterable[Element]) -> Element:
    """A part of the page under a heading; its id is the heading's words."""
    return element("section", element("h2", title), *children, id=title.lower().replace(" ", "-"))


def details(title: Child, children: Iterable[Element], is_open: bool) -> Element:
    """A part that opens at a click."""
    state = {"open": "open"} if is_open else {}
    return element("details", element("summary", title), *children, **state)


def figure(svg: Element, caption: str) -> Element:
    """A figure that scrolls sideways where the window is narrow."""
    return element("figure", element("div", svg, class_="scroll"), element("figcaption", caption))


def table(header: Sequence[str], rows: Iterable[Sequence[Child]], text_columns: int = 1) -> Element:
    """A table; columns after the first ``text_columns`` are numbers, flush right."""

    def line(tag: str, cells: Sequence[Child]) -> Element:
        classes: list[dict[str, str]] = [{}] * text_columns + [{"class_": "number"}] * (
            len(cells) - text_columns
        )
        return element(
            "tr", *(element(tag, cell, **c) for cell, c in zip(cells, classes, strict=True))
        )

    body = element("tbody", *(line("td", row) for row in rows))
    made = element("table", element("thead", line("th", header)), body)
    return element("div", made, class_="scroll")


def pairs(values: Iterable[tuple[str, Child]], class_: str = "pairs") -> Element:
    """Names and values."""
    rows = (element("div", element("dt", name), element("dd", value)) for name, value in values)
    return element("dl", *rows, class_=class_)


def page(title: str, subtitle: str, sections: Sequence[Element]) -> str:
    """The whole file as text."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title}: earmark report"),
    )
    style = element("style")
    style.text = (resources.files("earmark.report") / "page.css").read_text(encoding="utf-8")
    head.append(style)
    links: list[Any] = [
        element("a", part[0].text or "", href=f"#{part.attrib['id']}") for part in sections
    ]
    body = element(
        "body",
        element(
            "header",
            element("p", "earmark report", class_="mark"),
            element("h1", title),
            paragraph(subtitle, class_="subtitle"),
            element("nav", *links),
        ),
        element("main", *sections),
    )
    html = element("html", head, body, lang="en")
    return f"<!DOCTYPE html>\n{ElementTree.tostring(html, encoding='unicode', method='html')}\n"
