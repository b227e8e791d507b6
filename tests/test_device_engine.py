"""Whole networks on a CUDA device against the CPU's engine: integers bit for bit.

Without a GPU the device's code, kernels and engine alike, runs over tests/emulation/.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import earmark
from earmark import _C, _device_emulated, cli, modelfile
from earmark.lowering.ecapa import lower_ecapa
from earmark.nn.config import EcapaConfig
from earmark.plan import OUTPUT, SCORES, PlanBuilder, make_engine

from .devices import MODULES, Array, DeviceCopy
from .modelfiles import network_model
from .networks import (
    SMALL,
    SMALL_RESNET,
    int8_plan,
    mixed_plan,
    random_features,
    random_int8_plan,
    random_resnet,
    random_state,
    resnet_plan,
)
from .plans import equal_bits

DATA = Path(earmark.__file__).parent / "data"
DEMO = DATA / "demo-int8.earmark"

# Chunks of 32 channels, which the fused chain takes; SMALL's it leaves to the ops one by one.
CHAINED = EcapaConfig(
    n_mels=20,
    channels=(128, 128, 128, 128, 160),
    attention_channels=16,
    res2_scale=4,
    se_channels=8,
    embedding=24,
)


@pytest.fixture(params=list(MODULES))
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the device's engine, as the package then sees it."""
    module = MODULES[request.param]
    monkeypatch.setattr("earmark.devices._cuda", module)
    return module


def plan_of(scheme: str, config: EcapaConfig = SMALL) -> PlanBuilder:
    """A random network of that scheme, calibrated on three recordings."""
    plan = lower_ecapa(config, random_state(config))
    recordings = [random_features(i, 60 + 40 * i, config.n_mels) for i in range(3)]
    if scheme == "fp32":
        return plan
    if scheme == "mixed":
        return int8_plan(plan, recordings, lambda name: name.startswith("blocks.2") or name == "fc")
    if scheme == "int8-full":
        return mixed_plan(plan, recordings, lambda name: "int8", integer_ends=True)
    return mixed_plan(plan, recordings, lambda name: scheme)


def both(builder: PlanBuilder) -> tuple[_C.Engine, Any]:
    """The CPU's engine and the device's."""
    cpu = make_engine(builder.plan, builder.arrays, threads=1)
    return cpu, make_engine(builder.plan, builder.arrays, ordinal=0)


def batch(n_mels: int, lengths: tuple[int, ...]) -> list[Array]:
    return [random_features(10 + i, n, n_mels) for i, n in enumerate(lengths)]


@pytest.mark.parametrize(
    "scheme", ["int8", "int8-full", "dynamic", "int16", "w8a16", "w4a16", "w16a8"]
)
def test_integer_networks_have_the_cpu_s_bits(cuda: Any, scheme: str) -> None:
    """Every tensor of one recording, and the outputs of a ragged batch."""
    builder = plan_of(scheme)
    cpu, device = both(builder)
    features = batch(SMALL.n_mels, (5, 33, 6))
    expected, _ = cpu.trace(features[1])
    traced, kernels = device.trace(features[1])
    assert set(traced) == set(expected)
    for name, values in expected.items():
        equal_bits(traced[name], values, name)
    for op in builder.ops:
        # A layer of a vector is a convolution of one position.
        kernel = "conv_s16" if op["op"] == "dense_s16" else op["op"]
        assert kernels[op["name"]].split("/")[0] == kernel
    equal_bits(device.run(features), cpu.run(features), scheme)
    if scheme == "int8-full":
        quantized = cpu.run(features, quantized=True)
        equal_bits(device.run(features, quantized=True), quantized, "int8 outputs")


