"""Runs a model file on recordings, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark import _C, modelfile
from earmark.audio import read_audio
from earmark.errors import AudioError, FormatError, first_line
from earmark.frontend import make_front_end
from earmark.modelfile import JSON_ERRORS, ModelFile
from earmark.plan import INPUT, OUTPUT, SCORES, make_engine

Array = NDArray[Any]
Embeddings = NDArray[Any]  # float32, or int8 as quantized
Wave = NDArray[np.float32]

# Recordings are read and run in groups of about ten minutes of speech: enough to keep all threads
# busy, little enough to hold.
_GROUP_SAMPLES = 9_600_000

_MAX_THREADS = 1024


class Embedder:
    """A speaker-verification model ready to run: thread-safe, picklable, without torch.

    Each recording's embedding has the same bits alone, in a list, and with any number of threads.
    Made by ``earmark.load``.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | ModelFile,
        *,
        threads: int | None = None,
        isa: str = "",
    ) -> None:
        if isinstance(source, ModelFile):
            self._source: Path | ModelFile = source
            model, name = source, "model"
        else:
            # Absolute: another process may have another working folder.
            self._source = Path(source).absolute()
            model, name = modelfile.read(source), os.fspath(source)
            self._file_bytes = self._source.stat().st_size
        self._options = {"threads": threads, "isa": isa}
        if threads is not None and not 1 <= threads <= _MAX_THREADS:
            raise ValueError(f"threads is {threads}, expected 1 to {_MAX_THREADS}")
        chosen_isa = isa or _C.default_isa()
        try:
            self._engine = make_engine(
                model.plan, model.decoded_arrays(), isa=chosen_isa, threads=threads or 0
            )
            tensors = model.plan["tensors"]
            if SCORES in tensors:
                raise ValueError("the model gives class scores, not embeddings")
            self.front_end = make_front_end(model.metadata["front_end"])
            if tensors[INPUT].get("width", 1) != 1:
                raise ValueError(f"the tensor {INPUT!r} must be of width 1")
            self._features = int(tensors[INPUT]["channels"])
            self.embedding_size = int(tensors[OUTPUT]["channels"])
            self._input, self._output = (_numbers(tensors[name]) for name in (INPUT, OUTPUT))
            if self.front_end.n_features != self._features:
                raise ValueError(
                    f"the front end makes {self.front_end.n_features} features a frame, "
                    f"the plan takes {self._features}"
                )
            self.threshold = checked_threshold(model.metadata["threshold"])
        except JSON_ERRORS as error:
            if chosen_isa not in _C.available_isas():  # the file is not at fault
                raise
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise FormatError(f"{name}: {' '.join(reason.split())}") from error
        self._metadata = model.metadata
        self._stored = {key: array.nbytes for key, array in model.arrays.items()}

    def __getstate__(self) -> dict[str, Any]:
        sha256 = self._metadata["sha256"]
        return {"source": self._source, "options": self._options, "sha256": sha256}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"], **state["options"])  # type: ignore[misc]
        if self._metadata["sha256"] != state["sha256"]:
            raise FormatError(f"{state['source']}: is another model than the one that was pickled")

    @property
    def isa(self) -> str:
        """The instruction set whose kernels run, such as ``avx512_vnni``."""
        return self._engine.isa

    @property
    def threads(self) -> int:
        """How many threads the engine uses."""
        return self._engine.threads

    @property
    def device(self) -> str:
        """Where the engine runs."""
        return "cpu"

    @property
    def embedding_scale(self) -> float | None:
        """The real step of an int8 embedding (zero point 0), None where embeddings are float32."""
        scale = self._output["scale"]
        return None if scale is None else float(scale)

    def embed(
        self, recordings: Any, sample_rate: int = 16000, *, quantized: bool = False
    ) -> Embeddings:
        """Embeddings of one recording or a list of recordings, (n, 192) float32, not normalised.

        recordings: a path, a waveform (samples,) or (samples, channels), float in [-1, 1] or
        integer, or a list of these. sample_rate: of the waveforms, in Hz; files have their own.
        quantized: int8 embeddings as the network makes them, of a model of the scheme int8-full;
        times ``embedding_scale`` they are the float32 ones, and their cosines are the same. Raises
        AudioError, naming the recording and the value, for the first that cannot be used,
        ValueError where there are no int8 embeddings.
        """
        items = recordings if isinstance(recordings, list | tuple) else [recordings]
        rows = []
        for index, embedding, error in self.embed_each(items, sample_rate, quantized=quantized):
            if embedding is None:
                raise AudioError(error if len(items) == 1 else f"recording {index}: {error}")
            rows.append(embedding)
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
        """
        items = list(recordings)
        done = 0
        for group in self._groups(items, sample_rate):
            waves = [wave for wave, _ in group if wave is not None]
            rows = iter(self._engine.embed(self.front_end.compiled, waves, quantized=quantized))
            results = [(None if wave is None else next(rows), error) for wave, error in group]
            # Also held by the generator, while it reads the next group.
            group.clear()
            waves.clear()
            for embedding, error in results:
                if embedding is not None and not np.isfinite(embedding).all():
                    embedding, error = None, "the embedding is not finite"
                yield done, embedding, error
                done += 1
                if progress is not None:
                    progress(done, len(items))

    def embed_features(self, features: Any, *, quantized: bool = False) -> Embeddings:
        """Embeddings of normalised features: (frames, 80), a list of them, or (n, frames, 80).

        Any lengths from ``min_frames`` on. A model whose input is int8 takes features in int8 as
        they are, and quantizes others first. quantized: as in ``embed``. Returns (n, 192) float32
        or int8. Raises ValueError, naming the item and the value, for a wrong shape, too few
        frames, NaN or Inf, and where there are no int8 embeddings.
        """
        if isinstance(features, list | tuple):
            items = list(features)
        else:
            array = np.asarray(features)
            items = list(array) if array.ndim == 3 else [array]
        checked = [self._checked(item, i) for i, item in enumerate(items)]
        return self._engine.run(checked, quantized=quantized)

    def profile(self, features: Any) -> list[dict[str, Any]]:
        """Where the time of one recording goes, op by op: see ``earmark._C.Engine.profile``.

        features: (frames, 80), as for ``embed_features``.
        """
        return self._engine.profile(self._checked(features, 0))

    @property
    def min_frames(self) -> int:
        """The shortest input in frames: reflect padding needs more frames than it adds."""
        return self._engine.min_length

    def info(self) -> dict[str, Any]:
        """What the file holds and what runs it, ready for JSON."""
        meta = self._metadata
        if isinstance(self._source, ModelFile):
            file_bytes = len(modelfile.to_bytes(self._source))
        else:
            file_bytes = self._file_bytes
        return {
            "family": meta["family"],
            "format_version": meta["format"],
            "scheme": meta["scheme"],
            "layers": [self._layer(layer) for layer in meta["layers"]],
            "parameters": meta["parameters"],
            "file_bytes": file_bytes,
            "size_fraction": file_bytes / (4 * meta["parameters"]),
            "threshold": self.threshold,
            "measured": meta["measured"],
            "calibration": meta["calibration"],
            "front_end": meta["front_end"],
            "input": self._input,
            "output": self._output,
            "sha256": meta["sha256"],
            "isa": self.isa,
            "threads": self.threads,
            "device": self.device,
        }

    def _layer(self, layer: dict[str, Any]) -> dict[str, Any]:
        stored = [
            size for key, size in self._stored.items() if key.rpartition(".")[0] == layer["name"]
        ]
        return {
            "name": layer["name"],
            "op": layer["op"],
            "precision": layer["precision"],
            "params": layer["parameters"],
            "bytes": sum(stored),
            "weight": layer["weight_stats"],
            "activation": layer["activation_stats"],
        }

    def _groups(
        self, items: list[Any], sample_rate: int
    ) -> Iterator[list[tuple[Wave | None, str]]]:
        group: list[tuple[Wave | None, str]] = []
        samples = 0
        for item in items:
            # The group alone holds the waveform, and gives it up before the next is read.
            try:
                group.append((self._read(item, sample_rate), ""))
            except AudioError as reason:
                group.append((None, str(reason)))
            samples += len(group[-1][0]) if group[-1][0] is not None else 0
            if samples >= _GROUP_SAMPLES:
                yield group
                group, samples = [], 0
        if group:
            yield group

    def _read(self, item: Any, sample_rate: int) -> Wave:
        return read_audio(
            item,
            sample_rate,
            target_rate=self.front_end.sample_rate_hz,
            min_samples=self._min_samples(),
        ).samples

    def _min_samples(self) -> int:
        return max(self.front_end.min_samples, self.front_end.samples_of_frames(self.min_frames))

    def _feature_type(self, item: Any) -> type[np.generic]:
        is_s8 = self._input["dtype"] == "int8" and getattr(item, "dtype", None) == np.int8
        return np.int8 if is_s8 else np.float32

    def _checked(self, item: Any, index: int) -> Array:
        try:
            # What float32 cannot hold becomes Inf and is refused as such.
            with np.errstate(over="ignore"):
                features = np.ascontiguousarray(item, dtype=self._feature_type(item))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"features {index}: {first_line(error)}") from error
        if features.ndim != 2 or features.shape[1] != self._features:
            raise ValueError(
                f"features {index}: shape {features.shape}, expected (frames, {self._features})"
            )
        reason = self._engine.why_not(len(features))
        if reason:
            raise ValueError(f"features {index}: {reason}")
        if not np.isfinite(features).all():
            frame = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
            raise ValueError(f"features {index}: NaN or Inf in frame {frame}")
        return features


def load(path: str | os.PathLike[str], device: str = "cpu", threads: int | None = None) -> Embedder:
    """Load a model file.

    device: "cpu". threads: of the engine; the default is the physical cores this process may use.
    The instruction set is the best one there is, or the one that ``EARMARK_ISA`` names. Raises
    FormatError for a file that is not intact, ValueError for anything else that cannot be had.
    """
    if device != "cpu":
        raise ValueError(f"device {device!r} is not supported yet: known is cpu")
    return Embedder(path, threads=threads)


def _numbers(tensor: dict[str, Any]) -> dict[str, Any]:
    """What an input's or output's numbers are: dtype, and of int8 scale and zero point."""
    if tensor["dtype"] != "s8":
        return {"dtype": "float32", "scale": None, "zero_point": None}
    zero = int(tensor.get("zero_point", 0))
    return {"dtype": "int8", "scale": float(tensor["scale"]), "zero_point": zero}


def checked_threshold(value: Any) -> float | None:
    """A cosine score, or None for no threshold. Raises ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 1:
        return float(value)
    raise ValueError(f"threshold is {value!r}, expected a number in [-1, 1]")
