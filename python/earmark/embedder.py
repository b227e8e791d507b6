"""Speaker embeddings of recordings from a model file, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.devices import is_on_device
from earmark.modelfile import ModelFile
from earmark.plan import INPUT, OUTPUT, SCORES
from earmark.runner import Runner, Wave

__all__ = ["Embedder", "checked_threshold"]

Embeddings = NDArray[Any]  # float32, or int8 as quantized


class Embedder(Runner):
    """A speaker-verification model ready to run: thread-safe, picklable, without torch.

    Each recording's embedding has the same bits alone, in a list, and with any number of threads.
    ``embedding_size``: its numbers; ``threshold``: cosine score from which two recordings count as
    one speaker, or None; ``front_end``: what makes the features. Made by ``earmark.load``, or of
    source, a path or a ModelFile; isa: the name of an instruction set, the best one by default.

    >>> from importlib.resources import files
    >>> data = files("earmark") / "data"
    >>> model = Embedder(data / "demo-int8.earmark", threads=1)
    >>> recordings = [data / "recordings" / name for name in ("adam-1.flac", "adam-2.flac")]
    >>> first, second = model.embed(recordings)
    >>> from earmark.metrics import cosine_score
    >>> bool(cosine_score(first, second) >= model.threshold)
    True
    """

    def _take(self, model: ModelFile) -> None:
        tensors = model.plan["tensors"]
        if SCORES in tensors:
            raise ValueError("the model gives class scores, not embeddings")
        if tensors[INPUT].get("width", 1) != 1:
            raise ValueError(f"the tensor {INPUT!r} must be of width 1")
        self.embedding_size = int(tensors[OUTPUT]["channels"])
        self.threshold = checked_threshold(model.metadata["threshold"])

    @property
    def embedding_scale(self) -> float | None:
        """The real step of an int8 embedding (zero point 0), None where embeddings are float32."""
        scale = self._output["scale"]
        return None if scale is None else float(scale)

    def embed(
        self,
        recordings: Any,
        sample_rate: int = 16000,
        *,
        quantized: bool = False,
        stream: int | None = None,
    ) -> Embeddings:
        """Embeddings of one recording or a list of recordings, (n, 192) float32, not normalised.

        recordings: a path, a waveform (samples,) or (samples, channels), float in [-1, 1] or
        integer, or a list of these. sample_rate: of the waveforms, in Hz; files have their own.
        quantized: int8 embeddings as the network makes them, of a model of the scheme int8-full;
        times ``embedding_scale`` they are the float32 ones, and their cosines are the same. Raises
        AudioError, naming the recording and the value, for the first that cannot be used,
        ValueError where there are no int8 embeddings.

        A model on a CUDA device also takes float32 waveforms (samples,) of that device, at the
        front end's rate; all are then, and what they hold is not searched for NaN. stream: as in
        ``embed_features``.
        """
        items = recordings if isinstance(recordings, list | tuple) else [recordings]
        if any(is_on_device(item) for item in items):
            rate = self.front_end.sample_rate_hz
            if sample_rate != rate:
                raise ValueError(f"sample_rate is {sample_rate}; on the device it must be {rate}")
            more = self._placement(items, "host", stream)
            compiled = self.front_end.compiled
            return self._engine.embed(compiled, list(items), quantized=quantized, **more)
        rows = self._all_of(self.embed_each(items, sample_rate, quantized=quantized), len(items))
        dtype = np.int8 if quantized else np.float32
        return np.stack(rows) if rows else np.empty((0, self.embedding_size), dtype)

    def embed_each(
        self,
        recordings: Iterable[Any],
        sample_rate: int = 16000,
        progress: Callable[[int, int], None] | None = None,
        *,
        quantized: bool = False,
    ) -> Iterator[tuple[int, Embeddings | None, str]]:
        """Embed recordings in bulk; what cannot be used becomes an error, nothing else is lost.

        Yields (index, embedding (192,) or None, error or "") in order. progress: called with
        (done, total). quantized: as in ``embed``.

        >>> from importlib.resources import files
        >>> model = Embedder(files("earmark") / "data" / "demo-int8.earmark")
        >>> for index, embedding, error in model.embed_each([np.ones(16000), "gone.wav"]):
        ...     print(index, error if embedding is None else embedding.shape)
        0 (192,)
        1 gone.wav: no such file
        """

        def embeddings(waves: list[Wave]) -> Sequence[Embeddings | str]:
            rows = self._engine.embed(self.front_end.compiled, waves, quantized=quantized)
            return [
                row if np.isfinite(row).all() else "the embedding is not finite" for row in rows
            ]

        return self._each(recordings, sample_rate, embeddings, progress)

    def embed_features(
        self,
        features: Any,
        *,
        quantized: bool = False,
        out: Any = "host",
        stream: int | None = None,
    ) -> Any:
        """Embeddings of normalised features: (frames, 80), a list of them, or (n, frames, 80).

        Any lengths from ``min_frames`` on. A model whose input is int8 takes features in int8 as
        they are, and quantizes others first. quantized: as in ``embed``. Returns (n, 192) float32
        or int8. Raises ValueError, naming the item and the value, for a wrong shape, too few
        frames, NaN or Inf, and where there are no int8 embeddings.

        A model on a CUDA device also takes contiguous arrays of that device without a copy, of any
        library that has DLPack or ``__cuda_array_interface__``; they are not searched for NaN.
        out: "device" leaves the result there, as a new array that such libraries take
        (``torch.from_dlpack``) and that ``numpy()`` copies; an array on the device, contiguous, is
        filled and returned. stream: on which the work is queued, as
        a number as those protocols have it; of torch's tensors by default the one torch works on.

        >>> from importlib.resources import files
        >>> model = Embedder(files("earmark") / "data" / "demo-int8.earmark")
        >>> model.embed_features([np.zeros((300, 80)), np.zeros((50, 80))]).shape
        (2, 192)
        """
        return self._run(features, quantized, out, stream)

    def info(self) -> dict[str, Any]:
        """What the file holds and what runs it, ready for JSON."""
        return {**super().info(), "threshold": self.threshold}


def checked_threshold(value: Any) -> float | None:
    """A cosine score, or None for no threshold. Raises ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 1:
        return float(value)
    raise ValueError(f"threshold is {value!r}, expected a number in [-1, 1]")
