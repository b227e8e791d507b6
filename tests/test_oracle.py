"""The oracle's ops against slow definitions: Python integers, exact fractions, torch.

`r32` makes one float32 operation of a Python float: a double has enough bits (53 >= 2 * 24 + 2)
that rounding a sum or product of two float32 twice, to double and to float32, equals rounding once.
"""

import ast
import math
import struct
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import PWL_BREAKPOINTS, pwl_arrays, random_f32, random_s8, random_weight, table_array
from oracle import ops, ops_f32

Array = ops.Array

TIES = [
    # v, zero point, result; the zero point is added after rounding
    (-128.5, 0, -128),
    (-127.5, 0, -128),
    (-126.5, 0, -126),
    (-2.5, 0, -2),
    (-1.5, 0, -2),
    (-0.5, 0, 0),
    (0.5, 0, 0),
    (1.5, 0, 2),
    (2.5, 0, 2),
    (126.5, 0, 126),
    (127.5, 0, 127),  # 128 if the clamp came last
    (0.5, 1, 1),
    (1.5, 1, 3),
    (-0.5, -128, -128),
    (0.5, -128, -128),
    (254.5, -128, 126),
    (255.5, -128, 127),
    (0.5, 127, 127),
    (-0.5, 127, 127),
    (-254.5, 127, -127),
    (-255.5, 127, -128),
    (math.inf, -128, 127),
    (-math.inf, 127, -128),
    (3e38, 5, 127),
    (-3e38, 5, -128),
    (4294967296.0, 0, 127),  # wraps to 0 where a conversion to int32 came first
]


def r32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def slow_round(v: float, low: int, high: int) -> int:
    return round(Fraction(min(max(v, low), high)))


def slow_requantize(v: float, zero: int) -> int:
    return slow_round(v, -128 - zero, 127 - zero) + zero


def slow_source(i: int, n: int, mode: str) -> int | None:
    if 0 <= i < n:
        return i
    if mode == "zero":
        return None
    return -i if i < 0 else n - 1 - (i - (n - 1))


def floats(values: Array) -> list[float]:
    return [float(v) for v in values]


@pytest.mark.parametrize(("v", "zero", "expected"), TIES)
def test_requantize_names_every_tie(v: float, zero: int, expected: int) -> None:
    assert ops.requantize(ops.f32([v]), zero).tolist() == [expected]


@given(st.floats(width=32, allow_nan=False), st.integers(-128, 127))
def test_requantize_is_the_rounded_fraction(v: float, zero: int) -> None:
    expected = slow_requantize(min(max(v, -1e30), 1e30), zero)
    assert ops.requantize(ops.f32([v]), zero).tolist() == [expected]


@given(st.integers(-520, 520), st.integers(-128, 127))
def test_requantize_equals_the_magic_number_form(halves: int, zero: int) -> None:
    v = ops.f32([halves / 2])
    clamped = ops.clamp(v, -128 - zero, 127 - zero)
    magic = np.float32(12582912)
    assert ops.requantize(v, zero)[0] == int((clamped + magic - magic)[0]) + zero


@pytest.mark.parametrize(
    ("v", "index"),
    [(-9.0, 0), (-4.0, 0), (-3.5, 0), (-2.5, 2), (-0.5, 4), (0.5, 4), (1.5, 6), (3.5, 7)],
)
def test_table_index(v: float, index: int) -> None:
    assert ops.table_index(ops.f32([v]), 8).tolist() == [index]


def test_table_index_ends() -> None:
    huge = ops.f32([-math.inf, -257, -256, 254.5, 255, 255.5, math.inf])
    assert ops.table_index(huge, 512).tolist() == [0, 0, 0, 510, 511, 511, 511]
    with pytest.raises(ValueError, match="even"):
        ops.table_index(huge, 511)


