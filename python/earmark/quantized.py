"""Quantized networks behind the interfaces of the torch modules they were made from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earmark import modelfile
from earmark.classifier import Classifier
from earmark.embedder import Embedder, checked_threshold
from earmark.modelfile import ModelFile
from earmark.nn.ops import network, register_network
from earmark.plan import SCORES
from earmark.windows import Sounds

__all__ = ["QuantizedEcapa", "QuantizedSoundResNet", "quantized"]


class _Quantized(torch.nn.Module):
    """Inference without gradients, on the CPU or on the CUDA device of the features.

    ``torch.compile`` keeps it as one op (``earmark.nn.ops``).
    """

    outputs: int

    def __init__(self, model: ModelFile) -> None:
        super().__init__()
        self._number = register_network(self)
        # By CUDA device, made when first used.
        self._on_device: dict[str, Embedder | Classifier] = {}
        # A model that was never saved has no digest yet; writing computes the same one.
        stamp = {"format": modelfile.FORMAT_VERSION, "sha256": modelfile.digest(model)}
        self._model = ModelFile({**model.metadata, **stamp}, model.arrays)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_on_device": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._number = register_network(self)

    def rows(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Outputs (batch, outputs) of features (batch, time, n_features), where these are."""
        items = features.detach().float().contiguous()
        parts = None if lengths is None else _parts(items, lengths)
        if features.device.type == "cuda":
            run = self._run(self._runner_on(features.device))
            given = items if parts is None else parts
            on_device = items.new_empty((len(items), self.outputs))
            run(given, out=on_device)
            return on_device
        arrays = items.cpu().numpy() if parts is None else [part.cpu().numpy() for part in parts]
        outputs = self._run(self._runner)(list(arrays))
        return torch.from_numpy(outputs).to(features.device)

    @property
    def _runner(self) -> Embedder | Classifier:
        raise NotImplementedError

    def _runner_on(self, device: torch.device) -> Embedder | Classifier:
        name = str(device)
        if name not in self._on_device:
            self._on_device[name] = type(self._runner)(self._model, device=name)
        return self._on_device[name]

    @staticmethod
    def _run(runner: Embedder | Classifier) -> Callable[..., Any]:
        return runner.embed_features if isinstance(runner, Embedder) else runner.scores

    @property
    def model_file(self) -> ModelFile:
        """What ``save`` writes, without a threshold and figures."""
        return self._model

    def _write(self, path: str | os.PathLike[str], changed: dict[str, Any]) -> None:
        model = ModelFile({**self._model.metadata, **changed}, self._model.arrays)
        modelfile.write(model, Path(path))


class QuantizedEcapa(_Quantized):
    """An ECAPA-TDNN that runs in earmark's engine; called as the float32 module is.

    Inference without gradients, on the CPU or on the CUDA device of the features. It has no
    weights in torch's sense: its ``state_dict`` is empty; pickling and ``torch.compile`` keep it.
    ``embedder``: the same as an :class:`earmark.Embedder`. Made by ``earmark.quantize``, or of a
    file, as ``earmark.integrations.speechbrain.embedding_model`` does.
    """

    def __init__(self, model: ModelFile) -> None:
        super().__init__(model)
        self.embedder = Embedder(self._model)
        self.outputs = self.embedder.embedding_size

    @property
    def _runner(self) -> Embedder:
        return self.embedder

    def forward(self, feats: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings (batch, 1, 192) of features (batch, time, 80).

        lengths: relative, in (0, 1]; frames behind an item's length are not looked at at all, so
        that each item has the embedding it has alone.
        """
        rows: torch.Tensor = network(feats.detach(), lengths, self._number)
        return rows[:, None, :]

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

    Inference without gradients, on the CPU or on the CUDA device of the features. ``classifier``:
    the same as an :class:`earmark.Classifier`. Made by ``earmark.quantize``.
    """

    def __init__(self, model: ModelFile) -> None:
        super().__init__(model)
        self.classifier = Classifier(self._model)
        self.outputs = len(self.classifier.labels)

    @property
    def _runner(self) -> Classifier:
        return self.classifier

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.classifier.labels

    def forward(self, feats: torch.Tensor) -> torch.Tensor:
        """Scores (batch, classes) of features (batch, time, n_mels)."""
        scores: torch.Tensor = network(feats.detach(), None, self._number)
        return scores

    def classify(self, recordings: Any, sample_rate: int = 16000) -> list[Sounds]:
        """As ``Classifier.classify``."""
        return self.classifier.classify(recordings, sample_rate)

    def save(self, path: str | os.PathLike[str], measured: dict[str, Any] | None = None) -> None:
        """Write the ``.earmark`` file.

        measured: figures measured on this model, kept in the file and shown by ``earmark info``.
        """
        self._write(path, {"measured": measured or {}})


def _parts(items: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """Of each item, the frames within its relative length."""
    # Written so that NaN is refused too.
    if lengths.shape != items.shape[:1] or not bool(((lengths > 0) & (lengths <= 1)).all()):
        raise ValueError(f"lengths must be ({len(items)},), in (0, 1], got {lengths.tolist()}")
    frames = [max(1, round(float(n) * items.shape[1])) for n in lengths.tolist()]
    return [item[:n] for item, n in zip(items, frames, strict=True)]


def quantized(model: ModelFile) -> QuantizedEcapa | QuantizedSoundResNet:
    """The module that runs a model. Raises FormatError for one that no engine takes.

    >>> from importlib.resources import files
    >>> module = quantized(modelfile.read(files("earmark") / "data" / "demo-int8.earmark"))
    >>> module(torch.zeros(2, 100, 80)).shape
    torch.Size([2, 1, 192])
    """
    is_sound = SCORES in model.plan["tensors"]
    return QuantizedSoundResNet(model) if is_sound else QuantizedEcapa(model)
