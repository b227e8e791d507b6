"""Networks whose convolutions go on beyond the features (`pad_to`) while means and pooling count
the features' frames alone (`valid`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from earmark import _C
from earmark.lowering.ecapa import lower_ecapa
from earmark.nn import EcapaConfig
from earmark.plan import INPUT, OUTPUT, PlanBuilder, make_engine, trace
from oracle import network

from .devices import MODULES
from .networks import SMALL, int8_plan, mixed_plan, random_features, random_state, torch_network
from .plans import check_bits, equal_bits, start

CHUNK = 2048  # longer recordings run in several

each_multiple = pytest.mark.parametrize("pad_to", [1, 4, 16])


def config_of(pad_to: int, **more: Any) -> EcapaConfig:
    return dataclasses.replace(SMALL, padding="zero", pad_to=pad_to, **more)


def float_plan(config: EcapaConfig) -> PlanBuilder:
    return lower_ecapa(config, random_state(config))


def plan_of(config: EcapaConfig, scheme: str) -> PlanBuilder:
    recordings = [random_features(i, 60 + 37 * i, config.n_mels) for i in range(3)]
    return mixed_plan(float_plan(config), recordings, lambda _: scheme)


def around(pad_to: int, shortest: int = 1) -> list[int]:
    """Numbers of frames around a multiple, and others."""
    near = {shortest, pad_to - 1, pad_to, pad_to + 1, 2 * pad_to, 33}
    return sorted(n for n in near if n >= shortest)


@each_multiple
@pytest.mark.parametrize("scheme", ["int8", "dynamic", "w8a16", "int16"])
def test_every_tensor_has_the_oracle_s_bits(scheme: str, pad_to: int) -> None:
    """Where the variance is unbiased, too: it needs two frames that count, of however many."""
    config = config_of(pad_to, context_unbiased=True, context_floor=1e-4)
    b = plan_of(config, scheme)
    assert "needs at least 2 positions" in make_engine(b.plan, b.arrays).why_not(1)
    for isa in _C.available_isas():
        for frames in around(pad_to, shortest=2):
            check_bits(b, random_features(frames, frames, SMALL.n_mels), isa, {})
    first = trace(make_engine(b.plan, b.arrays), random_features(0, 33, SMALL.n_mels))
    assert len(first["blocks.0.out"]) == {1: 34, 4: 36, 16: 48}[pad_to]


@each_multiple
def test_the_module_the_plan_and_the_oracle_agree_in_float(pad_to: int) -> None:
    config = config_of(pad_to)
    b = float_plan(config)
    net = torch_network(config, random_state(config))
    engine = make_engine(b.plan, b.arrays)
    for frames in around(pad_to):
        feats = random_features(frames, frames, SMALL.n_mels)
        exact = network.run(b.plan, b.arrays, feats)[OUTPUT]
        np.testing.assert_allclose(engine.run([feats])[0], exact, rtol=1e-4, atol=1e-5)
        of_module = net(torch.from_numpy(feats)[None])[0, 0].numpy()
        np.testing.assert_allclose(of_module, exact, rtol=1e-4, atol=1e-5)


def test_lengths_count_what_is_valid() -> None:
    """Recordings with zeros behind them, as far as the next multiple is the same."""
    net = torch_network(config_of(16), random_state(config_of(16)))
    feats = torch.from_numpy(random_features(1, 20, SMALL.n_mels))[None]
    padded = torch.nn.functional.pad(feats, (0, 0, 0, 5))
    torch.testing.assert_close(net(padded, torch.tensor([20 / 25])), net(feats))
    assert not torch.allclose(net(padded), net(feats), rtol=1e-3)


@each_multiple
@pytest.mark.parametrize("device", MODULES)
@pytest.mark.parametrize("scheme", ["int8", "dynamic", "w8a16", "fp32"])
def test_devices(scheme: str, device: str, pad_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ragged batch, with the CPU's bits where layers are of integers."""
    monkeypatch.setattr("earmark.devices._cuda", MODULES[device])
    config = config_of(pad_to)
    b = float_plan(config) if scheme == "fp32" else plan_of(config, scheme)
    cpu = make_engine(b.plan, b.arrays, threads=1)
    cuda = make_engine(b.plan, b.arrays, ordinal=0)
    items = [random_features(n, n, SMALL.n_mels) for n in (33, *around(pad_to))]
    found, expected = cuda.run(items), cpu.run(items)
    if scheme == "fp32":
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        return
    equal_bits(found, expected, OUTPUT)
    values = trace(cpu, items[0])
    for name, value in cuda.trace(items[0])[0].items():
        equal_bits(value, values[name], name)


