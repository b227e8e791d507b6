"""Training of coarse weights: they stay multiples of their steps, embeddings come nearer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs torch")

import earmark  # noqa: E402
from earmark import modelfile  # noqa: E402
from earmark.audio import read_audio  # noqa: E402
from earmark.cli import main  # noqa: E402
from earmark.compression.coarse import (  # noqa: E402
    calibration_pieces,
    coarse_file,
    requantizer,
    steps_of,
    with_arrays,
)
from earmark.metrics import cosine_score  # noqa: E402
from earmark.nn import EcapaTdnn  # noqa: E402
from earmark.plan import PlanBuilder, make_engine, trace  # noqa: E402
from earmark.storage.levels import levels_of, restored  # noqa: E402
from earmark.training import Corpus, find_utterances, train, train_compressed  # noqa: E402
from earmark.training.fake_quantization import FakeQuantizedPlan  # noqa: E402

from .paths import one_torch_thread  # noqa: E402
from .test_training import LONGER, network  # noqa: E402
from .voices import write_corpus  # noqa: E402

Array = NDArray[Any]
PLAIN = replace(LONGER.augmentation, mask_frames=(), noise=0.0)
CONFIG = replace(LONGER, learning_rate=3e-4, augmentation=PLAIN)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = write_corpus(tmp_path_factory.mktemp("corpus"), speakers=4, utterances=6)
    return Corpus(find_utterances(folder))


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> EcapaTdnn:
    run = tmp_path_factory.mktemp("trained")
    train(network(), corpus, run, LONGER)
    return earmark.load_checkpoint(run / "model.safetensors")


@pytest.fixture(scope="module")
def coarse(
    corpus: Corpus, trained: EcapaTdnn, tmp_path_factory: pytest.TempPathFactory
) -> modelfile.ModelFile:
    paths = corpus.recordings.paths
    path = tmp_path_factory.mktemp("coarse") / "coarse.earmark"
    earmark.quantize(trained, paths).save(path)
    model = modelfile.read(path)
    pieces = calibration_pieces(earmark.Embedder(path), paths[::3])
    modelfile.write(coarse_file(model, requantizer(model, pieces).at(1e-2)), path)
    return modelfile.read(path)


def are_multiples(file: modelfile.ModelFile) -> bool:
    arrays = file.decoded_arrays()
    return all(
        np.array_equal(restored(levels_of(arrays[f"{name}.weight"], step), step), weight)
        for name, step in steps_of(file).items()
        for weight in [arrays[f"{name}.weight"]]
    )


def test_the_forward_pass_is_the_engines(coarse: modelfile.ModelFile, corpus: Corpus) -> None:
    plan = PlanBuilder.of(coarse.plan, coarse.decoded_arrays())
    limits = {op["name"]: 127 for op in plan.ops}
    module = FakeQuantizedPlan(plan, limits, steps_of(coarse))
    features = calibration_pieces(earmark.Embedder(coarse), corpus.recordings.paths[:1])[0]
    with torch.no_grad():
        found = module(torch.from_numpy(features[None])).numpy()[0]
    expected = trace(make_engine(plan.plan, plan.arrays), features)["embedding"]
    assert cosine_score(found, expected) > 0.99999
    for name, array in module.learnt().arrays.items():
        np.testing.assert_array_equal(array, plan.arrays[name], strict=True)
    rate = module.rate()
    rate.backward()
    assert 0.1 < float(rate.detach()) < 4
    assert module.get_parameter("mfa/weight").grad.abs().max() > 0


def test_a_file_with_its_own_arrays_is_the_same(coarse: modelfile.ModelFile) -> None:
    assert are_multiples(coarse)
    arrays = coarse.decoded_arrays()
    again = with_arrays(coarse, arrays)
    for name, array in again.decoded_arrays().items():
        np.testing.assert_array_equal(array, arrays[name], strict=True)
    # Of levels that are cut to the same weight the least is kept: never larger.
    assert len(modelfile.to_bytes(again)) <= len(modelfile.to_bytes(coarse))


def test_embeddings_come_nearer_or_the_file_becomes_smaller(
    corpus: Corpus, trained: EcapaTdnn, coarse: modelfile.ModelFile, tmp_path: Path
) -> None:
    """As a bit has no price, or a high one; of crops as long as those that are trained on."""
    size = int(CONFIG.augmentation.crop_seconds * 16000)
    waves = [read_audio(path).samples for path in corpus.recordings.paths]
    crops = [wave[i : i + size] for wave in waves for i in range(0, len(wave) - size, size // 2)]
    reference = earmark.quantize(trained, scheme="fp32").embed(crops)
    before = cosine_score(earmark.Embedder(coarse).embed(crops), reference).mean()

    def learnt(price: float) -> modelfile.ModelFile:
        run = tmp_path / str(price)
        train_compressed(trained, corpus, run, CONFIG, compressed=coarse, price=price)
        found = modelfile.read(run / "model.earmark")
        assert are_multiples(found)
        weights = found.decoded_arrays()["mfa.weight"]
        assert (weights != coarse.decoded_arrays()["mfa.weight"]).any()
        return found

    after = cosine_score(earmark.Embedder(learnt(0.0)).embed(crops), reference).mean()
    assert 1 - after < 0.6 * (1 - before)
    coded = "coded.rans.int8"
    assert learnt(1.0).arrays[coded].size < 0.98 * coarse.arrays[coded].size


def test_the_command(
    corpus: Corpus,
    trained: EcapaTdnn,
    coarse: modelfile.ModelFile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = tmp_path / "start.ckpt"
    torch.save(trained.state_dict(), start)
    small, plain = tmp_path / "small.earmark", tmp_path / "plain.earmark"
    modelfile.write(coarse, small)
    earmark.quantize(trained, scheme="fp32").save(plain)
    folder = corpus.recordings.paths[0].parents[1]

    def finetune(*options: str) -> tuple[int, str]:
        capsys.readouterr()
        quick = ["--epochs=1", "--batch=8", "--crop=0.3", "--speeds=1", "--rooms=0", "--threads=1"]
        argv = ["finetune", start, folder, "--family=speechbrain", *quick, *options]
        return main([str(word) for word in argv]), capsys.readouterr().err

    run = tmp_path / "run"
    status, err = finetune("-o", str(run), "--compressed", str(small), "--price=0.02")
    assert status == 0, err
    assert are_multiples(modelfile.read(run / "model.earmark"))
    for options, message in (
        (("--compressed", str(plain)), "weights have no steps"),
        (("--compressed", str(small), "--qat"), "goes with neither --qat nor --softmax"),
        (("--price=1",), "--price needs --compressed"),
    ):
        status, err = finetune("-o", str(tmp_path / "x"), *options)
        assert (status, message in err, err.count("\n")) == (2, True, 1)
