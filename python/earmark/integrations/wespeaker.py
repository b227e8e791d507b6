"""WeSpeaker: what ``wespeaker.load_model(...)`` returns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earmark.embedder import Embedder
from earmark.errors import AudioError
from earmark.metrics import cosine_score

__all__ = ["Speaker"]


class Speaker:
    """As WeSpeaker's ``Speaker``: embeddings and similarities of audio files.

    path: of a model file. device: as ``earmark.load`` takes it. Similarities are (cosine + 1) / 2,
    as WeSpeaker's are.

    >>> from importlib.resources import files
    >>> data = files("earmark") / "data"
    >>> speaker = Speaker(data / "demo-int8.earmark")
    >>> speaker.register("adam", data / "recordings" / "adam-1.flac")
    >>> speaker.recognize(data / "recordings" / "adam-2.flac")["name"]
    'adam'
    """

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu") -> None:
        self._path = path
        self._model = Embedder(path, device=device)
        self._table: dict[str, Tensor] = {}

    def set_device(self, device: str) -> None:
        """Move to a device, such as ``cpu`` or ``cuda:0``."""
        if device != self._model.device:
            self._model = Embedder(self._path, device=device)

    def extract_embedding(self, audio_path: str | os.PathLike[str]) -> Tensor | None:
        """(dimension,) float32, on the CPU; None for a file that cannot be used."""
        try:
            return torch.from_numpy(self._model.embed(audio_path)[0])
        except AudioError:
            return None

    def extract_embedding_list(self, scp_path: str | os.PathLike[str]) -> tuple[list[str], Any]:
        """Names and embeddings (n, dimension) of a Kaldi list, ``name path`` a line.

        Raises ValueError for a line that is not two words, AudioError, naming the recording, for
        the first that cannot be used.
        """
        lines = [line.split(maxsplit=1) for line in Path(scp_path).read_text().splitlines()]
        pairs = [line for line in lines if line]
        for number, pair in enumerate(pairs, 1):
            if len(pair) != 2:
                raise ValueError(
                    f"{scp_path}: line {number} is {pair[0]!r}, expected name and path"
                )
        return [name for name, _ in pairs], self._model.embed([path.strip() for _, path in pairs])

    def compute_similarity(
        self, audio_path1: str | os.PathLike[str], audio_path2: str | os.PathLike[str]
    ) -> float:
        """Of two recordings, in [0, 1]; 0 where one cannot be used."""
        first, second = (self.extract_embedding(path) for path in (audio_path1, audio_path2))
        if first is None or second is None:
            return 0.0
        return _similarity(first, second)

    def register(self, name: str, audio_path: str | os.PathLike[str]) -> None:
        """Enrol a speaker. Raises ValueError for a name that is taken, AudioError for the file."""
        if name in self._table:
            raise ValueError(f"speaker {name!r} is enrolled already")
        self._table[name] = torch.from_numpy(self._model.embed(audio_path)[0])

    def recognize(self, audio_path: str | os.PathLike[str]) -> dict[str, Any]:
        """The enrolled speaker that a recording is most similar to: ``name`` and ``confidence``.

        Raises ValueError where nobody is enrolled, AudioError for the file.
        """
        if not self._table:
            raise ValueError("no speaker is enrolled")
        found = torch.from_numpy(self._model.embed(audio_path)[0])
        scores = {name: _similarity(found, known) for name, known in self._table.items()}
        name = max(scores, key=scores.__getitem__)
        return {"name": name, "confidence": scores[name]}


def _similarity(first: Tensor, second: Tensor) -> float:
    cosine = cosine_score(np.asarray(first)[None], np.asarray(second)[None])[0]
    return float((cosine + 1) / 2)
