"""What runs a model file on recordings, whatever its network tells of them. Without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from earmark import _C, devices, modelfile
from earmark.audio import read_audio
from earmark.compression.statistics import layer_storage
from earmark.errors import AudioError, FormatError, first_line
from earmark.frontend import make_front_end
from earmark.modelfile import JSON_ERRORS, ModelFile
from earmark.plan import INPUT, OUTPUT, SCORES, make_engine

__all__ = ["Runner", "Wave"]

Array = NDArray[Any]
Wave = NDArray[np.float32]
Self = TypeVar("Self", bound="Runner")
T = TypeVar("T")

# Recordings are read and run in groups of about ten minutes: enough to keep all threads busy,
# little enough to hold.
_GROUP_SAMPLES = 9_600_000

_MAX_THREADS = 1024


class Runner:
    """A model ready to run: thread-safe, picklable. Subclasses say what its output means.

    Each recording's result has the same bits alone, in a list, and with any number of threads.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | ModelFile,
        *,
        threads: int | None = None,
        isa: str = "",
        device: str = "cpu",
    ) -> None:
        if isinstance(source, ModelFile):
            self._begin(source, source, threads, isa, device)
        else:
            self._begin(Path(source), modelfile.read(source), threads, isa, device)

    @classmethod
    def of_file(
        cls: type[Self], path: Path, model: ModelFile, threads: int | None, device: str = "cpu"
    ) -> Self:
        """Of a file that was read already."""
        runner = cls.__new__(cls)
        runner._begin(path, model, threads, "", device)
        return runner

    def _begin(
        self,
        source: Path | ModelFile,
        model: ModelFile,
        threads: int | None,
        isa: str,
        device: str,
    ) -> None:
        name = "model"
        self._source = source
        if isinstance(source, Path):
            # Absolute: another process may have another working folder.
            name, self._source = os.fspath(source), source.absolute()
            self._file_bytes = source.stat().st_size
        self._options = {"threads": threads, "isa": isa, "device": device}
        self._ordinal = devices.ordinal_of(device)
        if threads is not None and not 1 <= threads <= _MAX_THREADS:
            raise ValueError(f"threads is {threads}, expected 1 to {_MAX_THREADS}")
        self._threads = threads or 0
        chosen_isa = isa or _C.default_isa()
        try:
            arrays = model.decoded_arrays()
            self._engine = self._make_engine(model, arrays, chosen_isa)
            self._metadata = model.metadata
            self._stored = layer_storage(model, arrays)
            self.front_end = make_front_end(model.metadata["front_end"])
            tensors = model.plan["tensors"]
            self._features = self._checked_input(tensors[INPUT])
            self._input = _numbers(tensors[INPUT])
            self._output = _numbers(tensors[SCORES if SCORES in tensors else OUTPUT])
            self._take(model)
        except JSON_ERRORS as error:
            on_device = self._ordinal is not None and isinstance(error, RuntimeError)
            if on_device or chosen_isa not in _C.available_isas():  # the file is not at fault
                raise
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise FormatError(f"{name}: {' '.join(reason.split())}") from error

    def _make_engine(self, model: ModelFile, arrays: dict[str, Array], isa: str) -> _C.Engine:
        """What runs the plan: ``earmark._C.Engine``, or what has its interface."""
        return make_engine(
            model.plan, arrays, isa=isa, threads=self._threads, ordinal=self._ordinal
        )

    def _checked_input(self, tensor: dict[str, Any]) -> int:
        """Features a frame."""
        features = int(tensor["channels"]) * int(tensor.get("width", 1))
        if self.front_end.n_features != features:
            raise ValueError(
                f"the front end makes {self.front_end.n_features} features a frame, "
                f"the plan takes {features}"
            )
        return features

    def _take(self, model: ModelFile) -> None:
        """Take from the file what the subclass needs; any of JSON_ERRORS refuses it."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        sha256 = self._metadata["sha256"]
        return {"source": self._source, "options": self._options, "sha256": sha256}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"], **state["options"])  # type: ignore[misc]
        if self._metadata["sha256"] != state["sha256"]:
            raise FormatError(f"{state['source']}: is another model than the one that was pickled")

    @property
    def isa(self) -> str:
        """The instruction set whose kernels run, such as ``avx512_vnni``, or ``sm_90``."""
        return self._engine.isa

    @property
    def threads(self) -> int | None:
        """How many threads the engine uses; None on a device."""
        return self._engine.threads

    @property
    def device(self) -> str:
        """Where the engine runs, such as ``cpu`` or ``cuda:0``."""
        return "cpu" if self._ordinal is None else f"cuda:{self._ordinal}"

    def kernels(self) -> dict[str, str]:
        """Which kernel runs each op of the plan, by op name, found by running the shortest input.

        On a device a few ops may run as one; then ``profile`` says what they are together.
        """
        dtype = np.int8 if self._input["dtype"] == "int8" else np.float32
        _, kernels = self._engine.trace(np.zeros((self.min_frames, self._features), dtype))
        return kernels

    def profile(self, features: Any) -> list[dict[str, Any]]:
        """Where the time of one recording goes, op by op: see ``earmark._C.Engine.profile``.

        features: (frames, n_features).
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
            "layers": [_layer(layer, self._stored[layer["name"]]) for layer in meta["layers"]],
            "parameters": meta["parameters"],
            "file_bytes": file_bytes,
            "size_fraction": file_bytes / (4 * meta["parameters"]),
            "measured": meta["measured"],
            "calibration": meta["calibration"],
            "front_end": meta["front_end"],
            "input": self._input,
            "output": self._output,
            "sha256": meta["sha256"],
            "isa": self.isa,
            "threads": self.threads,
            "device": self.device,
            "device_name": None if self._ordinal is None else self._device_name(),
            "kernels": sorted(set(self.kernels().values())),
        }

    def _device_name(self) -> str:
        found = {entry["ordinal"]: entry["name"] for entry in devices.cuda_devices()}
        return str(found[self._ordinal])

    def _each(
        self,
        recordings: Iterable[Any],
        sample_rate: int,
        run: Callable[[list[Wave]], Sequence[T | str]],
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[tuple[int, T | None, str]]:
        """(index, result or None, error or "") of recordings in order.

        run: from waveforms to a result for each, or an error as text.
        """
        items = list(recordings)
        done = 0
        for group in self._groups(items, sample_rate):
            waves = [wave for wave, _ in group if wave is not None]
            rows = iter(run(waves))
            results = [error if wave is None else next(rows) for wave, error in group]
            # Also held by the generator, while it reads the next group.
            group.clear()
            waves.clear()
            for result in results:
                yield (done, None, result) if isinstance(result, str) else (done, result, "")
                done += 1
                if progress is not None:
                    progress(done, len(items))

    @staticmethod
    def _all_of(each: Iterable[tuple[int, T | None, str]], count: int) -> list[T]:
        """The results; AudioError for the first of ``count`` recordings that has none."""
        results = []
        for index, result, error in each:
            if result is None:
                raise AudioError(error if count == 1 else f"recording {index}: {error}")
            results.append(result)
        return results

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
            min_samples=self.min_samples,
        ).samples

    @property
    def min_samples(self) -> int:
        """The shortest recording, in samples at the network's rate."""
        return max(self.front_end.min_samples, self.front_end.samples_of_frames(self.min_frames))

    def _run(self, features: Any, quantized: bool, out: Any, stream: int | None) -> Any:
        """The engine's outputs of features, wherever these are."""
        items = features if isinstance(features, list | tuple) else [features]
        on_device = any(devices.is_on_device(item) for item in items)
        if not on_device and isinstance(out, str) and out == "host":
            return self._engine.run(self._checked_items(features), quantized=quantized)
        given = list(items) if on_device else self._checked_items(features)
        return self._engine.run(given, quantized=quantized, **self._placement(items, out, stream))

    def _placement(self, items: Sequence[Any], out: Any, stream: int | None) -> dict[str, Any]:
        """What a device's engine is told beside the arrays."""
        given = None if isinstance(out, str) else out
        if given is None and out not in ("host", "device"):
            raise ValueError(f"out is {out!r}, expected host, device or an array on the device")
        if self._ordinal is None:
            raise ValueError("arrays on a device need a model that was loaded on it")
        if stream is None and items:
            stream = devices.stream_of(items[0])
        return {"on_device": given is None and out == "device", "out": given, "stream": stream}

    def _checked_items(self, features: Any) -> list[Array]:
        """(frames, n_features), a list of them, or (n, frames, n_features), as a list."""
        if isinstance(features, list | tuple):
            items = list(features)
        else:
            array = np.asarray(features)
            items = list(array) if array.ndim == 3 else [array]
        return [self._checked(item, i) for i, item in enumerate(items)]

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


def _layer(layer: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """What a file tells of a layer, and how it is stored."""
    return {
        "name": layer["name"],
        "op": layer["op"],
        "precision": layer["precision"],
        "params": layer["parameters"],
        **stored,
        "weight": layer["weight_stats"],
        "activation": layer["activation_stats"],
    }


def _numbers(tensor: dict[str, Any]) -> dict[str, Any]:
    """What an input's or output's numbers are: dtype, and of int8 scale and zero point."""
    if tensor["dtype"] != "s8":
        return {"dtype": "float32", "scale": None, "zero_point": None}
    scale, zero = float(tensor["scale"]), int(tensor.get("zero_point", 0))
    if scale == 0:
        raise ValueError("an int8 input or output has a scale of 0")
    return {"dtype": "int8", "scale": scale, "zero_point": zero}
