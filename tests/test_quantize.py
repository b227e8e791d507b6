"""Quantization: what calibration keeps, the integer model, and how near that is to float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import earmark
from earmark import AudioError, modelfile
from earmark.audio import read_audio
from earmark.frontend import NemoFbank
from earmark.metrics import cosine_score
from earmark.nn import EcapaTdnn
from earmark.plan import INPUT
from earmark.quantization import LoweredNetwork
from earmark.quantization.balance import round_balanced, to_nearest
from earmark.quantization.conditions import other_conditions
from earmark.quantization.observers import OBSERVERS
from earmark.quantization.tensors import Quantization
from earmark.quantization.weights import quantize_weights
from earmark.quantized import QuantizedEcapa
from networks import SMALL, all_heard, random_features, random_state, torch_network
from paths import CHECKPOINT, SHARED_DATA, dev_recordings, needs_data

Array = NDArray[Any]


@pytest.fixture(scope="module")
def network() -> EcapaTdnn:
    """A small network with random weights."""
    return torch_network(SMALL, random_state(SMALL))


@pytest.fixture(scope="module")
def waves() -> list[Array]:
    rng = np.random.default_rng(5)
    loudness = np.repeat(rng.uniform(0.01, 0.2, (6, 20)), 600, axis=1)
    return list((rng.normal(size=loudness.shape) * loudness).astype(np.float32))


@pytest.fixture(scope="module")
def small(network: EcapaTdnn, waves: list[Array]) -> QuantizedEcapa:
    return earmark.quantize(network, waves)


@pytest.fixture(scope="module")
def expected(network: EcapaTdnn, waves: list[Array]) -> Array:
    """The float32 network's embeddings."""
    return network.embed(waves)


def file_of(quantized: QuantizedEcapa, folder: Path) -> modelfile.ModelFile:
    quantized.save(folder / "m.earmark")
    return modelfile.read(folder / "m.earmark")


# --- ranges and weights


@given(
    low=st.floats(-1e4, 0, width=32, allow_subnormal=False),
    high=st.floats(0, 1e4, width=32, allow_subnormal=False),
)
def test_a_range_is_covered_and_zero_is_exact(low: float, high: float) -> None:
    quantization = Quantization.of_range(low, high)
    assert -128 <= quantization.zero_point <= 127
    assert isinstance(quantization.zero_point, int)
    assert quantization.scale == np.float32(quantization.scale) > 0
    bottom = quantization.scale * (-128 - quantization.zero_point)
    top = quantization.scale * (127 - quantization.zero_point)
    slack = 0.51 * quantization.scale
    assert bottom - slack <= low <= high <= top + slack
    if high - low > 1e-6:
        assert top - bottom == pytest.approx(high - low, rel=1e-5)


@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 1, 6), (1, 1), (3, 1, 1, 1)])
def test_weights_are_rounded_to_each_channels_scale(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=shape) * 10.0 ** rng.integers(-6, 3, (shape[0], *[1] * len(shape[1:])))
    quantized, scale = quantize_weights(weight, balanced=False)
    assert quantized.dtype == np.int8
    assert scale.dtype == np.float32
    assert quantized.shape == shape
    assert scale.shape == shape[:1]
    rows = quantized.reshape(shape[0], -1).astype(int)
    # Each channel uses its whole range.
    np.testing.assert_array_equal(np.abs(rows).max(axis=1), 127)
    error = np.abs(rows * scale[:, None].astype(np.float64) - weight.reshape(shape[0], -1))
    assert (error <= 0.501 * scale[:, None]).all()


def test_a_channel_of_zeros_stays_zero() -> None:
    quantized, scale = quantize_weights(np.array([[0.0, 0.0], [1.0, -2.0]]), balanced=False)
    np.testing.assert_array_equal(quantized, [[0, 0], [64, -127]])
    assert (scale > 0).all()


