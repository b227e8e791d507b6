"""Model files with a right digest over nonsense, and plans that ask for much."""

from __future__ import annotations

import copy
import json
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import earmark
from earmark import FormatError, modelfile
from earmark.modelfile import ModelFile
from modelfiles import (
    JSON,
    assert_not_loaded,
    network_model,
    one_folder,
    tiny_model,
    write,
)
from networks import random_features

PRECISIONS = ("int8", "int16")


@pytest.fixture(scope="module")
def networks() -> dict[str, ModelFile]:
    return {precision: network_model(precision) for precision in PRECISIONS}


# --- a right digest over nonsense


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in nested dicts and lists, but the whole."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, item in inner:
        yield (*path, key)
        yield from paths_of(item, (*path, key))


TINY_PATHS = [path for path in paths_of(tiny_model().metadata) if path[0] != "measured"]
MAY_BE = {
    ("threshold",): [None, 0],
    ("calibration",): [None, {"x": 1}],
    ("layers",): [[]],
    ("plan", "ops", 0, "arrays"): [[]],
}


@pytest.mark.parametrize("path", TINY_PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_missing_key_is_refused(tmp_path: Path, path: tuple[Any, ...]) -> None:
    model = tiny_model()
    *parent, key = path
    del at(model.metadata, tuple(parent))[key]
    write(tmp_path / "m.earmark", modelfile.to_bytes(model))
    if path == ("layers", 0):
        earmark.load(tmp_path / "m.earmark")
    else:
        assert_not_loaded(tmp_path / "m.earmark")


@pytest.mark.parametrize("path", TINY_PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_value_of_another_type_is_refused(tmp_path: Path, path: tuple[Any, ...]) -> None:
    *parent, key = path
    number = isinstance(at(tiny_model().metadata, path), int | float)
    for nonsense in (None, True, 0, -7, "nonsense", [], ["x"], {"x": 1}):
        model = tiny_model()
        owner = at(model.metadata, tuple(parent))
        allowed = type(owner[key]) is type(nonsense) and path[0] in ("family", "scheme", "layers")
        allowed |= path == ("config",) and isinstance(nonsense, dict)
        allowed |= path[:2] == ("plan", "ops") and key == "name" and nonsense == "nonsense"
        allowed |= number and type(nonsense) is int and path[0] in ("layers", "sample_rate_hz")
        if allowed or nonsense in MAY_BE.get(path, []):
            continue
        owner[key] = nonsense
        write(tmp_path / "m.earmark", modelfile.to_bytes(model))
        assert_not_loaded(tmp_path / "m.earmark")


@pytest.mark.parametrize("threshold", [1.5, -1.01, 2, 10**400])
def test_a_threshold_that_is_no_cosine_is_refused(tmp_path: Path, threshold: float) -> None:
    model = tiny_model()
    model.metadata["threshold"] = threshold
    modelfile.write(model, tmp_path / "m.earmark")
    with pytest.raises(FormatError, match="threshold"):
        earmark.load(tmp_path / "m.earmark")


@pytest.mark.parametrize(
    "front_end",
    [{}, {"name": "other"}, {"name": "speechbrain"}, {"name": "speechbrain", "n_mels": 80}],
)
def test_another_front_end_is_refused(tmp_path: Path, front_end: JSON) -> None:
    model = tiny_model()
    model.metadata["front_end"] = front_end
    modelfile.write(model, tmp_path / "m.earmark")
    with pytest.raises(FormatError, match=r"m\.earmark: "):
        earmark.load(tmp_path / "m.earmark")


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 3, 20, 24, 127, 128, 1 << 20, 2**31 - 1, 2**31, 2**64, 10**400]),
    st.sampled_from([0.0, 0.5, 1e-300, 1e300, -1.0]),
    st.sampled_from(
        ["", "input", "embedding", "mfa.out", "s8", "s16", "f32", "frames", "vector", "pwl"]
    ),
    st.sampled_from(["\ud800", "a\nb\u2028", "\0"]),
)
NONSENSE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
ATTRIBUTES = ["width", "of", "offset", "over", "zero_point", "residual", "gate", "bias", "relu"]
ATTRIBUTES += ["kernel", "stride", "dilation", "padding", "pad_mode", "activation", "softmax"]


