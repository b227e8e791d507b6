"""What calibration hears beside the recordings: of some, what speech is elsewhere.

Ranges are those of what was seen. The statistics of half a second go further than those of a whole
recording, as those of an unlike one do; and without anything above 4 kHz, as telephones leave it,
features that are divided by each band's deviation do (docs/quantization.md has the figures).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

__all__ = ["other_conditions"]

Array = NDArray[Any]

_SHORT_EVERY, _SHORT_SECONDS = 4, 0.5
_NARROW_EVERY, _NARROW_HZ = 8, 8000


def other_conditions(wave: Array, index: int, rate: int) -> list[Array]:
    """Of the index-th recording (samples,) at ``rate`` (Hz): of every fourth its first half second,
    of every eighth the whole as 8 kHz and 16 bits leave it."""
    found = []
    samples = int(_SHORT_SECONDS * rate)
    if index % _SHORT_EVERY == 0 and samples < len(wave):
        found.append(wave[:samples])
    if index % _NARROW_EVERY == 0 and rate > _NARROW_HZ:
        narrow = soxr.resample(soxr.resample(wave, rate, _NARROW_HZ), _NARROW_HZ, rate)
        # Resampling may lose or add a sample.
        narrow = np.pad(narrow, (0, max(0, len(wave) - len(narrow))))[: len(wave)]
        found.append((np.round(narrow * 32768) / 32768).astype(np.float32))
    return found
