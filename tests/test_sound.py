"""Sounds from waveform to classes: windows, pooling, the Classifier, model files, commands."""

from __future__ import annotations

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="a network is made with torch")

import earmark  # noqa: E402
from earmark import AudioError, FormatError, modelfile  # noqa: E402
from earmark.classifier import Classifier  # noqa: E402
from earmark.cli import main  # noqa: E402
from earmark.clips import find_clips, read_clips  # noqa: E402
from earmark.embedder import Embedder  # noqa: E402
from earmark.families import load_checkpoint  # noqa: E402
from earmark.metrics import classification_rates  # noqa: E402
from earmark.modelfile import ModelFile  # noqa: E402
from earmark.nn import SoundResNet, SoundResNetConfig  # noqa: E402
from earmark.windows import Sounds, window_starts, windows  # noqa: E402

from .sounds import (  # noqa: E402
    CONFIG,
    LABELS,
    small_network,
    sound,
    write_checkpoint,
    write_clips,
)
from .voices import write  # noqa: E402

DEMO = Path(earmark.__file__).parent / "data" / "demo-int8.earmark"
SCHEMES = ("fp32", "float16", "dynamic", "int8", "int8-full")
WINDOW = 32000


@pytest.fixture(scope="module")
def net() -> SoundResNet:
    return small_network()


@pytest.fixture(scope="module")
def waves() -> list[NDArray[np.float64]]:
    """Around one window, two, and more."""
    seconds = (0.01, 1.0, 2.0, 2.0001, 3.6, 3.7, 5.0, 7.3)
    return [sound(LABELS[i % 3], i, length) for i, length in enumerate(seconds)]


