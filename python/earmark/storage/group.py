"""What a stream of several arrays holds, and how it is cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark import _C

__all__ = ["DTYPES", "Group", "Reader", "in_parallel", "sizes_as_bytes"]

Array = NDArray[Any]

DTYPES = ("int8", "uint8", "int16", "float32")
_MAX_SIZE = 1 << 40
# A stream that says nothing cannot ask for any amount of memory; weights have never come near.
_MOST_VALUES_A_BYTE = 1024


@dataclass(frozen=True)
class Group:
    """Arrays of one dtype, by name, in the order of the stream."""

    dtype: np.dtype[Any]
    shapes: dict[str, tuple[int, ...]]

    @staticmethod
    def of(arrays: dict[str, Array]) -> Group:
        """Of arrays that are to be stored; ValueError where their dtypes differ."""
        dtypes = {array.dtype for array in arrays.values()}
        if len(dtypes) != 1:
            raise ValueError(f"{len(dtypes)} dtypes in one stream")
        return Group(dtypes.pop(), {name: arrays[name].shape for name in sorted(arrays)})

    @staticmethod
    def parse(dtype: Any, arrays: Any, stream: Array) -> Group:
        """From the metadata. Raises ValueError for what no such stream can hold."""
        if dtype not in DTYPES:
            raise ValueError(f"holds arrays of {dtype!r}")
        if not isinstance(arrays, dict) or not arrays:
            raise ValueError("does not say which arrays it holds")
        total = 0
        shapes = {}
        for name in sorted(arrays):
            shape = arrays[name]
            is_shape = isinstance(shape, list) and len(shape) <= 8
            if not is_shape or not all(type(n) is int and 0 <= n <= _MAX_SIZE for n in shape):
                raise ValueError(f"holds {name!r} of an impossible shape")
            total += math.prod(shape)
            shapes[name] = tuple(shape)
        if stream.dtype != np.uint8 or stream.ndim != 1:
            raise ValueError("is not a stream of bytes")
        if total > _MOST_VALUES_A_BYTE * stream.size:
            raise ValueError(f"has {stream.size} bytes for {total} values")
        return Group(np.dtype(dtype), shapes)

    def described(self) -> dict[str, Any]:
        """As the metadata tells it."""
        arrays = {name: list(shape) for name, shape in self.shapes.items()}
        return {"dtype": self.dtype.name, "arrays": arrays}

    def filled_up(self, stream: bytes) -> Array:
        """The stream as it is stored: no shorter than its values need."""
        total = sum(map(math.prod, self.shapes.values()))
        least = -(-total // _MOST_VALUES_A_BYTE)
        return np.frombuffer(stream.ljust(least, b"\0"), np.uint8)

    def rows(self, name: str) -> tuple[int, int]:
        """(rows, columns) of an array as a matrix, a row for each output."""
        shape = self.shapes[name]
        rows = shape[0] if shape else 1
        return rows, math.prod(shape[1:]) if rows else 0


class Reader:
    """Takes a stream apart; ValueError where it is too short."""

    def __init__(self, stream: Array) -> None:
        self._stream = stream
        self._at = 0

    def bytes(self, n: int) -> Array:
        if n > self._stream.size - self._at:
            raise ValueError("is cut off")
        self._at += n
        return self._stream[self._at - n : self._at]

    def sizes(self, n: int) -> list[int]:
        """n sizes of 32 bits."""
        read: list[int] = self.bytes(4 * n).view("<u4").tolist() if n else []
        return read


def sizes_as_bytes(sizes: Sequence[int]) -> bytes:
    """As ``Reader.sizes`` reads them."""
    return np.array(sizes, "<u4").tobytes()


def in_parallel(work: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
    """``work(*call)`` for each call, on the physical cores; the first error is raised."""
    threads = min(_C.default_threads(), len(calls))
    if threads <= 1:
        for call in calls:
            work(*call)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work, *call) for call in calls]:
            future.result()