def test_the_fused_kernels_change_no_bit(cuda: Any) -> None:
    """The chain and squeeze-excitation as one kernel each, which `profile` names."""
    builder = random_int8_plan(CHAINED)
    cpu, device = both(builder)
    features = batch(CHAINED.n_mels, (70, 5))
    equal_bits(device.run(features), cpu.run(features), "embedding")
    profile = device.profile(features[0])
    kinds = [entry["op"] for entry in profile]
    assert kinds.count("res2_s8") == 3
    assert kinds.count("squeeze_excitation_s8") == 3
    assert {"res2_s8", "squeeze_excitation_s8"} <= {e["kernel"].split("/")[0] for e in profile}
    # The same multiplications, counted by fewer entries.
    assert sum(e["macs"] for e in profile) == sum(e["macs"] for e in cpu.profile(features[0]))
    assert not {"res2_s8", "squeeze_excitation_s8"} & {
        kernel.split("/")[0] for kernel in device.trace(features[0])[1].values()
    }


def test_the_demo_network(cuda: Any) -> None:
    model = modelfile.read(DEMO)
    arrays = model.decoded_arrays()
    cpu = make_engine(model.plan, arrays, threads=1)
    device = make_engine(model.plan, arrays, ordinal=0)
    features = batch(80, (5, 19))
    equal_bits(device.run(features), cpu.run(features), "embedding")


@pytest.mark.parametrize("scheme", ["fp32", "mixed"])
def test_float32_layers(cuda: Any, scheme: str) -> None:
    """As near to float64 as the CPU's float32 is; the sums have another order."""
    builder = plan_of(scheme)
    cpu, device = both(builder)
    features = batch(SMALL.n_mels, (40, 7))
    expected = cpu.run(features)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(device.run(features), expected, atol=2e-5 * scale, rtol=0)


def test_precisions_beside_each_other(cuda: Any) -> None:
    """One layer after another in each of them."""
    network = lower_ecapa(SMALL, random_state(SMALL))
    recordings = [random_features(i, 60 + 40 * i, SMALL.n_mels) for i in range(3)]
    mix = ["int8", "int16", "w8a16", "w16a8", "w4a16", "dynamic"]
    order = {op["name"]: mix[i % len(mix)] for i, op in enumerate(network.ops)}
    builder = mixed_plan(network, recordings, lambda name: order[name])
    assert {"conv_s8", "conv_s16", "range_f32"} <= {op["op"] for op in builder.ops}
    cpu, device = both(builder)
    features = batch(SMALL.n_mels, (5, 33))
    equal_bits(device.run(features), cpu.run(features), "embedding")


@pytest.mark.parametrize("scheme", ["int8", "int16", "fp32"])
def test_a_sound_network(cuda: Any, scheme: str) -> None:
    """Two dimensions, strides, pooling; recordings of other lengths behind each stride."""
    builder = resnet_plan(random_resnet(SMALL_RESNET))
    if scheme != "fp32":
        recordings = [random_features(i, 40, SMALL_RESNET.n_mels) for i in range(2)]
        builder = mixed_plan(builder, recordings, lambda name: scheme)
    cpu, device = both(builder)
    features = batch(SMALL_RESNET.n_mels, (17, 30))
    expected = cpu.run(features)
    if scheme != "fp32":
        equal_bits(device.run(features), expected, SCORES)
    else:
        scale = np.abs(expected).max()
        np.testing.assert_allclose(device.run(features), expected, atol=2e-5 * scale, rtol=0)


def test_a_recording_alone_in_a_batch_again_and_in_parts(cuda: Any) -> None:
    """Repeated shapes go by another way than the first; a small budget divides the batch."""
    builder = random_int8_plan(SMALL)
    cpu, device = both(builder)
    features = batch(SMALL.n_mels, (12, 5, 30, 5))
    expected = cpu.run(features)
    for _ in range(3):
        equal_bits(device.run(features), expected, "batch")
    for item, row in zip(features, expected, strict=True):
        for _ in range(2):
            equal_bits(device.run([item])[0], row, "alone")
    small = cuda.Engine(**arguments(builder), memory=1)
    equal_bits(small.run(features), expected, "parts")
    assert device.run([]).shape == (0, SMALL.embedding)