def test_multiply_then_add_rounds_twice() -> None:
    # (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24; the last term is lost, a fused operation would keep it.
    a = ops.f32([1 + 2**-12])
    v = ops.add(ops.multiply(a, a), ops.f32([-(1 + 2**-11)]))
    assert v.dtype == np.float32
    assert v.tolist() == [0.0]


def test_float64_is_never_rounded_in_silence() -> None:
    with pytest.raises(TypeError, match="float64"):
        ops.multiply(ops.f32([1]), np.array([0.1]))


def test_f32_of_integers_ties_to_even() -> None:
    odd = [2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**30 - 1]
    assert ops.f32(np.array(odd)).tolist() == [2.0**24, 2.0**24 + 4, -(2.0**24), 2.0**30]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(-128, 127))
def test_quantize_and_dequantize(seed: int, zero: int) -> None:
    rng = np.random.default_rng(seed)
    x, multiplier, offset = (random_f32(rng, 5, scale=9) for _ in range(3))
    rows = zip(floats(x), floats(multiplier), floats(offset), strict=True)
    quantized = [slow_requantize(r32(r32(a * m) + o), zero) for a, m, o in rows]
    q = ops.quantize_s8(x, multiplier, offset, zero)
    assert q.dtype == np.int8
    assert q.tolist() == quantized
    real = [r32((a - zero) * m) for a, m in zip(quantized, floats(multiplier), strict=True)]
    assert ops.dequantize_f32(q, multiplier, zero).tolist() == real


def test_quantize_overflow_is_clamped() -> None:
    x, multiplier = ops.f32([3e38, -3e38]), ops.f32([2.0**40, 2.0**40])
    assert ops.quantize_s8(x, multiplier, ops.f32([0, 0]), 3).tolist() == [127, -128]


GEOMETRY = st.fixed_dictionaries(
    {
        "stride": st.tuples(st.integers(1, 3), st.integers(1, 2)),
        "dilation": st.tuples(st.integers(1, 4), st.integers(1, 2)),
        "padding": st.tuples(st.integers(0, 4), st.integers(0, 2)),
        "pad_mode": st.sampled_from(["zero", "reflect"]),
    }
)


