"""How arrays are stored in a model file, apart from how they are computed with.

The metadata's ``storage`` names the arrays that are not stored as they are, each with its coding:

* ``{"coding": "bits", "bits": b, "shape": [...]}``: int8 of [-2^(b - 1), 2^(b - 1) - 1] in b bits
  each. Eight values make b bytes, the last eight filled up: value + 2^(b - 1), the first in the
  lowest bits, little-endian.
* ``{"coding": "float16"}``: float32 that IEEE half precision holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_arrays", "encode_arrays", "encode_bits", "encode_float16"]

Array = NDArray[Any]
JSON = dict[str, Any]

_MAX_SIZE = 1 << 40
_ROWS = 1 << 15


def encode_bits(array: Array, bits: int) -> tuple[Array, JSON]:
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


def encode_float16(array: Array) -> tuple[Array, JSON]:
    """The nearest half-precision values. Raises ValueError for one that is too large."""
    with np.errstate(over="ignore"):
        stored = array.astype(np.float16)
    if not np.isfinite(stored).all():
        raise ValueError(f"{np.abs(array).max():.6g} is too large for float16")
    return stored, {"coding": "float16"}


def encode_arrays(
    arrays: Mapping[str, Array], encoders: Mapping[str, Callable[[Array], tuple[Array, JSON]]]
) -> tuple[dict[str, Array], dict[str, JSON]]:
    """Arrays as they are stored, and the ``storage`` of the metadata. Raises ValueError."""
    stored, storage = dict(arrays), {}
    for name, encode in encoders.items():
        try:
            stored[name], storage[name] = encode(arrays[name])
        except ValueError as error:
            raise ValueError(f"array {name!r}: {error}") from error
    return stored, storage


def decode_arrays(stored: Mapping[str, Array], storage: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays to compute with. Raises ValueError for a storage that does not fit them."""
    if missing := sorted(set(storage) - set(stored)):
        raise ValueError(f"array {missing[0]!r} is not there")
    arrays = {}
    for name, array in stored.items():
        try:
            arrays[name] = _decode(array, storage[name]) if name in storage else array
        except ValueError as error:
            raise ValueError(f"array {name!r}: {error}") from error
    return arrays


def _decode(stored: Array, coding: Any) -> Array:
    match coding:
        case {"coding": "float16", **rest} if not rest:
            if stored.dtype != np.float16:
                raise ValueError(f"is {stored.dtype.name}, expected float16")
            return stored.astype(np.float32)
        case {"coding": "bits", "bits": int(bits), "shape": list(shape), **rest} if not rest:
            return _decode_bits(stored, bits, shape)
    raise ValueError("is stored in an unknown coding")


def _decode_bits(stored: Array, bits: int, shape: list[Any]) -> Array:
    if not 2 <= bits <= 7 or isinstance(bits, bool):
        raise ValueError(f"has values of {bits} bits")
    if not all(type(n) is int and 0 <= n <= _MAX_SIZE for n in shape):
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
