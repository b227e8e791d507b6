"""What follows the sums of an int8 layer: its constants in steps of the result, and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.modelfile import Arrays

__all__ = ["in_steps", "sigmoid_lines", "sigmoid_table", "tanh_lines", "tanh_table"]

Array = NDArray[Any]

# 1024 entries over the range in which the function still moves.
_TABLE_SIZE = 1024
_TANH_REACH = 4.0
_SIGMOID_REACH = 8.0
# With lines between entries, for 16 bits: an odd number, so that one lies at 0. The lines are off
# by less than 6e-6, and beyond the reach nothing moves by more than 3e-7.
_LINES_SIZE = 2049
_TANH_LINES_REACH = 8.0
_SIGMOID_LINES_REACH = 16.0


def in_steps(step: float, scale: Array, rows: Arrays, centre: float = 0.0) -> Array:
    """The array ``epilogue`` of a layer whose result is counted in steps from -centre steps on.

    scale: (out,), of the sums. rows: "offset" and perhaps "gain" and "shift", (out,) each, in real
    units. The step goes into the last affine there is.
    """
    if "gain" in rows:
        shift = rows["shift"] / step + centre
        return np.stack([scale, rows["offset"], rows["gain"] / step, shift])
    return np.stack([scale / step, rows["offset"] / step + centre])


def tanh_table(scale: float) -> tuple[float, Array]:
    """The step of an index, and the entries in int8 with that scale."""
    step, points = _points(_TANH_REACH)
    return step, np.rint(np.tanh(points) / scale).astype(np.int8)


def sigmoid_table() -> tuple[float, Array]:
    """The step of an index, and the entries."""
    step, points = _points(_SIGMOID_REACH)
    return step, 1 / (1 + np.exp(-points))


def tanh_lines() -> tuple[float, float, Array]:
    """The step from entry to entry, the number of the one at 0, and the entries."""
    points = np.linspace(-_TANH_LINES_REACH, _TANH_LINES_REACH, _LINES_SIZE)
    return points[1] - points[0], (_LINES_SIZE - 1) / 2, np.tanh(points)


def sigmoid_lines() -> tuple[float, float, Array]:
    """Likewise."""
    points = np.linspace(-_SIGMOID_LINES_REACH, _SIGMOID_LINES_REACH, _LINES_SIZE)
    return points[1] - points[0], (_LINES_SIZE - 1) / 2, 1 / (1 + np.exp(-points))


def _points(reach: float) -> tuple[float, Array]:
    step = 2 * reach / _TABLE_SIZE
    return step, (np.arange(_TABLE_SIZE) - _TABLE_SIZE // 2) * step
