"""Deflate (RFC 1951) of byte planes: all first bytes of the values, then all second ones.

For what is not weights, such as multipliers: few, of wide dtypes, and many of them equal.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.storage.group import Group, Reader, sizes_as_bytes

__all__ = ["decode", "encode", "sizes"]

Array = NDArray[Any]


def encode(arrays: dict[str, Array]) -> tuple[Array, dict[str, Any]]:
    """The stream (n,) uint8 of arrays of one dtype, and its coding."""
    group = Group.of(arrays)
    little = group.dtype.newbyteorder("<")
    values = [np.ascontiguousarray(arrays[name], little).reshape(-1) for name in group.shapes]
    planes = np.concatenate(values).view(np.uint8).reshape(-1, little.itemsize).T
    packed = zlib.compress(planes.tobytes(), 9)
    stream = sizes_as_bytes([len(packed)]) + packed
    return group.filled_up(stream), {"coding": "deflate", **group.described()}


def decode(stream: Array, group: Group) -> dict[str, Array]:
    """The arrays. Raises ValueError for a stream that is not theirs."""
    little = group.dtype.newbyteorder("<")
    counts = [math.prod(shape) for shape in group.shapes.values()]
    reader = Reader(stream)
    packed = reader.bytes(*reader.sizes(1)).tobytes()
    size = sum(counts) * little.itemsize
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(f"is damaged: {error}") from error
    if len(data) != size or not inflate.eof:
        raise ValueError(f"does not hold {size} bytes")
    planes = np.frombuffer(data, np.uint8).reshape(little.itemsize, -1)
    values = np.ascontiguousarray(planes.T).reshape(-1).view(little).astype(group.dtype)
    parts = np.split(values, np.cumsum(counts)[:-1])
    return {
        name: part.reshape(shape)
        for part, (name, shape) in zip(parts, group.shapes.items(), strict=True)
    }


def sizes(stream: Array, group: Group) -> dict[str, int]:
    """Bytes of the stream that are an array's, by name: its share, for all are coded as one."""
    counts = {name: math.prod(shape) for name, shape in group.shapes.items()}
    total = max(1, sum(counts.values()))
    return {name: stream.size * count // total for name, count in counts.items()}
