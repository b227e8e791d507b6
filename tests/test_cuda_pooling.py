"""CUDA kernels that sum over time against the oracle, bit for bit, each recording for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import (
    PWL_BREAKPOINTS,
    pwl_arrays,
    random_f32,
    random_s8,
    random_weight,
    table_array,
)
from gpu import Array, each_device, lengths, run, split
from oracle import ops
from plans import equal_bits, random_frames

SEEDS = st.integers(0, 2**32 - 1)
BATCHES = st.lists(st.sampled_from([1, 2, 15, 63, 64, 65, 130]), min_size=1, max_size=3)
ZEROS = st.sampled_from([-128, -3, 0, 127])


def strided(rng: np.random.Generator, rows: int, channels: int, aligned: bool) -> tuple[Array, int]:
    """int8 frames in a larger tensor, and their first channel there."""
    stride = -(-channels // 16) * 16 if aligned else channels + 5
    return random_frames(rng, rows, stride), 0 if aligned else 3


def inner(x: Array, offset: int, channels: int) -> Array:
    return x[:, offset : offset + channels]


def other_variance(rng: np.random.Generator, batch: list[int]) -> dict[str, Any]:
    """None, or that of a sample, which needs two positions, and something added."""
    if rng.random() < 0.5 or min(batch) < 2:
        return {}
    return {"unbiased": True, "added_variance": 0.5}


@each_device
@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    BATCHES,
    st.sampled_from([1, 3, 16, 63, 64, 65, 200]),
    st.booleans(),
    ZEROS,
    st.booleans(),
    st.sampled_from([1, 1, 3]),
)
def test_stats_s8(
    device: str,
    seed: int,
    batch: list[int],
    channels: int,
    aligned: bool,
    zero: int,
    std: bool,
    width: int,
) -> None:
    rng = np.random.default_rng(seed)
    more = other_variance(rng, [n * width for n in batch]) if std else {}
    x, offset = strided(rng, sum(batch) * width, channels, aligned)
    out = np.zeros((len(batch), channels * (2 if std else 1)), np.float32)
    multiplier = random_f32(rng, channels)
    arguments = {
        "channels": channels,
        "in": x,
        "in_offset": offset,
        "in_width": width,
        "lengths": lengths(*batch),
        "zero": zero,
        "multiplier": multiplier,
        "std": std,
        "min_variance": 0.25,
        **more,
        "out": out,
    }
    assert run(device, "stats_s8", arguments, seed) == f"stats_s8/{16 if aligned else 1}"
    parts = split(inner(x, offset, channels), [n * width for n in batch])
    more |= {"min_variance": 0.25}
    expected = [ops.stats_s8(p, zero, multiplier, std=std, **more) for p in parts]
    equal_bits(out, np.stack(expected), "stats")


@each_device
@pytest.mark.parametrize("value", [-128, 127])
def test_largest_sums(device: str, value: int) -> None:
    """Squares of more positions than 32 bits hold."""
    x = np.full((1 << 18, 1), value, np.int8)
    out = np.zeros((1, 2), np.float32)
    ones = np.ones(1, np.float32)
    arguments = {
        "channels": 1, "in": x, "lengths": lengths(len(x)), "zero": 5, "multiplier": ones,
        "std": True, "min_variance": 0.0, "out": out,
    }  # fmt: skip
    run(device, "stats_s8", arguments)
    equal_bits(out[0], ops.stats_s8(x, 5, ones, std=True), "stats")


@each_device
@settings(max_examples=15, deadline=None)
@given(SEEDS, BATCHES, st.sampled_from([1, 16, 65]), st.booleans())
def test_stats_f32(device: str, seed: int, batch: list[int], channels: int, std: bool) -> None:
    rng = np.random.default_rng(seed)
    more = other_variance(rng, batch) if std else {}
    x = random_f32(rng, sum(batch), channels + 1, scale=3)
    out = np.zeros((len(batch), channels * (2 if std else 1)), np.float32)
    arguments = {
        "channels": channels, "in": x, "in_offset": 1, "lengths": lengths(*batch), "std": std,
        "min_variance": 1e-12, "out": out, **more,
    }  # fmt: skip
    assert run(device, "stats_f32", arguments, seed) == "stats_f32"
    parts = split(inner(x, 1, channels), batch)
    expected = [ops.stats_exact(p, std=std, min_variance=1e-12, **more) for p in parts]
    equal_bits(out, np.stack(expected), "stats")


@each_device
@settings(max_examples=30, deadline=None)
@given(SEEDS, BATCHES, st.sampled_from([1, 3, 80, 700]), st.sampled_from([1, 1, 3]))
def test_range_f32(device: str, seed: int, batch: list[int], channels: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    x = random_f32(rng, sum(batch) * width, channels + 2, scale=rng.choice([1e-35, 1, 1e30]))
    if rng.random() < 0.3:
        x = np.abs(x) * rng.choice([np.float32(-1), np.float32(1), np.float32(0)])
    out = np.zeros((len(batch), 3), np.float32)
    arguments = {
        "channels": channels, "in": x, "in_offset": 1, "in_width": width,
        "lengths": lengths(*batch), "out": out,
    }  # fmt: skip
    assert run(device, "range_f32", arguments, seed) == "range_f32"
    parts = split(inner(x, 1, channels), [n * width for n in batch])
    equal_bits(out, np.stack([ops.find_quantization(p) for p in parts]), "range")


@each_device
def test_range_leaves_nan_out(device: str) -> None:
    x = np.array([[np.nan, 1, np.nan, -3]], np.float32)
    out = np.zeros((1, 3), np.float32)
    run(device, "range_f32", {"channels": 4, "in": x, "lengths": lengths(1), "out": out})
    equal_bits(out[0], ops.find_quantization(np.array([1, -3], np.float32)), "range")


FUNCTIONS: dict[str, dict[str, Array]] = {
    "exact": {},
    "pwl": pwl_arrays(PWL_BREAKPOINTS),
    "pwl of one piece": {
        "breakpoints": np.zeros(0, np.float32),
        "slopes": np.array([3e5], np.float32),
        "intercepts": np.array([2.0**20], np.float32),
        "bounds": np.array([1, 2**24], np.float32),
    },
    "table": {"table": table_array(256)},
}


@each_device
@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=20, deadline=None)
@given(
    SEEDS,
    BATCHES,
    st.sampled_from([1, 31, 32, 33, 100]),
    st.sampled_from([1, 16, 63, 64, 65, 128, 200]),
    st.booleans(),
    ZEROS,
    ZEROS,
    st.booleans(),
)
def test_attentive_pool_s8(
    device: str,
    name: str,
    seed: int,
    batch: list[int],
    channels: int,
    hidden_channels: int,
    aligned: bool,
    hidden_zero: int,
    value_zero: int,
    found: bool,
) -> None:
    rng = np.random.default_rng(seed)
    hidden, hidden_offset = strided(rng, sum(batch), hidden_channels, aligned)
    values, values_offset = strided(rng, sum(batch), channels, aligned)
    weight = random_weight(rng, channels, hidden_channels)
    # Logits of a few units.
    spread = 3 / (6000 * hidden_channels**0.5)
    multiplier = np.abs(random_f32(rng, channels, scale=spread)) + np.float32(1e-9)
    function = FUNCTIONS[name]
    kind = name.split()[0]
    if kind == "table":
        multiplier = (multiplier * 255 / 16).astype(np.float32)
    offset = random_f32(rng, channels, scale=2 if kind == "pwl" else 60)
    value_multiplier = random_f32(rng, channels)
    scales = rng.uniform(0.01, 2, len(batch))
    quantizations = np.stack([scales, 1 / scales, rng.choice([-128, 0, 9], len(batch))], axis=1)
    quantizations = quantizations.astype(np.float32)
    out = np.zeros((len(batch), 2 * channels), np.float32)
    constants: dict[str, Any] = {} if kind == "exact" else {"offset": offset}
    arguments = {
        "channels": channels,
        "hidden_channels": hidden_channels,
        "hidden": hidden,
        "hidden_offset": hidden_offset,
        "values": values,
        "values_offset": values_offset,
        "lengths": lengths(*batch),
        "weight": weight,
        "input_zero": np.full(hidden_channels, hidden_zero, np.int8),
        "multiplier": multiplier,
        "value_zero": value_zero,
        "value_multiplier": value_multiplier,
        "found": quantizations if found else None,
        "min_variance": 1e-3,
        "out": out,
        **function,
        **constants,
    }
    assert run(device, "attentive_pool_s8", arguments, seed) == f"attentive_pool_s8/{kind}"
    results = []
    parts = zip(
        split(inner(hidden, hidden_offset, hidden_channels), batch),
        split(inner(values, values_offset, channels), batch),
        strict=True,
    )
    for r, (h, x) in enumerate(parts):
        zero, units, least = value_zero, value_multiplier, 1e-3
        if found:
            scale = quantizations[r, 0]
            zero, units = int(quantizations[r, 2]), np.full(channels, scale, np.float32)
            least = 1e-3 / (np.float64(scale) * np.float64(scale))
        results.append(
            ops.attentive_pool_s8(
                h, x, weight, hidden_zero, zero, multiplier, units, min_variance=least,
                softmax=kind, **constants, **function,
            )
        )  # fmt: skip
    equal_bits(out, np.stack(results), "pooled")


@each_device
def test_attention_of_many_frames(device: str) -> None:
    """The pipeline wraps; every order of the warps."""
    rng = np.random.default_rng(8)
    hidden, values = random_s8(rng, 700, 128), random_s8(rng, 700, 32)
    weight = random_weight(rng, 32, 128)
    multiplier = np.full(32, 5e-5, np.float32)
    ones = np.ones(32, np.float32)
    for seed in range(4):
        out = np.zeros((1, 64), np.float32)
        arguments = {
            "channels": 32, "hidden_channels": 128, "hidden": hidden, "values": values,
            "lengths": lengths(700), "weight": weight, "input_zero": np.zeros(128, np.int8),
            "multiplier": multiplier, "value_multiplier": ones, "min_variance": 0.0, "out": out,
        }  # fmt: skip
        run(device, "attentive_pool_s8", arguments, seed)
        expected = ops.attentive_pool_s8(
            hidden, values, weight, 0, 0, multiplier, ones, min_variance=0.0
        )
        equal_bits(out[0], expected, "pooled")


def dense_arrays(rng: np.random.Generator, inputs: int, outputs: int, spread: float) -> Array:
    scale = spread / (6000 * inputs**0.5)
    return np.stack([random_f32(rng, outputs, scale=scale), random_f32(rng, outputs, scale=spread)])


@each_device
@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    st.sampled_from([1, 2, 8, 9]),
    st.sampled_from([1, 3, 64, 65, 520, 1100]),
    st.sampled_from([1, 4, 5, 33]),
    st.sampled_from(["s8", "f32", "table"]),
    st.booleans(),
    st.booleans(),
)
def test_dense_s8(
    device: str,
    seed: int,
    recordings: int,
    inputs: int,
    outputs: int,
    kind: str,
    relu: bool,
    found: bool,
) -> None:
    rng = np.random.default_rng(seed)
    x = random_s8(rng, recordings, -(-inputs // 64) * 64)
    weight = random_weight(rng, outputs, inputs)
    zero = int(rng.choice([-128, 5, 127]))
    input_zero = random_s8(rng, inputs)
    rows = dense_arrays(rng, inputs, outputs, 80)
    table = random_f32(rng, 64)
    scales = rng.uniform(0.1, 2, recordings)
    quantizations = np.stack([scales, 1 / scales, rng.choice([-128, 0, 9], recordings)], axis=1)
    quantizations = quantizations.astype(np.float32)
    out = np.zeros((recordings, outputs), np.int8 if kind == "s8" else np.float32)
    arguments = {
        "inputs": inputs,
        "outputs": outputs,
        "recordings": recordings,
        "in": x,
        "out" if kind == "s8" else "out_f32": out,
        "weight": weight,
        "input_zero": np.ones_like(input_zero) if found else input_zero,
        "epilogue": rows,
        "relu": relu,
        "zero": zero,
        "table": table if kind == "table" else None,
        "found": quantizations if found else None,
    }
    kernel = run(device, "dense_s8", arguments, seed)
    assert kernel == f"dense_s8/{1 if recordings == 1 else 8}"
    expected = []
    for r in range(recordings):
        z: Array | np.int8 = np.int8(quantizations[r, 2]) if found else input_zero
        multiplier = ops.multiply(rows[0], quantizations[r, 0]) if found else rows[0]
        expected.append(
            ops.dense_s8(
                x[r, :inputs], weight, z, multiplier, rows[1], relu=relu,
                table=table if kind == "table" else None,
                zero_point=zero if kind == "s8" else None,
            )
        )  # fmt: skip
    equal_bits(out, np.stack(expected), "out")


@each_device
@settings(max_examples=30, deadline=None)
@given(
    SEEDS,
    BATCHES,
    st.sampled_from([1, 17, 64, 130, 1040]),
    st.sampled_from([1, 30, 128]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 1, 3]),
    st.sampled_from([1, 12, 132]),
)
def test_squeeze_excitation_s8(
    device: str,
    seed: int,
    batch: list[int],
    channels: int,
    hidden: int,
    aligned: bool,
    has_table: bool,
    width: int,
    multiprocessors: int,
) -> None:
    rng = np.random.default_rng(seed)
    x, offset = strided(rng, sum(batch) * width, channels, aligned)
    in_zero = int(rng.choice([-128, 0, 100]))
    mean_multiplier = random_f32(rng, channels, scale=0.1)
    quantization = {
        "squeezed_multiplier": random_f32(rng, channels, scale=10),
        "squeezed_offset": random_f32(rng, channels, scale=20),
        "squeezed_zero": int(rng.choice([-128, 0, 3])),
        "hidden_multiplier": random_f32(rng, hidden, scale=10),
        "hidden_offset": random_f32(rng, hidden, scale=20),
        "hidden_zero": int(rng.choice([-128, 0, 3])),
    }
    layers = {
        "reduce_weight": random_weight(rng, hidden, channels),
        "reduce_input_zero": np.full(channels, quantization["squeezed_zero"], np.int8),
        "reduce_epilogue": dense_arrays(rng, channels, hidden, 10),
        "expand_weight": random_weight(rng, channels, hidden),
        "expand_input_zero": np.full(hidden, quantization["hidden_zero"], np.int8),
        "expand_epilogue": dense_arrays(rng, hidden, channels, 300),
    }
    table = random_f32(rng, 1024) if has_table else None
    gate = np.zeros((len(batch), channels), np.float32)
    arguments = {
        "channels": channels,
        "hidden_channels": hidden,
        "in": x,
        "in_offset": offset,
        "in_width": width,
        "lengths": lengths(*batch),
        "in_zero": in_zero,
        "mean_multiplier": mean_multiplier,
        "table": table,
        "gate": gate,
        **quantization,
        **layers,
    }
    kernel = run(device, "squeeze_excitation_s8", arguments, seed, multiprocessors=multiprocessors)
    n = len(batch)
    shared = min(multiprocessors // n, sum(batch) * width // n // 16) > 1
    parts = " parts" if shared else ""
    assert kernel == f"squeeze_excitation_s8/{16 if aligned else 1}{parts}"
    expected = []
    for part in split(inner(x, offset, channels), [n * width for n in batch]):
        v = ops.stats_s8(part, in_zero, mean_multiplier)
        for source, layer in (("squeezed", "reduce"), ("hidden", "expand")):
            q = ops.quantize_s8(
                v,
                quantization[f"{source}_multiplier"],
                quantization[f"{source}_offset"],
                quantization[f"{source}_zero"],
            )
            rows = layers[f"{layer}_epilogue"]
            v = ops.dense_s8(
                q,
                layers[f"{layer}_weight"],
                layers[f"{layer}_input_zero"],
                rows[0],
                rows[1],
                relu=layer == "reduce",
                table=table if layer == "expand" else None,
            )
        expected.append(v)
    equal_bits(gate, np.stack(expected), "gate")
