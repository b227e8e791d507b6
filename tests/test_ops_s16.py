"""Layers with 16-bit inputs or weights, each op on each instruction set against the oracle, bit for
bit: the oracle multiplies whole numbers, the engine planes of bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import pwl_arrays, random_f32, random_s8, random_weight, table_array
from earmark import _C
from earmark.plan import INPUT, OUTPUT, PlanBuilder, make_engine
from oracle import network, ops_s16
from plans import (
    Array,
    add_vector,
    check_bits,
    check_unless_too_short,
    equal_bits,
    finish,
    start,
    view,
    width_out,
)
from wide_layers import BITS, epilogue, geometries

each_isa = pytest.mark.parametrize("isa", _C.available_isas())

CHANNELS = st.sampled_from([1, 3, 16, 17, 31, 33, 64, 65, 130])
FRAMES = st.sampled_from([1, 5, 6, 7, 12, 13, 97])
SEEDS = st.integers(0, 2**32 - 1)
LARGEST = ops_s16.MAX_WEIGHT_S16


def weights(rng: np.random.Generator, bits: int, *shape: int) -> Array:
    """Of any size, the largest often; or bell-shaped, as a trained layer's."""
    if bits == 8:
        return random_weight(rng, *shape)
    if rng.random() < 0.5:
        extreme = rng.choice([-LARGEST, LARGEST], shape)
        any_size = rng.integers(-LARGEST, LARGEST + 1, shape)
        return np.where(rng.random(shape) < 0.2, extreme, any_size).astype(np.int16)
    return np.clip(rng.normal(scale=6000, size=shape), -LARGEST, LARGEST).astype(np.int16)


def quantized(b: PlanBuilder, rng: np.random.Generator, source: str, bits: int) -> str:
    """An integer copy of a float32 tensor of values about 1, some beyond its range."""
    desc = b.tensors[source]
    half = 1 << (bits - 1)
    zero = int(rng.choice([-half, -3, 0, half - 1, rng.integers(-half, half)]))
    shape = {"width": desc["width"]} if "width" in desc else {}
    copy = b.tensor(
        f"{source}.q", desc["kind"], f"s{bits}", desc["channels"], zero_point=zero, **shape
    )
    channels = desc["channels"] if rng.random() < 0.5 else 1
    arrays = {
        "multiplier": random_f32(rng, channels, scale=half / 2),
        "offset": random_f32(rng, channels, scale=half / 4),
    }
    b.op(f"quantize_s{bits}", f"{source}.quantize", arrays, **{"in": source}, out=copy)
    return copy


@each_isa
@settings(max_examples=25, deadline=None)
@given(
    SEEDS,
    FRAMES,
    CHANNELS,
    CHANNELS,
    BITS,
    geometries(),
    st.fixed_dictionaries({name: st.booleans() for name in ("relu", "affine", "table", "bias")}),
)
def test_conv_s16(
    isa: str,
    seed: int,
    frames: int,
    c_in: int,
    c_out: int,
    bits: tuple[int, int],
    geometry: tuple[int, dict[str, Any]],
    has: dict[str, bool],
) -> None:
    """From float32 to float32, between neighbours that must stay."""
    rng = np.random.default_rng(seed)
    width, attributes = geometry
    b = start("f32", c_in + 5, width=width)
    copy = quantized(b, rng, view(b, "x", INPUT, 2, c_in), bits[0])
    bias = add_vector(b, rng, INPUT, "bias", c_out, 1) if has["bias"] else None
    b.tensor("base", "frames", "f32", c_out + 5, width=width_out(width, attributes))
    for name, offset, channels in (("left", 0, 3), ("right", c_out + 3, 2), ("op", 3, c_out)):
        out = view(b, f"{name}.out", "base", offset, channels)
        arrays = {
            "weight": weights(rng, bits[1], channels, *attributes["kernel"], c_in),
            "epilogue": epilogue(rng, bits, channels, 4 if has["affine"] else 2),
        }
        if has["table"]:
            arrays["table"] = random_f32(rng, int(rng.choice([2, 3, 65])))
        if bits[0] == 8 and rng.random() < 0.5:
            arrays["input_zero"] = random_s8(rng, c_in)
        b.op(
            "conv_s16",
            name,
            arrays,
            **{"in": copy},
            out=out,
            relu=has["relu"],
            bias=bias if name == "op" else None,
            **attributes,
        )
    finish(b, "base")
    shape = (frames, c_in + 5) if width == 1 else (frames, width, c_in + 5)
    kernels = {"x.quantize": f"quantize_s{bits[0]}", "op": "combine_s16"}
    check_unless_too_short(b, random_f32(rng, *shape), isa, kernels)


