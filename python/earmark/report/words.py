"""Text from files, as pages and figures can show it."""

from __future__ import annotations

__all__ = ["figure_label", "visible"]

_LONGEST_LABEL = 40


def figure_label(text: str) -> str:
    """A name from a file, as a figure can show it: cut where it is long, and no formula."""
    shown = visible(text)
    half = (_LONGEST_LABEL - 1) // 2
    if len(shown) > _LONGEST_LABEL:
        shown = f"{shown[:half]}…{shown[-half:]}"
    return shown.replace("$", r"\$")


def visible(text: str) -> str:
    """Text with escapes in place of what no page can show: control characters, lone surrogates."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
