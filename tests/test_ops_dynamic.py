"""Quantizations found at run time, each op on each instruction set against the oracle, bit for bit:
ranges, int8 layers whose results are float32, and what follows them without weights.
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
from oracle import ops
from plans import (
    Array,
    add_vector,
    check_bits,
    check_unless_too_short,
    finish,
    start,
    view,
    width_out,
)

each_isa = pytest.mark.parametrize("isa", _C.available_isas())

CHANNELS = st.sampled_from([1, 3, 16, 17, 31, 33, 64, 65, 130])
FRAMES = st.sampled_from([1, 5, 6, 7, 12, 13, 97])
SEEDS = st.integers(0, 2**32 - 1)


def random_real(rng: np.random.Generator, *shape: int) -> Array:
    """float32 frames of any size; now and then of one sign, all zero, or with one large value."""
    x = random_f32(rng, *shape, scale=float(10.0 ** rng.integers(-30, 30)))
    kind = rng.integers(6)
    if kind == 0:
        return np.abs(x)
    if kind == 1:
        return -np.abs(x)
    if kind == 2:
        return np.where(rng.random(shape) < 0.5, np.float32(0), np.float32(-0.0))
    if kind == 3:
        x.flat[rng.integers(x.size)] *= 1000
    return x


def quantized(b: PlanBuilder, source: str, name: str) -> tuple[str, str]:
    """An int8 copy of a float32 tensor, and the vector of its quantization."""
    desc = b.tensors[source]
    shape = {"width": desc["width"]} if "width" in desc else {}
    found = b.tensor(f"{name}.found", "vector", "f32", 3)
    b.op("range_f32", f"{name}.range", **{"in": source}, out=found)
    copy = b.tensor(f"{name}.s8", desc["kind"], "s8", desc["channels"], **shape)
    b.op("quantize_s8", f"{name}.quantize", **{"in": source}, quantization=found, out=copy)
    return copy, found


KERNELS = {"x.range": "range_f32", "x.quantize": "quantize_s8"}


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """Width of the input and attributes of a convolution that pads."""
    width = draw(st.sampled_from([1, 1, 4]))
    kernel = [draw(st.sampled_from([1, 3])), 1 if width == 1 else 3]
    stride = [draw(st.integers(1, 2)), 1 if width == 1 else draw(st.integers(1, 2))]
    dilation = [draw(st.integers(1, 3)), 1]
    padding = [dilation[0] * (kernel[0] // 2), kernel[1] // 2]
    mode = draw(st.sampled_from(["zero", "reflect"]))
    return width, {
        "kernel": kernel,
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "pad_mode": mode,
    }


@each_isa
@settings(max_examples=50, deadline=None)
@given(
    SEEDS,
    FRAMES,
    CHANNELS,
    CHANNELS,
    geometries(),
    st.fixed_dictionaries({name: st.booleans() for name in ("relu", "affine", "table", "bias")}),
)
def test_conv_s8(
    isa: str,
    seed: int,
    frames: int,
    c_in: int,
    c_out: int,
    geometry: tuple[int, dict[str, Any]],
    has: dict[str, bool],
) -> None:
    """From float32 to float32 or through a table, between neighbours that must stay."""
    rng = np.random.default_rng(seed)
    width, attributes = geometry
    b = start("f32", c_in + 5, width=width)
    x = view(b, "x", INPUT, 2, c_in)
    copy, found = quantized(b, x, "x")
    bias = None
    if has["bias"]:
        bias = add_vector(b, rng, copy, "bias", c_out, 1)
    out_dtype = "s8" if has["table"] else "f32"
    b.tensor("base", "frames", out_dtype, c_out + 5, width=width_out(width, attributes))
    for name, offset, channels in (("left", 0, 3), ("right", c_out + 3, 2), ("op", 3, c_out)):
        out = view(b, f"{name}.out", "base", offset, channels)
        rows = [random_f32(rng, channels, scale=2.0 ** rng.integers(-20, 20)) for _ in range(2)]
        rows += [random_f32(rng, channels) for _ in range(2 if has["affine"] else 0)]
        arrays = {
            "weight": random_weight(rng, channels, *attributes["kernel"], c_in),
            "epilogue": np.stack(rows),
        }
        if has["table"]:
            arrays["table"] = random_s8(rng, 256)
        b.op(
            "conv_s8",
            name,
            arrays,
            **{"in": copy},
            quantization=found,
            out=out,
            relu=has["relu"],
            bias=bias if name == "op" else None,
            **attributes,
        )
    finish(b, "base")
    shape = (frames, c_in + 5) if width == 1 else (frames, width, c_in + 5)
    kernel = "table_s8" if has["table"] else "conv_s8_f32"
    check_unless_too_short(b, random_real(rng, *shape), isa, {**KERNELS, "op": kernel})


@each_isa
@pytest.mark.parametrize("zero", [-128, 0, 127])
def test_real_results_of_a_fixed_quantization(isa: str, zero: int) -> None:
    rng = np.random.default_rng(zero + 200)
    b = start("s8", 70, zero_point=zero)
    b.tensor("out", "frames", "f32", 67)
    arrays = {
        "weight": random_weight(rng, 67, 3, 1, 70),
        "epilogue": random_f32(rng, 4, 67),
        "input_zero": random_s8(rng, 70),
    }
    b.op("conv_s8", "op", arrays, **{"in": INPUT}, out="out", kernel=[3, 1], padding=[1, 0])
    check_bits(finish(b, "out"), random_s8(rng, 41, 70), isa, {"op": "conv_s8_f32"})


@each_isa
@settings(max_examples=40, deadline=None)
@given(SEEDS, CHANNELS, CHANNELS, st.booleans(), st.booleans(), st.booleans())
def test_vectors(
    isa: str, seed: int, c_in: int, c_out: int, relu: bool, table: bool, affine: bool
) -> None:
    """A dense layer on a vector that is normalised first."""
    rng = np.random.default_rng(seed)
    b = start("f32", c_in)
    b.tensor("mean", "vector", "f32", c_in)
    b.op("stats_f32", "stats", **{"in": INPUT}, out="mean")
    b.tensor("normalised", "vector", "f32", c_in)
    affine_arrays = {"multiplier": random_f32(rng, c_in), "offset": random_f32(rng, c_in)}
    b.op("affine_f32", "normalise", affine_arrays, **{"in": "mean"}, out="normalised")
    copy, found = quantized(b, "normalised", "x")
    b.tensor(OUTPUT, "vector", "f32", c_out)
    arrays = {
        "weight": random_weight(rng, c_out, c_in),
        "epilogue": random_f32(rng, 4 if affine else 2, c_out),
    }
    if table:
        arrays["table"] = random_f32(rng, 64)
    b.op("dense_s8", "op", arrays, **{"in": copy}, quantization=found, out=OUTPUT, relu=relu)
    kernels = {**KERNELS, "stats": "stats_f32", "normalise": "affine_f32", "op": "conv_acc_s8"}
    check_bits(b, random_real(rng, 9, c_in), isa, kernels)


@each_isa
@settings(max_examples=30, deadline=None)
@given(SEEDS, FRAMES, CHANNELS, st.sampled_from(["exact", "pwl", "table"]))
def test_attentive_pool_s8(isa: str, seed: int, frames: int, channels: int, softmax: str) -> None:
    """The values' quantization is found, the hidden layer's is fixed."""
    rng = np.random.default_rng(seed)
    b = start("f32", channels)
    b.tensor("hidden", "frames", "s8", channels, zero_point=3)
    fixed = {"multiplier": random_f32(rng, 1), "offset": random_f32(rng, 1)}
    b.op("quantize_s8", "hidden", fixed, **{"in": INPUT}, out="hidden")
    copy, found = quantized(b, INPUT, "x")
    b.tensor(OUTPUT, "vector", "f32", 2 * channels)
    multiplier = np.abs(random_f32(rng, channels, scale=1e-4)) + np.float32(1e-6)
    arrays = {"weight": random_weight(rng, channels, channels), "multiplier": multiplier}
    if softmax != "exact":
        arrays["offset"] = random_f32(rng, channels)
        more = pwl_arrays((-2.0, 1.0)) if softmax == "pwl" else {"table": table_array(50)}
        arrays |= more
    b.op(
        "attentive_pool_s8",
        "op",
        arrays,
        **{"in": "hidden"},
        values=copy,
        values_quantization=found,
        out=OUTPUT,
        softmax=softmax,
        min_variance=1e-12,
    )
    name = {"exact": "softmax_moments_s8", "pwl": "pwl_moments_s8", "table": "table_moments_s8"}
    check_bits(b, random_real(rng, frames, channels), isa, {**KERNELS, "op": name[softmax]})


@each_isa
@settings(max_examples=30, deadline=None)
@given(SEEDS, FRAMES, CHANNELS, st.booleans(), st.booleans())
def test_float_ops_without_weights(
    isa: str, seed: int, frames: int, channels: int, gate: bool, relu: bool
) -> None:
    """Additions, maxima and statistics of float32 tensors have defined bits."""
    rng = np.random.default_rng(seed)
    b = start("f32", channels)
    vector = None
    if gate:
        vector = b.tensor("gate", "vector", "f32", channels)
        b.op("stats_f32", "gate", **{"in": INPUT}, out="gate")
    b.tensor("sum", "frames", "f32", channels)
    b.op("add_f32", "add", **{"in": INPUT}, residual=INPUT, gate=vector, out="sum", relu=relu)
    b.tensor("largest", "frames", "f32", channels)
    b.op("max_pool_f32", "pool", **{"in": "sum"}, out="largest", kernel=[3, 1], padding=[1, 0])
    finish(b, "largest")
    x = random_f32(rng, frames, channels, scale=float(10.0 ** rng.integers(-5, 5)))
    kernels = {"add": "add_f32", "pool": "max_pool_f32", "stats": "stats_f32"}
    check_bits(b, x, isa, kernels)


@each_isa
@pytest.mark.parametrize("threads", [1, 3])
def test_ranges_of_long_recordings(isa: str, threads: int) -> None:
    """Over chunks of frames and units of rows: the extremes may lie anywhere."""
    rng = np.random.default_rng(0)
    b = start("f32", 37, width=3)
    copy, _ = quantized(b, view(b, "x", INPUT, 2, 33), "x")
    finish(b, copy)
    engine = make_engine(b.plan, b.arrays, isa=isa, threads=threads)
    for frames, low, high in ((5000, 0, 4999), (5000, 4999, 2048), (1, 0, 0), (2049, 2048, 2047)):
        x = random_f32(rng, frames, 3, 37)
        x[low, 1, 2], x[high, 2, 34] = -50, 70
        x[:, :, :2], x[:, :, 35:] = 1000, -1000  # beside the view
        found = ops.find_quantization(x[:, :, 2:35])
        assert engine.trace(x)[0]["x.found"].tobytes() == found.tobytes()
        assert engine.run([x])[0].tobytes() == engine.trace(x)[0][OUTPUT].tobytes()


@each_isa
def test_what_a_range_covers(isa: str) -> None:
    """Zero is exact, both ends are within half a step, and a tensor of zeros has a step."""
    b = start("f32", 5)
    copy, _ = quantized(b, INPUT, "x")
    finish(b, copy)
    engine = make_engine(b.plan, b.arrays, isa=isa)
    for low, high in ((-3.0, 5.0), (2.0, 7.0), (-9.0, -1.0), (0.0, 0.0), (-1e-38, 1e-38)):
        x = np.array([[low, high, 0, low, high]], np.float32)
        traced, _ = engine.trace(x)
        scale, _, zero = traced["x.found"].astype(np.float64)
        back = scale * (traced["x.s8"] - zero)
        assert back[0, 2] == 0
        assert np.abs(back - x).max() <= 0.500001 * scale
        assert scale >= 2.0**-108


@each_isa
def test_values_beyond_float32_do_no_harm(isa: str) -> None:
    """Inf and NaN in the input: any result, no crash, and the same one on every instruction set."""
    rng = np.random.default_rng(1)
    b = start("f32", 17)
    copy, found = quantized(b, INPUT, "x")
    b.tensor("out", "frames", "f32", 33)
    arrays = {"weight": random_weight(rng, 33, 1, 1, 17), "epilogue": random_f32(rng, 2, 33)}
    b.op("conv_s8", "op", arrays, **{"in": copy}, quantization=found, out="out", relu=True)
    finish(b, "out")
    x = random_f32(rng, 9, 17)
    for value in (np.inf, -np.inf, np.nan, 3e38):
        x[4, 5] = value
        traced = make_engine(b.plan, b.arrays, isa=isa).trace(x)[0]
        scalar = make_engine(b.plan, b.arrays, isa="scalar").trace(x)[0]
        for name in ("x.found", "x.s8", "out"):
            np.testing.assert_array_equal(traced[name], scalar[name])


@each_isa
@pytest.mark.parametrize("quantum", [3.5, 1e30, -1e30, float("nan")])
def test_a_vector_that_no_range_op_wrote(isa: str, quantum: float) -> None:
    """A file may name any vector of three as a quantization: its zero point is clamped."""
    rng = np.random.default_rng(2)
    b = start("f32", 3)
    b.tensor("forged", "vector", "f32", 3)
    b.op("stats_f32", "forged", **{"in": INPUT}, out="forged")
    b.tensor("q", "frames", "s8", 3)
    b.op("quantize_s8", "quantize", **{"in": INPUT}, quantization="forged", out="q")
    b.tensor("out", "frames", "f32", 20)
    arrays = {"weight": random_weight(rng, 20, 3, 1, 3), "epilogue": random_f32(rng, 2, 20)}
    attributes = {"kernel": [3, 1], "padding": [1, 0]}
    b.op("conv_s8", "op", arrays, **{"in": "q"}, quantization="forged", out="out", **attributes)
    finish(b, "out")
    x = np.full((4, 3), quantum, np.float32)
    traced = make_engine(b.plan, b.arrays, isa=isa).trace(x)[0]
    scalar = make_engine(b.plan, b.arrays, isa="scalar").trace(x)[0]
    np.testing.assert_array_equal(traced["out"], scalar["out"])


def conv_plan(**changes: Any) -> PlanBuilder:
    """A convolution with a quantization found at run time; `changes` of its attributes."""
    rng = np.random.default_rng(3)
    b = start("f32", 8)
    copy, found = quantized(b, INPUT, "x")
    b.tensor("two", "vector", "f32", 2)
    b.tensor("frames", "frames", "f32", 3)
    b.tensor("bytes", "vector", "s8", 3)
    b.tensor("out", "frames", "f32", 16)
    arrays = {"weight": random_weight(rng, 16, 1, 1, 8), "epilogue": random_f32(rng, 2, 16)}
    arrays |= changes.pop("arrays", {})
    attributes = {"in": copy, "quantization": found, "out": "out", **changes}
    b.op("conv_s8", "op", arrays, **attributes)
    return finish(b, "out")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quantization": "nowhere"}, "quantization tensor 'nowhere' is not there"),
        ({"quantization": "two"}, "quantization 'two' has 2 channels, expected 3"),
        ({"quantization": "frames"}, "quantization 'frames' must be a vector"),
        ({"quantization": "bytes"}, "quantization 'bytes' must be f32"),
        ({"arrays": {"input_zero": np.zeros(8, np.int8)}}, "'input_zero'"),
        ({"arrays": {"table": np.zeros(8, np.int8)}}, "a table makes s8"),
    ],
)
def test_quantizations_that_make_no_sense(changes: dict[str, Any], reason: str) -> None:
    b = conv_plan()
    assert make_engine(b.plan, b.arrays).min_length == 1
    b = conv_plan(**changes)
    with pytest.raises(ValueError, match=reason):
        make_engine(b.plan, b.arrays)