def legal(size: int, kernel: int, axis: int, geometry: dict[str, Any]) -> bool:
    padding, dilation = geometry["padding"][axis], geometry["dilation"][axis]
    enough = size + 2 * padding >= dilation * (kernel - 1) + 1
    return enough and (geometry["pad_mode"] == "zero" or size > padding)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 4)),
    st.tuples(st.integers(1, 5), st.integers(1, 3)),
    GEOMETRY,
    st.integers(0, 2**32 - 1),
)
def test_conv_acc_against_loops_and_torch(
    size: tuple[int, int], kernel: tuple[int, int], geometry: dict[str, Any], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, weight = random_s8(rng, *size, 3), random_weight(rng, 2, *kernel, 3)
    zero = random_s8(rng, 3)
    if not all(legal(size[i], kernel[i], i, geometry) for i in (0, 1)):
        with pytest.raises(ValueError, match="frames"):
            ops.conv_acc(x, weight, zero, **geometry)
        return
    acc = ops.conv_acc(x, weight, zero, **geometry)
    assert acc.dtype == np.int64

    (st_t, st_w), (di_t, di_w), (pa_t, pa_w) = (
        geometry[key] for key in ("stride", "dilation", "padding")
    )
    mode = geometry["pad_mode"]
    expected = np.zeros(acc.shape, np.int64)
    for t, w, o in np.ndindex(*acc.shape):
        total = 0
        for kt, kw, i in product(range(kernel[0]), range(kernel[1]), range(3)):
            row = slow_source(t * st_t + kt * di_t - pa_t, size[0], mode)
            column = slow_source(w * st_w + kw * di_w - pa_w, size[1], mode)
            if row is not None and column is not None:
                total += int(weight[o, kt, kw, i]) * (int(x[row, column, i]) - int(zero[i]))
        expected[t, w, o] = total
    np.testing.assert_array_equal(acc, expected)

    centred = torch.from_numpy(x.astype(np.float64) - zero).permute(2, 0, 1)[None]
    torch_mode = "constant" if mode == "zero" else "reflect"
    padded = torch.nn.functional.pad(centred, (pa_w, pa_w, pa_t, pa_t), mode=torch_mode)
    filters = torch.from_numpy(weight.astype(np.float64)).permute(0, 3, 1, 2)
    out = torch.nn.functional.conv2d(
        padded, filters, stride=(st_t, st_w), dilation=(di_t, di_w)
    ).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(acc, out[0].numpy())


@pytest.mark.parametrize(
    ("frames", "options", "n_out"),
    [
        (5, {"padding": 4, "dilation": 4, "pad_mode": "reflect"}, 5),
        (4, {"padding": 4, "dilation": 4, "pad_mode": "reflect"}, None),
        (1, {"padding": 4, "dilation": 4, "pad_mode": "zero"}, 1),
        (9, {"dilation": 4}, 1),
        (8, {"dilation": 4}, None),
        (3, {"stride": 2}, 1),
        (4, {"stride": 2}, 1),
        (5, {"stride": 2}, 2),
        (0, {"padding": 4}, None),
    ],
)
def test_shortest_lengths(frames: int, options: dict[str, Any], n_out: int | None) -> None:
    x, weight = np.ones((frames, 2), np.int8), np.ones((1, 3, 2), np.int8)
    if n_out is None:
        with pytest.raises(ValueError, match="frames"):
            ops.conv_acc(x, weight, 0, **options)
    else:
        assert ops.conv_acc(x, weight, 0, **options).shape == (n_out, 1)


def test_reflect_of_the_shortest_recording_reads_its_far_end() -> None:
    x = np.array([[10], [20], [30]], np.int8)
    weight = np.zeros((2, 5, 1), np.int8)
    weight[0, 0], weight[1, 4] = 1, 1
    acc = ops.conv_acc(x, weight, 0, padding=2, pad_mode="reflect")
    assert acc.tolist() == [[30, 30], [20, 20], [10, 10]]


@pytest.mark.parametrize("sign", [1, -1])
def test_heaviest_weights(sign: int) -> None:
    # 127 * 33155 + 67 = 4210752 is the largest sum with 255 * sum below 2^30.
    weight = np.full((1, 1, 33156), 127 * sign, np.int8)
    weight[..., -1] = 67 * sign
    x = np.full((1, 33156), 127, np.int8)
    assert ops.conv_acc(x, weight, -128).item() == sign * (2**30 - 64)
    weight[..., -1] = 68 * sign
    with pytest.raises(ValueError, match="2\\^30"):
        ops.conv_acc(x, weight, -128)


def test_weight_of_minus_128_is_refused() -> None:
    with pytest.raises(ValueError, match="-128"):
        ops.conv_acc(np.ones((1, 1), np.int8), np.full((1, 1, 1), -128, np.int8), 0)


def slow_epilogue(
    acc: int, multiplier: float, offset: float, relu: bool, affine: tuple[float, float] | None
) -> float:
    v = r32(r32(r32(acc) * multiplier) + offset)
    if relu:
        v = max(v, 0.0)
    if affine:
        v = r32(r32(v * affine[0]) + affine[1])
    return v


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([-128, -3, 0, 127]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_conv_s8_and_dense_s8(
    seed: int, zero_point: int, relu: bool, affine: bool, table: bool
) -> None:
    rng = np.random.default_rng(seed)
    frames, inputs, outputs, entries = 4, 6, 3, 16
    x, weight = random_s8(rng, frames, inputs), random_weight(rng, outputs, 1, inputs)
    input_zero = random_s8(rng, inputs)
    multiplier = random_f32(rng, outputs, scale=2e-3)
    offset = random_f32(rng, outputs, scale=20)
    options: dict[str, Any] = {"relu": relu}
    if affine:
        options["gain"] = random_f32(rng, outputs)
        options["shift"] = random_f32(rng, outputs, scale=20)
    s8_table, f32_table = random_s8(rng, entries), random_f32(rng, entries)
    options_s8 = {**options, "table": s8_table} if table else options
    options_f32 = {**options, "table": f32_table} if table else options
    out = ops.conv_s8(x, weight, input_zero, multiplier, offset, zero_point, **options_s8)
    assert out.dtype == np.int8
    for t in range(frames):
        vector = ops.dense_s8(x[t], weight[:, 0], input_zero, multiplier, offset, **options_f32)
        assert vector.dtype == np.float32
        for o in range(outputs):
            row = zip(weight[o, 0].tolist(), x[t].tolist(), input_zero.tolist(), strict=True)
            acc = sum(w * (q - z) for w, q, z in row)
            pair = (float(options["gain"][o]), float(options["shift"][o])) if affine else None
            v = slow_epilogue(acc, float(multiplier[o]), float(offset[o]), relu, pair)
            index = slow_round(v, -entries // 2, entries // 2 - 1) + entries // 2
            assert out[t, o] == (s8_table[index] if table else slow_requantize(v, zero_point))
            assert vector[o] == (f32_table[index] if table else v)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([-128, 5, 127]), st.booleans(), st.booleans())
def test_add_s8(seed: int, zero: int, gated: bool, relu: bool) -> None:
    rng = np.random.default_rng(seed)
    x, residual = random_s8(rng, 5, 3), random_s8(rng, 5, 3)
    multiplier, gate = random_f32(rng, 3), random_f32(rng, 3)
    factor = random_f32(rng, 1)
    chosen = gate if gated else None
    out = ops.add_s8(x, residual, -128, 127, multiplier, factor, zero, chosen, relu=relu)
    for t, c in np.ndindex(5, 3):
        m = r32(float(multiplier[c]) * float(gate[c])) if gated else float(multiplier[c])
        v = r32((int(x[t, c]) + 128) * m)
        r = r32((int(residual[t, c]) - 127) * float(factor[0]))
        total = max(r32(v + r), 0.0) if relu else r32(v + r)
        assert out[t, c] == slow_requantize(total, zero)


def test_gate_and_multiplier_are_rounded_before_the_activation_comes() -> None:
    # (1 + 2^-12)^2 rounds to 1 + 2^-11, and the sum is the tie 0.5. Scaled one after the other, or
    # fused, 3 becomes 3 + 3 * 2^-11 and a rest, and the sum rounds to 1.
    factor = ops.f32([1 + 2**-12])
    residual_factor = ops.f32([-(2.5 + 3 * 2**-11)])
    three, one = np.array([[3]], np.int8), np.array([[1]], np.int8)
    out = ops.add_s8(three, one, 0, 0, factor, residual_factor, 0, gate=factor)
    assert out.tolist() == [[0]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_max_pool_against_loops(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size, kernel, stride = (
        tuple(data.draw(st.integers(1, top)) for _ in range(2)) for top in (6, 4, 3)
    )
    padding = tuple(data.draw(st.integers(0, k - 1)) for k in kernel)
    x = random_s8(rng, *size, 3)
    window = {"stride": stride, "padding": padding}
    if any(n + 2 * p < k for n, k, p in zip(size, kernel, padding, strict=True)):
        with pytest.raises(ValueError, match="too few"):
            ops.max_pool_s8(x, kernel, **window)
        return
    out = ops.max_pool_s8(x, kernel, **window)
    np.testing.assert_array_equal(ops_f32.max_pool_f32(x, kernel, **window), out)
    for t, w, c in np.ndindex(*out.shape):
        first = (t * stride[0] - padding[0], w * stride[1] - padding[1])
        seen = [
            int(x[i, j, c])
            for i in range(first[0], first[0] + kernel[0])
            for j in range(first[1], first[1] + kernel[1])
            if 0 <= i < size[0] and 0 <= j < size[1]
        ]
        assert out[t, w, c] == max(seen)
    shape = [
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    ]
    assert list(out.shape) == [*shape, 3]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([-128, 5, 127]))
def test_stats_s8(seed: int, frames: int, zero: int) -> None:
    rng = np.random.default_rng(seed)
    x, multiplier = random_s8(rng, frames, 2, 3), random_f32(rng, 3)
    out = ops.stats_s8(x, zero, multiplier, std=True, min_variance=0.25)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out[:3], ops.stats_s8(x, zero, multiplier))
    for c in range(3):
        q = x[..., c].reshape(-1).tolist()
        n, s1, s2 = len(q), sum(q), sum(v * v for v in q)
        mean = r32(r32(s1 / n - zero) * float(multiplier[c]))
        var = float(n * s2 - s1 * s1) / float(n * n)
        std = r32(r32(math.sqrt(max(var, 0.25))) * float(multiplier[c]))
        assert (out[c], out[3 + c]) == (mean, std)


@pytest.mark.parametrize("value", [-128, 0, 127])
def test_stats_of_a_constant_have_no_variance(value: int) -> None:
    x = np.full((100_003, 1), value, np.int8)
    out = ops.stats_s8(x, -128, ops.f32([0.5]), std=True, min_variance=0.0)
    assert out.tolist() == [(value + 128) * 0.5, 0.0]


def test_polynomial_error_is_the_documented_one() -> None:
    coefficients = [Fraction(float(c)) for c in ops.EXP2_COEFFICIENTS]
    worst = 0.0
    for step in range(-2000, 2001):
        f = Fraction(step, 4000)
        p = 1 + sum(c * f ** (k + 1) for k, c in enumerate(coefficients))
        worst = max(worst, abs(float(p) / 2.0 ** float(f) - 1))
    assert worst < 1.6e-8


def slow_numerator(difference: int, multiplier: float) -> int:
    d = max(r32(r32(difference) * multiplier), -20.0)
    y = r32(d * r32(1.44269504))
    n = round(Fraction(y))
    f = r32(y - n)
    p = float(ops.EXP2_COEFFICIENTS[5])
    for c in ops.EXP2_COEFFICIENTS[4::-1]:
        p = r32(r32(p * f) + float(c))
    p = r32(r32(p * f) + 1.0)
    return round(Fraction(p) * Fraction(2) ** (n + 24))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e-2))
