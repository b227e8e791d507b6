"""Sounds of recordings from a model file, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from earmark.modelfile import ModelFile
from earmark.nn.config import checked_labels
from earmark.plan import SCORES
from earmark.runner import Runner, Wave
from earmark.windows import Sounds, windows

__all__ = ["Classifier", "Sounds"]

_MAX_WINDOW_SECONDS = 60


class Classifier(Runner):
    """A sound-event model ready to run: thread-safe, picklable, without torch.

    A recording is cut into windows, the last one filled up with zeros; each has the same bits
    alone, in a list, and with any number of threads. ``labels``: names of the classes;
    ``window_seconds``, ``stride_seconds``: length of a window, and from one to the next. Made by
    ``earmark.load``, or as an ``Embedder`` is.
    """

    def _take(self, model: ModelFile) -> None:
        tensors = model.plan["tensors"]
        if SCORES not in tensors:
            raise ValueError("the model gives embeddings, not class scores")
        self.labels = checked_labels(model.metadata["labels"], int(tensors[SCORES]["channels"]))
        rate = self.front_end.sample_rate_hz
        window = model.metadata["window"]
        self._window, self._stride = window["samples"], window["stride"]
        for name, value in window.items():
            if type(value) is not int or not 1 <= value <= _MAX_WINDOW_SECONDS * rate:
                raise ValueError(f"the window's {name} is {value!r}")
        self._frames = self.front_end.frames(self._window)
        reason = self._engine.why_not(self._frames)
        if reason:
            raise ValueError(f"a window of {self._window} samples: {reason}")
        self.window_seconds, self.stride_seconds = self._window / rate, self._stride / rate

    def classify(self, recordings: Any, sample_rate: int = 16000) -> list[Sounds]:
        """What is heard in one recording or each of a list of recordings.

        recordings: a path, a waveform (samples,) or (samples, channels), float in [-1, 1] or
        integer, or a list of these. sample_rate: of the waveforms, in Hz; files have their own.
        Raises AudioError, naming the recording and the value, for the first that cannot be used.
        """
        items = recordings if isinstance(recordings, list | tuple) else [recordings]
        return self._all_of(self.classify_each(items, sample_rate), len(items))

    def classify_each(
        self,
        recordings: Iterable[Any],
        sample_rate: int = 16000,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Sounds | None, str]]:
        """Classify recordings in bulk; what cannot be used becomes an error, nothing else is lost.

        Yields (index, sounds or None, error or "") in order. progress: called with (done, total).
        """
        return self._each(recordings, sample_rate, self._sounds, progress)

    def scores(
        self,
        features: Any,
        *,
        quantized: bool = False,
        out: Any = "host",
        stream: int | None = None,
    ) -> Any:
        """Scores (n, classes) of windows' features, before any softmax.

        features: (frames, n_mels), a list of them, or (n, frames, n_mels); float32, or int8 ones
        where the input is int8. quantized: int8 scores as the network makes them, of a model of the
        scheme int8-full; times the scale of ``info()["output"]`` they are the float32 ones. Raises
        ValueError, naming the item and the value, for a wrong shape, NaN or Inf, and where there
        are no int8 scores. out, stream and arrays of a CUDA device: as in
        ``Embedder.embed_features``.
        """
        return self._run(features, quantized, out, stream)

    def info(self) -> dict[str, Any]:
        """What the file holds and what runs it, ready for JSON."""
        return {
            **super().info(),
            "labels": list(self.labels),
            "window_seconds": self.window_seconds,
            "stride_seconds": self.stride_seconds,
        }

    def windows_of(self, wave: Wave) -> Iterator[Wave]:
        """The windows of a waveform (samples,) at the network's rate; the last one filled up."""
        return windows(wave, self._window, self._stride)

    def _sounds(self, waves: list[Wave]) -> Sequence[Sounds | str]:
        results: list[Sounds | str] = []
        for wave in waves:
            cut = list(self.windows_of(wave))
            scores = self._engine.embed(self.front_end.compiled, cut)
            if not np.isfinite(scores).all():
                results.append("the scores are not finite")
                continue
            results.append(Sounds.of_scores(self.labels, scores, self.stride_seconds))
        return results
