"""The SpeechBrain front end against its equations, written out in float64, and against torch."""

from __future__ import annotations

import json
import math
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from earmark.errors import AudioError, FormatError
from earmark.frontend import SpeechBrainFbank, make_front_end


def reference(wave: NDArray[Any], n_mels: int = 80) -> NDArray[np.float64]:
    """Fbank and sentence mean in float64, frame by frame, by the DFT's definition."""
    padded = np.concatenate([np.zeros(200), wave.astype(np.float64), np.zeros(200)])
    n = np.arange(400)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * n / 400)
    dft = np.exp(-2j * np.pi * np.outer(n, np.arange(201)) / 400)
    top = 2595 * math.log10(1 + 8000 / 700)
    hz = [700 * (10 ** (top * i / (n_mels + 1) / 2595) - 1) for i in range(n_mels + 2)]
    filters = np.zeros((201, n_mels))
    for k in range(201):
        for m in range(n_mels):
            slope = (40 * k - hz[m + 1]) / (hz[m + 1] - hz[m])
            filters[k, m] = max(0.0, min(1 + slope, 1 - slope))
    starts = range(0, len(wave) + 1, 160)
    power = np.abs(np.array([(padded[s : s + 400] * window) @ dft for s in starts])) ** 2
    decibels = 10 * np.log10(np.maximum(power @ filters, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    return decibels - decibels.mean(axis=0)


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


def noise(samples: int, seed: int = 0, scale: float = 0.1) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def glide(samples: int) -> NDArray[np.float32]:
    """A tone from 50 to 7000 Hz: 80 dB and more between neighbouring frames and filters."""
    time = np.arange(samples) / 16000
    phase = 2 * np.pi * (50 * time + 0.5 * 6950 * time**2 / (samples / 16000))
    return (0.5 * np.sin(phase)).astype(np.float32)


# Around the hop, half the window, the window, and the frames computed at once (64).
@pytest.mark.parametrize(
    "samples",
    [1, 2, 159, 160, 161, 199, 200, 201, 399, 400, 401, 640, 10239, 10240, 10400, 30000],
)
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


def test_a_strided_view_is_read_rightly() -> None:
    wave = noise(8000)
    front_end = SpeechBrainFbank()
    np.testing.assert_array_equal(front_end(wave[::2]), front_end(wave[::2].copy()))


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
def test_samples_of_frames(frames: int) -> None:
    front_end = SpeechBrainFbank()
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
    ],
)
def test_bad_waveforms(wave: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        SpeechBrainFbank()(wave)


def test_spec_makes_an_equal_front_end() -> None:
    front_end = SpeechBrainFbank(60)
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
        ({}, "front end None is unknown; known: speechbrain"),
        ({"name": ["speechbrain"]}, "unknown"),
        ({"name": "kaldi"}, "'kaldi' is unknown"),
        ({"name": "speechbrain"}, "described by name and n_mels"),
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
