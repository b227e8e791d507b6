"""Float32 values that IEEE half precision holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode", "encode"]

Array = NDArray[Any]
JSON = dict[str, Any]


def encode(array: Array) -> tuple[Array, JSON]:
    """The nearest half-precision values. Raises ValueError for one that is too large."""
    with np.errstate(over="ignore"):
        stored = array.astype(np.float16)
    if not np.isfinite(stored).all():
        raise ValueError(f"{np.abs(array).max():.6g} is too large for float16")
    return stored, {"coding": "float16"}


def decode(stored: Array) -> Array:
    """The values as float32."""
    if stored.dtype != np.float16:
        raise ValueError(f"is {stored.dtype.name}, expected float16")
    return stored.astype(np.float32)
