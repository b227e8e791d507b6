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
    """A front end on a mel filterbank, with the number of its filters to choose.

    Subclasses give its name in model files and what the engine runs; one with more to choose names
    that in ``options``, each a parameter of its constructor and of :meth:`_compile`, and checks it.
    Raises FormatError when ``n_mels`` is not an integer from 1 to 400.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()

    sample_rate_hz = 16000

    def __init__(self, n_mels: int, **options: Any) -> None:
        if type(n_mels) is not int or not 1 <= n_mels <= _MAX_MELS:
            raise FormatError(f"n_mels must be an integer from 1 to {_MAX_MELS}, got {n_mels!r}")
        self.n_features = n_mels
        self._values = {"n_mels": n_mels, **options}
        self._compiled = self._compile(**self._values)

    @staticmethod
    def _compile(n_mels: int) -> _C.FrontEnd:
        raise NotImplementedError

    def __reduce__(self: Self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), tuple(self._values.values())

    @classmethod
    def from_spec(cls: type[Self], spec: Mapping[str, Any]) -> Self:
        """From what :meth:`spec` returned. Raises FormatError for other keys or values."""
        keys = ["name", "n_mels", *cls.options]
        if set(spec) != set(keys):
            described = f"{', '.join(keys[:-1])} and {keys[-1]}"
            raise FormatError(f"front end {cls.name} is described by {described}, got {list(spec)}")
        return cls(**{key: spec[key] for key in keys[1:]})

    def spec(self) -> dict[str, Any]:
        """``{"name": ..., "n_mels": ...}`` and the options."""
        return {"name": self.name, **self._values}

    @property
    def compiled(self) -> _C.FrontEnd:
        """What the engine runs in front of a network."""
        return self._compiled

    @property
    def min_samples(self) -> int:
        """Fewest samples from which it makes features."""
        return self._compiled.min_samples

    def frames(self, samples: int) -> int:
        """Frames of so many samples; 0 of fewer than ``min_samples``."""
        return self._compiled.frames(samples)

    def samples_of_frames(self, frames: int) -> int:
        """Fewest samples that give at least ``frames`` frames."""
        return self._compiled.samples_of_frames(frames)

    def __call__(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (frames(n), n_mels) of a mono waveform (n,) at 16 kHz, samples in [-1, 1].

        Raises AudioError for another rank or dtype, fewer than ``min_samples``, NaN and Inf.
        """
        if wave.ndim != 1 or wave.dtype != np.float32:
            raise AudioError(f"waveform must be float32 (n,), got {wave.dtype} {wave.shape}")
        isa = _C.default_isa()
        try:
            return self._compiled(np.require(wave, requirements=["C", "A"]), isa=isa)
        except ValueError as error:
            raise AudioError(str(error)) from error
