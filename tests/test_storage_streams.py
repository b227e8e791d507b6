"""Streams of several arrays: round trips, sizes, and streams that are none."""

from __future__ import annotations

import contextlib
import statistics
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from earmark import _C
from earmark.storage import CODECS, Group, decode_arrays, levels, stored_sizes
from oracle.rans import decode_rows

Array = NDArray[Any]


DTYPES = ("int8", "uint8", "int16", "float32")
# Around the 16 lanes of the coder.
EDGES = [(1,), (0,), (3, 0), (1, 15), (2, 16), (3, 17), (1, 1, 1, 1), (5, 3, 1, 7), (257, 33)]


def weights(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "int8") -> Array:
    """Of rows and columns that are wide and narrow, as weights are."""
    spread = 2 ** rng.uniform(0, 5, shape[:1] + (1,) * (len(shape) - 1))
    if dtype == "float32":
        return (rng.normal(size=shape) * spread).astype(np.float32)
    limits = np.iinfo(dtype)
    middle = 40 if dtype == "uint8" else 0
    return np.clip(rng.normal(size=shape) * spread + middle, limits.min, limits.max).astype(dtype)


def round_trip(codec: str, arrays: dict[str, Array]) -> int:
    """Bytes of the stream."""
    stream, coding = CODECS[codec].encode(arrays)
    decoded = decode_arrays({"stream": stream}, {"stream": coding})
    assert sorted(decoded) == sorted(arrays)
    for name, array in arrays.items():
        assert decoded[name].dtype == array.dtype
        np.testing.assert_array_equal(decoded[name], array)
    return stream.size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", ["deflate", "rans", "zstd"])
def test_round_trip(codec: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    arrays = {f"a{i}": weights(rng, shape, dtype) for i, shape in enumerate(EDGES)}
    round_trip(codec, arrays)
    for array in arrays.values():
        round_trip(codec, {"alone": array})


@pytest.mark.parametrize("codec", ["deflate", "rans", "zstd"])
@pytest.mark.parametrize("value", [0, 1, -128, 127])
def test_constant_arrays(codec: str, value: int) -> None:
    """No bits a weight, and still a stream that is not taken for nonsense."""
    size = round_trip(codec, {"w": np.full((512, 1024), value, np.int8)})
    assert size < 4096


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(0, 70),
    columns=st.integers(0, 70),
    low=st.integers(-128, 127),
    high=st.integers(-128, 127),
    seed=st.integers(0),
)
@example(rows=1, columns=1, low=-128, high=-128, seed=0)
def test_rans_round_trip(rows: int, columns: int, low: int, high: int, seed: int) -> None:
    low, high = min(low, high), max(low, high)
    values = np.random.default_rng(seed).integers(low, high + 1, (rows, columns)).astype(np.int8)
    round_trip("rans", {"w": values})


def test_rows_and_columns_make_it_smaller() -> None:
    """Than each weight alone can be; nearly as small as with known distributions."""
    rng = np.random.default_rng(5)
    spread = 2 ** rng.uniform(0, 3, (400, 1)) * 2 ** rng.uniform(-1, 1, 300)
    values = np.clip(np.rint(rng.normal(size=(400, 300)) * spread), -127, 127).astype(np.int8)
    counts = np.unique(values, return_counts=True)[1] / values.size
    alone = -(counts * np.log2(counts)).sum() * values.size / 8
    below = np.vectorize(statistics.NormalDist().cdf)
    likely = below((values + 0.5) / spread) - below((values - 0.5) / spread)
    known = -np.log2(likely).sum() / 8
    assert alone > 1.08 * known
    assert round_trip("rans", {"w": values}) < 1.03 * known


def test_more_than_a_chunk() -> None:
    """A chunk is 2^18 weights, in whole rows."""
    rng = np.random.default_rng(6)
    for shape in ((3, 1 << 18), (1 << 10, 257), (5, (1 << 18) + 1)):
        round_trip("rans", {"w": weights(rng, shape)})


