"""How far rows and columns of integer weights spread: what picks a weight's frequency table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["spreads"]

Array = NDArray[Any]

_STEPS_AN_OCTAVE = 4
# A weight of 0 has a magnitude too, for rows of nothing else have a spread.
_FLOOR = 0.15
_ROUNDS = 6
# Spreads further from the middle one than four octaves are taken for that.
_REACH = 4 * _STEPS_AN_OCTAVE


def spreads(weights: Array) -> tuple[Array, Array]:
    """Rows' and columns' spreads in quarters of an octave, whole numbers.

    weights: (rows, columns), in steps of their integers; a magnitude is about
    ``2^((row + column) / 4)`` on the mean.
    """
    if weights.size == 0:
        return np.zeros(weights.shape[0], np.int64), np.zeros(weights.shape[1], np.int64)
    magnitude = np.abs(weights.astype(np.float32))
    magnitude += np.float32(_FLOOR)
    columns = np.ones(magnitude.shape[1], np.float32)
    for _ in range(_ROUNDS):
        rows = magnitude @ (1 / columns) / magnitude.shape[1]
        columns = (1 / rows) @ magnitude / magnitude.shape[0]
    return _in_quarters(rows), _in_quarters(columns)


def _in_quarters(values: Array) -> Array:
    quarters = np.rint(_STEPS_AN_OCTAVE * np.log2(values))
    middle = float(np.median(quarters))
    return np.asarray(np.clip(quarters, middle - _REACH, middle + _REACH), np.int64)
