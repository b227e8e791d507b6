"""Short crops of recordings: whole ones make too few errors to tell precisions apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CROP_SECONDS", "draw_crops"]

Array = NDArray[Any]

CROP_SECONDS = 2.0


def draw_crops(waves: Sequence[Array], sample_rate: int, sets: int) -> list[list[Array]]:
    """``sets`` crops of 2 s of every waveform (samples,), by set; a shorter one stays whole.

    A set cuts each recording once, anywhere; its number is the seed.
    """
    length = round(CROP_SECONDS * sample_rate)
    drawn = []
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        starts = [int(rng.integers(max(len(wave) - length, 0) + 1)) for wave in waves]
        drawn.append([w[at : at + length] for w, at in zip(waves, starts, strict=True)])
    return drawn
