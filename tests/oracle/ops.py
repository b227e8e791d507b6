"""The equations of docs/arithmetic.md, one function per op.

Frames are `(T, C)` or `(T, W, C)`; the result has the form of the input. Each float32 operation is
a ufunc of its own on float32 arrays, because NumPy rounds the result of every ufunc; nothing here
may be rewritten into an expression that computes in Python floats.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Pair = int | Sequence[int]

MAX_POSITIONS = 2**24 - 1
MAX_WEIGHT_SUM = 2**30
LOG2_E = np.float32(1.44269504)
ROUND_MAGIC = np.float32(12582912)
EXP2_COEFFICIENTS = tuple(
    np.float32(c)
    for c in (0.6931472, 0.24022648, 0.05550329, 0.009618374, 0.0013399848, 0.00015370705)
)


def f32(values: ArrayLike) -> Array:
    """Converts integers or float64 to float32, rounding once to nearest even."""
    return np.asarray(values).astype(np.float32)


def _f32_only(values: ArrayLike) -> Array:
    """Refuses what is not float32 already: a silent conversion would hide a rounding."""
    array = np.asarray(values)
    if array.dtype != np.float32:
        raise TypeError(f"expected float32, got {array.dtype}")
    return array


def multiply(a: Array, b: Array) -> Array:
    """One rounded float32 product. An overflow to Inf is legal; a clamp follows."""
    with np.errstate(over="ignore"):
        product: Array = np.multiply(_f32_only(a), _f32_only(b))
    return product


def add(a: Array, b: Array) -> Array:
    """One rounded float32 sum."""
    with np.errstate(over="ignore"):
        total: Array = np.add(_f32_only(a), _f32_only(b))
    return total


def clamp(v: Array, low: ArrayLike, high: ArrayLike) -> Array:
    clamped: Array = np.minimum(np.maximum(_f32_only(v), f32(low)), f32(high))
    return clamped


def requantize(v: Array, zero_point: int, dtype: type[np.signedinteger[Any]] = np.int8) -> Array:
    """Float32 in quanta -> integers: clamp, round half to even, add the zero point."""
    limits = np.iinfo(dtype)
    clamped = clamp(v, limits.min - zero_point, limits.max - zero_point)
    return (np.rint(clamped).astype(np.int64) + zero_point).astype(dtype)


def table_index(v: Array, entries: int) -> Array:
    """Index 0 .. entries - 1 of the table's cell that `v` falls into."""
    if entries < 2 or entries % 2:
        raise ValueError(f"a table has an even number of entries, got {entries}")
    half = entries // 2
    return np.rint(clamp(v, -half, half - 1)).astype(np.int64) + half


def quantize_s8(x: Array, multiplier: Array, offset: Array, zero_point: int) -> Array:
    """Float32 frames or vector -> int8."""
    return requantize(add(multiply(x, multiplier), offset), zero_point)


def dequantize_f32(q: Array, multiplier: Array, zero_point: int) -> Array:
    """int8 frames or vector -> float32."""
    return multiply(f32(q.astype(np.int64) - zero_point), multiplier)


def affine_f32(x: Array, multiplier: Array, offset: Array) -> Array:
    """Float32 vector -> float32 vector."""
    return add(multiply(x, multiplier), offset)


def find_quantization(x: Array) -> Array:
    """Scale, its inverse and the zero point that cover all of a float32 tensor and 0."""
    values = _f32_only(x)
    low = np.minimum(values.min(), f32(0))
    high = np.maximum(values.max(), f32(0))
    with np.errstate(over="ignore"):
        span = np.maximum(np.subtract(high, low), f32(2.0**-100))
        scale, inverse = np.divide(span, f32(255)), np.divide(f32(255), span)
    zero = requantize(multiply(f32(-low), f32(inverse)), -128)
    return np.array([scale, inverse, f32(zero)], np.float32)


