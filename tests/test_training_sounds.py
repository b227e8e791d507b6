"""Training of sound networks: examples, balance, learning, interruption, the command."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from earmark.cli import main  # noqa: E402
from earmark.clips import find_clips  # noqa: E402
from earmark.families import load_checkpoint  # noqa: E402
from earmark.frontend import LogMel  # noqa: E402
from earmark.nn import SoundResNet  # noqa: E402
from earmark.training import (  # noqa: E402
    Corpus,
    SoundAugmentation,
    SoundTrainingConfig,
    find_utterances,
    train_sounds,
)
from earmark.training.loop import digest_of  # noqa: E402
from earmark.training.sounds import SoundExamples  # noqa: E402

from .paths import one_torch_thread  # noqa: E402
from .sounds import (  # noqa: E402
    CONFIG,
    LABELS,
    small_network,
    sound,
    write_checkpoint,
    write_clips,
)
from .voices import write  # noqa: E402

PLAIN = SoundAugmentation(
    seconds=0.5, speed=(1.0, 1.0), gain_db=(0.0, 0.0), mix=0.0, mask_mels=(), mask_frames=()
)
AUGMENTED = SoundAugmentation(seconds=0.5, mask_mels=(3,), mask_frames=(3,))
TRAINING = SoundTrainingConfig(
    epochs=3, batch=6, learning_rate=5e-3, average=0.9, augmentation=AUGMENTED
)


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
def unbalanced(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = write_clips(tmp_path_factory.mktemp("few"), each=6, hiss=2)
    return Corpus(find_utterances(folder))


def network(seed: int = 0) -> SoundResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SoundResNet(CONFIG, LABELS)


def examples(corpus: Corpus, how: SoundAugmentation = AUGMENTED, seed: int = 0) -> SoundExamples:
    return SoundExamples(corpus, LogMel(24), how, seed)


def test_examples_follow_from_seed_epoch_and_index(corpus: Corpus) -> None:
    made = [examples(corpus).make(2, i) for i in range(6)]
    again = [examples(corpus).make(2, i) for i in range(6)]
    for (features, target), (same, same_target) in zip(made, again, strict=True):
        assert features.shape == (26, 24)
        assert (features.dtype, target.dtype) == (np.float32, np.float32)
        assert target.sum() == pytest.approx(1, abs=1e-6)
        np.testing.assert_array_equal(features, same)
        np.testing.assert_array_equal(target, same_target)
    other = examples(corpus).make(3, 0)[0]
    assert not np.array_equal(other, made[0][0])
    assert not np.array_equal(examples(corpus, seed=1).make(2, 0)[0], made[0][0])


def test_plain_pieces_have_their_class(corpus: Corpus) -> None:
    for index, label in enumerate(corpus.labels):
        assert examples(corpus, PLAIN).make(0, index)[1].argmax() == label


def test_mixed_pieces_have_both_classes(corpus: Corpus) -> None:
    always = replace(PLAIN, mix=1.0)
    targets = np.stack([examples(corpus, always).make(0, i)[1] for i in range(len(corpus))])
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert ((targets > 0).sum(axis=1) == 2).any()


def test_a_silent_piece_may_be_anything(tmp_path: Path) -> None:
    for label, wave in (("hiss", sound("hiss", 0)), ("nothing", np.zeros(40_000))):
        write(tmp_path / label / "0.flac", wave)
    pieces = examples(Corpus(find_utterances(tmp_path)))
    for epoch in range(4):
        np.testing.assert_array_equal(pieces.make(epoch, 1)[1], [0.5, 0.5])
    # Where most of a clip is silent, the piece is drawn where it sounds, if five draws find it.
    burst = np.zeros(80_000)
    burst[:20_000] = sound("hiss", 1)[:20_000]
    write(tmp_path / "nothing" / "0.flac", burst)
    pieces = examples(Corpus(find_utterances(tmp_path)), PLAIN)
    targets = np.stack([pieces.make(epoch, 1)[1] for epoch in range(60)])
    assert 0.6 < (targets[:, 1] == 1).mean() < 1


def test_a_clip_shorter_than_a_piece_is_filled_up(tmp_path: Path) -> None:
    for label in ("a", "b"):
        write(tmp_path / label / "0.flac", sound("hiss", 0, 0.2))
    features, target = examples(Corpus(find_utterances(tmp_path)), PLAIN).make(0, 0)
    assert features.shape == (26, 24)
    assert target[0] == 1
    assert (features[-5:] == features.min()).all()


def test_undersampling_takes_as_many_of_each_class(unbalanced: Corpus) -> None:
    all_of_them = SoundExamples(unbalanced, LogMel(24), PLAIN, 0)
    assert len(all_of_them) == 14
    assert sorted(all_of_them.order(0)) == list(range(14))
    even = SoundExamples(unbalanced, LogMel(24), PLAIN, 0, undersample=True)
    assert len(even) == 6
    seen: set[int] = set()
    for epoch in range(40):
        order = even.order(epoch)
        assert len(set(order)) == 6
        assert np.bincount(unbalanced.labels[order]).tolist() == [2, 2, 2]
        seen.update(order.tolist())
    # Drawn anew in each epoch, so that nothing is lost.
    assert seen == set(range(14))


def test_class_weights_let_rare_classes_count_more(unbalanced: Corpus, tmp_path: Path) -> None:
    losses = {}
    for weighted in (False, True):
        config = replace(TRAINING, epochs=1, class_weights=weighted, average=0.0)
        run = tmp_path / str(weighted)
        train_sounds(network(), unbalanced, run, config)
        losses[weighted] = json.loads((run / "recipe.json").read_text())["training"]
        assert losses[weighted]["class_weights"] is weighted
    first, second = (
        load_checkpoint(tmp_path / name / "model.safetensors").state_dict()
        for name in ("False", "True")
    )
    assert not torch.equal(first["fc.bias"], second["fc.bias"])


def test_the_loss_falls_and_classes_come_apart(corpus: Corpus, tmp_path: Path) -> None:
    config = replace(TRAINING, epochs=25, augmentation=PLAIN)
    result = train_sounds(network(), corpus, tmp_path, config)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < 0.6 * float(rows[0]["loss"])
    assert (result["classes"], result["clips"], result["clips_right"]) == (3, 12, None)
    net = load_checkpoint(tmp_path / "model.safetensors")
    assert isinstance(net, SoundResNet)
    heard = net.classify([sound(label, 50) for label in LABELS])
    assert [h.label for h in heard] == list(LABELS)


def test_a_run_goes_on_with_the_same_bits(corpus: Corpus, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_sounds(network(), corpus, whole, TRAINING)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_sounds(network(), corpus, parts, TRAINING, save_seconds=0, progress=stop)
    train_sounds(network(), corpus, parts, TRAINING)
    name = "model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_other_classes_than_the_network_s_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    net = SoundResNet(CONFIG, ("clicks", "hiss", "horn"))
    with pytest.raises(ValueError, match="classes clicks, hiss, siren, the network knows clicks"):
        train_sounds(net, corpus, tmp_path, TRAINING)


@pytest.mark.parametrize(
    ("name", "value"),
    [("speed", (0.1, 1.0)), ("gain_db", (3.0, 1.0)), ("mix", 1.5), ("seconds", 0.0)],
)
def test_augmentation_out_of_range(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        replace(AUGMENTED, **{name: value})


def test_begin_as_shortcuts() -> None:
    net = small_network().train()
    net.begin_as_shortcuts()
    gains = [p for name, p in net.named_parameters() if name.endswith("bn3.weight")]
    assert len(gains) == 2
    assert not any(gain.any() for gain in gains)


COMMAND = ["train", "DATA", "-o", "RUN", "--network", "sound-resnet"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--margin", "0.3"], "--margin is for ECAPA-TDNNs alone"),
        (["--channels", "64"], "--channels is for"),
        (["--noise", "x"], "--noise is for"),
        (["--fold", "3"], "meta.csv: has no clip of fold 3"),
    ],
)
def test_options_of_the_other_network(
    folder: Path,
    tmp_path: Path,
    argv: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(folder) if a == "DATA" else str(tmp_path) if a == "RUN" else a for a in COMMAND]
    assert main([*given, *argv]) == 2
    assert message in capsys.readouterr().err
    speakers = [*given[:4], "--undersample"]
    assert main(speakers) == 2
    assert "--undersample is for sound networks alone" in capsys.readouterr().err


def test_the_command(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # ResNet-50 itself would take a minute.
    small = lambda classes: replace(CONFIG, classes=classes)  # noqa: E731
    monkeypatch.setattr("earmark.nn.SoundResNetConfig", small, raising=False)
    argv = ["train", str(folder), "-o", str(tmp_path), "--network", "sound-resnet", "--fold", "2"]
    assert main([*argv, "--epochs", "2", "--batch", "3", "--crop", "0.5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["classes"], result["clips"], result["epoch"]) == (3, 6, 2)
    assert 0 <= result["clips_right"] <= 1
    assert load_checkpoint(tmp_path / "model.safetensors").family == "sound-resnet"


def test_finetune_goes_on_from_a_network(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = write_checkpoint(network(), tmp_path / "begin.safetensors")
    argv = ["finetune", str(begin), str(folder), "-o", str(tmp_path / "run"), "--fold", "2"]
    argv += ["--epochs", "1", "--batch", "6", "--crop", "0.5", "--average", "0", "--json"]
    assert main([*argv, "--lr", "1e-9"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["classes"], result["clips"], result["epoch"]) == (3, 6, 1)
    found = load_checkpoint(result["output"])
    assert isinstance(found, SoundResNet)
    assert found.labels == LABELS
    # So low a rate leaves the weights where they were; a new network would have others.
    torch.testing.assert_close(found.fc.weight, network().fc.weight, atol=1e-7, rtol=0)
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert recipe["start"] == digest_of(network())
    other = write_checkpoint(network(1), begin)
    assert main([argv[0], str(other), *argv[2:]]) == 2
    assert "holds a run whose start is" in capsys.readouterr().err


def test_finetune_refuses_what_is_not_for_sounds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = write_checkpoint(network(), tmp_path / "begin.safetensors")
    run = str(tmp_path / "run")
    for given, option in ((["--margin", "0.3"], "margin"), (["--softmax", "pwl"], "softmax")):
        assert main(["finetune", str(begin), str(folder), "-o", run, *given]) == 2
        assert f"--{option} is for ECAPA-TDNNs alone" in capsys.readouterr().err
    fewer = tmp_path / "fewer"
    shutil.copytree(folder, fewer)
    shutil.rmtree(fewer / "hiss")
    assert main(["finetune", str(begin), str(fewer), "-o", run]) == 2
    error = capsys.readouterr().err
    assert "of the classes clicks, siren, the network knows clicks, hiss, siren" in error
    assert error.count("\n") == 1


def test_a_clip_that_cannot_be_heard_ends_no_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = write_checkpoint(network(), tmp_path / "begin.safetensors")
    clips = tmp_path / "clips"
    shutil.copytree(folder, clips)
    bad = clips / "siren" / "1.flac"
    bad.write_bytes(b"no audio")
    argv = ["finetune", str(begin), str(clips), "-o", str(tmp_path / "run"), "--fold", "2"]
    argv += ["--epochs", "2", "--batch", "6", "--crop", "0.5", "--eval-every", "1", "--json"]
    assert main(argv) == 2
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["epoch"], [row["path"] for row in result["failed"]]) == (2, [str(bad)])
    assert "1 of 6 clips failed: " in err
    # Five clips were heard.
    assert (5 * result["clips_right"]).is_integer()
    assert load_checkpoint(result["output"]).family == "sound-resnet"
    with (tmp_path / "run" / "log.csv").open() as file:
        assert all(row["clips_right"] for row in csv.DictReader(file))
    for row in find_clips(clips, 2):
        row.path.unlink()
    shutil.rmtree(tmp_path / "run")
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["clips_right"] is None
    assert "6 of 6 clips failed: " in err
