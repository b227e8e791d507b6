"""Waveforms for the tests of front ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import earmark

RECORDINGS = sorted((Path(earmark.__file__).parent / "data" / "recordings").glob("*.flac"))


def noise(samples: int, seed: int = 0, scale: float = 0.1) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def glide(samples: int) -> NDArray[np.float32]:
    """A tone from 50 to 7000 Hz: 80 dB and more between neighbouring frames and filters."""
    time = np.arange(samples) / 16000
    phase = 2 * np.pi * (50 * time + 0.5 * 6950 * time**2 / (samples / 16000))
    return (0.5 * np.sin(phase)).astype(np.float32)


def tone(hz: float, samples: int = 16000) -> NDArray[np.float64]:
    return np.sin(2 * np.pi * hz * np.arange(samples) / 16000)


HOSTILE = {
    "a loud sine, then next to nothing": np.concatenate([tone(440), 1e-5 * noise(16000)]),
    "a loud sine, then nothing": np.concatenate([tone(440), np.zeros(16000)]),
    "next to nothing, then a loud sine": np.concatenate([1e-6 * noise(16000), tone(3210)]),
    "square wave": np.sign(tone(100.3)),
    "Nyquist": (-1.0) ** np.arange(8000),
    "constant": np.ones(8000),
    "impulse": np.eye(1, 5000, 2500)[0],
    "a tone at the floor": 1e-6 * tone(1000),
    "silence": np.zeros(8000),
    "subnormal": np.full(5000, 1e-44),
    "glide": glide(16000),
    "largest float32": np.finfo(np.float32).max * np.sign(tone(1000, 5000)),
}
