"""Training small networks on synthetic voices: learning, interruption, files, commands."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from earmark.errors import FormatError  # noqa: E402
from earmark.families import load_checkpoint  # noqa: E402
from earmark.frontend import SpeechBrainFbank  # noqa: E402
from earmark.nn import EcapaConfig, EcapaTdnn  # noqa: E402
from earmark.training import (  # noqa: E402
    Augmentation,
    Corpus,
    Evaluation,
    TrainingConfig,
    find_utterances,
    train,
)
from earmark.training.checkpoint import atomic_file  # noqa: E402
from earmark.training.process import alone_in  # noqa: E402

from .paths import one_torch_thread  # noqa: E402
from .voices import write_corpus  # noqa: E402

SMALL = EcapaConfig(
    n_mels=20,
    channels=(16, 16, 16, 16, 32),
    dilations=(1, 2, 2, 2, 1),
    attention_channels=8,
    res2_scale=4,
    se_channels=8,
    embedding=12,
)
CONFIG = TrainingConfig(
    epochs=3,
    batch=8,
    learning_rate=5e-3,
    average=0.9,
    augmentation=Augmentation(
        crop_seconds=0.3, speeds=(1.0, 0.9), rooms=0, mask_mels=(3,), mask_frames=(5,)
    ),
)


# Enough to tell the voices apart.
LONGER = replace(
    CONFIG,
    epochs=30,
    learning_rate=1e-2,
    margin_warmup=0.0,
    augmentation=replace(CONFIG.augmentation, speeds=(1.0,), mask_mels=()),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), speakers=4, utterances=6)


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return Corpus(find_utterances(folder))


def network(config: EcapaConfig = SMALL, seed: int = 0) -> EcapaTdnn:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return EcapaTdnn(config, SpeechBrainFbank(config.n_mels), "speechbrain")


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same_files(one: Path, other: Path, name: str = "model.safetensors") -> bool:
    return (one / name).read_bytes() == (other / name).read_bytes()


@pytest.fixture(scope="module")
def finished(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    run = tmp_path_factory.mktemp("run")
    train(network(), corpus, run, CONFIG)
    return run


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a longer run."""
    run = tmp_path_factory.mktemp("longer")
    train(network(), corpus, run, LONGER)
    return run


def test_the_loss_falls_and_speakers_come_apart(corpus: Corpus, trained: Path) -> None:
    rows = rows_of(trained)
    assert (rows[-1]["epoch"], rows[-1]["step"]) == ("30", "90")
    assert float(rows[-1]["loss"]) < 0.4 * float(rows[0]["loss"])
    assert float(rows[-1]["accuracy"]) > 0.8
    found = load_checkpoint(trained / "model.safetensors").embed(corpus.recordings.paths)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    scores = found @ found.T
    same = corpus.labels[:, None] == corpus.labels
    assert scores[same].mean() > scores[~same].mean() + 0.3


def test_the_log(finished: Path) -> None:
    rows = rows_of(finished)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["6", "12", "18"]
    assert {row["eer"] for row in rows} == {""}
    for row in rows:
        for name in ("loss", "learning_rate", "gradient_norm", "crops_per_second", "seconds"):
            assert float(row[name]) > 0
    assert float(rows[-1]["learning_rate"]) == pytest.approx(CONFIG.learning_rate / 100)


def test_the_model_file_says_what_it_is(finished: Path) -> None:
    path = finished / "model.safetensors"
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["earmark"])
    assert described["family"] == "speechbrain"
    assert EcapaConfig.from_dict(described["config"]) == SMALL
    assert described["recipe"]["training"] == CONFIG.to_dict()
    for family in (None, "speechbrain"):
        net = load_checkpoint(path, family)
        assert (net.config, net.family, net.training) == (SMALL, "speechbrain", False)
    # Dilations of the file, which its weights cannot tell.
    other = SMALL.to_dict() | {"dilations": [1, 1, 1, 1, 1]}
    feats = torch.randn(1, 30, 20, generator=torch.Generator().manual_seed(0))
    wrong = network(EcapaConfig.from_dict(other)).eval()
    wrong.load_state_dict(load_file(path))
    assert not torch.allclose(net(feats), wrong(feats))


