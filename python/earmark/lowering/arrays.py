"""What every lowering does with a checkpoint's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.modelfile import Arrays

__all__ = ["batchnorm", "batchnorm_statistics", "stored_f32"]

Array = NDArray[Any]

_BATCHNORM_EPS = 1e-5


def batchnorm(state: Arrays, name: str) -> tuple[Array, Array]:
    """Gain and shift (channels,), float64, of the BatchNorm ``name`` in evaluation."""
    weight, bias = (_float64(state, f"{name}.{key}") for key in ("weight", "bias"))
    mean, deviation = batchnorm_statistics(state, name)
    gain = weight / deviation
    return gain, bias - mean * gain


def batchnorm_statistics(state: Arrays, name: str) -> tuple[Array, Array]:
    """Mean and standard deviation (channels,), float64, of what the BatchNorm saw in training."""
    mean, variance = (_float64(state, f"{name}.{key}") for key in ("running_mean", "running_var"))
    return mean, np.sqrt(variance + _BATCHNORM_EPS)


def _float64(state: Arrays, key: str) -> Array:
    return np.asarray(state[key], dtype=np.float32).astype(np.float64)


def stored_f32(values: Array) -> Array:
    """float32, subnormals as 0: files hold none."""
    out = values.astype(np.float32)
    out[np.abs(out) < np.finfo(np.float32).tiny] = 0.0
    return out