def arguments(builder: PlanBuilder) -> dict[str, Any]:
    ops = [{**op, "arrays": builder.arrays_of(op)} for op in builder.ops]
    return {"tensors": builder.tensors, "ops": ops}


def test_many_shapes(cuda: Any) -> None:
    """More than the engine remembers, then the first again; memory grows on the way."""
    builder = tiny_plan()
    cpu, device = both(builder)
    for frames in [*range(1, 60), *range(1, 4), 200, 1, 1]:
        item = random_features(frames, frames, 4)
        equal_bits(device.run([item]), cpu.run([item]), str(frames))


def tiny_plan() -> PlanBuilder:
    """Quantized frames, their mean and deviation."""
    b = PlanBuilder()
    b.tensor("input", "frames", "f32", 4)
    b.tensor("q", "frames", "s8", 4, zero_point=3)
    one = {"multiplier": np.float32([2.0]), "offset": np.float32([0.25])}
    b.op("quantize_s8", "quantize", one, **{"in": "input"}, out="q")
    b.tensor(OUTPUT, "vector", "f32", 8)
    unit = {"multiplier": np.ones(1, np.float32)}
    b.op("stats_s8", "stats", unit, **{"in": "q"}, out=OUTPUT, std=True, min_variance=0.0)
    return b


def test_callers_at_the_same_time(cuda: Any) -> None:
    builder = tiny_plan()
    cpu, device = both(builder)
    items = [random_features(i, 3 + i, 4) for i in range(6)]
    expected = [cpu.run([item]) for item in items]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(4):
            if device.run([items[i]]).tobytes() != expected[i].tobytes():
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FRONT_ENDS = {
    "speechbrain": lambda: _C.SpeechBrainFbank(20),
    "log-mel": lambda: _C.LogMel(20),
    "3dspeaker": lambda: _C.KaldiFbank(20, "povey", 1),
    "wespeaker": lambda: _C.KaldiFbank(20, "hamming", 32768),
    "taoruijie": lambda: _C.TaoRuijieFbank(20),
    "nemo": lambda: _C.NemoFbank(20),
}


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_features_have_the_cpu_s_bits(cuda: Any, name: str) -> None:
    """Statistics of the features show all of them."""
    front_end = FRONT_ENDS[name]()
    b = PlanBuilder()
    b.tensor("input", "frames", "f32", 20)
    b.tensor(OUTPUT, "vector", "f32", 40)
    b.op("stats_f32", "stats", **{"in": "input"}, out=OUTPUT, std=True, min_variance=0.0)
    cpu, device = both(b)
    rng = np.random.default_rng(0)
    # The shortest, digital silence within, a length that is no whole number of frames.
    least = front_end.min_samples
    lengths = (least, max(least, 399), 3217)
    waves = [rng.normal(size=n).astype(np.float32) / 9 for n in lengths]
    waves.append(np.concatenate([waves[2], np.zeros(900, np.float32)]))
    equal_bits(device.embed(front_end, waves), cpu.embed(front_end, waves), "features")
    _, kernels = device.trace(front_end, waves[1])
    assert kernels["front_end"] == "normalize_f32"
    spoiled = waves[1].copy()
    spoiled[2] = np.nan
    with pytest.raises(ValueError, match=r"waveform 1: sample 2 is nan"):
        device.embed(front_end, [waves[1], spoiled])
    if least > 1:
        with pytest.raises(ValueError, match=rf"waveform 1: waveform has {least - 1} samples"):
            device.embed(front_end, [waves[1], waves[1][: least - 1]])


@pytest.fixture
def demo(cuda: Any) -> earmark.Embedder:
    model = earmark.load(DEMO, device="cuda")
    assert isinstance(model, earmark.Embedder)
    return model


