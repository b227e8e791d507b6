"""Model files with coarser weights: what shows which matter, what is stored, what loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import earmark
from earmark import modelfile
from earmark.compression.coarse import calibration_pieces, coarse_file, requantizer
from earmark.metrics import cosine_score
from earmark.modelfile import ModelFile
from networks import SMALL, random_state, torch_network

from .sounds import small_network

Array = NDArray[Any]


def waves(count: int, seconds: float, seed: int = 0) -> list[Array]:
    """Noise whose loudness changes."""
    rng = np.random.default_rng(seed)
    samples = round(16000 * seconds)
    loudness = np.repeat(rng.uniform(0.01, 0.2, (count, samples // 500 + 1)), 500, axis=1)
    return list((rng.normal(size=(count, samples)) * loudness[:, :samples]).astype(np.float32))


def saved(net: Any, folder: Path, scheme: str) -> ModelFile:
    path = folder / f"{scheme}.earmark"
    earmark.quantize(net, waves(6, 1.5), scheme=scheme).save(path)
    return modelfile.read(path)


@pytest.mark.parametrize("scheme", ["int8", "int8-full", "dynamic"])
def test_a_coarse_file_is_small_and_its_embeddings_near(tmp_path: Path, scheme: str) -> None:
    model = saved(torch_network(SMALL, random_state(SMALL)), tmp_path, scheme)
    before = earmark.Embedder(model)
    found = requantizer(model, calibration_pieces(before, waves(8, 1.0, seed=1))).at(0.002)
    file = coarse_file(model, found)
    modelfile.write(file, tmp_path / "coarse.earmark")
    read = modelfile.read(tmp_path / "coarse.earmark")
    decoded = read.decoded_arrays()
    assert set(decoded) == set(model.decoded_arrays())
    for name in found.levels:
        weight = f"{name}.weight"
        np.testing.assert_array_equal(decoded[weight], found.arrays[weight])
    size = sum(array.nbytes for array in file.arrays.values())
    assert size < 0.7 * sum(array.nbytes for array in model.arrays.values())
    after = earmark.load(tmp_path / "coarse.earmark")
    heard = waves(4, 1.0, seed=2)
    assert cosine_score(before.embed(heard), after.embed(heard)).min() > 0.9


def test_a_classifier_is_calibrated_on_its_windows(tmp_path: Path) -> None:
    model = saved(small_network(), tmp_path, "int8")
    classifier = earmark.Classifier(model)
    pieces = calibration_pieces(classifier, waves(2, 2.5))
    assert len(pieces) == 4
    assert {len(piece) for piece in pieces} == {101}
    file = coarse_file(model, requantizer(model, pieces).at(0.002))
    difference = earmark.Classifier(file).scores(pieces) - classifier.scores(pieces)
    assert np.abs(difference).mean() < 0.3 * np.abs(classifier.scores(pieces)).mean()


def test_pieces_are_two_seconds_and_short_recordings_whole(tmp_path: Path) -> None:
    embedder = earmark.Embedder(saved(torch_network(SMALL, random_state(SMALL)), tmp_path, "int8"))
    heard: list[tuple[int, int]] = []
    recordings = [*waves(1, 4.5), *waves(1, 0.7)]
    pieces = calibration_pieces(
        embedder, recordings, lambda done, total: heard.append((done, total))
    )
    assert [len(piece) for piece in pieces] == [201, 201, 71]
    assert heard == [(1, 2), (2, 2)]


def test_a_float32_layer_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mixed.earmark"
    net = torch_network(SMALL, random_state(SMALL))
    earmark.quantize(net, waves(3, 1.0), precision={"fc": "fp32"}).save(path)
    model = modelfile.read(path)
    with pytest.raises(ValueError, match="op 'fc': dense_f32 has no derivative"):
        requantizer(model, calibration_pieces(earmark.Embedder(model), waves(1, 1.0)))
