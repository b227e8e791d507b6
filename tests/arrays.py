"""Random int8 and float32 arrays, with the extremes often, and constants of other softmaxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PWL_BREAKPOINTS = (-4.0, -1.5, 0.5, 2.0, 4.0)


def random_s8(rng: np.random.Generator, *shape: int) -> Array:
    """int8 with the extremes often."""
    values = rng.integers(-128, 128, shape)
    extreme = rng.choice([-128, 127], shape)
    return np.where(rng.random(shape) < 0.2, extreme, values).astype(np.int8)


def random_weight(rng: np.random.Generator, *shape: int) -> Array:
    """int8 weights: of any size, or bell-shaped with few large ones, as a trained layer's."""
    if rng.random() < 0.5:
        return np.maximum(random_s8(rng, *shape), np.int8(-127))
    weight = np.clip(rng.normal(scale=rng.choice([15, 30]), size=shape), -127, 127)
    return np.where(rng.random(shape) < 0.002, 127, weight).astype(np.int8)


def random_f32(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    return (rng.normal(size=shape) * scale).astype(np.float32)


def pwl_arrays(breakpoints: Sequence[float]) -> dict[str, Array]:
    """Chords of 2^24 * exp(v - 4) between the breakpoints, constant outside them."""
    points = np.asarray(breakpoints, np.float64)
    heights = 2.0**24 * np.exp(points - 4)
    slopes = np.concatenate([[0], np.diff(heights) / np.diff(points), [0]])
    starts = np.concatenate([points[:1], points])
    intercepts = heights[[0, *range(len(points))]] - slopes * starts
    return {
        "breakpoints": points.astype(np.float32),
        "slopes": slopes.astype(np.float32),
        "intercepts": intercepts.astype(np.float32),
        "bounds": np.array([1, 2**24], np.float32),
    }


def table_array(entries: int) -> Array:
    """2^24 * exp(v - 12) at equal steps from -4 to 12, at least 1."""
    return np.maximum(2.0**24 * np.exp(np.linspace(-4, 12, entries) - 12), 1).astype(np.float32)
