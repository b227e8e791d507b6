"""What earmark raises for faulty files and recordings. Both are ValueErrors of one line."""

from __future__ import annotations

__all__ = ["AudioError", "FormatError", "first_line"]


class FormatError(ValueError):
    """A model file, checkpoint or description of one is not what it should be.

    >>> import earmark
    >>> earmark.load("gone.earmark")
    Traceback (most recent call last):
    earmark.errors.FormatError: gone.earmark: no such file
    """


class AudioError(ValueError):
    """A recording cannot be used: unreadable, empty, too short, not finite, wrong shape or type.

    >>> from earmark.audio import read_audio
    >>> read_audio([0.0, 1.0])
    Traceback (most recent call last):
    earmark.errors.AudioError: array: a recording is a path, an array or a tensor, got list
    """


def first_line(error: BaseException) -> str:
    """The first line of another library's message without its full stop, to quote it in ours.

    >>> first_line(ValueError("no good.\\nAt line 3."))
    'no good'
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
