"""Speaker embeddings by an engine of TensorRT."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from earmark import _C, devices
from earmark.embedder import Embedder
from earmark.errors import AudioError, FormatError
from earmark.modelfile import ModelFile
from earmark.plan import INPUT, JSON, OUTPUT
from earmark.runner import Wave
from earmark.tensorrt.packages import installed_package

__all__ = ["TensorRTEmbedder"]

Array = NDArray[Any]

_TYPES = {"s8": np.int8, "f32": np.float32}


class TensorRTEmbedder(Embedder):
    """As ``earmark.Embedder``, with the network in an engine of TensorRT.

    model: the file (.earmark) that the engine was exported from: front end, threshold and scales
    come from it. engine: the file that ``earmark export --to tensorrt`` or another builder wrote.
    plugins: the library of the engine's plugins, ``plugin_path()``; None for an engine without.

    Recordings of one length run together, as many as the engine takes; those that are shorter or
    longer than it takes are refused. Features and embeddings are in the host's memory. It runs on
    the process's first GPU (``CUDA_VISIBLE_DEVICES``), with ``tensorrt`` or ``tensorrt_rtx`` and a
    build of earmark with CUDA. Raises ValueError where there is no such device, FormatError for an
    engine that TensorRT does not take and for one of another network.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelFile,
        engine: str | os.PathLike[str],
        *,
        plugins: str | os.PathLike[str] | None = None,
    ) -> None:
        self._engine_path = Path(engine).absolute()
        self._plugins = None if plugins is None else Path(plugins).absolute()
        super().__init__(model, device="cuda")

    def _make_engine(self, model: ModelFile, arrays: dict[str, Array], isa: str) -> _C.Engine:
        self._engine: Any = Engine(self._engine_path, self._plugins, model.plan["tensors"])
        return cast("_C.Engine", self._engine)

    def __getstate__(self) -> dict[str, Any]:
        options = {"engine": self._engine_path, "plugins": self._plugins}
        return {**super().__getstate__(), "options": options}

    def _read(self, item: Any, sample_rate: int) -> Wave:
        wave = super()._read(item, sample_rate)
        most = self.front_end.samples_of_frames(self._engine.max_length + 1) - 1
        if len(wave) <= most:
            return wave
        name = f"{item}: " if isinstance(item, str | os.PathLike) else ""
        rate = self.front_end.sample_rate_hz
        seconds, limit = len(wave) / rate, most / rate
        raise AudioError(f"{name}{seconds:.2f} s long, the engine takes {limit:.2f} s at most")

    def kernels(self) -> dict[str, str]:
        """What runs is TensorRT's affair."""
        return {"network": self.isa}

    def profile(self, features: Any) -> list[dict[str, Any]]:
        """Not there: TensorRT has a profiler of its own."""
        raise ValueError("an engine of TensorRT does not tell how long its ops take")


class Engine:
    """What ``Embedder`` asks of an engine (``earmark._C.Engine``), by one of TensorRT."""

    threads = None

    def __init__(self, path: Path, plugins: Path | None, tensors: JSON) -> None:
        package = installed_package()
        trt = importlib.import_module(package)
        self.isa = f"{package} {trt.__version__}"
        self._input, self._output = tensors[INPUT], tensors[OUTPUT]
        # Not kept by what is made of them.
        self._logger = _make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        if plugins is not None:
            self._runtime.get_plugin_registry().load_library(str(plugins))
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FormatError(f"{path}: {error.strerror}") from error
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            reason = " ".join(" ".join(self._logger.errors).split()) or "no reason given"
            raise FormatError(f"{path}: {self.isa} does not take the engine: {reason}")
        self._names = self._checked_names(trt, path)
        least, _, most = self._engine.get_tensor_profile_shape(self._names[0], 0)
        self.min_length = int(least[1])
        self._max_batch, self.max_length = int(most[0]), int(most[1])
        self._context = self._engine.create_execution_context()
        self._lock = threading.Lock()

    def _checked_names(self, trt: Any, path: Path) -> list[str]:
        """Of the one input and the one output."""
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        modes = [engine.get_tensor_mode(name) for name in names]
        if modes != [trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT]:
            raise FormatError(f"{path}: the engine has not one input and one output")
        types = {"s8": trt.DataType.INT8, "f32": trt.DataType.FLOAT}
        for name, tensor in zip(names, (self._input, self._output), strict=True):
            channels = engine.get_tensor_shape(name)[-1]
            if channels != tensor["channels"] or engine.get_tensor_dtype(name) != types.get(
                tensor["dtype"]
            ):
                raise FormatError(f"{path}: the engine is of another network, by its {name}")
        return names

    def why_not(self, length: int) -> str:
        """Why a recording of so many frames cannot be run; empty if it can."""
        if self.min_length <= length <= self.max_length:
            return ""
        return f"{length} frames, the engine takes {self.min_length} to {self.max_length}"

    def run(self, features: Sequence[Array], *, quantized: bool = False, **placed: Any) -> Array:
        """One row for each recording, in the host's memory."""
        if any(value not in (None, False) for value in placed.values()):
            raise ValueError("an engine of TensorRT takes and gives arrays of the host")
        integer = self._output["dtype"] == "s8"
        if quantized and not integer:
            raise ValueError("the model has no int8 output")
        rows = np.empty((len(features), self._output["channels"]), _TYPES[self._output["dtype"]])
        by_length: dict[int, list[int]] = {}
        for index, item in enumerate(features):
            if reason := self.why_not(len(item)):
                raise ValueError(f"recording {index}: {reason}")
            by_length.setdefault(len(item), []).append(index)
        for indices in by_length.values():
            for begin in range(0, len(indices), self._max_batch):
                batch = indices[begin : begin + self._max_batch]
                rows[batch] = self._run_batch(np.stack([features[i] for i in batch]))
        return rows * np.float32(self._output["scale"]) if integer and not quantized else rows

    def embed(
        self, front_end: Any, waveforms: Iterable[Array], *, quantized: bool = False, **placed: Any
    ) -> Array:
        """The same of waveforms."""
        return self.run([front_end(wave) for wave in waveforms], quantized=quantized, **placed)

    def _run_batch(self, features: Array) -> Array:
        """(recordings, frames, bands) of one length."""
        if self._input["dtype"] == "s8" and features.dtype != np.int8:
            # docs/arithmetic.md, "Schemes".
            steps = features * np.float32(1 / self._input["scale"])
            quantized = np.rint(steps) + np.float32(self._input.get("zero_point", 0))
            features = np.clip(quantized, -128, 127).astype(np.int8)
        given = devices.upload(features.reshape(-1, features.shape[-1]))
        shape = (len(features), self._output["channels"])
        made = devices.upload(np.zeros(shape, _TYPES[self._output["dtype"]]))
        with self._lock:
            self._context.set_input_shape(self._names[0], features.shape)
            for name, array in zip(self._names, (given, made), strict=True):
                address = array.__cuda_array_interface__["data"][0]
                self._context.set_tensor_address(name, address)
            # The legacy default stream, which the copies wait for.
            if not self._context.execute_async_v3(0):
                reason = " ".join(" ".join(self._logger.errors).split()) or "no reason given"
                raise RuntimeError(f"{self.isa} did not run: {reason}")
            result: Array = made.numpy()
        return result


def _make_logger(trt: Any) -> Any:
    """Keeps the errors that are said."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(text)

    return Logger()