def test_the_embedder(demo: earmark.Embedder) -> None:
    assert demo.device == "cuda:0"
    assert demo.isa.startswith("sm_")
    assert demo.threads is None
    info = demo.info()
    assert info["device_name"]
    assert any(kernel.startswith("conv_s8") for kernel in info["kernels"])
    rng = np.random.default_rng(1)
    wave = (rng.normal(size=2400) / 20).astype(np.float32)
    expected = earmark.Embedder(DEMO, threads=1)
    equal_bits(demo.embed(wave), expected.embed(wave), "wave")
    with pytest.raises(ValueError, match=r"features 0: .*frames"):
        demo.embed_features(np.zeros((1, 80), np.float32))


@pytest.fixture
def small(cuda: Any, tmp_path: Path) -> earmark.Embedder:
    if cuda is not _device_emulated.cuda:
        pytest.skip("a GPU's arrays are torch's, see test_device_torch.py")
    path = tmp_path / "small.earmark"
    modelfile.write(network_model(), path)
    return earmark.Embedder(path, device="cuda:0")


def test_arrays_on_the_device(small: earmark.Embedder) -> None:
    """Through both protocols, alone, as a list and as a batch; the result stays there if asked."""
    size = small.embedding_size
    features = np.stack(batch(SMALL.n_mels, (9, 9)))
    expected = small.embed_features(features)
    equal_bits(small.embed_features(DeviceCopy(features)), expected, "batch")
    items = [DeviceCopy(item) for item in features]
    equal_bits(small.embed_features(items), expected, "list")
    result = small.embed_features(DeviceCopy(features), out="device")
    assert result.shape == expected.shape
    assert result.dtype == np.float32
    equal_bits(result.numpy(), expected, "copied")
    equal_bits(np.from_dlpack(result), expected, "taken")
    view = result.__cuda_array_interface__
    assert view["shape"] == expected.shape
    kept = np.from_dlpack(result)
    del result
    equal_bits(kept, expected, "outlives its array")
    given = DeviceCopy(np.full_like(expected, 7))
    assert small.embed_features(DeviceCopy(features), out=given) is given
    equal_bits(given.array, expected, "in an array of the caller's")
    with pytest.raises(ValueError, match=rf"out must be float32 of shape \(2, {size}\)"):
        small.embed_features(DeviceCopy(features), out=DeviceCopy(expected[:1]))
    from_host = small.embed_features(features, out="device")
    equal_bits(from_host.numpy(), expected, "from the host")
    wave = (np.random.default_rng(1).normal(size=2400) / 20).astype(np.float32)
    equal_bits(small.embed(DeviceCopy(wave)), small.embed(wave), "waveform")


@pytest.mark.parametrize(
    ("array", "changes", "message"),
    [
        (np.zeros((9, 79), np.float32), {}, r"features must have shape \(frames, 80\)"),
        (np.zeros((9, 80), np.float64), {}, "must be float32 or int8, got <f8"),
        (np.zeros((9, 80), np.float32), {"strides": (4, 36)}, "must be contiguous"),
        (np.zeros((1, 80), np.float32), {}, r"features 0: .*frames"),
        (np.zeros((9, 80), np.int8), {}, "features must be contiguous float32"),
    ],
)
def test_bad_arrays_on_the_device(
    cuda: Any, array: Array, changes: dict[str, Any], message: str
) -> None:
    if cuda is not _device_emulated.cuda:
        pytest.skip("needs no GPU")
    model = earmark.Embedder(DEMO, device="cuda:0")
    with pytest.raises(ValueError, match=message):
        model.embed_features(DeviceCopy(array, **changes))


