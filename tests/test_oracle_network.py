"""The oracle's walk over a plan, its plans of random networks, and its reading of files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from earmark.plan import PlanBuilder
from networks import SMALL, random_features, random_int8_plan
from oracle import network, ops


@pytest.fixture(scope="module")
def small() -> PlanBuilder:
    return random_int8_plan(SMALL)


def frames(channels: int, **more: Any) -> dict[str, Any]:
    return {"kind": "frames", "dtype": "s8", "channels": channels, "zero_point": 0, **more}


def test_random_networks_are_lively(small: PlanBuilder) -> None:
    assert json.loads(json.dumps(small.plan)) == small.plan
    outputs = network.run(small.plan, small.arrays, random_features(8, 50, SMALL.n_mels))
    assert set(outputs) == {op["out"] for op in small.ops}
    assert {"blocks.3.out", "mfa.out", "asp.hidden", "asp.out", "embedding"} <= set(outputs)
    for name, values in outputs.items():
        tensor = small.tensors[name]
        rows = (50,) if tensor["kind"] == "frames" else ()
        assert values.shape == (*rows, tensor["channels"]), name
        assert values.dtype == {"s8": np.int8, "f32": np.float32}[tensor["dtype"]], name
        if values.dtype == np.int8 and values.size > 1000:
            assert 5 < values.std() < 110, name
            assert (np.abs(values.astype(int) + 0.5) > 127).mean() < 0.15, name
    assert np.isfinite(outputs["embedding"]).all()
    for name, array in small.arrays.items():
        magnitude = np.abs(array[array != 0].astype(np.float64))
        assert ((magnitude >= 2.0**-126) & (magnitude <= 2.0**40)).all(), name


def test_random_networks_repeat_and_differ() -> None:
    features = random_features(8, 50, SMALL.n_mels)
    first, again, other = (
        network.run(b.plan, b.arrays, features)["embedding"]
        for b in (random_int8_plan(SMALL, seed) for seed in (1, 1, 2))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_one_quantum_of_the_input_reaches_the_embedding(small: PlanBuilder) -> None:
    features = random_features(8, 50, SMALL.n_mels)
    changed = features.copy()
    changed[20] += 1 / small.arrays["blocks.0.in.quantize.multiplier"]
    a, b = (network.run(small.plan, small.arrays, x)["embedding"] for x in (features, changed))
    assert (a != b).any()


def test_shortest_recording(small: PlanBuilder) -> None:
    # Block 3 pads by 4 frames and reflects, so 5 are needed.
    network.run(small.plan, small.arrays, random_features(1, 5, SMALL.n_mels))
    for length in (0, 1, 4):
        features = np.zeros((length, SMALL.n_mels), np.float32)
        with pytest.raises(ValueError, match="frames"):
            network.run(small.plan, small.arrays, features)


@pytest.mark.parametrize("shape", [(9, 19), (9, 21), (20,), (1, 9, 20)])
def test_features_of_another_shape_are_refused(small: PlanBuilder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="features"):
        network.run(small.plan, small.arrays, np.zeros(shape, np.float32))


def test_views_are_written_into_their_base() -> None:
    tensors = {
        "base": frames(4),
        "left": frames(2, of="base", offset=0),
        "right": frames(2, of="base", offset=2),
    }
    net = network.Network(tensors, {})
    left, right = np.full((3, 1, 2), 1, np.int8), np.full((3, 1, 2), 2, np.int8)
    net.write("left", left)
    with pytest.raises(ValueError, match="read before"):
        net.read("base")
    net.write("right", right)
    assert net.read("base").tolist() == [[1, 1, 2, 2]] * 3
    net.write("left", right)
    assert net.read("base").tolist() == [[2, 2, 2, 2]] * 3
    with pytest.raises(ValueError, match="3"):
        net.write("right", np.zeros((4, 1, 2), np.int8))


def test_nothing_may_read_what_another_tensor_lies_over() -> None:
    net = network.Network({"base": frames(2), "made": frames(2, over="base")}, {})
    net.write("base", np.ones((3, 1, 2), np.int8))
    net.write("made", np.zeros((3, 1, 2), np.int8))
    assert net.read("made").tolist() == [[0, 0]] * 3
    with pytest.raises(ValueError, match="read before"):
        net.read("base")


def test_width_and_float_layers() -> None:
    """A small float32 network over (time, width, channel), its float64 truth from torch."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        name: {"kind": kind, "dtype": "f32", "channels": channels, "width": width}
        for name, kind, channels, width in (
            ("input", "frames", 1, 6),
            ("x", "frames", 4, 3),
            ("sum", "frames", 4, 3),
            ("mean", "vector", 4, 1),
            ("gate", "vector", 4, 1),
            ("embedding", "vector", 8, 1),
        )
    }
    shapes = {"w": (4, 3, 3, 1), "b": (4,), "dw": (4, 4), "db": (4,), "aw": (4, 4), "ab": (4,)}
    arrays = {name: ops.f32(rng.normal(size=shape)) for name, shape in shapes.items()}
    stored = {
        f"{op}.{role}": arrays[key] if role == "weight" else arrays[key][None]
        for op, weight, bias in (("x", "w", "b"), ("gate", "dw", "db"), ("embedding", "aw", "ab"))
        for role, key in (("weight", weight), ("epilogue", bias))
    }
    geometry = {"kernel": [3, 3], "stride": [1, 2], "padding": [1, 1], "pad_mode": "reflect"}
    layer = {"arrays": ["epilogue", "weight"]}
    plan_ops = [
        {"op": "conv_f32", "in": "input", "out": "x", **geometry, "relu": True, **layer},
        {"op": "stats_f32", "in": "x", "out": "mean", "arrays": []},
        {"op": "dense_f32", "in": "mean", "out": "gate", "activation": "sigmoid", **layer},
        {"op": "add_f32", "in": "x", "out": "sum", "residual": "x", "gate": "gate", "arrays": []},
        {"op": "attentive_pool_f32", "in": "x", "values": "sum", "out": "embedding",
         "min_variance": 1e-12, **layer},
    ]  # fmt: skip
    plan = {"tensors": tensors, "ops": [{"name": op["out"], **op} for op in plan_ops]}
    features = random_features(1, 7, 6) / np.float32(10)
    outputs = network.run(plan, stored, features[..., None])
    assert outputs["x"].shape == (7, 3, 4)

    t = {name: torch.from_numpy(array.astype(np.float64)) for name, array in arrays.items()}
    image = torch.from_numpy(features.astype(np.float64))[None, None]
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")
    kernel = t["w"].permute(0, 3, 1, 2)
    x = torch.relu(torch.nn.functional.conv2d(padded, kernel, t["b"], stride=(1, 2)))
    x = x[0].permute(1, 2, 0)
    gate = torch.sigmoid(t["dw"] @ x.mean(dim=(0, 1)) + t["db"])
    values = (x * gate + x).reshape(-1, 4)
    share = torch.softmax(x.reshape(-1, 4) @ t["aw"].T + t["ab"], dim=0)
    mean = (share * values).sum(dim=0)
    std = torch.sqrt((share * (values - mean) ** 2).sum(dim=0))
    truth = torch.cat([mean, std]).numpy()
    np.testing.assert_allclose(outputs["embedding"], truth, rtol=1e-10, atol=1e-12)


