"""The equations of the `_s16` ops (docs/arithmetic.md), as `ops` has those of the others."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .ops import (
    MAX_WEIGHT_SUM,
    Array,
    _exp_numerators,
    _f32_only,
    _line,
    _pwl_numerators,
    _table_numerators,
    add,
    convolve,
    epilogue,
    f32,
    multiply,
    positions,
    requantize,
    with_width,
)

MAX_WEIGHT_S16 = 127 * 255 + 127


def quantize_s16(x: Array, multiplier: Array, offset: Array, zero_point: int) -> Array:
    """Float32 frames or vector -> int16."""
    return requantize(add(multiply(x, multiplier), offset), zero_point, np.int16)


def conv_sum_s16(x: Array, weight: Array, input_zero: ArrayLike, **geometry: Any) -> Array:
    """The sums of `conv_s16`, int64, of inputs and weights of 8 or 16 bits.

    Refuses weights whose planes could overflow int32.
    """
    frames, kernel = with_width(x, weight)
    for name, values in (("input", frames), ("weight", kernel)):
        if values.dtype not in (np.int8, np.int16):
            raise TypeError(f"expected int8 or int16 {name}, got {values.dtype}")
    wide = kernel.astype(np.int64)
    planes = [wide]
    if kernel.dtype == np.int16:
        if np.abs(wide).max() > MAX_WEIGHT_S16:
            raise ValueError(f"a weight is beyond {MAX_WEIGHT_S16}")
        high = (wide + 127) // 255
        planes = [high, wide - 255 * high]
    for plane in planes:
        if (np.abs(plane) > 127).any():
            raise ValueError("a weight is -128")
        heaviest = int(np.abs(plane).reshape(len(plane), -1).sum(axis=1).max())
        if 255 * heaviest >= MAX_WEIGHT_SUM:
            raise ValueError(f"255 * sum |w| = {255 * heaviest} is not below 2^30")
    centred = frames.astype(np.float64) - np.asarray(input_zero, dtype=np.float64)
    total = convolve(centred, kernel, **geometry)
    assert np.abs(total).max() < 2**53, "a sum left float64's integers"
    total = total.astype(np.int64)
    return total[:, 0] if x.ndim == 2 else total


def conv_s16(
    x: Array,
    weight: Array,
    input_zero: ArrayLike,
    multiplier: Array,
    offset: Array,
    *,
    relu: bool = False,
    gain: Array | None = None,
    shift: Array | None = None,
    table: Array | None = None,
    **geometry: Any,
) -> Array:
    """int8 or int16 frames -> float32 frames. `offset` may be the vector of one recording."""
    total = conv_sum_s16(x, weight, input_zero, **geometry)
    v = epilogue(total, multiplier, offset, relu=relu, gain=gain, shift=shift)
    return v if table is None else _line(v, table)


def dense_s16(x: Array, weight: Array, input_zero: ArrayLike, **more: Any) -> Array:
    """int8 or int16 vector -> float32 vector; `weight` is `(O, I)`. `more`: as of `conv_s16`."""
    frames: Array = conv_s16(x[None, :], weight[:, None, :], input_zero, **more)[0]
    return frames


def attentive_pool_s16(
    hidden: Array,
    values: Array,
    weight: Array,
    hidden_zero: ArrayLike,
    multiplier: Array,
    offset: Array,
    *,
    min_variance: float,
    softmax: str = "exact",
    **function: Array,
) -> Array:
    """Attentive statistics pooling of float32 values, by logits of up to 16 bits."""
    h, x = positions(hidden), positions(_f32_only(values)).astype(np.float64)
    if len(h) != len(x):
        raise ValueError(f"attention over {len(h)} positions, values over {len(x)}")
    total = conv_sum_s16(h, weight[:, None, :], hidden_zero)
    v = add(multiply(f32(total), multiplier), offset)
    if softmax == "exact":
        numerators = _exp_numerators(np.subtract(v, v.max(axis=0)))
    elif softmax == "pwl":
        numerators = _pwl_numerators(v, **function)
    elif softmax == "table":
        numerators = _table_numerators(v, **function)
    else:
        raise ValueError(f"unknown softmax {softmax!r}")
    e = numerators.astype(np.float64)
    s0, s1, s2 = (0.0 + np.cumsum(part, axis=0)[-1] for part in (e, e * x, e * x * x))
    m = s1 / s0
    var = s2 / s0 - m * m
    return np.concatenate([f32(m), f32(np.sqrt(np.maximum(var, np.float64(min_variance))))])
