"""Equalization: which tensors it takes, that the network stays the same, and what int8 gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

import earmark
from earmark import modelfile
from earmark.lowering.ecapa import lower_ecapa
from earmark.metrics import cosine_score
from earmark.nn import EcapaTdnn
from earmark.plan import INPUT, OUTPUT, PlanBuilder, make_engine
from earmark.quantization import LoweredNetwork
from earmark.quantization.equalization import adjustable, channel_sizes, equalize
from networks import (
    SMALL,
    SMALL_RESNET,
    int8_plan,
    random_features,
    random_resnet,
    random_state,
    resnet_plan,
    torch_network,
)
from oracle.network import run
from plans import finish, start, view

Array = NDArray[Any]

FEATURES = [random_features(seed, 90, SMALL.n_mels) for seed in range(40, 44)]
IMAGES = [random_features(seed, 90, SMALL_RESNET.n_mels) for seed in range(40, 44)]


def ecapa_plan() -> PlanBuilder:
    return lower_ecapa(SMALL, random_state(SMALL))


def scaled_apart(state: dict[str, Array], seed: int = 3) -> dict[str, Array]:
    """The state of a network that computes the same, its MFA channels up to 1000 times apart."""
    rng = np.random.default_rng(seed)
    width = SMALL.channels[-1]
    factors = 10.0 ** rng.uniform(-1.5, 1.5, width)
    result = {key: values.astype(np.float64) for key, values in state.items()}
    for key in ("weight", "bias"):
        result[f"mfa.norm.norm.{key}"] *= factors
    result["asp.tdnn.conv.conv.weight"] /= np.tile(factors, 3)[:, None]
    # asp_bn brings every pooled channel back to its size.
    result["asp_bn.norm.running_mean"] *= np.tile(factors, 2)
    deviation = np.sqrt(result["asp_bn.norm.running_var"] + 1e-5)
    result["asp_bn.norm.weight"] *= np.sqrt(
        result["asp_bn.norm.running_var"] * np.tile(factors, 2) ** 2 + 1e-5
    ) / (deviation * np.tile(factors, 2))
    result["asp_bn.norm.running_var"] *= np.tile(factors, 2) ** 2
    return {key: values.astype(np.float32) for key, values in result.items()}


@pytest.fixture(scope="module")
def waves() -> list[Array]:
    rng = np.random.default_rng(6)
    loudness = np.repeat(rng.uniform(0.01, 0.2, (8, 30)), 600, axis=1)
    return list((rng.normal(size=loudness.shape) * loudness).astype(np.float32))


@pytest.fixture(scope="module")
def apart() -> EcapaTdnn:
    return torch_network(SMALL, scaled_apart(random_state(SMALL)))


# --- which tensors


def test_tensors_of_an_ecapa_tdnn() -> None:
    (found,) = adjustable(ecapa_plan())
    assert (found.tensor, found.writer) == ("mfa.out", "mfa")
    assert found.readers == ["asp.tdnn"]
    assert found.vectors == ["asp.context", "asp.out"]
    assert found.dense == ["asp.tdnn.context", "fc"]


def test_tensors_of_a_sound_resnet() -> None:
    found = {
        item.tensor: item.readers for item in adjustable(resnet_plan(random_resnet(SMALL_RESNET)))
    }
    expected = {"conv1.out": ["layer1.0.downsample.0", "layer1.0.conv1"]}
    for block in ("layer1.0", "layer1.1", "layer2.0"):
        expected[f"{block}.conv1.out"] = [f"{block}.conv2"]
        expected[f"{block}.conv2.out"] = [f"{block}.conv3"]
    assert found == expected


def conv(
    b: PlanBuilder, name: str, source: str, out: str, rows: int = 1, **attributes: Any
) -> PlanBuilder:
    """A 1x1 convolution with random weights, its output's channels far apart in size."""
    rng = np.random.default_rng(len(b.ops))
    size = (b.tensors[out]["channels"], b.tensors[source]["channels"])
    weight = rng.normal(size=size) * np.logspace(-1, 1, size[0])[:, None]
    arrays = {
        "weight": weight[:, None, None, :].astype(np.float32),
        "epilogue": rng.normal(size=(rows, size[0])).astype(np.float32),
    }
    b.op("conv_f32", name, arrays, **{"in": source}, out=out, **attributes)
    return b


def chain(rows: int = 1, **attributes: Any) -> PlanBuilder:
    """Input -> `a` -> `b`, both convolutions; ``attributes`` are those of `a`."""
    b = start("f32", 5)
    b.tensor("a", "frames", "f32", 6)
    b.tensor("b", "frames", "f32", 7)
    conv(b, "first", INPUT, "a", rows, **attributes)
    return conv(b, "second", "a", "b", relu=True)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("relu", [False, True])
def test_what_follows_the_sums(rows: int, relu: bool) -> None:
    plan = finish(chain(rows, relu=relu), "b")
    assert [item.tensor for item in adjustable(plan)] == ["a"]  # b's statistics are the output
    check_same(plan, [random_features(seed, 30, 5) for seed in range(3)], 1e-5)


