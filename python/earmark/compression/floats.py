"""float32 arrays with fewer digits, which code small."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["round_mantissa"]

Array = NDArray[Any]

_MANTISSA = 23


def round_mantissa(values: Array, bits: int) -> Array:
    """float32 with so many bits behind the leading one of each, rounded half to even.

    bits: 0 to 23; the error is at most 2^-(bits + 1) of a value. None becomes subnormal, NaN or
    Inf: what would round up beyond the largest number is cut. Raises ValueError for other ``bits``
    and for values that are not float32 or not finite.
    """
    if not 0 <= bits <= _MANTISSA:
        raise ValueError(f"bits is {bits}, expected 0 to {_MANTISSA}")
    if values.dtype != np.float32:
        raise ValueError(f"expected float32, got {values.dtype}")
    if not np.isfinite(values).all():
        raise ValueError("NaN or Inf cannot be rounded")
    drop = _MANTISSA - bits
    if drop == 0:
        return np.array(values)
    raw = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    kept = raw >> np.uint64(drop)
    half = np.uint64((1 << (drop - 1)) - 1)
    rounded = ((raw + half + (kept & np.uint64(1))) >> np.uint64(drop)) << np.uint64(drop)
    result = rounded.astype(np.uint32).view(np.float32)
    cut = (kept << np.uint64(drop)).astype(np.uint32).view(np.float32)
    result = np.where(np.isfinite(result), result, cut)
    # A subnormal number may lose all its bits; it counts as 0.
    tiny = np.finfo(np.float32).tiny
    return np.asarray(np.where(np.abs(result) < tiny, np.float32(0), result))
