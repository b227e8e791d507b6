"""Precisions with 16 bits in weights or activations: whole networks with the oracle's bits, mixed
precisions, any length and number of threads, files and commands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import earmark
from earmark import _C, modelfile
from earmark.cli import main
from earmark.families import load_checkpoint
from earmark.lowering.ecapa import lower_ecapa
from earmark.metrics import cosine_score
from earmark.nn import LookupTableSoftmax, PiecewiseLinearSoftmax, replace_softmax
from earmark.nn.config import EcapaConfig
from earmark.plan import OUTPUT, SCORES, PlanBuilder, make_engine
from earmark.quantization import LoweredNetwork
from earmark.quantization.epilogue import sigmoid_lines, tanh_lines
from earmark.quantization.precision import PRECISIONS
from earmark.quantization.weights import quantize_weights
from networks import (
    SMALL,
    SMALL_RESNET,
    mixed_plan,
    random_features,
    random_resnet,
    random_state,
    resnet_plan,
    torch_network,
)
from oracle import network
from paths import CHECKPOINT, SHARED_DATA, dev_recordings, needs_data
from plans import equal_bits

Array = NDArray[Any]

each_isa = pytest.mark.parametrize("isa", _C.available_isas())

WIDE = [name for name, precision in PRECISIONS.items() if precision.is_wide]
NETWORKS = ("ecapa", "resnet")
CHUNK = 2048


def float_plan(name: str) -> PlanBuilder:
    if name == "resnet":
        return resnet_plan(random_resnet(SMALL_RESNET))
    return lower_ecapa(SMALL, random_state(SMALL))


def features(name: str, seed: int, frames: int) -> Array:
    return random_features(seed, frames, SMALL.n_mels if name == "ecapa" else SMALL_RESNET.n_mels)


def quantized(name: str, choice: Callable[[str], str], full: bool = False) -> PlanBuilder:
    """The random network; `choice` names the precision of each op."""
    recordings = [features(name, i, 60 + 40 * i) for i in range(3)]
    return mixed_plan(float_plan(name), recordings, choice, full)


def embedding(b: PlanBuilder, x: Array) -> Array:
    return np.asarray(make_engine(b.plan, b.arrays).run([x])[0])


def cosine(a: Array, b: Array) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_which_precisions_there_are() -> None:
    assert WIDE == ["int16", "w8a16", "w4a16", "w3a16", "w2a16", "w16a8"]
    bits = {name: (PRECISIONS[name].weight_bits, PRECISIONS[name].activation_bits) for name in WIDE}
    assert bits["int16"] == (16, 16)
    assert bits["w4a16"] == (4, 16)
    assert bits["w16a8"] == (16, 8)
    for precision in PRECISIONS.values():
        kinds = [precision.is_float, precision.is_dynamic, precision.is_integer, precision.is_wide]
        assert sum(kinds) == 1


@each_isa
@pytest.mark.parametrize("precision", ["int16", "w8a16", "w16a8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_has_the_oracles_bits(isa: str, name: str, precision: str) -> None:
    b = quantized(name, lambda _: precision)
    x = features(name, 1, 61)
    expected = network.run(b.plan, b.arrays, x)
    for threads in (1, 2):
        engine = make_engine(b.plan, b.arrays, isa=isa, threads=threads)
        traced, kernels = engine.trace(x)
        assert {ran.split("/")[1] for ran in kernels.values()} == {isa}
        for op in b.ops:
            if op["op"] in ("conv_s16", "dense_s16"):
                assert kernels[op["name"]] == f"combine_s16/{isa}"
        assert set(traced) == set(expected)
        for tensor, values in expected.items():
            equal_bits(traced[tensor], values, tensor)
        end = OUTPUT if name == "ecapa" else SCORES
        equal_bits(engine.run([x])[0], expected[end], end)


@pytest.mark.parametrize("precision", WIDE)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_layers_multiply(name: str, precision: str) -> None:
    """Every layer with weights, integers of so many bits; float32 between them."""
    b = quantized(name, lambda _: precision)
    chosen = PRECISIONS[precision]
    layers = [op for op in b.ops if "weight" in op["arrays"]]
    assert len(layers) == sum("weight" in op["arrays"] for op in float_plan(name).ops)
    for op in layers:
        assert op["op"] in ("conv_s16", "dense_s16", "attentive_pool_s16")
        weight = b.arrays_of(op)["weight"]
        assert weight.dtype == (np.int16 if chosen.weight_bits == 16 else np.int8)
        assert b.tensors[op["in"]]["dtype"] == f"s{chosen.activation_bits}"
    for name_, tensor in b.tensors.items():
        copy = name_.endswith((".s8", ".s16"))
        assert copy == (tensor["dtype"] != "f32")


@pytest.mark.parametrize("name", NETWORKS)
def test_16_bits_are_far_nearer_than_8(name: str) -> None:
    x = features(name, 77, 200)
    exact = embedding(float_plan(name), x)
    lost = {
        p: 1 - cosine(embedding(quantized(name, lambda _, p=p: p), x), exact)
        for p in ("int8", "int16", "w8a16", "w16a8")
    }
    assert lost["int16"] < 1e-6
    assert lost["int16"] < lost["int8"] / 1000
    assert lost["w8a16"] < lost["int8"]
    assert lost["w16a8"] < 2 * lost["int8"]


MIXED: dict[str, Callable[[str], str]] = {
    "16-bit step in an int8 Res2 chain": lambda name: (
        "int16" if name.endswith("blocks.1") else "int8"
    ),
    "int8 step in a 16-bit Res2 chain": lambda name: (
        "int8" if name.endswith("blocks.1") else "w8a16"
    ),
    "16-bit weights inside int8": lambda name: "w16a8" if name.startswith("blocks") else "int8",
    "16-bit ends": lambda name: "int16" if name in ("blocks.0", "fc", "asp.conv") else "int8",
    "16-bit squeeze": lambda name: "int16" if "se_block" in name else "fp32",
    "int8 tanh": lambda name: "int8" if name == "asp.tdnn" else "int16",
    "16-bit tanh": lambda name: "int16" if name == "asp.tdnn" else "int8",
    "all kinds": lambda name: {"blocks.1": "dynamic", "blocks.2": "int8", "blocks.3": "w4a16"}.get(
        name[:8], "int16"
    ),
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("mixed", MIXED)
def test_mixed_precisions(mixed: str, full: bool) -> None:
    """Near the float network and, where a recording takes several chunks, as in one."""
    b = quantized("ecapa", MIXED[mixed], full)
    x = features("ecapa", 3, 90)
    assert cosine(embedding(b, x), embedding(float_plan("ecapa"), x)) > 0.95
    oracle = network.run(b.plan, b.arrays, x)[OUTPUT]
    if MIXED[mixed]("blocks.0") != "fp32":
        for isa in _C.available_isas():
            equal_bits(make_engine(b.plan, b.arrays, isa=isa).trace(x)[0][OUTPUT], oracle, OUTPUT)
    long = features("ecapa", 4, 2 * CHUNK + 100)
    engine = make_engine(b.plan, b.arrays, threads=2)
    equal_bits(engine.run([long], quantized=full)[0], engine.trace(long)[0][OUTPUT], OUTPUT)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_recording_as_if_alone(name: str) -> None:
    b = quantized(name, lambda _: "int16")
    recordings = [features(name, n, n) for n in (300, 5, CHUNK + 1, 61)]
    alone = make_engine(b.plan, b.arrays, threads=1)
    expected = np.concatenate([alone.run([x]) for x in recordings])
    for threads in (1, 3):
        engine = make_engine(b.plan, b.arrays, threads=threads)
        equal_bits(engine.run(recordings), expected, "outputs")


def test_an_hour_is_bounded_in_memory() -> None:
    """Integer copies live for a chunk; what is kept is float32, as in the float network."""
    config = EcapaConfig(channels=(256, 256, 256, 256, 768))
    plan = lower_ecapa(config, random_state(config))
    recordings = [random_features(1, 60)]
    wide = mixed_plan(plan, recordings, lambda _: "int16")
    engines = [make_engine(b.plan, b.arrays) for b in (plan, wide)]
    hour = [engine.arena_bytes(360_001) for engine in engines]
    # Without what the float network saves where MFA's output takes its input's place, and with
    # the attention's hidden frames in both forms.
    assert hour[1] < hour[0] + 360_001 * 4 * (768 + 2 * 128)


def test_functions_between_entries() -> None:
    """The lines are as near as 16 bits resolve, and at 0 exact."""
    for lines, function in (
        (tanh_lines, np.tanh),
        (sigmoid_lines, lambda x: 1 / (1 + np.exp(-x))),
    ):
        step, centre, entries = lines()
        assert entries[int(centre)] == function(0.0)
        x = np.linspace(-40, 40, 100_001)
        found = np.interp(x / step + centre, np.arange(len(entries)), entries)
        assert np.abs(found - function(x)).max() < 6e-6


def test_weights_of_16_bits() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 3, 40))
    weight[2] = 0
    for balanced, steps in ((False, 0.5001), (True, 1.0001)):
        integers, scale = quantize_weights(weight, 16, balanced=balanced)
        assert integers.dtype == np.int16
        largest = np.abs(integers.astype(np.int64)).reshape(5, -1).max(axis=1)
        assert (largest >= [32511, 32511, 0, 32511, 32511]).all()
        assert (largest <= 32512).all()
        error = np.abs(integers * scale[:, None, None].astype(np.float64) - weight)
        assert (error <= steps * scale[:, None, None]).all()


# Files and commands.


def waves() -> list[Array]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=n) * 0.1).astype(np.float32) for n in (16000, 9000, 24000)]


@pytest.mark.parametrize("softmax", ["exact", "pwl", "table"])
def test_round_trip(tmp_path: Path, softmax: str) -> None:
    """Weights lie in the file with 16 bits, or fewer as always; what is loaded gives the same."""
    net = torch_network(SMALL, random_state(SMALL))
    if softmax != "exact":
        kinds = {"pwl": PiecewiseLinearSoftmax(), "table": LookupTableSoftmax()}
        replace_softmax(net, kinds[softmax], waves())
    exact = earmark.quantize(net, scheme="fp32").embed(waves())
    for precision, name, bytes_a_weight in (("int16", "int16", 2), ("w4a16", "uint8", 0.5)):
        model = earmark.quantize(net, waves(), precision={"all": precision})
        path = tmp_path / f"{precision}.earmark"
        model.save(path)
        loaded = earmark.load(path)
        np.testing.assert_array_equal(loaded.embed(waves()), model.embed(waves()))
        near = cosine_score(loaded.embed(waves()), exact).min()
        assert near > (1 - 1e-5 if precision == "int16" else 0.9)
        arrays = modelfile.read(path).arrays
        for layer in loaded.info()["layers"]:
            assert layer["precision"] == precision
            assert layer["op"].endswith("_s16")
            weight = arrays[f"{layer['name']}.weight"]
            assert weight.dtype.name == name
        size = {op: a.nbytes for op, a in arrays.items() if op == "blocks.1.tdnn1.weight"}
        assert size == {"blocks.1.tdnn1.weight": 32 * 32 * bytes_a_weight}


def test_compensated_rounding(tmp_path: Path) -> None:
    """Few bits beside 16-bit activations are rounded as beside 8-bit ones."""
    rng = np.random.default_rng(6)
    loudness = np.repeat(rng.uniform(0.01, 0.2, (8, 30)), 600, axis=1)
    recordings = list((rng.normal(size=loudness.shape) * loudness).astype(np.float32))
    net = torch_network(SMALL, random_state(SMALL))
    lowered = LoweredNetwork(net)
    chosen = lowered.precisions("int8", {"all": "w3a16"})
    assert lowered.of_few_bits(chosen) == lowered.layers
    exact = earmark.quantize(net, scheme="fp32").embed(recordings)
    near = {
        rounding: cosine_score(
            earmark.quantize(net, recordings, precision={"all": "w3a16"}, rounding=rounding).embed(
                recordings
            ),
            exact,
        ).mean()
        for rounding in ("nearest", "compensated")
    }
    assert near["compensated"] > near["nearest"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings and a checkpoint."""
    import soundfile
    import torch

    folder = tmp_path_factory.mktemp("wide")
    for i, wave in enumerate(waves()):
        soundfile.write(folder / f"{i}.wav", wave, 16000)
    torch.save(torch_network(SMALL, random_state(SMALL)).state_dict(), folder / "net.ckpt")
    return folder


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.earmark"
    base = ["quantize", str(folder / "net.ckpt"), "--family", "speechbrain", "-o", str(out)]
    arguments = [*base, "--calibrate", str(folder), "--quiet"]
    assert main([*arguments, "--precision", "all=int16,fc=w16a8"]) == 0
    capsys.readouterr()
    assert main(["info", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "int16" in shown
    assert "w16a8" in shown
    assert main([*arguments, "--precision", "all=w16a4"]) == 2
    error = capsys.readouterr().err
    assert "unknown precision 'w16a4'" in error
    assert error.count("\n") == 1
    assert main([*base, "--scheme", "fp32", "--precision", "all=int16", "--quiet"]) == 2
    assert "calibration needs at least one recording" in capsys.readouterr().err


@needs_data
def test_16_bits_of_the_trained_network() -> None:
    """Real recordings that calibration has not heard: a hundredth of what 8 bits lose, or less."""
    lowered = LoweredNetwork(load_checkpoint(CHECKPOINT, family="speechbrain"))
    lines = (SHARED_DATA / "speakers" / "train.txt").read_text().split()
    calibration = [SHARED_DATA / "speakers" / line for line in lines if line.endswith("flac")][::36]
    recordings = dev_recordings()[::24]
    lowered.calibrate(calibration)
    rows = {}
    for name in ("fp32", "int8", "w8a16", "int16"):
        chosen = lowered.precisions("int8", {"all": name})
        rows[name] = lowered.quantize("int8", chosen).embed(recordings)
    lost = {name: 1 - cosine_score(found, rows["fp32"]) for name, found in rows.items()}
    assert lost["int16"].max() < 1e-6
    assert lost["int16"].mean() < lost["int8"].mean() / 100
    assert lost["w8a16"].mean() < lost["int8"].mean()