def test_arrays_in_different_places(cuda: Any, demo: earmark.Embedder) -> None:
    item = np.zeros((9, 80), np.float32)
    with pytest.raises(ValueError, match="item 1 is not on the device and others are"):
        demo.embed_features([DeviceCopy(item), item])
    with pytest.raises(ValueError, match="out is 'disk', expected host, device or an array"):
        demo.embed_features(item, out="disk")
    with pytest.raises(ValueError, match="need a model that was loaded on it"):
        earmark.Embedder(DEMO).embed_features(DeviceCopy(item))
    with pytest.raises(ValueError, match="on the device it must be 16000"):
        demo.embed(DeviceCopy(item[0]), sample_rate=8000)


def test_plans_that_no_device_can_run(cuda: Any) -> None:
    """The CPU's checks are the device's."""
    builder = tiny_plan()
    builder.ops[0]["op"] = "quantise"
    with pytest.raises(ValueError, match="unknown kind 'quantise'"):
        make_engine(builder.plan, builder.arrays, ordinal=0)
    builder = random_int8_plan(SMALL)
    device = make_engine(builder.plan, builder.arrays, ordinal=0)
    short = random_features(0, 2, SMALL.n_mels)
    assert "frame" in device.why_not(2)
    with pytest.raises(ValueError, match="frame"):
        device.run([short])


NAMES = [
    ("cuda:x", "unknown: known are cpu, cuda"),
    ("tpu", "unknown: known are cpu, cuda"),
    ("cuda:7", "no CUDA device 7: there is cuda:0"),
]


@pytest.mark.parametrize(("device", "message"), NAMES)
def test_devices_that_are_not_there(cuda: Any, device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        earmark.load(DEMO, device=device)


class NoDriver:
    """What the extension answers on a machine without a driver."""

    @staticmethod
    def devices() -> list[Any]:
        return []


@pytest.mark.parametrize("module", [NoDriver, None])
def test_no_device_is_said_in_one_line(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("earmark.devices._cuda", module)
    with pytest.raises(ValueError, match=r"^no CUDA device"):
        earmark.load(DEMO, device="cuda")
    recording = next((DATA / "recordings").glob("*.flac"))
    for command in (
        ["info", str(DEMO)],
        ["verify", str(DEMO), str(recording), str(recording)],
        ["embed", str(DEMO), str(recording), "-o", "/dev/null"],
        ["classify", str(DEMO), str(recording)],
    ):
        assert cli.main([*command, "--device", "cuda"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("earmark: error: no CUDA device")
        assert captured.err.count("\n") == 1


def test_info_on_a_device(cuda: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(DEMO), "--device", "cuda"]) == 0
    out = capsys.readouterr().out
    assert "cuda:0" in out
    assert "conv_s8/" in out


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_softmax_over_memory_of_the_caller_s(cuda: Any, dtype: Any) -> None:
    """As torch's op calls it, over the middle dimension."""
    if cuda is not _device_emulated.cuda:
        pytest.skip("a GPU's memory is torch's, see test_device_torch.py")
    rng = np.random.default_rng(0)
    x = (2 * rng.normal(size=(3, 40, 5))).astype(dtype)
    x[0, 1] = -np.inf
    out = np.zeros_like(x)
    breakpoints, slopes = np.float32([-1.0, 0.5]), np.float32([0.5, 2.0, 0.25])
    intercepts, bounds = np.float32([1.0, 2.5, 3.375]), np.float32([0.125, 4.0])
    cuda.pwl_softmax(
        [a.ctypes.data for a in (x, out, breakpoints, slopes, intercepts, bounds)],
        {np.float32: "f32", np.float16: "f16"}[dtype],
        x.shape,
        len(slopes),
        0,
        None,
    )
    wide = x.astype(np.float64)
    piece = np.searchsorted(breakpoints, wide, side="right")
    with np.errstate(invalid="ignore"):
        values = np.clip(wide * slopes[piece] + intercepts[piece], *bounds)
    values[wide == -np.inf] = 0
    expected = values / values.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out, expected, rtol=2e-6 if dtype is np.float32 else 2e-3)