def loads_and_runs_or_is_refused(path: Path, model: ModelFile) -> None:
    write(path, modelfile.to_bytes(model))
    try:
        loaded = earmark.load(path, threads=1)
    except FormatError:
        assert_not_loaded(path)
        return
    json.dumps(loaded.info(), allow_nan=False)
    features = random_features(1, max(loaded.min_frames, 30), loaded.front_end.n_features)
    assert loaded.embed_features(features).shape == (1, loaded.embedding_size)


@settings(one_folder, max_examples=150)
@given(data=st.data(), precision=st.sampled_from(PRECISIONS))
def test_nonsense_with_a_right_digest_is_refused_or_runs(
    tmp_path: Path, networks: dict[str, ModelFile], data: st.DataObject, precision: str
) -> None:
    network = networks[precision]
    metadata = copy.deepcopy(network.metadata)
    places = list(paths_of(metadata))
    for _ in range(data.draw(st.integers(1, 3))):
        *parent, key = data.draw(st.sampled_from(places))
        try:
            owner = at(metadata, tuple(parent))
            assert isinstance(owner, dict | list)
            owner[key]
        except (AssertionError, KeyError, IndexError, TypeError):  # gone with an earlier change
            continue
        action = data.draw(st.sampled_from(["replace", "move", "delete", "attribute"]))
        if action == "delete":
            del owner[key]
        elif action == "attribute" and isinstance(owner, dict):
            owner[data.draw(st.sampled_from(ATTRIBUTES))] = data.draw(NONSENSE)
        elif action == "move":
            other = data.draw(st.sampled_from(places))
            owner[key] = copy.deepcopy(at(network.metadata, other))
        else:
            owner[key] = data.draw(NONSENSE)
    loads_and_runs_or_is_refused(tmp_path / "m.earmark", ModelFile(metadata, network.arrays))


ARRAY_CHANGES = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.sampled_from(["value", "shape", "dtype", "delete", "other"]),
        st.integers(0, 10_000),
    ),
    min_size=1,
    max_size=3,
)


def changed_array(arrays: modelfile.Arrays, name: str, action: str, choice: int) -> Any:
    """Another array of nonsense for ``name``."""
    array = arrays[name].copy()
    if action == "value":
        floats = [np.nan, np.inf, -np.inf, 1e38, 1e-40, -1.0, 0.0]
        is_float = array.dtype == np.float32
        value = floats[choice % len(floats)] if is_float else np.iinfo(array.dtype).min
        array.reshape(-1)[choice % array.size] = value
        return array
    if action == "shape":
        shapes = [(array.size,), (1, array.size), (array.size, 1, 1, 1), (0,), (1,), ()]
        return np.resize(array, shapes[choice % len(shapes)])
    if action == "dtype":
        with np.errstate(invalid="ignore"):
            others = [d for d in (np.int8, np.int16, np.float32) if d != array.dtype]
            return array.astype(others[choice % len(others)])
    return arrays[sorted(arrays)[choice % len(arrays)]]


@settings(one_folder, max_examples=100)
@given(changes=ARRAY_CHANGES, precision=st.sampled_from(PRECISIONS))
def test_arrays_of_nonsense_are_refused_or_run(
    tmp_path: Path,
    networks: dict[str, ModelFile],
    changes: list[tuple[int, str, int]],
    precision: str,
) -> None:
    network = networks[precision]
    arrays = dict(network.arrays)
    for which, action, choice in changes:
        name = sorted(network.arrays)[which % len(network.arrays)]
        if action == "delete":
            arrays.pop(name, None)
        else:
            arrays[name] = changed_array(network.arrays, name, action, choice)
    loads_and_runs_or_is_refused(tmp_path / "m.earmark", ModelFile(network.metadata, arrays))


# --- plans that ask for much


