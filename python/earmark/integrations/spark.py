"""Spark: what ``pyspark.ml.functions.predict_batch_udf`` calls on its workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from earmark import columns
from earmark.embedder import Embedder
from earmark.modelfile import ModelFile

__all__ = ["make_predict_fn"]


def make_predict_fn(
    model: str | os.PathLike[str] | ModelFile, *, device: str = "cpu", threads: int = 1
) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    """The predict function of a model; ``functools.partial`` of this is what Spark is given.

    It takes one column, (n,), of paths or of audio files' bytes, for Spark's columns of waveforms
    all have one length. It returns ``embedding``, (n, dimension) float32, NaN in rows that failed,
    and ``error``, (n,), "" in the others. model, device, threads: as ``SpeakerEmbedder`` of
    ``earmark.integrations.ray`` takes them; a worker of Spark has one core unless
    ``spark.task.cpus`` says more.
    """
    embedder = Embedder(model, device=device, threads=threads)

    def predict(recordings: NDArray[Any]) -> dict[str, NDArray[Any]]:
        # Where bytes are taken, paths are too.
        return columns.embed({"bytes": recordings}, embedder)

    return predict
