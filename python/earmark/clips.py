"""Clips of sounds: in folders of classes, or in folds as ESC-50's ``meta.csv`` lists them."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from earmark.errors import FormatError
from earmark.trials import read_recordings

__all__ = ["Clip", "find_clips", "read_clips", "split_clips"]

_META = "meta.csv"
_COLUMNS = ("file", "class", "fold")


@dataclass(frozen=True)
class Clip:
    """A recording of one sound.

    ``name``: its path as the table or folder gives it; ``fold``: 0 where no table gives one.
    """

    path: Path
    name: str
    label: str
    fold: int = 0


def find_clips(folder: str | os.PathLike[str], fold: int | None = None) -> list[Clip]:
    """The clips of a folder ``class/clip.flac`` (recursively, sorted), or those of one fold.

    fold: as the folder's ``meta.csv`` numbers them, which then names the classes too. Raises
    FormatError for a recording that lies in no class's folder, else as :func:`split_clips`, and
    ValueError when there is no recording.
    """
    if fold is not None:
        return split_clips(folder, fold)[1]
    root = Path(folder)
    if not root.is_dir():
        raise FormatError(f"{root}: is not a folder")
    clips = []
    for path in read_recordings(root):
        name = path.relative_to(root)
        if len(name.parts) == 1:
            raise FormatError(f"{path}: lies in no class's folder")
        clips.append(Clip(path, name.as_posix(), name.parent.as_posix()))
    return clips


def split_clips(folder: str | os.PathLike[str], fold: int) -> tuple[list[Clip], list[Clip]]:
    """The clips of a folder's ``meta.csv`` that are of other folds, and those of this one.

    Raises FormatError when there is none of this one, else as :func:`read_clips`.
    """
    meta = Path(folder) / _META
    clips = read_clips(meta)
    of_fold = [clip for clip in clips if clip.fold == fold]
    if not of_fold:
        raise FormatError(f"{meta}: has no clip of fold {fold}")
    return [clip for clip in clips if clip.fold != fold], of_fold


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
