"""Speaker embeddings of recordings from a model file, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.modelfile import ModelFile
from earmark.plan import INPUT, OUTPUT, SCORES
from earmark.runner import Runner, Wave

__all__ = ["Embedder", "checked_threshold"]

Embeddings = NDArray[np.float32]


class Embedder(Runner):
    """A speaker-verification model ready to run: thread-safe, picklable, without torch.

    Each recording's embedding has the same bits alone, in a list, and with any number of threads.
    Made by ``earmark.load``.
    """

    def _take(self, model: ModelFile) -> None:
        tensors = model.plan["tensors"]
        if SCORES in tensors:
            raise ValueError("the model gives class scores, not embeddings")
        if tensors[INPUT].get("width", 1) != 1:
            raise ValueError(f"the tensor {INPUT!r} must be of width 1")
        self.embedding_size = int(tensors[OUTPUT]["channels"])
        self.threshold = checked_threshold(model.metadata["threshold"])

    def embed(self, recordings: Any, sample_rate: int = 16000) -> Embeddings:
        """Embeddings of one recording or a list of recordings, (n, 192) float32, not normalised.

        recordings: a path, a waveform (samples,) or (samples, channels), float in [-1, 1] or
        integer, or a list of these. sample_rate: of the waveforms, in Hz; files have their own.
        Raises AudioError, naming the recording and the value, for the first that cannot be used.
        """
        items = recordings if isinstance(recordings, list | tuple) else [recordings]
        rows = self._all_of(self.embed_each(items, sample_rate), len(items))
        return np.stack(rows) if rows else np.empty((0, self.embedding_size), dtype=np.float32)

    def embed_each(
        self,
        recordings: Iterable[Any],
        sample_rate: int = 16000,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Embeddings | None, str]]:
        """Embed recordings in bulk; what cannot be used becomes an error, nothing else is lost.

        Yields (index, embedding (192,) or None, error or "") in order. progress: called with
        (done, total).
        """
        return self._each(recordings, sample_rate, self._embeddings, progress)

    def embed_features(self, features: Any) -> Embeddings:
        """Embeddings of normalised features: (frames, 80), a list of them, or (n, frames, 80).

        Any lengths from ``min_frames`` on. Returns (n, 192) float32. Raises ValueError, naming the
        item and the value, for a wrong shape, too few frames, NaN or Inf.
        """
        return self._engine.run(self._checked_items(features))

    def info(self) -> dict[str, Any]:
        """What the file holds and what runs it, ready for JSON."""
        return {**super().info(), "threshold": self.threshold}

    def _embeddings(self, waves: list[Wave]) -> Sequence[Embeddings | str]:
        rows = self._engine.embed(self.front_end.compiled, waves)
        return [row if np.isfinite(row).all() else "the embedding is not finite" for row in rows]


def checked_threshold(value: Any) -> float | None:
    """A cosine score, or None for no threshold. Raises ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 1:
        return float(value)
    raise ValueError(f"threshold is {value!r}, expected a number in [-1, 1]")
