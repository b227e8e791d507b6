"""Each op of an ECAPA-TDNN at its real sizes, alone: one thread, 3 s of speech.

    pytest benchmarks/test_kernels.py

A plan of that op, with what brings it its input and makes its output an embedding; the engine's
profile says how long the op itself took. Weights and inputs are random, weights bell-shaped as a
trained layer's; they stay in the caches, as far as they fit. GMAC/s and GB/s are of the median;
peaks are those of the instruction set, measured in the same run. Nothing is asserted about speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from earmark import _C
from earmark.plan import INPUT, OUTPUT, PlanBuilder, make_engine

Array = NDArray[Any]

FRAMES, MELS, ATTENTION, SQUEEZED, EMBEDDING = 300, 80, 128, 128, 192
WARM_UP, ROUNDS = 3, 30
RNG = np.random.default_rng(300)


class OpClock:
    """Time that passes only while the op under test runs."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


CLOCK = OpClock()


def values(*shape: int, dtype: str = "s8") -> Array:
    if dtype == "s8":
        return RNG.integers(-127, 128, shape).astype(np.int8)
    return RNG.normal(size=shape).astype(np.float32)


def weights(*shape: int, dtype: str = "s8", uniform: bool = False) -> Array:
    """Normally distributed, a channel's largest at 127, unless they are to be uniform."""
    if dtype == "f32" or uniform:
        return values(*shape, dtype=dtype)
    real = RNG.normal(size=shape)
    largest = np.abs(real).max(axis=tuple(range(1, len(shape))), keepdims=True)
    return np.rint(127 * real / largest).astype(np.int8)


def epilogue(channels: int, dtype: str, affine: bool = True) -> Array:
    """Rows that keep values in range: multiplier (int8 only), offset, gain, shift."""
    scale = [np.full(channels, 1e-4)] if dtype == "s8" else []
    rest = [np.zeros(channels)] + ([np.ones(channels), np.zeros(channels)] if affine else [])
    return np.stack(scale + rest).astype(np.float32)


def ones(size: int = 1) -> Array:
    return np.ones(size, np.float32)


def embed(b: PlanBuilder, frames: str) -> PlanBuilder:
    """Means of the frames as the plan's output."""
    desc = b.tensors[frames]
    b.tensor(OUTPUT, "vector", "f32", desc["channels"])
    arrays = {"multiplier": ones()} if desc["dtype"] == "s8" else {}
    b.op(f"stats_{desc['dtype']}", "means", arrays, **{"in": frames}, out=OUTPUT)
    return b


