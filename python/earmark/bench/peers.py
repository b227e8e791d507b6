"""The engines: how each one loads the network and computes an embedding.

A loader runs in a worker process, sets the thread count explicitly and gives the engine its
documented best: fixed shapes, all graph optimisations, and its own defaults elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from earmark.bench.models import (
    EARMARK_SCHEMES,
    NNCF_VARIANTS,
    QDQ_VARIANTS,
    load_features,
    load_network,
)
from earmark.bench.timing import Array, Session

Loader: TypeAlias = Callable[[Path, int], Session]


@dataclass(frozen=True)
class Engine:
    """An entry of the table.

    Attributes:
        packages: what must be importable for the engine, beside torch, which prepares the files.
        load: from the models' folder and the number of threads to a session.
    """

    packages: tuple[str, ...]
    load: Loader

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]


def _torch_session(models: Path, threads: int, *, compiled: bool) -> Session:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(models / f"inductor-{threads}")
    import torch

    torch.set_num_threads(threads)
    network = load_network(models)
    features = torch.from_numpy(load_features(models))
    if compiled:
        import torch._inductor.config

        torch._inductor.config.freezing = True  # weights become constants, packed once
        network.compile(dynamic=False)

    def run() -> Array:
        with torch.no_grad():
            embedding: Array = network(features).numpy()
        return embedding

    details: dict[str, str | int] = {
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    return Session(run, details)


def onnxruntime_session(path: Path, threads: int) -> Any:
    """ONNX Runtime's session of a file, with all graph optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _onnxruntime_session(models: Path, threads: int, *, file: str) -> Session:
    session = onnxruntime_session(models / file, threads)
    inputs = {"features": load_features(models)}
    return Session(lambda: session.run(None, inputs)[0], {"threads": threads})


def _openvino_session(models: Path, threads: int, *, file: str) -> Session:
    import openvino

    model = openvino.Core().compile_model(
        models / file,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = model.create_infer_request()
    features = load_features(models)
    details: dict[str, str | int] = {"threads": model.get_property("INFERENCE_NUM_THREADS")}
    return Session(lambda: request.infer([features], share_inputs=True)[0], details)


def _earmark_session(models: Path, threads: int, *, file: str) -> Session:
    import earmark

    model = earmark.Embedder(models / file, threads=threads)
    features = list(load_features(models))
    info = model.info()
    details: dict[str, str | int] = {"isa": info["isa"], "threads": info["threads"]}
    return Session(lambda: model.embed_features(features), details)


def _earmark(file: str) -> Engine:
    return Engine((), partial(_earmark_session, file=file))


def _onnxruntime(file: str) -> Engine:
    return Engine(("onnx", "onnxscript", "onnxruntime"), partial(_onnxruntime_session, file=file))


def _openvino(file: str, *packages: str) -> Engine:
    load = partial(_openvino_session, file=file)
    return Engine(("onnx", "onnxscript", "onnxruntime", "openvino", *packages), load)


ENGINES: dict[str, Engine] = {
    **{f"earmark-{scheme}": _earmark(f"{scheme}.earmark") for scheme in EARMARK_SCHEMES},
    "torch-fp32-eager": Engine((), partial(_torch_session, compiled=False)),
    "torch-fp32-compile": Engine((), partial(_torch_session, compiled=True)),
    "onnxruntime-fp32": _onnxruntime("fp32.onnx"),
    **{f"onnxruntime-int8-{name}": _onnxruntime(f"{name}.onnx") for name in QDQ_VARIANTS},
    "openvino-fp32": _openvino("fp32.onnx"),
    "openvino-int8-u8s8": _openvino("u8s8.onnx"),
    "openvino-int8-u8s8-conv-7bit": _openvino("u8s8-conv-7bit.onnx"),
    **{f"openvino-int8-{name}": _openvino(f"{name}.xml", "nncf") for name in NNCF_VARIANTS},
}
"""Every engine by name: library, precision, and how it was quantized or compiled."""

PEERS = (
    "torch-fp32-eager",
    "torch-fp32-compile",
    "onnxruntime-fp32",
    "onnxruntime-int8-u8s8",
    "onnxruntime-int8-u8s8-conv",
    "openvino-fp32",
    "openvino-int8-u8s8",
    "openvino-int8-nncf",
)
"""What ``earmark bench --peers`` compares with: no two that differ in the width of weights only."""


def engine_of_file(path: Path) -> Engine:
    """A model file's own engine, on the features of the network that ``prepare`` made."""
    return _earmark(str(path.absolute()))
