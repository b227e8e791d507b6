"""Front ends: from a waveform to the normalised features that a family's networks were trained on.

``speechbrain``: :class:`SpeechBrainFbank`. ``3dspeaker``: ``KaldiFbank(window="povey", scale=1)``.
``wespeaker``: ``KaldiFbank(window="hamming", scale=32768)``, unless the model says otherwise.
``taoruijie``: :class:`TaoRuijieFbank`. ``nemo``: :class:`NemoFbank`. Sounds: :class:`LogMel`.

Another family's front end is a module beside ``earmark.frontend.speechbrain``, a class in
``csrc/engine/`` and a word in ``_FRONT_ENDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from earmark import _C
from earmark.errors import FormatError
from earmark.frontend.kaldi import KaldiFbank
from earmark.frontend.logmel import LogMel
from earmark.frontend.nemo import NemoFbank
from earmark.frontend.speechbrain import SpeechBrainFbank
from earmark.frontend.taoruijie import TaoRuijieFbank

__all__ = [
    "FrontEnd",
    "KaldiFbank",
    "LogMel",
    "NemoFbank",
    "SpeechBrainFbank",
    "TaoRuijieFbank",
    "make_front_end",
]


class FrontEnd(Protocol):
    """What every front end offers. Objects hold no state of a recording and can be pickled."""

    @property
    def sample_rate_hz(self) -> int:
        """Sampling rate of the waveforms it takes."""
        ...

    @property
    def n_features(self) -> int:
        """Features a frame."""
        ...

    @property
    def min_samples(self) -> int:
        """Fewest samples from which it makes a frame."""
        ...

    def frames(self, samples: int) -> int:
        """Frames of so many samples; 0 of fewer than ``min_samples``."""
        ...

    def samples_of_frames(self, frames: int) -> int:
        """Fewest samples that give at least ``frames`` frames."""
        ...

    def __call__(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised features (T, n_features) of a mono waveform (n,) with samples in [-1, 1].

        Raises AudioError for another rank or dtype, for fewer samples than ``min_samples``, and for
        samples that are NaN or infinite.
        """
        ...

    @property
    def compiled(self) -> _C.FrontEnd:
        """The same in C++, which the engine runs in front of a network."""
        ...

    def spec(self) -> dict[str, Any]:
        """Plain values for JSON from which :func:`make_front_end` makes an equal front end."""
        ...


_FRONT_ENDS: dict[str, Callable[[Mapping[str, Any]], FrontEnd]] = {
    front_end.name: front_end.from_spec
    for front_end in (KaldiFbank, LogMel, NemoFbank, SpeechBrainFbank, TaoRuijieFbank)
}


def make_front_end(spec: Mapping[str, Any]) -> FrontEnd:
    """The front end that ``spec`` describes; ``spec["name"]`` says which.

    Raises FormatError for an unknown name and for values that the front end refuses.

    >>> front_end = make_front_end({"name": "speechbrain", "n_mels": 80})
    >>> front_end(np.ones(16000, np.float32)).shape
    (101, 80)
    """
    name = spec.get("name")
    if not isinstance(name, str) or name not in _FRONT_ENDS:
        raise FormatError(f"front end {name!r} is unknown; known: {', '.join(sorted(_FRONT_ENDS))}")
    return _FRONT_ENDS[name](spec)
