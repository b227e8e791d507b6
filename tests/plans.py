"""Plans of one or a few ops over an int8 or float32 input, and their comparison with the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from arrays import random_f32, random_s8, random_weight
from earmark.plan import INPUT, OUTPUT, PlanBuilder, make_engine
from oracle import network

Array = NDArray[Any]


def start(dtype: str, channels: int, **attributes: Any) -> PlanBuilder:
    """A builder that holds the input; `attributes` such as `width` and `zero_point`."""
    builder = PlanBuilder()
    builder.tensor(INPUT, "frames", dtype, channels, **attributes)
    return builder


def view(b: PlanBuilder, name: str, base: str, offset: int, channels: int, **more: Any) -> str:
    """Channels [offset, offset + channels) of `base`."""
    desc = b.tensors[base]
    shape = {"width": desc["width"]} if "width" in desc else {}
    return b.tensor(
        name, "frames", desc["dtype"], channels, of=base, offset=offset, **shape, **more
    )


def add_stats(b: PlanBuilder, frames: str, name: str, out: str) -> None:
    """Mean and standard deviation of the frames: whatever changes in them shows there."""
    desc = b.tensors[frames]
    b.tensor(out, "vector", "f32", 2 * desc["channels"])
    arrays = {"multiplier": np.ones(1, np.float32)} if desc["dtype"] == "s8" else {}
    kind = f"stats_{desc['dtype']}"
    b.op(kind, name, arrays, **{"in": frames}, out=out, std=True, min_variance=0.0)


def finish(b: PlanBuilder, frames: str) -> PlanBuilder:
    """Statistics of the frames as the plan's output."""
    add_stats(b, frames, "stats", OUTPUT)
    return b


def add_vector(
    b: PlanBuilder, rng: np.random.Generator, frames: str, out: str, channels: int, scale: float
) -> str:
    """A float32 vector of the recording: a dense layer on the statistics of the frames."""
    size = 2 * b.tensors[frames]["channels"]
    add_stats(b, frames, f"{out}.stats", f"{out}.mean")
    b.tensor(f"{out}.s8", "vector", "s8", size, zero_point=-7)
    arrays = {"multiplier": random_f32(rng, size), "offset": random_f32(rng, size)}
    b.op("quantize_s8", f"{out}.quantize", arrays, **{"in": f"{out}.mean"}, out=f"{out}.s8")
    b.tensor(out, "vector", "f32", channels)
    multiplier = random_f32(rng, channels, scale=scale / (5000 * size**0.5))
    weight = random_weight(rng, channels, size)
    rows = np.stack([multiplier, random_f32(rng, channels, scale=scale)])
    b.op("dense_s8", out, {"weight": weight, "epilogue": rows}, **{"in": f"{out}.s8"}, out=out)
    return out


def random_frames(rng: np.random.Generator, *shape: int) -> Array:
    """int8 frames; now and then all -128, all 127, or nothing but both."""
    kind = rng.integers(8)
    if kind == 0:
        return np.full(shape, rng.choice([-128, 127]), np.int8)
    if kind == 1:
        return rng.choice(np.array([-128, 127], np.int8), shape)
    return random_s8(rng, *shape)


def with_extremes(rng: np.random.Generator, values: Array, extremes: list[float]) -> Array:
    """About one value in eight replaced by an extreme."""
    chosen = rng.choice(np.array(extremes, np.float32), values.shape)
    return np.where(rng.random(values.shape) < 0.12, chosen, values).astype(np.float32)


def equal_bits(actual: Array, expected: Array, name: str) -> None:
    """Fails unless both have the same type, shape and bytes."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), name
    if actual.tobytes() != expected.tobytes():
        np.testing.assert_array_equal(actual, expected, err_msg=name)
        raise AssertionError(f"{name}: zeros of another sign")


def check_bits(b: PlanBuilder, features: Array, isa: str, kernels: Mapping[str, str]) -> None:
    """Every tensor of the plan has the oracle's bits, on one thread and on two.

    kernels: by op name, the kernel that has to run in it; it says so itself. A convolution on AVX2
    has two, between which the weights decide.
    """
    expected = network.run(b.plan, b.arrays, features)
    for threads in (1, 2):
        engine = make_engine(b.plan, b.arrays, isa=isa, threads=threads)
        assert (engine.isa, engine.threads) == (isa, threads)
        traced, ran = engine.trace(features)
        for name, kernel in kernels.items():
            paired = {f"{kernel}_paired/avx2"} if isa == "avx2" and "conv" in kernel else set()
            assert ran[name] in {f"{kernel}/{isa}"} | paired
        assert set(traced) == set(expected)
        for name, values in expected.items():
            equal_bits(traced[name], values, name)
        equal_bits(engine.run([features])[0], expected[OUTPUT], OUTPUT)


def check_unless_too_short(
    b: PlanBuilder, features: Array, isa: str, kernels: dict[str, str]
) -> None:
    """As `check_bits`; where the oracle has too few frames, the engine refuses the same."""
    try:
        network.run(b.plan, b.arrays, features)
    except ValueError as error:
        assert "frames" in str(error)  # noqa: PT017
        check_refused(b, features, isa)
    else:
        check_bits(b, features, isa, kernels)


def check_refused(b: PlanBuilder, features: Array, isa: str) -> None:
    engine = make_engine(b.plan, b.arrays, isa=isa, threads=1)
    assert len(features) < engine.min_length
    assert "frame" in engine.why_not(len(features))
    for call in (engine.trace, lambda x: engine.run([x])):
        with pytest.raises(ValueError, match="frame"):
            call(features)


def width_out(width: int, attributes: dict[str, Any]) -> int:
    (_, kernel), (_, stride) = attributes["kernel"], attributes["stride"]
    (_, dilation), (_, padding) = attributes["dilation"], attributes["padding"]
    return (width + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