def chain(kind: str, links: int, channels: int, width: int = 1) -> ModelFile:
    """Quantize and dequantize many times over, with constants of one element each."""
    shape = {"kind": kind, "channels": channels} | ({"width": width} if width > 1 else {})
    tensors: JSON = {"input": {"kind": "frames", "dtype": "f32", "channels": channels}}
    if width > 1:
        tensors["input"]["width"] = width
    mean = {"op": "stats_f32", "name": "stats", "arrays": []}
    ops: list[JSON] = []
    last = "input"
    if kind == "vector":
        tensors["mean"] = {**shape, "dtype": "f32"}
        ops.append({**mean, "in": "input", "out": "mean"})
        last = "mean"
    for i in range(links):
        tensors[f"q{i}"] = {**shape, "dtype": "s8", "zero_point": 0, "scale": 1.0}
        tensors[f"x{i}"] = {**shape, "dtype": "f32"}
        quantize = {"op": "quantize_s8", "name": "a", "arrays": ["multiplier", "offset"]}
        ops.append({**quantize, "in": last, "out": f"q{i}"})
        dequantize = {"op": "dequantize_f32", "name": "a", "arrays": ["multiplier"]}
        ops.append({**dequantize, "in": f"q{i}", "out": f"x{i}"})
        last = f"x{i}"
    tensors["embedding"] = {"kind": "vector", "dtype": "f32", "channels": channels}
    if kind == "vector":
        ops[-1]["out"] = "embedding"
    else:
        ops.append({**mean, "in": last, "out": "embedding"})
    arrays = {"a.multiplier": np.ones(1, np.float32), "a.offset": np.zeros(1, np.float32)}
    metadata = {
        **tiny_model().metadata,
        "front_end": {"name": "speechbrain", "n_mels": min(channels, 400)},
        "plan": {"tensors": tensors, "ops": ops},
    }
    return ModelFile(metadata, arrays)


def test_a_chain_of_modest_size_runs(tmp_path: Path) -> None:
    for kind in ("frames", "vector"):
        loads_and_runs_or_is_refused(tmp_path / "m.earmark", chain(kind, 50, 80))
        earmark.load(tmp_path / "m.earmark")


@pytest.mark.parametrize(
    "model",
    [
        chain("vector", 300, 1 << 20),
        chain("frames", 300, 1 << 20),
        chain("frames", 1, 1 << 20),
        chain("frames", 1, 1 << 20, width=1 << 16),
        chain("vector", 20_000, 8),
        chain("frames", 1, 2**31 - 1),
    ],
    ids=["vectors", "frames", "one", "wide", "long", "largest"],
)
def test_a_plan_that_asks_for_enormous_memory_is_refused_quickly(
    tmp_path: Path, model: ModelFile
) -> None:
    modelfile.write(model, tmp_path / "m.earmark")
    start = time.perf_counter()
    with pytest.raises(FormatError) as raised:
        earmark.load(tmp_path / "m.earmark")
    assert time.perf_counter() - start < 10
    assert str(tmp_path / "m.earmark") in str(raised.value)


def test_many_tensors_that_nothing_uses_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    tensor = {"kind": "frames", "dtype": "f32", "channels": 1 << 20, "width": 1 << 16}
    model.metadata["plan"]["tensors"] |= {f"t{i}": tensor for i in range(50_000)}
    modelfile.write(model, tmp_path / "m.earmark")
    with pytest.raises(FormatError, match="50003 tensors"):
        earmark.load(tmp_path / "m.earmark")


def test_a_pickle_does_not_load_another_file_than_it_was_made_from(tmp_path: Path) -> None:
    path = tmp_path / "m.earmark"
    modelfile.write(tiny_model(), path)
    pickled = pickle.dumps(earmark.load(path))
    assert pickle.loads(pickled).threshold == 0.5
    changed = tiny_model()
    changed.metadata["threshold"] = 0.25
    modelfile.write(changed, path)
    with pytest.raises(FormatError, match="another model"):
        pickle.loads(pickled)
