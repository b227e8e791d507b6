"""Figures of matplotlib as elements of an HTML page, in the page's colours and fonts."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from matplotlib import rc_context
from matplotlib.figure import Figure

__all__ = ["COLOURS", "inline_svg"]

# What matplotlib calls a colour, by the CSS variable that takes its place.
COLOURS = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#b0b0b0": "var(--rule)",
    "#1f77b4": "var(--blue)",
    "#ff7f0e": "var(--orange)",
    "#2ca02c": "var(--green)",
    "#d62728": "var(--red)",
    "#9467bd": "var(--purple)",
    "#8c564b": "var(--brown)",
    "#e377c2": "var(--pink)",
    "#7f7f7f": "var(--quiet)",
}

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "earmark",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "font.size": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_XLINK = "{http://www.w3.org/1999/xlink}href"
_FONT = re.compile(r"font-family: [^;]*(; )?")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_DECIMALS = re.compile(r"(\.\d\d)\d+")  # of points: more than screens show


def inline_svg(draw: Callable[[], Figure], name: str, alt: str) -> Element:
    """The figure that ``draw`` makes, as an ``svg`` element.

    name: makes its ids differ from those of other figures of the page. alt: what it shows, for
    those who cannot see it.
    """
    data = io.BytesIO()
    with rc_context(_STYLE), _without_glyph_warnings():
        figure = draw()
        figure.savefig(data, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Type")))
    root = ElementTree.fromstring(data.getvalue())
    width = figure.get_figwidth()
    _restyle(root, name)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": alt,
        # In CSS an inch is 96 pixels. Narrower, letters would be too small: it scrolls.
        "style": f"max-width: {96 * width:.0f}px; min-width: {72 * width:.0f}px",
    }
    return root


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """The font that text is measured with need not have all of its letters; browsers' fonts do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def _restyle(root: Element, name: str) -> None:
    """Names without XML namespaces, ids of the page, its colours and its font."""
    used = {
        match
        for element in root.iter()
        for value in element.attrib.values()
        for match in _REFERENCE.findall(value)
    } | {element.attrib[_XLINK][1:] for element in root.iter() if _XLINK in element.attrib}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        if not (element.text or "").strip():
            element.text = None
        attributes = {}
        for key, value in element.attrib.items():
            if key == _XLINK:
                attributes["href"] = f"#{name}-{value[1:]}"
            elif key == "id":
                if value in used:
                    attributes["id"] = f"{name}-{value}"
            elif key == "d":
                attributes["d"] = _DECIMALS.sub(r"\1", " ".join(value.split()))
            else:
                attributes[key] = _restyled(_REFERENCE.sub(rf"url(#{name}-\1)", value))
        element.attrib = attributes


def _restyled(value: str) -> str:
    for colour, variable in COLOURS.items():
        value = value.replace(colour, variable)
    return _FONT.sub("", value)