def write_file(path: Path, spoil: str = "") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A file whose digest is written out here byte by byte."""
    arrays = {
        "b": np.array([[1, -2, 3]], np.int8),
        "a": np.array([0.5, -1.0], np.float32),
    }
    metadata = {"format": 1, "family": "é", "plan": {}, "sha256": "0" * 64}
    text = '{"family":"\\u00e9","format":1,"plan":{},"sha256":"' + "0" * 64 + '"}'
    covered = text.encode()
    covered += b"a float32 2\n" + bytes.fromhex("0000003f000080bf")
    covered += b"b int8 1,3\n" + bytes.fromhex("01fe03")
    metadata["sha256"] = hashlib.sha256(covered).hexdigest()
    stored = {"earmark": text.replace("0" * 64, metadata["sha256"])}
    if spoil == "tensor":
        arrays["b"][0, 0] = 2
    elif spoil == "shape":
        arrays["b"] = arrays["b"].reshape(3, 1)
    elif spoil == "metadata":
        stored["earmark"] = stored["earmark"].replace("\\u00e9", "e")
    elif spoil == "spaces":
        stored["earmark"] = stored["earmark"].replace(":", ": ", 1)
    elif spoil == "key":
        stored["other"] = ""
    save_file(arrays, path, stored)
    return metadata, arrays


def test_load(tmp_path: Path) -> None:
    written, tensors = write_file(tmp_path / "m.earmark")
    metadata, arrays = network.load(tmp_path / "m.earmark")
    assert metadata == written
    assert set(arrays) == set(tensors)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, tensors[name], strict=True)


@pytest.mark.parametrize("spoil", ["tensor", "shape", "metadata", "spaces", "key"])
def test_load_refuses_any_change(tmp_path: Path, spoil: str) -> None:
    write_file(tmp_path / "m.earmark", spoil)
    with pytest.raises(ValueError, match=r"sha256|canonical|metadata"):
        network.load(tmp_path / "m.earmark")
