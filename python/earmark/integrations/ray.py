"""Ray Data: an actor's class for ``map_batches``. Decoding as a stage of its own is
``earmark.columns.decode``."""

from __future__ import annotations

import os
from typing import Any

from earmark import columns
from earmark.embedder import Embedder
from earmark.modelfile import ModelFile

__all__ = ["SpeakerEmbedder"]


class SpeakerEmbedder:
    """Adds embeddings to batches of recordings; an actor loads the model once.

    To be given to ``Dataset.map_batches`` with ``fn_constructor_kwargs``. A batch has a column
    ``path``, or ``bytes`` of audio files, or ``audio`` and ``sample_rate``; the other columns are
    passed on, with ``embedding`` (n, dimension) float32 and ``error`` beside them, as
    ``earmark.columns.embed`` has them.

    model: path of a model file, which every node must have, or ``earmark.modelfile.read`` of one,
    which travels. device: as ``earmark.load`` takes it; "cuda" is the GPU that Ray gives the actor.
    threads: of the CPU's engine, as many as the actor has of Ray's ``num_cpus``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelFile,
        *,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self._model = Embedder(model, device=device, threads=threads)

    def __call__(self, batch: columns.Columns) -> dict[str, Any]:
        return columns.embed(batch, self._model)
