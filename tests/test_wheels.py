"""The bits that wheels are checked for (wheels/smoke.py) are those of the NumPy oracle."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import earmark
from earmark.audio import read_audio
from earmark.plan import OUTPUT
from oracle import network

WHEELS = Path(__file__).parents[1] / "wheels"
MODEL = Path(earmark.__file__).parent / "data" / "demo-int8.earmark"


@pytest.fixture(scope="module")
def smoke() -> Any:
    spec = importlib.util.spec_from_file_location("smoke", WHEELS / "smoke.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_known_embeddings_are_the_oracles(smoke: Any) -> None:
    metadata, arrays = network.load(MODEL)
    model = earmark.load(MODEL)
    embeddings = []
    for item in smoke.recordings():
        wave = read_audio(item, target_rate=16000).samples if isinstance(item, Path) else item
        features = model.front_end(wave)
        embeddings.append(network.run(metadata["plan"], arrays, features)[OUTPUT][None])
        np.testing.assert_array_equal(model.embed(item), embeddings[-1])
    assert smoke.digest(embeddings) == smoke.KNOWN["embeddings"]
