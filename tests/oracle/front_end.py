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
