"""Int8 values of few bits, without a gap between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode", "encode"]

Array = NDArray[Any]
JSON = dict[str, Any]

_MAX_SIZE = 1 << 40
_ROWS = 1 << 15


def encode(array: Array, bits: int) -> tuple[Array, JSON]:
    """Stored bytes (n,) uint8 and coding of int8 values that fit ``bits`` (2 to 7) bits."""
    half = 1 << (bits - 1)
    flat = array.reshape(-1).astype(np.int64) + half
    if flat.size and not 0 <= flat.min() <= flat.max() < 2 * half:
        raise ValueError(f"values do not fit {bits} bits")
    padded = np.zeros(-(-flat.size // 8) * 8, np.uint64)
    padded[: flat.size] = flat
    shifts = np.arange(0, 8 * bits, bits, dtype=np.uint64)
    words = np.bitwise_or.reduce(padded.reshape(-1, 8) << shifts, axis=1)
    stored = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)
    return stored, {"coding": "bits", "bits": bits, "shape": list(array.shape)}


def decode(stored: Array, bits: Any, shape: Any) -> Array:
    """The int8 values. Raises ValueError for bytes that are not those of this coding."""
    if type(bits) is not int or not 2 <= bits <= 7:
        raise ValueError(f"has values of {bits} bits")
    if not isinstance(shape, list) or not all(
        type(n) is int and 0 <= n <= _MAX_SIZE for n in shape
    ):
        raise ValueError("has an impossible shape")
    size = math.prod(shape)
    if stored.dtype != np.uint8 or stored.shape != (-(-size // 8) * bits,):
        raise ValueError(f"does not hold {size} values of {bits} bits")
    rows = stored.reshape(-1, bits)
    values = np.empty((len(rows), 8), np.int8)
    shifts = np.arange(0, 8 * bits, bits, dtype=np.uint64)
    mask, half = np.uint8((1 << bits) - 1), np.int8(1 << (bits - 1))
    # In parts, for the numbers that are shifted take eight times the space of the values.
    for begin in range(0, len(rows), _ROWS):
        part = rows[begin : begin + _ROWS]
        words = np.zeros((len(part), 8), np.uint8)
        words[:, :bits] = part
        plain = (words.view("<u8") >> shifts).astype(np.uint8) & mask
        values[begin : begin + _ROWS] = plain.view(np.int8) - half
    return values.reshape(-1)[:size].reshape(shape)