def test_exp_numerators(seed: int, step: float) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(-3000, 3000, (20, 2)) * rng.integers(1, 300)
    multiplier = ops.f32([step, step * 1.5])
    out = ops.exp_numerators(acc, multiplier)
    top = acc.max(axis=0)
    for t, c in np.ndindex(20, 2):
        assert out[t, c] == slow_numerator(int(acc[t, c] - top[c]), float(multiplier[c]))
        if acc[t, c] == top[c]:
            assert out[t, c] == 2**24
        d = (float(acc[t, c]) - float(top[c])) * float(multiplier[c])
        # f32(acc - M), d, log2(e) and y are each half an ulp off at most: 2^-24 of d each, as the
        # exponent is d. The polynomial's own error, and the rounding of p's last steps, follow.
        relative = -d * 4 * 2**-24 + 1.6e-8 + 3 * 2**-24
        true = 2**24 * math.exp(max(d, -20))
        assert abs(int(out[t, c]) - true) <= 0.5 + true * relative * 1.01


def test_exp_numerators_far_below_the_maximum_are_zero() -> None:
    acc = np.array([[2**30], [-(2**30)], [2**30 - 1]])
    assert ops.exp_numerators(acc, ops.f32([1])).tolist() == [[2**24], [0], [6171993]]
    with pytest.raises(ValueError, match="positive"):
        ops.exp_numerators(acc, ops.f32([0]))