def test_weights_are_averaged(corpus: Corpus, finished: Path, tmp_path: Path) -> None:
    net = network()
    train(net, corpus, tmp_path, replace(CONFIG, average=0.0))
    plain = load_file(tmp_path / "model.safetensors")
    averaged = load_file(finished / "model.safetensors")
    state = load_file(finished / "state.safetensors")
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, plain[key])
        assert torch.equal(tensor, state[f"model.{key}"])
    assert not torch.equal(plain["fc.conv.weight"], averaged["fc.conv.weight"])


def test_equal_seeds_give_equal_bits(corpus: Corpus, finished: Path, tmp_path: Path) -> None:
    train(network(), corpus, tmp_path, CONFIG, workers=3)
    weights, again = (load_file(run / "model.safetensors") for run in (finished, tmp_path))
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert same_files(finished, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on(
    corpus: Corpus, finished: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Amid an epoch, whose sums go on too."""
    before = signal.getsignal(signal.SIGTERM)
    stops = iter((2, 9))
    stop = next(stops)
    seen: list[int] = []

    def kill_at_stop(done: int, total: int) -> None:
        seen.append(done)
        assert total == 18
        if done == stop:
            os.kill(os.getpid(), number)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(network(), corpus, tmp_path, CONFIG, progress=kill_at_stop)
        stop = next(stops, 0)
    train(network(), corpus, tmp_path, CONFIG, progress=kill_at_stop)
    assert seen == list(range(1, 19))
    assert same_files(tmp_path, finished)
    for row, expected in zip(rows_of(tmp_path), rows_of(finished), strict=True):
        assert (row["loss"], row["accuracy"]) == (expected["loss"], expected["accuracy"])
    assert signal.getsignal(signal.SIGTERM) == before


_VICTIM = """
    import sys, torch
    from dataclasses import replace
    torch.set_num_threads(1)
    sys.path.insert(0, {root!r})
    from tests.test_training import CONFIG, network
    from earmark.training import Corpus, find_utterances, train
    def show(done, total):
        print(done, flush=True)
    train(network(), Corpus(find_utterances({folder!r})), {run!r}, CONFIG, save_seconds=0.0,
          progress=show)
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(
    folder: Path, corpus: Corpus, finished: Path, tmp_path: Path
) -> None:
    """SIGKILL, while every step writes the state: it may hit in the middle of it."""
    run = tmp_path / "run"
    source = textwrap.dedent(_VICTIM).format(
        root=str(Path(__file__).parents[1]), folder=str(folder), run=str(run)
    )
    for step, delay in (("3", 0.0), ("8", 0.005)):
        with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as victim:
            assert victim.stdout is not None
            for line in victim.stdout:
                if line.decode().strip() == step:
                    time.sleep(delay)
                    victim.kill()
                    break
        assert victim.returncode == -signal.SIGKILL
        with safe_open(run / "state.safetensors", "pt") as file:
            saved = json.loads(file.metadata()["earmark"])["step"]
        assert int(step) - 1 <= saved < 18
    train(network(), corpus, run, CONFIG)
    assert same_files(run, finished)


def test_a_finished_run_only_says_its_result(
    corpus: Corpus, finished: Path, tmp_path: Path
) -> None:
    (finished / "model.safetensors").rename(tmp_path / "model.safetensors")
    result = train(network(), corpus, finished, CONFIG, progress=lambda done, total: 1 / 0)
    assert (result["epoch"], result["step"]) == (3, 18)
    assert same_files(finished, tmp_path)


def test_half_written_files_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    (tmp_path / ".file.tmp").write_text("of a killed process, longer than the new one")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 1e-2}, "training.learning_rate is 0.005, not 0.01"),
        ({"seed": 1}, "training.seed is 0, not 1"),
        (
            {"augmentation": replace(CONFIG.augmentation, speeds=(1.0,))},
            r"training.augmentation.speeds is \[1.0, 0.9\], not \[1.0\]",
        ),
    ],
)
def test_another_recipe_is_refused(
    corpus: Corpus, finished: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"{finished}: holds a run whose {message}"):
        train(network(), corpus, finished, replace(CONFIG, **changed))


