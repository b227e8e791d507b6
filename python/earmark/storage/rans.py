"""The entropy coder of weights (docs/file-format.md; ``csrc/core/rans.h``).

Weights of an output that is large have a wide distribution, those of an input that is small a
narrow one. Every row and column of a weight has a level, in quarters of an octave of the mean
magnitude; their sum picks one of a few dozen frequency tables that all arrays share (contexts as in
DeepCABAC, S. Wiedemann et al., arXiv:1907.11900, but known before decoding, so that it can work on
sixteen weights at once). Arrays of wider values are coded byte by byte, all first bytes with one
table, all second ones with another.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark import _C
from earmark.storage.group import Group, Reader, in_parallel, sizes_as_bytes
from earmark.storage.spreads import spreads

__all__ = ["decode", "encode", "sizes"]

Array = NDArray[Any]

_TOTAL = 4096
_SYMBOLS = 256
_TABLE_BYTES = 2 * _SYMBOLS
_MOST_TABLES = 256
_CHUNK = 1 << 18


@dataclass(frozen=True)
class _Form:
    """An array as a matrix of bytes: its levels of rows and columns, and what bytes count from."""

    name: str
    rows: Array
    columns: Array
    centre: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.columns)

    def chunks(self) -> list[slice]:
        return _chunks(*self.shape)


@dataclass(frozen=True)
class _Matrix(_Form):
    """With its bytes (rows, columns)."""

    data: Array


def _chunks(rows: int, columns: int) -> list[slice]:
    """Rows that are coded together."""
    step = max(1, _CHUNK // max(1, columns))
    return [slice(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


def encode(arrays: dict[str, Array]) -> tuple[Array, dict[str, Any]]:
    """The stream (n,) uint8 of arrays of one dtype, and its coding."""
    group = Group.of(arrays)
    if group.dtype.itemsize == 1:
        matrices = _levelled(group, arrays)
    else:
        matrices = [_planes(name, arrays[name]) for name in group.shapes]
    frequencies = _frequencies(matrices)
    coder = _C.RansCoder(frequencies)
    side = [bytes([len(frequencies) - 1]), _in_planes(frequencies)]
    sizes: list[int] = []
    codes: list[bytes] = []
    for matrix in matrices:
        if group.dtype.itemsize == 1:
            side += [bytes([matrix.centre]), matrix.rows.tobytes(), matrix.columns.tobytes()]
        for rows in matrix.chunks():
            code = coder.encode(matrix.data[rows], matrix.rows[rows], matrix.columns)
            sizes.append(code.size)
            codes.append(code.tobytes())
    packed = zlib.compress(b"".join([*side, sizes_as_bytes(sizes)]), 9)
    stream = sizes_as_bytes([len(packed)]) + packed + b"".join(codes)
    return group.filled_up(stream), {"coding": "rans", **group.described()}


def decode(stream: Array, group: Group) -> dict[str, Array]:
    """The arrays. Raises ValueError for a stream that is not theirs."""
    parsed = _Parsed(stream, group)
    coder = _C.RansCoder(parsed.frequencies)
    arrays: dict[str, Array] = {}
    calls = []
    for form, codes in zip(parsed.forms, parsed.codes, strict=True):
        data = arrays[form.name] = np.empty(form.shape, np.uint8)
        for rows, code in zip(form.chunks(), codes, strict=True):
            calls.append((code, form.rows[rows], form.columns, data[rows]))
    in_parallel(coder.decode, calls)
    for form in parsed.forms:
        data, shape = arrays[form.name], group.shapes[form.name]
        if group.dtype.itemsize == 1:
            if form.centre:
                data += np.uint8(form.centre)
            arrays[form.name] = data.view(group.dtype).reshape(shape)
        else:
            values = np.ascontiguousarray(data.T).view(group.dtype.newbyteorder("<"))
            arrays[form.name] = values.astype(group.dtype, copy=False).reshape(shape)
    return arrays


def sizes(stream: Array, group: Group) -> dict[str, int]:
    """Bytes of the stream that are an array's own code, by name."""
    parsed = _Parsed(stream, group)
    return {
        form.name: sum(code.size for code in codes)
        for form, codes in zip(parsed.forms, parsed.codes, strict=True)
    }


