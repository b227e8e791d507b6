"""Embedder: recordings and features in, embeddings out; pickling, threads, processes, memory."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

import earmark
from earmark import _C, AudioError, Embedder, FormatError
from earmark.audio import read_audio
from earmark.frontend.filterbank import MelFrontEnd
from networks import LARGE, SMALL, make_network, random_features, wave

Array = NDArray[Any]

RATE = 16000
_MIB = 1 << 20


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.earmark"
    quantized = earmark.quantize(make_network(SMALL), [wave(seed) for seed in range(4)])
    quantized.save(path, threshold=0.25, measured={"eer": 0.5})
    return path


@pytest.fixture(scope="module")
def model(model_path: Path) -> Embedder:
    return earmark.load(model_path)


@pytest.fixture(scope="module")
def waves() -> list[Array]:
    """Recordings of other lengths."""
    lengths = (12_000, 3_000, 20_000, 800, 16_000, 5_000, 9_999)
    return [wave(10 + i, length) for i, length in enumerate(lengths)]


@pytest.fixture(scope="module")
def expected(model: Embedder, waves: list[Array]) -> Array:
    """Each recording's embedding, alone."""
    return np.concatenate([model.embed(item) for item in waves])


# --- what a recording may be


def test_one_recording_in_every_form(tmp_path: Path, model: Embedder) -> None:
    integers = np.round(wave(1) * 20_000).astype(np.int16)
    floats = (integers / 2.0**15).astype(np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, integers, RATE, subtype="PCM_16")
    embedding = model.embed(floats)
    assert embedding.shape == (1, SMALL.embedding)
    assert embedding.dtype == np.float32
    assert np.isfinite(embedding).all()
    for recording in (
        path,
        str(path),
        integers,
        floats.astype(np.float64),
        floats[None, :],
        floats[:, None],
        np.stack([floats, floats], axis=1),
        torch.from_numpy(floats),
        np.repeat(floats, 2)[::2],
        [path],
        (floats,),
    ):
        np.testing.assert_array_equal(model.embed(recording), embedding)


def test_other_rates_are_resampled_and_channels_averaged(tmp_path: Path, model: Embedder) -> None:
    seconds = np.arange(44_100) / 44_100
    tones = sum(np.sin(2 * np.pi * hz * seconds) for hz in (220, 440, 1200, 2500)) / 10
    stereo = np.stack([tones * 0.5, tones * 1.5], axis=1).astype(np.float32)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, stereo, 44_100, subtype="FLOAT")
    mono = model.embed(tones.astype(np.float32), sample_rate=44_100)
    np.testing.assert_array_equal(model.embed(stereo, sample_rate=44_100), mono)
    np.testing.assert_array_equal(model.embed(path), mono)
    # The file's own rate counts, not the argument.
    np.testing.assert_array_equal(model.embed(path, sample_rate=8000), mono)
    assert (model.embed(tones.astype(np.float32)) != mono).any()


def test_a_list_gives_each_what_it_gets_alone(
    model: Embedder, waves: list[Array], expected: Array
) -> None:
    np.testing.assert_array_equal(model.embed(waves), expected)
    np.testing.assert_array_equal(model.embed(waves[::-1]), expected[::-1])
    np.testing.assert_array_equal(model.embed([waves[2]] * 3), expected[[2, 2, 2]])


def test_no_recordings_give_no_rows(model: Embedder) -> None:
    for nothing in ([], ()):
        assert model.embed(nothing).shape == (0, SMALL.embedding)
        assert model.embed(nothing).dtype == np.float32
        assert model.embed_features(nothing).shape == (0, SMALL.embedding)
    assert list(model.embed_each([])) == []


@pytest.mark.parametrize(
    ("recording", "words"),
    [
        ("missing.wav", ["missing.wav", "no such file"]),
        (np.zeros(0, np.float32), ["empty"]),
        (np.zeros(100, np.float32), ["100 samples", "too short"]),
        (np.array([0.0, np.nan] * 4000, np.float32), ["sample 1", "nan"]),
        (np.array([0.0, 0.0, np.inf] * 4000, np.float32), ["sample 2", "inf"]),
        (np.zeros(9000, complex), ["complex128"]),
        (np.zeros((2, 9000, 2), np.float32), ["(2, 9000, 2)"]),
        (None, ["NoneType"]),
        (0.5, ["float"]),
    ],
)
def test_what_cannot_be_used_is_an_audio_error(
    model: Embedder, recording: Any, words: list[str]
) -> None:
    for recordings, more in ((recording, []), ([wave(0), recording], ["recording 1"])):
        with pytest.raises(AudioError) as raised:
            model.embed(recordings)
        for word in words + more:
            assert word in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rate", [0, -16000, 0.5, float("nan"), "16000", None, 10**9])
