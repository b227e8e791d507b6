"""The schemes dynamic and int8-full: whole networks with the oracle's bits, mixed precisions, any
length and number of threads, the files and what runs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import earmark
from earmark import _C, Embedder
from earmark.cli import main
from earmark.lowering.ecapa import lower_ecapa
from earmark.metrics import cosine_score
from earmark.nn.config import EcapaConfig
from earmark.plan import OUTPUT, SCORES, PlanBuilder, make_engine
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
from plans import equal_bits

Array = NDArray[Any]
Choice = Callable[[str], str]

each_isa = pytest.mark.parametrize("isa", _C.available_isas())

SCHEMES: dict[str, tuple[str, bool]] = {
    "dynamic": ("dynamic", False),
    "int8-full": ("int8", True),
}
NETWORKS = ("ecapa", "resnet")
CHUNK = 2048


def float_plan(name: str) -> PlanBuilder:
    if name == "resnet":
        return resnet_plan(random_resnet(SMALL_RESNET))
    return lower_ecapa(SMALL, random_state(SMALL))


def features(name: str, seed: int, frames: int) -> Array:
    return random_features(seed, frames, SMALL.n_mels if name == "ecapa" else SMALL_RESNET.n_mels)


def quantized(
    name: str, choice: Choice, full: bool = False, calibrated: bool = True
) -> PlanBuilder:
    """The random network; `choice` names the precision of each op."""
    recordings = [features(name, i, 60 + 40 * i) for i in range(3)] if calibrated else []
    return mixed_plan(float_plan(name), recordings, choice, full)


def scheme_plan(name: str, scheme: str) -> PlanBuilder:
    precision, full = SCHEMES[scheme]
    return quantized(name, lambda _: precision, full, calibrated=full)


def output_of(b: PlanBuilder) -> str:
    return OUTPUT if OUTPUT in b.tensors else SCORES


def cosine(a: Array, b: Array) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@each_isa
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_has_the_oracles_bits(isa: str, name: str, scheme: str) -> None:
    b = scheme_plan(name, scheme)
    end = output_of(b)
    for frames in (5, 61, 97):
        x = features(name, frames, frames)
        expected = network.run(b.plan, b.arrays, x)
        for threads in (1, 2):
            engine = make_engine(b.plan, b.arrays, isa=isa, threads=threads)
            traced, kernels = engine.trace(x)
            assert {ran.split("/")[1] for ran in kernels.values()} == {isa}
            assert set(traced) == set(expected)
            for tensor, values in expected.items():
                equal_bits(traced[tensor], values, tensor)
            if scheme == "dynamic":
                equal_bits(engine.run([x])[0], expected[end], end)
            else:
                equal_bits(engine.run([x], quantized=True)[0], expected[end], end)
                real = np.float32(b.tensors[end]["scale"]) * expected[end].astype(np.float32)
                equal_bits(engine.run([x])[0], real, end)


@pytest.mark.parametrize("name", NETWORKS)
def test_dynamic_multiplies_integers_only(name: str) -> None:
    """Every layer with weights has int8 ones, and no tensor between them is one of calibration."""
    b = scheme_plan(name, "dynamic")
    kinds = {op["op"] for op in b.ops}
    assert kinds >= {"range_f32", "quantize_s8", "conv_s8", "dense_s8", "add_f32", "stats_f32"}
    assert not kinds & {"conv_f32", "dense_f32", "attentive_pool_f32", "add_s8", "stats_s8"}
    weights = [op for op in b.ops if "weight" in op["arrays"]]
    assert len(weights) == sum("weight" in op["arrays"] for op in float_plan(name).ops)
    for op in weights:
        assert b.arrays_of(op)["weight"].dtype == np.int8
        fixed = op["name"] == "asp.conv"  # reads a tanh, whose range is known
        assert ("values_quantization" if fixed else "quantization") in op
    # Ops that read the same tensor share its copy.
    assert len([op for op in b.ops if op["op"] == "range_f32"]) < len(weights) + 1


def test_int8_full_is_int8_between_its_ends() -> None:
    """The same tensors with the same bits; no op quantizes the input."""
    plain = quantized("ecapa", lambda _: "int8")
    full = scheme_plan("ecapa", "int8-full")
    assert full.tensors["input"]["dtype"] == full.tensors[OUTPUT]["dtype"] == "s8"
    assert full.tensors[OUTPUT]["zero_point"] == 0
    assert full.ops[0]["op"] == "conv_s8"
    assert full.ops[0]["in"] == "input"
    x = features("ecapa", 1, 70)
    a, _ = make_engine(plain.plan, plain.arrays).trace(x)
    b, kernels = make_engine(full.plan, full.arrays).trace(x)
    assert kernels["input"].startswith("quantize_s8/")
    for name in set(a) & set(b) - {OUTPUT}:
        equal_bits(b[name], a[name], name)
    step = full.tensors[OUTPUT]["scale"]
    assert np.abs(step * b[OUTPUT] - a[OUTPUT]).max() <= 0.51 * step
    # Integers go in as they are.
    engine = make_engine(full.plan, full.arrays)
    equal_bits(engine.run([a["blocks.0.in.s8"]]), engine.run([x]), OUTPUT)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_near(name: str) -> None:
    """Dynamic to the float network, with int8 ends to the one with float ends."""
    x = features(name, 77, 200)
    pairs = [
        (float_plan(name), scheme_plan(name, "dynamic")),
        (quantized(name, lambda _: "int8"), scheme_plan(name, "int8-full")),
    ]
    for a, b in pairs:
        outputs = [make_engine(plan.plan, plan.arrays).run([x])[0] for plan in (a, b)]
        assert cosine(*outputs) > 0.999


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NETWORKS)
def test_each_recording_as_if_alone(name: str, scheme: str, threads: int) -> None:
    """Lists of any lengths, in one chunk and in several."""
    b = scheme_plan(name, scheme)
    recordings = [features(name, n, n) for n in (300, 5, 17, 4200, CHUNK + 1, 61)]
    alone = make_engine(b.plan, b.arrays, threads=1)
    engine = make_engine(b.plan, b.arrays, threads=threads)
    expected = np.concatenate([alone.run([x]) for x in recordings])
    equal_bits(engine.run(recordings), expected, output_of(b))
    end = output_of(b)
    for x, row in zip(recordings, expected, strict=True):
        whole = alone.trace(x)[0][end]
        if scheme == "int8-full":
            whole = np.float32(b.tensors[end]["scale"]) * whole.astype(np.float32)
        equal_bits(row, whole, end)


def within_res2(name: str) -> str:
    """A chain that is kept over stages, and in it a step that overwrites what it reads near."""
    if name.endswith("res2net_block.blocks.1"):
        return "fp32"
    return "dynamic"


MIXED: dict[str, Choice] = {
    "float step in a dynamic Res2 chain": within_res2,
    "int8 step in a dynamic Res2 chain": lambda name: (
        "int8" if name.endswith("blocks.1") else "dynamic"
    ),
    "dynamic step in an int8 Res2 chain": lambda name: (
        "dynamic" if name.endswith("blocks.1") else "int8"
    ),
    "dynamic ends": lambda name: "dynamic" if name in ("blocks.0", "fc", "asp.conv") else "int8",
    "dynamic after int8": lambda name: "dynamic" if name == "mfa" else "int8",
    "dynamic squeeze": lambda name: "dynamic" if "se_block" in name else "fp32",
    "dynamic pooling": lambda name: "dynamic" if name.startswith("asp") else "fp32",
    "float tanh": lambda name: "fp32" if name == "asp.tdnn" else "dynamic",
    "dynamic tanh": lambda name: "dynamic" if name == "asp.tdnn" else "fp32",
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("mixed", MIXED)
def test_mixed_precisions(mixed: str, full: bool) -> None:
    """Near the float network and, where a recording takes several chunks, as in one."""
    b = quantized("ecapa", MIXED[mixed], full)
    plan = float_plan("ecapa")
    x = features("ecapa", 3, 90)
    exact = make_engine(plan.plan, plan.arrays).run([x])[0]
    assert cosine(make_engine(b.plan, b.arrays).run([x])[0], exact) > 0.97
    oracle = network.run(b.plan, b.arrays, x)[OUTPUT]
    for isa in _C.available_isas():
        traced = make_engine(b.plan, b.arrays, isa=isa).trace(x)[0][OUTPUT]
        assert cosine(traced, oracle) > 0.9999
    long = features("ecapa", 4, 2 * CHUNK + 100)
    engine = make_engine(b.plan, b.arrays, threads=2)
    whole = engine.trace(long)[0][OUTPUT]
    equal_bits(engine.run([long], quantized=full)[0], whole, OUTPUT)


def test_a_fully_integer_plan_with_float_ends_inside() -> None:
    b = quantized("ecapa", lambda name: "fp32" if name in ("blocks.0", "fc") else "int8", full=True)
    assert [b.tensors[name]["dtype"] for name in ("input", OUTPUT)] == ["s8", "s8"]
    assert b.ops[0]["op"] == "dequantize_f32"
    assert b.ops[-1]["op"] == "quantize_s8"
    resnet = quantized("resnet", lambda name: "dynamic", full=True)
    assert resnet.tensors[SCORES]["dtype"] == "s8"


def test_an_hour_is_bounded_in_memory() -> None:
    config = EcapaConfig()
    plan = lower_ecapa(config, random_state(config))
    b = mixed_plan(plan, [], lambda _: "dynamic")
    assert make_engine(b.plan, b.arrays).arena_bytes(360_001) < 12 * 2**30
    assert make_engine(b.plan, b.arrays).arena_bytes(300) < 48 * 2**20


# Plans that make no sense.


def spoilt_ends(**changes: Any) -> PlanBuilder:
    b = scheme_plan("ecapa", "int8-full")
    for tensor, attributes in changes.items():
        b.tensors[tensor].update(attributes)
    return b


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({OUTPUT: {"scale": 0}}, "'embedding' is s8 and has no scale"),
        ({OUTPUT: {"scale": -1.0}}, "tensor 'embedding': scale -1"),
        ({OUTPUT: {"scale": float("nan")}}, "tensor 'embedding': scale"),
        ({OUTPUT: {"scale": float("inf")}}, "tensor 'embedding': scale inf"),
        ({"input": {"scale": 1e-39}}, "tensor 'input': scale"),
        ({"input": {"zero_point": 128}}, "zero point 128"),
    ],
)
def test_ends_that_make_no_sense(changes: dict[str, Any], reason: str) -> None:
    b = spoilt_ends(**changes)
    with pytest.raises(ValueError, match=reason):
        make_engine(b.plan, b.arrays)


def test_what_an_input_without_a_scale_takes() -> None:
    b = spoilt_ends(input={"scale": 0})
    engine = make_engine(b.plan, b.arrays)
    x = features("ecapa", 0, 20)
    for call in (engine.trace, engine.profile, lambda x: engine.run([x])):
        with pytest.raises(ValueError, match="features must be contiguous int8"):
            call(x)
    assert engine.run([np.zeros((20, SMALL.n_mels), np.int8)]).shape == (1, SMALL.embedding)


@pytest.mark.parametrize("scheme", ["dynamic", "fp32"])
def test_float_outputs_are_not_int8(scheme: str) -> None:
    b = float_plan("ecapa") if scheme == "fp32" else scheme_plan("ecapa", scheme)
    engine = make_engine(b.plan, b.arrays)
    with pytest.raises(ValueError, match="'embedding' is float32, not int8"):
        engine.run([features("ecapa", 0, 20)], quantized=True)
    with pytest.raises(ValueError, match="features must be contiguous float32"):
        engine.run([np.zeros((20, SMALL.n_mels), np.int8)])


# Files.


def waves() -> list[Array]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=n) * 0.1).astype(np.float32) for n in (16000, 9000, 24000)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model file of each scheme."""
    folder = tmp_path_factory.mktemp("schemes")
    net = torch_network(SMALL, random_state(SMALL))
    paths = {}
    for scheme in ("fp32", "dynamic", "int8", "int8-full"):
        paths[scheme] = folder / f"{scheme}.earmark"
        calibration = waves() if scheme.startswith("int8") else ()
        earmark.quantize(net, calibration, scheme=scheme).save(paths[scheme])
    return paths


