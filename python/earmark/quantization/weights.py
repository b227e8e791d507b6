"""Weights to integers: symmetric, one scale for each output channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.quantization.balance import round_balanced, to_nearest
from earmark.quantization.gptq import round_with_compensation
from earmark.quantization.inputs import InputMoments

__all__ = ["quantize_weights"]

Array = NDArray[Any]

# Of the largest weight; what lies beyond is clipped.
_RATIOS = np.linspace(0.25, 1.0, 76)
# Two digits to base 255, each in [-127, 127] (docs/arithmetic.md, conv_s16).
_LIMIT_16 = 127 * 255 + 127
# Of GPTQ; more where rows are few, which leaves directions of the inputs unseen.
_DAMPING, _DAMPING_FEW = 0.01, 0.05
_ROWS_A_COLUMN = 10


def quantize_weights(
    weight: Array, bits: int = 8, moments: InputMoments | None = None, balanced: bool = True
) -> tuple[Array, Array]:
    """Integers and scales of weights.

    weight: float, (out, ..., in). bits: 2 to 8, or 16. moments: of the layer's inputs, as the
    weights multiply them, in the order of the weight's other axes. With them columns are rounded
    one after another and those to come make up for the error (GPTQ); without them errors that add
    up are balanced (SQuant), unless that is not wanted and every weight is rounded to the nearest.
    With 8 bits or more the largest weight sets a channel's scale, with fewer the one of least
    squared error, a column's weighed by how much its input varies.

    Returns int8 or int16 of the same shape in [-limit, limit], limit = 2^(bits - 1) - 1, with 16
    bits 127 * 255 + 127, and float32 scales (out,).
    """
    limit = 2 ** (bits - 1) - 1 if bits <= 8 else _LIMIT_16
    columns = weight.reshape(len(weight), -1).astype(np.float64)
    largest = np.abs(columns).max(axis=1)
    if bits >= 8:
        steps = largest / limit
    else:
        power = np.ones(columns.shape[1]) if moments is None else np.diag(moments.covariance())
        steps = _least_error(columns, largest, limit, power)
    scale = np.where(largest > 0, steps, 1.0).astype(np.float32)
    if moments is None:
        wide = weight / scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
        rounded = round_balanced(wide, limit) if balanced else to_nearest(wide, limit)
    else:
        damping = _DAMPING if moments.rows >= _ROWS_A_COLUMN * columns.shape[1] else _DAMPING_FEW
        rounded = round_with_compensation(columns, scale, limit, moments.covariance(), damping)
    return rounded.astype(np.int8 if bits <= 8 else np.int16).reshape(weight.shape), scale


def _least_error(weight: Array, largest: Array, limit: int, power: Array) -> Array:
    """The step of each row whose rounding errors, weighed by ``power`` (columns,), are least."""
    best = np.full(len(weight), np.inf)
    steps = np.ones(len(weight))
    for ratio in _RATIOS:
        step = np.where(largest > 0, ratio * largest / limit, 1.0)
        error = weight - step[:, None] * np.clip(np.rint(weight / step[:, None]), -limit, limit)
        total = (error * error) @ power
        steps = np.where(total < best, step, steps)
        best = np.minimum(total, best)
    return steps
