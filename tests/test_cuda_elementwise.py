"""CUDA kernels without sums against the oracle, bit for bit: aligned tensors, sixteen channels at
once, and views at any offset.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import random_f32, random_s8
from gpu import Array, each_device, lengths, run, split
from oracle import ops, ops_f32
from plans import equal_bits, with_extremes

SEEDS = st.integers(0, 2**32 - 1)
CHANNELS = st.sampled_from([1, 3, 15, 16, 17, 80, 130, 513])
BATCHES = st.sampled_from([(1,), (5,), (97,), (1, 1, 1), (3, 64, 1, 33), (8, 7)])
ZEROS = st.sampled_from([-128, -3, 0, 127])
TINY, HUGE = 2.0**-126, 2.0**40


class Place:
    """A batch of frames in the middle of a larger tensor, or alone and aligned."""

    def __init__(self, values: Array, aligned: bool) -> None:
        positions, self.channels = values.shape
        self.offset = 0 if aligned else 3
        stride = -(-self.channels // 16) * 16 if aligned else self.channels + 5
        self.base = np.full((positions, stride), 77, values.dtype)
        self.base[:, self.offset : self.offset + self.channels] = values

    def arguments(self, name: str) -> dict[str, Any]:
        return {name: self.base, f"{name}_offset": self.offset}

    @property
    def values(self) -> Array:
        """What is there now; the neighbours must be what they were."""
        inner = slice(self.offset, self.offset + self.channels)
        assert (np.delete(self.base, np.r_[inner], axis=1) == 77).all()
        return self.base[:, inner]


@each_device
@settings(max_examples=40, deadline=None)
@given(SEEDS, BATCHES, CHANNELS, st.booleans(), ZEROS, st.booleans())
def test_quantize_s8(
    device: str,
    seed: int,
    batch: tuple[int, ...],
    channels: int,
    aligned: bool,
    zero: int,
    found: bool,
) -> None:
    rng = np.random.default_rng(seed)
    x = with_extremes(rng, random_f32(rng, sum(batch), channels, scale=60), [HUGE, -HUGE, 0.5, 1.5])
    source, out = Place(x, aligned), Place(np.zeros(x.shape, np.int8), aligned)
    multiplier = with_extremes(rng, random_f32(rng, channels), [TINY, HUGE])
    offset = random_f32(rng, channels, scale=20)
    ranges = np.stack([ops.find_quantization(part) for part in split(x, batch)])
    arguments = {
        "channels": channels,
        "lengths": lengths(*batch),
        **source.arguments("in"),
        **out.arguments("out"),
        **({"found": ranges} if found else {}),
        **({} if found else {"multiplier": multiplier, "offset": offset, "zero": zero}),
    }
    assert run(device, "quantize_s8", arguments) == f"quantize_s8/{16 if aligned else 1}"
    if found:
        parts = [
            ops.requantize(ops.multiply(part, np.float32(r[1])), int(r[2]))
            for part, r in zip(split(x, batch), ranges, strict=True)
        ]
        expected = np.concatenate(parts)
    else:
        expected = ops.quantize_s8(x, multiplier, offset, zero)
    equal_bits(out.values, expected, "q")


@each_device
@settings(max_examples=20, deadline=None)
@given(SEEDS, BATCHES, CHANNELS, st.booleans(), ZEROS)
def test_dequantize_f32(
    device: str, seed: int, batch: tuple[int, ...], channels: int, aligned: bool, zero: int
) -> None:
    rng = np.random.default_rng(seed)
    q = random_s8(rng, sum(batch), channels)
    source, out = Place(q, aligned), Place(np.zeros(q.shape, np.float32), aligned)
    multiplier = random_f32(rng, channels)
    arguments = {
        "channels": channels,
        "lengths": lengths(*batch),
        **source.arguments("in"),
        **out.arguments("out"),
        "multiplier": multiplier,
        "zero": zero,
    }
    assert run(device, "dequantize_f32", arguments) == f"dequantize_f32/{16 if aligned else 1}"
    equal_bits(out.values, ops.dequantize_f32(q, multiplier, zero), "x")


@each_device
def test_no_recording_is_no_launch(device: str) -> None:
    empty = np.zeros((0, 16), np.float32)
    arguments = {"channels": 16, "lengths": lengths(), "in": empty, "out": empty.astype(np.int8)}
    assert run(device, "quantize_s8", arguments) == ""


def test_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="no kernel 'conv_s9'"):
        run("emulated", "conv_s9", {})


@each_device
@settings(max_examples=40, deadline=None)
@given(SEEDS, BATCHES, CHANNELS, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_add(
    device: str,
    seed: int,
    batch: tuple[int, ...],
    channels: int,
    aligned: bool,
    relu: bool,
    has_gate: bool,
    integer: bool,
) -> None:
    rng = np.random.default_rng(seed)
    make = random_s8 if integer else random_f32
    x, r = make(rng, sum(batch), channels), make(rng, sum(batch), channels)
    source, residual = Place(x, aligned), Place(r, aligned)
    out = Place(np.zeros_like(x), aligned)
    gate = random_f32(rng, len(batch), channels)
    multiplier, residual_multiplier = random_f32(rng, channels), random_f32(rng, 1)
    zeros = [int(z) for z in rng.choice([-128, 0, 9, 127], 3)]
    constants = {
        "multiplier": multiplier,
        "residual_multiplier": float(residual_multiplier[0]),
        **dict(zip(("in_zero", "residual_zero", "out_zero"), zeros, strict=True)),
    }
    arguments = {
        "channels": channels,
        "lengths": lengths(*batch),
        **source.arguments("in"),
        **residual.arguments("residual"),
        **out.arguments("out"),
        "gate": gate if has_gate else None,
        "relu": relu,
        **(constants if integer else {}),
    }
    op = "add_s8" if integer else "add_f32"
    assert run(device, op, arguments) == f"{op}/{16 if aligned else 1}"
    expected = []
    for i, (a, b) in enumerate(zip(split(x, batch), split(r, batch), strict=True)):
        g = gate[i] if has_gate else None
        if integer:
            two = multiplier, residual_multiplier
            expected.append(ops.add_s8(a, b, *zeros[:2], *two, zeros[2], g, relu=relu))
        else:
            expected.append(ops.add_exact(a, b, g, relu=relu))
    equal_bits(out.values, np.concatenate(expected), "sum")


@each_device
@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    st.lists(st.sampled_from([1, 2, 7, 30]), min_size=1, max_size=3),
    st.sampled_from([1, 2, 5]),
    CHANNELS,
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_max_pool(
    device: str,
    seed: int,
    batch: list[int],
    width: int,
    channels: int,
    aligned: bool,
    integer: bool,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(seed)
    kernel = [data.draw(st.sampled_from([1, 2, 3])), data.draw(st.sampled_from([1, 2, 3]))]
    padding = [data.draw(st.integers(0, k - 1)) for k in kernel]
    for axis, size in enumerate((min(batch), width)):
        if size + 2 * padding[axis] < kernel[axis]:
            kernel[axis], padding[axis] = 1, 0
    stride = [data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))]
    positions = sum(batch) * width
    make = random_s8 if integer else random_f32
    x = make(rng, positions, channels)
    parts = [
        part.reshape(n, width, channels)
        for part, n in zip(split(x, [n * width for n in batch]), batch, strict=True)
    ]
    window = {"stride": stride, "padding": padding}
    if integer:
        expected = [ops.max_pool_s8(part, kernel, **window) for part in parts]
    else:
        pooled = [ops_f32.max_pool_f32(part, kernel, **window) for part in parts]
        expected = [p.astype(np.float32) for p in pooled]
    flat = np.concatenate([e.reshape(-1, channels) for e in expected])
    source, out = Place(x, aligned), Place(np.zeros_like(flat), aligned)
    op = "max_pool_s8" if integer else "max_pool_f32"
    arguments = {
        "channels": channels,
        "lengths": lengths(*batch),
        "out_lengths": lengths(*(len(e) for e in expected)),
        "in_width": width,
        "out_width": expected[0].shape[1],
        **source.arguments("in"),
        **out.arguments("out"),
        "kernel": kernel,
        **window,
    }
    assert run(device, op, arguments) == f"{op}/{16 if aligned else 1}"
    equal_bits(out.values, flat, "largest")


@each_device
@pytest.mark.parametrize("channels", [1, 256, 300])
def test_affine_f32(device: str, channels: int) -> None:
    rng = np.random.default_rng(channels)
    x, out = random_f32(rng, 3, channels), np.zeros((3, channels), np.float32)
    multiplier, offset = random_f32(rng, channels), random_f32(rng, channels)
    arguments = {"channels": channels, "recordings": 3, "in": x, "out": out}
    run(device, "affine_f32", {**arguments, "multiplier": multiplier, "offset": offset})
    equal_bits(out, ops.affine_f32(x, multiplier, offset), "y")