@each_isa
@settings(max_examples=30, deadline=None)
@given(SEEDS, CHANNELS, CHANNELS, BITS, st.booleans(), st.booleans(), st.booleans())
def test_dense_s16(
    isa: str,
    seed: int,
    c_in: int,
    c_out: int,
    bits: tuple[int, int],
    relu: bool,
    table: bool,
    affine: bool,
) -> None:
    rng = np.random.default_rng(seed)
    b = start("f32", c_in)
    b.tensor("mean", "vector", "f32", c_in)
    b.op("stats_f32", "stats", **{"in": INPUT}, out="mean")
    copy = quantized(b, rng, "mean", bits[0])
    b.tensor(OUTPUT, "vector", "f32", c_out)
    arrays = {
        "weight": weights(rng, bits[1], c_out, c_in),
        "epilogue": epilogue(rng, bits, c_out, 4 if affine else 2),
    }
    if table:
        arrays["table"] = random_f32(rng, 65)
    b.op("dense_s16", "op", arrays, **{"in": copy}, out=OUTPUT, relu=relu)
    kernels = {"mean.quantize": f"quantize_s{bits[0]}", "op": "combine_s16"}
    check_bits(b, random_f32(rng, 9, c_in), isa, kernels)


@each_isa
@settings(max_examples=30, deadline=None)
@given(SEEDS, FRAMES, CHANNELS, CHANNELS, BITS, st.sampled_from(["exact", "pwl", "table"]))
def test_attentive_pool_s16(
    isa: str,
    seed: int,
    frames: int,
    c_in: int,
    channels: int,
    bits: tuple[int, int],
    softmax: str,
) -> None:
    """Logits from integers, values float32 as they are: a view beside others."""
    rng = np.random.default_rng(seed)
    check_bits(
        pool_plan(rng, c_in, channels, bits, softmax),
        random_f32(rng, frames, c_in + channels + 1, scale=float(10.0 ** rng.integers(-9, 9))),
        isa,
        {"op": {"exact": "softmax"}.get(softmax, softmax) + "_moments_s16"},
    )


def pool_plan(
    rng: np.random.Generator, c_in: int, channels: int, bits: tuple[int, int], softmax: str
) -> PlanBuilder:
    b = start("f32", c_in + channels + 1)
    hidden = quantized(b, rng, view(b, "hidden", INPUT, 0, c_in), bits[0])
    values = view(b, "values", INPUT, c_in + 1, channels)
    b.tensor(OUTPUT, "vector", "f32", 2 * channels)
    rows = epilogue(rng, bits, channels, 2)
    arrays = {"weight": weights(rng, bits[1], channels, c_in), "epilogue": rows}
    if softmax == "pwl":
        arrays |= pwl_arrays((-2.0, 1.0))
    elif softmax == "table":
        rows[1] += 25
        arrays["table"] = table_array(50)
    b.op(
        "attentive_pool_s16",
        "op",
        arrays,
        **{"in": hidden},
        values=values,
        out=OUTPUT,
        softmax=softmax,
        min_variance=1e-12,
    )
    return b