def test_pwl_takes_the_right_piece_at_a_breakpoint() -> None:
    arrays = {
        "breakpoints": ops.f32([-1, 2]),
        "slopes": ops.f32([0, 0, 1000]),
        "intercepts": ops.f32([2, 5.5, 0]),
        "bounds": ops.f32([1, 2500]),
    }
    acc = np.array([[-2], [-1], [1], [2], [3]])
    out = ops.pwl_numerators(acc, ops.f32([1]), ops.f32([0]), **arrays)
    assert out.ravel().tolist() == [2, 6, 6, 2000, 2500]


def test_pwl_is_continuous_and_near_exp() -> None:
    arrays = pwl_arrays(PWL_BREAKPOINTS)
    none = ops.f32([0])
    for point in PWL_BREAKPOINTS:
        v = ops.f32([point, np.nextafter(np.float32(point), np.float32(-np.inf))])
        # The offset carries v: acc is 0.
        at, below = ops.pwl_numerators(np.zeros(2, np.int64), none, v, **arrays)
        assert abs(int(at) - int(below)) <= 2 + at * 2**-20
        assert at == pytest.approx(2**24 * math.exp(point - 4), rel=1e-6, abs=1)


def test_pwl_bounds() -> None:
    arrays = pwl_arrays(PWL_BREAKPOINTS)
    v = ops.f32([-1e30, 1e30])
    arrays["slopes"] = ops.f32(np.full(6, 2.0**40))
    acc, none = np.zeros(2, np.int64), ops.f32([0])
    assert ops.pwl_numerators(acc, none, v, **arrays).tolist() == [1, 2**24]
    for bounds in ([0, 5], [6, 5], [1, 2**25]):
        with pytest.raises(ValueError, match="low"):
            ops.pwl_numerators(acc, none, v, **{**arrays, "bounds": ops.f32(bounds)})


