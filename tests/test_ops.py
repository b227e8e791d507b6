"""Each integer op of each instruction set against the oracle, bit for bit.

Inputs are int8 frames, so that any value reaches any op; what ops read and write are views, so that
rows are strided. Every test has the kernels say which of them ran.
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
from oracle import network, ops
from plans import (
    Array,
    add_vector,
    check_bits,
    check_refused,
    check_unless_too_short,
    finish,
    random_frames,
    start,
    view,
    width_out,
    with_extremes,
)

each_isa = pytest.mark.parametrize("isa", _C.available_isas())

CHANNELS = st.sampled_from([1, 3, 4, 15, 16, 17, 63, 64, 65, 130])
FRAMES = st.sampled_from([1, 5, 6, 7, 11, 12, 13, 97])
ZEROS = st.sampled_from([-128, -3, 0, 127])
SEEDS = st.integers(0, 2**32 - 1)
# What may be stored at the ends of the range, as multipliers and as offsets.
TINY, HUGE = 2.0**-126, 2.0**40
MULTIPLIERS = [TINY, -TINY, HUGE, -HUGE, 0.0]


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """Width of the input and attributes of a convolution whose width fits."""
    width = draw(st.sampled_from([1, 1, 1, 2, 5]))
    kernel = (draw(st.sampled_from([1, 3, 5])), 1 if width == 1 else draw(st.sampled_from([1, 3])))
    dilation = (draw(st.integers(1, 4)), draw(st.integers(1, 2)) if width == 5 else 1)
    mode = draw(st.sampled_from(["zero", "reflect"]))
    padding = []
    for axis in (0, 1):
        reach = dilation[axis] * (kernel[axis] - 1)
        padding.append(draw(st.sampled_from([reach // 2, reach // 2, 0, reach])))
    if width + 2 * padding[1] <= dilation[1] * (kernel[1] - 1) or (
        mode == "reflect" and padding[1] >= width
    ):
        kernel, padding[1] = (kernel[0], 1), 0
    attributes = {
        "kernel": list(kernel),
        "stride": [draw(st.integers(1, 2)), draw(st.integers(1, 2)) if width > 1 else 1],
        "dilation": list(dilation),
        "padding": padding,
        "pad_mode": mode,
    }
    return {"width": width, "attributes": attributes}


def epilogue_s8(
    rng: np.random.Generator, channels: int, depth: int, spread: float, affine: bool
) -> Array:
    """Rows that bring sums of `depth` products to about `spread` quanta, extremes among them."""
    multiplier = random_f32(rng, channels, scale=spread / (6000 * depth**0.5))
    rows = [
        with_extremes(rng, multiplier, MULTIPLIERS),
        with_extremes(rng, random_f32(rng, channels, scale=spread / 2), MULTIPLIERS),
    ]
    if affine:
        rows.append(with_extremes(rng, random_f32(rng, channels), MULTIPLIERS))
        rows.append(with_extremes(rng, random_f32(rng, channels, scale=spread / 2), MULTIPLIERS))
    return np.stack(rows)


def one_or_all(rng: np.random.Generator, values: Array) -> Array:
    """A per-channel array, now and then one value for all channels."""
    return values[:1] if rng.random() < 0.3 else values


@each_isa
@settings(max_examples=80, deadline=None)
@given(
    SEEDS,
    FRAMES,
    CHANNELS,
    CHANNELS,
    geometries(),
    st.tuples(ZEROS, ZEROS),
    st.fixed_dictionaries(
        {name: st.booleans() for name in ("relu", "affine", "table", "bias", "input_zero")}
    ),
)
def test_conv_s8(
    isa: str,
    seed: int,
    frames: int,
    c_in: int,
    c_out: int,
    geometry: dict[str, Any],
    zeros: tuple[int, int],
    has: dict[str, bool],
) -> None:
    rng = np.random.default_rng(seed)
    width, attributes = geometry["width"], geometry["attributes"]
    b = start("s8", c_in + 5, width=width, zero_point=zeros[0])
    x = view(b, "x", INPUT, 2, c_in, zero_point=zeros[0])
    bias = add_vector(b, rng, x, "bias", c_out, 40) if has["bias"] else None
    # The result lies between neighbours that were there first and must stay what they are.
    b.tensor("base", "frames", "s8", c_out + 5, width=width_out(width, attributes), zero_point=9)
    taps = int(np.prod(attributes["kernel"]))
    for name, offset, channels in (("left", 0, 3), ("right", c_out + 3, 2), ("op", 3, c_out)):
        out = view(b, f"{name}.out", "base", offset, channels, zero_point=zeros[1])
        entries = int(rng.choice([2, 16, 256, 1024]))
        spread = entries / 3 if has["table"] else 80
        arrays = {
            "weight": random_weight(rng, channels, *attributes["kernel"], c_in),
            "epilogue": epilogue_s8(rng, channels, taps * c_in, spread, has["affine"]),
        }
        if has["table"]:
            arrays["table"] = random_s8(rng, entries)
        if has["input_zero"]:
            arrays["input_zero"] = random_s8(rng, c_in)
        more = {**attributes, "relu": has["relu"], "bias": bias if name == "op" else None}
        b.op("conv_s8", name, arrays, **{"in": x}, out=out, **more)
    finish(b, "base")
    shape = (frames, c_in + 5) if width == 1 else (frames, width, c_in + 5)
    features = random_frames(rng, *shape)
    check_unless_too_short(b, features, isa, {"op": "table_s8" if has["table"] else "conv_s8"})


@each_isa
@pytest.mark.parametrize(
    ("kernel", "dilation", "pad_mode", "padding", "shortest"),
    [
        (3, 4, "reflect", 4, 5),
        (5, 1, "reflect", 2, 3),
        (3, 4, "zero", 4, 1),
        (3, 4, "zero", 0, 9),
        (5, 4, "zero", 3, 11),
        (1, 1, "zero", 0, 1),
    ],
)
def test_shortest_lengths(
    isa: str, kernel: int, dilation: int, pad_mode: str, padding: int, shortest: int
) -> None:
    rng = np.random.default_rng(shortest)
    b = start("s8", 17, zero_point=5)
    b.tensor("out", "frames", "s8", 65, zero_point=0)
    arrays = {
        "weight": random_weight(rng, 65, kernel, 1, 17),
        "epilogue": epilogue_s8(rng, 65, kernel * 17, 80, affine=False),
    }
    attributes = {"kernel": [kernel, 1], "dilation": [dilation, 1], "padding": [padding, 0]}
    b.op("conv_s8", "op", arrays, **{"in": INPUT}, out="out", pad_mode=pad_mode, **attributes)
    finish(b, "out")
    assert make_engine(b.plan, b.arrays, isa=isa).min_length == shortest
    for frames in (shortest, shortest + 1):
        check_bits(b, random_frames(rng, frames, 17), isa, {"op": "conv_s8"})
    check_refused(b, random_frames(rng, shortest - 1, 17), isa)


@each_isa
@pytest.mark.parametrize("c_in", [1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
def test_taps_of_few_inputs(isa: str, c_in: int, pad_mode: str) -> None:
    """Up to 7 inputs a tap are copied side by side: inside, at the borders, with every stride."""
    rng = np.random.default_rng(c_in)
    for kernel, stride, dilation in (
        ((7, 7), 2, 1),
        ((3, 5), 1, 1),
        ((1, 3), 1, 2),
        ((5, 1), 1, 1),
    ):
        attributes = {
            "kernel": list(kernel),
            "stride": [stride, stride],
            "dilation": [1, dilation],
            "padding": [kernel[0] // 2, kernel[1] // 2],
            "pad_mode": pad_mode,
        }
        b = start("s8", c_in, width=11, zero_point=7)
        width = width_out(11, attributes)
        b.tensor("out", "frames", "s8", 19, width=width, zero_point=-3)
        taps = kernel[0] * kernel[1]
        arrays = {
            "weight": random_weight(rng, 19, *kernel, c_in),
            "epilogue": epilogue_s8(rng, 19, taps * c_in, 80, affine=False),
        }
        b.op("conv_s8", "op", arrays, **{"in": INPUT}, out="out", **attributes)
        finish(b, "out")
        for frames in (4, 13):
            check_bits(b, random_frames(rng, frames, 11, c_in), isa, {"op": "conv_s8"})


@each_isa
@pytest.mark.parametrize("weight", [-127, 127])
@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("zero", [-128, 127])
def test_largest_products(isa: str, weight: int, value: int, zero: int) -> None:
    """Every product as large as can be, in tails of every kind: nothing saturates on the way."""
    b = start("s8", 131, zero_point=zero)
    b.tensor("out", "frames", "s8", 67, zero_point=3)
    largest = 5 * 131 * 127 * 255
    rows = np.stack([np.linspace(50, 150, 67) / largest, np.linspace(-1, 1, 67)])
    arrays = {
        "weight": np.full((67, 5, 1, 131), weight, np.int8),
        "epilogue": rows.astype(np.float32),
    }
    b.op("conv_s8", "op", arrays, **{"in": INPUT}, out="out", kernel=[5, 1])
    finish(b, "out")
    check_bits(b, np.full((13, 131), value, np.int8), isa, {"op": "conv_s8"})


@pytest.mark.skipif("avx2" not in _C.available_isas(), reason="the processor has no AVX2")
@pytest.mark.parametrize("c_in", [1, 3, 4, 5, 15, 16, 17, 130])
@pytest.mark.parametrize("value", [-128, 127, None])
def test_weights_choose_between_two_kernels(c_in: int, value: int | None) -> None:
    """On AVX2: pairs of weights that cannot saturate, or that can if some are split, or bytes as
    words. The pairs here are as large as a kernel takes them, or one larger.
    """
    rng = np.random.default_rng(c_in)
    weight = {"whole": random_weight(rng, 19, 3, 1, c_in) // 2}  # two of them are at most 126
    weight["whole"][:, :, :, 1::2] *= -1
    weight["largest"] = np.full((19, 3, 1, c_in), 64, np.int8)
    weight["largest"][:7] = -64
    weight["split"] = weight["whole"].copy()
    weight["split"][2, 1, 0, :4] = 127
    weight["split"][17, 0, 0, :] = np.resize(np.array([-65, -64], np.int8), c_in)
    weight["many"] = np.full((19, 3, 1, c_in), -127, np.int8)
    for name, weights in weight.items():
        b = start("s8", c_in, zero_point=5)
        b.tensor("out", "frames", "s8", 19, zero_point=3)
        arrays = {"weight": weights, "epilogue": epilogue_s8(rng, 19, 3 * c_in, 80, affine=True)}
        b.op("conv_s8", "op", arrays, **{"in": INPUT}, out="out", kernel=[3, 1], padding=[1, 0])
        finish(b, "out")
        features = np.full((13, c_in), value or 0, np.int8)
        if value is None:
            features = random_s8(rng, *features.shape)
        check_bits(b, features, "avx2", {"op": "conv_s8"})
        _, ran = make_engine(b.plan, b.arrays, isa="avx2").trace(features)
        # One group of four inputs and two halves of a panel: two splits of twelve are too many.
        if name != "split" or c_in >= 16:
            assert ran["op"] == f"conv_s8{'' if name == 'many' else '_paired'}/avx2"


@pytest.mark.skipif("avx2" not in _C.available_isas(), reason="the processor has no AVX2")
@pytest.mark.parametrize("c_in", [8, 9, 767, 768, 769, 1540])
@pytest.mark.parametrize("limit", [31, 32, 33, 64])
def test_sums_of_two_pairs_at_their_bound(c_in: int, limit: int) -> None:
    """Four products of the largest input fit int16 up to weights of 32. Columns of one sign meet
    columns of both, so that some groups find another and some do not, in one block of inputs and
    in several.
    """
    rng = np.random.default_rng(c_in + limit)
    weights = np.full((19, 1, 1, c_in), limit, np.int8)
    weights[7:] *= -1
    weights[:, :, :, c_in // 2 :] = rng.integers(-limit, limit + 1, (19, 1, 1, c_in - c_in // 2))
    b = start("s8", c_in, zero_point=-128)
    b.tensor("out", "frames", "s8", 19, zero_point=-3)
    arrays = {"weight": weights, "epilogue": epilogue_s8(rng, 19, c_in, 30, affine=True)}
    b.op("conv_s8", "op", arrays, **{"in": INPUT}, out="out")
    finish(b, "out")
    features = np.full((13, c_in), 127, np.int8)
    features[::2] = rng.choice(np.array([-128, 127], np.int8), (7, c_in))
    check_bits(b, features, "avx2", {"op": "conv_s8"})
    _, ran = make_engine(b.plan, b.arrays, isa="avx2").trace(features)
    assert ran["op"] == "conv_s8_paired/avx2"


@each_isa
def test_heaviest_weights(isa: str) -> None:
    # 127 * 33155 + 67 is the largest sum whose 255-fold is below 2^30.
    size = 33156
    for last in (67, 68):
        b = start("s8", size, zero_point=-128)
        b.tensor("out", "frames", "s8", 2, zero_point=0)
        weight = np.full((2, 1, 1, size), 127, np.int8)
        weight[..., -1] = last
        weight[1] *= -1
        rows = np.array([[1e-7, 1e-7], [0, 0]], np.float32)
        b.op("conv_s8", "op", {"weight": weight, "epilogue": rows}, **{"in": INPUT}, out="out")
        finish(b, "out")
        if last == 67:
            features = np.stack([np.full(size, 127), np.full(size, -128)]).astype(np.int8)
            check_bits(b, features, isa, {"op": "conv_s8"})
        else:
            with pytest.raises(ValueError, match="could overflow"):
                make_engine(b.plan, b.arrays, isa=isa)


@each_isa
@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    FRAMES,
    CHANNELS,
    st.tuples(ZEROS, ZEROS, ZEROS),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_add_s8(
    isa: str,
    seed: int,
    frames: int,
    channels: int,
    zeros: tuple[int, int, int],
    gated: bool,
    wide: bool,
    relu: bool,
) -> None:
    rng = np.random.default_rng(seed)
    width = 3 if wide else 1
    b = start("s8", 2 * channels + 3, width=width)
    x = view(b, "x", INPUT, 1, channels, zero_point=zeros[0])
    r = view(b, "r", INPUT, channels + 2, channels, zero_point=zeros[1])
    gate = add_vector(b, rng, x, "gate", channels, 2) if gated else None
    b.tensor("base", "frames", "s8", channels + 3, width=width)
    left = view(b, "left", "base", 0, 2)
    out = view(b, "op.out", "base", 2, channels, zero_point=zeros[2])
    again = view(b, "again.out", "base", 2, channels, zero_point=-5)
    right = view(b, "right", "base", channels + 2, 1)
    one = np.ones(1, np.float32)
    copies = {"multiplier": one, "residual_multiplier": 0 * one}
    for name, target in (("left", left), ("right", right)):
        source = view(b, f"{name}.in", INPUT, 0, b.tensors[target]["channels"])
        b.op("add_s8", name, copies, **{"in": source}, residual=source, out=target)
    # The second addition overwrites what it reads.
    for name, source, target in (("op", x, out), ("again", out, again)):
        multiplier = with_extremes(rng, random_f32(rng, channels), MULTIPLIERS)
        arrays = {
            "multiplier": one_or_all(rng, multiplier),
            "residual_multiplier": with_extremes(rng, random_f32(rng, 1), MULTIPLIERS),
        }
        b.op("add_s8", name, arrays, **{"in": source}, residual=r, gate=gate, out=target, relu=relu)
    finish(b, "base")
    shape = (frames, 2 * channels + 3) if width == 1 else (frames, width, 2 * channels + 3)
    check_bits(b, random_frames(rng, *shape), isa, {"op": "add_s8", "again": "add_s8"})


def test_gate_is_rounded_before_the_activation_comes() -> None:
    """A tie that another order of the roundings, or a fused product, would break."""
    factor = np.array([1 + 2**-12], np.float32)
    for isa in _C.available_isas():
        b = start("s8", 2)
        x, r = view(b, "x", INPUT, 0, 1), view(b, "r", INPUT, 1, 1)
        b.tensor("mean", "vector", "f32", 1)
        # 3 * (1 + 2^-12) / 3: the mean of the only frame, as a vector.
        third = np.array([(1 + 2**-12) / 3], np.float32)
        b.op("stats_s8", "mean", {"multiplier": third}, **{"in": x}, out="mean")
        b.tensor("out", "frames", "s8", 1, zero_point=0)
        arrays = {
            "multiplier": factor,
            "residual_multiplier": np.array([-(2.5 + 3 * 2**-11)], np.float32),
        }
        b.op("add_s8", "op", arrays, **{"in": x}, residual=r, gate="mean", out="out")
        finish(b, "out")
        features = np.array([[3, 1]], np.int8)
        outputs = network.run(b.plan, b.arrays, features)
        assert outputs["mean"] == factor
        assert outputs["out"].tolist() == [[0]]
        check_bits(b, features, isa, {"op": "add_s8"})


@each_isa
@settings(max_examples=30, deadline=None)
@given(
    SEEDS,
    st.sampled_from([1, 5, 13, 97, 2048, 2049, 4097, 5000]),
    st.sampled_from([1, 3, 17, 63, 64, 65, 130]),
    ZEROS,
    st.booleans(),
    st.sampled_from([1, 1, 3]),
    st.sampled_from([0.0, 0.25, 1e4]),
    st.sampled_from([{}, {"unbiased": True}, {"added_variance": 0.5}]),
)
def test_stats_s8(
    isa: str,
    seed: int,
    frames: int,
    channels: int,
    zero: int,
    std: bool,
    width: int,
    min_variance: float,
    more: dict[str, Any],
) -> None:
    rng = np.random.default_rng(seed)
    more = {} if frames * width == 1 else more  # no unbiased variance of one
    b = start("s8", channels + 5, width=width)
    x = view(b, "x", INPUT, 3, channels, zero_point=zero)
    b.tensor(OUTPUT, "vector", "f32", channels * (1 + std))
    multiplier = with_extremes(rng, random_f32(rng, channels), MULTIPLIERS)
    attributes = {"std": True, "min_variance": min_variance, **more} if std else {}
    arrays = {"multiplier": one_or_all(rng, multiplier)}
    b.op("stats_s8", "op", arrays, **{"in": x}, out=OUTPUT, **attributes)
    shape = (frames, channels + 5) if width == 1 else (frames, width, channels + 5)
    check_bits(b, random_frames(rng, *shape), isa, {"op": "stats_s8"})


@each_isa
@pytest.mark.parametrize("value", [-128, 127])
def test_stats_s8_of_many_extremes(isa: str, value: int) -> None:
    b = start("s8", 3)
    x = view(b, "x", INPUT, 1, 2, zero_point=-value - 1)
    finish(b, x)
    features = np.full((150_001, 3), value, np.int8)
    features[77_777, 1] = -value - 1
    check_bits(b, features, isa, {"stats": "stats_s8"})


@each_isa
@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    CHANNELS,
    CHANNELS,
    st.fixed_dictionaries(
        {name: st.booleans() for name in ("relu", "affine", "table", "input_zero")}
    ),
)
def test_dense_s8(isa: str, seed: int, c_in: int, c_out: int, has: dict[str, bool]) -> None:
    rng = np.random.default_rng(seed)
    b = start("s8", c_in)
    # The mean of a single frame is that frame: any vector can be had.
    b.tensor("mean", "vector", "f32", c_in)
    one = np.ones(1, np.float32)
    b.op("stats_s8", "mean", {"multiplier": one}, **{"in": INPUT}, out="mean")
    b.tensor("x", "vector", "s8", c_in, zero_point=0)
    plain = {"multiplier": one, "offset": 0 * one}
    b.op("quantize_s8", "quantize", plain, **{"in": "mean"}, out="x")
    b.tensor(OUTPUT, "vector", "f32", c_out)
    entries = int(rng.choice([2, 16, 1024]))
    arrays = {
        "weight": random_weight(rng, c_out, c_in),
        "epilogue": epilogue_s8(rng, c_out, c_in, entries / 3, has["affine"]),
    }
    if has["table"]:
        arrays["table"] = random_f32(rng, entries)
    if has["input_zero"]:
        arrays["input_zero"] = random_s8(rng, c_in)
    b.op("dense_s8", "op", arrays, **{"in": "x"}, out=OUTPUT, relu=has["relu"])
    kernels = {"op": "conv_acc_s8", "quantize": "quantize_s8"}
    check_bits(b, random_frames(rng, 1, c_in), isa, kernels)


@each_isa
@settings(max_examples=40, deadline=None)
@given(SEEDS, FRAMES, CHANNELS, ZEROS, st.sampled_from([1, 1, 3]))
def test_quantize_s8(
    isa: str, seed: int, frames: int, channels: int, zero: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    b = start("f32", channels + 3, width=width)
    x = view(b, "x", INPUT, 2, channels)
    b.tensor("base", "frames", "s8", channels + 2, width=width)
    plain = {"multiplier": np.ones(1, np.float32), "offset": np.zeros(1, np.float32)}
    left = view(b, "left.out", "base", 0, 1)
    right = view(b, "right.out", "base", channels + 1, 1)
    for name, target in (("left", left), ("right", right)):
        source = view(b, f"{name}.in", INPUT, 0, 1)
        b.op("quantize_s8", name, plain, **{"in": source}, out=target)
    out = view(b, "op.out", "base", 1, channels, zero_point=zero)
    arrays = {
        "multiplier": with_extremes(rng, random_f32(rng, channels, scale=3), MULTIPLIERS),
        "offset": one_or_all(rng, with_extremes(rng, random_f32(rng, channels), MULTIPLIERS)),
    }
    b.op("quantize_s8", "op", arrays, **{"in": x}, out=out)
    finish(b, "base")
    shape = (frames, channels + 3) if width == 1 else (frames, width, channels + 3)
    # Ties of plain quantization, values around the ends, the largest and the smallest there are.
    halves = (rng.integers(-300, 300, shape) / 2).astype(np.float32)
    features = with_extremes(rng, halves, [3.4e38, -3.4e38, 1e-45, -1e-45, -0.0, 127.5, -128.5])
    check_bits(b, features, isa, {"op": "quantize_s8"})


@each_isa
@settings(max_examples=20, deadline=None)
@given(SEEDS, FRAMES, CHANNELS, ZEROS)
def test_dequantize_f32(isa: str, seed: int, frames: int, channels: int, zero: int) -> None:
    rng = np.random.default_rng(seed)
    b = start("s8", channels + 3)
    x = view(b, "x", INPUT, 2, channels, zero_point=zero)
    b.tensor("real", "frames", "f32", channels + 1)
    out = view(b, "op.out", "real", 1, channels)
    multiplier = with_extremes(rng, random_f32(rng, channels), MULTIPLIERS)
    b.op("dequantize_f32", "op", {"multiplier": multiplier}, **{"in": x}, out=out)
    # Back to int8, so that the plan's output is exact.
    b.tensor("back", "frames", "s8", channels, zero_point=0)
    arrays = {"multiplier": np.full(1, 0.5, np.float32), "offset": np.zeros(1, np.float32)}
    b.op("quantize_s8", "back", arrays, **{"in": out}, out="back")
    finish(b, "back")
    features = random_frames(rng, frames, channels + 3)
    check_bits(b, features, isa, {"op": "dequantize_f32", "back": "quantize_s8"})


def pool_plan(
    rng: np.random.Generator, c_in: int, channels: int, zeros: tuple[int, int], softmax: str
) -> PlanBuilder:
    """Attentive pooling of two views of the input; logits spread over a few units."""
    b = start("s8", c_in + channels + 3)
    h = view(b, "h", INPUT, 1, c_in, zero_point=zeros[0])
    x = view(b, "x", INPUT, c_in + 2, channels, zero_point=zeros[1])
    b.tensor(OUTPUT, "vector", "f32", 2 * channels)
    logits = np.abs(random_f32(rng, channels, scale=2 / (6000 * c_in**0.5))) + np.float32(1e-9)
    arrays = {
        "weight": random_weight(rng, channels, c_in),
        "multiplier": one_or_all(rng, with_extremes(rng, logits, [TINY, HUGE])),
        "value_multiplier": one_or_all(rng, with_extremes(rng, random_f32(rng, channels), [0.0])),
    }
    if softmax == "pwl":
        pieces = pwl_arrays(np.linspace(-4, 4, int(rng.integers(2, 7))))
        if rng.random() < 0.2:
            ends = np.array([3, 3e6], np.float32)
            one = pwl_arrays([0.0])
            pieces = {
                "breakpoints": one["breakpoints"][:0],
                "slopes": np.array([2e6], np.float32),
                "intercepts": np.array([1e6], np.float32),
                "bounds": ends,
            }
        offset = with_extremes(rng, random_f32(rng, channels, scale=2), MULTIPLIERS)
        arrays |= {**pieces, "offset": one_or_all(rng, offset)}
    if softmax == "table":
        entries = int(rng.choice([2, 3, 64, 257]))
        arrays["multiplier"] = (arrays["multiplier"] * np.float32(entries / 8)).clip(TINY, HUGE)
        offset = with_extremes(rng, random_f32(rng, channels, scale=entries / 2), MULTIPLIERS)
        arrays |= {"table": table_array(entries), "offset": one_or_all(rng, offset)}
    more = {"softmax": softmax, "min_variance": float(rng.choice([0.0, 0.5]))}
    b.op("attentive_pool_s8", "op", arrays, **{"in": h}, values=x, out=OUTPUT, **more)
    return b


POOL_KERNELS = {
    "exact": "softmax_moments_s8",
    "pwl": "pwl_moments_s8",
    "table": "table_moments_s8",
}


@each_isa
@pytest.mark.parametrize("softmax", POOL_KERNELS)
@settings(max_examples=30, deadline=None)
@given(SEEDS, FRAMES, CHANNELS, CHANNELS, st.tuples(ZEROS, ZEROS))
def test_attentive_pool_s8(
    isa: str,
    softmax: str,
    seed: int,
    frames: int,
    c_in: int,
    channels: int,
    zeros: tuple[int, int],
) -> None:
    rng = np.random.default_rng(seed)
    b = pool_plan(rng, c_in, channels, zeros, softmax)
    features = random_frames(rng, frames, c_in + channels + 3)
    check_bits(b, features, isa, {"op": POOL_KERNELS[softmax]})


@each_isa
@pytest.mark.parametrize("softmax", POOL_KERNELS)
@pytest.mark.parametrize("frames", [1023, 1024, 1025, 3001])
def test_attentive_pool_s8_in_blocks(isa: str, softmax: str, frames: int) -> None:
    rng = np.random.default_rng(frames)
    b = pool_plan(rng, 17, 66, (-128, 127), softmax)
    check_bits(b, random_s8(rng, frames, 86), isa, {"op": POOL_KERNELS[softmax]})


@each_isa
@pytest.mark.parametrize("value", [-128, 127])
def test_attentive_pool_of_constants(isa: str, value: int) -> None:
    """Equal logits give every frame the whole numerator, 2^24: the largest sums there are."""
    rng = np.random.default_rng(0)
    b = pool_plan(rng, 3, 17, (0, 5), "exact")
    features = np.full((5000, 23), value, np.int8)
    check_bits(b, features, isa, {"op": "softmax_moments_s8"})
    expected = network.run(b.plan, b.arrays, features)[OUTPUT][:17]
    factor = np.broadcast_to(b.arrays["op.value_multiplier"], 17)
    np.testing.assert_array_equal(expected, np.float32(value - 5) * factor)


def test_oracle_covers_every_op() -> None:
    tested = {
        "quantize_s8", "dequantize_f32", "conv_s8", "conv_f32", "add_s8", "add_f32", "max_pool_s8",
        "max_pool_f32", "stats_s8", "stats_f32", "dense_s8", "dense_f32", "attentive_pool_s8",
        "attentive_pool_f32", "range_f32", "affine_f32", "quantize_s16", "conv_s16", "dense_s16",
        "attentive_pool_s16",
    }  # fmt: skip
    assert set(network.RUNNERS) == tested
    assert ops.MAX_POSITIONS == 2**24 - 1