def with_an_addition() -> PlanBuilder:
    b = chain()
    b.tensor("sum", "frames", "f32", 6)
    b.op("add_f32", "add", **{"in": "a"}, residual="a", out="sum")
    return b


def with_a_view() -> PlanBuilder:
    b = chain()
    view(b, "part", "a", 1, 3)
    b.tensor("c", "frames", "f32", 4)
    return conv(b, "third", "part", "c")


def into_a_view() -> PlanBuilder:
    b = start("f32", 5)
    b.tensor("base", "frames", "f32", 8)
    view(b, "a", "base", 2, 6)
    b.tensor("b", "frames", "f32", 7)
    conv(b, "first", INPUT, "a")
    return conv(b, "second", "a", "b")


def written_twice() -> PlanBuilder:
    return conv(chain(), "third", INPUT, "a")


def as_a_gate() -> PlanBuilder:
    b = chain()
    b.tensor("mean", "vector", "f32", 6)
    b.op("stats_f32", "stats.a", **{"in": "a"}, out="mean")
    b.tensor("other", "frames", "f32", 6)
    conv(b, "third", INPUT, "other")
    b.tensor("sum", "frames", "f32", 6)
    b.op("add_f32", "add", **{"in": "other"}, residual="other", gate="mean", out="sum")
    return b


def pooled_and_added() -> PlanBuilder:
    b = chain()
    window = {"kernel": [3, 1], "stride": [1, 1], "padding": [1, 0]}
    b.tensor("pooled", "frames", "f32", 6)
    b.op("max_pool_f32", "pool", **{"in": "a"}, out="pooled", **window)
    b.tensor("sum", "frames", "f32", 6)
    b.op("add_f32", "add", **{"in": "pooled"}, residual="pooled", out="sum")
    return b


@pytest.mark.parametrize(
    "plan",
    [with_an_addition, with_a_view, into_a_view, written_twice, as_a_gate, pooled_and_added],
)
def test_tensors_that_are_left_alone(plan: Any) -> None:
    network = finish(plan(), "b")
    assert "a" not in [item.tensor for item in adjustable(network)]
    make_engine(network.plan, network.arrays)  # the plan is one that runs


def test_a_tensor_before_a_tanh_or_with_a_bias_is_left_alone() -> None:
    assert adjustable(finish(chain(3, activation="tanh"), "b")) == []
    network = chain()
    network.tensor("bias", "vector", "f32", 6)
    network.ops[0]["bias"] = "bias"
    assert adjustable(finish(network, "b")) == []
    network = chain(3)
    network.ops[0]["bias"] = "bias"
    assert [item.tensor for item in adjustable(finish(network, "b"))] == ["a"]


# --- the network stays the same


def check_same(network: PlanBuilder, features: list[Array], tolerance: float) -> PlanBuilder:
    tensors = [item.tensor for item in adjustable(network)]
    sizes = channel_sizes(network, features, tensors)
    result = equalize(network, sizes)
    assert any((result.arrays[key] != array).any() for key, array in network.arrays.items())
    before = make_engine(network.plan, network.arrays).run(features)
    after = make_engine(result.plan, result.arrays).run(features)
    for expected, actual in zip(before, after, strict=True):
        np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max())
    return result


def test_the_ecapa_tdnn_stays_the_same() -> None:
    network = lower_ecapa(SMALL, scaled_apart(random_state(SMALL)))
    result = check_same(network, FEATURES, 1e-4)
    # The means and deviations that the network knows of the pooled channels went along.
    weight = network.arrays["fc.weight"] * network.statistics["asp.out"][1]
    changed = result.arrays["fc.weight"] * result.statistics["asp.out"][1]
    np.testing.assert_allclose(changed, weight, rtol=1e-5)


def test_the_sound_resnet_stays_the_same() -> None:
    check_same(resnet_plan(random_resnet(SMALL_RESNET)), IMAGES, 1e-4)


@given(
    sizes=arrays_of.arrays(
        np.float32,
        6,
        elements=st.one_of(st.just(0.0), st.floats(2.0**-100, 2.0**40, width=32)),
    ),
    dead=st.sets(st.integers(0, 5)),
)
def test_factors_are_finite_and_their_geometric_mean_is_1(sizes: Array, dead: set[int]) -> None:
    network = finish(chain(), "b")
    network.arrays["second.weight"][..., sorted(dead)] = 0
    before = network.arrays["first.epilogue"].astype(np.float64)
    after = equalize(network, {"a": sizes}).arrays["first.epilogue"]
    factors = (before / after)[0]
    assert (factors > 0).all()
    assert np.isfinite(factors).all()
    np.testing.assert_allclose(factors[sizes == 0], 1)
    if (sizes > 0).any():
        assert np.log(factors[sizes > 0]).mean() == pytest.approx(0, abs=1e-5)


