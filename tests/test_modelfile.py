"""The model file: equal bytes for equal models, FormatError for everything that is not intact."""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import earmark
from earmark import FormatError, modelfile
from earmark.modelfile import ModelFile
from networks import SMALL, random_features, random_int8_plan

JSON = dict[str, Any]

# One file in one folder for all examples of a property: each example writes it anew.
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def tiny_model() -> ModelFile:
    """The mean over time of two features, through one dense layer."""
    plan = {
        "tensors": {
            "input": {"kind": "frames", "dtype": "f32", "channels": 2},
            "mean": {"kind": "vector", "dtype": "f32", "channels": 2},
            "embedding": {"kind": "vector", "dtype": "f32", "channels": 3},
        },
        "ops": [
            {"op": "stats_f32", "name": "stats", "in": "input", "out": "mean", "arrays": []},
            {
                "op": "dense_f32",
                "name": "fc",
                "in": "mean",
                "out": "embedding",
                "arrays": ["epilogue", "weight"],
            },
        ],
    }
    statistics = {"min": -1.0, "max": 1.0, "mean": 0.25, "std": 0.5}
    layer = {
        "name": "fc",
        "op": "dense_f32",
        "precision": "fp32",
        "parameters": 9,
        "weight_stats": statistics,
        "activation_stats": None,
    }
    metadata = {
        "family": "speechbrain",
        "scheme": "fp32",
        "sample_rate_hz": 16000,
        "front_end": {"name": "speechbrain", "n_mels": 2},
        "config": {},
        "parameters": 9,
        "threshold": 0.5,
        "plan": plan,
        "layers": [layer],
        "calibration": None,
        "measured": {"eer": 0.0125, "list": "Prüfung \U0001f600"},
    }
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    return ModelFile(metadata, {"fc.weight": weight, "fc.epilogue": np.ones((1, 3), np.float32)})


def network_model() -> ModelFile:
    """A small int8 network with random weights."""
    plan = random_int8_plan(SMALL)
    metadata = {
        **tiny_model().metadata,
        "front_end": {"name": "speechbrain", "n_mels": SMALL.n_mels},
        "plan": plan.plan,
    }
    return ModelFile(metadata, plan.arrays)


@pytest.fixture(scope="module")
def network() -> ModelFile:
    return network_model()


