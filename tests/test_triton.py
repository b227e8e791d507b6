"""Triton's model repository: its configuration as protobuf has it, its code as Triton calls it. No
server runs here; in place of ``triton_python_backend_utils`` stands what its documentation says."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import earmark
from commands import Cli
from earmark import FormatError, modelfile
from earmark.audio import read_audio
from earmark.integrations.triton import write_repository

from .devices import MODULES
from .modelfiles import network_model, tiny_model

DATA = Path(earmark.__file__).parent / "data"
MODEL = DATA / "demo-int8.earmark"


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class TritonError(Exception):
    INTERNAL: ClassVar = 1
    INVALID_ARG: ClassVar = 3

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self.message, self.code = message, code


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None


@dataclass
class InferenceRequest:
    inputs: list[Tensor]


@pytest.fixture
def repository(tmp_path: Path, cli: Cli) -> Path:
    """As the command makes it."""
    done = cli("export", MODEL, "--to", "triton", "-o", tmp_path / "models", "--json")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert told["model"] == "demo-int8"
    files = [path for path in (tmp_path / "models").rglob("*") if path.is_file()]
    assert told["file_bytes"] == sum(path.stat().st_size for path in files)
    return tmp_path / "models"


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton's Python has."""
    module = ModuleType("triton_python_backend_utils")
    module.Tensor, module.TritonError = Tensor, TritonError  # type: ignore[attr-defined]
    module.InferenceResponse = InferenceResponse  # type: ignore[attr-defined]

    def by_name(request: InferenceRequest, name: str) -> Tensor | None:
        return next((tensor for tensor in request.inputs if tensor.name() == name), None)

    module.get_input_tensor_by_name = by_name  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def begun(folder: Path, kind: str = "CPU") -> Any:
    """An instance of the model, as Triton begins one."""
    spec = spec_from_file_location("model", folder / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    code = module_from_spec(spec)
    spec.loader.exec_module(code)
    model = code.TritonPythonModel()
    model.initialize(
        {
            "model_config": "{}",
            "model_instance_kind": kind,
            "model_instance_device_id": "0",
            "model_repository": str(folder),
            "model_version": "1",
            "model_name": folder.name,
        }
    )
    return model


def test_the_configuration(repository: Path) -> None:
    config_pb2 = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed"
    )
    from google.protobuf import text_format

    text = (repository / "demo-int8" / "config.pbtxt").read_text()
    config = text_format.Parse(text, config_pb2.ModelConfig())
    model = earmark.load(MODEL)
    assert config.backend == "python"
    assert config.max_batch_size == 64
    assert config.HasField("dynamic_batching")
    (given,), (made,) = config.input, config.output
    assert (given.name, given.data_type) == ("audio", config_pb2.TYPE_FP32)
    assert list(given.dims) == [-1]
    assert given.allow_ragged_batch
    assert (made.name, made.data_type) == ("embedding", config_pb2.TYPE_FP32)
    assert list(made.dims) == [model.embedding_size]
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, config_pb2.ModelInstanceGroup.KIND_CPU)
    told = {key: value.string_value for key, value in config.parameters.items()}
    assert told == {"sample_rate_hz": "16000", "min_samples": str(model.min_samples)}


@pytest.mark.usefixtures("triton")
def test_requests_of_any_lengths_at_once(repository: Path) -> None:
    """Each with the embeddings that it has alone, or with its own error."""
    wave = read_audio(sorted((DATA / "recordings").glob("*.flac"))[0]).samples
    batches = [wave[None, :20000], np.stack([wave[:9000], wave[5000:14000]]), wave[None]]
    short, broken = wave[None, :100], np.stack([wave[:9000], np.full(9000, np.nan, np.float32)])
    requests = [
        InferenceRequest([Tensor("audio", batch)])
        for batch in [*batches, short, broken, batches[0]]
    ]
    responses = begun(repository / "demo-int8").execute(requests)
    assert len(responses) == len(requests)
    model = earmark.load(MODEL)
    for response, batch in zip([*responses[:3], responses[5]], [*batches, batches[0]], strict=True):
        assert response.error is None
        (tensor,) = response.output_tensors
        assert (tensor.name(), tensor.as_numpy().dtype) == ("embedding", np.float32)
        np.testing.assert_array_equal(tensor.as_numpy(), model.embed(list(batch)))
    for response, reason in zip(
        responses[3:5], ["is too short", "not a finite number"], strict=True
    ):
        assert response.error.code == TritonError.INVALID_ARG
        assert reason in response.error.message


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("module", MODULES)
def test_an_instance_of_a_gpu(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("earmark.devices._cuda", MODULES[module])
    modelfile.write(network_model(), tmp_path / "small.earmark")
    folder = write_repository(tmp_path / "small.earmark", tmp_path / "models")
    wave = np.sin(np.arange(8000, dtype=np.float32))[None]
    request = InferenceRequest([Tensor("audio", wave)])
    rows = []
    for kind in ("CPU", "GPU"):
        (response,) = begun(folder, kind).execute([request])
        rows.append(response.output_tensors[0].as_numpy())
    np.testing.assert_array_equal(*rows)


def test_what_cannot_be_served(repository: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("export", MODEL, "--to", "triton", "-o", repository)
    assert done.status == 2
    assert "demo-int8: is there already" in done.err
    done = cli("export", MODEL, "--to", "triton", "--plugins", "-o", repository)
    assert done.status == 2
    assert "--plugins goes with onnx and tensorrt" in done.err
    done = cli("export", MODEL, "--to", "triton", "--batch", "4", "-o", repository)
    assert done.status == 2
    assert "--batch goes with tensorrt: triton takes any" in done.err
    sounds = tiny_model()
    tensors = sounds.metadata["plan"]["tensors"]
    tensors["scores"] = tensors.pop("embedding")
    sounds.metadata["plan"]["ops"][1]["out"] = "scores"
    modelfile.write(sounds, tmp_path / "sounds.earmark")
    with pytest.raises(FormatError, match=r"sounds\.earmark: the model gives class scores"):
        write_repository(tmp_path / "sounds.earmark", repository)
    assert [path.name for path in repository.iterdir()] == ["demo-int8"]
