"""What every lowering does with a checkpoint's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.modelfile import Arrays

__all__ = ["batchnorm", "stored_f32"]

Array = NDArray[Any]

_BATCHNORM_EPS = 1e-5


def batchnorm(state: Arrays, name: str) -> tuple[Array, Array]:
    """Gain and shift (channels,), float64, of the BatchNorm ``name`` in evaluation."""
    weight, bias, mean, variance = (
        np.asarray(state[f"{name}.{key}"], dtype=np.float32).astype(np.float64)
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    gain = weight / np.sqrt(variance + _BATCHNORM_EPS)
    return gain, bias - mean * gain


def stored_f32(values: Array) -> Array:
    """float32, subnormals as 0: files hold none."""
    out = values.astype(np.float32)
    out[np.abs(out) < np.finfo(np.float32).tiny] = 0.0
    return out