def container(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file of this header (as text, or as JSON) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_metadata(text: str) -> bytes:
    """A file without tensors whose metadata is ``text``."""
    return container({"__metadata__": {"earmark": text}})


def assert_refused(path: Path, content: bytes | None, *parts: str) -> None:
    """``read`` and ``load`` raise FormatError, of one line with the file's name."""
    if content is not None:
        write(path, content)
    with pytest.raises(FormatError):
        modelfile.read(path)
    assert_not_loaded(path, *parts)


def assert_not_loaded(path: Path, *parts: str) -> None:
    with pytest.raises(FormatError) as raised:
        earmark.load(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable(), message
    assert len(message) < len(str(path)) + 400
    for part in parts:
        assert part in message


def write(path: Path, content: bytes) -> None:
    """A new file: some file systems take milliseconds to write over an old one."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


# --- writing and reading


def test_round_trip(tmp_path: Path, network: ModelFile) -> None:
    for model in (tiny_model(), network):
        modelfile.write(model, tmp_path / "m.earmark")
        back = modelfile.read(tmp_path / "m.earmark")
        sha256 = back.metadata.pop("sha256")
        assert back.metadata == {**model.metadata, "format": 1}
        assert sha256 == modelfile.digest(back.metadata, back.arrays)
        assert back.arrays.keys() == model.arrays.keys()
        for name, array in model.arrays.items():
            assert back.arrays[name].dtype == array.dtype
            np.testing.assert_array_equal(back.arrays[name], array)
        # What was read is written as it was.
        assert modelfile.to_bytes(back) == (tmp_path / "m.earmark").read_bytes()


def test_equal_models_give_equal_bytes(network: ModelFile) -> None:
    again = network_model()
    assert modelfile.to_bytes(again) == modelfile.to_bytes(network)
    shuffled = ModelFile(
        dict(reversed(again.metadata.items())),
        # Not contiguous either.
        {name: np.asfortranarray(array) for name, array in reversed(again.arrays.items())},
    )
    assert modelfile.to_bytes(shuffled) == modelfile.to_bytes(network)


def test_the_metadata_is_one_key_of_canonical_json() -> None:
    content = modelfile.to_bytes(tiny_model())
    (length,) = struct.unpack("<Q", content[:8])
    stored = json.loads(content[8 : 8 + length])["__metadata__"]
    assert set(stored) == {"earmark"}
    text = stored["earmark"]
    assert text.isascii()
    value = json.loads(text)
    assert text == json.dumps(value, sort_keys=True, separators=(",", ":"))
    assert value["format"] == 1
    assert len(value["sha256"]) == 64


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deeper": [float("-inf")]}])
def test_what_json_cannot_hold_is_not_written(tmp_path: Path, value: Any) -> None:
    model = tiny_model()
    model.metadata["measured"] = {"eer": value}
    with pytest.raises(ValueError, match="JSON"):
        modelfile.write(model, tmp_path / "m.earmark")
    assert not list(tmp_path.iterdir())


def test_a_loaded_model_runs(tmp_path: Path) -> None:
    modelfile.write(tiny_model(), tmp_path / "m.earmark")
    model = earmark.load(tmp_path / "m.earmark")
    features = np.array([[1, 2], [3, 6]], np.float32)
    np.testing.assert_array_equal(model.embed_features(features), [[5, 17, 29]])
    assert model.info()["file_bytes"] == (tmp_path / "m.earmark").stat().st_size


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.earmark"
    modelfile.write(tiny_model(), path)
    before = path.read_bytes()
    changed = tiny_model()
    changed.metadata["threshold"] = 0.25

    def interrupted(source: object, target: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            modelfile.write(changed, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    modelfile.write(changed, path)
    assert modelfile.read(path).metadata["threshold"] == 0.25
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.earmark"
    modelfile.write(tiny_model(), path)
    before = path.read_bytes()

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    plain = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: Full(plain(self, mode)))
        with pytest.raises(OSError, match="No space"):
            modelfile.write(tiny_model(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    modelfile.write(tiny_model(), tmp_path / "m.earmark")
    (tmp_path / "other").touch()
    assert (tmp_path / "m.earmark").stat().st_mode == (tmp_path / "other").stat().st_mode


# --- damaged files


def test_every_flipped_bit_of_a_tiny_file_is_refused(tmp_path: Path) -> None:
    content = modelfile.to_bytes(tiny_model())
    path = tmp_path / "m.earmark"
    path.write_bytes(content)
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
                with pytest.raises(FormatError, match=r"m\.earmark: "):
                    modelfile.read(path)
            os.pwrite(file.fileno(), bytes([byte]), position)
    modelfile.read(path)


@one_folder
@given(data=st.data())
def test_flipped_bits_of_a_network_are_refused(
    tmp_path: Path, network: ModelFile, data: st.DataObject
) -> None:
    content = bytearray(modelfile.to_bytes(network))
    bits = st.integers(0, 8 * len(content) - 1)
    for bit in data.draw(st.sets(bits, min_size=1, max_size=3)):
        content[bit // 8] ^= 1 << bit % 8
    assert_refused(tmp_path / "m.earmark", bytes(content))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.earmark"
    modelfile.write(tiny_model(), path)
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        assert_refused(path, None)


@pytest.mark.parametrize("extra", [b"\0", b" ", b"\n", b"{}", bytes(4096)])
def test_appended_bytes_are_refused(tmp_path: Path, extra: bytes) -> None:
    assert_refused(tmp_path / "m.earmark", modelfile.to_bytes(tiny_model()) + extra)


@one_folder
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    assert_refused(tmp_path / "m.earmark", content)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "empty.earmark", b"", "not an .earmark file")
    assert_refused(tmp_path / "missing.earmark", None, "no such file")
    assert_refused(tmp_path / "no-folder" / "m.earmark", None, "no such file")
    assert_refused(tmp_path, None, "not a regular file")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert_refused(pipe, None, "not a regular file")
    with pytest.raises(FormatError):
        modelfile.read("nul\0character")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.earmark"
    modelfile.write(tiny_model(), path)
    path.chmod(0)
    assert_refused(path, None, "ermission")


# --- hostile headers


@pytest.mark.parametrize("length", [0, 1, 100, 10**6, 100_000_001, 2**31, 2**63, 2**64 - 1])
def test_wrong_header_lengths_are_refused(tmp_path: Path, length: int) -> None:
    content = struct.pack("<Q", length) + modelfile.to_bytes(tiny_model())[8:]
    assert_refused(tmp_path / "m.earmark", content, "not an .earmark file")


@pytest.mark.parametrize(
    ("begin", "end", "shape"),
    [
        (-1, 0, [1]),
        (1, 0, [1]),
        (0, 2**40, [2**40]),
        (0, 2**63, [2**63]),
        (0, 2**64, [1]),
        (0, 1, [2**40, 2**40]),
        (0, 1, [2]),
        (0, 1, [-1]),
        (0, 0, [0, 2**63]),
        (0, 1, [0.5]),
        (0.5, 1, [1]),
    ],
)
def test_impossible_offsets_and_shapes_are_refused(
    tmp_path: Path, begin: float, end: float, shape: list[float]
) -> None:
    tensor = {"dtype": "I8", "shape": shape, "data_offsets": [begin, end]}
    header = {"__metadata__": {"earmark": "{}"}, "a": tensor}
    assert_refused(tmp_path / "m.earmark", container(header, b"\1"), "not an .earmark file")


def test_overlapping_tensors_and_holes_are_refused(tmp_path: Path) -> None:
    for offsets in ([0, 1], [2, 3]):
        header = {
            "__metadata__": {"earmark": "{}"},
            "a": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]},
            "b": {"dtype": "I8", "shape": [1], "data_offsets": offsets},
        }
        content = container(header, b"\1\2\3"[: offsets[1]])
        assert_refused(tmp_path / "m.earmark", content, "not an .earmark file")


@pytest.mark.parametrize(
    "dtype",
    ["F64", "F16", "BF16", "I64", "I32", "I16", "U8", "U16", "BOOL", "C64", "F8_E4M3", "F4", "X"],
)
def test_other_dtypes_are_refused(tmp_path: Path, dtype: str) -> None:
    """Also where metadata and digest are right."""
    model = tiny_model()
    names = {"F64": "float64", "F16": "float16", "BOOL": "bool", "C64": "complex64"}
    name = names.get(dtype, dtype.replace("U", "uint").replace("I", "int"))
    try:
        model.arrays["extra"] = np.ones(8, np.dtype(name))
        content = modelfile.to_bytes(model)
    except TypeError:  # NumPy lacks it: no writer of ours can make such a file
        tensor = {"dtype": dtype, "shape": [8], "data_offsets": [0, 16 if dtype == "BF16" else 8]}
        header = {"__metadata__": {"earmark": "{}"}, "a": tensor}
        content = container(header, bytes(16 if dtype == "BF16" else 8))
    assert_refused(tmp_path / "m.earmark", content)


@pytest.mark.parametrize("stored", [{}, {"earmark": "{}", "other": ""}, {"Earmark": "{}"}])
def test_other_metadata_keys_are_refused(tmp_path: Path, stored: dict[str, str]) -> None:
    content = container({"__metadata__": stored})
    assert_refused(tmp_path / "m.earmark", content, "metadata has the keys")


def test_headers_that_are_not_the_expected_json_are_refused(tmp_path: Path) -> None:
    for header in (
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"__metadata__":[]}',
        b'{"__metadata__":{"earmark":1}}',
        b'{"__metadata__":{"earmark":"{}"}',
        b'{"a":{}}',
        b'\xff\xfe{"a":1}',
    ):
        assert_refused(tmp_path / "m.earmark", container(header), "not an .earmark file")
    # One of two equal keys counts; whichever it is, the rest must be right.
    twice = b'{"__metadata__":{"earmark":"{}","earmark":"[]"}}'
    assert_refused(tmp_path / "m.earmark", container(twice))


def tampered(change: Callable[[str], str]) -> bytes:
    """The tiny file with its metadata text, digest and all, changed."""
    content = modelfile.to_bytes(tiny_model())
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    text = header["__metadata__"]["earmark"]
    header["__metadata__"]["earmark"] = change(text)
    assert header["__metadata__"]["earmark"] != text
    return container(header, content[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", ", ", 1),
        lambda text: text + " ",
        lambda text: " " + text,
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
        lambda text: text.replace('"format":1', '"format":1,"format":1'),
        lambda text: text.replace('"threshold":0.5', '"threshold":0.50'),
        lambda text: text.replace('"threshold":0.5', '"threshold":5e-1'),
        lambda text: text.replace("\\u00fc", "ü"),
        lambda text: text.replace("\\u00fc", "\\u00FC"),
        lambda text: text.replace("speechbrain", "\\u0073peechbrain"),
    ],
)
def test_json_that_is_not_canonical_is_refused(
    tmp_path: Path, change: Callable[[str], str]
) -> None:
    assert_refused(tmp_path / "m.earmark", tampered(change), "canonical")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('"earmark"', "not a JSON object"),
        ("{", "JSON"),
        ("{}x", "JSON"),
        ("{'format':1}", "JSON"),
        ('{"format":NaN}', "NaN"),
        ('{"format":1,"threshold":-Infinity}', "Infinity"),
        ('{"format":1,"threshold":1e999}', "JSON"),
        ('{"format":1,"threshold":-1e999}', "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"a":' * 100_000, "JSON"),
        ('{"a":' * 990 + "1" + "}" * 990, ""),
        ('{"format":' + "1" * 5000 + "}", "JSON"),
        ("{}", "format None"),
        ('{"format":2}', "format 2"),
        ('{"format":0}', "format 0"),
        ('{"format":1.0}', "format 1.0"),
        ('{"format":true}', "format True"),
        ('{"format":"1"}', "format '1'"),
        ('{"format":"a\\nb"}', "format"),
        ('{"format":"' + "x" * 100_000 + '"}', "format"),
        ('{"format":[1]}', "format"),
        ('{"format":1}', "sha256"),
        ('{"format":1,"sha256":null}', "sha256"),
        ('{"format":1,"sha256":{"a":"b\\nc"}}', "sha256"),
        ('{"format":1,"sha256":"' + "0" * 64 + '"}', "sha256"),
        ('{"a":"\\ud800","format":1,"sha256":"\\ud800"}', "sha256"),
    ],
)
def test_metadata_that_is_no_model_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    assert_refused(tmp_path / "m.earmark", with_metadata(text), reason)


def test_tensor_names_that_json_can_write_in_two_ways_are_refused(tmp_path: Path) -> None:
    for name in ("", "a b", 'a"b', "a\\b", "a\nb", "a\x7fb", "ä"):
        model = tiny_model()
        model.arrays[name] = np.zeros(1, np.float32)
        assert_refused(tmp_path / "m.earmark", modelfile.to_bytes(model), "name")


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
    st.sampled_from(["", "input", "embedding", "mfa.out", "s8", "f32", "frames", "vector", "pwl"]),
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
@given(data=st.data())
def test_nonsense_with_a_right_digest_is_refused_or_runs(
    tmp_path: Path, network: ModelFile, data: st.DataObject
) -> None:
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
        value = -128 if array.dtype == np.int8 else floats[choice % len(floats)]
        array.reshape(-1)[choice % array.size] = value
        return array
    if action == "shape":
        shapes = [(array.size,), (1, array.size), (array.size, 1, 1, 1), (0,), (1,), ()]
        return np.resize(array, shapes[choice % len(shapes)])
    if action == "dtype":
        with np.errstate(invalid="ignore"):
            return array.astype(np.float32 if array.dtype == np.int8 else np.int8)
    return arrays[sorted(arrays)[choice % len(arrays)]]


@settings(one_folder, max_examples=100)
@given(changes=ARRAY_CHANGES)
def test_arrays_of_nonsense_are_refused_or_run(
    tmp_path: Path, network: ModelFile, changes: list[tuple[int, str, int]]
) -> None:
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
