"""Weights to int8: symmetric, one scale for each output channel. Other roundings go here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def quantize_weights(weight: Array) -> tuple[Array, Array]:
    """Round to the nearest multiple of max|w| / 127 of each output channel.

    weight: float, (out, ...). Returns int8 of the same shape in [-127, 127] and float32 scales
    (out,).
    """
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    columns = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / columns), -127, 127).astype(np.int8), scale