CODER_EDGES = [(1, 1), (3, 15), (2, 16), (4, 17), (3, 32), (2, 33), (7, 250)]


def coded(shape: tuple[int, int], seed: int = 8) -> tuple[Array, Array, Array, Array, Array]:
    """Frequencies, levels of rows and columns, bytes, and their code."""
    rng = np.random.default_rng(seed)
    frequencies = np.zeros((5, 256), np.uint16)
    for table, symbols in zip(frequencies, (1, 2, 3, 40, 256), strict=True):
        chosen = rng.permutation(256)[:symbols]
        table[chosen] = 1 + rng.multinomial(4096 - symbols, rng.dirichlet(np.ones(symbols)))
    rows = rng.integers(0, 4, shape[0]).astype(np.uint8)
    # Sums beyond the last table take the last.
    columns = rng.integers(0, 4, shape[1]).astype(np.uint8)
    level = np.minimum(rows[:, None] + columns, 4)
    data = np.empty(shape, np.uint8)
    for place in np.ndindex(shape):
        data[place] = rng.choice(256, p=frequencies[level[place]] / 4096)
    code = _C.RansCoder(frequencies).encode(data, rows, columns)
    return frequencies, rows, columns, data, code


@pytest.mark.parametrize("shape", CODER_EDGES)
@pytest.mark.parametrize("isa", _C.available_isas())
def test_every_isa_decodes_the_oracle(isa: str, shape: tuple[int, int]) -> None:
    frequencies, rows, columns, data, code = coded(shape)
    np.testing.assert_array_equal(decode_rows(code, frequencies, rows, columns), data)
    out = np.empty(shape, np.uint8)
    _C.RansCoder(frequencies).decode(code, rows, columns, out, isa=isa)
    np.testing.assert_array_equal(out, data)
    assert _C.last_kernel() == f"decode_rans/{isa}"


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("shape", [(3, 15), (4, 67)])
def test_a_damaged_code_is_refused(isa: str, shape: tuple[int, int]) -> None:
    """Cut anywhere, longer, or with any one bit changed."""
    frequencies, rows, columns, data, code = coded(shape)
    coder = _C.RansCoder(frequencies)
    out = np.empty(shape, np.uint8)
    spoilt = [code[:n] for n in range(code.size)] + [np.append(code, np.uint8(0))]
    for wrong in spoilt:
        with pytest.raises(ValueError, match="the code is damaged"):
            coder.decode(wrong, rows, columns, out, isa=isa)
    refused = 0
    for bit in range(8 * code.size):
        wrong = code.copy()
        wrong[bit // 8] ^= 1 << bit % 8
        try:
            coder.decode(wrong, rows, columns, out, isa=isa)
        except ValueError:
            refused += 1
        else:
            # The states came back to where they began over other bytes.
            assert not np.array_equal(out, data)
    assert refused >= 8 * code.size - 1


def test_what_a_coder_refuses() -> None:
    frequencies, rows, columns, data, code = coded((3, 17))
    coder = _C.RansCoder(frequencies)
    with pytest.raises(ValueError, match="table 1 has the sum 4097, expected 4096"):
        _C.RansCoder(frequencies + np.eye(5, 256, -1, np.uint16) * np.eye(5, 1, -1, np.uint16))
    for shape in ((0, 256), (257, 256), (2, 255)):
        with pytest.raises(ValueError, match="frequencies must have shape"):
            _C.RansCoder(np.zeros(shape, np.uint16))
    with pytest.raises(ValueError, match="the bytes must have shape"):
        coder.decode(code, rows, columns, np.empty((3, 16), np.uint8))
    with pytest.raises(ValueError, match="the bytes must have shape"):
        coder.encode(data[:2], rows, columns)
    absent = next(v for v in range(256) if not frequencies[:, v].all())
    with pytest.raises(ValueError, match=f"the byte {absent} has no frequency"):
        coder.encode(np.full_like(data, absent), np.zeros_like(rows), np.zeros_like(columns))
    with pytest.raises(ValueError, match="unknown ISA"):
        coder.decode(code, rows, columns, np.empty((3, 17), np.uint8), isa="vax")


@pytest.mark.parametrize("codec", ["deflate", "rans", "zstd"])
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_nonsense_is_refused_or_decoded(codec: str, data: st.DataObject) -> None:
    """Whatever the bytes: ValueError or arrays of the shapes that are promised."""
    rng = np.random.default_rng(9)
    stream, coding = CODECS[codec].encode({"w": weights(rng, (20, 33)), "v": weights(rng, (5,))})
    wrong = stream.copy()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, stream.size - 1))
        wrong[at] = data.draw(st.integers(0, 255))
    wrong = wrong[: data.draw(st.integers(0, stream.size))]
    with contextlib.suppress(ValueError):
        arrays = decode_arrays({"s": wrong}, {"s": coding})
        assert {name: array.shape for name, array in arrays.items()} == {"w": (20, 33), "v": (5,)}


