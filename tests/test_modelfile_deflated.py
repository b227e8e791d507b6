"""Files with streams, whose longest metadata are a stream too."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import earmark
from earmark import modelfile
from earmark.compression import compress
from earmark.modelfile import ModelFile, canonical_json
from modelfiles import assert_refused, container, network_model, one_folder

NAME = "coded.metadata"
JSON = dict[str, Any]


CODED = compress(network_model())
KEYS = ("layers", "plan", "storage")
TEXT = canonical_json({key: CODED.metadata[key] for key in KEYS})


def referring(reference: Any) -> Callable[[JSON], JSON]:
    return lambda metadata: {**metadata, **dict.fromkeys(KEYS, reference)}


def parts(content: bytes) -> tuple[JSON, dict[str, bytes]]:
    """The metadata as the file has them, and its tensors' bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    outer = json.loads(header.pop("__metadata__")["earmark"])
    data = content[8 + length :]
    return outer, {name: data[slice(*entry["data_offsets"])] for name, entry in header.items()}


def test_what_was_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "m.earmark"
    modelfile.write(CODED, path)
    back = modelfile.read(path)
    assert back.metadata.pop("sha256") == modelfile.digest(back) == modelfile.digest(CODED)
    assert back.metadata == {**CODED.metadata, "format": 1}
    assert back.arrays.keys() == CODED.arrays.keys()
    assert modelfile.to_bytes(back) == path.read_bytes()
    assert earmark.load(path).info()["file_bytes"] == path.stat().st_size


def test_the_longest_values_are_deflated() -> None:
    """As docs/file-format.md has it."""
    outer, tensors = parts(modelfile.to_bytes(CODED))
    text = zlib.decompress(tensors[NAME])
    reference = {"bytes": len(text), "in": NAME}
    values = json.loads(text)
    assert canonical_json(values).encode() == text
    assert sorted(values) == list(KEYS)
    for key, value in values.items():
        assert outer[key] == reference
        assert value == CODED.metadata[key]
    assert len(canonical_json(outer)) < 0.2 * len(canonical_json(CODED.metadata))
    # Files of arrays as they are stay readable by eye.
    outer, tensors = parts(modelfile.to_bytes(network_model()))
    assert NAME not in tensors
    assert outer["plan"]["ops"]


@one_folder
@given(data=st.data())
def test_flipped_bits_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(modelfile.to_bytes(CODED))
    # Half of them in what is deflated.
    begin = content.index(parts(bytes(content))[1][NAME])
    bits = st.integers(0, 8 * len(content) - 1) | st.integers(8 * begin, 8 * begin + 8000)
    for bit in data.draw(st.sets(bits, min_size=1, max_size=3)):
        content[bit // 8] ^= 1 << bit % 8
    assert_refused(tmp_path / "m.earmark", bytes(content))


def with_stream(outer: Callable[[JSON], JSON], stream: bytes, dtype: str = "uint8") -> bytes:
    """The file with another stream and other references, its digest right."""
    metadata, _ = parts(modelfile.to_bytes(CODED))
    arrays = {**CODED.arrays, NAME: np.frombuffer(stream, dtype)}
    # With a reference for its storage it is no file with streams, to the writer.
    return modelfile.to_bytes(ModelFile(outer(metadata), arrays))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is not JSON"),
        (b"[1,2]", "does not hold what refers to it"),
        (b"{}", "does not hold what refers to it"),
        (b'{"layers":[],"plan":{}}', "does not hold what refers to it"),
        (b'{"layers":[],"plan":{},"storage":{},"x":1}', "does not hold what refers to it"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"layers":NaN}', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (TEXT.encode() + b" ", "is not in canonical form"),
        (TEXT.replace(",", ", ", 1).encode(), "is not in canonical form"),
    ],
)
def test_other_texts_are_refused(tmp_path: Path, text: bytes, reason: str) -> None:
    reference = {"bytes": max(1, len(text)), "in": NAME}
    content = with_stream(referring(reference), zlib.compress(text))
    assert_refused(tmp_path / "m.earmark", content, reason)


@pytest.mark.parametrize(
    "reference",
    [
        {"bytes": 0, "in": NAME},
        {"bytes": -1, "in": NAME},
        {"bytes": 10, "in": NAME},
        {"bytes": 10**6, "in": NAME},
        {"bytes": 2**62, "in": NAME},
        {"bytes": 10.0, "in": NAME},
        {"bytes": True, "in": NAME},
        {"bytes": 10, "in": "coded.other"},
        {"bytes": 10, "in": NAME, "more": 1},
        {"in": NAME},
        [],
        None,
        NAME,
    ],
)
def test_other_references_are_refused(tmp_path: Path, reference: Any) -> None:
    content = with_stream(referring(reference), zlib.compress(TEXT.encode()))
    assert_refused(tmp_path / "m.earmark", content, NAME)


@pytest.mark.parametrize("stream", [b"", b"x", zlib.compress(TEXT.encode())[:-200]])
def test_a_stream_that_is_no_deflate_is_refused(tmp_path: Path, stream: bytes) -> None:
    content = with_stream(lambda metadata: metadata, stream)
    assert_refused(tmp_path / "m.earmark", content, NAME)


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    stream = zlib.compress(TEXT.encode())
    content = with_stream(lambda metadata: metadata, stream + b"\0" * (len(stream) % 2), "int8")
    assert_refused(tmp_path / "m.earmark", content, NAME)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """The header promises ten bytes: no more are inflated."""
    bomb = zlib.compress(b'"' + bytes(1 << 28))
    content = with_stream(referring({"bytes": 10, "in": NAME}), bomb)
    assert_refused(tmp_path / "m.earmark", content, "is not JSON")


def test_metadata_as_they_are_are_read_too(tmp_path: Path) -> None:
    """Streams ask for nothing: another writer may leave the JSON plain."""
    plain = {**CODED.metadata, "format": 1}
    arrays = CODED.arrays
    plain["sha256"] = modelfile._digest(plain, arrays)
    header: JSON = {"__metadata__": {"earmark": canonical_json(plain)}}
    data = b""
    for name in sorted(arrays):
        entry = {"dtype": "U8", "shape": list(arrays[name].shape)}
        header[name] = {**entry, "data_offsets": [len(data), len(data) + arrays[name].nbytes]}
        data += arrays[name].tobytes()
    (tmp_path / "m.earmark").write_bytes(container(header, data))
    back = modelfile.read(tmp_path / "m.earmark")
    assert back.metadata == plain
