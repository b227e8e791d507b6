"""What earmark raises for faulty files and recordings. Both are ValueErrors of one line."""

from __future__ import annotations

__all__ = ["AudioError", "FormatError", "first_line"]


class FormatError(ValueError):
    """A model file, checkpoint or description of one is not what it should be."""


class AudioError(ValueError):
    """A recording cannot be used: unreadable, empty, too short, not finite, wrong shape or type."""


def first_line(error: BaseException) -> str:
    """The first line of another library's message without its full stop, to quote it in ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