def test_a_stream_that_would_fill_the_memory_is_refused() -> None:
    stream, coding = CODECS["rans"].encode({"w": np.zeros((8, 8), np.int8)})
    for shape in ([1 << 40], [1 << 20, 1 << 20], [1 << 41], [-1], [2.0], [True], "8", [1] * 9):
        with pytest.raises(ValueError, match=r"impossible shape|bytes for"):
            decode_arrays({"s": stream}, {"s": {**coding, "arrays": {"w": shape}}})
    # A deflate bomb: much more than the levels can be.
    bomb = zlib.compress(bytes(1 << 24), 9)
    hostile = np.frombuffer(struct.pack("<I", len(bomb)) + bomb, np.uint8)
    with pytest.raises(ValueError, match=r"the sum 0|damaged|cut off"):
        decode_arrays({"s": hostile}, {"s": coding})


W: dict[str, Any] = {"coding": "zstd", "dtype": "int8", "arrays": {"w": [2, 3]}}


@pytest.mark.parametrize(
    ("coding", "reason"),
    [
        ({**W, "coding": "lzw"}, "unknown coding"),
        ({**W, "more": 1}, "unknown coding"),
        ({**W, "dtype": "int64"}, "holds arrays of 'int64'"),
        ({**W, "arrays": {}}, "does not say which arrays it holds"),
        ({**W, "arrays": ["w"]}, "does not say which arrays it holds"),
        ({**W, "arrays": {"w": [2, 4]}}, "holds 6 bytes for 'w', expected 8"),
        ({**W, "arrays": {"plain": [2, 3]}}, "holds 'plain', which is there twice"),
        ({**W, "levels": []}, "levels that are not an object"),
        ({**W, "levels": {"w": {"step": "plain"}}}, "levels of 'w' that cannot be"),
        ({**W, "levels": {"w": {"step": 1, "zero": 0}}}, "levels of 'w' that cannot be"),
        ({**W, "levels": {"w": {"step": "plain", "zero": 256}}}, "levels of 'w' that cannot be"),
        ({**W, "levels": {"v": {"step": "plain", "zero": 0}}}, "levels of 'v', which it does not"),
        ({**W, "levels": {"w": {"step": "s", "zero": 0}}}, "steps 's' that are not there"),
        ({**W, "levels": {"w": {"step": "plain", "zero": 0}}}, r"float32 steps of shape \(3,\)"),
        ({**W, "levels": {"w": {"step": "nan", "zero": 0}}}, "not between 0 and 256"),
        ({**W, "levels": {"w": {"step": "bytes", "zero": 0}}}, "int8 steps"),
    ],
)
def test_metadata_that_does_not_fit(coding: dict[str, Any], reason: str) -> None:
    stream, _ = CODECS["zstd"].encode({"w": np.arange(6, dtype=np.int8).reshape(2, 3)})
    stored = {
        "stream": stream,
        "plain": np.ones(3, np.float32),
        "nan": np.array([np.nan], np.float32),
        "bytes": np.ones(1, np.int8),
    }
    with pytest.raises(ValueError, match=reason):
        decode_arrays(stored, {"stream": coding})