def test_table_ends_and_middles() -> None:
    acc = np.array([-5, 0, 1, 2, 3, 4, 99])
    out = ops.table_numerators(acc, ops.f32([0.5]), ops.f32([0]), ops.f32([1, 5, 16]))
    assert out.tolist() == [1, 1, 3, 5, 10, 16, 16]
    for table in ([1], [0, 5], [1, 2**25]):
        with pytest.raises(ValueError, match="entries"):
            ops.table_numerators(acc, ops.f32([1]), ops.f32([0]), ops.f32(table))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from(["exact", "pwl", "table"]))
def test_attentive_pool_s8(seed: int, frames: int, softmax: str) -> None:
    rng = np.random.default_rng(seed)
    hidden, values = random_s8(rng, frames, 4), random_s8(rng, frames, 3)
    weight = random_weight(rng, 3, 4)
    multiplier = np.abs(random_f32(rng, 3, scale=1e-4)) + np.float32(1e-6)
    scale, offset = random_f32(rng, 3), random_f32(rng, 3)
    pwl = pwl_arrays(PWL_BREAKPOINTS)
    table = table_array(9)
    extra = {
        "exact": {},
        "pwl": {**pwl, "offset": offset},
        "table": {"table": table, "offset": offset},
    }[softmax]
    out = ops.attentive_pool_s8(
        hidden, values, weight, -7, 11, multiplier, scale,
        min_variance=0.5, softmax=softmax, **extra,
    )  # fmt: skip
    assert out.dtype == np.float32
    h, w = hidden.tolist(), weight.tolist()
    for c in range(3):
        acc = [sum(w[c][i] * (row[i] + 7) for i in range(4)) for row in h]
        m = float(multiplier[c])
        if softmax == "exact":
            e = [slow_numerator(a - max(acc), m) for a in acc]
        elif softmax == "table":
            e = []
            for v in (r32(r32(r32(a) * m) + float(offset[c])) for a in acc):
                v = min(max(v, 0.0), 8.0)
                i = int(v)
                rise = r32(float(table[i + 1]) - float(table[i])) if i < 8 else 0.0
                e.append(slow_round(r32(float(table[i]) + r32(r32(v - i) * rise)), 1, 2**24))
        else:
            e = []
            for v in (r32(r32(r32(a) * m) + float(offset[c])) for a in acc):
                j = sum(point <= v for point in PWL_BREAKPOINTS)
                line = r32(r32(v * float(pwl["slopes"][j])) + float(pwl["intercepts"][j]))
                e.append(slow_round(line, 1, 2**24))
        q = values[:, c].tolist()
        s0 = sum(e)
        s1 = sum(a * b for a, b in zip(e, q, strict=True))
        s2 = sum(a * b * b for a, b in zip(e, q, strict=True))
        mean = float(s1) / float(s0)
        var = float(s2) / float(s0) - mean * mean
        assert out[c] == r32(r32(mean - 11) * float(scale[c]))
        assert out[3 + c] == r32(r32(math.sqrt(max(var, 0.5))) * float(scale[c]))


