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

# No more of them than these: extremes of ever more recordings would only widen ranges.
_SHORT_EVERY, _SHORT_MOST, _SHORT_SECONDS = 4, 32, 0.5
_NARROW_EVERY, _NARROW_MOST, _NARROW_HZ = 8, 16, 8000


def other_conditions(wave: Array, index: int, count: int, rate: int) -> list[Array]:
    """Of the index-th of ``count`` recordings, (samples,) at ``rate`` (Hz).

    Of every fourth, at most 32, its first half second; of every eighth, at most 16, the whole as
    8 kHz and 16 bits leave it.
    """
    found = []
    samples = int(_SHORT_SECONDS * rate)
    if _chosen(index, count, _SHORT_EVERY, _SHORT_MOST) and samples < len(wave):
        found.append(wave[:samples])
    if _chosen(index, count, _NARROW_EVERY, _NARROW_MOST) and rate > _NARROW_HZ:
        narrow = soxr.resample(soxr.resample(wave, rate, _NARROW_HZ), _NARROW_HZ, rate)
        # Resampling may lose or add a sample.
        narrow = np.pad(narrow, (0, max(0, len(wave) - len(narrow))))[: len(wave)]
        found.append((np.round(narrow * 32768) / 32768).astype(np.float32))
    return found


def _chosen(index: int, count: int, every: int, most: int) -> bool:
    return index % max(every, -(-count // most)) == 0