SHAPES = [(1, 1), (3, 1), (5, 40), (2, 7, 7, 1), (4, 3, 1, 6), (3, 3, 3, 17), (70, 1, 1, 600)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limit", [127, 7])
def test_balanced_rounding_goes_to_a_neighbour(shape: tuple[int, ...], limit: int) -> None:
    weight = np.random.default_rng(4).uniform(-limit, limit, shape)
    rounded = round_balanced(weight, limit)
    assert rounded.shape == shape
    np.testing.assert_array_equal(rounded, np.rint(rounded))
    assert np.abs(rounded).max() <= limit
    assert np.abs(rounded - weight).max() < 1
    left, nearest = (
        np.abs((integers - weight).reshape(shape[0], -1).sum(axis=1))
        for integers in (rounded, to_nearest(weight, limit))
    )
    assert (left <= np.maximum(nearest, 0.5) + 1e-9).all()
    if shape[-1] > 10:
        assert left.max() <= 0.5 + 1e-9
    # What is whole already stays.
    np.testing.assert_array_equal(round_balanced(np.rint(weight), limit), np.rint(weight))


def test_balanced_rounding_of_weights_beyond_the_limit() -> None:
    rng = np.random.default_rng(5)
    for scale in (1.0, 300.0, 1e30):
        rounded = round_balanced(scale * rng.normal(size=(6, 3, 3, 5)), 127)
        assert np.abs(rounded).max() <= 127
    np.testing.assert_array_equal(round_balanced(np.full((2, 9, 1, 3), 1e9), 7), 7)


def test_equal_weights_are_balanced_by_their_order() -> None:
    rounded = round_balanced(np.full((2, 1, 1, 8), 2.25), 127)
    # Of each nearest 2, the errors sum to -2.
    np.testing.assert_array_equal(rounded[:, 0, 0], [[3, 3, 2, 2, 2, 2, 2, 2]] * 2)


def test_balanced_rounding_keeps_the_outputs_of_inputs_that_are_alike() -> None:
    rng = np.random.default_rng(6)
    weight = rng.normal(size=(32, 5, 1, 64))
    weight *= 127 / np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    # Taps of a channel are near each other, and channels have a part in common.
    common = rng.normal(size=(500, 1, 1, 1)) + rng.normal(size=(500, 1, 1, 64))
    x = (common + 0.3 * rng.normal(size=(500, 5, 1, 64))).reshape(500, -1)
    lost = {
        how.__name__: np.mean(((how(weight, 127) - weight).reshape(32, -1) @ x.T) ** 2)
        for how in (round_balanced, to_nearest)
    }
    assert lost["round_balanced"] < 0.5 * lost["to_nearest"]


# --- quantize


def test_equal_input_gives_equal_files(
    tmp_path: Path, network: EcapaTdnn, waves: list[Array], small: QuantizedEcapa
) -> None:
    for name, quantized in (("a", small), ("b", earmark.quantize(network, waves))):
        quantized.save(tmp_path / name, threshold=0.5, measured={"eer": 0.01})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    small.save(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() != (tmp_path / "a").read_bytes()


def test_every_layer_is_int8(tmp_path: Path, small: QuantizedEcapa) -> None:
    model = file_of(small, tmp_path)
    assert all(op["op"].endswith("_s8") for op in model.plan["ops"])
    for name, array in model.arrays.items():
        role = name.rpartition(".")[2]
        if role == "weight":
            assert array.dtype == np.int8
            rows = np.abs(array.reshape(len(array), -1).astype(int))
            np.testing.assert_array_equal(rows.max(axis=1), 127)
        elif role in ("multiplier", "epilogue"):
            assert array.dtype == np.float32
            magnitude = np.abs(array[array != 0])
            assert (magnitude >= np.finfo(np.float32).tiny).all()
        if role == "epilogue":
            assert (array[0] > 0).all()
    scales = [t["scale"] for t in model.plan["tensors"].values() if "scale" in t]
    assert min(scales) > 0


def test_saved_and_loaded_gives_the_same_bits(
    tmp_path: Path, small: QuantizedEcapa, waves: list[Array]
) -> None:
    small.save(tmp_path / "m.earmark", threshold=0.125, measured={"eer": 0.01})
    loaded = earmark.load(tmp_path / "m.earmark")
    np.testing.assert_array_equal(loaded.embed(waves), small.embed(waves))
    assert loaded.threshold == 0.125
    assert loaded.info()["measured"] == {"eer": 0.01}
    assert loaded.info()["layers"] == small.embedder.info()["layers"]


@pytest.mark.parametrize("threshold", [1.01, -2, float("nan"), "0.5", True])
def test_an_impossible_threshold_is_not_saved(
    tmp_path: Path, small: QuantizedEcapa, threshold: Any
) -> None:
    with pytest.raises(ValueError, match="threshold"):
        small.save(tmp_path / "m.earmark", threshold=threshold)
    assert not list(tmp_path.iterdir())


def test_fp32_runs_as_the_torch_network_does(
    tmp_path: Path, network: EcapaTdnn, waves: list[Array], expected: Array
) -> None:
    quantized = earmark.quantize(network, scheme="fp32")
    assert cosine_score(quantized.embed(waves), expected).min() > 0.999999
    info = quantized.embedder.info()
    assert info["scheme"] == "fp32"
    assert info["calibration"] is None
    assert {layer["precision"] for layer in info["layers"]} == {"fp32"}
    assert all(layer["activation"] is None for layer in info["layers"])
    model = file_of(quantized, tmp_path)
    assert {array.dtype.name for array in model.arrays.values()} == {"float32"}


def test_int8_is_near_fp32(waves: list[Array], expected: Array, small: QuantizedEcapa) -> None:
    # Random weights are far harder to quantize than trained ones.
    assert cosine_score(small.embed(waves), expected).min() > 0.98


@pytest.mark.parametrize(
    ("precision", "kept"),
    [
        ({"fc": "fp32"}, ("fc",)),
        ({"blocks.2": "fp32"}, ("blocks.2.",)),
        ({"blocks.1.res2net_block": "fp32", "asp": "fp32"}, ("blocks.1.res2net_block.", "asp.")),
        ({"blocks": "fp32", "blocks.1": "int8"}, ("blocks.0", "blocks.2.", "blocks.3.")),
        ({"blocks.1": "int8", "blocks": "fp32"}, ("blocks.0", "blocks.2.", "blocks.3.")),
        ({"mfa": "int8"}, ()),
    ],
)
def test_precision_by_name_or_leading_part(
    network: EcapaTdnn,
    waves: list[Array],
    expected: Array,
    small: QuantizedEcapa,
    precision: Mapping[str, str],
    kept: tuple[str, ...],
) -> None:
    mixed = earmark.quantize(network, waves, precision=precision)
    layers = {layer["name"]: layer for layer in mixed.embedder.info()["layers"]}
    for name, layer in layers.items():
        wanted = "fp32" if name.startswith(kept) and kept else "int8"
        assert layer["precision"] == wanted, name
        assert layer["op"].endswith("_f32" if wanted == "fp32" else "_s8")
    assert cosine_score(mixed.embed(waves), expected).min() > 0.98
    if not kept:
        np.testing.assert_array_equal(mixed.embed(waves), small.embed(waves))


def test_everything_kept_in_fp32_is_the_fp32_model(network: EcapaTdnn, waves: list[Array]) -> None:
    names = ["blocks", "mfa", "asp", "fc"]
    mixed = earmark.quantize(network, waves, precision=dict.fromkeys(names, "fp32"))
    plain = earmark.quantize(network, scheme="fp32")
    np.testing.assert_array_equal(mixed.embed(waves), plain.embed(waves))


def test_unknown_names_are_refused(network: EcapaTdnn, waves: list[Array]) -> None:
    for options, words in (
        ({"scheme": "int4"}, ["int4", "fp32"]),
        ({"precision": {"fc": "int5"}}, ["fc", "int5", "int4", "fp32"]),
        ({"rounding": "up"}, ["up", "nearest"]),
        ({"precision": {"block": "fp32"}}, ["no layer 'block'"]),
        ({"precision": {"": "fp32"}}, ["no layer ''"]),
        ({"observer": "mean"}, ["mean", "minmax", "percentile"]),
    ):
        with pytest.raises(ValueError, match=r"scheme|layer|observer|rounding") as raised:
            earmark.quantize(network, waves, **options)  # type: ignore[arg-type]
        for word in words:
            assert word in str(raised.value)


def test_calibration_needs_recordings(network: EcapaTdnn, waves: list[Array]) -> None:
    with pytest.raises(ValueError, match="at least one recording"):
        earmark.quantize(network, [])
    with pytest.raises(AudioError, match=r"missing\.wav"):
        earmark.quantize(network, [waves[0], "missing.wav"])
    with pytest.raises(AudioError, match="recording 1: sample 0 is nan"):
        earmark.quantize(network, [waves[0], waves[0] * np.nan])
    # The network reflects 4 frames.
    with pytest.raises(AudioError, match=r"recording 0: .* 639 samples"):
        earmark.quantize(network, [waves[0][:639]])
    earmark.quantize(network, [waves[0][:640]])


def test_progress_counts_recordings(network: EcapaTdnn, waves: list[Array]) -> None:
    calls: list[tuple[int, int]] = []
    earmark.quantize(network, iter(waves), progress=lambda *call: calls.append(call))
    assert calls == [(done, len(waves)) for done in range(1, len(waves) + 1)]


def test_weights_of_8_bits_are_balanced_unless_nearest_is_asked_for(
    network: EcapaTdnn, waves: list[Array]
) -> None:
    expected = network.embed(waves)
    error = {}
    for rounding in ("compensated", "nearest"):
        quantized = earmark.quantize(network, scheme="dynamic", rounding=rounding)
        arrays = quantized.model_file.arrays
        plan = LoweredNetwork(network).plan
        for op in plan.ops:
            if "weight" in op["arrays"] and op["op"] == "conv_f32":
                integers, _ = quantize_weights(
                    plan.arrays_of(op)["weight"], balanced=rounding == "compensated"
                )
                np.testing.assert_array_equal(arrays[f"{op['name']}.weight"], integers)
        error[rounding] = np.abs(quantized.embed(waves) - expected).mean()
    assert error["compensated"] != error["nearest"]


def test_observers_make_other_ranges(network: EcapaTdnn, waves: list[Array]) -> None:
    embeddings = {}
    for name in OBSERVERS:
        quantized = earmark.quantize(network, waves, observer=name)
        assert quantized.embedder.info()["calibration"]["observer"] == name
        embeddings[name] = quantized.embed(waves)
    assert (embeddings["minmax"] != embeddings["percentile"]).any()


def test_other_conditions_of_a_recording() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 20001).astype(np.float32)
    short, narrow = other_conditions(wave, 0, 9, 16000)
    np.testing.assert_array_equal(short, wave[:8000])
    assert (narrow.dtype, narrow.shape) == (np.float32, wave.shape)
    np.testing.assert_array_equal(narrow * 32768, np.round(narrow * 32768))
    below, above = (
        np.abs(np.fft.rfft(narrow)[band]).mean() / np.abs(np.fft.rfft(wave)[band]).mean()
        for band in (slice(100, 4500), slice(5500, None))
    )
    assert below == pytest.approx(1, abs=0.01)
    assert above < 0.01
    found = [len(other_conditions(wave, index, 9, 16000)) for index in range(9)]
    assert found == [2, 0, 0, 0, 1, 0, 0, 0, 2]
    for count, most in ((128, 48), (129, 41), (1000, 48)):
        total = sum(len(other_conditions(wave, index, count, 16000)) for index in range(count))
        assert total == most
    assert len(other_conditions(wave[:8000], 0, 1, 16000)) == 1
    assert [len(w) for w in other_conditions(wave, 0, 1, 8000)] == [4000]


def test_ranges_hold_other_conditions_of_the_recordings(waves: list[Array]) -> None:
    """Of features by band's deviation, too, which those of narrow band leave."""
    net = EcapaTdnn(SMALL, NemoFbank(SMALL.n_mels), "nemo").eval()
    lowered = LoweredNetwork(net)
    lowered.calibrate(waves)
    assert lowered.seen is not None
    low, high = lowered.seen.range(INPUT)
    features = [net.front_end(wave) for wave in all_heard(waves)]
    assert low == min(item.min() for item in features)
    assert high == max(item.max() for item in features)
    alone = [net.front_end(wave) for wave in waves]
    assert low < min(item.min() for item in alone)


def test_the_file_tells_what_calibration_saw(
    network: EcapaTdnn, waves: list[Array], small: QuantizedEcapa
) -> None:
    info = small.embedder.info()
    features = [network.front_end(wave) for wave in all_heard(waves)]
    assert info["calibration"] == {
        "observer": "minmax",
        "recordings": len(waves),
        "frames": sum(map(len, features)),
    }
    layers = {layer["name"]: layer for layer in info["layers"]}
    outputs: dict[str, list[Array]] = {"mfa": [], "blocks.0": [], "fc": []}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: outputs[name].append(output.numpy())

    hooks = [network.get_submodule(name).register_forward_hook(keep(name)) for name in outputs]
    with torch.no_grad():
        for item in features:
            network(torch.from_numpy(item)[None])
    for hook in hooks:
        hook.remove()
    for name, seen in outputs.items():
        values = np.concatenate([output.ravel() for output in seen]).astype(np.float64)
        statistics = layers[name]["activation"]
        size = np.abs(values).max()
        for key in ("min", "max", "mean", "std"):
            assert statistics[key] == pytest.approx(getattr(values, key)(), abs=1e-4 * size)
    for name, key in (
        ("mfa", "mfa.conv.conv.weight"),
        ("asp.conv", "asp.conv.conv.weight"),
        ("blocks.2.res2net_block.blocks.1", "blocks.2.res2net_block.blocks.1.conv.conv.weight"),
    ):
        weight = network.state_dict()[key].numpy().astype(np.float64)
        for figure in ("min", "max", "mean", "std"):
            expected = getattr(weight, figure)()
            assert layers[name]["weight"][figure] == pytest.approx(expected, rel=1e-4, abs=1e-6)


# --- the quantized module


def test_the_module_is_called_as_the_network_is(
    network: EcapaTdnn, waves: list[Array], small: QuantizedEcapa
) -> None:
    features = torch.from_numpy(np.stack([network.front_end(wave) for wave in waves[:3]]))
    with torch.no_grad():
        expected = network(features)
    embeddings = small(features)
    assert isinstance(small, torch.nn.Module)
    assert embeddings.shape == expected.shape == (3, 1, SMALL.embedding)
    assert embeddings.dtype == torch.float32
    assert cosine_score(embeddings[:, 0].numpy(), expected[:, 0].numpy()).min() > 0.98
    for i in range(3):
        assert torch.equal(small(features[i : i + 1]), embeddings[i : i + 1])
    assert torch.equal(small(features.double().requires_grad_()), embeddings)


def test_items_behind_their_lengths_are_not_looked_at(small: QuantizedEcapa) -> None:
    frames = [60, 37, 5, 59]
    features = torch.full((4, 60, SMALL.n_mels), torch.nan)
    for i, n in enumerate(frames):
        features[i, :n] = torch.from_numpy(random_features(i, n, SMALL.n_mels))
    embeddings = small(features, torch.tensor(frames) / 60)
    for i, n in enumerate(frames):
        assert torch.equal(embeddings[i], small(features[i : i + 1, :n])[0])


@pytest.mark.parametrize("lengths", [[1.0], [1.0, 0.0], [1.0, 1.1], [1.0, float("nan")], [[1.0]]])
def test_impossible_lengths_are_refused(small: QuantizedEcapa, lengths: Any) -> None:
    with pytest.raises(ValueError, match="lengths"):
        small(torch.zeros(2, 60, SMALL.n_mels), torch.tensor(lengths))


# --- a trained network


@pytest.fixture(scope="module")
def trained() -> EcapaTdnn:
    return earmark.load_checkpoint(CHECKPOINT, family="speechbrain")


def train_recordings(step: int) -> list[Path]:
    lines = (SHARED_DATA / "speakers" / "train.txt").read_text().split()
    return [SHARED_DATA / "speakers" / line for line in lines[::step]]


@needs_data
def test_the_trained_network_keeps_its_embeddings(tmp_path: Path, trained: EcapaTdnn) -> None:
    recordings = dev_recordings()[::3]
    quantized = earmark.quantize(trained, train_recordings(6))
    reference = earmark.quantize(trained, scheme="fp32")
    embeddings = quantized.embed([str(path) for path in recordings])
    expected = reference.embed([str(path) for path in recordings])
    cosines = cosine_score(embeddings, expected)
    assert cosines.mean() >= 0.9995
    assert cosines.min() >= 0.998
    # The engine's float32 is torch's.
    some = [read_audio(path).samples[: 3 * 16_000] for path in recordings[::12]]
    assert cosine_score(reference.embed(some), trained.embed(some)).min() > 0.999999
    quantized.save(tmp_path / "m.earmark")
    info = earmark.load(tmp_path / "m.earmark").info()
    assert info["parameters"] == sum(p.numel() for p in trained.parameters())
    assert info["size_fraction"] <= 0.27


@needs_data
@pytest.mark.parametrize("observer", sorted(OBSERVERS))
def test_calibration_is_deterministic(trained: EcapaTdnn, observer: str) -> None:
    recordings = [read_audio(path).samples[:32_000] for path in train_recordings(22)]
    assert len(recordings) >= 40
    first, again = (earmark.quantize(trained, recordings, observer=observer) for _ in range(2))
    files = [modelfile.to_bytes(quantized.embedder._source) for quantized in (first, again)]
    assert files[0] == files[1]
    expected = earmark.quantize(trained, scheme="fp32").embed(recordings[:5])
    assert cosine_score(first.embed(recordings[:5]), expected).min() > 0.998
