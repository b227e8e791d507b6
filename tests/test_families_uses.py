"""What else is done with networks, with those of every family: devices, plugins, ONNX, training,
compression."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import earmark  # noqa: E402
from earmark.lowering import lower  # noqa: E402
from earmark.metrics import cosine_score  # noqa: E402
from earmark.nn import EcapaTdnn, PiecewiseLinearSoftmax, replace_softmax  # noqa: E402
from earmark.plan import PlanBuilder, make_engine, trace  # noqa: E402
from earmark.quantization import LoweredNetwork  # noqa: E402
from earmark.quantization.equalization import adjustable  # noqa: E402
from earmark.training.checkpoint import write_tensors  # noqa: E402
from earmark.training.fake_quantization import FakeQuantizedPlan  # noqa: E402
from networks import int8_plan, random_features  # noqa: E402
from paths import one_torch_thread  # noqa: E402
from plans import equal_bits  # noqa: E402
from toolkit_networks import SMALL, VARIANTS, features  # noqa: E402

from .devices import MODULES  # noqa: E402
from .test_compression_gradients import check_derivatives  # noqa: E402

# Chunks of 32 channels, which fused chains take.
CHAINED = {"width": 128, "aggregated": 160}
RECORDINGS = [random_features(i, 80, SMALL["mels"]) for i in range(5)]
WAVES = [np.random.default_rng(i).normal(size=16000) * 0.1 for i in range(3)]

each_variant = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def loaded(name: str, path: Path, **sizes: Any) -> EcapaTdnn:
    variant = VARIANTS[name]
    return variant.load(variant.network(**sizes), path / "weights.ckpt")


def float_plan(net: EcapaTdnn) -> PlanBuilder:
    return lower(net, {key: value.numpy() for key, value in net.state_dict().items()})


@pytest.mark.parametrize("device", MODULES)
@pytest.mark.parametrize("sizes", [{}, CHAINED], ids=["small", "chained"])
@each_variant
def test_devices(
    name: str, sizes: Any, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor and the outputs of a ragged batch with the CPU's bits, fused or not."""
    monkeypatch.setattr("earmark.devices._cuda", MODULES[device])
    net = loaded(name, tmp_path, **sizes)
    b = int8_plan(float_plan(net), RECORDINGS)
    cpu = make_engine(b.plan, b.arrays, threads=1)
    cuda = make_engine(b.plan, b.arrays, ordinal=0)
    assert cuda.min_length == cpu.min_length
    shortest = net.config.min_frames
    batch = [random_features(9, n, SMALL["mels"]) for n in (shortest, 33, shortest + 1)]
    expected = trace(cpu, batch[1])
    for tensor, values in cuda.trace(batch[1])[0].items():
        equal_bits(values, expected[tensor], tensor)
    equal_bits(cuda.run(batch), cpu.run(batch), "embedding")
    kinds = [entry["op"] for entry in cuda.profile(batch[1])]
    chained = bool(sizes) and net.config.res2 != "grouped"
    assert kinds.count("res2_s8") == (3 if chained else 0)
    assert kinds.count("squeeze_excitation_s8") == 3


@each_variant
def test_plugins(name: str, tmp_path: Path) -> None:
    """Chains of chunks with the engine's bits, whichever of them passes."""
    pytest.importorskip("onnx")
    from earmark.export import to_onnx
    from earmark.tensorrt import fields as plugin_fields

    from .test_plugins import Library, Network

    net = loaded(name, tmp_path, **CHAINED)
    model = earmark.quantize(net, WAVES).model_file
    nodes = [node.op_type for node in to_onnx(model, plugins=True).graph.node]
    grouped = net.config.res2 == "grouped"
    assert nodes.count("EarmarkRes2S8") == (0 if grouped else 3)
    assert nodes.count("EarmarkSqueezeExcitationS8") == 3
    if grouped:
        return
    library = Library("emulated")
    network = Network(model, 29, 2)
    chain = [op for op in network.plan.ops if op["name"].startswith("blocks.2.res2net_block.")]
    convs = [op for op in chain if op["op"] == "conv_s8"]
    adds = [op for op in chain if op["op"] == "add_s8"]
    given = []
    network.compare(
        lambda op, values: (
            given.append(values.read("blocks.2.tdnn1.out")) if op is convs[0] else None
        )
    )
    ends = "blocks.2.tdnn1.out", "blocks.2.res2net_block.out"
    fields = plugin_fields.res2_fields(network.plan, *ends, convs, adds)
    plugin = library.create("EarmarkRes2S8", fields)
    chunks = np.split(library.run(plugin, given[0]), 4, axis=-1)
    passing, *steps = (np.ascontiguousarray(chunks[at]) for at in fields["out_at"])
    before = np.split(given[0], 4, axis=-1)[fields["in_at"][0]]
    equal_bits(passing, np.ascontiguousarray(before), "what passes")
    for op, step in zip(convs, steps, strict=True):
        equal_bits(step, network.expected[op["out"]], op["name"])


