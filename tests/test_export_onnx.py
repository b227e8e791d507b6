"""Models as ONNX, in ONNX Runtime beside the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="quantizing needs torch")
onnx = pytest.importorskip("onnx", reason="onnx (earmark[onnx]) is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import earmark  # noqa: E402
from commands import Cli  # noqa: E402
from earmark import modelfile  # noqa: E402
from earmark.export import to_onnx  # noqa: E402
from earmark.export.graph import Graph  # noqa: E402
from earmark.export.ops import RUNNERS, Step  # noqa: E402
from earmark.metrics import cosine_score  # noqa: E402
from earmark.modelfile import ModelFile  # noqa: E402
from earmark.nn import SoundResNet  # noqa: E402
from earmark.plan import INPUT, JSON, PlanBuilder, make_engine, trace  # noqa: E402
from earmark.views import Views  # noqa: E402
from networks import SMALL, random_features, random_resnet  # noqa: E402

from .quantized_models import MODELS, quantized_ecapa, resnet  # noqa: E402
from .sounds import CONFIG, LABELS, sound  # noqa: E402

Array = NDArray[Any]
DATA = Path(earmark.__file__).parent / "data"


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> ModelFile:
    return MODELS[request.param]()


def session(exported: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(exported.SerializeToString(), options)


def features_of(model: ModelFile, frames: int, seed: int = 7) -> Array:
    tensor = model.plan["tensors"][INPUT]
    bands = tensor["channels"] * tensor.get("width", 1)
    features = random_features(seed, frames, bands)
    if tensor["dtype"] == "s8":
        return np.clip(np.rint(features), -128, 127).astype(np.int8)
    return features


class Given:
    """In place of what earlier ops wrote: inputs of the graph."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def read(self, name: str) -> str:
        self.names.append(name)
        return f"given.{name}"


def laid_out(values: Array, tensor: JSON) -> Array:
    """As the graph has them: from (time, channels) or (time, width, channels)."""
    if tensor["kind"] == "vector":
        return values[None]
    width = tensor.get("width", 1)
    shaped = values.reshape(-1, width, tensor["channels"])
    moved = np.moveaxis(shaped, 2, 0)
    return moved[None] if width > 1 else moved[None, ..., 0]


def alone(plan: PlanBuilder, op: JSON, values: Views[Array]) -> Array:
    """What an op makes of its inputs, in ONNX Runtime."""
    graph, given = Graph(), Given()
    graph.layer = op["name"]
    out = RUNNERS[op["op"]](Step(graph, plan, op, given))  # type: ignore[arg-type]
    inputs = {name: values.read(name) for name in given.names}
    tensors = plan.tensors
    shapes = {f"given.{n}": (tensors[n]["dtype"], v.shape) for n, v in inputs.items()}
    made = tensors[op["out"]]
    axes = 2 if made["kind"] == "vector" else 4 if made.get("width", 1) > 1 else 3
    described = (out, made["dtype"], [f"n{i}" for i in range(axes)])
    exported = graph.model(shapes, {"out": described}, {})
    feed = {f"given.{name}": np.ascontiguousarray(v) for name, v in inputs.items()}
    result: Array = session(exported).run(None, feed)[0]
    return result


@pytest.mark.parametrize("frames", [9, 70])
def test_every_layer_is_within_one_quantum(model: ModelFile, frames: int) -> None:
    """Given the engine's inputs; where sums lie next to the border between two integers."""
    plan = PlanBuilder.of(model.plan, model.decoded_arrays())
    features = features_of(model, frames)
    traced = trace(make_engine(plan.plan, plan.arrays), features)
    values: Views[Array] = Views(
        plan.plan, lambda v, a, b: v[:, a:b], lambda parts: np.concatenate(parts, axis=1)
    )
    tensor = plan.tensors[INPUT]
    values.write(INPUT, laid_out(features, tensor))
    different = count = 0
    for op in plan.ops:
        out = plan.tensors[op["out"]]
        expected = laid_out(traced[op["out"]], out)
        actual = alone(plan, op, values)
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        if out["dtype"] == "s8":
            error = np.abs(actual.astype(np.int32) - expected)
            assert error.max() <= 1, op["name"]
            different += int(error.sum())
            count += error.size
        else:
            scale = np.abs(expected).max() + 1e-6
            np.testing.assert_allclose(actual, expected, atol=2e-4 * scale, err_msg=op["name"])
        values.write(op["out"], expected)
    assert different <= 1e-3 * count


