"""The front end of SpeechBrain's speaker models.

The same features as ``speechbrain.lobes.features.Fbank(n_mels=80)`` followed by
``InputNormalization(norm_type="sentence", std_norm=False)``, for one recording at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark import _C
from earmark.errors import AudioError, FormatError

__all__ = ["SpeechBrainFbank"]

_SAMPLE_RATE_HZ = 16000
_HOP = 160  # samples, 10 ms
_MAX_MELS = 400  # more filters than the spectrum can tell apart make no sense


class SpeechBrainFbank:
    """Mel filterbank energies in dB with the recording's mean subtracted.

    Frames of 400 samples, one each 160, centred on their time with zeros beyond the ends; periodic
    Hamming window; power spectrum; triangular filters over 0 to 8000 Hz; ``10 log10`` of at least
    1e-10; values more than 80 dB below the recording's maximum raised to that; the mean over all
    frames subtracted. n samples give n // 160 + 1 frames. Computed in float64, rounded to float32;
    the same bits on every instruction set (docs/arithmetic.md).

    Raises FormatError when ``n_mels`` is not an integer from 1 to 400.
    """

    sample_rate_hz = _SAMPLE_RATE_HZ
    min_samples = 1

    def __init__(self, n_mels: int = 80) -> None:
        if type(n_mels) is not int or not 1 <= n_mels <= _MAX_MELS:
            raise FormatError(f"n_mels must be an integer from 1 to {_MAX_MELS}, got {n_mels!r}")
        self.n_features = n_mels
        self._compiled = _C.SpeechBrainFbank(n_mels)

    def __reduce__(self) -> tuple[type[SpeechBrainFbank], tuple[int]]:
        return type(self), (self.n_features,)

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

    @property
    def compiled(self) -> _C.FrontEnd:
        """What the engine runs in front of a network."""
        return self._compiled

    def samples_of_frames(self, frames: int) -> int:
        """Fewest samples that give at least ``frames`` frames."""
        return max(self.min_samples, (frames - 1) * _HOP)

    def __call__(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (n // 160 + 1, n_mels) of a mono waveform (n,) at 16 kHz, samples in [-1, 1].

        Raises AudioError for another rank or dtype, for an empty waveform, NaN and Inf.
        """
        if wave.ndim != 1 or wave.dtype != np.float32:
            raise AudioError(f"waveform must be float32 (n,), got {wave.dtype} {wave.shape}")
        isa = _C.default_isa()
        try:
            return self._compiled(np.require(wave, requirements=["C", "A"]), isa=isa)
        except ValueError as error:
            raise AudioError(str(error)) from error