def test_factors_weigh_a_channel_against_the_weights_that_read_it() -> None:
    network = finish(chain(), "b")
    sizes = np.array([1, 2, 4, 8, 16, 32], np.float32)
    after = equalize(network, {"a": sizes}).arrays["first.epilogue"]
    factors = (network.arrays["first.epilogue"] / after)[0]
    # Rows have scales of their own: what counts is the part of each row's largest weight.
    rows = np.abs(network.arrays["second.weight"][:, 0, 0])
    expected = np.sqrt(sizes / (rows / rows.max(axis=1, keepdims=True)).max(axis=0))
    np.testing.assert_allclose(factors, expected / np.exp(np.log(expected).mean()), rtol=1e-5)


def test_equalization_needs_recordings() -> None:
    with pytest.raises(ValueError, match="at least one recording"):
        channel_sizes(ecapa_plan(), [], ["mfa.out"])


# --- what int8 gains


def test_int8_of_a_network_whose_channels_are_apart(
    tmp_path: Path, apart: EcapaTdnn, waves: list[Array]
) -> None:
    expected = apart.embed(waves)
    plain = earmark.quantize(apart, waves)
    equalized = earmark.quantize(apart, waves, equalize=True)
    lost = 1 - cosine_score(plain.embed(waves), expected)
    left = 1 - cosine_score(equalized.embed(waves), expected)
    original = torch_network(SMALL, random_state(SMALL))
    best = 1 - cosine_score(earmark.quantize(original, waves).embed(waves), original.embed(waves))
    assert left.mean() < lost.mean() / 30
    # Nearly what the network loses whose channels never were apart.
    assert left.mean() < 1.5 * best.mean()
    equalized.save(tmp_path / "m.earmark")
    file = modelfile.read(tmp_path / "m.earmark")
    assert all(op["op"].endswith("_s8") for op in file.plan["ops"])
    assert file.metadata["calibration"]["equalized"] == ["mfa.out"]
    assert "equalized" not in plain.embedder.info()["calibration"]
    features = random_features(9, 50, SMALL.n_mels)
    oracle = run(file.plan, file.decoded_arrays(), features)[OUTPUT]
    np.testing.assert_array_equal(equalized.embedder.embed_features(features)[0], oracle)


@pytest.mark.usefixtures("uncorrected")
@pytest.mark.parametrize(
    "options", [{"scheme": "dynamic"}, {"precision": {"all": "int4"}}, {"scheme": "int8-full"}]
)
def test_other_precisions_gain_too(
    apart: EcapaTdnn, waves: list[Array], options: dict[str, Any]
) -> None:
    expected = apart.embed(waves)
    lost, left = (
        1
        - cosine_score(
            earmark.quantize(apart, waves, equalize=on, **options).embed(waves), expected
        )
        for on in (False, True)
    )
    assert left.mean() < lost.mean() / 30


def test_int8_of_a_sound_resnet_whose_channels_are_apart() -> None:
    network = resnet_plan(random_resnet(SMALL_RESNET))
    rng = np.random.default_rng(4)
    for block in ("layer1.0", "layer1.1", "layer2.0"):
        for first, second in (("conv1", "conv2"), ("conv2", "conv3")):
            rows = network.arrays[f"{block}.{first}.weight"]
            factors = 10.0 ** rng.uniform(-1, 1, len(rows)).astype(np.float32)
            network.arrays[f"{block}.{first}.weight"] = rows * factors[:, None, None, None]
            network.arrays[f"{block}.{first}.epilogue"] *= factors
            network.arrays[f"{block}.{second}.weight"] /= factors
    equalized = check_same(network, IMAGES, 1e-3)
    expected = np.stack(make_engine(network.plan, network.arrays).run(IMAGES))
    lost = []
    for plan in (network, equalized):
        quantized = int8_plan(plan, IMAGES)
        scores = np.stack(make_engine(quantized.plan, quantized.arrays).run(IMAGES))
        lost.append(float(np.square(scores - expected).mean()))
    assert lost[1] < lost[0] / 20


def test_recordings_are_heard_for_sizes_and_for_ranges(
    apart: EcapaTdnn, waves: list[Array]
) -> None:
    calls: list[tuple[int, int]] = []
    many = [wave[:700] for wave in waves] * 9
    earmark.quantize(apart, many, equalize=True, progress=lambda *call: calls.append(call))
    assert calls[35] == (36, 36)  # every other one of 72: at most 64
    assert calls[36:] == [(done, 72) for done in range(1, 73)]
    with pytest.raises(ValueError, match="at least one recording"):
        earmark.quantize(apart, [], scheme="dynamic", equalize=True)


def test_statistics_of_weights_are_those_of_the_trained_network(
    apart: EcapaTdnn, waves: list[Array]
) -> None:
    lowered = LoweredNetwork(apart)
    lowered.equalize(waves)
    chosen = lowered.precisions("float16", {})
    layers = lowered.quantize("float16", chosen).embedder.info()["layers"]
    plain = earmark.quantize(apart, scheme="float16").embedder.info()["layers"]
    assert [layer["weight"] for layer in layers] == [layer["weight"] for layer in plain]
