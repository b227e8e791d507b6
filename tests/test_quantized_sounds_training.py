"""Training of quantized sound networks: with labels, towards the teacher, of coarse weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import earmark  # noqa: E402
from earmark import modelfile  # noqa: E402
from earmark.cli import main  # noqa: E402
from earmark.compression.coarse import (  # noqa: E402
    calibration_pieces,
    coarse_file,
    requantizer,
    steps_of,
)
from earmark.nn import SoundResNet  # noqa: E402
from earmark.storage.levels import levels_of, restored  # noqa: E402
from earmark.training import (  # noqa: E402
    Corpus,
    TrainingConfig,
    find_utterances,
    train_compressed,
    train_quantized,
    train_sounds,
)
from earmark.training.dataset import Recordings  # noqa: E402

from .paths import one_torch_thread  # noqa: E402
from .sounds import sound, write_clips  # noqa: E402
from .test_training_sounds import LABELS, PLAIN, TRAINING, network  # noqa: E402

CONFIG = replace(TRAINING, epochs=15, learning_rate=2e-4, augmentation=PLAIN)
WAVES = [sound(label, seed) for label in LABELS for seed in range(60, 66)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), each=4)


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return Corpus(find_utterances(folder))


@pytest.fixture(scope="module")
def checkpoint(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained")
    train_sounds(network(), corpus, run, replace(TRAINING, epochs=25, augmentation=PLAIN))
    return run / "model.safetensors"


@pytest.fixture
def trained(checkpoint: Path) -> SoundResNet:
    net = earmark.load_checkpoint(checkpoint)
    assert isinstance(net, SoundResNet)
    return net


def divergence(model: earmark.Classifier, reference: earmark.Classifier) -> float:
    """Of the classes' probabilities in all windows, mean Kullback-Leibler, in nats."""
    p, q = (
        np.stack([heard.probabilities for heard in m.classify(WAVES)]).clip(1e-9)
        for m in (reference, model)
    )
    return float((p * np.log(p / q)).sum(axis=1).mean())


def test_distillation_brings_probabilities_nearer(
    corpus: Corpus, trained: SoundResNet, tmp_path: Path
) -> None:
    paths = corpus.recordings.paths
    reference = earmark.quantize(trained, scheme="fp32").classifier
    before = earmark.quantize(trained, paths, precision={"all": "int2"}).classifier
    result = train_quantized(
        trained,
        corpus,
        tmp_path,
        CONFIG,
        calibration=paths,
        precision={"all": "int2"},
        distill=True,
    )
    assert result["output"] == str(tmp_path / "model.earmark")
    assert (result["classes"], result["clips"]) == (3, 12)
    model = earmark.load(tmp_path / "model.earmark")
    assert isinstance(model, earmark.Classifier)
    assert {layer["precision"] for layer in model.info()["layers"]} == {"int2"}
    assert divergence(model, reference) < 0.95 * divergence(before, reference)


def test_labels_are_learnt(corpus: Corpus, trained: SoundResNet, tmp_path: Path) -> None:
    paths = corpus.recordings.paths
    result = train_quantized(
        trained, corpus, tmp_path, CONFIG, calibration=paths, precision={"all": "int2"}
    )
    model = earmark.load(tmp_path / "model.earmark")
    heard = [item.label for item in model.classify([sound(label, 50) for label in LABELS])]
    assert heard == list(LABELS)
    assert result["accuracy"] > 0.8


def test_coarse_weights_stay_multiples_of_their_steps(
    corpus: Corpus, trained: SoundResNet, tmp_path: Path
) -> None:
    paths = corpus.recordings.paths
    path = tmp_path / "coarse.earmark"
    earmark.quantize(trained, paths).save(path)
    model = modelfile.read(path)
    pieces = calibration_pieces(earmark.Classifier(path), paths[::2])
    coarse = coarse_file(model, requantizer(model, pieces).at(1e-3))
    config = replace(CONFIG, learning_rate=1e-3)
    run = tmp_path / "run"
    train_compressed(trained, corpus, run, config, compressed=coarse, price=0.0)
    found = modelfile.read(run / "model.earmark")
    arrays, start = found.decoded_arrays(), coarse.decoded_arrays()
    changed = 0
    for name, step in steps_of(found).items():
        weight = arrays[f"{name}.weight"]
        np.testing.assert_array_equal(restored(levels_of(weight, step), step), weight)
        changed += int((weight != start[f"{name}.weight"]).sum())
    assert changed
    heard = earmark.Classifier(found).classify([sound(label, 50) for label in LABELS])
    assert [item.label for item in heard] == list(LABELS)


def test_what_does_not_go_together(corpus: Corpus, trained: SoundResNet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a TrainingConfig is not for a SoundResNet"):
        train_quantized(trained, corpus, tmp_path, TrainingConfig(), calibration=[])
    noise = Recordings(corpus.recordings.paths[:1])
    with pytest.raises(ValueError, match="noise is for networks of speakers alone"):
        train_quantized(trained, corpus, tmp_path, CONFIG, calibration=[], noise=noise)
    assert not any(tmp_path.iterdir())


def test_the_command(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    quick = ("--epochs=1", "--batch=3", "--crop=0.5", "--threads=1", "--fold=2", "--json")
    argv = ["finetune", checkpoint, folder, "-o", run, *quick, "--qat", "all=int4", "--distill"]
    assert main([str(word) for word in argv]) == 0, capsys.readouterr().err
    result = json.loads(capsys.readouterr().out)
    assert result["output"] == str(run / "model.earmark")
    assert 0 <= result["clips_right"] <= 1
    info = earmark.load(run / "model.earmark").info()
    assert {layer["precision"] for layer in info["layers"]} == {"int4"}