@each_variant
@pytest.mark.parametrize("scheme", ["int8", "fp32"])
def test_onnx(name: str, scheme: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    from earmark.export import to_onnx

    net = loaded(name, tmp_path)
    model = earmark.quantize(net, WAVES, scheme=scheme).model_file
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    run = ort.InferenceSession(to_onnx(model).SerializeToString(), options)
    for frames in (net.config.min_frames, 70):
        items = [random_features(seed, frames, SMALL["mels"]) for seed in range(3)]
        found = run.run(None, {"features": np.stack(items)})[0]
        expected = earmark.Embedder(model).embed_features(items)
        assert cosine_score(found, expected).min() > (0.999999 if scheme == "fp32" else 0.999)


@each_variant
def test_fake_quantization(name: str, tmp_path: Path) -> None:
    b = int8_plan(float_plan(loaded(name, tmp_path)), RECORDINGS)
    layers = [op["name"] for op in b.ops if "weight" in op["arrays"]]
    module = FakeQuantizedPlan(b, dict.fromkeys(layers, 127))
    feats = features(4, 60)
    with torch.no_grad():
        found = module(feats).numpy()
    expected = make_engine(b.plan, b.arrays).run(list(feats.numpy()))
    assert cosine_score(found, expected).min() > 0.9999
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@each_variant
def test_derivatives(name: str, tmp_path: Path) -> None:
    b = int8_plan(float_plan(loaded(name, tmp_path)), RECORDINGS)
    check_derivatives(b, random_features(9, 90, SMALL["mels"]))


@each_variant
def test_another_softmax(name: str, tmp_path: Path) -> None:
    """Replaced, fitted and lowered; the network's own is the same but for its shape."""
    net = loaded(name, tmp_path)
    exact = net.embed(WAVES)
    replaced = replace_softmax(net, PiecewiseLinearSoftmax(segments=4), WAVES)
    assert cosine_score(replaced.embed(WAVES), exact).min() > 0.98
    found = earmark.quantize(replaced, WAVES, scheme="fp32").embed(WAVES)
    np.testing.assert_allclose(found, replaced.embed(WAVES), rtol=1e-3, atol=1e-4)


@each_variant
def test_a_trained_file_says_its_family(name: str, tmp_path: Path) -> None:
    """As `earmark finetune` writes it: our keys, with family and config beside them."""
    net = loaded(name, tmp_path)
    path = tmp_path / "model.safetensors"
    described = {"family": net.family, "config": net.config.to_dict()}
    write_tensors(path, net.state_dict(), described)
    for family in (None, net.family):
        again = earmark.load_checkpoint(path, family)
        assert (again.family, again.config) == (net.family, net.config)
        assert torch.equal(again(features(1, 30)), net(features(1, 30)))


@each_variant
def test_floors_that_matter_are_not_equalized(name: str, tmp_path: Path) -> None:
    """Dividing channels would move a floor of variances with them."""
    b = float_plan(loaded(name, tmp_path))
    equalized = {found.tensor for found in adjustable(b)}
    assert ("mfa.out" in equalized) == (name != "taoruijie")


def test_names_of_layers(tmp_path: Path) -> None:
    """Those of the module, whatever the toolkit calls them."""
    layers = LoweredNetwork(loaded("nemo", tmp_path)).layers
    assert "blocks.1.res2net_block.groups.0" in layers
    layers = LoweredNetwork(loaded("taoruijie", tmp_path)).layers
    assert {"blocks.1.res2net_block.blocks.0", "asp.tdnn.context"} <= set(layers)
