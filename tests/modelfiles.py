"""Model files for tests, whole and spoilt, and what is expected of reading them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import earmark
from earmark import FormatError, modelfile
from earmark.lowering.ecapa import lower_ecapa
from earmark.modelfile import ModelFile
from networks import SMALL, mixed_plan, random_features, random_state

JSON = dict[str, Any]

# One file in one folder for all examples of a property: each example writes it anew.
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def tiny_model() -> ModelFile:
    """The mean over time of two features, through one dense layer."""
    plan = {
        "tensors": {
            "input": {"kind": "frames", "dtype": "f32", "channels": 2},
            "mean": {"kind": "vector", "dtype": "f32", "channels": 2},
            "embedding": {"kind": "vector", "dtype": "f32", "channels": 3},
        },
        "ops": [
            {"op": "stats_f32", "name": "stats", "in": "input", "out": "mean", "arrays": []},
            {
                "op": "dense_f32",
                "name": "fc",
                "in": "mean",
                "out": "embedding",
                "arrays": ["epilogue", "weight"],
            },
        ],
    }
    statistics = {"min": -1.0, "max": 1.0, "mean": 0.25, "std": 0.5}
    layer = {
        "name": "fc",
        "op": "dense_f32",
        "precision": "fp32",
        "parameters": 9,
        "weight_stats": statistics,
        "activation_stats": None,
    }
    metadata = {
        "family": "speechbrain",
        "scheme": "fp32",
        "sample_rate_hz": 16000,
        "front_end": {"name": "speechbrain", "n_mels": 2},
        "config": {},
        "parameters": 9,
        "threshold": 0.5,
        "plan": plan,
        "layers": [layer],
        "calibration": None,
        "measured": {"eer": 0.0125, "list": "Prüfung \U0001f600"},
    }
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    return ModelFile(metadata, {"fc.weight": weight, "fc.epilogue": np.ones((1, 3), np.float32)})


def network_model(precision: str = "int8") -> ModelFile:
    """A small integer network with random weights."""
    network = lower_ecapa(SMALL, random_state(SMALL))
    recordings = [random_features(i, 60 + 40 * i, SMALL.n_mels) for i in range(3)]
    plan = mixed_plan(network, recordings, lambda _: precision)
    metadata = {
        **tiny_model().metadata,
        "front_end": {"name": "speechbrain", "n_mels": SMALL.n_mels},
        "plan": plan.plan,
    }
    return ModelFile(metadata, plan.arrays)


def container(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file of this header (as text, or as JSON) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_metadata(text: str) -> bytes:
    """A file without tensors whose metadata is ``text``."""
    return container({"__metadata__": {"earmark": text}})


def assert_refused(path: Path, content: bytes | None, *parts: str) -> None:
    """``read`` and ``load`` raise FormatError, of one line with the file's name."""
    if content is not None:
        write(path, content)
    with pytest.raises(FormatError):
        modelfile.read(path)
    assert_not_loaded(path, *parts)


def assert_not_loaded(path: Path, *parts: str) -> None:
    with pytest.raises(FormatError) as raised:
        earmark.load(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable(), message
    assert len(message) < len(str(path)) + 400
    for part in parts:
        assert part in message


def write(path: Path, content: bytes) -> None:
    """A new file: some file systems take milliseconds to write over an old one."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
