"""Zstandard (RFC 8878), a frame for each array; needs ``earmark[compress]``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.storage.group import Group, Reader, in_parallel, sizes_as_bytes

__all__ = ["decode", "encode", "sizes"]

Array = NDArray[Any]

_LEVEL = 19


def encode(arrays: dict[str, Array]) -> tuple[Array, dict[str, Any]]:
    """The stream (n,) uint8 of arrays of one dtype, and its coding."""
    import zstandard

    group = Group.of(arrays)
    little = group.dtype.newbyteorder("<")
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    frames = [
        compressor.compress(np.ascontiguousarray(arrays[name], little).tobytes())
        for name in group.shapes
    ]
    stream = sizes_as_bytes([len(frame) for frame in frames]) + b"".join(frames)
    return group.filled_up(stream), {"coding": "zstd", **group.described()}


def decode(stream: Array, group: Group) -> dict[str, Array]:
    """The arrays. Raises ValueError for a stream that is not theirs."""
    import zstandard

    little = group.dtype.newbyteorder("<")
    arrays: dict[str, Array] = {}

    def read(name: str, frame: Array) -> None:
        size = math.prod(group.shapes[name]) * little.itemsize
        try:
            data = zstandard.ZstdDecompressor().decompress(frame.tobytes(), max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(f"is damaged: {error}") from error
        if len(data) != size:
            raise ValueError(f"holds {len(data)} bytes for {name!r}, expected {size}")
        values = np.frombuffer(data, little).astype(group.dtype)
        arrays[name] = values.reshape(group.shapes[name])

    in_parallel(read, list(zip(group.shapes, _frames(stream, group), strict=True)))
    return arrays


def sizes(stream: Array, group: Group) -> dict[str, int]:
    """Bytes of the stream that are an array's, by name."""
    frames = _frames(stream, group)
    return {name: frame.size for name, frame in zip(group.shapes, frames, strict=True)}


def _frames(stream: Array, group: Group) -> list[Array]:
    reader = Reader(stream)
    return [reader.bytes(size) for size in reader.sizes(len(group.shapes))]
