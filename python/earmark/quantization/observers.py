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


class MovingAverageObserver:
    """The mean of each recording's smallest and largest value, later recordings weighing more.

    B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
    Only Inference", arXiv:1712.05877, section 3.1.
    """

    _DECAY = 0.99

    def __init__(self) -> None:
        self._low = self._high = 0.0
        self._count = 0

    def update(self, values: Array) -> None:
        self._count += 1
        # At first the mean of all so far, so that the first recording is not kept for long.
        share = max(1 - self._DECAY, 1 / self._count)
        self._low += share * (float(values.min()) - self._low)
        self._high += share * (float(values.max()) - self._high)

    def range(self) -> tuple[float, float]:
        return self._low, self._high


class _Histogram:
    """Counts of the values of all recordings.

    The histogram covers (-limit, limit); when a value lies outside, the limit doubles and bins are
    merged in pairs, so no value is lost and the result does not depend on a first pass.
    """

    _BINS = 8192

    def __init__(self) -> None:
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

    def _edge(self, bin_index: int) -> float:
        return bin_index * 2 * self._limit / self._BINS - self._limit


class PercentileObserver(_Histogram):
    """Cuts a fraction of the values at either end."""

    def __init__(self, cut: float = 1e-5) -> None:
        super().__init__()
        self._cut = cut

    def range(self) -> tuple[float, float]:
        total = np.cumsum(self._counts)
        low = int(np.searchsorted(total, self._cut * total[-1], side="right"))
        high = int(np.searchsorted(total, (1 - self._cut) * total[-1], side="left"))
        return self._edge(low), self._edge(high + 1)


class _ClippingObserver(_Histogram):
    """The part of the range seen whose 256 steps lose least; of equals the widest."""

    _RATIOS = np.linspace(1.0, 0.1, 91)

    def range(self) -> tuple[float, float]:
        seen = np.flatnonzero(self._counts)
        counts = self._counts[seen].astype(np.float64)
        values = (seen + 0.5) * 2 * self._limit / self._BINS - self._limit
        low, high = min(self._edge(int(seen[0])), 0.0), max(self._edge(int(seen[-1]) + 1), 0.0)
        losses = []
        for ratio in self._RATIOS:
            step = ratio * (high - low) / 255
            levels = np.rint(np.clip(values, ratio * low, ratio * high) / step)
            losses.append(self._loss(values, counts, levels, step))
        best = self._RATIOS[int(np.argmin(losses))]
        return float(best * low), float(best * high)

    def _loss(self, values: Array, counts: Array, levels: Array, step: float) -> float:
        raise NotImplementedError


class MseObserver(_ClippingObserver):
    """Clips where the mean squared error of rounding and clipping is least."""

    def _loss(self, values: Array, counts: Array, levels: Array, step: float) -> float:
        error = values - levels * step
        return float(counts @ (error * error))


class EntropyObserver(_ClippingObserver):
    """Clips where the distribution of what is left differs least from that of the values.

    Least Kullback-Leibler divergence: S. Migacz, "8-bit Inference with TensorRT", GTC 2017. The
    values beyond the range count as its ends, and each level's count is spread evenly over the
    values that it stands for.
    """

    def _loss(self, values: Array, counts: Array, levels: Array, step: float) -> float:
        level = (levels - levels.min()).astype(np.int64)
        inside = np.abs(values - levels * step) <= step
        if not inside.any():
            return np.inf
        # What is cut off lies at the last values inside.
        reference = np.where(inside, counts, 0.0)
        first, last = np.flatnonzero(inside)[[0, -1]]
        reference[first] += counts[:first].sum()
        reference[last] += counts[last + 1 :].sum()
        spread = np.bincount(level, np.where(inside, counts, 0.0))
        members = np.bincount(level, inside)
        model = np.where(inside, (spread / np.maximum(members, 1))[level], 0.0)
        p, q = reference[inside] / reference.sum(), model[inside] / model.sum()
        return float(p @ np.log(p / q))


OBSERVERS: dict[str, type[Observer]] = {
    "minmax": MinMaxObserver,
    "moving-average": MovingAverageObserver,
    "percentile": PercentileObserver,
    "mse": MseObserver,
    "entropy": EntropyObserver,
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