def test_impossible_rates_are_audio_errors(model: Embedder, rate: Any) -> None:
    with pytest.raises(AudioError, match="rate"):
        model.embed(wave(0), sample_rate=rate)


def test_the_shortest_recording(model: Embedder) -> None:
    # Dilation 4 reflects 4 frames and so needs 5; a frame begins every 160 samples.
    assert model.min_frames == 5
    assert model.embed(wave(0, 640)).shape == (1, SMALL.embedding)
    with pytest.raises(AudioError, match="639 samples"):
        model.embed(wave(0, 639))


def test_silence_has_an_embedding(model: Embedder) -> None:
    assert np.isfinite(model.embed(np.zeros(RATE, np.float32))).all()


# --- bulk work


def test_errors_are_rows_beside_the_results(
    tmp_path: Path, model: Embedder, waves: list[Array], expected: Array
) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    bad = [tmp_path / "text.wav", np.full(9000, np.nan, np.float32), "", tmp_path, 7]
    items: list[Any] = []
    for good, broken in zip(waves, [*bad, None, None], strict=True):
        items += [good, broken]
    calls: list[tuple[int, int]] = []
    rows = list(model.embed_each(items, progress=lambda *call: calls.append(call)))
    assert [index for index, _, _ in rows] == list(range(len(items)))
    assert calls == [(done, len(items)) for done in range(1, len(items) + 1)]
    for index, embedding, error in rows:
        if index % 2 == 0:
            assert error == ""
            np.testing.assert_array_equal(embedding, expected[index // 2])
        else:
            assert embedding is None
            assert error
            assert "\n" not in error
    assert "text.wav" in rows[1][2]


def test_bulk_work_goes_group_by_group(
    model: Embedder, waves: list[Array], expected: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earmark.runner._GROUP_SAMPLES", 16_000)
    read: list[weakref.ref[Array]] = []
    held: list[int] = []

    def counting(*arguments: Any, **options: Any) -> Any:
        held.append(sum(wave() is not None for wave in read))
        audio = read_audio(*arguments, **options)
        read.append(weakref.ref(audio.samples))
        return audio

    monkeypatch.setattr("earmark.runner.read_audio", counting)
    results = model.embed_each(wave.astype(np.float64) for wave in waves)
    first = next(results)
    # Two recordings, of 12,000 and 3,000 samples, are not yet a group.
    assert len(read) == 3
    rows = [embedding for _, embedding, _ in [first, *results] if embedding is not None]
    np.testing.assert_array_equal(np.stack(rows), expected)
    # No waveform outlives its group.
    assert held == [0, 1, 2, 0, 1, 0, 1]


# --- features


def test_features_in_every_form(model: Embedder) -> None:
    lengths = (5, 6, 40, 100, 99)
    items = [random_features(i, n, SMALL.n_mels) for i, n in enumerate(lengths)]
    alone = np.concatenate([model.embed_features(item) for item in items])
    assert alone.shape == (5, SMALL.embedding)
    assert alone.dtype == np.float32
    np.testing.assert_array_equal(model.embed_features(items), alone)
    np.testing.assert_array_equal(model.embed_features(tuple(items)), alone)
    np.testing.assert_array_equal(
        model.embed_features(np.stack([items[2], items[2]])), alone[[2, 2]]
    )
    for same in (
        items[2].astype(np.float64),
        np.asfortranarray(items[2]),
        np.repeat(items[2], 2, axis=1)[:, ::2],
        torch.from_numpy(items[2]),
    ):
        np.testing.assert_array_equal(model.embed_features(same), alone[2:3])


def test_embed_is_the_front_end_and_embed_features(
    model: Embedder, waves: list[Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = [model.front_end(item) for item in waves]
    expected = model.embed_features(features)
    # All in one call of the engine.
    monkeypatch.delattr(MelFrontEnd, "__call__")
    np.testing.assert_array_equal(model.embed(waves), expected)


@pytest.mark.parametrize("isa", _C.available_isas())
def test_the_compiled_front_end_runs_before_the_network(
    isa: str, model_path: Path, waves: list[Array]
) -> None:
    model = Embedder(model_path, isa=isa)
    tensors, kernels = model._engine.trace(model.front_end.compiled, waves[0])
    assert kernels["front_end"] == f"center_f32/{isa}"
    assert {ran.split("/")[1] for ran in kernels.values()} == {isa}
    np.testing.assert_array_equal(tensors["embedding"], model.embed(waves[0])[0])


def test_a_misaligned_waveform(model: Embedder, waves: list[Array], expected: Array) -> None:
    shifted = np.frombuffer(b"x" + waves[0].tobytes(), np.float32, len(waves[0]), 1)
    np.testing.assert_array_equal(model.embed(shifted), expected[:1])


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.zeros((40, 21)), ["(40, 21)", "(frames, 20)"]),
        (np.zeros((0, 20)), ["0"]),
        (np.zeros((4, 20)), ["padding of 4", "got 4"]),
        (np.zeros(20), ["(20,)"]),
        (np.zeros((1, 2, 40, 20)), ["(1, 2, 40, 20)"]),
        (np.full((40, 20), np.nan), ["NaN or Inf", "frame 0"]),
        (np.pad(np.zeros((30, 20)), ((0, 1), (0, 0)), constant_values=-np.inf), ["frame 30"]),
        (np.full((40, 20), 1e39), ["frame 0"]),
        (np.full((40, 20), "x"), ["could not convert"]),
        (None, ["features"]),
    ],
)
def test_features_that_cannot_be_used_are_value_errors(
    model: Embedder, features: Any, words: list[str]
) -> None:
    good = random_features(0, 40, SMALL.n_mels)
    for given, index in ((features, 0), ([good, good, features], 2)):
        with pytest.raises(ValueError, match=f"features {index}: ") as raised:
            model.embed_features(given)
        for word in words:
            assert word in str(raised.value)


# --- threads, processes, pickles


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same_bits(
    model_path: Path, waves: list[Array], expected: Array, threads: int
) -> None:
    model = earmark.load(model_path, threads=threads)
    assert model.threads == threads
    np.testing.assert_array_equal(model.embed(waves), expected)
    np.testing.assert_array_equal(model.embed(waves[2]), expected[2:3])


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**40])
def test_impossible_numbers_of_threads_are_refused(model_path: Path, threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads is {threads}") as raised:
        earmark.load(model_path, threads=threads)
    assert not isinstance(raised.value, FormatError)


def test_other_devices_are_refused(model_path: Path) -> None:
    with pytest.raises(ValueError, match="device 'tpu' is unknown: known are cpu, cuda"):
        earmark.load(model_path, device="tpu")


def test_the_instruction_set_can_be_chosen(
    model_path: Path, expected: Array, waves: list[Array]
) -> None:
    model = Embedder(model_path, isa="scalar")
    assert model.isa == model.info()["isa"] == "scalar"
    np.testing.assert_array_equal(model.embed(waves), expected)
    with pytest.raises(ValueError, match="sse9") as raised:
        Embedder(model_path, isa="sse9")
    # The file is not at fault.
    assert not isinstance(raised.value, FormatError)


def test_the_environment_chooses_the_instruction_set(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import sys, earmark
try:
    print(earmark.load(sys.argv[1]).isa)
except ValueError as error:
    print(type(error).__name__, error)
"""
    monkeypatch.setenv("EARMARK_ISA", "scalar")
    assert run_python(program, model_path) == "scalar\n"
    monkeypatch.setenv("EARMARK_ISA", "sse9")
    answer = run_python(program, model_path)
    # The file is not at fault.
    assert answer.startswith("ValueError ")
    assert "sse9" in answer
    assert model_path.name not in answer


def test_many_threads_at_once(model: Embedder, waves: list[Array], expected: Array) -> None:
    def work(turn: int) -> Array:
        if turn % 2:
            return model.embed(waves)
        i = turn % len(waves)
        return model.embed_features(model.front_end(waves[i]))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(48)))
    for turn, result in enumerate(results):
        i = turn % len(waves)
        np.testing.assert_array_equal(result, expected if turn % 2 else expected[i : i + 1])


def test_pickles_and_copies_give_the_same_bits(
    model: Embedder, waves: list[Array], expected: Array
) -> None:
    quantized = earmark.quantize(make_network(SMALL), [wave(seed) for seed in range(4)])
    for original in (model, quantized.embedder):
        for twin in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original)):
            np.testing.assert_array_equal(twin.embed(waves), expected)
            assert twin.threads == original.threads
            assert twin.info() == original.info()


def test_a_pickle_keeps_its_options_and_its_folder(
    model_path: Path, waves: list[Array], expected: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_path.parent)
    pickled = pickle.dumps(earmark.load(model_path.name, threads=3))
    assert len(pickled) < 2000
    monkeypatch.chdir("/")
    twin = pickle.loads(pickled)
    assert twin.threads == 3
    np.testing.assert_array_equal(twin.embed(waves), expected)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_other_processes_give_the_same_bits(
    method: str, model: Embedder, waves: list[Array], expected: Array
) -> None:
    model.embed(waves)  # its threads run before the fork
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        jobs = [pool.submit(model.embed, waves) for _ in range(2)]
        for job in jobs:
            np.testing.assert_array_equal(job.result(timeout=60), expected)


# --- info


def test_info_is_complete_and_json(model: Embedder, model_path: Path) -> None:
    info = model.info()
    assert json.loads(json.dumps(info, allow_nan=False)) == info
    assert set(info) == {
        "calibration",
        "device",
        "device_name",
        "family",
        "file_bytes",
        "format_version",
        "front_end",
        "input",
        "isa",
        "kernels",
        "layers",
        "measured",
        "output",
        "parameters",
        "scheme",
        "sha256",
        "size_fraction",
        "threads",
        "threshold",
    }
    assert info["family"] == "speechbrain"
    assert info["scheme"] == "int8"
    assert info["device"] == model.device == "cpu"
    assert info["threshold"] == model.threshold == 0.25
    assert info["measured"] == {"eer": 0.5}
    assert info["file_bytes"] == model_path.stat().st_size
    assert info["size_fraction"] == info["file_bytes"] / (4 * info["parameters"])
    network = make_network(SMALL)
    assert info["parameters"] == sum(p.numel() for p in network.parameters())
    for layer in info["layers"]:
        assert set(layer) == {
            "activation",
            "bits_per_weight",
            "bytes",
            "coding",
            "decoded_bytes",
            "name",
            "op",
            "params",
            "precision",
            "weight",
        }
        assert layer["precision"] == "int8"
        assert layer["bytes"] == layer["decoded_bytes"] > 0
        assert (layer["coding"], layer["bits_per_weight"]) == ("raw", 8.0)
        assert layer["params"] > 0
        for statistics in (layer["weight"], layer["activation"]):
            assert set(statistics) == {"max", "mean", "min", "std"}
            assert statistics["min"] <= statistics["mean"] <= statistics["max"]


def test_a_model_outlives_its_file(tmp_path: Path, model_path: Path, expected: Array) -> None:
    path = tmp_path / "m.earmark"
    path.write_bytes(model_path.read_bytes())
    model = earmark.load(path)
    path.unlink()
    assert model.info()["file_bytes"] == model_path.stat().st_size
    np.testing.assert_array_equal(model.embed(wave(10)), expected[:1])


# --- a process without torch, and its memory


def run_python(program: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_is_never_imported(tmp_path: Path, model_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", wave(0), 44_100)
    program = """
import sys, earmark, numpy
model = earmark.load(sys.argv[1])
model.embed([sys.argv[2], numpy.ones(9000, numpy.float32)])
model.embed_features(numpy.ones((9, 20)))
model.info()
print("torch" in sys.modules)
"""
    assert run_python(program, model_path, tmp_path / "a.wav") == "False\n"


@pytest.fixture(scope="session")
def large_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SpeechBrain's published shape, C = 1024, with random weights, in int8."""
    path = tmp_path_factory.mktemp("large") / "large.earmark"
    earmark.quantize(make_network(LARGE), [wave(0, 2 * RATE)]).save(path)
    return path


# The largest resident set of a process is that of its parent when it starts: one small process more
# is needed to measure another.
PEAK_KILOBYTES = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_embedding_ten_seconds_takes_at_most_100_mib(tmp_path: Path, large_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", wave(0, 10 * RATE), RATE)
    command = [sys.executable, "-m", "earmark", "embed", "--quiet", "--json", large_path]
    command += [tmp_path / "a.wav", "-o", tmp_path / "out.npz"]
    peak = int(run_python(PEAK_KILOBYTES, *command).splitlines()[-1]) * 1024
    with np.load(tmp_path / "out.npz") as out:
        assert out["embedding"].shape == (1, 192)
        assert np.isfinite(out["embedding"]).all()
    assert peak <= 100 * _MIB, f"{peak / _MIB:.1f} MiB"


def test_size_of_the_large_model(large_path: Path) -> None:
    info = earmark.load(large_path).info()
    assert info["parameters"] == 20_767_552
    assert info["size_fraction"] <= 0.255
