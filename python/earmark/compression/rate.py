"""What integers cost: tables of frequencies, picked by how far rows and columns spread.

As in the entropy coder (``storage.rans``), the spreads of a row and a column together pick one of
the tables, which all layers share.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RateModel"]

Array = NDArray[Any]

# Tables of mean magnitudes from 2^-6 to 2^7, four an octave.
_LOWEST, _TABLES = -24, 53
_MAGNITUDES = 129
# How many integers the form that a table begins with counts for.
_PRIOR = 16.0


class RateModel:
    """Bits of an integer by its table: first of a Laplacian's, then of those that were counted."""

    def __init__(self) -> None:
        scale = 2.0 ** ((np.arange(_TABLES) + _LOWEST) / 4)[:, None]
        decay = scale / (1 + scale)
        # A geometric distribution of magnitudes with these means.
        form = (1 - decay) * decay ** np.arange(_MAGNITUDES)
        self._form = np.maximum(form, 2.0**-40)
        self._form /= self._form.sum(axis=1, keepdims=True)
        self.bits = _bits(self._form)

    @staticmethod
    def table(row: Array, column: Array) -> Array:
        """The table's number of spreads that add up; broadcast."""
        return np.asarray(np.clip(row + column - _LOWEST, 0, _TABLES - 1))

    def count(self, layers: Iterable[tuple[Array, Array]]) -> None:
        """Take the frequencies of layers: pairs of table numbers and integers of one shape."""
        counts = np.zeros((_TABLES, _MAGNITUDES))
        for tables, integers in layers:
            index = tables * _MAGNITUDES + np.abs(integers).astype(np.int64)
            counts += np.bincount(index.reshape(-1), minlength=counts.size).reshape(counts.shape)
        self.bits = _bits(counts + _PRIOR * self._form)

    def cost(self, tables: Array, integers: Array) -> float:
        """Bits of all together."""
        return float(self.bits[tables, np.abs(integers).astype(np.int64)].sum())


def _bits(frequencies: Array) -> Array:
    """A sign is one bit more."""
    bits = -np.log2(frequencies / frequencies.sum(axis=1, keepdims=True))
    bits[:, 1:] += 1
    return np.asarray(bits)