@pytest.mark.parametrize("frames", [CHUNK - 1, CHUNK, 2 * CHUNK - 3, 2 * CHUNK, 5000])
def test_long_recordings_have_the_bits_of_one_chunk(frames: int) -> None:
    """Also where the last frames that count and those that do not are in different chunks."""
    b = plan_of(config_of(4000), "int8")
    engine = make_engine(b.plan, b.arrays, threads=2)
    feats = random_features(frames, frames, SMALL.n_mels)
    equal_bits(engine.run([feats])[0], trace(engine, feats)[OUTPUT], OUTPUT)


def test_what_is_beyond_is_seen_and_not_counted() -> None:
    """Means of a convolution of ones: what it gives of zeros is in none, and beyond, biases reach
    the last frame through a second layer."""
    b = start("f32", 1)
    geometry: dict[str, Any] = {"kernel": [3, 1], "padding": [1, 0]}
    ones = {"weight": np.ones((1, 3, 1, 1), np.float32), "epilogue": np.ones((1, 1), np.float32)}
    b.tensor("x", "frames", "f32", 1)
    b.tensor("y", "frames", "f32", 1)
    b.tensor(OUTPUT, "vector", "f32", 1)
    b.op("conv_f32", "first", ones, **{"in": INPUT}, out="x", pad_to=4, **geometry)
    b.op("conv_f32", "second", ones, **{"in": "x"}, out="y", **geometry)
    b.op("stats_f32", "mean", **{"in": "y"}, out=OUTPUT, valid=INPUT)
    engine = make_engine(b.plan, b.arrays)
    found = trace(engine, np.ones((2, 1), np.float32))
    assert found["x"].ravel().tolist() == [3, 3, 2, 1]
    assert found["y"].ravel().tolist() == [7, 9, 7, 4]
    assert found[OUTPUT].tolist() == [8]
    # As many again are appended to a multiple.
    assert len(trace(engine, np.ones((4, 1), np.float32))["x"]) == 8


def spoil_valid(name: str) -> Callable[[PlanBuilder], None]:
    return lambda b: op(b, "asp.conv").update(valid=name)


def op(b: PlanBuilder, name: str) -> dict[str, Any]:
    return next(entry for entry in b.ops if entry["name"] == name)


def pool_beyond(b: PlanBuilder) -> None:
    b.tensor("pooled", "frames", "f32", SMALL.n_mels)
    b.op("max_pool_f32", "pool", **{"in": INPUT}, out="pooled", pad_to=4)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_valid("nothing"), "'asp.conv'.*'nothing' is not there"),
        (spoil_valid("asp.out"), "'asp.conv'.*valid 'asp.out' must be frames"),
        (lambda b: op(b, "blocks.0").update(pad_to=0), "'blocks.0'.*'pad_to' is 0"),
        (lambda b: op(b, "blocks.0").update(pad_to=-4), "'blocks.0'.*'pad_to' is -4"),
        (lambda b: op(b, "blocks.0").update(pad_to=2**20), "'blocks.0'.*'pad_to' is 1048576"),
        (lambda b: op(b, "blocks.0").update(pad_mode="reflect"), "'pad_to' needs zero padding"),
        (pool_beyond, "'pool'.*'pad_to' is of convolutions"),
    ],
)
def test_plans_that_cannot_run(spoil: Callable[[PlanBuilder], None], reason: str) -> None:
    b = int8_plan(float_plan(config_of(4)), [random_features(0, 60, SMALL.n_mels)])
    spoil(b)
    with pytest.raises(ValueError, match=reason):
        make_engine(b.plan, b.arrays)


def test_more_frames_than_there_are_cannot_count() -> None:
    """Of a tensor that has more of them, and of one that nothing wrote."""
    b = start("f32", 1)
    weight = {"weight": np.ones((1, 1, 1, 1), np.float32), "epilogue": np.ones((1, 1), np.float32)}
    b.tensor("x", "frames", "f32", 1)
    b.tensor(OUTPUT, "vector", "f32", 1)
    b.op("conv_f32", "layer", weight, **{"in": INPUT}, out="x", pad_to=4)
    b.op("stats_f32", "mean", **{"in": INPUT}, out=OUTPUT, valid="x")
    with pytest.raises(ValueError, match=r"'mean' counts \d+ of \d+ frames"):
        make_engine(b.plan, b.arrays)
    b.tensor("y", "frames", "f32", 1)
    b.ops[-1]["valid"] = "y"
    with pytest.raises(ValueError, match="'mean' counts frames of 'y', which no op before it"):
        make_engine(b.plan, b.arrays)


@pytest.mark.parametrize(
    ("pad_to", "padding", "message"),
    [
        (0, "zero", "pad_to must be from 1 to 4096, got 0"),
        (4097, "zero", "pad_to must be from 1 to 4096, got 4097"),
        (16, "reflect", "pad_to needs zero padding, got 'reflect'"),
    ],
)
def test_configs_of_no_network(pad_to: int, padding: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EcapaConfig(pad_to=pad_to, padding=padding)
