"""CUDA's float32 layers and softmaxes against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import Array, pwl_arrays, random_f32, table_array
from gpu import each_device, lengths, run, split
from oracle import ops_f32

SEEDS = st.integers(0, 2**32 - 1)
RANGE = np.array([-4, 12], np.float32)
FUNCTIONS: dict[str, dict[str, Array]] = {
    "exact": {},
    "pwl": {**pwl_arrays((-4, -1, 2, 4)), "bounds": np.array([1e3, 2.0**30], np.float32)},
    "table": {"table": table_array(256), "range": RANGE},
}


@each_device
@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    st.lists(st.sampled_from([6, 7, 31, 64, 65]), min_size=1, max_size=3),
    st.sampled_from([1, 3, 16, 17, 80, 130]),
    st.sampled_from([1, 5, 64, 65, 130]),
    st.sampled_from([1, 3]),
    st.sampled_from(["zero", "reflect"]),
    st.sampled_from([1, 1, 4]),
    st.sampled_from([None, "tanh", "sigmoid"]),
    st.fixed_dictionaries({name: st.booleans() for name in ("relu", "affine", "bias")}),
)
def test_conv_f32(
    device: str,
    seed: int,
    batch: list[int],
    c_in: int,
    c_out: int,
    kernel: int,
    pad_mode: str,
    width: int,
    activation: str | None,
    has: dict[str, bool],
) -> None:
    rng = np.random.default_rng(seed)
    geometry: dict[str, Any] = {
        "stride": [int(rng.integers(1, 3)), 1],
        "dilation": [2, 1],
        "padding": [kernel - 1, 0],
        "pad_mode": pad_mode,
    }
    x = random_f32(rng, sum(batch) * width, c_in + 2)
    weight = random_f32(rng, c_out, kernel, 1, c_in, scale=(c_in * kernel) ** -0.5)
    rows = random_f32(rng, 3 if has["affine"] else 1, c_out)
    bias = random_f32(rng, len(batch), -(-c_out // 128) * 128) if has["bias"] else None
    expected = []
    for r, part in enumerate(split(x[:, 1:-1], [n * width for n in batch])):
        affine = {"gain": rows[1], "shift": rows[2]} if has["affine"] else {}
        expected.append(
            ops_f32.conv_f32(
                part.reshape(batch[r], width, c_in),
                weight,
                rows[0] if bias is None else bias[r, :c_out],
                relu=has["relu"],
                activation=activation,
                **affine,
                **geometry,
            )
        )
    truth = np.concatenate([e.reshape(-1, c_out) for e in expected])
    out = np.full((len(truth), c_out + 1), 77, np.float32)
    arguments = {
        "c_in": c_in,
        "c_out": c_out,
        "weight": weight,
        "epilogue": rows,
        "bias": bias,
        "relu": has["relu"],
        "activation": activation or "",
        "in": x,
        "in_offset": 1,
        "in_width": width,
        "lengths": lengths(*batch),
        "out": out,
        "out_width": width,
        "out_lengths": lengths(*(len(e) for e in expected)),
        "kernel": [kernel, 1],
        **geometry,
    }
    assert run(device, "conv_f32", arguments, seed) == "conv_f32"
    assert (out[:, -1] == 77).all()
    np.testing.assert_allclose(out[:, :-1], truth, rtol=1e-5, atol=1e-5)


@each_device
@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=10, deadline=None)
@given(
    SEEDS,
    st.lists(st.sampled_from([1, 5, 64, 130]), min_size=1, max_size=3),
    st.sampled_from([1, 33, 40]),
    st.sampled_from([1, 32, 70]),
)
def test_attentive_pool_f32(
    device: str, name: str, seed: int, batch: list[int], channels: int, hidden_channels: int
) -> None:
    rng = np.random.default_rng(seed)
    hidden = random_f32(rng, sum(batch), hidden_channels)
    values = random_f32(rng, sum(batch), channels + 1, scale=3)
    weight = random_f32(rng, channels, hidden_channels, scale=hidden_channels**-0.5)
    offset = random_f32(rng, channels)
    out = np.zeros((len(batch), 2 * channels), np.float32)
    arguments = {
        "channels": channels, "hidden_channels": hidden_channels, "hidden": hidden,
        "values": values, "values_offset": 1, "lengths": lengths(*batch), "weight": weight,
        "offset": offset, "min_variance": 1e-6, "out": out, **FUNCTIONS[name],
    }  # fmt: skip
    assert run(device, "attentive_pool_f32", arguments, seed) == "attentive_pool_f32"
    parts = zip(split(hidden, batch), split(values[:, 1:], batch), strict=True)
    truth = [
        ops_f32.attentive_pool_f32(
            h, x, weight, offset, min_variance=1e-6, softmax=name, **FUNCTIONS[name]
        )
        for h, x in parts
    ]
    np.testing.assert_allclose(out, np.stack(truth), rtol=2e-5, atol=2e-4)


TYPES = {
    "f32": (torch.float32, 1e-6),
    "f16": (torch.float16, 6e-4),
    "bf16": (torch.bfloat16, 5e-3),
}


def softmax(device: str, name: str, x: torch.Tensor, dim: int, kind: str) -> torch.Tensor:
    """Over one dimension, written over its input."""
    shape = x.shape
    bits = x.clone() if kind == "f32" else x.clone().view(torch.int16)
    out = bits.numpy() if kind == "f32" else bits.numpy().view(np.uint16)
    arguments = {
        "type": kind,
        "out": out,
        "outer": int(np.prod(shape[:dim], dtype=np.int64)),
        "n": shape[dim],
        "inner": int(np.prod(shape[dim + 1 :], dtype=np.int64)),
        **FUNCTIONS[name],
        "bounds_on_device": name == "pwl" and shape[dim] % 2 == 1,
    }
    assert run(device, "softmax", arguments) == f"softmax/{kind}"
    return torch.from_numpy(out.view(np.int16 if kind != "f32" else np.float32)).view(x.dtype)


@each_device
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((1,), 0), ((3, 5), 1), ((2, 1000), 1), ((257, 3), 0), ((4, 33, 40), 1), ((2, 3, 255), 2)],
)
def test_softmax(device: str, kind: str, name: str, shape: tuple[int, ...], dim: int) -> None:
    dtype, tolerance = TYPES[kind]
    generator = torch.Generator().manual_seed(len(shape))
    x = (torch.randn(shape, generator=generator) * 3).to(dtype)
    actual = softmax(device, name, x, dim, kind).double()
    rows = x.double().movedim(dim, 0).numpy()
    share = ops_f32.softmax_f32(rows, name, **FUNCTIONS[name])
    expected = torch.from_numpy(share / share.sum(axis=0)).movedim(0, dim)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=1e-7)


@each_device
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_softmax_of_what_is_not_finite(device: str, kind: str, name: str) -> None:
    inf, nan = torch.inf, torch.nan
    rows = torch.tensor([[1, -inf, 2], [nan, 1, 2], [-inf, -inf, -inf]], dtype=TYPES[kind][0])
    out = softmax(device, name, rows, 1, kind).float()
    assert out[0, 1] == 0
    assert out[0, 0] + out[0, 2] == pytest.approx(1, abs=5e-3)
    assert out[1].isnan().all()
    assert out[2].isnan().all() if name == "exact" else (out[2] == 0).all()
