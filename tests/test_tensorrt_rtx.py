"""Engines of TensorRT-RTX, which it builds without a GPU: from plain ONNX and with the plugins."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

if importlib.util.find_spec("tensorrt_rtx") is None:
    pytest.skip("tensorrt-rtx is not installed", allow_module_level=True)

import earmark
from commands import Cli
from earmark import modelfile
from earmark.export import to_onnx
from earmark.modelfile import ModelFile
from earmark.tensorrt import BuiltEngine, build_engine, plugin_path
from earmark.tensorrt.building import BATCH, FRAMES, Extent
from networks import LARGE, make_network, wave

from .quantized_models import MODELS, resnet

DATA = Path(earmark.__file__).parent / "data"
PLUGINS = {"ConvS8", "AddS8", "Res2S8", "SqueezeExcitationS8", "AttentivePoolS8"}


def build(model: ModelFile, plugins: bool, frames: Extent, batch: Extent = BATCH) -> BuiltEngine:
    library = plugin_path() if plugins else None
    built = build_engine(to_onnx(model, plugins).SerializeToString(), batch, frames, library)
    assert built.builder.startswith("tensorrt_rtx 1.7.1")
    assert built.data
    return built


def check_plugins(built: BuiltEngine, expected: set[str]) -> None:
    """Integer layers over time are ours, and nothing that they read is anything but int8 or the
    floats of a vector."""
    ours = [layer for layer in built.layers if layer["type"] == "custom_layer"]
    kinds = {layer["name"].split("/Earmark")[1].split("_")[0] for layer in ours}
    assert kinds == expected
    for layer in ours:
        assert layer["inputs"][0] == "Int8"
        assert set(layer["inputs"]) <= {"Int8", "Float"}
    # What is left for others over time: the statistics of the attention's context. "correlation" is
    # this builder's word for a convolution, which the test of plain ONNX relies on.
    assert not [layer for layer in built.layers if layer["type"] == "correlation"]


def has_plugins() -> bool:
    try:
        return plugin_path().is_file()
    except RuntimeError:
        return False


needs_plugins = pytest.mark.skipif(not has_plugins(), reason="built without nvcc")


@needs_plugins
@pytest.mark.parametrize(("batch", "frames"), [(BATCH, FRAMES), ((1, 1, 1), (300, 300, 300))])
def test_the_demonstration_network_with_plugins(batch: Extent, frames: Extent) -> None:
    model = modelfile.read(DATA / "demo-int8.earmark")
    built = build(model, True, frames, batch)
    check_plugins(built, PLUGINS)
    assert len(built.data) > 2_000_000  # the weights are in it


@needs_plugins
def test_a_network_of_1024_channels_with_plugins() -> None:
    model = earmark.quantize(make_network(LARGE), [wave(0)]).model_file
    built = build(model, True, FRAMES)
    check_plugins(built, PLUGINS)


@needs_plugins
@pytest.mark.parametrize("softmax", ["pwl", "table"])
def test_another_softmax_with_plugins(softmax: str) -> None:
    built = build(MODELS[softmax](), True, FRAMES)
    # Chains are of multiples of 32 channels.
    check_plugins(built, PLUGINS - {"Res2S8"})


@needs_plugins
def test_layers_of_other_precisions_are_standard_nodes() -> None:
    built = build(MODELS["mixed"](), True, FRAMES)
    kinds = {layer["type"] for layer in built.layers}
    assert "custom_layer" in kinds


@pytest.mark.parametrize("kind", ["demo", "pwl", "sounds"])
def test_plain_onnx_is_computed_in_int8(kind: str) -> None:
    """Convolutions and dense layers; but for those of images that are padded, behind a Pad."""
    if kind == "demo":
        model = modelfile.read(DATA / "demo-int8.earmark")
    else:
        model = resnet(all="int8") if kind == "sounds" else MODELS[kind]()
    built = build(model, False, FRAMES)
    weighed = [layer for layer in built.layers if layer["type"] in ("correlation", "gemm")]
    assert {layer["type"] for layer in weighed} == {"correlation", "gemm"}
    floats = {layer["name"].split("/")[0] for layer in weighed if set(layer["inputs"]) != {"Int8"}}
    images = [op for op in model.plan["ops"] if op.get("kernel", [1, 1])[1] > 1]
    assert floats == {op["name"] for op in images if op["op"] == "conv_s8"}


@needs_plugins
def test_the_command(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "demo.engine"
    command = ["export", DATA / "demo-int8.earmark", "--to", "tensorrt", "--plugins", "-o", out]
    outcome = cli(*command, "--json", "--frames", "100,200,500", "--batch", "4")
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["file_bytes"] == out.stat().st_size > 2_000_000
    assert result["frames"] == [100, 200, 500]
    assert result["batch"] == [4, 4, 4]
    assert 0 < result["plugins"] < result["layers"]
    out.unlink()
    for option, reason in (
        (("--frames", "2,200,500"), "--frames begins at 2, the model takes 5 or more"),
        (("--frames", "300,200,500"), "must be such as 50,300,3000 or 300, got '300,200,500'"),
        (("--batch", "x"), "got 'x'"),
    ):
        outcome = cli(*command, *option)
        assert outcome.status == 2
        assert reason in outcome.err
        assert not out.exists()


def test_what_is_no_model_is_an_error() -> None:
    """With the builder's words; the process that it may end is not this one."""
    with pytest.raises(RuntimeError, match="tensorrt_rtx"):
        build_engine(b"no ONNX")
    with pytest.raises(ValueError, match=r"frames is \(3, 2, 1\)"):
        build_engine(b"", frames=(3, 2, 1))
