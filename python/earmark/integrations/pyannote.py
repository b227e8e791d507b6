"""pyannote.audio: what its pipelines ask of a ``PretrainedSpeakerEmbedding``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earmark.embedder import Embedder

__all__ = ["SpeakerEmbedding"]


class SpeakerEmbedding:
    """As pyannote's ``BaseInference`` of speaker embeddings, for code that calls one.

    path: of a model file. device: as ``earmark.load`` takes it. ``sample_rate`` (Hz),
    ``dimension``, ``metric`` and ``min_num_samples`` are constants.

    >>> from importlib.resources import files
    >>> embedding = SpeakerEmbedding(files("earmark") / "data" / "demo-int8.earmark")
    >>> embedding(torch.zeros(2, 1, 16000)).shape, embedding.min_num_samples
    ((2, 192), 640)
    """

    metric = "cosine"

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu") -> None:
        self._path = path
        self._model = Embedder(path, device=device)
        self.sample_rate = self._model.front_end.sample_rate_hz
        self.dimension = self._model.embedding_size
        self.min_num_samples = self._model.min_samples

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self._model.device)

    def to(self, device: torch.device) -> SpeakerEmbedding:
        """Move to a device; itself."""
        if torch.device(device) != self.device:
            self._model = Embedder(self._path, device=str(device))
        return self

    def __call__(self, waveforms: Tensor, masks: Tensor | None = None) -> NDArray[np.float32]:
        """Embeddings (batch, dimension) of waveforms (batch, 1, samples) in [-1, 1].

        masks: (batch, frames), of frames of any length; samples where it is above 0.5 count, and
        lie one after another for the network. A recording that is too short for the network
        (``min_num_samples``), or that cannot be used, is a row of NaN. Raises ValueError for other
        shapes.
        """
        if waveforms.ndim != 3 or waveforms.shape[1] != 1:
            shape = tuple(waveforms.shape)
            raise ValueError(f"waveforms must be (batch, 1, samples), got {shape}")
        signals = list(waveforms[:, 0].detach().float().cpu())
        if masks is not None:
            if masks.ndim != 2 or len(masks) != len(waveforms):
                shape = tuple(masks.shape)
                raise ValueError(f"masks must be ({len(waveforms)}, frames), got {shape}")
            size = waveforms.shape[2]
            # In float32 nearest gives each sample the frame that it lies in.
            by_sample = torch.nn.functional.interpolate(masks[:, None].float().cpu(), size=size)
            signals = [x[m > 0.5] for x, m in zip(signals, by_sample[:, 0], strict=True)]
        rows = np.full((len(signals), self.dimension), np.nan, np.float32)
        waves: list[Any] = [signal.numpy() for signal in signals]
        for index, embedding, _ in self._model.embed_each(waves, self.sample_rate):
            if embedding is not None:
                rows[index] = embedding
        return rows
