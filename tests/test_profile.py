"""The profile of ops (names, kernels, work, sums of time) and the measured peaks. No speed."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

from arrays import PWL_BREAKPOINTS, pwl_arrays, random_f32, random_s8, random_weight
from earmark import _C
from earmark.nn.config import EcapaConfig
from earmark.plan import INPUT, OUTPUT, PlanBuilder, make_engine
from networks import SMALL, random_features, random_int8_plan
from plans import finish, start, view

each_isa = pytest.mark.parametrize("isa", _C.available_isas())


def by_name(profile: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {op["name"]: op for op in profile}


def conv_plan(c_in: int, c_out: int, width: int = 1, **attributes: Any) -> PlanBuilder:
    rng = np.random.default_rng(0)
    kernel = attributes.get("kernel", [1, 1])
    b = start("s8", c_in, width=width)
    columns = (width - kernel[1]) // attributes.get("stride", [1, 1])[1] + 1
    b.tensor("out", "frames", "s8", c_out, width=columns)
    arrays = {
        "weight": random_weight(rng, c_out, *kernel, c_in),
        "epilogue": random_f32(rng, 2, c_out),
    }
    b.op("conv_s8", "op", arrays, **{"in": INPUT}, out="out", **attributes)
    return finish(b, "out")


def pool_plan(c_in: int, channels: int, softmax: str) -> PlanBuilder:
    rng = np.random.default_rng(0)
    b = start("s8", c_in + channels)
    h, x = view(b, "h", INPUT, 0, c_in), view(b, "x", INPUT, c_in, channels)
    b.tensor(OUTPUT, "vector", "f32", 2 * channels)
    arrays = {
        "weight": random_weight(rng, channels, c_in),
        "multiplier": np.full(1, 1e-3, np.float32),
        "value_multiplier": np.ones(1, np.float32),
    }
    if softmax == "pwl":
        arrays |= {**pwl_arrays(PWL_BREAKPOINTS), "offset": np.zeros(1, np.float32)}
    more = {"softmax": softmax, "min_variance": 0.0}
    b.op("attentive_pool_s8", "op", arrays, **{"in": h}, values=x, out=OUTPUT, **more)
    return b


def small_macs(config: EcapaConfig, frames: int) -> dict[str, int]:
    """What the ops of a plan of that shape multiply, by op name."""
    width, aggregated = config.channels[0], config.channels[-1]
    chunk, blocks = width // config.res2_scale, len(config.channels) - 2
    macs = {
        "blocks.0": frames * config.n_mels * config.kernel_sizes[0] * width,
        "mfa": frames * blocks * width * aggregated,
        "asp.tdnn": frames * aggregated * config.attention_channels,
        "asp.tdnn.context": 2 * aggregated * config.attention_channels,
        "asp.conv": frames * config.attention_channels * aggregated,
        "fc": 2 * aggregated * config.embedding,
    }
    for i in range(1, blocks + 1):
        macs |= {f"blocks.{i}.tdnn{j}": frames * width * width for j in (1, 2)}
        macs |= {f"blocks.{i}.se_block.conv{j}": width * config.se_channels for j in (1, 2)}
        for j in range(config.res2_scale - 1):
            macs[f"blocks.{i}.res2net_block.blocks.{j}"] = (
                frames * chunk * chunk * config.kernel_sizes[i]
            )
    return macs


@each_isa
def test_a_network_op_by_op(isa: str) -> None:
    b = random_int8_plan(SMALL)
    features = random_features(1, 50, SMALL.n_mels)
    engine = make_engine(b.plan, b.arrays, isa=isa, threads=1)
    before = engine.run([features])
    begin = time.perf_counter_ns()
    profile = engine.profile(features)
    elapsed = time.perf_counter_ns() - begin
    assert [(op["name"], op["op"]) for op in profile] == [
        (op["name"], op["op"]) for op in b.plan["ops"]
    ]
    _, ran = engine.trace(features)
    assert {op["name"]: op["kernel"] for op in profile} == ran
    assert all(op["nanoseconds"] > 0 for op in profile)
    assert sum(op["nanoseconds"] for op in profile) <= elapsed
    expected = small_macs(SMALL, 50)
    assert {op["name"]: op["macs"] for op in profile} == {
        op["name"]: expected.get(op["name"], 0) for op in profile
    }
    np.testing.assert_array_equal(engine.run([features]), before)


def test_threads_change_nothing_but_the_time() -> None:
    b = random_int8_plan(SMALL)
    features = random_features(1, 300, SMALL.n_mels)
    one, two = (
        make_engine(b.plan, b.arrays, threads=threads).profile(features) for threads in (1, 2)
    )
    for key in ("name", "kernel", "macs", "bytes"):
        assert [op[key] for op in one] == [op[key] for op in two]


def test_bytes_count_inputs_output_and_weights_once() -> None:
    b = conv_plan(7, 5, kernel=[3, 1])
    profile = by_name(make_engine(b.plan, b.arrays).profile(np.zeros((20, 7), np.int8)))
    assert profile["op"]["macs"] == 18 * 3 * 7 * 5
    assert profile["op"]["bytes"] == 20 * 7 + 18 * 5 + 3 * 7 * 5
    # Mean and standard deviation, float32.
    assert profile["stats"]["bytes"] == 18 * 5 + 4 * 2 * 5
    assert profile["stats"]["macs"] == 0


def test_float_weights_count_four_bytes() -> None:
    b = start("f32", 6)
    b.tensor("out", "frames", "f32", 4)
    arrays = {"weight": np.ones((4, 1, 1, 6), np.float32), "epilogue": np.zeros((1, 4), np.float32)}
    b.op("conv_f32", "op", arrays, **{"in": INPUT}, out="out")
    engine = make_engine(finish(b, "out").plan, b.arrays)
    op = by_name(engine.profile(np.zeros((9, 6), np.float32)))["op"]
    assert (op["macs"], op["bytes"]) == (9 * 6 * 4, 4 * (9 * 6 + 9 * 4 + 6 * 4))


def test_width_and_strides_count() -> None:
    b = conv_plan(3, 4, width=7, kernel=[3, 3], stride=[2, 2])
    profile = by_name(make_engine(b.plan, b.arrays).profile(np.zeros((11, 7, 3), np.int8)))
    assert profile["op"]["macs"] == (5 * 3) * (3 * 3) * 3 * 4
    assert profile["op"]["bytes"] == 11 * 7 * 3 + 5 * 3 * 4 + 3 * 3 * 3 * 4


@pytest.mark.parametrize(("softmax", "sweeps"), [("exact", 2), ("pwl", 1)])
def test_logits_of_long_recordings_may_be_computed_twice(softmax: str, sweeps: int) -> None:
    b = pool_plan(5, 9, softmax)
    engine = make_engine(b.plan, b.arrays)
    for frames, times in ((1024, 1), (1025, sweeps)):
        (op,) = engine.profile(random_s8(np.random.default_rng(1), frames, 14))
        assert op["macs"] == times * frames * 5 * 9
        assert op["bytes"] == frames * 14 + 4 * 2 * 9 + 5 * 9


def test_chunks_are_summed_with_the_context_computed_twice() -> None:
    """Two chunks: frames at their border that the second convolution reads from both sides."""
    rng = np.random.default_rng(0)
    b = start("s8", 4)
    source = INPUT
    for name in ("first", "second"):
        out = b.tensor(f"{name}.out", "frames", "s8", 4)
        arrays = {"weight": random_weight(rng, 4, 3, 1, 4), "epilogue": random_f32(rng, 2, 4)}
        same = {"kernel": [3, 1], "padding": [1, 0]}
        b.op("conv_s8", name, arrays, **{"in": source}, out=out, **same)
        source = out
    b = finish(b, source)
    frames = 2050
    profile = by_name(make_engine(b.plan, b.arrays).profile(random_s8(rng, frames, 4)))
    assert profile["second"]["macs"] == frames * 3 * 4 * 4
    assert profile["first"]["macs"] == (frames + 2) * 3 * 4 * 4
    assert profile["first"]["bytes"] == 2 * frames * 4 + 3 * 4 * 4


@pytest.mark.parametrize("features", [np.zeros((1, 7), np.int8), np.zeros((20, 6), np.int8)])
def test_what_cannot_be_run_cannot_be_profiled(features: Any) -> None:
    b = conv_plan(7, 5, kernel=[3, 1])
    with pytest.raises(ValueError, match=r"frames|shape"):
        make_engine(b.plan, b.arrays).profile(features)


@each_isa
def test_peaks(isa: str) -> None:
    peaks = _C.measure_peaks(isa)
    assert set(peaks) == {"s8", "f32"}
    assert all(math.isfinite(peak) and peak > 0 for peak in peaks.values())


def test_peaks_of_an_unknown_isa() -> None:
    with pytest.raises(ValueError, match="unknown ISA 'mmx'"):
        _C.measure_peaks("mmx")