def source_index(
    n: int, kernel: int, stride: int, dilation: int, padding: int, pad_mode: str, pad_to: int = 0
) -> Array:
    """The input index each output position and tap reads, `(n_out, kernel)`; -1 is zero padding."""
    if n < 1:
        raise ValueError("the input has no frames")
    if pad_mode not in ("zero", "reflect"):
        raise ValueError(f"unknown pad_mode {pad_mode!r}")
    if pad_mode == "reflect" and n <= padding:
        raise ValueError(f"reflect padding {padding} needs more than {padding} frames, got {n}")
    if pad_to and pad_mode == "reflect":
        raise ValueError("pad_to needs zero padding")
    padded = (n // pad_to + 1) * pad_to if pad_to else n
    n_out = (padded + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if n_out < 1:
        raise ValueError(f"{n} frames are too few for kernel {kernel}, dilation {dilation}")
    index = np.arange(n_out)[:, None] * stride + np.arange(kernel) * dilation - padding
    if pad_mode == "zero":
        index[(index < 0) | (index >= n)] = -1
        return index
    index = np.abs(index)
    reflected: Array = np.where(index >= n, 2 * (n - 1) - index, index)
    return reflected


def _pair(value: Pair, width: int) -> tuple[int, int]:
    """(time, width); an integer concerns time alone."""
    if isinstance(value, int):
        return value, width
    time, other = value
    return int(time), int(other)


def convolve(
    x: Array,
    weight: Array,
    *,
    stride: Pair = 1,
    dilation: Pair = 1,
    padding: Pair = 0,
    pad_mode: str = "zero",
    pad_to: int = 0,
) -> Array:
    """float64 convolution of frames `(T, W, I)` with `(O, kt, kw, I)`; padding reads 0.

    Of integers it is exact: every partial sum is below 2^53, in whatever order BLAS adds.
    """
    time, width = (
        source_index(
            x.shape[axis],
            weight.shape[1 + axis],
            _pair(stride, 1)[axis],
            _pair(dilation, 1)[axis],
            _pair(padding, 0)[axis],
            pad_mode,
            pad_to if axis == 0 else 0,
        )
        for axis in (0, 1)
    )
    # One more row and column of zeros, which the index -1 reads.
    padded = np.zeros((x.shape[0] + 1, x.shape[1] + 1, x.shape[2]))
    padded[:-1, :-1] = x
    positions = len(time) * len(width)
    total = np.zeros((positions, weight.shape[0]))
    for kt in range(weight.shape[1]):
        for kw in range(weight.shape[2]):
            tap = padded[time[:, kt][:, None], width[:, kw][None, :]]
            kernel = weight[:, kt, kw, :].astype(np.float64)
            total += tap.reshape(positions, -1) @ kernel.T
    return total.reshape(len(time), len(width), -1)


def with_width(x: Array, weight: Array) -> tuple[Array, Array]:
    """Frames with their width and weights with their width, where they are one-dimensional."""
    frames = x[:, None, :] if x.ndim == 2 else x
    kernel = weight[:, :, None, :] if weight.ndim == 3 else weight
    if frames.ndim != 3 or kernel.ndim != 4 or frames.shape[2] != kernel.shape[3]:
        raise ValueError(f"frames {x.shape} and weight {weight.shape} do not match")
    return frames, kernel


def conv_acc(x: Array, weight: Array, input_zero: ArrayLike, **geometry: Any) -> Array:
    """The int32 accumulators of `conv_s8`, as int64; refuses weights that could overflow them."""
    frames, kernel = with_width(x, weight)
    for name, values in (("input", frames), ("weight", kernel)):
        if values.dtype != np.int8:
            raise TypeError(f"expected int8 {name}, got {values.dtype}")
    if (kernel == -128).any():
        raise ValueError("a weight is -128")
    sums = np.abs(kernel).reshape(len(kernel), -1).sum(axis=1, dtype=np.int64)
    heaviest = int(sums.max())
    if 255 * heaviest >= MAX_WEIGHT_SUM:
        raise ValueError(f"255 * sum |w| = {255 * heaviest} is not below 2^30")
    centred = frames.astype(np.float64) - np.asarray(input_zero, dtype=np.float64)
    acc = convolve(centred, kernel, **geometry).astype(np.int64)
    assert np.abs(acc).max() < 2**31, "an accumulator left int32"
    return acc[:, 0] if x.ndim == 2 else acc


def _line(v: Array, table: Array) -> Array:
    """`line(v)`: between the entries of a table."""
    values = _f32_only(table)
    v = clamp(v, 0, len(values) - 1)
    entry = v.astype(np.int64)
    differences = np.append(np.subtract(values[1:], values[:-1]), f32(0))
    return add(values[entry], multiply(np.subtract(v, f32(entry)), differences[entry]))


def _relu(v: Array) -> Array:
    return np.where(v > 0, v, f32(0))


def epilogue(
    acc: Array,
    multiplier: Array,
    offset: Array,
    *,
    relu: bool = False,
    gain: Array | None = None,
    shift: Array | None = None,
) -> Array:
    """`v` of `conv_s8` and `dense_s8`: scale, offset, ReLU, affine."""
    v = add(multiply(f32(acc), multiplier), offset)
    if relu:
        v = _relu(v)
    if (gain is None) != (shift is None):
        raise ValueError("gain and shift come together")
    if gain is not None and shift is not None:
        v = add(multiply(v, gain), shift)
    return v


def conv_s8(
    x: Array,
    weight: Array,
    input_zero: ArrayLike,
    multiplier: Array,
    offset: Array,
    zero_point: int | None = 0,
    *,
    relu: bool = False,
    gain: Array | None = None,
    shift: Array | None = None,
    table: Array | None = None,
    **geometry: Any,
) -> Array:
    """int8 frames -> int8 frames, or float32 ones without a zero point.

    `offset` may be the vector of one recording, `multiplier` include a scale found in it.
    """
    acc = conv_acc(x, weight, input_zero, **geometry)
    v = epilogue(acc, multiplier, offset, relu=relu, gain=gain, shift=shift)
    if zero_point is None:
        return v
    if table is None:
        return requantize(v, zero_point)
    if table.dtype != np.int8:
        raise TypeError(f"expected an int8 table, got {table.dtype}")
    looked_up: Array = table[table_index(v, len(table))]
    return looked_up


def add_s8(
    x: Array,
    residual: Array,
    x_zero: int,
    residual_zero: int,
    multiplier: Array,
    residual_multiplier: Array,
    zero_point: int,
    gate: Array | None = None,
    *,
    relu: bool = False,
) -> Array:
    """int8 frames + int8 frames -> int8 frames; a gate multiplies the first multiplier."""
    factor = multiplier if gate is None else multiply(multiplier, gate)
    v = multiply(f32(x.astype(np.int64) - x_zero), factor)
    r = multiply(f32(residual.astype(np.int64) - residual_zero), residual_multiplier)
    total = add(v, r)
    return requantize(_relu(total) if relu else total, zero_point)


def max_pool(
    x: Array, kernel: Sequence[int], *, stride: Pair = 1, padding: Pair = 0, lowest: float
) -> Array:
    """The largest value of each channel under a window; the padding holds `lowest`.

    From frames `(T, C)` padding in width makes `(T, W, C)`.
    """
    frames = x[:, None, :] if x.ndim == 2 else x
    for axis in (0, 1):
        if _pair(padding, 0)[axis] >= kernel[axis]:
            raise ValueError(f"padding {padding} hides the window {kernel}")
    time, width = (
        source_index(
            frames.shape[axis],
            kernel[axis],
            _pair(stride, 1)[axis],
            1,
            _pair(padding, 0)[axis],
            "zero",
        )
        for axis in (0, 1)
    )
    # One more row and column, which the index -1 reads.
    padded = np.full(
        (frames.shape[0] + 1, frames.shape[1] + 1, frames.shape[2]), lowest, frames.dtype
    )
    padded[:-1, :-1] = frames
    largest = padded[time[:, None, :, None], width[None, :, None, :]].max(axis=(2, 3))
    return np.asarray(largest[:, 0] if x.ndim == 2 and len(width) == 1 else largest)


def max_pool_s8(x: Array, kernel: Sequence[int], **window: Any) -> Array:
    """int8 frames -> int8 frames with the same scale and zero point."""
    if x.dtype != np.int8:
        raise TypeError(f"expected int8 frames, got {x.dtype}")
    return max_pool(x, kernel, lowest=-128, **window)


def positions(x: Array) -> Array:
    """Frames as `(positions, C)`."""
    flat = x.reshape(-1, x.shape[-1])
    if not 1 <= len(flat) <= MAX_POSITIONS:
        raise ValueError(f"statistics are over 1 to {MAX_POSITIONS} positions, got {len(flat)}")
    return flat


def deviation(
    scaled: Array,
    count: int,
    *,
    unbiased: bool = False,
    min_variance: float = 0.0,
    added_variance: float = 0.0,
) -> Array:
    """From count^2 times the population's variance, float64."""
    if unbiased and count < 2:
        raise ValueError("an unbiased variance needs two positions")
    n = np.float64(count)
    var = scaled / (n * (n - 1 if unbiased else n))
    # Written so that NaN counts as the least.
    least = np.where(var > np.float64(min_variance), var, np.float64(min_variance))
    return np.asarray(np.sqrt(least + np.float64(added_variance)))


def stats_s8(
    x: Array, zero_point: int, multiplier: Array, *, std: bool = False, **variance: Any
) -> Array:
    """int8 frames -> float32 mean, or mean and standard deviation."""
    q = positions(x).astype(np.int64)
    count = len(q)
    s1, s2 = q.sum(axis=0), (q * q).sum(axis=0)
    n = np.float64(count)
    mean = multiply(f32(s1.astype(np.float64) / n - np.float64(zero_point)), multiplier)
    if not std:
        return mean
    scaled = (count * s2 - s1 * s1).astype(np.float64)
    std_values = deviation(scaled, count, **variance)
    return np.concatenate([mean, multiply(f32(std_values), multiplier)])


def dense_s8(
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
    zero_point: int | None = None,
) -> Array:
    """int8 vector -> float32 vector, or int8 with a zero point; `weight` is `(O, I)`."""
    acc = conv_acc(x[None, :], weight[:, None, :], input_zero)[0]
    v = epilogue(acc, multiplier, offset, relu=relu, gain=gain, shift=shift)
    if zero_point is not None:
        return requantize(v, zero_point)
    if table is None:
        return v
    looked_up: Array = _f32_only(table)[table_index(v, len(table))]
    return looked_up


def exp_numerators(acc: Array, multiplier: Array) -> Array:
    """The exact softmax's `E`, int64 in [0, 2^24], from logits `(positions, C)` in accumulators."""
    if not (multiplier > 0).all():
        raise ValueError("the exact softmax needs positive multipliers")
    return _exp_numerators(multiply(f32(acc - acc.max(axis=0)), multiplier))


def _exp_numerators(d: Array) -> Array:
    """`E` of float32 differences to the largest logit."""
    d = np.maximum(d, f32(-20))
    y = multiply(d, LOG2_E)
    n = np.subtract(add(y, ROUND_MAGIC), ROUND_MAGIC)
    f = np.subtract(y, n)
    p = np.full_like(f, EXP2_COEFFICIENTS[-1])
    for c in reversed(EXP2_COEFFICIENTS[:-1]):
        p = add(multiply(p, f), c)
    p = add(multiply(p, f), f32(1))
    # Only the exponent changes: n + 24 lies in [-5, 24], so the product is exact.
    numerators: Array = np.rint(np.ldexp(p, n.astype(np.int32) + 24)).astype(np.int64)
    return numerators


def pwl_numerators(
    acc: Array,
    multiplier: Array,
    offset: Array,
    breakpoints: Array,
    slopes: Array,
    intercepts: Array,
    bounds: Array,
) -> Array:
    """The piecewise-linear softmax's `E`, int64 in [low, high]."""
    v = add(multiply(f32(acc), multiplier), offset)
    return _pwl_numerators(v, breakpoints, slopes, intercepts, bounds)


def _pwl_numerators(
    v: Array, breakpoints: Array, slopes: Array, intercepts: Array, bounds: Array
) -> Array:
    """`E` of float32 logits."""
    low, high = (float(b) for b in _f32_only(bounds))
    if not 1 <= low <= high <= 2**24:
        raise ValueError(f"bounds {low}, {high} are not 1 <= low <= high <= 2^24")
    if not len(slopes) == len(intercepts) == len(breakpoints) + 1:
        raise ValueError("n breakpoints need n + 1 slopes and intercepts")
    if not (np.diff(_f32_only(breakpoints)) > 0).all():
        raise ValueError("breakpoints must rise")
    piece = np.searchsorted(breakpoints, v, side="right")
    line = add(multiply(v, slopes[piece]), intercepts[piece])
    return np.rint(clamp(line, low, high)).astype(np.int64)


def table_numerators(acc: Array, multiplier: Array, offset: Array, table: Array) -> Array:
    """The `E` of a softmax from a table, int64 in [1, 2^24] but for rounding between entries."""
    return _table_numerators(add(multiply(f32(acc), multiplier), offset), table)


def _table_numerators(v: Array, table: Array) -> Array:
    """`E` of float32 places in the table."""
    values = _f32_only(table)
    if len(values) < 2 or not ((values >= 1) & (values <= 2**24)).all():
        raise ValueError("a table needs at least 2 entries within 1 to 2^24")
    return np.rint(_line(v, values)).astype(np.int64)


def pool_s8(
    numerators: Array, values: Array, zero_point: int, multiplier: Array, min_variance: float
) -> Array:
    """Weighted mean and standard deviation of int8 positions `(positions, C)`."""
    q = values.astype(np.int64)
    s0 = numerators.sum(axis=0).astype(np.float64)
    s1 = (numerators * q).sum(axis=0).astype(np.float64)
    s2 = (numerators * q * q).sum(axis=0).astype(np.float64)
    m = s1 / s0
    var = s2 / s0 - m * m
    mean = multiply(f32(m - np.float64(zero_point)), multiplier)
    std_values = np.sqrt(np.maximum(var, np.float64(min_variance)))
    return np.concatenate([mean, multiply(f32(std_values), multiplier)])


def attentive_pool_s8(
    hidden: Array,
    values: Array,
    weight: Array,
    hidden_zero: int,
    value_zero: int,
    multiplier: Array,
    value_multiplier: Array,
    *,
    min_variance: float,
    softmax: str = "exact",
    **function: Array,
) -> Array:
    """Attentive statistics pooling; `function` holds the arrays of a softmax that is not exact."""
    h, q = positions(hidden), positions(values)
    if len(h) != len(q):
        raise ValueError(f"attention over {len(h)} positions, values over {len(q)}")
    acc = conv_acc(h, weight[:, None, :], hidden_zero)
    if softmax == "exact":
        numerators = exp_numerators(acc, multiplier)
    elif softmax == "pwl":
        numerators = pwl_numerators(acc, multiplier, **function)
    elif softmax == "table":
        numerators = table_numerators(acc, multiplier, **function)
    else:
        raise ValueError(f"unknown softmax {softmax!r}")
    return pool_s8(numerators, q, value_zero, value_multiplier, min_variance)


# Float32 ops without weights on float32 tensors: each operation rounded, as an engine has to.


def add_exact(x: Array, residual: Array, gate: Array | None = None, *, relu: bool = False) -> Array:
    """Float32 frames + frames, the first times a gate if there is one."""
    total = add(x if gate is None else multiply(x, gate), residual)
    return _relu(total) if relu else total


def stats_exact(x: Array, *, std: bool = False, **variance: Any) -> Array:
    """Float32 frames -> float32 mean, or mean and standard deviation; sums in the order of time."""
    values = positions(_f32_only(x)).astype(np.float64)
    n = np.float64(len(values))
    s1, s2 = (0.0 + np.cumsum(v, axis=0)[-1] for v in (values, values * values))
    mean = f32(s1 / n)
    if not std:
        return mean
    with np.errstate(invalid="ignore"):  # Inf - Inf is NaN, and no larger than any bound
        scaled = n * s2 - s1 * s1
    std_values = deviation(scaled, len(values), **variance)
    return np.concatenate([mean, f32(std_values)])