@each_isa
@pytest.mark.parametrize("zero", [-32768, -1, 0, 32767])
def test_every_quantum(isa: str, zero: int) -> None:
    """All 65536 values and what lies half-way and beyond."""
    b = start("f32", 3)
    b.tensor("q", "frames", "s16", 3, zero_point=zero)
    arrays = {"multiplier": np.ones(1, np.float32), "offset": np.zeros(1, np.float32)}
    b.op("quantize_s16", "op", arrays, **{"in": INPUT}, out="q")
    finish(b, INPUT)
    values = np.arange(-32768 - zero, 32768 - zero)
    beyond = [40000 - zero, -40000 - zero, 1e30, -1e30, np.inf, -np.inf]
    x = np.concatenate([values, values + 0.5, beyond]).astype(np.float32)
    x = np.resize(x, (len(x) // 3 + 1, 3))
    traced, ran = make_engine(b.plan, b.arrays, isa=isa).trace(x)
    assert ran["op"] == f"quantize_s16/{isa}"
    expected = ops_s16.quantize_s16(x, np.float32(1), np.float32(0), zero)
    assert len(np.unique(expected)) == 65536
    equal_bits(traced["q"], expected, "q")
    traced, _ = make_engine(b.plan, b.arrays, isa=isa).trace(np.full((1, 3), np.nan, np.float32))
    assert (traced["q"] == -32768).all()


@each_isa
def test_every_weight(isa: str) -> None:
    """Taken apart into two digits and put together again, each is what it was."""
    every = np.arange(-LARGEST, LARGEST + 1)
    b = start("f32", 1)
    b.tensor("one", "frames", "s8", 1)
    arrays = {"multiplier": np.ones(1, np.float32), "offset": np.zeros(1, np.float32)}
    b.op("quantize_s8", "quantize", arrays, **{"in": INPUT}, out="one")
    b.tensor("out", "frames", "f32", len(every))
    rows = np.stack([np.ones(len(every)), np.zeros(len(every))]).astype(np.float32)
    weight = every.astype(np.int16).reshape(-1, 1, 1, 1)
    b.op("conv_s16", "op", {"weight": weight, "epilogue": rows}, **{"in": "one"}, out="out")
    finish(b, "out")
    traced, _ = make_engine(b.plan, b.arrays, isa=isa).trace(np.ones((1, 1), np.float32))
    np.testing.assert_array_equal(traced["out"][0], every)


def deep_plan(c_in: int, weight: int, bits: tuple[int, int], zero: int) -> PlanBuilder:
    """One sum of 8 * c_in products with equal weights."""
    b = start("f32", c_in)
    b.tensor("q", "frames", f"s{bits[0]}", c_in, zero_point=zero)
    half = 1 << (bits[0] - 1)
    arrays = {"multiplier": np.full(1, half, np.float32), "offset": np.zeros(1, np.float32)}
    b.op(f"quantize_s{bits[0]}", "quantize", arrays, **{"in": INPUT}, out="q")
    b.tensor("out", "frames", "f32", 3)
    dtype = np.int16 if bits[1] == 16 else np.int8
    arrays = {
        "weight": np.full((3, 8, 1, c_in), weight, dtype),
        "epilogue": np.stack([np.ones(3), np.zeros(3)]).astype(np.float32),
    }
    b.op("conv_s16", "op", arrays, **{"in": "q"}, out="out", kernel=[8, 1], padding=[7, 0])
    return finish(b, "out")


@each_isa
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("ends", [(32767, -1.0), (-32768, 2.0), (0, 2.0), (0, -2.0)])
def test_the_largest_sums(isa: str, sign: int, ends: tuple[int, float]) -> None:
    """As deep as a layer may be, all weights and inputs at the ends of their ranges."""
    zero, x = ends
    b = deep_plan(4144, sign * LARGEST, (16, 16), zero)
    features = np.full((8, 4144), x, np.float32)
    expected = network.run(b.plan, b.arrays, features)
    assert np.abs(expected["out"]).max() > 2**44
    traced, _ = make_engine(b.plan, b.arrays, isa=isa).trace(features)
    for name, values in expected.items():
        equal_bits(traced[name], values, name)


@pytest.mark.parametrize("weight", [LARGEST, -LARGEST, 127, 127 * 255])
def test_sums_that_could_overflow_are_refused(weight: int) -> None:
    """Each plane of the weights counts for itself."""
    b = deep_plan(4145, weight, (16, 16), 0)
    with pytest.raises(ValueError, match=r"output channel 0: .* could overflow"):
        make_engine(b.plan, b.arrays)


@each_isa
@pytest.mark.parametrize("softmax", ["exact", "pwl", "table"])
def test_long_recordings(isa: str, softmax: str) -> None:
    """Blocks of logits, on any number of threads, beside other recordings."""
    rng = np.random.default_rng(5)
    b = pool_plan(rng, 9, 70, (16, 16), softmax)
    check_long(b, isa, [random_f32(rng, n, 80) for n in (5, 2049, 1025)])


@each_isa
def test_long_frames(isa: str) -> None:
    """Chunks of frames and their context."""
    rng = np.random.default_rng(6)
    b = start("f32", 9)
    copy = quantized(b, rng, INPUT, 16)
    b.tensor("out", "frames", "f32", 67)
    arrays = {"weight": weights(rng, 16, 67, 3, 1, 9), "epilogue": epilogue(rng, (16, 16), 67, 2)}
    b.op("conv_s16", "op", arrays, **{"in": copy}, out="out", kernel=[3, 1], padding=[1, 0])
    check_long(finish(b, "out"), isa, [random_f32(rng, n, 9) for n in (5, 4200, 2049)])


def check_long(b: PlanBuilder, isa: str, recordings: list[Array]) -> None:
    expected = np.stack([network.run(b.plan, b.arrays, x)[OUTPUT] for x in recordings])
    for threads in (1, 3):
        engine = make_engine(b.plan, b.arrays, isa=isa, threads=threads)
        equal_bits(engine.run(recordings), expected, OUTPUT)


@each_isa
def test_values_beyond_float32_do_no_harm(isa: str) -> None:
    """Inf and NaN in the input: any result, no crash, and the same on every instruction set."""
    rng = np.random.default_rng(1)
    for softmax in ("exact", "pwl", "table"):
        b = pool_plan(rng, 17, 33, (16, 16), softmax)
        x = random_f32(rng, 9, 51)
        for value in (np.inf, -np.inf, np.nan, 3e38):
            x[4, 5] = x[3, 30] = value
            traced = make_engine(b.plan, b.arrays, isa=isa).trace(x)[0]
            scalar = make_engine(b.plan, b.arrays, isa="scalar").trace(x)[0]
            np.testing.assert_array_equal(traced[OUTPUT], scalar[OUTPUT])


def test_work_counts_every_plane() -> None:
    rng = np.random.default_rng(2)
    macs = {}
    for bits in ((8, 8), (16, 8), (8, 16), (16, 16)):
        b = pool_plan(rng, 8, 16, bits, "exact")
        profile = make_engine(b.plan, b.arrays).profile(random_f32(rng, 10, 25))
        macs[bits] = profile[-1]["macs"]
    assert macs == {(8, 8): 1280, (16, 8): 2560, (8, 16): 2560, (16, 16): 5120}


# Plans that make no sense.


def small_plan(
    tensors: dict[str, dict[str, Any]] | None = None,
    arrays: dict[str, Array | None] | None = None,
    kind: str = "conv_s16",
    **attributes: Any,
) -> PlanBuilder:
    """A convolution (or pooling) of 16 bits, changed as the arguments say."""
    rng = np.random.default_rng(3)
    b = start("f32", 8)
    copy = quantized(b, rng, INPUT, 16)
    b.tensors[copy]["zero_point"] = 0
    b.tensor("other", "frames", "f32", 8)
    b.op("add_f32", "add", **{"in": INPUT}, residual=INPUT, out="other")
    b.tensor("three", "vector", "f32", 3)
    b.op("stats_f32", "three", **{"in": view(b, "part", INPUT, 0, 3)}, out="three")
    stored: dict[str, Array | None] = {
        "weight": weights(rng, 16, 16, 1, 1, 8),
        "epilogue": random_f32(rng, 2, 16),
        **(arrays or {}),
    }
    given: dict[str, Any] = {"in": copy, "out": "out", **attributes}
    if kind == "attentive_pool_s16":
        stored["weight"] = weights(rng, 16, 8, 8)
        b.tensor(OUTPUT, "vector", "f32", 16)
        given |= {"values": "other", "out": OUTPUT, "min_variance": 0.0, **attributes}
    else:
        b.tensor("out", "frames", "f32", 16)
    for name, changes in (tensors or {}).items():
        b.tensors.setdefault(name, {}).update(changes)
    b.op(kind, "op", {role: a for role, a in stored.items() if a is not None}, **given)
    return b if kind == "attentive_pool_s16" else finish(b, "out")


WEIGHT = (16, 1, 1, 8)
POOL = {"kind": "attentive_pool_s16"}
NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"arrays": {"weight": np.full(WEIGHT, LARGEST + 1, np.int16)}}, r"'weight'\[0\] is 32513"),
    ({"arrays": {"weight": np.full(WEIGHT, -32768, np.int16)}}, r"'weight'\[0\] is -32768"),
    ({"arrays": {"weight": np.full(WEIGHT, -128, np.int8)}}, r"'weight'\[0\] is -128"),
    ({"arrays": {"weight": np.zeros(WEIGHT, np.float32)}}, "'weight' must be int8"),
    ({"arrays": {"weight": np.zeros((16, 8), np.int16)}}, "array 'weight' has shape"),
    ({"arrays": {"weight": None}}, "array 'weight' is missing"),
    ({"arrays": {"epilogue": np.zeros((3, 16), np.float32)}}, "array 'epilogue' has shape"),
    ({"arrays": {"epilogue": np.zeros((2, 16), np.int16)}}, "'epilogue' must be float32"),
    ({"arrays": {"input_zero": np.zeros(8, np.int8)}}, "'input_zero' is of s8 inputs"),
    ({"arrays": {"table": np.zeros(1, np.float32)}}, "1 table entries"),
    ({"arrays": {"table": np.full(5, np.nan, np.float32)}}, "array 'table'"),
    ({"arrays": {"table": np.zeros(8, np.int8)}}, "'table' must be float32"),
    ({"in": "other"}, "in 'other' must be s8 or s16"),
    ({"in": "three"}, "in 'three' must be frames"),
    ({"quantization": "three"}, "found at run time is of int8 layers"),
    ({"tensors": {"out": {"dtype": "s8"}}}, "out 'out' must be f32"),
    ({"tensors": {"out": {"dtype": "s16"}}}, "out 'out' must be f32"),
    ({"tensors": {"input.q": {"zero_point": 32768}}}, "zero point 32768 is not an int16"),
    ({"tensors": {"input.q": {"zero_point": -32769}}}, "zero point -32769 is not an int16"),
    ({"tensors": {"input.q": {"of": "other"}}}, "'input.q' is s16 and must have memory of its own"),
    ({"tensors": {"input.q": {"over": "other"}}}, "is s16 and must have memory of its own"),
    ({"tensors": {"input.q": {"dtype": "s32"}}}, "unknown dtype 's32'"),
    ({"tensors": {"input": {"dtype": "s16"}}}, "'input'"),
    ({"kind": "conv_s8"}, "in 'input.q' must be s8"),
    (POOL | {"in": "other"}, "in 'other' must be s8 or s16"),
    (POOL | {"values": "input.q"}, "values 'input.q' must be f32"),
    (POOL | {"arrays": {"epilogue": np.zeros((4, 8), np.float32)}}, "has no affine"),
    (POOL | {"softmax": "table"}, "array 'table' is missing"),
    (POOL | {"softmax": "cosine"}, "unknown softmax 'cosine'"),
]


