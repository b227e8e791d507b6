"""Synthetic speakers: harmonic tones with a pitch and formants of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16000


def voice(speaker: int, utterance: int, seconds: float = 0.8) -> NDArray[np.float64]:
    """(n,) at 16 kHz, peaks at 0.5: harmonics whose amplitudes follow three resonances."""
    own, moment = np.random.default_rng(speaker), np.random.default_rng([speaker, utterance])
    pitch_hz = own.uniform(80, 250) * moment.uniform(0.95, 1.05)
    formants_hz = own.uniform((300, 900, 2200), (800, 2000, 3500))
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    harmonics_hz = pitch_hz * np.arange(1, int(7000 / pitch_hz))
    gains = np.exp(-(((harmonics_hz[:, None] - formants_hz) / 150) ** 2)).sum(axis=1) + 0.01
    phases = moment.uniform(0, 2 * np.pi, len(harmonics_hz))
    tones = np.sin(2 * np.pi * harmonics_hz[:, None] * time + phases[:, None])
    wave: NDArray[np.float64] = gains @ tones * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))
    wave += 0.01 * moment.normal(size=len(time))
    return 0.5 * wave / np.abs(wave).max()


def write(path: Path, wave: Any, rate: int = RATE_HZ, **options: Any) -> Path:
    """Write a recording, and its folders."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **options)
    return path


def write_corpus(folder: Path, speakers: int = 4, utterances: int = 3) -> Path:
    """``folder/s0/0.flac`` and so on."""
    for speaker in range(speakers):
        for utterance in range(utterances):
            write(folder / f"s{speaker}" / f"{utterance}.flac", voice(speaker, utterance))
    return folder
