"""NeMo: what verification code asks of an ``EncDecSpeakerLabelModel``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earmark.embedder import Embedder
from earmark.metrics import cosine_score

__all__ = ["EncDecSpeakerLabelModel"]

# What NeMo's verify_speakers takes, of (cosine + 1) / 2.
_THRESHOLD = 0.7


class EncDecSpeakerLabelModel:
    """As NeMo's class of that name, as far as embeddings and verification go; it has no classes.

    path: of a model file. device: as ``earmark.load`` takes it.

    >>> from importlib.resources import files
    >>> data = files("earmark") / "data"
    >>> model = EncDecSpeakerLabelModel.restore_from(data / "demo-int8.earmark")
    >>> recordings = data / "recordings"
    >>> model.verify_speakers(recordings / "adam-1.flac", recordings / "adam-2.flac")
    True
    """

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu") -> None:
        self._model = Embedder(path, device=device)

    @classmethod
    def restore_from(cls, restore_path: str | os.PathLike[str]) -> EncDecSpeakerLabelModel:
        """The model of a file, on the CPU."""
        return cls(restore_path)

    def get_embedding(self, path2audio_file: str | os.PathLike[str]) -> Tensor:
        """(1, dimension) float32. Raises AudioError, naming the file, where it cannot be used."""
        return torch.from_numpy(self._model.embed(path2audio_file))

    def verify_speakers(
        self,
        path2audio_file1: str | os.PathLike[str],
        path2audio_file2: str | os.PathLike[str],
        threshold: float = _THRESHOLD,
    ) -> bool:
        """Whether (cosine + 1) / 2 of two recordings reaches the threshold.

        Raises AudioError, naming the file, where one cannot be used.
        """
        pairs = [(path2audio_file1, path2audio_file2)]
        return bool(self.verify_speakers_batch(pairs, threshold)[0])

    def verify_speakers_batch(
        self,
        audio_files_pairs: list[tuple[str | os.PathLike[str], str | os.PathLike[str]]],
        threshold: float = _THRESHOLD,
    ) -> NDArray[np.bool_]:
        """The same of each of n pairs, (n,). Raises as ``verify_speakers``."""
        first, second = (
            self._model.embed([pair[side] for pair in audio_files_pairs]) for side in (0, 1)
        )
        same: NDArray[np.bool_] = (cosine_score(first, second) + 1) / 2 >= threshold
        return same

    def batch_inference(
        self, manifest_filepath: str | os.PathLike[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str], list[str]]:
        """Embeddings (n, dimension), logits (n, 0), labels of the manifest, labels of training ().

        The manifest has a line of JSON with ``audio_filepath`` for each recording, relative to it,
        and perhaps ``label``. There are no classes, so that two of the four that NeMo returns are
        empty. Raises ValueError for a line that is no entry, AudioError, naming the file, for the
        first that cannot be used.
        """
        manifest = Path(manifest_filepath)
        paths, labels = [], []
        for number, line in enumerate(manifest.read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                paths.append(manifest.parent / entry["audio_filepath"])
                labels.append(str(entry.get("label", "")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{manifest}: line {number} is no entry of a manifest") from error
        return self._model.embed(paths), np.empty((len(paths), 0), np.float32), labels, []
