"""Recordings to train on: who speaks in which file, and their samples."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from earmark.audio import read_audio
from earmark.errors import AudioError
from earmark.trials import numbered_lines, read_recordings

__all__ = ["Corpus", "Recordings", "Utterance", "find_utterances"]

Samples = NDArray[np.int16]
Progress = Callable[[int, int], None]

SAMPLE_RATE_HZ = 16000
FULL_SCALE = 32768
_MIN_SAMPLES = SAMPLE_RATE_HZ // 10

# VoxCeleb: id00012/21Uxsk56VDQ/00001.wav, one folder a video between the speaker and the file.
_VOXCELEB_SPEAKER = re.compile(r"id\d{5}")


@dataclass(frozen=True)
class Utterance:
    """A recording of one speaker. ``name``: the path as the list or folder gives it."""

    path: Path
    name: str
    speaker: str


def find_utterances(source: str | os.PathLike[str]) -> list[Utterance]:
    """The utterances of a folder (recursively, sorted) or of a LIST, in its order.

    The speaker is the path of an utterance's folder below ``source``, as in
    ``speaker/utterance.flac`` or ``corpus/speaker/utterance.flac``, or in VoxCeleb's layout the
    component ``idNNNNN``. A LIST has one path a line, relative to its own folder, or
    ``speaker path``. What has no speaker or is not there is left out with a warning that names it.
    Raises OSError when ``source`` cannot be read, ValueError when no utterance is left.
    """
    root = Path(source)
    if root.is_dir():
        found = ((path.relative_to(root).as_posix(), path) for path in read_recordings(root))
        utterances = [_utterance(name, path, _speaker_of(name), str(path)) for name, path in found]
    else:
        utterances = [_listed(root, number, line) for number, line in numbered_lines(root)]
    kept = [utterance for utterance in utterances if utterance is not None]
    if not kept:
        raise ValueError(f"{root}: names no utterance of a speaker")
    return kept


def _listed(source: Path, number: int, line: str) -> Utterance | None:
    where = f"{source}:{number}"
    whole = source.parent / line
    if whole.is_file():
        return _utterance(line, whole, _speaker_of(line), where)
    speaker, *rest = line.split(maxsplit=1)
    for name in rest:
        if (source.parent / name).is_file():
            return Utterance(source.parent / name, name, speaker)
    warnings.warn(f"{where}: left out, no such file: {whole}", stacklevel=2)
    return None


def _utterance(name: str, path: Path, speaker: str, where: str) -> Utterance | None:
    if speaker:
        return Utterance(path, name, speaker)
    warnings.warn(f"{where}: left out, lies in no speaker's folder", stacklevel=2)
    return None


def _speaker_of(name: str) -> str:
    folders = Path(name).parts[:-1]
    for folder in folders:
        if _VOXCELEB_SPEAKER.fullmatch(folder):
            return folder
    return "/".join(folders)


class Recordings:
    """Recordings as int16 at 16 kHz, in memory as far as they fit, the others read when asked for.

    What is in memory has been read, so it is intact; the others may turn out to be bad later.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        memory_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """``memory_bytes``: what the samples may take, by default a quarter of the memory.

        Recordings that cannot be read or are shorter than 0.1 s are left out with a warning that
        names file and value. Raises ValueError when none is left.
        """
        budget = _quarter_of_memory() if memory_bytes is None else memory_bytes
        self.paths: list[Path] = []
        self.indices: list[int] = []
        """Which of the given paths are left, rising."""
        self._samples: list[Samples] = []
        done = 0
        for done, result in enumerate(_read_ahead(paths), start=1):
            if progress is not None:
                progress(done, len(paths))
            if isinstance(result, AudioError):
                warnings.warn(f"left out: {result}", stacklevel=2)
                continue
            self.indices.append(done - 1)
            self._samples.append(result)
            budget -= result.nbytes
            if budget < 0:
                break
        self.indices.extend(range(done, len(paths)))
        self.paths = [paths[index] for index in self.indices]
        if not self.paths:
            raise ValueError(f"none of {len(paths)} recordings can be used")

    def __len__(self) -> int:
        return len(self.paths)

    def summary(self) -> dict[str, int | str]:
        """Number of recordings, and a digest of their names."""
        return {"recordings": len(self), "digest": digest(path.name for path in self.paths)}

    @property
    def in_memory(self) -> int:
        """How many recordings are held in memory, the first ones."""
        return len(self._samples)

    def read(self, index: int) -> Samples:
        """Samples (n,). Raises AudioError for a bad recording that is not in memory."""
        return self._samples[index] if index < len(self._samples) else _read(self.paths[index])


class Corpus:
    """Utterances with their speakers, or clips with the classes of their sounds, numbered by name.

    ``speakers``: sorted names; ``labels``: int64 (n,), for each recording an index into them.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        memory_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Arguments as for :class:`Recordings`. Raises ValueError for fewer than two speakers."""
        self.recordings = Recordings(
            [utterance.path for utterance in utterances],
            memory_bytes=memory_bytes,
            progress=progress,
        )
        kept = [utterances[index] for index in self.recordings.indices]
        self.speakers = sorted({utterance.speaker for utterance in kept})
        if len(self.speakers) < 2:
            raise ValueError(
                f"training needs at least 2 speakers, got {len(self.speakers)}: {self.speakers[0]}"
            )
        number = {speaker: index for index, speaker in enumerate(self.speakers)}
        self.labels = np.array([number[utterance.speaker] for utterance in kept], dtype=np.int64)
        self._names = [utterance.name for utterance in kept]

    def __len__(self) -> int:
        return len(self.recordings)

    def read(self, row: int) -> tuple[Samples, int]:
        """Samples and label of an utterance, or of the next one that can be read."""
        count = len(self)
        for candidate in range(row, row + count):
            try:
                samples = self.recordings.read(candidate % count)
            except AudioError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
            else:
                return samples, int(self.labels[candidate % count])
        raise ValueError(f"none of {count} utterances can be read any more")

    def summary(self) -> dict[str, int | str]:
        """Numbers of speakers and utterances, and a digest of who speaks in which file."""
        return {
            "speakers": len(self.speakers),
            "utterances": len(self),
            "digest": digest(
                f"{self.speakers[label]} {name}"
                for label, name in zip(self.labels, self._names, strict=True)
            ),
        }


def digest(lines: Iterable[str]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the lines."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode(errors="surrogateescape") + b"\n")
    return sha.hexdigest()[:16]


def _read(path: Path) -> Samples:
    audio = read_audio(path, target_rate=SAMPLE_RATE_HZ, min_samples=_MIN_SAMPLES)
    # Exact for files of 16 bits; louder float files are clipped as any converter would.
    scaled = np.rint(audio.samples * np.float32(FULL_SCALE))
    samples: Samples = np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return samples


def _read_ahead(paths: Sequence[Path]) -> Iterator[Samples | AudioError]:
    """What :func:`_read` returns or raises, in order, by a few threads a few files ahead."""

    def attempt(path: Path) -> Samples | AudioError:
        try:
            return _read(path)
        except AudioError as error:
            return error

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        rest = iter(paths)
        waiting = [pool.submit(attempt, path) for path in islice(rest, 4 * threads)]
        try:
            while waiting:
                yield waiting.pop(0).result()
                waiting.extend(pool.submit(attempt, path) for path in islice(rest, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _quarter_of_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
