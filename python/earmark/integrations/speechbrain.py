"""SpeechBrain: the embedding network of an ``EncoderClassifier`` or ``SpeakerRecognition``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from earmark import modelfile
from earmark.errors import FormatError
from earmark.quantized import QuantizedEcapa, quantized

__all__ = ["embedding_model", "patch"]


def embedding_model(path: str | os.PathLike[str]) -> QuantizedEcapa:
    """A module for ``mods.embedding_model``, or for your own network's place.

    Features (batch, time, 80) and relative lengths (batch,) in, embeddings (batch, 1, 192) out,
    where the features are. Each recording has the embedding that it has alone: frames behind its
    length are not looked at, where SpeechBrain's convolutions see the padding. Raises FormatError
    for a file that is not intact or of no speaker model.

    >>> from importlib.resources import files
    >>> module = embedding_model(files("earmark") / "data" / "demo-int8.earmark")
    >>> import torch
    >>> module(torch.zeros(2, 100, 80), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 1, 192])
    """
    module = quantized(modelfile.read(path))
    if not isinstance(module, QuantizedEcapa):
        raise FormatError(f"{Path(path)}: the model gives class scores, not embeddings")
    return module


def patch(classifier: Any, path: str | os.PathLike[str]) -> Any:
    """Put the model into a SpeechBrain classifier, which is changed and returned.

    Features, normalisation and scores stay SpeechBrain's. Raises ValueError for a model with
    another front end than SpeechBrain's, for it would be given features that it does not know.
    """
    module = embedding_model(path)
    front_end = module.model_file.metadata["front_end"]
    if front_end["name"] != "speechbrain":
        raise ValueError(f"{Path(path)}: the model's front end is {front_end['name']!r}")
    classifier.mods.embedding_model = module
    return classifier