def test_the_network_gives_the_engine_s_answer(model: ModelFile) -> None:
    runner = earmark.Classifier(model) if "labels" in model.metadata else earmark.Embedder(model)
    run = session(to_onnx(model))
    for frames in (9, 70, 131):
        items = [features_of(model, frames, seed) for seed in range(3)]
        actual = run.run(None, {"features": np.stack(items)})[0]
        if isinstance(runner, earmark.Classifier):
            expected = runner.scores(items)
        elif model.metadata["scheme"] == "int8-full":
            expected = runner.embed_features(items, quantized=True)
        else:
            expected = runner.embed_features(items)
        assert actual.dtype == expected.dtype
        cosines = cosine_score(actual.astype(np.float32), expected.astype(np.float32))
        assert cosines.min() > 0.999


def test_real_recordings() -> None:
    path = DATA / "demo-int8.earmark"
    model = earmark.Embedder(path)
    exported = to_onnx(modelfile.read(path))
    run = session(exported)
    cosines = []
    for recording in sorted((DATA / "recordings").glob("*.flac")):
        wave = earmark.audio.read_audio(recording, target_rate=16000).samples
        features = model.front_end(wave)
        found = run.run(None, {"features": features[None]})[0]
        cosines.append(cosine_score(found, model.embed_features([features]))[0])
    assert min(cosines) > 0.999


def test_what_parsers_accept(model: ModelFile) -> None:
    """Symmetric int8, weights by channel, and no padding by reflection."""
    graph = to_onnx(model).graph
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializer}
    kinds = {node.op_type for node in graph.node}
    assert kinds.isdisjoint({"QLinearConv", "ConvInteger", "DynamicQuantizeLinear"})
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = (constants[name] for name in node.input[1:])
            assert zero.dtype == np.int8
            assert not zero.any()
            assert (scale > 0).all()
        if node.op_type == "Pad":
            assert node.attribute[0].s == b"constant"
    is_integer = model.metadata["scheme"] in ("int8", "int8-full")
    assert ("QuantizeLinear" in kinds) == is_integer


def test_metadata_tell_of_the_network() -> None:
    def told(model: ModelFile) -> dict[str, Any]:
        props = to_onnx(model).metadata_props
        return {prop.key: json.loads(prop.value) for prop in props}

    full = quantized_ecapa(scheme="int8-full")
    found = told(full)
    assert found["earmark.front_end"] == {"name": "speechbrain", "n_mels": SMALL.n_mels}
    assert found["earmark.sample_rate_hz"] == 16000
    tensor = full.plan["tensors"]["embedding"]
    assert found["earmark.embedding_quantization"]["scale"] == tensor["scale"]
    assert told(resnet(all="int8"))["earmark.labels"] == list(LABELS)


@pytest.mark.parametrize(
    ("precision", "reason"),
    [
        ({"all": "dynamic"}, "layer 'blocks.0.in.range': range_f32 has no form in ONNX"),
        ({"fc": "int16"}, "has no form in ONNX"),
    ],
)
def test_what_has_no_form(precision: dict[str, str], reason: str) -> None:
    model = quantized_ecapa(**precision)
    with pytest.raises(ValueError, match="has no form in ONNX") as raised:
        to_onnx(model)
    assert reason in str(raised.value)


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "demo.onnx"
    outcome = cli("export", DATA / "demo-int8.earmark", "--to", "onnx", "-o", out, "--json")
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["file_bytes"] == out.stat().st_size < 2_700_000
    assert result["opset"] == 17
    onnx.checker.check_model(onnx.load(out), full_check=True)
    missing = cli("export", tmp_path / "x.earmark", "--to", "onnx", "-o", tmp_path / "y.onnx")
    assert missing.status == 2
    assert "no such file" in missing.err
    assert not (tmp_path / "y.onnx").exists()


def test_padding_with_zeros_needs_one_zero_point() -> None:
    """Of levelled inputs, whose channels have their own, no such layer is padded."""
    net = SoundResNet(CONFIG, LABELS)
    net.load_state_dict(random_resnet(CONFIG).state_dict())
    model = earmark.quantize(net.eval(), [sound("hiss", 1).astype(np.float32)]).model_file
    plan = PlanBuilder.of(model.plan, model.decoded_arrays())
    op = next(op for op in plan.ops if op["op"] == "conv_s8" and any(op.get("padding", [0])))
    zeros = np.arange(plan.tensors[op["in"]]["channels"]).astype(np.int8)
    if len(zeros) == 1:
        op = [op for op in plan.ops if op["op"] == "conv_s8" and any(op.get("padding", [0]))][1]
        zeros = np.arange(plan.tensors[op["in"]]["channels"]).astype(np.int8)
    changed = {**op, "arrays": [*op["arrays"], "input_zero"]}
    plan.arrays = {**plan.arrays, f"{op['name']}.input_zero": zeros}
    with pytest.raises(ValueError, match="several zero points cannot be padded"):
        RUNNERS["conv_s8"](Step(Graph(), plan, changed, Given()))  # type: ignore[arg-type]
