"""CUDA kernels of layers with 16-bit inputs or weights against the oracle, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import PWL_BREAKPOINTS, pwl_arrays, random_f32, random_weight, table_array
from gpu import Array, each_device, lengths, run, split
from oracle import ops_s16
from plans import equal_bits, width_out
from wide_layers import BITS, epilogue, geometries

SEEDS = st.integers(0, 2**32 - 1)
LARGEST = ops_s16.MAX_WEIGHT_S16


def integers(rng: np.random.Generator, bits: int, *shape: int) -> Array:
    """Of any size, the extremes often."""
    half = 1 << (bits - 1)
    values = rng.integers(-half, half, shape)
    extreme = rng.choice([-half, half - 1], shape)
    return np.where(rng.random(shape) < 0.2, extreme, values).astype(f"int{bits}")


def weights(rng: np.random.Generator, bits: int, *shape: int) -> Array:
    if bits == 8:
        return random_weight(rng, *shape)
    return np.clip(integers(rng, 16, *shape), -LARGEST, LARGEST)


def planes(q: Array) -> Array:
    """Inputs as planes of bytes, (planes, ...): high, low; or one."""
    if q.dtype == np.int8:
        return q[None]
    u = q.astype(np.int32) + 32768
    return (np.stack([u >> 8, u & 255]) - 128).astype(np.int8)


def weight_planes(w: Array) -> Array:
    if w.dtype == np.int8:
        return w[None]
    wide = w.astype(np.int32)
    high = (wide + 127) // 255
    return np.stack([high, wide - 255 * high]).astype(np.int8)


class Place:
    """Planes of a position one behind the other: whole chunks of each, or as they come."""

    def __init__(self, q: Array, aligned: bool) -> None:
        positions, self.channels = q.shape
        parts = planes(q)
        self.offset = 0 if aligned else 3
        each = -(-self.channels // 16) * 16 if aligned else self.channels + 5
        self.low = each if len(parts) == 2 else 0
        self.base = np.full((positions, len(parts) * each), 77, np.int8)
        for i, part in enumerate(parts):
            begin = self.offset + i * each
            self.base[:, begin : begin + self.channels] = part

    def arguments(self, name: str) -> dict[str, Any]:
        return {name: self.base, f"{name}_offset": self.offset, f"{name}_low": self.low}


@each_device
@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([1, 15, 16, 80, 130]), st.booleans())
def test_quantize_s16(device: str, seed: int, channels: int, aligned: bool) -> None:
    rng = np.random.default_rng(seed)
    zero = int(rng.choice([-32768, -3, 0, 32767]))
    x = random_f32(rng, 41, channels if not aligned else -(-channels // 16) * 16, scale=20000)
    x[rng.random(x.shape) < 0.1] = rng.choice([np.inf, -np.inf, 0.5, 1.5])
    multiplier, offset = random_f32(rng, channels), random_f32(rng, channels, scale=300)
    expected = ops_s16.quantize_s16(x[:, :channels], multiplier, offset, zero)
    right, out = Place(expected, aligned), Place(np.zeros_like(expected), aligned)
    arguments = {
        "channels": channels, "in": x, "lengths": lengths(40, 1), "multiplier": multiplier,
        "offset": offset, "zero": zero, **out.arguments("out"),
    }  # fmt: skip
    assert run(device, "quantize_s16", arguments, seed) == f"quantize_s16/{16 if aligned else 1}"
    equal_bits(out.base, right.base, "planes")


@each_device
@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    st.lists(st.sampled_from([4, 13, 64, 97]), min_size=1, max_size=2),
    st.sampled_from([1, 3, 16, 17, 64, 130]),
    st.sampled_from([1, 31, 64, 65]),
    BITS,
    geometries(),
    st.booleans(),
    st.fixed_dictionaries({name: st.booleans() for name in ("relu", "affine", "table", "bias")}),
)
def test_conv_s16(
    device: str,
    seed: int,
    batch: list[int],
    c_in: int,
    c_out: int,
    bits: tuple[int, int],
    geometry: tuple[int, dict[str, Any]],
    aligned: bool,
    has: dict[str, bool],
) -> None:
    rng = np.random.default_rng(seed)
    width, attributes = geometry
    after = width_out(width, attributes) if width > 1 else 1
    reach = attributes["dilation"][0] * (attributes["kernel"][0] - 1)
    padding, stride = attributes["padding"][0], attributes["stride"][0]
    batch_out = [(n + 2 * padding - reach - 1) // stride + 1 for n in batch]
    x = integers(rng, bits[0], sum(batch) * width, c_in)
    half = 1 << (bits[0] - 1)
    zero = int(rng.choice([-half, -3, 0, half - 1]))
    weight = weights(rng, bits[1], c_out, *attributes["kernel"], c_in)
    rows = epilogue(rng, bits, c_out, 4 if has["affine"] else 2)
    table = random_f32(rng, int(rng.choice([2, 3, 65]))) if has["table"] else None
    padded = -(-c_out // 128) * 128
    bias = random_f32(rng, len(batch), padded) if has["bias"] else None
    out = np.full((sum(batch_out) * after, c_out + 3), 77, np.float32)
    arguments = {
        "c_in": c_in,
        "c_out": c_out,
        **Place(x, aligned).arguments("in"),
        "in_width": width,
        "lengths": lengths(*batch),
        "weight": weight_planes(weight),
        "input_zero": planes(np.full(c_in, zero, x.dtype)),
        "epilogue": rows,
        "relu": has["relu"],
        "table": table,
        "bias": bias,
        "out": out,
        "out_offset": 1,
        "out_width": after,
        "out_lengths": lengths(*batch_out),
        **attributes,
    }
    whole = aligned and (c_in % 16 == 0 or attributes["kernel"] == [1, 1])
    assert run(device, "conv_s16", arguments, seed) == f"conv_s16/{'64x64' if whole else 'bytes'}"
    assert (np.delete(out, np.r_[1 : c_out + 1], axis=1) == 77).all()
    results = []
    for r, part in enumerate(split(x, [n * width for n in batch])):
        result = ops_s16.conv_s16(
            part.reshape(batch[r], width, c_in),
            weight,
            zero,
            rows[0],
            rows[1] if bias is None else bias[r, :c_out],
            relu=has["relu"],
            table=table,
            **({"gain": rows[2], "shift": rows[3]} if has["affine"] else {}),
            **{key: value for key, value in attributes.items() if key != "kernel"},
        )
        results.append(result.reshape(-1, c_out))
    equal_bits(out[:, 1 : c_out + 1], np.concatenate(results), "out")


@each_device
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("zero", "x"), [(32767, -32768), (-32768, 32767)])
def test_the_largest_sums(device: str, sign: int, zero: int, x: int) -> None:
    """As deep as a layer may be, all weights and inputs at the ends of their ranges."""
    c_in = 33152
    weight = np.full((1, 1, 1, c_in), sign * LARGEST, np.int16)
    rows = np.float32([[1], [0]])
    frames = np.full((1, c_in), x, np.int16)
    out = np.zeros((1, 1), np.float32)
    arguments = {
        "c_in": c_in, "c_out": 1, **Place(frames, True).arguments("in"), "lengths": lengths(1),
        "weight": weight_planes(weight), "input_zero": planes(np.full(c_in, zero, np.int16)),
        "epilogue": rows, "relu": False, "out": out, "out_lengths": lengths(1),
    }  # fmt: skip
    run(device, "conv_s16", arguments)
    expected = ops_s16.conv_s16(frames[:, None], weight, zero, rows[0], rows[1])
    assert np.abs(expected).max() > 2**45
    equal_bits(out, expected.reshape(1, 1), "out")


FUNCTIONS: dict[str, dict[str, Array]] = {
    "exact": {},
    "pwl": pwl_arrays(PWL_BREAKPOINTS),
    "table": {"table": table_array(50)},
}


@each_device
@pytest.mark.parametrize("kind", FUNCTIONS)
@settings(max_examples=12, deadline=None)
@given(
    SEEDS,
    st.lists(st.sampled_from([1, 2, 63, 64, 65, 130]), min_size=1, max_size=3),
    st.sampled_from([1, 31, 33]),
    st.sampled_from([1, 16, 65, 130]),
    BITS,
    st.booleans(),
)
def test_attentive_pool_s16(
    device: str,
    kind: str,
    seed: int,
    batch: list[int],
    channels: int,
    hidden_channels: int,
    bits: tuple[int, int],
    aligned: bool,
) -> None:
    rng = np.random.default_rng(seed)
    hidden = integers(rng, bits[0], sum(batch), hidden_channels)
    values = random_f32(rng, sum(batch), channels + 2, scale=float(10.0 ** rng.integers(-9, 9)))
    zero = int(rng.choice([-128, -3, 0, 127]))
    weight = weights(rng, bits[1], channels, hidden_channels)
    rows = epilogue(rng, bits, channels, 2)
    if kind == "table":
        rows[1] += 25
    out = np.zeros((len(batch), 2 * channels), np.float32)
    arguments = {
        "channels": channels,
        "hidden_channels": hidden_channels,
        **Place(hidden, aligned).arguments("hidden"),
        "values": values,
        "values_offset": 1,
        "lengths": lengths(*batch),
        "weight": weight_planes(weight),
        "input_zero": planes(np.full(hidden_channels, zero, hidden.dtype)),
        "epilogue": rows,
        "min_variance": 1e-12,
        "out": out,
        **FUNCTIONS[kind],
    }
    assert run(device, "attentive_pool_s16", arguments, seed) == f"attentive_pool_s16/{kind}"
    parts = zip(split(hidden, batch), split(values[:, 1:-1], batch), strict=True)
    expected = [
        ops_s16.attentive_pool_s16(
            h, x, weight, zero, rows[0], rows[1], min_variance=1e-12, softmax=kind,
            **FUNCTIONS[kind],
        )
        for h, x in parts
    ]  # fmt: skip
    equal_bits(out, np.stack(expected), "moments")
