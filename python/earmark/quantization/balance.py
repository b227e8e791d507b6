"""Rounding whose errors do not add up, without any data.

SQuant (C. Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian
Approximation", arXiv:2202.07471): neighbouring inputs of a kernel are alike, and so, less, are all
inputs of an output. What an output loses is then mostly the sum of its weights' errors, and a few
weights that are rounded to the other side bring that sum to zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["round_balanced", "to_nearest"]

Array = NDArray[Any]

# Weights at a time, for what is computed of them to stay near the processor.
_BLOCK = 1 << 15


def to_nearest(weight: Array, limit: int) -> Array:
    """Weights in steps, to the nearest integer in [-limit, limit]."""
    rounded: Array = np.clip(np.rint(weight), -limit, limit)
    return rounded


def round_balanced(weight: Array, limit: int) -> Array:
    """Weights in steps, to integers in [-limit, limit] beside them.

    weight: float64, (out, taps..., in). First the errors of each kernel, the taps of one input and
    output, are brought to a sum of at most half a step, then those of all kernels of an output, in
    each of which at most one more weight changes. Those nearest to the middle between two integers
    change. Returns float64 of the same shape.
    """
    # (out, in, taps)
    kernels = np.moveaxis(weight.reshape(len(weight), -1, weight.shape[-1]), 1, 2)
    rounded = np.empty_like(kernels)
    size = max(1, _BLOCK // kernels[0].size)
    for begin in range(0, len(kernels), size):
        rounded[begin : begin + size] = _balanced(kernels[begin : begin + size], limit)
    return np.moveaxis(rounded, 2, 1).reshape(weight.shape)


def _balanced(kernels: Array, limit: int) -> Array:
    """Integers for kernels (out, in, taps)."""
    rounded = to_nearest(kernels, limit)
    if kernels.shape[2] > 1:
        rounded -= _changes(rounded - kernels, rounded, limit)
    error = rounded - kernels
    total = error.sum(axis=(1, 2))
    # The one weight of each kernel that could change best.
    able = _may_change(error, rounded, total[:, None, None], limit)
    best = np.where(able, np.abs(error), -1.0).argmax(axis=2)[..., None]
    at_best = np.take_along_axis(rounded, best, axis=2)
    errors = np.take_along_axis(error, best, axis=2)
    change = _changes(errors[..., 0], at_best[..., 0], limit, total)
    np.put_along_axis(rounded, best, at_best - change[..., None], axis=2)
    return rounded


def _may_change(error: Array, rounded: Array, total: Array, limit: int) -> Array:
    """Where a step against the sign of ``total`` goes to the other side, and no further."""
    sign = np.sign(total)
    able: Array = (error * sign > 0) & (np.abs(rounded - sign) <= limit)
    return able


def _changes(error: Array, rounded: Array, limit: int, total: Array | None = None) -> Array:
    """What to take from integers (..., n), of {-1, 0, 1}, for a sum of errors nearest to zero.

    total: (...), the sum, where it is not that of ``error`` alone.
    """
    total = error.sum(axis=-1) if total is None else total
    sign = np.sign(total)[..., None]
    count = np.rint(np.minimum(np.abs(total), error.shape[-1])).astype(np.int64)[..., None]
    most = int(count.max(initial=0))
    if most == 0:
        return np.zeros_like(error)
    cost = np.where(_may_change(error, rounded, sign, limit), -np.abs(error), np.inf)
    # By values alone, of which no sort can change the order: the first of equal ones change.
    least = np.sort(np.partition(cost, most - 1, axis=-1)[..., :most], axis=-1)
    last = np.take_along_axis(least, np.maximum(count - 1, 0), axis=-1)
    within, equal = cost < last, cost == last
    left = count - within.sum(axis=-1, keepdims=True)
    chosen = (within | (equal & (np.cumsum(equal, axis=-1) <= left))) & (count > 0)
    return np.where(chosen & np.isfinite(cost), sign, 0.0)