@pytest.fixture(scope="module")
def files(
    net: SoundResNet, waves: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = {scheme: folder / f"{scheme}.earmark" for scheme in SCHEMES}
    calibration = [sound(label, 100, 4.0) for label in LABELS]
    for scheme, path in paths.items():
        earmark.quantize(net, calibration, scheme=scheme).save(path)
    return paths


@pytest.fixture(scope="module")
def model(files: dict[str, Path]) -> Classifier:
    model = earmark.load(files["int8"], threads=2)
    assert isinstance(model, Classifier)
    return model


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(tmp_path / "clip.flac", sound("hiss", 3, 5.0))


# --- windows


@given(st.integers(1, 200_000), st.integers(500, 40_000), st.integers(500, 40_000))
def test_windows_cover_a_recording_and_no_fewer_would(count: int, window: int, stride: int) -> None:
    starts = window_starts(count, window, stride)
    assert starts == [stride * i for i in range(len(starts))]
    assert starts[-1] + window >= count
    assert len(starts) == 1 or starts[-2] + window < count


def test_the_last_window_is_filled_up_with_zeros() -> None:
    wave = np.arange(1, 8, dtype=np.float32)
    first, second = windows(wave, 5, 4)
    np.testing.assert_array_equal(first, wave[:5])
    np.testing.assert_array_equal(second, [5, 6, 7, 0, 0])
    assert first.base is wave


def test_probabilities_are_the_mean_of_the_windows() -> None:
    scores = np.array([[4.0, 0.0, -1e30], [0.0, 3.0, 0.0], [1e30, 0.0, 0.0]], np.float32)
    heard = Sounds.of_scores(LABELS, scores, 1.6)
    assert heard.timeline.dtype == heard.probabilities.dtype == np.float32
    np.testing.assert_allclose(heard.timeline.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(heard.timeline[2], [1, 0, 0])
    np.testing.assert_allclose(heard.probabilities, heard.timeline.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(heard.starts, [0, 1.6, 3.2])
    assert heard.label == "clicks"
    assert [label for label, _ in heard.top(2)] == ["clicks", "hiss"]
    assert [window.label for window in heard.split()] == ["clicks", "hiss", "clicks"]


# --- the Classifier


@pytest.mark.parametrize(("scheme", "tolerance"), [("fp32", 1e-4), ("float16", 1e-2)])
def test_equals_the_torch_network(
    files: dict[str, Path], net: SoundResNet, waves: list[Any], scheme: str, tolerance: float
) -> None:
    expected = net.classify(waves)
    for heard, exact in zip(Classifier(files[scheme]).classify(waves), expected, strict=True):
        np.testing.assert_allclose(heard.timeline, exact.timeline, atol=tolerance)
        np.testing.assert_allclose(heard.probabilities, exact.probabilities, atol=tolerance)
        np.testing.assert_array_equal(heard.starts, exact.starts)
        assert heard.labels == LABELS


@pytest.mark.parametrize("scheme", ["dynamic", "int8", "int8-full"])
def test_quantized_networks_hear_the_same(
    files: dict[str, Path], net: SoundResNet, waves: list[Any], scheme: str
) -> None:
    expected = np.concatenate([heard.timeline for heard in net.classify(waves)])
    actual = np.concatenate([h.timeline for h in Classifier(files[scheme]).classify(waves)])
    assert np.abs(actual - expected).max() < 0.08


def test_a_recording_has_the_same_bits_alone_and_in_a_list(
    files: dict[str, Path], waves: list[Any]
) -> None:
    expected = [heard.timeline.tobytes() for heard in Classifier(files["int8"]).classify(waves)]
    for threads in (1, 3):
        model = Classifier(files["int8"], threads=threads)
        assert [h.timeline.tobytes() for h in model.classify(waves)] == expected
        assert [model.classify(wave)[0].timeline.tobytes() for wave in waves] == expected


def test_each_window_is_as_if_it_were_a_recording(model: Classifier) -> None:
    wave = sound("siren", 7, 4.0)
    heard = model.classify(wave)[0]
    padded = np.concatenate([wave[25600:57600], np.zeros(0)])
    np.testing.assert_array_equal(heard.timeline[1], model.classify(padded)[0].timeline[0])
    assert len(heard.timeline) == 3


def test_pickled_and_in_threads(model: Classifier, waves: list[Any]) -> None:
    twin = pickle.loads(pickle.dumps(model))
    expected = [heard.probabilities for heard in model.classify(waves)]
    with ThreadPoolExecutor(4) as pool:
        for rows in pool.map(lambda m: m.classify(waves), [model, twin] * 3):
            np.testing.assert_array_equal([heard.probabilities for heard in rows], expected)


def test_files_stereo_and_other_rates(model: Classifier, tmp_path: Path) -> None:
    wave = sound("clicks", 1, 3.0)
    stereo = np.stack([wave, wave], axis=1)
    flac = write(tmp_path / "stereo.flac", stereo, subtype="PCM_24")
    np.testing.assert_allclose(
        model.classify(flac)[0].probabilities, model.classify(wave)[0].probabilities, atol=0.02
    )
    assert len(model.classify(wave, sample_rate=8000)[0].timeline) == 4


def test_bad_recordings_are_rows(model: Classifier, clip: Path, tmp_path: Path) -> None:
    spoilt = np.zeros(100, np.float32)
    spoilt[7] = np.nan
    items = [clip, tmp_path / "none.flac", np.zeros(0, np.float32), spoilt, sound("hiss", 0)]
    rows = list(model.classify_each(items))
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
    assert [row[1] is None for row in rows] == [False, True, True, True, False]
    for word, (_, _, error) in zip(("", "none.flac", "empty", "nan", ""), rows, strict=True):
        assert word in error
    with pytest.raises(AudioError, match=r"recording 1: .*none\.flac: no such file"):
        model.classify(items)
    assert model.classify([]) == []


def test_silence_is_heard_without_a_warning(model: Classifier) -> None:
    heard = model.classify(np.zeros(100_000, np.float32))[0]
    assert np.isfinite(heard.timeline).all()


def test_scores_of_features(model: Classifier) -> None:
    wave = sound("siren", 2, 2.0).astype(np.float32)
    features = model.front_end(wave)
    scores = model.scores(features)
    assert scores.shape == (1, 3)
    heard = Sounds.of_scores(LABELS, scores, 1.6)
    np.testing.assert_array_equal(heard.timeline, model.classify(wave)[0].timeline)
    assert model.scores(np.stack([features] * 2)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"features 0: shape \(5, 7\), expected \(frames, 24\)"):
        model.scores(np.zeros((5, 7), np.float32))


# --- files


def test_int8_scores(files: dict[str, Path], model: Classifier) -> None:
    full = earmark.load(files["int8-full"])
    assert isinstance(full, Classifier)
    x = np.random.default_rng(0).normal(size=(3, 40, full.front_end.n_features)) * 10
    real, integers = full.scores(x), full.scores(x, quantized=True)
    assert (real.dtype, integers.dtype) == (np.float32, np.int8)
    np.testing.assert_array_equal(np.float32(full.info()["output"]["scale"]) * integers, real)
    with pytest.raises(ValueError, match="'scores' is float32, not int8"):
        model.scores(x, quantized=True)


def changed(path: Path, tmp_path: Path, **metadata: Any) -> Path:
    model = modelfile.read(path)
    target = tmp_path / "changed.earmark"
    modelfile.write(ModelFile({**model.metadata, **metadata}, model.arrays), target)
    return target


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"labels": ["a", "b"]}, "2 names for 3 classes"),
        ({"labels": ["a", "b", "b"]}, "same name"),
        ({"labels": ["a", "b", ""]}, "a class is named ''"),
        ({"labels": ["a", "b", "c\n"]}, "a class is named"),
        ({"labels": [1, 2, 3]}, "a class is named 1"),
        ({"labels": None}, "has no len"),
        ({"window": {"samples": 0, "stride": 1}}, "samples is 0"),
        ({"window": {"samples": 32000, "stride": True}}, "stride is True"),
        ({"window": {"samples": 10**9, "stride": 1}}, "samples is 1000000000"),
        ({"window": {"samples": 32000}}, "'stride' is missing"),
        ({"window": [32000, 1]}, "changed.earmark"),
    ],
)
def test_nonsense_in_files(
    files: dict[str, Path], tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        earmark.load(changed(files["fp32"], tmp_path, **metadata))


def test_models_of_the_other_kind(files: dict[str, Path]) -> None:
    assert isinstance(earmark.load(DEMO), Embedder)
    with pytest.raises(FormatError, match="gives class scores, not embeddings"):
        Embedder(files["int8"])
    with pytest.raises(FormatError, match="gives embeddings, not class scores"):
        Classifier(DEMO)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_info(files: dict[str, Path], net: SoundResNet, scheme: str) -> None:
    info = earmark.load(files[scheme]).info()
    assert (info["family"], info["scheme"]) == ("sound-resnet", scheme)
    assert info["labels"] == list(LABELS)
    assert (info["window_seconds"], info["stride_seconds"]) == (2.0, 1.6)
    assert info["front_end"] == {"name": "log-mel", "n_mels": 24}
    assert info["parameters"] == sum(p.numel() for p in net.parameters())
    json.dumps(info)


def test_a_quantized_module_is_called_as_the_network(net: SoundResNet) -> None:
    quantized = earmark.quantize(net, scheme="fp32")
    feats = torch.randn(2, 101, 24)
    torch.testing.assert_close(quantized(feats), net(feats), atol=1e-4, rtol=1e-4)
    wave = sound("hiss", 1)
    assert quantized.classify(wave)[0].label == net.classify(wave)[0].label


def test_networks_refuse_wrong_labels_and_training_mode() -> None:
    with pytest.raises(ValueError, match="1 names for 3 classes"):
        SoundResNet(CONFIG, ["a"])
    with pytest.raises(RuntimeError, match=r"call net\.eval\(\) first"):
        SoundResNet(CONFIG).classify(np.zeros(100))
    with pytest.raises(ValueError, match="not the numbers of a sound ResNet"):
        SoundResNetConfig.from_dict({"classes": 3, "depth": 50})


# --- checkpoints


def test_a_checkpoint_is_read_back(net: SoundResNet, tmp_path: Path) -> None:
    path = write_checkpoint(net, tmp_path / "model.safetensors")
    found = load_checkpoint(path)
    assert isinstance(found, SoundResNet)
    assert (found.labels, found.config, found.training) == (LABELS, CONFIG, False)
    feats = torch.randn(1, 50, 24)
    assert torch.equal(found(feats), net(feats))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": None}, "no names of classes"),
        ({"labels": ["a"]}, "1 names for 3 classes"),
        ({"config": {**CONFIG.to_dict(), "classes": 4}}, "3 names for 4 classes"),
        ({"config": {**CONFIG.to_dict(), "width": 16}}, r"is \(8,\), expected \(16,\)"),
        ({"config": {**CONFIG.to_dict(), "blocks": [1]}}, "is not part of a sound ResNet"),
        ({"config": {**CONFIG.to_dict(), "blocks": [1, 1, 1]}}, "is missing"),
        ({"config": {**CONFIG.to_dict(), "width": 0}}, "width is 0"),
    ],
)
def test_wrong_checkpoints(
    net: SoundResNet, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    path = write_checkpoint(net, tmp_path / "model.safetensors", **fields)
    with pytest.raises(FormatError, match=message):
        load_checkpoint(path)


def test_a_bare_state_dict_is_no_sound_checkpoint(net: SoundResNet, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "resnet.pt")
    for path in (tmp_path / "resnet.pt", tmp_path):
        with pytest.raises(FormatError, match="not a sound ResNet that `earmark train` wrote"):
            load_checkpoint(path, "sound-resnet")


# --- tables of clips


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'file'"),
        ("file,class\na,b\n", "no column 'fold'"),
        ("file,class,fold\n", "names no clip"),
        ("file,class,fold\na,,1\n", "meta.csv:2: class is empty"),
        ("file,class,fold\na,b,1\na,b,x\n", "meta.csv:3: fold is 'x'"),
        ("file,class,fold\na\n", "meta.csv:2: class is empty"),
    ],
)
def test_bad_tables_of_clips(tmp_path: Path, text: str, message: str) -> None:
    meta = tmp_path / "meta.csv"
    meta.write_text(text)
    with pytest.raises(FormatError, match=message):
        read_clips(meta)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_bytes(b"\xff\xfe\x00file")
    with pytest.raises(FormatError, match="not a table"):
        read_clips(tmp_path / "meta.csv")


