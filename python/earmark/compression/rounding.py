"""Rounding of a layer's weights to integers that are worth their bits.

The weights of an output are multiples of a step, the smaller the more they matter. Column by
column, the ones to come making up for errors (GPTQ), the integer is chosen whose error and bits
together cost least; where an input matters little, most become 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.compression.sensitivity import Sensitivity
from earmark.quantization.gptq import Compensation
from earmark.storage.levels import WeightLevels

__all__ = ["LIMIT", "round_layer", "steps"]

Array = NDArray[Any]

LIMIT = 127
"""Of int8 weights, and of the integers that stand for them."""

# A step is a power of two to so many parts, so that it codes small.
_STEPS_AN_OCTAVE = 4
# Of outputs that do not matter: hardly anything but 0 is left.
_LARGEST_STEP = 2.0**7.75


def steps(sensitivity: Sensitivity, compensation: Compensation, cost: float) -> Array:
    """The step of each row (out,), float32, that costs ``cost`` on the mean over the columns."""
    per_column = float(np.mean(compensation.per_column**-2))
    with np.errstate(divide="ignore"):
        step = np.sqrt(cost / (sensitivity.rows * per_column))
    exponents = np.rint(_STEPS_AN_OCTAVE * np.log2(np.clip(step, 1.0, _LARGEST_STEP)))
    return np.asarray((2.0 ** (exponents / _STEPS_AN_OCTAVE)).astype(np.float32))


def round_layer(
    weight: Array,
    compensation: Compensation,
    step: Array,
    bits: Array,
    tables: Array,
    price: float,
) -> WeightLevels:
    """Integers for weights (out, in).

    step: (out,). bits: (tables, magnitudes), of ``RateModel``; tables: (out, in), which of them
    each integer is coded with. price: of a bit, where the error of a step costs 1 on the mean over
    the columns.
    """
    integers = np.zeros(weight.shape, np.int8)
    worth = compensation.per_column**-2
    prices = price * float(worth.mean()) / worth

    def choose(column: int, values: Array) -> Array:
        exact = values / step
        nearest = np.clip(np.rint(exact), -LIMIT, LIMIT)
        best, least = nearest, np.full(len(values), np.inf)
        for candidate in (nearest, nearest - np.sign(nearest), np.zeros_like(nearest)):
            coded = bits[tables[:, column], np.abs(candidate).astype(np.int64)]
            cost = np.square(exact - candidate) + prices[column] * coded
            best = np.where(cost < least, candidate, best)
            least = np.minimum(cost, least)
        integers[:, column] = best
        restored = best.astype(np.float32) * step
        return np.clip(np.rint(restored), -LIMIT, LIMIT).astype(np.float64)

    compensation.replace(weight, choose)
    return WeightLevels(integers, step)
