"""Layers with 16-bit inputs or weights, for hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from arrays import random_f32
from plans import Array

BITS = st.sampled_from([(16, 16), (16, 8), (8, 16), (8, 8)])  # of inputs, of weights


def epilogue(rng: np.random.Generator, bits: tuple[int, int], channels: int, rows: int) -> Array:
    """Constants that bring sums to about 1, or far from it."""
    size = float(2.0 ** (2 - sum(bits))) * (1 if rng.random() < 0.8 else 2.0**30)
    return np.stack([random_f32(rng, channels, scale=size), *random_f32(rng, rows - 1, channels)])


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """Width of the input and attributes of a convolution."""
    width = draw(st.sampled_from([1, 1, 4]))
    kernel = [draw(st.sampled_from([1, 3])), 1 if width == 1 else 3]
    dilation = [draw(st.integers(1, 3)), 1]
    return width, {
        "kernel": kernel,
        "stride": [draw(st.integers(1, 2)), 1 if width == 1 else draw(st.integers(1, 2))],
        "dilation": dilation,
        "padding": [dilation[0] * (kernel[0] // 2), kernel[1] // 2],
        "pad_mode": draw(st.sampled_from(["zero", "reflect"])),
    }