def conv(
    c_in: int,
    c_out: int,
    kernel: int = 1,
    dilation: int = 1,
    dtype: str = "s8",
    tanh: bool = False,
    uniform: bool = False,
) -> PlanBuilder:
    b = PlanBuilder()
    b.tensor(INPUT, "frames", dtype, c_in)
    out = b.tensor("out", "frames", dtype, c_out)
    arrays = {
        "weight": weights(c_out, kernel, 1, c_in, dtype=dtype, uniform=uniform),
        "epilogue": epilogue(c_out, dtype),
    }
    if tanh:
        arrays["table"] = values(1024)
    padding = [dilation * (kernel - 1) // 2, 0]
    b.op(
        f"conv_{dtype}",
        "op",
        arrays,
        **{"in": INPUT},
        out=out,
        kernel=[kernel, 1],
        dilation=[dilation, 1],
        padding=padding,
        pad_mode="reflect",
        relu=True,
    )
    return embed(b, out)


def dense(c_in: int, c_out: int, sigmoid: bool = False) -> PlanBuilder:
    b = PlanBuilder()
    b.tensor(INPUT, "frames", "s8", c_in)
    b.tensor("means", "vector", "f32", c_in)
    b.op("stats_s8", "means", {"multiplier": ones()}, **{"in": INPUT}, out="means")
    b.tensor("vector", "vector", "s8", c_in)
    arrays = {"multiplier": ones(), "offset": 0 * ones()}
    b.op("quantize_s8", "quantize", arrays, **{"in": "means"}, out="vector")
    b.tensor(OUTPUT, "vector", "f32", c_out)
    arrays = {"weight": weights(c_out, c_in), "epilogue": epilogue(c_out, "s8", affine=False)}
    if sigmoid:
        arrays["table"] = values(1024, dtype="f32")
    b.op("dense_s8", "op", arrays, **{"in": "vector"}, out=OUTPUT, relu=not sigmoid)
    return b


def attentive_pool(c_in: int, channels: int) -> PlanBuilder:
    b = PlanBuilder()
    b.tensor(INPUT, "frames", "s8", c_in + channels)
    b.tensor("hidden", "frames", "s8", c_in, of=INPUT, offset=0)
    b.tensor("values", "frames", "s8", channels, of=INPUT, offset=c_in)
    b.tensor(OUTPUT, "vector", "f32", 2 * channels)
    arrays = {
        "weight": weights(channels, c_in),
        "multiplier": 1e-5 * ones(),
        "value_multiplier": ones(),
    }
    attributes = {"values": "values", "min_variance": 1e-12}
    b.op("attentive_pool_s8", "op", arrays, **{"in": "hidden"}, out=OUTPUT, **attributes)
    return b


def add(channels: int, gated: bool) -> PlanBuilder:
    b = PlanBuilder()
    b.tensor(INPUT, "frames", "s8", 2 * channels)
    b.tensor("x", "frames", "s8", channels, of=INPUT, offset=0)
    b.tensor("residual", "frames", "s8", channels, of=INPUT, offset=channels)
    gate = None
    if gated:
        gate = b.tensor("gate", "vector", "f32", channels)
        b.op("stats_s8", "gate", {"multiplier": ones()}, **{"in": "x"}, out=gate)
    out = b.tensor("out", "frames", "s8", channels)
    arrays = {"multiplier": 0.5 * ones(), "residual_multiplier": 0.5 * ones()}
    b.op("add_s8", "op", arrays, **{"in": "x"}, residual="residual", gate=gate, out=out)
    return embed(b, out)


def stats(channels: int, std: bool) -> PlanBuilder:
    b = PlanBuilder()
    b.tensor(INPUT, "frames", "s8", channels)
    b.tensor(OUTPUT, "vector", "f32", channels * (2 if std else 1))
    attributes = {"std": std, "min_variance": 1e-12 if std else None}
    b.op("stats_s8", "op", {"multiplier": ones()}, **{"in": INPUT}, out=OUTPUT, **attributes)
    return b


def quantize(channels: int) -> PlanBuilder:
    b = PlanBuilder()
    b.tensor(INPUT, "frames", "f32", channels)
    out = b.tensor("out", "frames", "s8", channels)
    b.op(
        "quantize_s8",
        "op",
        {"multiplier": 20 * ones(), "offset": ones()},
        **{"in": INPUT},
        out=out,
    )
    return embed(b, out)


def cases(width: int) -> dict[str, Callable[[], PlanBuilder]]:
    """The ops of a network with blocks of ``width`` channels, under names with their sizes."""
    chunk, aggregated = width // 8, 3 * width
    plans: dict[str, Callable[[], PlanBuilder]] = {}
    for dtype in ("s8", "f32"):
        name = f"conv_{dtype}"
        plans |= {
            f"{name} {MELS}->{width} k5": lambda d=dtype: conv(MELS, width, 5, dtype=d),
            f"{name} {width}->{width}": lambda d=dtype: conv(width, width, dtype=d),
        }
        for dilation in (2, 4):
            plans[f"{name} {chunk}->{chunk} k3 d{dilation}"] = lambda d=dtype, n=dilation: conv(
                chunk, chunk, 3, n, dtype=d
            )
        plans[f"{name} {aggregated}->{aggregated}"] = lambda d=dtype: conv(
            aggregated, aggregated, dtype=d
        )
    return plans | {
        # Large weights are as frequent as small ones: AVX2 packs them the other way.
        f"conv_s8 {width}->{width} uniform": lambda: conv(width, width, uniform=True),
        f"conv_s8 {aggregated}->{ATTENTION} tanh": lambda: conv(aggregated, ATTENTION, tanh=True),
        f"attentive_pool_s8 {ATTENTION}->{aggregated}": lambda: attentive_pool(
            ATTENTION, aggregated
        ),
        f"dense_s8 {width}->{SQUEEZED}": lambda: dense(width, SQUEEZED),
        f"dense_s8 {SQUEEZED}->{width} sigmoid": lambda: dense(SQUEEZED, width, sigmoid=True),
        f"dense_s8 {2 * aggregated}->{ATTENTION}": lambda: dense(2 * aggregated, ATTENTION),
        f"dense_s8 {2 * aggregated}->{EMBEDDING}": lambda: dense(2 * aggregated, EMBEDDING),
        f"add_s8 {chunk}": lambda: add(chunk, gated=False),
        f"add_s8 {width} gated": lambda: add(width, gated=True),
        f"stats_s8 {width}": lambda: stats(width, std=False),
        f"stats_s8 {aggregated} std": lambda: stats(aggregated, std=True),
        f"quantize_s8 {width}": lambda: quantize(width),
    }


CASES = {f"quantize_s8 {MELS}": lambda: quantize(MELS), **cases(1024), **cases(512)}


@pytest.fixture(scope="module")
def peaks() -> dict[str, float]:
    return _C.measure_peaks(_C.default_isa())


@pytest.mark.benchmark(timer=CLOCK, group="ops")
@pytest.mark.parametrize("name", CASES)
def test_op(benchmark: BenchmarkFixture, peaks: dict[str, float], name: str) -> None:
    b = CASES[name]()
    engine = make_engine(b.plan, b.arrays, isa=_C.default_isa(), threads=1)
    taken = b.tensors[INPUT]
    features = values(FRAMES, taken["channels"], dtype=taken["dtype"])

    def run() -> dict[str, Any]:
        op = next(op for op in engine.profile(features) if op["name"] == "op")
        CLOCK.seconds += 1e-9 * op["nanoseconds"]
        return op

    op = benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=WARM_UP)
    if benchmark.disabled:
        return
    seconds = benchmark.stats.stats.median
    gmac_per_s = 1e-9 * op["macs"] / seconds
    benchmark.extra_info |= {
        "kernel": op["kernel"],
        "gmac_per_s": gmac_per_s,
        "share_of_peak": gmac_per_s / peaks["s8" if op["op"].endswith("_s8") else "f32"],
        "gb_per_s": 1e-9 * op["bytes"] / seconds,
        "peak_gmac_per_s": peaks,
    }


@pytest.mark.benchmark(group="ops")
@pytest.mark.parametrize("name", ["front end"])
def test_front_end(benchmark: BenchmarkFixture, name: str) -> None:
    front_end = _C.SpeechBrainFbank(MELS)
    wave = RNG.normal(0, 0.1, 160 * (FRAMES - 1)).astype(np.float32)
    features = benchmark.pedantic(front_end, (wave,), rounds=ROUNDS, warmup_rounds=WARM_UP)
    if benchmark.disabled:
        return
    benchmark.extra_info |= {
        "kernel": _C.last_kernel(),
        "gmac_per_s": 0.0,
        "share_of_peak": 0.0,
        "gb_per_s": 1e-9 * (wave.nbytes + features.nbytes) / benchmark.stats.stats.median,
    }
