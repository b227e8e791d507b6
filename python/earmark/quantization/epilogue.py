"""What follows the sums of an int8 layer: its constants in steps of the result, and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.modelfile import Arrays

__all__ = ["in_steps", "sigmoid_table", "tanh_table"]

Array = NDArray[Any]

# 1024 entries over the range in which the function still moves.
_TABLE_SIZE = 1024
_TANH_REACH = 4.0
_SIGMOID_REACH = 8.0


def in_steps(step: float, scale: Array, rows: Arrays) -> Array:
    """The array ``epilogue`` of a layer whose result is counted in steps.

    scale: (out,), of the sums. rows: "offset" and perhaps "gain" and "shift", (out,) each, in real
    units. The step goes into the last affine there is.
    """
    if "gain" in rows:
        return np.stack([scale, rows["offset"], rows["gain"] / step, rows["shift"] / step])
    return np.stack([scale, rows["offset"]]) / step


def tanh_table(scale: float) -> tuple[float, Array]:
    """The step of an index, and the entries in int8 with that scale."""
    step, points = _points(_TANH_REACH)
    return step, np.rint(np.tanh(points) / scale).astype(np.int8)


def sigmoid_table() -> tuple[float, Array]:
    """The step of an index, and the entries."""
    step, points = _points(_SIGMOID_REACH)
    return step, 1 / (1 + np.exp(-points))


def _points(reach: float) -> tuple[float, Array]:
    step = 2 * reach / _TABLE_SIZE
    return step, (np.arange(_TABLE_SIZE) - _TABLE_SIZE // 2) * step