class _Parsed:
    """A stream taken apart; nothing of it is decoded yet."""

    def __init__(self, stream: Array, group: Group) -> None:
        reader = Reader(stream)
        packed = reader.bytes(*reader.sizes(1))
        alone = group.dtype.itemsize == 1
        shapes = [_shape(group, name) for name in group.shapes]
        chunks = [_chunks(*shape) for shape in shapes]
        levels = sum(1 + rows + columns for rows, columns in shapes) if alone else 0
        most = 1 + _MOST_TABLES * _TABLE_BYTES + levels + 4 * sum(map(len, chunks))
        try:
            side = zlib.decompressobj().decompress(packed.tobytes(), most)
        except zlib.error as error:
            raise ValueError(f"is damaged: {error}") from error
        inner = Reader(np.frombuffer(side, np.uint8))
        n_tables = int(inner.bytes(1)[0]) + 1
        self.frequencies = _of_planes(inner.bytes(_TABLE_BYTES * n_tables))
        self.forms = []
        for name, (rows, columns) in zip(group.shapes, shapes, strict=True):
            centre = int(inner.bytes(1)[0]) if alone else 0
            row_level = inner.bytes(rows) if alone else np.arange(rows, dtype=np.uint8)
            column_level = inner.bytes(columns) if alone else np.zeros(columns, np.uint8)
            self.forms.append(_Form(name, row_level, column_level, centre))
        lengths = iter(inner.sizes(sum(map(len, chunks))))
        self.codes = [[reader.bytes(next(lengths)) for _ in parts] for parts in chunks]


def _shape(group: Group, name: str) -> tuple[int, int]:
    """Of the matrix of bytes that is coded."""
    if group.dtype.itemsize == 1:
        return group.rows(name)
    return group.dtype.itemsize, math.prod(group.shapes[name])


def _planes(name: str, array: Array) -> _Matrix:
    """Values of several bytes: all first bytes are a row, all second ones the next."""
    itemsize = array.dtype.itemsize
    values = np.ascontiguousarray(array.reshape(-1), array.dtype.newbyteorder("<"))
    data = np.ascontiguousarray(values.view(np.uint8).reshape(-1, itemsize).T)
    levels = np.arange(itemsize, dtype=np.uint8)
    return _Matrix(name, levels, np.zeros(data.shape[1], np.uint8), 0, data)


def _levelled(group: Group, arrays: dict[str, Array]) -> list[_Matrix]:
    """Values of a byte around their most frequent one, with levels of rows and columns."""
    found = []
    for name in group.shapes:
        data = np.ascontiguousarray(arrays[name]).reshape(group.rows(name)).view(np.uint8)
        centre = int(np.bincount(data.reshape(-1), minlength=_SYMBOLS).argmax())
        moved = data - np.uint8(centre)
        rows, columns = spreads(moved.view(np.int8))
        found.append((name, moved, rows, columns, centre))
    lowest = min((r.min() + c.min() for _, _, r, c, _ in found if r.size and c.size), default=0)
    return [
        _Matrix(
            name,
            (rows + columns.min(initial=0) - lowest).astype(np.uint8),
            (columns - columns.min(initial=0)).astype(np.uint8),
            centre,
            data,
        )
        for name, data, rows, columns, centre in found
    ]


def _frequencies(matrices: list[_Matrix]) -> Array:
    """Tables (n, 256) uint16 of sum 4096 each, of what the matrices hold."""
    used = (int(m.rows.max()) + int(m.columns.max()) for m in matrices if m.data.size)
    n = min(max(used, default=0), _MOST_TABLES - 1) + 1
    counts = np.zeros(n * _SYMBOLS, np.int64)
    for matrix in matrices:
        for rows in matrix.chunks():
            level = matrix.rows[rows, None].astype(np.int32) + matrix.columns
            place = np.minimum(level, n - 1) * _SYMBOLS + matrix.data[rows]
            counts += np.bincount(place.reshape(-1), minlength=counts.size)
    return np.stack([_to_total(row) for row in counts.reshape(n, _SYMBOLS)])


def _to_total(counts: Array) -> Array:
    """Frequencies of a sum of 4096, at least 1 for all that is there."""
    if not counts.any():
        counts = np.ones_like(counts)
    exact = counts * (_TOTAL / counts.sum())
    frequencies = np.where(counts > 0, np.maximum(1, np.floor(exact)), 0).astype(np.int64)
    # What is over goes where it saves most bits, what is missing comes from where it costs least.
    while (left := _TOTAL - int(frequencies.sum())) != 0:
        step = 1 if left > 0 else -1
        able = (counts > 0) & (frequencies + step >= 1)
        gain = np.where(able, counts * np.log2(1 + step / np.maximum(frequencies, 1.5)), -np.inf)
        for i in np.argsort(-gain, kind="stable")[: min(abs(left), int(able.sum()), 8)]:
            frequencies[i] += step
    return frequencies.astype(np.uint16)


def _in_planes(frequencies: Array) -> bytes:
    """All low bytes, then all high ones: what deflate makes least of."""
    planes: Array = frequencies.astype("<u2").reshape(-1, 1).view(np.uint8).T
    return planes.tobytes()


def _of_planes(data: Array) -> Array:
    pairs = np.ascontiguousarray(data.reshape(2, -1).T)
    return pairs.view("<u2").astype(np.uint16).reshape(-1, _SYMBOLS)
