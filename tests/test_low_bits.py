"""Weights below 8 bits: how they are rounded, stored, and what the network keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import earmark
from earmark import modelfile
from earmark.frontend import SpeechBrainFbank
from earmark.lowering.ecapa import lower_ecapa
from earmark.metrics import cosine_score
from earmark.nn import EcapaTdnn
from earmark.plan import make_engine, trace
from earmark.quantization import LoweredNetwork
from earmark.quantization.gptq import round_with_compensation
from earmark.quantization.inputs import InputMoments, layer_inputs
from earmark.quantization.weights import quantize_weights
from networks import (
    SMALL,
    SMALL_RESNET,
    all_heard,
    random_features,
    random_resnet,
    random_state,
    resnet_plan,
    torch_network,
)
from oracle.network import run
from paths import CHECKPOINT, SHARED_DATA, dev_recordings, needs_data

Array = NDArray[Any]


@pytest.fixture(scope="module")
def network() -> EcapaTdnn:
    return torch_network(SMALL, random_state(SMALL))


@pytest.fixture(scope="module")
def waves() -> list[Array]:
    rng = np.random.default_rng(6)
    loudness = np.repeat(rng.uniform(0.01, 0.2, (8, 30)), 600, axis=1)
    return list((rng.normal(size=loudness.shape) * loudness).astype(np.float32))


def correlated(rng: np.random.Generator, rows: int, columns: int) -> Array:
    mixed = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns))
    return (mixed + rng.normal(size=columns)).astype(np.float32)


def moments_of(rows: Array) -> InputMoments:
    moments = InputMoments(rows.shape[1])
    for part in np.array_split(rows, 3):
        moments.update(part)
    return moments


def test_moments_are_numpys() -> None:
    rows = correlated(np.random.default_rng(1), 500, 7)
    moments = moments_of(rows)
    np.testing.assert_allclose(moments.mean(), rows.mean(axis=0), rtol=1e-4, atol=1e-4)
    expected = np.cov(rows.T, ddof=0)
    np.testing.assert_allclose(moments.covariance(), expected, rtol=1e-4, atol=1e-3)
    scale = np.arange(1, 8) / 3
    np.testing.assert_allclose(
        moments.scaled(scale).covariance(), np.cov((rows / scale).T, ddof=0), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("name", ["blocks.0", "blocks.2.res2net_block.blocks.1", "mfa", "asp.tdnn"])
def test_a_layers_inputs_times_its_weights_are_its_sums(name: str) -> None:
    """What is collected is what the convolution multiplies: taps, dilation, padding, order."""
    plan = lower_ecapa(SMALL, random_state(SMALL))
    features = random_features(3, 41, SMALL.n_mels)
    outputs = trace(make_engine(plan.plan, plan.arrays), features)
    op = next(op for op in plan.ops if op["name"] == name)
    arrays = plan.arrays_of(op)
    ((found, rows),) = layer_inputs(plan, features, outputs, {name})
    assert found == name
    sums = rows.astype(np.float64) @ arrays["weight"].reshape(len(arrays["weight"]), -1).T
    offset = outputs[op["bias"]] if "bias" in op else arrays["epilogue"][0]
    expected = np.maximum(sums + offset, 0) * arrays["epilogue"][1] + arrays["epilogue"][2]
    if op.get("activation") == "tanh":
        expected = np.tanh(expected)
    np.testing.assert_allclose(outputs[op["out"]], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["conv1", "layer1.0.conv2", "layer2.0.downsample.0", "fc"])
def test_an_images_inputs_times_its_weights_are_its_sums(name: str) -> None:
    """Two dimensions, strides, zero padding; a vector."""
    plan = resnet_plan(random_resnet(SMALL_RESNET))
    features = random_features(4, 33, SMALL_RESNET.n_mels)
    outputs = trace(make_engine(plan.plan, plan.arrays), features)
    op = next(op for op in plan.ops if op["name"] == name)
    arrays = plan.arrays_of(op)
    ((_, rows),) = layer_inputs(plan, features, outputs, {name})
    weight = arrays["weight"].reshape(len(arrays["weight"]), -1)
    expected = rows.astype(np.float64) @ weight.T + arrays["epilogue"][0]
    if op.get("relu"):
        expected = np.maximum(expected, 0)
    found = outputs[op["out"]]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("columns", [1, 2, 127, 128, 129])
def test_compensation_loses_less_than_the_nearest(bits: int, columns: int) -> None:
    rng = np.random.default_rng(bits + columns)
    rows = correlated(rng, 4 * columns + 8, columns)
    moments = moments_of(rows)
    weight = rng.normal(size=(24, columns))
    limit = 2 ** (bits - 1) - 1
    scale = (np.abs(weight).max(axis=1) / limit).astype(np.float32)
    nearest = np.clip(np.rint(weight / scale[:, None]), -limit, limit)
    compensated = round_with_compensation(weight, scale, limit, moments.covariance(), 0.01)
    assert np.abs(compensated).max() <= limit
    np.testing.assert_array_equal(compensated, np.rint(compensated))
    centred = rows - rows.mean(axis=0)

    def lost(integers: Array) -> float:
        return float(np.square(centred @ (weight - scale[:, None] * integers).T).sum())

    if columns == 1:
        np.testing.assert_array_equal(compensated, nearest)
    elif columns == 2:
        assert lost(compensated) <= lost(nearest)
    else:
        assert lost(compensated) < lost(nearest)


def test_fewer_bits_clip_where_that_loses_less() -> None:
    rng = np.random.default_rng(8)
    weight = rng.normal(size=(5, 600))
    weight[:, 0] = 9.0
    integers, scale = quantize_weights(weight, 3)
    assert np.abs(integers).max() == 3
    assert (scale < 9.0 / 3).all()
    plain = np.clip(np.rint(weight / 3.0), -3, 3) * 3.0
    assert np.square(weight - integers * scale[:, None]).sum() < np.square(weight - plain).sum()


@pytest.mark.parametrize(("precision", "bits"), [("int4", 4), ("int3", 3), ("int2", 2)])
@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_bits_of_every_layer(
    tmp_path: Path,
    network: EcapaTdnn,
    waves: list[Array],
    precision: str,
    bits: int,
    rounding: str,
) -> None:
    """Stored in so many bits, run with the oracle's bits, told by info."""
    quantized = earmark.quantize(network, waves, precision={"all": precision}, rounding=rounding)
    path = tmp_path / "m.earmark"
    quantized.save(path)
    model = earmark.load(path)
    np.testing.assert_array_equal(model.embed(waves), quantized.embed(waves))
    file = modelfile.read(path)
    arrays = file.decoded_arrays()
    for layer in model.info()["layers"]:
        assert layer["precision"] == precision
        weight = arrays[f"{layer['name']}.weight"]
        assert np.abs(weight).max() == 2 ** (bits - 1) - 1
        assert file.arrays[f"{layer['name']}.weight"].nbytes == -(-weight.size // 8) * bits
    features = random_features(9, 50, SMALL.n_mels)
    expected = run(file.plan, arrays, features)["embedding"]
    np.testing.assert_array_equal(model.embed_features(features)[0], expected)


def test_dense_layers_see_excerpts_too(network: EcapaTdnn, waves: list[Array]) -> None:
    """What is heard of 1.125 s gives a vector, and one of the first second; ranges see neither."""
    lowered = LoweredNetwork(network)
    lowered.calibrate(waves, compensated=lowered.layers)
    assert lowered.seen is not None
    heard = all_heard(waves)
    assert lowered.seen.inputs["fc"].rows == sum(1 + (len(wave) > 16000) for wave in heard)
    frames = sum(len(network.front_end(wave)) for wave in heard)
    assert lowered.seen.inputs["blocks.0"].rows == frames
    assert lowered.seen.frames == frames
    again = LoweredNetwork(network)
    again.calibrate([wave[:16000] for wave in waves], compensated=["fc"])
    assert again.seen is not None
    assert again.seen.inputs["fc"].rows == len(heard)


def test_steps_of_a_vector_level_the_weights_of_few_bits(
    tmp_path: Path, network: EcapaTdnn, waves: list[Array]
) -> None:
    def columns(precision: str) -> Array:
        """The largest weight of each input of the last layer, times the input's step."""
        path = tmp_path / f"{precision}.earmark"
        earmark.quantize(network, waves, precision={"all": precision}).save(path)
        multiplier = modelfile.read(path).arrays["fc.in.quantize.multiplier"]
        weight = next(op for op in lowered.plan.ops if op["name"] == "fc")
        return np.abs(lowered.plan.arrays_of(weight)["weight"]).max(axis=0) / multiplier

    lowered = LoweredNetwork(network)
    plain, level = columns("int8"), columns("int4")
    assert level.max() == pytest.approx(plain.max(), rel=1e-5)
    np.testing.assert_allclose(level, np.maximum(plain, plain.max() / 2), rtol=1e-5)


def test_float16_weights_are_the_nearest(network: EcapaTdnn, waves: list[Array]) -> None:
    half = earmark.quantize(network, scheme="float16")
    plain = earmark.quantize(network, scheme="fp32")
    for model in (half, plain):
        assert model.embedder.info()["layers"][0]["op"] == "conv_f32"
    assert half.embedder.info()["layers"][0]["precision"] == "float16"
    assert 0 < 1 - cosine_score(half.embed(waves), plain.embed(waves)).min() < 1e-5
    state = {
        key: tensor.half().float() if key.endswith("conv.weight") and "fc" not in key else tensor
        for key, tensor in network.state_dict().items()
    }
    rounded = EcapaTdnn(SMALL, SpeechBrainFbank(SMALL.n_mels), "speechbrain")
    rounded.load_state_dict(state)
    mixed = earmark.quantize(network, scheme="float16", precision={"fc": "fp32"})
    np.testing.assert_array_equal(
        mixed.embed(waves), earmark.quantize(rounded.eval(), scheme="fp32").embed(waves)
    )


@needs_data
def test_four_bits_of_the_trained_network() -> None:
    """Far nearer to FP32 than rounding to the nearest, on speakers calibration has not heard."""
    net = earmark.load_checkpoint(CHECKPOINT, family="speechbrain")
    lines = (SHARED_DATA / "speakers" / "train.txt").read_text().split()
    calibration = [SHARED_DATA / "speakers" / line for line in lines if line.endswith("flac")][::9]
    recordings = dev_recordings()[::12]
    expected = earmark.quantize(net, scheme="fp32").embed(recordings)
    found = {}
    for rounding in ("nearest", "compensated"):
        quantized = earmark.quantize(net, calibration, precision={"all": "int4"}, rounding=rounding)
        found[rounding] = cosine_score(quantized.embed(recordings), expected)
    assert found["compensated"].mean() > 0.997
    assert found["compensated"].min() > found["nearest"].min()
    assert found["compensated"].mean() > found["nearest"].mean() + 0.003
