"""Float32 layers, in float64 throughout: the truth that an engine's float32 is compared with."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .ops import Array, convolve, deviation, max_pool, positions, with_width


def conv_f32(
    x: Array,
    weight: Array,
    offset: Array,
    *,
    relu: bool = False,
    gain: Array | None = None,
    shift: Array | None = None,
    activation: str | None = None,
    **geometry: Any,
) -> Array:
    """Frames -> frames: convolution, ReLU, affine, tanh."""
    frames, kernel = with_width(x, weight)
    v = convolve(frames.astype(np.float64), kernel, **geometry) + offset.astype(np.float64)
    v = _activate(np.maximum(v, 0) if relu else v, gain, shift, activation)
    return v[:, 0] if x.ndim == 2 else v


def _activate(v: Array, gain: Array | None, shift: Array | None, activation: str | None) -> Array:
    if gain is not None and shift is not None:
        v = v * gain.astype(np.float64) + shift.astype(np.float64)
    if activation == "tanh":
        return np.asarray(np.tanh(v))
    if activation == "sigmoid":
        return np.asarray(0.5 * np.tanh(0.5 * v) + 0.5)
    if activation is not None:
        raise ValueError(f"unknown activation {activation!r}")
    return v


def add_f32(x: Array, residual: Array, gate: Array | None = None, *, relu: bool = False) -> Array:
    """Frames + frames, the first times a gate if there is one."""
    scaled = x.astype(np.float64) * (1.0 if gate is None else gate.astype(np.float64))
    total = scaled + residual.astype(np.float64)
    return np.asarray(np.maximum(total, 0) if relu else total)


def max_pool_f32(x: Array, kernel: Sequence[int], **window: Any) -> Array:
    """Frames -> frames."""
    return max_pool(x.astype(np.float64), kernel, lowest=-np.inf, **window)


def stats_f32(x: Array, *, std: bool = False, **variance: Any) -> Array:
    """Frames -> mean, or mean and standard deviation (divided by the number of positions, less one
    where it is unbiased)."""
    values = positions(x).astype(np.float64)
    mean = values.mean(axis=0)
    if not std:
        return np.asarray(mean)
    scaled = ((values - mean) ** 2).sum(axis=0) * len(values)
    std_values = deviation(scaled, len(values), **variance)
    return np.concatenate([mean, std_values])


def dense_f32(
    x: Array,
    weight: Array,
    offset: Array,
    *,
    activation: str | None = None,
    gain: Array | None = None,
    shift: Array | None = None,
) -> Array:
    """Vector -> vector: ReLU before the affine, sigmoid after it."""
    v = weight.astype(np.float64) @ x.astype(np.float64) + offset.astype(np.float64)
    if activation == "relu":
        return _activate(np.maximum(v, 0), gain, shift, None)
    return _activate(v, gain, shift, activation)


def softmax_f32(logits: Array, softmax: str, **function: Array) -> Array:
    """Numerators of a softmax over axis 0, in float64; `function` as in `attentive_pool_s8`."""
    numbers = {role: array.astype(np.float64) for role, array in function.items()}
    if softmax == "exact":
        return np.asarray(np.exp(logits - logits.max(axis=0)))
    if softmax == "pwl":
        piece = np.searchsorted(numbers["breakpoints"], logits, side="right")
        line = logits * numbers["slopes"][piece] + numbers["intercepts"][piece]
        return np.clip(line, *numbers["bounds"])
    if softmax == "table":
        places = np.linspace(*numbers["range"], len(numbers["table"]))
        return np.interp(logits, places, numbers["table"])
    raise ValueError(f"unknown softmax {softmax!r}")


def attentive_pool_f32(
    hidden: Array,
    values: Array,
    weight: Array,
    offset: Array,
    *,
    min_variance: float,
    softmax: str = "exact",
    **function: Array,
) -> Array:
    """Attentive statistics pooling with a float64 softmax over the positions."""
    h, x = positions(hidden).astype(np.float64), positions(values).astype(np.float64)
    logits = h @ weight.astype(np.float64).T + offset.astype(np.float64)
    share = softmax_f32(logits, softmax, **function)
    share /= share.sum(axis=0)
    mean = (share * x).sum(axis=0)
    var = (share * (x - mean) ** 2).sum(axis=0)
    return np.concatenate([mean, np.sqrt(np.maximum(var, min_variance))])
