"""Weights as HEVC pictures: round trips, errors by QP, and streams that are none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import earmark
from earmark import modelfile
from earmark.compression import compress
from earmark.errors import FormatError
from earmark.modelfile import ModelFile
from earmark.storage import Group, decode_arrays, hevc, stored_sizes

Array = NDArray[Any]

av = pytest.importorskip("av", reason="PyAV (earmark[compress]) is not installed")

# Around the smallest picture, 16 pixels, and blocks of 8; one row, one value, none.
EDGES = [
    (1,),
    (0,),
    (3, 0),
    (1, 300),
    (300, 1),
    (15, 16),
    (16, 15),
    (16, 16),
    (17, 31),
    (1, 1, 1, 1),
    (5, 3, 1, 7),
    (33, 64),
]


def weights(shape: tuple[int, ...], dtype: str = "int8", seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    values = np.clip(np.rint(rng.normal(0, 30, shape)), -127, 127)
    return (values + (128 if dtype == "uint8" else 0)).astype(dtype)


def through(arrays: dict[str, Array], qp: int | None = None) -> dict[str, Array]:
    stream, coding = hevc.encode(arrays, qp)
    return decode_arrays({"stream": stream}, {"stream": coding})


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_round_trip(dtype: str) -> None:
    arrays = {f"a{i}": weights(shape, dtype, i) for i, shape in enumerate(EDGES)}
    arrays["all"] = np.arange(256, dtype=np.uint8).view(dtype).reshape(2, 128)
    decoded = through(arrays)
    assert sorted(decoded) == sorted(arrays)
    for name, array in arrays.items():
        assert decoded[name].dtype == array.dtype
        np.testing.assert_array_equal(decoded[name], array)


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(0, 40), columns=st.integers(0, 40), seed=st.integers(0, 99))
def test_any_shape_round_trips(rows: int, columns: int, seed: int) -> None:
    array = weights((rows, columns), seed=seed)
    np.testing.assert_array_equal(through({"w": array})["w"], array)


def test_long_arrays_lie_on_several_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hevc, "_LONGEST", 32)
    arrays = {"wide": weights((20, 100)), "long": weights((33, 32)), "large": weights((100, 101))}
    stream, coding = hevc.encode(arrays)
    decoded = decode_arrays({"s": stream}, {"s": coding})
    for name, array in arrays.items():
        np.testing.assert_array_equal(decoded[name], array)
    frames = _frames(stream[-stored_sizes({"s": stream}, {"s": coding})["wide"] :].tobytes())
    assert [frame.shape for frame in frames] == [(32, 32), (32, 32)]


def _frames(code: bytes) -> list[Array]:
    with av.open(io.BytesIO(code), format="hevc") as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def test_a_layer_is_a_plain_elementary_stream() -> None:
    """That any FFmpeg shows as a grey picture, a row for each output."""
    array = weights((20, 33))
    stream, coding = hevc.encode({"w": array})
    code = stream[-stored_sizes({"s": stream}, {"s": coding})["w"] :].tobytes()
    assert code.startswith(b"\0\0\0\1")
    (picture,) = _frames(code)
    np.testing.assert_array_equal(picture.astype(int) - 128, array)


def test_errors_grow_with_the_qp_and_sizes_shrink() -> None:
    array = weights((64, 96))
    errors, sizes = [], []
    for qp in (8, 16, 24, 32, 40, 51):
        stream, coding = hevc.encode({"w": array}, qp)
        decoded = decode_arrays({"s": stream}, {"s": coding})["w"]
        # It stays where the weights are: no -128, which the engine does not take.
        assert array.min() <= decoded.min() <= decoded.max() <= array.max()
        error = np.abs(decoded.astype(float) - array)
        # HEVC's step is 2^((QP - 4) / 6); an error of a pixel is a sum over a block's coefficients.
        assert error.max() <= 4 * 2 ** ((qp - 4) / 6) + 1
        errors.append(float((error**2).mean()))
        sizes.append(stream.size)
    assert errors == sorted(errors)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("qp", [None, 30])
def test_equal_weights_give_equal_bytes(qp: int | None, capfd: pytest.CaptureFixture[str]) -> None:
    arrays = {f"a{i}": weights((48, 80), seed=i) for i in range(3)}
    first, second = (hevc.encode(arrays, qp)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert capfd.readouterr() == ("", "")


def test_a_constant_array_is_not_taken_for_nonsense() -> None:
    array = np.full((1024, 1024), 5, np.int8)
    stream, _ = hevc.encode({"w": array})
    assert stream.size < 4096
    np.testing.assert_array_equal(through({"w": array})["w"], array)


@pytest.mark.parametrize("qp", [-1, 52])
def test_an_impossible_qp_is_refused(qp: int) -> None:
    with pytest.raises(ValueError, match=f"QP {qp} is not between 0 and 51"):
        hevc.encode({"w": weights((2, 2))}, qp)


def test_wide_values_are_no_pixels() -> None:
    with pytest.raises(ValueError, match="int16 values are no pixels"):
        hevc.encode({"w": np.zeros((2, 2), np.int16)})
    stream, coding = hevc.encode({"w": weights((2, 2))})
    with pytest.raises(ValueError, match="holds pictures of int16"):
        decode_arrays({"s": stream}, {"s": {**coding, "dtype": "int16"}})


DAMAGED = {"x": weights((40, 50)), "y": weights((3, 5))}
STREAM, _ = hevc.encode(DAMAGED, 23)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_streams_are_refused_or_decode_to_something(data: st.DataObject) -> None:
    """A file's digest finds all damage; the decoder still must not trust what it is given."""
    broken = STREAM.copy()
    kind = data.draw(st.sampled_from(["bits", "cut", "filled"]))
    at = data.draw(st.integers(0, broken.size - 1))
    if kind == "bits":
        broken[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        broken = broken[:at]
    else:
        broken[at : at + data.draw(st.integers(1, 64))] = data.draw(st.integers(0, 255))
    try:
        decoded = hevc.decode(broken, Group.of(DAMAGED))
    except ValueError:
        pass
    else:
        assert {name: array.shape for name, array in decoded.items()} == {
            name: array.shape for name, array in DAMAGED.items()
        }


@pytest.mark.parametrize("shape", [(40, 48), (40, 52), (41, 50), (80, 50), (400, 50)])
def test_pictures_of_another_size_are_refused(shape: tuple[int, int]) -> None:
    stream, coding = hevc.encode({"w": weights((40, 50))})
    stream = np.concatenate([np.array([shape[1]], "<u4").view(np.uint8), stream[4:]])
    with pytest.raises(ValueError, match=r"picture|is damaged"):
        decode_arrays({"s": stream}, {"s": {**coding, "arrays": {"w": list(shape)}}})


@pytest.mark.parametrize("width", [0, 15, 8193, 2**32 - 1])
def test_an_impossible_width_is_refused(width: int) -> None:
    stream, coding = hevc.encode({"w": weights((40, 50))})
    stream = np.concatenate([np.array([width], "<u4").view(np.uint8), stream[4:]])
    with pytest.raises(ValueError, match=f"has pictures {width} pixels wide"):
        decode_arrays({"s": stream}, {"s": coding})


def test_a_stream_of_two_pictures_is_refused() -> None:
    stream, coding = hevc.encode({"w": weights((40, 50))})
    head, code = stream[:10], stream[10:]
    twice = np.concatenate([head, code, code])
    twice[4:8] = np.array([2 * code.size], "<u4").view(np.uint8)
    with pytest.raises(ValueError, match="too many"):
        decode_arrays({"s": twice}, {"s": coding})


@pytest.fixture(scope="module")
def model() -> ModelFile:
    return modelfile.read(Path(earmark.__file__).parent / "data" / "demo-int8.earmark")


FEW = {"all": "raw", "blocks.1": "hevc"}


def test_a_model_runs_from_pictures(model: ModelFile, tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(50, 80)).astype(np.float32)
    plain, lossy = tmp_path / "plain.earmark", tmp_path / "lossy.earmark"
    modelfile.write(compress(model, FEW), plain)
    modelfile.write(compress(model, FEW, qp=20), lossy)
    expected = earmark.Embedder(model).embed_features(features)
    np.testing.assert_array_equal(earmark.load(plain).embed_features(features), expected)
    close = earmark.load(lossy).embed_features(features)
    assert not np.array_equal(close, expected)
    assert np.corrcoef(close.ravel(), expected.ravel())[0, 1] > 0.9
    assert lossy.stat().st_size < plain.stat().st_size
    # What was measured is not of these weights.
    assert modelfile.read(plain).metadata["measured"] == model.metadata["measured"] != {}
    assert modelfile.read(lossy).metadata["measured"] == {}


def test_only_weights_are_lossy(model: ModelFile) -> None:
    before, after = (m.decoded_arrays() for m in (model, compress(model, FEW, qp=40)))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    hidden = {name for name in before if name.startswith("blocks.1.")}
    assert changed == {name for name in hidden if name.endswith(".weight")}


def test_a_damaged_file_never_reaches_the_decoder(
    model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.earmark"
    modelfile.write(compress(model, FEW, qp=30), path)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(hevc, "_decoded", lambda *_: pytest.fail("was fed"))
    with pytest.raises(FormatError, match="the file is damaged"):
        earmark.load(path)


def test_a_qp_needs_hevc(model: ModelFile) -> None:
    with pytest.raises(ValueError, match="a QP is of HEVC alone"):
        compress(model, "rans", qp=23)
