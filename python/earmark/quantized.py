"""Quantized networks behind the interfaces of the torch modules they were made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earmark import modelfile
from earmark.classifier import Classifier
from earmark.embedder import Embedder, checked_threshold
from earmark.modelfile import ModelFile
from earmark.plan import SCORES
from earmark.windows import Sounds


class _Quantized(torch.nn.Module):
    """Inference on the CPU, without gradients."""

    def __init__(self, model: ModelFile) -> None:
        super().__init__()
        # A model that was never saved has no digest yet; writing computes the same one.
        metadata = {**model.metadata, "format": modelfile.FORMAT_VERSION}
        digest = modelfile.digest(metadata, model.arrays)
        self._model = ModelFile({**metadata, "sha256": digest}, model.arrays)

    @property
    def model_file(self) -> ModelFile:
        """What ``save`` writes, without a threshold and figures."""
        return self._model

    def _write(self, path: str | os.PathLike[str], changed: dict[str, Any]) -> None:
        model = ModelFile({**self._model.metadata, **changed}, self._model.arrays)
        modelfile.write(model, Path(path))


class QuantizedEcapa(_Quantized):
    """An ECAPA-TDNN that runs in earmark's engine; called as the float32 module is.

    Inference on the CPU, without gradients.
    """

    def __init__(self, model: ModelFile) -> None:
        super().__init__(model)
        self.embedder = Embedder(self._model)

    def forward(self, feats: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings (batch, 1, 192) of features (batch, time, 80).

        lengths: relative, in (0, 1]; frames behind an item's length are not looked at at all, so
        that each item has the embedding it has alone.
        """
        items = feats.detach().cpu().float().numpy()
        if lengths is None:
            rows = self.embedder.embed_features(list(items))
        else:
            # Written so that NaN is refused too.
            if lengths.shape != items.shape[:1] or not bool(((lengths > 0) & (lengths <= 1)).all()):
                raise ValueError(
                    f"lengths must be ({len(items)},), in (0, 1], got {lengths.tolist()}"
                )
            frames = [max(1, round(float(n) * items.shape[1])) for n in lengths]
            rows = self.embedder.embed_features(
                [item[:n] for item, n in zip(items, frames, strict=True)]
            )
        return torch.from_numpy(rows).to(feats.device)[:, None, :]

    def embed(self, recordings: Any, sample_rate: int = 16000) -> NDArray[np.float32]:
        """As ``Embedder.embed``."""
        return self.embedder.embed(recordings, sample_rate)

    def save(
        self,
        path: str | os.PathLike[str],
        threshold: float | None = None,
        measured: dict[str, Any] | None = None,
    ) -> None:
        """Write the ``.earmark`` file.

        threshold: cosine score from which two recordings count as one speaker. measured: figures
        measured on this model, kept in the file and shown by ``earmark info``. Raises ValueError
        for a threshold outside [-1, 1].
        """
        self._write(path, {"threshold": checked_threshold(threshold), "measured": measured or {}})


class QuantizedSoundResNet(_Quantized):
    """A sound ResNet that runs in earmark's engine; called as the float32 module is.

    Inference on the CPU, without gradients.
    """

    def __init__(self, model: ModelFile) -> None:
        super().__init__(model)
        self.classifier = Classifier(self._model)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.classifier.labels

    def forward(self, feats: torch.Tensor) -> torch.Tensor:
        """Scores (batch, classes) of features (batch, time, n_mels)."""
        scores = self.classifier.scores(list(feats.detach().cpu().float().numpy()))
        return torch.from_numpy(scores).to(feats.device)

    def classify(self, recordings: Any, sample_rate: int = 16000) -> list[Sounds]:
        """As ``Classifier.classify``."""
        return self.classifier.classify(recordings, sample_rate)

    def save(self, path: str | os.PathLike[str], measured: dict[str, Any] | None = None) -> None:
        """Write the ``.earmark`` file.

        measured: figures measured on this model, kept in the file and shown by ``earmark info``.
        """
        self._write(path, {"measured": measured or {}})


def quantized(model: ModelFile) -> QuantizedEcapa | QuantizedSoundResNet:
    """The module that runs a model."""
    is_sound = SCORES in model.plan["tensors"]
    return QuantizedSoundResNet(model) if is_sound else QuantizedEcapa(model)
