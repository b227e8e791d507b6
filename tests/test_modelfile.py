"""The model file: equal bytes for equal models, FormatError for everything that is not intact."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import earmark
from earmark import FormatError, modelfile
from earmark.modelfile import ModelFile
from modelfiles import (
    assert_refused,
    container,
    network_model,
    one_folder,
    tiny_model,
    with_metadata,
)


@pytest.fixture(scope="module")
def network() -> ModelFile:
    return network_model()


# --- writing and reading


def test_round_trip(tmp_path: Path, network: ModelFile) -> None:
    for model in (tiny_model(), network):
        modelfile.write(model, tmp_path / "m.earmark")
        back = modelfile.read(tmp_path / "m.earmark")
        sha256 = back.metadata.pop("sha256")
        assert back.metadata == {**model.metadata, "format": 1}
        assert sha256 == modelfile.digest(back)
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
    ["F64", "F16", "BF16", "I64", "I32", "U8", "U16", "BOOL", "C64", "F8_E4M3", "F4", "X"],
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