def test_a_dynamic_file_needs_no_calibration(files: dict[str, Path]) -> None:
    model = earmark.load(files["dynamic"])
    info = model.info()
    assert info["scheme"] == "dynamic"
    assert info["calibration"] is None
    assert (
        info["input"] == info["output"] == {"dtype": "float32", "scale": None, "zero_point": None}
    )
    assert {layer["precision"] for layer in info["layers"]} == {"dynamic"}
    exact = earmark.load(files["fp32"]).embed(waves())
    assert cosine_score(model.embed(waves()), exact).min() > 0.999
    assert model.embedding_scale is None
    with pytest.raises(ValueError, match="float32, not int8"):
        model.embed(waves(), quantized=True)


def test_embeddings_of_int8_full(files: dict[str, Path]) -> None:
    model = earmark.load(files["int8-full"])
    real, integers = model.embed(waves()), model.embed(waves(), quantized=True)
    assert (real.dtype, integers.dtype) == (np.float32, np.int8)
    assert model.embedding_scale is not None
    equal_bits(np.float32(model.embedding_scale) * integers.astype(np.float32), real, "embedding")
    np.testing.assert_allclose(
        cosine_score(integers[0], integers[1:]), cosine_score(real[0], real[1:]), atol=1e-6
    )
    assert np.abs(integers).max() > 60
    assert cosine_score(earmark.load(files["int8"]).embed(waves()), real).min() > 0.999
    rows = [row for _, row, _ in model.embed_each(waves(), quantized=True)]
    np.testing.assert_array_equal(np.stack(rows), integers)
    assert model.embed([], quantized=True).dtype == np.int8


