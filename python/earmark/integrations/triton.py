"""Triton: a model of its Python backend, and the folder that it is loaded from."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from earmark import columns
from earmark.embedder import Embedder

__all__ = ["TritonPythonModel", "write_repository"]

_VERSION = "1"
_MODEL = "model.earmark"

_CONFIG = """\
# Waveforms of any lengths at {rate} Hz, {shortest} samples at least, to speaker embeddings.
backend: "python"
max_batch_size: 64
dynamic_batching {{ }}
input [
  {{
    name: "audio"
    data_type: TYPE_FP32
    dims: [ -1 ]
    allow_ragged_batch: true
  }}
]
output [
  {{
    name: "embedding"
    data_type: TYPE_FP32
    dims: [ {size} ]
  }}
]
# One instance has all cores of the machine. KIND_GPU: one on each GPU.
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
parameters {{ key: "sample_rate_hz" value {{ string_value: "{rate}" }} }}
parameters {{ key: "min_samples" value {{ string_value: "{shortest}" }} }}
"""

_CODE = """\
from earmark.integrations.triton import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""


def write_repository(model: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Add a model, named as its file, to a model repository; its folder there.

    The folder is made where it is not there, and gets the model whole or not at all. Raises
    FormatError for a file that is not intact or of no speaker model, FileExistsError for a name
    that the repository has.
    """
    source, repository = Path(model), Path(folder)
    embedder = Embedder(source)
    target = repository / source.stem
    if target.exists():
        raise FileExistsError(f"{target}: is there already")
    repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=repository, prefix=".") as temporary:
        made = Path(temporary) / target.name
        (made / _VERSION).mkdir(parents=True)
        config = _CONFIG.format(
            rate=embedder.front_end.sample_rate_hz,
            shortest=embedder.min_samples,
            size=embedder.embedding_size,
        )
        (made / "config.pbtxt").write_text(config)
        (made / _VERSION / "model.py").write_text(_CODE)
        shutil.copyfile(source, made / _VERSION / _MODEL)
        made.rename(target)
    return target


class TritonPythonModel:
    """What Triton's Python backend calls. The model runs on the CPU, or on the GPU that Triton
    gives its instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model beside ``model.py``."""
        path = Path(args["model_repository"], args["model_version"], _MODEL)
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        self._model = Embedder(path, device=device)

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response to each request: ``embedding`` (batch, dimension) of its ``audio`` (batch,
        samples), or the error of the first recording that cannot be used."""
        import triton_python_backend_utils as triton

        batches = [triton.get_input_tensor_by_name(request, "audio") for request in requests]
        waves = [batch.as_numpy() for batch in batches]
        rows = [row for wave in waves for row in wave]
        rates = [self._model.front_end.sample_rate_hz] * len(rows)
        found = columns.embed({"audio": rows, "sample_rate": rates}, self._model)
        ends = np.cumsum([len(wave) for wave in waves])[:-1]
        parts = (np.split(found[name], ends) for name in ("embedding", "error"))
        responses = []
        for embeddings, errors in zip(*parts, strict=True):
            failed = next(filter(None, errors), None)
            if failed is None:
                tensor = triton.Tensor("embedding", embeddings)
                responses.append(triton.InferenceResponse(output_tensors=[tensor]))
            else:
                reason = triton.TritonError(failed, triton.TritonError.INVALID_ARG)
                responses.append(triton.InferenceResponse(error=reason))
        return responses
