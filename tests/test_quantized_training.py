"""Training of quantized networks: the plan in torch beside the engine, runs, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs torch")

import earmark  # noqa: E402
from earmark.cli import main  # noqa: E402
from earmark.lowering.ecapa import lower_ecapa  # noqa: E402
from earmark.lowering.softmax import lower_softmax  # noqa: E402
from earmark.metrics import cosine_score  # noqa: E402
from earmark.nn import EcapaTdnn, LookupTableSoftmax, PiecewiseLinearSoftmax  # noqa: E402
from earmark.plan import PlanBuilder, make_engine, trace  # noqa: E402
from earmark.quantization.calibration import calibrate  # noqa: E402
from earmark.quantization.precision import PRECISIONS  # noqa: E402
from earmark.quantization.quantizer import quantize_plan  # noqa: E402
from earmark.training import Corpus, find_utterances, train, train_quantized  # noqa: E402
from earmark.training.fake_quantization import FakeQuantizedPlan  # noqa: E402
from networks import (  # noqa: E402
    SMALL,
    SMALL_RESNET,
    random_features,
    random_resnet,
    random_state,
    resnet_plan,
)

from .paths import one_torch_thread  # noqa: E402
from .test_training import CONFIG, LONGER, network  # noqa: E402
from .voices import write_corpus  # noqa: E402

Array = NDArray[Any]
PRECISE = {"blocks.2": "fp32", "asp.conv": "fp32", "asp.tdnn": "fp32", "fc": "fp32"}
QUICK = replace(CONFIG, learning_rate=1e-3, epochs=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def softmax(kind: str) -> tuple[str, dict[str, Array]]:
    layer = {
        "exact": None,
        "pwl": PiecewiseLinearSoftmax(segments=2),
        "table": LookupTableSoftmax(entries=32),
    }[kind]
    if layer is not None:
        layer.fit((-12.0, 2.0))
    return lower_softmax(layer) if layer is not None else ("exact", {})


def quantized_plan(plan: PlanBuilder, features: list[Array], bits: str, **fp32: str) -> PlanBuilder:
    names = [op["name"] for op in plan.ops]
    chosen = {
        name: PRECISIONS[next((p for key, p in fp32.items() if name.startswith(key)), bits)]
        for name in names
    }
    seen = calibrate(plan, ((item, []) for item in features), "minmax")
    return quantize_plan(plan, seen, chosen)


def limits_of(plan: PlanBuilder, bits: str) -> dict[str, int]:
    limit = (1 << (PRECISIONS[bits].weight_bits - 1)) - 1
    return {op["name"]: limit for op in plan.ops if "weight" in op["arrays"]}


def both(plan: PlanBuilder, bits: str, features: list[Array]) -> tuple[Array, Array]:
    """The output in torch and in the engine."""
    module = FakeQuantizedPlan(plan, limits_of(plan, bits))
    with torch.no_grad():
        found = module(torch.from_numpy(np.stack(features))).numpy()
    engine = make_engine(plan.plan, plan.arrays)
    output = plan.ops[-1]["out"]
    return found, np.stack([trace(engine, item)[output] for item in features])


@pytest.mark.parametrize("bits", ["int8", "int3"])
@pytest.mark.parametrize("kind", ["exact", "pwl", "table"])
@pytest.mark.parametrize("precise", [{}, PRECISE], ids=["integer", "mixed"])
def test_the_forward_pass_is_the_engines(bits: str, kind: str, precise: dict[str, str]) -> None:
    plan = lower_ecapa(SMALL, random_state(SMALL), softmax(kind))
    features = [random_features(i, 60, SMALL.n_mels) for i in range(4)]
    found, expected = both(quantized_plan(plan, features, bits, **precise), bits, features)
    assert cosine_score(found, expected).min() > 0.99999
    # A sum next to the border between two integers may fall to the other side.
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("precise", [{}, {"layer1": "fp32"}], ids=["integer", "mixed"])
def test_images_too(precise: dict[str, str]) -> None:
    plan = resnet_plan(random_resnet(SMALL_RESNET))
    features = [random_features(i, 41, SMALL_RESNET.n_mels) for i in range(3)]
    found, expected = both(quantized_plan(plan, features, "int8", **precise), "int8", features)
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def test_what_is_not_trained_yet_is_the_plan_and_gradients_reach_all() -> None:
    features = [random_features(i, 60, SMALL.n_mels) for i in range(4)]
    plan = quantized_plan(lower_ecapa(SMALL, random_state(SMALL)), features, "int4")
    module = FakeQuantizedPlan(plan, limits_of(plan, "int4"))
    learnt = module.learnt()
    assert learnt.plan == plan.plan
    for name, array in plan.arrays.items():
        np.testing.assert_array_equal(learnt.arrays[name], array, strict=True)
    module(torch.from_numpy(np.stack(features))).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1.0
    moved = module.learnt()
    assert moved.arrays["mfa.weight"].dtype == np.int8
    assert (moved.arrays["mfa.weight"] == 7).all()
    assert moved.arrays["mfa.epilogue"].dtype == np.float32
    np.testing.assert_allclose(
        moved.arrays["mfa.epilogue"][0], 2 * plan.arrays["mfa.epilogue"][0], rtol=1e-6
    )
    make_engine(moved.plan, moved.arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), speakers=4, utterances=6)


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return Corpus(find_utterances(folder))


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> EcapaTdnn:
    run = tmp_path_factory.mktemp("trained")
    train(network(), corpus, run, LONGER)
    return earmark.load_checkpoint(run / "model.safetensors")


@pytest.mark.usefixtures("uncorrected")
def test_distillation_brings_embeddings_nearer(
    corpus: Corpus, trained: EcapaTdnn, tmp_path: Path
) -> None:
    paths = corpus.recordings.paths
    reference = earmark.quantize(trained, scheme="fp32").embed(paths)
    before = earmark.quantize(trained, paths, precision={"all": "int2"}).embed(paths)
    how = replace(LONGER.augmentation, mask_frames=(), noise=0.0)
    config = replace(LONGER, learning_rate=2e-4, augmentation=how)
    result = train_quantized(
        trained,
        corpus,
        tmp_path,
        config,
        calibration=paths,
        precision={"all": "int2"},
        distill=True,
    )
    assert result["output"] == str(tmp_path / "model.earmark")
    model = earmark.load(tmp_path / "model.earmark")
    assert {layer["precision"] for layer in model.info()["layers"]} == {"int2"}
    nearer = cosine_score(model.embed(paths), reference).mean()
    assert 1 - nearer < 0.5 * (1 - cosine_score(before, reference).mean())


@pytest.mark.parametrize("distill", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    corpus: Corpus, trained: EcapaTdnn, tmp_path: Path, distill: bool
) -> None:
    paths = corpus.recordings.paths[::4]

    def run(folder: Path, stop: int) -> None:
        def progress(done: int, total: int) -> None:
            if done == stop:
                raise InterruptedError

        train_quantized(
            trained,
            corpus,
            folder,
            QUICK,
            calibration=paths,
            distill=distill,
            save_seconds=0.0,
            progress=progress,
        )

    run(tmp_path / "whole", 0)
    with pytest.raises(InterruptedError):
        run(tmp_path / "halved", 7)
    run(tmp_path / "halved", 0)
    for name in ("model.earmark", "model.safetensors"):
        whole, halved = (tmp_path / part / name for part in ("whole", "halved"))
        assert whole.read_bytes() == halved.read_bytes()
    # Something was learnt.
    start = earmark.quantize(trained, paths)
    assert (earmark.load(whole.parent / "model.earmark").embed(paths) != start.embed(paths)).any()


def test_what_cannot_be_trained_is_refused(
    corpus: Corpus, trained: EcapaTdnn, tmp_path: Path
) -> None:
    for precision, message in (
        ({"fc": "int5"}, "unknown precision 'int5'"),
        ({"all": "dynamic"}, "layer 'blocks.0': precision dynamic cannot be trained"),
        ({"fc": "w4a16"}, "layer 'fc': precision w4a16 cannot be trained"),
    ):
        with pytest.raises(ValueError, match=message):
            train_quantized(
                trained,
                corpus,
                tmp_path,
                QUICK,
                calibration=corpus.recordings.paths,
                precision=precision,
            )


def test_the_command(
    folder: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "trials.txt").write_text(
        "1 s0/0.flac s0/1.flac\n1 s1/0.flac s1/1.flac\n0 s0/0.flac s1/0.flac\n"
    )
    start = tmp_path / "start"
    train(network(), corpus, start, replace(CONFIG, epochs=1))

    def finetune(*options: str) -> tuple[int, str, str]:
        capsys.readouterr()
        quick = ["--epochs=1", "--batch=8", "--crop=0.3", "--speeds=1", "--rooms=0", "--threads=1"]
        argv = ["finetune", start / "model.safetensors", folder, *quick, *options]
        status = main([str(word) for word in argv])
        return status, *capsys.readouterr()

    run = tmp_path / "run"
    trials = ("--trials", str(folder / "trials.txt"), "--root", str(folder))
    status, out, err = finetune(
        "-o", str(run), "--qat", "all=int4,fc=int8", "--distill", "--json", *trials
    )
    assert status == 0, err
    result = json.loads(out)
    assert result["output"] == str(run / "model.earmark")
    assert 0 <= result["eer"] <= 1
    info = earmark.load(run / "model.earmark").info()
    assert {layer["precision"] for layer in info["layers"]} == {"int4", "int8"}
    assert finetune("-o", str(tmp_path / "all"), "--qat")[0] == 0
    for options, message in (
        (("--distill",), "--distill needs --qat"),
        (("--qat", "--softmax=pwl"), "one after the other"),
        (("--qat", "fc"), "got 'fc'"),
    ):
        status, _, err = finetune("-o", str(tmp_path / "x"), *options)
        assert (status, message in err, err.count("\n")) == (2, True, 1)