def test_features_of_int8_full(files: dict[str, Path]) -> None:
    """float32 ones are quantized with the file's scale and zero point, int8 ones taken as given."""
    model: Embedder = earmark.load(files["int8-full"])
    x = random_features(5, 60, SMALL.n_mels)
    ends = model.info()["input"]
    assert ends["dtype"] == "int8"
    q = np.clip(np.rint(x * np.float32(1 / ends["scale"])) + ends["zero_point"], -128, 127)
    integers = q.astype(np.int8)
    equal_bits(model.embed_features(integers), model.embed_features(x), "embedding")
    equal_bits(
        model.embed_features([x, integers], quantized=True)[0],
        model.embed_features(integers, quantized=True)[0],
        "embedding",
    )
    assert model.profile(x)[0]["op"] == "conv_s8"
    with pytest.raises(ValueError, match="features 0: shape"):
        model.embed_features(integers[:, :-1])


def test_info_tells_what_goes_in_and_out(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(files["int8-full"])]) == 0
    text = capsys.readouterr().out
    assert re.search(r"input +int8, scale \S+, zero point -?\d+", text)
    assert re.search(r"output +int8, scale \S+, zero point 0", text)
    assert main(["info", str(files["dynamic"])]) == 0
    assert re.search(r"output +float32", capsys.readouterr().out)
