"""The entropy coder's decoding, byte by byte (docs/file-format.md, "rans")."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_LANES = 16
_TOTAL = 4096
_LOW = 1 << 16


def decode_rows(code: Array, frequencies: Array, rows: Array, columns: Array) -> Array:
    """Bytes (rows, columns) of a code. frequencies: (tables, 256)."""
    firsts = np.cumsum(frequencies, axis=1, dtype=np.int64) - frequencies
    symbols = [np.repeat(np.arange(256), table) for table in frequencies]
    states = [int(state) for state in code[: 4 * _LANES].view("<u4")]
    words = iter(code[4 * _LANES :].view("<u2").tolist())
    out = np.empty((len(rows), len(columns)), np.uint8)
    for r, c in np.ndindex(out.shape):
        table = min(int(rows[r]) + int(columns[c]), len(frequencies) - 1)
        x = states[c % _LANES]
        place = x % _TOTAL
        symbol = symbols[table][place]
        x = int(frequencies[table, symbol]) * (x // _TOTAL) + place - int(firsts[table, symbol])
        if x < _LOW:
            x = x << 16 | next(words)
        out[r, c] = symbol
        states[c % _LANES] = x
    assert states == [_LOW] * _LANES
    assert next(words, None) is None
    return out
