"""The front ends after docs/arithmetic.md, in float64 throughout."""

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

WINDOW, HOP = 400, 160  # samples


def speechbrain_fbank(wave: NDArray[Any], n_mels: int = 80) -> NDArray[np.float64]:
    """Features (n // 160 + 1, n_mels) of a waveform (n,)."""
    decibels = _decibels(wave, n_mels, HOP)
    decibels = np.maximum(decibels, decibels.max() - 80)
    return decibels - decibels.mean(axis=0)


def log_mel(wave: NDArray[Any], n_mels: int = 64) -> NDArray[np.float64]:
    """Features (n // 320 + 1, n_mels) of a waveform (n,)."""
    decibels = _decibels(wave, n_mels, 2 * HOP)
    floor = max(decibels.max() - 80, -60)
    features: NDArray[np.float64] = (np.maximum(decibels, floor) + 20) / 25
    return features


def _decibels(wave: NDArray[Any], n_mels: int, hop: int) -> NDArray[np.float64]:
    padded = np.pad(wave.astype(np.float64), WINDOW // 2)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    spectrum = np.fft.rfft(sliding_window_view(padded, WINDOW)[::hop] * window)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    energies = np.maximum(power @ triangular_filters(n_mels), 1e-10)
    decibels: NDArray[np.float64] = 10 * np.log10(energies)
    return decibels


def triangular_filters(n_mels: int) -> NDArray[np.float64]:
    """Filters (201, n_mels), as in SpeechBrain's ``Filterbank``."""
    mel = np.linspace(0, 2595 * math.log10(1 + 8000 / 700), n_mels + 2)
    hz = 700 * (10 ** (mel / 2595) - 1)
    slope = (np.linspace(0, 8000, WINDOW // 2 + 1)[:, None] - hz[1:-1]) / np.diff(hz)[:-1]
    filters: NDArray[np.float64] = np.maximum(0, 1 - np.abs(slope))
    return filters


EMPHASIS = 0.97


def kaldi_fbank(
    wave: NDArray[Any], n_mels: int = 80, window: str = "povey", scale: float = 1
) -> NDArray[np.float64]:
    """Features ((n - 400) // 160 + 1, n_mels) of a waveform (n,), n >= 400."""
    logarithms = kaldi_logarithms(wave, n_mels, window, scale)
    return logarithms - logarithms.mean(axis=0)


def kaldi_logarithms(
    wave: NDArray[Any], n_mels: int = 80, window: str = "povey", scale: float = 1
) -> NDArray[np.float64]:
    """The same before the mean is subtracted."""
    samples = scale * wave.astype(np.float64)
    frames = sliding_window_view(samples, WINDOW)[::HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - EMPHASIS * np.hstack([frames[:, :1], frames[:, :-1]])
    weights = np.hamming(WINDOW) if window == "hamming" else np.hanning(WINDOW) ** 0.85
    edges = np.linspace(*(1127 * np.log1p(np.array([20, 8000]) / 700)), n_mels + 2)
    bins = 1127 * np.log1p(np.linspace(0, 8000, 257) / 700)
    energies = _power(frames * weights) @ triangles(bins, edges)
    logarithms: NDArray[np.float64] = np.log(np.maximum(energies, np.finfo(np.float32).eps))
    return logarithms


def taoruijie_fbank(wave: NDArray[Any], n_mels: int = 80) -> NDArray[np.float64]:
    """Features (n // 160 + 1, n_mels) of a waveform (n,), n >= 257."""
    logarithms = taoruijie_logarithms(wave, n_mels)
    return logarithms - logarithms.mean(axis=0)


def taoruijie_logarithms(wave: NDArray[Any], n_mels: int = 80) -> NDArray[np.float64]:
    """The same before the mean is subtracted."""
    samples = wave.astype(np.float64)
    emphasised = np.convolve(np.pad(samples, (1, 0), "reflect"), [1, -EMPHASIS], "valid")
    padded = np.pad(emphasised, 256, "reflect")
    window = np.pad(0.54 - 0.46 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW), 56)
    mels = np.linspace(*(2595 * np.log10(1 + np.array([20, 7600]) / 700)), n_mels + 2)
    filters = triangles(np.linspace(0, 8000, 257), 700 * (10 ** (mels / 2595) - 1))
    logarithms: NDArray[np.float64] = np.log(
        _power(sliding_window_view(padded, 512)[::HOP] * window) @ filters + 1e-6
    )
    return logarithms


def nemo_fbank(wave: NDArray[Any], n_mels: int = 80) -> NDArray[np.float64]:
    """Features (n // 160, n_mels) of a waveform (n,), n >= 320."""
    logarithms = nemo_logarithms(wave, n_mels)
    features: NDArray[np.float64] = (logarithms - logarithms.mean(axis=0)) / (
        logarithms.std(axis=0, ddof=1) + 1e-5
    )
    return features


def nemo_logarithms(wave: NDArray[Any], n_mels: int = 80) -> NDArray[np.float64]:
    """The same before mean and standard deviation are taken."""
    samples = wave.astype(np.float64)
    padded = np.pad(np.append(samples[0], samples[1:] - EMPHASIS * samples[:-1]), 256)
    window = np.pad(np.hanning(WINDOW), 56)
    frames = sliding_window_view(padded, 512)[::HOP][: len(wave) // HOP]
    logarithms: NDArray[np.float64] = np.log(
        _power(frames * window) @ slaney_filters(n_mels) + 2.0**-24
    )
    return logarithms


def slaney_filters(n_mels: int) -> NDArray[np.float64]:
    """Filters (257, n_mels), as ``librosa.filters.mel(sr=16000, n_fft=512)``, transposed."""
    # 200 / 3 Hz a mel up to 1000 Hz, then 27 mels for each factor of 6.4.
    mels = np.linspace(0, 15 + 27 * math.log(8) / math.log(6.4), n_mels + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    return triangles(np.linspace(0, 8000, 257), edges) * 2 / (edges[2:] - edges[:-2])


def triangles(positions: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filter m (positions, edges - 2) is 0 at edges m and m + 2 and beyond, 1 at edge m + 1."""
    return np.stack(
        [
            np.interp(positions, edges[m : m + 3], [0.0, 1.0, 0.0], left=0, right=0)
            for m in range(len(edges) - 2)
        ],
        axis=1,
    )


def _power(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(frames, 512)
    power: NDArray[np.float64] = np.square(spectrum.real) + np.square(spectrum.imag)
    return power