@pytest.mark.parametrize(("changes", "reason"), NONSENSE)
def test_plans_that_make_no_sense(changes: dict[str, Any], reason: str) -> None:
    changes = {**changes}
    if changes.get("kind") == "attentive_pool_s16":
        changes["arrays"] = {
            "epilogue": np.zeros((2, 8), np.float32),
            **changes.get("arrays", {}),
        }
    b = small_plan(**changes)
    with pytest.raises(ValueError, match=reason):
        make_engine(b.plan, b.arrays)


def test_what_nonsense_is_made_of_makes_sense() -> None:
    pool = small_plan(kind="attentive_pool_s16", arrays={"epilogue": np.zeros((2, 8), np.float32)})
    for b in (small_plan(), pool):
        assert make_engine(b.plan, b.arrays).min_length == 1


def test_ends_of_16_bits_are_refused() -> None:
    b = start("s16", 4)
    b.tensor("out", "frames", "f32", 16)
    arrays = {"weight": np.ones((16, 1, 1, 4), np.int16), "epilogue": np.ones((2, 16), np.float32)}
    b.op("conv_s16", "op", arrays, **{"in": INPUT}, out="out")
    finish(b, "out")
    with pytest.raises(ValueError, match="the plan's 'input' is s16"):
        make_engine(b.plan, b.arrays)
    b = start("f32", 4)
    b.tensor("mean", "vector", "f32", 4)
    b.op("stats_f32", "stats", **{"in": INPUT}, out="mean")
    b.tensor(OUTPUT, "vector", "s16", 4, scale=1.0)
    ones = {"multiplier": np.ones(1, np.float32), "offset": np.ones(1, np.float32)}
    b.op("quantize_s16", "op", ones, **{"in": "mean"}, out=OUTPUT)
    with pytest.raises(ValueError, match="the plan's 'embedding' is s16"):
        make_engine(b.plan, b.arrays)