# --- commands


def test_classify_command(
    files: dict[str, Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(files["int8"])
    assert main(["classify", model, str(clip), "--json", "--timeline", "--top", "2"]) == 0
    row = json.loads(capsys.readouterr().out)["recordings"][0]
    heard = Classifier(model).classify(clip)[0]
    assert row["path"] == str(clip)
    assert [(s["label"], s["probability"]) for s in row["sounds"]] == heard.top(2)
    assert [w["start"] for w in row["timeline"]] == pytest.approx([0, 1.6, 3.2])
    assert [w["end"] for w in row["timeline"]] == pytest.approx([2, 3.6, 5.2])
    assert [len(w["sounds"]) for w in row["timeline"]] == [2, 2, 2]
    assert main(["classify", model, str(clip), "--timeline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{clip}: {heard.label} ")
    assert len(lines) == 4


def test_classify_with_a_bad_recording(
    files: dict[str, Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(files["int8"]), "none.wav", str(clip), "--json"]) == 2
    out, err = capsys.readouterr()
    rows = json.loads(out)["recordings"]
    assert "no such file" in rows[0]["error"]
    assert len(rows[1]["sounds"]) == 3
    assert err.count("\n") == 1
    assert "1 of 2 recordings failed" in err


def test_commands_refuse_models_of_the_other_kind(
    files: dict[str, Path], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds, audio = str(files["int8"]), str(clip)
    for argv in (
        ["verify", sounds, audio, audio, "--threshold", "0.5"],
        ["embed", sounds, audio, "-o", str(tmp_path / "out.npz")],
    ):
        assert main(argv) == 2
        assert "gives class scores, not embeddings" in capsys.readouterr().err
    assert main(["classify", str(DEMO), audio]) == 2
    assert "gives embeddings, not class scores" in capsys.readouterr().err


def test_info_command(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(files["int8"])]) == 0
    out = capsys.readouterr().out
    assert "clicks, hiss, siren" in out
    assert "2 s, one each 1.6 s" in out


def test_quantize_command(
    net: SoundResNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(net, tmp_path / "model.safetensors")
    clips = write_clips(tmp_path / "clips", each=2)
    shutil.rmtree(clips / "hiss")
    target = tmp_path / "out.earmark"
    argv = ["quantize", str(checkpoint), "--calibrate", str(clips), "-o", str(target), "--json"]
    assert main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["calibration_recordings"], result["threshold"]) == (4, None)
    info = earmark.load(target).info()
    assert info["labels"] == list(LABELS)
    # Clips of 2.5 s, of two windows each.
    calibration = info["calibration"]
    assert calibration["observer"] == "minmax"
    assert (calibration["recordings"], calibration["windows"]) == (4, 8)
    trials = tmp_path / "trials.txt"
    trials.write_text("1 siren/0.flac siren/1.flac\n0 siren/0.flac clicks/0.flac\n")
    assert main([*argv[:-1], "--trials", str(trials), "--root", str(clips)]) == 2
    assert "is a sound-resnet, --trials is for ECAPA-TDNNs" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["int8", "fp32"])
def test_quantize_measures_on_clips(
    net: SoundResNet, tmp_path: Path, capsys: pytest.CaptureFixture[str], scheme: str
) -> None:
    checkpoint = write_checkpoint(net, tmp_path / "model.safetensors")
    clips = write_clips(tmp_path / "clips", each=4)
    target = tmp_path / "out.earmark"
    argv = ["quantize", str(checkpoint), "--calibrate", str(clips), "-o", str(target)]
    argv += ["--scheme", scheme, "--clips", str(clips), "--fold", "2"]
    assert main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    model = Classifier(target)
    measured = model.info()["measured"]
    assert result["measured"] == measured
    assert result["failed"] == []
    assert (measured["clip_folder"], measured["fold"]) == ("clips", 2)
    assert (measured["clips"], measured["failed_clips"]) == (6, 0)
    # Those of the other fold; what is measured on is not calibrated on.
    assert result["calibration_recordings"] == (6 if scheme == "int8" else 0)
    tested = find_clips(clips, 2)
    found = [heard.label for heard in model.classify([clip.path for clip in tested])]
    right = sum(label == clip.label for label, clip in zip(found, tested, strict=True))
    assert measured["accuracy"] == right / 6
    same = [heard.label for heard in net.classify([clip.path for clip in tested])]
    agreement = sum(a == b for a, b in zip(found, same, strict=True)) / 6
    assert measured["same_label_as_fp32"] == agreement
    assert 0.9 < measured["worst_cosine_to_fp32"] <= measured["mean_cosine_to_fp32"] <= 1
    if scheme == "fp32":
        assert measured["worst_cosine_to_fp32"] == 1
        assert measured["f1"] == measured["fp32_f1"]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "clips, fold 2: 6 clips" in lines
    assert any(line.startswith("macro F1 ") and "(FP32 " in line for line in lines)
    assert main(["info", str(target)]) == 0
    assert "  same_label_as_fp32    " in capsys.readouterr().out


def test_what_cannot_be_measured_on(
    files: dict[str, Path], net: SoundResNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(write_checkpoint(net, tmp_path / "model.safetensors"))
    clips = write_clips(tmp_path / "clips", each=1)
    output = ["-o", str(tmp_path / "out.earmark"), "--calibrate", str(clips)]
    quantize = ["quantize", checkpoint, *output]
    model, folder = str(files["int8"]), ["--clips", str(clips)]
    (clips / "owl").mkdir()
    shutil.copy(clips / "hiss" / "0.flac", clips / "owl" / "0.flac")
    loose = tmp_path / "loose"
    loose.mkdir()
    shutil.copy(clips / "hiss" / "0.flac", loose / "0.flac")
    known = tmp_path / "known"
    shutil.copytree(clips / "hiss", known / "hiss")
    for argv, message in (
        ([*quantize, *folder], "owl/0.flac: is of the class 'owl', "),
        (["eval", model, *folder], "knows clicks, hiss, siren"),
        ([*quantize, "--fold", "1"], "--fold needs --clips"),
        (["eval", model], "eval needs either --trials and --root, or --clips"),
        (["eval", model, *folder, "--root", "x"], "eval needs either"),
        (["eval", model, *folder, "--fold", "7"], "meta.csv: has no clip of fold 7"),
        (["eval", model, "--clips", str(loose)], "0.flac: lies in no class's folder"),
        (["eval", model, "--clips", str(tmp_path / "none")], "none: is not a folder"),
        (["eval", str(DEMO), "--clips", str(known)], "gives embeddings, not class scores"),
        (
            ["quantize", checkpoint, *output[:3], str(known), "--clips", str(known)],
            "known: all 1 recordings are in --clips",
        ),
    ):
        assert main(argv) == 2, argv
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out.earmark").exists()


def test_eval_on_clips(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = write_clips(tmp_path / "clips", each=2)
    argv = ["eval", str(files["int8"]), "--clips", str(clips)]
    assert main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    tested = find_clips(clips)
    heard = Classifier(files["int8"]).classify([clip.path for clip in tested])
    numbers = [[LABELS.index(item.label) for item in items] for items in (tested, heard)]
    assert result == {**classification_rates(*numbers, 3), "clips": 6, "failed": []}
    assert main([*argv, "--fold", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 3


def test_a_clip_that_fails_is_a_row(
    files: dict[str, Path], net: SoundResNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = write_clips(tmp_path / "clips", each=2)
    bad = clips / "hiss" / "1.flac"
    bad.write_bytes(b"no audio")
    argv = ["eval", str(files["int8"]), "--clips", str(clips)]
    assert main([*argv, "--json"]) == 2
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["clips"] == 5
    assert [row["path"] for row in result["failed"]] == [str(bad)]
    assert "1 of 6 clips failed" in err
    assert err.count("\n") == 1
    assert main(argv) == 2
    assert f"failed: {result['failed'][0]['error']}" in capsys.readouterr().out
    target = tmp_path / "out.earmark"
    checkpoint = str(write_checkpoint(net, tmp_path / "model.safetensors"))
    quantize = ["quantize", checkpoint, "--scheme", "dynamic", "-o", str(target), *argv[2:]]
    assert main([*quantize, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["failed"] == result["failed"]
    measured = earmark.load(target).info()["measured"]
    assert (measured["clips"], measured["failed_clips"]) == (5, 1)
    for path in clips.rglob("*.flac"):
        path.write_bytes(b"")
    assert main(argv) == 2
    assert "all 6 clips failed" in capsys.readouterr().err
