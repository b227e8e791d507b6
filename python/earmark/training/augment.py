"""What is done to a crop of speech, and to its features, before the network sees them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import soxr
from numpy.typing import NDArray

from earmark.errors import AudioError
from earmark.training.dataset import FULL_SCALE, SAMPLE_RATE_HZ, Recordings

__all__ = ["Noises", "crop", "mask", "reverberate"]

Wave = NDArray[np.float32]
_SILENCE = 1e-10  # mean square, -100 dB of full scale


def crop(samples: NDArray[np.int16], length: int, speed: float, rng: np.random.Generator) -> Wave:
    """A random piece, float32 (length,) in [-1, 1), played ``speed`` times as fast.

    Pitch and formants move with the speed, as when a tape runs faster. A recording that is too
    short is repeated.
    """
    taken = length if speed == 1 else int(np.ceil(length * speed)) + 1
    if len(samples) < taken:
        samples = np.tile(samples, -(-taken // len(samples)))
    start = rng.integers(len(samples) - taken + 1)
    wave = samples[start : start + taken].astype(np.float32) / FULL_SCALE
    if speed != 1:
        wave = soxr.resample(wave, SAMPLE_RATE_HZ * speed, SAMPLE_RATE_HZ)
    return np.resize(wave, length)


def reverberate(wave: Wave, response: Wave) -> Wave:
    """Convolved with a room's impulse response, cut to the length it had."""
    from scipy.signal import fftconvolve  # with float32 three times as fast as numpy's

    wet: Wave = fftconvolve(wave, response)[: len(wave)]
    return wet


class Noises:
    """Adds pieces of recordings at a signal-to-noise ratio drawn evenly from ``snr_db``."""

    def __init__(self, recordings: Recordings, snr_db: tuple[float, float]) -> None:
        self._recordings = recordings
        self._snr_db = snr_db

    def add(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """The wave with noise; unchanged where the piece drawn, or the wave, is silent."""
        index = int(rng.integers(len(self._recordings)))
        snr_db = rng.uniform(*self._snr_db)
        try:
            noise = crop(self._recordings.read(index), len(wave), 1.0, rng)
        except AudioError as error:
            warnings.warn(f"no noise from {error}", stacklevel=2)
            return wave
        powers = np.mean(wave**2), np.mean(noise**2)
        if min(powers) < _SILENCE:
            return wave
        gain = np.sqrt(powers[0] / powers[1]) * 10 ** (-snr_db / 20)
        noisy: Wave = wave + np.float32(gain) * noise
        return noisy


def mask(
    features: Wave, mels: Sequence[int], frames: Sequence[int], rng: np.random.Generator
) -> None:
    """SpecAugment (D. Park et al., arXiv:1904.08779) in place, without time warping.

    ``features``: (T, n_mels), of mean 0. For each entry of ``mels`` and ``frames`` a band of up to
    so many neighbours is set to 0.
    """
    for axis, widths in ((1, mels), (0, frames)):
        size = features.shape[axis]
        for widest in widths:
            width = int(rng.integers(min(widest, size) + 1))
            start = int(rng.integers(size - width + 1))
            band = slice(start, start + width)
            features[(slice(None), band) if axis else band] = 0
