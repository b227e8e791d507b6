"""Front ends against their equations in float64, SpeechBrain's against torch too; the same bits on
every instruction set, with any number of threads, alone or in a list."""

from __future__ import annotations

import json
import math
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from earmark import _C
from earmark.audio import read_audio
from earmark.errors import AudioError, FormatError
from earmark.frontend import LogMel, SpeechBrainFbank, make_front_end
from earmark.plan import make_engine
from oracle.front_end import log_mel
from oracle.front_end import speechbrain_fbank as reference
from plans import finish, start
from signals import HOSTILE, RECORDINGS, glide, noise


def torch_float32(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same with torch in float32, in the order of operations that SpeechBrain has."""
    torch = pytest.importorskip("torch")
    window = torch.hamming_window(400)
    spectrum = torch.stft(
        torch.from_numpy(wave), 400, 160, 400, window, True, "constant", return_complex=True
    )
    power = torch.view_as_real(spectrum).square().sum(-1).T
    mel = torch.linspace(0, 2595 * math.log10(1 + 8000 / 700), 82)
    hz = 700 * (10 ** (mel / 2595) - 1)
    slope = (torch.linspace(0, 8000, 201)[:, None] - hz[1:-1]) / (hz[1:-1] - hz[:-2])
    filters = torch.clamp(torch.minimum(slope + 1, 1 - slope), min=0)
    decibels = 10 * torch.log10(torch.clamp(power @ filters, min=1e-10))
    decibels = torch.maximum(decibels, decibels.amax() - 80)
    return (decibels - decibels.mean(dim=0)).numpy()


# Around the hop, half the window, the window, and the frames computed at once (8).
EDGES = [1, 2, 159, 160, 161, 199, 200, 201, 399, 400, 401, 640, 1119, 1120, 1279, 1280, 1281, 2400]


@pytest.mark.parametrize("samples", [*EDGES, 30000])
def test_equals_reference_at_edge_lengths(samples: int) -> None:
    wave = noise(samples)
    features = SpeechBrainFbank()(wave)
    assert features.dtype == np.float32
    assert features.shape == (samples // 160 + 1, 80)
    np.testing.assert_allclose(features, reference(wave), rtol=0, atol=2e-5)


@given(
    samples=st.integers(1, 3000),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e6]),
    n_mels=st.sampled_from([1, 40, 80, 101]),
)
@settings(max_examples=25, deadline=None)
def test_equals_reference(samples: int, seed: int, scale: float, n_mels: int) -> None:
    wave = noise(samples, seed, scale)
    np.testing.assert_allclose(
        SpeechBrainFbank(n_mels)(wave), reference(wave, n_mels), rtol=0, atol=3e-5
    )


# Around its hop, and those of the frames computed at once.
LOG_MEL_EDGES = [*EDGES, 319, 320, 321, 2239, 2240, 2559, 2560, 2561, 20479, 20480, 32000]


@pytest.mark.parametrize("samples", LOG_MEL_EDGES)
def test_log_mel_equals_reference_at_edge_lengths(samples: int) -> None:
    wave = noise(samples)
    features = LogMel()(wave)
    assert features.dtype == np.float32
    assert features.shape == (samples // 320 + 1, 64)
    np.testing.assert_allclose(features, log_mel(wave), rtol=0, atol=1e-6)


@given(
    samples=st.integers(1, 5000),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e6]),
    n_mels=st.sampled_from([1, 40, 64, 101]),
)
@settings(max_examples=25, deadline=None)
def test_log_mel_equals_reference(samples: int, seed: int, scale: float, n_mels: int) -> None:
    wave = noise(samples, seed, scale)
    np.testing.assert_allclose(LogMel(n_mels)(wave), log_mel(wave, n_mels), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", HOSTILE)
def test_log_mel_equals_reference_on_hostile_signals(name: str) -> None:
    wave = HOSTILE[name].astype(np.float32)
    np.testing.assert_allclose(LogMel()(wave), log_mel(wave), rtol=0, atol=5e-6)


def test_log_mel_of_silence_and_below_its_floors() -> None:
    # -60 dB is -1.6 on the fixed scale, whatever lies below.
    for wave in (np.zeros(5000, np.float32), noise(5000, scale=1e-6)):
        assert set(LogMel()(wave).ravel()) == {np.float32(-40) * np.float32(0.04)}
    loud = np.concatenate([noise(16000, 2, 5.0), np.zeros(16000, np.float32)])
    features = LogMel()(loud)
    assert features.max() - features.min() == pytest.approx(80 / 25, abs=1e-5)


def test_log_mel_tells_levels_and_steady_spectra_apart() -> None:
    quiet, loud = LogMel()(noise(16000, scale=0.01)), LogMel()(noise(16000, scale=0.1))
    # Ten times the amplitude is 20 dB, 0.8 on the scale.
    np.testing.assert_allclose(loud - quiet, 0.8, atol=1e-4)


@pytest.mark.parametrize("name", HOSTILE)
def test_equals_reference_on_hostile_signals(name: str) -> None:
    wave = HOSTILE[name].astype(np.float32)
    np.testing.assert_allclose(SpeechBrainFbank()(wave), reference(wave), rtol=0, atol=1e-4)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_equals_reference_on_recordings(path: Path) -> None:
    wave = read_audio(path).samples
    np.testing.assert_allclose(SpeechBrainFbank()(wave), reference(wave), rtol=0, atol=2e-5)


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("n_mels", [1, 17, 80, 400])
@pytest.mark.parametrize(("kind", "kernel"), [(SpeechBrainFbank, "center"), (LogMel, "scale")])
def test_every_isa_gives_the_same_bits(
    isa: str, n_mels: int, kind: type[SpeechBrainFbank] | type[LogMel], kernel: str
) -> None:
    front_end = kind(n_mels).compiled
    waves = [noise(samples) for samples in LOG_MEL_EDGES]
    for wave in [*waves, *(wave.astype(np.float32) for wave in HOSTILE.values())]:
        expected = front_end(wave, isa="scalar")
        actual = front_end(wave, isa=isa)
        assert _C.last_kernel() == f"{kernel}_f32/{isa}"
        assert actual.tobytes() == expected.tobytes()


def statistics_engine(n_mels: int, threads: int, isa: str = "") -> _C.Engine:
    """Mean and standard deviation of every feature, straight from the front end."""
    b = finish(start("f32", n_mels), "input")
    return make_engine(b.plan, b.arrays, isa=isa, threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("front_end", [SpeechBrainFbank(70), LogMel(70)])
def test_the_engine_gives_the_same_bits_with_any_threads_and_in_any_list(
    threads: int, front_end: SpeechBrainFbank | LogMel
) -> None:
    # The longest is shared between the threads, the others are dealt out where there are enough.
    waves = [noise(n, n) for n in (700_000, 1, 4000, 30_000, 160, 4000, 9999, 12_345)]
    expected = statistics_engine(70, 1).run([front_end(wave) for wave in waves])
    engine = statistics_engine(70, threads)
    assert engine.embed(front_end.compiled, waves).tobytes() == expected.tobytes()
    alone = [engine.embed(front_end.compiled, [wave]) for wave in waves]
    assert np.concatenate(alone).tobytes() == expected.tobytes()
    assert engine.embed(front_end.compiled, []).shape == (0, 140)


@pytest.mark.parametrize("isa", _C.available_isas())
def test_the_engine_runs_the_front_end_of_its_isa(isa: str) -> None:
    front_end = SpeechBrainFbank(20)
    wave = noise(5000)
    engine = statistics_engine(20, 2, isa)
    _, kernels = engine.trace(front_end.compiled, wave)
    assert kernels == {"front_end": f"center_f32/{isa}", "stats": f"stats_f32/{isa}"}
    expected = engine.run([front_end(wave)])
    np.testing.assert_array_equal(engine.embed(front_end.compiled, [wave]), expected)


def spoiled(index: int, value: float) -> NDArray[np.float32]:
    wave = noise(10_000)
    wave[index] = value
    return wave


MISALIGNED = np.frombuffer(bytes(4005), np.float32, 1000, 1)


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (spoiled(9999, np.nan), "sample 9999 is nan"),
        (spoiled(0, np.inf), "sample 0 is inf"),
        (spoiled(4096, -np.inf), "sample 4096 is -inf"),
        (np.zeros((1, 100), np.float32), "float32 of rank 2"),
        (np.zeros((), np.float32), "rank 0"),
        (np.zeros(100), r"\(n,\), got float64 of rank 1"),
        (np.zeros(100, ">f4"), "got >f4"),
        (np.zeros(100, np.int32), "got int32"),
        (np.zeros(200, np.float32)[::2], "contiguous"),
        (MISALIGNED, "aligned"),
    ],
)
def test_bad_waveforms_in_the_compiled_part(wave: Any, message: str) -> None:
    front_end = _C.SpeechBrainFbank(20)
    engine = statistics_engine(20, 2)
    for call in (
        lambda: front_end(wave),
        lambda: engine.embed(front_end, [noise(1000), wave]),
        lambda: engine.trace(front_end, wave),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_bad_calls_of_the_compiled_part() -> None:
    for n_mels in (0, -1, 401, 2**31 - 1):
        for kind in (_C.SpeechBrainFbank, _C.LogMel):
            with pytest.raises(ValueError, match=f"n_mels is {n_mels}, expected 1 to 400"):
                kind(n_mels)
    front_end = _C.SpeechBrainFbank(20)
    with pytest.raises(ValueError, match="sse9"):
        front_end(noise(100), isa="sse9")
    with pytest.raises(ValueError, match="waveform 0: the front end makes 20 float32 features"):
        statistics_engine(21, 1).embed(front_end, [noise(100)])
    with pytest.raises(ValueError, match="waveform 1: sample 7 is nan"):
        statistics_engine(20, 1).embed(front_end, [noise(100), spoiled(7, np.nan)])
    for nothing in (None, [0.5], b"1234"):
        with pytest.raises(TypeError):
            front_end(nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("wave", [noise(48000), glide(48000), noise(48000, 1, 1e-5)])
def test_no_less_exact_than_torch(wave: NDArray[np.float32]) -> None:
    expected = reference(wave)
    error = np.abs(SpeechBrainFbank()(wave) - expected)
    torch_error = np.abs(torch_float32(wave) - expected)
    assert error.max() <= torch_error.max()
    assert error.mean() <= torch_error.mean()


def test_floor_is_80_db_below_the_maximum_of_the_recording() -> None:
    wave = np.concatenate([noise(16000, 2, 0.5), np.zeros(16000, np.float32)])
    features = SpeechBrainFbank()(wave)
    # The mean per feature is the same for all frames, so differences over time are in dB.
    assert np.ptp(features, axis=0).max() == pytest.approx(80, abs=1e-4)
    np.testing.assert_allclose(features, reference(wave), rtol=0, atol=2e-5)


def test_silence_gives_zeros() -> None:
    assert not SpeechBrainFbank()(np.zeros(5000, np.float32)).any()


def test_a_strided_or_misaligned_view_is_read_rightly() -> None:
    wave = noise(8000)
    front_end = SpeechBrainFbank()
    np.testing.assert_array_equal(front_end(wave[::2]), front_end(wave[::2].copy()))
    shifted = np.frombuffer(b"x" + wave.tobytes(), np.float32, 8000, 1)
    np.testing.assert_array_equal(front_end(shifted), front_end(wave))


def test_the_mean_over_time_is_zero() -> None:
    means = SpeechBrainFbank()(noise(160_000)).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(means, 0, atol=1e-6)


def test_long_recordings_need_little_beyond_the_output() -> None:
    front_end = SpeechBrainFbank()
    wave = noise(4 * 60 * 16000)
    tracemalloc.start()
    features = front_end(wave)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - features.nbytes < 4e6


@pytest.mark.parametrize("frames", [1, 2, 5, 6, 1000])
@pytest.mark.parametrize("front_end", [SpeechBrainFbank(), LogMel()])
def test_samples_of_frames(frames: int, front_end: SpeechBrainFbank | LogMel) -> None:
    samples = front_end.samples_of_frames(frames)
    assert len(front_end(noise(samples))) >= frames
    if samples > front_end.min_samples:
        assert len(front_end(noise(samples - 1))) < frames


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros((1, 100), np.float32), r"float32 \(n,\), got float32 \(1, 100\)"),
        (np.zeros(100), "got float64"),
        (np.zeros(100, np.int16), "got int16"),
        (spoiled(3, np.nan), "sample 3 is nan, not a finite number"),
    ],
)
def test_bad_waveforms(wave: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        SpeechBrainFbank()(wave)


@pytest.mark.parametrize("front_end", [SpeechBrainFbank(60), LogMel(60)])
def test_spec_makes_an_equal_front_end(front_end: SpeechBrainFbank | LogMel) -> None:
    wave = noise(1000)
    for twin in (
        make_front_end(json.loads(json.dumps(front_end.spec()))),
        pickle.loads(pickle.dumps(front_end)),
    ):
        assert twin.spec() == front_end.spec()
        assert (twin.n_features, twin.sample_rate_hz, twin.min_samples) == (60, 16000, 1)
        np.testing.assert_array_equal(twin(wave), front_end(wave))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "front end None is unknown; known: kaldi, log-mel, nemo, speechbrain, taoruijie"),
        ({"name": ["speechbrain"]}, "unknown"),
        ({"name": "mfcc"}, "'mfcc' is unknown"),
        ({"name": "speechbrain"}, "described by name and n_mels"),
        ({"name": "log-mel", "n_mels": 64, "hop": 160}, "front end log-mel is described by"),
        ({"name": "log-mel", "n_mels": 401}, "from 1 to 400, got 401"),
        ({"name": "speechbrain", "n_mels": 80, "hop": 80}, "hop"),
        ({"name": "speechbrain", "n_mels": 0}, "from 1 to 400, got 0"),
        ({"name": "speechbrain", "n_mels": 10**9}, "got 1000000000"),
        ({"name": "speechbrain", "n_mels": 80.0}, "got 80.0"),
        ({"name": "speechbrain", "n_mels": True}, "got True"),
        ({"name": "speechbrain", "n_mels": "80"}, "got '80'"),
    ],
)
def test_bad_specs(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        make_front_end(spec)
