"""Recordings in columns: what engines for tables call, without any."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import earmark
from earmark import columns, modelfile
from earmark.audio import read_audio
from earmark.integrations.ray import SpeakerEmbedder
from earmark.integrations.spark import make_predict_fn

from .devices import MODULES
from .modelfiles import network_model

DATA = Path(earmark.__file__).parent / "data"
MODEL = DATA / "demo-int8.earmark"
FLACS = sorted((DATA / "recordings").glob("*.flac"))


def objects(items: list[Any]) -> NDArray[Any]:
    column = np.empty(len(items), object)
    for row, item in enumerate(items):
        column[row] = item
    return column


@pytest.fixture(scope="module")
def waves() -> list[NDArray[np.float32]]:
    """Lengths neither rising nor falling."""
    sizes = [16000, 40000, 9000, 25000, 9001, 30000]
    return [read_audio(flac).samples[:size] for flac, size in zip(FLACS, sizes, strict=False)]


@pytest.fixture(scope="module")
def expected(waves: list[NDArray[np.float32]]) -> Any:
    return earmark.load(MODEL).embed(waves)


def test_rows_in_their_order(waves: list[NDArray[np.float32]], expected: Any) -> None:
    """With the other columns, and without the waveforms."""
    embedder = SpeakerEmbedder(MODEL)
    given = {
        "audio": objects(waves),
        "sample_rate": np.full(len(waves), 16000),
        "speaker": np.array(list("abcdef")),
    }
    batch = embedder(given)
    assert list(batch) == ["speaker", "error", "embedding"]
    np.testing.assert_array_equal(batch["speaker"], given["speaker"])
    assert batch["error"].tolist() == [""] * len(waves)
    assert batch["embedding"].dtype == np.float32
    np.testing.assert_array_equal(batch["embedding"], expected)
    assert list(given) == ["audio", "sample_rate", "speaker"]
    of_one_length = np.stack([wave[:9000] for wave in waves])
    batch = embedder({"audio": of_one_length, "sample_rate": [16000.0] * len(waves)})
    np.testing.assert_array_equal(batch["embedding"][2], expected[2])


def test_errors_are_rows(waves: list[NDArray[np.float32]], expected: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "short.wav", waves[0][:100], 16000)
    paths = ["broken.wav", "short.wav", "none.wav"]
    batch = SpeakerEmbedder(MODEL)(
        {"path": objects([str(FLACS[0]), *(str(tmp_path / name) for name in paths), None])}
    )
    np.testing.assert_array_equal(batch["embedding"][0], earmark.load(MODEL).embed(FLACS[0])[0])
    assert np.isnan(batch["embedding"][1:]).all()
    reasons = ["cannot be read as audio", "is too short: 100 samples", "no such file"]
    for error, name, reason in zip(batch["error"][1:4], paths, reasons, strict=True):
        assert error.startswith(f"{tmp_path / name}: ")
        assert reason in error
    assert batch["error"][0] == ""
    assert "got NoneType" in batch["error"][4]
    audio = [waves[0], np.full(9000, np.nan, np.float32), waves[2], waves[3][:10], waves[4], waves]
    batch = SpeakerEmbedder(MODEL)(
        {
            "audio": objects(audio),
            "sample_rate": objects([16000, 16000, 0, 16000, 16000, 16000]),
            "error": objects(["", "", "", "", "was cut off", None]),
            "path": objects(list("abcdef")),
        }
    )
    np.testing.assert_array_equal(batch["embedding"][0], expected[0])
    assert np.isnan(batch["embedding"][1:]).all()
    assert batch["error"].tolist() == [
        "",
        "b: sample 0 is nan, not a finite number",
        "c: the sampling rate must be a whole number from 1000 to 768000 Hz, got 0",
        "d: is too short: 10 samples at 16000 Hz (0.625 ms), at least 640 (40 ms) are needed",
        "was cut off",
        "f: a recording is a path, an array or a tensor, got list",
    ]


def test_decoding_first_changes_nothing(waves: list[NDArray[np.float32]], tmp_path: Path) -> None:
    """Files at any rate, their bytes, rows that failed."""
    for rate in (8000, 16000, 44100):
        soundfile.write(tmp_path / f"{rate}.wav", waves[1], rate, "FLOAT")
    paths = [str(tmp_path / f"{rate}.wav") for rate in (44100, 8000, 16000, 48000)]
    embedder = SpeakerEmbedder(MODEL)
    alone = embedder({"path": objects(paths)})
    assert [bool(error) for error in alone["error"]] == [False, False, False, True]
    decoded = columns.decode({"path": objects(paths)})
    assert [wave.dtype for wave in decoded["audio"]] == [np.float32] * 4
    assert len(decoded["audio"][3]) == 0
    assert decoded["sample_rate"].tolist() == [16000] * 4
    batch = embedder(decoded)
    content = [Path(path).read_bytes() for path in paths[:3]]
    of_bytes = columns.decode({"bytes": objects([*content, b""]), "path": objects(paths)})
    assert "bytes" not in of_bytes
    assert of_bytes["error"][3] == f"{paths[3]}: is an empty file (0 bytes)"
    for other in (batch, embedder(of_bytes)):
        np.testing.assert_array_equal(other["embedding"], alone["embedding"])
        np.testing.assert_array_equal(other["path"], paths)


def test_columns_that_are_no_recordings() -> None:
    model = SpeakerEmbedder(MODEL)
    with pytest.raises(ValueError, match="columns are name, audio: expected path, bytes, or audio"):
        model({"name": ["a"], "audio": [np.zeros(9000)]})
    with pytest.raises(ValueError, match="columns are none"):
        model({})
    batch = model({"path": []})
    assert batch["embedding"].shape == (0, 192)
    assert batch["error"].shape == (0,)


def test_an_embedder_travels_with_its_model(
    waves: list[NDArray[np.float32]], expected: Any
) -> None:
    embedder = pickle.loads(pickle.dumps(SpeakerEmbedder(modelfile.read(MODEL))))
    batch = embedder({"audio": objects(waves), "sample_rate": [16000] * len(waves)})
    np.testing.assert_array_equal(batch["embedding"], expected)


@pytest.mark.parametrize("module", MODULES)
def test_a_device_gives_the_same_rows(
    waves: list[NDArray[np.float32]], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earmark.devices._cuda", MODULES[module])
    model = network_model()
    batch = {
        "audio": objects([wave[: 4000 + 100 * row] for row, wave in enumerate(waves)]),
        "sample_rate": np.array([16000, 16000, 0, 16000, 16000, 16000]),
    }
    on_cpu, on_device = (SpeakerEmbedder(model, device=name)(batch) for name in ("cpu", "cuda"))
    np.testing.assert_array_equal(on_device["embedding"], on_cpu["embedding"])
    assert np.isnan(on_cpu["embedding"]).all(axis=1).tolist() == [row == 2 for row in range(6)]


def test_what_spark_calls() -> None:
    """As ``predict_batch_udf`` does: a function made by pickled means, one column, two results."""
    predict = pickle.loads(pickle.dumps(partial(make_predict_fn, MODEL)))()
    expected = earmark.load(MODEL).embed(FLACS)
    for column in ([*map(str, FLACS), "none.wav"], [*(f.read_bytes() for f in FLACS), b"none"]):
        found = predict(objects(column))
        assert list(found) == ["error", "embedding"]
        np.testing.assert_array_equal(found["embedding"][:-1], expected)
        assert np.isnan(found["embedding"][-1]).all()
        assert [bool(error) for error in found["error"]] == [False] * len(FLACS) + [True]
