"""What the front ends on the compiled mel filterbank have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from earmark import _C
from earmark.errors import AudioError, FormatError

__all__ = ["MelFrontEnd"]

_MAX_MELS = 400  # more filters than the spectrum can tell apart make no sense


Self = TypeVar("Self", bound="MelFrontEnd")


class MelFrontEnd:
    """A front end that has the number of its filters and nothing else to choose.

    Subclasses give its name in model files, the samples from one frame to the next, and what the
    engine runs. Raises FormatError when ``n_mels`` is not an integer from 1 to 400.
    """

    name: ClassVar[str]
    hop: ClassVar[int]

    sample_rate_hz = 16000
    min_samples = 1

    def __init__(self, n_mels: int) -> None:
        if type(n_mels) is not int or not 1 <= n_mels <= _MAX_MELS:
            raise FormatError(f"n_mels must be an integer from 1 to {_MAX_MELS}, got {n_mels!r}")
        self.n_features = n_mels
        self._compiled = self._compile(n_mels)

    @staticmethod
    def _compile(n_mels: int) -> _C.FrontEnd:
        raise NotImplementedError

    def __reduce__(self: Self) -> tuple[type[Self], tuple[int]]:
        return type(self), (self.n_features,)

    @classmethod
    def from_spec(cls: type[Self], spec: Mapping[str, Any]) -> Self:
        """From what :meth:`spec` returned. Raises FormatError for other keys or values."""
        if set(spec) != {"name", "n_mels"}:
            raise FormatError(
                f"front end {cls.name} is described by name and n_mels, got {sorted(spec)}"
            )
        return cls(spec["n_mels"])

    def spec(self) -> dict[str, Any]:
        """``{"name": ..., "n_mels": ...}``."""
        return {"name": self.name, "n_mels": self.n_features}

    @property
    def compiled(self) -> _C.FrontEnd:
        """What the engine runs in front of a network."""
        return self._compiled

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return samples // self.hop + 1

    def samples_of_frames(self, frames: int) -> int:
        """Fewest samples that give at least ``frames`` frames."""
        return max(self.min_samples, (frames - 1) * self.hop)

    def __call__(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (n // hop + 1, n_mels) of a mono waveform (n,) at 16 kHz, samples in [-1, 1].

        Raises AudioError for another rank or dtype, for an empty waveform, NaN and Inf.
        """
        if wave.ndim != 1 or wave.dtype != np.float32:
            raise AudioError(f"waveform must be float32 (n,), got {wave.dtype} {wave.shape}")
        isa = _C.default_isa()
        try:
            return self._compiled(np.require(wave, requirements=["C", "A"]), isa=isa)
        except ValueError as error:
            raise AudioError(str(error)) from error
