"""Embeddings by an engine of TensorRT: how recordings are put into batches and what is refused.

No GPU is needed: in the place of TensorRT stands a module with the few functions that are called,
whose engines run the plan on the CPU over the emulated device's memory. What TensorRT itself makes
of the network is the matter of ``test_tensorrt_rtx.py``.
"""

from __future__ import annotations

import ctypes
import pickle
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="quantizing needs torch")
emulated = pytest.importorskip(
    "earmark._device_emulated", reason="the package was built without EARMARK_EMULATED_ISA"
)

import earmark  # noqa: E402
from earmark import devices, modelfile  # noqa: E402
from earmark.errors import AudioError, FormatError  # noqa: E402
from earmark.plan import make_engine  # noqa: E402
from earmark.tensorrt import TensorRTEmbedder  # noqa: E402
from networks import random_features, wave  # noqa: E402
from plans import equal_bits  # noqa: E402

from .quantized_models import MODELS  # noqa: E402

BATCHES: list[tuple[int, ...]] = []


class Mode(Enum):
    INPUT = 0
    OUTPUT = 1


class Context:
    def __init__(self, engine: StandIn) -> None:
        self.engine, self.addresses = engine, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        least, _, most = self.engine.get_tensor_profile_shape(name, 0)
        assert all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))
        self.shape = shape
        BATCHES.append(shape[:2])

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        integer = self.engine.model.metadata["scheme"] == "int8-full"
        kind = ctypes.c_int8 if integer else ctypes.c_float
        size = int(np.prod(self.shape))
        given = np.ctypeslib.as_array((kind * size).from_address(self.addresses["features"]))
        rows = self.engine.cpu.run(list(given.reshape(self.shape).copy()), quantized=integer)
        ctypes.memmove(self.addresses["embedding"], rows.ctypes.data, rows.nbytes)
        return True


class StandIn:
    """An engine, its file being the model's."""

    num_io_tensors = 2

    def __init__(self, path: Path) -> None:
        self.model = modelfile.read(path)
        self.cpu = make_engine(self.model.plan, self.model.decoded_arrays())
        self.tensors = [self.model.plan["tensors"][name] for name in ("input", "embedding")]

    def get_tensor_name(self, index: int) -> str:
        return ("features", "embedding")[index]

    def _tensor(self, name: str) -> Any:
        return self.tensors[name == "embedding"]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode(int(name == "embedding"))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, -1, self._tensor(name)["channels"])

    def get_tensor_dtype(self, name: str) -> str:
        return {"s8": "int8", "f32": "float"}[self._tensor(name)["dtype"]]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        bands = self._tensor(name)["channels"]
        return [(1, 20, bands), (1, 100, bands), (3, 120, bands)]

    def create_execution_context(self) -> Context:
        return Context(self)


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> StandIn | None:
        if not data.startswith(b"/"):
            self.logger.log(0, "magic tag\n does not match")
            return None
        return StandIn(Path(data.decode()))


@pytest.fixture(autouse=True)
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("tensorrt")
    module.__spec__ = SimpleNamespace()
    module.__version__ = "0.0"
    module.ILogger = type("ILogger", (), {"__init__": lambda self: None, "ERROR": 1})
    module.Runtime, module.TensorIOMode = Runtime, Mode
    module.DataType = SimpleNamespace(INT8="int8", FLOAT="float")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(devices, "_cuda", emulated.cuda)
    BATCHES.clear()


@pytest.fixture(scope="module", params=["int8", "int8-full"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model's file, and that of its engine."""
    folder = tmp_path_factory.mktemp("engine")
    modelfile.write(MODELS[request.param](), folder / "model.earmark")
    (folder / "model.engine").write_bytes(str(folder / "model.earmark").encode())
    return folder / "model.earmark", folder / "model.engine"


def test_embeddings_are_those_of_the_network(files: Any) -> None:
    """Recordings of one length in batches as large as the engine takes."""
    ours, theirs = earmark.Embedder(files[0]), TensorRTEmbedder(*files)
    lengths = [40, 50, 40, 40, 120, 40, 20]
    features = [random_features(i, n, ours._features) for i, n in enumerate(lengths)]
    equal_bits(theirs.embed_features(features), ours.embed_features(features), "features")
    assert sorted(BATCHES) == [(1, 20), (1, 40), (1, 50), (1, 120), (3, 40)]
    waves = [wave(seed) for seed in range(3)]
    equal_bits(theirs.embed(waves), ours.embed(waves), "waves")
    if ours.embedding_scale is None:
        with pytest.raises(ValueError, match="no int8"):
            theirs.embed_features(features, quantized=True)
    else:
        expected = ours.embed_features(features, quantized=True)
        equal_bits(theirs.embed_features(features, quantized=True), expected, "int8")


def test_it_is_an_embedder(files: Any) -> None:
    runner = TensorRTEmbedder(*files)
    assert isinstance(runner, earmark.Embedder)
    assert runner.min_frames == 20
    assert runner.isa == "tensorrt 0.0"
    assert runner.threads is None
    assert runner.device == "cuda:0"
    assert runner.info()["kernels"] == ["tensorrt 0.0"]
    again = pickle.loads(pickle.dumps(runner))
    equal_bits(again.embed(wave(1)), runner.embed(wave(1)), "again")
    with pytest.raises(ValueError, match="does not tell"):
        runner.profile(np.zeros((50, runner._features), np.float32))


def test_lengths_that_the_engine_does_not_take(files: Any) -> None:
    runner = TensorRTEmbedder(*files)
    for frames in (19, 121):
        with pytest.raises(ValueError, match=f"{frames} frames, the engine takes 20 to 120"):
            runner.embed_features(np.zeros((frames, runner._features), np.float32))
    too_long = np.zeros(16000 * 3, np.float32)
    results = list(runner.embed_each([wave(0), too_long, wave(1)]))
    assert [error == "" for _, _, error in results] == [True, False, True]
    assert results[1][2] == "3.00 s long, the engine takes 1.20 s at most"
    with pytest.raises(AudioError, match=r"recording 1: 3\.00 s long"):
        runner.embed([wave(0), too_long])
    with pytest.raises(ValueError, match="arrays of the host"):
        runner.embed_features(np.zeros((50, runner._features), np.float32), out="device")


def test_engines_that_cannot_be_used(files: Any, tmp_path: Path) -> None:
    model, _ = files
    bad = tmp_path / "bad.engine"
    bad.write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"bad\.engine: tensorrt 0\.0 does not take.*: magic"):
        TensorRTEmbedder(model, bad)
    with pytest.raises(FormatError, match=r"none\.engine: No such file"):
        TensorRTEmbedder(model, tmp_path / "none.engine")
    other = tmp_path / "other.earmark"
    scheme = modelfile.read(model).metadata["scheme"]
    modelfile.write(MODELS["int8" if scheme == "int8-full" else "int8-full"](), other)
    bad.write_bytes(str(other).encode())
    with pytest.raises(FormatError, match="another network, by its features"):
        TensorRTEmbedder(model, bad)


def test_a_device_is_needed(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cuda", None)
    with pytest.raises(ValueError, match="no CUDA device"):
        TensorRTEmbedder(*files)
