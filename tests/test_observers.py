"""Observers: from the values of a tensor to the range that int8 covers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from earmark.quantization.observers import (
    OBSERVERS,
    EntropyObserver,
    MinMaxObserver,
    Moments,
    MovingAverageObserver,
    MseObserver,
    PercentileObserver,
    summarise,
)

Array = NDArray[Any]

VALUES = st.lists(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), min_size=1, max_size=5
)


@given(batches=VALUES)
def test_minmax_and_moments_are_numpys(batches: list[list[float]]) -> None:
    observer, moments = MinMaxObserver(), Moments()
    for batch in batches:
        values = np.array(batch, np.float32)
        observer.update(values)
        moments.update(values)
    values = np.concatenate(batches)
    assert observer.range() == (values.min(), values.max())
    summary = moments.summary()
    size = np.abs(values).max()
    assert summary["min"] == pytest.approx(values.min(), rel=1e-5)
    assert summary["max"] == pytest.approx(values.max(), rel=1e-5)
    assert summary["mean"] == pytest.approx(values.mean(), rel=1e-5, abs=1e-6 * size)
    assert summary["std"] == pytest.approx(values.std(), rel=1e-5, abs=1e-6 * size)


def test_moments_of_one_array() -> None:
    values = np.random.default_rng(0).normal(3.0, 0.01, (100, 7)).astype(np.float32)
    summary = summarise(values)
    assert summary == json.loads(json.dumps(summary))
    assert summary["mean"] == pytest.approx(values.mean(dtype=np.float64), rel=1e-5)
    assert summary["std"] == pytest.approx(values.std(dtype=np.float64), rel=1e-4)
    assert summarise(np.full(9, 0.1, np.float32))["std"] == 0.0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 7.5, 1e4])
@pytest.mark.parametrize("cut", [1e-5, 1e-3, 0.05])
def test_percentiles_are_numpys(scale: float, cut: float) -> None:
    rng = np.random.default_rng(1)
    values = (rng.standard_t(4, 200_000) * scale).astype(np.float32)
    observer = PercentileObserver(cut)
    for batch in np.split(values, 10):
        observer.update(batch.reshape(-1, 50))
    low, high = observer.range()
    # A bin of the histogram, whose limit is the power of two above the largest value, at least 1.
    bin_width = 2 * max(1.0, 2.0 ** float(np.ceil(np.log2(np.abs(values).max())))) / 8192
    for bound, quantile in ((low, cut), (high, 1 - cut)):
        assert np.quantile(values, quantile) == pytest.approx(bound, abs=2 * bin_width)
    assert low < np.quantile(values, cut) + bin_width
    # About the asked share lies outside, where bins are fine enough to tell.
    if scale >= 1.0:
        outside = np.mean((values < low) | (values > high))
        assert outside <= 2 * cut + 1 / values.size


@given(batches=VALUES, cut=st.sampled_from([0.0, 1e-5, 0.1, 0.4]))
def test_percentiles_lie_within_the_values(batches: list[list[float]], cut: float) -> None:
    observer = PercentileObserver(cut)
    for batch in batches:
        observer.update(np.array(batch, np.float32))
    low, high = observer.range()
    values = np.concatenate(batches)
    bin_width = 4 * max(1.0, np.abs(values).max()) / 8192
    assert low <= high
    assert values.min() - bin_width <= low
    assert high <= values.max() + bin_width


def test_the_histogram_grows_without_losing_values() -> None:
    observer = PercentileObserver(0.0)
    for value in (0.5, -3.0, 100.0, -1e6, 0.0, 1.0, -1.0, 2.0**20):
        observer.update(np.full(10, value, np.float32))
    low, high = observer.range()
    assert low == pytest.approx(-1e6, rel=0.01)
    assert high == pytest.approx(2.0**20, rel=0.01)


@given(batches=VALUES)
def test_every_observer_has_a_range_near_the_values(batches: list[list[float]]) -> None:
    values = np.concatenate(batches)
    bin_width = 4 * max(1.0, np.abs(values).max()) / 8192
    for make in OBSERVERS.values():
        observer = make()
        for batch in batches:
            observer.update(np.array(batch, np.float32))
        low, high = observer.range()
        assert low <= high
        # What clips keeps 0, as every range that is used does.
        assert min(values.min(), 0) - bin_width <= low
        assert high <= max(values.max(), 0) + bin_width


def test_the_moving_average_is_its_definition() -> None:
    recordings = np.random.default_rng(2).normal(size=(250, 40)).astype(np.float32)
    observer = MovingAverageObserver()
    for recording in recordings:
        observer.update(recording)
    # The mean of the first hundred, then one part in a hundred of each.
    low, high = recordings[:100].min(axis=1).mean(), recordings[:100].max(axis=1).mean()
    for recording in recordings[100:]:
        low = 0.99 * low + 0.01 * recording.min()
        high = 0.99 * high + 0.01 * recording.max()
    assert observer.range() == pytest.approx((low, high), rel=1e-5)


def squared_error(values: Array, low: float, high: float) -> float:
    step = (high - low) / 255
    return float(np.mean((values - np.rint(np.clip(values, low, high) / step) * step) ** 2))


@pytest.mark.parametrize("tails", [1.5, 3, 30])
def test_the_mse_observer_finds_the_least_error(tails: float) -> None:
    values = np.random.default_rng(3).standard_t(tails, 100_000).astype(np.float32)
    values = np.maximum(values, -1).astype(np.float32)
    observer = MseObserver()
    for recording in np.split(values, 10):
        observer.update(recording)
    low, high = observer.range()
    best = min(
        squared_error(values, ratio * float(values.min()), ratio * float(values.max()))
        for ratio in np.linspace(0.1, 1, 181)
    )
    assert squared_error(values, low, high) <= 1.02 * best


def divergence(values: Array, low: float, high: float) -> float:
    """Of the clipped values and their levels spread evenly over the bins, one bin at a time."""
    edges = np.linspace(-8, 8, 8193)
    counts = np.histogram(values, edges)[0]
    centres = (edges[1:] + edges[:-1]) / 2
    step = (high - low) / 255
    bins = {}
    cut = [0.0, 0.0]
    for centre, count in zip(centres, counts, strict=True):
        level = round(min(max(centre, low), high) / step)
        if count and abs(centre - level * step) <= step:
            bins[centre] = (level, float(count))
        elif count:
            cut[int(centre > 0)] += count
    p = {centre: count for centre, (_, count) in bins.items()}
    p[min(p)] += cut[0]
    p[max(p)] += cut[1]
    members: dict[int, list[float]] = {}
    for level, count in bins.values():
        members.setdefault(level, []).append(count)
    q = {centre: float(np.mean(members[level])) for centre, (level, _) in bins.items()}
    total_p, total_q = sum(p.values()), sum(q.values())
    return sum(p[c] / total_p * math.log(p[c] / total_p / (q[c] / total_q)) for c in p)


def test_the_entropy_observer_finds_the_least_divergence() -> None:
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(size=20_000), [7.5, -7.0]]).astype(np.float32)
    observer = EntropyObserver()
    observer.update(values)
    low, high = observer.range()
    first, last = np.flatnonzero(np.histogram(values, np.linspace(-8, 8, 8193))[0])[[0, -1]]
    widest = first / 512 - 8, (last + 1) / 512 - 8
    of_ratio = {
        ratio: divergence(values, ratio * widest[0], ratio * widest[1])
        for ratio in np.linspace(1, 0.1, 31)
    }
    best = min(of_ratio, key=lambda ratio: of_ratio[ratio])
    assert divergence(values, low, high) <= of_ratio[best] + 1e-9
    assert high / widest[1] == pytest.approx(low / widest[0])
    # The two outliers do not set the range.
    assert high < 6