def test_float_layers_against_torch() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(9, 4, 3)), rng.normal(size=(5, 3, 3, 3))
    offset, gain, shift = rng.normal(size=(3, 5))
    functional, tensor = torch.nn.functional, torch.from_numpy
    conv = functional.conv2d(
        tensor(x).permute(2, 0, 1)[None],
        tensor(weight).permute(0, 3, 1, 2),
        tensor(offset),
        stride=(2, 1),
        padding=(1, 1),
    )[0].permute(1, 2, 0)
    expected = torch.tanh(torch.relu(conv) * tensor(gain) + tensor(shift)).numpy()
    options = {"relu": True, "gain": gain, "shift": shift, "activation": "tanh"}
    geometry = {"stride": (2, 1), "padding": (1, 1)}
    out = ops_f32.conv_f32(x, weight, offset, **options, **geometry)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-14)

    gate, residual = rng.normal(size=3), rng.normal(size=x.shape)
    np.testing.assert_array_equal(ops_f32.add_f32(x, residual, gate), x * gate + residual)

    flat = x.reshape(-1, 3)
    moments = torch.var_mean(tensor(flat), dim=0, correction=0)
    stats = np.concatenate([moments[1].numpy(), np.sqrt(moments[0].numpy())])
    np.testing.assert_allclose(ops_f32.stats_f32(x, std=True), stats, rtol=1e-12)

    matrix, vector = rng.normal(size=(5, 3)), rng.normal(size=3)
    affine = {"gain": gain, "shift": shift}
    linear = functional.linear(tensor(vector), tensor(matrix), tensor(offset))
    sigmoid = torch.sigmoid(linear * tensor(gain) + tensor(shift)).numpy()
    relu = (torch.relu(linear) * tensor(gain) + tensor(shift)).numpy()
    for name, truth in (("sigmoid", sigmoid), ("relu", relu), (None, linear.numpy())):
        more = {} if name is None else affine
        out = ops_f32.dense_f32(vector, matrix, offset, activation=name, **more)
        np.testing.assert_allclose(out, truth, rtol=1e-12, atol=1e-14)

    hidden = rng.normal(size=(9, 4, 2))
    logits, bias = rng.normal(size=(3, 2)), rng.normal(size=3)
    attention = torch.softmax(tensor(hidden.reshape(-1, 2) @ logits.T + bias), dim=0).numpy()
    mean = (attention * flat).sum(axis=0)
    std = np.sqrt((attention * flat**2).sum(axis=0) - mean**2)
    out = ops_f32.attentive_pool_f32(hidden, x, logits, bias, min_variance=1e-12)
    np.testing.assert_allclose(out, np.concatenate([mean, std]), rtol=1e-11)


def test_oracle_imports_nothing_it_judges() -> None:
    imported = set()
    for path in (Path(__file__).parent / "oracle").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).split(".")[0])
    assert "numpy" in imported
    assert not imported & {"earmark", "torch", "speechbrain"}