@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("shape", [(1, 1), (4, 3, 5), (5, 1, 1, 33), (0, 4), (600, 7, 65)])
@pytest.mark.parametrize("one_for_all", [True, False])
def test_levels(shape: tuple[int, ...], dtype: str, zero: int, one_for_all: bool) -> None:
    """clip(rint((u - zero) * step)), the product float32, and no trace of the steps."""
    rng = np.random.default_rng(10)
    u = rng.integers(-20 if dtype == "int8" else 0, 20, shape).astype(dtype)
    step = _steps(rng, 1 if one_for_all else shape[0])
    stream, coding = CODECS["rans"].encode({"w": u})
    coding["levels"] = {"w": {"step": "w.step", "zero": zero}}
    decoded = decode_arrays({"stream": stream, "w.step": step}, {"stream": coding})
    wide = u.reshape(shape[0], int(np.prod(shape[1:]))).astype(np.float32) - np.float32(zero)
    expected = np.clip(np.rint(wide * step[:, None]), -127, 127).astype(np.int8)
    assert list(decoded) == ["w"]
    np.testing.assert_array_equal(decoded["w"], expected.reshape(shape))


def _steps(rng: np.random.Generator, count: int) -> Array:
    """Some of which are halves, for ties."""
    steps = np.where(rng.random(count) < 0.5, rng.uniform(0.5, 12, count), 0.5)
    return steps.astype(np.float32)


@settings(deadline=None)
@given(steps=st.lists(st.floats(1, 256, width=32), min_size=1, max_size=4), seed=st.integers(0))
@example(steps=[36.25], seed=0)
def test_levels_are_found_again(steps: list[float], seed: int) -> None:
    """Of weights that were cut at 127 too."""
    step = np.array(steps, np.float32)
    rng = np.random.default_rng(seed)
    most = np.ceil(127 / step).astype(int)[:, None]
    u = rng.integers(-most, most + 1, (len(steps), 40)).astype(np.int8)
    weights = levels.restored(u, step)
    np.testing.assert_array_equal(levels.restored(levels.levels_of(weights, step), step), weights)


@pytest.mark.parametrize("isa", _C.available_isas())
def test_every_isa_restores_levels(isa: str) -> None:
    rng = np.random.default_rng(12)
    u = rng.integers(-128, 128, (3, 67)).astype(np.int8)
    step = _steps(rng, 3)
    out = np.empty(u.shape, np.int8)
    _C.restore_levels(u, step, 2, out, isa=isa)
    assert _C.last_kernel() == f"restore_levels/{isa}"
    expected = np.clip(np.rint((u.astype(np.float32) - 2) * step[:, None]), -127, 127)
    np.testing.assert_array_equal(out, expected)
    for wrong in (u[:, :66], u.astype(np.int16), u.T):
        with pytest.raises(ValueError, match="levels"):
            _C.restore_levels(wrong, step, 2, out)
    with pytest.raises(ValueError, match="levels of 3 rows have 2 steps"):
        _C.restore_levels(u, step[:2], 2, out)


def test_sizes_add_up() -> None:
    """What each array takes is less than the stream by what they share."""
    rng = np.random.default_rng(11)
    arrays = {"a": weights(rng, (300, 200)), "b": weights(rng, (30, 20))}
    for codec, shared in (("rans", 4096), ("zstd", 8), ("deflate", 8)):
        stream, coding = CODECS[codec].encode(arrays)
        sizes = stored_sizes({"s": stream}, {"s": coding})
        assert sorted(sizes) == ["a", "b"]
        assert stream.size - shared <= sum(sizes.values()) <= stream.size
        assert sizes["a"] > 20 * sizes["b"]


def test_groups_of_one_dtype_alone() -> None:
    with pytest.raises(ValueError, match="2 dtypes in one stream"):
        Group.of({"a": np.zeros(1, np.int8), "b": np.zeros(1, np.float32)})