def test_other_data_network_or_trials_are_refused(corpus: Corpus, finished: Path) -> None:
    fewer = Corpus(find_utterances(corpus.recordings.paths[0].parents[1])[:-1])
    with pytest.raises(ValueError, match=r"data[.]utterances is 24, not 23"):
        train(network(), fewer, finished, CONFIG)
    with pytest.raises(ValueError, match=r"network[.]se_channels is 8, not 4"):
        train(network(replace(SMALL, se_channels=4)), corpus, finished, CONFIG)
    with pytest.raises(ValueError, match=r"evaluation[.]trials is None, not 'x'"):
        train(network(), corpus, finished, CONFIG, evaluation=Evaluation(lambda net: {}, 1, "x"))


@pytest.mark.parametrize("content", [b"", b"junk", b"\x02\0\0\0\0\0\0\0{}"])
@pytest.mark.parametrize("name", ["state.safetensors", "recipe.json"])
def test_broken_files_of_a_run(corpus: Corpus, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=f"{name}: not the .* of a run: "):
        train(network(), corpus, tmp_path, CONFIG)


def test_one_process_a_folder(corpus: Corpus, tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(RuntimeError, match="another process trains"):
        train(network(), corpus, tmp_path, CONFIG)


def test_a_loss_that_is_not_finite_ends_the_run(corpus: Corpus, tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        net.fc.conv.bias.fill_(float("inf"))
    with pytest.raises(RuntimeError, match="the loss is nan by step 6: try a lower"):
        train(net, corpus, tmp_path, CONFIG)
    assert not (tmp_path / "state.safetensors").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(corpus: Corpus, tmp_path: Path, precision: str) -> None:
    config = replace(CONFIG, precision=precision, epochs=1)
    reached = []

    def stop(done: int, total: int) -> None:
        reached.append(done)
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(network(), corpus, tmp_path / "a", config, progress=stop)
    for run in ("a", "b"):
        result = train(network(), corpus, tmp_path / run, config)
        assert np.isfinite(result["loss"])
    assert same_files(tmp_path / "a", tmp_path / "b")
    assert load_file(tmp_path / "a" / "model.safetensors")["fc.conv.weight"].dtype == torch.float32


def test_evaluations(corpus: Corpus, tmp_path: Path) -> None:
    seen = []

    def measure(net: EcapaTdnn) -> dict[str, Any]:
        assert not net.training
        seen.append(net.fc.conv.weight.clone())
        return {"eer": 0.1 * len(seen), "trials": 5}

    train(network(), corpus, tmp_path, CONFIG, evaluation=Evaluation(measure, 2, "trials"))
    assert [row["eer"] for row in rows_of(tmp_path)] == ["", "0.1", "0.2"]
    path = tmp_path / "model.safetensors"
    assert torch.equal(load_file(path)["fc.conv.weight"], seen[-1])
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["earmark"])["measured"] == {"eer": 0.2, "trials": 5}


def test_finetuning_starts_from_the_embeddings(
    corpus: Corpus, trained: Path, tmp_path: Path
) -> None:
    """At a rate of nearly 0, the centres tell the speakers of a trained network at once."""
    # Of another seed: random centres like those that it was trained with would do as well.
    config = replace(LONGER, epochs=1, learning_rate=1e-9, seed=1)
    found = {}
    for pretrained in (False, True):
        net = load_checkpoint(trained / "model.safetensors")
        run = tmp_path / str(pretrained)
        found[pretrained] = train(net, corpus, run, config, pretrained=pretrained)
    assert found[True]["accuracy"] > 0.8 > 0.7 > found[False]["accuracy"]
    with pytest.raises(ValueError, match=r"holds a run whose start is .*, not 'random'"):
        train(network(), corpus, tmp_path / "True", config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("warmup", 1.0),
        ("margin", -0.1),
        ("scale", float("inf")),
        ("clip", 0.0),
        ("average", 1.0),
        ("precision", "int8"),
        ("seed", -1),
    ],
)
def test_bad_config(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} is .* out of range"):
        TrainingConfig(**{field: value})
