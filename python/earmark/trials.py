"""Lists of recordings and of verification trials.

A LIST names one recording a line, relative to the list's own folder. A trial list has VoxCeleb's
form, one ``1 a b`` (same speaker) or ``0 a b`` (different speakers) a line, with paths relative to
a root folder. Blank lines are skipped. Errors in a list are ValueErrors that begin with
``file:line``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AUDIO_SUFFIXES",
    "Trials",
    "numbered_lines",
    "read_recordings",
    "read_trials",
    "split_by_speaker",
]

AUDIO_SUFFIXES = frozenset(
    {".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".w64"}
)
"""File-name suffixes, in lower case, that count as recordings when a folder is read."""


@dataclass(frozen=True)
class Trials:
    """Verification trials over a set of recordings, each recording kept once.

    ``paths``: the distinct recordings in order of first use; ``labels``: int64 (n_trials,), 1 =
    target; ``enrolment`` and ``test``: int64 (n_trials,), indices into ``paths``.

    >>> paths = [Path("ada/1.wav"), Path("ada/2.wav"), Path("bob/1.wav")]
    >>> trials = Trials(paths, np.array([1, 0]), np.array([0, 0]), np.array([1, 2]))
    >>> trials.speakers().tolist()
    [0, 0, 1]
    """

    paths: list[Path]
    labels: NDArray[np.int64]
    enrolment: NDArray[np.int64]
    test: NDArray[np.int64]

    def speakers(self) -> NDArray[np.int64]:
        """The number of each recording's speaker, (n_recordings,): its folder is the speaker."""
        folders = [str(path.parent) for path in self.paths]
        return np.unique(folders, return_inverse=True)[1].astype(np.int64)


def read_recordings(path: str | os.PathLike[str]) -> list[Path]:
    """The recordings of a folder (recursively, sorted) or those that a LIST names, in its order.

    Raises OSError when ``path`` cannot be read, ValueError when it holds no recording or a LIST
    names a file that is not there.
    """
    source = Path(path)
    if source.is_dir():
        found = sorted(
            Path(folder, name)
            for folder, _, names in os.walk(source, onerror=_raise)
            for name in names
            if Path(name).suffix.lower() in AUDIO_SUFFIXES
        )
        if not found:
            raise ValueError(f"{source}: no recordings in this folder")
        return found
    listed = []
    for number, line in numbered_lines(source):
        recording = source.parent / line
        if not recording.is_file():
            raise ValueError(f"{source}:{number}: no such file: {recording}")
        listed.append(recording)
    if not listed:
        raise ValueError(f"{source}: names no recording")
    return listed


def read_trials(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> Trials:
    """Read a trial list whose paths are relative to ``root``.

    Raises OSError when the list cannot be read, ValueError for a line that is not a trial, a
    recording that is not there, or a list without trials.
    """
    source, folder = Path(path), Path(root)
    index: dict[str, int] = {}
    rows: list[tuple[int, int, int]] = []
    for number, line in numbered_lines(source):
        fields = line.split()
        if len(fields) != 3:
            raise ValueError(f"{source}:{number}: a trial is 'label path path', got {line!r}")
        label, *names = fields
        if label not in ("0", "1"):
            raise ValueError(f"{source}:{number}: label must be 0 or 1, got {label!r}")
        for name in names:
            if name not in index:
                if not (folder / name).is_file():
                    raise ValueError(f"{source}:{number}: no such file: {folder / name}")
                index[name] = len(index)
        rows.append((int(label), index[names[0]], index[names[1]]))
    if not rows:
        raise ValueError(f"{source}: holds no trial")
    table = np.array(rows, dtype=np.int64)
    return Trials([folder / name for name in index], table[:, 0], table[:, 1], table[:, 2])


def split_by_speaker(trials: Trials, seed: int = 0) -> tuple[Trials, Trials]:
    """Two halves of trials that share no speaker; those between the halves are left out.

    A recording's speaker is its folder; the seed says who is in which half. Raises ValueError where
    a half has no target or no non-target trial.
    """
    speakers = trials.speakers()
    count = int(speakers.max()) + 1
    is_first = np.zeros(count, dtype=bool)
    is_first[np.random.default_rng(seed).permutation(count)[: (count + 1) // 2]] = True
    sides = is_first[speakers[trials.enrolment]], is_first[speakers[trials.test]]
    halves = []
    for half in (sides[0] & sides[1], ~sides[0] & ~sides[1]):
        labels = trials.labels[half]
        for label, kind in ((1, "target"), (0, "non-target")):
            if not np.any(labels == label):
                raise ValueError(
                    f"a half of the {count} speakers (by folder, seed {seed}) has no {kind} trial"
                )
        used, index = np.unique([trials.enrolment[half], trials.test[half]], return_inverse=True)
        enrolment, test = index.reshape(2, -1)
        halves.append(Trials([trials.paths[i] for i in used], labels, enrolment, test))
    return halves[0], halves[1]


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text file") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip():
            yield number, stripped


def _raise(error: OSError) -> None:
    """``os.walk`` would leave out a folder that it cannot read."""
    raise error
