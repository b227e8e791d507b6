"""What calibration keeps of a tensor, and the range that follows from it.

An observer sees the tensor of one recording after another, always in the same order, so results
are deterministic. To add one: a class with ``update`` and ``range``, and a line in ``OBSERVERS``.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Observer(Protocol):
    """Turns the values of a tensor into the range that int8 has to cover."""

    def update(self, values: Array) -> None:
        """Take in one recording's values, float32, any shape."""

    def range(self) -> tuple[float, float]:
        """(low, high), low <= high."""


class MinMaxObserver:
    """The smallest and the largest value seen."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf

    def update(self, values: Array) -> None:
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))

    def range(self) -> tuple[float, float]:
        return self._low, self._high


class PercentileObserver:
    """Cuts a fraction of the values at either end, from a histogram over all recordings.

    The histogram covers (-limit, limit); when a value lies outside, the limit doubles and bins are
    merged in pairs, so no value is lost and the result does not depend on a first pass.
    """

    _BINS = 8192

    def __init__(self, cut: float = 1e-5) -> None:
        self._cut = cut
        self._limit = 1.0
        self._counts = np.zeros(self._BINS, dtype=np.int64)

    def update(self, values: Array) -> None:
        largest = float(np.abs(values).max())
        while largest >= self._limit:
            quarter = self._BINS // 4
            merged = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.zeros_like(self._counts)
            self._counts[quarter : 3 * quarter] = merged
            self._limit *= 2
        scaled = (values.reshape(-1).astype(np.float64) / self._limit + 1.0) * (self._BINS / 2)
        self._counts += np.bincount(scaled.astype(np.int64), minlength=self._BINS)

    def range(self) -> tuple[float, float]:
        total = np.cumsum(self._counts)
        step = 2 * self._limit / self._BINS
        low = int(np.searchsorted(total, self._cut * total[-1], side="right"))
        high = int(np.searchsorted(total, (1 - self._cut) * total[-1], side="left"))
        return low * step - self._limit, (high + 1) * step - self._limit


OBSERVERS: dict[str, type[Observer]] = {
    "minmax": MinMaxObserver,
    "percentile": PercentileObserver,
}


class Moments:
    """Minimum, maximum, mean and standard deviation of all values seen."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._squares = 0.0
        self._low, self._high = np.inf, -np.inf

    def update(self, values: Array) -> None:
        wide = values.astype(np.float64)
        self._count += wide.size
        self._sum += float(wide.sum())
        self._squares += float((wide * wide).sum())
        self._low = min(self._low, float(wide.min()))
        self._high = max(self._high, float(wide.max()))

    def summary(self) -> dict[str, float]:
        mean = self._sum / self._count
        variance = max(self._squares / self._count - mean * mean, 0.0)
        figures = {"min": self._low, "max": self._high, "mean": mean, "std": variance**0.5}
        return {name: float(f"{value:.6g}") for name, value in figures.items()}


def summarise(values: Array) -> dict[str, float]:
    """Minimum, maximum, mean and standard deviation of one array, six digits each."""
    moments = Moments()
    moments.update(values)
    return moments.summary()
