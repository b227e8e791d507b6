"""Each float32 op of each instruction set beside torch; kernels say which of them ran."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from arrays import pwl_arrays, random_f32, table_array
from earmark import _C
from earmark.plan import INPUT, OUTPUT, PlanBuilder, make_engine
from oracle import network, ops_f32
from plans import Array, equal_bits, finish, start, view, width_out

each_isa = pytest.mark.parametrize("isa", _C.available_isas())

# Float ops: hardly worse than torch. Sums may be reordered, so that a sum's error is measured by
# the magnitude of what is summed.


def check_float(
    b: PlanBuilder,
    features: Array,
    isa: str,
    kernel: str,
    by_torch: Array,
    magnitude: float | None = None,
) -> None:
    """The op's error against float64 is at most twice that of torch's float32, plus two ulp.

    magnitude: of which these ulp are, by default that of the largest result.
    """
    truth = network.run(b.plan, b.arrays, features)
    engine = make_engine(b.plan, b.arrays, isa=isa, threads=1)
    traced, ran = engine.trace(features)
    assert ran["op"] == f"{kernel}/{isa}"
    out = next(op["out"] for op in b.ops if op["name"] == "op")
    exact, actual = truth[out], traced[out]
    assert (actual.dtype, actual.shape) == (np.float32, exact.shape)
    ulp = np.spacing(np.float32(np.abs(exact).max() if magnitude is None else magnitude))
    allowed = 2 * np.abs(by_torch.reshape(exact.shape) - exact).max() + 2 * ulp
    assert np.abs(actual - exact).max() <= allowed
    # How the work is dealt out to threads changes nothing.
    for threads in (1, 2):
        other = make_engine(b.plan, b.arrays, isa=isa, threads=threads)
        equal_bits(other.run([features])[0], traced[OUTPUT], OUTPUT)


def tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


FLOAT_CONVS = [
    # frames, width, c_in, c_out, kernel, stride, dilation, padding, mode
    (1, 1, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0), "zero"),
    (97, 1, 80, 65, (5, 1), (1, 1), (1, 1), (2, 0), "reflect"),
    (13, 1, 17, 33, (3, 1), (1, 1), (4, 1), (4, 0), "reflect"),
    (12, 1, 64, 64, (3, 1), (2, 1), (2, 1), (2, 0), "zero"),
    (11, 5, 3, 31, (3, 3), (1, 2), (1, 1), (1, 1), "zero"),
    (7, 4, 16, 130, (5, 3), (2, 1), (1, 1), (2, 1), "reflect"),
    (97, 1, 130, 63, (1, 1), (1, 1), (1, 1), (0, 0), "zero"),
    # Deeper than one block of inputs: within a tap, a tap each, some taps each.
    (13, 1, 2100, 33, (1, 1), (1, 1), (1, 1), (0, 0), "zero"),
    (13, 1, 700, 17, (3, 1), (1, 1), (2, 1), (2, 0), "zero"),
    (7, 1, 400, 17, (5, 1), (1, 1), (1, 1), (2, 0), "reflect"),
]


@each_isa
@pytest.mark.parametrize("shape", FLOAT_CONVS, ids=lambda s: "x".join(map(str, s[:4])))
@pytest.mark.parametrize("activation", [None, "tanh"])
def test_conv_f32(isa: str, shape: tuple[Any, ...], activation: str | None) -> None:
    frames, width, c_in, c_out, kernel, stride, dilation, padding, mode = shape
    rng = np.random.default_rng(c_out)
    weight = random_f32(rng, c_out, *kernel, c_in, scale=(c_in * np.prod(kernel)) ** -0.5)
    rows = random_f32(rng, 3, c_out)
    x = random_f32(rng, frames, width, c_in + 3)
    b = start("f32", c_in + 3, width=width)
    source = view(b, "x", INPUT, 2, c_in)
    attributes = {
        "kernel": list(kernel), "stride": list(stride), "dilation": list(dilation),
        "padding": list(padding), "pad_mode": mode, "relu": True, "activation": activation,
    }  # fmt: skip
    b.tensor("base", "frames", "f32", c_out + 2, width=width_out(width, attributes))
    out = view(b, "op.out", "base", 1, c_out)
    arrays = {"weight": weight, "epilogue": rows}
    b.op("conv_f32", "op", arrays, **{"in": source}, out=out, **attributes)
    finish(b, out)

    image = tensor(x[..., 2 : 2 + c_in]).permute(2, 0, 1)[None]
    sides = (padding[1], padding[1], padding[0], padding[0])
    if mode == "reflect":
        image = torch.nn.functional.pad(image, sides, mode="reflect")
    kernels = tensor(weight).permute(0, 3, 1, 2)
    by_torch = torch.nn.functional.conv2d(
        image, kernels, tensor(rows[0]), stride=stride, dilation=dilation,
        padding=padding if mode == "zero" else 0,
    )[0].permute(1, 2, 0)  # fmt: skip
    by_torch = torch.relu(by_torch) * tensor(rows[1]) + tensor(rows[2])
    if activation == "tanh":
        by_torch = torch.tanh(by_torch)
    magnitude = np.abs(weight).sum(axis=(1, 2, 3)).max() * np.abs(x).mean() * np.abs(rows[1]).max()
    features = x[:, 0] if width == 1 else x
    ran = "tanh_f32" if activation == "tanh" else "conv_f32"
    check_float(b, np.ascontiguousarray(features), isa, ran, by_torch.numpy(), magnitude)


@each_isa
def test_tanh_and_sigmoid_over_their_whole_range(isa: str) -> None:
    """Through a layer that does nothing else."""
    x = np.concatenate([np.linspace(-12, 12, 4001), np.logspace(-30, 2, 500), [0.0]])
    x = np.concatenate([x, -x[-501:]]).astype(np.float32)
    b = start("f32", 1)
    b.tensor("out", "frames", "f32", 1)
    one = {"weight": np.ones((1, 1, 1, 1), np.float32), "epilogue": np.zeros((1, 1), np.float32)}
    b.op("conv_f32", "op", one, **{"in": INPUT}, out="out", activation="tanh")
    finish(b, "out")
    by_torch = torch.tanh(tensor(x)).numpy()
    check_float(b, x[:, None], isa, "tanh_f32", by_torch)
    engine = make_engine(b.plan, b.arrays, isa=isa)
    traced = engine.trace(x[:, None])[0]["out"][:, 0]
    np.testing.assert_allclose(traced, np.tanh(x.astype(np.float64)), rtol=1e-6)

    x = np.ascontiguousarray(x[::9])
    b = start("f32", len(x))
    b.tensor("mean", "vector", "f32", len(x))
    b.op("stats_f32", "mean", **{"in": INPUT}, out="mean")
    b.tensor(OUTPUT, "vector", "f32", len(x))
    weight = np.zeros((len(x), len(x)), np.float32)
    np.fill_diagonal(weight, 1)
    arrays = {"weight": weight, "epilogue": np.zeros((1, len(x)), np.float32)}
    b.op("dense_f32", "op", arrays, **{"in": "mean"}, out=OUTPUT, activation="sigmoid")
    check_float(b, x[None], isa, "conv_f32", torch.sigmoid(tensor(x)).numpy())


@each_isa
@pytest.mark.parametrize("channels", [1, 17, 130])
def test_add_f32(isa: str, channels: int) -> None:
    rng = np.random.default_rng(channels)
    for gated, relu in product((False, True), repeat=2):
        b = start("f32", 2 * channels)
        x, r = view(b, "x", INPUT, 0, channels), view(b, "r", INPUT, channels, channels)
        if gated:
            b.tensor("gate", "vector", "f32", channels)
            b.op("stats_f32", "gate", **{"in": x}, out="gate")
        b.tensor("out", "frames", "f32", channels)
        gate = "gate" if gated else None
        b.op("add_f32", "op", **{"in": x}, residual=r, gate=gate, out="out", relu=relu)
        finish(b, "out")
        features = random_f32(rng, 97, 2 * channels)
        a, c = tensor(features[:, :channels]), tensor(features[:, channels:])
        by_torch = a * a.mean(dim=0) + c if gated else a + c
        by_torch = torch.relu(by_torch) if relu else by_torch
        check_float(b, features, isa, "add_f32", by_torch.numpy())


@each_isa
@pytest.mark.parametrize(
    ("frames", "width", "channels", "kernel", "stride", "padding"),
    [
        (1, 1, 1, (1, 1), (1, 1), (0, 0)),
        (1, 2, 3, (3, 3), (2, 2), (1, 1)),
        (97, 1, 17, (3, 1), (2, 1), (1, 0)),
        (13, 7, 63, (3, 3), (2, 2), (1, 1)),
        (12, 16, 64, (2, 5), (3, 1), (1, 2)),
        (61, 5, 65, (3, 3), (1, 1), (0, 0)),
    ],
)
def test_max_pool_f32(
    isa: str,
    frames: int,
    width: int,
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> None:
    """A value is picked, so that there is no error at all. All are negative: padding is not 0."""
    x = -np.abs(random_f32(np.random.default_rng(frames), frames, width, channels + 3))
    b = start("f32", channels + 3, width=width)
    source = view(b, "x", INPUT, 2, channels)
    window = {"kernel": list(kernel), "stride": list(stride), "padding": list(padding)}
    shape = {**window, "dilation": [1, 1]}
    b.tensor("base", "frames", "f32", channels + 2, width=width_out(width, shape))
    out = view(b, "op.out", "base", 1, channels)
    b.op("max_pool_f32", "op", **{"in": source}, out=out, **window)
    finish(b, out)
    image = tensor(x[..., 2 : 2 + channels]).permute(2, 0, 1)[None]
    by_torch = torch.nn.functional.max_pool2d(image, kernel, stride, padding)
    features = np.ascontiguousarray(x[:, 0] if width == 1 else x)
    expected = by_torch[0].permute(1, 2, 0).numpy()
    check_float(b, features, isa, "max_pool_f32", expected)
    traced, _ = make_engine(b.plan, b.arrays, isa=isa).trace(features)
    np.testing.assert_array_equal(traced[out].reshape(expected.shape), expected)


@each_isa
@pytest.mark.parametrize(
    ("frames", "width", "channels"), [(1, 1, 3), (13, 1, 65), (3000, 1, 17), (1, 7, 3), (13, 5, 65)]
)
@pytest.mark.parametrize("unbiased", [False, True])
def test_stats_f32(isa: str, frames: int, width: int, channels: int, unbiased: bool) -> None:
    if unbiased and frames * width == 1:
        pytest.skip("there is no unbiased variance of one position")
    x = random_f32(np.random.default_rng(frames), frames * width, channels) + np.float32(3)
    b = start("f32", channels, width=width)
    b.tensor(OUTPUT, "vector", "f32", 2 * channels)
    more = {"std": True, "min_variance": 1e-12, "unbiased": unbiased, "added_variance": 0.125}
    b.op("stats_f32", "op", **{"in": INPUT}, out=OUTPUT, **more)
    mean = tensor(x).mean(dim=0)
    variance = ((tensor(x) - mean) ** 2).sum(dim=0) / (frames * width - unbiased)
    std = (variance.clamp(1e-12) + 0.125).sqrt()
    features = x.reshape(frames, width, channels)
    by_torch = torch.cat([mean, std]).numpy()
    check_float(b, features[:, 0] if width == 1 else features, isa, "stats_f32", by_torch)


@each_isa
@pytest.mark.parametrize(("c_in", "c_out"), [(1, 1), (17, 130), (600, 65)])
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
@pytest.mark.parametrize("affine", [False, True])
def test_dense_f32(isa: str, c_in: int, c_out: int, activation: str | None, affine: bool) -> None:
    rng = np.random.default_rng(c_in)
    x = random_f32(rng, 1, c_in)
    weight, rows = random_f32(rng, c_out, c_in), random_f32(rng, 3 if affine else 1, c_out)
    b = start("f32", c_in)
    b.tensor("mean", "vector", "f32", c_in)
    b.op("stats_f32", "mean", **{"in": INPUT}, out="mean")
    b.tensor(OUTPUT, "vector", "f32", c_out)
    arrays = {"weight": weight, "epilogue": rows}
    b.op("dense_f32", "op", arrays, **{"in": "mean"}, out=OUTPUT, activation=activation)
    y = torch.nn.functional.linear(tensor(x[0]), tensor(weight), tensor(rows[0]))
    y = torch.relu(y) if activation == "relu" else y
    y = y * tensor(rows[1]) + tensor(rows[2]) if affine else y
    y = torch.sigmoid(y) if activation == "sigmoid" else y
    check_float(b, x, isa, "conv_f32", y.numpy())


def pool_function(softmax: str) -> dict[str, Array]:
    """Arrays of a softmax of small logits."""
    if softmax == "exact":
        return {}
    if softmax == "table":
        return {"table": table_array(200), "range": np.array([-6, 4], np.float32)}
    known = {"pwl 1": 1, "pwl 2": 2, "pwl 4": 4, "pwl 6": 6}[softmax]
    arrays = pwl_arrays(np.linspace(-4, 4, known))
    return {**arrays, "bounds": np.array([1e3, 2.0**30], np.float32)}


@each_isa
@pytest.mark.parametrize("softmax", ["exact", "pwl 1", "pwl 2", "pwl 4", "pwl 6", "table"])
@pytest.mark.parametrize(
    ("frames", "c_in", "channels"), [(1, 1, 1), (13, 16, 65), (97, 64, 130), (2500, 3, 33)]
)
def test_attentive_pool_f32(isa: str, softmax: str, frames: int, c_in: int, channels: int) -> None:
    rng = np.random.default_rng(frames)
    features = random_f32(rng, frames, c_in + channels)
    features[:, c_in:] += 2
    weight = random_f32(rng, channels, c_in, scale=2 * c_in**-0.5)
    bias = random_f32(rng, 1, channels)
    b = start("f32", c_in + channels)
    h, x = view(b, "h", INPUT, 0, c_in), view(b, "x", INPUT, c_in, channels)
    b.tensor(OUTPUT, "vector", "f32", 2 * channels)
    function = pool_function(softmax)
    arrays = {"weight": weight, "epilogue": bias, **function}
    kind = softmax.split()[0]
    more = {"values": x, "min_variance": 1e-12, "softmax": kind}
    b.op("attentive_pool_f32", "op", arrays, **{"in": h}, out=OUTPUT, **more)
    hidden, values = tensor(features[:, :c_in]), tensor(features[:, c_in:])
    logits = hidden @ tensor(weight).T + tensor(bias[0])
    share = torch.from_numpy(ops_f32.softmax_f32(logits.double().numpy(), kind, **function))
    share = (share / share.sum(dim=0)).to(values.dtype)
    mean = (share * values).sum(dim=0)
    std = (share * (values - mean) ** 2).sum(dim=0).clamp(1e-12).sqrt()
    kernels = {"exact": "softmax", "pwl": "pwl", "table": "table"}
    check_float(b, features, isa, f"{kernels[kind]}_moments_f32", torch.cat([mean, std]).numpy())
