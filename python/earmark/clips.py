"""Clips of sounds in folds, as ESC-50's ``meta.csv`` lists them."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from earmark.errors import FormatError

__all__ = ["Clip", "read_clips"]

_COLUMNS = ("file", "class", "fold")


@dataclass(frozen=True)
class Clip:
    """A recording of one sound. ``name``: its path as the list gives it."""

    path: Path
    name: str
    label: str
    fold: int


def read_clips(meta: str | os.PathLike[str]) -> list[Clip]:
    """The clips of a table with the columns file, class and fold, in its order.

    Files are relative to the table's folder. Raises FormatError, naming line and value, for a table
    without these columns, an empty field or a fold that is no whole number; OSError when the table
    cannot be read.
    """
    source = Path(meta)
    clips = []
    with source.open(newline="", encoding="utf-8") as file:
        try:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise FormatError(f"{source}: has no column {missing[0]!r}")
            for row in reader:
                where = f"{source}:{reader.line_num}"
                for column in _COLUMNS:
                    if not row[column]:
                        raise FormatError(f"{where}: {column} is empty")
                fold = row["fold"]
                if not fold.isascii() or not fold.isdigit():
                    raise FormatError(f"{where}: fold is {fold!r}, expected a whole number")
                name = row["file"]
                clips.append(Clip(source.parent / name, name, row["class"], int(fold)))
        except (csv.Error, UnicodeDecodeError) as error:
            raise FormatError(f"{source}: not a table: {error}") from error
    if not clips:
        raise FormatError(f"{source}: names no clip")
    return clips
