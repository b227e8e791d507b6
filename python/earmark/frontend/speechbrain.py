"""The front end of SpeechBrain's speaker models, in NumPy.

The same features as ``speechbrain.lobes.features.Fbank(n_mels=80)`` followed by
``InputNormalization(norm_type="sentence", std_norm=False)``, for one recording at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from earmark.errors import AudioError, FormatError

__all__ = ["SpeechBrainFbank"]

_SAMPLE_RATE_HZ = 16000
_WINDOW = 400  # samples, 25 ms; also the FFT's length
_HOP = 160  # samples, 10 ms
_MAX_FREQUENCY_HZ = 8000.0
_MIN_POWER = 1e-10
_TOP_DB = 80.0
_MAX_MELS = 400  # more filters than the spectrum can tell apart make no sense

# Frames computed at once: the float64 intermediates (0.2 MB each) stay in the cache and do not grow
# with the recording. 3 s took 1.5 ms; 2.3 ms with 256.
_CHUNK_FRAMES = 64

# Rows of one matrix product. BLAS keeps products this small on the calling thread; 256 rows at once
# took 12 ms instead of 0.26 ms on two cores that were busy otherwise.
_TILE_FRAMES = 16


class SpeechBrainFbank:
    """Mel filterbank energies in dB with the recording's mean subtracted.

    Frames of 400 samples, one each 160, centred on their time with zeros beyond the ends; periodic
    Hamming window; power spectrum; triangular filters over 0 to 8000 Hz; ``10 log10`` of at least
    1e-10; values more than 80 dB below the recording's maximum raised to that; the mean over all
    frames subtracted. n samples give n // 160 + 1 frames. Computed in float64, rounded to float32.

    Raises FormatError when ``n_mels`` is not an integer from 1 to 400.
    """

    sample_rate_hz = _SAMPLE_RATE_HZ
    min_samples = 1

    def __init__(self, n_mels: int = 80) -> None:
        if type(n_mels) is not int or not 1 <= n_mels <= _MAX_MELS:
            raise FormatError(f"n_mels must be an integer from 1 to {_MAX_MELS}, got {n_mels!r}")
        self.n_features = n_mels
        # torch.hamming_window is periodic unless told otherwise.
        phase = 2.0 * np.pi * np.arange(_WINDOW) / _WINDOW
        self._window = 0.54 - 0.46 * np.cos(phase)
        self._filters = _triangular_filters(n_mels)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> SpeechBrainFbank:
        """From what :meth:`spec` returned. Raises FormatError for other keys or values."""
        if set(spec) != {"name", "n_mels"}:
            raise FormatError(
                f"front end speechbrain is described by name and n_mels, got {sorted(spec)}"
            )
        return cls(spec["n_mels"])

    def spec(self) -> dict[str, Any]:
        """``{"name": "speechbrain", "n_mels": ...}``."""
        return {"name": "speechbrain", "n_mels": self.n_features}

    def samples_of_frames(self, frames: int) -> int:
        """Fewest samples that give at least ``frames`` frames."""
        return max(self.min_samples, (frames - 1) * _HOP)

    def __call__(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (n // 160 + 1, n_mels) of a mono waveform (n,) at 16 kHz, samples in [-1, 1].

        Raises AudioError for another rank or dtype and for an empty waveform.
        """
        if wave.ndim != 1 or wave.dtype != np.float32:
            raise AudioError(f"waveform must be float32 (n,), got {wave.dtype} {wave.shape}")
        if wave.size < self.min_samples:
            raise AudioError("waveform is empty")
        features = np.empty((wave.size // _HOP + 1, self.n_features), dtype=np.float32)
        for begin in range(0, len(features), _CHUNK_FRAMES):
            chunk = features[begin : begin + _CHUNK_FRAMES]
            tiles = -(-len(chunk) // _TILE_FRAMES)
            windowed = _frames(wave, begin, tiles * _TILE_FRAMES) * self._window
            spectrum = np.fft.rfft(windowed, axis=1)
            power = np.square(spectrum.real) + np.square(spectrum.imag)
            energy = power.reshape(tiles, _TILE_FRAMES, -1) @ self._filters
            decibels = 10.0 * np.log10(np.maximum(energy, _MIN_POWER, out=energy))
            chunk[:] = decibels.reshape(-1, self.n_features)[: len(chunk)]
        np.maximum(features, features.max() - np.float32(_TOP_DB), out=features)
        mean = features.mean(axis=0, dtype=np.float64)
        np.subtract(features, mean, out=features, casting="same_kind")
        return features


def _frames(wave: NDArray[np.float32], begin: int, count: int) -> NDArray[np.float32]:
    """Frames (count, 400) from number ``begin`` on, zeros where they reach past the waveform."""
    first = begin * _HOP - _WINDOW // 2
    last = first + (count - 1) * _HOP + _WINDOW
    samples = wave[max(first, 0) : last]
    if first < 0 or last > wave.size:
        samples = np.pad(samples, (max(-first, 0), max(last - wave.size, 0)))
    return sliding_window_view(samples, _WINDOW)[::_HOP]


def _triangular_filters(n_mels: int) -> NDArray[np.float64]:
    """Filters (201, n_mels), as in SpeechBrain's ``Filterbank``.

    Centres are equally spaced on the mel scale; each triangle is symmetric in Hz, as wide to both
    sides as its centre is from the one below.
    """
    mel = np.linspace(0.0, 2595.0 * math.log10(1.0 + _MAX_FREQUENCY_HZ / 700.0), n_mels + 2)
    hz = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    centre, band = hz[1:-1], np.diff(hz)[:-1]
    frequency = np.linspace(0.0, _SAMPLE_RATE_HZ / 2, _WINDOW // 2 + 1)
    slope = (frequency[:, None] - centre) / band
    filters: NDArray[np.float64] = np.maximum(0.0, 1.0 - np.abs(slope))
    return filters
